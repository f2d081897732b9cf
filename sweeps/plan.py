"""From a Sweep to its runs: each with a checked config, a directory, and the command that makes it.

sweeps/manifest.py compares them with what is on disk, sweeps/engine.py runs their commands.
"""

import collections
import dataclasses
import hashlib
import json
import logging
import os
import pathlib
import re
import sys

from sweeps.algebra import LONG, Point, short
from sweeps.sweep_file import Stage
from training import config as config_lib
from training import continuation, paths, replicas
from training.config import ConfigError
from training.run_directory import newest_checkpoint
from training.schema import FinetuneConfig, PretrainConfig

log = logging.getLogger("triptych.sweeps")

ROOT = pathlib.Path(__file__).resolve().parents[1]
SCHEMAS = {"train.py": PretrainConfig, "finetune.py": FinetuneConfig}
# Fields that change neither parameters nor scores: a run that differs in them is the same run, unless the
# sweep is over them.
SAME_RUN = tuple(
    key
    for key in continuation.CHANGEABLE
    if not key.startswith(("evaluation.", "task.", "training.remat", "training.scan"))
)
LEARNING_RATE, SEED = "optimizer.learning_rate", "seed"
AXES = {"learning_rate": LEARNING_RATE, "seed": SEED}  # of replicas, in the order of their names
LONGEST_NAME = 100


@dataclasses.dataclass(eq=False)
class Run:
    """One run of a sweep.

    Attributes:
      stage: its Stage.
      config_file: config file[:arg].
      overrides: Point, without the key `config`.
      parent: the Run that it starts from, or None.
      config: the resolved config as nested dicts; init_from is that of the parent, below the workdir.
      folder: run directory below the workdir.
    """

    stage: Stage
    config_file: str
    overrides: Point
    parent: object
    config: dict
    folder: str = ""

    @property
    def program(self):
        return self.stage.program

    @property
    def point(self):
        """The overrides with the config file."""
        return Point({"config": self.config_file, **self.overrides})

    @property
    def coordinates(self):
        """{key: value} of this run and, with the name of their stage before the key, of those before it."""
        found, run = {}, self.parent
        while run is not None:
            found = {f"{run.stage.name}.{key}": value for key, value in run.point.items()} | found
            run = run.parent
        return {**found, **self.point}

    @property
    def axes(self):
        """The axes of replicas that the last part of its directory names; () for another name."""
        leaf = self.folder.rpartition("/")[2]
        for axes in (("learning_rate", "seed"), ("learning_rate",), ("seed",)):
            if self.program == "finetune.py" and leaf == replica_name(self, axes):
                return axes
        return ()

    def identity(self, swept=()):
        """Text that is equal for configs that give the same run."""
        flat = config_lib.flatten(self.config)
        kept = {k: v for k, v in flat.items() if k in swept or not k.startswith(SAME_RUN)}
        return json.dumps([self.program, kept], sort_keys=True)


@dataclasses.dataclass(frozen=True)
class Job:
    """One command: a run, or several that are replicas in one program."""

    runs: tuple
    stop_after: str = ""

    @property
    def folder(self):
        """The --workdir of the command, below the workdir of the sweep."""
        folder = self.runs[0].folder
        return folder.rpartition("/")[0] if len(self.runs) > 1 else folder

    @property
    def parent(self):
        return self.runs[0].parent

    def command(self, workdir, programs=None):
        """The command as a list of words.

        programs: {'train.py': words that start the program}; None: this interpreter with the entry file.
        """
        first = self.runs[0]
        values = dict(first.overrides)
        if first.parent is not None:
            values["init_from"] = os.path.join(workdir, first.parent.folder)
        if len(self.runs) > 1:
            values.pop(SEED, None)
            for axis, key in {"learning_rate": LEARNING_RATE, "seed": "seeds"}.items():
                if axis in first.axes:
                    values[key] = tuple(dict.fromkeys(axis_value(run, axis) for run in self.runs))
        if self.stop_after:
            values["training.stop_after"] = self.stop_after
        start = (programs or {}).get(first.program) or [sys.executable, entry_file(first.program)]
        return [
            *start,
            f"--config={first.config_file}",
            f"--workdir={os.path.join(workdir, self.folder)}",
            *(f"--config.{key}={value}" for key, value in values.items()),
        ]


def entry_file(program):
    """Path of an entry file, as short as it can be typed here."""
    file = ROOT / program
    return program if pathlib.Path.cwd() == ROOT else str(file)


