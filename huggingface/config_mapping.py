"""Entries of a family's config table: a key of config.json and the ModelConfig fields it sets.
`ConfigKey` for most keys, `FixedKey` where one value is supported, `CustomKey` for anything else.
Each reads a TrackedConfig into fields and writes a ModelConfig as keys.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from models.config import ModelConfig


class TrackedConfig(dict):
    """The object in a config.json, which records the keys that are asked for, nested ones too."""

    def __init__(self, config: dict):
        nested = {k: TrackedConfig(v) if isinstance(v, dict) else v for k, v in config.items()}
        super().__init__(nested)
        self._read = set()

    def get(self, key, default=None):
        """Like dict.get; also records the key as read."""
        self._read.add(key)
        return super().get(key, default)

    def __getitem__(self, key):
        self._read.add(key)
        return super().__getitem__(key)

    def __contains__(self, key):
        self._read.add(key)
        return super().__contains__(key)

    def unread(self) -> list[str]:
        """The keys at this level that nothing asked for."""
        return [key for key in self if key not in self._read]

    def unread_inside(self) -> list[str]:
        """The keys `outer.inner` that nothing asked for although something read `outer`."""
        found = []
        for key, value in self.items():
            if key in self._read and isinstance(value, TrackedConfig):
                found += [f"{key}.{name}" for name in value.unread() + value.unread_inside()]
        return found


class ConfigKey(NamedTuple):
    """A key of config.json and the ModelConfig field, or fields, with the same meaning.

    Attributes:
      hf: the key, `outer.inner` if it is nested; or its spellings, all of which are written, and which
        must have one value where several are present.
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
        present = [(name, value) for name in _tuple(self.hf) for value in _get(config, name)]
        given = [(name, value) for name, value in present if value is not None]
        value = given[0][1] if given else None
        if any(self._native(other) != self._native(value) for _, other in given):
            raise ValueError(disagreement(dict(given)))
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

    def _native(self, value):
        """The native value of a key, in which two spellings of it are equal."""
        return self.values.get(value) if self.values and isinstance(value, str | int) else value

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
    for an unsupported value. `hf` names the keys, for messages and tables."""

    fields: tuple[str, ...]
    read: Callable[[dict], dict]  # config.json -> {field: value}
    write: Callable[[ModelConfig], dict]  # -> {key: value}
    hf: tuple[str, ...] = ()


class FixedKey(NamedTuple):
    """A key of config.json with one supported value, which is also the value of a missing key."""

    hf: str
    value: Any
    fields: tuple[str, ...] = ()

    def read(self, config: dict) -> dict:
        """No fields. Raises ValueError for another value."""
        for value in _get(config, self.hf):
            if value != self.value and not (value is None and not self.value):
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

    return CustomKey((native,), read, ConfigKey(hf, native, default, values).write, hf)


def dropout_keys(hf: str, embedding: str, default: float) -> CustomKey:
    """Two keys: the dropout of sublayer outputs, and that of embeddings."""

    def read(config):
        rates = config.get(hf, default), config.get(embedding, default)
        for name, rate in zip((hf, embedding), rates, strict=True):
            if type(rate) not in (int, float):
                raise ValueError(f"{name}={rate!r} (expected a number)")
        return {
            "dropout_rate": rates[0],
            "embedding_dropout_rate": -1.0 if rates[0] == rates[1] else rates[1],
        }

    def write(model):
        return {hf: model.dropout_rate, embedding: model.resolved_embedding_dropout_rate}

    return CustomKey(("dropout_rate", "embedding_dropout_rate"), read, write, (hf, embedding))


def disagreement(values: dict) -> str:
    """The message for {key: value} that should mean the same and do not."""
    actual = " and ".join(f"{name}={value!r}" for name, value in values.items())
    return f"{actual} disagree (expected one value)"


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

# Keys that every config.json may have and that do not change the model: {key: why}. A family adds its
# own as `unused`. Both lists are compared with transformers' config classes by a test.
_RUN, _LABELS = "says what to return or how to compute it", "read as labels of the head"
_IDS, _FILE = "an id of a special token, checked against the tokenizer", "describes the file"
GENERAL_KEYS: dict[str, str] = {
    **dict.fromkeys(("model_type", "architectures", "dtype", "torch_dtype"), "read before the table"),
    **dict.fromkeys(("transformers_version", "_name_or_path", "name_or_path"), _FILE),
    **dict.fromkeys(
        ("output_hidden_states", "output_attentions", "return_dict", "use_cache",
         "chunk_size_feed_forward", "attn_implementation", "_attn_implementation", "torchscript"),
        _RUN,
    ),
    **dict.fromkeys(("id2label", "label2id", "num_labels", "problem_type"), _LABELS),
    **dict.fromkeys(
        ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "cls_token_id",
         "sep_token_id", "unk_token_id", "mask_token_id"),
        _IDS,
    ),
}  # fmt: skip
# Keys that change the model wherever they are: {key: the value without effect}.
REFUSED_KEYS = {
    "per_layer_config": {}, "tie_last_hidden_states": True, "num_experts": 0, "num_local_experts": 0,
    "n_routed_experts": 0, "moe_intermediate_size": 0, "pruned_heads": {}, "tie_encoder_decoder": False,
}  # fmt: skip
# Values of training that travel through a run and back, but that a run here does not apply.
_TRAINING = "a value of training, kept for the export; a run here does not apply it"
_NOT_A_CLASS_HERE = "belongs to a class that is not supported"


def training(*names: str) -> dict[str, str]:
    """Entries of `Family.unused` for values of training, such as a dropout."""
    return dict.fromkeys(names, _TRAINING)


def of_other_classes(*names: str) -> dict[str, str]:
    """Entries of `Family.unused` for options of classes that are refused."""
    return dict.fromkeys(names, _NOT_A_CLASS_HERE)


def numerics(*names: str) -> dict[str, str]:
    """Entries of `Family.unused` for the way something is computed."""
    return dict.fromkeys(names, "changes rounding or speed alone")
