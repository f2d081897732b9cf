"""Invariant 6: a restore is strict and reported. Names, shapes and dtypes are compared before an array
is read."""

import jax
import jax.numpy as jnp
import pytest

from training.config import ConfigError
from training.init_from import plan_restore


def array(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


TRUNK = {
    "embed/tokens/embedding": array(8, 4),
    "encoder/layer_0/mlp/in/kernel": array(4, 16),
}
SOURCE = {**TRUNK, "heads/lm/bias": array(8)}
TARGET = {**TRUNK, "heads/classification/output/kernel": array(4, 2)}
EXCEPTIONS = {
    "allow_missing": ("heads/classification/.*",),
    "allow_unexpected": ("heads/lm/.*",),
}


def test_invariant_06_pretrained_loads_the_trunk_and_reports_the_named_exceptions():
    plan = plan_restore(TARGET, SOURCE, "pretrained", **EXCEPTIONS)
    assert plan.loaded == tuple(sorted(TRUNK))
    assert plan.fresh == ("heads/classification/output/kernel",)
    assert plan.dropped == ("heads/lm/bias",)
    assert plan.lines(TARGET) == [
        "fresh: 1 tensors, 8 parameters: heads/classification/output/kernel",
        "dropped: 1 tensors: heads/lm/bias",
        "loaded: 2 tensors, 96 parameters",
    ]


def test_embeddings_loads_the_token_embedding_alone_and_random_loads_nothing():
    plan = plan_restore(TARGET, SOURCE, "embeddings", **EXCEPTIONS)
    assert plan.loaded == ("embed/tokens/embedding",)
    assert len(plan.fresh) == 2
    plan = plan_restore(TARGET, SOURCE, "random", **EXCEPTIONS)
    assert plan.loaded == () and plan.fresh == tuple(sorted(TARGET))


@pytest.mark.parametrize("init", ["pretrained", "embeddings"])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (array(9, 4), r"embedding is float32\[9, 4\] there and float32\[8, 4\] here"),
        (array(8, 4, dtype=jnp.bfloat16), r"embedding is bfloat16\[8, 4\] there and float32"),
        (None, "embed/tokens/embedding is missing"),
    ],
)
def test_invariant_06_another_shape_or_dtype_or_a_missing_name_is_an_error(init, wrong, message):
    source = {**SOURCE, "embed/tokens/embedding": wrong}
    if wrong is None:
        del source["embed/tokens/embedding"]
    with pytest.raises(ConfigError, match=message) as error:
        plan_restore(TARGET, source, init, **EXCEPTIONS)
    assert "\n" not in str(error.value)


def test_invariant_06_an_exception_that_the_config_does_not_name_is_an_error():
    allowed = EXCEPTIONS["allow_unexpected"]
    with pytest.raises(ConfigError, match="heads/classification/output/kernel is missing"):
        plan_restore(TARGET, SOURCE, "pretrained", allow_unexpected=allowed)
    with pytest.raises(ConfigError, match="heads/lm/bias is unexpected"):
        plan_restore(TARGET, SOURCE, "pretrained", allow_missing=EXCEPTIONS["allow_missing"])


def test_a_parameter_that_may_be_missing_is_fresh_even_where_the_checkpoint_has_it():
    """config.restore.allow_missing names what is initialized here."""
    plan = plan_restore(TRUNK, TRUNK, "pretrained", allow_missing=(".*/mlp/.*",))
    assert plan.loaded == ("embed/tokens/embedding",)
    assert plan.fresh == plan.dropped == ("encoder/layer_0/mlp/in/kernel",)
