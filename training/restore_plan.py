"""Which parameters init_from loads, initializes and drops: strict, by path, shape and dtype.

Used by training/init_from.py.
"""

import dataclasses
import re

from training.config import ConfigError
from training.init_stacks import shorten_paths

TOKEN_EMBEDDING = "embed/tokens/embedding"


@dataclasses.dataclass(frozen=True)
class RestorePlan:
    """What a restore does, as parameter paths: loaded from the checkpoint, freshly initialized, and
    dropped (in the checkpoint, unused)."""

    loaded: tuple
    fresh: tuple
    dropped: tuple

    def lines(self, target):
        """For the log: the fresh and dropped parameters first, then the loaded ones."""

        def size(paths):
            return sum(target[path].size for path in paths if path in target)

        return [
            f"fresh: {len(self.fresh)} tensors, {size(self.fresh):,} parameters: "
            f"{shorten_paths(self.fresh)}",
            f"dropped: {len(self.dropped)} tensors: {shorten_paths(self.dropped)}",
            f"loaded: {len(self.loaded)} tensors, {size(self.loaded):,} parameters",
        ]


def plan_restore(
    target, found, init="pretrained", allow_missing=(), allow_unexpected=(), what="init_from"
):
    """The RestorePlan for {path: leaf with shape and dtype} of this model and of a checkpoint.

    Args:
      init: 'pretrained', 'embeddings' (the token embedding alone) or 'random'.
      allow_missing: regexes of parameters that the checkpoint need not have.
      allow_unexpected: regexes of parameters of the checkpoint that may be dropped.

    Raises ConfigError naming the first parameters that are missing, unexpected or of another shape.
    """

    def matches(path, patterns):
        return any(re.fullmatch(pattern, path) for pattern in patterns)

    if init == "random":
        return RestorePlan((), tuple(sorted(target)), tuple(sorted(found)))
    wanted = set(target) if init == "pretrained" else {TOKEN_EMBEDDING}
    loaded = sorted(path for path in wanted & found.keys() if not matches(path, allow_missing))
    problems = [
        f"{path} is {found[path].dtype}{list(found[path].shape)} there and "
        f"{target[path].dtype}{list(target[path].shape)} here"
        for path in loaded
        if tuple(found[path].shape) != tuple(target[path].shape)
        or found[path].dtype != target[path].dtype
    ]
    missing = sorted(wanted - found.keys())
    problems += [f"{p} is missing" for p in missing if not matches(p, allow_missing)]
    if init == "pretrained":
        unexpected = sorted(found.keys() - target.keys())
        problems += [f"{p} is unexpected" for p in unexpected if not matches(p, allow_unexpected)]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ConfigError(
            f"{what} does not fit: {'; '.join(problems[:3])}{more}; use a model of the same shape, or "
            f"name the exceptions in config.restore.allow_missing and config.restore.allow_unexpected"
        )
    fresh = sorted(target.keys() - set(loaded))
    return RestorePlan(tuple(loaded), tuple(fresh), tuple(sorted(found.keys() - set(loaded))))
