"""`generate`: greedy search, sampling, beams, streaming, uneven prompts, meshes, and what it refuses."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from generation import GenerationConfig, GenerationError, Prompt, beam, generate, prompts
from generation.generate import _Batch
from models.layers import lm_logits
from training import sharding
from training.schema import MeshConfig

SHAPE = {"vocab_size": 100, "max_length": 64, "num_layers": 1, "emb_dim": 32, "num_heads": 4,
         "mlp_dim": 48, "tie_word_embeddings": False}  # fmt: skip
RANDOM = np.random.default_rng(0)


@functools.cache
def setup(architecture="decoder", positions="rope", vocab_size=100):
    """(model, parameters) of enlarged scale."""
    fields = {**SHAPE, "positions": positions, "vocab_size": vocab_size}
    model = models.build(models.ModelConfig(architecture=architecture, **fields))
    row = models.make_inputs(jnp.ones((1, 4), jnp.int32), jnp.ones((1, 4), jnp.int32))
    other = row if architecture == "encoder_decoder" else None
    params = model.init(jax.random.key(0), row, other, method="init_all")["params"]
    return model, jax.tree.map(lambda x: 8 * x if x.ndim == 2 else x, params)


def prompts_of(*lengths, both=False, **fields):
    start = np.array([1], np.int32) if both else np.zeros(0, np.int32)
    return [
        Prompt(RANDOM.integers(2, 100, n).astype(np.int32), decoder_tokens=start, **fields)
        for n in lengths
    ]


@functools.partial(jax.jit, static_argnums=0)
def _log_probs(model, params, *inputs):
    hidden = model.apply({"params": params}, *inputs)
    features = model.apply({"params": params}, hidden, method="lm_features")
    logits = lm_logits(features, *model.apply({"params": params}, method="output_embedding"))
    return jax.nn.log_softmax(logits[..., : model.config.vocab_size])


def log_probs_after(model, params, prompt, generated):
    """float32[n+1,V]: log-probabilities of each generated token and of the next one, by the whole model."""
    both = model.config.architecture == "encoder_decoder"
    text = [*(prompt.decoder_tokens if both else prompt.tokens), *generated]

    def inputs(tokens, attention):
        padded, segments = np.zeros((2, 1, 48), np.int32)
        padded[0, : len(tokens)], segments[0, : len(tokens)] = tokens, 1
        return models.make_inputs(jnp.asarray(padded), jnp.asarray(segments), attention)

    source = [inputs(prompt.tokens, "bidirectional")] if both else []
    out = _log_probs(model, params, *source, inputs(text, "causal"))
    return np.asarray(out)[0, len(text) - len(generated) - 1 : len(text)]


@pytest.mark.parametrize("architecture", ["decoder", "encoder_decoder"])
def test_uneven_prompts_get_the_most_likely_tokens_until_an_end(architecture):
    model, params = setup(architecture)
    wanted = prompts_of(3, 18, 7, 1, both=architecture == "encoder_decoder")
    wanted.append(Prompt(wanted[0].tokens, False, wanted[0].decoder_tokens, max_new_tokens=2))
    (first, *_), *_ = generate(
        model, params, wanted[:1], GenerationConfig(max_new_tokens=6), eos_ids=()
    )
    eos = int(first.tokens[3])
    lines = []
    config = GenerationConfig(max_new_tokens=6, min_new_tokens=2)
    found = generate(model, params, wanted, config, eos_ids=(eos,), log=lines.append)
    for prompt, (row,) in zip(wanted, found, strict=True):
        expected = log_probs_after(model, params, prompt, row.tokens)
        allowed = expected.copy()
        allowed[:2, eos] = -np.inf
        np.testing.assert_array_equal(row.tokens, allowed.argmax(-1)[:-1])
        np.testing.assert_allclose(row.log_probs, expected.max(-1)[:-1], rtol=1e-4, atol=1e-4)
        assert row.finish_reason == ("stop" if row.tokens[-1] == eos else "length")
        assert row.finish_reason == "stop" or len(row.tokens) == (prompt.max_new_tokens or 6)
    assert found[0][0].finish_reason == "stop"
    assert sum(line.startswith("compiling") for line in lines) >= 2
    lines.clear()
    generate(model, params, wanted, config, eos_ids=(eos,), log=lines.append)
    assert lines == []


RESCALED = {
    "dynamic": {"architecture": "encoder_decoder", "rope_original_length": 3},
    "longrope": {"architecture": "decoder", "rope_original_length": 9,
                 "rope_short_factors": (1.0,) * 4, "rope_long_factors": (4.0,) * 4},
}  # fmt: skip


@pytest.mark.parametrize("scaling", RESCALED)
def test_rope_that_depends_on_the_length_gives_the_tokens_of_the_whole_model(scaling):
    fields = {
        **SHAPE,
        "num_layers": 2,
        "positions": "rope",
        "rope_scaling": scaling,
        "rope_factor": 4.0,
    }
    model = models.build(models.ModelConfig(**fields, **RESCALED[scaling]))
    both = model.config.architecture == "encoder_decoder"
    row = models.make_inputs(jnp.ones((1, 4), jnp.int32), jnp.ones((1, 4), jnp.int32))
    params = model.init(jax.random.key(0), row, row if both else None, method="init_all")["params"]
    params = jax.tree.map(lambda x: 5 * x if x.ndim == 2 else x, params)
    wanted = prompts_of(4, 7, 12, both=both)
    found = generate(model, params, wanted, GenerationConfig(max_new_tokens=6), eos_ids=())
    for prompt, (sequence,) in zip(wanted, found, strict=True):
        for n in range(len(sequence.tokens)):
            expected = log_probs_after(model, params, prompt, sequence.tokens[:n])[-1]
            assert sequence.tokens[n] == expected.argmax()
            np.testing.assert_allclose(sequence.log_probs[n], expected.max(), atol=1e-4)


def test_a_sample_depends_on_its_own_prompt_and_seed_alone():
    model, params = setup()
    wanted = prompts_of(3, 5, 18, 4)
    config = GenerationConfig(max_new_tokens=8, temperature=1.3, top_k=50, top_p=0.95, seed=3)
    found = generate(model, params, wanted, config, eos_ids=(7,))
    alone = generate(model, params, wanted[2:3], config, eos_ids=(7,), seeds=[5])
    np.testing.assert_array_equal(alone[0][0].tokens, found[2][0].tokens)
    other = generate(model, params, wanted[2:3], config, eos_ids=(7,), seeds=[6])
    assert other[0][0].tokens.tolist() != found[2][0].tokens.tolist()


def test_best_of_n_has_different_samples_with_their_scores():
    model, params = setup()
    config = GenerationConfig(max_new_tokens=4, temperature=1.0, num_return_sequences=4)
    (rows,) = generate(model, params, prompts_of(4), config, eos_ids=())
    assert len({tuple(row.tokens) for row in rows}) > 1
    scores = [row.score for row in rows]
    assert scores == sorted(scores, reverse=True)
    np.testing.assert_allclose(scores, [row.log_probs.sum() for row in rows], rtol=1e-6)


def test_tokens_are_reported_as_they_come_and_a_row_can_be_stopped():
    model, params = setup()
    wanted, config = prompts_of(3, 4), GenerationConfig(max_new_tokens=40)
    seen = {0: [], 1: []}

    def report(row, tokens):
        seen[row].append(tokens.tolist())
        return row == 1 and len(seen[1]) == 2

    found = generate(model, params, wanted, config, eos_ids=(), on_tokens=report)
    plain = generate(model, params, wanted, config, eos_ids=())
    assert [len(tokens) for tokens in seen[0]] == [1, 16, 16, 7]
    assert sum(seen[0], []) == found[0][0].tokens.tolist() == plain[0][0].tokens.tolist()
    assert sum(seen[1], []) == found[1][0].tokens.tolist() == plain[1][0].tokens[:17].tolist()
    assert [row.finish_reason for (row,) in found] == ["length", "stop"]


def test_a_beam_search_that_is_wide_enough_finds_the_best_sequence():
    model, params = setup(vocab_size=6)
    prompt = Prompt(np.array([1, 4, 2], np.int32))
    config = GenerationConfig(max_new_tokens=2, num_beams=6, num_return_sequences=6)
    (rows,) = generate(model, params, [prompt], config, eos_ids=())
    first = log_probs_after(model, params, prompt, [])[0]
    sums = {
        (a, b): first[a] + log_probs_after(model, params, prompt, [a])[1, b]
        for a, b in itertools.product(range(6), repeat=2)
    }
    best = sorted(sums, key=sums.get, reverse=True)[:6]
    assert [tuple(row.tokens) for row in rows] == best
    np.testing.assert_allclose([row.score for row in rows], [sums[b] / 2 for b in best], rtol=1e-4)


@pytest.mark.parametrize("architecture", ["decoder", "encoder_decoder"])
def test_one_beam_is_greedy_search(architecture):
    model, params = setup(architecture)
    wanted = prompts_of(5, 3, both=architecture == "encoder_decoder")
    config = GenerationConfig(max_new_tokens=6)
    greedy = generate(model, params, wanted, config, eos_ids=(9,))
    (batch,) = prompts.make_batches(model, wanted, config, [0, 0], 1)
    found = beam.search(_Batch(model, params, config, (9,), None, batch, print), None)
    for (one,), (other,) in zip(greedy, found, strict=True):
        assert one.tokens.tolist() == other.tokens.tolist()
        np.testing.assert_allclose(other.score, one.score / len(one.tokens), rtol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="greedy"),
        pytest.param({"num_beams": 2}, id="beams", marks=pytest.mark.slow),
    ],
)
def test_a_mesh_of_four_devices_generates_what_one_device_does(options):
    model, params = setup()
    wanted, config = prompts_of(3, 5, 9), GenerationConfig(max_new_tokens=5, **options)
    expected = generate(model, params, wanted, config, eos_ids=())
    mesh = sharding.make_mesh(MeshConfig(data=2, tensor=2))
    with sharding.use_mesh(mesh):
        placed = jax.device_put(params, sharding.param_shardings(mesh, params))
        found = generate(model, placed, wanted, config, eos_ids=(), mesh=mesh)
    for (one, *_), (other, *_) in zip(expected, found, strict=True):
        assert one.tokens.tolist() == other.tokens.tolist()


ERRORS = [
    ({"top_p": 0.0}, "top_p=0.0: expected above 0"),
    ({"temperature": float("nan")}, "temperature=nan"),
    ({"early_stopping": "sometimes"}, "expected one of false, true, never"),
    ({"num_beams": 2, "temperature": 1.0}, "beam search does not sample"),
    ({"top_k": 5}, "without a temperature has no effect"),
    ({"length_penalty": 2.0}, "without num_beams has no effect"),
    ({"num_return_sequences": 2}, "greedy search has one sequence"),
    ({"num_return_sequences": 3, "num_beams": 2}, "num_beams to at least 3"),
    ({"min_new_tokens": 70}, "more than max_new_tokens=64"),
    ({"banned_tokens": (-1,)}, "not the id of a token"),
    ({"logit_bias": (3,)}, "expected pairs of id and value"),
    ({"max_new_tokens": 0}, "max_new_tokens=0: expected at least 1"),
]


@pytest.mark.parametrize(("options", "message"), ERRORS, ids=[str(o) for o, _ in ERRORS])
def test_options_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(GenerationError, match=message) as error:
        GenerationConfig(**options)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("architecture", "prompt", "options", "message"),
    [
        ("decoder", [], {}, "prompt 0 is empty"),
        ("decoder", [100], {}, "id 100 is not below the 100 tokens"),
        ("decoder", range(2, 70), {}, "needs 131 positions .* shorten the prompt"),
        ("decoder", range(2, 12), {}, "set max_new_tokens to at most 55"),
        ("decoder", [3], {"banned_tokens": (100,)}, "banned_tokens, logit_bias or eos_ids: id 100"),
        ("decoder", [3], {"num_beams": 20}, "batch_size=16 is smaller than the 20 beams"),
        ("encoder_decoder", [3], {}, "a start token in decoder_tokens"),
        ("encoder", [3], {}, "does not generate from left to right"),
    ],
)
def test_prompts_that_the_model_cannot_read_are_refused(architecture, prompt, options, message):
    config = models.ModelConfig(architecture=architecture, **SHAPE)
    wanted = [Prompt(np.array(prompt, np.int32))]
    with pytest.raises(GenerationError, match=message):
        generate(models.build(config), {}, wanted, GenerationConfig(**options), eos_ids=())


def test_beams_cannot_be_reported_as_they_come():
    model, params = setup()
    config = GenerationConfig(num_beams=2)
    with pytest.raises(GenerationError, match="beams change until the end"):
        generate(model, params, prompts_of(3), config, eos_ids=(), on_tokens=lambda *_: False)
