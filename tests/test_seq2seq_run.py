"""Sequence-to-sequence finetuning end to end: the LM head that is loaded, scores, predictions, resume."""

import csv
import json
import shutil
import sys

import numpy as np
import pytest
import tiny_configs
from hooks import crash_after_save
from processes import launch
from tiny_configs import WORDS

import finetune
import train
from tools import predict
from training.config import ConfigError

HEAD = {"decoder": {"model__lm_head_bias": True, "model__tie_word_embeddings": False},
        "encoder_decoder": {"model__lm_head_bias": True}}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("seq2seq")


def pretrained(folder, architecture):
    run = folder / architecture
    if not run.exists():
        config = tiny_configs.pretraining(
            folder, f"configs/{architecture}.py", **HEAD[architecture]
        )
        train.run(config, str(run))
    return run


def finetuning(folder, run, **overrides):
    return tiny_configs.finetuning(folder, run, "configs/finetune/seq2seq.py", **overrides)


@pytest.mark.parametrize(
    "architecture", ["decoder", pytest.param("encoder_decoder", marks=pytest.mark.slow)]
)
def test_the_pretrained_lm_head_is_loaded_and_said_and_a_crash_is_invisible(
    folder, architecture, caplog, monkeypatch
):
    source = pretrained(folder, architecture)
    # Two new tokens make the padded vocabulary of 512 longer.
    config = finetuning(
        folder, source, task__special_tokens="('[A]', '[B]')", checkpoint__every="1 step",
        task__prompt="[A] {source} [B]",
    )  # fmt: skip
    with caplog.at_level("INFO", "triptych"):
        result = finetune.run(config, str(folder / f"{architecture}-run"))
    assert any("the pretrained head is kept: heads/lm/bias" in line for line in caplog.messages)
    before, after = (
        tiny_configs.read_params(source, 2),
        tiny_configs.read_params(folder / f"{architecture}-run", 0),
    )
    assert before.keys() == after.keys()
    for path, value in before.items():
        known = value
        found = after[path]
        if path in ("embed/tokens/embedding", "heads/lm/bias", "heads/lm/kernel"):
            axis = int(path.endswith("kernel"))
            assert found.shape[axis] == value.shape[axis] + 128
            size = 512
            found, known = (np.take(x, range(size), axis) for x in (found, value))
        np.testing.assert_array_equal(found, known, err_msg=path)
    with (folder / f"{architecture}-run/predictions_test.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    tokens, loss = (np.array([float(row[key]) for row in rows]) for key in ("tokens", "loss"))
    assert len(rows) == 120
    assert result.metrics["test/loss"] == pytest.approx((tokens * loss).sum() / tokens.sum())

    with crash_after_save(monkeypatch, finetune, 1), pytest.raises(RuntimeError, match="crash"):
        finetune.run(config, str(folder / f"{architecture}-crashed"))
    finetune.run(config, str(folder / f"{architecture}-crashed"))
    runs = [folder / f"{architecture}-{name}" for name in ("run", "crashed")]
    assert tiny_configs.metrics(runs[0]) == tiny_configs.metrics(runs[1])
    scores = [json.loads((run / "scores.json").read_text()) for run in runs]
    assert scores[0] == scores[1]
    for run in runs:
        shutil.rmtree(run)


def test_a_run_without_the_lm_head_is_refused_with_the_remedy(folder, tmp_path):
    source = pretrained(folder, "decoder")
    classifier = tiny_configs.finetuning(folder, source, training__duration="1 step")
    finetune.run(classifier, str(tmp_path / "classifier"))
    config = finetuning(folder, tmp_path / "classifier")
    with pytest.raises(
        ConfigError, match=r"heads/lm/bias is missing.*config.restore.allow_missing"
    ):
        finetune.run(config, str(tmp_path / "run"))


def pairs(folder):
    """Writes pairs of words whose target is the source; every third source has a second reference."""
    random, source = np.random.default_rng(0), folder / "pairs"
    source.mkdir(exist_ok=True)
    for split, count in (("train", 60), ("validation", 12), ("test", 9)):
        rows = []
        for number in range(count):
            words = [WORDS[i] for i in random.integers(0, len(WORDS), random.integers(2, 5))]
            targets = [words, words[::-1]] if number % 3 == 0 else [words]
            rows += [{"sentence": " ".join(words), "label": " ".join(each)} for each in targets]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (source / f"{split}.jsonl").write_text(text)
    return f"files:{source}/{{train,validation,test}}.jsonl"


GENERATION = {
    "task__num_generated": 5, "task__final_generation": True, "task__metric": "chrf",
    "task__generation_metrics": "('bleu', 'chrf', 'rouge', 'exact_match')",
    "evaluation__every": "1 steps", "logging__tensorboard": True,
}  # fmt: skip


def test_generated_texts_are_scored_shown_and_predicted_again(folder, tmp_path, caplog, capsys):
    source, run = pretrained(folder, "decoder"), tmp_path / "run"
    config = finetuning(folder, source, task__source=pairs(folder), task__num_beams=2, **GENERATION)
    with caplog.at_level("INFO", "triptych"):
        result = finetune.run(config, str(run))
    names = {"bleu", "chrf", "rouge1", "rouge2", "rougeL", "exact_match"}
    lines = [line for line in tiny_configs.metrics(run) if line["split"] == "validation"]
    assert len(lines) == 3 and all(names <= line.keys() for line in lines)
    assert {f"test/{name}" for name in names} <= result.metrics.keys()
    scores = json.loads((run / "scores.json").read_text())
    assert scores["signatures"]["test/bleu"].startswith("nrefs:var|case:mixed")
    assert scores["test/chrf"] == result.metrics["test/chrf"]
    best = max(lines, key=lambda line: line["chrf"])
    assert scores["step"] in [line["step"] for line in lines if line["chrf"] == best["chrf"]]
    shown = [line for line in caplog.messages if line.startswith("  source")]
    assert len(shown) == 9 and all("generated" in line and "reference" in line for line in shown)
    [events] = [file.read_bytes() for file in run.glob("events*")]
    assert events.count(b"validation/generated/text_summary") == 3

    with (run / "predictions_test.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) == 12 and {row["finish_reason"] for row in rows} <= {"stop", "length"}
    by_source = {}
    for row in rows:
        assert by_source.setdefault(row["source"], row["prediction"]) == row["prediction"]
    texts = list(by_source)
    capsys.readouterr()
    predict.main([f"--run={run}", *(f"--text={text}" for text in texts)])
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["prediction"] for row in found] == list(by_source.values())
    assert set(found[0]) == {"id", "prediction", "score", "finish_reason", "row", "source"}


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["decoder", "encoder_decoder"])
def test_invariant_05_two_processes_generate_the_texts_of_one_device(
    folder, tmp_path, architecture
):
    source, outcomes = pretrained(folder, architecture), []
    config = finetuning(folder, source, task__source=pairs(folder), mesh__fsdp=1, **GENERATION)
    for name, processes, devices in (("one", 1, 1), ("two", 2, 2)):
        run = tmp_path / name
        if processes > 1:
            config.mesh = {"fsdp": 2}
        command = [sys.executable, "finetune.py", "--config=configs/finetune/seq2seq.py",
                   f"--workdir={run}", *tiny_configs.flags(config)]  # fmt: skip
        codes, outputs = launch([command] * processes, devices)
        assert codes == [0] * processes, "\n".join(outputs)
        scores = json.loads((run / "scores.json").read_text())
        lines = (run / "predictions_test.tsv").read_text().splitlines()
        outcomes.append((scores, [line.split("\t")[1] for line in lines]))
    (one, texts), (two, others) = outcomes
    assert texts == others and one["signatures"] == two["signatures"]
    for name, value in one.items():
        if name != "signatures":
            assert two[name] == pytest.approx(value, rel=1e-4), name
