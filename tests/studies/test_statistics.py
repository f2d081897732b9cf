"""Statistics of paired seeds, against values worked out by hand."""

import math

import pytest

from studies import statistics


def test_spread_is_mean_sample_deviation_and_error_of_the_mean():
    spread = statistics.spread([1.0, 2.0, 3.0, 6.0])
    assert spread.mean == 3.0
    assert spread.deviation == pytest.approx(math.sqrt((4 + 1 + 0 + 9) / 3))
    assert spread.error == pytest.approx(math.sqrt(14 / 3) / 2)
    assert spread.count == 4


def test_one_value_has_no_deviation_and_none_is_an_error():
    single = statistics.spread([0.5])
    assert single.mean == 0.5 and math.isnan(single.deviation) and math.isnan(single.error)
    with pytest.raises(ValueError, match="at least one seed"):
        statistics.spread([])


def test_paired_difference_goes_seed_by_seed():
    # Differences over the shared seeds 0, 1, 2, 3: 0.1, 0.3, -0.1, 0.0; seeds 8 and 9 have no partner.
    arm = {0: 0.5, 1: 0.9, 2: 0.2, 3: 0.4, 9: 1.0}
    reference = {3: 0.4, 2: 0.3, 1: 0.6, 0: 0.4, 8: 0.0}
    paired = statistics.paired(arm, reference)
    assert paired.difference.mean == pytest.approx(0.075)
    deviation = math.sqrt((0.025**2 + 0.225**2 + 0.175**2 + 0.075**2) / 3)
    assert paired.difference.error == pytest.approx(deviation / 2)
    assert paired.ratio == pytest.approx(0.075 / (deviation / 2))
    assert (paired.won, paired.tied, paired.difference.count) == (2, 1, 4)


def test_pairing_takes_out_what_a_seed_does_to_both_arms():
    shift = {seed: 10.0 * seed for seed in range(5)}
    arm = {seed: shift[seed] + 0.1 + 0.01 * (-1) ** seed for seed in shift}
    paired = statistics.paired(arm, shift)
    assert paired.ratio > 20
    assert statistics.spread(list(arm.values())).error > 1


def test_ratio_of_equal_differences_and_of_one_pair():
    assert statistics.paired({0: 1.0, 1: 2.0}, {0: 0.5, 1: 1.5}).ratio == math.inf
    assert math.isnan(statistics.paired({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}).ratio)
    assert math.isnan(statistics.paired({0: 1.0}, {0: 0.5}).ratio)
    with pytest.raises(ValueError, match="no seed in common"):
        statistics.paired({0: 1.0}, {1: 0.5})


def test_error_of_an_accuracy_is_binomial():
    assert statistics.proportion_error(0.5, 100) == pytest.approx(0.05)
    assert statistics.proportion_error(0.2, 1000) == pytest.approx(math.sqrt(0.16 / 1000))
