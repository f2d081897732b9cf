"""From a source to token stores: trains the tokenizer, tokenises in parallel, or opens what is there.

Called by `train.py` and `tools.prepare`; everything it makes can be thrown away and made again.
"""

import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from data import sources, writer
from data import tokenizer as tokenizer_
from data.config import DataConfig, TokenizerConfig
from data.files import cache_directory, digest, locked
from data.store import METADATA, Store
from data.writer import SPLITS, Unit

# Source bytes a process takes at a time: bounded, and few units even for a corpus of terabytes.
_SMALLEST_UNIT, _LARGEST_UNIT, _UNITS = 1 << 24, 1 << 30, 4096
# Below this many bytes, starting processes costs more than it saves.
_ALONE = 8 << 20
_TOKENIZER_FILES = 1024


@dataclass(frozen=True)
class Prepared:
    """What training reads. `train` and `validation` hold one store per source that has that split."""

    train: list[Store]
    validation: list[Store]
    weights: tuple[float, ...]  # of `train`, summing to 1
    tokenizer: tokenizer_.Tokenizer
    fingerprint: str  # of the rows: contents, tokenizer, weights
    contents: dict[str, str]  # source -> digest of its text alone (what published numbers name)


def prepare(
    data: DataConfig,
    tokenizer: TokenizerConfig,
    *,
    log: Callable[[str], None] = print,
    build: bool = True,
) -> Prepared:
    """Opens the tokenizer and the token stores of a config, making what is missing.

    With `build=False` (several training processes) a missing one is refused with the command that
    makes it. Raises FileNotFoundError, ValueError or OSError of one line for what is wrong.
    """
    cache = cache_directory(data.cache_dir)
    pairs = sources.parse(data.source)
    weights = [weight for weight, _ in pairs]
    found = [
        sources.resolve(name, data.document_separator, data.text_field, data.cache_dir, log)
        for _, name in pairs
    ]
    identities = [source.fingerprint(cache) for source in found]
    pieces = _tokenizer(found, identities, weights, data, tokenizer, cache, log, build)
    train, validation = [], []
    for source, identity in zip(found, identities, strict=True):
        directory = _store(source, identity, pieces, data, cache, log, build)
        stores = {split: Store.open(directory / split, pieces.fingerprint) for split in SPLITS}
        if not stores["train"].documents:
            raise ValueError(
                f"{source.name} holds no document to train on: it is empty, or blank, or all held "
                "out; check data.source, data.document_separator and data.validation_fraction"
            )
        train.append(stores["train"])
        if stores["validation"].documents:
            validation.append(stores["validation"])
        else:
            log(f"{source.name} has no validation document: its held-out loss is not measured")
    return Prepared(
        train=train,
        validation=validation,
        weights=tuple(weights),
        tokenizer=pieces,
        fingerprint=digest([store.fingerprint for store in train], weights),
        contents={
            source.name: getattr(source, "identity", identity)
            for source, identity in zip(found, identities, strict=True)
        },
    )


def _refuse(what: str) -> ValueError:
    return ValueError(
        f"{what} is not made yet: run `python -m tools.prepare --config=...` with this config first"
    )


def _tokenizer(found, identities, weights, data, config, cache, log, build) -> tokenizer_.Tokenizer:
    """The tokenizer the config names, or one trained on the corpus and kept under its identity."""
    if config.path:
        return tokenizer_.load(config.path)
    settings = [
        config.kind,
        config.vocab_size,
        config.lowercase,
        config.training_bytes,
        config.min_frequency,
        data.validation_fraction,
        tokenizer_.tokenizers.__version__,
    ]
    key = digest(identities, weights, settings, tokenizer_.SPECIALS)[:24]
    file = cache / "tokenizers" / f"{config.kind}-{config.vocab_size}-{key}.json"
    if not file.is_file():
        if not build:
            raise _refuse(f"the tokenizer {file}")
        file.parent.mkdir(exist_ok=True)
        with locked(file.with_suffix(".lock"), log):
            if not file.is_file():
                log(f"training a {config.kind} tokenizer of {config.vocab_size} pieces")
                started = time.monotonic()
                made = tokenizer_.train(
                    _sample(found, weights, config.training_bytes, data.validation_fraction),
                    kind=config.kind,
                    vocab_size=config.vocab_size,
                    lowercase=config.lowercase,
                    min_frequency=config.min_frequency,
                    log=log,
                    what=data.source,
                )
                made.save(file)
                log(
                    f"tokenizer of {made.size} pieces in {time.monotonic() - started:.1f} s: {file}"
                )
    return tokenizer_.load(file)


