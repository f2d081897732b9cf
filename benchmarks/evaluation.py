"""Our scores against lm-eval, minicons and transformers: python -m benchmarks.evaluation --help

Item by item, and minimal pairs per second in one process on one CPU, float32, alternating. lm-eval and
minicons are no dependencies: install them in an environment of their own.

    python -m benchmarks.evaluation speed --data=blimp.jsonl.xz --pairs=128
    python -m benchmarks.evaluation lm_eval --model=HF_DIRECTORY --data piqa.jsonl copa.jsonl --limit=300
    python -m benchmarks.evaluation perplexity --model=HF_DIRECTORY --data=test.txt.xz --max_seq_len=512
"""

import argparse
import math
import os
import statistics
import tempfile
import time

import numpy as np

from data import tokenizer as tokenizers
from evaluation import SUITES, Scorer, choose_way
from huggingface import convert
from huggingface.tokenizers import write_tokenizer
from tools import evaluate, scoring
from tools.loaded_run import load_run
from training import sharding

# Models with random parameters: (class, fields of its config, tokenizer, architecture).
MODELS = {
    "encoder": ("BertForMaskedLM", "BertConfig", "wordpiece", {
        "num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024}),
    "decoder": ("GPT2LMHeadModel", "GPT2Config", "bpe", {
        "n_layer": 4, "n_embd": 256, "n_head": 4, "n_positions": 128, "bos_token_id": None,
        "eos_token_id": None}),
}  # fmt: skip
VOCAB_SIZE = 8192
BATCHES = (8, 32, 128)  # sentences at once, for minicons
OPTIONS = {"fields": {}, "delimiter": " ", "can_be_greedy": True, "scoring": "auto",
           "separator": "file", "text_field": "text"}  # fmt: skip


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("speed", "lm_eval", "perplexity"))
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--model", default="", help="Hugging Face directory of a decoder")
    parser.add_argument("--limit", type=int, default=0, help="lm_eval: items of each file")
    parser.add_argument("--pairs", type=int, default=128, help="speed: evenly spaced pairs")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--max_seq_len", type=int, default=512)
    parser.add_argument("--stride", type=int, default=256)
    parser.add_argument("--bytes", type=int, default=0, help="perplexity: of the start of the text")
    given = parser.parse_args(argv)
    {"speed": speed, "lm_eval": compare_lm_eval, "perplexity": compare_perplexity}[given.what](
        given
    )


# ---- Minimal pairs per second --------------------------------------------------------------------


def speed(given):
    """Pairs per second of ours and of minicons, and the largest difference of a sentence's score."""
    items = scoring.read_items(
        SUITES["minimal_pairs"], scoring.data_files(given.data), OPTIONS, given.pairs
    )
    sentences = [text for item in items for _, text in item.requests]
    kinds = [given.model] if given.model else MODELS
    for kind in kinds:
        with tempfile.TemporaryDirectory() as folder:
            source = kind if given.model else random_model(kind, sentences, f"{folder}/hf")
            run = source if given.model else f"{folder}/run"
            if not given.model:
                convert.from_hf(source, run)
            _race(kind, load_run(run), _minicons(source), sentences, given.repeats)


def random_model(kind, sentences, folder):
    """Writes a Hugging Face directory of a random model whose tokenizer was trained on the sentences."""
    import torch
    import transformers

    model, config, type_, fields = MODELS[kind]
    made = tokenizers.train(sentences * 4, type=type_, vocab_size=VOCAB_SIZE)
    torch.manual_seed(0)
    config = getattr(transformers, config)(vocab_size=VOCAB_SIZE, pad_token_id=0, **fields)
    getattr(transformers, model)(config).save_pretrained(folder)
    write_tokenizer(made, folder, architecture=kind, head="", max_length=128,
                    token_types=kind == "encoder")  # fmt: skip
    return folder


def _minicons(source):
    from minicons import scorer
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    is_encoder = AutoConfig.from_pretrained(source).model_type == "bert"
    load = AutoModelForMaskedLM if is_encoder else AutoModelForCausalLM
    model, auto = load.from_pretrained(source).float().eval(), AutoTokenizer.from_pretrained(source)
    if auto.pad_token is None:
        auto.pad_token = auto.eos_token
    auto.padding_side = "right"
    if not hasattr(auto, "batch_encode_plus"):  # transformers 5
        type(auto).batch_encode_plus = type(auto).__call__
    kind = scorer.MaskedLMScorer if is_encoder else scorer.IncrementalLMScorer
    return kind(model, "cpu", tokenizer=auto)


def _race(name, loaded, peer, sentences, repeats):
    way = choose_way("auto", loaded.config.architecture, loaded.tokenizer)
    scorer = Scorer(loaded.model, loaded.params, loaded.tokenizer, way)
    requests = [("", text) for text in sentences]

    def ours():
        encoded = scorer.encode(requests)
        return [each.total for each in scorer.score_encoded(encoded)]

    def theirs(size):
        found = []
        for at in range(0, len(sentences), size):
            batch = sentences[at : at + size]
            found += peer.sequence_score(batch, reduction=lambda x: x.sum(0).item())
        return found

    with sharding.use_mesh(loaded.mesh):
        scorer.plan(scorer.encode(requests))
        began = time.perf_counter()
        expected, found = theirs(BATCHES[0]), ours()
        print(f"{name}: {len(sentences) // 2} pairs; largest difference of a sentence's score "
              f"{np.abs(np.array(found) - expected).max():.2g} (scores about {np.mean(expected):.0f}); "
              f"shapes {scorer.shapes}; first pass of both {time.perf_counter() - began:.0f} s")  # fmt: skip
        times = {"ours": []} | {size: [] for size in BATCHES}
        for _ in range(repeats):
            for key in times:
                began = time.perf_counter()
                ours() if key == "ours" else theirs(key)
                times[key].append(time.perf_counter() - began)
    rates = {key: len(sentences) / 2 / statistics.median(each) for key, each in times.items()}
    best = max(rates[size] for size in BATCHES)
    print(f"{name}: ours {rates['ours']:.1f} pairs/s; minicons "
          + ", ".join(f"{rates[size]:.1f} with {size} sentences at once" for size in BATCHES)
          + f"; {rates['ours'] / best:.2f} x the best of minicons")  # fmt: skip


# ---- Item by item --------------------------------------------------------------------------------


def compare_lm_eval(given):
    """Accuracies of lm-eval's HFLM and ours, and the items that differ."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    peer = HFLM(
        given.model, device="cpu", dtype="float32", batch_size=16, max_length=given.max_seq_len
    )
    for path in given.data:
        with tempfile.TemporaryDirectory() as folder:
            command = _command(given, "multiple_choice", path, f"{folder}/x.json")
            content = scoring.run(command)
        suite = SUITES["multiple_choice"]
        items = scoring.read_items(suite, scoring.data_files([path]), OPTIONS, given.limit)
        requests = [
            Instance("loglikelihood", {}, request, n)
            for item in items
            for n, request in enumerate(item.requests)
        ]
        answers = iter(peer.loglikelihood(requests, disable_tqdm=True))
        differences, different, right = [], 0, {"sum": 0, "per_byte": 0}
        for item, found in zip(items, content["items"], strict=True):
            scores = [next(answers)[0] for _ in item.requests]
            differences += np.abs(np.array(scores) - found["scores"]).tolist()
            for name, sizes in (
                ("sum", np.ones(len(scores))),
                ("per_byte", np.array(found["bytes"])),
            ):
                hit = float(np.argmax(scores / sizes) == found["gold"])
                right[name] += hit
                different += hit != found[name]
        ours = content["metrics"][os.path.basename(path)]
        print(f"{os.path.basename(path)}: {len(items)} items; lm-eval acc {right['sum'] / len(items):.4f}, "
              f"acc_bytes {right['per_byte'] / len(items):.4f}; ours {ours['sum']:.4f}, "
              f"{ours['per_byte']:.4f}; {different} answers differ; largest difference of a "
              f"log-probability {max(differences):.2g}")  # fmt: skip


def _command(given, suite, path, out):
    """The parsed flags of tools.evaluate."""
    words = [f"--run={given.model}", f"--suite={suite}", f"--data={path}", f"--output={out}"]
    words += [f"--max_seq_len={given.max_seq_len}", f"--limit={given.limit}"]
    if suite == "perplexity":
        words += [f"--stride={given.stride}", "--separator=file"]
    return evaluate.parse(words)


def strided_nats(model, ids, size: int, stride: int) -> tuple[float, int]:
    """(the summed cross entropy, the number of predicted tokens) of a text, by the strided loop of
    transformers' documentation.

    Args:
      model: a causal language model of transformers.
      ids: torch.Tensor int64[1, n].
      size, stride: tokens of a window, and between the starts of two.
    """
    import torch

    nats, tokens, previous = 0.0, 0, 0
    for begin in range(0, ids.shape[1], stride):
        end = min(begin + size, ids.shape[1])
        window, labels = ids[:, begin:end], ids[:, begin:end].clone()
        labels[:, : previous - end] = -100
        count = int((labels[:, 1:] != -100).sum())
        with torch.no_grad():
            nats += model(window, labels=labels).loss.item() * count
        tokens, previous = tokens + count, end
        if end == ids.shape[1]:
            break
    return nats, tokens


def compare_perplexity(given):
    """Perplexity by the strided loop of transformers' documentation, and ours, with both times."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (item,) = SUITES["perplexity"].items(given.data[0], OPTIONS, print)
    text = item.requests[0][1]
    text = text.encode()[: given.bytes or None].decode(errors="ignore")
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/text.txt"
        with open(file, "w", encoding="utf-8") as stream:
            stream.write(text)
        began = time.perf_counter()
        content = scoring.run(_command(given, "perplexity", file, f"{folder}/x.json"))
        ours = time.perf_counter() - began
    model = AutoModelForCausalLM.from_pretrained(given.model).float().eval()
    auto = AutoTokenizer.from_pretrained(given.model)
    began, size = time.perf_counter(), given.max_seq_len
    ids = auto(text, return_tensors="pt", add_special_tokens=False).input_ids
    nats, tokens = strided_nats(model, ids, size, given.stride)
    theirs, found = time.perf_counter() - began, content["metrics"]["text.txt"]
    print(f"{tokens:,} tokens of {len(text.encode()):,} bytes: perplexity of transformers "
          f"{math.exp(nats / tokens):.5f} in {theirs:.0f} s, ours {found['perplexity']:.5f} "
          f"({found['tokens']:,} tokens, {found['bits_per_byte']:.5f} bits per byte) in {ours:.0f} s "
          "with loading and compilation")  # fmt: skip


if __name__ == "__main__":
    main()
