"""Objectives of one architecture at equal FLOPs: pretrain each, finetune with paired seeds, compare.

    python -m studies.objectives --config=configs/comparisons/electra.py --workdir=runs/electra-study

Every run that ended is a small JSON below the workdir; the same command goes on where it stopped.
"""

import dataclasses
import logging
import pathlib
import re
import shutil
import time

from models.config import knob
from studies import records, results, statistics, table, three_ways
from training import cli, logs
from training import config as configs

log = logging.getLogger("triptych.studies")


@dataclasses.dataclass(frozen=True)
class ComparisonConfig:
    """Arms that differ in what they are pretrained to do; all else, FLOPs included, is equal.

    `pretrain` and `finetune` hold 'key=value' in the words of the command line without '--config.'.
    """

    title: str = knob("Objectives at equal FLOPs", "heading of the table")
    arms: tuple = knob((), "((name, config file[:arg], 'key=value', ...), ...); others - first")
    updates: int = knob(500, "updates of the first arm; the others get as many FLOPs")
    pretrain: tuple = knob((), "'key=value' for every pretraining run")
    finetune_config: str = knob("configs/finetune/classification.py", "file of the finetuning")
    finetune: tuple = knob((), "'key=value' for every finetuning run")
    budgets: tuple = knob((200,), "numbers of labelled examples")
    seeds: tuple = knob((0, 1, 2, 3, 4), "one pair each: label subset, head, order, dropout")
    grid: tuple = knob((3e-4, 1e-3, 3e-3), "rates tried for each arm and budget")
    tune_seeds: tuple = knob((1000,), "seeds that rates are tuned with, apart from the others")

    def __post_init__(self):
        names = [arm[0] for arm in self.arms if isinstance(arm, tuple) and len(arm) >= 2]
        if len(names) < 2 or len(set(names)) < len(self.arms):
            raise ValueError(
                f"arms={self.arms!r}: expected two or more of (name, config file, ...), each with a "
                f"name of its own"
            )
        if set(self.seeds) & set(self.tune_seeds) or not (self.seeds and self.tune_seeds):
            raise ValueError(
                f"seeds={self.seeds!r} and tune_seeds={self.tune_seeds!r}: expected some of each and "
                f"none in both; rates tuned on the compared subsets would flatter an arm"
            )


def run(settings, workdir, entries=None):
    """Runs or continues a comparison; returns what results.json holds.

    Args:
      settings: ComparisonConfig, or a ConfigDict or mapping of its fields.
      workdir: folder of the comparison.
      entries: (pretrain, finetune), functions of (config, workdir) -> Result; by default those of
        train.py and finetune.py.
    """
    if not isinstance(settings, ComparisonConfig):
        settings = configs.resolve(ComparisonConfig, settings)
    pretrain, finetune = entries or three_ways.default_entries()
    workdir = pathlib.Path(workdir)
    records.claim(workdir, settings)
    log.setLevel(logging.INFO)
    flops, rows = None, []
    for arm in settings.arms:
        logs.banner(f"{arm[0]}: pretraining")
        record = pretraining(settings, arm, workdir, pretrain, flops)
        flops = flops or record["matched"]["flops"]
        logs.banner(f"{arm[0]}: finetuning")
        for budget in settings.budgets:
            rows.append(
                scored(settings, arm[0], budget, workdir, finetune) | {"pretraining": record}
            )
    for row in rows:
        reference = next(r for r in rows if r["budget"] == row["budget"])
        if row is not reference:
            row["paired"] = results.paired(row["test"], reference["test"])
    records.write(workdir / "results.json", {"title": settings.title, "rows": rows})
    logs.banner("table")
    for line in lines(settings, rows):
        log.info(line)
    return {"title": settings.title, "rows": rows}


def pretraining(settings, arm, workdir, pretrain, flops):
    """The record of one arm's pretraining: `settings.updates` of them, or as many as `flops` (of the
    first arm, as its manifest has them) pay for, to the nearest."""
    path = workdir / "records" / f"{word(arm[0])}.json"
    record = records.read(path)
    if record is not None:
        return record
    name, file, *own = arm

    def config(updates, *more):
        texts = (*settings.pretrain, *own, *more, f"training.duration={updates} steps")
        return configs.override(configs.load_file(file), [pair(text) for text in texts])

    updates = settings.updates
    if flops is not None:  # one update tells what one costs; its program is used again
        probe = workdir / "probe" / word(name)
        with three_ways.quiet():
            quick = ("checkpoint.every=never", "evaluation.every=never", "optimizer.warmup=1 step")
            pretrain(config(1, *quick), str(probe))
        updates = max(1, round(flops / records.read(probe / "manifest.json")["flops_per_step"]))
    began = time.perf_counter()
    folder = workdir / "pretrain" / word(name)
    pretrain(config(updates), str(folder))
    manifest = records.read(folder / "manifest.json")
    record = {
        "name": name,
        "updates": updates,
        "seconds": time.perf_counter() - began,
        "matched": results.matched(manifest),
        "fingerprint": manifest["data"],
        "about": {key: manifest[key] for key in results.ABOUT},
        "validation": logs.last(folder, "validation"),
    }
    records.write(path, record)
    return record


