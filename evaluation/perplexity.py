"""Perplexity of texts: per token, per word, and bits per byte, over the same predicted tokens.

Documents are isolated. Bits per byte compare models with different tokenizers.
"""

import math
import os

from data import sources
from data.json_lines import has_name_of_json_lines
from evaluation.items import Item, Summary, grouped

_RANGE = 1 << 24


class Perplexity:
    """Of a decoder or an encoder-decoder; pseudo-perplexity (Salazar et al. 2020) of an encoder."""

    name = "perplexity"
    roles = {}

    @classmethod
    def items(cls, path: str, options: dict, log) -> list[Item]:
        """The documents of a file, or of the validation split of a source that has one."""
        name = path
        if os.path.exists(path):
            name = f"{'jsonl' if has_name_of_json_lines(path) else 'text'}:{path}"
        ((_, name), *others) = sources.parse(name)
        if others:
            raise ValueError(f"--data={path!r} is a mixture: name its sources apart")
        source = sources.resolve(name, options["separator"], options["text_field"], "", log)
        splits = source.splits()
        files = splits.get("validation", splits.get("", ()))
        found = []
        try:
            for text in _documents(source, files):
                if text.strip():
                    place = f"{path}, document {len(found) + 1},"
                    found.append(Item(place, (("", text),), {"row": len(found) + 1}))
        except ValueError as error:  # here the field of the config is a flag
            raise ValueError(str(error).replace("data.text_field", "--text_field")) from error
        if not found:
            raise ValueError(f"{path} has no text")
        return found

    @staticmethod
    def result(item: Item, scores) -> dict:
        (found,) = scores
        text = item.requests[0][1][found.start :] if found.num_scored else ""
        return {
            **item.record, "nats": 0.0 - found.total, "tokens": found.num_scored,
            "words": len(text.split()), "bytes": len(text.encode()),
        }  # fmt: skip

    @staticmethod
    def summarize(results: list[dict]) -> Summary:
        rows = [_row(file, found) for file, found in grouped(results, "file").items()]
        if len(rows) > 1:
            rows.append(_row("all", results))
        metrics = {row["file"]: {k: v for k, v in row.items() if k != "file"} for row in rows}
        bars = {
            row["file"]: {"bits per byte": (row["bits_per_byte"], 0.0)}
            for row in rows
            if row["tokens"]
        }
        return Summary(metrics, [("by file", rows)], bars, "bits per byte")


def _documents(source, files):
    """The texts of the documents; each one is in memory as a whole."""
    parts = []
    for file in files:
        for file_range in source.ranges(file, _RANGE):
            for chunk in source.read(file_range):
                parts.append(chunk.text)
                if chunk.is_last:
                    yield "".join(parts)
                    parts = []


def _row(file, results):
    nats, tokens, words, size = (
        sum(each[key] for each in results) for key in ("nats", "tokens", "words", "bytes")
    )
    row = {"file": file}
    if tokens:  # otherwise no token was predicted
        row |= {
            "perplexity": math.exp(min(nats / tokens, 700.0)),
            "word_perplexity": math.exp(min(nats / max(1, words), 700.0)),
            "bits_per_byte": nats / math.log(2) / max(1, size),
        }
    return row | {"documents": len(results), "tokens": tokens, "words": words, "bytes": size}
