"""Multiple choice without finetuning: the choice with the highest log-probability after its question.

Three forms of rows: query, choices, gold (PIQA, ARC, COPA); context_options, continuation, gold
(Winograd: Trinh & Le 2018's partial scoring); context, continuation (LAMBADA: the most probable tokens).
"""

import math

from evaluation.items import Item, Role, Summary, grouped, mean, read_rows, standard_error

NORMALIZATIONS = ("sum", "per_token", "per_byte")


class MultipleChoice:
    """Accuracy of the sum of log-probabilities, and of its mean per token and per UTF-8 byte of the choice
    (without the delimiter). If k choices have the highest score, the right one among them counts 1/k."""

    name = "multiple_choice"
    roles = {
        "query": Role(("query",), is_optional=True),
        "choices": Role(("choices",), is_optional=True, is_list=True),
        "context_options": Role(("context_options",), is_optional=True, is_list=True),
        "context": Role(("context",), is_optional=True),
        "continuation": Role(("continuation",), is_optional=True),
        "gold": Role(("gold",), is_optional=True),
    }

    @classmethod
    def items(cls, path: str, options: dict, log) -> list[Item]:
        there, rows = read_rows(path, cls.roles, options["fields"], log)
        forms = {
            _choices: {"query", "choices", "gold"},
            _context_options: {"context_options", "continuation", "gold"},
            _continuation: {"context", "continuation"},
        }
        make = next((form for form, needed in forms.items() if needed <= there), None)
        if make is None:
            known = "; ".join(", ".join(sorted(needed)) for needed in forms.values())
            raise ValueError(
                f"{path} has the fields {', '.join(sorted(there)) or 'of none'} of the three forms of "
                f"multiple_choice ({known}): name others with --field ROLE=NAME"
            )
        if make is _continuation and not options["can_be_greedy"]:
            raise ValueError(
                f"{path} asks for the most probable continuation (context, continuation), which "
                f"--scoring={options['scoring']} does not generate: use a decoder or an encoder_decoder"
            )
        return [make(place, row, options["delimiter"]) for place, row in rows]

    @staticmethod
    def result(item: Item, scores) -> dict:
        totals = [each.total for each in scores]
        if "gold" not in item.record:
            return {
                **item.record, "log_prob": totals[0], "tokens": scores[0].num_scored,
                "greedy": float(scores[0].is_greedy.all()),
            }  # fmt: skip
        tokens = [each.num_scored for each in scores]
        found = {**item.record, "scores": totals, "tokens": tokens}
        by = {"sum": [1] * len(totals), "per_token": tokens, "per_byte": item.record["bytes"]}
        for name, sizes in by.items():
            values = [total / max(1, size) for total, size in zip(totals, sizes, strict=True)]
            best = [n for n, value in enumerate(values) if value == max(values)]
            found[name] = (item.record["gold"] in best) / len(best)
        return found

    @staticmethod
    def summarize(results: list[dict]) -> Summary:
        rows, bars, metrics = [], {}, {}
        for file, found in grouped(results, "file").items():
            row = {"file": file, "items": len(found)}
            if "gold" in found[0]:
                names = {name: name for name in NORMALIZATIONS}
                row["chance"] = mean([1 / len(each["scores"]) for each in found])
            else:
                names = {"greedy": "greedy"}
                log_probs = [each["log_prob"] for each in found if each["tokens"]]
                if log_probs:
                    row["perplexity"] = math.exp(min(-mean(log_probs), 700.0))
            bars[file] = {}
            for name, key in names.items():
                values = [each[key] for each in found]
                bars[file][name] = mean(values), standard_error(values)
                row |= {name: bars[file][name][0], f"{name}_stderr": bars[file][name][1]}
            rows.append(row)
            metrics[file] = {key: value for key, value in row.items() if key != "file"}
        return Summary(metrics, [("by file", rows)], bars, "accuracy")


def _choices(place, row, delimiter):
    choices = _several(place, row["choices"], "choices")
    return Item(
        str(place),
        tuple((row["query"], _delimiter(row["query"], delimiter) + choice) for choice in choices),
        {"row": place.number, "gold": _gold(place, row["gold"], choices),
         "bytes": [len(choice.encode()) for choice in choices]},
    )  # fmt: skip


def _context_options(place, row, delimiter):
    options, text = _several(place, row["context_options"], "context_options"), _scored(place, row)
    return Item(
        str(place),
        tuple((option, delimiter + text) for option in options),
        {"row": place.number, "gold": _gold(place, row["gold"], options),
         "bytes": [len(text.encode())] * len(options)},
    )  # fmt: skip


def _continuation(place, row, delimiter):
    text = _delimiter(row["context"], delimiter) + _scored(place, row)
    return Item(str(place), ((row["context"], text),), {"row": place.number})


def _delimiter(context, delimiter):
    return delimiter if context else ""


def _scored(place, row):
    if not row["continuation"]:
        raise ValueError(f"{place} has no continuation: add it, or remove the row")
    return row["continuation"]


def _several(place, choices, name):
    if not choices or len(choices) < 2:
        count = len(choices or ())
        raise ValueError(
            f"{place} has {count} {'entry' if count == 1 else 'entries'} in {name}: expected at least two"
        )
    for number, choice in enumerate(choices):
        if not isinstance(choice, str):
            raise ValueError(f"{place} has no text in entry {number} of {name}: add it")
    return choices


def _gold(place, gold, choices):
    index = int(gold) if gold.isdecimal() else -1
    if not 0 <= index < len(choices):
        raise ValueError(
            f"{place} has gold={gold[:20]!r}, which is not the index of one of {len(choices)} choices "
            f"(0 to {len(choices) - 1})"
        )
    return index
