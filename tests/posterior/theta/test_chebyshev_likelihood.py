"""The interpolated likelihood against sums over the stars."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import multivariate_normal

from bayes_cannon.core.moments import MomentBasis
from bayes_cannon.core.terms import Terms
from bayes_cannon.core.vectorizer import monomials
from bayes_cannon.posterior.theta import chebyshev_likelihood as module
from bayes_cannon.posterior.theta.chebyshev_likelihood import (
    MAX_INTERPOLATION_ERROR,
    GaussianSites,
    PixelSpectra,
    interpolated_likelihood,
    log_likelihood,
    log_marginals,
)
from bayes_cannon.training.problem import PixelProblem

N_STARS, N_PIXELS, S = 40, 3, 0.02
EXPONENTS = np.array([[0], [1], [2]])
SCALE = np.full(N_PIXELS, 0.1)


@pytest.fixture(scope="module")
def problem():
    """Noise that differs threefold, stars without weight whose flux is unknown."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (N_STARS, 1))
    sigma = rng.uniform(0.01, 0.03, (N_STARS, N_PIXELS))
    flux = 1 + 0.1 * x + np.hypot(sigma, S) * rng.normal(size=sigma.shape)
    ivar = 1 / sigma**2
    ivar[3], flux[3] = 0.0, np.nan
    return PixelProblem.unbounded(Terms(EXPONENTS, x), flux, ivar, 0.0)


@pytest.fixture(scope="module")
def precision():
    return np.random.default_rng(1).uniform(0.5, 2, N_STARS)


@pytest.fixture(scope="module")
def spectra(problem, precision):
    basis = MomentBasis.from_terms(EXPONENTS)
    theta_star = np.array([[1.0, 0.1, 0.0]] * N_PIXELS)
    return PixelSpectra.from_problem(
        problem, monomials(problem.terms.x, basis.exponents), basis.pairs, theta_star, precision
    )


@pytest.fixture(scope="module")
def sites():
    return GaussianSites(np.full((N_PIXELS, 3), 4.0), np.full((N_PIXELS, 3), [4.0, 1.0, -0.5]))


@pytest.fixture(scope="module")
def interpolated(spectra, sites):
    return interpolated_likelihood(spectra, np.full(N_PIXELS, S**2), sites, SCALE)


def direct(problem, precision, pixel, theta, s2):
    """Log likelihood of one pixel, summed over its stars, up to a constant."""
    known = problem.ivar[:, pixel] > 0
    variance = (1 / problem.ivar[known, pixel] + s2) / precision[known]
    residual = problem.flux[known, pixel] - problem.design[known] @ theta
    return -0.5 * (jnp.sum(residual**2 / variance) + jnp.sum(jnp.log(variance)))


def test_value_and_gradient_are_those_of_the_sums(problem, precision, interpolated):
    likelihood, _, error = interpolated
    assert (error < MAX_INTERPOLATION_ERROR).all()
    rng = np.random.default_rng(2)
    theta = np.array([1.0, 0.1, 0.0]) + 0.02 * rng.normal(size=(20, 3))
    with jax.enable_x64(True):
        for pixel in range(N_PIXELS):
            one = jax.tree.map(lambda array, pixel=pixel: array[pixel], likelihood)
            ends = np.sqrt(np.maximum(np.exp([one.low, one.high]) - one.offset, 0))
            s2 = rng.uniform(ends[0], ends[1], 20) ** 2

            @jax.jit
            @jax.vmap
            def both(theta, s2, one=one, pixel=pixel):
                fast = jax.value_and_grad(lambda *at: log_likelihood(one, *at), (0, 1))(theta, s2)
                return fast, jax.value_and_grad(lambda *at: direct(problem, precision, pixel, *at), (0, 1))(theta, s2)

            (value, gradient), (expected, by_sums) = both(theta, s2)
            # Twice the error of a marginal likelihood: theta is away from its best value here.
            assert_allclose(value - value[0], expected - expected[0], rtol=1e-7, atol=10 * MAX_INTERPOLATION_ERROR)
            for got, wanted in zip(gradient, by_sums, strict=True):
                assert_allclose(got, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


def test_beyond_the_range_it_is_continuous_and_falls(interpolated):
    one = jax.tree.map(lambda array: array[0], interpolated[0])
    with jax.enable_x64(True):
        z = one.high + np.array([-1e-9, 1e-9, 0.5, 1.0, 5.0, 20.0])
        value = jax.vmap(lambda s2: log_likelihood(one, one.theta_star, s2))(np.exp(z) - one.offset)
    assert_allclose(value[0], value[1], atol=1e-6)
    assert (np.diff(value[1:]) < 0).all()


def test_moments_of_a_few_pixels_at_a_time_are_the_same(spectra, monkeypatch):
    s2 = np.array([[0.0, 1e-4]] * N_PIXELS)
    whole = spectra.moments(s2)
    monkeypatch.setattr(module, "MAX_WEIGHT_BYTES", 1)
    parts = spectra.moments(s2)
    for name in ("constant", "linear", "gram", "log_det"):
        assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-12)


def test_marginal_likelihood_is_the_closed_form(problem, precision, spectra, sites):
    """y ~ N(V m, Sigma + V C V') for theta ~ N(m, C) with m = h / pi and C = 1 / pi."""
    s2 = np.array([[1e-5, 4e-4, 1e-2]] * N_PIXELS)
    got = log_marginals(spectra.moments(s2), spectra.theta_star, sites)
    known = problem.ivar[:, 0] > 0
    design, mean = problem.design[known], sites.shift[0] / 4.0
    expected = [
        multivariate_normal(
            design @ mean, np.diag((1 / problem.ivar[known, 0] + s) / precision[known]) + design @ design.T / 4.0
        ).logpdf(problem.flux[known, 0])
        for s in s2[0]
    ]
    assert_allclose(got[0] - got[0, 0], np.array(expected) - expected[0], rtol=1e-8)


def test_moments_of_s_are_those_of_quadrature(spectra, sites, interpolated):
    s = np.linspace(0, 0.1, 4001)
    log_density = log_marginals(spectra.moments(np.array([s**2] * N_PIXELS)), spectra.theta_star, sites)
    log_density -= 0.5 * (s / SCALE[:, None]) ** 2
    weight = np.exp(log_density - log_density.max(axis=1, keepdims=True))
    weight /= weight.sum(axis=1, keepdims=True)
    expected = np.column_stack([weight @ s, weight @ s**2])
    # They whiten the coordinates, where a per cent is nothing.
    assert_allclose(interpolated[1], expected, rtol=0.01)
