"""Latent factors against dense covariances, scikit-learn's factor analysis, and simulations with known factors."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.linalg import subspace_angles
from scipy.stats import multivariate_normal, multivariate_t
from sklearn.decomposition import FactorAnalysis

from bayes_cannon.core.student_t import fitted_nu
from bayes_cannon.core.terms import Terms
from bayes_cannon.core.vectorizer import PolynomialVectorizer, monomials
from bayes_cannon.scatter.low_rank_training import train_factors
from bayes_cannon.training.problem import PixelProblem
from bayes_cannon.training.profile import solver as profile

EXPONENTS = PolynomialVectorizer(("TEFF", "LOGG"), 2).exponents


def simulated(n_stars, n_pixels, rank, *, seed=0, nu=None, missing=0.02):
    """Problem, scaled labels, and the truth: theta, factors, s2."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 0.4, (n_stars, 2))
    design = monomials(x, EXPONENTS)
    theta = rng.normal(0, 0.03, (n_pixels, len(EXPONENTS)))
    theta[:, 0] = 1
    factors = 0.01 * rng.normal(size=(n_pixels, rank)) * np.linspace(1, 0.5, rank)
    s2 = rng.uniform(0.002, 0.006, n_pixels) ** 2
    sigma = rng.uniform(0.003, 0.012, (n_stars, n_pixels))
    noise = rng.normal(size=(n_stars, rank)) @ factors.T + rng.normal(size=sigma.shape) * np.sqrt(sigma**2 + s2)
    tau = np.ones(n_stars) if nu is None else rng.gamma(nu / 2, 2 / nu, n_stars)
    flux, ivar = design @ theta.T + noise / np.sqrt(tau)[:, None], 1 / sigma**2
    lost = rng.random(flux.shape) < missing
    flux[lost], ivar[lost] = np.nan, 0.0
    return PixelProblem.unbounded(Terms(EXPONENTS, x), flux, ivar), x, (theta, factors, s2)


def fitted(problem, x, rank, **kwargs):
    start = profile.solve(problem)
    return train_factors(problem, start.theta, start.s2, rank=rank, **kwargs)


def dense_log_likelihood(problem, fit):
    total = 0.0
    for design, flux, ivar in zip(problem.design, problem.flux, problem.ivar, strict=True):
        known = ivar > 0
        residual = flux[known] - fit.theta[known] @ design
        covariance = np.diag(1 / ivar[known] + fit.s2[known]) + fit.factors[known] @ fit.factors[known].T
        law = multivariate_normal(cov=covariance)
        if np.isfinite(fit.nu):
            law = multivariate_t(shape=covariance, df=fit.nu)
        total += law.logpdf(residual)
    return total - 0.5 * np.sum(problem.regularization * np.abs(fit.theta[:, 1:]).sum(axis=1))


@pytest.mark.parametrize(("regularization", "heavy_tails"), [(0.0, False), (30.0, False), (0.0, True)])
def test_likelihood_is_that_of_the_dense_covariance_and_never_falls(regularization, heavy_tails):
    problem, x, _ = simulated(80, 12, 2, nu=5 if heavy_tails else None)
    problem = replace(problem, regularization=np.full(12, regularization))
    fit = fitted(problem, x, 2, heavy_tails=heavy_tails, tolerance=1e-10, max_iterations=500)
    assert_allclose(fit.log_likelihood[-1], dense_log_likelihood(problem, fit), rtol=1e-10)
    assert np.diff(fit.log_likelihood).min() > -1e-7
    assert fit.converged
    assert fit.gradient.max() < 1e-2
    assert np.isfinite(fit.nu) == heavy_tails
    if regularization:
        assert (fit.theta == 0).any()
    # A maximum: no change of a single parameter raises it.
    best, rng = fit.log_likelihood[-1], np.random.default_rng(1)
    for _ in range(20):
        other = replace(
            fit,
            theta=fit.theta * (1 + 1e-4 * rng.normal(size=fit.theta.shape)),
            factors=fit.factors * (1 + 1e-3 * rng.normal(size=fit.factors.shape)),
            s2=fit.s2 * np.exp(1e-2 * rng.normal(size=12)),
        )
        assert dense_log_likelihood(problem, other) < best


