"""The class of transformers that a run is exported as, or the config fields that prevent an export.
Asked by convert.py with a run's parameters, and by train.py and finetune.py at their start.
"""

import dataclasses
from collections.abc import Iterable

from huggingface import param_shapes, reparametrize
from huggingface.families import FAMILIES
from huggingface.family import Family
from huggingface.run_contents import RunContents
from models.config import ModelConfig, complete_config
from models.presets import RECIPES
from tasks import TASKS
from training.config import ConfigError


def task_head(heads: Iterable[str]) -> str:
    """The one of these heads that finetuning trains, '' if there is none."""
    return next((head for head in heads if head in TASKS), "")


def task_of(contents: RunContents) -> tuple[str, dict]:
    """(task head of a run, the fields of the task config that trained it; {} if it was not trained)."""
    head = task_head(contents.heads)
    task = contents.config.get("task")
    if not head or not task:
        return head, {}
    defaults = {field.name: field.default for field in dataclasses.fields(TASKS[head])}
    return head, defaults | task


def _candidates(model, head, given, architecture=""):
    """[(family, its config.json, problems)] of the families that have the class `architecture` ('': any),
    nearest first. Problems are the fields of the model, or of a task, that it cannot express."""
    found = []
    for family in FAMILIES.values():
        family = family.for_head(head)
        if not architecture or architecture in family.classes:
            config, problems = family.hf_config(reparametrize.expressible_model(model))
            task = reparametrize.expressible_task(model, given, family.head_needs.get(head, {}))
            if task and (not architecture or head in family.classes[architecture].split()):
                problems += [
                    f"task.{name}={task[name]!r} (expected {value!r})"
                    for name, value in family.unmet_needs(head, task).items()
                ]
            found.append((family, config, problems))
    return sorted(found, key=lambda e: (e[0].architecture != model.architecture, len(e[2])))


def export_classes(
    model: ModelConfig, heads: tuple[str, ...], task: dict | None = None
) -> tuple[list[str], list[str]]:
    """(classes of transformers that express a run, problems). A run is exported as the first class. If
    there are problems it cannot be exported, and the class is that of the nearest family.

    Args:
      model: the run's model.
      heads: the names below heads/ in its parameters, such as ('lm', 'pair').
      task: the fields of a finetuning task's config, which are checked too.
    """
    found = []
    for family, _, problems in _candidates(model, task_head(heads), task):
        for name in family.classes:
            required, optional = family.heads_of(name)
            if {*required} <= {*heads} <= {*required, *optional}:
                found.append((name, problems))
    if not found:
        head = task_head(heads)
        return [], [
            f"task.name={head!r} (no class here has its head)"
            if head
            else f"no class has the heads {', '.join(heads)}"
        ]
    fitting = [name for name, problems in found if not problems]
    return (fitting, []) if fitting else ([found[0][0]], found[0][1])


def describe_export(model: ModelConfig, params: dict, task=None, adapter=None) -> str:
    """For the log: the class that a run with these (abstract) parameters is exported as, or the fields
    that prevent it. `task` is a finetuning task's config, `adapter` the run's adapter."""
    if adapter is not None and adapter.not_merged_because:
        return f"no Hugging Face export: adapter {adapter.name}, since {adapter.not_merged_because}"
    heads = tuple(params.get("heads", {})) or ("lm",)  # a tied head may have no parameters
    classes, problems = export_classes(model, heads, task and dataclasses.asdict(task))
    if not problems:
        return f"Hugging Face export: {classes[0]} (python -m tools.convert to_hf)"
    nearest = f"; nearest is {classes[0]}" if classes else ""
    recipes = _exporting_recipes(model, heads, problems)
    return f"no Hugging Face export: {', '.join(problems[:7])}{nearest}{recipes}"


def _exporting_recipes(model, heads, problems):
    """The end of a message about fields of a model: the recipes that some class expresses."""
    found = []
    if not any(problem.startswith("model.") for problem in problems):
        return ""
    for name, recipe in RECIPES.items():
        if model.architecture in recipe:
            fields = {"architecture": model.architecture, **recipe[model.architecture]}
            other = complete_config(ModelConfig(**fields), 128, 128)
            if not export_classes(other, heads)[1]:
                found.append(f"recipe={name}")
    return f"; of the shipped recipes {' and '.join(found)} can be exported" if found else ""


def choose_class(
    contents: RunContents, architecture: str
) -> tuple[RunContents, Family, dict, str, dict]:
    """(run as it is exported, family, its config.json, class, parameters {path: shape}); the class is
    the one that it was imported from, if possible.

    A requested class (`architecture`) may omit heads of the run; otherwise the class has all of them.
    """
    origin = contents.origin
    found = _candidates(contents.model_config, *task_of(contents), architecture)
    if not found:
        names = [name for family in FAMILIES.values() for name in family.classes]
        raise ConfigError(
            f"architecture={architecture!r} is not supported; expected one of {', '.join(names)}"
        )
    fitting = [(family, config) for family, config, problems in found if not problems]
    if not fitting:
        family, _, problems = found[0]
        remedy = "train with these values, or with preset=NAME"
        if all(problem.startswith("task.") for problem in problems):
            remedy = "finetune again with these values (--config.task...)"
        raise ConfigError(
            f"no class of transformers can express {contents.name}; the nearest family, "
            f"{family.model_type}, needs other values: {', '.join(problems[:7])}; "
            f"{remedy}{_exporting_recipes(contents.model_config, contents.heads, problems)}"
        )
    fitting.sort(key=lambda each: each[0].model_type != origin.get("model_type"))
    run, (head, task) = contents, task_of(contents)
    for family, config in fitting:
        parts, needs = {}, family.head_needs.get(head, {})
        contents = reparametrize.expressible(run, head, task, needs)
        tree = contents.shapes
        shapes = param_shapes.of_model(family, contents.model_config, len(contents.labels))
        for name in [architecture] if architecture else family.classes:
            required, optional = param_shapes.of_class(family, shapes, name)
            part = {p: shape for p, shape in tree.items() if p in required or p in optional}
            if required.keys() <= tree.keys() and (architecture or part == tree):
                parts[name] = part
        if parts:
            name = origin.get("class") if origin.get("class") in parts else next(iter(parts))
            return contents, family, config, name, parts[name]
    classes = (f"{name}: {had}" for family, _ in fitting for name, had in family.classes.items())
    raise ConfigError(
        f"{contents.name} has the heads {', '.join(contents.heads) or '(none)'}, which no class for its "
        f"model has ({', '.join(classes)}); choose one that needs only some of them by --architecture"
    )
