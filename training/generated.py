"""Texts that a task generates in an evaluation: made on the devices, shown in the log and in TensorBoard.

Used by replicas.py.
"""

import logging

from training import sharding

log = logging.getLogger("triptych")
IN_LOG = 3  # generated texts that the log shows


def generate(task, split, model, params, mesh, is_final, count, alone):
    """What `LoadedTask.generate` returns for one replica.

    alone: this process generates on its own devices: its share of the texts where there are several
    processes, all of them for one of several replicas."""
    if alone:
        params, mesh = sharding.local(params)
    with sharding.use_mesh(mesh):
        return task.generate(split, model, params, mesh, is_final, count)


def show(samples, writer, name, step, with_log):
    """Writes (source, generated text, reference) to the events of a MetricWriter, and some to the log."""
    if samples:
        writer.write_text(step, name, markdown(samples))
    for sample in samples[:IN_LOG] if with_log else ():
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
