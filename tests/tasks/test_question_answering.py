"""Question answering: windows and targets by hand, the best spans, and that a head learns.

The tokenizer is a list of words; special tokens and positions are written out.
"""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from labeled_tasks import CLS, EOS, FIRST, PAD, SEP, START, WORDS, ids

import models
from data import tokenizer as tokenizers
from tasks import evaluate
from tasks.span_predictions import best_spans
from training import config as config_lib
from training.schema import FinetuneConfig

LENGTH = 12
ARCHITECTURES = ("encoder", "decoder", "encoder_decoder")
each_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("questions")
    tokenizers.of_words(WORDS).save(folder / "tokenizer.json")
    return folder


def load(folder, architecture, splits, batch=(4, 4), process=(0, 1), **options):
    """The task of {split: [(question, context, answer or None)]}."""
    for split, rows in splits.items():
        rows = [
            {"id": f"{split}{i}", "question": q, "context": c, "answers": [a] if a else []}
            for i, (q, c, a) in enumerate(rows)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = f"files:{folder}/{{{','.join(f'{split}.jsonl' for split in splits)}}}"
    options = {"max_seq_len": LENGTH, "max_query_len": 3, "stride": 4, **options}
    config = config_lib.resolve(FinetuneConfig, {
        "init_from": "unused", "task": {"name": "question_answering", "source": source, **options},
        "training": {"batch_size": batch[0]}, "evaluation": {"batch_size": batch[1]},
    })  # fmt: skip
    model = models.ModelConfig(
        architecture=architecture, num_layers=1, emb_dim=16, num_heads=2, mlp_dim=32, vocab_size=143,
        max_length=400, positions="rope", init_std=0.3, dropout_rate=0.0,
        num_token_types=2 * (architecture == "encoder"),
    )  # fmt: skip
    return config.task.load(
        config, model, folder / "tokenizer.json", lambda line: None, process_index=process[0],
        process_count=process[1],
    )  # fmt: skip


ROWS = [("w1 w2", "w3 w4 w5", "w4 w5"), ("w1", "w6 w7", None)]


@pytest.mark.parametrize(
    ("architecture", "tokens", "types", "target", "null"),
    [
        ("encoder", [CLS, *ids("w1 w2"), SEP, *ids("w3 w4 w5"), SEP], [0] * 4 + [1] * 4, (5, 6), 0),
        ("decoder", [*ids("w1 w2"), SEP, *ids("w3 w4 w5"), EOS], None, (4, 5), 4),
        ("encoder_decoder", [*ids("w1 w2"), SEP, *ids("w3 w4 w5"), EOS], None, (4, 5), 0),
    ],
)
def test_a_window_holds_the_question_and_the_context(
    folder, architecture, tokens, types, target, null
):
    """Two windows in a batch of three: the last row is padding."""
    splits = {"train": ROWS, "validation": ROWS}
    task = load(folder, architecture, splits, (2, 3), no_answer=True)
    (batch,) = task.eval_inputs("validation")
    n = len(tokens)
    np.testing.assert_array_equal(batch.inputs.tokens[0], tokens + [PAD] * (LENGTH - n))
    if types:
        np.testing.assert_array_equal(batch.inputs.token_type_ids[0, :n], types)
    np.testing.assert_array_equal(batch.targets, [target, (null, null), (0, 0)])
    np.testing.assert_array_equal(batch.loss_weights, [[1, 1], [1, 1], [0, 0]])
    no_answer = len(tokens) - 1 if architecture == "decoder" else 0
    first = tokens.index(FIRST + 3)
    expected = [i in (no_answer, first, first + 1, first + 2) for i in range(LENGTH)]
    np.testing.assert_array_equal(batch.allowed[0], expected)
    assert not batch.allowed[2].any()
    if architecture == "encoder_decoder":
        np.testing.assert_array_equal(batch.decoder_inputs.tokens[0, :n], [START, *tokens[:-1]])


def test_a_long_context_has_windows_and_those_without_the_answer_point_to_cls(folder):
    """Beside CLS, a question of one token and two SEP, 8 tokens fit, 4 of them shared: 0-8, 4-12, 8-14."""
    words = [f"w{n}" for n in range(14)]
    splits = {"train": [("w29", " ".join(words), "w9 w10")], "validation": ROWS[:1]}
    task = load(folder, "encoder", splits)
    windows = task.encoded["train"]
    assert windows.questions.tolist() == [0, 0, 0] and windows.num_examples == 1
    np.testing.assert_array_equal(windows.spans, [[0, 0], [8, 9], [4, 5]])
    assert windows.tokens[2, :10].tolist() == [
        CLS,
        *ids("w29"),
        SEP,
        *ids("w8 w9 w10 w11 w12 w13"),
        SEP,
    ]
    assert task.epoch_size == 3 and windows.num_unreachable == 0
    text = task.texts["train"].get("context")[0]
    for row, (first, last) in enumerate([(3, 10), (3, 10), (3, 8)]):
        characters = windows.characters[windows.base[row] + np.array([first, last])]
        assert text[characters[0, 0] : characters[1, 1]].split() == words[4 * row : 4 * row + 8]


def test_a_question_is_truncated_and_an_answer_longer_than_a_window_is_counted(folder):
    splits = {
        "train": [("w1 w2 w3 w4", " ".join(WORDS[:20]), " ".join(WORDS[2:12]))],
        "validation": ROWS[:1],
    }  # fmt: skip
    task = load(folder, "encoder", splits)
    assert task.encoded["train"].num_truncated == 1 == task.encoded["train"].num_unreachable
    assert (task.encoded["train"].spans == 0).all()
    described = "\n".join(task.describe())
    assert "1 train questions were truncated to 3 tokens" in described
    assert "1 train questions have an answer that is in no window whole" in described


def test_a_window_without_place_for_the_context_is_an_error_of_one_line(folder):
    with pytest.raises(
        ValueError,
        match="max_seq_len=6 leaves 0 tokens of the context.*stride=4: raise task.max_seq_len",
    ) as error:
        load(folder, "encoder", {"train": ROWS, "validation": ROWS}, max_seq_len=6, no_answer=True)
    assert "\n" not in str(error.value)


def test_a_label_budget_counts_questions_and_keeps_the_share_without_an_answer(folder):
    long = " ".join(WORDS[:20])
    rows = [("w29", long, f"w{n}" if n % 4 else None) for n in range(16)]
    task = load(
        folder, "encoder", {"train": rows, "validation": ROWS}, num_train_examples=8, no_answer=True
    )
    windows = task.encoded["train"]
    chosen = np.unique(windows.questions[task.rows])
    assert len(chosen) == 8 and windows.has_answer[chosen].sum() == 6
    assert len(task.rows) == 8 * len(windows) / 16 == task.epoch_size
    other = task.with_seed(task.seed + 1)
    assert other == task and other.epoch_size == task.epoch_size
    assert set(np.unique(windows.questions[other.rows])) != set(chosen)
    assert task.constant_scores("train") == {"f1": 0.25}
    assert "8 of 16 training examples" in task.describe()[0]
    provenance = task.provenance(0)
    assert {each["row"] for each in provenance} <= set(chosen.tolist())


@each_architecture
def test_grouped_batches_are_short_and_keep_their_targets(folder, architecture):
    rows = [("w29", f"w1 w2{' w3' * (n % 16)} w4", "w4") for n in range(32)]
    options = {"max_seq_len": 40, "length_group_steps": 8}
    task = load(folder, architecture, {"train": rows, "validation": ROWS[:1]}, **options)
    widths = set()
    for step in range(8):
        batch = task.train_inputs(step)
        widths.add(batch.inputs.tokens.shape[1])
        assert batch.allowed.shape == batch.inputs.tokens.shape
        first, last = batch.targets.T
        assert (batch.inputs.tokens[np.arange(4), first] == FIRST + 4).all() and (
            first == last
        ).all()
        assert batch.allowed[np.arange(4), first].all()
    assert len(widths) > 1 and max(widths) <= 24


@each_architecture
def test_packed_windows_have_the_loss_of_windows_apart(folder, architecture):
    rows = [("w29", f"w1 w2{' w3' * (n % 8)} w4", "w4") for n in range(32)]
    splits = {"train": rows, "validation": ROWS[:1]}
    tasks = [load(folder, architecture, splits, max_seq_len=40, packing=p) for p in (False, True)]
    model = models.build(tasks[0].model_config)
    rngs = {"init": jax.random.key(0), "head": jax.random.key(1)}
    params = tasks[0].init(rngs, model)
    batches = [task.train_inputs(0) for task in tasks]
    assert batches[0].packing is None and 0 < batches[1].packing.num_rows < 4
    apart, packed = (
        jax.jit(functools.partial(task.losses, model, dropout_rng=None))(params, batch)
        for task, batch in zip(tasks, batches, strict=True)
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), apart, packed)


