"""Minimal pairs: whether the acceptable sentence of a pair is the more probable one (BLiMP).

Warstadt et al. 2020; the log-probability of whole sentences. Equal ones count 1/2.
"""

import os

from evaluation.items import Item, Role, Summary, grouped, mean, read_rows, standard_error


class MinimalPairs:
    """Accuracy by paradigm and by phenomenon; 'macro' is the mean over paradigms, 'micro' over pairs."""

    name = "minimal_pairs"
    roles = {
        "good": Role(("sentence_good",)),
        "bad": Role(("sentence_bad",)),
        "paradigm": Role(("UID",), is_optional=True),
        "phenomenon": Role(("linguistics_term",), is_optional=True),
    }

    @classmethod
    def items(cls, path: str, options: dict, log) -> list[Item]:
        """The pairs of a file. Without fields for them, paradigm and phenomenon are the file's name."""
        stem = os.path.basename(path).partition(".")[0]
        _, rows = read_rows(path, cls.roles, options["fields"], log)
        return [
            Item(
                str(place),
                (("", row["good"]), ("", row["bad"])),
                {
                    "row": place.number,
                    "paradigm": row["paradigm"] or stem,
                    "phenomenon": row["phenomenon"] or row["paradigm"] or stem,
                },
            )
            for place, row in rows
        ]

    @staticmethod
    def result(item: Item, scores) -> dict:
        good, bad = (each.total for each in scores)
        return {
            **item.record, "good": good, "bad": bad, "tokens": [each.num_scored for each in scores],
            "correct": 1.0 if good > bad else 0.5 if good == bad else 0.0,
        }  # fmt: skip

    @staticmethod
    def summarize(results: list[dict]) -> Summary:
        def row(name, key, found):
            correct = [each["correct"] for each in found]
            return {
                key: name, "accuracy": mean(correct), "stderr": standard_error(correct),
                "pairs": len(found), "ties": correct.count(0.5),
            }  # fmt: skip

        tables = [
            (f"by {key}", [row(name, key, found) for name, found in grouped(results, key).items()])
            for key in ("paradigm", "phenomenon")
        ]
        paradigms, phenomena = (rows for _, rows in tables)
        metrics = {
            "macro": _macro(results),
            "micro": mean([each["correct"] for each in results]),
            "macro_phenomena": mean([each["accuracy"] for each in phenomena]),
            "stderr": standard_error([each["correct"] for each in results]),
            "pairs": len(results),
            "paradigms": len(paradigms),
            "ties": sum(each["ties"] for each in paradigms),
        }
        bars = {
            row["phenomenon"]: {"accuracy": (row["accuracy"], row["stderr"])} for row in phenomena
        }
        tables = [each for each in tables if len(each[1]) > 1]
        if len(tables) == 2 and len(paradigms) == len(phenomena):
            tables = tables[1:]
        files = [
            {"file": file, "macro": _macro(found), "pairs": len(found)}
            for file, found in grouped(results, "file").items()
        ]
        if len(files) > 1:
            tables.append(("by file", files))
            metrics["files"] = {row["file"]: row["macro"] for row in files}
        return Summary(metrics, tables, bars, "accuracy")


def _macro(results):
    """The mean over paradigms of their accuracies."""
    return mean([
        mean([each["correct"] for each in found]) for found in grouped(results, "paradigm").values()
    ])  # fmt: skip
