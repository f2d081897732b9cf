"""What a training program works on, taken from inside it while it runs."""

import contextlib

import jax
import numpy as np

from training import step


@contextlib.contextmanager
def batches_of_updates(monkeypatch):
    """Within it every compiled update leaves the batches it made, as {words of row keys: Batch}.

    A host callback inside the jitted program hands them out: nothing is computed a second time.
    """
    made, compiled = {}, step.compiled_update

    def keep(words, batch):
        made[np.asarray(words).tobytes()] = jax.tree.map(np.asarray, batch)

    def watched(objective, model, make_batch, *rest):
        def make(keys, source):
            batch = make_batch(keys, source)
            jax.debug.callback(keep, jax.random.key_data(keys), batch)
            return batch

        return compiled(objective, model, make, *rest)

    monkeypatch.setattr(step, "compiled_update", watched)
    yield made
    jax.effects_barrier()
    monkeypatch.setattr(step, "compiled_update", compiled)


def words_of(root, first, rows):
    """The same words for the rows that begin at number `first`, from the run's root key."""
    keys = step.row_keys(root, step.row_numbers(first, rows))
    return np.asarray(jax.random.key_data(keys)).tobytes()
