"""tools.inspect shows the batch of a step bit for bit and where it comes from; errors are one line."""

import collections
import dataclasses
import json
import math
import pathlib
import re
import shutil

import grammar
import hooks
import jax
import numpy as np
import pytest
import tiny_configs

import finetune
import train
from objectives.document_ids import document_ids
from tools import inspect
from training import cli, run_directory
from training import config as config_lib
from training.schema import FinetuneConfig, PretrainConfig

ROWS, STEPS = 8, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("inspect")
    for name, seed in (("a", 0), ("b", 1)):
        (made / name).mkdir()
        grammar.corpus(made / name, 60, seed)
    (made / "corpus.txt").write_text("unused")
    return made


@pytest.fixture(scope="module")
def pretrained(folder):
    """{step: Batch} of the updates of a run on four devices, with two microbatches and two sources."""
    sources = f"((0.7, 'text:{folder}/a/corpus.txt'), (0.3, 'text:{folder}/b/corpus.txt'))"
    config = tiny_configs.pretraining(
        folder, "configs/encoder.py", data__source=sources, training__grad_accum_steps=2,
        training__duration=f"{STEPS} steps", seed__data=5,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch, hooks.batches_of_updates(patch, train) as batches:
        train.run(config, str(folder / "run"))
    return batches


@pytest.fixture(scope="module")
def finetuned(folder, pretrained):
    """{step: Batch} of the updates of a finetuning run that starts from it."""
    config = tiny_configs.finetuning(folder, folder / "run")
    with (
        pytest.MonkeyPatch.context() as patch,
        hooks.batches_of_updates(patch, finetune) as batches,
    ):
        finetune.run(config, str(folder / "finetuned"))
    return batches


def resolved(schema, run):
    """The config that a run was started with."""
    return config_lib.resolve(schema, run_directory.read_config(run)["config"])


def assert_same(one, other):
    """Equal in every array, its dtype and shape, and in static fields."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def execute(capsys, *words):
    """(status, standard output, standard error) of a command line."""
    try:
        cli.main(inspect.main, list(map(str, words)))
        status = 0
    except SystemExit as stop:
        status = stop.code
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def flags_of(run):
    """The command line that gives a run's config without the run."""
    config = run_directory.read_config(run)["config"]
    return [f"--config.{key}={value}" for key, value in config_lib.flatten(config).items()]


def test_the_batch_of_a_step_is_the_one_that_its_update_read_bit_for_bit(folder, pretrained):
    config = resolved(PretrainConfig, folder / "run")
    assert jax.device_count() == 4 and sorted(pretrained) == list(range(STEPS))
    for step, batch in pretrained.items():
        for run in (folder / "run", None):  # of the run, and of its config before there is one
            assert_same(inspect.load(config, step, run).batch, batch)


def test_json_holds_the_whole_batch_and_standard_output_nothing_else(folder, pretrained, capsys):
    status, out, _ = execute(capsys, f"--run={folder}/run", "--step=2", "--format=json")
    record, batch = json.loads(out), pretrained[2]
    assert status == 0 and len(record["rows"]) == ROWS
    for number, row in enumerate(record["rows"]):
        assert row["place"]["number"] == 2 * ROWS + number and row["place"]["documents"]
        for path in ("inputs.tokens", "inputs.segment_ids", "inputs.positions", "targets",
                     "loss_weights", "target_positions"):  # fmt: skip
            shown, expected = row["batch"], batch
            for part in path.split("."):
                shown, expected = shown[part], getattr(expected, part)
            assert shown == expected[number].tolist()
        assert row["batch"]["inputs"]["attention"] == "bidirectional" and len(row["raw"]) == 32
    assert record["loss_weight"] == batch.loss_weights.sum() == record["targets"]
    assert record["padding"] == pytest.approx((batch.inputs.segment_ids == 0).mean())
    assert record["total_steps"] == STEPS and record["config"]["training"]["batch_size"] == ROWS


def test_the_config_alone_shows_the_same_as_its_run(folder, pretrained, capsys):
    flags = ("--step=1", "--format=text", "--raw", "--rows=8")
    _, of_run, _ = execute(capsys, f"--run={folder}/run", *flags)
    _, of_config, _ = execute(
        capsys, "--config=configs/encoder.py", *flags_of(folder / "run"), *flags
    )
    assert of_run == of_config and of_run.count("\nrow ") == of_run.count("raw 1│") == ROWS
    assert re.search(r"\[MASK\]→\S", of_run)


def test_a_length_in_flops_is_that_of_the_run(folder, pretrained, finetuned):
    for schema, name in ((PretrainConfig, "run"), (FinetuneConfig, "finetuned")):
        config, about = resolved(schema, folder / name), run_directory.read_manifest(folder / name)
        length = f"{about['total_steps'] * about['flops_per_step']} FLOPs"
        steps = dataclasses.replace(config.training, duration=length)
        config = dataclasses.replace(config, training=steps)
        assert inspect.load(config, 0, folder / name).total_steps == about["total_steps"]


def test_documents_are_those_whose_text_the_row_shows(folder, pretrained, capsys):
    view = inspect.load(resolved(PretrainConfig, folder / "run"), 0, folder / "run")
    spec, sources = view.task.spec, set()
    _, listed, _ = execute(capsys, f"--run={folder}/run", "--step=0", "--documents", "--rows=8")
    for row, place in enumerate(view.provenance):
        documents = place["documents"]
        texts = [
            pathlib.Path(each["file"]).read_text().split("\n\n")[each["number"]]
            for each in documents
        ]
        assert all(each["file"] in place["source"] for each in documents)
        assert all(f"number {each['number']} of {each['file']}" in listed for each in documents)
        sources.add(place["source"])
        ids = np.asarray(document_ids(view.raw[row], spec.vocabulary, spec.architecture))
        assert ids.max() == len(texts)
        for number, text in enumerate(texts, 1):
            tokens = view.raw[row][ids == number]
            part = view.task.tokenizer.decode(tokens, skip_specials=True)
            assert part.replace(" ", "") in text.replace(" ", "") and (part or len(tokens) <= 2)
    assert len(sources) == 2


def test_a_finetuning_run_shows_its_examples_with_their_labels(folder, finetuned, capsys):
    config = resolved(FinetuneConfig, folder / "finetuned")
    assert len(finetuned) == 2
    for step, batch in finetuned.items():
        assert_same(inspect.load(config, step, folder / "finetuned").batch, batch)
    status, out, _ = execute(capsys, f"--run={folder}/finetuned", "--step=1", "--rows=8")
    assert status == 0
    assert re.findall(r"\[CLS\]→(\w+)", out) == [
        ("dry", "wet")[label] for label in finetuned[1].targets[:, 0]
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--run={}/run", "--step=3"], "--step=3 is not a step of this run: it has 3 steps, 0 to 2"),
        (["--run={}/run", "--step=-1"], "--step=-1 is not a step"),
        (["--run={}/none", "--step=0"], "is not a run directory (no config.json)"),
        (["--run={}/run", "--step=0", "--row=8"], "--row=8: the batch has 8 rows, 0 to 7"),
        (["--run={}/run", "--step=0", "--rows=0"], "--rows=0: expected at least 1"),
        (["--step=0"], "expected either --run=DIR (an existing run) or --config=FILE"),
        (["--run=a", "--config=configs/encoder.py", "--step=0"], "got both"),
        (["--run={}/run", "--step=0", "--config.seed.data=1"], "add --config=FILE"),
        (["--run={}/run"], "the following arguments are required: --step"),
        (["--run={}/run", "--step=0", "--fromat=json"], "did you mean --format?"),
        (["--config=configs/encoder.py", "--step=0", "--config.objective.name=causal_lm"],
         "causal_lm does not support architecture 'encoder'"),
    ],
)  # fmt: skip
def test_an_error_is_one_line_and_status_1(folder, pretrained, capsys, words, expected):
    status, out, err = execute(capsys, *(word.format(folder) for word in words))
    assert status == 1 and expected in err and err.count("\n") == 1 and not out


