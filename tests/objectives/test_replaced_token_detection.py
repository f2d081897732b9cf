"""Laws 4, 5 and 10 for replaced-token detection: samples, losses and gradients computed again.

The samples are drawn again in NumPy, and then are constants of a loss that knows no sampling.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import stats

import models
import objectives
import objectives.loss as loss_module
from models import sized
from objectives.base import Objective, Setting, hidden_states
from objectives.heads import DiscriminatorHead
from objectives.loss import sampled_pieces
from objectives.vocabulary import Vocabulary
from training import rules, step

# 300 pieces are three blocks of 128; special ids below, between and above.
VOCABULARY = Vocabulary(
    size=300, pad=0, unk=1, cls=2, sep=3, eos=4, mask=5, start=6, modes=(7, 8, 9),
    infill=(10, 11, 12), sentinels=tuple(range(13, 19)), ordinary=((19, 150), (160, 290)),
)  # fmt: skip
ORDINARY = np.r_[19:150, 160:290]
LENGTH, ROWS = 24, 8
SETTING = Setting("encoder", VOCABULARY, LENGTH)


def rows_of(seed, pieces=ORDINARY):
    """Rows of two documents, the second one cut; the last row is half padding."""
    random = np.random.default_rng(seed)
    rows = random.choice(pieces, (ROWS, LENGTH))
    rows[:, [0, 12]], rows[:, 11], rows[:, 6] = 2, 3, 1
    rows[-1, 12:] = 0
    return rows.astype(np.int32)


@functools.cache
def everything():
    """(objective, model, parameters, batch, jitted losses); few pieces, so that some samples hit.

    In the generator's favour its bias knows them: it has learned what is frequent.
    """
    objective = objectives.build("replaced_token_detection", {"noise_density": 0.3})
    model = models.build(models.ModelConfig(
        vocab_size=300, max_length=LENGTH, layers=1, width=16, heads=4, mlp_size=32, init_std=0.2,
        embedding_size=12, output_bias=True, readout_transform=True,
    ))  # fmt: skip
    corrupt = jax.jit(jax.vmap(functools.partial(objective.corrupt, SETTING)))
    batch = corrupt(jax.random.split(jax.random.key(0), ROWS), rows_of(0))
    params = dict(jax.jit(functools.partial(objective.initialise, model))(jax.random.key(1), batch))
    generator = params["generator"]
    bias = np.full(384, -9.0, np.float32)
    bias[19:23] = [2.0, 1.0, 2.0, 1.5]
    lm = {**generator["heads"]["lm"], "bias": jnp.asarray(bias)}
    params["generator"] = {**generator, "heads": {"lm": lm}}
    batch = corrupt(jax.random.split(jax.random.key(0), ROWS), rows_of(0, np.arange(19, 23)))
    return objective, model, params, batch, jax.jit(functools.partial(objective.losses, model))


@functools.cache
def gradients(count):
    """(gradients, sums) over `count` microbatches."""
    objective, model, params, batch, _ = everything()
    gradient = functools.partial(step.gradients, objective, model)
    return jax.jit(lambda p: gradient(p, {}, batch, None, count))(params)


def parts(objective, model, params, batch, key=None):
    """(generator, its parameters, its logits float64[B,N,V])."""
    generator = models.build(objective.generator(model.config))
    own = {**params["generator"], "embed": params["embed"]}

    @jax.jit
    def score(own):
        hidden = hidden_states(generator, own, batch, key)
        features = generator.apply({"params": own}, hidden, method="readout")
        table, bias = generator.apply({"params": own}, method="unembedding")
        return features @ table.T + bias[None, None]

    return generator, own, np.asarray(score(own), np.float64)


def draw_again(logits, draws):
    """The pieces at which the cumulated softmax over ordinary ids passes the draws."""
    p = np.exp(logits[..., ORDINARY] - logits.max(-1, keepdims=True))
    cumulated = (p / p.sum(-1, keepdims=True)).cumsum(-1)
    return ORDINARY[(cumulated <= np.asarray(draws)[..., None]).sum(-1)]


def read_by_both(batch, samples):
    """(original, corrupted) int[B,T], slot by slot."""
    original, corrupted = np.array(batch.inputs.tokens), np.array(batch.inputs.tokens)
    for b, n in zip(*np.nonzero(batch.weights), strict=True):
        original[b, batch.indices[b, n]] = batch.targets[b, n]
        corrupted[b, batch.indices[b, n]] = samples[b, n]
    return original, corrupted


def test_samples_have_the_distribution_of_the_softmax_over_ordinary_pieces():
    random = np.random.default_rng(0)
    features = np.repeat(random.normal(size=(1, 1, 8)), 20_000, 1).astype(np.float32)
    table = random.normal(size=(384, 8)).astype(np.float32)
    table[5] = table[295] = 9 * features[0, 0]  # special: likely, were they let in
    bias = random.normal(size=384).astype(np.float32)
    draws = jax.random.uniform(jax.random.key(0), (1, 20_000))
    with jax.numpy_dtype_promotion("strict"):
        drawn = jax.jit(sampled_pieces, static_argnums=4)(
            *map(jnp.asarray, (features, table, bias)), draws, VOCABULARY.ordinary
        )
    logits = features[0, :1].astype(np.float64) @ table.T + bias
    np.testing.assert_array_equal(drawn[0, :4000], draw_again(logits, draws[0, :4000]))
    p = np.exp(logits[0, ORDINARY])
    order = np.argsort(p)[::-1][:40]
    counts = np.array([(np.asarray(drawn) == piece).sum() for piece in ORDINARY[order]])
    expected = p[order] / p.sum() * 20_000
    rest = 20_000 - counts.sum(), 20_000 - expected.sum()
    assert stats.chisquare([*counts, rest[0]], [*expected, rest[1]]).pvalue > 1e-6
    assert np.isin(drawn, ORDINARY).all()


def test_the_ends_of_the_unit_interval_and_the_number_of_chunks_do_not_matter(monkeypatch):
    random = np.random.default_rng(1)
    features = jnp.asarray(random.normal(size=(3, 10, 8)), jnp.float32)
    table = jnp.asarray(random.normal(size=(384, 8)) * 4, jnp.float32)
    draws = jnp.asarray(random.uniform(size=(3, 10)), jnp.float32)
    draws = draws.at[:, 0].set(0.0).at[:, 1].set(1 - 2**-24)
    whole = sampled_pieces(features, table, None, draws, VOCABULARY.ordinary)
    assert np.isin(whole, ORDINARY).all()
    assert set(np.asarray(whole[:, 0]).tolist()) == {19}
    monkeypatch.setattr(loss_module, "number_of_chunks", lambda *_: 3)
    np.testing.assert_array_equal(
        sampled_pieces(features, table, None, draws, VOCABULARY.ordinary), whole
    )


def test_law_05_every_sum_recomputed_by_hand():
    objective, model, params, batch, losses = everything()
    with jax.numpy_dtype_promotion("strict"):
        sums = jax.device_get(losses(params, batch, None))
    _, _, logits = parts(objective, model, params, batch)
    samples = draw_again(logits, batch.draws)
    original, corrupted = read_by_both(batch, samples)
    replaced, judged = corrupted != original, np.isin(original, ORDINARY)
    told = np.asarray(batch.weights) > 0
    hits = (samples == batch.targets)[told].mean()
    assert 0.1 < hits < 0.9 and replaced.sum() == (samples != batch.targets)[told].sum()

    inputs = batch.inputs.replace(tokens=jnp.asarray(corrupted))
    states = np.asarray(jax.jit(model.apply)({"params": params}, inputs), np.float64)
    head = jax.tree.map(lambda x: np.asarray(x, np.float64), params["heads"]["discriminator"])
    hidden = states @ head["dense"]["kernel"] + head["dense"]["bias"]
    hidden = hidden * stats.norm.cdf(hidden)
    scores = (hidden @ head["output"]["kernel"] + head["output"]["bias"])[..., 0]
    right = np.where(replaced, scores, -scores)
    found = scores > 0
    expected = {
        "discriminator": (np.log1p(np.exp(-right))[judged].sum(), judged.sum()),
        "discriminator_accuracy": ((found == replaced)[judged].sum(), judged.sum()),
        "precision": ((found & replaced)[judged].sum(), found[judged].sum()),
        "recall": ((found & replaced)[judged].sum(), replaced[judged].sum()),
        "replaced": (replaced[judged].sum(), judged.sum()),
    }
    logits = logits[..., : VOCABULARY.size]
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    taken = np.take_along_axis(logs, np.asarray(batch.targets)[..., None], -1)[..., 0]
    best = logits.argmax(-1) == batch.targets
    expected |= {"lm": (-taken[told].sum(), told.sum()), "accuracy": (best[told].sum(), told.sum())}
    assert sums.keys() == expected.keys()
    for name, pair in expected.items():
        np.testing.assert_allclose(sums[name], pair, rtol=2e-5, err_msg=name)
    for name, weight in objective.weights(batch).items():
        assert weight == sums[name][1] > 0
    jax.tree.map(np.testing.assert_array_equal, losses(params, batch, None), sums)
    answers = jax.jit(functools.partial(objective.answers, model))(params, batch, None)
    np.testing.assert_array_equal(answers["discriminator"][0], replaced)
    np.testing.assert_array_equal(answers["discriminator"][1], judged)


def test_no_gradient_goes_through_the_samples():
    objective, model, params, batch, _ = everything()
    generator, _, logits = parts(objective, model, params, batch)
    original, corrupted = read_by_both(batch, draw_again(logits, batch.draws))
    replaced = jnp.asarray(corrupted != original, jnp.float32)
    judged = jnp.asarray(np.isin(original, ORDINARY), jnp.float32)

    def generated(params):
        own = {**params["generator"], "embed": params["embed"]}
        return Objective().losses(generator, own, batch, None)["lm"][0] / batch.weights.sum()

    def discriminated(params):
        inputs = batch.inputs.replace(tokens=jnp.asarray(corrupted))
        states = model.apply({"params": params}, inputs)
        head = {"params": params["heads"]["discriminator"]}
        logits = DiscriminatorHead(model.config).apply(head, states)
        losses = optax.sigmoid_binary_cross_entropy(logits, replaced)
        return 50 * (losses * judged).sum() / judged.sum()

    parts_of = jax.jit(lambda p: (jax.grad(generated)(p), jax.grad(discriminated)(p)))(params)
    of_generator, of_discriminator = map(rules.paths, parts_of)
    ours = gradients(1)[0]
    scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(ours))
    for path, gradient in rules.paths(ours).items():
        expected = of_generator[path] + of_discriminator[path]
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=2e-6 * scale, err_msg=path)
        mine, other = np.any(of_generator[path]), np.any(of_discriminator[path])
        kind = path.split("/")[0]
        assert (mine, other) == {
            "embed": (True, True),  # shared
            "generator": (True, False),
        }.get(kind, (False, True)), path


def test_law_04_microbatches_draw_the_same_samples():
    one, sums_one = gradients(1)
    four, sums_four = gradients(4)
    for name in sums_one:
        np.testing.assert_allclose(sums_four[name], sums_one[name], rtol=1e-5, err_msg=name)
    scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(one))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * scale), four, one
    )


def test_law_10_the_row_is_restored_and_special_ids_are_never_touched():
    objective, _, _, batch, _ = everything()
    rows = rows_of(0, np.arange(19, 23))
    for i, row in enumerate(rows):
        one = jax.tree.map(lambda x, i=i: x[i], batch)
        np.testing.assert_array_equal(objective.inverse(SETTING, one), row)
        assert (one.inputs.tokens[~np.isin(row, ORDINARY)] == row[~np.isin(row, ORDINARY)]).all()
        told = np.asarray(one.weights) > 0
        assert told.sum() == round(0.3 * np.isin(row, ORDINARY).sum())
        assert (np.asarray(one.inputs.tokens)[one.indices[told]] == VOCABULARY.mask).all()
    assert batch.draws.min() >= 0 and batch.draws.max() < 1
    assert len(np.unique(batch.draws)) == batch.draws.size


def test_scores_of_all_positions_never_exist():
    objective, model, params, batch, _ = everything()
    program = str(jax.make_jaxpr(functools.partial(objective.losses, model))(params, batch, None))
    assert f"[{ROWS},{batch.targets.shape[1]},384]" in program
    assert f"{LENGTH},384]" not in program


def test_the_generator_is_that_of_the_paper_and_shares_every_table():
    """Sizes of appendix A, table 6: ELECTRA-Small's generator is 1/4 as wide, Base's 1/3."""
    small = models.ModelConfig(layers=12, width=256, heads=4, mlp_size=1024, embedding_size=128)
    base = models.ModelConfig(**sized("base"))
    for config, share, expected in (
        (small, 0.25, (12, 64, 1, 256, 128)),
        (base, 1 / 3, (12, 256, 4, 1024, 768)),
    ):
        made = objectives.build("replaced_token_detection", {"generator_size": share})
        made = made.generator(config)
        sizes = made.layers, made.width, made.heads, made.mlp_size, made.embedding_size
        assert sizes == expected and made.size_of_head == 64
    _, _, params, _, _ = everything()
    paths = rules.paths(params)
    assert {path.split("/")[0] for path in paths} == {"embed", "projection", "encoder", "heads",
                                                      "generator"}  # fmt: skip
    inner = {path.split("/")[1] for path in paths if path.startswith("generator/")}
    assert inner == {"projection", "encoder", "heads"}
    assert {path.split("/")[1] for path in paths if path.startswith("heads/")} == {"discriminator"}
