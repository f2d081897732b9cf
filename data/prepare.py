"""From `data.source` to token stores: trains the tokenizer, tokenizes, or opens existing ones.

Called by tasks/pretraining.py and tools/prepare.py. Everything it makes is a cache.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from data import parallel, sources, writer
from data import tokenizer as tokenizer_
from data.files import cache_directory, digest, locked
from data.store import METADATA, TokenStore
from data.writer import SPLITS, WorkItem

# Bytes of the source per work item: bounded, and at most thousands of items for a corpus of terabytes.
_MIN_ITEM_BYTES, _MAX_ITEM_BYTES, _MAX_ITEMS = 1 << 24, 1 << 30, 4096
# For fewer bytes, starting processes costs more than it saves.
_MIN_PARALLEL_BYTES = 8 << 20
_MAX_TOKENIZER_FILES, _MAX_RANGES_PER_FILE = 1024, 64


@dataclass(frozen=True)
class TokenizedCorpus:
    """A tokenized corpus. `train` and `validation` hold one store per source that has the split."""

    train: list[TokenStore]
    validation: list[TokenStore]
    weights: tuple[float, ...]  # of `train`, summing to 1
    tokenizer: tokenizer_.Tokenizer
    fingerprint: str  # of the rows: contents, tokenizer, weights
    contents: dict[str, str]  # source -> digest of its text alone, as published numbers quote it

    def describe_unknown(self, least: float = 0.0) -> list[str]:
        """A line per source, with the share of unknown tokens in its training text, if it is at least
        `least`."""
        unknown = self.tokenizer.special_ids()["unk"]
        lines = []
        for store in self.train:
            count = int(store.unigram_counts[unknown]) if unknown >= 0 else 0
            lines += tokenizer_.describe_unknown(store.source, count, store.num_tokens, least)
        return lines


def prepare(
    data, tokenizer, *, log: Callable[[str], None] = print, build: bool = True, check=lambda t: None
) -> TokenizedCorpus:
    """Opens the tokenizer and the token stores of a config, and makes missing ones.

    `data` and `tokenizer` are DataConfig and TokenizerConfig of training/schema.py. With `build=False`
    (several training processes), a missing part is an error that names the command to make it. `check`
    may refuse the tokenizer: it is called before any text is read if the config names a tokenizer,
    else before any text is tokenized. Raises FileNotFoundError, ValueError or OSError of one line.
    """
    cache = cache_directory(data.cache_dir)
    pairs = sources.parse(data.source)
    opened = tokenizer_.load(tokenizer.path) if tokenizer.path else None
    if opened:
        check(opened)
    weights = [weight for weight, _ in pairs]
    found = [
        sources.resolve(name, data.document_separator, data.text_field, data.cache_dir, log)
        for _, name in pairs
    ]
    identities = [source.fingerprint(cache) for source in found]
    if opened is None:
        opened = _tokenizer(found, identities, weights, data, tokenizer, cache, log, build)
        check(opened)
    train, validation = [], []
    for source, identity in zip(found, identities, strict=True):
        stores = _stores(source, identity, opened, data, cache, log, build)
        if not stores["train"].num_documents:
            raise ValueError(
                f"{source.name} holds no document to train on: it is empty or blank, or all documents "
                "are in validation; check data.source, data.document_separator and "
                "data.validation_fraction"
            )
        train.append(stores["train"])
        if stores["validation"].num_documents:
            validation.append(stores["validation"])
        else:
            log(f"{source.name} has no validation document: it has no validation loss")
    return TokenizedCorpus(
        train=train,
        validation=validation,
        weights=tuple(weights),
        tokenizer=opened,
        fingerprint=digest([store.fingerprint for store in train], weights),
        contents={
            source.name: getattr(source, "identity", identity)
            for source, identity in zip(found, identities, strict=True)
        },
    )


def _missing(what: str) -> ValueError:
    return ValueError(
        f"{what} does not exist yet: run `python -m tools.prepare --config=...` with this config first"
    )


def _tokenizer(found, identities, weights, data, config, cache, log, build) -> tokenizer_.Tokenizer:
    """The tokenizer that is trained on the corpus, cached by its identity."""
    settings = [
        config.type,
        config.vocab_size,
        config.lowercase,
        f"{config.training_bytes} bytes",  # once characters
        config.min_frequency,
        data.validation_fraction,
        tokenizer_.tokenizers.__version__,
    ]
    # for the others, every character is a token or none
    if config.type in ("wordpiece", "unigram"):
        settings.append(config.character_coverage)
    key = digest(identities, weights, settings, tokenizer_.SPECIALS)[:24]
    file = cache / "tokenizers" / f"{config.type}-{config.vocab_size}-{key}.json"
    if is_new := not file.is_file():
        if not build:
            raise _missing(f"the tokenizer {file}")
        file.parent.mkdir(exist_ok=True)
        with locked(file.with_suffix(".lock"), log):
            if not file.is_file():
                log(f"training a {config.type} tokenizer of {config.vocab_size} tokens")
                started = time.monotonic()
                trained = tokenizer_.train(
                    _Sample(found, weights, config.training_bytes, data.validation_fraction),
                    type=config.type,
                    vocab_size=config.vocab_size,
                    lowercase=config.lowercase,
                    min_frequency=config.min_frequency,
                    character_coverage=config.character_coverage,
                    log=log,
                    source=data.source,
                )
                trained.save(file)
                seconds = time.monotonic() - started
                log(f"tokenizer of {trained.size} tokens in {seconds:.1f} s: {file}")
    opened = tokenizer_.load(file)
    if not is_new and opened.size < config.vocab_size:  # a new one was logged above
        log(tokenizer_.describe_size(opened.size, config.vocab_size))
    return opened


@dataclass(frozen=True)
class _Sample:
    """Training documents of at most `limit` bytes, spread evenly over the files of each source."""

    sources: list
    weights: list[float]
    limit: int
    fraction: float  # of the documents in validation

    def __iter__(self) -> Iterator[str]:
        for source, weight in zip(self.sources, self.weights, strict=True):
            splits = source.splits()
            split = "train" if "train" in splits else ""
            files = splits[split]
            files = files[:: max(1, len(files) // _MAX_TOKENIZER_FILES)]
            left = int(self.limit * weight)
            for done, file in enumerate(files):
                share = left // (len(files) - done)
                for text in _training_texts(source, file, split, share, self.fraction):
                    left -= len(text.encode())
                    yield text


def _training_texts(source, file: int, split: str, limit: int, fraction: float) -> Iterator[str]:
    """Training documents of at most `limit` bytes from several places of one file."""
    ranges = source.ranges(file, _MIN_ITEM_BYTES)
    ranges = ranges[:: max(1, len(ranges) // _MAX_RANGES_PER_FILE)]
    for done, file_range in enumerate(ranges):
        left = limit // (len(ranges) - done)
        keep = None  # whether the current document is a training document
        for chunk in source.read(file_range):
            if left <= 0:
                break
            if keep is None:
                keep = bool(split) or not sources.in_validation(chunk.text.strip("\r\n"), fraction)
            if keep and chunk.text:
                text = chunk.text.encode()[:left]
                left -= len(text)
                limit -= len(text)
                yield text.decode(errors="ignore")  # the last character may be cut
            keep = None if chunk.is_last else keep


def _plan(source) -> tuple[list[WorkItem], int]:
    """The work items of a source and its bytes: the same on every machine, for any number of workers."""
    sizes = source.sizes()
    total = sum(sizes)
    size = min(max(total // _MAX_ITEMS, _MIN_ITEM_BYTES), _MAX_ITEM_BYTES)
    items, group, group_bytes = [], [], 0

    def close(split):
        nonlocal group, group_bytes
        if group:
            items.append(WorkItem(len(items), split, tuple(group)))
        group, group_bytes = [], 0

    for split, files in source.splits().items():
        for file in files:
            ranges = source.ranges(file, size)
            for file_range in ranges:
                group.append(file_range)
                group_bytes += sizes[file] // len(ranges)
                if group_bytes >= size:
                    close(split)
        close(split)
    return items, total


def _stores(source, identity, tokenizer, data, cache, log, build) -> dict[str, TokenStore]:
    """The source's store of each split; they are made if they are missing or damaged."""
    fraction = data.validation_fraction if "" in source.splits() else 0.0
    fingerprint = digest(identity, tokenizer.fingerprint, fraction, writer.FORMAT)
    plain = "".join(c if c.isalnum() else "_" for c in source.name)[:40].strip("_")
    directory = cache / "stores" / f"{plain}-{fingerprint[:16]}"
    finished = directory / SPLITS[0] / METADATA

    def read():
        return {
            split: TokenStore.open(directory / split, tokenizer.fingerprint) for split in SPLITS
        }

    try:
        return read()
    except ValueError:
        if not build and finished.is_file():
            raise
    if not build:
        raise _missing(f"the token store {directory}")
    directory.parent.mkdir(exist_ok=True)
    with locked(directory.with_name(directory.name + ".lock"), log):
        try:
            return read()  # another process has made them
        except ValueError as error:
            if finished.is_file():
                log(f"{source.name}: a token store is damaged and is made again ({error})")
        settings = {
            "fingerprint": fingerprint,
            "tokenizer": tokenizer.fingerprint,
            "source": source.name,
        }
        _build(source, tokenizer, fraction, directory, settings, data.workers, log)
        return read()


