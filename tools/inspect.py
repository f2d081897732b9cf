"""`python -m tools.inspect --run=RUN --step=100`: the batch of a step as text, without training.

Opens what train.py or finetune.py opens, corrupts as their step does; `tools.marks` draws the rows.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import sys
from collections.abc import Callable

import jax
import numpy as np
from rich.console import Console

import finetune
import train
from data import tokenizer as tokenizers
from huggingface import sources
from objectives.batch import Batch
from objectives.segments import documents
from tasks.examples import open_examples
from tools import marks
from training import cli, run_directory, step
from training import config as configs
from training.config import ConfigError

FLAGS = (
    ("--run", {"metavar": "DIR", "help": "a run directory, of train.py or of finetune.py"}),
    (
        "--step",
        {
            "type": int,
            "required": True,
            "metavar": "N",
            "help": "0 is the batch of the first update",
        },
    ),
    ("--rows", {"type": int, "metavar": "N", "help": "the first N rows (default: 4; json: all)"}),
    ("--row", {"type": int, "metavar": "K", "help": "row K alone"}),
    ("--raw", {"action": "store_true", "help": "also the row before it was corrupted"}),
    (
        "--documents",
        {
            "action": "store_true",
            "help": "which documents each row was made of; with text, those alone",
        },
    ),
    (
        "--format",
        {"choices": ("text", "json"), "default": "text", "help": "json holds every number"},
    ),
)
EXAMPLES = """\
python -m tools.inspect --run=runs/enc --step=100
python -m tools.inspect --run=runs/enc --step=100 --documents --rows=32
python -m tools.inspect --config=configs/encoder_decoder.py --config.training.length=64 --step=0
python -m tools.inspect --run=runs/enc --step=100 --format=json | jq '.rows[0].batch.targets'

Step N is what the update from N to N + 1 reads: line N + 1 of metrics.jsonl is its loss.
In a terminal colours say what was done to a piece; what the signs mean stands above the rows."""


@dataclasses.dataclass(frozen=True)
class Seen:
    """One step's batch and where it comes from."""

    config: dict  # resolved, as in config.json
    total: int  # steps of the run
    describe: str  # what is asked
    batch: Batch  # NumPy leaves, [B, ...]
    raw: np.ndarray | None  # int32[B, raw] rows as `corrupt` takes them, with
    raw_segments: np.ndarray | None  # int32[B, raw] the document of each token
    places: list[dict]  # of each row: its number in the run and where in the data it is
    documents: Callable[[int], list[dict]]  # of row k
    tokenizer: tokenizers.Tokenizer
    labels: tuple[str, ...] = ()  # names of the classes, where targets are classes


def pretraining(config, number, folder=None):
    """The Seen of step `number` (0-based) of a resolved train.Config, or of its run in `folder`.

    Raises ConfigError where the run has no such step, or its data are not those it began with.
    """
    if folder is not None:
        own = dataclasses.replace(config.tokenizer, path=str(folder / "tokenizer.json"))
        config = dataclasses.replace(config, tokenizer=own)
    config = sources.adopted(config, folder)
    train.objectives.check(config.objective, config.model.architecture)
    text = train.open_text(config, _aside)
    if folder is not None:
        run_directory.check_unchanged(folder, data=text.corpus.fingerprint)
    total = text.clock(config).total
    _check_step(number, total)
    order = text.order(config)
    which = order.rows_at(number)
    rows = order.read(which)
    first = number * config.training.batch_size
    root = step.stream_key(config.seed.order, "corruption")
    make = step.compiled_batch(text.make_batch)
    batch = make(rows, step.row_numbers(first, len(rows)), root)
    names = [store.source for store in text.corpus.train]
    segments = jax.vmap(
        lambda row: documents(row, text.setting.vocabulary, text.setting.architecture)
    )

    def shown(row):
        source, place = which[row]
        return [
            {"document": document, "file": file, "number": place_in_file}
            for document, file, place_in_file in text.train[source].documents_of(int(place))
        ]

    return Seen(
        config=configs.to_dict(config),
        total=total,
        describe=config.objective.describe(text.setting),
        batch=marks.on_host(batch),
        raw=rows,
        raw_segments=np.asarray(segments(rows)),
        places=[
            {"number": first + row, "source": names[source], "row": int(place)}
            for row, (source, place) in enumerate(which)
        ],
        documents=shown,
        tokenizer=text.corpus.tokenizer,
    )


def finetuning(config, number, folder=None):
    """The same of a resolved finetune.Config: labelled examples, whose targets are classes."""
    begun = run_directory.read_manifest(folder) if folder else {}
    _, model, tokenizer, _ = sources.origin(config, folder, begun)
    examples = open_examples(config.task, model, tokenizer, config.seed.order, _aside)
    if begun:
        run_directory.check_unchanged(folder, data=examples.fingerprint)
    total = finetune.clock_of(config, examples).total
    _check_step(number, total)
    chosen = examples.at(number, config.training.batch_size, config.seed.order)
    batch = examples.task.batch(examples.encoded["train"], chosen, examples.width(chosen))
    return Seen(
        config=configs.to_dict(config),
        total=total,
        describe=f"{len(examples.names)} labels: {', '.join(examples.names)}",
        batch=marks.on_host(batch),
        raw=None,
        raw_segments=None,
        places=[
            {
                "number": number * len(chosen) + row,
                "source": config.task.source,
                "row": int(example),
            }
            for row, example in enumerate(chosen)
        ],
        documents=lambda row: [
            {"document": int(chosen[row]), "file": "train", "number": int(chosen[row])}
        ],
        tokenizer=tokenizer,
        labels=tuple(examples.names),
    )


