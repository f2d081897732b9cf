"""Lines, barriers, distances and planes in weight space, by hand."""

import math

import numpy as np
import pytest

from studies import paths_in_weights as weights


def tree(*values):
    return {"encoder": {"layer_0": {"kernel": np.array(values, np.float32)}}}


def test_a_barrier_is_the_largest_height_above_the_straight_connection():
    alphas = [-0.5, 0.0, 0.25, 0.5, 1.0, 1.5]
    # The connection of 4 and 2 has 3.5 at 0.25 and 3 at 0.5; what is outside of [0, 1] does not count.
    assert weights.barrier(alphas, [99, 4.0, 4.5, 3.2, 2.0, 99]) == pytest.approx(1.0)
    assert weights.barrier(alphas, [99, 4.0, 3.0, 2.0, 2.0, 99]) == 0.0
    assert weights.barrier([0, 0.5, 1], [0.9, 0.4, 0.8], higher_is_better=True) == pytest.approx(
        0.45
    )
    assert math.isnan(weights.barrier([0, 0.5, 1], [0.9, math.nan, 0.8]))


@pytest.mark.parametrize("points", [2, 3, 5, 21])
def test_both_ends_are_among_the_points_of_a_line(points):
    alphas = weights.line_alphas(-0.25, 1.25, points)
    assert {0.0, 1.0} <= set(alphas.tolist()) and len(alphas) == points
    assert (np.diff(alphas) > 0).all()


def test_distances_and_angles_of_layers():
    start = {"encoder": {"layer_2": {"w": np.float32([3, 4])}, "layer_10": {"w": np.float32([1, 0])}},
             "heads": {"x": {"output": {"bias": np.float32([0, 0])}}}}  # fmt: skip
    end = {"encoder": {"layer_2": {"w": np.float32([3, 4])}, "layer_10": {"w": np.float32([0, 2])}},
           "heads": {"x": {"output": {"bias": np.float32([0, 2])}}}}  # fmt: skip
    found = weights.distances(start, end)
    assert list(found) == ["all", "encoder/layer_2", "encoder/layer_10", "heads/x"]
    assert found["encoder/layer_2"] == {
        "distance": 0.0, "relative": 0.0, "cosine": 1.0, "degrees": 0.0,
    }  # fmt: skip
    assert found["encoder/layer_10"]["distance"] == found["encoder/layer_10"]["relative"]
    assert found["encoder/layer_10"]["degrees"] == pytest.approx(90.0)
    assert found["heads/x"] == {"distance": 2.0, "relative": None, "cosine": None, "degrees": None}
    assert found["all"]["distance"] == 3.0
    assert found["all"]["cosine"] == pytest.approx(25 / math.sqrt(26 * 33))
    assert found["all"]["degrees"] == pytest.approx(
        math.degrees(math.acos(25 / math.sqrt(26 * 33)))
    )


def test_a_small_angle_keeps_its_digits():
    found = weights.distances(tree(1.0, 0.0), tree(1.0, 1e-5))["all"]
    assert found["degrees"] == pytest.approx(math.degrees(1e-5), rel=1e-4)


def test_a_plane_has_euclidean_coordinates_and_knows_what_is_outside():
    corners = tree(1, 1, 0), tree(4, 1, 0), tree(2, 3, 0)
    plane = weights.Plane.through(*corners)
    np.testing.assert_allclose(plane.points, [(0, 0), (3, 0), (1, 2)], atol=1e-6)
    for corner, point, expected in zip(corners, plane.points, np.eye(3), strict=True):
        np.testing.assert_allclose(plane.weights(*point), expected, atol=1e-6)
        np.testing.assert_allclose(plane.project(corner), (*point, 0), atol=1e-3)
    np.testing.assert_allclose(plane.project(tree(2, 2, 5)), (1, 1, 5), atol=1e-6)
    x, y = plane.axes(5)
    assert (x[0], x[-1], y[0], y[-1]) == pytest.approx((-0.75, 3.75, -0.5, 2.5))
    point = weights.combine(corners, plane.weights(2, 1).astype(np.float32))
    np.testing.assert_allclose(point["encoder"]["layer_0"]["kernel"], (3, 2, 0), atol=1e-6)
    assert weights.Plane.through(tree(0, 0), tree(1, 1), tree(2, 2)) is None
    assert weights.Plane.through(tree(0, 0), tree(0, 0), tree(2, 2)) is None
