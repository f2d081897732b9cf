"""Batches of a labeled set: which examples a step reads, and the shape that they have.

The part of tasks/loaded_labeled_task.py that knows lengths: examples of similar length together, or
several of them packed into a row. Everything is a function of (seed, step) and the lengths.
"""

import functools
import itertools

import jax
import numpy as np

from tasks import batch_shapes, example_order, packing
from tasks.base import LoadedTask

_PACKED_SAMPLE = 100  # batches by which the number of packed rows is chosen
# Batches whose sorted examples choose the evaluation shapes when training batches are packed.
_EVAL_WINDOW = 50


class LabeledBatches(LoadedTask):
    """The batches of LoadedLabeledTask, which has the fields that are read here, and `batch`."""

    # Where `outputs` are [B, T, ...], a value for each token: the value that pads shorter batches.
    output_padding: float | None = None

    @property
    def full_shape(self) -> tuple[int, ...]:
        """The largest shape of a batch: the width of its rows."""
        return (self.task.max_seq_len,)

    def lengths(self, split: str) -> np.ndarray:
        """int[n, K]: the lengths of the K sequences of each example, which `full_shape` limits."""
        return self.encoded[split].lengths[:, None]

    def tokens_read(self, shape: tuple[int, ...]) -> int:
        """Tokens that the model reads in a row of a batch of this shape."""
        return shape[0]

    @functools.cached_property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes that batches are padded to, ascending; `full_shape` alone without length_group_steps
        and packing. Packed training batches have the last one."""
        if self.fixed_shapes:
            return self.fixed_shapes
        if not self._is_sorted:
            return (self.full_shape,)
        chosen = batch_shapes.choose_shapes(
            self.lengths("train" if "train" in self.encoded else next(iter(self.encoded))),
            self.full_shape,
            self.batch_size,
            self.task.length_group_steps or _EVAL_WINDOW,
        )
        # The last one is for evaluation alone, of examples longer than any of train.
        return chosen if chosen[-1] == self.full_shape else (*chosen, self.full_shape)

    @property
    def row_lengths(self):
        return super().row_lengths | {length for shape in self.shapes for length in shape}

    @functools.cached_property
    def packed_rows(self) -> int:
        """Rows of a packed microbatch; 0: batches are not packed. A batch that needs more rows than each
        of _PACKED_SAMPLE random batches has a row for each example."""
        size, rows = self.batch_size // self.grad_accum_steps, 0
        if not self.task.packing:
            return 0
        random = np.random.Generator(np.random.Philox(0))
        for _ in range(_PACKED_SAMPLE):
            chosen = random.integers(0, len(self.encoded["train"]), size)
            batch = self.batch("train", chosen)
            lengths, capacity = packing.lengths_of(batch), packing.capacity_of(batch)
            rows = max(rows, packing.first_fit(lengths, capacity)[2])
        rows = -(-rows // self.batch_divisor) * self.batch_divisor
        return rows if rows < size else 0

    @functools.cached_property
    def length_share(self) -> float:
        if self.packed_rows:
            return self.packed_rows * self.grad_accum_steps / self.batch_size
        steps = range(self.task.length_group_steps)
        read = [self.tokens_read(self._train_shape(self._indices(step))) for step in steps]
        return float(np.mean(read)) / self.tokens_read(self.full_shape) if read else 1.0

    @property
    def tokens_per_step(self) -> int:
        return round(self.batch_size * self.tokens_read(self.full_shape) * self.length_share)

    def train_inputs(self, step):
        return next(self.iterate_together([self], step))[0]

    def iterate_together(self, tasks, start):
        for step in itertools.count(start):
            steps = [(task, task._indices(step)) for task in tasks]
            if self.packed_rows:
                whole = [task.batch("train", indices) for task, indices in steps]
                packed = [packing.pack(b, self.packed_rows, self.grad_accum_steps) for b in whole]
                fits = all(batch.packing is not None for batch in packed)
                yield [jax.tree.map(self._local, batch) for batch in (packed if fits else whole)]
                continue
            shapes = [task._train_shape(indices) for task, indices in steps]
            shape = batch_shapes.smallest_shape(self.shapes, np.max(shapes, axis=0))
            yield [task.batch("train", task._local(indices), *shape) for task, indices in steps]

    def eval_inputs(self, split):
        for indices, shape in self.eval_indices(split):
            yield self.eval_batch(split, indices, *shape)

    def eval_batch(self, split: str, indices, *widths):
        """As `batch`, for evaluation."""
        return self.batch(split, indices, *widths)

    def eval_indices(self, split):
        """Iterates over (this process's examples int[B], shape) of the evaluation batches of a split."""
        order = self._eval_order(split)
        for places in example_order.sequential(len(order), self.eval_batch_size):
            is_real = places != example_order.PADDING
            indices = np.where(is_real, order[places], example_order.PADDING)
            yield self._local(indices), self._shape(split, indices[is_real])

    def in_order(self, split, outputs):
        if not self._is_sorted:
            return outputs
        order = self._eval_order(split)

        def join(*parts):
            if self.output_padding is not None:
                width, value = self.full_shape[0], self.output_padding
                widths = [
                    [(0, 0), (0, width - x.shape[1]), *[(0, 0)] * (x.ndim - 2)] for x in parts
                ]
                parts = [
                    np.pad(x, each, constant_values=value)
                    for x, each in zip(parts, widths, strict=True)
                ]
            parts = np.concatenate(parts)[: len(order)]
            found = np.empty_like(parts)
            found[order] = parts
            return found

        return [jax.tree.map(join, *outputs)]

    @property
    def num_shapes(self):
        return len(self.shapes)

    def describe_shape(self, inputs):
        text = " and ".join(
            f"{name}width {side.tokens.shape[-1]}"
            for name, side in (("", inputs.inputs), ("decoder ", inputs.decoder_inputs))
            if side is not None
        )
        packed = inputs.packing
        return text + (f", {packed.num_rows} packed rows" if packed is not None else "")

    def describe_batches(self) -> list[str]:
        """Lines about the shapes of batches, for the log."""
        lines = []
        if self.task.length_group_steps:
            shapes = ", ".join(" and ".join(map(str, shape)) for shape in self.shapes)
            lines.append(
                f"batches of similar length are padded to {shapes} tokens, {self.length_share:.0%} of the "
                "longest on average; each is compiled once"
            )
        if self.packed_rows:
            width = self.full_shape[0]
            lines.append(
                f"packed: {self.batch_size} examples in {self.packed_rows * self.grad_accum_steps} rows of "
                f"{width} tokens, {self.length_share:.0%} of the unpacked rows"
            )
        elif self.task.packing:
            lines.append("packing saves no row: the examples of a batch are too long for it")
        return lines

    @property
    def _is_sorted(self):
        """Whether evaluation batches have examples of similar length."""
        return bool(self.task.length_group_steps or self.task.packing)

    def _eval_order(self, split):
        """int[n]: the examples of a split in the order in which they are evaluated."""
        lengths = self.lengths(split)
        if not self._is_sorted:
            return np.arange(len(lengths))
        return np.argsort(batch_shapes.length_keys(lengths), kind="stable")

    def _indices(self, step):
        """Indices int64[batch_size] of the training rows of a step, over all processes."""
        if self.task.length_group_steps:
            places = example_order.grouped_at(
                step, self.batch_size, self._train_keys, self.task.length_group_steps, self.seed
            )
        else:
            places = example_order.shuffled_at(step, self.batch_size, len(self.rows), self.seed)
        return self.rows[places]

    @functools.cached_property
    def _train_keys(self):
        """int64[m]: the training rows are sorted by these."""
        return batch_shapes.length_keys(self.lengths("train")[self.rows])

    def _train_shape(self, indices):
        """The shape of a training batch of examples int[B], over all processes."""
        return self._shape("train", indices) if self.task.length_group_steps else self.full_shape

    def _shape(self, split, indices):
        """The shape that a batch of examples int[B] is padded to, over all processes."""
        return batch_shapes.smallest_shape(self.shapes, self.lengths(split)[indices].max(0))

    def _local(self, indices):
        """This process's share of a global batch."""
        share = len(indices) // self.process_count
        return indices[self.process_index * share :][:share]
