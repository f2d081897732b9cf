"""Measures finetuned runs of one task: lines, planes, distances, curvature and curves; writes the report.

Called by studies/landscape.py; the pictures are studies/landscape_figures.py.
"""

import dataclasses
import itertools
import logging
import math
import pathlib
import shlex
import time

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

import models
from models.attention_kernels import AttentionSpec, choose_kernel
from studies import finetuned_runs, hessian, landscape_figures
from studies import paths_in_weights as weights
from sweeps import drawing, page
from training import logs, paths, run_directory, sharding
from training.compilation import announced_jit
from training.config import ConfigError
from training.param_rules import flatten_params, merge_params, split_params
from training.schema import MeshConfig
from training.train_step import total_loss

log = logging.getLogger("triptych.studies")

ALPHAS = (-0.25, 1.25)  # of a line from start (0) to end (1)
MOST_POINTS = 1000  # of a learning curve
SECONDS = 15.0  # between two lines of progress


def run(given) -> dict:
    """Measures, and writes landscape.json, PNG files and report.html; returns the content of landscape.json.

    Raises ConfigError, before data is read, for runs that do not fit each other and an output that exists.
    """
    output = check_output(given.output)
    runs = finetuned_runs.find(given.runs)
    paths.make_directory(output, "output")
    for each in runs:
        log.info(f"{each.name}: start {each.start}; end: step {each.step:,}")
    task, samples = finetuned_runs.load_task(runs, given.num_examples, given.batch_size, given.seed)
    log.info(f"measured on {' and '.join(samples)}, without dropout")
    mesh = sharding.make_mesh(MeshConfig())
    model = models.build(task.model_config, runs[0].config.adapter)
    splits = {k: v for k, v in finetuned_runs.SAMPLES.items() if task.has_split(v)}
    evaluate = weights.Evaluator(task, model, mesh, splits)
    starts = {each.name: finetuned_runs.load_start(each, task, mesh) for each in runs}
    ends = {each.name: finetuned_runs.load_params(each, each.step, mesh) for each in runs}

    flags = {k: v for k, v in vars(given).items() if k not in ("runs", "output", "debug")}
    found = {
        "format": 1, "title": f"The loss around {len(runs)} finetuned runs", "task": task.name,
        "samples": samples, "settings": flags, "commit": run_directory.git("rev-parse", "HEAD"),
        "command": shlex.join(["python", "-m", "studies.landscape", "--runs", *given.runs,
                               f"--output={given.output}", *(f"--{k}={v}" for k, v in flags.items())]),
        "runs": [describe(each, starts[each.name], ends[each.name]) for each in runs],
    }  # fmt: skip

    def save(**parts):  # an interrupted study keeps its finished parts
        found.update(finite(parts))
        run_directory.write_json(output / "landscape.json", found)

    save(runs=with_curvature(found["runs"], runs, ends, evaluate, given))
    save(runs=with_lines(found["runs"], starts, ends, evaluate, given.points))
    save(metric=evaluate.metric, higher_is_better=evaluate.higher_is_better)
    save(runs=with_curves(found["runs"], runs, evaluate.metric or "loss"))
    save(pairs=pairs_of(ends, evaluate, given.points))
    save(planes=planes_of(runs, starts, ends, evaluate, given.grid))
    figures = landscape_figures.figures(found)
    for figure in figures:
        columns = 2 + len(figure.panels) % 2
        drawing.save_png(figure.panels, output / f"{figure.name}.png", columns)
    template = page.environment(pathlib.Path(__file__).parent).get_template("landscape.html")
    table = landscape_figures.table(found)
    text = template.render(found, figures=figures, table=table, svg=drawing.svg)
    paths.write_text(output / "report.html", text)
    for line in (*landscape_figures.aligned(table), *landscape_figures.pair_lines(found)):
        log.info(line)
    pictures = ", ".join(f"{figure.name}.png" for figure in figures)
    log.info(f"wrote landscape.json, report.html, {pictures} in {output}")
    return found


def check_output(output: str):
    """The path of --output. Raises ConfigError unless it is a local directory that is new or empty."""
    if paths.remote(output):
        raise ConfigError(f"--output={output}: expected a local directory, such as runs/landscape")
    folder = pathlib.Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--output={output} exists; remove it, or name another directory")
    return folder


