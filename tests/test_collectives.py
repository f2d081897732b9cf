"""The collectives of a compiled train step on eight virtual devices, four meshes, two microbatches.

docs/performance.md explains them, and names those that another backend places elsewhere.
"""

import collections
import functools
import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from benchmarks.collectives import LAYERS, LENGTH, MLP, VOCAB, WIDTH
from models.layers import dense_product

slow = pytest.mark.slow
# Matrices of a layer: [in, out] -> how many; an encoder-decoder's decoder has two attentions.
ATTENTIONS = {"encoder": 1, "decoder": 1, "encoder_decoder": 3}
STACKS = {"encoder": 1, "decoder": 1, "encoder_decoder": 2}
ARCHITECTURES = ["decoder", pytest.param("encoder", marks=slow),
                 pytest.param("encoder_decoder", marks=slow)]  # fmt: skip


@functools.cache
def collectives(architecture, *flags):
    """{mesh: [(in a loop, operation, shape, count)]}, from a process with eight devices."""
    command = ["-m", "benchmarks.collectives", f"--architecture={architecture}", "--json", *flags]
    environment = {**os.environ, "XLA_FLAGS": ""}  # the number of devices of this process
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    # Where the partitioner finds no better way, it copies an array to all devices, and says so.
    assert "Involuntary full rematerialization" not in done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])
    return {
        mesh: [(loop, op, tuple(map(int, re.findall(r"\d+", shape.partition("[")[2]))), count)
               for loop, op, shape, count in found]
        for mesh, found in rows.items()
    }  # fmt: skip


def matrices(architecture):
    """Counter of the shapes of the layers' matrices."""
    attentions, stacks = ATTENTIONS[architecture], STACKS[architecture]
    return collections.Counter(
        {(WIDTH, WIDTH): 4 * LAYERS * attentions, (WIDTH, MLP): 2 * LAYERS * stacks}
    )


def of_matrices(rows, ops, sizes):
    """Counter of the collectives of arrays with these sizes, with the axes of each in order."""
    found = collections.Counter()
    for _, op, shape, count in rows:
        if op in ops and len(shape) == 2 and set(shape) <= set(sizes):
            found[tuple(sorted(shape))] += count
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_mesh_gathers_the_activations_of_other_devices_or_any_logits(architecture):
    for mesh, rows in collectives(architecture).items():
        for _, op, shape, _ in rows:
            if op in ("all-gather", "all-to-all") and mesh != "sequence":
                assert LENGTH not in shape, (mesh, op, shape)
            # The vocabulary is an axis of the token embedding and its gradient alone.
            if {VOCAB, VOCAB // 2} & set(shape):
                assert len(shape) == 2 and {WIDTH, WIDTH // 2} & set(shape), (mesh, op, shape)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_data_parallelism_sums_each_gradient_once_per_microbatch_and_gathers_nothing(architecture):
    rows = collectives(architecture)["data"]
    assert {op for _, op, _, _ in rows} == {"all-reduce"}
    found = of_matrices(rows, {"all-reduce", "reduce-scatter"}, (WIDTH, MLP))
    assert found == matrices(architecture)
    # The token embedding: once for each lookup and once for the LM head.
    table = of_matrices(rows, {"all-reduce"}, (WIDTH, VOCAB))[WIDTH, VOCAB]
    assert table == 1 + STACKS[architecture]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_fsdp_gathers_each_matrix_for_its_two_uses_and_the_token_embedding_once(architecture):
    rows = collectives(architecture)["fsdp"]
    gathered = [row for row in rows if row[1] == "all-gather"]
    each = of_matrices(gathered, {"all-gather"}, (WIDTH, MLP))
    assert each == collections.Counter({k: 2 * n for k, n in matrices(architecture).items()})
    assert of_matrices(gathered, {"all-gather"}, (WIDTH, VOCAB))[WIDTH, VOCAB] == 1
    assert len(gathered) == len({(loop, shape) for loop, _, shape, _ in gathered})
    summed = of_matrices(rows, {"all-reduce", "reduce-scatter"}, (WIDTH, MLP))
    assert summed == matrices(architecture)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rows_split_over_devices_gather_keys_and_values_once_and_no_other_states(architecture):
    rows = collectives(architecture)["sequence"]
    moved = [row for row in rows if row[1] in ("all-gather", "all-to-all", "collective-permute")]
    states = [row for row in moved if len(row[2]) > 2]
    if architecture == "encoder":
        # Without the states that predict, and their positions: 8 of a row.
        states = [row for row in states if row[2][1] != 8]
    assert sum(count for *_, count in states) == 2 * LAYERS * ATTENTIONS[architecture]
    assert all(op == "all-gather" and shape[-2:] == (4, WIDTH // 4) for _, op, shape, _ in states)
    if architecture == "encoder":
        return
    # segment ids of the device's rows, for masks
    assert all(shape[0] == 8 for _, _, shape, _ in moved)


@slow
def test_a_scan_over_layers_gathers_one_layer_at_a_time():
    """The stacked parameters stay sharded: the loop gathers arrays of the size of one layer."""
    rows = collectives("decoder", "--scan_layers", "--remat=full")["fsdp"]
    gathered = [row for row in rows if row[1] == "all-gather" and VOCAB not in row[2]]
    assert gathered and all(loop and len(shape) == 2 for loop, _, shape, _ in gathered)
    summed = of_matrices(rows, {"all-reduce"}, (WIDTH, MLP))
    assert summed == {k: n // LAYERS for k, n in matrices("decoder").items()}


def test_only_the_cpu_backend_sees_the_barrier_of_a_kernels_gradient():
    """Behind it, a gradient's sum over devices could not leave the loop over microbatches."""

    def loss(kernel):
        return dense_product(jnp.ones((2, 8)), kernel).sum()

    for platform, expected in (("cpu", True), ("tpu", False), ("cuda", False)):
        traced = jax.jit(jax.grad(loss)).trace(jnp.ones((8, 4)))
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert ("optimization_barrier" in text) is expected
