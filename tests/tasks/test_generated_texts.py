"""Evaluation by generation: which prompts a split has, references of one source, shares of processes."""

import dataclasses

import jax
import labeled_tasks
import numpy as np
import pytest
from labeled_tasks import EOS, SEP, START, ids
from pairs import MODELS, load, tokenizer_folder

from generation import Generated
from tasks import evaluate, generated_texts
from tasks.generated_texts import Predictions

each_model = pytest.mark.parametrize("kind", MODELS)
SOURCES = ["w1 w2", "w3", "w1 w2", "w4 w5 w6", "w3", "w7"]
TARGETS = ["w10", "w11 w12", "w13", "w14", "w11 w12", "w15"]
SPLITS = {"train": (SOURCES, TARGETS), "validation": (SOURCES, TARGETS)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tokenizer_folder(tmp_path_factory.mktemp("generated"))


def reversing(calls):
    """In place of `generate`: the words of the source, the last one first, and [EOS]."""

    def generate(model, params, prompts, config, *, eos_ids, mesh):
        calls.append((prompts, config, eos_ids))
        found = []
        for prompt in prompts:
            words = [token for token in prompt.tokens[::-1] if token >= labeled_tasks.FIRST]
            tokens = np.array([*words, EOS], np.int32)
            log_probs = np.full(len(tokens), -0.5, np.float32)
            found.append([Generated(tokens, log_probs, "stop", float(log_probs.sum()))])
        return found

    return generate


@each_model
def test_the_prompt_of_a_source_is_what_training_reads_before_the_target(folder, kind, monkeypatch):
    calls = []
    monkeypatch.setattr(generated_texts, "generate", reversing(calls))
    options = {"num_generated": 2, "final_generation": True, "num_beams": 3, "length_penalty": 0.6}
    task = load(folder, kind, SPLITS, prompt="w8 {source}", **options)
    assert [task.num_to_generate("validation", final) for final in (False, True)] == [2, 4]
    for is_final in (False, True):
        task.generate("validation", None, None, None, is_final, 2)
    end = EOS if kind == "encoder_decoder" else SEP
    for prompts, config, eos_ids in calls:
        assert [each.tokens.tolist() for each in prompts] == [
            [*ids("w8 w1 w2"), end],
            [*ids("w8 w3"), end],
        ]
        start = [START] if kind == "encoder_decoder" else []
        assert all(each.decoder_tokens.tolist() == start for each in prompts)
        assert all(each.prefix == (kind == "prefix") for each in prompts)
        assert eos_ids == (EOS,) and config.max_new_tokens == 6
    assert [config.num_beams for _, config, _ in calls] == [1, 3]
    assert calls[1][1].length_penalty == 0.6


def predictions_of(task, count=4):
    generated = task.generate("validation", None, None, None, True, count)
    return Predictions(np.ones((len(SOURCES), 2)), generated)


def test_rows_with_one_source_are_references_of_one_text(folder, monkeypatch):
    monkeypatch.setattr(generated_texts, "generate", reversing([]))
    metrics = ("exact_match",)
    task = load(folder, "causal", SPLITS, final_generation=True, generation_metrics=metrics)
    found = predictions_of(task)
    generated = found.generated
    assert generated.texts == ["w2 w1", "w3", "w6 w5 w4", "w7"]
    assert generated.rows.tolist() == [0, 1, 3, 5]
    references = [["w10", "w13"], ["w11 w12", "w11 w12"], ["w14"], ["w15"]]
    assert task.references("validation", generated) == references
    scores = task.score("validation", found)
    assert scores["exact_match"] == 0.0 and scores["loss"] > 0
    assert task.score_notes(found) == {"exact_match": "whole text|refs:any"}
    rows = list(task.prediction_rows("validation", found))
    assert [row["prediction"] for row in rows] == ["w2 w1", "w3", "w2 w1", "w6 w5 w4", "w3", "w7"]
    assert {row["finish_reason"] for row in rows} == {"stop"} and rows[0]["score"] == -1.5
    assert task.samples("validation", found)[0] == ("w1 w2", "w2 w1", "w10")
    # Some of the sources: the other rows have no prediction.
    rows = list(task.prediction_rows("validation", predictions_of(task, 2)))
    assert [row["prediction"] for row in rows] == ["w2 w1", "w3", "w2 w1", "", "w3", ""]
    assert rows[3]["tokens"] == 2


def test_processes_generate_their_share_and_gather_all_texts(folder, monkeypatch):
    monkeypatch.setattr(generated_texts, "generate", reversing([]))
    options = {"final_generation": True, "generation_metrics": ("chrf", "exact_match")}
    whole = predictions_of(load(folder, "causal", SPLITS, **options)).generated
    for processes in (2, 3):
        tasks = [
            load(folder, "causal", SPLITS, process=(index, processes), **options)
            for index in range(processes)
        ]
        shares = []

        def keep(arrays, shares=shares):
            shares.append(arrays)
            raise InterruptedError

        monkeypatch.setattr(generated_texts.multihost_utils, "process_allgather", keep)
        for task in tasks:
            with pytest.raises(InterruptedError):
                predictions_of(task)
        gathered = jax.tree.map(lambda *x: np.stack(x), *shares)
        assert len(gathered[0]) == processes
        monkeypatch.setattr(
            generated_texts.multihost_utils, "process_allgather", lambda arrays, g=gathered: g
        )
        for task in tasks:
            found = predictions_of(task).generated
            assert found.texts == whole.texts and found.scores == whole.scores
            assert (found.metrics, found.signatures) == (whole.metrics, whole.signatures)


@each_model
def test_a_model_generates_for_a_split_and_texts_do_not_depend_on_the_batch(folder, kind):
    task = load(folder, kind, SPLITS, (4, 4), final_generation=True)
    model, params = labeled_tasks.start(task)
    small = dataclasses.replace(task, eval_batch_size=1)
    found = []
    for each in (task, small):

        def generate(each=each):
            return each.generate("validation", model, params, None, True, 4)

        size = each.eval_batch_size
        predictions, scores = evaluate(
            each, "validation", lambda batch, size=size: np.zeros((size, 2)), generate
        )
        assert {"bleu", "chrf"} <= scores.keys()
        found.append(predictions.generated)
    assert found[0].texts == found[1].texts and len(found[0].texts) == 4
    np.testing.assert_allclose(found[0].scores, found[1].scores, rtol=1e-4)


def test_a_split_without_targets_gets_texts_and_no_scores(folder, monkeypatch):
    monkeypatch.setattr(generated_texts, "generate", reversing([]))
    splits = {**SPLITS, "test": (["w1 w2", "w9"], None)}
    task = load(folder, "causal", splits, final_generation=True)
    generated = task.generate("test", None, None, None, True, 2)
    predictions = Predictions(np.zeros((2, 2)), generated)
    assert generated.texts == ["w2 w1", "w9"] and task.score("test", predictions) == {}
    rows = list(task.prediction_rows("test", predictions))
    assert rows[0] == {"id": 0, "prediction": "w2 w1", "score": -1.5, "finish_reason": "stop"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "bleu"}, r"task.metric='bleu' is of generated texts, but task.num_generated=0"),
        (
            {"metric": "rougeL", "num_generated": 2},
            r"task.generation_metrics=\('bleu', 'chrf'\) does not compute it: add 'rouge'",
        ),
        ({"num_generated": 2, "generation_metrics": ("bleurt",)}, r"has 'bleurt': expected some"),
        ({"length_penalty": 0.5}, "length_penalty=0.5 without num_beams has no effect"),
    ],
)
def test_options_that_do_not_fit_are_one_line_before_training(folder, options, message):
    with pytest.raises(ValueError, match=message):
        load(folder, "causal", SPLITS, **options)