def test_an_imported_run_has_no_steps(tmp_path, capsys):
    record = {"kind": "pretrain", "config": {"vectors": "a.txt", "seed": {}}, "model": {}}
    (tmp_path / "config.json").write_text(json.dumps(record))
    status, _, err = execute(capsys, f"--run={tmp_path}", "--step=0")
    assert status == 1 and "was imported" in err and err.count("\n") == 1
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    status, _, err = execute(capsys, f"--run={tmp_path}", "--step=0")
    assert status == 1 and "is no config of a run" in err and err.count("\n") == 1


def test_text_that_changed_or_was_removed_since_the_run_started_is_refused(
    folder, pretrained, tmp_path, capsys
):
    shutil.copytree(folder / "run", tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    grammar.corpus(tmp_path, 60, seed=3)
    record = (tmp_path / "run/config.json").read_text()
    for name in "ab":
        record = record.replace(f"{folder}/{name}/corpus.txt", f"{tmp_path}/corpus.txt")
    (tmp_path / "run/config.json").write_text(record)
    status, _, err = execute(capsys, f"--run={tmp_path}/run", "--step=0")
    assert status == 1 and "the data of" in err and "changed since the run started" in err
    (tmp_path / "corpus.txt").unlink()
    status, _, err = execute(capsys, f"--run={tmp_path}/run", "--step=0")
    assert status == 1 and "corpus.txt" in err and "Traceback" not in err


def test_the_entropy_that_a_run_records_is_that_of_the_targets_shown(folder, pretrained):
    recorded = json.loads((folder / "run/manifest.json").read_text())["target_entropy"]
    counted = collections.Counter()
    for batch in pretrained.values():
        for target, weight in zip(batch.targets.ravel(), batch.loss_weights.ravel(), strict=True):
            counted[int(target)] += float(weight)
    total = sum(counted.values())
    by_hand = -sum(n / total * math.log(n / total) for n in counted.values() if n)
    assert recorded == pytest.approx({"loss": by_hand, "lm": by_hand})
