"""Entries of a family's config table: a key of config.json and the ModelConfig fields it sets.
`ConfigKey` for most keys, `FixedKey` where one value is supported, `CustomKey` for anything else.
Each reads a config.json into fields and writes a ModelConfig as keys.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from models.config import ModelConfig


class ConfigKey(NamedTuple):
    """A key of config.json and the ModelConfig field, or fields, with the same meaning.

    Attributes:
      hf: the key, `outer.inner` if it is nested; or its spellings, all of which are written, and of
        which the first present is read.
      native: the field; or several, for which `values` holds tuples.
      default: the value of a missing key or null; a function of the whole config if it depends on
        other keys.
      values: {hf: native} where the values differ; any other value is an error.
      null: the value of null, and written as null, where that is not `default`.
    """

    hf: str | tuple[str, ...]
    native: str | tuple[str, ...]
    default: Any
    values: dict | None = None
    null: Any = None

    @property
    def fields(self) -> tuple[str, ...]:
        return _tuple(self.native)

    def read(self, config: dict) -> dict:
        """{field: value}. Raises ValueError for an unsupported value."""
        present = [value for name in _tuple(self.hf) for value in _get(config, name)]
        value = next((value for value in present if value is not None), None)
        if value is None and present and self.null is not None:
            value = self.null
        elif value is None:
            value = self.default(config) if callable(self.default) else self.default
        if self.values is None:
            return dict.fromkeys(self.fields, value)
        if not isinstance(value, str | int | float) or value not in self.values:
            expected = ", ".join(map(repr, self.values))
            raise ValueError(f"{_tuple(self.hf)[0]}={value!r} (expected one of {expected})")
        return dict(zip(self.fields, _tuple(self.values[value]), strict=True))

    def write(self, model: ModelConfig) -> dict:
        """{key: value}. Raises ValueError for field values that no key expresses."""
        native = {name: getattr(model, name) for name in self.fields}
        found = tuple(native.values())
        if self.values is None:
            value = None if self.null is not None and found[0] == self.null else found[0]
            return dict.fromkeys(_tuple(self.hf), value)
        for value, each in self.values.items():
            if found == _tuple(each):
                return dict.fromkeys(_tuple(self.hf), value)
        actual = ", ".join(f"model.{name}={value!r}" for name, value in native.items())
        expected = " or ".join(dict.fromkeys(map(repr, self.values.values())))
        raise ValueError(f"{actual} (expected {expected})")


class CustomKey(NamedTuple):
    """Keys of config.json and fields related by a function in each direction, which raises ValueError
    for an unsupported value."""

    fields: tuple[str, ...]
    read: Callable[[dict], dict]  # config.json -> {field: value}
    write: Callable[[ModelConfig], dict]  # -> {key: value}


class FixedKey(NamedTuple):
    """A key of config.json with one supported value, which is also the value of a missing key."""

    hf: str
    value: Any
    fields: tuple[str, ...] = ()

    def read(self, config: dict) -> dict:
        """No fields. Raises ValueError for another value."""
        for value in _get(config, self.hf):
            if value is not None and value != self.value:
                raise ValueError(f"{self.hf}={value!r} (expected {self.value!r})")
        return {}

    def write(self, model: ModelConfig) -> dict:
        """{key: its supported value}."""
        return {self.hf: self.value}


def equal_keys(hf: tuple[str, ...], native: str, default: Any, values: dict | None = None):
    """A CustomKey: several keys of config.json that must have equal values, for one field."""

    def read(config):
        found = [ConfigKey(name, native, default, values).read(config) for name in hf]
        if any(each != found[0] for each in found):
            actual = ", ".join(f"{name}={config.get(name, default)!r}" for name in hf)
            raise ValueError(f"{actual} (expected one value for all)")
        return found[0]

    return CustomKey((native,), read, ConfigKey(hf, native, default, values).write)


def set_key(config: dict, name: str, value: Any) -> None:
    """Sets `outer.inner` of a config.json."""
    *outer, name = name.split(".")
    for key in outer:
        config = config.setdefault(key, {})
    config[name] = value


def _get(config, name):
    """[value of `outer.inner`], [] if the key is missing."""
    for key in name.split("."):
        if not isinstance(config, dict) or key not in config:
            return []
        config = config[key]
    return [config]


def _tuple(value):
    return value if isinstance(value, tuple) else (value,)


ACTIVATIONS = {
    "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu",
    "silu": "silu", "swish": "silu", "gelu_python": "gelu", "gelu_fast": "gelu_tanh",
}  # fmt: skip
