"""The objectives by name: build one, parse one from a string, check one against an architecture.
objectives/__init__.py fills `OBJECTIVES` with the classes.
"""

import ast
import contextlib
import dataclasses
import difflib
import math

from objectives.base import ARCHITECTURES, EMBEDDINGS, Objective
from objectives.denoising import Denoising
from objectives.grammar import parse_denoiser
from objectives.lm_loss import loss_of

OBJECTIVES: dict[str, type[Objective]] = {}


def build(name: str, hyperparameters: dict | None = None) -> Objective:
    """The objective with this name. Raises ValueError for an unknown name or hyperparameter;
    training/config.py checks types and ranges by the metadata of the fields."""
    if name not in OBJECTIVES:
        raise ValueError(
            f"objective {name!r} is unknown: {_nearest(name, OBJECTIVES)}"
            f"expected one of {', '.join(OBJECTIVES)}"
        )
    known = [field.name for field in dataclasses.fields(OBJECTIVES[name])]
    for key in hyperparameters or {}:
        if key not in known:
            raise ValueError(
                f"objective {name} has no hyperparameter {key!r}: {_nearest(key, known)}"
                f"expected one of {', '.join(known)}"
            )
    return OBJECTIVES[name](**(hyperparameters or {}))


def parse(text: str) -> Objective:
    """'NAME' or 'NAME:KEY=VALUE,...' -> objective; NAME may also be the four words of a denoiser.

    'prefix_lm'; 'masked_lm:noise_density=0.3'; 'span_0.5_sentinel_spans:mean_noise_span_length=8'.
    Raises ValueError, in one line, for an unknown name or key, or a value of the wrong type or out
    of range.
    """
    name, _, pairs = text.partition(":")
    values = {}
    if name not in OBJECTIVES and "_" in name:
        try:
            name, values = Denoising.name, parse_denoiser(name)
        except ValueError as error:
            hint = _nearest(name, OBJECTIVES) or error
            raise ValueError(f"objective {name!r} is unknown: {hint}") from None
    for pair in filter(None, pairs.split(",")):
        key, _, value = pair.partition("=")
        values[key.strip()] = value.strip()
    fields = {field.name: field for field in dataclasses.fields(OBJECTIVES.get(name, Objective))}
    return build(
        name,
        {
            key: _convert(f"{name}:{key}", value, fields[key]) if key in fields else value
            for key, value in values.items()
        },
    )


def check(objective: Objective, architecture: str) -> None:
    """Raises ValueError if the objective does not support the architecture, or z_loss has no effect."""
    if objective.z_loss and "lm" not in loss_of(objective).loss_coefficients():
        raise ValueError(
            f"objective.z_loss={objective.z_loss:g}: {objective.name} has no softmax over the "
            "vocabulary, so z_loss must be 0"
        )
    if architecture in objective.architectures:
        return
    pairs = "; ".join(f"{a}: {', '.join(names)}" for a, names in names_by_architecture().items())
    why = why_unsupported(objective, architecture)
    raise ValueError(
        f"objective {objective.name} does not support architecture {architecture!r}"
        f"{f' ({why})' if why else ''}: expected one of these: {pairs}"
    )


def why_unsupported(objective: Objective, architecture: str) -> str:
    """Why an objective does not support an architecture; '' if it gives no reason."""
    if architecture == EMBEDDINGS:
        return "word vectors have no hidden states; skip_gram trains them"
    return objective.unsupported.get(architecture, "")


def names_by_architecture() -> dict[str, list[str]]:
    """architecture -> names of the objectives that support it with default hyperparameters."""
    return {
        architecture: [name for name in OBJECTIVES if architecture in build(name).architectures]
        for architecture in (*ARCHITECTURES, EMBEDDINGS)
    }


def _convert(label, given, field):
    """The value, converted to the type of the field's default. Raises ValueError if that is impossible
    or the value is out of range."""
    kind, rules, value = type(field.default), field.metadata, given
    if isinstance(value, str) and kind is bool:
        value = {"true": True, "false": False}.get(value.lower(), value)
    elif isinstance(value, str) and kind is not str:
        with contextlib.suppress(ValueError, SyntaxError):
            value = ast.literal_eval(value)
    if type(value) in (int, float) and kind in (int, float):
        with contextlib.suppress(OverflowError):
            # '1e6' is an integer, '1.5' is not
            value = kind(value) if kind(value) == value else value
    if type(value) is not kind or value in (math.inf, -math.inf):
        raise ValueError(f"{label}={given}: expected {kind.__name__}")
    low, high = rules.get("min", value), rules.get("max", value)
    if value not in rules.get("choices", (value,)) or not low <= value <= high:
        known = [f"{rule} {rules[rule]}" for rule in ("choices", "min", "max") if rule in rules]
        raise ValueError(f"{label}={value!r} is out of range: expected {', '.join(known)}")
    return value


def _nearest(word, words):
    near = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}? " if near else ""
