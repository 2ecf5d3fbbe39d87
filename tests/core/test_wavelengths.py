import astropy.units as u
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bayes_cannon.core.wavelengths import LIGHT, air_to_vacuum, doppler_factor, to_rest_frame, vacuum_to_air

LINES = {"H alpha": (6564.614, 6562.801), "Mg b": (5185.0479, 5183.6042), "Ca II": (8544.438, 8542.091)}
"""Vacuum and air, Angstrom, as NIST gives them."""


@pytest.mark.parametrize("line", LINES)
def test_lines_of_nist(line):
    vacuum, air = LINES[line]
    assert vacuum_to_air(vacuum) == pytest.approx(air, abs=2e-3)
    assert air_to_vacuum(air) == pytest.approx(vacuum, abs=2e-3)


def test_formula_of_ciddor_by_hand():
    """n at 1.6 micrometres, as the APOGEE technical note writes it: s = 1/1.6, s^2 = 0.390625."""
    n = 1 + 0.05792105 / 237.627875 + 0.00167917 / 56.971375
    assert 16000 / vacuum_to_air(16000.0) == pytest.approx(n, rel=1e-15)


@given(st.floats(2001, 1e5))
def test_inverse(wavelength):
    assert vacuum_to_air(air_to_vacuum(wavelength)) == pytest.approx(wavelength, rel=1e-14)
    assert air_to_vacuum(vacuum_to_air(wavelength + 1)) == pytest.approx(wavelength + 1, rel=1e-14)


def test_units_and_shapes():
    given = np.array([[500.0, 600.0]]) * u.nm
    assert vacuum_to_air(given).shape == (1, 2)
    np.testing.assert_allclose(vacuum_to_air(given), vacuum_to_air([[5000, 6000]]), rtol=1e-15)
    assert vacuum_to_air(np.float32(5000)).dtype == np.float64


def test_doppler():
    assert doppler_factor(0) == 1
    assert doppler_factor(LIGHT / 2) == 1.5
    np.testing.assert_allclose(doppler_factor([10, -10] * u.m / u.s), 1 + np.array([0.01, -0.01]) / LIGHT, rtol=1e-15)
    observed = 5000.0 * (1 + np.array([-50, 0, 300]) / LIGHT)
    rest = to_rest_frame(observed, [-50, 0, 300])
    assert rest.shape == (3, 3)
    np.testing.assert_allclose(np.diag(rest), 5000, rtol=1e-15)
    assert to_rest_frame(observed, 20.0).shape == (3,)


@pytest.mark.parametrize("wrong", [1999.0, np.nan, np.inf, -5000.0, 0.0])
def test_refused_wavelengths(wrong):
    for convert in (air_to_vacuum, vacuum_to_air):
        with pytest.raises(ValueError, match=r"2000.* at index 1"):
            convert([5000.0, wrong])


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 3e5, -LIGHT])
def test_refused_velocities(wrong):
    with pytest.raises(ValueError, match=r"km/s.* at index 1"):
        doppler_factor([0.0, wrong])
