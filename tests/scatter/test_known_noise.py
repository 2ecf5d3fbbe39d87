"""Covariances of the noise that the survey gives, against SciPy's densities and simulations with known truth."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import multivariate_normal

import bayes_cannon as tc
from bayes_cannon.core.terms import Terms
from bayes_cannon.core.vectorizer import monomials
from bayes_cannon.scatter.known_noise import Given, train_given
from bayes_cannon.training.problem import PixelProblem

N_STARS, N_PIXELS, NAMES = 800, 40, ("TEFF", "LOGG")
VECTORIZER = tc.vectorizer.PolynomialVectorizer(NAMES, 2)
PLACES = np.arange(N_PIXELS)
GIVEN = 0.004**2 * np.exp(-0.5 * (np.subtract.outer(PLACES, PLACES) / 3.0) ** 2) + 0.001**2 * np.eye(N_PIXELS)
S2 = np.where(PLACES % 3 == 0, 0.0, 0.003**2 * (1 + PLACES / N_PIXELS))


def stars(n: int, seed: int, nu: float = np.inf):
    """Labels, scaled labels and flux; the noise of a star is scaled where nu is finite."""
    fixed, rng = np.random.default_rng(7), np.random.default_rng(seed)
    x = rng.uniform(-0.5, 0.5, (n, 2))
    theta = fixed.normal(0, 0.02, (N_PIXELS, VECTORIZER.n_terms))
    theta[:, 0] = 1.0
    tau = np.ones(n) if np.isinf(nu) else rng.gamma(nu / 2, 2 / nu, n)
    noise = rng.multivariate_normal(np.zeros(N_PIXELS), GIVEN + np.diag(S2), n) / np.sqrt(tau)[:, None]
    return np.array([5000.0, 2.5]) + [2000.0, 3.0] * x, x, monomials(x, VECTORIZER.exponents) @ theta.T + noise


def trained(scatter: Given, nu: float = np.inf):
    _, x, flux = stars(N_STARS, 0, nu)
    problem = PixelProblem.unbounded(Terms(VECTORIZER.exponents, x), flux, np.ones(flux.shape))
    start = np.linalg.lstsq(problem.design, flux, rcond=None)[0].T
    return problem, train_given(problem, start, np.zeros(N_PIXELS), scatter)


def test_scatter_has_the_highest_likelihood():
    problem, fit = trained(Given(GIVEN))
    assert fit.converged
    assert (fit.gradient < 1e-9).all()
    residual = problem.flux - problem.design @ fit.theta.T

    def log_likelihood(s2):
        return multivariate_normal(cov=GIVEN + np.diag(s2)).logpdf(residual).sum()

    best = log_likelihood(fit.s2)
    assert_allclose(fit.log_likelihood[-1], best, rtol=1e-10)
    for pixel in range(0, N_PIXELS, 5):
        for change in (0.02 * fit.s2[pixel] + 1e-8, -0.02 * fit.s2[pixel]):
            other = fit.s2.copy()
            other[pixel] += change
            assert log_likelihood(other) < best or (fit.s2[pixel] < 1e-12 and change < 0)
    assert_allclose(fit.s2[S2 > 0], S2[S2 > 0], rtol=0.25)
    assert (fit.s2[S2 == 0] < 2e-6).all()
    ours = fit.learned.log_likelihood(problem.of_stars(np.arange(9)), fit)
    assert_allclose(ours, multivariate_normal(cov=GIVEN + np.diag(fit.s2)).logpdf(residual[:9]), rtol=1e-9)


def test_heavy_tails_are_found_and_no_round_lowers_the_likelihood():
    _, fit = trained(Given(GIVEN, heavy_tails=True), nu=5.0)
    assert 3.5 < fit.learned.nu < 7
    assert (np.diff(fit.log_likelihood) > -1e-6).all()
    assert_allclose(fit.s2[S2 > 0], S2[S2 > 0], rtol=0.3)


def test_labels_and_files(tmp_path):
    labels, _, flux = stars(N_STARS, 0)
    others, _, spectra = stars(2000, 1)
    ivar = np.full(spectra.shape, 1 / GIVEN[0, 0])
    model = tc.CannonModel(labels, flux, ivar[:N_STARS], VECTORIZER, scatter=Given(GIVEN))
    model.train()
    fit = model.fit_labels(spectra, ivar)
    pulls = tc.validate.pulls(fit.labels, others, fit.covariance)
    assert_allclose(pulls.std(axis=0), 1, atol=0.06)
    model.write(tmp_path / "a.model")
    back = tc.CannonModel.read(tmp_path / "a.model")
    assert_array_equal(back.scatter.covariance, GIVEN)
    assert_array_equal(back.fit_labels(spectra, ivar).labels, fit.labels)
    independent = tc.CannonModel(labels, flux, ivar[:N_STARS], VECTORIZER)
    independent.train()
    naive = independent.fit_labels(spectra, ivar)
    assert ((naive.labels - others).std(axis=0) > 1.1 * (fit.labels - others).std(axis=0)).all()
    # Missing pixels: errors grow, and still cover.
    lost = np.where(np.random.default_rng(2).random(ivar[:300].shape) < 0.3, 0.0, ivar[:300])
    fewer = model.fit_labels(spectra[:300], lost)
    assert (np.einsum("nkk->nk", fewer.covariance) > np.einsum("nkk->nk", fit.covariance[:300])).all()
    assert_allclose(tc.validate.pulls(fewer.labels, others[:300], fewer.covariance).std(axis=0), 1, atol=0.15)


def test_bad_input():
    problem, _ = trained(Given(GIVEN))
    start = np.linalg.lstsq(problem.design, problem.flux, rcond=None)[0].T
    with pytest.raises(ValueError, match="of 3 pixels, the spectra have 40"):
        train_given(problem, start, np.zeros(N_PIXELS), Given(np.eye(3)))
    ivar = problem.ivar.copy()
    ivar[4, 2] = 0
    with pytest.raises(ValueError, match="the first is pixel 2 of star 4"):
        train_given(replace(problem, ivar=ivar), start, np.zeros(N_PIXELS), Given(GIVEN))
    wrong = GIVEN.copy()
    wrong[1, 2] = np.nan
    for covariance, message in (
        (np.ones(3), r"must have shape \(pixel, pixel\)"),
        (wrong, "is nan at pixels 1 and 2"),
        (np.linalg.cholesky(GIVEN), "is not symmetric; is it a Cholesky factor"),
        (GIVEN - 0.002**2 * np.eye(N_PIXELS), "is not positive definite"),
        (np.zeros((3, 3)), "is not positive definite"),
    ):
        with pytest.raises(ValueError, match=message):
            Given(covariance)


@pytest.mark.parametrize("misfit", [0.0, 3e-4, 2e-3])
def test_singular_covariances_and_misfit_of_the_model(misfit):
    """Spectra sampled from 15 numbers at 40 pixels: no direction counts as known exactly, and misfit has factors."""
    rng = np.random.default_rng(0)
    basis, variances = np.linalg.qr(rng.normal(size=(N_PIXELS, 15)))[0], np.geomspace(1e-3, 1e-5, 15)
    given, response = (basis * variances) @ basis.T, rng.normal(0, 0.03, (15, VECTORIZER.n_terms))

    def spectra(n):
        labels = rng.uniform(-0.5, 0.5, (n, 2))
        coefficients = monomials(labels, VECTORIZER.exponents) @ response.T + rng.normal(size=(n, 15)) * np.sqrt(
            variances
        )
        return labels, 1 + coefficients @ basis.T + misfit * np.sin(14 * labels[:, :1] + PLACES)

    labels, flux = spectra(300)
    others, more = spectra(1000)
    ivar = np.broadcast_to(1 / np.diag(given), (1000, N_PIXELS))
    model = tc.CannonModel(labels, flux, ivar[:300], VECTORIZER, scatter=tc.scatter.Given(given))
    model.train()
    assert model.correlation.rank == 15 + 2 * (misfit > 0)
    fit = model.fit_labels(more, ivar)
    sigma = np.sqrt(np.einsum("nkk->nk", fit.covariance))
    assert_allclose(((fit.labels - others) / sigma).std(axis=0), 1, atol=0.15)
    # Fifteen numbers, less two labels, are what chi^2 is made of.
    assert_allclose(np.median(fit.reduced_chi_squared), 1, atol=0.15)
    rounded = model.fit_labels(more.astype("f4"), ivar.astype("f4"))
    assert_allclose((rounded.labels - fit.labels) / sigma, 0, atol=0.01)


def test_numbers_with_a_huge_error_carry_no_information():
    problem, clean = trained(Given(GIVEN))
    bad = np.zeros(problem.flux.shape, bool)
    bad[5, 3] = bad[9, 10:30] = bad[11] = True
    ivar = np.where(bad, 1e-10, problem.ivar)
    start = np.linalg.lstsq(problem.design, problem.flux, rcond=None)[0].T
    for junk in (50.0, -1e4):
        flux = np.where(bad, junk, problem.flux)
        fit = train_given(replace(problem, flux=flux, ivar=ivar), start, np.zeros(N_PIXELS), Given(GIVEN))
        # Two of 800 stars less: not more than a fraction of the errors of theta.
        error = np.sqrt(np.diag(clean.learned.covariance) / N_STARS)
        assert (np.abs(fit.theta[:, 0] - clean.theta[:, 0]) < 0.3 * error).all()
        assert_allclose(fit.s2, clean.s2, rtol=0.05, atol=1e-7)
        assert (fit.gradient < 1e-3).all()
    labels, _, flux = stars(N_STARS, 0)
    spectra = stars(100, 1)[2]
    model = tc.CannonModel(labels, flux, np.ones(flux.shape), VECTORIZER, scatter=Given(GIVEN))
    model.train()
    huge, zero = (np.where(PLACES == 7, value, np.ones(spectra.shape)) for value in (1e-10, 0.0))
    spoilt = np.where(PLACES == 7, 50.0, spectra)
    got, expected = model.fit_labels(spoilt, huge), model.fit_labels(spectra, zero)
    sigma = np.sqrt(np.einsum("nkk->nk", expected.covariance))
    assert_allclose((got.labels - expected.labels) / sigma, 0, atol=1e-3)
    budget = model.error_budget(spoilt, huge, got)
    assert_allclose(budget.total**2, np.einsum("nkk->nk", got.covariance), rtol=1e-5)
