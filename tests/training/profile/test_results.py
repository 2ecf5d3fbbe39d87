"""How the fits of a block get into the solution."""

import numpy as np
from numpy.testing import assert_array_equal

from bayes_cannon.core.status import PixelStatus
from bayes_cannon.training.problem import PixelSolution
from bayes_cannon.training.profile.results import PixelFit, Starts, merge


def fit(objective, done, *, s2=1.0, pivot=1.0):
    """A fit of two terms for each objective."""
    objective = np.array(objective, float)
    s2, pivot = (np.broadcast_to(np.array(value, float), objective.shape) for value in (s2, pivot))
    theta = np.column_stack([objective, objective])
    steps = np.full(len(objective), 3)
    return PixelFit(theta, s2, objective, 0 * objective, 0 * objective, steps, pivot, np.array(done))


def test_the_lowest_fit_stays_and_a_converged_one_replaces_one_that_is_not():
    solution = PixelSolution.empty(4, 2)
    merge(solution, np.arange(4), fit([5.0, 5.0, 5.0, 5.0], [True, True, False, False]))
    assert_array_equal(solution.status[2:], PixelStatus.MAX_ITERATIONS)
    merge(solution, np.array([3, 2, 1, 0]), fit([6.0, 5.0, 4.0, 6.0], [True, True, True, True]))
    assert_array_equal(solution.objective, [5, 4, 5, 5])
    assert_array_equal(solution.theta[:, 0], [5, 4, 5, 5])
    merge(solution, np.array([0]), fit([np.nan], [False]))
    assert solution.objective[0] == 5
    # As low, and now converged; higher, though converged, is another minimum.
    assert_array_equal(solution.status[2:], [PixelStatus.CONVERGED, PixelStatus.MAX_ITERATIONS])


def test_rounding_does_not_put_an_unfinished_fit_in_the_place_of_a_converged_one():
    solution = PixelSolution.empty(2, 2)
    merge(solution, np.arange(2), fit([5.0, 5.0], [True, True]))
    merge(solution, np.arange(2), fit([5.0 - 1e-12, 4.0], [False, False]))
    assert_array_equal(solution.objective, [5, 4])
    assert_array_equal(solution.status, [PixelStatus.CONVERGED, PixelStatus.MAX_ITERATIONS])


def test_status_of_a_fit():
    solution = PixelSolution.empty(4, 2)
    solution.status[3] = PixelStatus.TOO_FEW_STARS
    merge(solution, np.arange(4), fit([1.0] * 4, [True] * 4, s2=[1, 0, 1, 1], pivot=[1, np.inf, 1e-13, 1]))
    expected = PixelStatus.CONVERGED, PixelStatus.ZERO_SCATTER, PixelStatus.DEGENERATE, PixelStatus.TOO_FEW_STARS
    assert_array_equal(solution.status, expected)
    assert np.isnan(solution.theta[3]).all()


def test_parts_are_joined_and_taken():
    starts = Starts(np.arange(3), np.zeros((3, 2)), np.ones(3), np.zeros(3, int))
    joined = Starts.joined([starts.at(np.array([2])), starts.at(starts.problems < 2)])
    assert_array_equal(joined.problems, [2, 0, 1])
    assert joined.theta.shape == (3, 2)


def test_rivals_decide_the_margin_and_the_number_of_minima():
    """Four pixels whose rival is higher, lower, at the same minimum, and not finished."""
    solution = PixelSolution.empty(4, 2)
    solution.n_minima[:], solution.margin[:] = 2, np.inf
    merge(solution, np.arange(4), fit([5.0, 5.0, 5.0, 5.0], [True] * 4, s2=1.0))
    rival = fit([5.5, 4.75, 5.0, 6.0], [True, True, True, False], s2=[2.0, 2.0, 1.0 + 1e-6, 2.0])
    merge(solution, np.arange(4), rival, rivals=True)
    assert_array_equal(solution.objective, [5, 4.75, 5, 5])
    assert_array_equal(solution.margin, [0.5, 0.25, np.inf, np.inf])
    assert_array_equal(solution.n_minima, [2, 2, 1, 2])
    # A third minimum: the margin is that to the second lowest.
    merge(solution, np.arange(2), fit([5.125, 6.0], [True, True], s2=3.0), rivals=True)
    assert_array_equal(solution.margin[:2], [0.125, 0.25])
