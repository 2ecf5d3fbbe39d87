"""A kind of scatter that the package does not know, made here alone: spectra with an error of their overall level.

The covariance of a star is ``C = diag(sigma^2 + s^2) + a 1 1'``. All numbers are held to the dense matrix.
"""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize_scalar
from scipy.stats import multivariate_normal

import bayes_cannon as tc
from bayes_cannon.scatter.base import LearnedScatter, Scatter
from bayes_cannon.scatter.low_rank import DiagonalAndFactors, LowRankTables

SIGMA, GREY, N_TRAINING, N_PIXELS = 0.01, 0.03, 200, 40
VECTORIZER = tc.vectorizer.PolynomialVectorizer(("TEFF", "LOGG"), 1)


@dataclass(frozen=True)
class Grey(Scatter):
    """An offset that is the same for all pixels of a spectrum, with one fitted variance."""

    def fit(self, problem, start, previous=None):
        def at(a):
            return replace(start, s2=np.where(np.isfinite(start.s2), np.maximum(start.s2 - a, 0.0), np.inf))

        def loss(log_a):
            return -GreyScatter(np.exp(log_a)).log_likelihood(problem, at(np.exp(log_a))).sum()

        a = float(np.exp(minimize_scalar(loss, bounds=(-20, 0), method="bounded").x))
        return at(a), GreyScatter(a)


@dataclass(frozen=True)
class GreyScatter(LearnedScatter):
    """The variance a of the offset."""

    variance: float

    def log_likelihood(self, problem, solution):
        known = (problem.ivar > 0) & np.isfinite(solution.s2)
        ivar, s2 = np.where(known, problem.ivar, 1.0), np.where(known, solution.s2, 0.0)
        w = np.where(known, ivar / (1 + ivar * s2), 0.0)
        residual = np.where(known, problem.flux - problem.design @ solution.theta.T, 0.0)
        growth = 1 + self.variance * w.sum(axis=1)
        chi_squared = np.sum(w * residual**2, axis=1) - self.variance * np.sum(w * residual, axis=1) ** 2 / growth
        log_det = np.log(growth) - np.sum(np.log(np.where(known, w, 1.0)), axis=1)
        return -0.5 * (chi_squared + log_det + known.sum(axis=1) * np.log(2 * np.pi))

    def marginal_variance(self, problem, s2):
        return s2 + self.variance

    def total_variance(self, s2, ivar, pixels):
        return s2[pixels] + self.variance + 1 / ivar

    def label_tables(self, response):
        return LowRankTables.from_factors(self._factor(len(response.theta)), response)

    def split_theta_covariance(self, covariance, gram):
        return covariance, np.zeros_like(gram)

    def noise_parts(self, s2):
        def parts(used, ivar, of_theta, h):
            return DiagonalAndFactors.of_star(1 / ivar, s2[used], of_theta, self._factor(len(used)), h)

        return parts

    def _factor(self, n_pixels):
        return np.full((n_pixels, 1), np.sqrt(self.variance))


@pytest.fixture(scope="module")
def stars():
    rng = np.random.default_rng(0)
    labels = np.column_stack([rng.uniform(4000, 6000, 300), rng.uniform(1, 4, 300)])
    x = (labels - [5000, 2.5]) / [2000, 3]
    flux = 1 + x @ rng.normal(0, 0.1, (N_PIXELS, 2)).T + SIGMA * rng.normal(size=(300, N_PIXELS))
    flux += GREY * rng.normal(size=(300, 1))
    ivar = np.full(flux.shape, SIGMA**-2)
    ivar[N_TRAINING : N_TRAINING + 5, ::4] = 0.0
    return labels, flux, ivar


@pytest.fixture(scope="module")
def model(stars):
    labels, flux, ivar = (array[:N_TRAINING] for array in stars)
    model = tc.CannonModel(labels, flux, ivar, VECTORIZER, scatter=Grey())
    model.train()
    return model


def test_what_was_learned_is_kept_and_found_by_name(model):
    assert model.scatter == Grey()
    assert isinstance(model.correlation, GreyScatter)
    # The variance of 200 draws has an error of 10 %.
    assert_allclose(model.correlation.variance, GREY**2, rtol=0.4)
    assert tc.scatter.FAMILIES["Grey"] is Grey
    assert tc.scatter.LEARNED["GreyScatter"] is GreyScatter


def test_labels_and_their_error_budget_are_those_of_the_dense_covariance(model, stars):
    labels, flux, ivar = (array[N_TRAINING:] for array in stars)
    fit = model.fit_labels(flux, ivar)
    budget = model.error_budget(flux, ivar, fit)
    unit = model.scaling.factor * model.scaling.scale
    for star in (0, 1, 50):
        used = ivar[star] > 0
        covariance = np.diag(1 / ivar[star, used] + model.s2[used]) + model.correlation.variance
        precision, jacobian = np.linalg.inv(covariance), model.theta[used, 1:] / unit
        expected = np.linalg.inv(jacobian.T @ precision @ jacobian)
        residual = (flux[star] - model(fit.labels[star]))[used]
        assert_allclose(fit.chi_squared[star], residual @ precision @ residual, rtol=1e-8)
        assert_allclose(fit.covariance[star], expected, rtol=1e-8, atol=1e-12 * np.abs(expected).max())
        zero_gradient = jacobian.T @ precision @ residual
        assert_allclose(zero_gradient @ expected @ zero_gradient, 0, atol=1e-9)
        gain = expected @ jacobian.T @ precision
        correlated = model.correlation.variance * gain.sum(axis=1) ** 2
        assert_allclose(budget.variance["correlated"][star], correlated, rtol=1e-6)
    assert_allclose(budget.total**2, np.einsum("nkk->nk", fit.covariance), rtol=1e-6)
    pulls = (fit.labels - labels) / budget.total
    assert_allclose(pulls.std(axis=0), 1, atol=4 / np.sqrt(2 * len(labels)))


def test_the_path_compares_it_with_the_kinds_that_there_are(model):
    path = model.scatter_path([Grey()])
    assert list(path.table["scatter"]) == ["independent", "Grey()"]
    assert path.best == Grey()
    # The density of held-out spectra is the dense one.
    problem = model._problem()
    covariance = np.diag(SIGMA**2 + model.s2) + model.correlation.variance
    mean = model.design_matrix[:9] @ model.theta.T
    expected = multivariate_normal(cov=covariance).logpdf(problem.flux[:9] - mean)
    ours = model.correlation.log_likelihood(problem.of_stars(np.arange(9)), model._result)
    assert_allclose(ours, expected, rtol=1e-9)


def test_it_has_no_latent_factors(model, stars):
    labels, flux, ivar = (array[:3] for array in stars)
    assert model.factors is None
    with pytest.raises(ValueError, match="the model has no latent factors"):
        model.latent_factors(flux, ivar, labels)
