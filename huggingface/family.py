"""Family: how one kind of network is written there and here, as two tables that are read both ways.
`Line`: a tensor of theirs and what it is made of here; `Key`: a key of config.json and its field.
Made in huggingface/families/, one file each; used by huggingface/convert.py.
"""

import math
import re
from dataclasses import asdict, dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from huggingface.keys import ACTIVATIONS, Key, Only, Rule, put, together
from models.config import SILENT, ModelConfig, explicit
from training.config import ConfigError

# What a table of a family is written with; the rest of this file reads it.
__all__ = [
    "ACTIVATIONS",
    "OUTPUT",
    "PIECES",
    "SAME",
    "TRANSPOSED",
    "Family",
    "How",
    "Key",
    "Line",
    "Move",
    "Only",
    "Rule",
    "dense",
    "norm",
    "together",
]

# ---- tensors -------------------------------------------------------------------------------------


class How(NamedTuple):
    """What is done to arrays of ours, one after the other, to make theirs of them; and undone.

    Several arrays are joined along their last axis before anything else (GPT-2's c_attn).
    """

    transposed: bool = False  # [in, out] here, [out, in] there
    pieces: bool = (
        False  # a row for each piece: ours have rows behind them, up to a multiple of 128
    )
    row: bool = False  # [n] here, [1, n] there

    def shape(self, ours: list[tuple[int, ...]], vocab_size: int) -> tuple[int, ...]:
        """Shape of theirs, from the shapes of ours."""
        shape = (*ours[0][:-1], sum(each[-1] for each in ours))
        shape = shape[::-1] if self.transposed else shape
        shape = (vocab_size, *shape[1:]) if self.pieces else shape
        return (1, *shape) if self.row else shape

    def outward(self, ours: list[np.ndarray], vocab_size: int) -> np.ndarray:
        """Theirs, a view where nothing is joined."""
        array = ours[0] if len(ours) == 1 else np.concatenate(ours, axis=-1)
        array = array.T if self.transposed else array
        array = array[:vocab_size] if self.pieces else array
        return array[None] if self.row else array

    def inward(self, theirs: np.ndarray, ours: list[tuple[int, ...]]) -> list[np.ndarray]:
        """Ours, of these shapes; views where nothing is padded. Padding is 0."""
        array = theirs[0] if self.row else theirs
        if self.pieces:
            padded = ours[0][-1] if self.transposed else ours[0][0]
            rows = padded - len(array)
            array = np.concatenate([array, np.zeros((rows, *array.shape[1:]), array.dtype)])
        array = array.T if self.transposed else array
        ends = np.cumsum([shape[-1] for shape in ours])[:-1]
        return np.split(array, ends, axis=-1) if len(ours) > 1 else [array]


SAME = How()
TRANSPOSED = How(transposed=True)
PIECES = How(pieces=True)
OUTPUT = How(transposed=True, pieces=True)  # an untied output: [D, V] here, [V, D] there


class Line(NamedTuple):
    """A tensor of theirs and the parameters of ours that it is made of; `{i}` counts layers.

    A line holds where the network has its parameters (biases of a network without them need no word)
    and its config has the fields `where`.
    """

    ours: str | tuple[str, ...]
    theirs: str
    how: How = SAME
    where: dict[str, Any] = MappingProxyType({})


def dense(ours: str, theirs: str, **where) -> list[Line]:
    """A dense layer as torch.nn.Linear keeps it, with a bias where the network has one."""
    kernel = Line(f"{ours}/kernel", f"{theirs}.weight", TRANSPOSED, where)
    return [kernel, Line(f"{ours}/bias", f"{theirs}.bias", SAME, where)]


def norm(ours: str, theirs: str) -> list[Line]:
    """LayerNorm or RMSNorm."""
    return [Line(f"{ours}/scale", f"{theirs}.weight"), Line(f"{ours}/bias", f"{theirs}.bias")]


class Move(NamedTuple):
    """A line for one tensor of one network."""

    ours: tuple[str, ...]
    theirs: str
    how: How


