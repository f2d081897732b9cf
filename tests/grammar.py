"""Text from which a tiny model learns in a hundred steps, with any objective.

A document has one topic and uses the words of the topic from the first to the last. So a word predicts
its neighbors, and two parts of a document show whether they belong together, and in which order.
"""

import itertools
import pathlib

import numpy as np

TOPICS, WORDS = 8, 12
SENTENCE = 5  # words per sentence


def topics():
    """TOPICS lists of WORDS different words of two letters; no word is in two lists."""
    syllables = ["".join(pair) for pair in itertools.product("bcdfghjklmnpqrstvwxz", "aeiou")]
    chosen = np.random.default_rng(7).permutation(syllables)[: TOPICS * WORDS]
    return chosen.reshape(TOPICS, WORDS)


def documents(count, seed=0):
    """`count` documents of 24 to 48 words in sentences that end with a full stop."""
    random, words = np.random.default_rng(seed), topics()
    for _ in range(count):
        topic, length = words[random.integers(TOPICS)], int(random.integers(24, 49))
        positions = np.arange(length) * WORDS / length + random.integers(-1, 2, length)
        text = [topic[int(position)] for position in np.clip(positions, 0, WORDS - 1)]
        yield " ".join(
            " ".join(text[start : start + SENTENCE]) + " ." for start in range(0, length, SENTENCE)
        )


def corpus(folder, count=2000, seed=0):
    """Writes `folder`/corpus.txt and returns its data.source."""
    path = pathlib.Path(folder) / "corpus.txt"
    path.write_text("\n\n".join(documents(count, seed)) + "\n", encoding="utf-8")
    return f"text:{path}"
