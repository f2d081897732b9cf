"""Law 11 across processes: one device equals two processes of two devices each, over loopback.

Real processes of train.py that share a run directory, gloo collectives, one global batch.
"""

import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest
import shrink

import train
from data import prepare

ROOT = pathlib.Path(__file__).parent.parent


def launch(folder, name, architecture, processes, devices, **overrides):
    """Runs train.py as `processes` processes; returns their outputs."""
    config = shrink.pretraining(
        folder, f"configs/{architecture}.py", training__duration="10 steps",
        evaluation__every="10 steps", checkpoint__every="5 steps", **overrides,
    )  # fmt: skip
    words = [sys.executable, "train.py", f"--config=configs/{architecture}.py",
             f"--workdir={folder}/{name}", *shrink.flags(config)]  # fmt: skip
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    if processes > 1:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environment |= {
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
            "JAX_NUM_PROCESSES": str(processes),
        }
    running = [
        subprocess.Popen(words, cwd=ROOT, env={**environment, "JAX_PROCESS_ID": str(i)}, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for i in range(processes)
    ]  # fmt: skip
    outputs = []
    for process in running:
        with process:
            outputs.append(process.communicate(timeout=240)[0])
    return [process.returncode for process in running], outputs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With the token store made: several processes refuse to build one."""
    made = tmp_path_factory.mktemp("processes")
    config = train.configs.resolve(train.Config, shrink.pretraining(made))
    prepare.prepare(config.data, config.tokenizer, log=lambda line: None)
    return made


slow = pytest.mark.slow


# One crosses processes in `make test`; the same laws on four devices hold for all in test_step.py.
@pytest.mark.parametrize(
    "architecture",
    [pytest.param("encoder", marks=slow), "decoder", pytest.param("encoder_decoder", marks=slow)],
)
def test_law_11_one_device_equals_two_processes_of_two_devices(folder, architecture):
    codes, outputs = launch(folder, f"{architecture}-one", architecture, 1, 1)
    assert codes == [0], outputs[0]
    codes, outputs = launch(folder, f"{architecture}-four", architecture, 2, 2, mesh__fsdp=2)
    assert codes == [0, 0], "\n".join(outputs)
    one, four = (shrink.metrics(folder / f"{architecture}-{n}") for n in ("one", "four"))
    assert [(line["split"], line["step"]) for line in one] == [
        (line["split"], line["step"]) for line in four
    ]
    assert one[1]["split"] == "train"
    np.testing.assert_allclose(four[1]["gradient_norm"], one[1]["gradient_norm"], rtol=1e-5)
    for ours, theirs in zip(four, one, strict=True):
        np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lion", "muon", "adafactor"])
def test_law_11_holds_for_every_optimizer_and_for_averaged_parameters(folder, name):
    changes = {"optimizer__name": name, "optimizer__learning_rate": 1e-3, "training__ema": 0.9}
    if name == "adafactor":
        changes["optimizer__factored_size"] = 16
    codes, outputs = launch(folder, f"{name}-one", "decoder", 1, 1, **changes)
    assert codes == [0], outputs[0]
    codes, outputs = launch(folder, f"{name}-four", "decoder", 2, 2, mesh__fsdp=2, **changes)
    assert codes == [0, 0], "\n".join(outputs)
    for ours, theirs in zip(*(shrink.metrics(folder / f"{name}-{n}") for n in ("four", "one")),
                            strict=True):  # fmt: skip
        assert (ours["split"], ours["step"]) == (theirs["split"], theirs["step"])
        np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-4)


def test_processes_with_different_configs_fail_within_seconds(folder):
    """The second process of two gets another seed by its environment's stand-in: a second command."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = []
    for i in range(2):
        config = shrink.pretraining(folder, "configs/decoder.py", seed__order=i)
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "",
                       "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": "2",
                       "JAX_PROCESS_ID": str(i)}  # fmt: skip
        running.append(
            subprocess.Popen(
                [sys.executable, "train.py", "--config=configs/decoder.py",
                 f"--workdir={folder}/different-{i}", *shrink.flags(config)],
                cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )
        )  # fmt: skip
    outputs = []
    for process in running:
        with process:
            outputs.append(process.communicate(timeout=120)[0])
    assert all(process.returncode == 1 for process in running), "\n".join(outputs)
    assert all("processes disagree about the config or the data" in output for output in outputs)
