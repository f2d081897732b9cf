"""Finetuning end to end: what each init loads, what freezing freezes, what is scored, what is an error."""

import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest
import tiny_configs
from hooks import crash_after_save

import finetune
import train
from data import tokenizer as tokenizers
from tasks import FINETUNE_TASKS
from tasks.classification import Classification, LoadedClassification
from training import run_directory
from training.config import ConfigError


def pretrain(folder, architecture):
    train.run(
        tiny_configs.pretraining(folder, f"configs/{architecture}.py"), str(folder / architecture)
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetune")
    pretrain(folder, "encoder")
    pretrain(folder, "decoder")
    return folder


def predictions_of(run, split="test"):
    """The rows of a file of predictions."""
    with (run / f"predictions_{split}.tsv").open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.mark.parametrize(
    "architecture",
    ["encoder", "decoder", pytest.param("encoder_decoder", marks=pytest.mark.slow)],
)
def test_each_init_loads_the_parameters_it_names_and_scores_its_predictions(folder, architecture):
    if not (folder / architecture).exists():
        pretrain(folder, architecture)
    pretrained = tiny_configs.read_params(folder / architecture, 2)
    for init in ("pretrained", "embeddings", "random"):
        run = folder / f"{architecture}-{init}"
        config = tiny_configs.finetuning(folder, folder / architecture, init=init)
        result = finetune.run(config, str(run))
        rows = predictions_of(run)
        assert len(rows) == 120
        right = np.mean([row["label"] == row["prediction"] for row in rows])
        assert right == pytest.approx(result.metrics["test/accuracy"])
        for name, value in tiny_configs.read_params(run, 0).items():
            loaded = (init == "pretrained" and name in pretrained) or (
                init == "embeddings" and "embed/tokens" in name
            )
            constant = np.ptp(value) == 0  # norms and biases are initialized to constants
            if loaded:
                np.testing.assert_array_equal(value, pretrained[name], err_msg=name)
            elif name in pretrained and not constant:
                assert not np.array_equal(value, pretrained[name]), name


def test_pairs_and_csv_and_jsonl_are_classified_too(folder, tmp_path):
    tiny_configs.labeled(tmp_path, pairs=True)
    header, *rows = (tmp_path / "train.tsv").read_text().splitlines()
    records = (dict(zip(header.split("\t"), row.split("\t"), strict=True)) for row in rows)
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in records))
    text = (tmp_path / "validation.tsv").read_text()
    (tmp_path / "validation.csv").write_text(text.replace("\t", ","))
    config = tiny_configs.finetuning(
        folder, folder / "encoder", task__source=f"files:{tmp_path}/{{train.jsonl,validation.csv}}",
        task__text_pair_column="other",
    )  # fmt: skip
    result = finetune.run(config, str(tmp_path / "run"))
    assert "validation/accuracy" in result.metrics and "test/accuracy" not in result.metrics


def test_a_probe_trains_the_head_alone_and_a_model_override_is_stored(folder):
    run = folder / "probe"
    overrides = {"freeze": "('embed/.*', 'decoder/.*')", "model_overrides__dropout_rate": 0.3}
    finetune.run(tiny_configs.finetuning(folder, folder / "decoder", **overrides), str(run))
    before, after = (tiny_configs.read_params(run, step) for step in (0, 2))
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved == {"heads/classification/output/kernel", "heads/classification/output/bias"}
    record = run_directory.read_config(run)
    pretrained = run_directory.read_config(folder / "decoder")["model"]
    expected = pretrained | {"dropout_rate": 0.3}
    assert record["config"]["model"] == record["model"] == expected != pretrained


def test_a_finished_run_that_starts_again_gives_the_same_scores_without_its_source(folder):
    shutil.copytree(folder / "decoder", folder / "source")
    config = tiny_configs.finetuning(folder, folder / "source")
    first = finetune.run(config, str(folder / "again"))
    lines = tiny_configs.metrics(folder / "again")
    shutil.rmtree(folder / "source")
    second = finetune.run(config, str(folder / "again"))
    assert second.metrics == first.metrics
    assert tiny_configs.metrics(folder / "again") == lines


PEAK = [0.1, 0.2, 0.3, 0.9, 0.4, 0.2, 0.1]  # validation accuracy after 0 .. 6 updates


@dataclasses.dataclass(frozen=True)
class LoadedPeaked(LoadedClassification):
    """The accuracy of the n-th evaluation is PEAK[n]."""

    accuracies: list = dataclasses.field(compare=False, kw_only=True)

    def score(self, split, predictions):
        scores = super().score(split, predictions)
        return scores | {"accuracy": self.accuracies.pop(0)} if self.accuracies else scores


