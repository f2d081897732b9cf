"""Lines and planes through the parameters of a model: points, losses at them, barriers, distances.

Used by studies/landscape.py.

Lines from start to end: Goodfellow et al. 2015, Qualitatively Characterizing Neural Network Optimization
Problems; of BERT's finetuning, Hao et al. 2019, Visualizing and Understanding the Effectiveness of BERT.
Planes: Li et al. 2018, Visualizing the Loss Landscape of Neural Nets. Lines between ends: Frankle et al.
2020, Linear Mode Connectivity and the Lottery Ticket Hypothesis; of runs from pretrained parameters,
Neyshabur et al. 2020, What is being transferred in transfer learning?
"""

import dataclasses
import math
import re

import jax
import numpy as np

from tasks.labeled_batches import LabeledBatches
from tasks.sums import add_sums, weighted_mean
from training import sharding
from training.compilation import announced_jit
from training.param_rules import flatten_params

FLAT = 1e-6  # height of a triangle of points beside its longest side below which they are on a line


@jax.jit
def combine(corners, weights):
    """The parameters sum_k weights[k] corners[k]; corners: K trees, weights float32[K]."""
    return jax.tree.map(
        lambda *x: sum(w * each for w, each in zip(weights, x, strict=True)), *corners
    )


@announced_jit("the evaluation step", static_argnums=(0, 1))
def _evaluate_batch(task, model, params, inputs, shown):
    batch = task.prepare(None, inputs)
    shown = batch if shown is None else task.prepare(None, shown)
    results = task.losses(model, params, batch, None), task.outputs(model, params, shown)
    return sharding.constrain_replicated(results)


class Evaluator:
    """The minimized loss and the metrics of a task at any parameters, without dropout.

    Args:
      task: LoadedLabeledTask.
      model: its model.
      mesh: the mesh; parameters are on all of its devices.
      splits: {name in the results: split of the task}.

    Attributes:
      metric: the one that chooses the best checkpoint, if it needs no generated text, else the accuracy of
        tokens; '' where there is no metric but the loss.
      higher_is_better: of it.
    """

    def __init__(self, task, model, mesh, splits: dict[str, str]):
        self.task, self.model, self.mesh, self.splits = task, model, mesh, splits
        self._batches = {split: list(self._batches_of(split)) for split in splits.values()}
        self.metric = self.higher_is_better = None

    def _batches_of(self, split):
        """(training batch, evaluation batch, None if it is the same) on the devices."""
        same = type(self.task).eval_batch is LabeledBatches.eval_batch
        for indices, shape in self.task.eval_indices(split):
            batch = self.task.batch(split, indices, *shape)
            shown = None if same else self.task.eval_batch(split, indices, *shape)
            yield sharding.global_array(self.mesh, (batch, shown))

    def batches(self, split: str):
        """The training batches of a split, on the devices."""
        return [batch for batch, _ in self._batches[self.splits[split]]]

    def place(self, params):
        """Parameters as arrays on the devices."""
        return jax.device_put(params, sharding.param_shardings(self.mesh, params))

    def __call__(self, params) -> dict[str, dict[str, float]]:
        """{split: {'loss': ..., metric: value}}; NaN where the outputs are."""
        found = {}
        with sharding.use_mesh(self.mesh):
            for name, split in self.splits.items():
                results = [
                    _evaluate_batch(self.task, self.model, params, *pair)
                    for pair in self._batches[split]
                ]
                found[name] = self._scores(split, jax.device_get(results))
        return found

    def _scores(self, split, results):
        sums, outputs = zip(*results, strict=True)
        values = weighted_mean(add_sums(sums), self.task.loss_coefficients())
        is_known = not any(np.isnan(x).any() for x in jax.tree.leaves(outputs))
        if not is_known:  # no metric takes NaN
            outputs = jax.tree.map(np.nan_to_num, outputs)
        predictions = self.task.collect(split, self.task.in_order(split, list(outputs)))
        scores = values | self.task.score(split, predictions)
        if self.metric is None:
            sign, best = self.task.best_metric[0], self.task.best_metric[1:]
            has_best = best in scores and best != "loss"
            self.metric = best if has_best else "accuracy" * ("accuracy" in scores)
            self.higher_is_better = sign == "+" or not has_best
        names = {
            "loss": values["loss"],
            **({self.metric: scores[self.metric]} if self.metric else {}),
        }
        return {name: value if is_known else math.nan for name, value in names.items()}


def along(
    evaluate: Evaluator, corners, weights, report=lambda: None
) -> dict[str, dict[str, list[float]]]:
    """{split: {metric: [value at each point]}} of the points sum_k weights[n, k] corners[k].

    report: called after each point.
    """
    found = []
    for each in np.asarray(weights, np.float32):
        found.append(evaluate(combine(tuple(corners), each)))
        report()
    return {
        split: {name: [point[split][name] for point in found] for name in found[0][split]}
        for split in found[0]
    }


def line_alphas(low: float, high: float, points: int) -> np.ndarray:
    """`points` positions from `low` to `high`, with 0 and 1 among them: the nearest ones are moved there."""
    alphas = np.linspace(low, high, points)
    for end in (0.0, 1.0):
        alphas[np.abs(alphas - end).argmin()] = end
    return alphas