def _build(source, tokenizer, fraction, directory: Path, settings, workers: int, log) -> None:
    """Runs the items that are not finished yet under a temporary name, then renames."""
    partial = directory.with_name(directory.name + ".partial")
    (partial / "items").mkdir(parents=True, exist_ok=True)
    tokenizer.save(partial / "tokenizer.json")
    items, total = _plan(source)
    left = [item for item in items if not item.record(partial).is_file()]
    if len(left) < len(items):
        log(f"{source.name}: {len(items) - len(left)} of {len(items)} work items are finished")
    share = total * len(left) // max(1, len(items))
    workers = min(workers or os.cpu_count() or 1, len(left)) if share > _MIN_PARALLEL_BYTES else 1
    workers = max(1, workers)
    log(
        f"{source.name}: tokenizing {share / 1e6:.1f} MB in {workers} "
        f"{'process' if workers == 1 else 'processes'}"
    )
    started = time.monotonic()
    progress = parallel.Progress(share, source.name, log)
    try:
        parallel.run(source, tokenizer, left, partial, fraction, workers, progress)
    finally:
        progress.close()
    writer.finish(partial, items, list(source.files), settings, tokenizer)
    if directory.exists():  # damaged, or without metadata
        shutil.rmtree(directory)
    os.replace(partial, directory)
    writer.tidy(directory)
    train = TokenStore.open(directory / "train")
    log(
        f"{source.name}: {train.num_documents} documents, {train.num_tokens} tokens to train on, in "
        f"{time.monotonic() - started:.1f} s: {directory}"
    )