def _check_step(number, total):
    if not 0 <= number < total:
        raise ConfigError(
            f"--step={number} is not a step of this run: it has {total:,}, from 0 to {total - 1}; "
            f"--step=N is what the update from N to N + 1 reads"
        )


def _aside(line):
    """What is being made goes to standard error: standard output may be JSON."""
    print(line, file=sys.stderr)


def summary(batch):
    """{'places', 'padding', 'target_slots', 'targets', 'target_weight', 'useful'} of a Batch.

    Places are those of all sequences; padding and useful are shares of them; a target counts if its
    weight is not 0.
    """
    sides = [side.segments for _, side in marks.sequences(batch)]
    places = sum(side.size for side in sides)
    useful = sum(np.count_nonzero(side) for side in sides) / places
    return {
        "places": places,
        "padding": 1 - useful,
        "target_slots": int(batch.weights.size),
        "targets": int(np.count_nonzero(batch.weights)),
        "target_weight": float(batch.weights.sum()),
        "useful": useful,
    }


def record(seen, number, rows, raw=True, listed=True):
    """Everything there is to know about the batch, as what json.dumps takes.

    Args:
      seen: Seen.
      number: its step.
      rows: which rows, by their place in the batch.
      raw, listed: with the raw rows; with the documents of each row.
    """
    return {
        "step": number,
        "steps": seen.total,
        "describe": seen.describe,
        **summary(seen.batch),
        "labels": list(seen.labels),
        "config": seen.config,
        "rows": [
            {
                "row": row,
                "place": seen.places[row],
                **({"documents": seen.documents(row)} if listed else {}),
                **({"raw": seen.raw[row].tolist()} if raw and seen.raw is not None else {}),
                "batch": marks.plain(marks.row_of(seen.batch, row)),
            }
            for row in rows
        ],
    }


def show(seen, number, rows, raw, listed, console):
    """Prints the summary and the rows, or with `listed` the documents of the rows."""
    say = lambda line: console.print(line, soft_wrap=True)  # noqa: E731
    count = summary(seen.batch)
    say(f"step {number:,} of {seen.total:,}: {len(seen.places)} rows")
    say(seen.describe)
    say(
        f"{count['places']:,} places, {count['padding']:.1%} padding, {count['useful']:.1%} useful; "
        f"{count['targets']:,} targets in {count['target_slots']:,} slots, "
        f"weight {count['target_weight']:,.6g}"
    )
    if not listed:
        say(marks.LEGEND)
    pieces = marks.Pieces(seen.tokenizer)
    for row in rows:
        place = seen.places[row]
        say("")
        say(f"row {row}, number {place['number']:,}: row {place['row']:,} of {place['source']}")
        if listed:
            for each in seen.documents(row):
                say(f"  document {each['document']:,}: number {each['number']:,} of {each['file']}")
            continue
        lines = marks.lines(marks.row_of(seen.batch, row), pieces, seen.labels)
        if raw and seen.raw is not None:
            lines = marks.raw_lines(seen.raw[row], seen.raw_segments[row], pieces) + lines
        with console.capture() as drawn:
            console.print(marks.table(lines))
        console.file.write("".join(f"{line.rstrip()}\n" for line in drawn.get().splitlines()))


def chosen_rows(given, size):
    """Which rows of a batch of `size` the flags ask for. Raises ConfigError where it has none such."""
    if given.row is not None:
        if not 0 <= given.row < size:
            raise ConfigError(f"--row={given.row}: the batch has {size} rows, from 0 to {size - 1}")
        return [given.row]
    if given.rows is None:
        return range(size if given.format == "json" else min(4, size))
    if given.rows < 1:
        raise ConfigError(f"--rows={given.rows}: expected at least 1, or leave it out")
    return range(min(given.rows, size))


def opened(given, config):
    """The Seen that the flags name."""
    if (given.run is None) == (config is None):
        raise ConfigError(
            "expected one of --run=DIR (a run that exists) and --config=FILE (before it does), "
            f"got {'neither' if config is None else 'both'}"
        )
    if config is not None:
        kind, folder = ("finetune" if "task" in config else "pretrain"), None
    else:
        folder = pathlib.Path(given.run)
        written = run_directory.read_config(folder)
        kind, config = written["kind"], written["config"]
    schema, read = {
        "pretrain": (train.Config, pretraining),
        "finetune": (finetune.Config, finetuning),
    }[kind]
    return read(configs.resolve(schema, config), given.step, folder)


def main(argv):
    """Shows what the command line asks for."""
    given, config = cli.arguments(
        argv, __doc__.splitlines()[0], FLAGS, config="optional", examples=EXAMPLES
    )
    if given.print_config and config is not None:
        schema = finetune.Config if "task" in config else train.Config
        print("\n".join(configs.describe(configs.resolve(schema, config), config)))
        return
    cli.compilation_cache()
    seen = opened(given, config)
    rows = chosen_rows(given, len(seen.places))
    try:
        if given.format == "json":
            print(json.dumps(record(seen, given.step, rows, given.raw, given.documents)))
        else:
            console = Console(highlight=False, markup=False, emoji=False)
            if not console.is_terminal:
                console.width = 100
            show(seen, given.step, rows, given.raw, given.documents, console)
        sys.stdout.flush()
    except BrokenPipeError:  # a pager or `head` has seen enough
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    cli.main(main, console=sys.stderr)
