"""`python -m tools.evaluate --run=RUN --suite=similarity --data=FILE`: scores of word vectors.

python -m tools.evaluate --run=runs/skip_gram --suite=similarity --data ws-353.tsv simlex-999.tsv
python -m tools.evaluate --vectors=glove.txt.gz --suite=analogy --data=questions-words.txt
python -m tools.evaluate --vectors=glove.txt.gz --suite=coverage --data='text:/path/*.txt'
"""

import dataclasses
import functools
import json
import os
from collections.abc import Callable

import numpy as np

from data import tokenizer as tokenizers
from data import vectors
from data.files import write_atomically
from tools import word_vectors
from training import cli
from training.config import ConfigError


@dataclasses.dataclass(frozen=True)
class Subject:
    """The model to evaluate: a run directory (`run[@step]`) or a file of word vectors; the other is ''."""

    run: str = ""
    file: str = ""
    max_vectors: int = 0  # only the first words of the file; 0: all

    @functools.cached_property
    def words(self) -> word_vectors.Words:
        """The token embedding with its tokenizer."""
        if self.run:
            from training import checkpoint

            run, step = checkpoint.resolve_checkpoint(self.run)
            tokenizer = tokenizers.load(run / "tokenizer.json")
            return word_vectors.Words(tokenizer, word_vectors.load_token_embedding(run, step))
        read = vectors.read(self.file, self.max_vectors)
        tokenizer = read.tokenizer()
        ids, rows = read.rows(tokenizer)
        table = np.zeros((tokenizer.size, rows.shape[1]), rows.dtype)
        table[ids] = rows
        return word_vectors.Words(tokenizer, table)


def coverage(words: word_vectors.Words, source: str, text_columns=("text",)) -> list[dict]:
    """The shares of a corpus (named as in data.source) or of labeled files (files:PATTERN) that a
    word-level vocabulary contains."""
    if not words.tokenizer.is_word_level:
        raise ConfigError("coverage is about whole words, and this run has subword tokens")
    found = dataclasses.asdict(vectors.coverage(words.tokenizer, _texts(source, text_columns)))
    for unit in ("tokens", "types"):
        share = found[f"num_known_{unit}"] / max(1, found[f"num_{unit}"])
        found[f"known_{unit}"] = f"{share:.1%}"
    return [found]


def _texts(source, text_columns):
    from data import labeled, sources

    if source.startswith("files:"):
        for column in text_columns:
            splits = labeled.load(source, column, label_column="", missing="drop", log=print)
            for split in splits.values():
                yield from split.text
        return
    for _, name in sources.parse(source):
        corpus = sources.resolve(name, "blank_line", "text", "", print)
        for file in range(len(corpus.sizes())):
            for file_range in corpus.ranges(file, 1 << 24):
                yield from (chunk.text for chunk in corpus.read(file_range))


@dataclasses.dataclass(frozen=True)
class Suite:
    """A kind of test. `score(words, data)` returns lines of named values, as dicts."""

    score: Callable
    help: str


SUITES = {
    "similarity": Suite(word_vectors.similarity, "word1, word2, score: Spearman"),
    "analogy": Suite(word_vectors.analogy, "a b c d by section: 3CosAdd"),
    "coverage": Suite(coverage, "known words of a corpus or of labeled files"),
}


def main(argv: list[str]) -> None:
    """Prints a line per file (and section), and writes them all with --out."""
    parser = cli.Parser(description=__doc__.splitlines()[0], allow_abbrev=False)
    subject = parser.add_mutually_exclusive_group(required=True)
    subject.add_argument("--run", default="", metavar="RUN_DIR[@STEP]", help="a run directory")
    subject.add_argument(
        "--vectors", default="", metavar="FILE", help=".txt .vec .bin, plain or compressed"
    )
    helps = "; ".join(f"{name}: {suite.help}" for name, suite in SUITES.items())
    parser.add_argument("--suite", required=True, choices=SUITES, help=helps)
    parser.add_argument("--data", required=True, nargs="+", metavar="FILE|SOURCE", help="test files; "
                        "coverage: text:GLOB, tfds:NAME, python_docs or files:PATTERN")  # fmt: skip
    parser.add_argument(
        "--text_column", nargs="+", default=("text",), help="coverage: columns of files:PATTERN"
    )
    parser.add_argument(
        "--max_vectors", type=int, default=0, help="only the first words of --vectors; 0: all"
    )
    parser.add_argument("--out", default="", metavar="FILE", help="write the scores as JSON too")
    parser.add_argument("--debug", action="store_true", help="print a traceback for an error")
    given = parser.parse_args(argv)
    if given.run and given.max_vectors:
        parser.error("--max_vectors limits the words of --vectors; omit it with --run")
    words = Subject(given.run, given.vectors, given.max_vectors).words
    options = {"text_columns": given.text_column} if given.suite == "coverage" else {}
    results = {path: SUITES[given.suite].score(words, path, **options) for path in given.data}
    for path, lines in results.items():
        for line in lines:
            values = (
                f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in line.items()
            )
            print("  ".join((os.path.basename(path), *values)))
    if given.out:
        record = {"of": given.run or given.vectors, **results}
        write_atomically(given.out, (json.dumps(record, indent=2) + "\n").encode())


if __name__ == "__main__":
    cli.main(main)
