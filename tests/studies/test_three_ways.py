"""A study end to end over stand-in runs: resumed, extended, tuned and reported."""

import base64
import json
import logging
import re
import types

import pytest
from matplotlib.figure import Figure

from studies import baseline, figures, report, three_ways, tune
from tasks.classification import Classification
from training.config import ConfigError


def run(study, folder, runs, labeled):
    return three_ways.run(study, folder, (runs.pretrain, runs.finetune), lambda task: labeled)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, settings, fakes, labeled):
    """(folder, runs, results) of a study that was not interrupted."""
    folder, runs = tmp_path_factory.mktemp("whole") / "study", fakes()
    return folder, runs, run(settings(), folder, runs, labeled)


@pytest.fixture
def no_figures(monkeypatch):
    """Leaves out the slow part of a report."""
    monkeypatch.setattr(figures, "panels", lambda results: {})


@pytest.mark.usefixtures("no_figures")
def test_an_interrupted_study_resumes(whole, tmp_path, settings, fakes, labeled):
    _, uninterrupted, expected = whole
    first, second = fakes(fail_at=22), fakes()
    with pytest.raises(KeyboardInterrupt):
        run(settings(), tmp_path / "cut", first, labeled)
    partial = report.load(tmp_path / "cut")
    assert (partial["complete"], partial["num_finished"]) == (False, 21)
    assert "21 of 54 finetuning runs" in report.render(partial, {})
    found = run(settings(), tmp_path / "cut", second, labeled)
    assert len(uninterrupted.finetuned) == len(first.finetuned) - 1 + len(second.finetuned) == 54
    assert first.pretrained + second.pretrained == uninterrupted.pretrained
    assert found["summary"] == expected["summary"] and found["complete"]


@pytest.mark.usefixtures("no_figures")
def test_a_study_may_be_extended_but_not_changed(tmp_path, settings, fakes, labeled):
    folder = tmp_path / "study"
    run(settings(seeds=(0,), architectures=("encoder",)), folder, fakes(), labeled)
    more = fakes()
    plan = settings(seeds=(0, 1), architectures=("encoder",), label_budgets=(20, 50, 200))
    run(plan, folder, more, labeled)
    assert len(more.finetuned) == 3 * (1 + 3) and more.pretrained == []
    nothing, saved = fakes(), (folder / "study.json").read_text()
    for changed, words in (
        ({"pretrain_overrides": ("training.seq_len=64",)}, "training.seq_len was 128, is 64"),
        ({"finetune_overrides": ("task.pooler=true",)}, "task.pooler was False, is True"),
    ):
        with pytest.raises(ConfigError, match=rf"another config: {words}; use another --workdir"):
            run(settings(architectures=("encoder",), **changed), folder, nothing, labeled)
    assert (nothing.pretrained, nothing.finetuned) == ([], [])
    assert (folder / "study.json").read_text() == saved


@pytest.mark.usefixtures("no_figures")
def test_a_new_learning_rate_reruns_its_cells_and_leaves_the_old_ones_out(
    tmp_path, settings, fakes, labeled
):
    study = settings(architectures=("encoder",))
    first = run(study, tmp_path / "study", fakes(), labeled)
    rows = (("encoder", "random", 200, 0.5), *study.learning_rates)
    again = fakes()
    found = run(
        settings(architectures=("encoder",), learning_rates=rows),
        tmp_path / "study",
        again,
        labeled,
    )
    assert [(c.init, c.task.num_train_examples) for c in again.finetuned] == [("random", 200)] * 3
    assert len(found["cells"]) == len(first["cells"]) == 18
    learning_rates = {
        (c["condition"], c["label_budget"], c["learning_rate"]) for c in found["cells"]
    }
    assert len(learning_rates) == 6 and ("random", 200, 0.5) in learning_rates


