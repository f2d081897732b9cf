"""A run of replaced-token detection as two directories of Hugging Face's, and the two as such a run."""

import json
import pathlib
import shutil

import jax
import numpy as np
import parity
import pytest

import models
from data import tokenizer as tokenizers
from huggingface import convert
from huggingface.weights import open_weights
from objectives.replaced_token_detection import ReplacedTokenDetection
from training import checkpoint, rules, run_directory
from training.config import ConfigError

GOLDEN = pathlib.Path(__file__).parent / "golden"
SIZE = {"layers": 1, "width": 16, "heads": 4, "mlp_size": 24, "embedding_size": 12}


@pytest.fixture
def run(tmp_path):
    """A run as train.py leaves it behind, its parameters random."""
    folder = tmp_path / "trained"
    folder.mkdir()
    shutil.copy(GOLDEN / "electra" / "config.json", folder)
    parity.tokenizer(folder)
    (folder / "special_tokens_map.json").unlink()
    config = models.ModelConfig(**{
        **models.preset("electra-small"), **SIZE, "vocab_size": 90, "max_length": 16,
    })  # fmt: skip
    row = models.sequence_of(np.ones((1, 4), np.int32), np.ones((1, 4), np.int32))

    class Read:
        inputs = row

    objective = ReplacedTokenDetection(generator_size=0.5)
    shapes = jax.eval_shape(
        lambda: objective.initialise(models.build(config), jax.random.key(0), Read)
    )
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(np.float32), shapes)
    # Rows behind the vocabulary have no counterpart.
    params["embed"]["tokens"]["embedding"][90:] = 0
    params["generator"]["heads"]["lm"]["bias"][90:] = 0
    checkpoint.write_params(folder, 0, params)
    record = {"objective": {"generator_size": 0.5}, "seed": {}}
    fingerprint = tokenizers.load(folder / "tokenizer.json").fingerprint
    run_directory.write_manifest(folder, record, {"tokenizer": fingerprint})
    run_directory.record_run(folder, record, "pretrain", config)
    return folder, params


def test_both_halves_go_out_and_come_back_bit_for_bit(run, tmp_path):
    folder, params = run
    there, again, back = tmp_path / "there", tmp_path / "again", tmp_path / "back"
    said = convert.to_hf(str(folder), str(there))
    assert "ElectraForPreTraining" in said and "ElectraForMaskedLM" in said
    kinds = [json.loads((d / "config.json").read_text()) for d in (there, there / "generator")]
    assert [kind["hidden_size"] for kind in kinds] == [16, 8]
    assert [kind["embedding_size"] for kind in kinds] == [12, 12]
    assert "--config.objective.generator_size=0.5" in convert.from_hf(str(there), str(again))
    found, expected = rules.paths(parity.Ours.of(again).params), rules.paths(params)
    assert found.keys() == expected.keys()
    for path, leaf in expected.items():
        np.testing.assert_array_equal(found[path], leaf, err_msg=path)
    convert.to_hf(str(again), str(back))
    for half in (".", "generator"):
        assert (there / half / "model.safetensors").read_bytes() == (
            back / half / "model.safetensors"
        ).read_bytes()
    # A half alone is a run like any other.
    convert.to_hf(str(folder), str(tmp_path / "one"), architecture="ElectraForPreTraining")
    assert open_weights(tmp_path / "one").leaves == open_weights(there).leaves
    convert.from_hf(str(there / "generator"), str(tmp_path / "small"))


def test_halves_that_are_no_pair_are_refused(run, tmp_path):
    folder, _ = run
    there = tmp_path / "there"
    convert.to_hf(str(folder), str(there))
    shutil.rmtree(there / "generator")
    shutil.copytree(GOLDEN / "electra", there / "generator")
    parity.tokenizer(there / "generator")
    with pytest.raises(ConfigError, match="is no share of its discriminator: .*layers=2"):
        convert.from_hf(str(there), str(tmp_path / "run"))
    shutil.rmtree(there / "generator")
    shutil.copytree(GOLDEN / "bert", there / "generator")
    parity.tokenizer(there / "generator")
    with pytest.raises(ConfigError, match="is a BertForPreTraining; expected ElectraForMaskedLM"):
        convert.from_hf(str(there), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
