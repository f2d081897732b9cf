"""The tokenizer classes of transformers: which one reads a directory, and what it makes of the files.

Below huggingface/tokenizers.py. Most classes build the tokenizer anew from the vocabulary of tokenizer.json,
with the settings of tokenizer_config.json; the generic class reads tokenizer.json as it is (transformers
5.24, models/*/tokenization_*.py and models/auto/tokenization_auto.py).
"""

import base64
import json
from collections.abc import Callable
from typing import NamedTuple

import tokenizers
from tokenizers import Regex, decoders, normalizers, pre_tokenizers

from training.config import ConfigError

GENERIC = "TokenizersBackend"
# The classes that AutoTokenizer takes for a model_type, unless tokenizer_config.json names another.
_REGISTERED = {
    **dict.fromkeys(("bert", "distilbert", "electra"), "BertTokenizer"),
    "mobilebert": "MobileBertTokenizer",
    **dict.fromkeys(("roberta", "bart", "longformer"), "RobertaTokenizer"),
    **dict.fromkeys(("gpt2", "gpt_neo", "starcoder2"), "GPT2Tokenizer"),
    "gpt_neox": "GPTNeoXTokenizer",
    **dict.fromkeys(("t5", "mt5"), "T5Tokenizer"),
    "xlm-roberta": "XLMRobertaTokenizer",
    **dict.fromkeys(("qwen2", "qwen3"), "Qwen2Tokenizer"),
    **dict.fromkeys(("gemma", "gemma2", "gemma3", "gemma3_text"), "GemmaTokenizer"),
    **dict.fromkeys(("mistral", "modernbert", "phi3", "olmo2", "umt5"), GENERIC),
}
# Published directories of these model types name a wrong class, which AutoTokenizer ignores.
_WRONGLY_DECLARED = ("modernbert", "phi3", "qwen2")
# Other names of the classes below.
_SAME = {
    **dict.fromkeys(("ElectraTokenizer", "MobileBertTokenizer", "DistilBertTokenizer"), "BertTokenizer"),
    **dict.fromkeys(("BartTokenizer", "LongformerTokenizer"), "RobertaTokenizer"),
    **dict.fromkeys(("PreTrainedTokenizer", "TokenizersBackend"), GENERIC),
}  # fmt: skip
_QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")  # fmt: skip
_BRACKETS = {f"{key}_token": f"[{key.upper()}]" for key in ("unk", "sep", "pad", "cls", "mask")}
TAGS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
_ROBERTA = {**TAGS, "sep_token": "</s>", "pad_token": "<pad>", "cls_token": "<s>",
            "mask_token": "<mask>"}  # fmt: skip
_END = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")


class TokenizerClass(NamedTuple):
    """A class of transformers.

    Attributes:
      model: type of its model in the tokenizers library.
      options: of that model; the names of special tokens are in braces.
      parts: settings, normalizer of SentencePiece (or None) -> (normalizer, pre-tokenizer, decoder).
      special_tokens: the defaults, by key of tokenizer_config.json.
      template: what it puts around (a text, a pair); (): what tokenizer.json or add_bos_token says.
    """

    model: str
    options: dict
    parts: Callable
    special_tokens: dict
    template: tuple = ()


def _bert(settings, charsmap):
    normalizer = normalizers.BertNormalizer(
        lowercase=settings.get("do_lower_case", True),
        strip_accents=settings.get("strip_accents"),
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
    )
    return normalizer, pre_tokenizers.BertPreTokenizer(), decoders.WordPiece(cleanup=False)


def _byte_level(settings, charsmap, normalizer=None):
    prefix = bool(settings.get("add_prefix_space", False))
    return normalizer, pre_tokenizers.ByteLevel(add_prefix_space=prefix), decoders.ByteLevel()


def _gpt_neox(settings, charsmap):
    return _byte_level(settings, charsmap, normalizers.NFC())


def _qwen2(settings, charsmap):
    prefix = bool(settings.get("add_prefix_space", False))
    level = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=False)
    split = pre_tokenizers.Split(Regex(_QWEN2), "isolated")
    return normalizers.NFC(), pre_tokenizers.Sequence([split, level]), decoders.ByteLevel()


def _words_of_spm(settings, charsmap):
    scheme = "always" if settings.get("add_prefix_space", True) else "never"
    space = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    words = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), space])
    return charsmap, words, decoders.Metaspace(prepend_scheme=scheme)


def _t5(settings, charsmap):
    return _words_of_spm({}, charsmap)


def _llama(settings, charsmap):
    prefix = settings.get("add_prefix_space") is not False
    scheme = ("always" if settings.get("legacy") else "first") if prefix else "never"
    space = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    return None, space, decoders.Sequence(steps + [decoders.Strip(" ", 1, 0)] * prefix)


def _gemma(settings, charsmap):
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    split = pre_tokenizers.Split(" ", "merged_with_previous")
    return normalizers.Replace(" ", "▁"), split, decoders.Sequence(steps)


_BYTES = {"continuing_subword_prefix": "", "end_of_word_suffix": ""}
_FALLBACK = {"fuse_unk": True, "byte_fallback": True}
_WORDPIECE = {"unk_token": "{unk_token}", "continuing_subword_prefix": "##",
              "max_input_chars_per_word": 100}  # fmt: skip
