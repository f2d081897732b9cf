"""A study end to end over stand-in runs: resumed where it stopped, reported as it was."""

import json
import re

import pytest

from studies import report, three_ways, tune
from training.config import ConfigError


def run(settings, folder, runs, labelled):
    return three_ways.run(settings, folder, (runs.pretrain, runs.finetune), lambda config: labelled)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, settings, fakes, labelled):
    """(folder, runs, results) of a study that nothing interrupted."""
    folder, runs = tmp_path_factory.mktemp("whole") / "study", fakes()
    return folder, runs, run(settings(), folder, runs, labelled)


def test_an_interrupted_study_goes_on_where_it_stopped(whole, tmp_path, settings, fakes, labelled):
    _, uninterrupted, expected = whole
    first, second = fakes(fail_at=23), fakes()
    with pytest.raises(KeyboardInterrupt):
        run(settings(), tmp_path / "cut", first, labelled)
    partial = report.load(tmp_path / "cut")
    assert (partial["complete"], partial["cells_done"]) == (False, 22)
    found = run(settings(), tmp_path / "cut", second, labelled)
    assert len(uninterrupted.finetuned) == len(first.finetuned) - 1 + len(second.finetuned) == 54
    assert first.pretrained + second.pretrained == uninterrupted.pretrained
    assert found["summary"] == expected["summary"] and found["complete"]


def test_a_study_may_grow_and_nothing_else(tmp_path, settings, fakes, labelled):
    small = settings(seeds=(0,), architectures=("encoder",))
    run(small, tmp_path / "study", fakes(), labelled)
    more = fakes()
    run(settings(seeds=(0, 1), architectures=("encoder",)), tmp_path / "study", more, labelled)
    assert len(more.finetuned) == 3 * 2 and more.pretrained == []
    other = settings(architectures=("encoder",), pretrain=("training.length=64",))
    with pytest.raises(ValueError, match=r"another config: pretrain was .*use another --workdir"):
        run(other, tmp_path / "study", fakes(), labelled)
    faster = settings(
        architectures=("encoder",), rates=(("encoder", "none", 0, 0.5), *small.rates[1:])
    )
    with pytest.raises(ValueError, match=r"finetuned at a rate of 0.001, rates now say 0.5"):
        run(faster, tmp_path / "study", fakes(), labelled)


def test_summary_row_is_what_the_cells_say(whole):
    found = whole[-1]
    scores = {
        (c["arm"], c["seed"]): c["test"]
        for c in found["cells"]
        if (c["architecture"], c["budget"]) == ("decoder", 20)
    }
    (row,) = (
        r
        for r in found["summary"]
        if (r["architecture"], r["budget"], r["arm"]) == ("decoder", 20, "all")
    )
    differences = [scores["all", seed] - scores["none", seed] for seed in (0, 1, 2)]
    assert row["accuracy"]["mean"] == pytest.approx(sum(scores["all", s] for s in (0, 1, 2)) / 3)
    assert row["paired"]["mean"] == pytest.approx(sum(differences) / 3)
    assert row["paired"]["won"] == sum(d > 0 for d in differences)
    # 100 updates of the stand-in's manifest.
    assert row["matched"] == {
        "tokens": 409600,
        "parameters": 400000,
        "flops": 1.5e12,
        "targets": 64000,
    }
    nothing = next(r for r in found["summary"] if r["arm"] == "none")
    assert nothing["matched"] == {"tokens": 0, "parameters": 400000, "flops": 0, "targets": 0}
    assert "paired" not in nothing


def test_report_needs_nothing_else_and_says_everything(whole):
    folder, _, found = whole
    assert json.loads((folder / "results.json").read_text()) == found
    for name in ("efficiency", "pretraining", "finetuning"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    page = (folder / "report.html").read_text()
    outside = re.findall(r"""(?:src|href)=["']([^"']+)|url\(([^)]+)\)|@import""", page)
    assert all(one.startswith("#") for pair in outside for one in pair if one)
    assert page.count("<svg") == 3 + 3 + 6
    for words in ("Encoder-decoder", "span_corruption", "fingerprint-of-data", "TF-IDF", "410 k"):
        assert words in page
    assert "--config=x.py" in page and "not finished" not in page
    assert not (folder / "finetune/encoder/all/20/0/checkpoints").exists()


def test_without_validation_on_the_way_the_training_loss_is_drawn(whole):
    from studies import figures

    cells = [dict(c, curves={**c["curves"], "accuracy": []}) for c in whole[-1]["cells"]]
    _, draw = figures.panels({**whole[-1], "cells": cells})["finetuning"][0]
    assert "training loss" in figures.svg(draw)
    _, draw = figures.panels(whole[-1])["finetuning"][0]
    assert "validation accuracy" in figures.svg(draw)


def test_report_of_nothing_is_refused(tmp_path, settings, fakes, labelled):
    with pytest.raises(ConfigError, match="holds no study"):
        report.load(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(settings(), tmp_path / "study", fakes(fail_at=1), labelled)
    with pytest.raises(ConfigError, match="no finetuning run"):
        report.load(tmp_path / "study")


def test_tuning_gives_every_arm_the_same_grid_and_never_reads_the_test_split(
    tmp_path, settings, fakes
):
    study = settings(rates=(), grid=(1e-4, 1e-3, 1e-2), budgets=(20,), architectures=("encoder",))
    runs = fakes()
    peak = {"none": 1e-2, "embeddings": 1e-3, "all": 1e-4}

    def finetune(config, workdir):
        result = runs.finetune(config, workdir)
        right = float(config.optimizer.learning_rate) == peak[config.transfer]
        result.metrics.update(
            {"validation/accuracy": 0.5 + 0.1 * right, "test/accuracy": 0.9 - right}
        )
        return result

    rows = tune.run(study, tmp_path / "tuned", (runs.pretrain, finetune))
    assert rows == tuple(("encoder", arm, 20, rate) for arm, rate in peak.items())
    tried = {
        arm: sorted(
            (r.optimizer.learning_rate, r.seed.order) for r in runs.finetuned if r.transfer == arm
        )
        for arm in peak
    }
    assert tried["none"] == tried["embeddings"] == tried["all"] and len(tried["all"]) == 6
    assert {seed for _, seed in tried["all"]} == {1000, 1001}
    lines = json.loads((tmp_path / "tuned" / "tune.json").read_text())
    assert [line["at_the_end"] for line in lines] == [True, False, True]


def test_baseline_learns_from_the_subset_alone(labelled):
    from studies import baselines

    asked = []

    def subset(labels, budget, seed):
        asked.append((budget, seed))
        return [i for i, label in enumerate(labels) if label != "xml"][:budget]

    found = baselines.run(labelled.train, labelled.validation, labelled.test, subset, (60,), (0, 1))
    assert sorted(set(asked)) == [(60, 0), (60, 1)]
    known = sum(label != "xml" for label in labelled.test[1]) / 200
    assert found["cells"][0]["test"] == pytest.approx(known)
    frequent = max(set(labelled.train[1]), key=labelled.train[1].count)
    assert found["majority"] == labelled.test[1].count(frequent) / 200
    assert (found["classes"], found["test"]) == (4, 200)
