"""Calibration of label errors by training stars that are held out, whose reference labels err."""

import warnings
from dataclasses import fields, replace
from functools import partial

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import bayes_cannon as tc
from bayes_cannon.calibration import fit
from bayes_cannon.calibration.calibrated_errors import Calibration
from bayes_cannon.calibration.fit import CalibrationWarning
from bayes_cannon.model import NotTrainedError, StaleCalibrationWarning

NAMES = ("TEFF", "LOGG")
BOUNDS = {"TEFF": (-0.3, 0.3)}
TRUTH = np.array([[40.0**2, 0.5 * 40 * 0.08], [0.5 * 40 * 0.08, 0.08**2]])


@pytest.fixture(scope="module")
def stars():
    """Stars whose reference labels err."""
    rng = np.random.default_rng(1)
    labels = np.column_stack([rng.uniform(4000, 6000, 800), rng.uniform(1, 4, 800)])
    x = (labels - [5000, 2.5]) / [2000, 3]
    theta = rng.normal(0, 0.05, (30, 3))
    noise = rng.uniform(0.001, 0.006, (800, 1)) * np.ones(30)
    flux = 1 + x @ theta[:, 1:].T + noise * rng.normal(size=(800, 30))
    return labels + rng.multivariate_normal(np.zeros(2), TRUTH, 800), flux, noise**-2


def trained(stars):
    labels, flux, ivar = stars
    vectorizer = tc.vectorizer.PolynomialVectorizer(NAMES, 1)
    model = tc.RestrictedCannonModel(labels[:400], flux[:400], ivar[:400], vectorizer, theta_bounds=BOUNDS)
    with pytest.raises(NotTrainedError, match="call train"):
        model.calibrate()
    model.train()
    return model


@pytest.fixture(scope="module")
def model(stars):
    """A restricted model, to be calibrated once; nobody else may change it."""
    model = trained(stars)
    assert model.calibration is None
    return model


@pytest.fixture(scope="module")
def before(model, stars):
    """Labels of the other stars before the calibration."""
    return model.fit_labels(stars[1][400:], stars[2][400:])


@pytest.fixture(scope="module")
def calibrated(model, before):
    """With few draws of the calibration: how good it is counts where it has all of them."""
    seen = []
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        patch.setattr(fit, "calibrate", partial(fit.calibrate, n_warmup=20, n_draws=20))
        found = model.calibrate(n_folds=4, key=2, progress=seen.append)
    assert seen == [1] * 4
    assert found is model.calibration
    assert found.n_stars == 400
    return model


@pytest.mark.slow
def test_errors_of_other_stars_cover(stars, before):
    calibrated = trained(stars)
    calibrated.calibrate(n_folds=4, key=2)
    labels, flux, ivar = (array[400:] for array in stars)
    assert_array_equal(before.covariance, before.formal_covariance)
    after = calibrated.fit_labels(flux, ivar)
    assert_array_equal(after.labels, before.labels)
    assert_array_equal(after.formal_covariance, before.covariance)
    reach = calibrated.leverage(after.labels)
    assert_allclose(after.covariance, calibrated.calibration.covariance(before.covariance, after.snr, reach))
    pulls = tc.validate.pulls(after.labels, labels, after.covariance)
    assert_allclose(pulls.std(axis=0), 1, atol=0.1)
    # The scatter of the reference labels is found, correlation and all.
    added = np.median(after.covariance - before.covariance, axis=0)
    unit = np.sqrt(np.diag(TRUTH))
    assert_allclose(added / np.outer(unit, unit), TRUTH / np.outer(unit, unit), atol=0.3)
    scores = [tc.validate.log_scores(fit.labels, labels, fit.covariance).mean() for fit in (before, after)]
    assert scores[1] > scores[0]


def test_calibration_is_kept_in_the_file(stars, calibrated, tmp_path):
    flux, ivar = stars[1][400:405], stars[2][400:405]
    after = calibrated.fit_labels(flux, ivar)
    calibrated.write(tmp_path / "a.model")
    back = tc.RestrictedCannonModel.read(tmp_path / "a.model")
    assert back.theta_bounds == BOUNDS
    for field in fields(Calibration):
        one, other = getattr(calibrated.calibration, field.name), getattr(back.calibration, field.name)
        if field.name == "spread":
            assert set(one) == set(other)
            assert all(np.array_equal(one[name], other[name]) for name in one)
        else:
            assert_array_equal(one, other)
    (part,) = back.fit_label_stream([(flux, ivar)])
    assert_allclose(part.covariance, after.covariance)
    assert_allclose(part.formal_covariance, after.formal_covariance)
    assert_allclose(back.test(flux, ivar)[1], after.covariance)
    with pytest.raises(TypeError, match="holds no training spectra"):
        back.calibrate()


def keep_calibration(model):
    """Give a trained model a calibration without learning it."""
    model._result = replace(model._result, calibration=Calibration.from_floor(TRUTH))


def test_another_training_forgets_it(stars):
    labels, flux, ivar = (array[:60] for array in stars)
    model = tc.CannonModel(labels, flux, ivar, tc.vectorizer.PolynomialVectorizer(NAMES, 1))
    model.train()
    keep_calibration(model)
    model.train()
    assert model.calibration is None
    with pytest.raises(ValueError, match=r"reference_errors must have the shape.*\(60, 2\); got \(2,\)"):
        model.calibrate(reference_errors=[10.0, 0.1])
    keep_calibration(model)
    model.reset()
    assert model.calibration is None


