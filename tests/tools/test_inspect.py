"""tools.inspect shows what a step reads, bit for bit, where it comes from, and says no in one line."""

import collections
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
import shrink

import finetune
import train
from tools import inspect
from training import cli, step
from training import config as configs

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
def seen(folder):
    """{row keys: Batch} of the updates of a run on four devices, two microbatches and two sources."""
    sources = f"((0.7, 'text:{folder}/a/corpus.txt'), (0.3, 'text:{folder}/b/corpus.txt'))"
    config = shrink.pretraining(
        folder, "configs/encoder.py", data__source=sources, training__microbatches=2,
        training__duration=f"{STEPS} steps", seed__order=5,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch, hooks.batches_of_updates(patch) as made:
        train.run(config, str(folder / "run"))
    return made


@pytest.fixture(scope="module")
def tuned(folder, seen):
    """[Batch] of the updates of a finetuning run on top of it."""
    batches, compiled = [], step.compiled_update

    def watched(*arguments):
        program = compiled(*arguments)

        def update(state, source, *rest):
            batches.append(jax.tree.map(np.asarray, source))
            return program(state, source, *rest)

        return update

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "compiled_update", watched)
        finetune.run(shrink.finetuning(folder, folder / "run"), str(folder / "tuned"))
    return batches


def same(one, other):
    """Equal in every leaf, dtype and shape, and in what is static."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def shown(capsys, *words):
    """(status, standard output, standard error) of a command line."""
    try:
        cli.main(inspect.main, list(map(str, words)))
        status = 0
    except SystemExit as stop:
        status = stop.code
    said = capsys.readouterr()
    return status, said.out, said.err


def flags_of(run):
    """The command line that gives a run's config without the run."""
    config = json.loads((run / "config.json").read_text())["config"]
    return [f"--config.{key}={value}" for key, value in configs.flatten(config).items()]


def test_a_step_shows_the_batch_that_its_update_read_bit_for_bit(folder, seen):
    config = configs.resolve(
        train.Config, json.loads((folder / "run/config.json").read_text())["config"]
    )
    assert len(seen) == STEPS
    root = step.stream_key(5, "corruption")
    for number in range(STEPS):
        batch = seen[hooks.words_of(root, number * ROWS, ROWS)]
        for run in (folder / "run", None):  # of the run, and of its config before there is one
            same(inspect.pretraining(config, number, run).batch, batch)


def test_json_holds_the_whole_batch_and_standard_output_nothing_else(folder, seen, capsys):
    status, out, _ = shown(
        capsys, f"--run={folder}/run", "--step=2", "--format=json", "--raw", "--documents"
    )
    record = json.loads(out)
    assert status == 0 and len(record["rows"]) == ROWS
    batch = seen[hooks.words_of(step.stream_key(5, "corruption"), 2 * ROWS, ROWS)]
    for number, row in enumerate(record["rows"]):
        assert row["place"]["number"] == 2 * ROWS + number
        for path in ("inputs.tokens", "inputs.segments", "inputs.positions", "targets", "indices"):
            ours, theirs = row["batch"], batch
            for part in path.split("."):
                ours, theirs = ours[part], getattr(theirs, part)
            assert ours == theirs[number].tolist()
        assert row["batch"]["inputs"]["visibility"] == "all" and len(row["raw"]) == 32
    assert record["target_weight"] == batch.weights.sum() == record["targets"]
    assert record["useful"] == pytest.approx((batch.inputs.segments > 0).mean())


def test_the_config_alone_shows_the_same_as_its_run(folder, seen, capsys):
    words = ("--step=1", "--format=text", "--raw", "--rows=8")
    _, of_run, _ = shown(capsys, f"--run={folder}/run", *words)
    _, of_config, _ = shown(
        capsys, "--config=configs/encoder.py", *flags_of(folder / "run"), *words
    )
    assert of_run == of_config and of_run.count("\nrow ") == ROWS
    assert re.search(r"\[MASK\]→\S", of_run)


