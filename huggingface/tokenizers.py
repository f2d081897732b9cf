"""Tokenizer files of a Hugging Face directory to a Tokenizer, and back.

Below huggingface/convert.py. Reads tokenizer.json if it exists, otherwise the older formats: vocab.txt,
vocab.json with merges.txt, or a SentencePiece model.
"""

import json
import pathlib
import re

import tokenizers
from tokenizers import (
    AddedToken,
    Regex,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from data import word_boundaries
from data.files import write_atomically
from data.pretrained_tokenizer import (
    SPECIAL_TOKEN_KEYS,
    SPECIAL_TOKENS_FILE,
    special_tokens_of,
    template_of,
    token_text,
)
from data.special_tokens import SpecialTokenTemplate, template_for
from data.tokenizer import Tokenizer
from huggingface.spm import read_spm
from huggingface.weights import inside, read_json
from training.config import ConfigError

# (template of a text, of a pair of texts) by model_type, for tokenizers whose files do not say.
_BERT = ("{cls} $A {sep}", "{cls} $A {sep} $B:1 {sep}:1")
_ROBERTA = ("{cls} $A {sep}", "{cls} $A {sep} {sep} $B {sep}")
_T5 = ("$A {eos}", "$A {eos} $B {eos}")
_LLAMA = ("{bos} $A", "{bos} $A {bos} $B")
TEMPLATES = {
    **dict.fromkeys(("bert", "electra", "distilbert", "mobilebert"), _BERT),
    **dict.fromkeys(("roberta", "bart", "longformer"), _ROBERTA),
    **dict.fromkeys(("t5", "mt5", "umt5"), _T5),
    **dict.fromkeys(("llama", "mistral"), _LLAMA),
    **dict.fromkeys(("gpt2", "gpt_neo"), ()),
}
# Special tokens by template, for tokenizers whose files do not name them.
_BRACKETS = {f"{key}_token": f"[{key.upper()}]" for key in ("pad", "unk", "cls", "sep", "mask")}
_GPT2 = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
_TAGS = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
_DEFAULTS = {
    _BERT: _BRACKETS,
    _ROBERTA: {**_TAGS, "cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"},
    _T5: _TAGS,
    _LLAMA: {key: token for key, token in _TAGS.items() if key != "pad_token"},
    (): _GPT2,
}
_CONVERT = (
    'convert it with transformers: python -c "from transformers import AutoTokenizer; '
    "AutoTokenizer.from_pretrained('DIR').save_pretrained('DIR')\""
)


def read_tokenizer(directory: str | pathlib.Path) -> Tokenizer:
    """The tokenizer of a model directory, with its special tokens and its own template.

    The special tokens come from tokenizer_config.json and special_tokens_map.json, the decoder's start
    token from config.json. Truncation and padding settings of a tokenizer.json are ignored: the data
    pipeline decides both.

    Raises ConfigError, in one line, if there is no tokenizer or if it cannot be read.
    """
    directory = pathlib.Path(directory)
    model, settings, named = (
        read_json(path) if (path := inside(directory, name)) else {}
        for name in ("config.json", "tokenizer_config.json", SPECIAL_TOKENS_FILE)
    )
    settings = settings | named
    model_type = model.get("model_type") or ""
    file = inside(directory, "tokenizer.json")
    try:
        if file:
            inner = tokenizers.Tokenizer.from_buffer(file.read_bytes())
            defaults = {}
        else:
            files, model_type, read = _find_older_format(directory, model_type)
            file = files[0]
            inner = read(files, model_type, settings)
            defaults = _DEFAULTS[TEMPLATES[model_type]]
            _add_tokens(inner, _added_tokens(directory, settings))
        named = defaults | {k: settings[k] for k in SPECIAL_TOKEN_KEYS.values() if settings.get(k)}
        texts = map(token_text, named.values())
        inner.add_special_tokens([text for text in texts if inner.token_to_id(text) is not None])
        template = TEMPLATES.get(model_type)
        if template and template_of(inner) is None and (defaults or template != _LLAMA):
            inner.post_processor = _fill(template, special_tokens_of(named, inner), inner)
        special_tokens = special_tokens_of(named, inner) | _from_config(model, inner, named)
        _split_control_tokens(inner)
        inferred = Tokenizer(inner).special_ids()
        ids = {name: inner.token_to_id(token) for name, token in special_tokens.items()}
        differs = any(inferred.get(name, number) != number for name, number in ids.items())
        return Tokenizer(inner, special_tokens if differs else {})
    except ConfigError:
        raise
    except Exception as error:  # tokenizers raises bare Exception
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(
            f"{file or directory} cannot be read as a tokenizer ({reason}); {_CONVERT}"
        ) from error


def _from_config(model, inner, named) -> dict[str, str]:
    """Special tokens that only config.json gives, as numbers. Marks them as special in `inner`."""
    found = {}
    for name in ("start", "pad", "eos", "bos"):
        key = "decoder_start_token_id" if name == "start" else f"{name}_token_id"
        number = model.get(key)
        if type(number) is int and 0 <= number < 2**31 and SPECIAL_TOKEN_KEYS[name] not in named:
            if token := inner.id_to_token(number):
                found[name] = token
    inner.add_special_tokens(list(found.values()))
    return found


def _find_older_format(directory, model_type):
    """(files, model_type, reader) of a directory without tokenizer.json."""
    for names, default_type, read in _READERS:
        files = [inside(directory, name) for name in names]
        if not all(files):
            continue
        model_type = model_type or default_type
        if TEMPLATES.get(model_type) not in _SUPPORTED[read]:
            raise ConfigError(
                f"{directory} has {' and '.join(names)} but no tokenizer.json, which model_type="
                f"{model_type!r} requires; {_CONVERT}"
            )
        return files, model_type, read
    raise ConfigError(
        f"{directory} has no tokenizer: expected tokenizer.json, vocab.txt, vocab.json with merges.txt, "
        "spiece.model or tokenizer.model; download it with the model"
    )


def _wordpiece(files, model_type, settings):
    """BERT's vocab.txt: one token per line, in the order of their ids."""
    lines = files[0].read_bytes().decode().removesuffix("\n").split("\n")
    vocabulary = {line.removesuffix("\r"): number for number, line in enumerate(lines)}
    unknown = token_text(settings.get("unk_token")) or "[UNK]"
    inner = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=unknown))
    inner.normalizer = normalizers.BertNormalizer(
        lowercase=settings.get("do_lower_case", True),
        strip_accents=settings.get("strip_accents"),
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
    )
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece(cleanup=False)
    return inner


