"""Batches of rows as a pure function of (data fingerprint, seed, step, global batch), by Grain.

Between the token stores and the training loop; random access, so resuming is arithmetic.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import grain
import numpy as np

from data.store import Rows

# Where a row comes from and which one it is, in one integer: Grain shuffles, repeats and mixes these.
_ROW_BITS = 48


@dataclass(frozen=True)
class _Numbers:
    """The numbers of one source's rows, as the sequence Grain reads."""

    source: int
    rows: int

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, row: int) -> int:
        return (self.source << _ROW_BITS) | int(row)

    def _getitems(self, rows) -> list[int]:  # Grain's own batched read
        return [(self.source << _ROW_BITS) | row for row in rows]

    def __repr__(self) -> str:
        return f"rows of source {self.source}"


class Batches:
    """Every batch of a run, by step. See `batches` for the arguments."""

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
                f"{len(rows)} sources of rows but {len(weights)} weights: one for each"
            )
        if len({each.length for each in rows}) != 1:
            raise ValueError(
                f"sources have rows of lengths {sorted({r.length for r in rows})}: use one"
            )
        if global_batch % process_count:
            raise ValueError(
                f"a global batch of {global_batch} rows does not divide over {process_count} "
                "processes: make it a multiple"
            )
        self._rows = rows
        self.local_batch = global_batch // process_count
        self._global_batch, self._first = global_batch, process_index * self.local_batch
        shuffled = [
            grain.MapDataset.source(_Numbers(i, len(each)))
            .shuffle(seed=zlib.crc32(f"{seed}:{i}".encode()))
            .repeat()
            for i, each in enumerate(rows)
        ]
        mixed = shuffled[0] if len(rows) == 1 else grain.MapDataset.mix(shuffled, list(weights))
        # Grain reads many elements at once through a method that `batch` does not use yet (0.2.18);
        # the same elements one by one cost ten times as much.
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
            mine = np.flatnonzero(which[:, 0] == source)
            if len(mine):
                out[mine] = rows.many(which[mine, 1])
        return out

    def iterate(
        self, start_step: int = 0, threads: int = 4, prefetch: int = 8
    ) -> Iterator[tuple[int, np.ndarray]]:
        """(step, batch) from `start_step` on, without end, read ahead on threads."""
        steps = grain.MapDataset.range(start_step, 1 << 62).map(_Read(self))
        options = grain.ReadOptions(
            num_threads=threads, prefetch_buffer_size=max(threads, prefetch)
        )
        yield from steps.to_iter_dataset(options)


@dataclass(frozen=True)
class _Read:
    batches: Batches

    def __call__(self, step: int) -> tuple[int, np.ndarray]:
        return int(step), self.batches.batch_at(int(step))


def batches(
    rows: list[Rows],
    weights: tuple[float, ...],
    *,
    seed: int,
    global_batch: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 4,
    prefetch: int = 8,
) -> Iterator[tuple[int, np.ndarray]]:
    """Iterates over (step, int32[global_batch / process_count, length]) from `start_step` on.

    The rows of each source are shuffled anew each epoch by an index permutation, repeated, and mixed
    by weight; batch s of process p holds positions s*B + p*b + [0, b) of that one order, so neither
    processes, threads nor a restart change a row.
    """
    every = Batches(
        rows,
        weights,
        seed=seed,
        global_batch=global_batch,
        process_index=process_index,
        process_count=process_count,
    )
    return every.iterate(start_step, threads, prefetch)


def evaluation_batches(
    rows: list[Rows],
    global_batch: int,
    *,
    process_index: int = 0,
    process_count: int = 1,
    limit: int = 0,
) -> Iterator[np.ndarray]:
    """Every row once, in order: int32[global_batch / process_count, length] each time.

    The last batch is filled up with rows that are all padding, so that every batch has one shape.
    `limit` > 0 stops after that many batches, of rows spread evenly over all sources.
    """
    if global_batch % process_count:
        raise ValueError(
            f"a global batch of {global_batch} rows does not divide over {process_count} processes: "
            "make it a multiple"
        )
    local = global_batch // process_count
    sizes = np.array([len(each) for each in rows], np.int64)
    ends = np.cumsum(sizes)
    count = -(-int(ends[-1]) // global_batch) if len(rows) else 0
    steps = min(count, limit) if limit else count
    for step in range(steps):
        places = step * global_batch + process_index * local + np.arange(local)
        if steps < count:
            places = places * int(ends[-1]) // (steps * global_batch)
        out = np.full((local, rows[0].length), rows[0].pad, np.int32)
        for source, each in enumerate(rows):
            mine = (places >= ends[source] - sizes[source]) & (places < ends[source])
            if mine.any():
                out[mine] = each.many(places[mine] - (ends[source] - sizes[source]))
        yield out
