"""`python -m tools.plan --config=FILE --topology=v5e:16x16`: memory and speed of a run, before it has chips.

Compiles the train step of a pretraining config for a slice that need not be here, without data, and reports
its needs (plan_step.py, plan_report.py). --search chooses mesh and microbatches (plan_search.py).
"""

import os
import sys

from training import cli
from training.config import ConfigError

FLAGS = (
    ("--topology", {"metavar": "NAME", "help": "v5e:16x16, v5p:8x8x16, h100:8, cpu:4, ..."}),
    ("--price", {"type": float, "default": 0.0, "help": "price of a chip per hour"}),
    ("--output", {"default": "", "metavar": "FILE", "help": "also write the report as JSON"}),
    ("--search", {"action": "store_true", "help": "choose the fastest mesh, microbatches, ... that fit"}),
    ("--compile_at_most", {"type": int, "default": 24, "metavar": "N", "help": "candidates of --search"}),
    ("--run", {"metavar": "DIR", "help": "compare a run of train.py with its plan on this machine"}),
)  # fmt: skip
EXAMPLES = """\
python -m tools.plan --config=configs/decoder.py:size=xl --topology=v5e:16x16 --price=1.2
python -m tools.plan --config=configs/encoder.py:preset=bert-large --topology=v5p:8x8x16 --search \\
    --config.training.batch_size=4096 --config.model.dtype=bfloat16
python -m tools.plan --config=configs/decoder.py --topology=h100:8       # estimated by formulas
python -m tools.plan --run=runs/decoder                                  # predicted beside measured

A TPU slice is compiled for by libtpu (pip install -e .[tpu]), which needs no TPU. Memory is the compiler's;
times are lower bounds. docs/performance.md has the details."""

# libtpu looks for the machine around its chips; there is none, and its warnings are about that. Its lock is
# for programs that use chips.
COMPILE_ONLY = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}


def main(argv):
    """Prints the plan that the command line asks for."""
    given, config = cli.parse_args(argv, __doc__, FLAGS, config="optional", examples=EXAMPLES)
    cli.check_run_or_config(given, config)
    if config is not None and not (given.topology or given.print_config):
        raise ConfigError("--topology is missing; expected a slice such as --topology=v5e:16x16")
    if not 0 <= given.price < float("inf"):
        raise ConfigError(
            f"--price={given.price}: expected the price of a chip per hour, at least 0"
        )
    if given.compile_at_most < 1:
        raise ConfigError(f"--compile_at_most={given.compile_at_most}: expected at least 1")
    if config is not None:
        prepare_cpu(given.topology or "")
    elif given.topology or given.search:
        raise ConfigError("--run is compared on this machine; leave out --topology and --search")
    from tools import plan

    plan.show(given, config)