BERT_TEMPLATE = ("{cls} $A {sep}", "{cls} $A {sep} $B:1 {sep}:1")
ROBERTA_TEMPLATE = ("{cls} $A {sep}", "{cls} $A {sep} {sep} $B {sep}")
T5_TEMPLATE = ("$A {eos}", "$A {eos} $B {eos}")
CLASSES = {
    "BertTokenizer": TokenizerClass("WordPiece", _WORDPIECE, _bert, _BRACKETS, BERT_TEMPLATE),
    "RobertaTokenizer": TokenizerClass("BPE", _BYTES, _byte_level, _ROBERTA, ROBERTA_TEMPLATE),
    "GPT2Tokenizer": TokenizerClass("BPE", _BYTES, _byte_level, _END),
    "GPTNeoXTokenizer": TokenizerClass("BPE", _BYTES, _gpt_neox, {**_END, "pad_token": "<|padding|>"}),
    "Qwen2Tokenizer": TokenizerClass("BPE", _BYTES, _qwen2, dict.fromkeys(
        ("eos_token", "unk_token", "pad_token"), "<|endoftext|>")),
    "T5Tokenizer": TokenizerClass("Unigram", {"unk_id": 2, "byte_fallback": False}, _t5, {
        "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}, T5_TEMPLATE),
    "XLMRobertaTokenizer": TokenizerClass("Unigram", {"unk_id": 3, "byte_fallback": False},
                                          _words_of_spm, _ROBERTA, ROBERTA_TEMPLATE),
    "LlamaTokenizer": TokenizerClass("BPE", _FALLBACK, _llama, TAGS),
    "GemmaTokenizer": TokenizerClass("BPE", {**_FALLBACK, "unk_token": "{unk_token}"}, _gemma, {
        "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>",
        "mask_token": "<mask>"}),
}  # fmt: skip


def is_known(model_type: str) -> bool:
    """Whether `class_name` knows the class of a model type that tokenizer_config.json does not name."""
    return model_type in ("", "llama", *_REGISTERED)


def class_name(directory, model: dict, settings: dict, description: dict | None) -> str:
    """The class that AutoTokenizer reads a directory with: a key of `CLASSES`, or GENERIC.

    Args:
      model, settings: config.json and tokenizer_config.json.
      description: tokenizer.json, None if there is none.

    Raises ConfigError for a class that is not read here.
    """
    file = f"{directory}/tokenizer_config.json"
    model_type, code = model.get("model_type") or "", settings.get("auto_map")
    if isinstance(code, list) or (isinstance(code, dict) and "AutoTokenizer" in code):
        raise ConfigError(
            f"{file} has auto_map={code!r}, a tokenizer of its own code, which is not run here; use a "
            "model with a tokenizer of transformers"
        )
    key = "tokenizer_class"
    declared = str(settings.get(key) or model.get(key) or "").removesuffix("Fast")
    registered, name = _REGISTERED.get(model_type, ""), declared
    parts = [(description or {}).get(part) for part in ("pre_tokenizer", "decoder")]
    is_byte_level = '"ByteLevel"' in json.dumps(parts)
    if declared == "LlamaTokenizer" and is_byte_level and model_type not in _WRONGLY_DECLARED:
        name = GENERIC  # Llama 3
    elif declared and registered and declared != registered:
        wrong = registered == GENERIC or model_type in _WRONGLY_DECLARED
        name = registered if wrong else declared
    name = name or registered or GENERIC
    name = _SAME.get(name, name)
    own_type = (description or {}).get("model", {}).get("type")
    if not declared and name in CLASSES and own_type not in (None, CLASSES[name].model):
        return GENERIC  # a tokenizer of its own kind, which the class of the model could not hold
    if name not in CLASSES and name != GENERIC:
        raise ConfigError(
            f"{file} has tokenizer_class={declared!r}, which is not read here; expected one of "
            f"{', '.join(CLASSES)}, or PreTrainedTokenizerFast if tokenizer.json is complete"
        )
    return name


def rebuild(description: dict, name: str, settings: dict) -> tokenizers.Tokenizer:
    """The tokenizer that a class makes of a vocabulary and the settings.

    Args:
      description: content of a tokenizer.json, of which the model's vocabulary, the added tokens and the
        table of characters of SentencePiece are used.
      settings: tokenizer_config.json, with the defaults of the class.

    Raises ValueError for a model of another type.
    """
    made, model = CLASSES[name], description["model"]
    if model["type"] != made.model:
        raise ValueError(f"it has a {model['type']} model, but a {name} has a {made.model} model")
    options = {
        key: value.format(**settings) if isinstance(value, str) else value
        for key, value in made.options.items()
    }
    kept = {key: model[key] for key in ("vocab", "merges") if key in model}
    parts = made.parts(settings, _charsmap(description["normalizer"]))
    normalizer, pre_tokenizer, decoder = (
        part and json.loads(part.__getstate__().decode()) for part in parts
    )
    return tokenizers.Tokenizer.from_str(
        json.dumps({
            **description, "model": {"type": made.model, **options, **kept}, "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer, "decoder": decoder, "truncation": None, "padding": None,
        })
    )  # fmt: skip


def _charsmap(normalizer):
    """The SentencePiece normalizer among the steps of a normalizer's description, None if it has none."""
    steps = (normalizer or {}).get("normalizers", [normalizer or {}])
    tables = [each["precompiled_charsmap"] for each in steps if each.get("type") == "Precompiled"]
    return normalizers.Precompiled(base64.b64decode(tables[0])) if tables and tables[0] else None
