"""The device mesh and the two tables that place arrays on it: by logical axis and by parameter path.

One code path from one device to a pod: everything is `jit` over this mesh.
"""

import contextlib
import math

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from training.config import ConfigError
from training.param_rules import flatten_params, key_name, resolve_rules, unflatten_params

AXES = ("data", "fsdp", "tensor", "sequence")
REPLICA = "replica"  # the axis before them in a mesh for replicas

# Logical axis of models/logical_axes.py -> mesh axes. The batch is split over data and fsdp; heads, MLP
# and vocabulary over tensor (Megatron-LM: Shoeybi et al. 2019, section 3); positions over sequence. Keys
# ("S") have no rule: each device holds all of its rows, or, in a kernel, of its heads.
LOGICAL_AXIS_RULES = {
    "B": ("data", "fsdp"), "T": "sequence", "N": "sequence", "H": "tensor", "F": "tensor", "V": "tensor",
}  # fmt: skip

# Parameter path -> mesh axes of the LAST dimensions. A dimension that its axis does not divide is not
# split.
PARAM_SHARDING_RULES = (
    (r".*(embed/tokens|heads/context)/embedding", ("tensor", "fsdp")),
    (r".*(query|key|value|in|gate|projection)/kernel", ("fsdp", "tensor")),
    (r".*(out)/kernel", ("tensor", "fsdp")),
    (r".*", ()),
)


def make_mesh(config, devices=None, replicas=0):
    """MeshConfig -> jax.sharding.Mesh over `devices` (default: all devices of all processes).

    replicas: number of replicas, which are split over as many of the devices as divide it and the other
    axes leave; 0: a mesh without an axis for them.

    Axis types are Auto: with Explicit axes, JAX's default, `nn.Embed` raises ShardingTypeError.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [config.data, config.fsdp, config.tensor, config.sequence]
    known = math.prod(size for size in sizes if size > 0)
    split = math.gcd(replicas, len(devices) // known) if replicas else 1
    if -1 in sizes:
        sizes[sizes.index(-1)] = len(devices) // (known * split)
    if min(sizes) < 1 or math.prod(sizes) * split != len(devices):
        raise ConfigError(
            f"config.mesh=(data={config.data}, fsdp={config.fsdp}, tensor={config.tensor}, "
            f"sequence={config.sequence}) does not fit {len(devices)} devices; expected sizes whose product "
            f"is {len(devices)}, one may be -1"
        )
    names = (REPLICA, *AXES) if replicas else AXES
    sizes = [split, *sizes] if replicas else sizes
    types = (AxisType.Auto,) * len(names)
    try:
        mesh = jax.make_mesh(sizes, names, axis_types=types, devices=devices)
        if rows_follow_processes(mesh):
            return mesh
    except NotImplementedError:  # axes that JAX cannot lay along a TPU slice
        mesh = None
    # JAX orders the chips of a TPU slice along its rings, across hosts; but a process reads consecutive rows.
    devices = sorted(devices, key=lambda device: (device.process_index, device.id))
    by_process = Mesh(np.array(devices).reshape(sizes), names, axis_types=types)
    return by_process if mesh is None or rows_follow_processes(by_process) else mesh


def rows_follow_processes(mesh):
    """Whether process p of those in the mesh holds the p-th part of a batch. With replicas it need not: each
    process makes whole batches."""
    shards = num_batch_shards(mesh)
    share = shards // len({device.process_index for device in mesh.devices.flat})
    places = batch_sharding(mesh).devices_indices_map((shards,))
    return (
        REPLICA in mesh.shape
        or bool(share)
        and all(
            (part.start or 0) // share == device.process_index for device, (part,) in places.items()
        )
    )


def describe(mesh):
    """Devices, processes and mesh in a few words: '8 x TPU v5e, 2 processes, mesh data=4 fsdp=2'."""
    axes = " ".join(f"{axis}={size}" for axis, size in mesh.shape.items() if size > 1)
    processes = jax.process_count()
    return (
        f"{jax.device_count()} x {jax.devices()[0].device_kind}"
        + f", {processes} processes" * (processes > 1)
        + f", mesh {axes}" * bool(axes)
    )


def process_args(mesh):
    """The process and mesh arguments of `Task.load`, by keyword. With replicas each process makes whole
    batches."""
    if REPLICA in mesh.shape:
        return {"process_index": 0, "process_count": 1, "batch_divisor": num_batch_shards(mesh)}
    return {
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
        "batch_divisor": num_batch_shards(mesh),
    }


@contextlib.contextmanager
def use_mesh(mesh):
    """Puts the mesh and the logical axis rules in force, for tracing and for calls."""
    with jax.set_mesh(mesh), nn.logical_axis_rules(tuple(LOGICAL_AXIS_RULES.items())):
        yield mesh


def describe_task(mesh, task, adapter=None) -> list[str]:
    """The lines of `task.describe`, and one about devices and kernels. Raises ConfigError for rows that the
    mesh's sequence axis does not divide."""
    lengths, added = task.row_lengths, adapter.num_added_positions if adapter else 0
    check_lengths(mesh, lengths | {length + added for length in lengths})
    with use_mesh(mesh):
        return [*task.describe(), f"{describe(mesh)}; {task.describe_attention(adapter)}"]


