"""Properties of a published tokenizer: its special tokens and the template it puts around a text.

Read by data/tokenizer.py; tokenizers trained here have fixed token names and no template of their own.
"""

import json

import tokenizers

from data.special_tokens import SpecialTokenTemplate

# Special token -> its key in special_tokens_map.json, the file that Hugging Face writes beside a
# tokenizer. Hugging Face keeps decoder_start_token as a number in config.json; we add it here.
SPECIAL_TOKEN_KEYS = {
    **{name: f"{name}_token" for name in ("pad", "unk", "cls", "sep", "eos", "mask", "bos")},
    "start": "decoder_start_token",
}
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
# The folder beside a run's tokenizer.json with the files that a published tokenizer came with.
FILES_FOLDER = "tokenizer_files"


def special_tokens_of(content: dict, inner: tokenizers.Tokenizer) -> dict[str, str]:
    """{'pad': '<pad>', ...} from the content of special_tokens_map.json, without unknown tokens."""
    found = {name: token_text(content.get(key)) for name, key in SPECIAL_TOKEN_KEYS.items()}
    return {name: t for name, t in found.items() if t and inner.token_to_id(t) is not None}


def token_text(token) -> str:
    """The text of a token in special_tokens_map.json or tokenizer_config.json, which hold either the
    text or {"content": text, ...}; '' for anything else."""
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else ""


def special_tokens_to_json(special_tokens: dict[str, str]) -> bytes:
    """The content of special_tokens_map.json."""
    content = {SPECIAL_TOKEN_KEYS[name]: token for name, token in special_tokens.items()}
    return json.dumps(content, indent=2).encode()


def template_of(inner: tokenizers.Tokenizer) -> SpecialTokenTemplate | None:
    """The tokens that the post-processor adds around a text and between two; None if it adds none."""
    texts = [inner.encode(text, add_special_tokens=False) for text in ("a", "b")]
    single = _special_ids(inner.post_process(texts[0], None, True))
    pair = _special_ids(inner.post_process(*texts, True))
    if not any(single) and not any(pair):
        return None
    return SpecialTokenTemplate(single[0], single[-1], pair[1] if len(pair) == 3 else ())


def _special_ids(encoding) -> list[tuple[int, ...]]:
    """The special ids before the first text, between the texts (absent if there are none), and after
    the last text of an encoding."""
    found, inside = [()], False
    for token, special in zip(encoding.ids, encoding.special_tokens_mask, strict=True):
        if special:
            found[-1] += (token,)
        elif not inside:
            found.append(())
        inside = not special
    return found


def unknown_token(inner: tokenizers.Tokenizer) -> str:
    """The token of text outside the vocabulary; '' for a model that needs none.

    Raises ValueError for a model that needs one and has none: every text outside fails."""
    kind = type(inner.model).__name__
    if kind == "Unigram":
        model = json.loads(inner.model.__getstate__())
        found = "" if model["unk_id"] is None else model["vocab"][model["unk_id"]][0]
        needed = not model["byte_fallback"]
    else:
        token = inner.model.unk_token or ""
        found = token if inner.model.token_to_id(token) is not None else ""
        needed = kind != "BPE"
    if needed and not found:
        raise ValueError(
            f"its {kind} model has no unknown token, so text outside the vocabulary is an error: "
            "add one to the vocabulary, and set it as unk_token (unk_id) of the model"
        )
    return found
