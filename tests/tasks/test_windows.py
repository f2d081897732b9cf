"""Words and their tokens with any tokenizer, and windows over long sentences: each word is read once."""

import functools
import json

import numpy as np
import pytest
import tokenizers as library
from tokenizers import decoders, models, normalizers, pre_tokenizers

from data import tokenizer as tokenizers
from data.examples import Examples
from data.special_tokens import SpecialTokenTemplate
from tasks import windows
from tasks.tagging import Tagging

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[EOS]", "[MASK]", "[BOS]"]
TEXTS = [
    "the cat sat on the mat, and don't ask why 123 times!",
    "Übung macht den Meister 東京 ❤️",
] * 20
# Words that tokenizers find hard; the last ones have no visible character.
WORDS = ["the", "cats", "don't", "Übung",
         "naïve", "東京は", "👨‍👩‍👧", "New York", "a\ttab", "e\u0301te\u0301",
         "ﬁne", "[CLS]", "x" * 120, "\u00a0", "", " ", "\ufe0f", "mat"]  # fmt: skip
VISIBLE = [word for word in WORDS if word.strip(" \u00a0\ufe0f")]


def bytes_like_gpt2(prefix_space):
    inner = tokenizers.train(TEXTS, type="bpe", vocab_size=450).to_library()
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    return tokenizers.Tokenizer(inner)