def replicated(mesh):
    """Sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh):
    """Sharding of an array whose first axis is the global batch."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def num_batch_shards(mesh):
    """The number of shards that the batch axis is split into."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def param_shardings(mesh, params, rules=PARAM_SHARDING_RULES):
    """A tree of NamedShardings like `params` (arrays or ShapeDtypeStructs)."""

    def sharding(spec, shape):
        spec = [axis if axis and size % mesh.shape[axis] == 0 else None
                for axis, size in zip(spec, shape, strict=True)]  # fmt: skip
        return NamedSharding(mesh, PartitionSpec(*spec))

    found = _specs(params, rules).items()
    return unflatten_params({path: sharding(spec, leaf.shape) for path, (spec, leaf) in found})


def _specs(params, rules=PARAM_SHARDING_RULES):
    """{path: (the axis that the rules give each dimension, parameter)}. A rule is aligned to the last
    dimensions, so that a leading axis of stacked layers changes nothing."""
    flat = flatten_params(params)
    specs = resolve_rules(rules, flat, "the parameter sharding rules", allow_unused=True)

    def aligned(spec, rank):
        return (None,) * (rank - len(spec)) + spec[max(0, len(spec) - rank) :]

    return {path: (aligned(specs[path], len(leaf.shape)), leaf) for path, leaf in flat.items()}


def describe_unsharded(mesh, params) -> list[str]:
    """A line for each axis of the mesh that should split parameters and does not divide all of them. Raises
    ConfigError for an axis that splits none."""
    lines = []
    for axis in ("fsdp", "tensor"):
        devices, split, whole = mesh.shape[axis], 0, {}
        for path, (spec, leaf) in _specs(params).items() if devices > 1 else ():
            if axis in spec:
                size = leaf.shape[spec.index(axis)]
                split += size % devices == 0
                if size % devices:
                    whole[path] = math.prod(leaf.shape) * leaf.dtype.itemsize
        if not whole:
            continue
        path = max(whole, key=whole.get)
        shape = flatten_params(params)[path].shape
        if not split:
            raise ConfigError(
                f"config.mesh.{axis}={devices} splits no parameter: it divides a dimension of none, such as "
                f"{path} {list(shape)}; choose a divisor of the model's dimensions (emb_dim, heads, mlp_dim)"
            )
        lines.append(
            f"mesh.{axis}={devices} does not divide {len(whole)} of {len(whole) + split} parameters: each "
            f"device holds {sum(whole.values()) / 2**20:,.1f} MiB of them unsharded along it, such as {path} "
            f"{list(shape)}"
        )
    return lines


def check_lengths(mesh, lengths) -> None:
    """Raises ConfigError unless the sequence axis of the mesh divides these lengths of rows."""
    parts = mesh.shape["sequence"]
    if other := sorted({length for length in lengths if length % parts}):
        raise ConfigError(
            f"config.mesh.sequence={parts} does not divide rows of {', '.join(map(str, other))} tokens; "
            f"choose lengths that are multiples of {parts}, or another sequence"
        )


def placed(mesh, params):
    """`params` as ShapeDtypeStructs with shardings, as a restore needs them."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        params,
        param_shardings(mesh, params),
    )


