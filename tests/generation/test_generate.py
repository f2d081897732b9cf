"""Generation: the tokens of `generate` against the whole model called for each token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from generation import GenerationConfig, Prompt, generate
from models.layers import lm_logits

SHAPE = {"vocab_size": 100, "max_length": 32, "num_layers": 2, "emb_dim": 32, "num_heads": 4,
         "mlp_dim": 48}  # fmt: skip
RANDOM = np.random.default_rng(0)


def setup(architecture, **fields):
    model = models.build(models.ModelConfig(architecture=architecture, **SHAPE, **fields))
    row = models.make_inputs(jnp.ones((1, 4), jnp.int32), jnp.ones((1, 4), jnp.int32))
    other = row if architecture == "encoder_decoder" else None
    params = model.init(jax.random.key(0), row, other, method="init_all")["params"]
    return model, jax.tree.map(lambda x: 10 * x if x.ndim == 2 else x, params)


def greedy(model, params, prompt, steps):
    text = list(prompt)
    for _ in range(steps):
        tokens = jnp.asarray(text, jnp.int32)[None]
        hidden = model.apply(
            {"params": params}, models.make_inputs(tokens, tokens * 0 + 1, "causal")
        )
        features = model.apply({"params": params}, hidden, method="lm_features")
        logits = lm_logits(features, *model.apply({"params": params}, method="output_embedding"))
        text.append(int(logits[0, -1, :100].argmax()))
    return text[len(prompt) :]


@pytest.mark.parametrize("eos", [(), (7,)])
def test_greedy_tokens_are_the_most_likely_ones(eos):
    model, params = setup("decoder", positions="rope")
    prompts = [Prompt(RANDOM.integers(0, 100, n).astype(np.int32)) for n in (3, 6)]
    found = generate(model, params, prompts, GenerationConfig(max_new_tokens=6), eos_ids=eos)
    for prompt, (row,) in zip(prompts, found, strict=True):
        expected = greedy(model, params, prompt.tokens, 6)
        assert row.tokens.tolist() == expected[: len(row.tokens)]
        assert len(row.tokens) == 6 or row.tokens[-1] in eos