def perfect(batch):
    """Logits that are highest at the targets."""
    width = batch.inputs.tokens.shape[1]
    start, end = (np.eye(width)[batch.targets[:, i]] for i in (0, 1))
    logits = 9 * np.stack([start, end], -1).astype(np.float32)
    return np.where(batch.allowed[:, :, None], logits, np.float32(-1e9))


def many_rows(size=11):
    random = np.random.default_rng(0)
    rows = []
    for n in range(size):
        words = [str(w) for w in random.permutation(WORDS[:28])[: random.integers(3, 28)]]
        at = int(random.integers(len(words)))
        rows.append(("w29 w28", " ".join(words), " ".join(words[at : at + 2]) if n % 3 else None))
    return rows


@each_architecture
@pytest.mark.parametrize("size", [1, 3, 64])
def test_right_logits_score_1_whatever_the_batch(folder, architecture, size):
    splits = {"train": ROWS, "validation": many_rows()}
    task = load(
        folder, architecture, splits, (4, size), no_answer=True, length_group_steps=size % 3
    )
    predictions, scores = evaluate(task, "validation", perfect)
    assert scores["exact_match"] == scores["f1"] == scores["HasAns_f1"] == scores["NoAns_f1"] == 1
    assert scores["best_f1"] == 1
    rows = list(task.prediction_rows("validation", predictions))
    assert [row["prediction"] for row in rows] == [(row["answers"] or [""])[0] for row in rows]
    for row in rows:
        assert sum(each["probability"] for each in row["nbest"]) == pytest.approx(1, abs=1e-4)
        scored = [each["score"] for each in row["nbest"]]
        assert scored == sorted(scored, reverse=True) and len(
            {e["text"] for e in row["nbest"]}
        ) == len(scored)


