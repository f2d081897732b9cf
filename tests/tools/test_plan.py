"""tools.plan: the report of a tiny config on four CPU devices, wrong input, a compilation for TPUs."""

import importlib.util
import json
import math
import os
import subprocess
import sys

import jax
import pytest

from tools import plan, plan_report, plan_step
from training import config as configs
from training.config import ConfigError
from training.schema import PretrainConfig

DECODER = "configs/decoder.py:size=tiny"
SMALL = {"model.num_layers": "1", "training.seq_len": "32", "training.batch_size": "8",
         "tokenizer.vocab_size": "512"}  # fmt: skip


def resolved(file=DECODER, **changes):
    given = SMALL | {name.replace("__", "."): value for name, value in changes.items()}
    config = configs.override(configs.load_config_file(file), list(given.items()))
    return configs.resolve(PretrainConfig, config)


@pytest.fixture(scope="module")
def report():
    config = resolved(mesh__data="1", mesh__fsdp="2", mesh__tensor="2", training__ema_decay="0.9",
                      training__grad_accum_steps="2")  # fmt: skip
    return plan.plan(config, "cpu:4")


def test_memory_of_the_state_is_that_of_its_shards(report):
    config = resolved(mesh__data="1", mesh__fsdp="2", mesh__tensor="2")
    step = plan_step.plan_step(config, jax.devices()[:4])
    whole = sum(4 * leaf.size for leaf in jax.tree.leaves(step.params))
    parameters = report.memory["parameters"]
    assert whole / 4 <= parameters < whole / 3  # norms and biases are not split
    assert report.memory["EMA"] == parameters
    assert (
        report.memory["optimizer state"] == 2 * parameters + 4
    )  # Adam's two moments and its count
    assert report.memory["inputs and padding"] > 8 // 2 * 33 * 4  # int32 rows of half of the batch


def test_the_peak_is_that_of_the_compiler(report):
    assert report.peak_bytes == sum(report.memory.values()) > report.memory["temporaries"] > 0


def test_executed_flops_are_those_of_the_model_and_little_more(report):
    share = report.executed_flops * report.devices / report.model_flops
    assert 1.0 <= share < 1.3


def test_collectives_are_named_by_mesh_axis(report):
    axes = {each.axes for each in report.collectives}
    assert ("fsdp",) in axes and ("tensor",) in axes
    assert all(each.bytes > 0 and "?" not in each.axes for each in report.collectives)


def test_a_roofline_is_the_slowest_resource():
    chip = plan_step.chip_of("v5e")
    report = plan_report.Report(
        "v5e:2x2", chip, 4, {"data": 4}, {"parameters": 2**30}, 4 * 197e12, 2 * 197e12, {}, 3 * 819e9, [],
        tokens_per_step=1000,
    )  # fmt: skip
    assert report.seconds == {"compute": 2.0, "memory": 3.0, "interconnect": 0.0}
    assert report.step_seconds == 3.0 and report.utilization == pytest.approx(1 / 3)
    assert report.cost(price=2.0) == pytest.approx(2.0 * 4 * 3e6 / 3600)
    assert report.fits


