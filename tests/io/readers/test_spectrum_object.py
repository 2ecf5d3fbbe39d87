"""Objects with the attributes of a specutils Spectrum, made without it."""

from types import SimpleNamespace

import numpy as np
import pytest
from astropy import units as u
from astropy.nddata import InverseVariance, StdDevUncertainty, UnknownUncertainty, VarianceUncertainty

import bayes_cannon as tc
from bayes_cannon.io.decoding import decode
from bayes_cannon.io.readers.spectrum_object import survey_spectra_of

ERROR = np.array([0.5, 0.25, 1.0])


def spectrum(**changed):
    given = {
        "flux": np.array([1.0, 2, 3]) * u.mJy, "spectral_axis": np.array([500.0, 501, 502]) * u.nm,
        "uncertainty": StdDevUncertainty(ERROR), "mask": None, "meta": {}, "radial_velocity": None,
    }  # fmt: skip
    return SimpleNamespace(**given | changed)


@pytest.mark.parametrize(
    "uncertainty",
    [
        StdDevUncertainty(ERROR),
        StdDevUncertainty(ERROR * 1e-3 * u.Jy),
        VarianceUncertainty(ERROR**2),
        VarianceUncertainty(ERROR**2 * 1e-6 * u.Jy**2),
        InverseVariance(1 / ERROR**2),
        InverseVariance(1e6 / ERROR**2 * u.Jy**-2),
    ],
)
def test_every_uncertainty(uncertainty):
    [record] = survey_spectra_of(spectrum(uncertainty=uncertainty))
    np.testing.assert_allclose(decode(record).segments[0].ivar, [1 / ERROR**2], rtol=1e-12)
    assert record.flux_unit == "mJy"
    np.testing.assert_allclose(record.segments[0].wavelength, [5000, 5010, 5020], rtol=1e-14)


def test_frequencies_become_wavelengths():
    [record] = survey_spectra_of(spectrum(spectral_axis=np.array([600.0, 599, 598]) * u.THz))
    np.testing.assert_allclose(record.segments[0].wavelength, 2997924.58 / np.array([600.0, 599, 598]), rtol=1e-12)


def test_mask_and_velocity():
    given = spectrum(mask=np.array([False, True, False]), radial_velocity=30 * u.km / u.s)
    decoded = decode(survey_spectra_of(given)[0])
    assert decoded.segments[0].ivar.tolist() == [[4, 0, 1]]
    assert decoded.doppler[0] == pytest.approx(1 + 30 / 299792.458, rel=1e-14)
    assert np.isnan(decode(survey_spectra_of(spectrum())[0]).doppler).all()
    assert np.isnan(survey_spectra_of(spectrum(radial_velocity=0 * u.km / u.s))[0].velocity).all()
    assert survey_spectra_of(spectrum(radial_velocity=1000 * u.m / u.s))[0].velocity.tolist() == [1]


def test_names():
    listed = [spectrum(), spectrum(meta={"header": {"OBJECT": "HD 1"}}), spectrum(meta={"name": "HD 2", "header": {}})]
    records = survey_spectra_of(listed)
    assert [record.star_id.tolist() for record in records] == [["0"], ["HD 1"], ["HD 2"]]
    assert records[1].identifiers["number"].tolist() == ["1"]


def test_several_spectra_in_one():
    flux, error = np.ones((2, 3)) * u.one, StdDevUncertainty(np.full((2, 3), 0.5))
    [record] = survey_spectra_of(spectrum(flux=flux, uncertainty=error, radial_velocity=[1, 2] * u.km / u.s))
    assert record.which.tolist() == ["combined", "combined"]
    assert record.identifiers["row"].tolist() == ["0", "1"]
    assert record.velocity.tolist() == [1, 2]
    assert record.flux_unit is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"uncertainty": None}, "it has no uncertainty"),
        ({"uncertainty": UnknownUncertainty(ERROR)}, "its uncertainty is of type 'unknown'"),
        ({"uncertainty": StdDevUncertainty(ERROR * u.K)}, "the unit of the noise, K, does not go with .* mJy"),
        ({"spectral_axis": np.array([1.0, 2, 3]) * u.s}, "not convertible"),
        ({"spectral_axis": np.array([1.0, 3, 2]) * u.nm}, "the wavelengths turn at pixel 1"),
        ({"flux": np.ones(3)}, "no attribute 'value'"),
        ({"flux": np.ones(4) * u.Jy}, "flux has shape"),
    ],
)
def test_objects_that_are_no_spectra(changed, said):
    with pytest.raises(ValueError, match=f"cannot read spectrum 1, a SimpleNamespace: .*{said}"):
        survey_spectra_of([spectrum(), spectrum(**changed)])


