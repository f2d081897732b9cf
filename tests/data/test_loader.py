"""Invariant 1: a batch is a pure function of the rows, the seed, the step and the global batch.

Processes, threads and restarts change no row; mixtures keep their proportions.
"""

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from corpora import documents, prepared, write

from data.loader import Batches, evaluation_batches
from data.special_tokens import SpecialTokenTemplate

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = SpecialTokenTemplate((), (4,), (3,))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Two sources with different numbers of rows."""
    folder = tmp_path_factory.mktemp("loader")
    write(folder / "a.txt", documents(60))
    write(folder / "b.txt", documents(25, seed=1))
    source = f"((0.75, 'text:{folder}/a.txt'), (0.25, 'text:{folder}/b.txt'))"
    result = prepared(folder, source, validation_fraction=0.0)
    assert result.weights == (0.75, 0.25)
    return [store.rows(24, 1, TEMPLATE) for store in result.train]


def take(rows, weights, steps, start=0, threads=4, prefetch=8, **settings):
    batches = Batches(rows, weights, **{"seed": 5, "global_batch": 12, **settings})
    return list(itertools.islice(batches.iterate(start, threads, prefetch), steps))


@pytest.mark.parametrize("sources", [1, 2])
def test_invariant_01_a_batch_is_a_pure_function_of_seed_and_step(rows, sources):
    rows, weights = rows[:sources], (0.75, 0.25)[:sources]
    first = take(rows, weights, 8, threads=1, prefetch=1)
    again = take(rows, weights, 8, threads=7, prefetch=20)
    access = Batches(rows, weights, seed=5, global_batch=12)
    for step in (6, 1, 7, 0):  # in any order
        assert first[step][0] == again[step][0] == step
        assert np.array_equal(first[step][1], again[step][1])
        assert np.array_equal(first[step][1], access.batch_at(step))
    other = take(rows, weights, 1, seed=6)
    assert not np.array_equal(other[0][1], first[0][1])


@pytest.mark.parametrize("sources", [1, 2])
def test_processes_change_no_row(rows, sources):
    rows, weights = rows[:sources], (0.75, 0.25)[:sources]
    whole = take(rows, weights, 5)
    for count in (2, 4):
        parts = [
            take(rows, weights, 5, process_index=index, process_count=count)
            for index in range(count)
        ]
        for step in range(5):
            joined = np.concatenate([part[step][1] for part in parts])
            assert np.array_equal(joined, whole[step][1])


@pytest.mark.parametrize("sources", [1, 2])
def test_a_restart_at_step_k_resumes_as_if_nothing_had_happened(rows, sources):
    rows, weights = rows[:sources], (0.75, 0.25)[:sources]
    whole = take(rows, weights, 9)
    for start in (1, 4):
        rest = take(rows, weights, 9 - start, start)
        for (step, batch), (expected_step, expected) in zip(rest, whole[start:], strict=True):
            assert step == expected_step and np.array_equal(batch, expected)


def test_an_epoch_shows_every_row_once_and_the_next_in_another_order(rows):
    count = len(rows[0])
    access = Batches(rows[:1], (1.0,), seed=0, global_batch=count)
    first, second = (access.rows_at(step)[:, 1].tolist() for step in (0, 1))
    assert sorted(first) == sorted(second) == list(range(count))
    assert first != second and first != sorted(first)


def test_a_mixture_keeps_its_proportions_and_repeats_no_row_early(rows):
    access = Batches(rows, (0.75, 0.25), seed=0, global_batch=400)
    which = np.concatenate([access.rows_at(step) for step in range(5)])
    assert abs((which[:, 0] == 0).mean() - 0.75) < 0.002
    for source, each in enumerate(rows):
        seen = np.bincount(which[which[:, 0] == source, 1], minlength=len(each))
        assert seen.max() - seen.min() <= 1  # in every epoch, each row as often as the others
    batch = access.batch_at(0)
    for place in (0, 5, 6, 399):
        source, row = access.rows_at(0)[place]
        assert np.array_equal(batch[place], rows[source][row])


def test_the_batched_read_gives_what_single_reads_give(rows):
    access = Batches(rows, (0.75, 0.25), seed=3, global_batch=40)
    dataset = access._take.__self__
    numbers = np.array([dataset[i] for i in range(40, 80)])
    assert np.array_equal(access.rows_at(1)[:, 1], numbers & ((1 << 48) - 1))


@pytest.mark.parametrize("processes", [1, 2])
def test_evaluation_reads_every_row_once_in_order(rows, processes):
    parts = [
        list(evaluation_batches(rows, 8, process_index=index, process_count=processes))
        for index in range(processes)
    ]
    assert {batch.shape for part in parts for batch in part} == {(8 // processes, 24)}
    read = np.concatenate([np.concatenate(batch) for batch in zip(*parts, strict=True)])
    expected = np.concatenate([each.many(np.arange(len(each))) for each in rows])
    assert np.array_equal(read[: len(expected)], expected)
    assert not read[len(expected) :].any() and len(read) - len(expected) < 8
    assert len(list(evaluation_batches(rows, 8, limit=2))) == 2


def test_a_batch_that_does_not_divide_is_refused(rows):
    with pytest.raises(ValueError, match="does not divide evenly over 5"):
        take(rows[:1], (1.0,), 1, process_count=5)
    with pytest.raises(ValueError, match="does not divide evenly over 5"):
        next(evaluation_batches(rows, 12, process_count=5))
    with pytest.raises(ValueError, match="2 sources of rows but 1 weights"):
        take(rows, (1.0,), 1)


def test_data_imports_no_jax_and_the_loader_starts_no_accelerator():
    code = (
        "import pathlib, sys\n"
        "for path in sorted(pathlib.Path('data').glob('*.py')):\n"
        "    if path.stem not in ('__init__', 'loader'):  # Grain imports JAX\n"
        "        __import__(f'data.{path.stem}')\n"
        'assert "jax" not in sys.modules\n'
        "import data.loader\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge._backends\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
