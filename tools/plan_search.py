"""The search of tools/plan.py: the fastest mesh, microbatches and recomputation that fit in a chip.

Candidates come from DIMENSIONS, in the order of the analytic estimate; each is compiled in a thread, so that
Ctrl-C ends the search with the best so far. Results are kept below $TRIPTYCH_CACHE.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import itertools
import json
import math
import pathlib
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from data.files import cache_directory
from tools import chips, plan_report, plan_step
from tools.hlo import Collective
from tools.plan_analytic import analytic_report
from training import config as config_lib
from training import paths
from training.config import ConfigError

ROOT = pathlib.Path(__file__).resolve().parents[1]
SOURCES = ("train", "data", "models", "objectives", "tasks", "training", "tools")
PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "optax")


LONG = 4096  # tokens of a row


def divisors(number: int) -> list[int]:
    """The divisors of a number, in order."""
    return [n for n in range(1, number + 1) if number % n == 0]


# Field of the config -> its values, from (resolved config, number of devices). A field that the schema does
# not have is left out.
DIMENSIONS: dict[str, Callable[[Any, int], list]] = {
    "mesh.fsdp": lambda config, devices: divisors(devices),
    "mesh.tensor": lambda config, devices: [
        n for n in divisors(devices) if n <= 8 and config.model.num_heads % n == 0
    ],
    # For long rows, and for fewer rows than devices.
    "mesh.sequence": lambda config, devices: [
        n
        for n in divisors(devices)
        if n == 1
        or n <= 8
        and (config.training.seq_len >= LONG or config.training.batch_size < devices)
    ],
    "training.grad_accum_steps": lambda config, devices: [
        n for n in (1, 2, 4, 8, 16, 32) if config.training.batch_size % n == 0
    ],
    "training.remat": lambda config, devices: ["none", "dots", "full"],
    # One loop over the layers compiles in a fraction of the time, and costs memory: for deep models alone.
    "training.scan_layers": lambda config, devices: [config.model.num_layers > 8],
}


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Overrides of a config, its step, and the estimate that orders the search."""

    overrides: dict[str, Any]
    step: plan_step.PlannedStep
    estimate: plan_report.Report

    def __str__(self):
        return " ".join(f"--config.{key}={value}" for key, value in self.overrides.items())


def with_overrides(config, overrides):
    """A resolved config with fields replaced. Raises ConfigError."""
    given = config_lib.to_dict(config)
    for key, value in overrides.items():
        section, _, field = key.partition(".")
        given[section] = {**given[section], field: value}
    return config_lib.resolve(type(config), given)