def test_read_spectra_takes_one_and_several():
    one = spectrum(mask=np.array([False, True, False]), meta={"OBJECT": "HD 1"})
    found = tc.io.read_spectra(one, velocity="none")
    np.testing.assert_allclose(found.wavelength, [5000, 5010, 5020], rtol=1e-14)
    assert found.flux.tolist() == [[1, 0, 3]]
    assert found.ivar.tolist() == [[4, 0, 1]]
    assert (found.ids.tolist(), found.units["flux"]) == (["HD 1"], "mJy")
    rows = spectrum(flux=np.array([[4.0, 5, 6], [7, 8, 9]]) * u.mJy, uncertainty=StdDevUncertainty(np.ones((2, 3))))
    several = tc.io.read_spectra([one, rows], velocity="none")
    assert several.flux.tolist() == [[1, 0, 3], [4, 5, 6], [7, 8, 9]]
    assert several.identifiers["number"].tolist() == ["0", "1", "1"]
    assert several.identifiers["row"].tolist() == ["", "0", "1"]
    assert "FILE" not in several.identifiers


def test_read_spectra_takes_objects_to_rest():
    """The same as opened, decoded and put on the grid one after the other."""
    moving = spectrum(radial_velocity=30 * u.km / u.s)
    grid = (5004.0, 5014.0, 5.0)
    found = tc.io.read_spectra([moving], grid=grid)
    [record] = tc.io.open_spectra(moving)
    by_hand = tc.io.on_grid(tc.io.decode(record), tc.io.find_grid(grid))
    np.testing.assert_array_equal(found.flux, by_hand.flux)
    assert (found.ivar > 0).any()
    np.testing.assert_allclose(found.labels["velocity_used"], 30, rtol=1e-9)


def test_read_spectra_of_specutils():
    specutils = pytest.importorskip("specutils")
    flux, axis = np.array([1.0, 2, 3]) * u.mJy, np.array([500.0, 501, 502]) * u.nm
    one = specutils.Spectrum(flux=flux, spectral_axis=axis, uncertainty=StdDevUncertainty(ERROR))
    for given in (one, [one], specutils.SpectrumList([one])):
        found = tc.io.read_spectra(given, velocity="none")
        np.testing.assert_allclose(found.ivar, [1 / ERROR**2], rtol=1e-12)


@pytest.mark.parametrize(
    ("given", "options", "said"),
    [
        ([spectrum(), "a.fits"], {}, "cannot read spectrum 1, a str: .* no attribute 'flux'"),
        ([spectrum()], {"survey": "galah"}, "survey is 'galah': it is the format of files"),
        ([spectrum()], {"combined": "visits"}, "object 0: it holds no spectrum of combined='visits', but combined"),
        ([spectrum()], {}, "object 0: it does not say the velocity"),
        (
            [spectrum(), spectrum(spectral_axis=np.array([500.0, 501, 503]) * u.nm)],
            {"velocity": "none"},
            r"object 1 has other pixels .* than object 0",
        ),
    ],
)
def test_objects_that_are_refused(given, options, said):
    with pytest.raises(ValueError, match=said):
        tc.io.read_spectra(given, **options)


def test_something_else():
    with pytest.raises(ValueError, match="cannot read spectrum 0, a int: 'int' object has no attribute 'flux'"):
        survey_spectra_of(3)
