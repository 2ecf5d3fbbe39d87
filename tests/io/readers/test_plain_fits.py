"""Files of no survey: images with a spectral axis and tables, in all units and kinds of noise."""

import numpy as np
import pytest
from astropy.io import fits

from bayes_cannon.io.decoding import decode
from bayes_cannon.io.readers.plain_fits import TABLE, WCS1D

FLUX, ERROR = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.5, 0.25, 0.5, 1.0])
LINEAR = {"CRVAL1": 5000.0, "CDELT1": 0.5, "CRPIX1": 1.0, "CTYPE1": "LINEAR"}
EXPECTED = 5000 + 0.5 * np.arange(4)


@pytest.fixture
def image(tmp_path):
    def write(axis=LINEAR, noise=(("ERR", ERROR, {}),), flux=FLUX, **cards):
        primary = fits.PrimaryHDU(flux, fits.Header(axis | cards))
        others = [fits.ImageHDU(values, fits.Header(header), name=name) for name, values, header in noise]
        fits.HDUList([primary, *others]).writeto(tmp_path / "image.fits", overwrite=True)
        return tmp_path / "image.fits"

    return write


@pytest.fixture
def table(tmp_path):
    def write(columns, unit="Angstrom", flux_unit=None, **cards):
        units = {"WAVE": unit, "wavelength": unit, "Lambda": unit, "flux": flux_unit, "FLUX": flux_unit}
        made = []
        for name, values in columns.items():
            array = np.asarray(values)
            form = "D" if array.ndim == 1 else f"{array.shape[1]}D"
            made.append(fits.Column(name, form, unit=units.get(name), array=array))
        hdu = fits.BinTableHDU.from_columns(made, header=fits.Header(cards))
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(tmp_path / "table.fits", overwrite=True)
        return tmp_path / "table.fits"

    return write


@pytest.mark.parametrize(
    ("axis", "expected", "medium", "log_linear"),
    [
        (LINEAR, EXPECTED, None, False),
        (LINEAR | {"CRPIX1": 3.0}, EXPECTED - 1, None, False),
        (LINEAR | {"CDELT1": -0.5}, 5000 - 0.5 * np.arange(4), None, False),
        ({"CRVAL1": 5000.0, "CD1_1": 0.5, "CTYPE1": "LINEAR"}, EXPECTED, None, False),
        (LINEAR | {"WAT1_001": "wtype=linear label=Wavelength units=angstroms"}, EXPECTED, None, False),
        ({"CRVAL1": 500.0, "CDELT1": 0.05, "CUNIT1": "nm"}, EXPECTED, None, False),
        ({"CRVAL1": 0.5, "CDELT1": 5e-5, "CUNIT1": "um", "CTYPE1": "LAMBDA"}, EXPECTED, None, False),
        (LINEAR | {"CTYPE1": "WAVE", "CUNIT1": "Angstrom"}, EXPECTED, "vacuum", False),
        (LINEAR | {"CTYPE1": "AWAV", "CUNIT1": "Angstrom"}, EXPECTED, "air", False),
        ({"CRVAL1": 5e-7, "CDELT1": 5e-11, "CRPIX1": 1.0, "CTYPE1": "WAVE"}, EXPECTED, "vacuum", False),
        (LINEAR | {"CTYPE1": "WAVE-LOG", "CUNIT1": "Angstrom"}, 5000 * np.exp(np.arange(4) * 1e-4), "vacuum", True),
        (
            {"CRVAL1": 3.7, "CDELT1": 1e-4, "CTYPE1": "LINEAR", "DC-FLAG": 1},
            10 ** (3.7 + 1e-4 * np.arange(4)),
            None,
            True,
        ),
        ({"CRVAL1": 3.7, "CDELT1": 1e-4, "CTYPE1": "LOG-LINEAR"}, 10 ** (3.7 + 1e-4 * np.arange(4)), None, True),
        (
            {"CRVAL1": 6e14, "CDELT1": 1e12, "CRPIX1": 1.0, "CTYPE1": "FREQ", "CUNIT1": "Hz"},
            299792458 / (6e14 + 1e12 * np.arange(4)) * 1e10,
            "vacuum",
            False,
        ),
    ],
)
def test_wavelengths_of_an_image(image, axis, expected, medium, log_linear):
    path = image(axis)
    assert WCS1D.recognizes(path)
    [spectra] = WCS1D.read(path)
    [segment] = spectra.segments
    np.testing.assert_allclose(segment.wavelength, expected, rtol=1e-12)
    assert (spectra.medium, segment.log_linear) == (medium, log_linear)
    assert segment.flux.tolist() == [FLUX.tolist()]


