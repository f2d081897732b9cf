"""Scores of transformers' models, by the definitions of its documentation, lm-eval and minicons.

The references are computed here with PyTorch; benchmarks/evaluation.py compares with the packages.
"""

import functools
import json
import re

import numpy as np
import parity
import pytest
from tiny_configs import WORDS

from benchmarks.evaluation import strided_nats
from data import tokenizer as tokenizers
from huggingface import convert
from huggingface.tokenizers import write_tokenizer
from tools import evaluate

torch, transformers = parity.peers()

pytestmark = pytest.mark.parity

SHAPES = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 48},
    "bert": {**parity.ENCODER, "max_position_embeddings": 48},
}
CLASSES = {"gpt2": "GPT2LMHeadModel", "bert": "BertForMaskedLM"}
TYPES = {"gpt2": ("bpe", "decoder"), "bert": ("wordpiece", "encoder")}


@pytest.fixture(scope="module")
def peers(tmp_path_factory):
    """model_type -> (a tiny random model, its tokenizer, the run made of them)."""

    @functools.cache
    def peer(model_type):
        folder = tmp_path_factory.mktemp(model_type)
        kind, architecture = TYPES[model_type]
        made = tokenizers.train([" ".join(WORDS[:20])] * 9, type=kind, vocab_size=420)
        config = transformers.CONFIG_MAPPING[model_type](
            vocab_size=made.size, pad_token_id=0, **SHAPES[model_type]
        )
        model = parity.randomize(getattr(transformers, CLASSES[model_type])(config))
        model.save_pretrained(folder / "hf")
        write_tokenizer(made, folder / "hf", architecture=architecture, head="", max_length=48,
                        token_types=model_type == "bert")  # fmt: skip
        convert.from_hf(str(folder / "hf"), str(folder / "run"))
        auto = transformers.AutoTokenizer.from_pretrained(folder / "hf")
        return model, auto, str(folder / "run")

    return peer


def texts(count, low, high, seed=0):
    """Random words, some of them unknown to the tokenizer as words."""
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, random.integers(low, high))) + "." for _ in range(count)]


def scored(run, suite, tmp_path, *words):
    out = tmp_path / f"{suite}.json"
    evaluate.main([f"--run={run}", f"--suite={suite}", f"--output={out}", *words])
    return json.loads(out.read_text())


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"--data={path}"


@pytest.mark.parametrize("stride", [16, 5, 47])
def test_perplexity_is_that_of_the_strided_loop_of_transformers(peers, tmp_path, stride):
    model, auto, run = peers("gpt2")
    text = " ".join(texts(9, 5, 20))
    (tmp_path / "x.txt").write_text(text)
    ids = auto(text, return_tensors="pt", add_special_tokens=False).input_ids
    nats, tokens = strided_nats(model, ids, 48, stride)
    found = scored(run, "perplexity", tmp_path, f"--data={tmp_path}/x.txt", f"--stride={stride}",
                   "--separator=file")["metrics"]["x.txt"]  # fmt: skip
    assert found["tokens"] == tokens
    assert found["perplexity"] == pytest.approx(np.exp(nats / tokens), rel=1e-4)


def pseudo_log_likelihood(model, auto, text, within_word):
    """As minicons' MaskedLMScorer does: a row for each token, words of the tokenizers library."""
    encoded = auto(text, return_tensors="pt")
    ids, words = encoded.input_ids[0], encoded.word_ids()
    found = []
    for place in range(1, len(ids) - 1):
        masked = ids.clone()
        masked[place] = auto.mask_token_id
        for later in range(place + 1, len(ids) - 1):
            if within_word and words[later] == words[place]:
                masked[later] = auto.mask_token_id
        with torch.no_grad():
            logits = model(masked[None]).logits[0, place]
        found.append(float(torch.log_softmax(logits, -1)[ids[place]]))
    return sum(found)


