"""The initial distribution of every parameter, in one table.
Each layer asks for the initialiser of its kind of parameter; tests measure each kind.
The same for all three architectures, so that comparisons between them begin alike.
"""

import jax

from models.config import ModelConfig

ZEROS = jax.nn.initializers.zeros
ONES = jax.nn.initializers.ones  # scales of norms


def standard_deviations(config: ModelConfig, depth: int = 1) -> dict[str, float]:
    """kind of parameter -> standard deviation of its normal distribution (mean 0).

    residual: kernels that write into the residual stream, shrunk by 1/sqrt(2 depth), two
        additions for each layer of their stack (GPT-2, Radford et al. 2019, section 2.3).
    query: takes over head_size^-1/2 where scores are not scaled (T5, Raffel et al. 2020).
    token: 1 where the readout scales the product down again (T5); E^-1/2 where the embedder
        scales up by E^1/2, for sinusoids of size 1 (Vaswani et al. 2017, section 3.4).
    context: word2vec's second table begins at 0 (Mikolov et al. 2013, their program).
    Biases begin at 0, scales of norms at 1.
    """
    std = config.init_std
    token = std
    if config.readout_scale:
        token = 1.0
    elif config.positions == "sinusoidal":
        token = config.size_of_embedding**-0.5
    return {
        "token": token,
        "context": 0.0,
        "position": std,
        "type": std,
        "kernel": std,
        "query": std if config.attention_scale else std * config.size_of_head**-0.5,
        "residual": std * (2 * depth) ** -0.5,
        "relative_bias": std,
        "output": std,
    }


def initial(config: ModelConfig, kind: str, depth: int = 1):
    """The initialiser of a kind of parameter of the table above."""
    return jax.nn.initializers.normal(standard_deviations(config, depth)[kind])
