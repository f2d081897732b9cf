"""Collectives, memory traffic and FLOPs of small programs that are compiled here, and of forms of TPUs."""

import math

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from tools.hlo import Program, array_bytes, device_groups, varying_axes
from tools.jaxpr_flops import matrix_flops

SHAPE = {"data": 2, "tensor": 2}
ROWS, COLUMNS = 8, 64
LOCAL = ROWS * COLUMNS * 4  # bytes of the shard of a device

AXES = [("data",), ("tensor",), ("data", "tensor")]
# kind: (function of a shard [ROWS, COLUMNS] and axes, bytes that n devices send each for it)
CASES = {
    "all-reduce": (jax.lax.psum, lambda n: 2 * LOCAL * (n - 1) / n),
    "all-gather": (
        lambda x, axes: jax.lax.all_gather(x, axes, tiled=True),
        lambda n: LOCAL * (n - 1),
    ),
    "reduce-scatter": (
        lambda x, axes: jax.lax.psum_scatter(x, axes, tiled=True),
        lambda n: LOCAL * (n - 1) / n,
    ),
    "all-to-all": (
        lambda x, axes: jax.lax.all_to_all(x, axes, 0, 1, tiled=True),
        lambda n: LOCAL * (n - 1) / n,
    ),
    "collective-permute": (
        lambda x, axes: jax.lax.ppermute(x, axes, [(i, (i + 1) % 2) for i in range(2)]),
        lambda n: LOCAL,
    ),
}


def compiled(function):
    """The Program of `function` on each shard [ROWS, COLUMNS] of four devices."""
    mesh = jax.make_mesh((2, 2), tuple(SHAPE), (AxisType.Auto,) * 2, devices=jax.devices()[:4])
    spec = P(("data", "tensor"))
    mapped = jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    x = jax.ShapeDtypeStruct((4 * ROWS, COLUMNS), jnp.float32)
    return Program(jax.jit(mapped).lower(x).compile().as_text())


@pytest.mark.parametrize(
    ("kind", "axes"),
    [(k, a) for k in CASES for a in AXES if k != "collective-permute" or len(a) == 1],
    ids=str,
)
def test_bytes_and_axes_of_each_collective(kind, axes):
    function, expected = CASES[kind]
    found = compiled(lambda x: function(x, axes)).collectives(SHAPE)
    n = math.prod(SHAPE[axis] for axis in axes)
    assert [(each.kind, each.axes, each.count) for each in found] == [(kind, axes, 1)]
    assert found[0].bytes == expected(n)


def test_a_collective_in_a_loop_counts_as_often_as_the_loop_runs():
    def inner(x, _):
        return jax.lax.scan(lambda y, _: (jnp.sin(jax.lax.psum(y, "tensor")), None), x, length=3)

    found = compiled(lambda x: jax.lax.scan(inner, x, length=5)[0]).collectives(SHAPE)
    assert [(each.kind, each.axes, each.count) for each in found] == [
        ("all-reduce", ("tensor",), 15)
    ]
    assert found[0].bytes == 15 * LOCAL


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={{0,1},{2,3}}, x=y", [[0, 1], [2, 3]]),
        ("replica_groups={}, x", [[0, 1, 2, 3]]),
        ("replica_groups=[2,2]<=[4], x", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0), x", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['data'=2,'tensor'=2] {'data'}, x", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=4] {'a':(2)2}, x", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['a'=4] {'a':(1)2}, x", [[0, 2], [1, 3]]),
        ("source_target_pairs={{0,0},{1,2},{2,1},{3,3}}, x", [[1, 2], [2, 1]]),
    ],
)
def test_each_form_of_groups_is_read(text, groups):
    assert device_groups(text, SHAPE) == groups


def test_axes_that_vary_in_a_group():
    assert varying_axes([[0, 1], [2, 3]], SHAPE) == ("tensor",)
    assert varying_axes([[0, 2], [1, 3]], SHAPE) == ("data",)
    assert varying_axes([[1, 2]], SHAPE) == ("data", "tensor")
    assert varying_axes([[0, 4]], SHAPE) == ("?",)


