"""Invariants 4, 5 and 10 for replaced-token detection: samples, losses and gradients recomputed.

NumPy samples the tokens again; they are then constants of a loss that does no sampling.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import models
import objectives
import objectives.loss as loss_module
from models import size_fields
from objectives.base import ObjectiveSpec
from objectives.heads import DiscriminatorHead
from objectives.lm_loss import LMLoss, target_hidden_states
from objectives.loss import sample_tokens
from objectives.vocabulary import Vocabulary
from training.optimizers import AdamW, Optimizer
from training.param_rules import flatten_params
from training.state import TrainState
from training.train_step import accumulate_gradients

# 300 tokens, padded to three blocks of 128; special ids below, between and above.
VOCABULARY = Vocabulary(
    size=300, pad=0, unk=1, cls=2, sep=3, eos=4, mask=5, start=6, modes=(7, 8, 9),
    infill=(10, 11, 12), sentinels=tuple(range(13, 19)),
    regular_token_ranges=((19, 150), (160, 290)),
)  # fmt: skip
REGULAR_TOKENS = np.r_[19:150, 160:290]
SEQ_LEN, ROWS = 24, 8
SPEC = ObjectiveSpec("encoder", VOCABULARY, SEQ_LEN)


def make_rows(seed, tokens=REGULAR_TOKENS):
    """Rows of two documents, the second one cut; the last row is half padding."""
    random = np.random.default_rng(seed)
    rows = random.choice(tokens, (ROWS, SEQ_LEN))
    rows[:, [0, 12]], rows[:, 11], rows[:, 6] = 2, 3, 1
    rows[-1, 12:] = 0
    return rows.astype(np.int32)


@functools.cache
def setup():
    """(objective, model, parameters, batch, jitted losses).

    The text has four tokens and the generator's bias favors them, so some samples are correct.
    """
    objective = objectives.build("replaced_token_detection", {"noise_density": 0.3})
    model = models.build(models.ModelConfig(
        vocab_size=300, max_length=SEQ_LEN, num_layers=1, emb_dim=16, num_heads=4, mlp_dim=32,
        init_std=0.2, embedding_size=12, lm_head_bias=True, lm_head_transform=True,
    ))  # fmt: skip
    corrupt = jax.jit(jax.vmap(functools.partial(objective.corrupt, SPEC)))
    batch = corrupt(jax.random.split(jax.random.key(0), ROWS), make_rows(0))
    params = dict(jax.jit(functools.partial(objective.init, model))(jax.random.key(1), batch))
    generator = params["generator"]
    bias = np.full(384, -9.0, np.float32)
    bias[19:23] = [2.0, 1.0, 2.0, 1.5]
    lm = {**generator["heads"]["lm"], "bias": jnp.asarray(bias)}
    params["generator"] = {**generator, "heads": {"lm": lm}}
    batch = corrupt(jax.random.split(jax.random.key(0), ROWS), make_rows(0, np.arange(19, 23)))
    return objective, model, params, batch, jax.jit(functools.partial(objective.losses, model))


@functools.cache
def gradients(grad_accum_steps):
    """(gradients, sums) of the batch."""
    objective, model, params, batch, _ = setup()
    optimizer = Optimizer(AdamW(), grad_accum_steps=grad_accum_steps)
    accumulate = functools.partial(accumulate_gradients, objective, model)
    return jax.jit(lambda p: accumulate(TrainState.create(p, optimizer), {}, batch, None))(params)


def generate(objective, model, params, batch, dropout_rng=None):
    """(generator, its parameters, its logits float64[B,N,V])."""
    generator = models.build(objective.generator_config(model.config))
    own = {**params["generator"], "embed": params["embed"]}

    @jax.jit
    def score(own):
        hidden = target_hidden_states(generator, own, batch, dropout_rng)
        features = generator.apply({"params": own}, hidden, method="lm_features")
        table, bias = generator.apply({"params": own}, method="output_embedding")
        logits = features @ table.T + bias[None, None]
        cap = generator.config.final_logit_softcap
        return cap * jnp.tanh(logits / cap) if cap else logits

    return generator, own, np.asarray(score(own), np.float64)


def sample_again(logits, uniforms):
    """The tokens at which the cumulative softmax over regular ids passes the uniform numbers."""
    p = np.exp(logits[..., REGULAR_TOKENS] - logits.max(-1, keepdims=True))
    cumulative = (p / p.sum(-1, keepdims=True)).cumsum(-1)
    return REGULAR_TOKENS[(cumulative <= np.asarray(uniforms)[..., None]).sum(-1)]


def texts(batch, samples):
    """(original, corrupted) int[B,T], slot by slot."""
    original, corrupted = np.array(batch.inputs.tokens), np.array(batch.inputs.tokens)
    for b, n in zip(*np.nonzero(batch.loss_weights), strict=True):
        original[b, batch.target_positions[b, n]] = batch.targets[b, n]
        corrupted[b, batch.target_positions[b, n]] = samples[b, n]
    return original, corrupted


def test_samples_follow_the_softmax_over_regular_tokens():
    random = np.random.default_rng(0)
    features = np.repeat(random.normal(size=(1, 1, 8)), 20_000, 1).astype(np.float32)
    table = random.normal(size=(384, 8)).astype(np.float32)
    table[5] = table[295] = 9 * features[0, 0]  # special ids: likely if they were not masked
    bias = random.normal(size=384).astype(np.float32)
    uniforms = jax.random.uniform(jax.random.key(0), (1, 20_000))
    with jax.numpy_dtype_promotion("strict"):
        samples = jax.jit(sample_tokens, static_argnums=4)(
            *map(jnp.asarray, (features, table, bias)), uniforms, VOCABULARY.regular_token_ranges
        )
    logits = features[0, :1].astype(np.float64) @ table.T + bias
    np.testing.assert_array_equal(samples[0, :4000], sample_again(logits, uniforms[0, :4000]))
    p = np.exp(logits[0, REGULAR_TOKENS])
    order = np.argsort(p)[::-1][:40]
    counts = np.array([(np.asarray(samples) == token).sum() for token in REGULAR_TOKENS[order]])
    expected = p[order] / p.sum() * 20_000
    rest = 20_000 - counts.sum(), 20_000 - expected.sum()
    assert stats.chisquare([*counts, rest[0]], [*expected, rest[1]]).pvalue > 1e-6
    assert np.isin(samples, REGULAR_TOKENS).all()


def test_samples_are_regular_at_both_ends_of_the_interval_and_independent_of_chunks(monkeypatch):
    random = np.random.default_rng(1)
    features = jnp.asarray(random.normal(size=(3, 10, 8)), jnp.float32)
    table = jnp.asarray(random.normal(size=(384, 8)) * 4, jnp.float32)
    uniforms = jnp.asarray(random.uniform(size=(3, 10)), jnp.float32)
    uniforms = uniforms.at[:, 0].set(0.0).at[:, 1].set(1 - 2**-24)
    ranges = VOCABULARY.regular_token_ranges
    samples = sample_tokens(features, table, None, uniforms, ranges)
    assert np.isin(samples, REGULAR_TOKENS).all()
    assert set(np.asarray(samples[:, 0]).tolist()) == {19}
    monkeypatch.setattr(loss_module, "number_of_chunks", lambda *_: 3)
    np.testing.assert_array_equal(sample_tokens(features, table, None, uniforms, ranges), samples)


@pytest.mark.parametrize("cap", [0.0, 6.0])
def test_invariant_05_every_sum_equals_its_recomputation(cap):
    objective, model, params, batch, losses = setup()
    if cap:  # of the generator: its samples and its loss
        capped = dataclasses.replace(
            model.config, final_logit_softcap=cap, lm_head_bias_init="zeros"
        )
        model = models.build(capped)
        losses = jax.jit(functools.partial(objective.losses, model))
    with jax.numpy_dtype_promotion("strict"):
        sums = jax.device_get(losses(params, batch, None))
    _, _, logits = generate(objective, model, params, batch)
    samples = sample_again(logits, batch.sampling_uniforms)
    original, corrupted = texts(batch, samples)
    replaced, regular = corrupted != original, np.isin(original, REGULAR_TOKENS)
    is_target = np.asarray(batch.loss_weights) > 0
    hits = (samples == batch.targets)[is_target].mean()
    assert 0.1 < hits < 0.9 and replaced.sum() == (samples != batch.targets)[is_target].sum()

    inputs = batch.inputs.replace(tokens=jnp.asarray(corrupted))
    states = np.asarray(jax.jit(model.apply)({"params": params}, inputs), np.float64)
    head = jax.tree.map(lambda x: np.asarray(x, np.float64), params["heads"]["discriminator"])
    hidden = states @ head["dense"]["kernel"] + head["dense"]["bias"]
    hidden = hidden * stats.norm.cdf(hidden)
    scores = (hidden @ head["output"]["kernel"] + head["output"]["bias"])[..., 0]
    right = np.where(replaced, scores, -scores)
    found = scores > 0
    expected = {
        "discriminator": (np.log1p(np.exp(-right))[regular].sum(), regular.sum()),
        "discriminator_accuracy": ((found == replaced)[regular].sum(), regular.sum()),
        "precision": ((found & replaced)[regular].sum(), found[regular].sum()),
        "recall": ((found & replaced)[regular].sum(), replaced[regular].sum()),
        "replaced": (replaced[regular].sum(), regular.sum()),
    }
    logits = logits[..., : VOCABULARY.size]
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    log_p = np.take_along_axis(log_p, np.asarray(batch.targets)[..., None], -1)[..., 0]
    correct = logits.argmax(-1) == batch.targets
    expected |= {
        "lm": (-log_p[is_target].sum(), is_target.sum()),
        "accuracy": (correct[is_target].sum(), is_target.sum()),
    }
    assert sums.keys() == expected.keys()
    for name, pair in expected.items():
        np.testing.assert_allclose(sums[name], pair, rtol=2e-5, err_msg=name)
    for name, weight in objective.loss_denominators(batch).items():
        assert weight == sums[name][1] > 0
    jax.tree.map(np.testing.assert_array_equal, losses(params, batch, None), sums)
    classes = jax.jit(functools.partial(objective.target_classes, model))(params, batch, None)
    np.testing.assert_array_equal(classes["discriminator"][0], replaced)
    np.testing.assert_array_equal(classes["discriminator"][1], regular)


def test_no_gradient_passes_through_the_samples():
    objective, model, params, batch, _ = setup()
    generator, _, logits = generate(objective, model, params, batch)
    original, corrupted = texts(batch, sample_again(logits, batch.sampling_uniforms))
    replaced = jnp.asarray(corrupted != original, jnp.float32)
    regular = jnp.asarray(np.isin(original, REGULAR_TOKENS), jnp.float32)

    def generator_loss(params):
        own = {**params["generator"], "embed": params["embed"]}
        return LMLoss().losses(generator, own, batch, None)["lm"][0] / batch.loss_weights.sum()

    def discriminator_loss(params):
        inputs = batch.inputs.replace(tokens=jnp.asarray(corrupted))
        states = model.apply({"params": params}, inputs)
        head = {"params": params["heads"]["discriminator"]}
        logits = DiscriminatorHead(model.config).apply(head, states)
        losses = optax.sigmoid_binary_cross_entropy(logits, replaced)
        return 50 * (losses * regular).sum() / regular.sum()

    both = jax.jit(lambda p: (jax.grad(generator_loss)(p), jax.grad(discriminator_loss)(p)))(params)
    of_generator, of_discriminator = map(flatten_params, both)
    actual = gradients(1)[0]
    scale = max(float(np.abs(x).max()) for x in jax.tree.leaves(actual))
    for path, gradient in flatten_params(actual).items():
        expected = of_generator[path] + of_discriminator[path]
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=2e-6 * scale, err_msg=path)
        has_gradient = np.any(of_generator[path]), np.any(of_discriminator[path])
        assert has_gradient == {
            "embed": (True, True),  # shared
            "generator": (True, False),
        }.get(path.split("/")[0], (False, True)), path


def test_invariant_04_microbatches_draw_the_same_samples():
    one, sums_one = gradients(1)
    four, sums_four = gradients(4)
    for name in sums_one:
        np.testing.assert_allclose(sums_four[name], sums_one[name], rtol=1e-5, err_msg=name)
    scale = max(float(np.abs(x).max()) for x in jax.tree.leaves(one))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * scale), four, one
    )


def test_invariant_10_the_row_is_reconstructed_and_special_ids_are_never_changed():
    objective, _, _, batch, _ = setup()
    rows = make_rows(0, np.arange(19, 23))
    for i, row in enumerate(rows):
        one = jax.tree.map(lambda x, i=i: x[i], batch)
        np.testing.assert_array_equal(objective.reconstruct(SPEC, one), row)
        special = ~np.isin(row, REGULAR_TOKENS)
        assert (one.inputs.tokens[special] == row[special]).all()
        is_target = np.asarray(one.loss_weights) > 0
        assert is_target.sum() == round(0.3 * (~special).sum())
        masked = np.asarray(one.inputs.tokens)[one.target_positions[is_target]]
        assert (masked == VOCABULARY.mask).all()
    assert batch.sampling_uniforms.min() >= 0 and batch.sampling_uniforms.max() < 1
    assert len(np.unique(batch.sampling_uniforms)) == batch.sampling_uniforms.size


def test_logits_of_all_positions_never_exist():
    objective, model, params, batch, _ = setup()
    program = str(jax.make_jaxpr(functools.partial(objective.losses, model))(params, batch, None))
    assert f"[{ROWS},{batch.targets.shape[1]},384]" in program
    assert f"{SEQ_LEN},384]" not in program


def test_the_generator_has_the_sizes_of_the_paper_and_shares_every_embedding():
    """Sizes of appendix A, table 6: ELECTRA-Small's generator is 1/4 as wide, Base's 1/3."""
    small = models.ModelConfig(
        num_layers=12, emb_dim=256, num_heads=4, mlp_dim=1024, embedding_size=128
    )
    base = models.ModelConfig(**size_fields("base"))
    for config, share, expected in (
        (small, 0.25, (12, 64, 1, 256, 128)),
        (base, 1 / 3, (12, 256, 4, 1024, 768)),
    ):
        objective = objectives.build("replaced_token_detection", {"generator_size": share})
        c = objective.generator_config(config)
        sizes = c.num_layers, c.emb_dim, c.num_heads, c.mlp_dim, c.embedding_size
        assert sizes == expected and c.resolved_head_dim == 64
    _, _, params, _, _ = setup()
    paths = flatten_params(params)
    assert {path.split("/")[0] for path in paths} == {"embed", "projection", "encoder", "heads",
                                                      "generator"}  # fmt: skip
    inner = {path.split("/")[1] for path in paths if path.startswith("generator/")}
    assert inner == {"projection", "encoder", "heads"}
    assert {path.split("/")[1] for path in paths if path.startswith("heads/")} == {"discriminator"}


def test_the_generator_computes_its_layers_as_the_discriminator_does():
    objective, model, _, batch, _ = setup()
    config, loops = dataclasses.replace(model.config, num_layers=2), []
    for loop in (models.LayerLoop(), models.LayerLoop("none", scan_layers=True)):
        each = models.build(config, loop=loop)
        params = jax.eval_shape(functools.partial(objective.init, each), jax.random.key(0), batch)
        losses = functools.partial(objective.losses, each, dropout_rng=None)
        program = jax.make_jaxpr(lambda params, losses=losses: losses(params, batch))(params)
        loops.append(str(program).count("scan["))
    assert loops[1] == loops[0] + 2
