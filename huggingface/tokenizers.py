"""Hugging Face's tokenizer files into a Tokenizer of ours, and back.

Beside huggingface/weights.py, below huggingface/convert.py. `tokenizer.json` where there is one, else
what came before it: vocab.txt, vocab.json with merges.txt, a SentencePiece model.
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

from data import foreign, framing, words
from data.files import write_atomically
from data.tokenizer import Tokenizer
from huggingface import sentencepiece
from huggingface.weights import inside, read_json
from training.config import ConfigError

# What a tokenizer of a model_type puts around a text and between two, where its files do not say.
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
# Tokens of the roles where no file names them.
_WORDPIECE = {f"{role}_token": f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")}
_GPT2 = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
_MARKED = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
_USUAL = {
    _BERT: _WORDPIECE,
    _ROBERTA: {**_MARKED, "cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"},
    _T5: _MARKED,
    _LLAMA: {key: token for key, token in _MARKED.items() if key != "pad_token"},
    (): _GPT2,
}
_REMEDY = (
    'have transformers write it: python -c "from transformers import AutoTokenizer; '
    "AutoTokenizer.from_pretrained('DIR').save_pretrained('DIR')\""
)


def read_tokenizer(directory: str | pathlib.Path) -> Tokenizer:
    """The tokenizer of a model directory, with the roles of its tokens and its own frame.

    Which tokens open, end, pad or mask is read from tokenizer_config.json and special_tokens_map.json,
    what a decoder starts with from config.json. What a tokenizer.json says of truncation and padding is
    left out: both are the reader's affair.

    Raises ConfigError of one line where there is no tokenizer, or none that can be read.
    """
    directory = pathlib.Path(directory)
    model, settings, named = (
        read_json(path) if (path := inside(directory, name)) else {}
        for name in ("config.json", "tokenizer_config.json", foreign.FILE)
    )
    settings = settings | named
    kind = model.get("model_type") or ""
    file = inside(directory, "tokenizer.json")
    try:
        if file:
            inner = tokenizers.Tokenizer.from_buffer(file.read_bytes())
            usual = {}
        else:
            files, kind, read = _older(directory, kind)
            file = files[0]
            inner = read(files, kind, settings)
            usual = _USUAL[TEMPLATES[kind]]
            _add(inner, _added(directory, settings))
        named = usual | {key: settings[key] for key in foreign.ROLES.values() if settings.get(key)}
        tokens = map(foreign.content, named.values())
        inner.add_special_tokens([t for t in tokens if inner.token_to_id(t) is not None])
        template = TEMPLATES.get(kind)
        if template and foreign.frame_of(inner) is None and (usual or template != _LLAMA):
            inner.post_processor = _template(inner, template, foreign.roles_of(named, inner))
        roles = foreign.roles_of(named, inner) | _numbered(model, inner, named)
        _guard(inner)
        plain = Tokenizer(inner).special_ids()
        said = {role: inner.token_to_id(token) for role, token in roles.items()}
        differs = any(plain.get(role, number) != number for role, number in said.items())
        return Tokenizer(inner, roles if differs else {})
    except ConfigError:
        raise
    except Exception as error:  # tokenizers raises bare Exception
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(
            f"{file or directory} cannot be read as a tokenizer ({reason}); {_REMEDY}"
        ) from error


def _numbered(model, inner, named) -> dict[str, str]:
    """Roles that only the model's config.json tells, by number; they become special tokens."""
    roles = {}
    for role in ("start", "pad", "eos", "bos"):
        key = "decoder_start_token_id" if role == "start" else f"{role}_token_id"
        number = model.get(key)
        if type(number) is int and 0 <= number < 2**31 and foreign.ROLES[role] not in named:
            if token := inner.id_to_token(number):
                roles[role] = token
    inner.add_special_tokens(list(roles.values()))
    return roles


