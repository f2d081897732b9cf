"""Text with a grammar that a tiny model learns part of in a hundred steps, of every kind there is.

Spelling (words of few letters), syntax (every sentence is built alike), agreement (a verb goes with
its noun), topic (a document keeps to a few nouns) and order (sentences say where in it they stand).
"""

import itertools
import pathlib

import numpy as np

SYLLABLES = [a + b for a, b in itertools.product("bdklmnst", "aeio")]
TOPICS, NOUNS, VERBS = 8, 4, 2
PHASES = ("first", "then", "later", "last")


def words(random, count, syllables):
    """Distinct made-up words."""
    found = set()
    while len(found) < count:
        found.add("".join(random.choice(SYLLABLES, syllables)))
    return sorted(found)


def documents(count, seed=0):
    """`count` documents of three to eight sentences `PHASE the ADJECTIVE NOUN VERB the NOUN .`"""
    fixed = np.random.default_rng(7)  # the language is one, whatever is said in it
    nouns = np.array(words(fixed, TOPICS * NOUNS, 2)).reshape(TOPICS, NOUNS)
    verbs = np.array(words(fixed, TOPICS * VERBS, 3)).reshape(TOPICS, VERBS)
    adjectives = np.array(words(fixed, TOPICS, 1))
    random = np.random.default_rng(seed)
    for _ in range(count):
        topic, length = random.integers(TOPICS), random.integers(3, 9)
        sentences = []
        for number in range(length):
            noun, other = random.integers(NOUNS, size=2)
            phase = PHASES[number * len(PHASES) // length]
            sentences.append(
                f"{phase} the {adjectives[(topic + noun) % TOPICS]} {nouns[topic, noun]} "
                f"{verbs[topic, noun % VERBS]} the {nouns[topic, other]} ."
            )
        yield " ".join(sentences)


def corpus(folder, count=2000, seed=0):
    """Writes `folder`/corpus.txt; returns its source."""
    path = pathlib.Path(folder) / "corpus.txt"
    path.write_text("\n\n".join(documents(count, seed)) + "\n", encoding="utf-8")
    return f"text:{path}"
