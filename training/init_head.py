"""Whether finetuning keeps the head of the run that it starts from, one of ours or a published one.

It is kept if task, labels and form agree. Used by training/init_from.py.
"""

import dataclasses
import re

from training import run_directory


@dataclasses.dataclass(frozen=True)
class HeadPlan:
    """Whether the head is kept, and why.

    Attributes:
      line: for the log: 'head kept: ...' or 'head new: ...', with the reason; '' for a task without one.
      order: index in the source's labels of each label of the task; None: the head is new.
    """

    line: str
    order: tuple | None = None

    @property
    def is_kept(self) -> bool:
        return self.order is not None

    @property
    def is_permuted(self) -> bool:
        """Whether the source has the same labels in another order."""
        return self.is_kept and self.order != tuple(range(len(self.order)))


def plan_head(run, task, target, found, allow_missing=()) -> HeadPlan:
    """The HeadPlan of a task.

    Args:
      run: the run directory of the source.
      task: the loaded task, with `name`, `label_names` and `task`, its options.
      target, found: {path: leaf with a shape} of the parameters of this model and of the source.
      allow_missing: regexes of parameters that are not loaded.
    """
    own, theirs = (_shapes(params, f"heads/{task.name}/") for params in (target, found))
    if not own:
        return HeadPlan("")
    manifest, labels = run_directory.read_manifest(run), list(task.label_names)
    name, needs = _head_of(run, manifest, task)
    if name != task.name:
        if not name:
            return HeadPlan(f"head new: {run} has no head of a task")
        return HeadPlan(f"head new: the head of {run} is for config.task.name={name}")
    names = list(manifest.get("labels", []))
    if sorted(names) != sorted(labels):
        return HeadPlan(f"head new: labels differ ({_difference(names, labels)})")
    options = dataclasses.asdict(task.task)
    options |= task.task.head_options(task.model_config.architecture)
    other = {n: value for n, value in needs.items() if options.get(n) != value}
    if other:
        flags = " ".join(f"config.task.{name}={value!r}" for name, value in other.items())
        return HeadPlan(f"head new: {flags} would keep it")
    if all(any(re.fullmatch(each, path) for each in allow_missing) for path in own):
        return HeadPlan("head new: config.restore.allow_missing names it")
    if own != theirs:
        paths = sorted({path for path, _ in own.items() ^ theirs.items()})
        return HeadPlan(f"head new: its parameters differ ({_shown(paths, 3)})")
    order = tuple(names.index(label) for label in labels)
    plan = HeadPlan("head kept: same task and labels", order)
    return dataclasses.replace(plan, line=plan.line + ", in another order" * plan.is_permuted)


def _shapes(params, start):
    return {path: tuple(leaf.shape) for path, leaf in params.items() if path.startswith(start)}


def _head_of(run, manifest, task):
    """(task of the source's head or '', the options of the task that it needs)."""
    origin, options = manifest.get("huggingface", {}), task.task
    if origin:
        return origin.get("head", ""), origin.get("head_needs", {})
    stored = run_directory.read_config(run)["config"].get("task", {})
    fields = {name: stored[name] for name in options.head_fields if name in stored}
    architecture = task.model_config.architecture
    needs = dataclasses.replace(options, **fields).head_options(architecture) if fields else {}
    return stored.get("name", ""), needs


def _difference(found, labels):
    """The difference between the labels of the source and of the task, in words."""
    more = [label for label in labels if label not in found]
    fewer = [label for label in found if label not in labels]
    if more and fewer:
        return f"{_shown(found)} there; {_shown(labels)} here"
    return f"this task adds {_shown(more)}" if more else f"this task lacks {_shown(fewer)}"


def _shown(labels, limit=6):
    more = f" and {len(labels) - limit} more" if len(labels) > limit else ""
    return ", ".join(str(label)[:50] for label in labels[:limit]) + more
