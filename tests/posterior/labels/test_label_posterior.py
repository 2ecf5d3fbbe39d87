"""Posterior of labels by one model and by a mixture of models of regions."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bayes_cannon.core import student_t
from bayes_cannon.core.label_mixture import LabelMixture
from bayes_cannon.core.scaling import LabelScaling
from bayes_cannon.core.terms import Terms
from bayes_cannon.core.vectorizer import PolynomialVectorizer
from bayes_cannon.execution.jax_settings import own_jax_settings
from bayes_cannon.labelling.compressed import compressed_batch
from bayes_cannon.labelling.trained import TrainedModel
from bayes_cannon.posterior.labels import label_posterior as module
from bayes_cannon.posterior.labels.label_posterior import (
    RegionModel,
    label_posterior,
    mixture_moments,
    mixture_prior,
)
from bayes_cannon.scatter import CommonCovariance, IndependentScatter, LowRankScatter
from bayes_cannon.training.problem import PixelProblem

NAMES = ("TEFF", "LOGG")
VECTORIZER = PolynomialVectorizer(NAMES, 2)
N_STARS, N_PIXELS = 30, 12


class Case:
    """Spectra of two labels by a quadratic model, whose stars have noise of their own."""

    def __init__(self, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.labels = rng.normal([5000, 3.0], [300, 0.5], (N_STARS, 2))
        self.scaling = LabelScaling.from_labels(self.labels, NAMES)
        self.terms = Terms(VECTORIZER.exponents, self.scaling.scaled(self.labels))
        sizes = np.where(VECTORIZER.exponents.sum(axis=1) > 1, 0.01, 0.05)
        self.theta = rng.normal(0, sizes, (N_PIXELS, len(sizes)))
        self.theta[:, 0] = 1.0
        self.s2 = rng.uniform(0.005, 0.01, N_PIXELS) ** 2
        self.ivar = np.tile(1 / rng.uniform(0.01, 0.02, (N_STARS, 1)) ** 2, N_PIXELS)
        self.factors = rng.normal(0, 0.01, (N_PIXELS, 2))
        noise = np.sqrt(1 / self.ivar + self.s2) * rng.normal(size=self.ivar.shape)
        self.flux = self.terms.design @ self.theta.T + noise
        self.problem = PixelProblem.unbounded(self.terms, self.flux, self.ivar)

    def model(self, scatter, theta=None) -> TrainedModel:
        return TrainedModel(self.theta if theta is None else theta, self.s2, scatter, self.terms, self.scaling)

    def mixture(self, centre=(5000.0, 3.0), width=1.0) -> LabelMixture:
        covariance = width**2 * np.diag([300.0**2, 0.5**2])
        return LabelMixture(np.ones(1), np.array([centre]), covariance[None])

    def region(self, scatter, theta=None, *, share=1.0, inside=None, **prior) -> RegionModel:
        mixture = mixture_prior(self.mixture(**prior), self.scaling)
        return RegionModel(self.model(scatter, theta), mixture, inside, float(np.log(share)))


@pytest.fixture(scope="module")
def case():
    return Case()


def common(case: Case, n_leading: int = N_PIXELS) -> CommonCovariance:
    """A full covariance about the noise of 0.015, in which all directions or some are leading."""
    basis = np.linalg.qr(np.random.default_rng(5).normal(size=(N_PIXELS, N_PIXELS)))[0][:, :n_leading]
    quoted = np.full(N_PIXELS, 0.015)
    factors = 0.015 * basis * np.linspace(2.0, 1.2, n_leading)
    return CommonCovariance(factors, quoted, 6.0, quoted=quoted, own=case.s2, constant=0.3, slope=0.7, floor=0.0)


def heights(model: TrainedModel, case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Log density at the true labels, as the module makes it of chi^2 and ln det, and the number of coordinates."""
    with own_jax_settings():
        tables = model.tables
        found = compressed_batch(tables, case.flux, case.ivar)
        count, nu = np.asarray(found.n_tail, float), float(model.scatter.nu)
        moments = np.prod(case.terms.x[:, None] ** case.terms.moments.exponents, axis=2)
        value = np.sum(np.asarray(found.coefficients) * moments, axis=1)
        log_det = np.asarray(tables.scatter.log_det(found.root, found.w))
        return np.asarray(student_t.log_density(value, log_det, count, nu)), count


@pytest.mark.parametrize("kind", ["independent", "low rank", "low rank with heavy tails"])
def test_height_of_the_likelihood_is_that_of_the_scatter(case, kind):
    scatter = IndependentScatter() if kind == "independent" else LowRankScatter(case.factors)
    if kind.endswith("tails"):
        scatter = LowRankScatter(case.factors, nu=5.0)
    model = case.model(scatter)
    found, count = heights(model, case)
    assert_allclose(found, scatter.log_likelihood(case.problem, model), rtol=1e-9)
    assert_allclose(count, N_PIXELS)


