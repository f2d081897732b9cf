"""The analysis of a sweep: rows worked out again, the page, unfinished or unsuitable sweeps, the baseline."""

import base64
import json
import re

import browser
import pytest
from matplotlib.figure import Figure

from studies import baseline, figures, report, results, table, three_ways
from tasks.classification import Classification
from tasks.regression import Regression
from training.config import ConfigError


@pytest.fixture(scope="module")
def whole(tmp_path_factory, sweep_directory, labeled):
    """(folder, results) of a sweep that has finished."""
    folder = sweep_directory(tmp_path_factory.mktemp("whole") / "sweep", "labels=20+200,seeds=3")
    return folder, three_ways.write(folder, lambda task: labeled, sample)


def sample(run):
    """The output of a pretraining run; {} for a decoder."""
    outputs = [[0.25, "the <b>\nname"], [None, f"of {run.name}"]]
    return {} if run.name.startswith("decoder") else {"input": "the [MASK]", "outputs": outputs}


@pytest.fixture
def no_figures(monkeypatch):
    """Leaves out the slow part of a report."""
    monkeypatch.setattr(figures, "panels", lambda results: {})


def test_a_summary_row_is_computed_from_the_cells(whole):
    found = whole[1]
    name = "decoder-size=tiny"
    scores = {
        (c["condition"], c["seed"]): c["test"]
        for c in found["cells"]
        if (c["base_model"], c["label_budget"]) == (name, 20)
    }
    rows = {(r["base_model"], r["label_budget"], r["condition"]): r for r in found["summary"]}
    assert len(rows) == 3 * 2 * 3 and found["num_finished"] == found["num_planned"] == 54
    row, random = rows[name, 20, "pretrained"], rows[name, 20, "random"]
    differences = [scores["pretrained", seed] - scores["random", seed] for seed in (0, 1, 2)]
    mean = sum(scores["pretrained", seed] for seed in (0, 1, 2)) / 3
    assert row["accuracy"]["mean"] == pytest.approx(mean)
    assert row["paired"]["mean"] == pytest.approx(sum(differences) / 3)
    assert row["paired"]["wins"] == sum(d > 0 for d in differences)
    assert (row["learning_rate"], random["learning_rate"]) == (1e-3, 3e-4)
    # 100 steps of the manifest.
    matched = {"tokens": 409600, "parameters": 400000, "flops": 1.5e12, "targets": 64000}
    assert row["matched"] == {"steps": 100, **matched}
    assert random["matched"] == dict.fromkeys(row["matched"], 0) | {"parameters": 400000}
    assert "paired" not in random and "worth" not in random
    assert row["worth"]["count"] == 3 and (row["worth"]["least"], row["worth"]["most"]) == (20, 200)


