"""Objectives with parameters of their own, in train.py and finetune.py: they learn and resume, and
finetuning drops the parameters that only pretraining needs."""

import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_configs

import finetune
import models
import objectives
import train
from models.config import complete_config
from objectives.base import ObjectiveSpec
from objectives.vocabulary import Vocabulary
from tasks.pretraining import example_ids, example_rngs
from training import checkpoint, flops
from training.optimizers import AdamW, Optimizer
from training.state import TrainState
from training.train_step import accumulate_gradients, rng_stream

VOCABULARY = Vocabulary(
    size=256, pad=0, unk=1, cls=2, sep=3, eos=4, mask=5, start=6, modes=(7, 8, 9),
    infill=(10, 11, 12), sentinels=tuple(range(13, 16)), regular_token_ranges=((16, 256),),
)  # fmt: skip
PAIR, ELECTRA = {"heads/pair"}, {"heads/discriminator", "generator"}
RUNS = {
    "next_sentence": ({}, PAIR),
    "sentence_order": ({"objective__mlm_loss_weight": 0.0}, PAIR),
    "replaced_token_detection": ({"model__embedding_size": 24}, ELECTRA),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_run_resumes_bit_for_bit_and_finetuning_takes_the_trunk(name, tmp_path):
    overrides, own = RUNS[name]
    config = tiny_configs.pretraining(
        tmp_path, f"configs/encoder.py:objective={name}", training__duration="4 steps",
        evaluation__every="2 steps", checkpoint__max_to_keep=9, **overrides,
    )  # fmt: skip
    run = tmp_path / "run"
    train.run(config, str(run))
    pretrained = checkpoint.params_metadata(run, 4)
    parts = {"/".join(p.split("/")[: 2 if p.startswith("heads") else 1]) for p in pretrained}
    assert own <= parts
    lines = tiny_configs.metrics(run)
    shutil.rmtree(run / "checkpoints" / "4")
    shutil.rmtree(run / "checkpoints" / "3")
    train.run(config, str(run))
    assert tiny_configs.metrics(run) == lines
    config = tiny_configs.finetuning(tmp_path, run, init="pretrained")
    result = finetune.run(config, f"{run}-task")
    assert "test/accuracy" in result.metrics
    finetuned = checkpoint.params_metadata(f"{run}-task", 0)
    trunk = {path for path in pretrained if not path.startswith(("heads/", "generator/"))}
    assert {path for path in finetuned if not path.startswith("heads/classification/")} == trunk


def topics(rows, raw, seed, documents=4):
    """Rows of documents that each traverse one of 12 groups of 20 tokens, from first to last."""
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
def test_a_small_model_learns_the_objective(name):
    """The pair loss falls below ln 2, the discriminator's below the base rate's entropy; both by far."""
    objective = objectives.build(name, {"mlm_loss_weight": 0.0} if name == "sentence_order" else {})
    spec = ObjectiveSpec("encoder", VOCABULARY, 32)
    raw, batch_size = objective.lengths(spec).raw, 32
    config = models.ModelConfig(
        num_layers=2, emb_dim=64, num_heads=2, mlp_dim=128, positions="rope", init_std=0.05
    )
    model = models.build(complete_config(config, VOCABULARY.size, 32, objective.num_token_types))
    corrupt = jax.jit(functools.partial(objective.corrupt_batch, spec))

    def batch_at(step):
        ids = example_ids(step * batch_size, batch_size)
        rngs = example_rngs(rng_stream(0, "corruption"), ids)
        return corrupt(rngs, jnp.asarray(topics(batch_size, raw, step)))

    @jax.jit
    def train_step(state, batch, learning_rate):
        dropout_rng = jax.random.fold_in(rng_stream(0, "dropout"), state.step)
        grads, sums = accumulate_gradients(objective, model, state, {}, batch, dropout_rng)
        return state.apply_gradients(grads, sums, objective.loss_coefficients(), learning_rate)

    params = jax.jit(functools.partial(objective.init, model))(rng_stream(0, "init"), batch_at(0))
    state, lines = TrainState.create(params, Optimizer(AdamW())), []
    for step in range(300):
        learning_rate = jnp.float32(2e-3 * min(1, (step + 1) / 20))
        state, sums = train_step(state, batch_at(step), learning_rate)
        lines.append({k: float(total) / max(float(w), 1) for k, (total, w) in sums.items()})
    mean = {k: np.mean([line[k] for line in lines[-30:]]) for k in lines[0]}
    if name == "replaced_token_detection":
        p = mean["replaced"]
        assert mean["discriminator"] < 0.7 * -(p * np.log(p) + (1 - p) * np.log(1 - p)), mean
        assert 0.01 < p < 0.15 and mean["recall"] > 0.4 and mean["precision"] > 0.5
        assert mean["lm"] < np.log(240) - 1
    else:
        assert mean["pair"] < 0.4 and mean["pair_accuracy"] > 0.8, mean


def test_flops_count_the_generator_and_the_discriminator():
    """Against a sum by hand; the pair head reads one position of a row."""
    D, E, F, V, T, B = 16, 8, 32, 256, 24, 2
    G, H = 4, 8  # emb_dim and mlp_dim of the generator
    counted = {}
    for name in ("replaced_token_detection", "next_sentence"):
        objective = objectives.build(name)
        spec = ObjectiveSpec("encoder", VOCABULARY, T)
        config = models.ModelConfig(
            num_layers=2, emb_dim=D, num_heads=2, mlp_dim=F, embedding_size=E
        )
        model = models.build(complete_config(config, V, T, objective.num_token_types))
        lengths = objective.lengths(spec)
        rngs = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), B))
        rows = jax.ShapeDtypeStruct((B, lengths.raw), jnp.int32)
        batch = jax.eval_shape(functools.partial(objective.corrupt_batch, spec), rngs, rows)
        init = functools.partial(objective.init, model)
        params = jax.eval_shape(init, jax.eval_shape(lambda: jax.random.key(0)), batch)
        specs = objective.flops_spec(model.config, params, batch)
        counted[name] = flops.flops_per_row(specs, batch), lengths.targets

    def stack(emb_dim, mlp_dim):
        products = 2 * (4 * emb_dim * emb_dim + 2 * emb_dim * mlp_dim) * T + E * emb_dim * T
        return 2 * products + 4 * 2 * T * T * emb_dim

    total, N = counted["replaced_token_detection"]
    generator = stack(G, H) + 2 * N * (G * E + E * V)
    assert total == 3 * (generator + stack(D, F) + 2 * T * (D * D + D))
    total, N = counted["next_sentence"]
    assert total == 3 * (stack(D, F) + 2 * N * (D * E + E * V) + 2 * (D * D + 2 * D))
