"""Every cell of the objective × architecture matrix learns: its losses fall below the entropies of
their targets.

A model that knows only the frequency of each target has these losses (over 1,000 batches of the
corruption alone): ln 2 for a pair, the base rate's entropy for a binary label. Text: grammar.py.
"""

import dataclasses
from contextlib import nullcontext

import grammar
import hooks
import jax
import numpy as np
import pytest
import tiny_configs

import models
import objectives
import train
from tasks import TASKS
from tools import inspect, objective_matrix
from training import config as config_lib
from training import unigram_baseline
from training.schema import PretrainConfig
from training.train_step import rng_streams

MARGIN = 0.98  # a loss must fall below this share of its entropy
CELLS = {cell: args for cell, (supported, args) in objective_matrix.cells().items() if supported}
# For each architecture the first cell that a shipped config trains without overrides.
SHIPPED = [cell for cell, args in CELLS.items() if ":" not in args]
DIAGONAL = list({cell[1]: cell for cell in reversed(SHIPPED)}.values())


@dataclasses.dataclass
class Trained:
    """A run of a cell, its validation losses and its batches."""

    config: PretrainConfig
    losses: dict[str, float]  # at the end
    first: dict[str, float]  # before the first update
    params: dict
    batches: dict  # {step: Batch} of its updates


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(cell, steps, rows, layers, watch) -> Trained; `watch` keeps the batches of its updates."""
    folder = tmp_path_factory.mktemp("matrix")
    grammar.corpus(folder)

    def train_cell(cell, steps, rows, layers, watch):
        jax.clear_caches()  # the programs of 34 cells would exceed Linux's limit of mappings
        config = tiny_configs.pretraining(
            folder, CELLS[cell], model__num_layers=layers, model__emb_dim=64, model__mlp_dim=128,
            training__duration=f"{steps} steps", training__batch_size=rows, training__seq_len=48,
            tokenizer__type="wordpiece", tokenizer__vocab_size=256, data__validation_fraction=0.1,
            evaluation__every="100 %", evaluation__num_batches=0, checkpoint__every="never",
            logging__every="1 step", optimizer__learning_rate=3e-3, optimizer__warmup="10 %",
        )  # fmt: skip
        workdir, states = folder / f"{'-'.join(cell)}-{steps}-{layers}", []
        train_loop = train.train_loop

        def keep_state(*arguments, **keywords):
            states.append(train_loop(*arguments, **keywords))
            return states[-1]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(train, "train_loop", keep_state)
            with hooks.batches_of_updates(patch, train) if watch else nullcontext({}) as batches:
                train.run(config, str(workdir))
        lines = [l for l in tiny_configs.metrics(workdir) if l["split"] == "validation"]  # noqa: E741
        resolved = config_lib.resolve(PretrainConfig, config)
        return Trained(resolved, lines[-1], lines[0], jax.device_get(states[0].params), batches)

    return train_cell


def entropies(run, num_batches):
    """{loss: nats} of the targets of the run's first batches, trained on or not."""
    task = TASKS["pretraining"]().load(run.config, run.config.model, "", print)
    model, rngs = models.build(task.model_config), rng_streams(run.config.seed)
    counts = unigram_baseline.sum_counts(
        train.count_step(task, model, run.params, rngs, task.train_inputs(step))
        for step in range(num_batches)
    )
    return unigram_baseline.unigram_entropy(counts, task.loss_coefficients())


def check_learned(run, num_batches):
    """Each minimized loss has fallen, and is below the entropy of its targets."""
    entropy = entropies(run, num_batches)
    for name in objectives.loss_of(run.config.objective).loss_coefficients():
        name_in_log = name if name in run.losses else "loss"  # a hybrid's: of both components
        loss, first = run.losses[name_in_log], run.first[name_in_log]
        assert 0 < loss < min(MARGIN * entropy[name], first), (name, run.losses, entropy)


@pytest.mark.parametrize("cell", DIAGONAL, ids="-".join)
def test_a_shipped_config_learns_more_than_the_frequencies_of_its_targets(trained, cell):
    # Word vectors start at their entropy and change one row at a time.
    steps, rows = (200, 32) if cell[1] == "embeddings" else (60, 16)
    check_learned(trained(cell, steps, rows, 1, False), 100)


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_a_cell_learns_more_than_the_frequencies_of_its_targets(trained, cell):
    """And tools.inspect shows the batches that it was trained on."""
    run = trained(cell, 200, 32, 2, True)
    check_learned(run, 1000)
    assert len(run.batches) == 200
    for step in (0, 137):
        shown, trained_on = inspect.load(run.config, step).batch, run.batches[step]
        assert jax.tree.structure(shown) == jax.tree.structure(trained_on)
        jax.tree.map(np.testing.assert_array_equal, shown, trained_on)


def test_every_architecture_is_on_the_diagonal():
    assert {a for _, a in DIAGONAL} == {a for _, a in CELLS} and len(DIAGONAL) == len(set(DIAGONAL))