def bytes_like_llama():
    """Spaces as ▁, one added before the text, no pre-tokenizer, bytes for unknown characters."""
    tokens = [*SPECIAL, *(f"<0x{n:02X}>" for n in range(256)), "▁", *"thecas", "▁t", "▁the"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges = [("▁", "t"), ("▁t", "he")][:1]
    inner = library.Tokenizer(
        models.BPE(vocabulary, merges, unk_token="[UNK]", byte_fallback=True, fuse_unk=True)
    )
    inner.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    inner.decoder = decoders.Replace("▁", " ")
    inner.add_special_tokens(SPECIAL)
    return tokenizers.Tokenizer(inner)


def like_bert():
    """Lower case, no accents, a space around each Chinese character."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789'!,東京は"
    tokens = [*SPECIAL, *letters, *(f"##{c}" for c in letters), "the", "##s", "new"]
    vocabulary = {token: n for n, token in enumerate(dict.fromkeys(tokens))}
    model = models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100)
    inner = library.Tokenizer(model)
    inner.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.add_special_tokens(SPECIAL)
    return tokenizers.Tokenizer(inner)


def over_words():
    """BPE without a pre-tokenizer: a token may be of two words."""
    tokens = [*SPECIAL, *"the cats", "e ", "e c", "he c"]
    vocabulary = {token: n for n, token in enumerate(dict.fromkeys(tokens))}
    merges = [("e", " "), ("e ", "c"), ("h", "e c")]
    inner = library.Tokenizer(models.BPE(vocabulary, merges, unk_token="[UNK]"))
    inner.add_special_tokens(SPECIAL)
    return tokenizers.Tokenizer(inner)


@functools.cache
def made(kind):
    makers = {"gpt2": lambda: bytes_like_gpt2(False), "roberta": lambda: bytes_like_gpt2(True),
              "llama": bytes_like_llama, "bert": like_bert, "over words": over_words}  # fmt: skip
    if kind in makers:
        return makers[kind]()
    return tokenizers.train(TEXTS, type=kind, vocab_size=450)


def owned(kind, words):
    """(tokens, owners, words without a token) of a sentence."""
    tokenizer = made(kind)
    ((ids, offsets),) = tokenizer.encode_with_offsets([" ".join(words)])
    np.testing.assert_array_equal(ids, tokenizer.encode(" ".join(words)))
    return windows.tokens_of_words(ids, offsets, words, tokenizer.special_ids()["unk"])


ALL = ("bpe", "wordpiece", "unigram", "word", "gpt2", "roberta", "llama", "bert", "over words")


@pytest.mark.parametrize("kind", ALL)
def test_every_word_has_tokens_of_its_own_in_order(kind):
    for words in (WORDS, WORDS[::-1], VISIBLE, ["\ufe0f"], [""], ["", "the"], ["the", ""], []):
        ids, owners, without = owned(kind, words)
        assert len(ids) == len(owners)
        assert set(owners[owners >= 0]) == set(range(len(words)))
        assert (np.diff(owners[owners >= 0]) >= 0).all()
        added = len(ids) - len(made(kind).encode(" ".join(words)))
        assert (
            added == without <= sum(word not in VISIBLE for word in words) or kind == "over words"
        )
    special = {made(kind).special_ids()[name] for name in ("cls", "sep", "mask", "eos")}
    assert not special & set(ids.tolist()), "text is never a special token"


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind != "over words"])
def test_the_tokens_of_a_word_are_those_of_the_word_after_a_space(kind):
    tokenizer = made(kind)
    ids, owners, _ = owned(kind, ["the", *VISIBLE])
    before = tokenizer.encode("the")
    for number, word in enumerate(VISIBLE, 1):
        whole = tokenizer.encode(f"the {word}")
        np.testing.assert_array_equal(whole[: len(before)], before)
        alone = [i for i in whole[len(before) :].tolist() if tokenizer.token(i) not in ("▁", "Ġ")]
        mine = [i for i in ids[owners == number].tolist() if tokenizer.token(i) not in ("▁", "Ġ")]
        assert mine == alone, word


def test_a_token_of_two_words_belongs_to_the_first_and_the_other_reads_an_unknown_token():
    ids, owners, without = owned("over words", ["the", "c", "cats"])
    tokens = [made("over words").token(i) for i in ids]
    assert tokens == ["t", "he c", " ", "[UNK]", "c", "a", "t", "s"]
    assert owners.tolist() == [0, 0, -1, 1, 2, 2, 2, 2] and without == 1


def test_a_long_word_has_the_offsets_of_its_tokens():
    tokenizer = made("wordpiece")
    words = ["the", "catsat" * 2000, "mat"]
    ids, owners, _ = owned("wordpiece", words)
    assert (owners == 1).sum() > 1000 and owners[-1] == 2
    assert tokenizer.decode(ids[owners == 1]).replace(" ", "") == words[1]


# ---- Windows -------------------------------------------------------------------------------------


def test_windows_by_hand():
    starts = windows.starts_of(10, 4, 2)
    assert starts.tolist() == [0, 2, 4, 6]
    assert windows.starts_of(11, 4, 2).tolist() == [0, 2, 4, 6, 7]
    assert windows.starts_of(4, 4, 3).tolist() == [0]
    assert windows.starts_of(9, 4, 0).tolist() == [0, 4, 5]
    each = np.arange(10)
    chosen = windows.window_of_words(each, each, each, starts, 4, causal=False)
    #  tokens 0-3, 2-5, 4-7, 6-9: token 3 has 0 tokens after it in the first, 1 before it in the second
    assert chosen.tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3, 3]
    chosen = windows.window_of_words(each, each, each, starts, 4, causal=True)
    assert chosen.tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 3, 3]
    # A word of the tokens 3 to 5, read at its first one: the second window holds all of it.
    word = windows.window_of_words(np.array([3]), np.array([5]), np.array([3]), starts, 4, False)
    assert word.tolist() == [1]


def word_pieces():
    """w1, w2, ... of one token each, and x, whose letters are tokens."""
    tokens = [*SPECIAL, *(f"w{n}" for n in range(30)), "x", "##x"]
    model = models.WordPiece({t: n for n, t in enumerate(tokens)}, unk_token="[UNK]")
    inner = library.Tokenizer(model)
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.add_special_tokens(SPECIAL)
    return tokenizers.Tokenizer(inner)


TEMPLATE = SpecialTokenTemplate((2,), (3,), (3,))


def encode(sentences, classes=None, inner=None, length=8, stride=2, subword="first", causal=False):
    return windows.encode(
        sentences, classes, inner, word_pieces(), TEMPLATE,
        length=length, stride=stride, subword=subword, causal=causal,
    )  # fmt: skip


W, X = len(SPECIAL), len(SPECIAL) + 30


def test_rows_by_hand():
    data = encode([["w1", "xx", "w2"], [""]], [[0, 1, 2], [1]])
    assert data.tokens.tolist() == [[2, W + 1, X, X + 1, W + 2, 3, 0, 0], [2, 1, 3, 0, 0, 0, 0, 0]]
    assert data.lengths.tolist() == [6, 3] and data.sentences.tolist() == [0, 1]
    assert data.words.tolist() == [[-1, 0, 1, -1, 2, -1, -1, -1], [-1, 3, -1, -1, -1, -1, -1, -1]]
    assert data.targets.tolist() == [[-1, 0, 1, -1, 2, -1, -1, -1], [-1, 1, -1, -1, -1, -1, -1, -1]]
    assert data.labels.tolist() == [0, 1, 2, 1] and data.first_words.tolist() == [0, 3, 4]
    assert (data.num_words_without_token, data.num_truncated, data.num_examples) == (1, 0, 2)
    last = encode([["w1", "xx", "w2"]], [[0, 1, 2]], subword="last")
    assert last.words.tolist() == [[-1, 0, -1, 1, 2, -1, -1, -1]]
    every = encode([["w1", "xx", "w2"]], [[0, 1, 2]], inner=np.array([0, 5, 2]))
    assert every.targets.tolist() == [[-1, 0, 1, 5, 2, -1, -1, -1]]
    assert every.words.tolist() == [[-1, 0, 1, -1, 2, -1, -1, -1]]
    none = encode([["w1"], ["w2"]], [[-1], [3]], inner=np.arange(4))
    assert none.targets[:, 1].tolist() == [-1, 3] and encode([["w1"]]).targets.max() == -1


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("subword", ["first", "last"])
@pytest.mark.parametrize("stride", [0, 1, 5])
def test_every_word_is_read_once_at_its_token_and_rows_are_whole(causal, subword, stride):
    random = np.random.default_rng(0)
    sentences = [
        ["x" * int(n) for n in random.integers(1, 12, random.integers(1, 12))] for _ in range(40)
    ]
    classes = [[len(word) for word in words] for words in sentences]
    data = encode(sentences, classes, stride=stride, subword=subword, causal=causal)
    flat = [word for words in sentences for word in words]
    places = np.sort(data.words[data.words >= 0])
    np.testing.assert_array_equal(places, np.arange(len(flat)))
    at = data.words >= 0
    np.testing.assert_array_equal(data.targets[at], [len(flat[word]) for word in data.words[at]])
    assert (data.targets[~at] == -1).all()
    first = data.tokens[at] == X
    if subword == "first":
        assert first.all()
    for sentence, words in enumerate(sentences):
        rows = np.flatnonzero(data.sentences == sentence)
        length = sum(map(len, words))
        assert data.is_long[sentence] == (length > data.capacity)
        assert len(rows) == 1 or data.is_long[sentence]
        inside = [data.tokens[row, 1 : data.lengths[row] - 1].tolist() for row in rows]
        assert all(len(each) == min(length, data.capacity) for each in inside)
        assert data.rows_of(np.array([sentence])).tolist() == rows.tolist()


def test_a_text_of_a_hundred_thousand_words_is_read_whole():
    words = ["w1", "xx"] * 50_000
    data = encode([words], length=128, stride=32)
    assert data.lengths.max() == 128 and len(data) > 1000
    np.testing.assert_array_equal(np.sort(data.words[data.words >= 0]), np.arange(100_000))
    (line,) = data.describe_truncated("train", None)
    assert line == (
        f"train: 1 of 1 sentences are longer than 126 tokens and are read in {len(data):,} windows with "
        "overlap"
    )


def test_a_stride_that_does_not_fit_is_named():
    with pytest.raises(
        ValueError, match="task.stride=6, but a window has 6 tokens .*max_seq_len=8"
    ):
        encode([["w1"]], stride=6)
    assert json.dumps(encode([["w1"]], stride=5).capacity) == "6"


def test_which_token_of_a_word_is_read_and_what_the_others_learn():
    class Letters:
        """Every character is a token."""

        def special_ids(self):
            return {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "eos": 4}

        def encode_with_offsets(self, texts):
            offsets = [[i, i + 1] for i in range(len(texts[0]))]
            return [(np.array([ord(c) for c in texts[0]]), np.array(offsets))]

    sentence = Examples({"words": [["ab", "c", "def"]], "tags": [["B-X", "O", "I-X"]]})

    def encode(architecture="encoder", **options):
        task = Tagging(max_seq_len=12, **options)
        data = task.encode(sentence, Letters(), TEMPLATE, ("B-X", "I-X", "O"), architecture)
        return data.words[0, 1:9].tolist(), data.targets[0, 1:9].tolist()

    first = [0, -1, -1, 1, -1, 2, -1, -1], [0, -1, -1, 2, -1, 1, -1, -1]
    last = [-1, 0, -1, 1, -1, -1, -1, 2], [-1, 0, -1, 2, -1, -1, -1, 1]
    assert encode() == encode("encoder_decoder") == encode("decoder", subword="first") == first
    assert encode("decoder") == encode(subword="last") == last
    assert encode(label_all_subwords=True)[1] == [0, 1, -1, 2, -1, 1, 1, 1]
    assert encode("decoder", label_all_subwords=True)[1] == [0, 0, -1, 2, -1, 1, 1, 1]
    assert encode(label_all_subwords=True)[0] == first[0]
