"""Small corpora, tokenizers and stores for the tests of the data room.

Words follow a fixed pseudo-random order, so that every test sees the same bytes.
"""

import random

from data.config import DataConfig, TokenizerConfig
from data.prepare import prepare

WORDS = [
    "the",
    "model",
    "reads",
    "a",
    "row",
    "of",
    "tokens",
    "and",
    "predicts",
    "what",
    "was",
    "hidden",
    "from",
    "it",
    "Zürich",
    "naïve",
    "π",
]


def documents(count, seed=0, longest=60):
    """Texts of 1 to `longest` words, the first ones different from all others."""
    draw = random.Random(seed)
    return [
        f"document {seed} {i} " + " ".join(draw.choices(WORDS, k=draw.randint(1, longest)))
        for i in range(count)
    ]


def write(path, texts, separator="\n\n"):
    """Writes documents into one file."""
    path.write_bytes((separator.join(texts) + "\n").encode())
    return path


def prepared(tmp_path, source, log=lambda line: None, build=True, vocab_size=400, **settings):
    """`prepare` with a cache of its own and a small tokenizer."""
    tokenizer = settings.pop("tokenizer", None) or TokenizerConfig(vocab_size=vocab_size)
    data = DataConfig(source=source, cache_dir=str(tmp_path / "cache"), **settings)
    return prepare(data, tokenizer, log=log, build=build)
