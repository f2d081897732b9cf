"""Invariants 2 and 11 across processes: their number changes no loss, and neither does killing them.

Real processes of train.py that share a run directory, over loopback with gloo, one global batch.
"""

import os
import random
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny_configs
from processes import launch, start

from data import prepare
from training import config as config_lib
from training.schema import PretrainConfig

slow = pytest.mark.slow


def command(folder, name, architecture, **overrides):
    config = tiny_configs.pretraining(folder, f"configs/{architecture}.py", **overrides)
    return [sys.executable, "train.py", f"--config=configs/{architecture}.py",
            f"--workdir={folder}/{name}", *tiny_configs.flags(config)]  # fmt: skip


def assert_one_device_equals_four(folder, name, architecture, **changes):
    """A run on one device, and one of two processes with two devices each: the same metrics."""
    steps = {"training__duration": "10 steps", "evaluation__every": "10 steps",
             "checkpoint__every": "5 steps"}  # fmt: skip
    one = command(folder, f"{name}-one", architecture, **steps, **changes)
    codes, outputs = launch([one], 1)
    assert codes == [0], outputs[0]
    four = command(folder, f"{name}-four", architecture, mesh__fsdp=2, **steps, **changes)
    codes, outputs = launch([four, four], 2)
    assert codes == [0, 0], "\n".join(outputs)
    one, four = (tiny_configs.metrics(folder / f"{name}-{n}") for n in ("one", "four"))
    for found, expected in zip(four, one, strict=True):
        assert (found["split"], found["step"]) == (expected["split"], expected["step"])
        np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-4)
    assert one[1]["split"] == "train"
    norms = four[1]["gradient_norm"], one[1]["gradient_norm"]
    np.testing.assert_allclose(*norms, rtol=1e-5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With the token store written: several processes refuse to build one."""
    folder = tmp_path_factory.mktemp("processes")
    config = config_lib.resolve(PretrainConfig, tiny_configs.pretraining(folder))
    prepare.prepare(config.data, config.tokenizer, log=lambda line: None)
    return folder


# One architecture crosses processes in `make test`; test_train_step.py has all on four devices.
@pytest.mark.parametrize(
    "architecture",
    [pytest.param("encoder", marks=slow), "decoder", pytest.param("encoder_decoder", marks=slow)],
)
def test_invariant_11_one_device_equals_two_processes_of_two_devices(folder, architecture):
    assert_one_device_equals_four(folder, architecture, architecture)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lion", "muon", "adafactor"])
def test_invariant_11_holds_for_every_optimizer_and_for_averaged_parameters(folder, name):
    changes = {
        "optimizer__name": name,
        "optimizer__learning_rate": 1e-3,
        "training__ema_decay": 0.9,
    }
    if name == "adafactor":
        changes["optimizer__factored_size"] = 16
    assert_one_device_equals_four(folder, name, "decoder", **changes)


@slow
def test_invariant_11_two_processes_draw_the_same_component_of_a_hybrid(folder):
    assert_one_device_equals_four(folder, "hybrid", "decoder", objective__name="hybrid")


@slow
def test_frozen_parameters_are_saved_once_and_read_by_all_processes(folder):
    assert_one_device_equals_four(folder, "frozen", "decoder", freeze="('embed/.*',)")
    run = folder / "frozen-four"
    first, last = (tiny_configs.read_params(run, step) for step in (0, 10))
    np.testing.assert_array_equal(*(x["embed/tokens/embedding"] for x in (first, last)))
    resumed = command(
        folder, "frozen-four", "decoder", mesh__fsdp=2, training__duration="10 steps",
        evaluation__every="10 steps", checkpoint__every="5 steps", freeze="('embed/.*',)",
    )  # fmt: skip
    codes, outputs = launch([resumed, resumed], 2)
    assert codes == [0, 0] and "resumed from checkpoint 10" in outputs[0], outputs
    config = tiny_configs.finetuning(
        folder, run, adapter__name="lora", adapter__use_dora=True, mesh__fsdp=2
    )
    tuned = [sys.executable, "finetune.py", "--config=configs/finetune/classification.py",
             f"--workdir={folder}/tuned", *tiny_configs.flags(config)]  # fmt: skip
    codes, outputs = launch([tuned, tuned], 2)
    assert codes == [0, 0], "\n".join(outputs)
    found = tiny_configs.read_params(folder / "tuned", 2)
    for path in last.keys() & found.keys():
        np.testing.assert_array_equal(found[path], last[path], err_msg=path)


@slow
@pytest.mark.parametrize(
    "options",
    [{"task__packing": True}, {"task__length_group_steps": 4}, {"seeds": "(0, 1)"}],
    ids=("packed", "grouped", "replicas"),
)
def test_invariant_11_holds_for_finetuning(folder, options):
    """Ten updates on one device, and on two processes of two devices: the same losses and scores."""
    name = "-".join(("tuned", *options))
    base = tiny_configs.untrained(folder / f"{name}-base", "encoder")
    config = tiny_configs.finetuning(folder, base, training__duration="10 steps", **options)
    runs = [folder / f"{name}-{number}" for number in ("one", "four")]
    for run, processes, devices in zip(runs, (1, 2), (1, 2), strict=True):
        tuned = [sys.executable, "finetune.py", "--config=configs/finetune/classification.py",
                 f"--workdir={run}", *tiny_configs.flags(config)]  # fmt: skip
        codes, outputs = launch([tuned] * processes, devices)
        assert codes == [0] * processes, "\n".join(outputs)
    for replica in ("seed=0", "seed=1") if "seeds" in options else ("",):
        one, four = (tiny_configs.metrics(run / replica) for run in runs)
        for found, expected in zip(four, one, strict=True):
            assert (found["split"], found["step"]) == (expected["split"], expected["step"])
            np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-4)


def losses(run):
    """[(split, step, loss)] of a run."""
    return [(line["split"], line["step"], line["loss"]) for line in tiny_configs.metrics(run)]


def assert_same_losses(found, expected, rtol=1e-4):
    assert [each[:2] for each in found] == [each[:2] for each in expected]
    np.testing.assert_allclose([x[2] for x in found], [x[2] for x in expected], rtol=rtol)


@slow
@pytest.mark.parametrize("architecture", ["encoder", "decoder", "encoder_decoder"])
def test_invariant_11_one_two_and_four_processes_have_the_same_losses(folder, architecture):
    options = {"training__duration": "10 steps", "evaluation__every": "5 steps"}
    runs = []
    for count in (1, 2, 4):
        name = f"{architecture}-of-{count}"
        runs.append(losses_of_processes(folder, name, count, architecture, **options))
    assert len(runs[0]) == 13  # ten updates and three evaluations
    for found in runs[1:]:
        assert_same_losses(found, runs[0])


def losses_of_processes(folder, name, count, architecture="decoder", **options):
    """The losses of a run on `count` processes of one device, which runs to its end."""
    codes, outputs = launch([command(folder, name, architecture, **options)] * count, 1)
    assert codes == [0] * count, "\n".join(outputs)
    return losses(folder / name)


# Of the test below; fewer for a shorter one.
KILLS = int(os.environ.get("TRIPTYCH_TEST_KILLS", "20"))
UPDATES = 15  # between two kills, at most


@slow
def test_invariant_02_a_run_killed_at_random_moments_on_four_processes_ends_on_two(folder):
    """SIGKILL of a process or of all, during start, training, or a save: bit for bit the run that nothing
    interrupted as long as four processes train, and its losses to 1e-4 on two."""
    draw = random.Random(0)
    options = {
        "training__duration": f"{UPDATES * (KILLS + 1)} steps", "checkpoint__every": "5 steps",
        "evaluation__every": "never", "model__dropout_rate": 0.1,
    }  # fmt: skip
    whole = losses_of_processes(folder, "whole", 4, **options)
    run, moments = folder / "killed", []
    for _ in range(KILLS):
        running = start([command(folder, "killed", "decoder", **options)] * 4, 1)
        moments.append(kill(running, draw))
    kept = max(int(each.name) for each in (run / "checkpoints").iterdir() if each.name.isdigit())
    print(f"killed {KILLS} times, after updates {moments}; checkpoint {kept} is the newest")
    found = losses_of_processes(folder, "killed", 2, **options)
    same = sum(step <= kept for _, step, _ in whole)
    assert found[:same] == whole[:same]
    assert_same_losses(found, whole)


def kill(running, draw) -> int:
    """Kills one of the processes of a run, or all, at a random moment; returns the last update in its log."""
    last, moment = 0, draw.randrange(60)  # a start has about 40 lines
    for number, line in enumerate(running[0].stdout, 1):
        words = line.split()
        if line.startswith("step") and "/" in words[1]:
            last = int(words[1].partition("/")[0].replace(",", ""))
        if number >= moment:
            break
    time.sleep(draw.uniform(0, 0.3))
    chosen = running if draw.random() < 0.3 else [draw.choice(running)]
    for process in chosen:
        process.kill()
    # the others end by themselves: JAX notices, or the connection fails
    until = time.monotonic() + 60
    for process in running:
        with process:
            try:
                process.communicate(timeout=max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
    assert all(process.returncode != 0 for process in running)
    return last
