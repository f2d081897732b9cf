"""Tokenizer files of a Hugging Face directory to a Tokenizer, and back.

Below huggingface/convert.py. Reads what AutoTokenizer reads: tokenizer.json if it exists, otherwise the older
formats (vocab.txt, vocab.json with merges.txt, or a SentencePiece model), with tokenizer_config.json.
"""

import json
import pathlib
import re

import tokenizers
from tokenizers import AddedToken, processors

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
from huggingface import older_tokenizers, tokenizer_classes
from huggingface.older_tokenizers import CONVERT
from huggingface.tokenizer_classes import CLASSES, GENERIC
from huggingface.weights import inside, read_json
from training.config import ConfigError

# The special tokens that transformers knows, in its order.
_KEYS = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
CONFIG_FILE = "tokenizer_config.json"
# The files of a tokenizer that a run keeps as they are.
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model",
                 "sentencepiece.bpe.model")  # fmt: skip
KEPT_FILES = (*_VOCABULARIES, CONFIG_FILE, SPECIAL_TOKENS_FILE, "added_tokens.json", "merges.txt",
              "chat_template.jinja", "chat_template.json")  # fmt: skip


def read_tokenizer(directory: str | pathlib.Path) -> Tokenizer:
    """The tokenizer of a model directory as AutoTokenizer reads it, with its special tokens, its own
    template, and its files. The decoder's start token comes from config.json.

    Truncation and padding settings of a tokenizer.json are ignored: the data pipeline decides both.

    Raises ConfigError, in one line, if there is no tokenizer or if it cannot be read.
    """
    directory = pathlib.Path(directory)
    model, settings = (
        read_json(path) if (path := inside(directory, name)) else {}
        for name in ("config.json", CONFIG_FILE)
    )
    # transformers ignores the older files beside a tokenizer_config.json that lists the added tokens.
    listed = "added_tokens_decoder" in settings
    older = inside(directory, SPECIAL_TOKENS_FILE)
    settings = settings if listed or not older else settings | read_json(older)
    file = inside(directory, "tokenizer.json")
    try:
        if file:
            description = json.loads(tokenizers.Tokenizer.from_buffer(file.read_bytes()).to_str())
            settings = {
                k: v for k, v in settings.items() if k not in ("add_bos_token", "add_eos_token")
            }
            name = tokenizer_classes.class_name(directory, model, settings, description)
        else:
            files, reader, name = older_tokenizers.find(directory, model, settings)
            file = files[0]
            description, name, settings = older_tokenizers.read(files, reader, name, settings)
        inner, settings = _build(description, name, settings, bool(listed))
        _add_tokens(inner, _added_tokens(directory, settings, listed), settings)
        _add_special_tokens(inner, settings, model.get("vocab_size"))
        _set_template(inner, name, settings)
        return _with_roles(inner, model, settings, _files(directory))
    except ConfigError:
        raise
    except Exception as error:  # tokenizers raises bare Exception
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(
            f"{file or directory} cannot be read as a tokenizer ({reason}); {CONVERT}"
        ) from error


def _build(description, name, settings, listed):
    """(the tokenizer that a class makes of a tokenizer.json, settings with the class's defaults)."""
    if name == GENERIC:
        return tokenizers.Tokenizer.from_str(json.dumps(description)), settings
    settings = CLASSES[name].special_tokens | settings
    texts = {key: token_text(settings.get(key)) for key in _KEYS}
    if listed:  # the class takes the added tokens of tokenizer_config.json alone
        description = {**description, "added_tokens": []}
    return tokenizer_classes.rebuild(description, name, settings | texts), settings


def _with_roles(inner, model, settings, files):
    """The Tokenizer, with the special tokens that its spelling does not tell."""
    named = {key: settings[key] for key in SPECIAL_TOKEN_KEYS.values() if settings.get(key)}
    special_tokens = special_tokens_of(named, inner) | _from_config(model, inner, named)
    inferred = Tokenizer(inner).special_ids()
    ids = {name: inner.token_to_id(token) for name, token in special_tokens.items()}
    differs = any(inferred.get(name, number) != number for name, number in ids.items())
    return Tokenizer(inner, special_tokens if differs else {}, files)


def _files(directory) -> dict[str, bytes]:
    """The files of the tokenizer, {name: content}; templates have a folder of their own."""
    found = {name: inside(directory, name) for name in KEPT_FILES}
    folder = directory / "additional_chat_templates"
    if folder.is_dir():
        found |= {
            f"{folder.name}/{file.name}": inside(folder, file.name) for file in folder.iterdir()
        }
    return {name: path.read_bytes() for name, path in found.items() if path}


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


def _added_tokens(directory, settings, listed) -> dict[int, AddedToken]:
    """{id: token} of the tokens added to a vocabulary, in either of the formats for them."""
    older = None if listed else inside(directory, "added_tokens.json")
    special = {token_text(settings.get(key)) for key in _KEYS} | {
        *map(token_text, _extra_tokens(settings))
    }
    found = {
        int(number): AddedToken(text, normalized=text not in special, special=text in special)
        for text, number in (read_json(older) if older else {}).items()
    }
    for number, token in (settings.get("added_tokens_decoder") or {}).items():
        flags = {key: value for key, value in token.items() if key != "__type"}
        found[int(number)] = AddedToken(**flags)
    return found


