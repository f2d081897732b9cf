"""init_from across architectures, end to end: a decoder's run becomes an encoder-decoder's."""

import jax
import numpy as np
import pytest
import shrink

import train
from training import checkpoint, rules
from training.config import ConfigError


def parameters(run, step):
    """{path: array} of a checkpoint."""
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    found = checkpoint.params_metadata(run, step)
    wanted = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)
        for path, leaf in found.items()
    }
    nested = rules.merge(wanted, {})
    return rules.paths(jax.device_get(checkpoint.read_params(f"{run}/checkpoints", step, nested)))


@pytest.mark.slow
def test_a_run_begins_with_the_stacks_of_another_and_says_so(tmp_path, caplog):
    caplog.set_level("INFO", "triptych")
    source = tmp_path / "decoder"
    train.run(shrink.pretraining(tmp_path, model__layers=1), str(source))
    leaves = {"init_from": str(source), "training__duration": "1 steps", "model__layers": 1}
    config = shrink.pretraining(tmp_path, "configs/encoder_decoder.py", **leaves)
    with pytest.raises(ConfigError, match="set config.init_as to the stacks that it should fill"):
        train.run(config, str(tmp_path / "refused"))
    config.init_as = "both"
    assert train.run(config, str(tmp_path / "both")).step == 1
    assert "decoder: decodes as it did, whatever is encoded" in caplog.text

    theirs, ours = parameters(source, 2), parameters(tmp_path / "both", 0)
    assert {path.partition("/")[0] for path in theirs} == {"embed", "decoder", "heads"}
    for path, expected in theirs.items():
        np.testing.assert_array_equal(ours[path], expected)
        if path.startswith("decoder/"):
            np.testing.assert_array_equal(ours[path.replace("decoder/", "encoder/", 1)], expected)
    new = {path for path in ours if "cross_attention" in path}
    assert set(ours) == {*theirs, *new, *(p.replace("decoder/", "encoder/", 1) for p in theirs)}
    assert not any(ours[path].any() for path in new if "cross_attention/out" in path)
    after = parameters(tmp_path / "both", 1)
    assert all(after[path].any() for path in new if path.endswith("cross_attention/out/kernel"))
