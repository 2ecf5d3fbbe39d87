"""A covariance that depends on the labels, in models: files, streams, draws, errors with theta integrated out."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import chi2

import bayes_cannon as tc

NAMES = ("TEFF", "LOGG")
VECTORIZER = tc.vectorizer.PolynomialVectorizer(NAMES, 1)
BETA = np.array([1.2, 0.0])
"""By the labels from -1 to 1."""
PLAIN = tc.scatter.Full(shrinkage=0.0, heavy_tails=True, share=0.0)
FULL = replace(PLAIN, label_scale=True)


class Survey:
    """Spectra of 10 pixels with heavy tails, and scatter three times as large at one end of TEFF as at the other."""

    def __init__(self, n_stars: int, seed: int = 0):
        rng, fixed = np.random.default_rng(seed), np.random.default_rng(1)
        self.x = rng.uniform(-1, 1, (n_stars, 2))
        self.labels = [5000, 2.5] + self.x * [800, 1.5]
        root = 0.02 * fixed.normal(0, 1, (10, 10))
        tau = rng.gamma(3.0, 1 / 3.0, n_stars)
        scale = np.sqrt(np.exp(self.x @ BETA) / tau)
        theta = fixed.normal(0, 0.08, (2, 10))
        noise = rng.normal(size=(n_stars, 10)) @ root.T + 0.01 * rng.normal(size=(n_stars, 10))
        self.flux = 1 + self.x @ theta + noise * scale[:, None]
        self.ivar = np.full(self.flux.shape, 1 / 0.02**2)

    def model(self, scatter=FULL) -> tc.CannonModel:
        model = tc.CannonModel(self.labels, self.flux, self.ivar, VECTORIZER, scatter=scatter)
        model.train()
        return model


@pytest.fixture(scope="module")
def survey():
    return Survey(600)


@pytest.fixture(scope="module")
def others():
    return Survey(400, seed=5)


@pytest.fixture(scope="module")
def model(survey):
    return survey.model()


def squares(fit, labels: np.ndarray) -> np.ndarray:
    away = fit.labels - labels
    return np.einsum("nk,nk->n", away, np.linalg.solve(fit.covariance, away[..., None])[..., 0])


def covered(fit, labels: np.ndarray, stars: np.ndarray) -> float:
    """Share of the stars within the ellipse of half of the labels."""
    return float(np.mean(squares(fit, labels)[stars] < chi2(2).median()))


def test_scale_of_the_labels_is_learned(model, survey):
    unit = model.scaling.factor * model.scaling.scale / [800, 1.5]
    assert_allclose(model.correlation.label_scale / unit, BETA, atol=0.3)


@pytest.mark.slow
def test_errors_cover_at_both_ends(model, survey, others):
    plain = survey.model(PLAIN)
    fits = [each.fit_labels(others.flux, others.ivar) for each in (model, plain)]
    for low, high, sign in ((-1, -0.4, 1), (0.4, 1, -1)):
        stars = (others.x[:, 0] > low) & (others.x[:, 0] < high)  # About 120.
        right, wrong = (covered(fit, others.labels, stars) for fit in fits)
        assert abs(right - 0.5) < 0.15
        assert sign * (wrong - right) > 0  # Heavy tails learn some of the scale from the spectrum itself.
    own, other = (np.mean(tc.validate.log_scores(fit.labels, others.labels, fit.covariance)) for fit in fits)
    assert own > other


def test_file_holds_it(model, others, tmp_path):
    model.write(tmp_path / "one.model", include_training_set_spectra=True)
    again = tc.CannonModel.read(tmp_path / "one.model")
    assert again == model
    assert np.array_equal(again.correlation.label_scale, model.correlation.label_scale)
    one, two = (each.fit_labels(others.flux[:40], others.ivar[:40]) for each in (model, again))
    assert np.array_equal(one.labels, two.labels)
    assert np.array_equal(one.covariance, two.covariance)
    pairs = [(others.flux[rows], others.ivar[rows]) for rows in (slice(0, 15), slice(15, 40))]
    parts = list(again.fit_label_stream(iter(pairs)))
    assert_allclose(np.concatenate([part.labels for part in parts]), one.labels, rtol=1e-9)


@pytest.mark.slow
def test_draws_and_integrals_agree_with_theta_known_and_integrated_out():
    few, new = Survey(60, seed=2), Survey(6, seed=6)
    model = few.model()
    assert model.correlation.label_scale is not None
    for integrated in (False, True):
        if integrated:
            model.sample(method="psis", key=0, n_draws=250)
            budget, published = model.error_budget(new.flux, new.ivar), model.fit_labels(new.flux, new.ivar)
            assert_allclose(budget.total**2, np.diagonal(published.covariance, axis1=1, axis2=2), rtol=1e-5)
            assert (published.decrement < 1e-6).all()
        fit = model.fit_labels(new.flux, new.ivar, prior="gaussian")
        drawn = model.sample_labels(new.flux, new.ivar, prior="gaussian", key=1)["posterior"]
        draws = drawn["labels"].transpose("chain", "draw", "star", "label_name").to_numpy().reshape(-1, 6, 2)
        error = draws.std(axis=0)
        assert_allclose(fit.labels / error, draws.mean(axis=0) / error, rtol=0, atol=0.12)
        assert_allclose(np.sqrt(np.diagonal(fit.covariance, axis1=1, axis2=2)), error, rtol=0.12)


@pytest.mark.slow
def test_local_models_have_a_scale_of_their_own(survey, others, tmp_path):
    fits = []
    for scatter in (FULL, PLAIN):
        local = tc.LocalCannonModel(
            survey.labels, survey.flux, survey.ivar, NAMES, scatter=scatter, partitions=[(1, 1)], rho_warning=0.99
        )
        local.train()
        fits.append(local.fit_labels(others.flux, others.ivar))
        if scatter is FULL:
            assert local._result.partitions[0].regions[0].scatter.label_scale is not None
            local.write(tmp_path / "local.model")
            again = tc.LocalCannonModel.read(tmp_path / "local.model")
            assert again == local
            assert np.array_equal(again.fit_labels(others.flux, others.ivar).labels, fits[0].labels)
    own, other = (np.mean(tc.validate.log_scores(fit.labels, others.labels, fit.covariance)) for fit in fits)
    assert own > other
    for sign in (-1, 1):
        assert abs(covered(fits[0], others.labels, sign * others.x[:, 0] > 0.3) - 0.5) < 0.15
