"""What the config table of a family is written with: a key of config.json and fields of ModelConfig.
`Key` for most, `Only` for what has one value here, `Rule` for what is said in other words.
Each reads a config.json, giving fields, and writes a ModelConfig, giving keys.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from models.config import ModelConfig


class Key(NamedTuple):
    """A key of config.json and the ModelConfig field, or fields, that say the same.

    Attributes:
      theirs: the key, `outer.inner` where it lies in another; or its spellings, all of which are
        written, and of which the first that is there is read.
      ours: the field; or several, which a value of `values` gives as a tuple.
      default: what a missing key or null stands for; a function of the whole config where it depends
        on others.
      values: {theirs: ours} where the two are spelled differently; what it lacks is refused.
      null: what null stands for, and is written as null, where that is another value than `default`.
    """

    theirs: str | tuple[str, ...]
    ours: str | tuple[str, ...]
    default: Any
    values: dict | None = None
    null: Any = None

    @property
    def spellings(self) -> tuple[str, ...]:
        return (self.theirs,) if isinstance(self.theirs, str) else self.theirs

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.ours,) if isinstance(self.ours, str) else self.ours

    def read(self, config: dict) -> dict:
        """The fields of ours. Raises ValueError for a value that has no counterpart."""
        there = [value for name in self.spellings for value in _get(config, name)]
        value = next((value for value in there if value is not None), None)
        if value is None and there and self.null is not None:
            return {self.ours: self.null}
        if value is None:
            value = self.default(config) if callable(self.default) else self.default
        if self.values is None:
            return dict.fromkeys(self.fields, value)
        if not isinstance(value, str | int | float) or value not in self.values:
            expected = ", ".join(map(repr, self.values))
            raise ValueError(f"{self.spellings[0]}={value!r} (expected one of {expected})")
        found = self.values[value]
        return dict(
            zip(self.fields, (found,) if isinstance(self.ours, str) else found, strict=True)
        )

    def write(self, model: ModelConfig) -> dict:
        """Theirs, of the fields of ours. Raises ValueError for values that have no counterpart."""
        ours = tuple(getattr(model, name) for name in self.fields)
        if self.values is None:
            theirs = None if self.null is not None and ours[0] == self.null else ours[0]
            return dict.fromkeys(self.spellings, theirs)
        for there, here in self.values.items():
            if ours == ((here,) if isinstance(self.ours, str) else here):
                return dict.fromkeys(self.spellings, there)
        said = ", ".join(f"model.{n}={v!r}" for n, v in zip(self.fields, ours, strict=True))
        expected = " or ".join(dict.fromkeys(map(repr, self.values.values())))
        raise ValueError(f"{said} (expected {expected})")


def _get(config, name):
    """[value of `outer.inner`], or [] where it is not there."""
    for word in name.split("."):
        if not isinstance(config, dict) or word not in config:
            return []
        config = config[word]
    return [config]


def put(config, name, value):
    """Writes the value of `outer.inner`."""
    *outer, name = name.split(".")
    for word in outer:
        config = config.setdefault(word, {})
    config[name] = value


class Rule(NamedTuple):
    """Keys of config.json and fields that say the same in other words: a function each way, which
    raises ValueError for what has no counterpart."""

    fields: tuple[str, ...]
    read: Callable[[dict], dict]  # config.json -> fields
    write: Callable[[ModelConfig], dict]  # -> keys of config.json


def together(theirs: tuple[str, ...], ours: str, default: Any, values: dict | None = None) -> Rule:
    """Keys of config.json that have to say the same, which is one field here."""
    keys = [Key(name, ours, default, values) for name in theirs]

    def read(config):
        found = [key.read(config) for key in keys]
        if any(each != found[0] for each in found):
            said = ", ".join(f"{name}={config.get(name, default)!r}" for name in theirs)
            raise ValueError(f"{said} (expected one value for all)")
        return found[0]

    return Rule((ours,), read, lambda model: dict.fromkeys(theirs, *keys[0].write(model).values()))


class Only(NamedTuple):
    """A key of config.json of which one value has a counterpart here; a missing key has that value."""

    theirs: str
    value: Any
    fields: tuple[str, ...] = ()

    def read(self, config: dict) -> dict:
        """Nothing. Raises ValueError for another value."""
        for value in _get(config, self.theirs):
            if value is not None and value != self.value:
                raise ValueError(f"{self.theirs}={value!r} (expected {self.value!r})")
        return {}

    def write(self, model: ModelConfig) -> dict:
        """The value."""
        return {self.theirs: self.value}


ACTIVATIONS = {
    "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu",
    "silu": "silu", "swish": "silu", "gelu_python": "gelu", "gelu_fast": "gelu_tanh",
}  # fmt: skip
