"""Objectives that bring parameters of their own, through train.py and finetune.py: learning, resuming,
and leaving behind what only pretraining needs."""

import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import shrink

import finetune
import models
import objectives
import train
from models.config import completed
from objectives.base import Setting
from objectives.vocabulary import Vocabulary
from training import checkpoint, flops, optimizer, step
from training import state as states
from training.algorithms import AdamW

VOCABULARY = Vocabulary(
    size=256, pad=0, unk=1, cls=2, sep=3, eos=4, mask=5, start=6, modes=(7, 8, 9),
    infill=(10, 11, 12), sentinels=tuple(range(13, 16)), ordinary=((16, 256),),
)  # fmt: skip
PAIR, ELECTRA = {"heads/pair"}, {"heads/discriminator", "generator"}
RUNS = {
    "next_sentence": ({}, PAIR),
    "sentence_order": ({"objective__masked_lm": 0.0}, PAIR),
    "replaced_token_detection": ({"model__embedding_size": 24}, ELECTRA),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_run_resumes_bit_for_bit_and_finetuning_takes_the_trunk(name, tmp_path):
    overrides, own = RUNS[name]
    config = shrink.pretraining(
        tmp_path, f"configs/encoder.py:objective={name}", training__duration="4 steps",
        evaluation__every="2 steps", checkpoint__keep=9, **overrides,
    )  # fmt: skip
    run = tmp_path / "run"
    train.run(config, str(run))
    found = checkpoint.params_metadata(run, 4)
    heads = {"/".join(p.split("/")[: 2 if p.startswith("heads") else 1]) for p in found}
    assert own <= heads
    lines = shrink.metrics(run)
    shutil.rmtree(run / "checkpoints" / "4")
    shutil.rmtree(run / "checkpoints" / "3")
    train.run(config, str(run))
    assert shrink.metrics(run) == lines
    result = finetune.run(shrink.finetuning(tmp_path, run, transfer="all"), f"{run}-task")
    assert "test/accuracy" in result.metrics
    left = checkpoint.params_metadata(f"{run}-task", 0)
    trunk = {path for path in found if not path.startswith(("heads/", "generator/"))}
    assert {path for path in left if not path.startswith("heads/classification/")} == trunk


def topics(rows, raw, seed, documents=4):
    """Rows of documents that each go through one of 12 groups of 20 pieces, from first to last."""
    random = np.random.default_rng(seed)
    made = np.zeros((rows, raw), np.int32)
    for row in made:
        tokens = []
        for group in random.permutation(12):
            size = int(random.integers(raw // documents, 2 * raw // documents))
            tokens += [2, *(16 + 20 * group + np.arange(size) * 20 // size), 3]
        row[:] = tokens[:raw]
    return made


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_small_network_learns_it(name):
    """Pair tasks below ln 2, the discriminator below the entropy of the base rate; both by far."""
    objective = objectives.build(name, {"masked_lm": 0.0} if name == "sentence_order" else {})
    setting = Setting("encoder", VOCABULARY, 32)
    raw, batch_size = objective.shapes(setting).raw, 32
    config = models.ModelConfig(
        layers=2, width=64, heads=2, mlp_size=128, positions="rotary", init_std=0.05
    )
    model = models.build(completed(config, VOCABULARY.size, 32, objective.token_types))
    make_batch = jax.jit(step.Corruption(objective, setting))

    def batch_at(number):
        numbers = step.row_numbers(number * batch_size, batch_size)
        keys = step.row_keys(step.stream_key(0, "corruption"), numbers)
        return make_batch(keys, jnp.asarray(topics(batch_size, raw, number)))

    init = states.initialiser(objective, model, batch_at(0))
    params = jax.jit(init)(step.stream_key(0, "init"))
    tx = optimizer.build(AdamW(), params)
    update = jax.jit(functools.partial(step.update, objective, model, tx, frozenset(), 1))
    state, lines = states.fresh(tx, frozenset(), params), []
    for number in range(300):
        rate = jnp.float32(2e-3 * min(1, (number + 1) / 20))
        state, sums = update(state, batch_at(number), step.stream_key(0, "dropout"), rate)
        lines.append({k: float(total) / max(float(w), 1) for k, (total, w) in sums.items()})
    mean = {k: np.mean([line[k] for line in lines[-30:]]) for k in lines[0]}
    if name == "replaced_token_detection":
        p = mean["replaced"]
        assert mean["discriminator"] < 0.7 * -(p * np.log(p) + (1 - p) * np.log(1 - p)), mean
        assert 0.01 < p < 0.15 and mean["recall"] > 0.4 and mean["precision"] > 0.5
        assert mean["lm"] < np.log(240) - 1
    else:
        assert mean["pair"] < 0.4 and mean["pair_accuracy"] > 0.8, mean


def test_the_work_of_generator_and_discriminator_is_counted():
    """Against a sum written out by hand; the pair head reads one position of a row."""
    D, E, F, V, T, B = 16, 8, 32, 256, 24, 2
    G, H = 4, 8  # the generator's width and MLP
    counted = {}
    for name in ("replaced_token_detection", "next_sentence"):
        objective = objectives.build(name)
        setting = Setting("encoder", VOCABULARY, T)
        config = models.ModelConfig(layers=2, width=D, heads=2, mlp_size=F, embedding_size=E)
        model = models.build(completed(config, V, T, objective.token_types))
        shapes = objective.shapes(setting)
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), B))
        rows = jax.ShapeDtypeStruct((B, shapes.raw), jnp.int32)
        batch = jax.eval_shape(step.Corruption(objective, setting), keys, rows)
        init = states.initialiser(objective, model, batch)
        params = jax.eval_shape(init, jax.eval_shape(lambda: jax.random.key(0)))
        counted[name] = flops.per_row(objective, model.config, params, batch), shapes.targets

    def stack(width, mlp):
        products = 2 * (4 * width * width + 2 * width * mlp) * T + E * width * T
        return 2 * products + 4 * 2 * T * T * width

    total, N = counted["replaced_token_detection"]
    generator = stack(G, H) + 2 * N * (G * E + E * V)
    assert total == 3 * (generator + stack(D, F) + 2 * T * (D * D + D))
    total, N = counted["next_sentence"]
    assert total == 3 * (stack(D, F) + 2 * N * (D * E + E * V) + 2 * (D * D + 2 * D))
