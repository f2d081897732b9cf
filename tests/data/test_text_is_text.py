"""Property: text is text, under every kind of tokenizer, ours or published, from every kind of file.

Texts are full of the tokenizer's own special tokens, foreign scripts, control characters and emoji.
"""

import functools
import tempfile
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tokenizers
from corpora import WORDS, documents, library_ids, special_tokens
from published import bpe_pieces, sentencepiece, unigram_pieces
from tokenizers import decoders, models, normalizers, pre_tokenizers

from data import text_encoder
from data.tokenizer import SPECIALS, Tokenizer, of_words, train
from huggingface.tokenizers import read_tokenizer

FOREIGN = ["漢字", "ภาษาไทย", "한국어", "שלום", "العربية", "हिन्दी", "Ω≈ç√", "ﬁne Ⅷ", "e\u0301"]
SPELLED = [" ".join([token] * 3) for token in SPECIALS] + ["</s> <pad> <s> <mask> <unk>"] * 9
CORPUS = documents(120) + SPELLED + FOREIGN * 3
TAGS = ["<pad>", "</s>", "<s>", "<unk>", "<mask>", "<extra_id_0>"]
BRACKETS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[EOS]", "[MASK]"]
LETTERS = [chr(i) for i in range(33, 127)]


def byte_level(use_regex):
    """GPT-2's kind, in which merges spell the special tokens, which the vocabulary holds too."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges, made = [], []
    for token in TAGS:
        for end in range(2, len(token) + 1):
            merges.append((token[: end - 1], token[end - 1]))
            made.append(token[:end])
    vocabulary = {t: i for i, t in enumerate(dict.fromkeys([*TAGS, *alphabet, *made]))}
    inner = tokenizers.Tokenizer(models.BPE(vocabulary, merges, ignore_merges=not use_regex))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(TAGS[:-1])  # <extra_id_0> is in the vocabulary alone
    return Tokenizer(inner)


def words(model, listed, pre_tokenizer=pre_tokenizers.WhitespaceSplit):
    """Whole words, or WordPiece, between blanks. `listed`: how the file lists its special tokens."""
    tokens = [*BRACKETS, *WORDS, *LETTERS, *(f"##{c}" for c in LETTERS)]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    inner = tokenizers.Tokenizer(model(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizer()
    inner.decoder = decoders.WordPiece()
    if listed != "nowhere":
        add = inner.add_special_tokens if listed == "special" else inner.add_tokens
        add(BRACKETS)
    return Tokenizer(inner)


def unigram():
    """T5's kind, with sentinels, as a tokenizer.json."""
    tokens = [(token, 0.0) for token in TAGS]
    tokens += [("▁", -2.0), ("▁the", -2.0), *((c, -5.0) for c in LETTERS)]
    inner = tokenizers.Tokenizer(models.Unigram(tokens, 3))
    inner.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip()])
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    inner.decoder = decoders.Metaspace(prepend_scheme="always")
    inner.add_special_tokens(TAGS)
    return Tokenizer(inner)


def llama():
    """Llama's kind: the text is one word, its start is marked, and bytes stand in for characters."""
    parts = ["</", "</s", "▁t", "he", "▁the"]
    tokens = [*TAGS, *(f"<0x{i:02X}>" for i in range(256)), "▁", *LETTERS, *parts]
    merges = [("<", "/"), ("</", "s"), ("</s", ">"), ("▁", "t"), ("h", "e"), ("▁t", "he")]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    inner = tokenizers.Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    inner.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    inner.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    inner.add_special_tokens(TAGS)
    return Tokenizer(inner)


def from_directory(write, *arguments, **options):
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), *arguments, **options)
        return read_tokenizer(folder)


def vocab_txt(folder):
    tokens = [*BRACKETS, *WORDS, *LETTERS, *(f"##{c}" for c in LETTERS), "mask", "sep"]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")


KINDS = {
    "bpe": lambda: train(CORPUS, type="bpe", vocab_size=500),
    "wordpiece": lambda: train(CORPUS, type="wordpiece", vocab_size=900),
    "lowercase wordpiece": lambda: train(CORPUS, type="wordpiece", vocab_size=900, lowercase=True),
    "unigram": lambda: train(CORPUS, type="unigram", vocab_size=700),
    "word": lambda: train(CORPUS, type="word", vocab_size=300, min_frequency=1),
    "of words": lambda: of_words([*WORDS, "</s>", "<unk>"]),
    "byte-level": lambda: byte_level(use_regex=True),
    "byte-level without words": lambda: byte_level(use_regex=False),
    "whitespace words": lambda: words(models.WordLevel, "special"),
    "whitespace wordpiece": lambda: words(models.WordPiece, "special"),
    "unlisted": lambda: words(models.WordPiece, "nowhere"),
    "listed as ordinary": lambda: words(
        models.WordPiece, "ordinary", pre_tokenizers.BertPreTokenizer
    ),
    "t5": unigram,
    "llama": llama,
    "vocab.txt": lambda: from_directory(vocab_txt),
    "spm unigram": lambda: from_directory(sentencepiece, unigram_pieces(), dummy=1, collapse=1),
    "spm unigram with bytes": lambda: from_directory(
        sentencepiece,
        [*unigram_pieces(), *((f"<0x{byte:02X}>", 0.0, 6) for byte in range(256))],
        1,
        "tokenizer.model",
        "llama",
        bytes=True,
        dummy=1,
        collapse=0,
    ),
    "spm fairseq": lambda: from_directory(
        sentencepiece,
        [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), *unigram_pieces()[3:]],
        name="sentencepiece.bpe.model",
        model_type="xlm-roberta",
    ),
    "spm bpe": lambda: from_directory(
        sentencepiece, bpe_pieces(), 2, "tokenizer.model", "llama", bytes=True, collapse=0
    ),
    "spm bpe collapsed": lambda: from_directory(
        sentencepiece, bpe_pieces(), 2, "tokenizer.model", "llama", bytes=True, collapse=1, dummy=0
    ),
}
EXACT = ("bpe", "byte-level", "byte-level without words")
tokenizer_of = functools.cache(lambda kind: KINDS[kind]())