@pytest.fixture(scope="module")
def peaked(folder):
    """Runs of 6 steps whose best is step 3, (uninterrupted, crashed after step 4 and resumed), and one
    of 3 steps."""
    accuracies = []

    class Peaked(Classification):
        def load(self, *arguments, **keywords):
            task = super().load(*arguments, **keywords)
            fields = {field.name: getattr(task, field.name) for field in dataclasses.fields(task)}
            return LoadedPeaked(**fields, accuracies=accuracies)

    def run(name, duration):
        config = tiny_configs.finetuning(
            folder, folder / "decoder", training__duration=duration, checkpoint__every="6 steps",
            optimizer__warmup="1 step", optimizer__schedule="constant",
        )  # fmt: skip
        finetune.run(config, str(folder / name))
        return folder / name

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FINETUNE_TASKS, "classification", Peaked)
        accuracies[:] = PEAK
        whole = run("whole", "6 steps")
        accuracies[:] = PEAK
        with crash_after_save(patch, finetune, 4), pytest.raises(RuntimeError, match="crash"):
            run("crashed", "6 steps")
        assert accuracies == PEAK[5:]
        crashed = run("crashed", "6 steps")
        accuracies[:] = PEAK
        return whole, crashed, run("short", "3 steps")


def test_the_best_parameters_are_kept_and_scored_rather_than_the_last(peaked):
    """The validation accuracy peaks at step 3 of 6: the predictions are those of a run of 3 steps."""
    whole, _, short = peaked
    assert json.loads((whole / "scores.json").read_text())["step"] == 3
    kept = {int(p.name) for p in (whole / "checkpoints").iterdir() if p.name.isdigit()}
    assert {0, 3, 6} <= kept
    for split in ("validation", "test"):
        assert predictions_of(whole, split) == predictions_of(short, split)


def test_invariant_02_a_crashed_run_resumes_bit_for_bit_and_scores_the_same_parameters(peaked):
    whole, crashed, _ = peaked
    assert tiny_configs.metrics(crashed) == tiny_configs.metrics(whole)
    for step in (3, 6):
        expected = tiny_configs.read_params(whole, step)
        for path, found in tiny_configs.read_params(crashed, step).items():
            np.testing.assert_array_equal(found, expected[path], err_msg=path)
    for file in ("scores.json", "predictions_validation.tsv", "predictions_test.tsv"):
        assert (crashed / file).read_text() == (whole / file).read_text()


def test_labels_that_changed_since_the_run_started_are_an_error(folder, tmp_path):
    source = tiny_configs.labeled(tmp_path)
    config = tiny_configs.finetuning(folder, folder / "decoder", task__source=source)
    finetune.run(config, str(tmp_path / "run"))
    for split in ("train", "validation", "test"):
        text = (tmp_path / f"{split}.tsv").read_text()
        (tmp_path / f"{split}.tsv").write_text(text.replace("wet", "moist"))
    with pytest.raises(ConfigError, match="the data of .* changed since the run started"):
        finetune.run(config, str(tmp_path / "run"))


