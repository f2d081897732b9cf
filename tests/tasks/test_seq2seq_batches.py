"""Batches of sequence-to-sequence tasks: of similar length, of replicas, and packed."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from pairs import MODELS, WORDS, load, tokenizer_folder, trained_on

from tasks import evaluate
from training.train_step import split_microbatches

each_model = pytest.mark.parametrize("kind", MODELS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tokenizer_folder(tmp_path_factory.mktemp("pairs"))


@functools.cache
def grouped(folder, kind):
    """(a task of pairs of 1 to 14 words, the same with batches of similar length)."""
    random = np.random.default_rng(2)
    texts = [" ".join(random.choice(WORDS, random.integers(1, 15))) for _ in range(75)]
    splits = {"train": (texts[:64], texts[11:]), "validation": (texts[64:], texts[:11])}
    options = {"batch": (16, 3), "max_seq_len": 16, "max_target_len": 16}
    return [load(folder, kind, splits, length_group_steps=n, **options) for n in (0, 4)]


@each_model
def test_grouped_batches_are_short_and_scores_stay_in_the_order_of_the_examples(folder, kind):
    """The same examples in shorter rows; predictions differ by rounding alone."""
    task, short = grouped(folder, kind)
    _, model, params = trained_on(folder, kind)
    assert 1 < len(short.shapes) <= 5 and short.num_shapes == len(short.shapes)
    assert task.shapes == (task.full_shape,)
    for step in range(4):
        batch = short.train_inputs(step)
        rows = [row["row"] for row in short.provenance(step)]
        whole = task.batch("train", np.array(rows))
        for cut, full in zip(jax.tree.leaves(batch), jax.tree.leaves(whole), strict=True):
            np.testing.assert_array_equal(cut, full[:, : cut.shape[1]])
            assert not full[:, cut.shape[1] :].any()
    step = jax.jit(lambda batch: task.outputs(model, params, batch))
    found = [evaluate(each, "validation", step) for each in (task, short)]
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-5, atol=1e-5)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-5)
    lengths = short.lengths("validation")[short._eval_order("validation")]
    assert (np.diff(-(-lengths[:, 0] // 8)) >= 0).all()


def test_replicas_with_grouped_batches_share_the_shape_of_the_longest(folder):
    task = grouped(folder, "encoder_decoder")[1]
    tasks = [task.with_seed(seed) for seed in range(3)]
    assert len({each.shapes for each in tasks}) == 1
    alone = [each.iterate(5) for each in tasks]
    for _, together, *others in zip(
        range(4), task.iterate_together(tasks, 5), *alone, strict=False
    ):
        sizes = {tuple(x.shape for x in jax.tree.leaves(batch)) for batch in together}
        assert len(sizes) == 1
        for batch, other in zip(together, others, strict=True):
            for long, short in zip(jax.tree.leaves(batch), jax.tree.leaves(other), strict=True):
                np.testing.assert_array_equal(long[:, : short.shape[1]], short)
                assert not long[:, short.shape[1] :].any()


@each_model
@pytest.mark.parametrize("grad_accum_steps", [1, 2])
def test_packed_batches_have_the_loss_and_gradients_of_unpacked_ones(
    folder, kind, grad_accum_steps
):
    task, model, params = trained_on(folder, kind)
    packed = dataclasses.replace(
        task, task=dataclasses.replace(task.task, packing=True), grad_accum_steps=grad_accum_steps
    )
    assert 0 < packed.packed_rows < 16 // grad_accum_steps

    @jax.jit
    def loss_and_gradient(params, batch):
        def total(params, part):
            sums = task.losses(model, params, part, None)
            return sums["seq2seq"][0], sums

        parts = split_microbatches(batch, grad_accum_steps)
        parts = [jax.tree.map(lambda x, n=n: x[n], parts) for n in range(grad_accum_steps)]
        found = [jax.grad(total, has_aux=True)(params, part) for part in parts]
        return jax.tree.map(lambda *x: sum(x), *found)

    both = [each.train_inputs(2) for each in (task, packed)]
    assert both[0].packing is None and both[1].packing.num_rows == packed.packed_rows
    assert len(np.unique(both[1].packing.rows)) <= packed.packed_rows
    (plain, sums), (found, packed_sums) = (loss_and_gradient(params, batch) for batch in both)
    for name in sums:
        np.testing.assert_allclose(packed_sums[name], sums[name], rtol=1e-5)
    largest = max(np.abs(x).max() for x in jax.tree.leaves(plain))  # those of key biases are 0
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * largest)
    again = packed.train_inputs(2)
    jax.tree.map(np.testing.assert_array_equal, again, both[1])