def _older(directory, kind):
    """(files, model_type, their reader) of a directory without tokenizer.json."""
    for names, usual_kind, read in _READERS:
        files = [inside(directory, name) for name in names]
        if not all(files):
            continue
        kind = kind or usual_kind
        if TEMPLATES.get(kind) not in _FORMS[read]:
            raise ConfigError(
                f"{directory} has {' and '.join(names)} of a {kind} but no tokenizer.json, and what else "
                f"such a tokenizer does is not known; {_REMEDY}"
            )
        return files, kind, read
    raise ConfigError(
        f"{directory} has no tokenizer: expected tokenizer.json, vocab.txt, vocab.json with merges.txt, "
        "spiece.model or tokenizer.model; fetch it with the model"
    )


def _wordpiece(files, kind, settings):
    """BERT's vocab.txt: a piece a line, in the order of the numbers."""
    lines = files[0].read_bytes().decode().removesuffix("\n").split("\n")
    vocabulary = {line.removesuffix("\r"): number for number, line in enumerate(lines)}
    unknown = foreign.content(settings.get("unk_token")) or "[UNK]"
    inner = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=unknown))
    inner.normalizer = normalizers.BertNormalizer(
        lowercase=settings.get("do_lower_case", True),
        strip_accents=settings.get("strip_accents"),
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
    )
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece(cleanup=False)
    return inner


def _bytes(files, kind, settings):
    """GPT-2's vocab.json and merges.txt."""
    vocabulary, merges = models.BPE.read_file(*map(str, files))
    inner = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    blank = settings.get("add_prefix_space", False)
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=blank)
    inner.decoder = decoders.ByteLevel()
    return inner


def _pieces(files, kind, settings):
    """A SentencePiece model; T5's is followed by its sentinels, the first one last."""
    count = settings.get("extra_ids", 100) if kind == "t5" else 0
    extra = tuple(f"<extra_id_{number}>" for number in reversed(range(count)))
    return sentencepiece.tokenizer(sentencepiece.parse(files[0].read_bytes()), extra)


_READERS = (
    (("vocab.txt",), "bert", _wordpiece),
    (("vocab.json", "merges.txt"), "gpt2", _bytes),
    (("spiece.model",), "t5", _pieces),
    (("tokenizer.model",), "llama", _pieces),
)
_FORMS = {_wordpiece: (_BERT,), _bytes: ((), _ROBERTA), _pieces: (_T5, _LLAMA)}


def _added(directory, settings) -> dict[int, AddedToken]:
    """{number: token} of what was added to a vocabulary, as two generations of files write it."""
    found = {}
    older = inside(directory, "added_tokens.json")
    for text, number in (read_json(older) if older else {}).items():
        found[int(number)] = AddedToken(text, normalized=False, special=True)
    for number, token in (settings.get("added_tokens_decoder") or {}).items():
        flags = {
            key: bool(token.get(key, False))
            for key in ("single_word", "lstrip", "rstrip", "normalized", "special")
        }
        found[int(number)] = AddedToken(foreign.content(token), **flags)
    return found


def _add(inner, added):
    """Adds tokens, each of which must have the number that it was given."""
    for number, token in sorted(added.items()):
        inner.add_tokens([token])
        got = inner.token_to_id(token.content)
        if got != number:
            raise ValueError(f"the token {token.content!r} has number {got}, said to be {number}")


def _template(inner, template, roles):
    """A post-processor out of a template with roles in braces."""
    needed = set(re.findall(r"{(\w+)}", "".join(template)))
    missing = sorted(needed - roles.keys())
    if missing:
        raise ValueError(f"it has no {' and no '.join(missing)} token")
    single, pair = (each.format(**roles) for each in template)
    tokens = [(roles[role], inner.token_to_id(roles[role])) for role in sorted(needed)]
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=tokens)


