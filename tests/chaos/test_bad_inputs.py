"""Thousands of generated bad inputs over all programs: one clear line each, and nothing is lost.

The number is $TRIPTYCH_CHAOS_INPUTS (`make chaos`: 2,000).
"""

import collections
import contextlib
import io
import os
import pathlib
import signal
import sys
import time

import bad_commands
import numpy as np
import pytest

import finetune
import train
from sweeps import executors
from training import cli

COUNT = int(os.environ.get("TRIPTYCH_CHAOS_INPUTS", "2000"))
SEED = int(os.environ.get("TRIPTYCH_CHAOS_SEED", "0"))
SECONDS = 120  # that an input may take


class Accepted(Exception):
    """Raised where training would begin: the input was valid."""


class Hangs(BaseException):
    """Raised by the alarm."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    bad_commands.prepare_inputs(folder)
    return folder


def contents(folder):
    """{file: bytes} of the runs that the commands read."""
    return {
        path: path.read_bytes()
        for name in ("decoder", "encoder", "encoder_decoder", "classifier")
        for path in sorted((folder / name).rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def outcome(main, argv):
    """('accepted' | 'error' | fault, the last line) of a command line in this process."""

    def ring(*_):
        raise Hangs

    error, began = io.StringIO(), time.perf_counter()
    signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    code, raised = 0, None
    try:
        with (
            contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO())),
            contextlib.redirect_stderr(error),
        ):
            cli.main(main, [str(each) for each in argv], console=error)
    except SystemExit as end:
        code = end.code
    except BaseException as problem:  # noqa: BLE001  whatever escapes is a fault
        raised = problem
    finally:
        signal.alarm(0)
    lines = error.getvalue().splitlines()
    last = next((line for line in reversed(lines) if line.startswith("error:")), "")
    if raised is not None:
        return f"{type(raised).__name__} after {time.perf_counter() - began:.0f} s", str(raised)
    if code in (0, None) or "Accepted" in last:
        return "accepted", last
    if code != 1 or sum(line.startswith("error:") for line in lines) != 1:
        return f"status {code}", "\n".join(lines[-3:])
    if "--debug prints the traceback" in last or "Traceback" in error.getvalue():
        return "unexplained", last
    if len(last) > 700:
        return "long", last
    return "error", last


@pytest.mark.slow
def test_generated_bad_inputs_are_one_clear_line_and_lose_nothing(folder, monkeypatch):
    def stop(*_, **__):
        raise Accepted

    for program in (train, finetune):
        monkeypatch.setattr(program, "train_loop", stop)
    monkeypatch.setattr(executors.Local, "_start", stop)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    monkeypatch.setenv("TRIPTYCH_CACHE", str(folder / "cache"))
    monkeypatch.chdir(folder)  # relative paths of the mistakes
    random, before = np.random.default_rng(SEED), contents(folder)
    commands, counts, faults = bad_commands.commands(folder), collections.Counter(), []
    report = pathlib.Path(os.environ.get("TRIPTYCH_CHAOS_REPORT", folder / "inputs.txt"))
    with report.open("w") as lines:
        for _ in range(COUNT):
            command = commands[int(random.integers(len(commands)))]
            argv, mistake = bad_commands.with_a_mistake(command, folder, random)
            bad_commands.remove_outputs(folder)
            found, line = outcome(command.main, argv)
            counts[command.program, found if found in ("accepted", "error") else "fault"] += 1
            print(f"{command.program} | {mistake!r} | {found} | {line}", file=lines, flush=True)
            if found not in ("accepted", "error"):
                faults.append(f"{command.program} | {mistake!r} | {found} | {line}")
            after = contents(folder)
            if found == "error" and after != before:
                changed = [
                    p.name for p in before.keys() | after.keys() if before.get(p) != after.get(p)
                ]
                faults.append(f"{command.program} | {mistake!r} | changed {changed} | {line}")
            before = after
    for (program, found), count in sorted(counts.items()):
        print(f"{program:<12} {found:<10} {count:>5}")
    assert not faults, "\n".join(faults)
    assert sum(n for (_, found), n in counts.items() if found == "error") > COUNT / 3
