"""Files of surveys as spectra. Most files are apStar files by the data model, made short by the tests."""

import numpy as np
import pytest
from astropy.io import fits

import bayes_cannon as tc
from bayes_cannon.io.spectra import Spectra, write_spectra

LIGHT = 299792.458
WAVELENGTH = 10 ** (4.179 + 6e-6 * np.arange(50))


def test_one_file(tmp_path, write_apstar):
    flux = write_apstar(tmp_path / "a.fits", star="2M0")
    read = tc.io.read_spectra(tmp_path / "a.fits")
    assert read.ids.tolist() == ["2M0"]
    np.testing.assert_array_equal(read.flux[0], np.where(np.arange(50) == 3, 0, flux))
    np.testing.assert_array_equal(read.ivar[0], np.where(np.arange(50) == 3, 0, 0.25))
    np.testing.assert_allclose(read.wavelength, WAVELENGTH, rtol=1e-12)
    assert read.labels["SNR"].tolist() == [50.0]
    assert read.identifiers["reader"].tolist() == ["apogee-apstar"]
    assert read.identifiers["which"].tolist() == ["combined"]
    assert read.identifiers["FILE"].tolist() == ["a.fits"]
    assert read.attrs["survey"] == "apogee-apstar"


def test_opened_then_decoded(tmp_path, write_apstar):
    """Step by step the same as `read_spectra`, and all spectra of the file are there before."""
    write_apstar(tmp_path / "a.fits")
    [record] = tc.io.open_spectra(tmp_path / "a.fits")
    assert record.which.tolist() == ["combined", "combined 2", "visit 1", "visit 2"]
    assert record.segments[0].mask.shape == (4, 50)
    by_steps = tc.io.on_grid(tc.io.decode(record), tc.io.find_grid((15102.0, 15110.0, 1.0)))
    at_once = tc.io.read_spectra(tmp_path / "a.fits", grid=(15102.0, 15110.0, 1.0), combined="all")
    np.testing.assert_array_equal(by_steps.flux, at_once.flux)
    np.testing.assert_array_equal(by_steps.ivar, at_once.ivar)
    with pytest.raises(ValueError, match=r"a\.fits: .*"):
        tc.io.open_spectra(tmp_path / "a.fits", survey="sdss-spec")
    with pytest.raises(FileNotFoundError, match="there is no file nothing"):
        tc.io.open_spectra("nothing.fits")


@pytest.mark.parametrize(
    ("combined", "which"),
    [
        ("combined", ["combined"]),
        ("combined 2", ["combined 2"]),
        ("visits", ["visit 1", "visit 2"]),
        ("all", ["combined", "combined 2", "visit 1", "visit 2"]),
    ],
)
def test_which_of_its_spectra(tmp_path, write_apstar, combined, which):
    write_apstar(tmp_path / "a.fits", SNRVIS1=7.0)
    read = tc.io.read_spectra(tmp_path / "a.fits", combined=combined)
    assert read.identifiers["which"].tolist() == which
    with fits.open(tmp_path / "a.fits") as hdus:
        rows = [["combined", "combined 2", "visit 1", "visit 2"].index(one) for one in which]
        np.testing.assert_array_equal(read.flux, np.where(read.ivar > 0, hdus[1].data[rows], 0))
    if combined == "visits":
        assert read.labels["SNR"][0] == 7.0


def test_several_files_are_rows_in_order_and_two_of_a_star_stay_two(tmp_path, write_apstar):
    fluxes = [write_apstar(tmp_path / f"{k}.fits", star="same", seed=k) for k in (2, 1)]
    read = tc.io.read_spectra([tmp_path / "2.fits", tmp_path / "1.fits"])
    assert read.ids.tolist() == ["same", "same"]
    np.testing.assert_array_equal(read.flux, np.where(read.ivar > 0, fluxes, 0))
    assert read.labels["SNR"].tolist() == [52.0, 51.0]
    assert tc.io.read_spectra(tmp_path).labels["SNR"].tolist() == [51.0, 52.0]


