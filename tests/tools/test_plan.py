"""tools.plan: the report of a tiny config on four CPU devices, wrong input, a compilation for TPUs."""

import dataclasses
import importlib
import importlib.util
import json
import math
import os
import subprocess
import sys

import jax
import pytest
import tiny_configs

from tools import plan, plan_analytic, plan_report, plan_search, plan_step
from training import config as config_lib
from training import train_step
from training.config import ConfigError
from training.schema import PretrainConfig

DECODER = "configs/decoder.py:size=tiny"
SMALL = {"model.num_layers": "1", "training.seq_len": "32", "training.batch_size": "8",
         "tokenizer.vocab_size": "512"}  # fmt: skip


def resolved(file=DECODER, **changes):
    given = SMALL | {name.replace("__", "."): value for name, value in changes.items()}
    config = config_lib.override(config_lib.load_config_file(file), list(given.items()))
    return config_lib.resolve(PretrainConfig, config)


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
    # Adam's two moments and its count
    assert report.memory["optimizer state"] == 2 * parameters + 4
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
    assert record["mesh"] == {"data": 2, "fsdp": 1, "tensor": 1, "sequence": 1}
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
    (["--topology=cpu:0"], "expected cpu:N with N devices"),
    (["--topology=cpu:many"], "expected cpu:N with N devices"),
    (["--topology=cpu:4096"], "XLA_FLAGS=--xla_force_host_platform_device_count=4096"),
    (["--topology=v5e"], "such as v5e:16x16"),
    (["--topology=v5e:4by4"], "such as v5e:16x16"),
    (["--topology="], "--topology is missing"),
    (["--topology=cpu:4", "--price=-1"], "at least 0"),
    (["--topology=cpu:4", "--price=nan"], "at least 0"),
    (["--topology=cpu:4", "--price=much"], "--price"),
    (["--topology=cpu:4", "--run=runs/x"], "got both"),
    (["--topology=cpu:4", "--config.mesh.fsdp=3"], "does not fit 4 devices"),
    (
        ["--topology=cpu:4", "--config.mesh.sequence=4", "--config.training.seq_len=30"],
        "config.mesh.sequence=4 does not divide rows of 30 tokens",
    ),
    (
        [
            "--topology=cpu:4",
            "--config.mesh.fsdp=4",
            "--config.model.emb_dim=126",
            "--config.model.num_heads=3",
        ],
        "config.mesh.fsdp=4 splits no parameter",
    ),
    (["--topology=cpu:4", "--config.training.batch_size=6"], "choose a multiple of 4"),
    (["--topology=cpu:4", "--config.training.duration=soon"], "is not a duration"),
    (
        [
            "--topology=cpu",
            "--config.training.duration=1e9 FLOPs",
            "--config.optimizer.warmup=9e5 steps",
        ],
        "make it shorter",
    ),
    (["--topology=cpu:4", "--config.freeze=('nothing',)"], "matches no parameter"),
    (["--topology=cpu:4", "--config.tokenizer.path=missing.json"], "missing.json"),
    (["--topology=cpu:4", "--output=missing/x.json"], "'missing' is not a directory; create it"),
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


# ---- GPUs, the search, and a run -----------------------------------------------------------------


def gpu_step(**changes):
    devices, chip = plan_step.find_devices("h100:4")
    return plan_step.plan_step(resolved(**changes), devices), chip


def test_a_gpu_plan_is_analytic_and_its_state_exact(capsys, monkeypatch):
    step, chip = gpu_step(mesh__data="2", mesh__fsdp="2")
    report = plan_search.planned(step, "h100:4", chip)
    assert report.is_analytic and report.chip.name == "h100"
    assert report.memory["parameters"] == step.state_bytes["parameters"]
    assert {each.axes for each in report.collectives} == {("data",), ("fsdp",)}
    assert "ANALYTIC" in run(["--topology=h100:4"], capsys, monkeypatch)


def test_activations_are_those_of_korthikanti():
    """GPT-like layers of two-byte numbers: 34 s b h + 5 a s^2 b with all scores, 2 s b h recomputed."""
    model = resolved(model__attention_kernel="dense").model
    s, h, a = 32, model.emb_dim, model.num_heads
    assert plan_analytic.bytes_kept(model, s, 1, "none") == 34 + 5 * a * s / h
    assert plan_analytic.bytes_kept(model, s, 2, "none") == 10 + 24 / 2 + 5 * a * s / h / 2
    assert plan_analytic.bytes_kept(model, s, 2, "full") == 2


def search(config, evaluate=None, limit=100, topology="h100:4", said=None):
    devices, chip = plan_step.find_devices(topology)
    say = (lambda line: None) if said is None else said.append
    return plan_search.search(
        config, topology, devices, chip, limit, evaluate or (lambda c: c.estimate), say
    )


def test_a_search_takes_the_fastest_that_fits():
    config, said = resolved(training__batch_size="64"), []

    def evaluate(candidate):
        """More microbatches: slower and smaller; one microbatch does not fit."""
        parts = candidate.overrides["training.grad_accum_steps"]
        if parts == 1:
            raise plan_step.DoesNotFit("too large", 10**12)
        times = {"executed_flops": parts * 1e15, "bytes_accessed": 0.0, "collectives": []}
        return dataclasses.replace(candidate.estimate, **times)

    best, report = search(config, evaluate, said=said)
    assert best.overrides["training.grad_accum_steps"] == 2 and report.fits
    devices, chip = plan_step.find_devices("h100:4")
    found, refused, too_large = plan_search.candidates(config, "h100:4", devices, chip)
    assert len(found) >= 24 and len(said) == 2 + len(found)
    meshes = {
        tuple(each.overrides[f"mesh.{a}"] for a in ("data", "fsdp", "tensor")) for each in found
    }
    assert meshes == {(4, 1, 1), (2, 2, 1), (1, 4, 1), (2, 1, 2), (1, 2, 2)}  # of 2 heads
    for each in found:
        train_step.check_batch_layout(each.step.config.training, each.step.mesh)


