"""Law 6: a restore is strict and reported; names, shapes and dtypes are compared before any array."""

import jax
import jax.numpy as jnp
import pytest

from training import transfer
from training.config import ConfigError


def leaf(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


TRUNK = {
    "embed/tokens/embedding": leaf(8, 4),
    "encoder/layer_0/mlp/in/kernel": leaf(4, 16),
}
SOURCE = {**TRUNK, "heads/lm/bias": leaf(8)}
TARGET = {**TRUNK, "heads/classification/output/kernel": leaf(4, 2)}
EXCEPTIONS = {"new": ("heads/classification/.*",), "drop": ("heads/lm/.*",)}


def test_law_6_all_loads_the_trunk_and_reports_the_named_exceptions():
    report = transfer.plan(TARGET, SOURCE, "all", **EXCEPTIONS)
    assert report.loaded == tuple(sorted(TRUNK))
    assert report.fresh == ("heads/classification/output/kernel",)
    assert report.dropped == ("heads/lm/bias",)
    assert report.lines(TARGET)[0] == "loaded 2 tensors (96 parameters)"


def test_embeddings_loads_the_token_table_alone_and_none_loads_nothing():
    report = transfer.plan(TARGET, SOURCE, "embeddings", **EXCEPTIONS)
    assert report.loaded == ("embed/tokens/embedding",)
    assert len(report.fresh) == 2
    assert transfer.plan(TARGET, SOURCE, "none", **EXCEPTIONS).loaded == ()


@pytest.mark.parametrize("arm", ["all", "embeddings"])
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (leaf(9, 4), r"embedding is float32\[9, 4\] there and float32\[8, 4\] here"),
        (leaf(8, 4, dtype=jnp.bfloat16), r"embedding is bfloat16\[8, 4\] there and float32"),
        (None, "embed/tokens/embedding is missing there"),
    ],
)
def test_law_6_another_shape_or_dtype_or_a_missing_name_is_an_error(arm, wrong, words):
    source = {**SOURCE, "embed/tokens/embedding": wrong}
    if wrong is None:
        del source["embed/tokens/embedding"]
    with pytest.raises(ConfigError, match=words):
        transfer.plan(TARGET, source, arm, **EXCEPTIONS)


def test_law_6_what_the_config_does_not_name_is_an_error():
    with pytest.raises(ConfigError, match="heads/classification/output/kernel is missing there"):
        transfer.plan(TARGET, SOURCE, "all", drop=EXCEPTIONS["drop"])
    with pytest.raises(ConfigError, match="heads/lm/bias is unexpected"):
        transfer.plan(TARGET, SOURCE, "all", new=EXCEPTIONS["new"])