def test_a_column_that_one_file_lacks_is_nan_there(tmp_path, write_apstar):
    write_apstar(tmp_path / "a.fits", RVTEFF=4000.0)
    write_apstar(tmp_path / "b.fits")
    np.testing.assert_array_equal(tc.io.read_spectra(tmp_path).labels["RVTEFF"], [4000.0, np.nan])


def test_a_grid_that_is_given(tmp_path, write_apstar):
    write_apstar(tmp_path / "a.fits")
    read = tc.io.read_spectra(tmp_path / "a.fits", grid=(15102.0, 15110.0, 1.0))
    np.testing.assert_allclose(read.wavelength, np.arange(15102.0, 15111.0))


def test_files_with_other_pixels_need_a_grid(tmp_path, write_apstar):
    write_apstar(tmp_path / "a.fits")
    write_apstar(tmp_path / "b.fits", pixels=40)
    with pytest.raises(ValueError, match=r"b.fits has other pixels \(40 from .*a.fits \(50 from .*grid="):
        tc.io.read_spectra(tmp_path)
    assert tc.io.read_spectra(tmp_path, grid=(15102.0, 15106.0, 1.0)).flux.shape == (2, 5)


def _plain(path):
    """A FITS image with a linear wavelength scale, as of another survey."""
    rng = np.random.default_rng(0)
    hdu = fits.PrimaryHDU(rng.uniform(1, 2, 40).astype(np.float32))
    hdu.header.update(CRVAL1=15100.0, CDELT1=0.25, CRPIX1=1, CTYPE1="WAVE", CUNIT1="Angstrom", OBJECT="sun")
    error = fits.ImageHDU(np.full(40, 0.1, dtype=np.float32), name="ERROR")
    fits.HDUList([hdu, error]).writeto(path)


def test_two_surveys_need_a_grid_and_are_told_apart(tmp_path, write_apstar):
    write_apstar(tmp_path / "a.fits")
    _plain(tmp_path / "b.fits")
    with pytest.raises(ValueError, match=r"b.fits: it does not say the velocity of spectrum 0"):
        tc.io.read_spectra(tmp_path)
    with pytest.raises(ValueError, match=r"b.fits is of the format wcs1d-fits and .*a.fits of apogee-apstar"):
        tc.io.read_spectra(tmp_path, velocity="none")
    read = tc.io.read_spectra(tmp_path, grid=(15102.0, 15106.0, 1.0), velocity="none")
    assert read.identifiers["reader"].tolist() == ["apogee-apstar", "wcs1d-fits"]
    assert read.attrs["survey"] == "apogee-apstar; wcs1d-fits"


def test_the_velocity_of_a_column(tmp_path, write_apstar):
    """A line at a pixel moves by v / c."""
    write_apstar(tmp_path / "a.fits")
    with fits.open(tmp_path / "a.fits", mode="update") as hdus:
        hdus[1].data[:] = 1.0
        hdus[1].data[0, 40] = 2.0
        hdus[0].header["VHELIO"] = 100.0
    read = tc.io.read_spectra(tmp_path / "a.fits", velocity="VHELIO", grid=(15101.0, 15105.0, 0.01))
    centre = np.average(read.wavelength, weights=np.maximum(read.flux[0] - 1, 0))
    assert centre == pytest.approx(WAVELENGTH[40] / (1 + 100 / LIGHT), abs=0.05)
    with pytest.raises(ValueError, match="grid="):
        tc.io.read_spectra(tmp_path / "a.fits", velocity="VHELIO")
    with pytest.raises(ValueError, match=r"a.fits: it has no column 'RV'.*VHELIO"):
        tc.io.read_spectra(tmp_path / "a.fits", velocity="RV")


def test_mask_bits(tmp_path, write_apstar):
    write_apstar(tmp_path / "a.fits")
    assert (tc.io.read_spectra(tmp_path / "a.fits", mask_bits=[]).ivar > 0).all()
    with pytest.raises(ValueError, match="SATPX"):
        tc.io.read_spectra(tmp_path / "a.fits", mask_bits=["SATPX"])


