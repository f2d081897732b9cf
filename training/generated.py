"""Texts that a task generates in an evaluation: made on the devices, shown in the log and in TensorBoard.

Used by replicas.py.
"""

import logging
import time

import jax

from training import sharding
from training.param_rules import merge_params

log = logging.getLogger("triptych")
IN_LOG = 3  # generated texts that the log shows


def generate(axis, task, split, number, count, is_final, model, params, frozen, mesh):
    """The texts that one replica generates for `count` texts of a split; axis: replica_axis.ReplicaAxis.

    One of several replicas, and each of several processes, generates on the devices of the process."""
    if axis.size:
        params = jax.tree.map(lambda x: x[number], params)
        frozen = frozen if axis.shares_frozen else jax.tree.map(lambda x: x[number], frozen)
    params = merge_params(params, frozen)
    if axis.size or jax.process_count() > 1:
        params, mesh = sharding.local(params)
    began = time.perf_counter()
    with sharding.use_mesh(mesh):
        found = task.generate(split, model, params, mesh, is_final, count)
    log.info(f"{split}: {count:,} texts generated in {time.perf_counter() - began:.1f} s")
    return found


def show(found, name, step):
    """Writes the samples of each (MetricWriter, [(source, generated text, reference)]) to its event files,
    and some of the first ones to the log."""
    for writer, samples in found:
        if samples:
            writer.write_text(step, name, markdown(samples))
    for sample in found[0][1][:IN_LOG] if found else ():
        log.info(describe(*sample))


def describe(source, text, reference):
    """Lines about a generated text; long ones are cut."""
    rows = [("source", source), ("generated", text), *[("reference", reference)] * bool(reference)]
    lines = [(name, " ".join(each.split())) for name, each in rows]
    return "\n".join(
        f"  {name:<10} {each if len(each) <= 200 else f'{each[:197]}...'}" for name, each in lines
    )


def markdown(samples):
    """A table for TensorBoard."""
    rows = [("source", "generated", "reference"), ("---",) * 3, *samples]
    cells = [[" ".join(each.split()).replace("|", "\\|") for each in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)
