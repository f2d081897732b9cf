"""How many labels an initialization is worth, against values computed by hand."""

import math

import pytest

from studies import label_value

CURVE = [(100, 0.2), (1000, 0.6), (10_000, 0.7)]


@pytest.mark.parametrize(
    ("accuracy", "expected"),
    [(0.1, 0.0), (0.2, 0.0), (0.4, 10**2.5), (0.6, 1000), (0.65, 10**3.5), (0.7, 10_000), (0.71, math.inf)],
)  # fmt: skip
def test_the_number_of_labels_at_which_a_curve_reaches_an_accuracy(accuracy, expected):
    assert label_value.labels_for(CURVE, accuracy) == pytest.approx(expected)


def test_a_curve_that_falls_counts_where_it_first_reaches_the_accuracy():
    curve = [(100, 0.2), (1000, 0.6), (10_000, 0.5), (100_000, 0.8)]
    assert label_value.labels_for(curve, 0.55) < 1000
    assert label_value.labels_for(curve, 0.65) == pytest.approx(10**4.5)


def test_seeds_are_paired_and_the_interval_is_that_of_the_logarithm():
    references = {100: {0: 0.2, 1: 0.3}, 1000: {0: 0.6, 1: 0.7}, 0: {0: 0.9, 1: 0.9}}
    found = label_value.compare({0: 0.4, 1: 0.6, 2: 0.9}, references)
    assert found["count"] == 2 and found["below"] == found["above"] == 0
    assert found["labels"] == pytest.approx(10 ** ((2.5 + 2.75) / 2))
    half = 12.7062 * 0.25 / 2  # Student's t with one degree of freedom; s.d. / sqrt(2) is 0.125
    low, high = found["interval95"]
    assert math.log10(high / low) == pytest.approx(2 * half, rel=1e-4)
    assert label_value.describe(found) == f"422 ({low:,.0f} to {high:,.0f})"
    one = label_value.compare({1: 0.6}, references)
    assert one["interval95"] is None and label_value.describe(one) == "562"


def test_an_accuracy_outside_of_the_curve_gives_a_bound():
    references = {100: {0: 0.2, 1: 0.3, 2: 0.3}, 2000: {0: 0.6, 1: 0.7, 2: 0.7}}
    found = label_value.compare({0: 0.1, 1: 0.8, 2: 0.9}, references)
    assert found["labels"] is None and found["interval95"] is None
    expected = "100 or fewer in 1 of 3 seeds, more than 2,000 in 2 of 3 seeds"
    assert label_value.describe(found) == expected
    found = label_value.compare({0: 0.1, 1: 0.5, 2: 0.5}, references)
    assert label_value.describe(found) == "447 in the median (100 or fewer in 1 of 3 seeds)"
    # the median is between a bound and 447
    found = label_value.compare({0: 0.1, 1: 0.5}, references)
    assert found["median"] is None
    assert label_value.describe(found) == "100 or fewer in 1 of 2 seeds"


def test_one_number_of_labels_is_no_curve():
    assert label_value.compare({0: 0.5}, {100: {0: 0.2}, 0: {0: 0.9}}) is None
    assert label_value.compare({0: 0.5}, {100: {0: 0.2}, 200: {1: 0.9}}) is None
