"""What networks of transformers computed once, kept in golden/, is what ours compute of their files.

Without PyTorch; golden/ is made by make_golden.py. The same files go there and back, bit for bit.
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
from huggingface.weights import Leaf, open_weights, write_weights

GOLDEN = pathlib.Path(__file__).parent / "golden"
NAMES = sorted(folder.name for folder in GOLDEN.iterdir())


def there(name, directory):
    """The directory of `name` as somebody would have it, with a tokenizer."""
    shutil.copytree(GOLDEN / name, directory)
    parity.tokenizer(directory)
    return directory


def same_bits(one, other):
    """Whether two directories hold the same tensors, in the same bits."""
    one, other = open_weights(one), open_weights(other)
    assert one.leaves == other.leaves
    for name in one.leaves:
        np.testing.assert_array_equal(
            one.read(name).view(np.uint8), other.read(name).view(np.uint8), err_msg=name
        )


@pytest.mark.parametrize("name", NAMES)
def test_ours_compute_what_theirs_did_and_go_back_bit_for_bit(name, tmp_path):
    answers = open_weights_of(GOLDEN / name / "answers.safetensors", tmp_path)
    source = there(name, tmp_path / "there")
    run, back = tmp_path / "run", tmp_path / "back"
    convert.from_hf(str(source), str(run))
    ours = parity.Ours.of(run)
    both = ours.config.architecture == "encoder_decoder"

    @jax.jit
    def compute(*sequences):
        hidden = ours.hidden(*sequences)
        return hidden, ours.logits(hidden)

    replies = parity.REPLIES if both else None
    computed = compute(*ours.sequences(parity.TOKENS, parity.PADDED, replies))
    where = np.ones(computed[0].shape[:2]) if both else parity.PADDED
    for mine, theirs in zip(computed, (answers["hidden"], answers["logits"]), strict=True):
        mine, theirs = np.asarray(mine)[where > 0], theirs[where > 0]
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())
    if "greedy" in answers:  # each piece of it is what comes next, where the ones before it did
        prompt, more = parity.TOKENS[:, :5], answers["greedy"]
        if both:
            padded = np.concatenate([prompt, np.zeros((parity.ROWS, parity.NEW), np.int32)], axis=1)
            sequences = ours.sequences(padded, (padded > 0).astype(np.int32), more)
        else:
            row = np.concatenate([prompt, more], axis=1)
            sequences = ours.sequences(row, np.ones_like(row))
        best = np.asarray(compute(*sequences)[1].argmax(-1))
        np.testing.assert_array_equal(best if both else best[:, 4:-1], more)
    convert.to_hf(str(run), str(back))
    same_bits(source, back)
    written, read = (json.loads((d / "config.json").read_text()) for d in (back, source))
    told = {key: value for key, value in written.items() if read.get(key) is not None}
    if read["model_type"] == "t5":  # transformers 5 writes that it is tied, whatever it is
        told.pop("tie_word_embeddings")
    assert {key: read[key] for key in told} == told


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
def test_bfloat16_goes_there_and_back_bit_for_bit(name, tmp_path):
    source = there(name, tmp_path / "there")
    weights = open_weights(GOLDEN / name)
    half = np.dtype(ml_dtypes.bfloat16)
    (source / "model.safetensors").unlink()
    write_weights(
        source,
        {key: Leaf(half, leaf.shape) for key, leaf in weights.leaves.items()},
        lambda key: weights.read(key).astype(half),
    )
    convert.from_hf(str(source), str(tmp_path / "run"))
    convert.to_hf(str(tmp_path / "run"), str(tmp_path / "back"))
    same_bits(source, tmp_path / "back")


def test_every_family_has_a_golden_directory():
    kinds = {json.loads((GOLDEN / n / "config.json").read_text())["model_type"] for n in NAMES}
    assert kinds == FAMILIES.keys()