def opt_state_shardings(mesh, opt_state, params, shardings):
    """Shardings of an optimizer state: moments like their parameter, everything else replicated.

    An array of the state belongs to the parameter whose path its own path ends with. A factored moment
    has the parameter's shape and sharding without one axis.
    """
    specs = flatten_params(shardings)
    by_path = {
        tuple(path.split("/")): (leaf.shape, specs[path].spec)
        for path, leaf in flatten_params(params).items()
    }

    def sharding(keypath, leaf):
        names = tuple(key_name(key) for key in keypath)
        for start in range(len(names)):
            shape, spec = by_path.get(names[start:], ((), ()))
            if shape and leaf.shape == shape:
                return NamedSharding(mesh, PartitionSpec(*spec))
            for axis in range(len(shape)):
                if leaf.shape == (*shape[:axis], *shape[axis + 1 :]):
                    return NamedSharding(mesh, PartitionSpec(*spec[:axis], *spec[axis + 1 :]))
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(sharding, opt_state)


def state_shardings(mesh, state):
    """The NamedSharding of every array of a (possibly abstract) TrainState."""
    params = param_shardings(mesh, state.params)
    return state.replace(
        step=replicated(mesh),
        first_nonfinite_step=replicated(mesh),
        params=params,
        opt_state=opt_state_shardings(mesh, state.opt_state, state.params, params),
        ema_params=param_shardings(mesh, state.ema_params),
    )


def constrain_params(params):
    """`params` placed on the mesh in force, inside jit; the identity on one device."""
    return _constrain(params, param_shardings)


def constrain_state(state):
    """The TrainState placed on the mesh in force, inside jit; the identity on one device."""
    return _constrain(state, state_shardings)


def constrain_replicated(tree):
    """`tree` whole on every device of the mesh in force, inside jit; the identity on one device."""
    return _constrain(tree, lambda mesh, tree: replicated(mesh))


def constrain_batch(batch):
    """The Batch with whole rows on every device of the mesh in force, inside jit: preparing a row needs all
    of it, and the model takes its part of the positions. Decoder inputs, whose length the objective chooses,
    are padded to a length that the sequence axis divides. The identity on a mesh that does not split rows."""
    parts, rows = jax.sharding.get_abstract_mesh().shape.get("sequence", 1), ("data", "fsdp")
    if parts == 1:
        return batch
    place = lambda x: jax.lax.with_sharding_constraint(x, PartitionSpec(rows))  # noqa: E731
    return jax.tree.map(place, batch.pad_decoder(parts))


def _constrain(tree, shardings):
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return tree
    return jax.lax.with_sharding_constraint(tree, shardings(mesh, tree))


def global_array(mesh, local):
    """A tree of this process's rows -> global arrays over all processes, split along the first axis."""
    place = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(place, x), local)


def local(params):
    """(params as arrays of this process's devices, whole on each; the mesh of these devices): for what a
    process computes alone. All processes call it together."""
    devices = jax.local_devices()
    sizes = (len(devices),) + (1,) * (len(AXES) - 1)
    mesh = jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)
    several = jax.process_count() > 1
    whole = (
        multihost_utils.process_allgather(params, tiled=True) if several else jax.device_get(params)
    )
    return jax.device_put(whole, replicated(mesh)), mesh


def any_across_processes(flag):
    """True on every process if `flag` is true on one."""
    if jax.process_count() == 1:
        return bool(flag)
    return bool(multihost_utils.process_allgather(np.array([bool(flag)], np.int32)).any())


def is_main_process():
    """True on the one process that writes logs and run files."""
    return jax.process_index() == 0
