"""Small corpora, tokenizers and stores for the tests of `data/`.

Words come in a fixed pseudo-random order, so that every test sees the same bytes.
"""

import random
from pathlib import Path

from data.prepare import prepare
from training.schema import DataConfig, TokenizerConfig

# A program's first two arguments become its path: the project, and this folder.
PATHS = "import sys; sys.path[:0] = sys.argv[1:3]\n"
ARGUMENTS = (str(Path(__file__).resolve().parents[2]), str(Path(__file__).parent))

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
    """Texts of 1 to `longest` words after a start that makes each one distinct."""
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
    """The corpus of `prepare`, with its own cache and a small tokenizer."""
    tokenizer = settings.pop("tokenizer", None) or TokenizerConfig(vocab_size=vocab_size)
    data = DataConfig(source=source, cache_dir=str(tmp_path / "cache"), **settings)
    return prepare(data, tokenizer, log=log, build=build)


def special_tokens(tokenizer):
    """{name: id} of the special tokens of a tokenizer."""
    vocabulary = tokenizer.vocabulary()
    return {name: vocabulary[name] for name in tokenizer.special_names}


def library_ids(tokenizer, text):
    """The ids of a whole text by the tokenizers library, which reads special tokens as text."""
    library = tokenizer.to_library()
    library.encode_special_tokens = True
    return library.encode(text, add_special_tokens=False).ids


def num_shards(store):
    """The number of files that hold the tokens of a store."""
    return len(list(store.path.glob("*.tokens")))
