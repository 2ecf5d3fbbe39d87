"""What users hand over is read as what it is, everywhere that spectra and labels enter a model."""

import warnings

import numpy as np
import pandas as pd
import pytest
from astropy import units as u
from astropy.table import Table
from numpy.testing import assert_allclose, assert_array_equal

import bayes_cannon as tc
from bayes_cannon.core.intake import UnitWarning
from bayes_cannon.core.status import StarStatus

NAMES = ("TEFF", "LOGG")
RNG = np.random.default_rng(0)
LABELS = np.column_stack([4800 + 250 * RNG.normal(size=120), 2.5 + 0.5 * RNG.normal(size=120)])
THETA = RNG.normal(0, 0.1, (3, 20)) + np.eye(3)[:, :1]
X = np.column_stack([np.ones(120), (LABELS - [4800, 2.5]) / [1000, 2]])
FLUX = X @ THETA + 0.005 * RNG.normal(size=(120, 20))
IVAR = np.full(FLUX.shape, 0.005**-2)
MASK = RNG.random(FLUX.shape) < 0.03
SPOILED = np.where(MASK, 50.0, FLUX)
VECTORIZER = tc.vectorizer.PolynomialVectorizer(NAMES, 1)
GRID = np.linspace(15100, 16900, 20)


def trained(labels=LABELS, flux=FLUX, ivar=IVAR, **options):
    model = tc.CannonModel(labels, flux, ivar, VECTORIZER, **options)
    model.train()
    return model


@pytest.fixture(scope="module")
def model():
    return trained(dispersion=GRID * u.AA, label_units={"TEFF": "K"})


def test_masked_flux_does_not_train_and_sets_no_labels(model):
    masked = np.ma.MaskedArray(SPOILED, MASK)
    right = trained(ivar=np.where(MASK, 0.0, IVAR))
    assert_array_equal(trained(flux=masked).theta, right.theta)
    known = np.where(MASK, 0.0, IVAR)
    expected = model.test(FLUX, known)
    for found in (model.test(masked, IVAR), model.test(SPOILED, np.ma.MaskedArray(IVAR, MASK))):
        assert_array_equal(found[0], expected[0])
        assert_array_equal(found[1], expected[1])
    (part,) = model.fit_label_stream([(masked, IVAR)])
    assert_array_equal(part.labels, expected[0])
    budget = model.error_budget(masked[:3], IVAR[:3])
    assert_allclose(budget.total**2, np.diagonal(expected[1][:3], axis1=1, axis2=2), rtol=1e-6)
    continuum = tc.continuum.normalize(GRID, masked, IVAR, np.arange(20), L=1800, order=1)
    assert_array_equal(continuum[0], tc.continuum.normalize(GRID, FLUX, known, np.arange(20), L=1800, order=1)[0])


FRAME = pd.DataFrame({"SNR": 100.0, "LOGG": LABELS[:, 1], "TEFF": LABELS[:, 0]})
NAMED = {
    "DataFrame": FRAME,
    "Table": Table.from_pandas(FRAME),
    "dict": dict(FRAME),
    "records": FRAME.to_records(index=False),
    "Table in kK": Table({"LOGG": LABELS[:, 1], "TEFF": LABELS[:, 0] / 1e3 * u.kK}),
}


@pytest.mark.parametrize("labels", NAMED.values(), ids=NAMED)
def test_labels_are_read_by_name_wherever_they_enter(model, labels):
    assert_allclose(model(labels), model(LABELS))
    assert_allclose(model.leverage(labels), model.leverage(LABELS))
    assert_array_equal(model.in_convex_hull(labels), model.in_convex_hull(LABELS))
    found = model.fit_labels(FLUX, IVAR, initial_labels=labels)
    assert_array_equal(found.labels, model.fit_labels(FLUX, IVAR, initial_labels=LABELS).labels)


def test_flux_is_converted_to_the_unit_of_the_model():
    physical = trained(flux=FLUX * u.Jy, ivar=IVAR / u.Jy**2)
    assert physical.flux_unit == "Jy"
    expected = physical.test(FLUX, IVAR)[0]
    assert_allclose(physical.test(1e3 * FLUX * u.mJy, 1e-6 * IVAR / u.mJy**2)[0], expected, rtol=1e-9)
    with pytest.raises(ValueError, match="cannot be converted to Jy"):
        physical.test(FLUX * u.m, IVAR / u.m**2)
    plain = trained()
    with pytest.warns(UnitWarning, match="flux has the unit Jy, and the model does not know that of its own"):
        plain.test(FLUX[:1] * u.Jy, IVAR[:1] / u.Jy**2)


def test_wavelengths_have_a_unit(model, tmp_path):
    assert model.dispersion_unit == "Angstrom"
    model.test(FLUX[:2], IVAR[:2], dispersion=(GRID * u.AA).to(u.nm))
    model.write(tmp_path / "a.model")
    assert tc.CannonModel.read(tmp_path / "a.model").dispersion_unit == "Angstrom"
    with pytest.raises(ValueError, match="another one, such as nm"):
        model.test(FLUX[:2], IVAR[:2], dispersion=GRID / 10)
    assert trained(dispersion=GRID, dispersion_unit="nm").dispersion_unit == "nm"


def test_training_spectra_are_the_models_own():
    flux = FLUX.copy()
    model = trained(flux=flux)
    flux[:] = np.nan
    assert_array_equal(model.training_set_flux, FLUX)


def test_bad_training_stars_are_all_named_and_can_be_left_out():
    flux, ivar = FLUX.copy(), IVAR.copy()
    flux[[3, 7], 2], ivar[[7, 11], 0] = np.nan, -1.0
    with pytest.raises(ValueError, match=r"ivar must be finite.*2 of 120 stars \(rows 7, 11\).*training_set\.usable"):
        tc.CannonModel(LABELS, flux, ivar, VECTORIZER)
    good = tc.training_set.usable(flux, ivar)
    assert np.flatnonzero(~good).tolist() == [3, 7, 11]
    trained(LABELS[good], flux[good], ivar[good])


def test_one_bad_star_has_a_status_everywhere(model):
    flux = FLUX[:6].copy()
    flux[2, 3] = np.inf
    labels, _, records = model.test(flux, IVAR[:6])
    assert np.flatnonzero(np.isnan(labels).any(axis=1)).tolist() == [2]
    assert records[2]["status"] == StarStatus.BAD_SPECTRUM
    assert "set ivar to 0" in records[2]["fail_message"]
    assert np.isfinite(np.delete(model.error_budget(flux, IVAR[:6]).total, 2, 0)).all()


def test_nothing_is_said_of_plain_arrays(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.test(FLUX[:4], IVAR[:4], dispersion=GRID)