def test_two_processes_read_the_rows_of_one(folder):
    splits = {"train": ROWS, "validation": many_rows()}
    whole = load(folder, "encoder", splits, (4, 4), no_answer=True)
    parts = [load(folder, "encoder", splits, (4, 4), (i, 2), no_answer=True) for i in (0, 1)]
    for batch, *shares in zip(*(t.eval_inputs("validation") for t in (whole, *parts)), strict=True):
        joined = jax.tree.map(lambda *x: np.concatenate(x), *shares)
        jax.tree.map(np.testing.assert_array_equal, joined, batch)


def test_the_n_best_are_those_of_trying_every_span(folder):
    splits = {"train": many_rows(), "validation": ROWS}
    windows = load(folder, "encoder", splits, no_answer=True).encoded["train"]
    random = np.random.default_rng(1)
    logits = random.normal(size=(len(windows), LENGTH, 2)).astype(np.float32)
    for n_best, longest in ((1, 1), (5, 3), (200, 30)):
        found = best_spans(windows, logits, n_best, longest)
        for question in range(windows.num_examples):
            tried, null = {}, []
            for row in np.flatnonzero(windows.questions == question):
                low, high = windows.context[row]
                null.append(logits[row, 0].sum())
                for i in range(low, high):
                    for j in range(i, min(i + longest, high)):
                        key = tuple(
                            windows.characters[windows.base[row] + np.array([i, j])][[0, 1], [0, 1]]
                        )
                        score = logits[row, i, 0] + logits[row, j, 1]
                        tried[key] = max(tried.get(key, -np.inf), score)
            best = sorted(tried.items(), key=lambda each: -each[1])[:n_best]
            mine = slice(found.first[question], found.first[question + 1])
            np.testing.assert_allclose(found.scores[mine], [score for _, score in best], rtol=1e-6)
            assert [tuple(each) for each in found.characters[mine].tolist()] == [
                key for key, _ in best
            ]
            assert found.null_scores[question] == pytest.approx(min(null))


def test_no_answer_is_predicted_above_the_threshold(folder):
    splits = {"train": ROWS, "validation": ROWS}
    task = load(folder, "encoder", splits, no_answer=True)
    logits = np.zeros((2, LENGTH, 2), np.float32)
    logits[0, 5, 0] = logits[0, 6, 1] = 2.0  # 4 for the span, 3 for no answer
    logits[:, 0] = 1.5
    predictions = task.collect("validation", [logits])
    for threshold, expected in ((0.0, ["w4 w5", ""]), (-2.0, ["", ""]), (4.0, ["w4 w5", "w6"])):
        changed = dataclasses.replace(task.task, no_answer_threshold=threshold)
        other = dataclasses.replace(task, task=changed)
        rows = list(other.prediction_rows("validation", predictions))
        assert [row["prediction"] for row in rows] == expected
        assert [row["null_odds"] for row in rows] == [-1.0, 3.0]
    assert task.score("validation", predictions)["best_f1_thresh"] == -1.0


