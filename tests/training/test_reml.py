"""s2 on simulated data: biased by as much as maximum likelihood is, and unbiased with the correction."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bayes_cannon.training.profile import solver as profile
from bayes_cannon.training.reml import unbiased_scatter

N_STARS, N_PIXELS, N_TERMS = 1000, 60, 10
S, SIGMA = 0.01, 0.005


@pytest.fixture(scope="module")
def many_stars(simulate):
    """A thousand stars, sixty pixels of the same scatter: the mean over pixels is known to 0.8 %."""
    simulation = simulate(N_STARS, N_PIXELS, scatter=(S, S), noise=(SIGMA, SIGMA), seed=11)
    problem = simulation.problem()
    return problem, profile.solve(problem)


def ratio_to_truth(s2):
    """Mean over pixels, and its error."""
    return s2.mean() / S**2, s2.std() / S**2 / np.sqrt(len(s2))


def test_maximum_likelihood_is_biased_as_expected(many_stars, simulate):
    problem, solution = many_stars
    simulation = simulate(N_STARS, N_PIXELS, scatter=(S, S), noise=(SIGMA, SIGMA), seed=11)
    # The scatter of the residuals as drawn has the luck of the draw in it; what the fit adds is left.
    drawn = np.mean((problem.flux - problem.design @ simulation.theta.T) ** 2, axis=0) - SIGMA**2
    bias = N_TERMS / N_STARS * (S**2 + SIGMA**2) / S**2
    assert_allclose(np.mean(solution.s2) / S**2 - np.mean(drawn) / S**2, -bias, atol=0.002)
    ratio, error = ratio_to_truth(solution.s2)
    assert error < 0.01
    assert abs(ratio - (1 - bias)) < 0.01


def test_correction_removes_the_bias(many_stars):
    problem, solution = many_stars
    corrected = unbiased_scatter(problem, solution.theta, solution.s2)
    ratio, _ = ratio_to_truth(corrected)
    assert 0.98 < ratio < 1.02
    bias = N_TERMS / N_STARS * (S**2 + SIGMA**2) / S**2
    assert_allclose(np.mean(corrected - solution.s2) / S**2, bias, rtol=0.05)


def test_correction_with_equal_noise_is_the_textbook_estimate(many_stars):
    """Sum of the squared residuals over N - D is the variance."""
    problem, solution = many_stars
    corrected = unbiased_scatter(problem, solution.theta, solution.s2)
    square = np.sum((problem.flux - problem.design @ solution.theta.T) ** 2, axis=0)
    assert_allclose(corrected + SIGMA**2, square / (N_STARS - N_TERMS), rtol=1e-9)


def test_terms_that_are_zero_cost_nothing(many_stars):
    problem, _ = many_stars
    theta = np.where(np.arange(N_TERMS) == 0, problem.flux.mean(axis=0)[:, None], 0.0)
    spread = problem.flux.var(axis=0)
    corrected = unbiased_scatter(problem, theta, spread - SIGMA**2)
    assert_allclose(corrected + SIGMA**2, problem.flux.var(axis=0, ddof=1), rtol=1e-9)


def test_correction_where_there_is_no_scatter_and_no_solution(training):
    problem = training.problem()
    ivar = problem.ivar.copy()
    ivar[:, :2] = 0
    problem = replace(problem, ivar=ivar)
    solution = profile.solve(problem)
    corrected = unbiased_scatter(problem, solution.theta, solution.s2)
    assert np.isposinf(corrected[:2]).all()
    assert (corrected[2:] >= solution.s2[2:] * (1 - 1e-9)).all()
    assert (solution.s2 == 0).any()
    nothing = unbiased_scatter(problem, np.full((60, 10), np.nan), np.full(60, np.inf))
    assert_array_equal(nothing, np.inf)