def run(arguments, capsys, monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    plan.main([f"--config={DECODER}", *(f"--config.{k}={v}" for k, v in SMALL.items()), *arguments])
    return capsys.readouterr().out


def test_the_command_prints_the_report_and_writes_it(tmp_path, capsys, monkeypatch):
    file = tmp_path / "plan.json"
    out = run(["--topology=cpu:2", f"--output={file}", "--price=2"], capsys, monkeypatch)
    record = json.loads(file.read_text())
    assert record["peak_bytes"] == sum(record["memory"].values())
    assert record["mesh"] == {"data": 2, "fsdp": 1, "tensor": 1}
    assert f"{record['peak_bytes'] / 2**20:,.1f}" in out and "all-reduce" in out
    for name in ("parameters", "optimizer state", "temporaries", "model FLOPs"):
        assert name in out


def test_pretraining_of_each_architecture_is_planned():
    for file in ("configs/encoder.py:size=tiny", "configs/encoder_decoder.py:size=tiny"):
        step = plan_step.plan_step(resolved(file), jax.devices()[:1])
        assert step.state_bytes["parameters"] > 0 and step.lowered.as_text()


def test_frozen_parameters_have_no_optimizer_state():
    frozen = plan_step.plan_step(resolved(freeze="('embed/.*',)"), jax.devices()[:1]).state_bytes
    whole = plan_step.plan_step(resolved(), jax.devices()[:1]).state_bytes
    assert frozen["parameters"] == whole["parameters"]
    assert frozen["optimizer state"] < whole["optimizer state"] / 1.2


WRONG = [
    ([], "--topology is missing"),
    (["--topology=v5x:4x4"], "did you mean v5"),
    (["--topology=cpu:0"], "expected cpu, or cpu:N"),
    (["--topology=cpu:many"], "expected cpu, or cpu:N"),
    (["--topology=cpu:4096"], "XLA_FLAGS=--xla_force_host_platform_device_count=4096"),
    (["--topology=v5e"], "such as v5e:16x16"),
    (["--topology=v5e:4by4"], "such as v5e:16x16"),
    (["--topology="], "--topology is missing"),
    (["--topology=cpu:4", "--price=-1"], "at least 0"),
    (["--topology=cpu:4", "--price=nan"], "at least 0"),
    (["--topology=cpu:4", "--price=much"], "--price"),
    (["--topology=cpu:4", "--run=runs/x"], "got both"),
    (["--topology=cpu:4", "--config.mesh.fsdp=3"], "does not fit 4 devices"),
    (["--topology=cpu:4", "--config.training.batch_size=6"], "choose a multiple of 4"),
    (["--topology=cpu:4", "--config.training.duration=soon"], "is not a duration"),
    (["--topology=cpu:4", "--config.freeze=('nothing',)"], "matches no parameter"),
    (["--topology=cpu:4", "--config.tokenizer.path=missing.json"], "missing.json"),
    (["--topology=cpu:4", "--toplogy=x"], "did you mean --topology"),
]


@pytest.mark.parametrize(("arguments", "words"), WRONG, ids=str)
def test_wrong_input_is_one_line_with_the_remedy(arguments, words, capsys, monkeypatch):
    with pytest.raises((ConfigError, ValueError, FileNotFoundError)) as error:
        run(arguments, capsys, monkeypatch)
    message = str(error.value)
    assert words in message and len(message) <= 400 and "\n" not in message


def test_a_config_of_finetuning_is_refused(monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with pytest.raises(ConfigError, match="config of finetune.py"):
        plan.main(["--config=configs/finetune/classification.py", "--topology=cpu"])


def test_neither_config_nor_run_is_refused():
    with pytest.raises(ConfigError, match="got neither"):
        plan.main([])


HAS_LIBTPU = importlib.util.find_spec("libtpu") is not None


@pytest.mark.skipif(HAS_LIBTPU, reason="libtpu is installed")
def test_without_libtpu_the_extra_is_named(capsys, monkeypatch):
    with pytest.raises(ConfigError, match=r"pip install -e \.\[tpu\]"):
        run(["--topology=v5e:2x2"], capsys, monkeypatch)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_LIBTPU, reason="libtpu is not installed: pip install -e .[tpu]")
def test_a_tpu_slice_is_compiled_for(tmp_path):
    """In a process of its own: only one may use libtpu."""
    file = tmp_path / "plan.json"
    command = [sys.executable, "-m", "tools.plan", f"--config={DECODER}", "--topology=v5e:2x2",
               "--price=1.2", f"--output={file}", *(f"--config.{k}={v}" for k, v in SMALL.items()),
               "--config.training.seq_len=256"]  # fmt: skip
    subprocess.run(command, check=True, timeout=600)
    record = json.loads(file.read_text())
    assert record["devices"] == 4 and record["fits"] and "splash" in record["attention"]
    assert [each["axes"] for each in record["collectives"]] == [["data"]]
    gradients = record["memory"]["parameters"]
    assert math.isclose(record["collectives"][0]["bytes"], 2 * gradients * 3 / 4, rel_tol=0.01)
    assert 0 < record["utilization_bound"] <= 1
    assert record["cost_per_1e9_tokens"] > 0
