"""A run of replaced token detection as two Hugging Face directories, and the two as one run."""

import json
import pathlib
import shutil
import types

import jax
import numpy as np
import parity
import pytest

import models
from data import tokenizer as tokenizers
from huggingface import convert
from huggingface.weights import open_weights
from objectives.replaced_token_detection import ReplacedTokenDetection
from training import checkpoint, run_directory
from training.config import ConfigError
from training.param_rules import flatten_params

GOLDEN = pathlib.Path(__file__).parent / "golden"
SIZE = {"num_layers": 1, "emb_dim": 16, "num_heads": 4, "mlp_dim": 24, "embedding_size": 12}


@pytest.fixture
def run(tmp_path):
    """A run as train.py writes it, with random parameters; (its directory, parameters)."""
    folder = tmp_path / "trained"
    folder.mkdir()
    shutil.copy(GOLDEN / "electra" / "config.json", folder)
    parity.write_tokenizer(folder)
    (folder / "special_tokens_map.json").unlink()
    config = models.ModelConfig(**{
        **models.preset("electra-small"), **SIZE, "vocab_size": 90, "max_length": 16,
    })  # fmt: skip
    inputs = models.make_inputs(np.ones((1, 4), np.int32), np.ones((1, 4), np.int32))
    objective, model = ReplacedTokenDetection(generator_size=0.5), models.build(config)
    batch = types.SimpleNamespace(inputs=inputs)
    shapes = jax.eval_shape(lambda: objective.init(model, jax.random.key(0), batch))
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(np.float32), shapes)
    # Padding rows of the vocabulary are not exported.
    params["embed"]["tokens"]["embedding"][90:] = 0
    params["generator"]["heads"]["lm"]["bias"][90:] = 0
    checkpoint.write_params(folder, 0, params)
    record = {"objective": {"generator_size": 0.5}, "seed": {}}
    fingerprint = tokenizers.load(folder / "tokenizer.json").fingerprint
    run_directory.write_manifest(folder, record, {"tokenizer": fingerprint})
    run_directory.write_config(folder, record, "pretrain", config)
    return folder, params


def test_the_round_trip_of_a_pair_is_bitwise(run, tmp_path):
    folder, params = run
    directory, again, back = tmp_path / "hf", tmp_path / "again", tmp_path / "back"
    line = convert.to_hf(str(folder), str(directory))
    assert "ElectraForPreTraining" in line and "ElectraForMaskedLM" in line
    configs = [
        json.loads((d / "config.json").read_text()) for d in (directory, directory / "generator")
    ]
    assert [config["hidden_size"] for config in configs] == [16, 8]
    assert [config["embedding_size"] for config in configs] == [12, 12]
    assert "--config.objective.generator_size=0.5" in convert.from_hf(str(directory), str(again))
    found = flatten_params(parity.NativeModel.load(again).params)
    expected = flatten_params(params)
    assert found.keys() == expected.keys()
    for path, leaf in expected.items():
        np.testing.assert_array_equal(found[path], leaf, err_msg=path)
    convert.to_hf(str(again), str(back))
    for part in (".", "generator"):
        assert (directory / part / "model.safetensors").read_bytes() == (
            back / part / "model.safetensors"
        ).read_bytes()
    # Either directory can be a run of its own.
    convert.to_hf(str(folder), str(tmp_path / "one"), architecture="ElectraForPreTraining")
    assert open_weights(tmp_path / "one").leaves == open_weights(directory).leaves
    convert.from_hf(str(directory / "generator"), str(tmp_path / "small"))


def test_two_directories_that_are_not_a_pair_are_refused(run, tmp_path):
    folder, _ = run
    directory = tmp_path / "hf"
    convert.to_hf(str(folder), str(directory))
    shutil.rmtree(directory / "generator")
    shutil.copytree(GOLDEN / "electra", directory / "generator")
    parity.write_tokenizer(directory / "generator")
    with pytest.raises(ConfigError, match="does not fit its discriminator: .*num_layers=2"):
        convert.from_hf(str(directory), str(tmp_path / "run"))
    shutil.rmtree(directory / "generator")
    shutil.copytree(GOLDEN / "bert", directory / "generator")
    parity.write_tokenizer(directory / "generator")
    with pytest.raises(
        ConfigError, match="has class BertForPreTraining; expected ElectraForMaskedLM"
    ):
        convert.from_hf(str(directory), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
