"""The table of a study as text: the wording of every column, for the console and for the page.

Used by studies/three_ways.py on rows of studies/results.py.
"""

from studies import label_value
from sweeps import statistics
from sweeps.table import quantity

ARCHITECTURES = {
    "encoder": "Encoder",
    "decoder": "Decoder",
    "encoder_decoder": "Encoder-decoder",
}
NOTE = (
    "accuracy: mean ± s.d. over seeds; difference: mean ± 95 % interval (Student's t) over pairs with the "
    "same seed (label subset, head, data order)"
)


def columns(row):
    """{column: text} of a row."""
    paired = row.get("paired")
    return {
        "name": row["condition"],
        "labels": f"{row['label_budget']:,}",
        "accuracy": format_spread(row["accuracy"]["mean"], row["accuracy"]["std"]),
        "difference": format_difference(paired) if paired else "",
        "wins": f"{paired['wins']}/{paired['count']}" if paired else "",
        "worth": label_value.describe(row["worth"]) if row.get("worth") else "",
        "lr": f"{row['learning_rate']:g}",
        **{name: quantity(value) for name, value in row["matched"].items()},
    }


def lines(results):
    """The table of studies.three_ways, 89 characters wide."""
    layout = (
        "{labels:<6}  {name:<10}  {accuracy:<13}  {difference:<15}  {wins:<5}  {tokens:<7}  "
        "{parameters:<7}  {flops:<8}  {targets}"
    )
    yield f"{'':<59}pretraining"
    yield layout.format(
        labels="labels", name="condition", accuracy="test accuracy", wins="wins", tokens="tokens",
        difference=f"minus {results['plan']['conditions'][0]}", parameters="params", flops="FLOPs",
        targets="targets",
    )  # fmt: skip
    for name, record in results["pretraining"].items():
        yield f"{record['heading']} ({record['objective']})"
        for row in results["summary"]:
            if row["base_model"] == name:
                yield layout.format(**columns(row))
    yield results["baseline"]["name"]
    for budget in results["plan"]["label_budgets"]:
        yield f"{budget:<6,}  {'':<10}  {baseline_accuracy(results['baseline'], budget)}"
    yield from notes(results)
    for name, sample in results["samples"].items():
        yield f"{results['pretraining'][name]['heading']}: {sample['input']}"
        for probability, text in sample["outputs"]:
            yield f"  {sample_line(probability, text)}"


def sample_line(probability, text):
    """The output of a model on one line; if it fills a mask, with its probability."""
    text = " ".join(text.split())
    return text if probability is None else f"{probability:.3f}  {text}"


def notes(results):
    """Yields the notes below the table, as lines of text."""
    baseline = results["baseline"]
    accuracy = statistics.spread([row["accuracy"]["mean"] for row in results["summary"]]).mean
    stderr = statistics.accuracy_stderr(accuracy, baseline["num_test"])
    yield NOTE
    yield (
        f"test split: {baseline['num_test']:,} examples of {baseline['num_classes']} classes, the most "
        f"frequent has a share of {baseline['majority']:.3f}; sampling error of an accuracy: ± {stderr:.3f}"
    )
    if results["plan"]["tuned"]:
        rates = ", ".join(f"{rate:g}" for rate in results["plan"]["learning_rates"])
        yield f"learning rate of each row: the best mean validation accuracy of {rates}"
    for row in results["summary"]:
        if row.get("worth"):
            heading = results["pretraining"][row["base_model"]]["heading"]
            yield (
                f"{heading}: {row['label_budget']:,} labels with {row['condition']} are worth "
                f"{label_value.describe(row['worth'])} with {results['plan']['conditions'][0]}"
            )
    yield f"data fingerprint: {', '.join(results['fingerprints'])}"
    if results["num_finished"] < results["num_planned"]:
        yield (
            f"INCOMPLETE: {results['num_finished']} of {results['num_planned']} finetuning runs have "
            f"finished"
        )


def baseline_accuracy(baseline, label_budget):
    """Mean ± s.d. of the classic baseline with one label budget."""
    spread = baseline_spread(baseline, label_budget)
    return format_spread(spread.mean, spread.std)


def baseline_spread(baseline, label_budget):
    """statistics.Spread of the classic baseline's test accuracies with one label budget."""
    cells = baseline["cells"]
    return statistics.spread([c["test"] for c in cells if c["label_budget"] == label_budget])


def format_difference(paired):
    """'+0.104 ± 0.031', with the 95 % interval; without it for a single pair."""
    return format_spread(paired["mean"], paired["interval95"], sign="+")


def is_clear(paired):
    """Whether the 95 % interval of a difference excludes 0."""
    return paired["interval95"] is not None and abs(paired["mean"]) > paired["interval95"]


def format_spread(mean, spread, sign=""):
    """'0.412 ± 0.013'; the mean alone if the spread is undefined."""
    return f"{mean:{sign}.3f}" + ("" if spread is None else f" ± {spread:.3f}")
