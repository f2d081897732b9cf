"""Parameters and FLOPs counted from shapes, against sums written out by hand."""

import jax
import jax.numpy as jnp

import models
from objectives.batch import Batch
from training import flops

D, E, F, V, T, U, N = 16, 8, 32, 128, 12, 6, 5


def shapes(config, decoder):
    def sequence(length):
        row = jax.ShapeDtypeStruct((2, length), jnp.int32)
        return models.Sequence(tokens=row, segments=row, positions=row)

    inputs, outputs = sequence(T), sequence(U) if decoder else None
    model = models.build(config)
    params = jax.eval_shape(
        lambda a, b: model.init(jax.random.key(0), a, b, method="initialise")["params"],
        inputs, outputs,
    )  # fmt: skip
    row = jax.ShapeDtypeStruct((2, U if decoder else N), jnp.int32)
    return params, Batch(inputs=inputs, decoder=outputs, targets=row, weights=row)


def config(**fields):
    size = {"layers": 2, "width": D, "heads": 2, "mlp_size": F, "vocab_size": V, "max_length": T}
    return models.ModelConfig(**size, embedding_size=E, **fields)


def test_an_encoder_with_factorised_embeddings():
    made = config(readout_transform=True)
    params, batch = shapes(made, decoder=False)
    layer = 4 * D * D + 2 * D * F
    products = 2 * layer * T + E * D * T + D * E * N + N * V * E
    scores = 2 * T * T * D  # layers x queries x keys x width, and the same for the values
    assert flops.of_network(made, params, batch, {"lm": N}) == 3 * (2 * products + 2 * 2 * scores)
    counted = flops.count(params)
    assert counted["embedding"] == (V + T) * E
    norms, biases = 2 * 2 * 2 * D + 2 * D, 2 * (4 * D + F + D)
    assert counted["trunk"] == 2 * layer + norms + biases
    rest = (E * D + D) + (D * E + E) + 2 * E  # projection, transform and its norm
    assert counted["total"] == counted["embedding"] + counted["trunk"] + rest


def test_an_encoder_decoder_embeds_what_it_reads_and_what_it_writes():
    made = config(architecture="encoder_decoder", positions="rotary", decoder_layers=1)
    params, batch = shapes(made, decoder=True)
    layer, attention = 4 * D * D + 2 * D * F, 4 * D * D
    products = 2 * layer * T + layer * U + attention // 2 * (T + U)
    products += E * D * (T + U) + D * E * U + U * V * E
    scores = (2 * T * T + U * U / 2 + U * T) * D
    assert flops.of_network(made, params, batch, {"lm": U}) == 3 * (2 * products + 2 * 2 * scores)
