"""Packed numbers are unpacked as xarray does, and what the conventions call missing is missing."""

import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_array_equal

from bayes_cannon.io.packing import masked_flux, unpacked, whole_numbers


@pytest.mark.parametrize(
    ("values", "attributes"),
    [
        (np.array([1, -5, 300], "i2"), {"scale_factor": 1e-4, "add_offset": 1.0, "_FillValue": np.int16(300)}),
        (np.array([1.5, -9999, np.nan], "f4"), {"_FillValue": np.float32(-9999)}),
        (np.array([1.5, -9999, 3], "f8"), {"missing_value": -9999.0, "scale_factor": 2.0}),
        (np.array([1, -1, -2], "i1"), {"_Unsigned": "true", "_FillValue": np.int8(-1), "scale_factor": 0.5}),
        (np.array([1, 2, 3], ">i4"), {"add_offset": -3.0}),
        (np.array([1.0, np.nan, np.inf]), {}),
        (np.array([1.0, np.nan, np.inf]), {"_FillValue": np.nan}),
    ],
)
def test_numbers_are_those_of_xarray(values, attributes):
    found, _ = unpacked(values, attributes)
    wanted = xr.decode_cf(xr.Dataset({"x": ("i", values, attributes)}))["x"].to_numpy()
    assert found.dtype == float
    np.testing.assert_allclose(found, wanted, rtol=1e-15 if wanted.dtype == float else 1e-6)


def test_what_is_missing():
    assert unpacked(np.array([1.0, np.nan]), {})[1].tolist() == [False, False]
    assert unpacked(np.array([1.0, np.nan]), {"_FillValue": -1.0})[1].tolist() == [False, True]
    assert unpacked(np.array([1.0, 1e20], "f4"), {"_FillValue": 1e20})[1].tolist() == [False, True]
    assert unpacked(np.array([1, 2, 3], "i2"), {"missing_value": np.array([1, 3], "i2")})[1].tolist() == [1, 0, 1]
    found, missing = unpacked(np.array([-1, 5, 11], "i2"), {"valid_range": np.array([0, 10], "i2"), "scale_factor": 2})
    assert_array_equal(found, [np.nan, 10, np.nan])
    assert missing.tolist() == [True, False, True]
    assert unpacked(np.array([-1.0, 5, 11]), {"valid_max": 10.0})[1].tolist() == [False, False, True]
    # What netCDF puts where nothing was written, unless the file says otherwise.
    nothing = np.array([9.969209968386869e36], "f4")
    assert unpacked(nothing, {})[1].all()
    assert not unpacked(nothing, {"_FillValue": 0.0})[1].any()
    assert unpacked(np.array([-32767], "i2"), {})[1].all()


def test_what_is_not_packed_may_stay_as_it_is_stored():
    single = np.array([1.5, -1.0, np.nan], "f4")
    for values, attributes, dtype in (
        (single, {}, np.float32), (single, {"_FillValue": np.float32(-1)}, np.float32),
        (single, {"scale_factor": 2.0}, float), (single, {"add_offset": 2.0}, float),
        (single.astype(float), {}, float), (np.array([1, 2, 3], "i2"), {}, float),
    ):  # fmt: skip
        before = values.copy()
        stored, missing = unpacked(values, attributes, as_stored=True)
        wanted, also = unpacked(values, attributes)
        assert stored.dtype == dtype
        assert_array_equal(stored, wanted)
        assert_array_equal(missing, also)
        assert_array_equal(values, before)
    flux, ivar = (xr.Variable(("star", "pixel"), single[None], {"_FillValue": np.float32(-1)}) for _ in range(2))
    assert masked_flux(flux, ivar, as_stored=True)[1].dtype == np.float32
    assert_array_equal(masked_flux(flux, ivar, as_stored=True)[1], [[1.5, 0, 0]])
    assert_array_equal(ivar.to_numpy(), single[None])


def test_ivar_is_0_where_either_is_missing():
    flux = xr.Variable(("star", "pixel"), np.array([[1.0, -1.0, np.nan]]), {"_FillValue": -1.0})
    ivar = xr.Variable(("star", "pixel"), np.array([[9, 9, 9]], "i2"), {"_FillValue": 0})
    assert_array_equal(masked_flux(flux, ivar)[1], [[9, 0, 0]])
    ivar = xr.Variable(("star", "pixel"), np.array([[0, 9, 9]], "i2"), {"_FillValue": 0})
    flux = xr.Variable(("star", "pixel"), np.array([[1.0, 1.0, np.nan]]))
    # A NaN that nobody called missing is left to those who check the flux.
    assert_array_equal(masked_flux(flux, ivar)[1], [[0, 9, 9]])


def test_a_missing_wavelength_is_named():
    with pytest.raises(ValueError, match="wavelength is missing at pixel 1"):
        whole_numbers("wavelength", xr.Variable("pixel", [1.0, -1.0], {"_FillValue": -1.0}))
