"""Which pretrained parameters go into which new ones: planned from metadata, reported, then read.

The bridge from train.py's checkpoints into finetune.py (and into continued pretraining). Strict: what
is missing, unexpected or of another shape or dtype is an error unless the config names it.
"""

import dataclasses
import re

import jax
import numpy as np

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
class InheritedConfig:
    """What may differ from the pretrained network; anything else would not fit its parameters."""

    dropout: float = dataclasses.field(
        default=-1.0, metadata={"min": -1.0, "max": 0.99, "help": "-1: inherit"}
    )
    attention_dropout: float = dataclasses.field(
        default=-1.0, metadata={"min": -1.0, "max": 0.99, "help": "-1: inherit"}
    )
    dtype: str = dataclasses.field(
        default="", metadata={"choices": ("", "float32", "bfloat16"), "help": "'': inherit"}
    )

    def apply(self, pretrained):
        """(ModelConfig, lines that say of each hyperparameter where it comes from)."""
        changes = {
            "dropout": self.dropout,
            "attention_dropout": self.attention_dropout,
            "dtype": self.dtype,
        }
        changes = {name: value for name, value in changes.items() if value not in ("", -1.0)}
        model = dataclasses.replace(pretrained, **changes)
        return model, [
            f"  {field.name:<22} {getattr(model, field.name)!s:<16} "
            + (
                f"overridden (was {getattr(pretrained, field.name)})"
                if getattr(model, field.name) != getattr(pretrained, field.name)
                else "inherited"
            )
            for field in dataclasses.fields(model)
        ]


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


def around(network, size, transfer, source):
    """The ModelConfig `network` with tables of `size` entries, those of the word vectors of `source`;
    a projection leads to its width where that differs.

    Raises ConfigError for an arm that vectors do not have, a network without states, another size.
    """
    if transfer == "all":
        raise ConfigError(
            f"config.transfer='all' with init_from={source!r}: word vectors have a table and nothing "
            f"above it; expected embeddings or none"
        )
    if network.architecture == "embeddings":
        raise ConfigError(
            "config.network.architecture='embeddings' has no hidden states to finetune; expected "
            "encoder, decoder or encoder_decoder"
        )
    if network.embedding_size not in (0, size):
        raise ConfigError(
            f"config.network.embedding_size={network.embedding_size}, but the vectors of {source!r} "
            f"have {size} entries; set it to 0"
        )
    return dataclasses.replace(network, embedding_size=size if size != network.width else 0)


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


def table_of(run, step):
    """The token table float32[V, E] of a run's checkpoint, on the host; V may be padded."""
    found = checkpoint.params_metadata(run, step)
    if EMBEDDINGS not in found:
        raise ConfigError(f"{run} has no {EMBEDDINGS}; expected a run of train.py or finetune.py")
    leaf = found[EMBEDDINGS]
    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wanted = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)
    read = checkpoint.read_params(f"{run}/checkpoints", step, rules.merge({EMBEDDINGS: wanted}, {}))
    return np.asarray(rules.paths(read)[EMBEDDINGS])


def set_rows(params, shardings, ids, rows):
    """Parameters whose token table has the vectors rows[n, E] at ids[n], and is what it was elsewhere.

    Raises ConfigError where the vectors are of another size than the table's."""
    flat, places = rules.paths(params), rules.paths(shardings)
    size = flat[EMBEDDINGS].shape[-1]
    if rows.shape[-1] != size:
        raise ConfigError(
            f"the vectors have {rows.shape[-1]} entries, the network's table {size}; set "
            f"config.network.embedding_size={rows.shape[-1]}, or 0"
        )
    put = jax.jit(lambda table, i, x: table.at[i].set(x), out_shardings=places[EMBEDDINGS])
    return rules.merge({EMBEDDINGS: put(flat[EMBEDDINGS], ids, rows)}, params)


def _few(paths, limit=4):
    shown = ", ".join(paths[:limit])
    return (shown + (f" and {len(paths) - limit} more" if len(paths) > limit else "")) or "none"
