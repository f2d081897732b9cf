"""The table of a study in words: what each column says, for the console and for the page.

Used by studies/report.py and studies/page.py on the contents of results.json.
"""

from studies import figures, results, statistics


def lines(found):
    """The table as lines of text, 100 characters wide."""
    heads = ("labels", "from", "test accuracy", f"minus {found['config']['arms'][0]}", "won",
             "tokens", "params", "FLOPs", "targets")  # fmt: skip
    widths = (6, 10, 13, 25, 5, 7, 7, 8, 7)
    text = ["", f"{'':<69}pretraining read and did"]
    text.append(_line(heads, widths))
    for architecture in found["config"]["architectures"]:
        rows = [row for row in found["summary"] if row["architecture"] == architecture]
        if rows:
            objective = found["pretraining"][architecture]["objective"]
            text.append(f"{figures.WORDS[architecture]} ({objective})")
        for row in rows:
            text.append(_line(cells_of(row), widths))
    text.append(found["baseline"]["name"])
    for budget in found["config"]["budgets"]:
        text.append(_line((f"{budget:,}", "labels", baseline_words(found, budget)), widths))
    return [*text, *notes(found)]


def cells_of(row):
    """The words of one row of the table, in the order of its columns."""
    return (
        f"{row['budget']:,}",
        row["arm"],
        plus_minus(row["accuracy"]["mean"], row["accuracy"]["deviation"]),
        paired_words(row.get("paired")),
        f"{row['paired']['won']}/{row['paired']['count']}" if "paired" in row else "",
        *(quantity(row["matched"][name]) for name in results.MATCHED),
    )


def notes(found):
    """What a reader has to know to read the table, as lines of text."""
    test = found["baseline"]["test"]
    middle = [row["accuracy"]["mean"] for row in found["summary"]]
    error = statistics.proportion_error(sum(middle) / len(middle), test)
    text = [
        "accuracy: mean ± s.d. over seeds; difference: mean ± its standard error over pairs with the same "
        "seed (label subset, head, order), and their ratio",
        f"test split: {test:,} examples of {found['baseline']['classes']} classes, the most frequent has "
        f"{found['baseline']['majority']:.3f}; sampling error of an accuracy there ± {error:.3f}",
        f"data fingerprint {', '.join(found['fingerprint'])}",
    ]
    if not found["complete"]:
        text.append(
            f"INCOMPLETE: {found['cells_done']} of {found['cells_wanted']} finetuning runs have ended"
        )
    return text


def baseline_words(found, budget):
    """Mean ± s.d. of the classic baseline at one budget."""
    spread = statistics.spread(
        [cell["test"] for cell in found["baseline"]["cells"] if cell["budget"] == budget]
    )
    return plus_minus(spread.mean, spread.deviation)


def paired_words(paired):
    """'+0.104 ± 0.012 (8.7 s.e.)', '' for the reference itself."""
    if paired is None:
        return ""
    words = plus_minus(paired["mean"], paired["error"], sign="+")
    if paired["ratio"] is not None:
        words += f" ({paired['ratio']:.1f} s.e.)" if abs(paired["ratio"]) < 1e3 else " (all equal)"
    return words


def plus_minus(mean, by, sign=""):
    """'0.412 ± 0.013'; without the second part where it is not defined."""
    return f"{mean:{sign}.3f}" + (f" ± {by:.3f}" if by is not None and by == by else "")


def quantity(value):
    """1234567 -> '1.23 M'; from 10^15 on in powers of ten."""
    for limit, divisor, unit in (
        (1e3, 1, ""),
        (1e6, 1e3, " k"),
        (1e9, 1e6, " M"),
        (1e12, 1e9, " G"),
        (1e15, 1e12, " T"),
    ):
        if abs(value) < limit:
            return f"{value / divisor:.3g}{unit}"
    return f"{value:.2e}"


def _line(words, widths):
    return "  ".join(
        f"{word:<{width}}" for word, width in zip(words, widths, strict=False)
    ).rstrip()