def test_a_mistake_in_a_config_is_found_before_anything_runs(tmp_path, settings, fakes, labeled):
    runs = fakes()
    with pytest.raises(ConfigError, match="unknown key config.task.poolr"):
        run(settings(finetune_overrides=("task.poolr=true",)), tmp_path / "study", runs, labeled)
    assert runs.pretrained == [] and not (tmp_path / "study").exists()


@pytest.mark.usefixtures("no_figures")
def test_progress_counts_runs_and_estimates_the_time_left(
    tmp_path, settings, fakes, labeled, caplog, monkeypatch
):
    monkeypatch.setattr(logging.getLogger("triptych"), "propagate", True)  # as before cli.main
    small = settings(architectures=("encoder",), label_budgets=(20,), seeds=(0,))
    run(small, tmp_path / "study", fakes(), labeled)
    plan = settings(architectures=("encoder",), label_budgets=(20,), seeds=(0, 1))
    run(plan, tmp_path / "study", fakes(), labeled)
    text = caplog.text
    for line in (
        "1 pretraining runs, 0 finished", "3 finetuning runs, 0 finished",
        "1 pretraining runs, 1 finished", "6 finetuning runs, 3 finished",
    ):  # fmt: skip
        assert line in text
    assert re.search(r"\[  1/1\] encoder +validation loss \d\.\d{3} .*eta 0:00:00 \+", text)
    assert re.search(
        r"\[  6/6\] encoder · pretrained · 20 labels .*test 0\.\d{3} .*eta 0:00:00", text
    )


def test_a_summary_row_is_computed_from_the_cells(whole):
    found = whole[-1]
    scores = {
        (c["condition"], c["seed"]): c["test"]
        for c in found["cells"]
        if (c["base_model"], c["label_budget"]) == ("decoder", 20)
    }
    row, random = (
        next(
            r
            for r in found["summary"]
            if (r["base_model"], r["label_budget"], r["condition"]) == ("decoder", 20, condition)
        )
        for condition in ("pretrained", "random")
    )
    differences = [scores["pretrained", seed] - scores["random", seed] for seed in (0, 1, 2)]
    mean = sum(scores["pretrained", seed] for seed in (0, 1, 2)) / 3
    assert row["accuracy"]["mean"] == pytest.approx(mean)
    assert row["paired"]["mean"] == pytest.approx(sum(differences) / 3)
    assert row["paired"]["wins"] == sum(d > 0 for d in differences)
    # 100 steps of the stand-in's manifest.
    matched = {"tokens": 409600, "parameters": 400000, "flops": 1.5e12, "targets": 64000}
    assert row["matched"] == matched
    assert random["matched"] == {"tokens": 0, "parameters": 400000, "flops": 0, "targets": 0}
    assert "paired" not in random


