"""Text that a tiny model learns something of in a hundred steps, whatever it is asked.

A document keeps to one topic and goes through the topic's words from the first to the last; so a word
tells its neighbours, two parts tell whether they belong together, and which of them comes first.
"""

import itertools
import pathlib

import numpy as np

TOPICS, WORDS = 8, 12
SENTENCE = 5  # words between two full stops


def topics():
    """TOPICS lists of WORDS words of two letters each, none in two of them."""
    syllables = ["".join(pair) for pair in itertools.product("bcdfghjklmnpqrstvwxz", "aeiou")]
    chosen = np.random.default_rng(7).permutation(syllables)[: TOPICS * WORDS]
    return chosen.reshape(TOPICS, WORDS)


def documents(count, seed=0):
    """`count` documents of 24 to 48 words and their full stops."""
    random, words = np.random.default_rng(seed), topics()
    for _ in range(count):
        topic, length = words[random.integers(TOPICS)], int(random.integers(24, 49))
        places = np.arange(length) * WORDS / length + random.integers(-1, 2, length)
        text = [topic[int(place)] for place in np.clip(places, 0, WORDS - 1)]
        yield " ".join(
            " ".join(text[start : start + SENTENCE]) + " ." for start in range(0, length, SENTENCE)
        )


def corpus(folder, count=2000, seed=0):
    """Writes `folder`/corpus.txt; returns its source."""
    path = pathlib.Path(folder) / "corpus.txt"
    path.write_text("\n\n".join(documents(count, seed)) + "\n", encoding="utf-8")
    return f"text:{path}"