def make_runs(sweep, previous=None):
    """The runs of a sweep, those of earlier stages first.

    Args:
      sweep: Sweep.
      previous: {folder: {'program', 'config'}} of the runs that the workdir knows: a run with the same
        config keeps its directory, whatever its name would be now.

    Raises ConfigError if a config is wrong or the sweep has no runs.
    """
    runs, parents = [], [None]
    for stage in sweep.stage.chain:
        made = []
        for parent in parents:
            try:
                space = stage.points(parent and parent.point)
            except config_lib.BUGS as error:
                where = f"{stage.program}, after {parent.folder}" if parent else stage.program
                raise ConfigError(
                    f"{where}: its space fails: {' '.join(str(error).split())}"
                ) from error
            made += [_make(stage, point, parent) for point in space]
        if not made:
            raise ConfigError(
                f"the sweep has no runs of {stage.program}: no point satisfies its conditions"
            )
        parents = _named(_distinct(made), previous or {}, [run.folder for run in runs])
        runs += parents
    return runs


def check_init_from(runs):
    """Raises ConfigError if the directory that a run starts from is missing and no stage makes it."""
    for run in runs:
        source = "" if run.parent else run.config["init_from"]
        if source and not paths.of(source.partition("@")[0]).exists():
            raise ConfigError(
                f"{run.folder}: init_from={source!r} does not exist; expected the --workdir of a train.py "
                "run or a Hugging Face directory"
            )


def _make(stage, point, parent):
    file = point.get("config") or stage.config
    overrides = Point({key: value for key, value in point.items() if key != "config"})
    where = f"{stage.program}, run {str(overrides)[:80]}"
    if not isinstance(file, str) or not file:
        raise ConfigError(f"{where}: it has no config file; name one, or sweep over the key config")
    if parent is not None and "init_from" in overrides:
        raise ConfigError(
            f"{where}: init_from is an override and the name of a stage; leave one out"
        )
    for axis in ("seeds", LEARNING_RATE):
        if axis == "seeds" and axis in overrides or isinstance(overrides.get(axis), tuple):
            one = "seed" if axis == "seeds" else "lr"
            raise ConfigError(
                f"{where}: {axis} of several values makes replicas inside one run; list them as "
                f"grid({one}=[...]), and the sweep makes replicas of them"
            )
    values = [(key, as_text(value)) for key, value in overrides.items()]
    if parent is not None:
        values.append(("init_from", parent.folder))
    try:
        given = _quietly(config_lib.override, config_lib.load_config_file(file), values)
        config = config_lib.to_dict(config_lib.resolve(SCHEMAS[stage.program], given))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}"[:400]) from error
    return Run(stage, file, overrides, parent, json.loads(json.dumps(config)))


def _quietly(function, *arguments):
    """Calls a function without the lines that it logs once per run."""
    logger = logging.getLogger("triptych")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        return function(*arguments)
    finally:
        logger.setLevel(level)


def as_text(value):
    """An override as a command line writes it."""
    return value if isinstance(value, str) else repr(value)


def swept_keys(runs):
    """The keys whose values differ among runs, in order; a key that only some runs set differs."""
    keys = dict.fromkeys(key for run in runs for key in run.point)
    return [key for key in keys if len({repr(run.point.get(key)) for run in runs}) > 1]


def _distinct(runs):
    """The runs without those whose config equals that of an earlier one, which are logged."""
    kept, swept = {}, swept_keys(runs)
    for run in runs:
        same = kept.setdefault(run.identity(swept), run)
        if same is not run:
            log.warning(
                f"{run.program}: {run.overrides} is the same run as {same.overrides}: it runs once"
            )
    return list(kept.values())


def _named(runs, previous, taken):
    """The runs of a stage with their folders."""
    swept = swept_keys(runs)
    known = {}
    for folder, record in previous.items():
        flat = config_lib.flatten(record["config"])
        kept = {k: v for k, v in flat.items() if k in swept or not k.startswith(SAME_RUN)}
        known[json.dumps([record["program"], kept], sort_keys=True)] = folder
    for run in runs:
        run.folder = known.get(run.identity(swept), "")
    used = [*taken, *(run.folder for run in runs if run.folder)]
    several_parents = len({run.parent for run in runs}) > 1
    for run in runs:
        if run.folder:
            continue
        parts = [run.stage.name]
        if several_parents:
            parts.append(run.parent.folder.partition("/")[2])
        axes = _axes_of(run, swept)
        keys = [key for key in swept if key not in {AXES[axis] for axis in axes}]
        name, leaf = point_name(run, keys), [replica_name(run, axes)] if axes else []
        folder = "/".join((*parts, *([name] if name else []), *leaf))
        if folder == run.stage.name or _clashes(folder, used, previous):
            name = name or _clean(pathlib.Path(run.config_file.partition(":")[0]).stem)
            folder = "/".join((*parts, name, *leaf))
        if _clashes(folder, used, previous):
            text = repr(
                sorted((k, repr(v)) for k, v in run.point.items() if k not in AXES.values())
            )
            folder = "/".join((*parts, f"{name}-{_digest(text)}", *leaf))
        if _clashes(folder, used, previous):  # values that differ after their sixth digit
            folder = f"{folder}-{_digest(run.identity(swept))}"
        run.folder = folder
        used.append(folder)
    return runs


