"""The objectives by name: build one, check it against an architecture, read it from a short text.
Filled in by objectives/__init__.py, which is the one place that knows the names.
"""

import ast
import contextlib
import dataclasses
import difflib
import math

from objectives.base import ARCHITECTURES, EMBEDDINGS, NO_STATES, Objective
from objectives.denoising import Denoising
from objectives.grammar import parse as spelled

REGISTRY: dict[str, type[Objective]] = {}


def build(name: str, hyperparameters: dict | None = None) -> Objective:
    """The objective of a name. Raises ValueError for a name or a hyperparameter it does not know;
    types and ranges are checked by training/config.py, from the fields' metadata."""
    if name not in REGISTRY:
        raise ValueError(
            f"objective {name!r} is unknown: {_nearest(name, REGISTRY)}"
            f"expected one of {', '.join(REGISTRY)}"
        )
    known = [field.name for field in dataclasses.fields(REGISTRY[name])]
    for key in hyperparameters or {}:
        if key not in known:
            raise ValueError(
                f"objective {name} has no hyperparameter {key!r}: {_nearest(key, known)}"
                f"expected one of {', '.join(known) or 'none at all'}"
            )
    return REGISTRY[name](**(hyperparameters or {}))


def parse(text: str) -> Objective:
    """'NAME', 'NAME:KEY=VALUE,...' or a denoiser's four words in the place of NAME -> objective.

    'prefix_lm'; 'masked_lm:noise_density=0.3'; 'span_0.5_sentinel_spans:mean_span_length=8'.
    Raises ValueError, one line, for a name, key or value that it does not know.
    """
    name, _, settings = text.partition(":")
    values = {} if name in REGISTRY or "_" not in name else _spelled(name)
    kind = Denoising.name if values else name
    for setting in filter(None, settings.split(",")):
        key, _, value = setting.partition("=")
        values[key.strip()] = value.strip()
    return build(kind, {key: _typed(kind, key, value) for key, value in values.items()})


def check(objective: Objective, architecture: str) -> None:
    """Raises ValueError unless the objective makes sense, and that for the architecture."""
    if objective.z_loss and "lm" not in objective.coefficients():
        raise ValueError(
            f"objective.z_loss={objective.z_loss} is of a softmax over the vocabulary, which "
            f"{objective.name} has not: set it to 0"
        )
    if architecture in objective.architectures:
        return
    pairs = "; ".join(f"{a}: {', '.join(names)}" for a, names in pairs_by_architecture().items())
    why = reason(objective, architecture)
    raise ValueError(
        f"objective {objective.name} does not fit architecture {architecture!r}"
        f"{f' ({why})' if why else ''}: expected one of these: {pairs}"
    )


def reason(objective: Objective, architecture: str) -> str:
    """Why an objective makes no sense for an architecture; '' where nobody has said."""
    return NO_STATES if architecture == EMBEDDINGS else objective.unfit.get(architecture, "")


def pairs_by_architecture() -> dict[str, list[str]]:
    """Each architecture's objectives, by name, with their default hyperparameters."""
    return {
        architecture: [name for name in REGISTRY if architecture in build(name).architectures]
        for architecture in (*ARCHITECTURES, EMBEDDINGS)
    }


def _spelled(name):
    try:
        return spelled(name)
    except ValueError as error:
        near = _nearest(name, REGISTRY)
        raise ValueError(f"objective {name!r} is unknown: {near or error}") from None


def _typed(name, key, value):
    """A value out of a text as the type that the field's default has, within its range."""
    field = {f.name: f for f in dataclasses.fields(REGISTRY.get(name, Objective))}.get(key)
    if field is None:
        return value
    kind, rules, given = type(field.default), field.metadata, value
    if isinstance(value, str) and kind is not str:
        with contextlib.suppress(ValueError, SyntaxError):
            value = ast.literal_eval(value)
    value = float(value) if kind is float and type(value) is int else value
    if type(value) is not kind or value in (math.inf, -math.inf):
        raise ValueError(f"{name}:{key}={given}: expected {kind.__name__}")
    low, high = rules.get("min", value), rules.get("max", value)
    if value not in rules.get("choices", (value,)) or not low <= value <= high:
        known = [f"{rule} {rules[rule]}" for rule in ("choices", "min", "max") if rule in rules]
        raise ValueError(f"{name}:{key}={value!r} is out of range: expected {', '.join(known)}")
    return value


def _nearest(word, words):
    near = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}? " if near else ""
