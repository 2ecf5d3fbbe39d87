"""LAMOST: the three layouts of low resolution, and medium resolution with red arms that run backwards."""

import numpy as np
import pytest
from astropy.io import fits

from bayes_cannon.io.readers.lamost import LOW, MEDIUM

LIGHT = 299792.458
N = 50
RNG = np.random.default_rng(3)
FLUX, IVAR = RNG.normal(1000, 30, N).astype("f4"), RNG.uniform(1e-4, 2e-3, N).astype("f4")
AND, OR = (RNG.random((2, N)) < 0.2).astype("f4") * np.array([[1], [33]], "f4")
GRID = 10 ** (3.57 + 1e-4 * np.arange(N))


def header(**cards):
    standard = {
        "TELESCOP": "LAMOST", "OBSID": 123456789, "DESIG": "LAMOST J012345.67+012345.6", "RA": 20.5, "DEC": 1.25,
        "Z": -0.00017162, "Z_ERR": 2.7e-5, "SNRG": 87.5, "CLASS": "STAR",
        "HELIO": True, "HELIO_RV": 9.85, "VACUUM": True,
        "COEFF0": 3.57, "COEFF1": 1e-4, "CRVAL1": 3.57, "CD1_1": 1e-4, "CTYPE1": "LINEAR",
    }  # fmt: skip
    return fits.Header({k: v for k, v in (standard | cards).items() if v is not None})


def in_rows(path, names, third, **cards):
    rows = np.array([FLUX, IVAR, third, AND, OR], "f4")
    fits.PrimaryHDU(rows, header(EXTEN0=names, **cards)).writeto(path)
    return path


def in_table(path, *, wavelength=GRID, **cards):
    columns = {
        "FLUX": FLUX,
        "IVAR": IVAR,
        "WAVELENGTH": wavelength,
        "ANDMASK": AND,
        "ORMASK": OR,
        "NORMALIZATION": FLUX,
    }
    columns = [fits.Column(name, f"{N}E", array=values[None]) for name, values in columns.items()]
    table = fits.BinTableHDU.from_columns(columns, name="COADD")
    fits.HDUList([fits.PrimaryHDU(header=header(**cards)), table]).writeto(path)
    return path