def test_the_report_is_self_contained_and_complete(whole):
    folder, _, found = whole
    assert json.loads((folder / "results.json").read_text()) == found and found["format"] == 2
    for name in ("efficiency", "pretraining", "finetuning"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    page = (folder / "report.html").read_text()
    outside = re.findall(r"""(?:src|href)=["']([^"']+)|url\(([^)]+)\)|@import""", page)
    images = [src.partition("data:image/svg+xml;base64,") for src, url in outside]
    assert all(prefix and not before for before, prefix, _ in images)
    assert all(b"<svg" in base64.b64decode(image) for _, _, image in images)
    assert len(images) == page.count("<img") == 3 + 3 + 6
    for words in ("Encoder-decoder", "span_corruption", "fingerprint-of-data", "TF-IDF", "410 k"):
        assert words in page
    assert "--config=x.py" in page and "has not finished" not in page
    assert not (folder / "finetune/encoder/pretrained/20/0.001/seed=0/checkpoints").exists()


def test_text_of_a_plan_is_escaped_in_the_page(whole):
    found = {**whole[-1], "config": {**whole[-1]["config"], "title": "<b>A & B</b>"}}
    page = report.render(found, {})
    assert "<h1>&lt;b&gt;A &amp; B&lt;/b&gt;</h1>" in page and "<b>A" not in page


def test_training_loss_is_drawn_if_validation_was_not_evaluated_during_training(whole):
    cells = [dict(c, curves={**c["curves"], "accuracy": []}) for c in whole[-1]["cells"]]
    for results, label in (
        ({**whole[-1], "cells": cells}, "training loss (nats)"),
        (whole[-1], "validation accuracy"),
    ):
        axes = Figure().subplots()
        figures.panels(results)["finetuning"][0][1](axes)
        assert axes.get_ylabel() == label


def test_a_report_without_finished_runs_is_refused(tmp_path, settings, fakes, labeled):
    with pytest.raises(ConfigError, match="not the directory of a study"):
        report.load(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(settings(), tmp_path / "study", fakes(fail_at=1), labeled)
    with pytest.raises(ConfigError, match="no finetuning run"):
        report.load(tmp_path / "study")


def test_tuning_gives_every_condition_the_same_grid_and_never_reads_the_test_split(
    tmp_path, settings, fakes
):
    study = settings(
        learning_rates=(), learning_rate_grid=(1e-4, 1e-3, 1e-2), tuning_seeds=(1000, 1001),
        label_budgets=(20,), architectures=("encoder",),
    )  # fmt: skip
    runs = fakes()
    best = {"random": 1e-2, "embeddings": 1e-3, "pretrained": 1e-4}

    def scores(config):
        is_best = config.optimizer.learning_rate == best[config.init]
        return {"validation/accuracy": 0.5 + 0.1 * is_best, "test/accuracy": 0.9 - is_best}

    runs.scores = scores
    rows = tune.run(study, tmp_path / "tuned", (runs.pretrain, runs.finetune))
    assert rows == tuple(("encoder", condition, 20, lr) for condition, lr in best.items())
    tried = {
        condition: sorted(
            (r.optimizer.learning_rate, r.seed.data) for r in runs.finetuned if r.init == condition
        )
        for condition in best
    }
    assert tried["random"] == tried["embeddings"] == tried["pretrained"]
    assert len(tried["random"]) == 6 and {seed for _, seed in tried["random"]} == {1000, 1001}
    choices = json.loads((tmp_path / "tuned" / "tune.json").read_text())
    assert [choice["is_at_edge"] for choice in choices] == [True, False, True]


def test_the_baseline_learns_from_the_subset_alone(labeled, monkeypatch):
    asked, train, test = [], labeled["train"].label, labeled["test"].label

    def subset(classes, label_budget, seed):
        asked.append((label_budget, seed))
        assert [sorted(set(train))[c] for c in classes] == train
        return [i for i, label in enumerate(train) if label != "xml"][:label_budget]

    monkeypatch.setattr(baseline.example_order, "stratified_subset", subset)
    found = baseline.run(labeled, (60,), (0, 1))
    assert asked == [(60, 0), (60, 1)]
    known = sum(label != "xml" for label in test) / 200
    assert found["cells"][0]["test"] == pytest.approx(known)
    most_frequent = max(set(train), key=train.count)
    assert found["majority"] == test.count(most_frequent) / 200
    assert (found["num_classes"], found["num_test"]) == (4, 200)


def test_the_baseline_reads_pairs_and_refuses_what_cannot_be_compared(tmp_path):
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.tsv").write_text("a\tb\tlabel\none\ttwo\tx\nsix\tten\ty\n")
    task = Classification(source=f"files:{tmp_path}/*.tsv", text_column="a", text_pair_column="b")
    assert baseline.texts(baseline.load(task)["test"]) == ["one\ntwo", "six\nten"]
    (tmp_path / "test.tsv").unlink()
    with pytest.raises(ConfigError, match="no labeled test split"):
        baseline.load(task)
    with pytest.raises(ConfigError, match="expected classification"):
        baseline.load(types.SimpleNamespace(name="regression"))
