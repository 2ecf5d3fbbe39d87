"""Labels with correlated scatter, against dense covariances over the pixels."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import least_squares

from bayes_cannon.core.scaling import LabelScaling
from bayes_cannon.core.terms import Terms
from bayes_cannon.core.vectorizer import PolynomialVectorizer, monomials
from bayes_cannon.labelling.fit import fit_labels
from bayes_cannon.labelling.trained import TrainedModel
from bayes_cannon.scatter import IndependentScatter, LowRankScatter

NAMES = ("TEFF", "LOGG")
VECTORIZER = PolynomialVectorizer(NAMES, 2)
N_STARS, N_PIXELS, RANK = 400, 40, 3


@pytest.fixture(scope="module")
def case():
    """A model, and stars drawn from it with missing pixels and one pixel without solution."""
    rng = np.random.default_rng(0)
    training = np.column_stack([rng.uniform(4000, 6000, 200), rng.uniform(1, 4, 200)])
    scaling = LabelScaling.from_labels(training, NAMES)
    theta = rng.normal(0, 0.05, (N_PIXELS, VECTORIZER.n_terms))
    theta[:, 3:] *= 0.3
    theta[:, 0] = 0.9
    s2 = rng.uniform(0, 1e-4, N_PIXELS)
    factors = rng.normal(0, 0.01, (N_PIXELS, RANK))
    labels = training[rng.integers(0, 200, N_STARS)]
    sigma = rng.uniform(0.003, 0.01, (N_STARS, N_PIXELS))
    flux = monomials(scaling.scaled(labels), VECTORIZER.exponents) @ theta.T
    flux += rng.normal(size=(N_STARS, RANK)) @ factors.T + rng.normal(size=flux.shape) * np.sqrt(sigma**2 + s2)
    ivar = 1 / sigma**2
    lost = rng.random(flux.shape) < 0.1
    flux[lost], ivar[lost] = np.nan, 0.0
    theta[7], s2[7], factors[7] = np.nan, np.inf, 0.0
    terms = Terms(VECTORIZER.exponents, scaling.scaled(training))
    model = TrainedModel(theta, s2, LowRankScatter(factors), terms, scaling)
    return {"flux": flux, "ivar": ivar, "labels": labels, "model": model}


@pytest.fixture(scope="module")
def fit(case):
    return fit_labels(case["model"], case["flux"], case["ivar"])


def test_equals_a_dense_whitened_fit_over_the_pixels(case, fit):
    model, scaling = case["model"], case["model"].scaling
    unit = scaling.factor * scaling.scale
    for star in range(5):
        used = (case["ivar"][star] > 0) & np.isfinite(model.s2)
        U, theta = model.scatter.factors[used], model.theta[used]
        root = np.linalg.cholesky(np.diag(1 / case["ivar"][star, used] + model.s2[used]) + U @ U.T)

        def residual(x, root=root, theta=theta, flux=case["flux"][star, used]):
            return np.linalg.solve(root, flux - theta @ VECTORIZER.get_label_vector(x)[:, 0])

        start = scaling.scaled(case["labels"][star])
        best = least_squares(residual, start, "3-point", xtol=1e-15, ftol=1e-15, gtol=1e-15)
        covariance = np.linalg.inv(best.jac.T @ best.jac) * np.outer(unit, unit)
        assert_allclose(fit.chi_squared[star], 2 * best.cost, rtol=1e-9)
        error = np.sqrt(np.diag(covariance))
        assert_allclose(fit.labels[star] / error, scaling.unscaled(best.x) / error, rtol=0, atol=1e-5)
        assert_allclose(fit.covariance[star] / np.outer(error, error), covariance / np.outer(error, error), atol=1e-6)
    assert (fit.decrement < 1e-10).all()


def test_errors_cover_where_those_of_the_independent_model_do_not(case, fit):
    pulls = (fit.labels - case["labels"]) / np.sqrt(np.einsum("nkk->nk", fit.covariance))
    assert_allclose(pulls.std(axis=0), 1, atol=0.12)
    naive = fit_labels(replace(case["model"], scatter=IndependentScatter()), case["flux"], case["ivar"])
    wrong = (naive.labels - case["labels"]) / np.sqrt(np.einsum("nkk->nk", naive.covariance))
    assert (wrong.std(axis=0) > 1.5 * pulls.std(axis=0)).all()
    assert ((naive.labels - case["labels"]).std(axis=0) > (fit.labels - case["labels"]).std(axis=0)).all()


def test_no_factors_is_the_independent_model(case):
    spectra = case["flux"][:20], case["ivar"][:20]
    one, other = (
        fit_labels(replace(case["model"], scatter=scatter), *spectra)
        for scatter in (LowRankScatter(np.zeros((N_PIXELS, 1))), IndependentScatter())
    )
    assert_allclose(one.labels, other.labels, rtol=1e-9)
    assert_allclose(one.covariance, other.covariance, rtol=1e-7)


def test_heavy_tails_scale_the_errors_of_stars_that_do_not_fit(case, fit):
    flux = case["flux"].copy()
    flux[0] += 0.1 * np.random.default_rng(1).normal(size=N_PIXELS)
    scatter = LowRankScatter(case["model"].scatter.factors, nu=10.0)
    heavy = fit_labels(replace(case["model"], scatter=scatter), flux, case["ivar"])
    assert_allclose(heavy.labels[1:], fit.labels[1:])
    # The variance of a Student-t distribution of nu + P - K degrees of freedom, for K = 2 labels.
    expected = (10 + fit.chi_squared) / (10 + fit.n_pixels - 4)
    assert_allclose(heavy.scale[1:], expected[1:])
    assert_allclose(heavy.covariance[1:], fit.covariance[1:] * expected[1:, None, None])
    assert heavy.scale[0] > 10
    assert (fit.scale == 1).all()


def test_factors_of_another_model_are_refused(case):
    with pytest.raises(ValueError, match="factors of 3 pixels, theta has 40"):
        replace(case["model"], scatter=LowRankScatter(np.zeros((3, 1))))
