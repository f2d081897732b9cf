"""The worked examples in the docstrings are what the code does: they are read from there.

An example whose objective draws at random must be one of its draws.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objectives
from objectives.base import Setting
from objectives.batch import Batch
from objectives.sentence_pairs import SentencePairs
from objectives.vocabulary import Vocabulary

VOCABULARY = Vocabulary(
    size=60, pad=0, unk=1, cls=2, sep=3, eos=4, mask=5, start=6,
    modes=(7, 8, 9), infill=(10, 11, 12), sentinels=tuple(range(13, 19)), ordinary=((19, 60),),
)  # fmt: skip
EXAMPLES = [
    (Batch, "masked_lm", {"noise_density": 1 / 3}, "encoder", 9),
    (objectives.CausalLM, "causal_lm", {}, "decoder", 8),
    (objectives.PrefixLM, "prefix_lm", {}, "encoder_decoder", 8),
    (
        objectives.SpanCorruption,
        "span_corruption",
        {"noise_density": 0.4, "mean_span_length": 1.5, "closed_documents": 2},
        "encoder_decoder",
        8,
    ),
    (SentencePairs, "next_sentence", {"noise_density": 0.25}, "encoder", 8),
    (
        objectives.ReplacedTokenDetection,
        "replaced_token_detection",
        {"noise_density": 0.2},
        "encoder",
        6,
    ),
]


def read_example(docstring):
    """{'row': [...], 'inputs.tokens': [...], ...} out of lines `name [ 1, 2, 3 ]`."""
    lines = re.findall(r"^ +([a-z.]+) +\[([-\d, ]+)\]", docstring, re.MULTILINE)
    return {name: [int(number) for number in numbers.split(",")] for name, numbers in lines}


def field(batch, name):
    for part in name.split("."):
        batch = getattr(batch, part)
    return np.asarray(batch)


@pytest.mark.parametrize("where, name, hyperparameters, architecture, length", EXAMPLES)
def test_the_example_in_the_docstring(where, name, hyperparameters, architecture, length):
    example = read_example(where.__doc__)
    row = jnp.asarray(example.pop("row"), jnp.int32)
    assert {"inputs.tokens", "inputs.segments", "targets", "weights"} <= example.keys()
    objective = objectives.build(name, hyperparameters)
    setting = Setting(architecture, VOCABULARY, length)
    assert objective.shapes(setting).raw == len(row)
    corrupt = jax.jit(jax.vmap(lambda key: objective.corrupt(setting, key, row)))
    draws = corrupt(jax.random.split(jax.random.key(0), 2000))
    same = np.ones(2000, bool)
    for name, expected in example.items():
        drawn = field(draws, name).reshape(2000, -1)
        assert drawn.shape[1:] == (len(expected),), name
        same &= (drawn == expected).all(1)
    assert same.any()
    if name == "causal_lm":
        assert same.all()