def _clashes(folder, used, previous):
    """Whether a run directory is that of another run, or one would be inside the other."""
    if folder in used:
        return True
    others = {*used, *previous}
    return any(o.startswith(f"{folder}/") or folder.startswith(f"{o}/") for o in others)


def _axes_of(run, swept):
    """The axes of replicas along which a run has neighbors."""
    if run.program != "finetune.py":
        return ()
    task = run.config["task"]
    # The subsets of labels give the classes other weights, which are part of the program.
    varied = task.get("class_weights") == "balanced" and task.get("num_train_examples")
    seeds = SEED in run.overrides and len(set(run.config["seed"].values())) == 1 and not varied
    return tuple(
        axis for axis, key in AXES.items() if key in swept and (axis == "learning_rate" or seeds)
    )


def axis_value(run, axis):
    """The seed or the learning rate of a run."""
    return (
        run.config["seed"]["data"] if axis == "seed" else run.config["optimizer"]["learning_rate"]
    )


def replica_name(run, axes):
    """The name that training/replicas.py gives the directory of a replica."""
    return replicas.replica_name({axis: axis_value(run, axis) for axis in axes})


def point_name(run, keys):
    """'lr=0.001,num_layers=4': a directory name of the values of some keys; '' for none."""
    lasts = collections.Counter(short(key).rpartition(".")[2] for key in keys)
    parts = []
    for key in keys:
        if key in run.point:
            last = short(key).rpartition(".")[2]
            label = last if lasts[last] == 1 or key in LONG else key
            value = run.point[key]
            if key == "config":  # the stem and the argument
                path, _, arg = value.partition(":")
                parts.append(_clean("-".join(filter(None, (pathlib.Path(path).stem, arg)))))
                continue
            parts.append(f"{_clean(label)}={_clean(as_text(value))}")
    name = ",".join(parts)
    if len(name) > LONGEST_NAME:
        name = f"{name[: LONGEST_NAME - 7]}-{_digest(name)}"
    return name


def _clean(text):
    """A text as part of a file name on any system."""
    return re.sub(r"[^A-Za-z0-9_.+=-]+", "-", text).strip("-.") or "empty"


def _digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def make_jobs(runs, workdir, max_replicas=1, stop_after=""):
    """The commands for some runs: those that differ in seed and learning rate alone become replicas, if they
    have the same newest checkpoint, so that none makes updates again.

    max_replicas: the most runs of one program; 1: each run has a command of its own.
    """
    groups = {}
    for run in runs:
        group = run
        if max_replicas > 1 and run.axes:
            group = (*_group(run), max(0, newest_checkpoint(os.path.join(workdir, run.folder))))
        groups.setdefault(group, []).append(run)
    jobs = []
    for members in groups.values():
        for block in _products(members, max_replicas) if len(members) > 1 else [members]:
            jobs.append(Job(tuple(block), stop_after))
    return jobs


def _group(run):
    """What is equal for runs that may be replicas of one program."""
    flat = config_lib.flatten(run.config)
    drop = {LEARNING_RATE} if "learning_rate" in run.axes else set()
    if "seed" in run.axes:
        drop |= {key for key in flat if key.startswith("seed.")}
    kept = {key: value for key, value in flat.items() if key not in drop}
    return run.folder.rpartition("/")[0], run.axes, json.dumps(kept, sort_keys=True)


def _products(runs, most):
    """Splits runs into blocks that are products of learning rates and seeds, of at most `most` runs."""
    rates = {}
    for run in runs:
        seed = axis_value(run, "seed")
        rates.setdefault(seed, {})[axis_value(run, "learning_rate")] = run
    alike = {}
    for row in rates.values():
        alike.setdefault(tuple(row), []).append(row)
    for columns, rows in alike.items():
        for part in (columns[start : start + most] for start in range(0, len(columns), most)):
            height = max(1, most // len(part))
            for start in range(0, len(rows), height):
                yield [row[rate] for rate in part for row in rows[start : start + height]]
