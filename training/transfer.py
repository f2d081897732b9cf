"""Which pretrained parameters go into which new ones: planned from metadata, reported, then read.

The bridge from train.py's checkpoints into finetune.py (and into continued pretraining). Strict: what
is missing, unexpected or of another shape or dtype is an error unless the config names it.
"""

import dataclasses
import re

import jax

from training import checkpoint, rules
from training.config import ConfigError

ARMS = ("all", "embeddings", "none")
WEIGHTS = ("average", "raw")
EMBEDDINGS = r"embed/tokens/embedding"


@dataclasses.dataclass(frozen=True)
class RestoreConfig:
    """The exceptions to a strict restore, as regexes of whole parameter paths."""

    new: tuple = dataclasses.field(
        default=(r"heads/classification/.*",), metadata={"help": "not in the checkpoint, made new"}
    )
    drop: tuple = dataclasses.field(
        default=(r"heads/.*", r"generator/.*"), metadata={"help": "in the checkpoint, not wanted"}
    )


@dataclasses.dataclass(frozen=True)
class Report:
    """What a restore did, as parameter paths.

    Attributes:
      loaded: read from the checkpoint.
      fresh: initialised, as the config says (a new head; all that the transfer leaves out).
      dropped: in the checkpoint, not wanted here, as the config says.
    """

    loaded: tuple
    fresh: tuple
    dropped: tuple

    def lines(self, target):
        """For the log: counts of tensors and parameters, and each fresh or dropped name."""

        def size(paths):
            return sum(target[p].size for p in paths if p in target)

        return [
            f"loaded {len(self.loaded)} tensors ({size(self.loaded):,} parameters)",
            f"fresh {len(self.fresh)} tensors ({size(self.fresh):,} parameters): {_few(self.fresh)}",
            f"dropped {len(self.dropped)} tensors: {_few(self.dropped)}",
        ]


def plan(target, source, transfer, new=(), drop=(), what="init_from"):
    """Decides the fate of every parameter on both sides.

    Args:
      target, source: {path: leaf with shape and dtype}.
      transfer: 'all', 'embeddings' (the token table alone) or 'none'.
      new: regexes of target parameters that the checkpoint need not have.
      drop: regexes of checkpoint parameters that are not wanted.

    Raises:
      ConfigError naming the first missing, unexpected or differently shaped parameters.
    """

    def named(path, patterns):
        return any(re.fullmatch(pattern, path) for pattern in patterns)

    if transfer == "none":
        return Report((), tuple(sorted(target)), tuple(sorted(source)))
    wanted = set(target)
    if transfer == "embeddings":
        wanted = {path for path in target if re.fullmatch(EMBEDDINGS, path)}
    loaded = sorted(path for path in wanted & source.keys() if not named(path, new))
    problems = [
        f"{path} is {source[path].dtype}{list(source[path].shape)} there and "
        f"{target[path].dtype}{list(target[path].shape)} here"
        for path in loaded
        if tuple(source[path].shape) != tuple(target[path].shape)
        or source[path].dtype != target[path].dtype
    ]
    problems += [
        f"{p} is missing there" for p in sorted(wanted - source.keys()) if not named(p, new)
    ]
    if transfer == "all":
        problems += [
            f"{p} is unexpected"
            for p in sorted(source.keys() - target.keys())
            if not named(p, drop)
        ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ConfigError(
            f"{what} does not fit: {'; '.join(problems[:3])}{more}; use a model of the same shape, or "
            f"name exceptions in config.restore.new / config.restore.drop"
        )
    fresh = sorted(target.keys() - set(loaded))
    return Report(tuple(loaded), tuple(fresh), tuple(sorted(source.keys() - set(loaded))))


def load(run, step, report, params, shardings, weights="average"):
    """Parameters with the `loaded` ones of the report read from checkpoint `step` of `run`.

    weights: one of WEIGHTS; 'average' is the raw ones where the run kept no average."""
    if not report.loaded:
        return params
    flat, places = rules.paths(params), rules.paths(shardings)
    target = {
        path: jax.ShapeDtypeStruct(flat[path].shape, flat[path].dtype, sharding=places[path])
        for path in report.loaded
    }
    nested = rules.merge(target, {})
    read = checkpoint.read_params(f"{run}/checkpoints", step, nested, weights)
    return rules.merge(read, params)


def origin(run, step, weights):
    """For the log: which parameters of a checkpoint `load` reads."""
    kept = len(checkpoint.averaged_paths(run, step))
    if not kept:
        return f"parameters of {run} at step {step} (it keeps no average)"
    if weights == "raw":
        return f"raw parameters of {run} at step {step}, not their average"
    return f"averaged parameters of {run} at step {step} ({kept} tensors)"


def _few(paths, limit=4):
    shown = ", ".join(paths[:limit])
    return (shown + (f" and {len(paths) - limit} more" if len(paths) > limit else "")) or "none"