def _guard(inner):
    """Unigram's lattice takes any piece, control pieces too: text that spells one is cut inside it."""
    if not isinstance(inner.model, models.Unigram) or inner.pre_tokenizer is None:
        return
    inner.encode_special_tokens = True
    special = {i: t.content for i, t in inner.get_added_tokens_decoder().items() if t.special}
    spelled = [
        text
        for number, text in special.items()
        if number in inner.encode(text, add_special_tokens=False).ids
    ]
    inner.encode_special_tokens = False
    if spelled:
        within = "|".join(f"{re.escape(text[0])}(?={re.escape(text[1:])})" for text in spelled)
        apart = pre_tokenizers.Split(Regex(within), "isolated")
        inner.pre_tokenizer = pre_tokenizers.Sequence([inner.pre_tokenizer, apart])


def write_tokenizer(
    tokenizer: Tokenizer,
    directory: str | pathlib.Path,
    *,
    architecture: str,
    head: str,
    max_length: int,
    token_types: bool,
) -> None:
    """Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json, which AutoTokenizer reads.

    It puts around a text what the model was trained with: a tokenizer's own frame, else ours, but
    nothing around what a decoder is to continue. Batches of prompts are filled up on the left.

    Args:
      architecture: of the model: encoder, decoder or encoder_decoder.
      head: 'classification', or another one; it matters for a decoder.
      max_length: tokens that the model reads.
      token_types: whether it tells the two texts of a pair apart.
    """
    directory = pathlib.Path(directory)
    ids, inner = tokenizer.special_ids(), tokenizer.library()
    continues = architecture == "decoder" and "classification" not in head
    frame = framing.frame_for(architecture, ids, tokenizer.frame)
    if foreign.frame_of(inner) is None and not continues:
        inner.post_processor = _framed(inner, frame)
    if ids["mask"] >= 0 and words.kind(inner) in ("ByteLevel", "Metaspace"):
        # A piece holds the blank before it: so does the token that stands for one.
        mask = AddedToken(inner.id_to_token(ids["mask"]), lstrip=True, special=True)
        inner.add_special_tokens([mask])
    roles = {role: ids[role] for role in ("pad", "unk", "cls", "sep", "eos", "mask")}
    roles = {foreign.ROLES[role]: inner.id_to_token(i) for role, i in roles.items() if i >= 0}
    roles |= {
        foreign.ROLES[role]: token for role, token in tokenizer.roles.items() if role != "start"
    }
    filler = padding(tokenizer, architecture)
    if filler >= 0:
        roles["pad_token"] = inner.id_to_token(filler)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "padding_side": "left" if continues else "right",
        "truncation_side": "right",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", *(["token_type_ids"] if token_types else []), "attention_mask"],
        **roles,
    }  # fmt: skip
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / "tokenizer.json", inner.to_str(pretty=True).encode())
    for name, content in (("tokenizer_config.json", settings), (foreign.FILE, roles)):
        write_atomically(directory / name, (json.dumps(content, indent=2) + "\n").encode())


def padding(tokenizer: Tokenizer, architecture: str) -> int:
    """The token that fills up a batch there; -1 where there is none that could.

    Where a tokenizer has none (GPT-2) nothing reads it, so that it may be the one that ends documents.
    But a decoder that classifies reads the last token that is no padding, there: where texts end with
    that one, it is any other, the first ordinary one."""
    ids = tokenizer.special_ids()
    if ids["pad"] >= 0:
        return ids["pad"]
    ends = framing.frame_for(architecture, ids, tokenizer.frame).closing
    return ids["ordinary"][0][0] if ids["eos"] in ends else ids["eos"]


def _framed(inner, frame):
    """The post-processor of a Frame; the second text of a pair and what closes it are of type 1."""

    def spelled(ids, kind):
        return [f"{inner.id_to_token(i)}:{kind}" for i in ids]

    opening, closing = spelled(frame.opening, 0), spelled(frame.closing, 0)
    second = ["$B:1", *spelled(frame.closing, 1)]
    tokens = {*frame.opening, *frame.closing, *frame.separator}
    return processors.TemplateProcessing(
        single=[*opening, "$A:0", *closing],
        pair=[*opening, "$A:0", *spelled(frame.separator, 0), *second],
        special_tokens=[(inner.id_to_token(i), i) for i in sorted(tokens)],
    )
