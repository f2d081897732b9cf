"""A race in wall-clock time: our shipped configs against transformers' example recipes, on one text.

    python -m benchmarks.race --source='text:openstax.txt.xz' --workdir=runs/race --minutes=20

Both sides have models of 4 layers x 256, rows of 128 tokens, batches of 32, one tokenizer and one split.
Ours is train.py with configs/encoder.py, decoder.py and encoder_decoder.py:objective=span_corruption. The
other side is transformers' Trainer with the recipe of its run_mlm and run_clm (AdamW, linear decay, no
warmup, 15 % masked as 80/10/10), and for T5, whose example is in Flax alone, with our span corruption. Each
side runs with each learning rate for as many updates as the time allows (measured first), so that its
schedule ends there. Time includes compilation, not evaluation, which is on the same validation batches. Every
finished run is a line of results.jsonl; the same command continues, draws race.png and prints the table.

Needs `pip install -e .[parity] accelerate`.
"""

import argparse
import json
import math
import statistics
import time
from pathlib import Path

import jax
import numpy as np

import train
from tasks import TASKS
from training import config as config_lib
from training import logs, sharding
from training.schema import PretrainConfig
from training.train_step import rng_streams

FILES = {
    "encoder": "configs/encoder.py",
    "decoder": "configs/decoder.py",
    "encoder_decoder": "configs/encoder_decoder.py:objective=span_corruption",
}
METRIC = {"encoder": "accuracy", "decoder": "bits_per_byte", "encoder_decoder": "loss"}
LEARNING_RATES = {"ours": (1e-3, 2e-3, 4e-3), "trainer": (3e-4, 1e-3, 3e-3)}
CALIBRATION = 30  # updates
LOOKS = 10  # evaluations of a run


def config_of(architecture, given, learning_rate, steps):
    """Our config, whose task gives both sides their rows."""
    config = config_lib.load_config_file(FILES[architecture])
    return config_lib.override(config, [
        ("data.source", given.source), ("tokenizer.vocab_size", 8192),
        ("training.duration", f"{steps} steps"), ("optimizer.learning_rate", learning_rate),
        ("evaluation.every", f"{max(1, steps // LOOKS)} steps"), ("evaluation.num_batches", 20),
        ("checkpoint.every", "never"), ("logging.every", f"{max(1, min(10, steps // 2))} steps"),
        ("logging.tensorboard", False), *([("model.num_layers", 1)] if given.tiny else []),
    ])  # fmt: skip


def ours(architecture, given, learning_rate, steps):
    """[(seconds, {metric: value})] of train.run, and seconds per update."""
    folder = Path(given.workdir) / f"ours-{architecture}-{learning_rate}-{steps}"
    compiling = logs.seconds_compiling
    train.run(config_of(architecture, given, learning_rate, steps), str(folder))
    compiling = logs.seconds_compiling - compiling
    rates = [line["seconds_per_step"] for line in logs.read_metrics(folder, "throughput")]
    rate = statistics.mean(rates)
    curve = [
        (compiling + line["step"] * rate, {k: v for k, v in line.items() if isinstance(v, float)})
        for line in logs.read_metrics(folder, "validation")
    ]
    return curve, rate


def load_task(architecture, given):
    """The LoadedPretraining with the rows and validation batches of both sides, and its config."""
    config = config_lib.resolve(PretrainConfig, config_of(architecture, given, 1e-3, CALIBRATION))
    mesh = sharding.make_mesh(config.mesh)
    task = TASKS["pretraining"]().load(
        config, config.model, "", lambda line: None, **sharding.process_args(mesh)
    )
    if not task.has_split("validation"):
        raise SystemExit(f"--source={given.source} has no validation documents; give a longer text")
    return config, task


