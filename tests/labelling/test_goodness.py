"""Goodness of fit: spectra of the same kind pass, others are flagged, and the reference is that of stars held out."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

import bayes_cannon as tc
from bayes_cannon.core.status import StarStatus
from bayes_cannon.labelling.goodness import GoodnessOfFit

NAMES = ("TEFF", "LOGG", "FE_H")


def world(n_stars, seed, correlated=0.0):
    """Spectra of 80 pixels; some of the scatter is shared by them."""
    rng = np.random.default_rng(seed)
    fixed = np.random.default_rng(99)
    theta, shared = fixed.normal(0, 0.1, (3, 80)), fixed.normal(0, correlated, (2, 80))
    labels = rng.uniform([4000, 1, -1], [5300, 4, 0.4], (n_stars, 3))
    x = (labels - [4650, 2.5, -0.3]) / [1300, 3, 1.4]
    noise = rng.uniform(0.005, 0.02, (n_stars, 1)) * np.ones(80)
    flux = (
        0.95 + x @ theta + rng.normal(size=(n_stars, 2)) @ shared + np.hypot(noise, 0.01) * rng.normal(size=noise.shape)
    )
    return labels, flux, noise**-2


@pytest.fixture(scope="module")
def model():
    labels, flux, ivar = world(150, 1)
    model = tc.CannonModel(labels, flux, ivar, tc.vectorizer.PolynomialVectorizer(NAMES, 2))
    model.train()
    return model


def test_reference_is_that_of_stars_held_out(model):
    """The median of training stars is that of new ones, which without the leverage is lower by a tenth."""
    _, flux, ivar = world(150, 2)
    fit = model.fit_labels(flux, ivar)
    reference = model._result.goodness
    assert_allclose(np.median(reference.reduced_chi_squared), np.median(fit.reduced_chi_squared), rtol=0.06)
    assert np.median(reference.reduced_chi_squared) > np.median(
        [record["r_chi_sq"] for record in model.test(model.training_set_flux, model.training_set_ivar)[2]]
    )


@pytest.mark.parametrize("correlated", [0.0, 0.02])
def test_spectra_of_the_same_kind_pass(correlated):
    """Also where the model takes for independent what is not, so that its chi^2 spreads widely."""
    labels, flux, ivar = world(150, 1, correlated)
    model = tc.CannonModel(labels, flux, ivar, tc.vectorizer.PolynomialVectorizer(NAMES, 2))
    model.train()
    _, flux, ivar = world(150, 3, correlated)
    assert (model.fit_labels(flux, ivar).status == StarStatus.UNLIKE_TRAINING_SPECTRA).mean() < 0.02


UNLIKE = {
    "counts": lambda flux, ivar: (2000 * flux, ivar / 2000**2),
    "erg/s/cm2/A": lambda flux, ivar: (3e-15 * flux, ivar / 3e-15**2),
    "errors in place of ivar": lambda flux, ivar: (flux, ivar**-0.5),
    "not normalized": lambda flux, ivar: (flux * np.linspace(0.5, 1.6, 80), ivar),
    "another kind of star": lambda flux, ivar: (flux + 0.15 * np.sin(np.arange(80) / 3), ivar),
    "noise": lambda flux, ivar: (np.random.default_rng(0).normal(1, 0.3, flux.shape), ivar),
}


@pytest.mark.parametrize("change", UNLIKE.values(), ids=UNLIKE)
def test_spectra_of_another_kind_are_flagged(model, change):
    _, flux, ivar = world(40, 4)
    fit = model.fit_labels(*change(flux, ivar))
    assert (fit.status == StarStatus.UNLIKE_TRAINING_SPECTRA).mean() > 0.95
    assert (np.abs(fit.misfit) > 5).mean() > 0.95


def test_fewer_photons_are_no_other_kind(model):
    """Nor is a spectrum without any noise."""
    rng = np.random.default_rng(5)
    labels, flux, ivar = world(60, 5)
    noise = 0.05
    noisy = model.fit_labels(model(labels) + noise * rng.normal(size=flux.shape), np.full(flux.shape, noise**-2))
    assert (noisy.status != StarStatus.UNLIKE_TRAINING_SPECTRA).all()
    clean = model.fit_labels(model(labels), ivar)
    assert (clean.status != StarStatus.UNLIKE_TRAINING_SPECTRA).all()
    assert (clean.misfit < -5).all()


def test_reference_is_kept_in_the_file(model, tmp_path):
    model.write(tmp_path / "a.model")
    back = tc.CannonModel.read(tmp_path / "a.model")
    _, flux, ivar = world(8, 6)
    assert_allclose(back.fit_labels(flux, ivar).misfit, model.fit_labels(flux, ivar).misfit)


def test_misfit_against_numbers():
    goodness = GoodnessOfFit(np.full(100, 50.0), np.exp(0.3 + 0.2 * np.linspace(-1, 1, 100)))
    spread = 1.482602218505602 * 0.1  # The median deviation of uniform numbers, as of a normal distribution.
    found = goodness.misfit(np.exp([0.1, 0.3, 0.3 + 3 * spread, -2 * spread]), np.full(4, 50.0), np.full(4, 10_000))
    assert_allclose(found, [0, 0, 3, -2], atol=0.05)
    assert_allclose(GoodnessOfFit.unknown().misfit(np.array([10.0]), np.ones(1), np.full(1, 1000)), 5, atol=0.01)
