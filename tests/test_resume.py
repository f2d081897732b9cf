"""Law 2: resume is invisible. Real processes, real signals, compared bit for bit with a run that
nothing interrupted: parameters, optimizer, and metrics.jsonl with each step once."""

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
import shrink

ROOT = pathlib.Path(__file__).parent.parent
STEPS, EVERY = 240, 20
MOMENTS = (30, 95, 170)  # updates after which the signal is sent


def command(folder, name, architecture="decoder", **overrides):
    """The command line of a tiny run, with every leaf that tests/shrink.py sets."""
    config = shrink.pretraining(
        folder, f"configs/{architecture}.py", training__duration=f"{STEPS} steps",
        checkpoint__every=f"{EVERY} steps", evaluation__every="40 steps", model__dropout=0.1,
        **overrides,
    )  # fmt: skip
    return [sys.executable, "train.py", f"--config=configs/{architecture}.py",
            f"--workdir={folder}/{name}", *shrink.flags(config)]  # fmt: skip


def environment():
    return {**os.environ, "PYTHONUNBUFFERED": "1", "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}


def start(words):
    return subprocess.Popen(words, cwd=ROOT, env=environment(), stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)  # fmt: skip


def run_to_the_end(words):
    with start(words) as process:
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def interrupt(words, moment, number):
    """Runs until update `moment` is seen, sends the signal; returns (exit status, output)."""
    lines = []
    with start(words) as process:
        for line in process.stdout:
            lines.append(line)
            if line.startswith("step") and "/" in line.split()[1]:
                if int(line.split()[1].split("/")[0].replace(",", "")) >= moment:
                    process.send_signal(number)
                    break
        lines += process.stdout.readlines()
    return process.wait(timeout=60), "".join(lines)


def arrays(run, step=STEPS):
    """Every array of a checkpoint, by item and path."""
    found = {}
    for item in ("params", "optimizer"):
        path = pathlib.Path(run).absolute() / "checkpoints" / str(step) / item
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            shapes = checkpointer.metadata(path).item_metadata.tree
            plain = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
            tree = checkpointer.restore(path, args=ocp.args.PyTreeRestore(restore_args=plain))
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            found[item + jax.tree_util.keystr(path)] = np.asarray(leaf)
    return found


def assert_the_same_run(one, other):
    ours, theirs = arrays(one), arrays(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    lines = shrink.metrics(one)
    assert lines == shrink.metrics(other)
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
        (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL),
        pytest.param((signal.SIGKILL,) * 3, marks=pytest.mark.slow),
        pytest.param((signal.SIGTERM,) * 3, marks=pytest.mark.slow),
    ],
    ids=lambda signals: "-".join(number.name for number in signals),
)
def test_law_2_three_interruptions_change_nothing(folder, uninterrupted, signals):
    run = folder / "-".join(number.name for number in signals)
    words = command(folder, run.name)
    for moment, number in zip(MOMENTS, signals, strict=True):
        code, output = interrupt(words, moment, number)
        assert code == {signal.SIGKILL: -9, signal.SIGTERM: 143}[number], output
        assert ("stopped by a signal at step" in output) == (number == signal.SIGTERM)
    output = run_to_the_end(words)
    assert "resumed from checkpoint" in output
    assert_the_same_run(run, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["encoder", "encoder_decoder"])
def test_law_2_holds_for_the_other_architectures(folder, architecture):
    run_to_the_end(command(folder, f"{architecture}-whole", architecture))
    words = command(folder, f"{architecture}-cut", architecture)
    for moment in MOMENTS:
        assert interrupt(words, moment, signal.SIGKILL)[0] == -9
    run_to_the_end(words)
    assert_the_same_run(folder / f"{architecture}-cut", folder / f"{architecture}-whole")


def test_law_2_a_stopped_finetuning_goes_on_as_if_nothing_had_happened(folder, uninterrupted):
    def words(name):
        config = shrink.finetuning(
            folder,
            uninterrupted,
            training__duration="200 steps",
            checkpoint__every="20 steps",
            evaluation__every="50 steps",
        )
        return [sys.executable, "finetune.py", "--config=configs/finetune/classification.py",
                f"--workdir={folder}/{name}", *shrink.flags(config)]  # fmt: skip

    run_to_the_end(words("tuned"))
    assert interrupt(words("tuned-cut"), 70, signal.SIGTERM)[0] == 143
    assert "resumed from checkpoint" in run_to_the_end(words("tuned-cut"))
    assert shrink.metrics(folder / "tuned-cut") == shrink.metrics(folder / "tuned")
    ours, theirs = arrays(folder / "tuned-cut", 200), arrays(folder / "tuned", 200)
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    for file in ("scores.json", "predictions_test.tsv"):
        assert (folder / "tuned-cut" / file).read_text() == (folder / "tuned" / file).read_text()


def test_a_truncated_checkpoint_is_set_aside_and_the_one_before_it_is_used(folder, uninterrupted):
    run = folder / "torn"
    shutil.copytree(uninterrupted, run)
    newest = run / "checkpoints" / str(STEPS) / "params"
    files = sorted((f for f in newest.rglob("*") if f.is_file() and f.parent.name == "d"),
                   key=lambda f: f.stat().st_size)  # fmt: skip
    files[-1].write_bytes(files[-1].read_bytes()[: files[-1].stat().st_size // 2])
    output = run_to_the_end(command(folder, "torn"))
    assert f"checkpoint {STEPS} cannot be restored" in output
    assert f"resumed from checkpoint {STEPS - EVERY}" in output
    assert (run / "checkpoints" / f"{STEPS}.broken").is_dir()
    assert_the_same_run(run, uninterrupted)
