"""Family: how Hugging Face stores one model_type, as two tables that are read in both directions.
param_map.py: a tensor and the parameters it is made of; config_mapping.py: a config key and its field.
Instances are in huggingface/families/; huggingface/convert.py applies them.
"""

import dataclasses
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from huggingface.config_mapping import (
    GENERAL_KEYS,
    REFUSED_KEYS,
    ConfigKey,
    CustomKey,
    FixedKey,
    TrackedConfig,
    disagreement,
    set_key,
)
from huggingface.param_map import (  # noqa: F401  for the families, beside Family
    IDENTITY,
    TRANSPOSE,
    VOCAB,
    VOCAB_TRANSPOSE,
    ArrayTransform,
    ParamMap,
    ResolvedParam,
    attention,
    dense,
    norm,
)
from models.config import NON_STRUCTURAL_FIELDS, ModelConfig, resolve_defaults
from tasks import FINETUNE_TASKS, TASKS
from tasks.base import AUTO_POOLING
from tasks.classification import Classification
from training.config import ConfigError

# Task heads that a directory stores as a sequence classifier; which one, its problem_type says. {head: the
# task config's fields that it needs beside those of a classifier}.
CLASSIFIER = Classification.name
CLASSIFIER_HEADS = {
    name: task.hf_head_needs for name, task in FINETUNE_TASKS.items() if task.hf_problem_type
}
# The heads of most families: a dense layer over each token, and over the last token of a decoder.
TOKEN_HEAD = {"pooler": False, "head_bias": True}
LAST_TOKEN_HEAD = {"pooler": False, "head_bias": False, "pooling": "last"}


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
      aliases: {other name of a key: its name}, the attribute_map of the config class.
      unused: {key: why its value does not change the model}; GENERAL_KEYS are those of every family.
      num_labels: of a head whose config.json does not say.
      start: the default of decoder_start_token_id, in a family with a decoder of its own.
      head_dropout_key: the key of the dropout before the classifier; '': none.
      ties_by_tensors: whether the output is tied is seen from the tensors alone, whatever the config
        has (T5).
      optional: tensors that may be missing, and are then zeros.
      class_prefixes: {class: the prefix of its tensors}, where it is another one.
      bare_classes: classes whose directories omit the prefix; empty: the base model alone.
      tied: {tensor that a directory may store as a copy: its original}.
      legacy_suffixes: (old, new) suffixes of tensor names.
      ignored: regexes of tensors that are not parameters.
      constants: ModelConfig -> {tensor: array} of what a directory has and is no parameter here.
      head_needs: {task head: {task config field: value}}, required for the head to compute the same.
      head_keys: {task head: {key of config.json: the one value that is supported}}.
      pooling_key: (key of config.json, its values), in a family with a choice of pooling.
    """

    model_type: str
    prefix: str
    classes: dict[str, str]
    params: list[ParamMap]
    config_keys: list[ConfigKey | CustomKey | FixedKey]
    fixed: dict[str, Any]
    aliases: dict[str, str] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)
    num_labels: int = 2
    start: int | None = None
    head_dropout_key: str = ""
    ties_by_tensors: bool = False
    optional: tuple[str, ...] = ()
    class_prefixes: dict[str, str] = field(default_factory=dict)
    bare_classes: tuple[str, ...] = ()
    tied: dict[str, str] = field(default_factory=dict)
    legacy_suffixes: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()
    constants: Callable[[ModelConfig], dict[str, np.ndarray]] = lambda model: {}
    head_needs: dict[str, dict[str, Any]] = field(default_factory=dict)
    head_keys: dict[str, dict[str, Any]] = field(default_factory=dict)
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

    def model_config(self, config: dict, tied: bool | None = None) -> ModelConfig:
        """The ModelConfig of a config.json. `tied` overrides whether the output embedding is tied.

        Raises ConfigError naming every unsupported value, every two keys that disagree, and every key
        inside an object that is not read."""
        return self.read_config(config, tied)[0]

    def read_config(self, config: dict, tied: bool | None = None) -> tuple[ModelConfig, list[str]]:
        """(ModelConfig, the keys that neither this family's config class nor its tables have)."""
        renamed = "".join(f"; {a} is {b}" for a, b in self.aliases.items() if a in config)[:60]
        given = config
        config, problems = self._with_own_names(config)
        tracked, found = TrackedConfig(config), dict(self.fixed)
        for key in self.config_keys:
            try:
                found |= key.read(tracked)
            except ValueError as error:
                problems.append(str(error))
            except (TypeError, ZeroDivisionError):  # a key that the default depends on is no number
                names = [n for n, value in config.items() if value is None]
                problems.append(f"null for one of {', '.join(names)} (expected a value or no key)")
        for name, expected in {**REFUSED_KEYS, **self._stacks}.items():
            if tracked.get(name) not in (None, expected):
                problems.append(f"{name}={str(config[name])[:60]} (expected {expected!r})")
        problems += [f"{name} (expected no such key)" for name in tracked.unread_inside()]
        if problems:
            more = f" and {len(problems) - 2} more" if len(problems) > 2 else ""
            limit = 260 if len(problems) == 1 else 130
            raise ConfigError(
                f"config.json of model_type={self.model_type!r} has unsupported values: "
                f"{'; '.join(each[:limit] for each in problems[:2])}{more}{renamed}; choose another model"
            )
        if tied is not None and "tie_word_embeddings" in found:
            found["tie_word_embeddings"] = tied
        try:
            model = ModelConfig(**{name: _checked(name, value) for name, value in found.items()})
        except ValueError as error:
            raise ConfigError(
                f"config.json of model_type={self.model_type!r}: {str(error)[:170]} "
                f"({self.sizes(given, str(error))[:150]})"
            ) from error
        known = {*GENERAL_KEYS, *self.unused, self.head_dropout_key, self.pooling_key[0]}
        return model, [name for name in tracked.unread() if name not in known]

    def sizes(self, config: dict, message: str = "") -> str:
        """'hidden_size=32, vocab_size=90, ...': the keys of config.json that decide shapes, those of
        fields in `message` first."""
        found = []

        message = message.replace("resolved_head_dim", "num_heads, emb_dim")

        def is_behind(key):
            return not any(re.search(rf"\b{name}\b", message) for name in key.fields)

        for key in sorted(self.config_keys, key=is_behind):
            names = key.hf if isinstance(key.hf, tuple) else (key.hf,)
            if len(names) > 3:  # of RoPE: those that are there
                names = [name for name in names if name in config]
            if any(name in _SIZES for name in key.fields) or not is_behind(key):
                found += [f"{name}={str(config.get(name, 'absent'))[:12]}" for name in names]
        for alias in self.aliases:
            if alias in config:
                found.insert(0, f"{alias}={str(config[alias])[:12]}")
        return ", ".join(found)[:260]

    @property
    def _stacks(self):
        return {"is_encoder_decoder": self.architecture == "encoder_decoder"}

    def _with_own_names(self, config):
        """(config.json with each alias under its own name, problems)."""
        config, problems = dict(config), []
        for alias, name in self.aliases.items():
            if alias not in config:
                continue
            value = config.pop(alias)
            if config.setdefault(name, value) != value:
                problems.append(disagreement({alias: value, name: config[name]}))
        return config, problems

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

        Raises ConfigError for an unsupported pooling or another value of `head_keys` in its config.json."""
        needs, (key, poolings) = self.head_needs.get(head, {}), self.pooling_key
        for name, expected in self.head_keys.get(head, {}).items():
            if config.get(name, expected) != expected:
                raise ConfigError(
                    f"config.json of model_type={self.model_type!r} has {name}={config[name]!r}; expected "
                    f"{expected!r}; choose another model"
                )
        if not needs or not poolings or not _is_pooled(head):
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
        if task.get("attention") == "bidirectional":  # published decoders with a head are causal
            return {"attention": "causal"}
        needs, (_, poolings) = self.head_needs.get(head, {}), self.pooling_key
        poolings = poolings if _is_pooled(head) else ()
        task = task | {"pooling": self._pooling(task)}
        if needs and poolings and task["pooling"] not in poolings:
            needs = needs | {"pooling": poolings[0]}
        return {name: value for name, value in needs.items() if task[name] != value}

    def pooling_config(self, task: dict[str, Any]) -> dict[str, str]:
        """The pooling of a task config as config.json stores it; {} in a family without the choice."""
        key, poolings = self.pooling_key
        if "pooling" not in task or self._pooling(task) not in poolings:
            return {}
        return {key: self._pooling(task)}

    def _pooling(self, task):
        pooling = task.get("pooling", "auto")
        return AUTO_POOLING[self.architecture] if pooling == "auto" else pooling

    def for_head(self, head: str) -> "Family":
        """The family whose sequence classifier is the head of another task, one of CLASSIFIER_HEADS."""
        if head not in CLASSIFIER_HEADS or CLASSIFIER not in self.head_needs:
            return self
        old, new = f"heads/{CLASSIFIER}/", f"heads/{head}/"

        def renamed(native):
            if isinstance(native, tuple):
                return tuple(map(renamed, native))
            return native.replace(old, new)

        needs = dict(self.head_needs)
        needs = {head: needs.pop(CLASSIFIER) | CLASSIFIER_HEADS[head]} | needs
        return dataclasses.replace(
            self,
            classes={
                name: " ".join(head if each == CLASSIFIER else each for each in heads.split())
                for name, heads in self.classes.items()
            },
            params=[each._replace(native=renamed(each.native)) for each in self.params],
            head_needs=needs,
        )

    # ---- tensors ---------------------------------------------------------------------------------

    def resolve(
        self, model: ModelConfig, tree: dict[str, tuple[int, ...]], strict: bool = True
    ) -> list[ResolvedParam]:
        """One entry per Hugging Face tensor, which together cover the parameters {path: shape}.

        Raises ConfigError naming parameters that the table lacks, if `strict`.
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
                    transform = each.transform
                    if transform.by_head:
                        transform = transform._replace(heads=model.num_heads)
                    resolved.append(ResolvedParam(paths, hf, transform))
                    covered.update(paths)
        missing = sorted(tree.keys() - covered)
        if missing and strict:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise ConfigError(
                f"model_type={self.model_type!r} has no tensor for {', '.join(missing[:3])}{more}; its "
                f"classes are {', '.join(self.classes)}"
            )
        return resolved

    def for_class(self, name: str) -> "Family":
        """The family with the tensor names of a directory of class `name`."""
        bare = self.bare_classes or (self.base_class,)
        return self.with_prefix("" if name in bare else self.class_prefixes.get(name, self.prefix))

    def with_prefix(self, prefix: str) -> "Family":
        """The family with the tensor names of a directory with another prefix, '' for none."""

        def renamed(name):
            own = name.removeprefix(self.prefix)
            return name if own == name else prefix + own

        return dataclasses.replace(
            self,
            prefix=prefix,
            params=[each._replace(hf=renamed(each.hf)) for each in self.params],
            constants=lambda model: {
                renamed(name): array for name, array in self.constants(model).items()
            },
            tied={renamed(copy): renamed(original) for copy, original in self.tied.items()},
        )

    def current_name(self, name: str) -> str:
        """A tensor's current name, given the name in an older file."""
        for old, new in self.legacy_suffixes:
            if name.endswith(old):
                return name.removesuffix(old) + new
        return name

    def is_ignored(self, name: str) -> bool:
        return any(re.fullmatch(pattern, name) for pattern in self.ignored)


def _is_pooled(head):
    """Whether a task head reads a pooled state; '' is the LM head."""
    task = TASKS.get(head)
    return bool(task) and any(field.name == "pooling" for field in dataclasses.fields(task))


_SIZES = ("vocab_size", "max_length", "position_offset", "num_token_types", "num_layers", "emb_dim",
          "num_decoder_layers", "embedding_size", "num_heads", "num_kv_heads", "head_dim", "mlp_dim",
          "gated_mlp", "relative_num_buckets", "use_bias",
          "tie_word_embeddings", "embedding_norm")  # fmt: skip
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
        ignored |= {"relative_num_buckets", "relative_max_distance"}
    return [
        f"model.{name}={getattr(model, name)!r} (expected {getattr(expected, name)!r})"
        for name in _FIELDS
        if name not in ignored and getattr(model, name) != getattr(expected, name)
    ]
