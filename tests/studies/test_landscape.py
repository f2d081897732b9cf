"""studies.landscape on tiny runs: the numbers are those of the runs, and bad inputs are one line."""

import dataclasses
import json
import shutil
import types

import jax
import labeled_tasks
import numpy as np
import pytest
import tiny_configs

import finetune
import models
from studies import finetuned_runs, landscape, landscape_study
from studies import paths_in_weights as weights
from tasks import evaluate
from training import sharding
from training.config import ConfigError
from training.param_rules import flatten_params
from training.schema import MeshConfig

SMALL = ("--num_examples=0", "--points=5", "--grid=3", "--probes=2", "--lanczos_steps=2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs from random, pretrained and embedding parameters, and one of another seed and label budget."""
    folder = tmp_path_factory.mktemp("landscape")
    tiny_configs.untrained(folder / "start", "encoder")
    (folder / "labels").mkdir()
    tiny_configs.labeled(folder / "labels", rows=20)
    runs = {
        "random": {"init": "random"}, "pretrained": {}, "embeddings": {"init": "embeddings"},
        "few": {"seed": 1, "task__num_train_examples": 12},
    }  # fmt: skip
    for name, fields in runs.items():
        config = tiny_configs.finetuning(
            folder / "labels", folder / "start", optimizer__learning_rate=0.01,
            training__duration="3 steps", checkpoint__max_to_keep=4, evaluation__test=False, **fields,
        )  # fmt: skip
        finetune.run(config, str(folder / name))
    return folder


@pytest.fixture(scope="module")
def found(folder):
    """The content of landscape.json of three runs."""
    runs = [str(folder / name) for name in ("random", "pretrained", "few@3")]
    landscape.main(["--runs", *runs, f"--output={folder / 'out'}", *SMALL])
    return json.loads((folder / "out/landscape.json").read_text())


def loaded(folder, *names, **options):
    """(runs, task, Evaluator, mesh)."""
    runs = finetuned_runs.find([str(folder / name) for name in names])
    given = {"num_examples": 0, "batch_size": 0, "seed": 0} | options
    task, _ = finetuned_runs.load_task(runs, **given)
    mesh = sharding.make_mesh(MeshConfig())
    model = models.build(task.model_config)
    return runs, task, weights.Evaluator(task, model, mesh, finetuned_runs.SAMPLES), mesh


def test_the_ends_of_a_line_have_the_scores_of_the_run(folder, found):
    for run in found["runs"][:2]:
        written = tiny_configs.metrics(folder / run["name"])
        scored = json.loads((folder / run["name"] / "scores.json").read_text())["step"]
        assert run["step"] == scored and run["start"] == "checkpoint 0"
        for alpha, step in ((0.0, 0), (1.0, scored)):
            place = run["line"]["alphas"].index(alpha)
            values = {k: v[place] for k, v in run["line"]["values"]["validation"].items()}
            own = next(x for x in written if (x["split"], x["step"]) == ("validation", step))
            assert values["accuracy"] == own["accuracy"]
            assert values["loss"] == pytest.approx(own["loss"], rel=1e-5)
        assert run["curves"]["train"] == [
            [x["step"], x["loss"]] for x in written if x["split"] == "train"
        ]


def test_the_parts_agree_with_each_other(found):
    random, pretrained, few = found["runs"]
    assert [few["step"], few["num_train_examples"]] == [3, 12]
    assert found["metric"] == "accuracy" and found["higher_is_better"]
    by_start, by_ends = found["planes"]
    labels = [corner["label"] for corner in by_start["corners"]]
    assert labels == ["random start", "pretrained start", "end of pretrained"]
    assert [corner["label"][:6] for corner in by_ends["corners"]] == ["end of"] * 3
    # The sides of a plane are distances that other parts know, and its corners are on it.
    assert by_ends["corners"][1]["x"] == pytest.approx(found["pairs"][0]["distance"], rel=1e-5)
    trajectory = by_start["trajectories"]["pretrained"]
    assert [point["step"] for point in trajectory] == list(range(pretrained["step"] + 1))
    assert [point["step"] for point in by_start["trajectories"]["few@3"]] == [0, 1, 2, 3]
    for points, corner in ((trajectory, by_start["corners"][2]),
                           (by_ends["trajectories"]["random"], by_ends["corners"][0])):  # fmt: skip
        end = points[-1]
        assert end["outside"] < 1e-2
        assert (end["x"], end["y"]) == pytest.approx((corner["x"], corner["y"]), abs=1e-4)
    for run in found["runs"]:
        far, curvature = run["distances"]["all"], run["hessian"]
        assert far["distance"] > 0 and far["degrees"] > 0
        assert curvature["num_parameters"] == run["num_parameters"]
        assert curvature["trace"]["count"] == 2 and len(curvature["eigenvalue"]["ritz_values"]) == 2
    losses = [pair["values"]["train"]["loss"] for pair in found["pairs"]]
    assert [len(each) for each in losses] == [5] * 3
    assert losses[0][-1] == losses[2][0]  # the end of `pretrained` in both pairs


def test_the_report_has_every_picture(folder, found):
    files = {path.name for path in (folder / "out").iterdir()}
    pictures = {
        "curves",
        "start_to_end",
        "plane-1",
        "plane-2",
        "connectivity",
        "distances",
        "curvature",
    }
    assert files == {"landscape.json", "report.html", *(f"{name}.png" for name in pictures)}
    page = (folder / "out/report.html").read_text()
    assert page.count("data:image/svg+xml") == 3 + 2 + 4 + 4 + 2 + 2 + 2
    assert "12 of 20 train" not in page and "20 of 20 train examples (those that any" in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_a_run_has_no_barrier_to_itself_and_a_sample_is_part_of_the_split(folder):
    runs, task, evaluate, mesh = loaded(folder, "random", "pretrained", num_examples=7)
    assert [len(task.encoded[name]) for name in finetuned_runs.SAMPLES.values()] == [7, 7]
    assert set(task.texts["train_sample"].text) <= set(task.texts["train"].text)
    end = finetuned_runs.load_params(runs[0], runs[0].step, mesh)
    line = landscape_study.line(end, end, np.array([0, 0.5, 1]), evaluate, lambda: None)
    for metrics in line["barrier"].values():
        assert metrics == {"loss": pytest.approx(0, abs=1e-6), "accuracy": 0.0}


@pytest.mark.parametrize("name", ["random", "pretrained", "embeddings"])
def test_a_start_without_checkpoint_0_is_rebuilt_exactly(folder, tmp_path, name):
    shutil.copytree(folder / name, tmp_path / name)
    shutil.rmtree(tmp_path / name / "checkpoints/0")
    runs, task, _, mesh = loaded(folder, "few", str(tmp_path / name))
    assert runs[1].start == f"rebuilt: init={name} from {folder / 'start'}@0"
    rebuilt = flatten_params(finetuned_runs.load_start(runs[1], task, mesh))
    expected = tiny_configs.read_params(folder / name, 0)
    assert rebuilt.keys() == expected.keys()
    for path, array in expected.items():
        np.testing.assert_array_equal(rebuilt[path], array, err_msg=path)


def test_frozen_parameters_do_not_move_and_have_no_curvature(folder, tmp_path):
    config = tiny_configs.finetuning(
        folder / "labels", folder / "start", freeze="('(?!heads/).*',)", optimizer__learning_rate=0.01,
        training__duration="1 step", evaluation__test=False,
    )  # fmt: skip
    finetune.run(config, str(tmp_path / "probe"))
    runs, _, _, mesh = loaded(folder, "random", str(tmp_path / "probe"))
    start, end = (finetuned_runs.load_params(runs[1], step, mesh) for step in (0, 1))
    found = weights.distances(start, end)
    assert {name for name, values in found.items() if values["distance"]} == {
        "all", "heads/classification",
    }  # fmt: skip
    trained = finetuned_runs.trained_paths(runs[1], end)
    assert trained == {f"heads/classification/output/{name}" for name in ("bias", "kernel")}


def test_the_kernels_of_accelerators_are_replaced_for_second_derivatives(folder):
    config = finetuned_runs.find([str(folder / "random"), str(folder / "few")])[0].model_config
    kernels = {}
    for kernel, length in (("auto", 64), ("auto", 1024), ("triton", 64), ("chunked", 64)):
        changed = dataclasses.replace(config, attention_kernel=kernel, dtype="bfloat16")
        found = landscape_study.curvature_config(changed, length)
        kernels[kernel, length] = found.attention_kernel
        assert found.dtype == "float32"
    assert [*kernels.values()] == ["dense", "chunked", "dense", "chunked"]


def changed(run, target, file, *path):
    """A copy of a run whose JSON file has the last of `path` at the keys before it."""
    shutil.copytree(run, target)
    content = json.loads((target / file).read_text())
    *keys, last, value = path
    place = content
    for key in keys:
        place = place[key]
    place[last] = value
    (target / file).write_text(json.dumps(content))


def refused(words):
    with pytest.raises(ConfigError) as error:
        landscape.main([str(word) for word in words])
    message = str(error.value)
    assert "\n" not in message and len(message) <= 400
    return message


def test_bad_inputs_are_one_line_each(folder, tmp_path):
    random, few, out = folder / "random", folder / "few", f"--output={tmp_path / 'out'}"
    lora = ("config", "adapter", {"name": "lora"})
    changed(folder / "pretrained", tmp_path / "lora", "config.json", *lora)
    changed(random, tmp_path / "wide", "config.json", "model", "emb_dim", 64)
    changed(random, tmp_path / "mean", "config.json", "config", "task", "pooling", "mean")
    changed(random, tmp_path / "other", "manifest.json", "data", "a" * 64)
    changed(random, tmp_path / "many/seed=0", "config.json", "kind", "finetune")
    replicas = json.dumps({"kind": "replicas", "config": {}, "model": {}})
    (tmp_path / "many/config.json").write_text(replicas)
    cases = {
        (random,): "names one run",
        (random, tmp_path / "many"): "holds replicas; name one, such as",
        (random, f"{random}/"): "which are one",
        (random, tmp_path / "none"): "is not a run directory",
        (random, folder / "start"): "start is no run of finetune.py",
        (random, f"{few}@77"): "has no checkpoint 77; it has",
        (random, tmp_path / "lora"): "has the adapter 'lora'",
        (random, tmp_path / "wide"): "model.emb_dim is '32' and '64'",
        (random, tmp_path / "mean"): "task.pooling is 'auto' and 'mean'",
        (random, tmp_path / "other"): "manifest.data is",
    }
    for runs, text in cases.items():
        assert text in refused(["--runs", *runs, out])
    for flag, text in (
        ("--points=1", "--points=1: expected at least 2"),
        ("--grid=1", "is a point"),
        ("--probes=-1", "at least 0"),
        ("--num_examples=x", "invalid int value"),
        (f"--output={folder / 'labels'}", "exists; remove it, or name another directory"),
        ("--output=gs://bucket/x", "expected a local directory"),
        (f"--output={random}/config.json/x", "cannot be a directory (Not a directory"),
    ):
        words = [out, flag] if "output" not in flag else [flag]
        assert text in refused(["--runs", random, few, *words])
    assert not (tmp_path / "out").exists()


def test_a_source_that_is_gone_is_named(folder, tmp_path):
    gone, run = str(tmp_path / "gone"), tmp_path / "run"
    changed(folder / "pretrained", tmp_path / "a", "config.json", "config", "init_from", gone)
    changed(tmp_path / "a", run, "manifest.json", "init_from", gone)
    shutil.rmtree(run / "checkpoints/0")
    message = refused(["--runs", folder / "random", run, f"--output={tmp_path / 'out'}"])
    assert "gone" in message and "is not a run directory" in message


def test_a_loss_that_is_not_finite_is_null(folder):
    _, _, evaluate, mesh = loaded(folder, "random", "few")
    run = finetuned_runs.find([str(folder / "random"), str(folder / "few")])[0]
    end = finetuned_runs.load_params(run, run.step, mesh)
    broken = jax.tree.map(lambda x: np.full_like(x, np.nan), end)
    line = landscape_study.line(end, broken, np.array([0, 0.5, 1]), evaluate, lambda: None)
    with pytest.raises(ConfigError, match="no finite second derivatives"):
        given = types.SimpleNamespace(probes=1, lanczos_steps=0, seed=0)
        landscape_study.curvature(run, broken, evaluate, given, lambda: None)
    found = landscape_study.finite(line)
    assert found["values"]["validation"] == {"loss": [None] * 3, "accuracy": [None] * 3}
    assert found["barrier"]["train"] == {"loss": None, "accuracy": None}


def test_a_task_with_other_evaluation_batches_has_its_scores_and_its_training_loss(tmp_path):
    rows = [{"text": text, "label": "ab"[len(text) % 2]}
            for text in labeled_tasks.random_texts(6)]  # fmt: skip
    task = labeled_tasks.load(
        tmp_path, "text_to_text", "decoder", {"train": rows, "validation": rows}, (4, 4),
        verbalizers=(("a", "w10"), ("b", "w11 w12")), max_target_len=4,
    )  # fmt: skip
    model, params = labeled_tasks.start(task)
    mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:1])
    found = weights.Evaluator(task, model, mesh, {"train": "train"})(params)["train"]
    losses = jax.jit(lambda batch: task.losses(model, params, batch, None))
    total, weight = losses(task.batch("train", np.arange(6)))[task.name]
    outputs = jax.jit(lambda batch: task.outputs(model, params, batch))
    _, scores = evaluate(task, "train", outputs)
    assert found["loss"] == pytest.approx(float(total / weight), rel=1e-5)
    assert found == {"loss": found["loss"], "accuracy": scores["accuracy"]}