def finite(tree):
    """A tree of JSON in which numbers that are not finite are None."""
    if isinstance(tree, dict):
        return {key: finite(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


class Progress:
    """Logs the progress and the rate of a long part every `SECONDS`; called after each unit.

    The first unit, which includes compilation, is left out of the rate."""

    def __init__(self, what: str, total: int, unit: str):
        self._what, self._total, self._unit, self._done = what, total, unit, 0
        log.info(f"{what}: {total:,} {unit}")

    def __call__(self):
        self._done, now = self._done + 1, time.perf_counter()
        if self._done == 1:
            self._began = self._logged = now
        elif now - self._logged >= SECONDS or self._done == self._total:
            self._logged, rate = now, (now - self._began) / (self._done - 1)
            left = logs.format_duration(rate * (self._total - self._done))
            log.info(f"{self._what}: {self._done:,} of {self._total:,} {self._unit}, "
                     f"{rate:.2f} s each, eta {left}")  # fmt: skip


def describe(run, start, end) -> dict:
    """The entry of a run: where it started, how far it went."""
    config = run.config
    return {
        "name": run.name,
        "folder": str(run.folder),
        "init": config.init,
        "init_from": run.manifest["init_from"],
        "start": run.start,
        "step": run.step,
        "seed": dataclasses.asdict(config.seed),
        "num_train_examples": config.task.num_train_examples,
        "batch_size": config.training.batch_size,
        "num_parameters": sum(x.size for x in jax.tree.leaves(end)),
        "distances": weights.distances(start, end),
    }


def with_lines(entries, starts, ends, evaluate, points):
    """The entries with 'line': the task at start + alpha (end - start), and the barrier between."""
    alphas = weights.line_alphas(*ALPHAS, points)
    report = Progress("lines from start to end", len(entries) * points, "points")
    return [
        {
            **entry,
            "line": line(starts[entry["name"]], ends[entry["name"]], alphas, evaluate, report),
        }
        for entry in entries
    ]


def line(first, last, alphas, evaluate, report) -> dict:
    """{'alphas', 'values': {split: {metric: [...]}}, 'barrier': {split: {metric: ...}}} between two trees."""
    corners = evaluate.place(first), evaluate.place(last)
    values = weights.along(evaluate, corners, np.stack([1 - alphas, alphas], 1), report)
    barriers = {
        split: {
            name: weights.barrier(alphas, each, name != "loss" and evaluate.higher_is_better)
            for name, each in metrics.items()
        }
        for split, metrics in values.items()
    }
    return {"alphas": alphas.tolist(), "values": values, "barrier": barriers}


def pairs_of(ends, evaluate, points) -> list[dict]:
    """The line between the ends of each pair of runs, and their distance."""
    found, pairs = [], list(itertools.combinations(ends, 2))
    alphas = weights.line_alphas(0.0, 1.0, points)
    report = Progress("lines between ends", len(pairs) * points, "points")
    for names in pairs:
        one, other = (ends[name] for name in names)
        moved = weights.subtract(one, other)
        found.append({
            "runs": list(names), "distance": math.sqrt(weights.dot(moved, moved)),
            **line(one, other, alphas, evaluate, report),
        })  # fmt: skip
    return found


# ---- Planes --------------------------------------------------------------------------------------


def plane_corners(runs, starts, ends) -> list[list[tuple[str, dict]]]:
    """[[(label, parameters) of three corners]] of the planes that are drawn: of a random start, a pretrained
    start and its end; of the ends of three runs; of two runs with the same kind of start, one start and both
    ends."""
    found = []
    first = {run.config.init: run.name for run in reversed(runs)}
    init = next((each for each in ("pretrained", "embeddings") if each in first), "random")
    if "random" in first and init != "random":
        name = first[init]
        found.append([("random start", starts[first["random"]])])
        found[-1] += [(f"{init} start", starts[name]), (f"end of {name}", ends[name])]
    if len(runs) > 2:
        found.append([(f"end of {run.name}", ends[run.name]) for run in runs[:3]])
    elif not found:
        found.append([(f"start of {runs[0].name}", starts[runs[0].name])])
        found[-1] += [(f"end of {run.name}", ends[run.name]) for run in runs]
    return found


def planes_of(runs, starts, ends, evaluate, grid) -> list[dict]:
    """The task on a grid of each plane, with the checkpoints of all runs projected onto it."""
    if not grid:
        return []
    found, all_corners = [], plane_corners(runs, starts, ends)
    report = Progress("planes", len(all_corners) * grid**2, "points")
    for corners in all_corners:
        labels, trees = zip(*corners, strict=True)
        plane = weights.Plane.through(*trees)
        if plane is None:
            log.info(f"no plane through {', '.join(labels)}: they are on one line")
            continue
        x, y = plane.axes(grid)
        places = plane.weights(*np.meshgrid(x, y)).reshape(-1, 3)
        values = weights.along(evaluate, [evaluate.place(tree) for tree in trees], places, report)
        shaped = {
            split: {name: np.reshape(each, (grid, grid)).tolist() for name, each in metrics.items()}
            for split, metrics in values.items()
        }
        found.append({
            "corners": [{"label": label, "x": px, "y": py}
                        for label, (px, py) in zip(labels, plane.points, strict=True)],
            "x": x.tolist(), "y": y.tolist(), "values": shaped,
            "trajectories": {run.name: trajectory(run, plane, starts, ends, evaluate) for run in runs},
        })  # fmt: skip
    return found


def trajectory(run, plane, starts, ends, evaluate) -> list[dict]:
    """[{'step', 'x', 'y', 'outside': distance from the plane}] of the checkpoints from start to end."""
    known, found = {0: starts[run.name], run.step: ends[run.name]}, []
    for step in sorted({0, run.step, *(step for step in run.steps if step < run.step)}):
        params = known.get(step)
        if params is None:
            params = finetuned_runs.load_params(run, step, evaluate.mesh)
        x, y, outside = plane.project(params)
        found.append({"step": step, "x": x, "y": y, "outside": outside})
    return found


# ---- Curvature -----------------------------------------------------------------------------------


@announced_jit("a Hessian-vector product", static_argnums=(0, 1))
def _product(task, model, trained, frozen, inputs, denominators, vector):
    def loss(trained):
        batch = task.prepare(None, inputs)
        sums = task.losses(model, merge_params(trained, frozen), batch, None)
        return total_loss(task, sums, denominators)

    return hessian.hessian_product(loss, trained, vector)


@announced_jit("the weights of the loss", static_argnums=(0,))
def _denominators(task, inputs):
    return task.loss_denominators(task.prepare(None, inputs))


def curvature_config(config, length: int):
    """The ModelConfig for second derivatives: float32, and attention in plain JAX, since the kernels of GPUs
    and TPUs have first derivatives alone."""
    kernel = config.attention_kernel
    if kernel not in ("dense", "chunked"):
        kernel = choose_kernel("auto", AttentionSpec(length, length, platform="cpu"))
    return dataclasses.replace(config, dtype="float32", attention_kernel=kernel)


def with_curvature(entries, runs, ends, evaluate, given):
    """The entries with 'hessian': of the train loss at the end, by the parameters that the run trains."""
    products = len(runs) * (given.probes + given.lanczos_steps)
    if not products:
        return [{**entry, "hessian": None} for entry in entries]
    report = Progress("Hessian at the ends", products, "products")
    return [
        {**entry, "hessian": curvature(run, ends[run.name], evaluate, given, report)}
        for entry, run in zip(entries, runs, strict=True)
    ]


def curvature(run, params, evaluate, given, report) -> dict:
    """{'trace': a Spread or None, 'eigenvalue': a Spectrum or None, and what they are of}."""
    task, trained = evaluate.task, finetuned_runs.trained_paths(run, params)
    config = curvature_config(task.model_config, max(task.row_lengths))
    model = models.build(config, run.config.adapter)
    frozen = frozenset(flatten_params(params)) - trained
    trained, frozen = split_params(params, frozen)
    flat, unravel = ravel_pytree(trained)
    with sharding.use_mesh(evaluate.mesh):
        trained, frozen = evaluate.place(trained), evaluate.place(frozen)
        batches = evaluate.batches("train")
        parts = [_denominators(task, batch) for batch in batches]
        denominators = jax.tree.map(lambda *x: sum(x), *parts)

        def product(vector):
            vector, total = unravel(jax.numpy.asarray(vector, flat.dtype)), None
            for batch in batches:
                part = _product(task, model, trained, frozen, batch, denominators, vector)
                total = part if total is None else jax.tree.map(jax.numpy.add, total, part)
            found = np.asarray(ravel_pytree(total)[0])
            if not np.isfinite(found).all():
                raise ConfigError(
                    f"the train loss of {run.name} at step {run.step} has no finite second derivatives; name "
                    "another step (RUN@STEP), or set --probes=0 --lanczos_steps=0"
                )
            report()
            return found

        trace = spectrum = None
        if given.probes:
            found = hessian.estimate_trace(product, flat.size, given.probes, given.seed)
            trace = dataclasses.asdict(found)
        if given.lanczos_steps:
            found = hessian.lanczos(product, flat.size, given.lanczos_steps, given.seed)
            spectrum = dataclasses.asdict(found)
    return {
        "num_parameters": int(flat.size), "attention_kernel": config.attention_kernel, "dtype": config.dtype,
        "trace": trace, "eigenvalue": spectrum,
    }  # fmt: skip


def with_curves(entries, runs, metric):
    """The entries with 'curves': {split: [[step, value]]} of the training loss and the validation metric."""
    names = {"train": "loss", "validation": metric}
    return [
        {**entry, "curves": {split: curve(run, split, name) for split, name in names.items()}}
        for entry, run in zip(entries, runs, strict=True)
    ]


def curve(run, split, name) -> list[list[float]]:
    """[[step, value]] of a metric in metrics.jsonl, at most `MOST_POINTS`; [] if the file is gone."""
    if not (run.folder / "metrics.jsonl").exists():
        return []
    lines = [
        [each["step"], each[name]] for each in logs.read_metrics(run.folder, split) if name in each
    ]
    return lines[:: -(-len(lines) // MOST_POINTS) or 1]