def test_the_report_is_self_contained_and_complete(whole):
    folder, found = whole[0] / "study", whole[1]
    assert json.loads((folder / "results.json").read_text()) == found and found["format"] == 5
    for name in ("efficiency", "pretraining", "finetuning"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    page = (folder / "report.html").read_text()
    outside = re.findall(r"""(?:src|href)=["']([^"']+)|url\(([^)]+)\)|@import""", page)
    images = [
        src.partition("data:image/svg+xml;base64,") for src, url in outside if src != "data:,"
    ]
    assert all(prefix and not before for before, prefix, _ in images)
    assert all(b"<svg" in base64.b64decode(image) for _, _, image in images)
    assert len(images) == page.count("<img") == 3 + 3 + 6
    for words in ("Encoder-decoder", "bert_style", "fingerprint-of-data", "TF-IDF", "410 k"):
        assert words in page
    assert "three_ways.py:labels=20+200" in page and "has not finished" not in page


def test_the_report_shows_what_the_pretrained_models_write(whole):
    folder, found = whole[0] / "study", whole[1]
    assert list(found["samples"]) == ["encoder-size=tiny", "encoder_decoder-size=tiny"]
    assert list(table.lines(found))[-3:] == [
        "Encoder-decoder: the [MASK]", "  0.250  the <b> name", "  of encoder_decoder-size=tiny",
    ]  # fmt: skip
    page = (folder / "report.html").read_text()
    assert "0.250  the &lt;b&gt; name" in page and "What the pretrained models write" in page
    # The same runs are not sampled again.
    three_ways.write(folder.parent, sample=lambda run: pytest.fail("sampled again"))


def test_text_of_a_sweep_is_escaped_in_the_page(whole):
    page = three_ways.render({**whole[1], "title": "<b>A & B</b>"}, {})
    assert "<h1>&lt;b&gt;A &amp; B&lt;/b&gt;</h1>" in page and "<b>A" not in page


def test_training_loss_is_drawn_if_validation_was_not_evaluated_during_training(whole):
    cells = [dict(c, curves={**c["curves"], "accuracy": []}) for c in whole[1]["cells"]]
    for found, label in (
        ({**whole[1], "cells": cells}, "training loss (nats)"),
        (whole[1], "validation accuracy"),
    ):
        axes = Figure().subplots()
        figures.panels(found)["finetuning"][0][1](axes)
        assert axes.get_ylabel() == label


@pytest.mark.usefixtures("no_figures")
def test_an_unfinished_sweep_has_a_report_and_the_baseline_is_computed_once(
    tmp_path, sweep_directory, labeled
):
    loads = []

    def load_labels(task):
        loads.append(task)
        return labeled

    def first(run):
        return run.folder.endswith("seed=0") or run.program == "train.py"

    arg = "architectures=encoder+decoder,labels=20,finetuning=80_steps,seeds=2"
    folder = sweep_directory(
        tmp_path / "sweep", arg, lambda run: first(run) and "encoder" in run.folder
    )
    found = three_ways.write(folder, load_labels)
    assert (found["num_finished"], found["num_planned"]) == (3, 12)
    assert list(found["pretraining"]) == ["encoder-size=tiny"] and len(found["summary"]) == 3
    assert "3 of 12 finetuning runs" in (folder / "study" / "report.html").read_text()
    sweep_directory(folder, arg)
    found = three_ways.write(folder, load_labels)
    assert found["num_finished"] == 12 and len(found["pretraining"]) == 2 and len(loads) == 1
    # Runs that are no longer planned are left out; other seeds need other label subsets.
    found = three_ways.write(sweep_directory(folder, f"{arg[:-1]}1"), load_labels)
    assert found["num_finished"] == 6 and len(loads) == 2
    # So do runs of corrected labels.
    changed = folder / found["cells"][0]["folder"] / "manifest.json"
    changed.write_text(changed.read_text().replace("fingerprint-of-data", "other labels"))
    with pytest.raises(ConfigError, match="have different labels, whose files changed"):
        three_ways.write(folder, load_labels)
    for file in (folder / "finetune").rglob("manifest.json"):
        file.write_text(file.read_text().replace("fingerprint-of-data", "other labels"))
    assert three_ways.write(folder, load_labels)["label_fingerprints"] == ["other labels"]
    assert len(loads) == 3


def test_a_directory_that_cannot_be_analyzed_is_one_line(tmp_path, sweep_directory, labeled):
    with pytest.raises(ConfigError, match="is not a sweep that pretrains and finetunes"):
        three_ways.write(tmp_path)
    arg = "architectures=encoder,labels=20,finetuning=80_steps,seeds=1"
    folder = sweep_directory(tmp_path / "sweep", arg, lambda run: run.program == "train.py")
    with pytest.raises(ConfigError, match="no finetuning run"):
        three_ways.write(folder)
    # The learning rates are tuned in the same directory, with the same pretraining run.
    trained = sorted((folder / "pretrain").iterdir())
    sweep_directory(folder, f"{arg},tune=1")
    assert sorted((folder / "pretrain").iterdir()) == trained
    # Tuning runs have no scores on the test split.
    for run in (folder / "finetune").rglob("scores.json"):
        run.write_text('{"step": 100, "validation/accuracy": 0.5}')
    with pytest.raises(ConfigError, match="has no test/accuracy"):
        three_ways.write(folder)


@pytest.mark.usefixtures("no_figures")
def test_of_several_learning_rates_a_row_has_the_best_on_validation(
    tmp_path, sweep_directory, labeled
):
    arg = "architectures=encoder,labels=20,finetuning=80_steps,seeds=2,lr=1e-4+1e-3"
    folder = sweep_directory(tmp_path / "sweep", arg)
    best = {}
    for file in (folder / "finetune").rglob("scores.json"):
        run = file.parent.relative_to(folder).as_posix()
        is_random, is_low = "init=random" in run, "learning_rate=0.0001" in run
        accuracy = 0.7 if is_random == is_low else 0.6  # random likes the low one
        test = 0.1 if accuracy == 0.7 else 0.9  # the test split does not choose
        scores = {"step": 100, "validation/accuracy": accuracy, "test/accuracy": test}
        file.write_text(json.dumps(scores))
        best[run] = accuracy == 0.7
    assert sum(best.values()) == 6 and len(best) == 12
    found = three_ways.write(folder, lambda task: labeled, sample)
    assert (found["num_finished"], found["num_planned"], len(found["cells"])) == (12, 12, 6)
    rates = {row["condition"]: row["learning_rate"] for row in found["summary"]}
    assert rates == {"random": 1e-4, "embeddings": 1e-3, "pretrained": 1e-3}
    assert all(row["accuracy"]["mean"] == pytest.approx(0.1) for row in found["summary"])
    assert "the best mean validation accuracy of 0.0001, 0.001" in list(table.notes(found))[-2]


@pytest.mark.usefixtures("no_figures")
def test_word_vectors_are_a_condition_and_text_and_task_are_arguments(
    tmp_path, sweep_directory, labeled
):
    arg = (
        "architectures=decoder,labels=20,finetuning=80_steps,seeds=2,vectors=runs/sg,"
        "source=text:books.txt,config=configs/finetune/ag_news.py"
    )
    folder = sweep_directory(tmp_path / "sweep", arg)
    found = three_ways.write(folder, lambda task: labeled, sample)
    conditions = ["random", "vectors", "embeddings", "pretrained"]
    assert found["plan"]["conditions"] == conditions
    assert [row["condition"] for row in found["summary"]] == conditions
    assert found["summary"][1]["paired"]["count"] == 2
    configs = [run["config"] for run in json.loads((folder / "configs.json").read_text()).values()]
    assert {run["data"]["source"] for run in configs if "objective" in run} == {"text:books.txt"}
    finetuned = [run for run in configs if "task" in run]
    assert {run["task"]["source"] for run in finetuned} == {"tfds:ag_news_subset"}
    assert [run["init"] for run in finetuned if run.get("embeddings_from")] == ["embeddings"] * 2


def test_the_shipped_sweep_tunes_with_other_seeds_and_never_reads_the_test_split(
    tmp_path, sweep_directory
):
    folder = sweep_directory(tmp_path / "sweep", "tune=2", lambda run: False)
    runs = [
        each["config"]
        for each in json.loads((folder / "configs.json").read_text()).values()
        if each["program"] == "finetune.py"
    ]
    assert {run["seed"]["data"] for run in runs} == {1000, 1001}
    assert not any(run["evaluation"]["test"] for run in runs)
    tried = {}
    for run in runs:
        group = run["init_from"], run["init"], run["task"]["num_train_examples"]
        tried.setdefault(group, []).append(run["optimizer"]["learning_rate"])
    assert len(tried) == 18 and len({tuple(sorted(rates)) for rates in tried.values()}) == 1


def test_a_long_curve_is_thinned_out_by_means():
    points = [[step, float(step)] for step in range(1, 8)]
    assert results.thin_out(points, 4) == [[2, 1.5], [4, 3.5], [6, 5.5], [7, 7.0]]
    assert results.thin_out(points, 7) == points and results.thin_out([], 4) == []


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
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.tsv").write_text("text\tvalue\none\t1.5\ntwo\t2.5\n")
    regression = Regression(source=f"files:{tmp_path}/*.tsv", label_column="value")
    with pytest.raises(ConfigError, match="regression.*texts with one class each"):
        baseline.load(regression)


def test_the_pages_of_several_sweeps_are_one_page(whole, tmp_path, capsys):
    folder, file = whole[0], tmp_path / "all.html"
    (tmp_path / "other").mkdir()
    text = (folder / "study" / "report.html").read_text()
    (tmp_path / "other" / "report.html").write_text(
        text.replace("three ways</h1>", "A &amp; B</h1>")
    )
    report.main([str(folder), str(tmp_path / "other"), f"--output={file}", "--title=All of it"])
    page = file.read_text()
    assert "<h1>All of it</h1>" in page and page.count("<style>") == 1 and page.count("<h1>") == 1
    assert page.count("<img") == 2 * text.count("<img")
    assert 'href="#part-2">Pretraining A &amp; B</a>' in page
    assert re.findall(r"""(?:src|href)=["'](?!data:|#part)""", page) == []
    assert capsys.readouterr().out == f"wrote {file}\n"
    for given, message in (
        (tmp_path / "none", "has no report.html"),
        (tmp_path, "has no report.html"),
    ):
        with pytest.raises(ConfigError, match=message):
            report.main([str(given), f"--output={file}"])
    with pytest.raises(ConfigError, match="expected a file in a directory that exists"):
        report.main([str(folder), f"--output={tmp_path}/none/all.html"])
    (tmp_path / "report.html").write_text("<p>something else")
    with pytest.raises(ConfigError, match="is not a page of this project"):
        report.main([str(tmp_path), f"--output={file}"])


@browser.needed
@pytest.mark.parametrize("width", [400, 1200])
def test_the_page_is_readable_in_a_browser(whole, tmp_path, width):
    file = tmp_path / "all.html"
    report.main([str(whole[0]), str(whole[0]), f"--output={file}"])
    found = browser.measure(file, width)
    assert found["wide"] <= found["view"] <= width and found["small"] >= 13
    assert found["figures"] == 2 * 12 and found["loaded"] and found["seen"]