# As libtpu writes it: no known_trip_count, one channel in the start and the end of an asynchronous
# all-gather, and arrays in on-chip memory, S(1).
TPU = """\
HloModule jit_step

%start (param.1: bf16[4,8]) -> (bf16[4,8], bf16[8,8]) {
  %param.1 = bf16[4,8]{1,0:T(8,128)(2,1)} parameter(0)
  %all-gather.1 = bf16[8,8]{1,0:T(8,128)(2,1)} all-gather(%param.1), channel_id=7, replica_groups=[2,2]<=[4]
  ROOT %custom-call.1 = (bf16[4,8]{1,0}, bf16[8,8]{1,0}) custom-call(%all-gather.1), custom_call_target="A"
}

%end (param.2: bf16[4,8]) -> bf16[8,8] {
  %param.2 = bf16[4,8]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.2 = bf16[8,8]{1,0:T(8,128)} all-gather(%param.2), channel_id=7, replica_groups=[2,2]<=[4]
}

%condition (c: (s32[], bf16[4,8])) -> pred[] {
  %constant.1 = s32[]{:T(128)} constant(6)
  %c = (s32[]{:T(128)}, bf16[4,8]{1,0}) parameter(0)
  %n = s32[]{:T(128)} get-tuple-element(%c), index=0
  ROOT %lt = pred[]{:T(512)} compare(%n, %constant.1), direction=LT
}

%body (b: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %b = (s32[]{:T(128)}, bf16[4,8]{1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%b), index=0
  %x = bf16[4,8]{1,0:T(8,128)(2,1)} get-tuple-element(%b), index=1
  %fusion.1 = (bf16[4,8]{1,0}, bf16[8,8]{1,0}) fusion(%x), kind=kCustom, calls=%start
  %fusion.2 = bf16[8,8]{1,0:T(8,128)(2,1)} fusion(%x), kind=kCustom, calls=%end
  %exp = bf16[8,8]{1,0:T(8,128)(2,1)S(1)} exponential(%fusion.2)
  %part = ((bf16[4,8]{1,0}), bf16[1,8]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%x)
  %done = bf16[1,8]{1,0} slice-done(%part)
  ROOT %tuple.1 = (s32[], bf16[4,8]{1,0}) tuple(%i, %x)
}

ENTRY %main (a: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %a = (s32[]{:T(128)}, bf16[4,8]{1,0}) parameter(0)
  ROOT %while.1 = (s32[]{:T(128)}, bf16[4,8]{1,0}) while(%a), condition=%condition, body=%body
}
"""


def test_a_program_of_libtpu_is_read():
    program = Program(TPU)
    found = program.collectives(SHAPE)
    assert [(each.kind, each.axes, each.count, each.bytes) for each in found] == [
        ("all-gather", ("tensor",), 6, 6 * 64.0)
    ]
    fusion_1, fusion_2, exp = 64 + 64 + 128, 64 + 128, 128  # exp writes to on-chip memory
    compare, part = 4 + 4 + 1, 16  # two integers, and what it returns; the slice is read alone
    assert program.bytes_accessed() == 6 * (fusion_1 + fusion_2 + exp + compare + part)


def test_bytes_of_shapes():
    assert array_bytes("f32[3,4]{1,0}") == 48
    assert array_bytes("(bf16[8]{0:T(128)(2,1)S(1)}, s4[6]{0}, pred[])") == 16 + 3 + 1
    assert array_bytes("(bf16[8]{0:T(128)(2,1)S(1)}, u32[2]{0})", hbm_only=True) == 8


def test_memory_traffic_counts_loops_and_slices():
    """A scan over stacked matrices reads each of them once, not all of them in each round."""
    layers, size = 8, 128

    def f(kernels, x):
        return jax.lax.scan(lambda x, kernel: (x @ kernel, None), x, kernels)[0]

    kernels = jax.ShapeDtypeStruct((layers, size, size), jnp.float32)
    x = jax.ShapeDtypeStruct((1, size), jnp.float32)
    traffic = Program(jax.jit(f).lower(kernels, x).compile().as_text()).bytes_accessed()
    once = layers * size * size * 4
    assert once < traffic < 4.5 * once  # each slice is read, written, and read by the product


def test_flops_of_a_traced_program_count_loops_branches_and_shards():
    mesh = jax.make_mesh((2, 2), tuple(SHAPE), (AxisType.Auto,) * 2, devices=jax.devices()[:4])

    def product(x):
        return x @ x

    def f(x):
        x = jax.lax.scan(lambda x, _: (product(x), None), x, length=3)[0]
        x = jax.lax.cond(x[0, 0] > 0, product, lambda x: product(product(x)), x)
        return jax.shard_map(
            lambda x: x.T @ x, mesh=mesh, in_specs=P("data"), out_specs=P(), check_vma=False,
            axis_names={"data"},
        )(x)  # fmt: skip

    x = jax.ShapeDtypeStruct((16, 16), jnp.float32)
    once = 2 * 16**3
    with jax.set_mesh(mesh):
        jaxpr = jax.jit(f).trace(x).jaxpr
    assert matrix_flops(jaxpr, SHAPE) == (3 + 2 + 1) * once


def test_recomputation_counts():
    def f(x):
        return jax.checkpoint(lambda x: jnp.sin(x @ x))(x).sum()

    x = jax.ShapeDtypeStruct((16, 16), jnp.float32)
    flops = matrix_flops(jax.jit(jax.grad(f)).trace(x).jaxpr, SHAPE)
    assert flops == 4 * 2 * 16**3  # forward, again, and two gradients


def test_flops_of_a_kernel_count_its_grid():
    pallas = pytest.importorskip("jax.experimental.pallas")

    def kernel(x, out):
        out[...] = x[...] @ x[...]

    def f(x):
        block = pallas.BlockSpec((16, 16), lambda i: (i, 0))
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return pallas.pallas_call(
            kernel, out_shape=shape, grid=(4,), in_specs=[block], out_specs=block, interpret=True
        )(x)

    x = jax.ShapeDtypeStruct((64, 16), jnp.float32)
    assert matrix_flops(jax.jit(f).trace(x).jaxpr, SHAPE) == 4 * 2 * 16**3
