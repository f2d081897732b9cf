"""Batches of rows as a pure function of (data fingerprint, seed, step, global batch), with Grain.

Between the token stores and the training loop. Access is random, so resuming is arithmetic.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import grain
import numpy as np

from data.store import Rows

# A source and one of its rows as one integer, which Grain shuffles, repeats and mixes.
_ROW_BITS = 48


@dataclass(frozen=True)
class _RowNumbers:
    """The row numbers of one source, as the sequence that Grain reads."""

    source: int
    num_rows: int

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, row: int) -> int:
        return (self.source << _ROW_BITS) | int(row)

    def _getitems(self, rows) -> list[int]:  # Grain's own batched read
        return [(self.source << _ROW_BITS) | row for row in rows]

    def __repr__(self) -> str:
        return f"rows of source {self.source}"


class Batches:
    """Every batch of a run, by step.

    The rows of each source are shuffled anew in each epoch by an index permutation, repeated, and
    mixed by weight. Batch s of process p holds positions s*B + p*b + [0, b) of that one order, so that
    neither processes, threads nor a restart change a row.
    """

    def __init__(
        self,
        rows: list[Rows],
        weights: tuple[float, ...],
        *,
        seed: int,
        global_batch: int,
        process_index: int = 0,
        process_count: int = 1,
    ):
        if len(rows) != len(weights) or not rows:
            raise ValueError(
                f"{len(rows)} sources of rows but {len(weights)} weights: give one for each"
            )
        if len({each.length for each in rows}) != 1:
            raise ValueError(
                f"sources have rows of lengths {sorted({r.length for r in rows})}: use one length"
            )
        self._rows = rows
        self.local_batch = _local_batch(global_batch, process_count)
        self._global_batch, self._first = global_batch, process_index * self.local_batch
        shuffled = [
            grain.MapDataset.source(_RowNumbers(i, len(each)))
            .shuffle(seed=zlib.crc32(f"{seed}:{i}".encode()))
            .repeat()
            for i, each in enumerate(rows)
        ]
        mixed = shuffled[0] if len(rows) == 1 else grain.MapDataset.mix(shuffled, list(weights))
        # Grain (0.2.18) has a batched read that its public `batch` does not use. Reading the same
        # elements one by one costs ten times as much.
        self._take = getattr(mixed, "_getitems", lambda places: [mixed[i] for i in places])

    def batch_at(self, step: int) -> np.ndarray:
        """The batch of a step (0-based): int32[global_batch / process_count, length]."""
        return self.read(self.rows_at(step))

    def rows_at(self, step: int) -> np.ndarray:
        """Which rows a batch holds: int64[n, 2] of (source, row)."""
        start = step * self._global_batch + self._first
        numbers = np.array(self._take(range(start, start + self.local_batch)), np.int64)
        return np.stack([numbers >> _ROW_BITS, numbers & ((1 << _ROW_BITS) - 1)], axis=1)

    def read(self, which: np.ndarray) -> np.ndarray:
        """Rows int64[n, 2] of (source, row) -> int32[n, length]."""
        if len(self._rows) == 1:
            return self._rows[0].many(which[:, 1])
        out = np.empty((len(which), self._rows[0].length), np.int32)
        for source, rows in enumerate(self._rows):
            places = np.flatnonzero(which[:, 0] == source)
            if len(places):
                out[places] = rows.many(which[places, 1])
        return out

    def iterate(
        self, start_step: int = 0, threads: int = 4, prefetch: int = 8
    ) -> Iterator[tuple[int, np.ndarray]]:
        """(step, batch) from `start_step` on, without end, read ahead by threads."""
        steps = grain.MapDataset.range(start_step, 1 << 62).map(_ReadStep(self))
        options = grain.ReadOptions(
            num_threads=threads, prefetch_buffer_size=max(threads, prefetch)
        )
        yield from steps.to_iter_dataset(options)


@dataclass(frozen=True)
class _ReadStep:
    batches: Batches

    def __call__(self, step: int) -> tuple[int, np.ndarray]:
        return int(step), self.batches.batch_at(int(step))


def _local_batch(global_batch: int, process_count: int) -> int:
    if global_batch % process_count:
        raise ValueError(
            f"a global batch of {global_batch} rows does not divide evenly over {process_count} "
            "processes: make it a multiple"
        )
    return global_batch // process_count


def evaluation_batches(
    rows: list[Rows],
    global_batch: int,
    *,
    process_index: int = 0,
    process_count: int = 1,
    limit: int = 0,
) -> Iterator[np.ndarray]:
    """Every row once, in order: int32[global_batch / process_count, length] each time.

    Rows of padding fill the last batch, so that all batches have one shape. `limit` > 0 stops after
    that many batches, whose rows are spread evenly over all sources.
    """
    local = _local_batch(global_batch, process_count)
    sizes = np.array([len(each) for each in rows], np.int64)
    ends = np.cumsum(sizes)
    total = -(-int(ends[-1]) // global_batch) if len(rows) else 0
    steps = min(total, limit) if limit else total
    for step in range(steps):
        places = step * global_batch + process_index * local + np.arange(local)
        if steps < total:
            places = places * int(ends[-1]) // (steps * global_batch)
        out = np.full((local, rows[0].length), rows[0].pad, np.int32)
        for source, each in enumerate(rows):
            start, end = ends[source] - sizes[source], ends[source]
            inside = (places >= start) & (places < end)
            if inside.any():
                out[inside] = each.many(places[inside] - start)
        yield out