def candidates(config, topology, devices, chip):
    """([Candidate], the number that train.py refuses, [bytes of the state of each that cannot fit])."""
    names = [key for key in DIMENSIONS
             if hasattr(getattr(config, key.partition(".")[0]), key.partition(".")[2])]  # fmt: skip
    found, refused, too_large, like = [], 0, [], {}
    for values in itertools.product(*(DIMENSIONS[key](config, len(devices)) for key in names)):
        overrides = dict(zip(names, values, strict=True))
        fsdp, within = overrides["mesh.fsdp"], overrides["mesh.tensor"] * overrides["mesh.sequence"]
        shards = len(devices) // within
        rows = config.training.batch_size // overrides["training.grad_accum_steps"]
        if len(devices) % (fsdp * within) or rows % shards:
            continue
        overrides = {"mesh.data": shards // fsdp, **overrides}
        try:
            changed = with_overrides(config, overrides)
            mesh = changed.mesh
            same = like.get(mesh) or next(iter(like.values()), None)
            step = like[mesh] = plan_step.plan_step(changed, devices, same)
        except ConfigError:
            refused += 1
            continue
        state = sum(step.state_bytes.values())
        if state > chip.hbm_bytes:
            too_large.append(state)
        else:
            found.append(Candidate(overrides, step, analytic_report(topology, chip, step)))
    return sorted(found, key=_order), refused, too_large


def _order(candidate):
    """Those that probably fit first, by least time, then by memory."""
    estimate = candidate.estimate
    excess = max(0.0, estimate.peak_bytes / estimate.limit_bytes - 1.0)
    return math.ceil(4 * excess), estimate.order, estimate.peak_bytes


def search(config, topology, devices, chip, limit, evaluate=None, say=None):
    """(the best Candidate, its Report). Raises ConfigError if none fits.

    Args:
      config: resolved PretrainConfig.
      limit: candidates that are compiled, at most.
      evaluate: Candidate -> Report, `planned` by default.
      say: receives a line per candidate; by default, standard error.
    """
    evaluate = evaluate or (lambda candidate: planned(candidate.step, topology, chip))
    say = say or (lambda line: print(line, file=sys.stderr, flush=True))
    say("listing candidates")
    found, refused, too_large = candidates(config, topology, devices, chip)
    total, number = min(limit, len(found)), 0
    say(
        f"{len(found) + refused + len(too_large)} candidates: {len(too_large)} whose state alone does not "
        f"fit, {refused} that train.py refuses; compiling {total} of the other {len(found)}"
    )
    best, smallest, began = None, min(too_large, default=math.inf), time.perf_counter()
    try:
        for number, candidate in enumerate(found[:total], 1):
            report, verdict = None, "does not fit"
            try:
                report = evaluate(candidate)
                peak = report.peak_bytes
            except plan_step.DoesNotFit as error:
                peak = error.needed or math.inf
            if report is None or not report.fits:
                smallest = min(smallest, peak)
            else:
                verdict = _milliseconds(report)
                if best is None or report.order < best[1].order:
                    best = candidate, report
            left = (time.perf_counter() - began) / number * (total - number) / 60
            say(
                f"{number:>3}/{total}  {peak / chips.GIB:>6.2f} GiB  {verdict:<13} {candidate}  "
                f"eta {left:.0f} min" + (f"  best {_milliseconds(best[1])}" if best else "")
            )
    except KeyboardInterrupt:
        if best is None:
            raise
        say(f"interrupted at candidate {number} of {total}: the best so far")
    if best is None:
        excess = (smallest - chip.hbm_bytes) / chips.GIB
        raise ConfigError(
            f"nothing fits {len(devices)} x {chip.name} ({chip.hbm_bytes / chips.GIB:.0f} GiB): the "
            f"smallest needs {excess:.1f} GiB more per chip; take a larger slice or chip, a smaller "
            f"training.batch_size or seq_len, model.dtype=bfloat16, or an optimizer with less state "
            f"(adafactor)"
            if found or too_large
            else f"no mesh fits {len(devices)} x {chip.name}: config.training.batch_size="
            f"{config.training.batch_size} must divide by data * fsdp, which is at least "
            f"{len(devices) // max(DIMENSIONS['mesh.tensor'](config, len(devices)))}; raise it"
        )
    return best


def _milliseconds(report):
    return f"{1e3 * report.step_seconds:,.1f} ms"


# ---- One candidate -------------------------------------------------------------------------------


def planned(step, topology, chip):
    """The Report of a compiled step, from the cache if it is there; of a GPU, the analytic one. Raises
    plan_step.DoesNotFit."""
    if chip is not None and chip.is_gpu:
        return analytic_report(topology, chip, step)
    config = step.config
    keys = (
        []
        if config.tokenizer.path or config.init_from
        else [json.dumps(config_lib.to_dict(config))]
    )
    files = [_file(topology, key) for key in keys]
    if not any(map(paths.read_object, files)):
        files.append(_file(topology, _interruptible(lambda: step.lowered).as_text()))
    record = next(filter(None, map(paths.read_object, files)), None)
    if record is None:
        try:
            compiled, seconds = _interruptible(step.compile)
            record = plan_report.report_of(topology, chip, step, compiled, seconds).record()
        except plan_step.DoesNotFit as error:
            record = {"message": str(error), "needed": error.needed}
    for file in files:
        if not paths.read_object(file):
            paths.write_text(file, json.dumps(record))
    if "needed" in record:
        raise plan_step.DoesNotFit(record["message"], record["needed"])
    return report_from(record)


def _file(topology, key):
    """The file in the cache for a program, or for a config, which saves to trace it. Its name hashes that,
    the topology, and the sources and versions that make the program and its report."""
    folder = cache_directory("") / "plan"
    folder.mkdir(exist_ok=True)
    digest = hashlib.sha256(f"{topology}\n{_versions()}\n{key}".encode())
    return folder / f"{digest.hexdigest()[:32]}.json"


@functools.cache
def _versions():
    digest = hashlib.sha256()
    for package in SOURCES:
        for file in sorted([ROOT / f"{package}.py", *(ROOT / package).rglob("*.py")]):
            digest.update(file.read_bytes() if file.exists() else b"")
    return " ".join([digest.hexdigest(), *(f"{name} {_version(name)}" for name in PACKAGES)])


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def report_from(record: dict) -> plan_report.Report:
    """The Report of `Report.record`."""
    fields = {field.name: record[field.name] for field in dataclasses.fields(plan_report.Report)}
    chip = record["chip"] and chips.CHIPS[record["chip"]["name"]]
    found = [Collective(**each | {"axes": tuple(each["axes"])}) for each in record["collectives"]]
    fields |= {"chip": chip, "collectives": found, "notes": tuple(record["notes"])}
    return plan_report.Report(**fields)


def _interruptible(function):
    """function() in a thread: the compiler does not hear Ctrl-C, and this function does."""
    result = []

    def call():
        try:
            result.append((function(), None))
        except BaseException as error:  # noqa: BLE001  raised below
            result.append((None, error))

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
    value, error = result[0]
    if error is not None:
        raise error
    return value
