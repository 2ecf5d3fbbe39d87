"""apStar, aspcapStar and apVisit: real files against what Astropy reads of them, and files by the data model."""

import numpy as np
import pytest
from astropy.io import fits

from bayes_cannon.io.decoding import LIGHT, decode
from bayes_cannon.io.readers.apogee import APSTAR, APVISIT, ASPCAPSTAR

FILES = "data/survey_files/"
THREE_VISITS = FILES + "apStar-r6-2M14305591+0858023.fits"
ONE_VISIT = FILES + "apStar-r6-2M03290406+3117075.fits"
WIPED = FILES + "mystery_spec_wiped.fits"
VISIT = FILES + "apVisit-2M14305591+0858023-0.fits"


@pytest.fixture
def ap_star(tmp_path):
    """An apStar file by the data model, of 6 pixels."""

    def write(n_rows=4, n_visits=2, **changed):
        header = fits.Header(
            {"OBJID": "2M00000000+0000000", "NVISITS": n_visits, "SNR": 50.0, "SNRVIS1": 30.0} | changed
        )
        grid = {"CRVAL1": 4.179, "CDELT1": 6e-6, "CRPIX1": 1, "CTYPE1": "LOG-LINEAR"}
        shape = (n_rows, 6) if n_rows > 1 else (6,)
        arrays = np.ones(shape, "f4"), np.full(shape, 0.1, "f4"), np.zeros(shape, "i2")
        units = "Flux (10^-17 erg/s/cm^2/Ang)", "Error (10^-17 erg/s/cm^2/Ang)", "Flag Mask (bitwise)"
        images = [
            fits.ImageHDU(array, fits.Header(grid | {"BUNIT": unit})) for array, unit in zip(arrays, units, strict=True)
        ]
        path = tmp_path / "apStar.fits"
        fits.HDUList([fits.PrimaryHDU(header=header), *images]).writeto(path, overwrite=True)
        return path

    return write


@pytest.fixture
def aspcap_star(tmp_path):
    """An aspcapStar file by the data model of DR12 to DR17, of 6 pixels."""
    grid = fits.Header({"CRVAL1": 4.179, "CDELT1": 6e-6, "CRPIX1": 1, "CTYPE1": "LOG-LINEAR", "DC-FLAG": 1})
    flux, error = np.array([0, 0.9, 1.0, 1.1, 0.95, 1], "f4"), np.array([1e10, 0.1, 0.2, 0.1, 0.1, 0.05], "f4")
    row = [
        fits.Column("APOGEE_ID", "18A", array=["2M00000000+0000000"]),
        fits.Column("FIELD", "8A", array=["M67"]),
        fits.Column("SNR", "E", array=[150.5]),
        fits.Column("ASPCAPFLAG", "K", array=[4]),
        fits.Column("TEFF", "E", array=[4800.0]),
        fits.Column("FPARAM", "3E", array=[[1, 2, 3]]),
    ]
    path = tmp_path / "aspcapStar-r12-2M00000000+0000000.fits"
    images = [fits.ImageHDU(array, grid) for array in (flux, error, flux)]
    fits.HDUList([fits.PrimaryHDU(), *images, fits.BinTableHDU.from_columns(row)]).writeto(path)
    return path


@pytest.mark.shared
def test_visits_follow_two_combined_spectra(shared):
    path = shared(THREE_VISITS)
    assert APSTAR.recognizes(path)
    [spectra] = APSTAR.read(path)
    assert spectra.which.tolist() == ["combined", "combined 2", "visit 1", "visit 2", "visit 3"]
    [segment] = spectra.segments
    with fits.open(path) as hdus:
        header = hdus[0].header
        for values, k in ((segment.flux, 1), (segment.noise, 2), (segment.mask, 3)):
            np.testing.assert_array_equal(values, hdus[k].data)
        assert spectra.columns["VHELIO"].tolist() == [header[key] for key in ("VHELIO", "VHELIO", *_visits("VHELIO"))]
        assert spectra.columns["SNR"].tolist() == [header[key] for key in ("SNR", "SNR", *_visits("SNRVIS"))]
        assert spectra.identifiers["FILE"].tolist() == [path.name] * 2 + [header[key] for key in _visits("SFILE")]
    assert (spectra.star_id == "2M14305591+0858023").all()
    assert spectra.columns["STARFLAG"].dtype.kind == "i"
    assert np.isnan(spectra.columns["BC"][:2]).all()
    assert (spectra.noise_kind, spectra.medium, spectra.frame) == ("error", "vacuum", "rest")
    assert spectra.flux_unit == "1e-17 erg / (Angstrom s cm2)"
    assert not spectra.velocity.any()
    assert segment.log_linear
    np.testing.assert_allclose(segment.wavelength[[0, -1]], [15100.8015, 16999.8076], atol=1e-4)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("file", "star", "flag"), [(ONE_VISIT, "2M03290406+3117075", 131584), (WIPED, "2M16333217+3942519", 0)]
)
def test_a_single_visit_is_the_combined_spectrum(shared, file, star, flag):
    path = shared(file)
    assert APSTAR.recognizes(path)
    [spectra] = APSTAR.read(path)
    assert spectra.which.tolist() == ["combined"]
    assert spectra.star_id.tolist() == [star]
    assert spectra.columns["STARFLAG"].tolist() == [flag]
    np.testing.assert_array_equal(spectra.segments[0].flux, fits.getdata(path, 1)[None])
    assert spectra.segments[0].flux.shape == (1, 8575)


