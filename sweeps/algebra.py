"""The algebra of a sweep: which overrides its runs have.

    grid(lr=[1e-3, 3e-3], seed=range(5))            # every combination: 10 points
    zip_(lr=[1e-3, 3e-3], batch_size=[16, 32])      # side by side: 2 points
    fixed(duration="400 steps") * grid(...)         # product: each point with each
    grid(...) + grid(...)                           # union: all points of both
    sample(8, seed=1, lr=log_uniform(1e-4, 1e-2))   # random or quasi-random points
    space.where(lambda c: c.lr < 1e-2)              # the points that satisfy a condition
    space.when(lambda c: c["init"] == "random", grid(lr=[3e-4]))    # more keys for those that do

A point is {dotted key of the config: value}. It is written as a keyword, with '__' for a dot or a short
name of SHORT, or as a dict: grid({"optimizer.learning_rate": [1e-3, 3e-3]}). The key `config` is the
config file. Imports no JAX; files in configs/sweeps/ use it.
"""

import collections.abc
import dataclasses
import difflib
import itertools
import math

import numpy as np

# Short names of keys in sweep files and reports.
SHORT = {
    "lr": "optimizer.learning_rate",
    "wd": "optimizer.weight_decay",
    "batch_size": "training.batch_size",
    "duration": "training.duration",
}
LONG = {key: name for name, key in SHORT.items()}
METHODS = ("random", "sobol", "halton")


def dotted(name):
    """'lr' -> 'optimizer.learning_rate', 'model__num_layers' -> 'model.num_layers'.

    Raises ValueError for anything but a name."""
    if not isinstance(name, str) or not name.strip():
        raise ValueError(
            f"{name!r} is not a key of a config; expected one such as 'model.num_layers'"
        )
    name = name.strip().replace("__", ".").removeprefix("config.")
    return SHORT.get(name, name)


def short(key):
    """'optimizer.learning_rate' -> 'lr', 'pretrain.optimizer.learning_rate' -> 'pretrain.lr'."""
    stage, _, rest = key.partition(".")
    return LONG.get(key) or (f"{stage}.{LONG[rest]}" if rest in LONG else key)


class Point(collections.abc.Mapping):
    """{dotted key: value} in order; conditions read it as c.lr, c['model.num_layers'] or c.get(...)."""

    def __init__(self, values):
        self._values = dict(values)

    def __getitem__(self, name):
        key = dotted(name)
        if key not in self._values:
            names = [short(each) for each in self._values]
            near = difflib.get_close_matches(name, names, 1)
            raise ValueError(
                f"a condition reads {name!r}, which a point does not have; "
                f"{f'did you mean {near[0]!r}? ' if near else ''}it has {', '.join(names) or 'no keys'}"
            )
        return self._values[key]

    def __contains__(self, name):
        return dotted(name) in self._values

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def get(self, name, default=None):
        return self._values.get(dotted(name), default)

    def __iter__(self):
        return iter(self._values)

    def __len__(self):
        return len(self._values)

    def __repr__(self):
        return ",".join(f"{short(key)}={value}" for key, value in self.items()) or "(no overrides)"


@dataclasses.dataclass(frozen=True)
class Space:
    """A list of points, in the order in which they run."""

    points: tuple = (Point({}),)

    def __iter__(self):
        return iter(self.points)

    def __len__(self):
        return len(self.points)

    def __mul__(self, other):
        """Each point of this space with each of the other. Raises ValueError if both set a key."""
        return Space(tuple(_merge(a, b) for a in self for b in _space(other)))

    def __add__(self, other):
        """The points of both."""
        return Space(self.points + _space(other).points)

    def where(self, condition):
        """The points for which `condition(point)` is true."""
        return Space(tuple(point for point in self if condition(point)))

    def when(self, condition, space):
        """The points for which `condition(point)` is true with each point of `space`; the others as they
        are."""
        found = []
        for point in self:
            found += (
                [_merge(point, each) for each in _space(space)] if condition(point) else [point]
            )
        return Space(tuple(found))


