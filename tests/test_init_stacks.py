"""init_from across architectures, end to end: a run of a decoder starts one of an encoder-decoder."""

import numpy as np
import pytest
import tiny_configs

import train
from training.config import ConfigError


@pytest.mark.slow
def test_a_run_starts_with_the_stacks_of_another_and_logs_it(tmp_path, caplog):
    caplog.set_level("INFO", "triptych")
    source = tmp_path / "decoder"
    train.run(tiny_configs.pretraining(tmp_path), str(source))
    config = tiny_configs.pretraining(
        tmp_path, "configs/encoder_decoder.py", init_from=str(source), training__duration="1 steps"
    )
    message = "set config.init_stacks to the stacks that it should fill"
    with pytest.raises(ConfigError, match=message):
        train.run(config, str(tmp_path / "error"))
    config.init_stacks = "both"
    run = tmp_path / "both"
    assert train.run(config, str(run)).step == 1
    assert "decoder: decodes as before, for any encoder input" in caplog.text

    there, here = tiny_configs.read_params(source, 2), tiny_configs.read_params(run, 0)
    assert {path.partition("/")[0] for path in there} == {"embed", "decoder", "heads"}
    in_encoder = {path: path.replace("decoder/", "encoder/", 1) for path in there}
    for path, expected in there.items():
        np.testing.assert_array_equal(here[path], expected)
        np.testing.assert_array_equal(here[in_encoder[path]], expected)
    new = {path for path in here if "cross_attention" in path}
    assert set(here) == {*there, *new, *in_encoder.values()}
    assert not any(here[path].any() for path in new if "cross_attention/out" in path)
    after = tiny_configs.read_params(run, 1)
    assert all(after[path].any() for path in new if path.endswith("cross_attention/out/kernel"))
