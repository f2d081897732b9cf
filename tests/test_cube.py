"""Every cell of the cube learns: its losses fall below the entropies of its own targets.

A model that knows how often each answer occurs, and nothing else, is at these entropies (over 1,000
batches, of the corruption alone); ln 2 for a pair, the base rate's for a yes or no. Text: grammar.py.
"""

import dataclasses
from contextlib import nullcontext

import grammar
import hooks
import jax
import numpy as np
import pytest
import shrink

import models
import train
from tools import cube, inspect
from training import config as configs
from training import entropy, loop, step

BELOW = 0.98  # a loss that is less below its entropy than this has not been seen to be
CELLS = {cell: words for cell, (works, words) in cube.cells().items() if works}
# For each architecture the first cell that a shipped config gives as it stands.
SHIPPED = [cell for cell, words in CELLS.items() if ":" not in words]
DIAGONAL = list({cell[1]: cell for cell in reversed(SHIPPED)}.values())


@dataclasses.dataclass
class Trained:
    """A run of a cell and what it worked on."""

    config: train.Config
    losses: dict[str, float]  # held out, at the end
    first: dict[str, float]  # held out, before the first update
    params: dict
    batches: dict  # {row keys: Batch} of its updates


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(cell, steps, rows, layers, watch) -> Trained; `watch` keeps the batches of its updates."""
    folder = tmp_path_factory.mktemp("cube")
    grammar.corpus(folder)

    def train_cell(cell, steps, rows, layers, watch):
        jax.clear_caches()  # the programs of 34 cells would be more mappings than Linux allows
        config = shrink.pretraining(
            folder, CELLS[cell], model__layers=layers, model__width=64, model__mlp_size=128,
            training__duration=f"{steps} steps", training__batch_size=rows, training__length=48,
            tokenizer__kind="wordpiece", tokenizer__vocab_size=256, data__validation_fraction=0.1,
            evaluation__every="100 %", evaluation__batches=0, checkpoint__every="never",
            logging__every="1 step", optimizer__learning_rate=3e-3, optimizer__warmup="10 %",
        )  # fmt: skip
        workdir, states, run = folder / f"{'-'.join(cell)}-{steps}-{layers}", [], loop.run

        def kept(*arguments, **settings):
            states.append(run(*arguments, **settings))
            return states[-1]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "run", kept)
            with hooks.batches_of_updates(patch) if watch else nullcontext({}) as batches:
                train.run(config, str(workdir))
        held = [line for line in shrink.metrics(workdir) if line["split"] == "validation"]
        resolved = configs.resolve(train.Config, config)
        return Trained(resolved, held[-1], held[0], jax.device_get(states[0].params), batches)

    return train_cell


def entropies(run, count):
    """{loss: nats} of what the run's first `count` batches ask for, whether it got there or not."""
    text = train.open_text(run.config, print)
    objective, classes = run.config.objective, text.setting.vocabulary.size
    size, order = run.config.training.batch_size, text.order(run.config)
    root = step.stream_key(run.config.seed.order, "corruption")
    model = models.build(text.model)

    @jax.jit
    def tally(params, rows, numbers):
        batch = text.make_batch(step.row_keys(root, numbers), rows)
        return entropy.tally(objective, model, params, batch, None, classes)

    tallies = (
        tally(run.params, order.batch_at(number), step.row_numbers(number * size, size))
        for number in range(count)
    )
    return entropy.of_targets(entropy.added(tallies), objective.coefficients())


def check(run, count):
    """Each minimised loss has fallen, and is below the entropy of its targets."""
    level = entropies(run, count)
    for name in run.config.objective.coefficients():
        found = run.losses[name]
        assert 0 < found < min(BELOW * level[name], run.first[name]), (name, run.losses, level)


@pytest.mark.parametrize("cell", DIAGONAL, ids="-".join)
def test_a_shipped_config_learns_more_than_how_often_its_targets_occur(trained, cell):
    # A table of vectors starts where it knows nothing, at its entropy, and moves one row at a time.
    steps, rows = (200, 32) if cell[1] == "embeddings" else (60, 16)
    check(trained(cell, steps, rows, 1, False), 100)


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_a_cell_learns_more_than_how_often_its_targets_occur(trained, cell):
    """And tools.inspect shows what it has learned from."""
    run = trained(cell, 200, 32, 2, True)
    check(run, 1000)
    assert len(run.batches) == 200
    root = step.stream_key(run.config.seed.order, "corruption")
    for number in (0, 137):
        shown = inspect.pretraining(run.config, number).batch
        read = run.batches[hooks.words_of(root, number * 32, 32)]
        assert jax.tree.structure(shown) == jax.tree.structure(read)
        jax.tree.map(np.testing.assert_array_equal, shown, read)


def test_every_architecture_is_on_the_diagonal():
    assert {a for _, a in DIAGONAL} == {a for _, a in CELLS} and len(DIAGONAL) == len(set(DIAGONAL))