@pytest.fixture
def sampled(stars):
    """A small model with the posterior of the theta of all pixels but one."""
    labels, flux, ivar = (array[:60] for array in stars)
    model = tc.CannonModel(labels, flux, ivar, tc.vectorizer.PolynomialVectorizer(NAMES, 1))
    model.train()
    model.tree = model.sample(method="psis", n_draws=100, pixels=np.arange(1, 30))
    return model


def test_another_posterior_of_theta_forgets_it(sampled, stars):
    def calibrated():
        keep_calibration(sampled)

    calibrated()
    sampled.use_posterior(sampled.tree)  # It is the one that is there already.
    assert sampled.calibration is not None
    with pytest.warns(StaleCalibrationWarning, match="the posterior of theta is another one.*call calibrate"):
        sampled.sample(method="psis", n_draws=100, pixels=np.arange(2, 30))
    assert sampled.calibration is None
    calibrated()
    with pytest.warns(StaleCalibrationWarning):
        sampled.use_posterior(sampled.tree)
    assert sampled.calibration is None
    calibrated()
    with pytest.warns(StaleCalibrationWarning, match="integrate_theta has changed"):
        sampled.integrate_theta = False
    assert sampled.calibration is None
    # With theta plugged in labels do not know of its posterior, and the calibration stays.
    calibrated()
    sampled.use_posterior(sampled.tree)
    sampled.integrate_theta = False
    assert sampled.calibration is not None
    fit = sampled.fit_labels(stars[1][:5], stars[2][:5])
    assert_allclose(fit.covariance, fit.formal_covariance + TRUTH)


@pytest.mark.parametrize("integrate", [True, False])
def test_held_out_models_integrate_theta_out_as_the_model_does(sampled, stars, monkeypatch, integrate):
    labels, flux, ivar = (array[:60] for array in stars)
    seen = {}

    def record(residual, covariance, snr, **_):
        seen.update(residual=residual, covariance=covariance)
        return Calibration.from_floor(TRUTH)

    monkeypatch.setattr("bayes_cannon.calibration.fit.calibrate", record)
    sampled.integrate_theta = integrate
    sampled.calibrate(n_folds=2)
    away = tc.validate.folds(60, 2) == 0
    other = tc.CannonModel(labels[~away], flux[~away], ivar[~away], sampled.vectorizer)
    other.train()
    plug_in = other.fit_labels(flux[away], ivar[away])
    other.sample(method="psis", pixels=np.arange(1, 30))
    integrated = other.fit_labels(flux[away], ivar[away])
    expected = integrated if integrate else plug_in
    other_fit = plug_in if integrate else integrated
    got, sd, others_sd = (
        np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
        for covariance in (seen["covariance"][away], expected.covariance, other_fit.covariance)
    )
    # The labels are scaled otherwise in the folds, so that draws of theta are others.
    assert_allclose(got, sd, rtol=0.01)
    assert_allclose((seen["residual"][away] - (expected.labels - labels[away])) / sd, 0, atol=0.1)
    assert (np.abs(others_sd / sd - 1) > 0.02).all()


def test_leverage_is_that_by_the_stars_that_trained(stars, monkeypatch):
    """``N / D v' (V'V)^-1 v`` by the terms V of the fold's own stars, and visits of a star are in one fold."""
    labels, flux, ivar = (np.repeat(array[:30], 2, axis=0) for array in stars)
    model = tc.CannonModel(labels, flux, ivar, tc.vectorizer.PolynomialVectorizer(NAMES, 1))
    model.train()
    seen = {}

    def record(difference, covariance, snr, *, leverage, **_):
        seen.update(inferred=labels + difference, leverage=leverage)
        return Calibration.from_floor(TRUTH)

    monkeypatch.setattr("bayes_cannon.calibration.fit.calibrate", record)
    for given in (None, np.repeat(np.arange(30), 2)):
        model.calibrate(n_folds=2, groups=given)
        fold = np.repeat(tc.validate.folds(30, 2), 2)
        for out in (0, 1):
            away = fold == out
            design, terms = (np.column_stack([np.ones(len(x)), x]) for x in (labels[~away], seen["inferred"][away]))
            raw = np.einsum("nd,de,ne->n", terms, np.linalg.inv(design.T @ design), terms)
            assert_allclose(seen["leverage"][away], 60 / 3 * raw, rtol=1e-6)
    # Those of the model itself are in the same unit.
    assert_allclose(model.leverage(labels).mean(), 1)


def test_sampled_labels_say_which_errors_they_have(stars):
    labels, flux, ivar = (array[:60] for array in stars)
    model = tc.CannonModel(labels, flux, ivar, tc.vectorizer.PolynomialVectorizer(NAMES, 1))
    model.train()
    keep_calibration(model)
    tree = model.sample_labels(flux[:3], ivar[:3], key=0, n_draws=50, n_warmup=50)
    assert tree["posterior"].attrs["errors"] == "formal"
    summary = tree["summary"]
    assert summary["covariance"].attrs["errors"] == "formal"
    assert_allclose(summary["calibrated_covariance"], summary["covariance"].to_numpy() + TRUTH)


def test_signal_to_noise_of_logarithms(stars):
    """A logarithm of flux may have any sign; its S/N is one over its error."""
    labels, flux, ivar = (array[:60] for array in stars)
    model = tc.CannonModel(labels, flux - 1, ivar, tc.vectorizer.PolynomialVectorizer(NAMES, 1))
    model.train()
    assert_allclose(model.fit_labels(flux[:5] - 1, ivar[:5]).snr, np.sqrt(ivar[:5, 0]), rtol=1e-6)
