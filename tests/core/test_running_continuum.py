"""The running mean as a continuum, against the formula written as a double loop."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bayes_cannon.continuum import normalize_by_mean, running_mean

RNG = np.random.default_rng(3)
WAVELENGTH = np.sort(RNG.uniform(4000, 4600, 60))
FLUX = RNG.uniform(1, 2, (3, 60))
IVAR = RNG.uniform(1, 9, (3, 60)) * (RNG.random((3, 60)) > 0.2)


def expected(wavelength, flux, ivar, reach):
    out = np.full(flux.shape, np.nan)
    for star in range(len(flux)):
        for pixel, here in enumerate(wavelength):
            w = ivar[star] * np.exp(-((wavelength - here) ** 2) / reach**2)
            if w.sum() > 0:
                out[star, pixel] = (w * flux[star]).sum() / w.sum()
    return out


@pytest.mark.parametrize("reach", [20.0, 50.0, 400.0])
def test_equals_the_formula(reach):
    assert_allclose(running_mean(WAVELENGTH, FLUX, IVAR, reach), expected(WAVELENGTH, FLUX, IVAR, reach), rtol=1e-9)


def test_order_of_pixels_and_scale_of_ivar_do_not_matter():
    order = RNG.permutation(60)
    found = running_mean(WAVELENGTH[order], FLUX[:, order], 7 * IVAR[:, order])
    assert_allclose(found, running_mean(WAVELENGTH, FLUX, IVAR)[:, order], rtol=1e-12)


def test_unusable_pixels_never_count():
    flux = np.where(IVAR > 0, FLUX, np.nan)
    assert_allclose(running_mean(WAVELENGTH, flux, IVAR), running_mean(WAVELENGTH, FLUX, IVAR), rtol=0)
    normalized, ivar, continuum = normalize_by_mean(WAVELENGTH, flux, IVAR)
    assert np.isfinite(normalized).all()
    assert (ivar[IVAR == 0] == 0).all()
    used = IVAR > 0
    assert_allclose((normalized * continuum)[used], FLUX[used], rtol=1e-12)
    assert_allclose((ivar / continuum**2)[used], IVAR[used], rtol=1e-12)


def test_where_nothing_is_known_or_the_mean_is_negative_there_is_no_information():
    wavelength, ivar = np.array([4000.0, 4001.0, 9000.0, 9001.0]), np.array([[1.0, 1.0, 0.0, 0.0], [1.0] * 4])
    flux = np.array([[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, -1.0, -1.0]])
    normalized, left, continuum = normalize_by_mean(wavelength, flux, ivar, L=10)
    assert np.isnan(continuum[0, 2:]).all()
    assert left[:, 2:].tolist() == [[0, 0], [0, 0]]
    assert_allclose(normalized, 1)


def test_bad_input():
    with pytest.raises(ValueError, match="L must be positive"):
        running_mean(WAVELENGTH, FLUX, IVAR, L=0)
    with pytest.raises(ValueError, match="shape"):
        running_mean(WAVELENGTH, FLUX[:, 1:], IVAR)
