"""The device mesh, and the two tables that place arrays on it: axis letters and parameter paths.

One code path from one device to a pod: everything is `jit` over this mesh.
"""

import contextlib
import dataclasses
import hashlib

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from training import rules
from training.config import ConfigError

AXES = ("data", "fsdp", "tensor")

# Letter of models/axes.py -> mesh axes. Rows are split over data and fsdp; heads, the mlp and the
# vocabulary over tensor (Megatron-LM: Shoeybi et al. 2019, section 3).
LETTERS = {"B": ("data", "fsdp"), "H": "tensor", "F": "tensor", "V": "tensor"}

# Parameter path -> mesh axes of the LAST dimensions. A dimension that an axis does not divide stays
# whole (said in the table that the log prints).
PARAMETERS = (
    (r".*(embed/tokens|heads/context)/embedding", ("tensor", "fsdp")),
    (r".*(query|key|value|in|gate|projection)/kernel", ("fsdp", "tensor")),
    (r".*(out)/kernel", ("tensor", "fsdp")),
    (r".*", ()),
)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many devices each mesh axis spans; -1 for one axis means all that remain."""

    data: int = dataclasses.field(default=-1, metadata={"min": -1, "help": "data parallelism"})
    fsdp: int = dataclasses.field(default=1, metadata={"min": -1, "help": "sharded parameters"})
    tensor: int = dataclasses.field(default=1, metadata={"min": -1, "help": "tensor parallelism"})


def make(config, devices=None):
    """MeshConfig -> jax.sharding.Mesh over `devices` (default: all, of all processes).

    Axis types are Auto: with Explicit axes, JAX's default, `nn.Embed` raises ShardingTypeError.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [config.data, config.fsdp, config.tensor]
    known = int(np.prod([size for size in sizes if size > 0]))
    if sizes.count(-1) > 1 or 0 in sizes or len(devices) % known:
        raise ConfigError(
            f"config.mesh=(data={config.data}, fsdp={config.fsdp}, tensor={config.tensor}) does not "
            f"fit {len(devices)} devices; expected sizes whose product is {len(devices)}, one may be -1"
        )
    sizes = [len(devices) // known if size == -1 else size for size in sizes]
    if int(np.prod(sizes)) != len(devices):
        raise ConfigError(
            f"config.mesh product {int(np.prod(sizes))} is not the number of devices, {len(devices)}; "
            f"set config.mesh.data=-1 to use them all"
        )
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


@contextlib.contextmanager
def use(mesh):
    """The mesh and the letter table in force, for tracing and for calls."""
    table = tuple(LETTERS.items())
    with jax.set_mesh(mesh), nn.logical_axis_rules(table):
        yield mesh


def replicated(mesh):
    """Sharding of a whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def rows(mesh):
    """Sharding of an array whose first axis is the global batch."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def row_divisor(mesh):
    """The number of shards that the batch axis is split into."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def parameter_shardings(mesh, params, table=PARAMETERS):
    """A tree of NamedShardings like `params` (arrays or ShapeDtypeStructs).

    Only dimensions that divide are split; a spec is aligned to the last axes of its parameter, so
    that stacking layers in front changes nothing.
    """
    flat = rules.paths(params)
    specs = rules.resolve(table, flat, "the table of parameter shardings", spare=True)

    def sharding(path, leaf):
        spec = (None,) * (leaf.ndim - len(specs[path])) + tuple(specs[path])[-leaf.ndim or None :]
        if leaf.ndim == 0:
            spec = ()
        spec = [axis if axis and size % mesh.shape[axis] == 0 else None
                for axis, size in zip(spec, leaf.shape, strict=True)]  # fmt: skip
        return NamedSharding(mesh, PartitionSpec(*spec))

    return rules.merge({path: sharding(path, leaf) for path, leaf in flat.items()}, {})


def like_parameters(mesh, tree, params, params_shardings):
    """Shardings for an optimizer state: moments as their parameter, all else replicated.

    A leaf of the state belongs to the parameter whose path its own path ends with. A factored moment
    has the parameter's shape without one axis, and its sharding without that axis.
    """
    shapes = {path: leaf.shape for path, leaf in rules.paths(params).items()}
    by_path = {
        tuple(path.split("/")): (shapes[path], s.spec)
        for path, s in rules.paths(params_shardings).items()
    }

    def sharding(keypath, leaf):
        names = tuple(rules.key_name(key) for key in keypath)
        for start in range(len(names)):
            shape, spec = by_path.get(names[start:], ((), ()))
            if shape and leaf.shape == shape:
                return NamedSharding(mesh, PartitionSpec(*spec))
            for axis in range(len(shape)):
                if leaf.shape == (*shape[:axis], *shape[axis + 1 :]):
                    return NamedSharding(mesh, PartitionSpec(*spec[:axis], *spec[axis + 1 :]))
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(sharding, tree)


def global_array(mesh, local):
    """This process's rows -> the global array over all processes, split along its first axis."""
    return jax.make_array_from_process_local_data(rows(mesh), local)


def agree(values, what):
    """Raises on every process, within seconds, if processes hold different `values` (a string)."""
    if jax.process_count() == 1:
        return
    data = np.frombuffer(hashlib.sha256(values.encode()).digest(), np.uint8)
    gathered = multihost_utils.process_allgather(data)
    different = [p for p in range(jax.process_count()) if not (gathered[p] == gathered[0]).all()]
    if different:
        raise ConfigError(
            f"processes disagree about {what}: {different} differ from process 0; start all with the "
            f"same command and the same data"
        )


def any_process(flag):
    """True on every process if `flag` is true on one."""
    if jax.process_count() == 1:
        return bool(flag)
    return bool(multihost_utils.process_allgather(np.array([bool(flag)], np.int32)).any())


def main_process():
    """True on the one process that writes logs and run files."""
    return jax.process_index() == 0
