"""Spectra in any container: what is masked has ivar zero, what has a unit is converted, and nothing is dropped."""

import warnings

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from astropy import units as u
from astropy.nddata import InverseVariance, NDData, StdDevUncertainty, VarianceUncertainty
from astropy.utils.masked import Masked
from numpy.testing import assert_allclose, assert_array_equal

from bayes_cannon.core.censoring import create_mask
from bayes_cannon.core.checks import check_same_dispersion
from bayes_cannon.core.intake import UnitWarning, flux_and_ivar, in_unit

RNG = np.random.default_rng(0)
FLUX, IVAR = 1 + 0.1 * RNG.normal(size=(4, 6)), RNG.uniform(1, 9, (4, 6))
MASK = RNG.random((4, 6)) < 0.3
STDDEV = IVAR**-0.5

MASKED = {
    "masked flux": (np.ma.MaskedArray(FLUX, MASK), IVAR),
    "masked ivar": (FLUX, np.ma.MaskedArray(IVAR, MASK)),
    "astropy Masked": (Masked(FLUX, mask=MASK), IVAR),
    "masked Quantity": (Masked(FLUX * u.one, mask=MASK), IVAR * u.one),
    "NDData": (NDData(FLUX, mask=MASK), IVAR),
    "NDData with its error": (NDData(FLUX, mask=MASK, uncertainty=StdDevUncertainty(STDDEV)), None),
    "NDData with its variance": (NDData(FLUX, mask=MASK, uncertainty=VarianceUncertainty(1 / IVAR)), None),
    "NDData and an uncertainty": (NDData(FLUX, mask=MASK), InverseVariance(IVAR)),
    "pandas NA": (pd.DataFrame(FLUX).astype("Float64").mask(MASK), pd.DataFrame(IVAR)),
    "pandas None": (pd.DataFrame(np.where(MASK, None, FLUX)), IVAR),
    "pandas NA in ivar": (pd.DataFrame(FLUX), pd.DataFrame(IVAR).astype("Float64").mask(MASK)),
}


@pytest.mark.parametrize("spectra", MASKED.values(), ids=MASKED)
def test_what_is_masked_has_ivar_zero(spectra):
    flux, ivar, _ = flux_and_ivar(*spectra)
    assert_array_equal(ivar == 0, MASK)
    assert_allclose(ivar[~MASK], IVAR[~MASK])
    assert_allclose(flux[~MASK], FLUX[~MASK])


PLAIN = {
    "lists": (FLUX.tolist(), IVAR.tolist()),
    "data frames": (pd.DataFrame(FLUX), pd.DataFrame(IVAR)),
    "dims in another order": (xr.DataArray(FLUX.T, dims=("pixel", "star")), xr.DataArray(IVAR, dims=("star", "pixel"))),
    "mask of nothing": (np.ma.MaskedArray(FLUX), np.ma.MaskedArray(IVAR, False)),
    "objects": (FLUX.astype(object), IVAR),
}


@pytest.mark.parametrize("spectra", PLAIN.values(), ids=PLAIN)
def test_other_containers_are_arrays(spectra):
    flux, ivar, unit = flux_and_ivar(*spectra)
    assert_allclose(flux, FLUX)
    assert_allclose(ivar, IVAR)
    assert unit is None


def test_single_precision_and_files_stay_as_they_are(tmp_path):
    single = FLUX.astype(np.float32)
    assert flux_and_ivar(np.ma.MaskedArray(single, MASK), IVAR)[0].dtype == np.float32
    mapped = np.lib.format.open_memmap(tmp_path / "flux.npy", "w+", float, (4, 6))
    assert flux_and_ivar(mapped, IVAR)[0] is mapped


def test_units_are_converted():
    flux, ivar, unit = flux_and_ivar(100 * FLUX * u.percent, 1e-4 * IVAR / u.percent**2)
    assert unit == ""
    assert_allclose(flux, FLUX)
    assert_allclose(ivar, IVAR)
    flux, ivar, unit = flux_and_ivar(FLUX * u.Jy, IVAR / u.Jy**2, unit="mJy")
    assert unit == "mJy"
    assert_allclose(flux, 1e3 * FLUX)
    assert_allclose(ivar, 1e-6 * IVAR)
    with pytest.warns(UnitWarning, match="ivar has no unit: it is taken in 1 / %2"):
        _, ivar, _ = flux_and_ivar(100 * FLUX * u.percent, IVAR)
    assert_allclose(ivar, 1e4 * IVAR)
    for spectra, known in (((FLUX * u.Jy, IVAR / u.Jy**2), ""), ((FLUX, IVAR / u.Jy**2), None)):
        with pytest.raises(ValueError, match="cannot be converted to"):
            flux_and_ivar(*spectra, unit=known)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert flux_and_ivar(FLUX, IVAR, unit="Jy")[0] is FLUX


def test_bit_masks_and_texts_are_refused():
    with pytest.raises(ValueError, match=r"mask of flux must be True or False.*say which bits"):
        flux_and_ivar(NDData(FLUX, mask=np.full(FLUX.shape, 4)), IVAR)
    with pytest.raises(ValueError, match="flux must be real numbers, got values of type"):
        flux_and_ivar(np.full(FLUX.shape, "1.0"), IVAR)
    with pytest.raises(ValueError, match="must both be given"):
        flux_and_ivar(FLUX, None)
    assert_allclose(in_unit(np.array([1.0, 2.0]) * u.nm, "Angstrom", "dispersion")[0], [10.0, 20.0])


GRID = np.linspace(15100.0, 16900.0, 50)
NAMED = {
    "nm": (GRID / 10, "0.1 times the model's, as if their unit"),
    "micron": (GRID / 1e4, "0.0001 times the model's"),
    "reversed": (GRID[::-1], "in reverse"),
    "logarithms": (np.log10(GRID), "log10 of the model's"),
    "air": (GRID / 1.000273, "in air where the model's are in vacuum"),
    "vacuum": (GRID * 1.000273, "in vacuum where the model's are in air"),
    "a velocity": (GRID * (1 + 100 / 299792.458), r"shifted by \+100\.0 km/s"),
    "another grid": (GRID + np.linspace(0, 3, 50), "Resample"),
}


@pytest.mark.parametrize(("given", "said"), NAMED.values(), ids=NAMED)
def test_wavelengths_that_differ_are_named_as_what_they_are(given, said):
    with pytest.raises(ValueError, match=said):
        check_same_dispersion(given, GRID)


def test_wavelengths_and_regions_are_converted():
    check_same_dispersion(GRID / 10 * u.nm, GRID, "Angstrom")
    with pytest.raises(ValueError, match="cannot be converted"):
        check_same_dispersion(GRID * u.Jy, GRID, "Angstrom")
    expected = (GRID >= 16000) & (GRID <= 16200)
    assert_array_equal(create_mask(GRID * u.AA, [(1600 * u.nm, 1.62 * u.um)]), expected)
    assert_array_equal(create_mask((GRID * u.AA).to(u.nm), [(16000 * u.AA, 16200 * u.AA)]), expected)
    with pytest.raises(ValueError, match=r"holds no pixel.*Times 10 it would hold some"):
        create_mask(GRID, [(1600.0, 1620.0)])
    with pytest.raises(ValueError, match="needs wavelengths that have a unit"):
        create_mask(GRID, [(1600 * u.nm, 1620 * u.nm)])
