"""Invariant 13: a replica is the run made alone; and replicas that are cut off end with the same bits."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import tiny_configs

import finetune
import train
from training import config as config_lib
from training import replica_axis, replica_scores, replicas, run_directory, sharding
from training.checkpoint import resolve_checkpoint
from training.config import ConfigError
from training.schema import FinetuneConfig, PretrainConfig

STEPS = 10
# Dropout, a label subset, accumulation and averaged parameters: everything that a seed decides.
OVERRIDES = {
    "model_overrides__dropout_rate": 0.1, "task__num_train_examples": 60, "training__ema_decay": 0.9,
    "training__grad_accum_steps": 2, "training__duration": f"{STEPS} steps",
    "evaluation__every": "5 steps", "checkpoint__every": "5 steps",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("replicas")
    train.run(tiny_configs.pretraining(folder, "configs/encoder.py"), str(folder / "encoder"))
    return folder


def config_of(folder, **overrides):
    return tiny_configs.finetuning(folder, folder / "encoder", **OVERRIDES | overrides)


@pytest.fixture(scope="module")
def together(folder):
    """Two seeds and two learning rates in one program."""
    config = config_of(folder, seeds="(3, 5)", optimizer__learning_rate="(1e-3, 3e-3)")
    return finetune.run(config, str(folder / "together"))


@pytest.fixture(scope="module")
def alone(folder):
    config = config_of(folder, seed=5, optimizer__learning_rate=3e-3)
    return finetune.run(config, str(folder / "alone"))


def test_invariant_13_a_replica_is_the_run_made_alone(folder, together, alone):
    replica = folder / "together" / "learning_rate=0.003,seed=5"
    stored = run_directory.read_config(replica)
    assert stored == run_directory.read_config(folder / "alone")
    ours, theirs = (tiny_configs.read_params(run, 0) for run in (replica, folder / "alone"))
    assert ours.keys() == theirs.keys()
    for path, value in theirs.items():
        np.testing.assert_array_equal(ours[path], value, err_msg=path)
    lines, expected = tiny_configs.metrics(replica), tiny_configs.metrics(folder / "alone")
    assert len(lines) == len(expected) > STEPS
    for one, other in zip(lines, expected, strict=True):
        assert one.keys() == other.keys()
        for name, value in other.items():
            if isinstance(value, str):
                assert one[name] == value
            else:
                np.testing.assert_allclose(one[name], value, rtol=1e-4, atol=1e-4, err_msg=name)
    ours, theirs = (tiny_configs.read_params(run, STEPS) for run in (replica, folder / "alone"))
    for path, value in theirs.items():
        np.testing.assert_allclose(ours[path], value, atol=1e-4 * np.abs(value).max(), err_msg=path)
    ours, theirs = (
        json.loads((run / "scores.json").read_text()) for run in (replica, folder / "alone")
    )
    assert ours == pytest.approx(theirs, abs=1e-3)


def test_replicas_differ_in_head_order_and_subset(folder, together):
    runs = [folder / "together" / f"learning_rate=0.001,seed={seed}" for seed in (3, 5)]
    heads = [tiny_configs.read_params(run, 0)["heads/classification/output/kernel"] for run in runs]
    assert not np.array_equal(*heads)
    losses = [[line["loss"] for line in tiny_configs.metrics(run)] for run in runs]
    assert losses[0] != losses[1]


def test_the_summary_has_every_replica_and_the_means_of_each_learning_rate(folder, together):
    summary = json.loads((folder / "together" / "replicas.json").read_text())
    assert len(summary["replicas"]) == 4 and len(summary["groups"]) == 2
    for group in summary["groups"]:
        own = [
            row["test/accuracy"]
            for row in summary["replicas"].values()
            if row["learning_rate"] == group["learning_rate"]
        ]
        assert group["test/accuracy"]["mean"] == pytest.approx(np.mean(own))
        assert group["test/accuracy"]["sd"] == pytest.approx(np.std(own, ddof=1))
    best = summary["groups"][summary["best"]]
    assert together.metrics["test/accuracy"] == best["test/accuracy"]["mean"]
    for name in summary["replicas"]:
        assert (folder / "together" / name / "predictions_test.tsv").exists()


def test_invariant_13_replicas_cut_off_in_a_save_end_with_the_same_bits(folder, together):
    """As kill -9 leaves them: one replica has a checkpoint more than another, and lines after it."""
    copy = folder / "cut"
    shutil.copytree(folder / "together", copy)
    names = [path.name for path in copy.iterdir() if path.is_dir()]
    assert len(names) == 4
    for name in names[:2]:
        shutil.rmtree(copy / name / "checkpoints" / str(STEPS))
    for name in names:
        (copy / name / "scores.json").unlink()
    config = config_of(folder, seeds="(3, 5)", optimizer__learning_rate="(1e-3, 3e-3)")
    finetune.run(config, str(copy))
    for name in names:
        aside = copy / name / "set_aside" / "1" / "checkpoints"
        assert [path.name for path in aside.glob("*")] == [str(STEPS)] * (name not in names[:2])
        assert tiny_configs.metrics(copy / name) == tiny_configs.metrics(folder / "together" / name)
        ours, theirs = (
            tiny_configs.read_params(parent / name, STEPS) for parent in (copy, folder / "together")
        )
        for path, value in theirs.items():
            np.testing.assert_array_equal(ours[path], value, err_msg=path)
        ours, theirs = (
            (parent / name / "scores.json").read_text() for parent in (copy, folder / "together")
        )
        assert ours == theirs


@pytest.mark.parametrize("damaged", [(5, STEPS), (0, 5, STEPS)], ids=["the newest", "all"])
def test_checkpoints_of_healthy_replicas_outlive_the_damaged_ones_of_another(
    folder, together, tmp_path, damaged
):
    copy = tmp_path / "run"
    shutil.copytree(folder / "together", copy)
    hurt, *healthy = sorted(path.parent for path in copy.glob("*/checkpoints"))
    for step in damaged:
        for file in (hurt / "checkpoints" / str(step) / "params").rglob("*"):
            file.write_bytes(b"") if file.is_file() else None
    config = config_of(folder, seeds="(3, 5)", optimizer__learning_rate="(1e-3, 3e-3)")
    for _ in range(2):  # the same command again, as by a requeue
        with pytest.raises(ConfigError, match="restore"):
            finetune.run(config, str(copy))
        left = {run: {path.name for path in (run / "checkpoints").iterdir()} for run in healthy}
        assert left == dict.fromkeys(healthy, {"0", "5", str(STEPS)})
        assert all((hurt / "checkpoints" / f"{step}.broken").is_dir() for step in damaged)


def test_a_seed_that_is_added_is_trained_and_the_others_keep_their_scores(folder, together):
    copy = folder / "added"
    shutil.copytree(folder / "together", copy)
    config = config_of(folder, seeds="(3, 5, 7)", optimizer__learning_rate="(1e-3, 3e-3)")
    finetune.run(config, str(copy))
    before, after = (
        json.loads((parent / "replicas.json").read_text())["replicas"]
        for parent in (folder / "together", copy)
    )
    assert len(after) == 6
    assert {name: after[name] for name in before} == before


def test_a_frozen_base_is_held_once_and_replicas_train_the_head(folder):
    config = config_of(folder, seeds="(0, 1)", freeze="('embed/.*', 'encoder/.*')")
    finetune.run(config, str(folder / "probes"))
    alone = config_of(folder, seed=1, freeze="('embed/.*', 'encoder/.*')")
    finetune.run(alone, str(folder / "probe"))
    ours, theirs = (
        tiny_configs.read_params(run, STEPS)
        for run in (folder / "probes" / "seed=1", folder / "probe")
    )
    base = tiny_configs.read_params(folder / "encoder", 2)
    for path, value in theirs.items():
        np.testing.assert_allclose(ours[path], value, atol=1e-5, err_msg=path)
        if path in base:
            np.testing.assert_array_equal(ours[path], base[path], err_msg=path)


def test_invariant_13_a_replica_with_lora_is_the_run_made_alone(folder):
    lora = {"adapter__name": "lora", "adapter__rank": 2, "adapter__dropout_rate": 0.1}
    finetune.run(config_of(folder, seeds="(0, 1)", **lora), str(folder / "loras"))
    finetune.run(config_of(folder, seed=1, **lora), str(folder / "lora"))
    replica = folder / "loras" / "seed=1"
    assert run_directory.read_config(replica) == run_directory.read_config(folder / "lora")
    for step, tolerance in ((0, 0.0), (STEPS, 1e-4)):
        ours, theirs = (tiny_configs.read_params(run, step) for run in (replica, folder / "lora"))
        assert ours.keys() == theirs.keys() and any("lora" in path for path in ours)
        for path, value in theirs.items():
            limit = tolerance * np.abs(value).max()
            np.testing.assert_allclose(ours[path], value, rtol=0, atol=limit, err_msg=path)
    lines, expected = tiny_configs.metrics(replica), tiny_configs.metrics(folder / "lora")
    assert [line["loss"] for line in lines] == pytest.approx(
        [line["loss"] for line in expected], abs=1e-4
    )


def test_equal_frozen_trees_are_held_once_and_others_have_an_axis():
    mesh = sharding.make_mesh(
        config_lib.resolve(FinetuneConfig, {"init_from": "x"}).mesh, jax.devices()[:1], replicas=2
    )

    def tree(value):
        return {"w": jax.device_put(np.full(3, value), sharding.replicated(mesh))}

    with sharding.use_mesh(mesh):
        check_frozen(tree, mesh)


def check_frozen(tree, mesh):
    """Equal, different and missing trees of two replicas."""
    pairs = list(replica_axis.share_frozen((tree(n), tree(7)) for n in (0, 1)))
    assert pairs[0][1] is pairs[1][1]
    axis, state, frozen = replica_axis.stack_replicas(pairs, 2, mesh)
    assert axis.shares_frozen and frozen["w"].shape == (3,) and state["w"].shape == (2, 3)
    pairs = list(replica_axis.share_frozen((tree(n), tree(n)) for n in (0, 1)))
    axis, state, frozen = replica_axis.stack_replicas(pairs, 2, mesh)
    assert not axis.shares_frozen and frozen["w"].shape == state["w"].shape == (2, 3)
    assert frozen["w"].tolist() == [[0] * 3, [1] * 3]
    mixed = [(tree(0), tree(7)), (None, {})]  # one has no checkpoint yet
    assert [each for _, each in replica_axis.share_frozen(iter(mixed))] == [mixed[0][1], {}]


def test_values_that_agree_in_six_digits_have_directories_of_their_own():
    name = replicas.replica_name
    assert name({"learning_rate": 1e-3, "seed": 3}) == "learning_rate=0.001,seed=3"
    assert name({"learning_rate": 3e-05}) == "learning_rate=3e-05"
    assert name({"seed": 20240101}) == "seed=20240101" != name({"seed": 20240102})
    assert name({"learning_rate": 0.00123456789}) == "learning_rate=0.00123456789"


@pytest.mark.parametrize("devices", [1, 4])
def test_replicas_are_split_over_the_devices_that_they_fill(devices):
    mesh_config = config_lib.resolve(FinetuneConfig, {"init_from": "x"}).mesh
    mesh = sharding.make_mesh(mesh_config, jax.devices()[:devices], replicas=6)
    assert dict(mesh.shape) == {
        "replica": min(devices, 2), "data": max(1, devices // 2), "fsdp": 1, "tensor": 1,
        "sequence": 1,
    }  # fmt: skip


def test_statistics_are_those_of_a_small_table():
    found = replica_scores.statistics([0.5, 0.7, 0.9])
    assert found["mean"] == pytest.approx(0.7) and found["sd"] == pytest.approx(0.2)
    assert found["interval95"] == pytest.approx(4.30265 * 0.2 / 3**0.5, rel=1e-4)
    assert replica_scores.statistics([0.5])["interval95"] == 0.0


def test_replicas_no_better_than_the_most_frequent_label_are_counted(folder):
    config = config_lib.resolve(FinetuneConfig, {"init_from": "x"})
    floor = {"validation/accuracy": 0.6}
    finished = [
        replica_scores.Finished(
            replicas.Replica(f"seed={seed}", config, folder), 1, 1, {"validation/accuracy": value},
            floor, "+accuracy",
        )
        for seed, value in enumerate((0.6, 0.9, 0.5))
    ]  # fmt: skip
    summary = replica_scores.summarize(finished)
    assert summary["groups"][0]["degenerate"] == {"validation/accuracy": 2}
    assert any(
        "2 of 3 replicas have degenerated" in line for line in replica_scores.describe(summary)
    )
    lower = [dataclasses.replace(each, best_metric="-accuracy") for each in finished]
    for each, expected in zip(lower, (1, 1, 0), strict=True):  # 0.6, 0.9, 0.5 where lower is better
        summary = replica_scores.summarize([each])
        assert summary["groups"][0]["degenerate"] == {"validation/accuracy": expected}


# chrf is not among the final scores (no text was generated), so the loss chooses.
@pytest.mark.parametrize("best_metric, expected", [("+accuracy", 0), ("-loss", 1), ("+chrf", 1)])
def test_validation_alone_chooses_the_learning_rate(folder, best_metric, expected):
    scores = {  # the test split and the last metric would choose the other one
        1e-3: {"validation/accuracy": 0.8, "validation/loss": 0.7, "test/accuracy": 0.5, "test/loss": 0.4},
        1e-4: {"validation/accuracy": 0.6, "validation/loss": 0.5, "test/accuracy": 0.9, "test/loss": 0.9},
    }  # fmt: skip
    finished = [
        replica_scores.Finished(
            replicas.Replica(f"learning_rate={rate}", config_lib.resolve(
                FinetuneConfig, {"init_from": "x", "optimizer": {"learning_rate": rate}}
            ), folder), 1, 1, values, {}, best_metric,
        )
        for rate, values in scores.items()
    ]  # fmt: skip
    summary = replica_scores.summarize(finished)
    assert summary["best"] == expected
    metric = "loss" if best_metric == "+chrf" else best_metric[1:]
    assert summary["chosen_by"] == f"validation/{metric}"


def test_a_replica_that_is_not_finite_is_left_out_and_the_others_continue(folder):
    axes = {"optimizer__learning_rate": "(1e-3, 1e30)", "optimizer__grad_clip_norm": 0.0}
    result = finetune.run(config_of(folder, **axes), str(folder / "failing"))
    summary = json.loads((folder / "failing" / "replicas.json").read_text())
    assert list(summary["replicas"]) == ["learning_rate=0.001"]
    assert 1 <= summary["failed"]["learning_rate=1e+30"] <= STEPS
    again = finetune.run(config_of(folder, **axes), str(folder / "failing"))
    assert again.metrics == result.metrics
    with pytest.raises(ConfigError, match="every replica in .* has failed"):
        finetune.run(config_of(folder, optimizer__learning_rate="(1e30,)"), str(folder / "failing"))


BAD = {
    "a seed twice": ({"seeds": "(1, 1)"}, "seeds=.1, 1. has a value twice"),
    "a seed of text": ({"seeds": "('a',)"}, "expected integers"),
    "a negative seed": ({"seeds": "(-1,)"}, "expected integers"),
    "a seed besides": ({"seeds": "(0, 1)", "seed": 3}, "seed and seeds"),
    "a negative learning rate": ({"optimizer__learning_rate": "(1e-3, -1)"}, "out of range"),
    "a learning rate of text": ({"optimizer__learning_rate": "(1e-3, 'a')"}, "wrong type"),
    "no learning rate": ({"optimizer__learning_rate": "()"}, "empty"),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_axes_are_one_line_before_any_work(folder, case):
    overrides, message = BAD[case]
    with pytest.raises(ConfigError, match=message) as error:
        finetune.run(config_of(folder, **overrides), str(folder / "bad"))
    assert "\n" not in str(error.value) and not (folder / "bad").exists()


def test_other_programs_name_one_replica(folder, together):
    with pytest.raises(
        ConfigError, match="holds replicas; name one, such as .*learning_rate=0.001"
    ):
        resolve_checkpoint(folder / "together")
    with pytest.raises(ConfigError, match="holds a replicas run"):
        finetune.run(config_of(folder), str(folder / "together"))
    with pytest.raises(ConfigError, match="holds a finetune run"):
        finetune.run(
            config_of(folder, seeds="(0, 1)"), str(folder / "together/learning_rate=0.001,seed=3")
        )
    with pytest.raises(ConfigError, match="expected one number"):
        config_lib.resolve(PretrainConfig, {"optimizer": {"learning_rate": (1e-3, 1e-4)}})
