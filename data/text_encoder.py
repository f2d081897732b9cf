"""Text to token ids, so that no text becomes a special token and the length of a text does not matter.

Below data/tokenizer.py: the one place that all text passes through.
"""

import itertools
import json
import re
import secrets

import numpy as np
import tokenizers

# A longer text is encoded in parts of about this many characters.
_CHUNK = 1 << 16
# Places that are tried for a split, and characters on each side that show whether one is right.
_TRIES, _CONTEXT = 64, 256
# The library's WordPiece takes cubic time in the length of a word, so longer words are split here.
_LONGEST_WORD = 100
_LONG_RUN = re.compile(rf"[^ \n\t]{{{_LONGEST_WORD + 1},}}")
_SPACE = re.compile(r"(?<=\S) (?=\S)")


class TextEncoder:
    """The encoding of `inner` without special tokens; texts may be of any length.

    A tokenizer of the library can produce a special token from text even if it ignores added tokens:
    the vocabulary of the model holds it too, and a Unigram lattice, a whole word or a merge may spell
    it. Here, the special tokens have names that no text can spell.
    """

    def __init__(self, inner: tokenizers.Tokenizer, special: set[str]):
        """special: the special tokens of `inner`, as it spells them."""
        description, self._names = _without(json.loads(inner.to_str()), special)
        model = description["model"]
        self._continuations = None  # WordPiece whose limit is higher than the library can handle
        if model["type"] == "WordPiece" and model["max_input_chars_per_word"] > _LONGEST_WORD:
            self._limit = model["max_input_chars_per_word"]
            model["max_input_chars_per_word"] = _LONGEST_WORD
            self._continuations = model["continuing_subword_prefix"]
            self._vocabulary, self._unknown = model["vocab"], model["vocab"][model["unk_token"]]
            self._longest = max(map(len, self._vocabulary))
        self._inner = tokenizers.Tokenizer.from_str(json.dumps(description))
        self._inner.encode_special_tokens = True  # those that `_without` renamed, too
        self._description = description

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        """The tokens of each text, int32[n]. Those of a long text do not depend on where it is split."""
        parts = [list(self.split(text)) for text in texts]
        encoded = self._encode(list(itertools.chain.from_iterable(parts)))
        ends = np.cumsum([len(each) for each in parts])
        joined = []
        for each, end in zip(parts, ends.tolist(), strict=True):
            ids = encoded[end - len(each) : end]
            joined.append(ids[0] if len(ids) == 1 else np.concatenate([_NONE, *ids]))
        return joined

    def encode_marked(self, texts: list[str], markers: list[str]) -> np.ndarray:
        """The tokens int32[n] of a text with one of the special tokens, markers[i], between texts[i] and
        texts[i + 1]: the same as the library's tokens of the whole text, in which no other
        text is special."""
        names = {self._names[marker] for marker in markers}
        added = self._description["added_tokens"]
        added = [token | {"special": token["content"] not in names} for token in added]
        inner = tokenizers.Tokenizer.from_str(
            json.dumps(self._description | {"added_tokens": added})
        )
        inner.encode_special_tokens = True
        text = texts[0] + "".join(
            self._names[marker] + part for marker, part in zip(markers, texts[1:], strict=True)
        )
        return np.array(inner.encode(text, add_special_tokens=False).ids, np.int32)

    def encode_with_offsets(self, texts: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """(the tokens of `encode_batch` int32[n], offsets int32[n, 2]) of each text: token i is of its
        characters offsets[i, 0] to offsets[i, 1], which may include a space before it."""
        found = []
        for text in texts:
            spans = list(self._spans(text))
            parts = [text[start:end] for start, end in spans]
            encodings = self._inner.encode_batch(parts, add_special_tokens=False)
            ids = [np.array(each.ids, np.int32) for each in encodings]
            offsets = [np.array(each.offsets, np.int32).reshape(-1, 2) for each in encodings]
            for number, (part, (start, _)) in enumerate(zip(parts, spans, strict=True)):
                if self._has_long_words(part, ids[number]):
                    ids[number], offsets[number] = self._with_long_words(part)
                offsets[number] += start
            found.append((np.concatenate(ids), np.concatenate(offsets)))
        return found

    def _encode(self, texts):
        """The tokens of each of the texts, which are not split further."""
        encodings = self._inner.encode_batch_fast(texts, add_special_tokens=False)
        found = [np.array(each.ids, np.int32) for each in encodings]
        for number, text in enumerate(texts):
            if self._has_long_words(text, found[number]):
                found[number], _ = self._with_long_words(text)
        return found

    def split(self, text: str):
        """Yields parts of a text whose tokens, concatenated, are those of the whole text.

        A text is split at a single space between two words, with or without the space, where the
        tokens around it show that this changes none. A text without such a place stays whole.
        """
        for start, end in self._spans(text):
            yield text[start:end]

    def _spans(self, text):
        """Yields (start, end) of each part of `split`."""
        start = 0
        while len(text) - start > _CHUNK:
            places = _SPACE.finditer(text, start + _CHUNK)
            found = (self._seam(text, m.start()) for m in itertools.islice(places, _TRIES))
            end, following = next(filter(None, found), (len(text), len(text)))
            yield start, end
            start = following
        if start < len(text) or not start:
            yield start, len(text)

    def cut(self, text: str) -> tuple[str, str]:
        """(head, rest) of a text that continues, as `split` would divide it."""
        *_, rest = self.split(text)
        return text[: len(text) - len(rest)].removesuffix(" "), rest

    def _seam(self, text, place):
        """(end of a part, start of the next) at a space, if its tokens allow a split there."""
        before, after = text[max(0, place - _CONTEXT) : place], text[place : place + _CONTEXT]
        whole, left, kept, dropped = self._encode([before + after, before, after, after[1:]])
        for right, following in ((kept, place), (dropped, place + 1)):
            if np.array_equal(whole, np.concatenate([left, right])):
                return place, following
        return None

    def _has_long_words(self, text, ids):
        """Whether a text with these tokens may have words that are longer than the library handles."""
        is_limited = self._continuations is not None
        return is_limited and _LONG_RUN.search(text) is not None and self._unknown in ids

    def _with_long_words(self, text):
        """(tokens, offsets) of a text with words that are longer than the library handles."""
        encoding = self._inner.encode(text, add_special_tokens=False)
        ids, offsets = [], []
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            word = tokenizers.NormalizedString(text[start:end])
            if token == self._unknown and self._inner.normalizer is not None:
                self._inner.normalizer.normalize(word)
            if token == self._unknown and _LONGEST_WORD < len(word.normalized) <= self._limit:
                found = self._wordpiece(word.normalized)
                ids += [each for each, _ in found]
                ends = [start + len(word[:place].original) for _, place in found]
                offsets += zip([start, *ends[:-1]], ends, strict=True)
            else:
                ids.append(token)
                offsets.append((start, end))
        return np.array(ids, np.int32), np.array(offsets, np.int32).reshape(-1, 2)

    def _wordpiece(self, word):
        """[(token, its end in the word)] of the longest tokens that spell a word from its start; [UNK] if
        some part has none."""
        found, start = [], 0
        while start < len(word):
            prefix = self._continuations if start else ""
            for end in range(min(len(word), start + self._longest), start, -1):
                token = self._vocabulary.get(prefix + word[start:end])
                if token is not None:
                    break
            else:
                return [(self._unknown, len(word))]
            found.append((token, end))
            start = end
        return found


_NONE = np.zeros(0, np.int32)


def _without(description: dict, special: set[str]) -> tuple[dict, dict[str, str]]:
    """(description of a tokenizer (tokenizer.json) in which text cannot spell the special tokens, their
    names in it).

    They keep their ids under random names; the merges that would make them are removed."""
    secret = secrets.token_hex(8)
    names = {token: f"\ufdd0{secret}{number}" for number, token in enumerate(sorted(special))}
    model = description["model"]
    if model["type"] == "Unigram":
        # the library's lattice finds the tokens of bytes in the text, too
        if model["byte_fallback"]:
            split = {"type": "Split", "behavior": "Isolated", "invert": False,
                     "pattern": {"Regex": "<(?=0x[0-9A-F]{2}>)"}}  # fmt: skip
            steps = [step for step in (description["pre_tokenizer"], split) if step]
            description["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
        model["vocab"] = [[names.get(token, token), score] for token, score in model["vocab"]]
    else:
        model["vocab"] = {names.get(token, token): i for token, i in model["vocab"].items()}
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    if model["type"] == "BPE":
        continuation = model["continuing_subword_prefix"] or ""
        model["merges"] = [
            (first, second)
            for first, second in (
                each.split(" ") if isinstance(each, str) else each for each in model["merges"]
            )
            if special.isdisjoint((first, second, first + second.removeprefix(continuation)))
        ]
        model["dropout"] = None
    for token in description["added_tokens"]:
        if token["content"] in special:
            token |= {"content": names[token["content"]], "special": True, "normalized": False}
    return {**description, "post_processor": None}, names