def test_a_workdir_of_the_other_kind_of_run_is_an_error_of_one_sentence(folder):
    pretraining = tiny_configs.pretraining(folder)
    finetuning = tiny_configs.finetuning(folder, folder / "decoder")
    finetune.run(finetuning, str(folder / "kind"))
    for program, config, run, (there, here) in (
        (finetune, finetuning, folder / "decoder", ("pretrain", "finetune")),
        (train, pretraining, folder / "kind", ("finetune", "pretrain")),
    ):
        with pytest.raises(ConfigError) as caught:
            program.run(config, str(run))
        assert str(caught.value) == (
            f"--workdir={str(run)!r} holds a {there} run, expected a {here} run; choose another --workdir"
        )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"task__text_column": "sentense"}, "sentence"),
        ({"task__label_column": "lable"}, "'label'"),
        ({"init_from": "/nowhere"}, "'/nowhere' is not a run directory"),
        ({"init_from": ""}, "init_from is empty"),
        ({"init": "some"}, "config.init='some' is not a choice"),
        ({"init": "embeddings", "embeddings_from": "/nowhere"}, "'/nowhere' is not a run directory"),
        ({"freeze": "('encodr/.*',)"}, "config.freeze='encodr/.*' matches no parameter"),
        ({"task__num_train_examples": 5000}, "num_train_examples=5000, but there are 120 labeled"),
        ({"task__metric": "pearson"}, "config.task.metric='pearson' is not a choice"),
        ({"task__name": "clasification"}, "did you mean 'classification'?"),
        ({"checkpoint__every": "0 steps"}, "select='best' needs"),
        ({"freeze": "('.*',)"}, "freezes every parameter"),
        ({"training__duration": "0 steps"}, "is 0 steps; expected at least '1 step'"),
        ({"model_overrides__dropout_rate": 2}, "config.model_overrides.dropout_rate=2.0 is out of"),
    ],
)  # fmt: skip
def test_a_bad_config_is_an_error_of_one_line_with_the_remedy(folder, overrides, message):
    overrides = {"init_from": str(folder / "encoder"), **overrides}
    run = overrides.pop("init_from")
    with pytest.raises((ConfigError, ValueError)) as caught:
        finetune.run(tiny_configs.finetuning(folder, run, **overrides), str(folder / "error"))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_an_unknown_label_in_validation_is_named(folder, tmp_path):
    source = tiny_configs.labeled(tmp_path)
    text = (tmp_path / "validation.tsv").read_text()
    (tmp_path / "validation.tsv").write_text(text.replace("\twet", "\twett", 1))
    config = tiny_configs.finetuning(folder, folder / "encoder", task__source=source)
    with pytest.raises(ValueError, match="'wett'"):
        finetune.run(config, str(tmp_path / "run"))


@pytest.mark.parametrize(
    ("file", "rows", "message"),
    [
        ("test.tsv", [], "test.tsv: the test split is empty"),
        ("validation.tsv", [], "validation.tsv: the validation split is empty"),
        ("train.tsv", ["a river\twet", "a light\twet"], "train.tsv has one label alone, 'wet'"),
        (
            "train.tsv",
            ["a river\twet", "\tdry"],
            "train.tsv at line 3 has no value in column 'sentence'",
        ),
    ],
)
def test_labels_that_cannot_be_learned_are_refused_before_a_program_is_compiled(
    folder, tmp_path, monkeypatch, file, rows, message
):
    def never(*_):
        raise AssertionError("a model was built")

    source = tiny_configs.labeled(tmp_path)
    (tmp_path / file).write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    monkeypatch.setattr(finetune.models, "build", never)
    config = tiny_configs.finetuning(folder, folder / "encoder", task__source=source)
    with pytest.raises(ValueError, match=message):
        finetune.run(config, str(tmp_path / "run"))


def test_special_tokens_of_a_task_are_kept_whole_and_get_rows_of_their_own(
    folder, tmp_path, caplog
):
    tiny_configs.labeled(tmp_path)
    for file in tmp_path.glob("*.tsv"):
        file.write_text(file.read_text().replace(" water ", " [E1]water[/E1] "))
    config = tiny_configs.finetuning(
        tmp_path, folder / "encoder", task__special_tokens=("[E1]", "[/E1]"),
        training__duration="1 steps",
    )  # fmt: skip
    run = tmp_path / "run"
    with caplog.at_level("INFO", logger="triptych"):
        first = finetune.run(config, str(run))
    assert "are unknown" not in caplog.text
    assert "2 new tokens have fresh embeddings" in caplog.text
    tokenizer = tokenizers.load(run / "tokenizer.json")
    size = tokenizers.load(folder / "encoder").size
    spelled = [tokenizer.token(i) for i in tokenizer.encode("a [E1]water[/E1]")]
    assert spelled[1:2] == ["Ġ"] and spelled[2] == "[E1]" and spelled[-1] == "[/E1]"
    assert tokenizer.size == size + 2 == run_directory.read_config(run)["model"]["vocab_size"]
    pretrained = tiny_configs.read_params(folder / "encoder", 2)["embed/tokens/embedding"]
    rows = tiny_configs.read_params(run, 0)["embed/tokens/embedding"]
    np.testing.assert_array_equal(rows[:size], pretrained[:size])
    assert len(rows) == len(pretrained) + 128 and np.ptp(rows[size : size + 2], axis=1).all()
    assert np.any(rows[size] != rows[size + 1])
    shutil.rmtree(run / "checkpoints/1")
    assert finetune.run(config, str(run)).metrics == first.metrics
    for words, message in (
        (("[SEP]",), "which the tokenizer uses itself"),
        ((" a",), "without blanks"),
    ):
        config.task.special_tokens = words
        with pytest.raises(ValueError, match=message):
            finetune.run(config, str(tmp_path / "other"))
