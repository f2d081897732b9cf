"""`python -m tools.evaluate --run=RUN --suite=similarity --data=FILE`: scores of a run on test data.

    python -m tools.evaluate --run=runs/skip_gram --suite=similarity --data=ws-353.tsv simlex-999.tsv
    python -m tools.evaluate --vectors=glove.txt.gz --suite=analogy --data=questions-words.txt

A suite is a line of `SUITES`: what it needs of the subject, and a function.
"""

import functools
import pathlib
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from data import tokenizer as tokenizers
from data import vectors
from tools import word_vectors
from training import cli, transfer
from training.checkpoint import locate
from training.config import ConfigError
from training.run_directory import write_json


@dataclass(frozen=True)
class Subject:
    """What is evaluated: a run directory (`run[@step]`), or a file of vectors; the other is ''."""

    run: str = ""
    file: str = ""
    limit: int = 0  # of the words of a file

    @functools.cached_property
    def words(self) -> word_vectors.Words:
        """The token table with its tokenizer."""
        if self.file:
            read = vectors.read(self.file, self.limit)
            tokenizer = read.tokenizer()
            ids, rows = read.rows(tokenizer)
            table = np.zeros((tokenizer.size, rows.shape[1]), rows.dtype)
            table[ids] = rows
            return word_vectors.Words(tokenizer, table)
        folder, step = locate(self.run)
        tokenizer = tokenizers.load(folder / "tokenizer.json")
        return word_vectors.Words(tokenizer, transfer.table_of(folder, step))


@dataclass(frozen=True)
class Suite:
    """A kind of test. `score(part of the subject, path) -> lines` of named numbers, as dicts."""

    part: str  # attribute of the Subject that it reads
    score: Callable
    help: str


SUITES = {
    "similarity": Suite("words", word_vectors.similarity, "word1, word2, score: Spearman"),
    "analogy": Suite("words", word_vectors.analogy, "a b c d by section: 3CosAdd"),
}


def run(subject: Subject, suite: str, paths: list[str]) -> dict[str, list[dict]]:
    """{path: lines of named numbers} of one suite on each file."""
    chosen = SUITES[suite]
    return {path: chosen.score(getattr(subject, chosen.part), path) for path in paths}


def main(argv: list[str]) -> None:
    """Command line: prints a line per file (and section), and writes them all with --out."""
    parser = cli.Parser(description=__doc__.splitlines()[0], allow_abbrev=False)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--run", default="", metavar="RUN_DIR[@STEP]", help="a run of ours")
    what.add_argument(
        "--vectors", default="", metavar="FILE", help=".txt .vec .bin, .gz or .xz too"
    )
    helps = "; ".join(f"{name}: {suite.help}" for name, suite in SUITES.items())
    parser.add_argument("--suite", required=True, choices=SUITES, help=helps)
    parser.add_argument("--data", required=True, nargs="+", metavar="FILE", help="test files")
    parser.add_argument("--limit", type=int, default=0, help="first words of --vectors; 0: all")
    parser.add_argument("--out", default="", metavar="FILE", help="write the scores as JSON too")
    parser.add_argument("--debug", action="store_true", help="traceback instead of one line")
    given = parser.parse_args(argv)
    if given.run and given.limit:
        raise ConfigError(
            f"--limit={given.limit} is of a file of --vectors; leave it out with --run"
        )
    subject = Subject(given.run, given.vectors, given.limit)
    results = run(subject, given.suite, given.data)
    for path, lines in results.items():
        for line in lines:
            print(f"{pathlib.Path(path).name}  {_words(line)}")
    if given.out:
        write_json(pathlib.Path(given.out), {"of": given.run or given.vectors, **results})


def _words(line):
    return "  ".join(
        f"{key} {value:.4f}" if isinstance(value, float) else f"{key} {value}"
        for key, value in line.items()
    )


if __name__ == "__main__":
    cli.main(main, sys.argv[1:])