# ---- the two together ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    """One `model_type`. Names of tensors are those of a directory with a head.

    Attributes:
      model_type: as config.json says it.
      prefix: what a directory without a head leaves out in front of the network's names.
      classes: {class: its heads, as paths below heads/; a `?` behind one that may be missing}. A run
        becomes the first one that has its heads. The last one is the network alone.
      bare_classes: those whose directories leave the prefix out, if not that last one alone.
      lines: the table of tensors.
      keys: the table of the config.
      fixed: ModelConfig fields that are always so in this family; others that no key says have
        ModelConfig's default.
      copies: {tensor that may be there a second time: the one that it equals}.
      renamed: (ending, its name now) of tensors in older files.
      ignored: regexes of tensors that are no parameters.
      needs: {head: {TaskConfig field: value}}, what a classification run must have for its head to
        mean the same there.
      readings: a key of config.json and {its value: the TaskConfig.reading that it stands for}, in a
        family that leaves the choice.
      said: keys of config.json that are written as they stand and not read.
    """

    model_type: str
    prefix: str
    classes: dict[str, str]
    lines: list[Line]
    keys: list[Key | Rule | Only]
    fixed: dict[str, Any]
    bare_classes: tuple[str, ...] = ()
    copies: dict[str, str] = field(default_factory=dict)
    renamed: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()
    needs: dict[str, dict] = field(default_factory=dict)
    readings: tuple[str, dict[str, str]] = ("", {})
    said: dict[str, Any] = field(default_factory=dict)

    @property
    def network(self) -> str:
        """The class without a head."""
        return list(self.classes)[-1]

    def named(self, name: str) -> "Family":
        """The family as a directory of the class `name` writes it."""
        return self.bare() if name in (self.bare_classes or (self.network,)) else self

    # ---- config.json -----------------------------------------------------------------------------

    def model(self, config: dict) -> ModelConfig:
        """The ModelConfig of a config.json. Raises ConfigError naming each value that has no
        counterpart here."""
        found, problems = dict(self.fixed), []
        for key in self.keys:
            try:
                found |= key.read(config)
            except ValueError as error:
                problems.append(str(error))
            except (TypeError, ZeroDivisionError):  # what another key says is no number
                problems.append(f"{key.theirs} depends on another key (expected numbers)")
        if problems:
            raise ConfigError(
                f"config.json of a {self.model_type} says what has no counterpart here: "
                f"{'; '.join(problems)}; choose another model"
            )
        try:
            return ModelConfig(**{name: _typed(name, value) for name, value in found.items()})
        except ValueError as error:
            raise ConfigError(f"config.json of a {self.model_type}: {error}") from error

    def config(self, model: ModelConfig) -> tuple[dict, list[str]]:
        """(config.json without its class, what of the network it cannot say, each as
        'model.FIELD=value (expected value)')."""
        model, written, problems = explicit(model), {"model_type": self.model_type}, []
        for key in self.keys:
            try:
                for name, value in key.write(model).items():
                    put(written, name, value)
            except ValueError as error:
                problems.append(str(error))
        told = {name for key in self.keys for name in key.fields}
        back = {**self.fixed, **{name: getattr(model, name) for name in sorted(told)}}
        try:
            problems += _differences(model, explicit(ModelConfig(**back)))
        except ValueError as error:
            problems.append(str(error))
        return {**written, **self.said}, problems

    def unmet(self, task: dict[str, Any], reading: str = "") -> dict[str, Any]:
        """{TaskConfig field: value} that a classification head needs to mean the same there, and a task
        (of all its fields) does not have; `reading` is that of a directory which had the choice."""
        task = task | {"reading": self._reading(task)}
        needs = self.needs.get("classification", {}) | ({"reading": reading} if reading else {})
        return {name: value for name, value in needs.items() if task[name] != value}

    def reading(self, config: dict) -> str:
        """The TaskConfig.reading that a config.json chooses, '' where the family leaves no choice.

        Raises ConfigError for one that has no counterpart here."""
        key, values = self.readings
        if not key:
            return ""
        chosen = config.get(key, next(iter(values)))
        if chosen not in values:
            raise ConfigError(
                f"config.json of a {self.model_type} says {key}={chosen!r}; expected "
                f"{' or '.join(map(repr, values))}; choose another model"
            )
        return values[chosen]

    def chosen(self, task: dict[str, Any]) -> dict[str, str]:
        """The choice of a task (of all its fields) as config.json says it."""
        key, values = self.readings
        said = [there for there, here in values.items() if here == self._reading(task)]
        return {key: said[0]} if said else {}

    def _reading(self, task):
        usual = "mean" if self.fixed["architecture"] == "encoder_decoder" else "state"
        return usual if task["reading"] == "usual" else task["reading"]

    # ---- tensors ---------------------------------------------------------------------------------

    def moves(self, model: ModelConfig, tree: dict[str, tuple[int, ...]]) -> list[Move]:
        """The lines that make up the parameters {path: shape}, one for each tensor of theirs.

        Raises ConfigError naming parameters that no line has.
        """
        layers = 1 + max(
            (int(n) for path in tree for n in re.findall(r"layer_(\d+)/", path)), default=0
        )
        found, taken = [], set()
        for line in self.lines:
            if any(getattr(model, name) != value for name, value in line.where.items()):
                continue
            ours = (line.ours,) if isinstance(line.ours, str) else line.ours
            for i in range(layers if "{i}" in line.theirs else 1):
                paths = tuple(path.replace("{i}", str(i)) for path in ours)
                if all(path in tree for path in paths):
                    found.append(Move(paths, line.theirs.replace("{i}", str(i)), line.how))
                    taken.update(paths)
        left = sorted(tree.keys() - taken)
        if left:
            raise ConfigError(
                f"the family {self.model_type} has no place for {', '.join(left[:3])}"
                f"{f' and {len(left) - 3} more' if len(left) > 3 else ''}; its classes are "
                f"{', '.join(self.classes)}"
            )
        return found

    def heads(self, name: str) -> tuple[list[str], list[str]]:
        """(heads that a class has, heads that it may have), as paths below heads/."""
        if name not in self.classes:
            raise ConfigError(
                f"the class {name!r} has no counterpart here; expected one of {', '.join(self.classes)}"
            )
        words = self.classes[name].split()
        must = [word for word in words if not word.endswith("?")]
        return must, [word[:-1] for word in words if word.endswith("?")]

    def bare(self) -> "Family":
        """The family as a directory writes it that leaves the prefix out."""

        def cut(name):
            return name.removeprefix(self.prefix)

        return replace(
            self,
            lines=[line._replace(theirs=cut(line.theirs)) for line in self.lines],
            copies={cut(copy): cut(original) for copy, original in self.copies.items()},
        )

    def present(self, name: str) -> str:
        """A tensor's name of today, for one in an older file."""
        for old, new in self.renamed:
            if name.endswith(old):
                return name.removesuffix(old) + new
        return name

    def is_ignored(self, name: str) -> bool:
        return any(re.fullmatch(pattern, name) for pattern in self.ignored)


_LOWEST = {f.name: f.metadata["min"] for f in fields(ModelConfig) if "min" in f.metadata}


def _typed(name, value):
    """`value` in the type of the field: JSON writes 0 for 0.0."""
    kind = type(getattr(ModelConfig(), name))
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise ValueError(f"{value!r} for {name}; expected {kind.__name__}")
    lowest = _LOWEST.get(name, value)
    if value < lowest:
        raise ValueError(f"{value!r} for {name}; expected at least {lowest!r}")
    return value


def _differences(model, back):
    """Fields in which two explicit configs mean different networks."""
    silent = set(SILENT)
    if model.positions == back.positions != "rotary":
        silent.add("rotary_base")
    if model.positions == back.positions != "relative":
        silent |= {"relative_buckets", "relative_max_distance"}
    ours, theirs = asdict(model), asdict(back)
    return [
        f"model.{name}={ours[name]!r} (expected {theirs[name]!r})"
        for name in ours
        if name not in silent and ours[name] != theirs[name]
    ]