def _byte_level(files, model_type, settings):
    """GPT-2's vocab.json and merges.txt."""
    vocabulary, merges = models.BPE.read_file(*map(str, files))
    inner = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    prefix = settings.get("add_prefix_space", False)
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    inner.decoder = decoders.ByteLevel()
    return inner


def _sentencepiece(files, model_type, settings):
    """A SentencePiece model. T5 adds its sentinels, the last one first."""
    count = settings.get("extra_ids", 100) if model_type == "t5" else 0
    sentinels = tuple(f"<extra_id_{number}>" for number in reversed(range(count)))
    return read_spm(files[0].read_bytes(), sentinels)


# (files, default model_type, reader), and the templates that each reader supports.
_READERS = (
    (("vocab.txt",), "bert", _wordpiece),
    (("vocab.json", "merges.txt"), "gpt2", _byte_level),
    (("spiece.model",), "t5", _sentencepiece),
    (("tokenizer.model",), "llama", _sentencepiece),
)
_SUPPORTED = {_wordpiece: (_BERT,), _byte_level: ((), _ROBERTA), _sentencepiece: (_T5, _LLAMA)}


def _added_tokens(directory, settings) -> dict[int, AddedToken]:
    """{id: token} of the tokens added to a vocabulary, in either of the formats for them."""
    found = {}
    older = inside(directory, "added_tokens.json")
    for text, number in (read_json(older) if older else {}).items():
        found[int(number)] = AddedToken(text, normalized=False, special=True)
    for number, token in (settings.get("added_tokens_decoder") or {}).items():
        flags = {
            key: bool(token.get(key, False))
            for key in ("single_word", "lstrip", "rstrip", "normalized", "special")
        }
        found[int(number)] = AddedToken(token_text(token), **flags)
    return found


def _add_tokens(inner, added):
    """Adds tokens. Raises ValueError if one does not get its id."""
    for number, token in sorted(added.items()):
        inner.add_tokens([token])
        actual = inner.token_to_id(token.content)
        if actual != number:
            raise ValueError(f"token {token.content!r} has id {actual}, expected {number}")


def _fill(template, special_tokens, inner):
    """The post-processor of a template that has names of special tokens in braces."""
    needed = set(re.findall(r"{(\w+)}", "".join(template)))
    missing = sorted(needed - special_tokens.keys())
    if missing:
        raise ValueError(f"it has no {' and no '.join(missing)} token")
    single, pair = (each.format(**special_tokens) for each in template)
    tokens = [
        (special_tokens[name], inner.token_to_id(special_tokens[name])) for name in sorted(needed)
    ]
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=tokens)