def fixed(mapping=None, /, **keys):
    """One point."""
    return Space((_point({dotted(k): v for k, v in _items(mapping, keys)}),))


def grid(mapping=None, /, **keys):
    """Every combination of the values of each key; the last key changes first."""
    axes = _axes("grid", mapping, keys)
    combinations = itertools.product(*axes.values())
    return Space(tuple(_point(dict(zip(axes, values, strict=True))) for values in combinations))


def zip_(mapping=None, /, **keys):
    """The first value of each key, the second of each, ... Raises ValueError for unequal lengths."""
    axes = _axes("zip_", mapping, keys, may_repeat=True)
    lengths = {short(key): len(values) for key, values in axes.items()}
    if len(set(lengths.values())) > 1:
        given = ", ".join(f"{key} has {count}" for key, count in lengths.items())
        raise ValueError(f"zip_ needs lists of one length: {given} values")
    rows = zip(*axes.values(), strict=True)
    return Space(tuple(_point(dict(zip(axes, values, strict=True))) for values in rows))


def sample(count, mapping=None, /, *, seed=0, method="random", **keys):
    """`count` points drawn from distributions, with a seed.

    A larger count adds points and keeps the first ones. Numbers are rounded to four digits.

    Args:
      count: number of points.
      mapping, **keys: key -> uniform(...), log_uniform(...), integers(...) or choice(...).
      seed: of the draw; a key named seed needs grid.
      method: 'random', or 'sobol' or 'halton', whose points fill the space evenly (scipy.stats.qmc).
    """
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"sample({count!r}, ...): expected a number of points, at least 1")
    if method not in METHODS:
        raise ValueError(f"sample(method={method!r}): expected one of {', '.join(METHODS)}")
    axes = {dotted(key): distribution for key, distribution in _items(mapping, keys)}
    for key, distribution in axes.items():
        if not isinstance(distribution, Distribution):
            raise ValueError(
                f"sample: {short(key)}={distribution!r} is not a distribution; expected log_uniform(low, "
                f"high), uniform(low, high), integers(low, high) or choice(values)"
            )
    if not axes:
        raise ValueError("sample has no key; name one, such as lr=log_uniform(1e-4, 1e-2)")
    units = _units(count, len(axes), seed, method)
    return Space(
        tuple(
            _point({key: axes[key].at(u) for key, u in zip(axes, row, strict=True)})
            for row in units.tolist()
        )
    )


def _units(count, dimensions, seed, method):
    """float64[count, dimensions] in [0, 1)."""
    if method == "random":
        return np.random.default_rng(seed).random((count, dimensions))
    from scipy.stats import qmc  # half a second

    if method == "halton":
        return qmc.Halton(dimensions, seed=seed).random(count)
    return qmc.Sobol(dimensions, seed=seed).random_base2(math.ceil(math.log2(count)))[:count]


class Distribution:
    """A function from [0, 1) to the values of a key."""

    def at(self, u):
        raise TypeError(f"{type(self).__name__} is abstract")


@dataclasses.dataclass(frozen=True)
class _Range(Distribution):
    low: float
    high: float

    def __post_init__(self):
        numbers = all(
            isinstance(v, (int, float)) and math.isfinite(v) for v in (self.low, self.high)
        )
        if not numbers or self.low >= self.high:
            name = type(self).__name__
            raise ValueError(
                f"{name}({self.low!r}, {self.high!r}): expected two numbers, the lower first"
            )

    def rounded(self, value):
        return min(max(float(f"{value:.4g}"), self.low), self.high)


class uniform(_Range):
    """A number between low and high."""

    def at(self, u):
        return self.rounded(self.low + u * (self.high - self.low))


