"""Several real processes of an entry file, on one coordinator over loopback."""

import os
import pathlib
import socket
import subprocess

ROOT = pathlib.Path(__file__).parent.parent


def launch(commands, devices):
    """Runs one process per command, all on one coordinator; returns their exit statuses and outputs."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags}
    if len(commands) > 1:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environment["JAX_COORDINATOR_ADDRESS"] = f"127.0.0.1:{port}"
        environment["JAX_NUM_PROCESSES"] = str(len(commands))
    running = [
        subprocess.Popen(command, cwd=ROOT, env={**environment, "JAX_PROCESS_ID": str(i)}, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for i, command in enumerate(commands)
    ]  # fmt: skip
    outputs = []
    for process in running:
        with process:
            outputs.append(process.communicate(timeout=240)[0])
    return [process.returncode for process in running], outputs