def test_height_along_leading_directions_is_that_of_the_common_covariance(case):
    """In units of the usual noise: the density of the flux differs by the same number for all stars."""
    scatter = common(case)
    model = case.model(scatter)
    found, _ = heights(model, case)
    unit = np.log(scatter.quoted).sum()
    assert_allclose(found - unit, scatter.log_likelihood(case.problem, model), rtol=1e-8)
    level = 1 / (case.ivar[:, 0] * 0.015**2)
    with own_jax_settings():
        batch = compressed_batch(model.tables, case.flux, case.ivar)
        scale = np.asarray(model.tables.scatter.star_scale(batch.root, batch.w))
    assert_allclose(scale, 0.3 + 0.7 * level, rtol=1e-8)


def test_region_that_does_not_matter_is_left_out(case, monkeypatch):
    inside = 0.05 * np.eye(case.terms.n_terms)
    scatter, rng = IndependentScatter(), np.random.default_rng(4)
    other = case.theta + rng.normal(0, 0.01, case.theta.shape)
    third = case.theta + rng.normal(0, 0.05, case.theta.shape)
    regions = [
        case.region(scatter, share=0.6, inside=0.1 * inside),
        case.region(scatter, other, share=0.3, inside=inside, centre=(5300.0, 2.5)),
        case.region(scatter, third, share=0.1, inside=10 * inside),
    ]
    found = label_posterior(regions, case.flux, case.ivar)
    monkeypatch.setattr(module, "NEGLIGIBLE", np.inf)
    whole = label_posterior(regions, case.flux, case.ivar)
    assert ((found.weights == 0) & (whole.weights > 0)).any()
    assert_allclose(found.weights, whole.weights, rtol=0, atol=1e-5)
    assert_allclose(found.log_evidence, whole.log_evidence, rtol=0, atol=1e-5)
    error = np.sqrt(np.diagonal(whole.covariance, axis1=1, axis2=2))
    assert_allclose(found.labels / error, whole.labels / error, rtol=0, atol=1e-3)


def test_evidence_of_a_region_is_below_its_bound(case):
    """Of spectra that fit badly, too, where the errors of theta are what makes them likely."""
    region = case.region(IndependentScatter(), inside=0.3 * np.eye(case.terms.n_terms))
    flux = case.flux + np.random.default_rng(6).normal(0, np.linspace(0, 0.2, N_STARS)[:, None], case.flux.shape)
    with own_jax_settings():
        flux_64, ivar_64 = (np.concatenate([array] * 3)[:64] for array in (flux, case.ivar))
        bound = module._compressed(region, flux_64, ivar_64).bound[:N_STARS]
    found = label_posterior([region], flux, case.ivar)
    assert (found.log_evidence <= bound + 1e-6).all()


def test_equal_regions_share_the_weight(case):
    region = case.region(IndependentScatter(), share=0.5)
    one = label_posterior([replace(region, log_share=0.0)], case.flux, case.ivar)
    two = label_posterior([region, region], case.flux, case.ivar)
    assert_allclose(two.weights, 0.5, rtol=1e-9)
    for name in ("labels", "covariance", "log_evidence", "efficiency"):
        assert_allclose(getattr(two, name), getattr(one, name), rtol=1e-8, err_msg=name)


def test_star_without_a_spectrum_or_with_a_bad_one_has_nan(case):
    region = case.region(IndependentScatter())
    flux, ivar = case.flux.copy(), case.ivar.copy()
    ivar[3], flux[3] = 0.0, np.nan
    ivar[5, 2] = -1.0
    ivar[7, 1] = np.nan
    flux[9, 4] = np.inf
    bad = np.isin(np.arange(N_STARS), [3, 5, 7, 9])
    found, clean = label_posterior([region], flux, ivar), label_posterior([region], case.flux, case.ivar)
    for name in ("labels", "covariance", "log_evidence", "weights", "maximum"):
        values, known = getattr(found, name), getattr(clean, name)
        assert np.isnan(values[bad]).all(), name
        assert_allclose(values[~bad], known[~bad], rtol=1e-9, err_msg=name)
    assert np.isfinite(clean.labels).all()


def test_no_stars(case):
    found = label_posterior([case.region(IndependentScatter())] * 2, case.flux[:0], case.ivar[:0])
    assert found.labels.shape == (0, 2)
    assert found.covariance.shape == (0, 2, 2)
    assert found.weights.shape == (0, 2)


def test_stars_are_independent_of_the_batch(case):
    region = case.region(LowRankScatter(case.factors, nu=5.0))
    rows = np.resize(np.arange(N_STARS), 300)
    seen: list[int] = []
    many = label_posterior([region], case.flux[rows], case.ivar[rows], progress=seen.append)
    few = label_posterior([region], case.flux, case.ivar)
    assert sum(seen) == 300
    assert_allclose(many.labels, few.labels[rows], rtol=1e-8)


def test_moments_of_a_mixture():
    weight = np.array([[0.25], [0.75]])
    mean = np.array([[[0.0, 1.0]], [[4.0, 1.0]]])
    covariance = np.array([[np.eye(2)], [2 * np.eye(2)]])
    centre, total = mixture_moments(weight, mean, covariance)
    assert_allclose(centre, [[3.0, 1.0]])
    assert_allclose(total, [[[0.25 + 1.5 + 0.25 * 9 + 0.75, 0.0], [0.0, 1.75]]])
