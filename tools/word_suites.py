"""The suites of tools/evaluate.py about word vectors: similarity, analogy, coverage.

Of a run's token embedding, or of a file of vectors.
"""

import dataclasses
import functools
import json
import os

import numpy as np

from data import tokenizer as tokenizers
from data import vectors
from data.files import content_hash, write_atomically
from evaluation.items import Summary
from tools import score_chart, score_store, word_vectors
from training import paths
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


def coverage(words: word_vectors.Words, source: str, text_columns=("text",)):
    """([line of scores], []): the shares of a corpus (named as in data.source) or of labeled files
    (files:PATTERN) that a word-level vocabulary contains."""
    if not words.tokenizer.is_word_level:
        raise ConfigError("coverage is about whole words, and this run has subword tokens")
    found = dataclasses.asdict(vectors.coverage(words.tokenizer, _texts(source, text_columns)))
    for unit in ("tokens", "types"):
        share = found[f"num_known_{unit}"] / max(1, found[f"num_{unit}"])
        found[f"known_{unit}"] = f"{share:.1%}"
    return [found], []


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


SUITES = {
    "similarity": word_vectors.similarity,
    "analogy": word_vectors.analogy,
    "coverage": coverage,
}


# Suite -> the score of a line that the chart shows.
CHARTED = {"similarity": "spearman", "analogy": "accuracy", "coverage": "known_tokens"}


def run(given) -> None:
    """Prints a line per file (and section); writes them with the score of each item to --output, and draws
    a chart."""
    score_chart.check_paths(given)
    options = {"text_columns": list(given.text_column)} if given.suite == "coverage" else {}
    identity = {
        "suite": given.suite, "of": given.run or given.vectors, "max_vectors": given.max_vectors,
        "data": {path: content_hash(path) if os.path.isfile(path) else "" for path in given.data},
        **options,
    }  # fmt: skip
    if given.output and paths.of(given.output).exists():
        found = score_store.read_finished(given.output)["identity"]
        score_store.check_same(given.output, "results", found, identity)
    words = Subject(given.run, given.vectors, given.max_vectors).words
    results = {path: SUITES[given.suite](words, path, **options) for path in given.data}
    for path, (lines, _) in results.items():
        for line in lines:
            values = (
                f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in line.items()
            )
            print("  ".join((os.path.basename(path), *values)))
    if given.output:
        record = {"of": identity["of"], "identity": identity}
        record |= {
            path: {"scores": lines, "items": items} for path, (lines, items) in results.items()
        }
        write_atomically(given.output, (json.dumps(record, indent=2) + "\n").encode())
    if chart := score_chart.path_of(given):
        score_chart.write(
            chart, summarize(results, given.suite), f"{identity['of']}, {given.suite}"
        )


def summarize(results, suite) -> Summary:
    """The Summary of {file: (lines, items)} for the chart."""
    key, bars = CHARTED[suite], {}
    names = [os.path.basename(path) for path in results]
    for path, (lines, _) in results.items():
        for line in lines:
            value = line[key]
            value = float(value.rstrip("%")) / 100 if isinstance(value, str) else value
            group = os.path.basename(path)
            group = path if names.count(group) > 1 else group
            if len(lines) > 1:
                group = line["section"] if len(results) == 1 else f"{group}: {line['section']}"
            bars[group] = {key: (value, 0.0)}
    return Summary({}, [], bars, "accuracy" if key == "accuracy" else key.replace("_", " "))