def test_own_formats_are_read_as_ever_and_joined(tmp_path, write_apstar):
    stars = Spectra(np.ones((2, 4)), np.ones((2, 4)), np.arange(4.0), ["a", "b"], {"TEFF": [1, 2]}, {"TEFF": "K"})
    write_spectra(tmp_path / "s.nc", stars)
    write_spectra(tmp_path / "t.npz", stars)
    read = tc.io.read_spectra(tmp_path / "s.nc")
    assert not read.identifiers
    assert not read.attrs
    both = tc.io.read_spectra([tmp_path / "s.nc", tmp_path / "t.npz"])
    assert both.ids.tolist() == ["a", "b", "a", "b"]
    assert dict(both.units) == {"TEFF": "K"}
    with pytest.raises(ValueError, match="other wavelengths than the grid"):
        tc.io.read_spectra(tmp_path / "s.nc", grid=(15102.0, 15106.0, 1.0))
    write_apstar(tmp_path / "u.fits")
    with pytest.raises(ValueError, match=r"format apogee-apstar and .* of bayes-cannon"):
        tc.io.read_spectra([tmp_path / "s.nc", tmp_path / "u.fits"])


def test_units_that_contradict_each_other_are_left_out(tmp_path):
    for name, unit in (("a.npz", "K"), ("b.npz", "kK")):
        write_spectra(
            tmp_path / name, Spectra(np.ones((1, 3)), np.ones((1, 3)), labels={"TEFF": [5]}, units={"TEFF": unit})
        )
    read = tc.io.read_spectra(tmp_path)
    assert not read.units
    assert read.attrs["units_differ"] == "TEFF"


@pytest.mark.parametrize(
    ("named", "options", "kind", "said"),
    [
        ("no.fits", {}, FileNotFoundError, "there is no file .*no.fits"),
        ("note.txt", {}, ValueError, "no reader recognizes .*note.txt"),
        ("cut.fits", {}, ValueError, "cut.fits"),
        ("a.fits", {"survey": "apogee"}, ValueError, "there is no reader 'apogee'"),
        ("a.fits", {"combined": "best"}, ValueError, "combined must be one of 'combined'.*got 'best'"),
        ("a.fits", {"grid": "apogi"}, ValueError, "there is no grid 'apogi'"),
    ],
)  # fmt: skip
def test_errors_name_the_file_and_the_remedy(tmp_path, write_apstar, named, options, kind, said):
    write_apstar(tmp_path / "a.fits")
    (tmp_path / "cut.fits").write_bytes((tmp_path / "a.fits").read_bytes()[:9000])
    (tmp_path / "note.txt").write_text("no spectrum")
    with pytest.raises(kind, match=said):
        tc.io.read_spectra(tmp_path / named, **options)


@pytest.mark.shared
def test_published_files(shared):
    """Flux and error as astropy reads them; the first has one visit and one-dimensional images."""
    names = ["apStar-r6-2M03290406+3117075.fits", "apStar-r6-2M14305591+0858023.fits"]
    files = [shared(f"data/survey_files/{name}") for name in names]
    read = tc.io.read_spectra(files)
    for row, file in enumerate(files):
        with fits.open(file) as hdus:
            flux, error = (np.atleast_2d(hdus[k].data)[0].astype(float) for k in (1, 2))
        used = read.ivar[row] > 0
        assert 0.5 < used.mean() < 0.95
        np.testing.assert_array_equal(read.flux[row, used], flux[used])
        np.testing.assert_allclose(read.ivar[row, used], error[used] ** -2.0, rtol=1e-12)
    with pytest.raises(ValueError, match="holds no spectrum of combined='combined', but visit 1"):
        tc.io.read_spectra(shared("data/survey_files/apVisit-2M14305591+0858023-0.fits"))