LAYOUTS = {
    "DR1": lambda path: in_rows(path, "Flux Inverse Subcontinuum Andmask Ormask", FLUX / 1000, OBSID=None, SNRG=None),
    "DR6": lambda path: in_rows(path, "Flux, Inverse, Wavelength, Andmask, Ormask", GRID),
    "DR8": in_table,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("suffix", [".fits", ".fits.gz"])
def test_every_layout_of_low_resolution(tmp_path, layout, suffix):
    path = LAYOUTS[layout](tmp_path / f"spec{suffix}")
    assert LOW.recognizes(path)
    assert not MEDIUM.recognizes(path)
    (spectra,) = LOW.read(path)
    (segment,) = spectra.segments
    np.testing.assert_allclose(segment.wavelength, GRID, rtol=1e-14)
    assert segment.log_linear
    np.testing.assert_array_equal(segment.flux, [FLUX])
    np.testing.assert_array_equal(segment.noise, [IVAR])
    np.testing.assert_array_equal(segment.mask, [AND])
    assert segment.mask.dtype.kind in "iu"
    assert segment.flux.dtype.isnative
    assert spectra.noise_kind == "ivar"
    # HELIO_RV is the correction of the observer's motion.
    np.testing.assert_allclose(spectra.velocity, LIGHT * -0.00017162)
    assert (spectra.medium, spectra.frame) == ("vacuum", "heliocentric")
    assert spectra.which == ["combined"]
    assert spectra.star_id == ["LAMOST J012345.67+012345.6" if layout == "DR1" else "123456789"]
    assert spectra.columns["RA"] == 20.5
    assert spectra.columns["CLASS"] == "STAR"
    assert ("SNRG" in spectra.columns) == (layout != "DR1")
    assert spectra.units["RA"] == "deg"


def test_rows_named_by_a_keyword_each(tmp_path):
    names = {f"ROW{k}": name for k, name in enumerate(("Flux", "Inverse", "Wavelength", "Andmask", "Ormask"), start=1)}
    path = in_rows(tmp_path / "spec.fits", None, GRID, **names)
    assert LOW.recognizes(path)
    np.testing.assert_array_equal(LOW.read(path)[0].segments[0].mask, [AND])


def test_wavelengths_of_the_data_go_before_a_header_of_other_wavelengths(tmp_path):
    (spectra,) = LOW.read(in_table(tmp_path / "spec.fits", COEFF0=3.5, CRVAL1=3.5))
    np.testing.assert_allclose(spectra.segments[0].wavelength, GRID, rtol=1e-7)
    assert not spectra.segments[0].log_linear
    (spectra,) = LOW.read(in_table(tmp_path / "none.fits", COEFF0=None, COEFF1=None))
    np.testing.assert_allclose(spectra.segments[0].wavelength, GRID, rtol=1e-7)


@pytest.mark.parametrize("z", [None, -9999.0])
def test_no_redshift(tmp_path, z):
    (spectra,) = LOW.read(in_table(tmp_path / "spec.fits", Z=z))
    assert np.isnan(spectra.velocity).all()


def test_what_the_header_does_not_say(tmp_path):
    (spectra,) = LOW.read(in_table(tmp_path / "spec.fits", HELIO=None, VACUUM=None))
    assert (spectra.medium, spectra.frame) == (None, None)
    (spectra,) = LOW.read(in_table(tmp_path / "air.fits", HELIO=False, VACUUM=False))
    assert (spectra.medium, spectra.frame) == ("air", "observed")


def test_faulty_files_are_named(tmp_path):
    path = in_rows(tmp_path / "spec.fits", "Flux, Inverse", GRID)
    assert not LOW.recognizes(path)
    with pytest.raises(
        ValueError, match=r"spec\.fits: EXTEN0 = 'Flux, Inverse' does not name the rows: flux, ivar, mask"
    ):
        LOW.read(path)
    path = in_rows(tmp_path / "no_grid.fits", "Flux Inverse Subcontinuum Andmask Ormask", FLUX, COEFF0=None)
    with pytest.raises(ValueError, match=r"no_grid\.fits: it has no wavelengths: the keywords COEFF0 and COEFF1"):
        LOW.read(path)
    path = in_table(tmp_path / "turned.fits", wavelength=np.where(np.arange(N) == 9, GRID[3], GRID), COEFF0=None)
    with pytest.raises(ValueError, match=r"turned\.fits: the wavelengths turn at pixel 8"):
        LOW.read(path)
    path = in_table(tmp_path / "nameless.fits", OBSID=None, DESIG=None)
    with pytest.raises(ValueError, match=r"nameless\.fits: nothing in it names the star"):
        LOW.read(path)
    fits.PrimaryHDU(np.zeros((5, N)), fits.Header({"EXTEN0": "Flux Inverse Wavelength Andmask Ormask"})).writeto(
        tmp_path / "foreign.fits"
    )
    assert not LOW.recognizes(tmp_path / "foreign.fits")


def arm(name, log10, *, mask=("PIXMASK",), column="LOGLAM", **cards):
    n = log10.size
    values = {"FLUX": np.arange(n), "IVAR": np.full(n, 0.5), column: log10 if column == "LOGLAM" else 10**log10}
    columns = [fits.Column(c, "E" if column == "LOGLAM" else "D", array=v) for c, v in values.items()]
    columns += [fits.Column(c, "I", array=np.arange(n) == k) for k, c in enumerate(mask)]
    return fits.BinTableHDU.from_columns(columns, fits.Header(cards), name=name)


def medium(path, *tables, **cards):
    fits.HDUList([fits.PrimaryHDU(header=header(Z=None, COEFF0=None, COEFF1=None, **cards)), *tables]).writeto(path)
    return path


def test_medium_resolution(tmp_path):
    blue, red = 3.69 + 1e-5 * np.arange(30), 3.8353 - 7.6e-6 * np.arange(40)
    both = ("ANDMASK", "ORMASK")
    path = medium(
        tmp_path / "med.fits.gz",
        arm("R-84420171", red, SNR=4.0, LMJM="84420171", EXPTIME=600),
        arm("COADD_B", blue, mask=both, SNR=20.0),
        arm("COADD_R", blue + 0.1, mask=both, SNR=30.0),
        arm("B-84420148", blue, SNR=1.0, LMJM="84420148", EXPTIME=1200),
        arm("R-84420148", red, SNR=2.0, LMJM="84420148", EXPTIME=1200),
        arm("B-84420171", blue, SNR=3.0, LMJM="84420171", EXPTIME=600),
    )
    assert MEDIUM.recognizes(path)
    assert not LOW.recognizes(path)
    combined, first, second = MEDIUM.read(path)
    assert [s.which[0] for s in (combined, first, second)] == ["combined", "visit 1", "visit 2"]
    assert [[g.name for g in s.segments] for s in (combined, first, second)] == [["B", "R"], ["B", "R"], ["R", "B"]]
    assert first.columns["SNR_R"] == 2
    assert first.columns["EXPTIME"] == 1200
    assert second.columns["LMJM"] == 84420171
    assert np.isnan(first.velocity).all()
    np.testing.assert_array_equal(combined.segments[0].mask, [np.arange(30) == 0])
    assert combined.segments[0].log_linear
    backwards = first.segments[1]
    np.testing.assert_allclose(backwards.wavelength, 10**red, rtol=1e-6)
    assert backwards.wavelength[0] > backwards.wavelength[-1]
    np.testing.assert_array_equal(backwards.flux, [np.arange(40)])


def test_medium_resolution_with_one_exposure_of_one_arm_and_a_redshift(tmp_path):
    path = medium(tmp_path / "med.fits", arm("B-1", np.linspace(3.69, 3.7, 9), column="WAVELENGTH", Z=1e-4))
    (spectra,) = MEDIUM.read(path)
    assert spectra.which == ["visit 1"]
    np.testing.assert_allclose(spectra.velocity, LIGHT * 1e-4)
    np.testing.assert_allclose(spectra.segments[0].wavelength, 10 ** np.linspace(3.69, 3.7, 9))
    with pytest.raises(ValueError, match="it has no table with a spectrum"):
        MEDIUM.read(medium(tmp_path / "empty.fits"))


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "star", "velocity", "pixel"),
    [
        ("spec-55862-B6212_sp06-007.fits", "LAMOST J063727.73+271638.0", 84.10977, (186.28767, 3.4071988e-4, 3786.170)),
        ("spec-57287-KP193637N444141V03_sp10-161.fits.gz", "359910161", -51.45038, (9112.106, 1.151078e-5, 3786.170)),
        ("spec-58397-EG014118N254444M01_sp03-031.fits", "677503031", -1.91867, (1037.5680, 7.5193314e-4, 3786.170)),
    ],
)
def test_real_low_resolution(shared, name, star, velocity, pixel):
    path = shared(f"data/survey_files/{name}")
    assert LOW.recognizes(path)
    (spectra,) = LOW.read(path)
    (segment,) = spectra.segments
    assert spectra.star_id == [star]
    np.testing.assert_allclose(spectra.velocity, velocity, rtol=1e-6)
    np.testing.assert_allclose([segment.flux[0, 100], segment.noise[0, 100]], pixel[:2], rtol=1e-6)
    np.testing.assert_allclose(segment.wavelength[100], pixel[2], rtol=1e-5)
    with fits.open(path) as hdus:
        np.testing.assert_array_equal(segment.flux, hdus[0].data[:1])
        np.testing.assert_array_equal(segment.mask, hdus[0].data[3:4])
        if "Wavelength" in hdus[0].header["EXTEN0"]:  # A third of a km/s is the precision of the row.
            np.testing.assert_allclose(segment.wavelength, hdus[0].data[2], rtol=1e-6)


@pytest.mark.shared
def test_real_medium_resolution(shared):
    path = shared("data/survey_files/med-58625-TD192102N424113K01_sp12-076.fits.gz")
    assert MEDIUM.recognizes(path)
    combined, *visits = MEDIUM.read(path)
    assert [v.which[0] for v in visits] == ["visit 1", "visit 2", "visit 3"]
    assert {s.star_id[0] for s in (combined, *visits)} == {"744812076"}
    assert [s.flux.shape for s in combined.segments] == [(1, 4156), (1, 3800)]
    assert all(s.log_linear for s in combined.segments)
    assert combined.columns["SNR_R"] == 44.67
    assert visits[2].columns["SNR_B"] == 3.52
    with fits.open(path) as hdus:
        red = visits[1].segments[1]
        np.testing.assert_array_equal(red.flux[0], hdus["R-84420171"].data["FLUX"])
        np.testing.assert_array_equal(red.mask[0], hdus["R-84420171"].data["PIXMASK"])
        np.testing.assert_allclose(red.wavelength[[0, -1]], [6843.5639, 6271.6544], atol=1e-3)