def test_a_search_splits_the_rows_of_a_batch_that_is_smaller_than_the_slice():
    devices, chip = plan_step.find_devices("h100:4")
    config = resolved(training__batch_size="2")
    found, *_ = plan_search.candidates(config, "h100:4", devices, chip)
    split = [each for each in found if each.overrides["mesh.sequence"] == 2]
    assert split and all(each.step.mesh.shape["sequence"] == 2 for each in split)
    axes = {axes for each in split for axes in (c.axes for c in each.estimate.collectives)}
    assert ("sequence",) in axes


def test_ctrl_c_ends_a_search_with_the_best_so_far():
    seen = []

    def evaluate(candidate):
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(candidate)
        return candidate.estimate

    best, _ = search(resolved(training__batch_size="32"), evaluate)
    assert best in seen


def test_a_search_in_which_nothing_fits_says_by_how_much():
    def evaluate(candidate):
        raise plan_step.DoesNotFit("too large", int(100e9))

    with pytest.raises(
        ConfigError, match=r"needs 18\.6 GiB more per chip; take a larger slice"
    ) as error:
        search(resolved(), evaluate)
    assert len(str(error.value)) <= 400
    with pytest.raises(ConfigError, match="raise it"):  # three rows for four devices
        search(resolved(training__batch_size="3", training__seq_len="33"))


def test_a_second_plan_compiles_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path))
    config, compile_step = resolved(), plan_step.PlannedStep.compile
    first = plan.plan(config, "cpu:1")
    monkeypatch.setattr(plan_step.PlannedStep, "compile", None)
    assert plan.plan(config, "cpu:1") == first  # known by its config
    changed = resolved(training__duration="7 steps")  # known by its program
    assert plan.plan(changed, "cpu:1") == first
    for file in (tmp_path / "plan").iterdir():  # of a full disk
        file.write_text(file.read_text()[:100])
    with pytest.raises(TypeError):
        plan.plan(config, "cpu:1")
    monkeypatch.setattr(plan_step.PlannedStep, "compile", compile_step)
    again = plan.plan(config, "cpu:1")
    monkeypatch.setattr(plan_step.PlannedStep, "compile", None)
    assert plan.plan(config, "cpu:1") == again
    with pytest.raises(TypeError):  # another program
        plan.plan(resolved(model__emb_dim="64"), "cpu:1")


def test_a_state_that_does_not_fit_is_not_compiled(monkeypatch):
    devices, _ = plan_step.find_devices("cpu:1")
    step = plan_step.plan_step(resolved(), devices)
    chip = dataclasses.replace(plan_step.chip_of("v5e"), hbm_bytes=10_000)
    with pytest.raises(plan_step.DoesNotFit, match="alone need"):
        step.check_state(chip)


def test_a_run_is_compared_with_its_plan(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "run"
    config = config_lib.override(
        config_lib.load_config_file(DECODER),
        [*SMALL.items(), ("training.duration", "4 steps"), ("logging.every", "1 steps"),
         ("data.source", tiny_configs.corpus(tmp_path)), ("data.cache_dir", str(tmp_path / "cache")),
         ("logging.tensorboard", "False")],
    )  # fmt: skip
    importlib.import_module("train").run(config, folder)
    plan.main([f"--run={folder}", f"--output={tmp_path / 'plan.json'}"])
    record = json.loads((tmp_path / "plan.json").read_text())
    assert record["measured"]["seconds_per_step"] > 0
    manifest = json.loads((folder / "manifest.json").read_text())
    assert record["model_flops"] == manifest["flops_per_step"]  # the same step
    assert "seconds per step" in capsys.readouterr().out


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
    # Each gradient once; the token embedding's gradient once for each of its two uses.
    gradients, embedding = record["memory"]["parameters"], 512 * 128 * 4
    sent = record["collectives"][0]["bytes"] / (2 * 3 / 4)
    assert math.isclose(sent, gradients + embedding, rel_tol=0.02)
    assert 0 < record["utilization_bound"] <= 1
    assert record["cost_per_1e9_tokens"] > 0


MESHES = """
from tools import plan_step
from training import sharding
from training.schema import MeshConfig

for topology in ("v5e:4x4", "v5p:4x4x8"):
    devices, _ = plan_step.find_devices(topology)
    for sizes in ((-1, 1, 1), (1, -1, 1), (-1, 4, 2), (-1, 1, 4), (2, -1, 4)):
        mesh = sharding.make_mesh(MeshConfig(*sizes), devices)
        assert mesh.size == len(devices) and sharding.rows_follow_processes(mesh), (topology, sizes)
    mesh = sharding.make_mesh(MeshConfig(-1, 1, 16), devices)
    assert not sharding.rows_follow_processes(mesh)  # a row over several hosts
"""


@pytest.mark.slow
@pytest.mark.skipif(not HAS_LIBTPU, reason="libtpu is not installed: pip install -e .[tpu]")
def test_meshes_over_hosts_keep_the_rows_of_a_process_together():
    environment = {**os.environ, **plan.COMPILE_ONLY, "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", MESHES], check=True, timeout=300, env=environment)
