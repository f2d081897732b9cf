"""Family: how Hugging Face stores one model_type, as two tables that are read in both directions.
`ParamMap`: a tensor and the parameters it is made of; config_mapping.py: a config key and its field.
Instances are in huggingface/families/; huggingface/convert.py applies them.
"""

import dataclasses
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from huggingface.config_mapping import ConfigKey, CustomKey, FixedKey, set_key
from models.config import NON_STRUCTURAL_FIELDS, ModelConfig, resolve_defaults
from tasks.base import AUTO_POOLING
from training.config import ConfigError

# ---- tensors -------------------------------------------------------------------------------------


class ArrayTransform(NamedTuple):
    """Steps from our arrays to a Hugging Face tensor, in order of application; `to_native` undoes them.

    Several arrays are first joined along their last axis (GPT-2's c_attn).
    """

    transpose: bool = False  # [in, out] here, [out, in] in PyTorch
    vocab_rows: bool = False  # a row per token; ours are padded to a multiple of 128
    leading_axis: bool = False  # [n] here, [1, n] in Hugging Face

    def hf_shape(self, native: list[tuple[int, ...]], vocab_size: int) -> tuple[int, ...]:
        """The tensor's shape, from the shapes of our arrays."""
        shape = (*native[0][:-1], sum(each[-1] for each in native))
        shape = shape[::-1] if self.transpose else shape
        shape = (vocab_size, *shape[1:]) if self.vocab_rows else shape
        return (1, *shape) if self.leading_axis else shape

    def to_hf(self, native: list[np.ndarray], vocab_size: int) -> np.ndarray:
        """The tensor; a view unless arrays are joined."""
        array = native[0] if len(native) == 1 else np.concatenate(native, axis=-1)
        array = array.T if self.transpose else array
        array = array[:vocab_size] if self.vocab_rows else array
        return array[None] if self.leading_axis else array

    def to_native(self, hf: np.ndarray, shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
        """Our arrays, of these shapes, padded with 0; views unless padded."""
        array = hf[0] if self.leading_axis else hf
        if self.vocab_rows:
            rows = (shapes[0][-1] if self.transpose else shapes[0][0]) - len(array)
            array = np.concatenate([array, np.zeros((rows, *array.shape[1:]), array.dtype)])
        array = array.T if self.transpose else array
        ends = np.cumsum([shape[-1] for shape in shapes])[:-1]
        return np.split(array, ends, axis=-1) if len(shapes) > 1 else [array]


IDENTITY = ArrayTransform()
TRANSPOSE = ArrayTransform(transpose=True)
VOCAB = ArrayTransform(vocab_rows=True)
VOCAB_TRANSPOSE = ArrayTransform(transpose=True, vocab_rows=True)  # an untied output matrix


class ParamMap(NamedTuple):
    """A Hugging Face tensor and the parameters that it is made of; `{i}` is the layer's index.

    It applies to models that have these parameters (so that biases need no condition) and whose
    config has the fields `where`.
    """

    native: str | tuple[str, ...]
    hf: str
    transform: ArrayTransform = IDENTITY
    where: dict[str, Any] = MappingProxyType({})


def dense(native: str, hf: str, **where) -> list[ParamMap]:
    """A dense layer stored as torch.nn.Linear, with a bias if the model has one."""
    kernel = ParamMap(f"{native}/kernel", f"{hf}.weight", TRANSPOSE, where)
    return [kernel, ParamMap(f"{native}/bias", f"{hf}.bias", IDENTITY, where)]


def norm(native: str, hf: str, **where) -> list[ParamMap]:
    """LayerNorm or RMSNorm."""
    scale = ParamMap(f"{native}/scale", f"{hf}.weight", where=where)
    return [scale, ParamMap(f"{native}/bias", f"{hf}.bias", where=where)]


def attention(native: str, hf: str, *names: str) -> list[ParamMap]:
    """The dense layers of attention; `names` are query, key, value and output below `hf`."""
    pairs = zip(("query", "key", "value", "out"), names, strict=True)
    return [each for ours, name in pairs for each in dense(f"{native}/{ours}", f"{hf}.{name}")]


class ResolvedParam(NamedTuple):
    """A ParamMap applied to one tensor of one model."""

    native: tuple[str, ...]
    hf: str
    transform: ArrayTransform


# ---- both tables ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    """One `model_type`. Tensor names are those of a directory with a head.

    Attributes:
      model_type: as in config.json.
      prefix: of the base model's tensors; a directory without a head omits it.
      classes: {class: its heads, as paths below heads/}; `?` marks a head that may be missing. A run
        is exported as the first class with its heads. The last one is the base model.
      params: the table of tensors.
      config_keys: the table of config.json.
      fixed: ModelConfig fields that are constant in this family; fields in neither table have
        ModelConfig's default.
      bare_classes: classes whose directories omit the prefix; empty: the base model alone.
      tied: {tensor that a directory may store as a copy: its original}.
      legacy_suffixes: (old, new) suffixes of tensor names.
      ignored: regexes of tensors that are not parameters.
      constants: ModelConfig -> {tensor: array} of what a directory has and is no parameter here.
      head_needs: {task head: {task config field: value}}, required for the head to compute the same.
      pooling_key: (key of config.json, its values), in a family with a choice of pooling.
    """

    model_type: str
    prefix: str
    classes: dict[str, str]
    params: list[ParamMap]
    config_keys: list[ConfigKey | CustomKey | FixedKey]
    fixed: dict[str, Any]
    bare_classes: tuple[str, ...] = ()
    tied: dict[str, str] = field(default_factory=dict)
    legacy_suffixes: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()
    constants: Callable[[ModelConfig], dict[str, np.ndarray]] = lambda model: {}
    head_needs: dict[str, dict[str, Any]] = field(default_factory=dict)
    pooling_key: tuple[str, tuple[str, ...]] = ("", ())

    @property
    def architecture(self) -> str:
        return self.fixed["architecture"]

    @property
    def base_class(self) -> str:
        """The class without a head."""
        return list(self.classes)[-1]

    def heads_of(self, name: str) -> tuple[list[str], list[str]]:
        """(heads, optional heads) of a class, as paths below heads/."""
        heads = self.classes[name].split()
        required = [head for head in heads if not head.endswith("?")]
        return required, [head[:-1] for head in heads if head.endswith("?")]

    # ---- config.json -----------------------------------------------------------------------------

    def model_config(self, config: dict) -> ModelConfig:
        """The ModelConfig of a config.json. Raises ConfigError naming every unsupported value."""
        found, problems = dict(self.fixed), []
        for key in self.config_keys:
            try:
                found |= key.read(config)
            except ValueError as error:
                problems.append(str(error))
            except (TypeError, ZeroDivisionError):  # a key that the default depends on is no number
                problems.append(f"{key.hf} depends on another key (expected numbers)")
        if problems:
            raise ConfigError(
                f"config.json of model_type={self.model_type!r} has unsupported values: "
                f"{'; '.join(problems)}; choose another model"
            )
        try:
            return ModelConfig(**{name: _checked(name, value) for name, value in found.items()})
        except ValueError as error:
            raise ConfigError(f"config.json of model_type={self.model_type!r}: {error}") from error

    def hf_config(self, model: ModelConfig) -> tuple[dict, list[str]]:
        """(config.json without its class, the fields that this family cannot express, each as
        'model.FIELD=value (expected value)')."""
        model, written, problems = resolve_defaults(model), {"model_type": self.model_type}, []
        for key in self.config_keys:
            try:
                for name, value in key.write(model).items():
                    set_key(written, name, value)
            except ValueError as error:
                problems.append(str(error))
        mapped = sorted({name for key in self.config_keys for name in key.fields})
        expected = self.fixed | {name: getattr(model, name) for name in mapped}
        try:
            problems += config_differences(model, resolve_defaults(ModelConfig(**expected)))
        except ValueError as error:
            problems.append(str(error))
        return written, problems

    # ---- task heads ------------------------------------------------------------------------------

    def head_needs_in(self, config: dict, head: str) -> dict[str, Any]:
        """{task config field: value} with which the task head of a directory computes the same here.

        Raises ConfigError for an unsupported pooling in its config.json."""
        needs, (key, poolings) = self.head_needs.get(head, {}), self.pooling_key
        if not needs or not poolings:
            return needs
        pooling = config.get(key, poolings[0])
        if pooling not in poolings:
            raise ConfigError(
                f"config.json of model_type={self.model_type!r} has {key}={pooling!r}; expected "
                f"{' or '.join(map(repr, poolings))}; choose another model"
            )
        return needs | {"pooling": pooling}

    def unmet_needs(self, head: str, task: dict[str, Any]) -> dict[str, Any]:
        """{task config field: value} that this family's head needs and a task config lacks."""
        needs, (_, poolings) = self.head_needs.get(head, {}), self.pooling_key
        task = task | {"pooling": self._pooling(task)}
        if needs and poolings and task["pooling"] not in poolings:
            needs = needs | {"pooling": poolings[0]}
        return {name: value for name, value in needs.items() if task[name] != value}

    def pooling_config(self, task: dict[str, Any]) -> dict[str, str]:
        """The pooling of a task config as config.json stores it; {} in a family without the choice."""
        key, poolings = self.pooling_key
        return {key: self._pooling(task)} if self._pooling(task) in poolings else {}

    def _pooling(self, task):
        pooling = task.get("pooling", "auto")
        return AUTO_POOLING[self.architecture] if pooling == "auto" else pooling

    # ---- tensors ---------------------------------------------------------------------------------

    def resolve(self, model: ModelConfig, tree: dict[str, tuple[int, ...]]) -> list[ResolvedParam]:
        """One entry per Hugging Face tensor, which together cover the parameters {path: shape}.

        Raises ConfigError naming parameters that the table lacks.
        """
        layers = (int(i) for path in tree for i in re.findall(r"layer_(\d+)/", path))
        num_layers = 1 + max(layers, default=0)
        resolved, covered = [], set()
        for each in self.params:
            if any(getattr(model, name) != value for name, value in each.where.items()):
                continue
            native = (each.native,) if isinstance(each.native, str) else each.native
            for i in range(num_layers if "{i}" in each.hf else 1):
                paths = tuple(path.replace("{i}", str(i)) for path in native)
                if all(path in tree for path in paths):
                    hf = each.hf.replace("{i}", str(i))
                    resolved.append(ResolvedParam(paths, hf, each.transform))
                    covered.update(paths)
        missing = sorted(tree.keys() - covered)
        if missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise ConfigError(
                f"model_type={self.model_type!r} has no tensor for {', '.join(missing[:3])}{more}; its "
                f"classes are {', '.join(self.classes)}"
            )
        return resolved

    def for_class(self, name: str) -> "Family":
        """The family with the tensor names of a directory of class `name`."""
        bare = self.bare_classes or (self.base_class,)
        return self.without_prefix() if name in bare else self

    def without_prefix(self) -> "Family":
        """The family with the tensor names of a directory that omits the prefix."""

        def cut(name):
            return name.removeprefix(self.prefix)

        return dataclasses.replace(
            self,
            params=[each._replace(hf=cut(each.hf)) for each in self.params],
            constants=lambda model: {
                cut(name): array for name, array in self.constants(model).items()
            },
            tied={cut(copy): cut(original) for copy, original in self.tied.items()},
        )

    def current_name(self, name: str) -> str:
        """A tensor's current name, given the name in an older file."""
        for old, new in self.legacy_suffixes:
            if name.endswith(old):
                return name.removesuffix(old) + new
        return name

    def is_ignored(self, name: str) -> bool:
        return any(re.fullmatch(pattern, name) for pattern in self.ignored)


_FIELDS = {field.name: field for field in dataclasses.fields(ModelConfig)}


def _checked(name, value):
    """`value` in the type of the field: JSON writes 0 for 0.0. Raises ValueError for another type."""
    kind, lowest = type(_FIELDS[name].default), _FIELDS[name].metadata.get("min")
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise ValueError(f"{value!r} for {name}; expected {kind.__name__}")
    if lowest is not None and value < lowest:
        raise ValueError(f"{value!r} for {name}; expected at least {lowest!r}")
    return value


def config_differences(model: ModelConfig, expected: ModelConfig) -> list[str]:
    """Fields in which two configs with resolved defaults describe different models, each as
    'model.FIELD=value (expected value)'."""
    ignored = set(NON_STRUCTURAL_FIELDS)
    if model.positions == expected.positions != "rope":
        ignored.add("rope_theta")
    if model.positions == expected.positions != "relative":
        ignored |= {"relative_buckets", "relative_max_distance"}
    return [
        f"model.{name}={getattr(model, name)!r} (expected {getattr(expected, name)!r})"
        for name in _FIELDS
        if name not in ignored and getattr(model, name) != getattr(expected, name)
    ]