@pytest.mark.parametrize(
    ("name", "values", "header"),
    [
        ("ERR", ERROR, {}),
        ("sigma", ERROR, {}),
        ("VAR", ERROR**2, {}),
        ("IVAR", 1 / ERROR**2, {}),
        ("UNCERT", ERROR, {"UTYPE": "StdDevUncertainty"}),
        ("UNCERT", ERROR**2, {"UTYPE": "VarianceUncertainty"}),
        ("UNCERT", 1 / ERROR**2, {"UTYPE": "InverseVariance"}),
        ("ERR", ERROR * 1e-14, {"BUNIT": "W / (m2 um)"}),
    ],
)
def test_noise_of_an_image(image, name, values, header):
    """1e-14 W/m^2/um is 1e-15 erg/s/cm^2/Angstrom."""
    path = image(noise=[(name, values, header)], BUNIT="1e-15 erg/s/cm^2/Ang")
    [segment] = decode(WCS1D.read(path)[0]).segments
    np.testing.assert_allclose(segment.ivar, [1 / ERROR**2], rtol=1e-12)


def test_an_image_without_noise_says_what_to_add(image):
    path = image(noise=[])
    assert WCS1D.recognizes(path)
    with pytest.raises(ValueError, match=r"image\.fits: there is no noise in it: add the error, variance or ivar"):
        WCS1D.read(path)
    with pytest.raises(ValueError, match="there is noise of 2 kinds in it: leave only one"):
        WCS1D.read(image(noise=[("ERR", ERROR, {}), ("IVAR", ERROR, {})]))


def test_facts_of_an_image(image):
    cards = {"OBJECT": " HD 1 ", "SNR": 40.0, "EXPTIME": 300, "SPECSYS": "SOURCE", "RA": "12:00:00"}
    [spectra] = WCS1D.read(image(noise=[("ERR", ERROR, {}), ("MASK", np.array([0, 4, 0, 0]), {})], **cards))
    assert spectra.star_id.tolist() == ["HD 1"]
    assert spectra.identifiers["FILE"].tolist() == ["image.fits"]
    assert {key: values.tolist() for key, values in spectra.columns.items()} == {"SNR": [40], "EXPTIME": [300]}
    assert (spectra.frame, spectra.velocity.tolist()) == ("rest", [0])
    assert decode(spectra).segments[0].ivar.tolist() == [[4, 0, 4, 1]]


def test_what_is_not_said_is_not_known(image):
    [spectra] = WCS1D.read(image())
    assert np.isnan(spectra.velocity).all()
    assert (spectra.medium, spectra.frame, spectra.flux_unit) == (None, None, None)
    assert spectra.star_id.tolist() == ["image.fits"]
    assert WCS1D.read(image(VACUUM=True))[0].medium == "vacuum"
    assert WCS1D.read(image(VACUUM=False, SPECSYS="BARYCENT"))[0].medium == "air"


def test_an_image_of_degenerate_axes(image):
    [spectra] = WCS1D.read(image(flux=FLUX[None, None]))
    assert spectra.segments[0].flux.shape == (1, 4)


@pytest.mark.parametrize(
    ("axis", "flux"),
    [
        (LINEAR, np.ones((2, 4))),
        ({"CRVAL1": 0.0, "CDELT1": 1.0}, FLUX),
        (LINEAR | {"CTYPE1": "TIME"}, FLUX),
        ({}, FLUX),
    ],
)
def test_other_images_are_not_spectra(image, axis, flux):
    assert not WCS1D.recognizes(image(axis, flux=flux))


