"""What held-out labels tell of a covariance: against simulations whose covariance is known, and dense algebra."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import multivariate_normal

from bayes_cannon.core.terms import Terms
from bayes_cannon.core.vectorizer import PolynomialVectorizer, monomials
from bayes_cannon.scatter import IndependentScatter, LowRankScatter
from bayes_cannon.scatter.held_out_labels import HeldOutLabels, label_scores, term_gradients
from bayes_cannon.training.problem import PixelProblem, PixelSolution

VECTORIZER = PolynomialVectorizer(("TEFF", "LOGG"), 2)
N_STARS, N_PIXELS = 4000, 20


@pytest.fixture(scope="module")
def stars():
    rng = np.random.default_rng(0)
    terms = Terms(VECTORIZER.exponents, rng.uniform(-0.5, 0.5, (N_STARS, 2)))
    return rng, terms, rng.normal(0, 1.0, (N_PIXELS, VECTORIZER.n_terms))


def test_gradients_are_the_derivatives(stars):
    _, terms, _ = stars
    x, step = terms.x[:5], 1e-6
    for label in range(2):
        move = step * np.eye(2)[label]
        expected = (monomials(x + move, terms.exponents) - monomials(x - move, terms.exponents)) / (2 * step)
        assert_allclose(term_gradients(terms)[:5, label], expected, atol=1e-8)


@pytest.mark.parametrize("nu", [np.inf, 8.0])
def test_the_scale_is_found_from_labels(stars, nu):
    rng, terms, theta = stars
    variances, basis = np.geomspace(0.01, 1, 12)[::-1], np.linalg.qr(rng.normal(size=(N_PIXELS, 12)))[0]
    tau = np.ones(N_STARS) if np.isinf(nu) else rng.gamma(nu / 2, 2 / nu, N_STARS)
    growth = rng.uniform(0.5, 3, N_STARS)
    along = rng.normal(size=(N_STARS, 12)) * np.sqrt(variances) * np.sqrt(growth / tau)[:, None]
    for factor in (1.0, 4.0, 0.25):
        held = HeldOutLabels.of_fit(along @ basis.T, growth, terms, theta, basis, variances / factor, nu)
        # The median of chi^2 of two labels of 4,000 stars is known to 2.3 %.
        assert_allclose(held.typical(nu), factor, rtol=0.05)
        assert held.level == 1
        assert held.floor < 1e-12
        assert (held.n_labels == 2).all()
        if factor == 1:
            assert_allclose(held.scale(nu), 1, rtol=0.12)
    # Without a response to labels, spectra decide.
    none = HeldOutLabels.of_fit(along @ basis.T, growth, terms, 0 * theta, basis, variances / 4, nu)
    assert_allclose(none.scale(nu), none.typical(nu))


def test_scores_are_densities_of_labels(stars):
    rng, terms, theta = stars
    few = terms.of_stars(np.arange(6))
    factors, s2 = rng.normal(0, 0.1, (N_PIXELS, 2)), rng.uniform(0.01, 0.02, N_PIXELS)
    flux = few.design @ theta.T + rng.normal(0, 0.2, (6, N_PIXELS))
    ivar = np.full(flux.shape, 50.0)
    ivar[2, :5] = ivar[3] = 0.0
    problem = PixelProblem.unbounded(few, flux, ivar)
    solution = PixelSolution.empty(N_PIXELS, VECTORIZER.n_terms)
    solution.theta[:], solution.s2[:] = theta, s2
    for learned, shared in ((LowRankScatter(factors), factors @ factors.T), (IndependentScatter(), 0.0)):
        got = label_scores(problem, solution, learned)
        assert np.isnan(got[3])
        for star in (0, 1, 2, 4, 5):
            used = ivar[star] > 0
            jacobian = theta[used] @ term_gradients(few)[star].T
            whole = np.diag(1 / 50 + s2) + shared
            precision = np.linalg.inv(whole[np.ix_(used, used)])
            covariance = np.linalg.inv(jacobian.T @ precision @ jacobian)
            off = covariance @ jacobian.T @ precision @ (flux - few.design @ theta.T)[star, used]
            # The median of chi^2 of two labels is 2 ln 2, where its mean is 2.
            square = off @ np.linalg.solve(covariance, off)
            expected = multivariate_normal(cov=covariance).logpdf(off) + np.log(2 * np.pi)
            assert_allclose(got[star], expected + 0.5 * square * (1 - 1 / np.log(2)), rtol=1e-9)
