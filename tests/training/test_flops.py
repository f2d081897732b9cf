"""Parameters and FLOPs counted from shapes, against sums written out by hand."""

import jax
import jax.numpy as jnp

import models
from objectives.batch import Batch
from training.flops import count_params, flops_per_row
from training.param_rules import flatten_params

D, E, F, V, T, U, N = 16, 8, 32, 128, 12, 6, 5


def abstract(config, decoder):
    """(abstract parameters, abstract Batch) of two rows."""

    def inputs(length):
        row = jax.ShapeDtypeStruct((2, length), jnp.int32)
        return models.ModelInputs(tokens=row, segment_ids=row, positions=row)

    encoded, decoded = inputs(T), inputs(U) if decoder else None
    model = models.build(config)
    params = jax.eval_shape(
        lambda a, b: model.init(jax.random.key(0), a, b, method="init_all")["params"],
        encoded, decoded,
    )  # fmt: skip
    row = jax.ShapeDtypeStruct((2, U if decoder else N), jnp.int32)
    return params, Batch(inputs=encoded, decoder_inputs=decoded, targets=row, loss_weights=row)


def model_config(**fields):
    size = {
        "num_layers": 2, "emb_dim": D, "num_heads": 2, "mlp_dim": F, "vocab_size": V, "max_length": T,
    }  # fmt: skip
    return models.ModelConfig(**size, embedding_size=E, **fields)


def test_an_encoder_with_factorized_embeddings():
    config = model_config(lm_head_transform=True)
    params, batch = abstract(config, decoder=False)
    layer = 4 * D * D + 2 * D * F
    products = 2 * layer * T + E * D * T + D * E * N + N * V * E
    scores = 2 * T * T * D  # layers x queries x keys x emb_dim, and the same for the values
    found = flops_per_row(((config, params, {"lm": N}),), batch)
    assert found == 3 * (2 * products + 2 * 2 * scores)
    counted = count_params(params)
    assert counted["embedding"] == (V + T) * E
    norms, biases = 2 * 2 * 2 * D + 2 * D, 2 * (4 * D + F + D)
    assert counted["trunk"] == 2 * layer + norms + biases
    rest = (E * D + D) + (D * E + E) + 2 * E  # projection, transform and its norm
    assert counted["total"] == counted["embedding"] + counted["trunk"] + rest


def test_an_encoder_decoder_embeds_the_tokens_of_both_stacks():
    config = model_config(architecture="encoder_decoder", positions="rope", num_decoder_layers=1)
    params, batch = abstract(config, decoder=True)
    layer, attention = 4 * D * D + 2 * D * F, 4 * D * D
    products = 2 * layer * T + layer * U + attention // 2 * (T + U)
    products += E * D * (T + U) + D * E * U + U * V * E
    scores = (2 * T * T + U * U / 2 + U * T) * D
    found = flops_per_row(((config, params, {"lm": U}),), batch)
    assert found == 3 * (2 * products + 2 * 2 * scores)


def test_several_models_add_up():
    config = model_config(lm_head_transform=True)
    params, batch = abstract(config, decoder=False)
    one = (config, params, {"lm": N})
    assert flops_per_row((one, one), batch) == 2 * flops_per_row((one,), batch)


def test_a_frozen_kernel_needs_no_gradient_of_its_own_and_a_probe_no_backward_pass():
    config = model_config(architecture="decoder", positions="rope", tie_word_embeddings=False)
    params, batch = abstract(config, decoder=False)
    adapter = models.ADAPTERS["lora"](rank=3)
    own = jax.eval_shape(lambda: adapter.init(jax.random.key(0), _zeros(params), config))
    layer, scores = 4 * D * D + 2 * D * F, 2 * T * T * D
    forward = 2 * (2 * layer * T + E * D * T + D * V * N) + 2 * 2 * scores
    base = frozenset(flatten_params(params))
    spec = ((config, {**params, "adapter": own}, {"lm": N}),)
    thin = 2 * 2 * (2 * D * 3) * T  # two layers, A and B of query and value
    found = flops_per_row(spec, batch, base)
    assert found == 2 * forward + 2 * 2 * scores + 3 * 2 * thin
    probe = base - {"heads/lm/kernel"}
    found = flops_per_row(((config, params, {"lm": N}),), batch, probe)
    assert found == forward + 2 * (2 * D * V * N)


def test_a_prompt_lengthens_each_row():
    config = model_config(architecture="decoder", positions="rope")
    params, batch = abstract(config, decoder=False)
    prompt = {
        "embed": {"tokens": {"prompt": {"embedding": jax.ShapeDtypeStruct((4, E), jnp.float32)}}}
    }
    spec = ((config, {**params, "adapter": prompt}, {"lm": N}),)
    longer = batch.inputs.replace(tokens=jax.ShapeDtypeStruct((2, T + 4), jnp.int32))
    expected = flops_per_row(((config, params, {"lm": N}),), batch.replace(inputs=longer))
    assert flops_per_row(spec, batch) == expected


def _zeros(params):
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), params)
