"""Tokenizer files without tokenizer.json: vocab.txt, vocab.json with merges.txt, SentencePiece models.

Below huggingface/tokenizers.py.
"""

import json

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from huggingface import tokenizer_classes
from huggingface.spm import read_spm
from huggingface.tokenizer_classes import CLASSES, GENERIC
from huggingface.weights import inside
from training.config import ConfigError

CONVERT = (
    'convert it with transformers: python -c "from transformers import AutoTokenizer; '
    "AutoTokenizer.from_pretrained('DIR').save_pretrained('DIR')\""
)


def read(files, reader, name, settings):
    """(the description as in a tokenizer.json, class, settings) of what `find` found.

    Raises ConfigError if the class cannot hold it."""
    description = json.loads(reader(files, name, settings).to_str())
    if reader not in (_sentencepiece, _fairseq):
        return description, name, settings
    kind = description["model"]["type"]
    if name != GENERIC and kind != CLASSES[name].model:
        raise ConfigError(
            f"{files[0]} is a SentencePiece model of type {kind}, but {name} of transformers makes a "
            f"{CLASSES[name].model} model of it, with other ids; to read it as SentencePiece does, name it "
            'tokenizer.model and set "tokenizer_class": "PreTrainedTokenizerFast" in tokenizer_config.json'
        )
    if name == GENERIC:
        known = {token["content"] for token in description["added_tokens"]}
        tags = tokenizer_classes.TAGS
        settings = {key: tags[key] for key in tags if tags[key] in known} | settings
    return description, name, settings


def find(directory, model, settings):
    """(files, reader, class) of a directory without tokenizer.json. Arguments as in
    `tokenizer_classes.class_name`.

    Raises ConfigError if there are none, or none that the class reads."""
    for names, default, reader in _READERS:
        files = [inside(directory, name) for name in names]
        if not all(files):
            continue
        model_type = model.get("model_type") or ""
        settings = settings if model_type else {"tokenizer_class": default} | settings
        name = tokenizer_classes.class_name(directory, model, settings, None)
        if name not in _SUPPORTED[reader] or not tokenizer_classes.is_known(model_type):
            raise ConfigError(
                f"{directory} has {' and '.join(names)} but no tokenizer.json, which model_type="
                f"{model_type!r} with tokenizer_class={name!r} requires; {CONVERT}"
            )
        return files, reader, name
    raise ConfigError(
        f"{directory} has no tokenizer: expected tokenizer.json, vocab.txt, vocab.json with merges.txt, "
        "spiece.model, tokenizer.model or sentencepiece.bpe.model; download it with the model"
    )


def _wordpiece(files, name, settings):
    """BERT's vocab.txt: one token per line, in the order of their ids."""
    lines = files[0].read_bytes().decode().removesuffix("\n").split("\n")
    vocabulary = {line.removesuffix("\r"): number for number, line in enumerate(lines)}
    return tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))


def _byte_level(files, name, settings):
    """GPT-2's vocab.json and merges.txt."""
    vocabulary, merges = models.BPE.read_file(*map(str, files))
    return tokenizers.Tokenizer(models.BPE(vocabulary, merges))


def _sentencepiece(files, name, settings):
    """A SentencePiece model. T5 adds its sentinels, the last one first."""
    count = settings.get("extra_ids", 100) if name == "T5Tokenizer" else 0
    sentinels = tuple(f"<extra_id_{number}>" for number in reversed(range(count)))
    inner = read_spm(files[0].read_bytes(), sentinels)
    if name == GENERIC and not settings.get("legacy", True) and inner.normalizer is not None:
        steps = list(inner.normalizer)
        if [type(step) for step in steps] == [normalizers.Prepend, normalizers.Replace]:
            # A text that starts with a blank gets no other one.
            inner.normalizer = steps[1]
            inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return inner


def _fairseq(files, name, settings):
    """XLM-RoBERTa's SentencePiece model, whose ids follow fairseq."""
    return read_spm(files[0].read_bytes(), fairseq=True)


# (files, class without a config.json, reader), and the classes that each reader supports.
_READERS = (
    (("vocab.txt",), "BertTokenizer", _wordpiece),
    (("vocab.json", "merges.txt"), "GPT2Tokenizer", _byte_level),
    (("spiece.model",), GENERIC, _sentencepiece),
    (("tokenizer.model",), GENERIC, _sentencepiece),
    (("sentencepiece.bpe.model",), "XLMRobertaTokenizer", _fairseq),
)
_SUPPORTED = {
    _wordpiece: ("BertTokenizer",),
    _byte_level: ("GPT2Tokenizer", "RobertaTokenizer", "Qwen2Tokenizer", "GPTNeoXTokenizer"),
    _sentencepiece: ("T5Tokenizer", "LlamaTokenizer", GENERIC),
    _fairseq: ("XLMRobertaTokenizer",),
}
