"""Pretraining end to end: what the log shows, and what seeds, frozen parameters and initial biases do."""

import io
import re

import numpy as np
import pytest
import tiny_configs

import train
from training import logs, run_directory

BIAS = "heads/lm/bias"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(folder, console lines of the run `plain`): `plain` has the defaults, `changed` other options."""
    folder, console = tmp_path_factory.mktemp("pretraining"), io.StringIO()
    config = tiny_configs.pretraining(
        folder, training__duration="8 steps", logging__every="3 steps", training__seq_len=28
    )
    logs.log_to_console(console)
    train.run(config, str(folder / "plain"))
    lines = console.getvalue().splitlines()
    config = tiny_configs.pretraining(
        folder, seed="1", freeze="('embed/.*',)", model__lm_head_bias_init="zeros"
    )
    train.run(config, str(folder / "changed"))
    return folder, lines


def test_the_log_has_a_line_at_each_multiple_of_the_interval_and_at_the_end(runs):
    steps = [m[1] for line in runs[1] if (m := re.match(r"step +(\d+)/8 .*loss \d", line))]
    assert steps == ["3", "6", "8"]


def test_the_log_says_that_the_step_is_compiled_before_the_first_line_of_the_loop(runs):
    compiling = runs[1].index("compiling the train step")
    assert re.fullmatch(r"compiled in \d+\.\d s", runs[1][compiling + 1])
    first = next(i for i, line in enumerate(runs[1]) if line.startswith("step"))
    assert compiling < first and runs[1].count("compiling the train step") == 1


def test_frozen_parameters_stay_and_the_others_move(runs):
    run = runs[0] / "changed"
    before, after = (tiny_configs.read_params(run, step) for step in (0, 2))
    moved = {path for path in before if not np.array_equal(before[path], after[path])}
    frozen = {path for path in before if path.startswith("embed/")}
    assert frozen and moved == before.keys() - frozen
    rules = run_directory.read_manifest(run)["param_rules"]
    assert {line.split()[0] for line in rules if line.endswith("frozen")} == frozen


def test_the_output_bias_starts_at_log_frequencies_or_at_zero(runs):
    folder, _ = runs
    bias = tiny_configs.read_params(folder / "plain", 0)[BIAS].astype(np.float64)
    counts = np.expm1(bias)  # log(1 + count)
    shares = counts[counts > 0.5] / counts.sum()
    entropy = run_directory.read_manifest(folder / "plain")["target_entropy"]["loss"]
    assert -(shares * np.log(shares)).sum() == pytest.approx(entropy, rel=1e-4)
    # The untrained model predicts the marginal distribution; a uniform one would have log(vocabulary).
    losses = [logs.read_metrics(folder / run, "train")[0]["loss"] for run in ("plain", "changed")]
    size = run_directory.read_config(folder / "plain")["model"]["vocab_size"]
    assert losses[0] < entropy + 0.5 < np.log(size) - 0.5 < losses[1]
    assert not tiny_configs.read_params(folder / "changed", 0)[BIAS].any()


def test_one_seed_sets_every_stream(runs):
    folder, _ = runs
    stored = run_directory.read_config(folder / "changed")["config"]["seed"]
    assert stored == {"init": 1, "data": 1, "dropout": 1, "head": 1}
    zero, one = (tiny_configs.read_params(folder / run, 0) for run in ("plain", "changed"))
    for path, array in zero.items():
        if np.ptp(array) and path != BIAS:
            assert not np.array_equal(array, one[path]), path