parts = st.one_of(
    st.sampled_from(
        [*TAGS, *BRACKETS, *SPECIALS[7:20], "<|endoftext|>", "##", "▁", "[", "</", "<0x41>"]
    ),
    st.sampled_from(
        [*WORDS, *FOREIGN, "🙂", "👩‍🔬", "\x00", "\x07\x1b", "\ufeff", "\u200b", "\r\n"]
    ),
    st.sampled_from([" ", "  ", "\n", "\t", " a ", "\xa0", "x" * 130, "ภาษา" * 40]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
)
texts = st.lists(parts, max_size=24).map("".join) | st.lists(parts, max_size=24).map(" ".join)


def check(kind, text):
    """All properties of one text."""
    tokenizer = tokenizer_of(kind)
    ids = tokenizer.encode(text)
    special, unknown = special_tokens(tokenizer), tokenizer.special_ids()["unk"]
    assert not set(ids.tolist()) & set(special.values()) - {unknown}, text
    decoded = tokenizer.decode(ids)
    if kind in EXACT:
        assert decoded == text
    elif unknown not in ids and not ("##" in text and "wordpiece" in kind + "unlisted vocab.txt"):
        normalizer = tokenizer.to_library().normalizer
        kept = normalizer.normalize_str(text) if normalizer else text
        assert visible(decoded) == visible(kept)
    whole = tokenizer._encoder._encode([text])[0]
    np.testing.assert_array_equal(ids, whole)
    head, rest = tokenizer.cut(text)
    both = [i for part in (head, rest) if part for i in tokenizer._encoder._encode([part])[0]]
    assert both == whole.tolist()


def visible(text):
    return "".join(text.replace("▁", " ").split())


def property_test(kind, count):
    @hypothesis.settings(max_examples=count, deadline=None, derandomize=True, database=None)
    @hypothesis.given(texts)
    def run(text):
        check(kind, text)

    run()


@pytest.fixture(autouse=True)
def short_parts(monkeypatch):
    monkeypatch.setattr(text_encoder, "_CHUNK", 12)


@pytest.mark.parametrize("kind", KINDS)
def test_invariant_10_text_is_text_under_every_tokenizer(kind):
    property_test(kind, 200)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_invariant_10_text_is_text_in_two_thousand_cases(kind):
    property_test(kind, 2000)


def test_a_tokenizer_of_every_kind_makes_no_special_token_of_its_own_spelling():
    """Without the tokenizer's care, some of these kinds do: the property above can fail."""
    careless = set()
    for kind in KINDS:
        tokenizer = tokenizer_of(kind)
        special = set(special_tokens(tokenizer).values()) - {tokenizer.special_ids()["unk"]}
        text = " ".join(tokenizer.special_names)
        assert not special & set(tokenizer.encode(text).tolist())
        ids = library_ids(tokenizer, text)
        careless |= {kind} if special & set(ids) else set()
    assert {"t5", "whitespace words", "byte-level without words", "unlisted"} <= careless


def test_a_long_word_has_the_tokens_of_the_library(monkeypatch):
    """The library takes cubic time for it, so it is tokenized here."""
    tokenizer = tokenizer_of("wordpiece")
    text = "the " + "predictswhatwas" * 40 + " ภาษาไทย" * 50 + " 漢字 " + "ภาษา" * 60 + "\x00e"
    expected = library_ids(tokenizer, text)
    assert tokenizer.encode(text).tolist() == expected and 1 not in expected
    unknown = "the " + "model" * 40 + "\u0e5b" + " row"
    expected = library_ids(tokenizer, unknown)
    assert tokenizer.encode(unknown).tolist() == expected and expected.count(1) == 1
    # A published one keeps its limit.
    limited = tokenizer_of("vocab.txt")
    assert limited.encode("a" * 101).tolist() == [1] and len(limited.encode("a" * 100)) == 100
    monkeypatch.undo()
    assert len(tokenizer.encode("predictswhatwas" * 10_000)) > 10_000