def barrier(alphas, values, higher_is_better: bool = False) -> float:
    """max over alpha in [0, 1] of L(alpha) - ((1 - alpha) L(0) + alpha L(1)), at least 0 (Frankle et al.
    2020, section 2; the ends may have different losses). Of a metric for which higher is better, its largest
    drop. NaN if a value between the ends is."""
    alphas, values = np.asarray(alphas, float), np.asarray(values, float)
    inside = (alphas >= 0) & (alphas <= 1)
    first, last = values[alphas == 0.0][0], values[alphas == 1.0][0]
    rise = values - ((1 - alphas) * first + alphas * last)
    return float(np.max((-rise if higher_is_better else rise)[inside])) + 0.0


# ---- Distances -----------------------------------------------------------------------------------


def layer_of(path: str) -> str:
    """'encoder/layer_3/mlp/in/kernel' -> 'encoder/layer_3'; 'embed/tokens/embedding' -> 'embed/tokens'."""
    return "/".join(path.split("/")[:2])


def distances(start, end) -> dict[str, dict[str, float | None]]:
    """{'all' or layer: {'distance', 'relative', 'cosine', 'degrees'}} of two trees.

    distance: |end - start|; relative: over |start|; cosine and degrees: of the angle between start and end.
    A ratio is None where a norm is 0, as of biases that start at 0.
    """
    start, end, sums = flatten_params(start), flatten_params(end), {}
    for path in start:
        x, y = (np.asarray(tree[path], np.float64).ravel() for tree in (start, end))
        parts = np.array([x @ x, y @ y, x @ y, (y - x) @ (y - x)])
        for name in ("all", layer_of(path)):
            sums[name] = sums.get(name, 0.0) + parts
    return {name: _angles(*sums[name].tolist()) for name in sorted(sums, key=_natural)}


def _angles(xx, yy, xy, dd):
    cosine = min(1.0, max(-1.0, xy / math.sqrt(xx * yy))) if xx and yy else None
    # The angle by the chord between unit vectors: acos loses half of the digits of a small angle.
    chord = (
        None if cosine is None else math.sqrt(max(0.0, dd - (math.sqrt(xx) - math.sqrt(yy)) ** 2))
    )
    scale = 2 * (xx * yy) ** 0.25 if xx and yy else 1.0
    return {
        "distance": math.sqrt(dd),
        "relative": math.sqrt(dd / xx) if xx else None,
        "cosine": cosine,
        "degrees": None if chord is None else math.degrees(2 * math.asin(min(1.0, chord / scale))),
    }


def _natural(name):
    """Sorts layer_10 after layer_9, and 'all' first."""
    numbers = [int(text) if text.isdigit() else text for text in re.split(r"(\d+)", name)]
    return name != "all", [(isinstance(each, str), each) for each in numbers]


# ---- Planes --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Plane:
    """The plane through three points of weight space, with coordinates in its Euclidean norm: the first point
    is (0, 0), the second (side, 0), the third (shift, height).

    Attributes:
      corners: the three trees.
    """

    corners: tuple
    side: float
    shift: float
    height: float

    @classmethod
    def through(cls, *corners):
        """The plane of three trees; None if they are on one line."""
        origin, second, third = corners
        along, up = subtract(second, origin), subtract(third, origin)
        side = math.sqrt(dot(along, along))
        shift = dot(along, up) / side if side else 0.0
        height = math.sqrt(max(0.0, dot(up, up) - shift**2))
        longest = max(side, math.sqrt(dot(up, up)))
        return cls(corners, side, shift, height) if min(side, height) > FLAT * longest else None

    @property
    def points(self) -> list[tuple[float, float]]:
        """The coordinates of the corners."""
        return [(0.0, 0.0), (self.side, 0.0), (self.shift, self.height)]

    def weights(self, x, y) -> np.ndarray:
        """float64[..., 3]: the weights of the corners at coordinates x and y."""
        third = np.asarray(y, float) / self.height
        second = (np.asarray(x, float) - third * self.shift) / self.side
        return np.stack([1 - second - third, second, third], -1)

    def axes(self, grid: int, margin: float = 0.25) -> tuple[np.ndarray, np.ndarray]:
        """The coordinates of a grid around the corners, wider by `margin` of their extent on each side."""
        found = []
        for values in zip(*self.points, strict=True):
            extra = margin * (max(values) - min(values))
            found.append(np.linspace(min(values) - extra, max(values) + extra, grid))
        return tuple(found)

    def project(self, params) -> tuple[float, float, float]:
        """(x, y, distance from the plane) of a tree."""
        origin, second, third = self.corners
        moved = subtract(params, origin)
        x = dot(moved, subtract(second, origin)) / self.side
        y = (dot(moved, subtract(third, origin)) - self.shift * x) / self.height
        return x, y, math.sqrt(max(0.0, dot(moved, moved) - x**2 - y**2))


def subtract(tree, other):
    """tree - other, of NumPy arrays."""
    return jax.tree.map(np.subtract, tree, other)


def dot(tree, other) -> float:
    """The inner product of two trees of NumPy arrays, summed in float64."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True)
    return sum(float(np.einsum("i,i->", x.ravel(), y.ravel(), dtype=np.float64)) for x, y in pairs)
