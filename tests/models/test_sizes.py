"""Parameter counts against published models, by shapes alone: nothing is allocated.
Ours pads the vocabulary to a multiple of 128 and has no pooler; both are taken off by hand.
"""

import jax
import jax.numpy as jnp
import pytest

import models

BERT = {
    "norm_position": "post",
    "embedding_norm": True,
    "token_types": 2,
    "vocab_size": 30522,
    "max_length": 512,
}


def count(**fields):
    """(parameters, rows of padding in the vocabulary) of the model of these fields."""
    config = models.ModelConfig(**{"max_length": 1, **fields})  # of use to learned positions alone
    row = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    sequence = models.Sequence(tokens=row, segments=row, positions=row)
    decoder = sequence if config.architecture == "encoder_decoder" else None
    model = models.build(config)
    shapes = jax.eval_shape(
        lambda s, d: model.init(jax.random.key(0), s, d, method="initialise"), sequence, decoder
    )
    total = sum(x.size for x in jax.tree.leaves(shapes["params"]))
    return total, config.padded_vocab_size - config.vocab_size


@pytest.mark.parametrize(
    "size, published", [("tiny", 4_385_920), ("base", 109_482_240), ("large", 335_141_888)]
)
def test_bert(size, published):
    fields = models.sized(size)
    width = fields["width"]
    total, padding = count(**fields, **BERT)
    pooler = width * width + width
    assert total - padding * width + pooler == published


def test_bert_base_with_its_masked_language_head():
    total, padding = count(**models.sized("base"), **BERT, readout_transform=True, output_bias=True)
    assert padding == 30592 - 30522
    assert total - padding * (768 + 1) == 109_514_298


def test_gpt2_124m():
    total, padding = count(
        **models.sized("base"), architecture="decoder", vocab_size=50257, max_length=1024
    )
    assert padding == 50304 - 50257
    assert total - padding * 768 == 124_439_808


def test_t5_small():
    total, padding = count(
        architecture="encoder_decoder",
        layers=6,
        width=512,
        heads=8,
        mlp_size=2048,
        vocab_size=32128,
        positions="relative",
        norm="rmsnorm",
        activation="relu",
        biases=False,
    )
    assert padding == 0
    assert total == 60_506_624


def test_llama_2_7b():
    """The counts of gated MLPs, untied output and rotary positions."""
    total, padding = count(
        architecture="decoder",
        layers=32,
        width=4096,
        heads=32,
        mlp_size=11008,
        vocab_size=32000,
        positions="rotary",
        norm="rmsnorm",
        activation="silu",
        gated=True,
        biases=False,
        tied_embeddings=False,
    )
    assert padding == 0
    assert total == 6_738_415_616


def test_llama_3_8b():
    """Grouped-query attention: 8 key heads for 32 query heads."""
    total, padding = count(
        architecture="decoder",
        layers=32,
        width=4096,
        heads=32,
        kv_heads=8,
        mlp_size=14336,
        vocab_size=128256,
        positions="rotary",
        norm="rmsnorm",
        activation="silu",
        gated=True,
        biases=False,
        tied_embeddings=False,
    )
    assert total - 2 * padding * 4096 == 8_030_261_248
