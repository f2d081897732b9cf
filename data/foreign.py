"""What a tokenizer made elsewhere says of itself: the roles of its tokens, the frame it puts around text.

Below data/tokenizer.py; ours have names that tell the role and no frame of their own.
"""

import json

import tokenizers

from data.framing import Frame

# Role -> its key in special_tokens_map.json, as Hugging Face writes it beside a tokenizer; the last one
# is ours (there it is a number in the model's config.json).
ROLES = {
    **{role: f"{role}_token" for role in ("pad", "unk", "cls", "sep", "eos", "mask", "bos")},
    "start": "decoder_start_token",
}
FILE = "special_tokens_map.json"


def roles_of(named: dict, inner: tokenizers.Tokenizer) -> dict[str, str]:
    """{role: token} out of a special_tokens_map.json, of the tokens that the tokenizer knows."""
    tokens = {role: content(named.get(key)) for role, key in ROLES.items()}
    return {role: t for role, t in tokens.items() if t and inner.token_to_id(t) is not None}


def content(token) -> str:
    """The text of a token in a special_tokens_map.json or tokenizer_config.json: itself, or
    {"content": it}."""
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else ""


def roles_to_json(roles: dict[str, str]) -> bytes:
    """The special_tokens_map.json of roles."""
    return json.dumps({ROLES[role]: token for role, token in roles.items()}, indent=2).encode()


def frame_of(inner: tokenizers.Tokenizer) -> Frame | None:
    """What the post-processor puts around a text and between two; None where it puts nothing."""
    texts = [inner.encode(text, add_special_tokens=False) for text in ("a", "b")]
    single = _specials(inner.post_process(texts[0], None, True))
    pair = _specials(inner.post_process(*texts, True))
    if not any(single) and not any(pair):
        return None
    return Frame(single[0], single[-1], pair[1] if len(pair) == 3 else ())


def _specials(encoding) -> list[tuple[int, ...]]:
    """The special ids of an encoding: before its first text, between its texts, behind the last; two
    texts with nothing between them are one."""
    found, inside = [()], False
    for token, special in zip(encoding.ids, encoding.special_tokens_mask, strict=True):
        if special:
            found[-1] += (token,)
        elif not inside:
            found.append(())
        inside = not special
    return found


def marks_beginnings(inner: tokenizers.Tokenizer) -> bool:
    """Whether a text that begins has the pieces of one behind a blank: `a b` is `a` and then `b`, where
    it is not `a` and then ` b` (SentencePiece with a blank put before every text)."""

    def pieces(text):
        return inner.encode(text, add_special_tokens=False).ids

    whole, first = pieces("a b"), pieces("a")
    return whole != first + pieces(" b") and whole == first + pieces("b")