def test_predictions_are_files_that_the_script_of_squad_reads(folder, tmp_path):
    splits = {"train": ROWS, "validation": ROWS, "test": ROWS}
    task = load(folder, "encoder", splits, no_answer=True)
    task.write_predictions(tmp_path, "test", evaluate(task, "test", perfect)[0])
    assert json.loads((tmp_path / "predictions_test.json").read_text()) == {
        "test0": "w4 w5",
        "test1": "",
    }
    odds = json.loads((tmp_path / "null_odds_test.json").read_text())
    assert odds["test0"] < 0 < odds["test1"]
    rows = [json.loads(line) for line in (tmp_path / "nbest_test.jsonl").read_text().splitlines()]
    assert rows[0]["nbest"][0] | {"probability": 1} == {
        "text": "w4 w5", "start": 3, "probability": 1, "score": 18.0
    }  # fmt: skip
    (tmp_path / "1.1").mkdir()
    load(folder, "encoder", dict.fromkeys(splits, ROWS[:1])).write_predictions(
        tmp_path / "1.1", "test", evaluate(task, "test", perfect)[0]
    )
    assert {file.name for file in (tmp_path / "1.1").iterdir()} == {
        "predictions_test.json", "nbest_test.jsonl"
    }  # fmt: skip


def test_a_test_split_without_answers_is_predicted_and_not_scored(folder):
    splits = {"train": ROWS[:1], "validation": ROWS[:1], "test": [("w1", "w3 w4", None)]}
    task = load(folder, "encoder", splits)
    predictions, scores = evaluate(task, "test", perfect)
    assert scores == {} and next(task.prediction_rows("test", predictions))["answers"] is None


def test_a_context_of_100_000_words_is_read_whole(folder):
    words = np.array(WORDS)[np.random.default_rng(0).integers(0, 28, 100_000)]
    words[90_000] = "w29"
    splits = {"train": [("w1", " ".join(words), "w29")], "validation": ROWS[:1]}
    task = load(folder, "encoder", splits, max_seq_len=384, stride=128)
    windows = task.encoded["train"]
    assert len(windows) == 1 + -(-(100_000 - 380) // (380 - 128)) and windows.num_truncated == 0
    has_it = windows.spans[:, 0] > 0
    assert has_it.sum() in (1, 2)
    assert (windows.tokens[has_it, windows.spans[has_it, 0]] == FIRST + 29).all()


@functools.cache
def trained_on(folder, architecture):
    """(task, model, params, jitted losses): the answer is the only word after w19."""
    random = np.random.default_rng(0)
    rows = []
    for n in range(32):
        words = [f"w{i}" for i in random.permutation(20)[:6]]
        if n % 4:
            words[random.integers(6)] = f"w{random.integers(20, 30)}"
        rows.append(("w1", " ".join(words), next((w for w in words if int(w[1:]) > 19), None)))
    task = load(folder, architecture, {"train": rows, "validation": rows}, (32, 32), no_answer=True)
    model = models.build(task.model_config)
    rngs = {"init": jax.random.key(0), "head": jax.random.key(1)}
    params = jax.jit(functools.partial(task.init, model=model))(rngs)

    @jax.jit
    def losses(params, batch):
        return task.losses(model, params, batch, None), task.outputs(model, params, batch)

    return task, model, params, losses


@each_architecture
def test_the_loss_is_the_mean_cross_entropy_of_start_and_end(folder, architecture):
    task, model, params, losses = trained_on(folder, architecture)
    batch = task.train_inputs(0)
    weights = np.repeat((np.arange(32) < 20).astype(np.float32)[:, None], 2, axis=1)
    batch = batch.replace(loss_weights=weights)
    with jax.numpy_dtype_promotion("strict"):
        found, logits = losses(params, batch)
    hidden = np.asarray(model.apply({"params": params}, batch.inputs, batch.decoder_inputs))
    head = params["heads"]["question_answering"]["output"]
    expected = hidden @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
    np.testing.assert_allclose(
        np.asarray(logits)[batch.allowed], expected[batch.allowed], rtol=1e-4, atol=1e-5
    )
    total = 0.0
    for row in range(20):
        scores = np.where(batch.allowed[row][:, None], expected[row].astype(np.float64), -np.inf)
        log_p = scores - np.log(np.exp(scores).sum(0))
        total -= (log_p[batch.targets[row, 0], 0] + log_p[batch.targets[row, 1], 1]) / 2
    np.testing.assert_allclose(found["question_answering"], (total, 20), rtol=1e-5)
    assert float(task.loss_denominators(batch)["question_answering"]) == 20


@each_architecture
def test_a_head_learns_to_answer(folder, architecture):
    task, model, params, losses = trained_on(folder, architecture)
    optimizer = optax.adam(1e-2)

    @jax.jit
    def update(params, state, batch):
        def loss(params):
            total, weight = task.losses(model, params, batch, None)["question_answering"]
            return total / weight

        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(jax.grad(loss)(params), state, params)
            return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for step in range(60):
        params, state = update(params, state, jax.tree.map(jnp.asarray, task.train_inputs(step)))
    _, scores = evaluate(task, "validation", lambda batch: np.asarray(losses(params, batch)[1]))
    assert scores["f1"] > 0.9 and scores["HasAns_f1"] > 0.9