@pytest.mark.shared
def test_bad_pixels_of_the_mask_and_of_the_gaps(shared):
    """The second combined spectrum has 300 pixels of flux 0 with errors such as 18.7 and no bit of the mask."""
    path = shared(THREE_VISITS)
    [segment] = decode(APSTAR.read(path)[0]).segments
    flux, error, mask = (np.asarray(fits.getdata(path, k), dtype=float) for k in (1, 2, 3))
    bad = (mask.astype(int) & (0b1111_1111 | 1 << 12 | 1 << 14)) != 0
    good = ~bad & (error < 1e10) & (flux != 0)
    assert ((flux[1] == 0) & (error[1] < 1e10) & (mask[1] == 0)).sum() == 300
    np.testing.assert_allclose(segment.ivar, np.where(good, 1 / error**2, 0), rtol=1e-15)
    assert (segment.ivar > 0).sum(axis=1).tolist() == [7163, 7529, 7307, 7441, 7400]


@pytest.mark.shared
@pytest.mark.parametrize(
    ("file", "tolerance"), [(FILES + "apStar-r6-2M17334253-1654573.fits", 0.4), (THREE_VISITS, 3.0)]
)
def test_visits_are_at_rest_and_agree_with_the_combined_spectrum(shared, file, tolerance):
    """A giant, and a dwarf with broad lines. As observed they are at 102 km/s, and at 20 to 31 km/s."""
    decoded = decode(APSTAR.read(shared(file))[0])
    assert (decoded.doppler == 1).all()
    [segment] = decoded.segments
    combined, *visits = _normalized(segment.flux[[0, *range(2, len(segment.flux))]])
    for visit in visits:
        assert abs(_velocity(segment.wavelength, visit, segment.wavelength, combined)) < tolerance
    known = (segment.ivar[[0, *range(2, len(segment.flux))]] > 0).all(axis=0)
    assert np.median(np.abs(np.mean(visits, axis=0) - combined)[known]) < 0.005


@pytest.mark.shared
def test_a_visit_is_as_observed(shared):
    path = shared(VISIT)
    assert APVISIT.recognizes(path)
    [spectra] = APVISIT.read(path)
    assert spectra.which.tolist() == ["visit 1"]
    assert (spectra.medium, spectra.frame, spectra.noise_kind) == ("vacuum", "observed", "error")
    with fits.open(path) as hdus:
        header = hdus[0].header
        for k, segment in enumerate(spectra.segments):
            np.testing.assert_array_equal(segment.wavelength, hdus[4].data[k])
            np.testing.assert_array_equal(segment.flux, hdus[1].data[k : k + 1])
            np.testing.assert_array_equal(segment.mask, hdus[3].data[k : k + 1])
        assert spectra.velocity.tolist() == [header["VRAD"]]
        assert header["VRAD"] + header["BC"] == pytest.approx(header["VHELIO"], abs=1e-3)
    assert [segment.name for segment in spectra.segments] == ["a", "b", "c"]
    assert spectra.segments[0].wavelength[0] > spectra.segments[0].wavelength[-1] > spectra.segments[1].wavelength[0]
    assert {key: values[0] for key, values in spectra.identifiers.items()} == {
        "APOGEE_ID": "2M14305591+0858023", "TELESCOPE": "apo25m", "LOCATION_ID": "4436", "PLATE": "5672",
        "MJD": "56439", "FIBERID": "191", "FILE": path.name,
    }  # fmt: skip


