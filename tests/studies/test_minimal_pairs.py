"""Minimal pairs of a sweep: the table is computed from the pairs of each run, in each way that fits."""

import json

import pytest
import tiny_configs

from studies import minimal_pairs
from training.config import ConfigError

ARG = "objectives=masked_lm+hybrid+span_corruption,seeds=2"
WAYS = [
    "Encoder, masked_lm: pll",
    "Encoder, masked_lm: pll_within_word_l2r",
    "Decoder, hybrid: causal",
    "Decoder, hybrid: pll",
    "Encoder-decoder, span_corruption: infill",
    "Encoder-decoder, span_corruption: prefix",
]


def pair(file, paradigm, correct, phenomenon="agreement"):
    return {"file": file, "paradigm": paradigm, "phenomenon": phenomenon, "correct": correct}


def score(run, way, data, limit, output):
    """Better for seed 1; paradigm b has one pair, a has three of which one is a tie."""
    better = float("seed=1" in run.name)
    first = [pair("x.jsonl", "a", value) for value in (better, 0.5, 1.0)]
    return [*first, pair("x.jsonl", "b", 1.0), pair("y.jsonl", "c", better, "islands")]


@pytest.fixture
def sweep(tmp_path, sweep_directory):
    def make(is_finished=lambda run: True):
        return sweep_directory(tmp_path / "sweep", ARG, is_finished, "minimal_pairs")

    return make


def test_a_row_has_the_mean_over_paradigms_and_the_spread_over_seeds(sweep):
    folder = sweep()
    found = minimal_pairs.write(folder, ["x.jsonl", "y.jsonl"], score=score)
    assert [row["row"] for row in found["rows"]] == WAYS and len(found["cells"]) == 12
    for row in found["rows"]:
        # Paradigm a: 0.5 or 2.5 / 3; with b: 0.75 or 0.91667.
        assert row["files"]["x.jsonl"]["mean"] == pytest.approx((0.75 + (2.5 / 3 + 1) / 2) / 2)
        assert row["files"]["y.jsonl"]["mean"] == 0.5 == row["phenomena"]["islands"]["mean"]
        assert row["files"]["y.jsonl"]["std"] == pytest.approx(0.5**0.5)
        assert row["phenomena"]["agreement"]["count"] == 2
    assert (
        json.loads((folder / "minimal_pairs" / "results.json").read_text())["rows"] == found["rows"]
    )
    page = (folder / "minimal_pairs" / "report.html").read_text()
    assert page.count("data:image/svg+xml") == 1 and "0.500 ± 0.707" in page
    assert (folder / "minimal_pairs" / "accuracy.png").stat().st_size > 10_000
    text = list(minimal_pairs.lines(found))
    assert len(text) == 1 + len(WAYS) + 1 and "INCOMPLETE" not in text[-1]


def test_an_unfinished_sweep_says_so_and_an_empty_one_is_an_error(sweep):
    with pytest.raises(ConfigError, match="has no finished pretraining run"):
        minimal_pairs.write(sweep(lambda run: False), ["x.jsonl"], score=score)
    found = minimal_pairs.write(
        sweep(lambda run: "masked" in run.folder), ["x.jsonl"], 7, score=score
    )
    assert [row["row"] for row in found["rows"]] == WAYS[:2]
    assert list(minimal_pairs.lines(found))[-2:] == [
        "7 evenly spaced pairs of each file",
        "INCOMPLETE: 2 of 6 runs have finished",
    ]


def test_runs_that_differ_in_more_than_the_seed_are_rows_of_their_own(tmp_path, sweep_directory):
    folder = sweep_directory(tmp_path / "sweep", "steps=100+400,seeds=1", name="masked_or_causal")
    found = minimal_pairs.write(folder, ["x.jsonl"], score=score)
    names = [f"{WAYS[n]} (duration={steps} steps)" for steps in (100, 400) for n in (0, 1)]
    assert sorted(row["row"] for row in found["rows"]) == sorted(names)


def test_a_run_is_scored_once(tmp_path, caplog):
    caplog.set_level("INFO", "triptych")
    run = tiny_configs.untrained(tmp_path / "run", "encoder")
    data, output = tmp_path / "pairs.jsonl", tmp_path / "out.json"
    rows = [{"sentence_good": f"the cat {n} runs", "sentence_bad": f"cat {n} the"} for n in "abc"]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = minimal_pairs.score_run(run, "pll", [str(data)], 0, output)
    assert len(found) == 3 and {each["file"] for each in found} == {"pairs.jsonl"}
    assert minimal_pairs.score_run(run, "pll", [str(data)], 0, output) == found
    assert "3 of 3 items are known from an earlier command" in caplog.text