def test_documents_are_those_whose_text_the_row_shows(folder, seen):
    config = configs.resolve(
        train.Config, json.loads((folder / "run/config.json").read_text())["config"]
    )
    batch = inspect.pretraining(config, 0, folder / "run")
    sources = set()
    for row, place in enumerate(batch.places):
        named = batch.documents(row)
        texts = [
            pathlib.Path(each["file"]).read_text().split("\n\n")[each["number"]] for each in named
        ]
        assert all(each["file"] in place["source"] for each in named)
        sources.add(place["source"])
        segments = batch.raw_segments[row]
        assert segments.max() == len(texts)
        for number, text in enumerate(texts, 1):
            tokens = batch.raw[row][segments == number]
            part = batch.tokenizer.decode(tokens, skip_specials=True)
            assert part.replace(" ", "") in text.replace(" ", "") and (part or len(tokens) <= 2)
    assert len(sources) == 2


def test_a_finetuning_run_shows_its_examples_with_their_labels(folder, tuned, capsys):
    config = configs.resolve(
        finetune.Config, json.loads((folder / "tuned/config.json").read_text())["config"]
    )
    for number, batch in enumerate(tuned):
        same(inspect.finetuning(config, number, folder / "tuned").batch, batch)
    status, out, _ = shown(capsys, f"--run={folder}/tuned", "--step=1", "--rows=8")
    assert status == 0
    assert re.findall(r"\[CLS\]→(\w+)", out) == [
        ("dry", "wet")[label] for label in tuned[1].targets[:, 0]
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--run={}/run", "--step=3"], "--step=3 is not a step of this run: it has 3, from 0 to 2"),
        (["--run={}/run", "--step=-1"], "--step=-1 is not a step"),
        (["--run={}/none", "--step=0"], "is not a run directory (no config.json)"),
        (["--run={}/run", "--step=0", "--row=8"], "--row=8: the batch has 8 rows, from 0 to 7"),
        (["--run={}/run", "--step=0", "--rows=0"], "--rows=0: expected at least 1"),
        (["--step=0"], "expected one of --run=DIR (a run that exists) and --config=FILE"),
        (["--run=a", "--config=configs/encoder.py", "--step=0"], "got both"),
        (["--run={}/run", "--step=0", "--config.seed.order=1"], "give --config=FILE too"),
        (["--run={}/run"], "the following arguments are required: --step"),
        (["--run={}/run", "--step=0", "--fromat=json"], "did you mean --format?"),
        (["--config=configs/encoder.py", "--step=0", "--config.objective.name=causal_lm"],
         "causal_lm does not fit architecture 'encoder'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_and_status_1(folder, seen, capsys, words, expected):
    status, out, err = shown(capsys, *(word.format(folder) for word in words))
    assert status == 1 and expected in err and err.count("\n") == 1 and not out


def test_text_that_changed_or_went_since_the_run_began_is_refused(folder, seen, tmp_path, capsys):
    shutil.copytree(folder / "run", tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    grammar.corpus(tmp_path, 60, seed=3)
    record = (tmp_path / "run/config.json").read_text()
    for name in "ab":
        record = record.replace(f"{folder}/{name}/corpus.txt", f"{tmp_path}/corpus.txt")
    (tmp_path / "run/config.json").write_text(record)
    status, _, err = shown(capsys, f"--run={tmp_path}/run", "--step=0")
    assert status == 1 and "the data of" in err and "changed since it began" in err
    (tmp_path / "corpus.txt").unlink()
    status, _, err = shown(capsys, f"--run={tmp_path}/run", "--step=0")
    assert status == 1 and "corpus.txt" in err and "Traceback" not in err


def test_the_entropy_that_a_run_records_is_that_of_the_targets_shown(folder, seen):
    recorded = json.loads((folder / "run/manifest.json").read_text())["target_entropy"]
    counted = collections.Counter()
    for batch in seen.values():
        for target, weight in zip(batch.targets.ravel(), batch.weights.ravel(), strict=True):
            counted[int(target)] += float(weight)
    total = sum(counted.values())
    by_hand = -sum(n / total * math.log(n / total) for n in counted.values() if n)
    assert recorded == pytest.approx({"loss": by_hand, "lm": by_hand})
