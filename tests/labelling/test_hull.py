"""The convex hull in few and in many dimensions."""

import time

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_array_equal
from scipy.spatial import Delaunay

from bayes_cannon.labelling.hull import in_convex_hull

CORNERS = np.random.default_rng(0).uniform(-1, 1, (40, 3))


@settings(max_examples=8)
@given(arrays(float, (5, 3), elements=st.floats(-1.2, 1.2)))
def test_agrees_with_a_triangulation(points):
    # A hair inside and a hair outside decide; on the face itself either answer is right.
    surely_in = Delaunay(0.999 * (CORNERS - CORNERS.mean(axis=0)) + CORNERS.mean(axis=0)).find_simplex(points) >= 0
    surely_out = Delaunay(1.001 * (CORNERS - CORNERS.mean(axis=0)) + CORNERS.mean(axis=0)).find_simplex(points) < 0
    inside = in_convex_hull(points, CORNERS)
    assert inside[surely_in].all()
    assert not inside[surely_out].any()


def test_corners_and_means_are_inside():
    assert in_convex_hull(CORNERS, CORNERS).all()
    shares = np.random.default_rng(1).dirichlet(np.ones(40), 10)
    assert in_convex_hull(shares @ CORNERS, CORNERS).all()


def test_nan_is_outside_and_no_points_are_no_answers():
    assert_array_equal(in_convex_hull(np.array([[0, 0, np.nan], [0, 0, 0.0]]), CORNERS), [False, True])
    assert in_convex_hull(np.zeros((0, 3)), CORNERS).shape == (0,)


def test_a_corner_of_the_range_need_not_be_inside():
    simplex = np.vstack([np.zeros(4), np.eye(4)])
    assert_array_equal(in_convex_hull(np.array([[0.2] * 4, [0.3] * 4, [0.9] * 4]), simplex), [True, False, False])


def test_seventeen_labels_take_no_time():
    rng = np.random.default_rng(2)
    corners = rng.normal(size=(500, 17))
    points = np.vstack([rng.dirichlet(np.ones(500), 5) @ corners, corners.max(axis=0) * 0.9])
    start = time.perf_counter()
    assert_array_equal(in_convex_hull(points, corners), [True] * 5 + [False])
    assert time.perf_counter() - start < 10
