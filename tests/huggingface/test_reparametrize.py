"""A run and the parameters it is exported with are the same function."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest

import models
from configs import decoder, encoder
from huggingface.families import FAMILIES
from huggingface.reparametrize import expressible, expressible_model
from huggingface.run_contents import RunContents
from models.config import ModelConfig, complete_config
from tasks.classification import Classification
from training.checkpoint import LazyArray
from training.config import ConfigError
from training.param_rules import flatten_params, unflatten_params

TINY = {"num_layers": 1, "emb_dim": 16, "num_heads": 2, "mlp_dim": 16}
HEAD, CLASSES = "classification", 3


def contents_of(file, heads, **changes):
    """A RunContents with noise in all parameters, and with the head of a classifier or an LM head."""
    fields = {**file.get_config().model.to_dict(), **TINY, **changes}
    config = complete_config(ModelConfig(**fields), parity.VOCAB_SIZE, 16)
    row = models.make_inputs(jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4), jnp.int32))
    params = models.build(config).init(jax.random.key(0), row, method="init_all")["params"]
    if heads == HEAD:
        options = dataclasses.asdict(Classification())
        head = Classification().head_module(CLASSES, **options)
        head = head.init(jax.random.key(1), jnp.zeros((1, config.emb_dim)))["params"]
        params = {**params, "heads": {HEAD: head}}
    noise = np.random.default_rng(0)
    arrays = {
        path: np.asarray(leaf) + noise.normal(0, 0.2, leaf.shape).astype(np.float32)
        for path, leaf in flatten_params(params).items()
    }
    lazy = {path: LazyArray(array.shape, lambda a=array: a) for path, array in arrays.items()}
    return RunContents("run", config, lazy, None, [], {}, {})


def native_of(contents):
    arrays = {path: jnp.asarray(array.read()) for path, array in contents.arrays.items()}
    assert all(array.shape == arrays[path].shape for path, array in contents.arrays.items())
    return parity.NativeModel(contents.model_config, unflatten_params(arrays), -1)


@pytest.mark.parametrize(
    ("file", "changes", "family"),
    [
        (encoder, {}, "esm"),
        (decoder, {}, "starcoder2"),
        (decoder, {"tie_word_embeddings": False}, "starcoder2"),
    ],
)
def test_the_lm_head_of_a_shipped_config_is_expressed_by_its_family(file, changes, family):
    contents = contents_of(file, "lm", **changes)
    assert FAMILIES[family].hf_config(contents.model_config)[1]
    other = expressible(contents, "", {}, {})
    assert other.model_config == expressible_model(contents.model_config)
    assert FAMILIES[family].hf_config(other.model_config)[1] == []
    logits = []
    for native in (native_of(contents), native_of(other)):
        hidden = native.hidden(*native.inputs(parity.TOKENS, parity.PADDED_MASK))
        logits.append(np.asarray(native.logits(hidden)))
    first, second = (each[parity.PADDED_MASK > 0] for each in logits)
    np.testing.assert_allclose(second, first, rtol=0, atol=1e-4 * np.abs(first).max())


@pytest.mark.parametrize(("file", "family"), [(encoder, "esm"), (decoder, "starcoder2")])
def test_the_default_classifier_is_expressed_by_its_family(file, family):
    contents, task = contents_of(file, HEAD), dataclasses.asdict(Classification())
    needs = FAMILIES[family].head_needs[HEAD]
    other = expressible(contents, HEAD, task, needs)
    assert contents.shapes.keys() != other.shapes.keys()
    lengths = parity.PADDED_MASK.sum(1)
    logits = [
        native_of(contents).class_logits(parity.TOKENS, lengths, CLASSES, task),
        native_of(other).class_logits(parity.TOKENS, lengths, CLASSES, needs),
    ]
    first, second = map(np.asarray, logits)
    np.testing.assert_allclose(second, first, rtol=0, atol=1e-4 * np.abs(first).max())


def test_a_scale_near_zero_is_refused():
    contents = contents_of(decoder, "lm")
    path = "decoder/final_norm/scale"
    contents.arrays[path] = LazyArray(contents.arrays[path].shape, lambda: np.zeros(16, np.float32))
    with pytest.raises(ConfigError, match="run: decoder/final_norm/scale has an entry of 0.0e"):
        expressible(contents, "", {}, {})
