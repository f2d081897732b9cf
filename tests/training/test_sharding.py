"""Meshes: what an axis does not divide is said or refused; a checkpoint of one mesh resumes on another."""

import shutil

import jax
import numpy as np
import pytest
import tiny_configs

import finetune
import train
from models import attention_kernels
from training import sharding
from training.config import ConfigError
from training.schema import MeshConfig


def mesh_of(**sizes):
    return sharding.make_mesh(MeshConfig(**sizes), jax.devices()[:4])


def layer(emb_dim, mlp_dim):
    """The abstract parameters of an MLP and its norm."""
    shapes = {"in": (emb_dim, mlp_dim), "out": (mlp_dim, emb_dim)}
    layers = {
        name: {"kernel": jax.ShapeDtypeStruct(shape, np.float32)} for name, shape in shapes.items()
    }
    return {"mlp": layers, "mlp_norm": {"scale": jax.ShapeDtypeStruct((emb_dim,), np.float32)}}


def test_parameters_that_an_axis_does_not_divide_are_named_with_their_size():
    params = {"decoder": {"layer_0": layer(64, 256), "layer_1": layer(64, 250)}}
    assert sharding.describe_unsharded(mesh_of(fsdp=4), params) == []
    (line,) = sharding.describe_unsharded(mesh_of(tensor=4), params)
    assert line == (
        "mesh.tensor=4 does not divide 2 of 4 parameters: each device holds 0.1 MiB of them unsharded along "
        "it, such as decoder/layer_1/mlp/in/kernel [64, 250]"
    )


def test_an_axis_that_splits_no_parameter_is_refused():
    with pytest.raises(ConfigError, match="config.mesh.fsdp=4 splits no parameter") as error:
        sharding.describe_unsharded(mesh_of(fsdp=4), {"decoder": {"layer_0": layer(66, 256)}})
    assert "layer_0/mlp/in/kernel [66, 256]" in str(error.value)


def test_rows_that_the_sequence_axis_does_not_divide_are_refused():
    sharding.check_lengths(mesh_of(sequence=4), {32, 8})
    sharding.check_lengths(mesh_of(), {31})
    with pytest.raises(ConfigError, match="sequence=4 does not divide rows of 6, 30 tokens"):
        sharding.check_lengths(mesh_of(sequence=4), {32, 30, 6})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("meshes")


@pytest.mark.parametrize("entry", ["pretraining", "finetuning"])
def test_such_rows_are_refused_before_data_is_read(folder, entry):
    if entry == "pretraining":
        config = tiny_configs.pretraining(folder, training__seq_len=30)
        config.data.source = "text:/missing/*.txt"
    else:
        base = tiny_configs.untrained(folder / "base", "encoder")
        config = tiny_configs.finetuning(folder, base, task__max_seq_len=30)
        config.task.source = "files:/missing/{train,validation}.tsv"
    config.mesh = {"sequence": 4}
    with pytest.raises(ConfigError, match="sequence=4 does not divide rows of 30 tokens"):
        (train if entry == "pretraining" else finetune).run(config, folder / entry)


@pytest.mark.parametrize(
    "architecture",
    ["decoder", *(pytest.param(x, marks=pytest.mark.slow) for x in ("encoder", "encoder_decoder"))],
)
def test_a_checkpoint_of_one_mesh_resumes_on_another_with_the_same_losses(folder, architecture):
    """Rows split over four devices; then two parts of each row and of the parameters. The encoder-decoder
    has 31 targets of 32 tokens."""
    run, file = folder / f"resumed-{architecture}", f"configs/{architecture}.py"
    config = tiny_configs.pretraining(
        folder, file, training__duration="4 steps", checkpoint__every="2 steps", mesh__sequence=4,
        evaluation__every="4 steps", model__attention_kernel="chunked",
    )  # fmt: skip
    train.run(config, run)
    before = tiny_configs.metrics(run)
    shutil.rmtree(run / "checkpoints" / "4")
    config.mesh = {"sequence": 2, "fsdp": 2}
    assert train.run(config, run).step == 4
    after = tiny_configs.metrics(run)
    assert [line["step"] for line in after] == [line["step"] for line in before]
    for ours, theirs in zip(after, before, strict=True):
        np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"seeds": "(0, 1)"}], ids=("one", "replicas"))
def test_finetuning_with_split_rows_has_the_same_losses(folder, options, monkeypatch):
    monkeypatch.setattr(attention_kernels, "DENSE_BELOW", {"cpu": 0, "other": 0})
    name = "-".join(("tuned", *options))
    base = tiny_configs.untrained(folder / f"{name}-base", "encoder")
    found = []
    for mesh in ({}, {"sequence": 2}):
        config = tiny_configs.finetuning(folder, base, **options)
        config.mesh = mesh
        run = folder / f"{name}-{len(mesh)}"
        finetune.run(config, run)
        found.append(tiny_configs.metrics(run / "seed=1" if options else run))
    for ours, theirs in zip(*found, strict=True):
        assert ours["step"] == theirs["step"]
        np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-4)
