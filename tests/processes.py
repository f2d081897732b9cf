"""Several real processes of an entry file, on one coordinator over loopback."""

import os
import pathlib
import socket
import subprocess

ROOT = pathlib.Path(__file__).parent.parent


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def slurm(count):
    """The variables of each of `count` tasks of a Slurm step on this machine."""
    common = {"TRIPTYCH_DISTRIBUTED": "1", "SLURM_JOB_ID": str(free_port()), "SLURM_NTASKS": str(count),
              "SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_NUM_NODES": "1"}  # fmt: skip
    return [{**common, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)} for i in range(count)]


def addressed(count):
    """The variables of each of `count` processes with an explicit address."""
    common = {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}",
        "JAX_NUM_PROCESSES": str(count),
    }
    return [{**common, "JAX_PROCESS_ID": str(i)} for i in range(count)]


def start(commands, devices, variables=None):
    """Starts one process per command, all on one coordinator; variables as in `launch`."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags}
    if variables is None:
        variables = addressed(len(commands)) if len(commands) > 1 else [{}]
    return [
        subprocess.Popen(command, cwd=ROOT, env=environment | own, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for command, own in zip(commands, variables, strict=True)
    ]  # fmt: skip


def launch(commands, devices, variables=None):
    """Runs one process per command, all on one coordinator; returns their exit statuses and outputs.

    variables: further environment variables of each process, by default `addressed`."""
    running, outputs = start(commands, devices, variables), []
    for process in running:
        with process:
            outputs.append(process.communicate(timeout=900)[0])
    return [process.returncode for process in running], outputs