@pytest.mark.parametrize("scoring", ["pll", "pll_within_word_l2r"])
def test_pseudo_log_likelihood_is_that_of_minicons(peers, tmp_path, scoring):
    model, auto, run = peers("bert")
    good, bad = texts(4, 2, 10), texts(4, 2, 10, seed=1)
    rows = [{"sentence_good": a, "sentence_bad": b} for a, b in zip(good, bad, strict=True)]
    found = scored(
        run, "minimal_pairs", tmp_path, write(tmp_path / "x.jsonl", rows), f"--scoring={scoring}"
    )
    for item, a, b in zip(found["items"], good, bad, strict=True):
        expected = [
            pseudo_log_likelihood(model, auto, text, "within" in scoring) for text in (a, b)
        ]
        assert [item["good"], item["bad"]] == pytest.approx(expected, abs=1e-4)
        assert item["correct"] == float(expected[0] > expected[1])


def log_likelihood(model, auto, context, continuation):
    """(sum, is greedy) as in lm-eval's HFLM: tokens of both together, cut at the left."""
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, continuation = context[:-spaces], context[-spaces:] + continuation
    whole = auto(context + continuation, add_special_tokens=False).input_ids
    count = len(whole) - len(auto(context, add_special_tokens=False).input_ids)
    row = torch.tensor(whole[-49:])[None]
    with torch.no_grad():
        log_probs = torch.log_softmax(model(row[:, :-1]).logits[0, -count:], -1)
    targets = row[0, -count:]
    hits = (log_probs.argmax(-1) == targets).all()
    return float(log_probs.gather(1, targets[:, None]).sum()), float(hits)


def test_multiple_choice_is_that_of_lm_eval_item_by_item(peers, tmp_path):
    model, auto, run = peers("gpt2")
    queries, choices = texts(8, 2, 30), texts(24, 1, 4, seed=3)
    queries[1] += " \n"
    queries[2] = " ".join(queries)  # longer than the model reads
    rows = [
        {"query": re.sub(r"\.$", "", query), "choices": choices[3 * n : 3 * n + 3], "gold": n % 3}
        for n, query in enumerate(queries)
    ]
    found = scored(run, "multiple_choice", tmp_path, write(tmp_path / "x.jsonl", rows))
    right = {"sum": [], "per_byte": []}
    for row, item in zip(rows, found["items"], strict=True):
        expected = [log_likelihood(model, auto, row["query"], f" {c}")[0] for c in row["choices"]]
        assert item["scores"] == pytest.approx(expected, abs=1e-3)
        for name, sizes in (
            ("sum", [1] * 3),
            ("per_byte", [len(c.encode()) for c in row["choices"]]),
        ):
            best = np.argmax(np.array(expected) / sizes)
            assert item[name] == float(best == row["gold"])
            right[name].append(item[name])
    for name, values in right.items():
        metrics = found["metrics"]["x.jsonl"]
        assert metrics[name] == pytest.approx(np.mean(values))
        assert metrics[f"{name}_stderr"] == pytest.approx(
            np.std(values, ddof=1) / len(values) ** 0.5
        )


def test_lambada_is_that_of_lm_eval(peers, tmp_path):
    model, auto, run = peers("gpt2")
    rows = [{"context": context, "continuation": " stone"} for context in texts(3, 3, 12)]
    for context in texts(60, 3, 12):
        ids = auto(context, add_special_tokens=False).input_ids
        with torch.no_grad():
            best = int(model(torch.tensor([ids])).logits[0, -1].argmax())
        word = auto.decode([best])
        joined = auto(context + word, add_special_tokens=False).input_ids
        if joined == [*ids, best] and word.strip().isalnum() and word.isascii():
            rows.append({"context": context, "continuation": word})
    words = (write(tmp_path / "x.jsonl", rows), "--delimiter=")
    found = scored(run, "multiple_choice", tmp_path, *words)
    for row, item in zip(rows, found["items"], strict=True):
        expected = log_likelihood(model, auto, row["context"], row["continuation"])
        assert [item["log_prob"], item["greedy"]] == pytest.approx(expected, abs=1e-3)
    assert [item["greedy"] for item in found["items"]] == [0.0] * 3 + [1.0] * (len(rows) - 3)
    assert len(rows) > 4