def prepare_cpu(topology):
    """Before JAX starts: nothing runs on an accelerator of this machine, and cpu:N, h100:N have N devices."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    for name, value in COMPILE_ONLY.items():
        os.environ.setdefault(name, value)
    name, _, number = topology.partition(":")
    if number.isdigit():  # CPUs, or GPUs: CPU devices give the shapes of their shards
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={number}"
        os.environ["XLA_FLAGS"] = flags.strip()


if __name__ == "__main__":
    cli.main(main, console=sys.stderr)

import dataclasses
import json
import statistics

import jax

from tools import chips, output, plan_report, plan_search, plan_step
from training import config as config_lib
from training import logs, paths, print_config, run_directory
from training.schema import PretrainConfig


def show(given, config):
    """Prints what the flags ask for."""
    output.check_path("--output", given.output)
    if config is None:
        found, measured = compare(paths.of(given.run))
        print(
            "\n".join(
                [*plan_report.lines_of(found, given.price), "", *lines_beside(found, measured)]
            )
        )
        write(given.output, found.record(given.price) | {"measured": measured})
        return
    if "task" in config:
        raise ConfigError(
            f"{given.config} is a config of finetune.py, whose step depends on its data; expected one of "
            f"train.py, such as configs/decoder.py"
        )
    resolved = config_lib.resolve(PretrainConfig, config)
    if given.print_config:
        print_config.show(given.print_config, resolved, config)
        return
    overrides = {}
    if given.search:
        devices, chip = plan_step.find_devices(given.topology)
        if chip is None:
            raise ConfigError("--search needs the memory of a chip; expected one such as v5e:16x16")
        best, found = plan_search.search(
            resolved, given.topology, devices, chip, given.compile_at_most
        )
        overrides = best.overrides
        print(f"add to the command:\n  {best}\n")
    else:
        found = plan(resolved, given.topology)
    print("\n".join(plan_report.lines_of(found, given.price)))
    write(given.output, found.record(given.price) | {"overrides": overrides})


def plan(config, topology):
    """The Report of a resolved PretrainConfig on a topology. Raises ConfigError, or plan_step.DoesNotFit."""
    devices, chip = plan_step.find_devices(topology)
    step = plan_step.plan_step(config, devices)
    if chip is not None:
        step.check_state(chip)
    return plan_search.planned(step, topology, chip)


def compare(run):
    """(the Report of the step of a run on the devices of this machine, {measured quantity: value}).

    Raises ConfigError if the directory is none of a run of train.py."""
    record = run_directory.read_config(run)
    if record.get("kind") != "pretrain" or "training" not in record["config"]:
        raise ConfigError(f"--run={str(run)!r} is no run of train.py; expected its --workdir")
    config = config_lib.resolve(PretrainConfig, record["config"])
    # The model and the tokenizer of the run: nothing is trained or converted again.
    model = dataclasses.replace(config.model, **record["model"])
    tokenizer = dataclasses.replace(config.tokenizer, path=str(run / "tokenizer.json"))
    config = dataclasses.replace(
        config, model=model, tokenizer=tokenizer, init_from="", init_stacks="same"
    )
    devices = jax.devices()
    chip = chips.of_kind(devices[0].device_kind)
    name = f"{chip.name if chip else 'cpu'}:{len(devices)} (here)"
    step = plan_step.plan_step(config, devices)
    compiled, seconds = step.compile()
    return plan_report.report_of(name, chip, step, compiled, seconds), measurements(run)


def measurements(run) -> dict[str, float]:
    """{'seconds_per_step': the median of a run's log lines, 'peak_memory_mib': their maximum} from its
    metrics.jsonl; {} if it has none."""
    lines = logs.read_metrics(run, "throughput") if (run / "metrics.jsonl").exists() else []
    values = [line["seconds_per_step"] for line in lines]
    if not values:
        return {}
    peak = max(line.get("peak_memory_mib", 0.0) for line in lines)
    return {"seconds_per_step": statistics.median(values), "peak_memory_mib": peak}


def lines_beside(found, measured) -> list[str]:
    """Predicted beside measured."""
    lines = ["beside the run                      predicted   measured"]
    if "seconds_per_step" not in measured:
        return [
            *lines,
            "  seconds per step: the run has no log line with its speed (logging.every)",
        ]
    seconds = measured["seconds_per_step"]
    predicted = f">= {found.step_seconds:.4g}" if found.chip else "no roofline"
    lines.append(f"  {'seconds per step':<32} {predicted:>11} {seconds:>10.4g}")
    speed = found.executed_flops / seconds
    lines.append(f"  {'executed FLOP/s per device':<32} {'':>11} {speed:>10.3g}")
    if found.chip:  # on a CPU, the peak is of the whole process
        peak = found.peak_bytes / 2**20
        lines.append(
            f"  {'peak MiB per device':<32} {peak:>11,.0f} {measured['peak_memory_mib']:>10,.0f}"
        )
        share = found.model_flops / found.devices / seconds / found.chip.peak_flops
        lines.append(f"  {'model FLOPs utilization':<32} {found.utilization:>10.1%}  {share:>9.1%}")
    return lines


def write(path, record):
    """Writes a record as JSON to a file, if there is one."""
    if path:
        paths.write_text(paths.of(path), json.dumps(record, indent=1) + "\n")
