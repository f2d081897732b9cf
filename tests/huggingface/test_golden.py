"""Our models compute what transformers computed from the files in golden/, without PyTorch.

make_golden.py makes golden/. The same files are imported and exported again, bit for bit.
"""

import json
import pathlib
import shutil

import jax
import ml_dtypes
import numpy as np
import parity
import pytest

from huggingface import convert
from huggingface.families import FAMILIES
from huggingface.weights import Leaf, open_weights, read_json, write_weights

GOLDEN = pathlib.Path(__file__).parent / "golden"
NAMES = sorted(folder.name for folder in GOLDEN.iterdir())


def source_of(name, directory):
    """A copy of a golden directory, with a tokenizer."""
    shutil.copytree(GOLDEN / name, directory)
    parity.write_tokenizer(directory)
    return directory


def assert_same_bits(one, other):
    """Two directories have the same tensors, bit for bit, but for names of old and for buffers."""
    family = FAMILIES[read_json(pathlib.Path(one) / "config.json")["model_type"]]
    one, other = open_weights(one), open_weights(other)
    names = [
        {family.current_name(name): name for name in each.leaves if not family.is_ignored(name)}
        for each in (one, other)
    ]
    assert names[0].keys() == names[1].keys()
    for name, stored in names[0].items():
        first, second = one.read(stored), other.read(names[1][name])
        assert first.dtype == second.dtype
        np.testing.assert_array_equal(first.view(np.uint8), second.view(np.uint8), err_msg=name)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_equal_those_of_transformers_and_the_round_trip_is_bitwise(name, tmp_path):
    answers = open_weights_of(GOLDEN / name / "answers.safetensors", tmp_path)
    source = source_of(name, tmp_path / "source")
    run, back = tmp_path / "run", tmp_path / "back"
    convert.from_hf(str(source), str(run))
    native = parity.NativeModel.load(run)
    has_encoder = native.is_encoder_decoder

    @jax.jit
    def compute(*inputs):
        hidden = native.hidden(*inputs)
        return hidden, native.logits(hidden)

    targets = parity.TARGETS if has_encoder else None
    outputs = compute(*native.inputs(parity.TOKENS, parity.PADDED_MASK, targets))
    where = np.ones(outputs[0].shape[:2]) if has_encoder else parity.PADDED_MASK
    for output, answer in zip(outputs, (answers["hidden"], answers["logits"]), strict=True):
        output, answer = np.asarray(output)[where > 0], answer[where > 0]
        np.testing.assert_allclose(output, answer, rtol=0, atol=1e-4 * np.abs(answer).max())
    if "greedy" in answers:  # each token is the most likely one after those before it
        prompt, continuation = parity.TOKENS[:, :5], answers["greedy"]
        if has_encoder:
            padded = np.pad(prompt, ((0, 0), (0, parity.NEW_TOKENS)))
            inputs = native.inputs(padded, (padded > 0).astype(np.int32), continuation)
        else:
            row = np.concatenate([prompt, continuation], axis=1)
            inputs = native.inputs(row, np.ones_like(row))
        best = np.asarray(compute(*inputs)[1].argmax(-1))
        np.testing.assert_array_equal(best if has_encoder else best[:, 4:-1], continuation)
    convert.to_hf(str(run), str(back))
    assert_same_bits(source, back)
    written, read = (json.loads((d / "config.json").read_text()) for d in (back, source))
    common = {key: value for key, value in written.items() if read.get(key) is not None}
    if read["model_type"] == "t5":  # transformers 5 always writes True
        common.pop("tie_word_embeddings")
    assert {key: read[key] for key in common} == common


def open_weights_of(file, tmp_path):
    """{name: array} of one safetensors file."""
    (tmp_path / "answers").mkdir()
    shutil.copy(file, tmp_path / "answers" / "model.safetensors")
    weights = open_weights(tmp_path / "answers")
    return {name: weights.read(name) for name in weights.leaves}


@pytest.mark.parametrize(
    "name",
    [name if name == "bert" else pytest.param(name, marks=pytest.mark.slow) for name in NAMES],
)
def test_the_round_trip_of_bfloat16_is_bitwise(name, tmp_path):
    source = source_of(name, tmp_path / "source")
    weights = open_weights(GOLDEN / name)
    bfloat16 = np.dtype(ml_dtypes.bfloat16)
    (source / "model.safetensors").unlink()
    write_weights(
        source,
        {key: Leaf(bfloat16, leaf.shape) for key, leaf in weights.leaves.items()},
        lambda key: weights.read(key).astype(bfloat16),
    )
    convert.from_hf(str(source), str(tmp_path / "run"))
    convert.to_hf(str(tmp_path / "run"), str(tmp_path / "back"))
    assert_same_bits(source, tmp_path / "back")


def test_every_family_has_a_golden_directory():
    configs = [json.loads((GOLDEN / name / "config.json").read_text()) for name in NAMES]
    assert {config["model_type"] for config in configs} == FAMILIES.keys()