@pytest.mark.parametrize(
    ("axis", "said"),
    [
        (LINEAR | {"CTYPE1": "WAVE"}, r"the wavelengths reach 5e\+13 Angstrom: set CUNIT1, which is now m"),
        (LINEAR | {"CUNIT1": "K"}, "CUNIT1 is K: expected that of a wavelength"),
        (LINEAR | {"CUNIT1": "furlong"}, "'furlong' did not parse as unit"),
        (LINEAR | {"DC-FLAG": 1}, "the wavelength of pixel 0 is inf"),
        (LINEAR | {"CDELT1": 0.0}, "the wavelengths turn at pixel 0"),
        (LINEAR | {"CRVAL1": -5.0}, "the wavelength of pixel 0 is -5.0"),
    ],
)
def test_axes_that_are_none(image, axis, said):
    with pytest.raises(ValueError, match=said):
        WCS1D.read(image(axis))


def test_table_with_a_row_for_each_pixel(table):
    path = table({"wavelength": EXPECTED / 10, "flux": FLUX, "Error": ERROR}, unit="nm", OBJECT="HD 1")
    assert TABLE.recognizes(path)
    assert not WCS1D.recognizes(path)
    [spectra] = TABLE.read(path)
    np.testing.assert_allclose(spectra.segments[0].wavelength, EXPECTED, rtol=1e-14)
    assert spectra.star_id.tolist() == ["HD 1"]
    np.testing.assert_allclose(decode(spectra).segments[0].ivar, [1 / ERROR**2])
    assert np.isnan(spectra.velocity).all()


def test_table_with_one_row_of_arrays(table):
    path = table({"WAVE": EXPECTED[None], "FLUX": FLUX[None], "ERR": ERROR[None], "QUAL": [[0, 0, 1, 0]]}, OBJECT="ESO")
    [spectra] = TABLE.read(path)
    assert spectra.segments[0].wavelength.tolist() == EXPECTED.tolist()
    assert decode(spectra).segments[0].ivar.tolist() == [[4, 16, 0, 1]]


def test_table_in_the_logarithm(table):
    [spectra] = TABLE.read(table({"loglam": np.log10(EXPECTED), "flux": FLUX, "ivar": ERROR}))
    np.testing.assert_allclose(spectra.segments[0].wavelength, EXPECTED, rtol=1e-14)
    assert spectra.segments[0].log_linear
    assert decode(spectra).segments[0].ivar.tolist() == [ERROR.tolist()]


def test_units_of_flux_and_noise_are_one(tmp_path):
    columns = [
        fits.Column("WAVE", "D", unit="Angstrom", array=EXPECTED),
        fits.Column("FLUX", "D", unit="mJy", array=FLUX),
        fits.Column("VAR", "D", unit="Jy2", array=ERROR**2 / 1e6),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "a.fits")
    [spectra] = TABLE.read(tmp_path / "a.fits")
    assert spectra.flux_unit == "mJy"
    np.testing.assert_allclose(decode(spectra).segments[0].ivar, [1 / ERROR**2], rtol=1e-12)


@pytest.mark.parametrize(
    ("columns", "unit", "said"),
    [
        ({"WAVE": EXPECTED, "FLUX": FLUX}, "Angstrom", "there is no noise in it: add"),
        ({"WAVE": EXPECTED, "FLUX": FLUX, "ERR": ERROR}, None, "the column WAVE has no unit: set its TUNIT"),
        ({"WAVE": EXPECTED, "FLUX": FLUX, "ERR": ERROR}, "s", "the unit of WAVE is s: expected that of a wavelength"),
        ({"WAVE": [1, 3, 2, 4], "FLUX": FLUX, "ERR": ERROR}, "nm", "the wavelengths turn at pixel 1"),
        ({"WAVE": [1, np.nan, 2, 4], "FLUX": FLUX, "ERR": ERROR}, "nm", "the wavelength of pixel 1 is nan"),
        ({"WAVE": np.ones((2, 4)), "FLUX": np.ones((2, 4))}, "nm", "WAVE has arrays in 2 rows: expected one spectrum"),
    ],
)
def test_tables_that_are_no_spectrum(table, columns, unit, said):
    with pytest.raises(ValueError, match=rf"table\.fits: {said}"):
        TABLE.read(table(columns, unit=unit))


def test_other_tables_are_not_recognized(table):
    assert not TABLE.recognizes(table({"RA": EXPECTED, "FLUX": FLUX}))
