"""Which head finetuning keeps of the run that it starts from: one with the same task, labels and form."""

import dataclasses
import json
import re

import numpy as np
import pytest
import tiny_configs

import finetune
from tasks.classification import Classification
from training.init_head import plan_head

HEAD = "heads/classification/output/kernel"
PARAMS = {HEAD: np.zeros((4, 2)), "encoder/layer_0/mlp/in/kernel": np.zeros((4, 4))}


def run_of(folder, labels=("dry", "wet"), name="classification", imported=None, **options):
    """A run directory without parameters: of finetune.py, or imported with these entries."""
    folder.mkdir(parents=True, exist_ok=True)
    task = {"name": name, **dataclasses.asdict(Classification(**options))}
    config = {"kind": "finetune", "config": {"task": task}, "model": {}}
    if imported is not None:
        config["config"] = {"huggingface": "somewhere"}
    manifest = {"labels": list(labels)} | ({} if imported is None else {"huggingface": imported})
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def task_of(labels=("dry", "wet"), architecture="encoder", **options):
    """What plan_head reads of a loaded task."""
    model = type("Model", (), {"architecture": architecture})
    found = {"name": "classification", "label_names": labels, "model_config": model}
    return type("Loaded", (), {**found, "task": Classification(**options)})


PUBLISHED = {"head": "classification", "head_needs": {"pooler": True, "pooling": "cls"}}


@pytest.mark.parametrize(
    ("source", "task", "line"),
    [
        ({}, {}, "head kept: same task and labels"),
        ({"labels": ("wet", "dry")}, {}, "head kept: same task and labels, in another order"),
        ({"labels": ()}, {"labels": ()}, "head kept: same task and labels"),
        ({}, {"labels": ("dry", "ice", "wet")}, "head new: labels differ (this task adds ice)"),
        ({"labels": ("dry", "ice", "wet")}, {}, "head new: labels differ (this task lacks ice)"),
        ({"labels": ("no", "yes")}, {}, "head new: labels differ (no, yes there; dry, wet here)"),
        ({"name": "regression"}, {}, "head new: the head of {} is for config.task.name=regression"),
        ({"imported": {}}, {}, "head new: {} has no head of a task"),
        ({"imported": {"head": "multi_label", "head_needs": {}}}, {},
         "head new: the head of {} is for config.task.name=multi_label"),
        ({"imported": PUBLISHED}, {"pooler": True}, "head kept: same task and labels"),
        ({"imported": PUBLISHED}, {}, "head new: config.task.pooler=True would keep it"),
        ({}, {"pooling": "mean"}, "head new: config.task.pooling='cls' would keep it"),
        ({"pooling": "cls"}, {"pooling": "auto"}, "head kept: same task and labels"),
        ({"pooler": True, "pooler_activation": "relu"}, {"pooler": True},
         "head new: config.task.pooler_activation='relu' would keep it"),
        ({"pooler_activation": "relu"}, {}, "head kept: same task and labels"),  # unused
        ({"decoder_input": "start"}, {}, "head kept: same task and labels"),  # unused
        ({"decoder_input": "start"}, {"architecture": "encoder_decoder"},
         "head new: config.task.decoder_input='start' would keep it"),
        ({"metric": "macro_f1", "max_seq_len": 8}, {}, "head kept: same task and labels"),
    ],
)  # fmt: skip
def test_a_head_is_kept_if_task_labels_and_form_agree_and_the_log_says_so(
    tmp_path, source, task, line
):
    plan = plan_head(run_of(tmp_path / "run", **source), task_of(**task), PARAMS, PARAMS)
    assert plan.line == line.format(tmp_path / "run")
    assert plan.is_kept == line.startswith("head kept") and plan.is_permuted == ("order" in line)


def test_allow_missing_gives_a_new_head_and_so_do_other_parameters(tmp_path):
    run, head = run_of(tmp_path / "run"), task_of()
    plan = plan_head(run, head, PARAMS, PARAMS, ("heads/classification/.*",))
    assert plan.line == "head new: config.restore.allow_missing names it" and not plan.is_kept
    assert plan_head(run, head, PARAMS, PARAMS, ("encoder/.*",)).is_kept
    # no head of its own
    assert plan_head(run, head, {"heads/lm/bias": np.zeros(4)}, PARAMS).line == ""
    for other in ({HEAD: np.zeros((5, 2))}, {**PARAMS, "heads/classification/x": np.zeros(1)}):
        plan = plan_head(run, head, PARAMS, other)
        assert plan.line.startswith("head new: its parameters differ (heads/classification/")


def test_finetuning_a_finetuned_run_keeps_its_head_or_says_why_not(tmp_path, caplog):
    caplog.set_level("INFO", "triptych")
    start = tiny_configs.untrained(tmp_path / "start", "encoder")
    first = tmp_path / "first"
    finetune.run(tiny_configs.finetuning(tmp_path, start), str(first))
    assert f"head new: {start} has no head of a task" in caplog.text
    lines = "\n".join(caplog.messages).partition("\nstep ")[0].splitlines()
    lines = [line for line in lines if not line.startswith(("compil", "vocabulary"))]
    assert lines[1].startswith("fresh: ") and lines[2].startswith("dropped: ") and len(lines) <= 10
    trained = tiny_configs.read_params(first, 2)

    def head(name, **overrides):
        caplog.clear()
        config = tiny_configs.finetuning(
            tmp_path, first, training__duration="1 steps", optimizer__warmup="0 steps",
            evaluation__select="last", evaluation__test=False, **overrides,
        )  # fmt: skip
        finetune.run(config, str(tmp_path / name))
        found = tiny_configs.read_params(tmp_path / name, 0)
        body = "encoder/layer_0/mlp/in/kernel"
        np.testing.assert_array_equal(found[body], trained[body])
        return found[HEAD]

    np.testing.assert_array_equal(head("same"), trained[HEAD])
    assert "head kept: same task and labels" in caplog.text
    fresh = head("fresh", restore__allow_missing="('heads/classification/.*',)")
    assert "head new: config.restore.allow_missing names it" in caplog.text
    assert fresh.shape == trained[HEAD].shape and np.any(fresh != trained[HEAD])
    for file in ("train", "validation", "test"):
        text = (tmp_path / f"{file}.tsv").read_text()
        new = [re.sub(r"\t(dry|wet)\t", "\tice\t", row, count=1) for row in text.splitlines()[1:4]]
        (tmp_path / f"{file}.tsv").write_text(text + "\n".join(new) + "\n")
    assert head("more").shape == (32, 3)
    assert "head new: labels differ (this task adds ice)" in caplog.text