def test_same_likelihood_as_factor_analysis():
    """Homoscedastic data without labels."""
    rng = np.random.default_rng(5)
    flux = rng.normal(size=(300, 3)) @ rng.normal(size=(3, 12)) + rng.normal(size=(300, 12)) * rng.uniform(0.5, 1, 12)
    reference = FactorAnalysis(3, tol=1e-12, max_iter=20000, svd_method="lapack").fit(flux)
    problem = PixelProblem.unbounded(Terms(np.zeros((1, 1), int), np.zeros((300, 1))), flux, np.full(flux.shape, 1e12))
    start = profile.solve(problem)
    fit = train_factors(problem, start.theta, start.s2, rank=3, tolerance=1e-10, max_iterations=3000)
    assert_allclose(fit.log_likelihood[-1], 300 * reference.score(flux), rtol=1e-6)


def test_recovers_factors_and_scatter():
    """Five factors, 1,000 stars: subspace within five degrees, s^2 as maximum likelihood expects to 3 %."""
    problem, x, (_, factors, s2) = simulated(1000, 150, 5, seed=2)
    fit = fitted(problem, x, 5)
    assert np.degrees(subspace_angles(fit.factors, factors)).max() < 5
    w = problem.ivar / (1 + problem.ivar * s2)
    kept = 1 - (len(EXPONENTS) + 5) / 1000
    bias = (1 - kept) * w.sum(axis=0) / (w**2).sum(axis=0) / s2
    assert_allclose(np.median(fit.s2 / s2 + bias), 1, atol=0.03)


def test_canonical_form_and_path():
    """The rotation of the start does not matter, nor whether the rank is reached in steps."""
    problem, x, _ = simulated(200, 20, 3, seed=4)
    keywords = {"tolerance": 1e-9, "max_iterations": 2000}
    whole = fitted(problem, x, 3, **keywords)
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    again = train_factors(problem, whole.theta, whole.s2, rank=3, factors=whole.factors @ rotation, **keywords)
    assert_allclose(again.factors, whole.factors, atol=1e-4 * np.abs(whole.factors).max())
    two = fitted(problem, x, 2, **keywords)
    stepped = train_factors(problem, two.theta, two.s2, rank=3, factors=two.factors, **keywords)
    assert two.log_likelihood[-1] < whole.log_likelihood[-1]
    assert_allclose(stepped.log_likelihood[-1], whole.log_likelihood[-1], rtol=1e-7)


def test_heavy_tails_flag_the_bad_stars():
    problem, x, (_, _, s2) = simulated(400, 30, 2, seed=6, missing=0.0)
    flux = problem.flux.copy()
    bad = np.arange(8)
    flux[bad] += np.random.default_rng(7).normal(0, 0.1, (8, 30))
    problem = replace(problem, flux=flux)
    normal, heavy = fitted(problem, x, 2), fitted(problem, x, 2, heavy_tails=True)
    assert heavy.nu < 30
    assert heavy.log_likelihood[-1] > normal.log_likelihood[-1] + 100
    assert set(np.argsort(heavy.tau)[:8]) == set(bad)
    assert abs(np.median(heavy.s2 / s2) - 1) < abs(np.median(normal.s2 / s2) - 1)


def test_degrees_of_freedom_against_a_simulation():
    rng = np.random.default_rng(8)
    count = np.full(4000, 20.0)
    chi_squared = (rng.normal(size=(4000, 20)) ** 2).sum(axis=1)
    assert fitted_nu(chi_squared, np.zeros(4000), count) > 300
    assert_allclose(fitted_nu(chi_squared / rng.gamma(3, 1 / 3, 4000), np.zeros(4000), count), 6, rtol=0.1)


def test_pixels_without_solution_take_no_part():
    problem, x, _ = simulated(80, 12, 2)
    ivar = problem.ivar.copy()
    ivar[:, 4] = 0
    fit = fitted(replace(problem, ivar=ivar), x, 2)
    assert_array_equal(fit.factors[4], 0)
    assert np.isnan(fit.theta[4]).all()
    assert np.isfinite(np.delete(fit.theta, 4, axis=0)).all()


@pytest.mark.parametrize("rank", [0, 12, 2.5, True])
def test_impossible_ranks(rank):
    problem, x, _ = simulated(80, 12, 2)
    with pytest.raises(ValueError, match="integer from 1 to 11, as there are 80 stars and 12 pixels"):
        fitted(problem, x, rank)