def _add_tokens(inner, added, settings):
    """Adds tokens, or changes their flags. Raises ValueError if one does not get its id."""
    named = {token_text(settings.get(key)) for key in _KEYS}
    known = {repr(token) for token in inner.get_added_tokens_decoder().values()}
    for number, token in sorted(added.items()):
        if repr(token) not in known:
            token.special = token.special or token.content in named
            inner.add_tokens([token])
        actual = inner.token_to_id(token.content)
        if actual != number:
            raise ValueError(f"token {token.content!r} has id {actual}, expected {number}")


def _extra_tokens(settings) -> list:
    """Further special tokens, as the versions of tokenizer_config.json list them."""
    extra = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    extra = list(extra.values() if isinstance(extra, dict) else extra)
    extra += [
        value
        for key, value in settings.items()
        if key.endswith("_token") and key not in _KEYS and isinstance(value, str)
    ]
    return [token for token in extra if token_text(token)]


def _add_special_tokens(inner, settings, vocab_size):
    """Adds the special tokens that the vocabulary lacks, as transformers does, while the model has rows for
    them; its class may name tokens that the model never had."""
    named = [settings[key] for key in _KEYS if settings.get(key)]
    added = {each.content for each in inner.get_added_tokens_decoder().values()}
    for token in [*named, *_extra_tokens(settings)]:
        text = token_text(token)
        has_row = not isinstance(vocab_size, int) or inner.get_vocab_size() < vocab_size
        if text in added or (inner.token_to_id(text) is None and not has_row):
            continue
        flags = token if isinstance(token, dict) else {"content": token}
        flags = {k: v for k, v in flags.items() if k not in ("__type", "special")}
        inner.add_special_tokens([AddedToken(**flags, special=True)])
        added.add(text)


def _set_template(inner, name, settings):
    """Sets the post-processor that the class makes of its special tokens."""
    special = {key.removesuffix("_token"): token_text(settings.get(key)) for key in _KEYS}
    if name != GENERIC and CLASSES[name].template:
        inner.post_processor = _fill(CLASSES[name].template, special, inner)
        return
    flags = [bool(settings.get(f"add_{each}_token")) for each in ("bos", "eos")]
    if any(flags) or name == "GPTNeoXTokenizer":
        parts = ["{bos}"] * flags[0], ["{eos}"] * flags[1]
        single, second = ([*parts[0], text, *parts[1]] for text in ("$A", "$B:1"))
        inner.post_processor = _fill(
            (" ".join(single), " ".join([*single, *second])), special, inner
        )


def _fill(template, special_tokens, inner):
    """The post-processor of a template that has names of special tokens in braces."""
    needed = set(re.findall(r"{(\w+)}", "".join(template)))
    missing = sorted(
        name for name in needed if inner.token_to_id(special_tokens.get(name) or "") is None
    )
    if missing:
        raise ValueError(f"it has no {' and no '.join(missing)} token")
    single, pair = (each.format(**special_tokens) for each in template)
    tokens = [
        (special_tokens[name], inner.token_to_id(special_tokens[name])) for name in sorted(needed)
    ]
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=tokens)


def write_tokenizer(
    tokenizer: Tokenizer,
    directory: str | pathlib.Path,
    *,
    architecture: str,
    head: str,
    max_length: int,
    token_types: bool,
    trained_head: bool = False,
) -> None:
    """Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json for AutoTokenizer.

    A published tokenizer is written as it was read, except that a classifier gets a padding token, and one
    that was finetuned here the length that it was finetuned with. Any other
    tokenizer adds the special tokens that the model was trained with: its own template, or the
    default of the architecture, but none for a decoder that generates. Its prompts are padded on the left.

    Args:
      architecture: encoder, decoder or encoder_decoder.
      head: name of the model's task head, '' if it has none; a decoder with one does not generate.
      max_length: maximum number of tokens of an example, or of the model.
      token_types: whether the model has token type embeddings.
      trained_head: whether the head was finetuned here.
    """
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    ids, inner = tokenizer.special_ids(), tokenizer.to_library()
    pad = padding(tokenizer, architecture)
    if any(name in tokenizer.files for name in _VOCABULARIES):
        for name, content in tokenizer.files.items():
            (directory / name).parent.mkdir(exist_ok=True)
            write_atomically(directory / name, content)
        added = {"model_max_length": max_length} if trained_head else {}
        if head and ids["pad"] < 0:  # a batch of texts is padded
            added["pad_token"] = inner.id_to_token(pad)
        if added:
            settings = json.loads(tokenizer.files.get(CONFIG_FILE, b"{}")) | added
            write_atomically(directory / CONFIG_FILE, _to_json(settings))
        return
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
    write_atomically(directory / "tokenizer.json", inner.to_str(pretty=True).encode())
    for name, content in tokenizer.files.items():  # chat templates
        (directory / name).parent.mkdir(exist_ok=True)
        write_atomically(directory / name, content)
    for name, content in ((CONFIG_FILE, settings), (SPECIAL_TOKENS_FILE, tokens)):
        write_atomically(directory / name, _to_json(content))


def _to_json(content) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


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
