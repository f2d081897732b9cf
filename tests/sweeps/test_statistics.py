"""Statistics of paired seeds, compared with values worked out by hand."""

import math

import pytest

from studies import table
from sweeps import statistics
from sweeps.table import quantity


def test_spread_is_mean_sample_deviation_and_error_of_the_mean():
    spread = statistics.spread([1.0, 2.0, 3.0, 6.0])
    assert spread.mean == 3.0
    assert spread.std == pytest.approx(math.sqrt((4 + 1 + 0 + 9) / 3))
    assert spread.stderr == pytest.approx(math.sqrt(14 / 3) / 2)
    assert spread.count == 4


def test_one_value_has_no_deviation_and_none_is_an_error():
    single = statistics.spread([0.5])
    assert single == statistics.Spread(0.5, None, None, 1)
    with pytest.raises(ValueError, match="at least one seed"):
        statistics.spread([])


def test_paired_difference_compares_seed_by_seed():
    # Differences of the common seeds 0, 1, 2, 3: 0.1, 0.3, -0.1, 0.0; seeds 8 and 9 have no partner.
    scores = {0: 0.5, 1: 0.9, 2: 0.2, 3: 0.4, 9: 1.0}
    reference = {3: 0.4, 2: 0.3, 1: 0.6, 0: 0.4, 8: 0.0}
    paired = statistics.paired(scores, reference)
    assert paired.mean == pytest.approx(0.075)
    std = math.sqrt((0.025**2 + 0.225**2 + 0.175**2 + 0.075**2) / 3)
    assert paired.stderr == pytest.approx(std / 2)
    assert (paired.wins, paired.ties, paired.count) == (2, 1, 4)
    found = statistics.record(paired)
    # 3.182: Student's t with 3 degrees of freedom, two-sided 95 %.
    assert table.format_difference(found) == f"+0.075 ± {3.182 * std / 2:.3f}"
    assert not table.is_clear(found)


def test_pairing_removes_the_effect_that_a_seed_has_on_both_conditions():
    shift = {seed: 10.0 * seed for seed in range(5)}
    scores = {seed: shift[seed] + 0.1 + 0.01 * (-1) ** seed for seed in shift}
    paired = statistics.paired(scores, shift)
    assert paired.mean / paired.stderr > 20
    assert statistics.spread(list(scores.values())).stderr > 1


def test_a_difference_is_clear_if_its_interval_excludes_0():
    def found(scores, reference):
        paired = statistics.record(statistics.paired(scores, reference))
        return table.format_difference(paired), table.is_clear(paired)

    assert found({0: 1.0, 1: 2.0}, {0: 0.5, 1: 1.5}) == ("+0.500 ± 0.000", True)
    assert found({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}) == ("+0.000 ± 0.000", False)
    assert found({0: 0.5, 1: 1.5}, {0: 1.0, 1: 2.0}) == ("-0.500 ± 0.000", True)  # clearly worse
    # Two pairs that differ a little are far from clear: 12.7 standard errors.
    assert found({0: 1.0, 1: 2.0}, {0: 0.9, 1: 1.95}) == ("+0.075 ± 0.318", False)
    assert found({0: 1.0}, {0: 0.5}) == ("+0.500", False)
    with pytest.raises(ValueError, match="none in common"):
        statistics.paired({0: 1.0}, {1: 0.5})


def test_quantities_have_three_digits_and_a_unit():
    values = (0, 999, 409_600, 999_600, 1.23456e6, 1.5e12, 9.87e16)
    texts = ["0", "999", "410 k", "1 M", "1.23 M", "1.5 T", "9.87e+16"]
    assert [quantity(value) for value in values] == texts


def test_standard_error_of_an_accuracy_is_binomial():
    assert statistics.accuracy_stderr(0.5, 100) == pytest.approx(0.05)
    assert statistics.accuracy_stderr(0.2, 1000) == pytest.approx(math.sqrt(0.16 / 1000))
