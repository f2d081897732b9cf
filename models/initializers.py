"""The initial distribution of every parameter of a model without an adapter, in one table.
Each layer takes the initializer of its kind of parameter; tests measure each kind.
All three architectures share the table, so comparisons between them start from equal scales.
"""

import jax

from models.config import ModelConfig

ZEROS = jax.nn.initializers.zeros  # biases
ONES = jax.nn.initializers.ones  # scales of norms


def standard_deviations(config: ModelConfig, depth: int = 1) -> dict[str, float]:
    """kind of parameter -> standard deviation of its normal distribution (mean 0).

    residual: kernels that write to the residual stream, scaled by 1/sqrt(2 depth) because each of
        the `depth` layers adds to it twice (GPT-2, Radford et al. 2019, section 2.3); a third addition, by
        cross-attention, is not counted.
    query: includes head_dim^-1/2 if attention scores are not scaled (T5, Raffel et al. 2020).
    token: 1 if the LM head scales its features down (T5); E^-1/2 if the embedder scales token
        embeddings up by E^1/2, to match sinusoids (Vaswani et al. 2017, section 3.4) or as Gemma does.
    context: 0; word2vec initializes its second table with zeros (word2vec.c, Mikolov et al. 2013).
    """
    std = config.init_std
    token = std
    if config.scale_logits_by_embedding_size:
        token = 1.0
    elif config.positions == "sinusoidal" or config.scale_embeddings:
        token = config.resolved_embedding_size**-0.5
    return {
        "token": token,
        "context": 0.0,
        "position": std,
        "type": std,
        "kernel": std,
        "query": std if config.scale_attention else std * config.resolved_head_dim**-0.5,
        "residual": std * (2 * depth) ** -0.5,
        "relative_bias": std,
        "output": std,
    }


def initializer(config: ModelConfig, kind: str, depth: int = 1):
    """The jax.nn initializer of a kind of parameter in the table above."""
    return jax.nn.initializers.normal(standard_deviations(config, depth)[kind])
