"""GALAH: a file a CCD of releases 3 and 4, made by their published data models, and fitted spectra of release 4."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from bayes_cannon.io.readers.galah import CCD, FIT
from bayes_cannon.io.readers.joined import join_segments

N = 40
FLUX = np.linspace(400.0, 500.0, N)
RELATIVE = np.linspace(0.05, 0.02, N)
SOBJECT = "210115000101001"
FIRST = {1: 4714.06, 2: 5648.0, 3: 6478.0, 4: 7585.0}


def write_release_4(folder, ccd, *, name=None, **cards):
    """Eight HDUs on one grid; the header does not say the sobject_id, and texts stand for what is not known."""
    standard = {
        "CRVAL1": FIRST[ccd], "CDELT1": 0.046, "CRPIX1": 1.0, "BUNIT": "counts", "GALAH_ID": "None", "RA_ICRS": 87.748,
        "GAIA_ID": "3335074476514836608", "SNR": 20.0 + ccd,
        "RVCOM": -18.68, "RVCOM_OK": 1, "RV": -18.0 - ccd, "RV_OK": 1,
        "TEFF_R": 4688.4, "SPECTID": {1: "BL", 2: "GR", 3: "RD", 4: "IR"}[ccd],
    }  # fmt: skip
    header = fits.Header({k: v for k, v in (standard | cards).items() if v is not None})
    hdus = [fits.PrimaryHDU(FLUX, header)]
    for called, data in (("normalized", FLUX / 450), ("relative_error", RELATIVE), ("sky", FLUX * 0)):
        hdus.append(fits.ImageHDU(data, header, name=called))
    path = folder / (name or f"{SOBJECT}{ccd}.fits")
    fits.HDUList(hdus).writeto(path)
    return path


def write_release_3(path, *, cut=0, shift=0.0, name="normalized"):
    """Five HDUs; the normalized spectrum of CCD 4 begins later. CRPIX1 is 0 for the first pixel."""
    grid = {"CRVAL1": FIRST[4], "CDELT1": 0.07, "CRPIX1": 0}
    header = fits.Header(grid)
    shorter = fits.Header(grid | {"CRVAL1": FIRST[4] + 0.07 * cut + shift})
    hdus = [fits.PrimaryHDU(FLUX, fits.Header(grid | {"RV": 12.5}))]
    for called, data in (("input_sigma", RELATIVE), ("no_sky_subspectrum", FLUX + 9), ("no_sky_sigma", RELATIVE)):
        hdus.append(fits.ImageHDU(data, header, name=called))
    hdus.append(fits.ImageHDU((FLUX / 450)[cut:], shorter, name=name))
    fits.HDUList(hdus).writeto(path)
    return path


def test_release_4(tmp_path):
    path = write_release_4(tmp_path, 2)
    assert CCD.recognizes(path)
    assert not FIT.recognizes(path)
    counted, normalized = CCD.read(path)
    assert [counted.which[0], normalized.which[0]] == ["combined", "combined normalized"]
    for spectra, flux in ((counted, FLUX), (normalized, FLUX / 450)):
        (segment,) = spectra.segments
        assert segment.name == "CCD2"
        np.testing.assert_allclose(segment.wavelength, 5648 + 0.046 * np.arange(N), rtol=1e-14)
        np.testing.assert_array_equal(segment.flux, [flux])
        np.testing.assert_array_equal(segment.noise, [RELATIVE])
        assert segment.mask is None
        assert spectra.noise_kind == "relative error"
        assert (spectra.medium, spectra.frame) == ("air", "barycentric")
        assert spectra.velocity == [-18.68]
        assert spectra.identifiers == {"SOBJECT_ID": [SOBJECT], "GAIA_ID": ["3335074476514836608"]}
        assert spectra.columns["SNR"] == 22
    assert (counted.flux_unit, normalized.flux_unit) == ("counts", "")
    assert counted.units["RVCOM"] == "km/s"


@pytest.mark.parametrize("name", ["normalized", "normalised_spectrum", ""])
def test_release_3_has_errors_of_the_normalized_spectrum_on_fewer_pixels(tmp_path, name):
    path = write_release_3(tmp_path / "1704180037012054.fits", cut=7, name=name)
    assert CCD.recognizes(path)
    counted, normalized = CCD.read(path)
    np.testing.assert_allclose(counted.segments[0].wavelength, FIRST[4] + 0.07 * np.arange(N), rtol=1e-14)
    np.testing.assert_allclose(normalized.segments[0].wavelength, FIRST[4] + 0.07 * np.arange(7, N), rtol=1e-14)
    np.testing.assert_array_equal(normalized.segments[0].noise, [RELATIVE[7:]])
    assert counted.star_id == ["170418003701205"]
    assert counted.velocity == [12.5]
    assert counted.segments[0].name == "CCD4"


@pytest.mark.parametrize("cards", [{"RVCOM_OK": 0}, {"RVCOM": "None"}])
def test_a_velocity_that_failed_is_not_known(tmp_path, cards):
    counted, _ = CCD.read(write_release_4(tmp_path, 1, **cards))
    assert np.isnan(counted.velocity).all()


def test_four_files_are_one_spectrum(tmp_path):
    paths = [write_release_4(tmp_path, ccd) for ccd in (3, 1, 4, 2)]
    counted, normalized = join_segments([record for path in paths for record in CCD.read(path)])
    assert [segment.name for segment in counted.segments] == ["CCD1", "CCD2", "CCD3", "CCD4"]
    assert [counted.which[0], normalized.which[0]] == ["combined", "combined normalized"]
    assert [counted.columns[f"SNR_CCD{ccd}"][0] for ccd in (1, 2, 3, 4)] == [21, 22, 23, 24]
    assert counted.columns["TEFF_R"] == 4688.4
    assert counted.velocity == [-18.68]


def test_a_name_that_says_nothing(tmp_path):
    counted, _ = CCD.read(write_release_4(tmp_path, 3, name="renamed.fits"))
    assert counted.star_id == ["3335074476514836608"]
    assert counted.segments[0].name == "CCD3"
    with pytest.raises(ValueError, match=r"other\.fits: neither its name nor its header say which CCD and star"):
        CCD.read(write_release_4(tmp_path, 3, name="other.fits", SPECTID=None))


def test_faulty_files_are_named(tmp_path):
    path = write_release_3(tmp_path / "1704180037012054.fits", cut=7, shift=0.03)
    with pytest.raises(
        ValueError, match=r"2054\.fits: the normalized spectrum, 7585\.520 .* is not on pixels of the other"
    ):
        CCD.read(path)
    with pytest.raises(ValueError, match=r"HDU PRIMARY is no spectrum with CRVAL1 and CDELT1"):
        CCD.read(write_release_4(tmp_path, 1, CDELT1=None))
    plain = tmp_path / "plain.fits"
    fits.PrimaryHDU(FLUX, fits.Header({"CRVAL1": 5000.0, "CDELT1": 0.1})).writeto(plain)
    assert not CCD.recognizes(plain)
    with pytest.raises(ValueError, match=r"plain\.fits: none of its HDUs is called RELATIVE_ERROR or INPUT_SIGMA"):
        CCD.read(plain)


@pytest.mark.parametrize("available", [(1, 2, 3, 4), (2, 4)])
def test_fitted_spectrum(tmp_path, available):
    wave = np.concatenate([FIRST[ccd] + 0.05 * np.arange(N) for ccd in available])
    flux, used = 1 + 0.1 * np.sin(wave), np.cos(wave) > -0.5
    path = tmp_path / f"{SOBJECT}_allstar_fit_spectrum.fits"
    Table({"wave": wave, "sob": flux, "uob": flux / 50, "smod": flux, "mob": used}).write(path)
    assert FIT.recognizes(path)
    assert not CCD.recognizes(path)
    (spectra,) = FIT.read(path)
    assert [segment.name for segment in spectra.segments] == [f"CCD{ccd}" for ccd in available]
    np.testing.assert_array_equal(np.concatenate([s.wavelength for s in spectra.segments]), wave)
    np.testing.assert_array_equal(np.concatenate([s.flux[0] for s in spectra.segments]), flux)
    np.testing.assert_array_equal(np.concatenate([s.noise[0] for s in spectra.segments]), flux / 50)
    np.testing.assert_array_equal(np.concatenate([s.mask[0] for s in spectra.segments]), ~used)
    assert spectra.star_id == [SOBJECT]
    assert (spectra.frame, spectra.velocity[0], spectra.medium, spectra.noise_kind) == ("rest", 0, "air", "error")
    path = path.rename(tmp_path / "mine.fits")
    with pytest.raises(ValueError, match=r"mine\.fits: its name does not say the star"):
        FIT.read(path)
