"""Invariant 2: resume is invisible. Real processes and real signals, compared bit for bit with a run that
nothing interrupted: parameters, optimizer state, and metrics.jsonl with each step once."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny_configs

ROOT = pathlib.Path(__file__).parent.parent
STEPS, EVERY = 240, 20
MOMENTS = (30, 95, 170)  # updates after which the signal is sent


def command(folder, name, architecture="decoder", **overrides):
    """The command line of a tiny run, with every field that tests/tiny_configs.py sets."""
    fields = {
        "training__duration": f"{STEPS} steps", "checkpoint__every": f"{EVERY} steps",
        "evaluation__every": "40 steps", "model__dropout_rate": 0.1, **overrides,
    }  # fmt: skip
    config = tiny_configs.pretraining(folder, f"configs/{architecture}.py", **fields)
    return [sys.executable, "train.py", f"--config=configs/{architecture}.py",
            f"--workdir={folder}/{name}", *tiny_configs.flags(config)]  # fmt: skip


def start(arguments):
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1"
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "XLA_FLAGS": flags}
    return subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)  # fmt: skip


def run_to_the_end(arguments):
    with start(arguments) as process:
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def interrupt(arguments, moment, number):
    """Runs until the log shows update `moment`, sends the signal; returns (exit status, output)."""
    lines = []
    with start(arguments) as process:
        for line in process.stdout:
            lines.append(line)
            if line.startswith("step") and "/" in line.split()[1]:
                if int(line.split()[1].split("/")[0].replace(",", "")) >= moment:
                    process.send_signal(number)
                    break
        lines += process.stdout.readlines()
    return process.wait(timeout=300), "".join(lines)


def arrays(run, step=STEPS):
    """Every array of a checkpoint, by item and path."""
    found = {}
    for item in ("params", "opt_state"):
        path = pathlib.Path(run).absolute() / "checkpoints" / str(step) / item
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            shapes = checkpointer.metadata(path).item_metadata.tree
            plain = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
            tree = checkpointer.restore(path, args=ocp.args.PyTreeRestore(restore_args=plain))
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            found[item + jax.tree_util.keystr(path)] = np.asarray(leaf)
    return found


def assert_same_arrays(run, expected_run, step=STEPS):
    found, expected = arrays(run, step), arrays(expected_run, step)
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def assert_same_run(run, expected_run):
    assert_same_arrays(run, expected_run)
    lines = tiny_configs.metrics(run)
    assert lines == tiny_configs.metrics(expected_run)
    trained = [line["step"] for line in lines if line["split"] == "train"]
    assert trained == list(range(1, STEPS + 1))
    evaluated = [line["step"] for line in lines if line["split"] == "validation"]
    assert evaluated == list(range(0, STEPS + 1, 40))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("resume")


@pytest.fixture(scope="module")
def uninterrupted(folder):
    run_to_the_end(command(folder, "whole"))
    return folder / "whole"


@pytest.mark.parametrize(
    "signals",
    [
        (signal.SIGKILL, signal.SIGTERM, signal.SIGINT),
        pytest.param((signal.SIGKILL,) * 3, marks=pytest.mark.slow),
        pytest.param((signal.SIGTERM,) * 3, marks=pytest.mark.slow),
    ],
    ids=lambda signals: "-".join(number.name for number in signals),
)
def test_invariant_02_three_interruptions_change_nothing(folder, uninterrupted, signals):
    run = folder / "-".join(number.name for number in signals)
    arguments = command(folder, run.name)
    for moment, number in zip(MOMENTS, signals, strict=True):
        code, output = interrupt(arguments, moment, number)
        assert code == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[number], output
        stopped = "stopped by a signal at step" in output
        resumes = "the same command resumes from here" in output
        assert stopped == resumes == (number != signal.SIGKILL), output
        assert "Traceback" not in output
    output = run_to_the_end(arguments)
    assert "resumed from checkpoint" in output
    assert_same_run(run, uninterrupted)


def test_a_run_out_of_hours_saves_exits_143_and_resumes(folder, uninterrupted):
    arguments = command(folder, "hours")
    for step in (1, 2):  # each start makes an update, however short it is
        with start([*arguments, "--config.training.max_hours=1e-9"]) as process:
            output, _ = process.communicate(timeout=300)
        assert process.returncode == 143, output
        assert f"stopped by training.max_hours at step {step}; the same command resumes" in output
    run_to_the_end(arguments)
    assert_same_run(folder / "hours", uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["encoder", "encoder_decoder"])
def test_invariant_02_holds_for_the_other_architectures(folder, architecture):
    run_to_the_end(command(folder, f"{architecture}-whole", architecture))
    arguments = command(folder, f"{architecture}-killed", architecture)
    for moment in MOMENTS:
        assert interrupt(arguments, moment, signal.SIGKILL)[0] == -9
    run_to_the_end(arguments)
    assert_same_run(folder / f"{architecture}-killed", folder / f"{architecture}-whole")


@pytest.mark.slow  # tests/test_finetune.py crashes one inside its process
@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ("",)),
        ({"task__packing": True}, ("",)),
        ({"task__length_group_steps": 4, "adapter__name": "lora"}, ("",)),
        ({"seeds": "(0, 1)"}, ("seed=0", "seed=1")),
    ],
    ids=("plain", "packed", "grouped lora", "replicas"),
)
def test_invariant_02_a_killed_finetuning_run_resumes_as_if_nothing_had_happened(
    folder, uninterrupted, options, names
):
    def arguments(name):
        config = tiny_configs.finetuning(
            folder, uninterrupted, training__duration="120 steps", checkpoint__every="20 steps",
            evaluation__every="40 steps", **options,
        )  # fmt: skip
        return [sys.executable, "finetune.py", "--config=configs/finetune/classification.py",
                f"--workdir={folder}/{name}", *tiny_configs.flags(config)]  # fmt: skip

    name = "-".join(("finetuned", *(key.rpartition("__")[2] for key in options)))
    run, whole = folder / f"{name}-killed", folder / name
    run_to_the_end(arguments(name))
    assert interrupt(arguments(run.name), 30, signal.SIGKILL)[0] == -9
    assert interrupt(arguments(run.name), 70, signal.SIGTERM)[0] == 143
    assert "resumed from checkpoint" in run_to_the_end(arguments(run.name))
    for replica in names:
        assert tiny_configs.metrics(run / replica) == tiny_configs.metrics(whole / replica)
        assert_same_arrays(run / replica, whole / replica, 120)
        for file in ("scores.json", "predictions_test.tsv"):
            assert (run / replica / file).read_text() == (whole / replica / file).read_text()


def test_a_truncated_checkpoint_is_renamed_and_the_one_before_it_is_used(folder, uninterrupted):
    run = folder / "truncated"
    shutil.copytree(uninterrupted, run)
    newest = run / "checkpoints" / str(STEPS) / "params"
    files = sorted((f for f in newest.rglob("*") if f.is_file() and f.parent.name == "d"),
                   key=lambda f: f.stat().st_size)  # fmt: skip
    files[-1].write_bytes(files[-1].read_bytes()[: files[-1].stat().st_size // 2])
    output = run_to_the_end(command(folder, run.name))
    assert f"checkpoint {STEPS} cannot be restored" in output
    assert f"resumed from checkpoint {STEPS - EVERY}" in output
    assert (run / "checkpoints" / f"{STEPS}.broken").is_dir()
    assert_same_run(run, uninterrupted)