def _split_control_tokens(inner):
    """Splits the text of control tokens, which a Unigram model would otherwise produce from plain text."""
    if not isinstance(inner.model, models.Unigram) or inner.pre_tokenizer is None:
        return
    inner.encode_special_tokens = True
    special = {i: t.content for i, t in inner.get_added_tokens_decoder().items() if t.special}
    produced = [
        text
        for number, text in special.items()
        if number in inner.encode(text, add_special_tokens=False).ids
    ]
    inner.encode_special_tokens = False
    if produced:
        pattern = "|".join(f"{re.escape(t[0])}(?={re.escape(t[1:])})" for t in produced)
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        inner.pre_tokenizer = pre_tokenizers.Sequence([inner.pre_tokenizer, split])


def write_tokenizer(
    tokenizer: Tokenizer,
    directory: str | pathlib.Path,
    *,
    architecture: str,
    head: str,
    max_length: int,
    token_types: bool,
) -> None:
    """Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json for AutoTokenizer.

    The tokenizer adds the special tokens that the model was trained with: its own template, or the
    default of the architecture, but none for a decoder that generates. Its prompts are padded on the left.

    Args:
      architecture: encoder, decoder or encoder_decoder.
      head: name of the model's task head, '' if it has none; a decoder with one does not generate.
      max_length: maximum number of tokens of the model.
      token_types: whether the model has token type embeddings.
    """
    directory = pathlib.Path(directory)
    ids, inner = tokenizer.special_ids(), tokenizer.to_library()
    generates = architecture == "decoder" and not head
    template = template_for(architecture, ids, tokenizer.template)
    if template_of(inner) is None and not generates:
        inner.post_processor = _post_processor(inner, template)
    if ids["mask"] >= 0 and word_boundaries.kind(inner) in ("ByteLevel", "Metaspace"):
        # Tokens include the space before them, so the mask token must include it too.
        mask = AddedToken(inner.id_to_token(ids["mask"]), lstrip=True, special=True)
        inner.add_special_tokens([mask])
    tokens = {
        SPECIAL_TOKEN_KEYS[name]: inner.id_to_token(ids[name])
        for name in ("pad", "unk", "cls", "sep", "eos", "mask")
        if ids[name] >= 0
    }
    tokens |= {
        SPECIAL_TOKEN_KEYS[name]: token
        for name, token in tokenizer.special_tokens.items()
        if name != "start"
    }
    pad = padding(tokenizer, architecture)
    if pad >= 0:
        tokens["pad_token"] = inner.id_to_token(pad)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "padding_side": "left" if generates else "right",
        "truncation_side": "right",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", *(["token_type_ids"] if token_types else []), "attention_mask"],
        **tokens,
    }  # fmt: skip
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / "tokenizer.json", inner.to_str(pretty=True).encode())
    for name, content in (("tokenizer_config.json", settings), (SPECIAL_TOKENS_FILE, tokens)):
        write_atomically(directory / name, (json.dumps(content, indent=2) + "\n").encode())


def padding(tokenizer: Tokenizer, architecture: str) -> int:
    """The id of the token that pads a batch, -1 if there is none.

    A tokenizer without a padding token (GPT-2) pads with eos, because padding is masked. But a decoder's
    classification head reads the last token that is not padding. If texts end with eos, the first regular
    token pads instead.
    """
    ids = tokenizer.special_ids()
    if ids["pad"] >= 0:
        return ids["pad"]
    suffix = template_for(architecture, ids, tokenizer.template).suffix
    return ids["regular_token_ranges"][0][0] if ids["eos"] in suffix else ids["eos"]


def _post_processor(inner, template: SpecialTokenTemplate):
    """The post-processor of a template; the second text and its suffix have token type 1."""

    def with_type(ids, token_type):
        return [f"{inner.id_to_token(i)}:{token_type}" for i in ids]

    prefix, suffix = with_type(template.prefix, 0), with_type(template.suffix, 0)
    second = ["$B:1", *with_type(template.suffix, 1)]
    tokens = {*template.prefix, *template.suffix, *template.separator}
    return processors.TemplateProcessing(
        single=[*prefix, "$A:0", *suffix],
        pair=[*prefix, "$A:0", *with_type(template.separator, 0), *second],
        special_tokens=[(inner.id_to_token(i), i) for i in sorted(tokens)],
    )
