"""Bad input to the model, training and the test step: an error, or a status, that names value, place and remedy."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose

import bayes_cannon as tc
from bayes_cannon.core.checks import CorrelatedLabelsWarning
from bayes_cannon.core.status import PixelStatus, StarStatus
from bayes_cannon.model import CannonModel, TrainingWarning
from bayes_cannon.vectorizer import PolynomialVectorizer

NAMES = ("TEFF", "LOGG", "FE_H")
QUADRATIC = PolynomialVectorizer(NAMES, 2)


def changed(array, star, column, value):
    array = array.copy()
    array[star, column] = value
    return array


# Labels.


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_labels_that_are_not_finite(training, value):
    labels = changed(training.labels, 17, 1, value)
    with pytest.raises(ValueError, match=rf"'LOGG' at 1 of 200 stars: rows 17 \({value}\)\. Remove these stars"):
        CannonModel(labels, training.flux, training.ivar, QUADRATIC)


def test_constant_label(training):
    labels = training.labels.copy()
    labels[:, 2] = -0.5
    with pytest.raises(ValueError, match=r"label 'FE_H' is constant.*-0\.5.*leave it out of label_names"):
        CannonModel(labels, training.flux, training.ivar, QUADRATIC)


def test_duplicate_and_unknown_label_names(training):
    with pytest.raises(ValueError, match="'TEFF' occurs more than once"):
        PolynomialVectorizer(("TEFF", "TEFF"), 2)
    columns = dict(zip(("TEFF", "LOGG", "FEH"), training.labels.T, strict=True))
    with pytest.raises(ValueError, match="no column 'FE_H'; the columns are TEFF, LOGG, FEH; did you mean 'FEH'"):
        CannonModel(columns, training.flux, training.ivar, QUADRATIC)
    with pytest.raises(ValueError, match="unknown label 'FEH' for censoring; the labels are TEFF, LOGG, FE_H"):
        training.model(censors={"FEH": np.ones(60, bool)})


def test_correlated_labels(training):
    labels = training.labels.copy()
    labels[:, 2] = 1e-3 * labels[:, 0] - 5
    with pytest.raises(ValueError, match=r"labels 'TEFF' and 'FE_H' are perfectly correlated.*leave one of them out"):
        CannonModel(labels, training.flux, training.ivar, QUADRATIC)
    labels[:, 2] = labels[:, 0] / 500 + labels[:, 1]
    with pytest.raises(ValueError, match=r"labels TEFF, LOGG, FE_H are linearly dependent.*leave one of them out"):
        CannonModel(labels, training.flux, training.ivar, QUADRATIC)
    labels[:, 2] = 1e-3 * labels[:, 0] + 0.3 * training.labels[:, 2]
    with pytest.warns(CorrelatedLabelsWarning, match=r"'TEFF' and 'FE_H' are highly correlated \(rho = \+0\.9"):
        CannonModel(labels, training.flux, training.ivar, QUADRATIC)


def test_one_star(training):
    with pytest.raises(ValueError, match="is constant"):
        CannonModel(training.labels[:1], training.flux[:1], training.ivar[:1], QUADRATIC)


# Shapes.


def test_wrong_shapes(training):
    labels, flux, ivar = training.labels, training.flux, training.ivar
    with pytest.raises(ValueError, match=r"labels has 199 stars but training_set_flux 200: both need one row a star"):
        CannonModel(labels[1:], flux, ivar, QUADRATIC)
    with pytest.raises(
        ValueError, match=r"training_set_flux and training_set_ivar must have the same shape.*\(200, 59\)"
    ):
        CannonModel(labels, flux, ivar[:, 1:], QUADRATIC)
    with pytest.raises(ValueError, match=r"labels must have shape \(star, 3\).*got shape \(200, 2\)"):
        CannonModel(labels[:, :2], flux, ivar, QUADRATIC)
    with pytest.raises(ValueError, match=r"training_set_flux must have shape \(star, pixel\), got \(200, 60, 1\)"):
        CannonModel(labels, flux[:, :, None], ivar[:, :, None], QUADRATIC)
    with pytest.raises(ValueError, match="training_set_flux and training_set_ivar must both be given"):
        CannonModel(labels, flux, None, QUADRATIC)


def test_no_vectorizer(training):
    with pytest.raises(TypeError, match=r"vectorizer must be a vectorizer\.BaseVectorizer, got tuple"):
        CannonModel(training.labels, training.flux, training.ivar, NAMES)


# Spectra.


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_ivar_that_is_no_inverse_variance(training, value):
    ivar = changed(training.ivar, 5, 7, value)
    message = rf"training_set_ivar must be finite and not negative; got {value} for star 5 at pixel 7.*Set ivar to 0"
    with pytest.raises(ValueError, match=message):
        CannonModel(training.labels, training.flux, ivar, QUADRATIC)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_flux_that_is_not_finite(training, value):
    flux = changed(training.flux, 5, 7, value)
    with pytest.raises(
        ValueError, match=rf"training_set_flux must be finite.*got {value} for star 5 at pixel 7.*to 0 there"
    ):
        CannonModel(training.labels, flux, training.ivar, QUADRATIC)
    ivar = changed(training.ivar, 5, 7, 0.0)
    theta, _, _ = CannonModel(training.labels, flux, ivar, QUADRATIC).train()
    assert np.isfinite(theta).all()


def test_fewer_stars_than_terms(training):
    """Nine stars for ten terms: no pixel has a solution, and the words say why; a regularization helps."""
    few = slice(0, 9)
    model = CannonModel(training.labels[few], training.flux[few], training.ivar[few], QUADRATIC)
    with pytest.warns(
        TrainingWarning, match=r"60 of 60 pixels, the first is pixel 0: fewer stars.*lower the order or set"
    ):
        theta, s2, metadata = model.train()
    assert np.isnan(theta).all()
    assert np.isposinf(s2).all()
    assert {record["status"] for record in metadata} == {PixelStatus.TOO_FEW_STARS}
    labels, covariance, records = model.test(training.flux[:8], training.ivar[:8])
    assert np.isnan(labels).all()
    assert np.isnan(covariance).all()
    assert {record["status"] for record in records} == {StarStatus.NO_INFORMATION}


def test_perfectly_dependent_terms(training):
    """A label of two values: its square says nothing new. A status says so, and the fit is finite."""
    labels = training.labels.copy()
    labels[:, 2] = np.where(labels[:, 2] > -0.3, 0.0, -0.5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        theta, _, metadata = CannonModel(labels, training.flux, training.ivar, QUADRATIC).train()
    told = [str(warning.message) for warning in caught if warning.category is TrainingWarning]
    assert any("60 of 60 pixels" in text and "linearly dependent" in text for text in told)
    assert np.isfinite(theta).all()
    assert {record["status"] for record in metadata} == {PixelStatus.DEGENERATE}


# Regularization, masks, dispersion.


@pytest.mark.parametrize(
    ("regularization", "message"),
    [
        (-1, "regularization must be finite and not negative; got -1.0"),
        (np.where(np.arange(60) == 8, -2.0, 1.0), "got -2.0 at pixel 8"),
        (np.where(np.arange(60) == 8, np.nan, 1.0), "got nan at pixel 8"),
        (np.ones(59), r"shape \(60,\); got shape \(59,\)"),
        (np.ones((60, 1)), r"shape \(60,\); got shape \(60, 1\)"),
    ],
)
def test_regularization(training, regularization, message):
    with pytest.raises(ValueError, match=message):
        training.model(regularization=regularization)
    model = training.model(regularization=5.0)
    with pytest.raises(ValueError, match=message):
        model.regularization = regularization
    assert model.regularization == 5.0


def test_masks(training):
    model = training.model()
    with pytest.raises(ValueError, match=r"mask of 'FE_H' must have shape \(60,\), got \(59,\)"):
        model.censors["FE_H"] = np.ones(59, bool)
    with pytest.raises(ValueError, match="mask of 'FE_H' must be boolean, got float64"):
        model.censors["FE_H"] = model.dispersion
    with pytest.raises(TypeError, match="censors must map label names to masks, got list"):
        model.censors = [np.ones(60, bool)]
    assert model.censors == {}
    with pytest.raises(ValueError, match="no region given"):
        tc.censoring.create_mask(model.dispersion, [])


def test_dispersion(training):
    wavelength = training.dispersion
    with pytest.raises(ValueError, match=r"shape \(60,\), one value a pixel; got shape \(59,\)"):
        training.model(dispersion=wavelength[1:])
    with pytest.raises(ValueError, match="dispersion must be finite; got nan at pixel 4"):
        training.model(dispersion=np.where(np.arange(60) == 4, np.nan, wavelength))


# The test step.


def test_dispersion_of_the_test_step(training, trained):
    trained.test(training.flux[:8], training.ivar[:8], dispersion=training.dispersion)
    with pytest.raises(ValueError, match=r"differs from the model's at 60 pixels, first at pixel 0.*Resample"):
        trained.test(training.flux[:8], training.ivar[:8], dispersion=training.dispersion + 1)
    with pytest.raises(ValueError, match=r"shape \(59,\) but the model's has \(60,\)"):
        trained.test(training.flux[:8, 1:], training.ivar[:8, 1:], dispersion=training.dispersion[1:])


def test_spectra_of_the_test_step(training, trained):
    flux, ivar = training.flux[:8], training.ivar[:8]
    with pytest.raises(ValueError, match=r"shape \(star, 60\).*got \(8, 59\)"):
        trained.test(flux[:, 1:], ivar[:, 1:])
    with pytest.raises(ValueError, match=r"got \(8, 60\) and \(7, 60\)"):
        trained.test(flux, ivar[1:])
    bad = [(flux, changed(ivar, 5, 7, value)) for value in (-1.0, np.nan, np.inf)]
    for spectra in [*bad, (changed(flux, 5, 7, np.nan), ivar)]:
        labels, _, records = trained.test(*spectra)
        assert np.flatnonzero(np.isnan(labels).any(axis=1)).tolist() == [5]
        assert records[5]["status"].name == "BAD_SPECTRUM"
        assert "set ivar to 0" in records[5]["fail_message"]
    expected = trained.test(flux, changed(ivar, 5, 7, 0.0))[0]
    assert_allclose(trained.test(changed(flux, 5, 7, np.nan), changed(ivar, 5, 7, 0.0))[0], expected)


def test_initial_labels(training, trained):
    flux, ivar = training.flux[:8], training.ivar[:8]
    best = trained.test(flux, ivar)[0]
    for initial in (training.labels[0], training.labels[:8], training.labels[:8, None]):
        assert_allclose(trained.test(flux, ivar, initial_labels=initial)[0], best, rtol=1e-6)
    with pytest.raises(ValueError, match=r"initial_labels must have shape.*got \(2,\)"):
        trained.test(flux, ivar, initial_labels=[5000.0, 2.0])
    with pytest.raises(ValueError, match=r"initial_labels has nan for label 1 of star 0"):
        trained.test(flux, ivar, initial_labels=[5000.0, np.nan, 0.0])


def test_stars_without_information(training, trained):
    """No usable pixel, and fewer than labels: NaN labels, NaN covariance and a status; the neighbours are untouched."""
    flux, ivar = training.flux[:8], training.ivar[:8].copy()
    ivar[2] = 0
    ivar[3, 2:] = 0
    labels, covariance, metadata = trained.test(flux, ivar)
    statuses = [record["status"] for record in metadata]
    assert statuses[2] == StarStatus.NO_INFORMATION
    assert statuses[3] == StarStatus.TOO_FEW_PIXELS
    assert np.isnan(labels[2:4]).all()
    assert np.isnan(covariance[2:4]).all()
    assert metadata[2]["fail_message"] == StarStatus.NO_INFORMATION.message
    assert "fail_message" not in metadata[0]
    assert metadata[2]["n_pixels"] == 0
    assert metadata[3]["n_pixels"] == 2
    assert np.isnan(metadata[2]["r_chi_sq"])
    assert np.isnan(metadata[2]["model_flux"]).all()
    kept = [0, 1, 4, 5, 6, 7]
    assert_allclose(labels[kept], trained.test(flux, training.ivar[:8])[0][kept], rtol=1e-9)


def test_every_star_status_has_a_text():
    messages = [status.message for status in StarStatus]
    assert all(messages)
    assert len(set(messages)) == len(messages)
