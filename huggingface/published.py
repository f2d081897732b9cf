"""The settings of a Hugging Face directory beside its model, which an export writes again.

The meaning of a head (labels, problem_type), the options of generation, and the keys of config.json that
no field of ours holds. They are in `origin`, which a run that starts from the directory keeps.
"""

from typing import Any

from huggingface.family import CLASSIFIER, CLASSIFIER_HEADS, Family
from tasks import TASKS
from training.config import ConfigError

PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")
_HEAD_KEYS = ("id2label", "label2id", "num_labels", "problem_type")
_WRITTEN = ("model_type", "architectures", "dtype", "torch_dtype", "transformers_version",
            "_name_or_path", "name_or_path", *_HEAD_KEYS)  # fmt: skip


def labels_of(config: dict, family: Family, head: str = "") -> list[str]:
    """Label names in the order of their ids; LABEL_0, ... if config.json has none; the outputs of a head
    without classes.

    Raises ConfigError, naming the key, for names that are no list of labels, and for a problem_type that
    does not fit them."""
    if head and TASKS[head].output_names:
        return list(TASKS[head].output_names)
    names, count = config.get("id2label"), config.get("num_labels")
    if names is None:
        count = family.num_labels if count is None else count
        if type(count) is not int or not 0 < count < 2**20:
            raise ConfigError(f"config.json has num_labels={count!r}; expected a number above 0")
        names = {str(i): f"LABEL_{i}" for i in range(count)}
    if not isinstance(names, dict) or not names or {str(i) for i in range(len(names))} != {*names}:
        raise ConfigError(
            f"config.json has id2label={str(names)[:80]}; expected names for '0', '1', ..."
        )
    if count not in (None, len(names)):
        raise ConfigError(
            f"config.json has num_labels={count!r} and {len(names)} names in id2label; delete num_labels"
        )
    problem = config.get("problem_type")
    if problem is not None and problem not in PROBLEM_TYPES:
        raise ConfigError(
            f"config.json has problem_type={problem!r}; expected one of {', '.join(PROBLEM_TYPES)}"
        )
    if problem == PROBLEM_TYPES[0] and len(names) == 1:
        raise ConfigError(
            f"config.json has problem_type={problem!r} with one label; set it to 'regression', as "
            "transformers reads one label without problem_type"
        )
    return [str(names[str(i)]) for i in range(len(names))]


def has_labels(head: str) -> bool:
    """Whether the outputs of a task's head have names."""
    task = TASKS[head]
    return bool(task.hf_problem_type or task.has_label_names or task.output_names)


def head_of(config: dict, head: str, num_labels: int) -> str:
    """The task head of a class with `head`: what a sequence classifier means, its problem_type says."""
    if head != CLASSIFIER:
        return head
    one = PROBLEM_TYPES[2] if num_labels == 1 else PROBLEM_TYPES[0]
    problem = config.get("problem_type") or one
    return next(each for each in CLASSIFIER_HEADS if TASKS[each].hf_problem_type == problem)


def head_origin(config: dict, head: str) -> dict[str, Any]:
    """Entries of `origin` for a head: what it means, and its keys of config.json as they are."""
    keys = {key: config[key] for key in _HEAD_KEYS if key in config}
    if not head:
        return {"head_keys": keys} if keys else {}
    problem = TASKS[head].hf_problem_type
    return {**({"problem_type": problem} if problem else {}), "head_keys": keys}


def other_keys(config: dict, family: Family, written: dict) -> dict[str, Any]:
    """The keys of config.json that an export would not write from the model."""
    names = {*written, *family.aliases, *_WRITTEN}
    return {key: value for key, value in config.items() if key not in names}


def head_keys(contents, family: Family, head: str, task: dict) -> dict[str, Any]:
    """The keys of config.json for a head; `task` is the config of the task that trained it, {} if it
    was imported and not trained."""
    origin = contents.origin
    pooling = family.pooling_config(task or origin.get("head_needs", {}))
    if not task and "head_keys" in origin:
        return origin["head_keys"] | pooling
    found, problem = {}, TASKS[head].hf_problem_type
    if problem or TASKS[head].has_label_names:
        labels = dict(enumerate(contents.labels or ["LABEL_0"]))  # as transformers names one output
        found = {
            "id2label": {str(i): label for i, label in labels.items()},
            "label2id": {label: i for i, label in labels.items()},
            **({"problem_type": problem} if problem else {}),
        }
    if task and family.head_dropout_key:
        found[family.head_dropout_key] = task["head_dropout_rate"]
    return found | pooling


def config_of(contents, family: Family, written: dict, ids: dict, trained: bool) -> dict[str, Any]:
    """config.json without its head: the keys of the model, those of the directory that the run comes
    from, and the ids of special tokens, of which the directory's go first."""
    origin = contents.origin
    kept = origin.get("config", {}) if origin.get("model_type") == family.model_type else {}
    own = {
        key: value
        for key, value in ids.items()
        if key not in kept or (trained and kept[key] is None)
    }
    return kept | written | own


def generation_of(contents, ids: dict) -> dict[str, Any] | None:
    """generation_config.json, None if there is none to write.

    That of the directory that the run comes from is written whole; a directory without one has its
    options in config.json, where transformers reads them."""
    if "generation" in contents.origin:
        return contents.origin["generation"]
    return {key: number for key, number in ids.items() if number is not None}


def mixture_key(config: dict) -> str:
    """The key of config.json that makes a model a mixture of experts; '' without one."""
    keys = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", "num_experts_per_tok",
            "ffn_config", "expert_capacity")  # fmt: skip
    name = str(config.get("model_type"))
    found = next((key for key in keys if key in config), "")
    is_mixture = any(
        part in name for part in ("moe", "mixtral", "switch", "dbrx", "gpt_oss", "jamba")
    )
    return found or ("model_type" if is_mixture else "")


def check_start(config: dict, family: Family, tokenizer, source) -> None:
    """Raises ConfigError if the decoder's first token would be another one than in transformers."""
    key = "decoder_start_token_id"
    if family.architecture != "encoder_decoder":
        return
    start = config.get(key, family.start)
    found = tokenizer.special_ids()["start"]
    if type(start) is int and start >= 0 and start != found:
        raise ConfigError(
            f"{source}/config.json has {key}={start}, but the decoder's first token would be {found} with "
            f"the directory's tokenizer of {tokenizer.size} tokens; correct {key}, or add the token"
        )


def ignored_line(keys: list[str], tensors: list[str]) -> str:
    """The unused tensors and keys of a directory, for the line that describes an import; '' if none."""
    parts = []
    if tensors:
        more = f" and {len(tensors) - 3} more" if len(tensors) > 3 else ""
        parts.append(f"tensors of other heads: {', '.join(tensors[:3])}{more}")
    if keys:
        more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
        parts.append(
            f"keys of config.json that transformers does not read: {', '.join(keys[:5])}{more}"
        )
    return f"; not used: {'; '.join(parts)}" if parts else ""