def peer_model(architecture, task):
    """A model of transformers with the sizes of ours."""
    import transformers

    ours, special = task.model_config, task.spec.vocabulary
    size, length = (ours.emb_dim, ours.num_layers, ours.num_heads), 2 * task.lengths.inputs
    if architecture == "encoder":
        config = transformers.BertConfig(
            hidden_size=size[0], num_hidden_layers=size[1], num_attention_heads=size[2],
            intermediate_size=ours.mlp_dim, vocab_size=ours.vocab_size, pad_token_id=special.pad,
            max_position_embeddings=length,
        )  # fmt: skip
        return transformers.BertForMaskedLM(config)
    if architecture == "decoder":
        config = transformers.GPT2Config(
            n_embd=size[0], n_layer=size[1], n_head=size[2], n_inner=ours.mlp_dim, n_positions=length,
            vocab_size=ours.vocab_size, bos_token_id=None, eos_token_id=special.eos,
        )  # fmt: skip
        return transformers.GPT2LMHeadModel(config)
    config = transformers.T5Config(
        d_model=size[0], num_layers=size[1], num_heads=size[2], d_kv=size[0] // size[2],
        d_ff=ours.mlp_dim, vocab_size=ours.vocab_size, pad_token_id=special.pad,
        eos_token_id=special.eos, decoder_start_token_id=special.start,
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration(config)


def peer_batch(architecture, batch):
    """The arguments of the model for one of our Batches; labels are -100 at positions without a target."""
    import torch

    tokens = np.asarray(batch.inputs.tokens)
    shape = tokens.shape if batch.decoder_inputs is None else batch.decoder_inputs.tokens.shape
    labels = np.full(shape, -100, np.int64)
    weights, targets = np.asarray(batch.loss_weights), np.asarray(batch.targets)
    places = np.broadcast_to(np.arange(targets.shape[1])[None], targets.shape)
    if batch.target_positions is not None:
        places = np.asarray(batch.target_positions)
    rows, columns = np.nonzero(weights)
    labels[rows, places[rows, columns]] = targets[rows, columns]
    found = {"input_ids": tokens, "attention_mask": np.asarray(batch.inputs.segment_ids) > 0}
    if batch.decoder_inputs is not None:
        found["decoder_input_ids"] = np.asarray(batch.decoder_inputs.tokens)
    found = {name: torch.from_numpy(np.asarray(x, np.int64)) for name, x in found.items()}
    return found, labels


def peer_losses(architecture, model, batch):
    """{'lm': (sum, weight), 'accuracy': ...} of an evaluation batch, as our task has them."""
    import torch

    arguments, labels = peer_batch(architecture, batch)
    with torch.no_grad():
        logits = model(**arguments).logits.float()
    at = labels >= 0
    chosen, labels = logits[torch.from_numpy(at)], torch.from_numpy(labels[at])
    total = torch.nn.functional.cross_entropy(chosen, labels, reduction="sum")
    hits, count = int((chosen.argmax(-1) == labels).sum()), float(len(labels))
    return {"lm": (float(total), count), "accuracy": (float(hits), count)}


def theirs(architecture, given, learning_rate, steps):
    """As `ours`, of transformers' Trainer."""
    import torch
    import transformers

    config, task = load_task(architecture, given)
    rngs, rows = rng_streams(config.seed), np.concatenate([task.train_inputs(n)[1] for n in range(
        min(steps, max(1, task.epoch_size // task.batch_size)))])  # fmt: skip
    evaluation = [
        batch
        for inputs in task.eval_inputs("validation")
        for batch in task.prepare_evaluation(rngs["evaluation"], inputs).values()
    ]
    prepare = jax.jit(task.prepare)
    special, generator = task.spec.vocabulary, np.random.default_rng(0)
    regular = torch.zeros(special.size, dtype=torch.bool)
    for start, end in special.regular_token_ranges:
        regular[start:end] = True

    def collate(numbers):
        picked = rows[np.array(numbers)]
        if architecture == "encoder_decoder":
            ids = generator.integers(0, 2**32, (len(picked), 2), dtype=np.uint32)
            arguments, labels = peer_batch(architecture, prepare(rngs["corruption"], (ids, picked)))
            return arguments | {"labels": torch.from_numpy(labels)}
        tokens = torch.from_numpy(picked.astype(np.int64))
        if architecture == "decoder":
            return {"input_ids": tokens, "labels": tokens.masked_fill(tokens == special.pad, -100)}
        labels = tokens.clone()
        chosen = torch.rand(tokens.shape) < 0.15
        chosen &= regular[tokens]
        labels[~chosen] = -100
        kind = torch.rand(tokens.shape)
        tokens = tokens.masked_fill(chosen & (kind < 0.8), special.mask)
        random = torch.randint(task.tokenizer.size, tokens.shape)
        tokens = torch.where(chosen & (kind >= 0.9), random, tokens)
        return {"input_ids": tokens, "labels": labels}

    curve, clock = [], {"seconds": 0.0, "since": 0.0}

    class Look(transformers.TrainerCallback):
        def on_step_begin(self, arguments, state, control, **_):
            clock["since"] = time.perf_counter()

        def on_step_end(self, arguments, state, control, model=None, **_):
            clock["seconds"] += time.perf_counter() - clock["since"]
            if state.global_step % max(1, steps // LOOKS) == 0 or state.global_step == steps:
                model.eval()
                sums = [peer_losses(architecture, model, batch) for batch in evaluation]
                model.train()
                values = task.score("validation", task.collect("validation", sums))
                curve.append((clock["seconds"], {k: float(v) for k, v in values.items()}))
                print(f"trainer {architecture} {learning_rate:g}: update {state.global_step}, "
                      f"{clock['seconds']:.0f} s, {METRIC[architecture]} "
                      f"{values[METRIC[architecture]]:.4f}", flush=True)  # fmt: skip

    transformers.set_seed(0)
    arguments = transformers.TrainingArguments(
        output_dir=f"{given.workdir}/trainer", per_device_train_batch_size=task.batch_size,
        learning_rate=learning_rate, max_steps=steps, lr_scheduler_type="linear", report_to=[],
        save_strategy="no", remove_unused_columns=False, use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    trainer = transformers.Trainer(
        peer_model(architecture, task), arguments, train_dataset=list(range(len(rows))),
        data_collator=collate, callbacks=[Look()],
    )  # fmt: skip
    trainer.train()
    return curve, clock["seconds"] / steps


SIDES = {"ours": ours, "trainer": theirs}


def better(architecture, a, b):
    return a > b if METRIC[architecture] == "accuracy" else a < b


def best_runs(results, architecture):
    """{side: the result with the best final value}."""
    found = {}
    for result in results:
        if result["architecture"] != architecture:
            continue
        value, old = final(result), found.get(result["side"])
        if old is None or better(architecture, value, final(old)):
            found[result["side"]] = result
    return found


def final(result):
    return result["curve"][-1][1][METRIC[result["architecture"]]]


def table(results):
    """A line per architecture: final values, and when ours reached the other's."""
    for architecture in FILES:
        runs = best_runs(results, architecture)
        if len(runs) < 2:
            continue
        ours, theirs, metric = runs["ours"], runs["trainer"], METRIC[architecture]
        goal, end = final(theirs), theirs["curve"][-1][0]
        reached = [
            t for t, values in ours["curve"] if not better(architecture, goal, values[metric])
        ]
        when = f"reached after {reached[0] / end:.2f} of its time" if reached else "not reached"
        yield (
            f"{architecture:<16} {metric:<14} ours {final(ours):.4f} (lr {ours['learning_rate']:g}), trainer "
            f"{goal:.4f} (lr {theirs['learning_rate']:g}); its value is {when}"
        )


def draw(results, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(FILES), figsize=(12, 3.6), layout="constrained")
    for axis, architecture in zip(axes, FILES, strict=True):
        best = best_runs(results, architecture)
        for result in (r for r in results if r["architecture"] == architecture):
            is_best, color = (
                result is best[result["side"]],
                {"ours": "C0", "trainer": "C1"}[result["side"]],
            )
            minutes = [t / 60 for t, _ in result["curve"]]
            values = [values[METRIC[architecture]] for _, values in result["curve"]]
            label = (
                {"ours": "Triptych", "trainer": "transformers"}[result["side"]] if is_best else None
            )
            axis.plot(minutes, values, color=color, label=label, alpha=1.0 if is_best else 0.3)
        axis.set(title=architecture.replace("_", "-"), xlabel="minutes",
                 ylabel=METRIC[architecture].replace("_", " "))  # fmt: skip
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--source", required=True, help="as config.data.source")
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--minutes", type=float, default=20.0, help="of each run")
    parser.add_argument("--architectures", default=",".join(FILES))
    parser.add_argument("--learning_rates", type=int, default=3, help="how many of them")
    parser.add_argument("--tiny", action="store_true", help="one layer, to try the program")
    given = parser.parse_args()
    folder = Path(given.workdir)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "results.jsonl"
    results = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(r["architecture"], r["side"], r["learning_rate"]) for r in results}
    rates = {}
    for architecture in given.architectures.split(","):
        for number in range(given.learning_rates):
            for side, run in SIDES.items():
                rate = LEARNING_RATES[side][number]
                if (architecture, side, rate) in done:
                    continue
                if (architecture, side) not in rates:
                    rates[architecture, side] = run(architecture, given, rate, CALIBRATION)[1]
                steps = max(LOOKS, math.floor(60 * given.minutes / rates[architecture, side]))
                curve, seconds = run(architecture, given, rate, steps)
                results.append({"architecture": architecture, "side": side, "learning_rate": rate,
                                "steps": steps, "seconds_per_step": seconds, "curve": curve})  # fmt: skip
                with path.open("a") as file:
                    file.write(json.dumps(results[-1]) + "\n")
                print("\n".join(table(results)), flush=True)
    draw(results, folder / "race.png")
    print("\n".join(table(results)))


if __name__ == "__main__":
    main()
