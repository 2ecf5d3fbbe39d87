"""Orders of an echelle spectrograph stand side by side: they descend and overlap, and are kept in their order."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import bayes_cannon as tc


@pytest.fixture(scope="module")
def wavelength():
    return np.concatenate([np.linspace(6312, 6418, 20), np.linspace(6201, 6320, 20), np.linspace(6095, 6205, 20)])


def test_pixels_are_fitted_by_themselves_and_keep_their_order(training, trained, wavelength, tmp_path):
    model = training.model(dispersion=wavelength)
    assert_array_equal(model.dispersion, wavelength)
    model.train()
    assert_array_equal(model.theta, trained.theta)
    assert_array_equal(model.s2, trained.s2)
    found = model.test(training.flux[:8], training.ivar[:8], dispersion=wavelength)[0]
    assert_array_equal(found, trained.test(training.flux[:8], training.ivar[:8])[0])
    with pytest.raises(ValueError, match="dispersion differs from the model's"):
        model.test(training.flux[:8], training.ivar[:8], dispersion=np.sort(wavelength))
    model.write(tmp_path / "a.model")
    assert_array_equal(tc.CannonModel.read(tmp_path / "a.model").dispersion, wavelength)
    assert_array_equal(tc.plot.scatter(model).axes[0].lines[0].get_xdata()[[0, 19, -1]], wavelength[[0, 19, -1]])


def test_masks_hold_every_pixel_of_a_region_in_any_order(wavelength):
    mask = tc.censoring.create_mask(wavelength, (6200, 6320))
    assert_array_equal(mask, (wavelength >= 6200) & (wavelength <= 6320))
    assert {0, 20, 59} <= set(np.flatnonzero(mask))


def test_repeated_wavelengths(training):
    model = training.model(dispersion=np.repeat(np.arange(30.0), 2))
    assert_array_equal(model.dispersion[:4], [0, 0, 1, 1])


def test_continuum_of_each_order(wavelength):
    flux = 1 + 1e-3 * (wavelength - 6250)
    continuum, _ = tc.continuum.sines_and_cosines(wavelength, flux, np.ones(60), np.ones(60, bool), order=3)
    assert_allclose(continuum[0], flux, rtol=1e-3)