class log_uniform(_Range):
    """A number between low and high whose logarithm is uniform; low is positive."""

    def __post_init__(self):
        super().__post_init__()
        if self.low <= 0:
            raise ValueError(f"log_uniform({self.low!r}, {self.high!r}): expected positive numbers")

    def at(self, u):
        return self.rounded(math.exp(math.log(self.low) + u * math.log(self.high / self.low)))


class integers(_Range):
    """An integer from low to high, both included."""

    def __post_init__(self):
        super().__post_init__()
        if int(self.low) != self.low or int(self.high) != self.high:
            raise ValueError(f"integers({self.low!r}, {self.high!r}): expected two integers")

    def at(self, u):
        return int(self.low) + int(u * (int(self.high) - int(self.low) + 1))


class choice(Distribution):
    """One of the values."""

    def __init__(self, values):
        self.values = _values("choice", "values", values)

    def at(self, u):
        return self.values[int(u * len(self.values))]


def _space(other):
    if not isinstance(other, Space):
        raise ValueError(
            f"{other!r} is not a space of overrides; expected grid(...), fixed(...), ..."
        )
    return other


def _items(mapping, keys):
    """(key, value) of both forms; names a key that is given twice."""
    if mapping is not None and not hasattr(mapping, "items"):
        raise ValueError(
            f"{mapping!r} is not a dict of keys and values; write lr=[...] or {{'model.num_layers': [...]}}"
        )
    pairs = [*(mapping or {}).items(), *keys.items()]
    names = [dotted(key) for key, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{short(name)} is given twice (as {name} too); leave one out")
    return pairs


def _axes(function, mapping, keys, may_repeat=False):
    """{dotted key: [value, ...]}."""
    pairs = _items(mapping, keys)
    return {dotted(key): _values(function, key, values, may_repeat) for key, values in pairs}


def _values(function, key, values, may_repeat=False):
    """The list of values of an axis. Raises ValueError for one value, no value, or a value twice."""
    ordered = isinstance(values, collections.abc.Iterable) and not isinstance(
        values, (str, bytes, collections.abc.Mapping, collections.abc.Set)
    )
    if not ordered:
        raise ValueError(
            f"{function}({key}={values!r}): expected a list of values; fixed({key}=...) sets one value"
        )
    values = [_plain(key, value) for value in values]
    if not values:
        raise ValueError(f"{function}({key}=[]) is empty; list at least one value")
    repeated = [value for n, value in enumerate(values) if value in values[:n]]
    if repeated and not may_repeat:
        raise ValueError(f"{function}({key}=...) lists {repeated[0]!r} twice; list each value once")
    return values


def _plain(key, value):
    """A value as Python's own types; raises ValueError for what a config cannot hold."""
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return tuple(_plain(key, each) for each in value)
    if hasattr(value, "items"):
        return {name: _plain(key, each) for name, each in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{key}={value!r}: expected a finite number")
    if not isinstance(value, (str, bool, int, float)):
        raise ValueError(
            f"{key}={value!r} ({type(value).__name__}) cannot be an override; expected text, a number, "
            f"true or false, a tuple, or a dict of these"
        )
    return value


def _point(values):
    """A Point; a dict sets the fields of a section: {'optimizer': {'name': 'lion'}} is optimizer.name."""
    flat = {}

    def add(key, value):
        if isinstance(value, dict):
            if not value:
                raise ValueError(f"{key}={{}} sets nothing; name a field of the section")
            for name, each in value.items():
                add(f"{key}.{name}", each)
        elif key in flat:
            raise ValueError(f"{short(key)} is set twice in one point; leave one out")
        else:
            flat[key] = value

    for key, value in values.items():
        add(key, _plain(key, value))
    return Point(flat)


def _merge(one, other):
    """Both points as one."""
    for key in other:
        if key in one:
            raise ValueError(
                f"both factors of a product set {short(key)} ({one[key]!r} and {other[key]!r}); leave one "
                f"out, or add the spaces with +"
            )
    return Point({**one, **other})