def scored(settings, name, budget, workdir, finetune):
    """{seed: test accuracy} of an arm, finetuned at the rate that is best on validation."""

    def accuracy(rate, seed, split):
        run = f"{word(name)}-{budget}-{rate:g}-{seed}"
        path = workdir / "records" / f"{run}.json"
        record = records.read(path)
        if record is None:
            record = finetuned(settings, name, budget, rate, seed, workdir, finetune, run)
            records.write(path, record)
            log.info(f"{name}, {budget} labels, rate {rate:g}, seed {seed}: "
                     f"validation {record['validation']:.3f}, {logs.clock(record['seconds'])}")  # fmt: skip
        return record[split]

    tuned = {
        rate: statistics.spread([accuracy(rate, s, "validation") for s in settings.tune_seeds]).mean
        for rate in sorted(map(float, settings.grid))
    }
    best = max(tuned, key=tuned.get)
    return {
        "arm": name,
        "budget": budget,
        "rate": best,
        "tuned": list(tuned.items()),
        "test": {seed: accuracy(best, seed, "test") for seed in settings.seeds},
    }


def finetuned(settings, name, budget, rate, seed, workdir, finetune, run):
    """The record of one finetuning run."""
    texts = [pair(text) for text in settings.finetune]
    streams = [(f"seed.{stream}", seed) for stream in ("init", "order", "dropout", "head")]
    chosen = [
        ("init_from", str(workdir / "pretrain" / word(name))),
        ("transfer", "all"),
        ("optimizer.learning_rate", rate),
        ("task.examples", budget),
    ]
    config = configs.override(
        configs.load_file(settings.finetune_config), [*texts, *chosen, *streams]
    )
    began, folder = time.perf_counter(), workdir / "finetune" / run
    with three_ways.quiet():
        metrics = finetune(config, str(folder)).metrics
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return {
        "validation": metrics["validation/accuracy"],
        "test": metrics["test/accuracy"],
        "seconds": time.perf_counter() - began,
    }


def lines(settings, rows):
    """The table in words."""
    layout = "{:<26} {:>6}  {:<14} {:<27} {:<4}  {:>6} {:>7} {:>7} {:>8} {:>8}"
    first = settings.arms[0][0]
    yield layout.format("pretrained by", "labels", "test accuracy", f"minus {first}", "won",
                        "rate", "updates", "tokens", "FLOPs", "targets")  # fmt: skip
    for row in rows:
        spread = statistics.spread(list(row["test"].values()))
        paired = row.get("paired")
        words = table.paired_words(paired)
        won = f"{paired['won']}/{paired['count']}" if paired else ""
        record = row["pretraining"]
        yield layout.format(
            row["arm"], f"{row['budget']:,}", table.plus_minus(spread.mean, spread.deviation),
            words, won, f"{row['rate']:g}", f"{record['updates']:,}",
            *(table.quantity(record["matched"][name]) for name in ("tokens", "flops", "targets")),
        )  # fmt: skip
    yield (
        "accuracy: mean ± s.d. over seeds; difference: mean ± its standard error over pairs with the "
        "same seed (label subset, head, order)"
    )


def word(name):
    """An arm's name as a file name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower())


def pair(text):
    """'a.b=1' -> ('a.b', '1'). Raises ValueError for another form."""
    key, equals, value = str(text).partition("=")
    if not equals or not key.strip():
        raise ValueError(f"{text!r} is not an override; expected 'key=value'")
    return key.strip(), value.strip()


def main(argv):
    """Command line of this file."""
    flags = (("--workdir", {"required": True, "help": "folder of the comparison"}),)
    given, settings = cli.arguments(argv, __doc__.splitlines()[0], flags)
    if given.print_config:
        print("\n".join(configs.describe(configs.resolve(ComparisonConfig, settings), settings)))
        return
    cli.compilation_cache()
    run(settings, given.workdir)


if __name__ == "__main__":
    cli.main(main)
