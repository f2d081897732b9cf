"""Finetuning end to end: what each arm takes over, what freezing freezes, what resumes, what is refused."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import shrink

import finetune
import train
from tasks import metrics as scores
from training import checkpoint, loop, rules
from training import mesh as meshes
from training.config import ConfigError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("finetune")
    for architecture in ("encoder", "decoder", "encoder_decoder"):
        config = shrink.pretraining(made, f"configs/{architecture}.py", training__duration="4 steps",
                                    checkpoint__every="4 steps")  # fmt: skip
        train.run(config, str(made / architecture))
    return made


def parameters(run, step):
    """{path: array} of a checkpoint."""
    mesh = meshes.make(meshes.MeshConfig(), jax.devices()[:1])
    shapes = checkpoint.params_metadata(run, step)
    target = {k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=meshes.replicated(mesh))
              for k, v in shapes.items()}  # fmt: skip
    tree = checkpoint.read_params(pathlib.Path(run) / "checkpoints", step, rules.merge(target, {}))
    return {k: np.asarray(v) for k, v in rules.paths(tree).items()}


@pytest.mark.parametrize("architecture", ["encoder", "decoder", "encoder_decoder"])
def test_each_arm_takes_over_what_it_says(folder, architecture):
    pretrained = parameters(folder / architecture, 4)
    for arm in ("all", "embeddings", "none"):
        run = folder / f"{architecture}-{arm}"
        result = finetune.run(
            shrink.finetuning(folder, folder / architecture, transfer=arm), str(run)
        )
        assert 0 <= result.metrics["test/accuracy"] <= 1
        first = parameters(run, 0)
        for name, value in first.items():
            taken = (arm == "all" and name in pretrained) or (
                arm == "embeddings" and "embed/tokens" in name
            )
            constant = np.ptp(value) == 0  # norms and biases start alike everywhere
            if taken:
                np.testing.assert_array_equal(value, pretrained[name], err_msg=name)
            elif name in pretrained and not constant:
                assert not np.array_equal(value, pretrained[name]), name


def test_pairs_and_csv_and_jsonl_are_classified_too(folder, tmp_path):
    shrink.labelled(tmp_path, pairs=True)
    rows = (tmp_path / "train.tsv").read_text().splitlines()
    keys = rows[0].split("\t")
    (tmp_path / "train.jsonl").write_text(
        "".join(
            json.dumps(dict(zip(keys, row.split("\t"), strict=True))) + "\n" for row in rows[1:]
        )
    )
    (tmp_path / "validation.csv").write_text(
        (tmp_path / "validation.tsv").read_text().replace("\t", ",")
    )
    config = shrink.finetuning(
        folder, folder / "encoder", task__source=f"files:{tmp_path}/{{train.jsonl,validation.csv}}",
        task__text_pair="other",
    )  # fmt: skip
    result = finetune.run(config, str(tmp_path / "run"))
    assert "validation/accuracy" in result.metrics and "test/accuracy" not in result.metrics


def test_a_probe_trains_the_head_alone(folder):
    run = folder / "probe"
    config = shrink.finetuning(folder, folder / "decoder", freeze="('embed/.*', 'decoder/.*')")
    finetune.run(config, str(run))
    before, after = parameters(run, 0), parameters(run, 2)
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved == {"heads/classification/output/kernel", "heads/classification/output/bias"}


def test_a_finished_run_started_again_gives_the_same_scores(folder):
    config = shrink.finetuning(folder, folder / "decoder")
    first = finetune.run(config, str(folder / "again"))
    lines = shrink.metrics(folder / "again")
    second = finetune.run(config, str(folder / "again"))
    assert second.metrics == first.metrics
    assert shrink.metrics(folder / "again") == lines


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
def test_the_best_parameters_are_kept_and_scored_and_not_the_last(folder, monkeypatch, cut):
    """The validation metric is made to peak at update 3 of 6; a crash after update 4 changes nothing."""
    peak, evaluate, loop_run = [0.1, 0.2, 0.3, 0.9, 0.4, 0.2, 0.1], scores.evaluate, loop.run
    run = folder / f"best-{cut}"
    config = shrink.finetuning(folder, folder / "decoder", training__duration="6 steps",
                               checkpoint__every="6 steps", optimizer__warmup="1 step")  # fmt: skip

    def told(labels, logits):
        return evaluate(labels, logits) | {"accuracy": peak.pop(0) if peak else 0.0}

    def crashing(*arguments, save, **keywords):
        def save_then_crash(state, measured):
            save(state, measured)
            if int(state.step) == 4:
                raise RuntimeError("crash")

        return loop_run(*arguments, save=save_then_crash, **keywords)

    monkeypatch.setattr(scores, "evaluate", told)
    if cut:
        monkeypatch.setattr(loop, "run", crashing)
        with pytest.raises(RuntimeError, match="crash"):
            finetune.run(config, str(run))
        monkeypatch.setattr(loop, "run", loop_run)
    finetune.run(config, str(run))
    assert json.loads((run / "scores.json").read_text())["step"] == 3
    kept = {int(p.name) for p in (run / "checkpoints").iterdir() if p.name.isdigit()}
    assert {0, 3, 6} <= kept


def test_a_begun_run_needs_the_pretrained_one_no_more(folder, tmp_path):
    shutil.copytree(folder / "decoder", tmp_path / "source")
    config = shrink.finetuning(folder, tmp_path / "source")
    first = finetune.run(config, str(tmp_path / "run"))
    shutil.rmtree(tmp_path / "source")
    assert finetune.run(config, str(tmp_path / "run")).metrics == first.metrics


def test_labels_that_changed_since_the_run_began_are_refused(folder, tmp_path):
    shrink.labelled(tmp_path)
    source = f"files:{tmp_path}/{{train,validation,test}}.tsv"
    config = shrink.finetuning(folder, folder / "decoder", task__source=source)
    finetune.run(config, str(tmp_path / "run"))
    for split in ("train", "validation", "test"):
        text = (tmp_path / f"{split}.tsv").read_text()
        (tmp_path / f"{split}.tsv").write_text(text.replace("wet", "moist"))
    with pytest.raises(ConfigError, match="the data of .* changed since it began"):
        finetune.run(config, str(tmp_path / "run"))


def test_predictions_are_written_and_agree_with_the_score(folder):
    result = finetune.run(shrink.finetuning(folder, folder / "encoder"), str(folder / "written"))
    rows = (folder / "written/predictions_test.tsv").read_text().splitlines()
    head = rows[0].split("\t")
    cells = [dict(zip(head, row.split("\t"), strict=True)) for row in rows[1:]]
    assert len(cells) == 120
    right = np.mean([cell["label"] == cell["prediction"] for cell in cells])
    assert right == pytest.approx(result.metrics["test/accuracy"])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"task__text": "sentense"}, "sentence"),
        ({"task__label": "lable"}, "'label'"),
        ({"init_from": "/nowhere"}, "'/nowhere' is not a run directory"),
        ({"init_from": ""}, "init_from is empty"),
        ({"transfer": "some"}, "config.transfer='some' is not a choice"),
        ({"freeze": "('encodr/.*',)"}, "config.freeze='encodr/.*' matches no parameter"),
        ({"task__examples": 5000}, "task.examples=5000 with 120 labelled examples"),
        ({"task__metric": "pearson"}, "classification predicts classes"),
        ({"checkpoint__every": "0 steps"}, "select='best' needs"),
        ({"freeze": "('.*',)"}, "freezes every parameter"),
        ({"training__duration": "0 steps"}, "is no update at all"),
        ({"restore__new": "()"}, "heads/classification/output/bias is missing there"),
    ],
)
def test_bad_input_is_one_line_with_the_remedy(folder, overrides, words):
    settings = {"init_from": str(folder / "encoder"), **overrides}
    run = settings.pop("init_from")
    with pytest.raises((ConfigError, ValueError)) as caught:
        finetune.run(shrink.finetuning(folder, run, **settings), str(folder / "refused"))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_an_unknown_label_in_validation_is_named(folder, tmp_path):
    shrink.labelled(tmp_path)
    text = (tmp_path / "validation.tsv").read_text()
    (tmp_path / "validation.tsv").write_text(text.replace("\twet", "\twett", 1))
    source = f"files:{tmp_path}/{{train,validation,test}}.tsv"
    config = shrink.finetuning(folder, folder / "encoder", task__source=source)
    with pytest.raises(ValueError, match="'wett'"):
        finetune.run(config, str(tmp_path / "run"))
