"""Numbers with a huge error: which they are, and what the others make of them, against the conditional normal."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bayes_cannon.core.terms import Terms
from bayes_cannon.scatter.usable_pixels import completed, largest_variance, noise_levels, solved_pixels, usual_noise
from bayes_cannon.training.problem import PixelProblem


def test_noise_is_that_of_the_trusted_numbers():
    sigma = np.broadcast_to(0.01 * (1 + np.arange(6)), (40, 6)) * np.linspace(0.8, 1.2, 40)[:, None]
    ivar = sigma**-2.0
    noise, bad = usual_noise(ivar)
    assert not bad.any()
    assert_allclose(noise, np.sqrt(np.mean(sigma**2, axis=0)))
    marked = ivar.copy()
    marked[3, 2], marked[4, 5], marked[9] = 1e-10, 1e-300, 1e-8
    found, bad = usual_noise(marked)
    assert_array_equal(bad, marked != ivar)
    assert_allclose(found, noise, rtol=0.02)
    # The level of a star is that of its good numbers, however bad one is.
    assert_allclose(noise_levels(marked, noise)[3], 6 / 5 * noise_levels(ivar, noise)[3], rtol=0.2)
    assert_allclose(noise_levels(0 * ivar, noise), 1)
    assert_allclose(largest_variance(np.array([0.1, 2.0, 1e9]), np.array([0.5])), 0.25 * np.array([[36], [72], [100]]))


def test_completion_is_the_conditional_mean():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(5, 5))
    covariance = root @ root.T + np.eye(5)
    residual, bad = rng.normal(size=(3, 5)), np.zeros((3, 5), bool)
    bad[1, [0, 3]] = bad[2] = True
    filled, spread, log_det = completed(np.where(bad, np.nan, residual), bad, np.linalg.inv(covariance))
    b, o = [0, 3], [1, 2, 4]
    gain = covariance[np.ix_(b, o)] @ np.linalg.inv(covariance[np.ix_(o, o)])
    left = covariance[np.ix_(b, b)] - gain @ covariance[np.ix_(o, b)]
    assert_allclose(filled[1, b], gain @ residual[1, o])
    assert_array_equal(filled[0], residual[0])
    assert_allclose(filled[2], 0)
    expected = covariance.copy()
    expected[np.ix_(b, b)] += left
    assert_allclose(spread, expected)
    known = [np.linalg.slogdet(covariance)[1], np.linalg.slogdet(covariance[np.ix_(o, o)])[1], 0.0]
    assert_allclose(known[0] + log_det, known, atol=1e-12)
    square = residual[1, o] @ np.linalg.solve(covariance[np.ix_(o, o)], residual[1, o])
    assert_allclose(filled[1] @ np.linalg.solve(covariance, filled[1]), square)


def test_too_few_pixels_are_said_in_words():
    terms, ivar = Terms.linear(np.ones((4, 2))), np.zeros((4, 3))
    ivar[:1, 0] = 1.0
    problem = PixelProblem.unbounded(terms, np.ones((4, 3)), ivar)
    nothing = np.full((3, 2), np.nan)
    with pytest.raises(
        ValueError, match=r"of 3 pixels 0 have one: 2 have no star .* more than 1 of 4 stars, with 2 terms"
    ):
        solved_pixels(problem, nothing, np.full(3, np.inf))
    assert_array_equal(solved_pixels(problem, np.zeros((3, 2)), np.array([1.0, np.inf, 0.0])), [0, 2])