@pytest.mark.shared
def test_the_doppler_factor_takes_a_visit_to_rest(shared):
    """Against the same visit at rest in apStar, by a later velocity: they differ by that of the two measurements."""
    visit, [star] = decode(APVISIT.read(shared(VISIT))[0]), APSTAR.read(shared(THREE_VISITS))
    [at_rest] = star.segments
    expected = visit.source.velocity[0] - star.columns["VRAD"][2]
    assert expected == pytest.approx(-1.825, abs=1e-3)
    for segment in visit.segments:
        wavelength = segment.wavelength[::-1] / visit.doppler[0]
        inside = (at_rest.wavelength > wavelength[10]) & (at_rest.wavelength < wavelength[-10])
        template, flux = at_rest.flux[2, inside], segment.flux[0, ::-1]
        covered = np.flatnonzero(template)
        inside = slice(np.flatnonzero(inside)[covered[0]], np.flatnonzero(inside)[covered[-1]])
        template = _normalized(at_rest.flux[2:3, inside])[0]
        found = _velocity(wavelength, _normalized(flux[None])[0], at_rest.wavelength[inside], template)
        assert found == pytest.approx(-expected, abs=0.5)


def test_aspcap_star(aspcap_star):
    assert ASPCAPSTAR.recognizes(aspcap_star)
    assert not APSTAR.recognizes(aspcap_star)
    [spectra] = ASPCAPSTAR.read(aspcap_star)
    assert spectra.star_id.tolist() == ["2M00000000+0000000"]
    assert spectra.identifiers["FIELD"].tolist() == ["M67"]
    assert {key: values.tolist() for key, values in spectra.columns.items()} == {
        "SNR": [150.5], "ASPCAPFLAG": [4], "TEFF": [4800],
    }  # fmt: skip
    assert (spectra.which[0], spectra.medium, spectra.frame) == ("combined", "vacuum", "rest")
    decoded = decode(spectra)
    np.testing.assert_allclose(decoded.segments[0].ivar, [[0, 100, 25, 100, 100, 400]], rtol=1e-6)
    assert decoded.doppler.tolist() == [1]
    assert decoded.decisions["mask_bits"] == "no mask"


def test_rows_that_are_no_visits_are_refused(ap_star):
    [spectra] = APSTAR.read(ap_star())
    assert spectra.columns["SNR"][:3].tolist() == [50, 50, 30]
    assert np.isnan(spectra.columns["SNR"][3])
    with pytest.raises(ValueError, match=r"apStar\.fits: there are 3 spectra for 2 visits"):
        APSTAR.read(ap_star(n_rows=3))


def test_a_star_without_a_name_goes_by_its_file(ap_star):
    [spectra] = APSTAR.read(ap_star(n_rows=1, n_visits=1, OBJID=""))
    assert list(spectra.identifiers) == ["FILE"]
    assert spectra.star_id.tolist() == ["apStar.fits"]


def test_a_grid_that_is_missing_is_named(ap_star):
    path = ap_star()
    with fits.open(path, mode="update") as hdus:
        del hdus[1].header["CDELT1"]
    assert not APSTAR.recognizes(path)
    with pytest.raises(ValueError, match=r"Keyword 'CDELT1' not found"):
        APSTAR.read(path)


def _visits(key):
    return [f"{key}{k}" for k in (1, 2, 3)]


def _normalized(flux):
    """Flux over its running mean of 301 pixels, 1 where there is none."""
    known = flux != 0
    box = np.ones(301)
    sums = np.array(
        [
            np.convolve(row, box, "same") / np.convolve(k, box, "same").clip(1)
            for row, k in zip(flux, known, strict=True)
        ]
    )
    return np.where(known & (sums > 0), flux / np.where(sums > 0, sums, 1), 1)


def _velocity(wavelength, flux, wavelength_of_template, template):
    """Velocity of a spectrum in km/s, positive if it lies to the red of the template, by least squares."""
    trial = np.arange(-8, 8.01, 0.25)
    clip = template.clip(0.3, 1.2)
    chi2 = [
        np.mean((np.interp(wavelength_of_template * (1 + v / LIGHT), wavelength, flux).clip(0.3, 1.2) - clip) ** 2)
        for v in trial
    ]
    k = int(np.argmin(chi2))
    assert 1 < k < len(trial) - 2
    parabola = np.polyfit(trial[k - 1 : k + 2], chi2[k - 1 : k + 2], 2)
    return -parabola[1] / (2 * parabola[0])