def _sample(found, weights, limit: int, fraction: float) -> Iterator[str]:
    """Training documents up to `limit` bytes: the beginnings of files spread evenly over the sources."""
    for source, weight in zip(found, weights, strict=True):
        splits = source.splits()
        split = "train" if "train" in splits else ""
        numbers = splits[split]
        step = max(1, len(numbers) // _TOKENIZER_FILES)
        chosen = numbers[::step]
        left = int(limit * weight)
        for done, file in enumerate(chosen):
            share = left // (len(chosen) - done)
            for text in _training_texts(source, file, split, share, fraction):
                left -= len(text.encode())
                yield text


def _training_texts(source, file: int, split: str, limit: int, fraction: float) -> Iterator[str]:
    """Documents of one file that are not held out, from several places of it, up to `limit` bytes."""
    pieces = source.pieces(file, _SMALLEST_UNIT)
    pieces = pieces[:: max(1, len(pieces) // 64)]
    for done, piece in enumerate(pieces):
        left = limit // (len(pieces) - done)
        keep = None
        for part in source.read(piece):
            if left <= 0:
                break
            if keep is None:
                keep = bool(split) or not sources.held_out(part.text.strip("\r\n"), fraction)
            if keep and part.text:
                text = part.text if len(part.text) <= left else part.text[:left]
                left -= (size := len(text.encode()))
                limit -= size
                yield text
            keep = None if part.ends else keep


def _plan(source) -> tuple[list[Unit], int]:
    """The units of a source and its bytes: the same on every machine, however many workers."""
    sizes = source.sizes()
    total = sum(sizes)
    size = min(max(total // _UNITS, _SMALLEST_UNIT), _LARGEST_UNIT)
    units, group, held = [], [], 0

    def close(split):
        nonlocal group, held
        if group:
            units.append(Unit(len(units), split, tuple(group)))
        group, held = [], 0

    for split, numbers in source.splits().items():
        for file in numbers:
            pieces = source.pieces(file, size)
            for piece in pieces:
                group.append(piece)
                held += sizes[file] // len(pieces)
                if held >= size:
                    close(split)
        close(split)
    return units, total


def _store(source, identity, pieces, data, cache, log, build) -> Path:
    """The directory with the source's stores, made if need be."""
    by_hash = "" in source.splits()
    fraction = data.validation_fraction if by_hash else 0.0
    fingerprint = digest(identity, pieces.fingerprint, fraction, writer.FORMAT)
    plain = "".join(c if c.isalnum() else "_" for c in source.name)[:40].strip("_")
    directory = cache / "stores" / f"{plain}-{fingerprint[:16]}"
    if (directory / SPLITS[0] / METADATA).is_file():
        return directory
    if not build:
        raise _refuse(f"the token store {directory}")
    directory.parent.mkdir(exist_ok=True)
    with locked(directory.with_name(directory.name + ".lock"), log):
        if not (directory / SPLITS[0] / METADATA).is_file():
            settings = {
                "fingerprint": fingerprint,
                "tokenizer": pieces.fingerprint,
                "source": source.name,
            }
            _build(source, pieces, fraction, directory, settings, data.workers, log)
    return directory


def _build(source, pieces, fraction, directory: Path, settings, workers: int, log) -> None:
    """Carries out the units that are not done yet under a temporary name, then renames."""
    partial = directory.with_name(directory.name + ".partial")
    partial.mkdir(exist_ok=True)
    (partial / "units").mkdir(exist_ok=True)
    pieces.save(partial / "tokenizer.json")
    units, total = _plan(source)
    left = [unit for unit in units if not unit.record(partial).is_file()]
    if len(left) < len(units):
        log(f"{source.name}: {len(units) - len(left)} of {len(units)} units are done already")
    share = total * len(left) // max(1, len(units))
    workers = min(workers or os.cpu_count() or 1, len(left)) if share > _ALONE else 1
    log(f"{source.name}: tokenising {share / 1e6:.1f} MB in {max(1, workers)} process(es)")
    started = time.monotonic()
    progress = _Progress(share, source.name, log)
    try:
        if workers > 1:
            _in_parallel(source, left, partial, fraction, workers, progress.add)
        else:
            for unit in left:
                writer.write_unit(source, pieces, unit, partial, fraction, progress.add)
    finally:
        progress.close()
    writer.finish(partial, units, list(source.files), settings, pieces)
    if directory.exists():  # left over without metadata: nothing of it can be used
        shutil.rmtree(directory)
    os.replace(partial, directory)
    writer.tidy(directory)
    counts = Store.open(directory / "train")
    log(
        f"{source.name}: {counts.documents} documents, {counts.tokens} tokens to train on, in "
        f"{time.monotonic() - started:.1f} s: {directory}"
    )


class _Progress:
    """Rate and time left: a bar on a terminal, a line every 30 s in a log."""

    def __init__(self, total: int, name: str, log):
        self.bar = tqdm(
            total=total, unit="B", unit_scale=True, desc=name, disable=None, leave=False
        )
        self.total, self.name, self.log = total, name, log
        self.done, self.started, self.said = 0, time.monotonic(), time.monotonic()

    def add(self, consumed: int) -> None:
        """More source bytes are done."""
        self.done += consumed
        self.bar.update(consumed)
        now = time.monotonic()
        if self.bar.disable and now - self.said > 30 and self.done:
            rate = self.done / (now - self.started)
            left = max(0, self.total - self.done) / rate
            self.log(
                f"{self.name}: {100 * self.done / max(1, self.total):.0f} %, "
                f"{rate / 1e6:.1f} MB/s, {left:.0f} s left"
            )
            self.said = now

    def close(self) -> None:
        self.bar.close()


def _in_parallel(source, units, directory: Path, fraction: float, workers: int, progress) -> None:
    """Gives units to worker programs; the first error stops them all and is raised here."""
    root = str(Path(__file__).resolve().parent.parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH", "")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "TOKENIZERS_PARALLELISM": "false",  # the processes are the parallelism
    }
    job = {
        "source": sources.to_json(source),
        "tokenizer": str(directory / "tokenizer.json"),
        "directory": str(directory),
        "fraction": fraction,
    }
    waiting, answers = queue.SimpleQueue(), queue.SimpleQueue()
    for unit in units:
        waiting.put(unit)
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "data.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        for _ in range(workers)
    ]
    threads = [
        threading.Thread(target=_attend, args=(process, job, waiting, answers), daemon=True)
        for process in processes
    ]
    for thread in threads:
        thread.start()
    try:
        running = workers
        while running:
            answer = answers.get()
            if "consumed" in answer:
                progress(answer["consumed"])
            elif "error" in answer:
                kinds = {"FileNotFoundError": FileNotFoundError, "OSError": OSError}
                raise kinds.get(answer["kind"], ValueError)(answer["error"])
            elif "stopped" in answer:
                running -= 1
    finally:
        for process in processes:
            process.terminate()
        for process, thread in zip(processes, threads, strict=True):
            process.wait()
            thread.join()
            process.stdout.close()
            with contextlib.suppress(BrokenPipeError):  # what it did not live to read
                process.stdin.close()


def _attend(process, job: dict, waiting: queue.SimpleQueue, answers: queue.SimpleQueue) -> None:
    """One thread per process: hands it the next unit when it is done with the last."""
    try:
        process.stdin.write(json.dumps(job) + "\n")
        while True:
            try:
                unit = waiting.get_nowait()
            except queue.Empty:
                break
            pieces = [[p.file, p.start, p.end] for p in unit.pieces]
            record = {"number": unit.number, "split": unit.split, "pieces": pieces}
            process.stdin.write(json.dumps(record) + "\n")
            process.stdin.flush()
            while True:
                line = process.stdout.readline()
                if not line:
                    answers.put(_death(process))
                    return
                answer = json.loads(line)
                answers.put(answer)
                if "error" in answer:
                    return
                if "done" in answer:
                    break
        process.stdin.close()
        answers.put({"stopped": True})
    except (BrokenPipeError, ValueError):
        answers.put(_death(process))


def _death(process) -> dict:
    code = process.wait()
    return {
        "kind": "OSError",
        "error": f"a tokenising process ended with status {code} (its own words are above; -9 is often "
        "too little memory): set data.workers lower and start again; what was finished is kept",
    }
