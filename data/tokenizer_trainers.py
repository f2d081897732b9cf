"""Trains the vocabularies of data/tokenizer.py with the tokenizers library.

Each trainer reads texts and gives a `tokenizers.Tokenizer` whose special tokens come first.
"""

import collections
import contextlib
import os

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

_WORD_START = "▁"  # marks the start of a word while WordPiece is trained
# WordPiece turns a longer word into one [UNK]. Scripts without spaces have words of any length.
_LONGEST_WORD = 1 << 30


class TrainingTexts:
    """Texts in parts of bounded length, any number of times."""

    def __init__(self, texts, split):
        """split: divides one text."""
        self._texts = list(texts) if iter(texts) is texts else texts
        self._split = split
        self.num_texts = 0  # that the last pass has read

    def __iter__(self):
        self.num_texts = 0
        for text in self._texts:
            self.num_texts += 1
            yield from self._split(text)


def _train(inner, texts, trainer):
    """Trains `inner` in one thread: several would change the order of summation."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        inner.train_from_iterator(texts, trainer)
    finally:
        with contextlib.suppress(KeyError):
            del os.environ["TOKENIZERS_PARALLELISM"]
        if before is not None:
            os.environ["TOKENIZERS_PARALLELISM"] = before
    return inner


def _with_frequent_characters(texts, normalizer, vocab_size, num_others, tokens_of, coverage, log):
    """`texts`, with blanks for rare characters if all would take more than half of the vocabulary.

    Args:
      vocab_size, num_others: of the vocabulary, and of its tokens that are no character.
      tokens_of: the number of tokens that a character takes.

    Raises ValueError if the vocabulary cannot hold the frequent characters.
    """
    counts = collections.Counter()
    for text in texts:
        counts.update(normalizer.normalize_str(text))
    counts = {c: n for c, n in counts.items() if not c.isspace()}
    capacity = vocab_size - num_others
    if 2 * sum(map(tokens_of, counts)) <= capacity:
        return texts
    total, kept, covered, needed, possible = sum(counts.values()), 0, 0, 0, 0.0
    ranked = sorted(counts, key=lambda c: (-counts[c], c))
    while kept < len(ranked) and covered < coverage * total:
        needed += tokens_of(ranked[kept])
        covered += counts[ranked[kept]]
        kept += 1
        possible = covered / total if needed <= capacity else possible
    if needed > capacity:
        raise ValueError(
            f"tokenizer.vocab_size is {vocab_size:,}, but the special tokens and the {kept:,} characters "
            f"that make up {coverage:.2%} of the corpus need {needed + num_others:,}: raise it, lower "
            f"tokenizer.character_coverage to {int(possible * 1e4) / 1e4}, or set tokenizer.type=bpe, "
            "which has no unknown characters"
        )
    if kept == len(ranked):
        return texts
    log(
        f"{len(ranked) - kept:,} of {len(ranked):,} characters are rare and become [UNK], "
        f"{1 - covered / total:.3%} of the text (tokenizer.character_coverage={coverage})"
    )
    rare = dict.fromkeys(map(ord, ranked[kept:]), " ")
    return (normalizer.normalize_str(text).translate(rare) for text in texts)


def _bpe(texts, specials, vocab_size, lowercase, min_frequency, coverage, log):
    del coverage, log  # every byte is a token
    inner = tokenizers.Tokenizer(models.BPE())
    if lowercase:
        inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(specials),
        show_progress=False,
    )
    return _train(inner, texts, trainer)


def _wordpiece(texts, specials, vocab_size, lowercase, min_frequency, coverage, log):
    """WordPiece from BPE merges of marked words: `▁model` becomes `model`, `odel` becomes `##odel`.

    The library's own WordPiece trainer numbers tokens in the order of a random hash, so that two
    trainings differ; its BPE trainer does not. Every character is a token in both forms, except the
    characters that are words by themselves (Chinese ones).
    """
    inner = tokenizers.Tokenizer(models.BPE())
    inner.normalizer = normalizers.BertNormalizer(lowercase=lowercase)

    def forms(character):
        is_word = " " in inner.normalizer.normalize_str(f"a{character}a")
        return (character,) if is_word else (character, f"##{character}")

    texts = _with_frequent_characters(
        texts,
        inner.normalizer,
        vocab_size,
        len(specials),
        lambda character: len(forms(character)),
        coverage,
        log,
    )
    words = pre_tokenizers.BertPreTokenizer()
    inner.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.Metaspace(split=False)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=min_frequency, show_progress=False
    )
    _train(inner, texts, trainer)
    merged = sorted(inner.get_vocab().items(), key=lambda item: item[1])
    characters = [token for token, _ in merged if len(token) == 1 and token != _WORD_START]
    continuations = [form for c in characters for form in forms(c)[1:]]
    tokens = dict.fromkeys([*specials, *characters, *continuations])
    for token, _ in merged:
        if len(token) > 1 and len(tokens) < vocab_size:
            tokens.setdefault(token[1:] if token.startswith(_WORD_START) else f"##{token}")
    vocabulary = {token: number for number, token in enumerate(tokens)}
    result = tokenizers.Tokenizer(
        models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=_LONGEST_WORD)
    )
    result.normalizer, result.pre_tokenizer = inner.normalizer, words
    result.decoder = decoders.WordPiece()
    result.add_special_tokens(list(specials))
    return result


def _unigram(texts, specials, vocab_size, lowercase, min_frequency, coverage, log):
    """Unigram (Kudo, 2018). The library sums in a random order: two trainings may differ slightly."""
    del min_frequency  # Unigram prunes by likelihood, not by count
    inner = tokenizers.Tokenizer(models.Unigram())
    steps = [normalizers.NFKC()] + ([normalizers.Lowercase()] if lowercase else [])
    inner.normalizer = normalizers.Sequence(steps)
    num_others = len(specials) + 2  # one for the start of a word, and one that the trainer needs
    texts = _with_frequent_characters(
        texts, inner.normalizer, vocab_size, num_others, lambda character: 1, coverage, log
    )
    # The library's lattice may use any token of the vocabulary, special ones too. Isolated brackets
    # keep them from matching, wherever the file is read.
    brackets = pre_tokenizers.Split(Regex(r"[\[\]<>]"), "isolated")
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), brackets])
    inner.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size,
        special_tokens=list(specials),
        unk_token="[UNK]",
        show_progress=False,
    )
    return _train(inner, texts, trainer)


def _word(texts, specials, vocab_size, lowercase, min_frequency, coverage, log):
    """The most frequent words; words of equal frequency in alphabetical order."""
    del coverage, log
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(specials),
        show_progress=False,
    )
    return _train(word_level(lowercase), texts, trainer)


def word_level(lowercase: bool, vocabulary: dict[str, int] | None = None):
    """A tokenizer of whole words: runs of letters, digits and underscores, and runs of other visible
    characters."""
    inner = tokenizers.Tokenizer(models.WordLevel(vocabulary or {}, unk_token="[UNK]"))
    if lowercase:
        inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return inner


TRAINERS = {"bpe": _bpe, "wordpiece": _wordpiece, "unigram": _unigram, "word": _word}
