"""Hooks into train.py and finetune.py while they run: the batches of their updates, and a crash."""

import contextlib

import jax
import numpy as np


@contextlib.contextmanager
def batches_of_updates(monkeypatch, program):
    """{step: Batch} of the updates of `program` (train or finetune), filled while it runs.

    A host callback inside the jitted train step hands out the very batches whose gradients are taken.
    """
    batches, accumulate_gradients = {}, program.accumulate_gradients

    def keep(step, batch):
        batches[int(step)] = jax.tree.map(np.asarray, batch)

    def watched(task, model, state, frozen, batch, dropout_rng):
        jax.debug.callback(keep, state.step, batch)
        return accumulate_gradients(task, model, state, frozen, batch, dropout_rng)

    jax.clear_caches()  # a compiled step is not traced again
    monkeypatch.setattr(program, "accumulate_gradients", watched)
    yield batches
    jax.effects_barrier()
    monkeypatch.setattr(program, "accumulate_gradients", accumulate_gradients)
    jax.clear_caches()


@contextlib.contextmanager
def crash_after_save(monkeypatch, program, step):
    """Within it `program` (train or finetune) raises RuntimeError('crash') once it saved `step`."""
    train_loop = program.train_loop

    def crashing(*arguments, save, **keywords):
        def save_then_crash(state, metrics):
            save(state, metrics)
            if int(state.step) == step:
                raise RuntimeError("crash")

        return train_loop(*arguments, save=save_then_crash, **keywords)

    monkeypatch.setattr(program, "train_loop", crashing)
    yield
    monkeypatch.setattr(program, "train_loop", train_loop)
