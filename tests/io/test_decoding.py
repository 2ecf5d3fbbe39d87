"""Mask bits, errors and velocities: what becomes of them, value by value."""

import numpy as np
import pytest

from bayes_cannon.io.decoding import LIGHT, NO_DATA_ERROR, decode
from bayes_cannon.io.readers import mask_bits
from bayes_cannon.io.readers.survey_spectra import Segment, SurveySpectra

WAVELENGTH = np.array([5000.0, 5001, 5002, 5003])


def spectra(noise_kind="error", reader="apogee-apstar", name="", n_spectra=1, **changed):
    arrays = {"flux": np.full((n_spectra, 4), 2.0), "noise": np.full((n_spectra, 4), 0.5), "mask": None}
    of_segment = {key: changed.pop(key, value) for key, value in arrays.items()}
    segment = Segment(WAVELENGTH, **of_segment, name=name, covariance=changed.pop("covariance", None))
    given = {"velocity": np.zeros(n_spectra), "which": ["combined"] * n_spectra, "frame": "heliocentric"} | changed
    return SurveySpectra(reader, [segment], {"ID": [f"S{k}" for k in range(n_spectra)]}, noise_kind, **given)


def ivar(**kwargs):
    options = {key: kwargs.pop(key) for key in ("mask_bits", "velocity", "medium") if key in kwargs}
    return decode(spectra(**kwargs), **options).segments[0].ivar.tolist()


@pytest.mark.parametrize(
    ("kind", "noise", "expected"),
    [
        ("ivar", [4, 0, -1, np.nan], [4, 0, 0, 0]),
        ("ivar", [np.inf, 1e-30, 1e10, 2], [0, 1e-30, 1e10, 2]),
        ("error", [0.5, 0, -1, np.nan], [4, 0, 0, 0]),
        ("error", [NO_DATA_ERROR, 9e9, np.inf, 1e-18], [0, 1 / 81e18, 0, 1e36]),
        ("relative error", [0.25, 0, -1, np.nan], [4, 0, 0, 0]),
    ],
)
def test_noise(kind, noise, expected):
    np.testing.assert_allclose(ivar(noise_kind=kind, noise=np.array([noise]))[0], expected, rtol=1e-15)


def test_relative_errors_are_those_of_the_size_of_the_flux():
    flux, noise = np.array([[2.0, -2, 0, np.nan]]), np.full((1, 4), 0.25)
    assert ivar(noise_kind="relative error", flux=flux, noise=noise, reader="galah") == [[4, 4, 0, 0]]


def test_flux_that_is_not_there():
    """Zero is a gap in the files of surveys, and a flux in those of others."""
    flux = np.array([[0, np.nan, np.inf, -1]], dtype=np.float32)
    assert ivar(flux=flux) == [[0, 0, 0, 4]]
    assert ivar(flux=flux, reader="wcs1d-fits") == [[4, 0, 0, 4]]
    [segment] = decode(spectra(flux=flux)).segments
    assert segment.flux.dtype == segment.ivar.dtype == float
    assert segment.flux.tolist() == [[0, 0, 0, -1]]


@pytest.mark.parametrize(
    ("reader", "name", "dtype", "mask", "bad"),
    [
        ("apogee-apstar", "", ">i4", [1 << 12, 1 << 14, 1 << 13, 1 << 9], [1, 1, 0, 0]),
        ("apogee-apstar", "", ">i2", [-32768, -32767, 1 << 14, 1 << 10], [0, 1, 1, 0]),
        ("apogee-apvisit", "b", ">i2", [1, 128, 256, 0], [1, 1, 0, 0]),
        ("sdss-spec", "", ">i4", [1 << 23, 1 << 28, 1 << 16, 1 << 20], [1, 1, 0, 0]),
        ("sdss-mwmvisit", "APOGEE", "i8", [128, 1 << 14, 1 << 23, 0], [1, 1, 0, 0]),
        ("sdss-mwmvisit", "BOSS", "u8", [1 << 7, 1 << 14, 1 << 23, 0], [0, 0, 1, 0]),
        ("lamost-low", "", "i8", [1, 32, 64, 0], [1, 1, 0, 0]),
        ("desi-coadd", "b", "u4", [1, 1 << 10, 1 << 11, 0], [1, 1, 0, 0]),
        ("wcs1d-fits", "", "u1", [1, 128, 0, 0], [1, 1, 0, 0]),
    ],
)
def test_default_bad_bits(reader, name, dtype, mask, bad):
    """Bit 15 of a mask of 16 bits is its sign."""
    assert ivar(reader=reader, name=name, mask=np.array([mask], dtype)) == [np.where(bad, 0, 4).tolist()]


def test_bits_by_name():
    mask = np.array([[1, 2, 1 << 13, 0]])
    assert ivar(mask=mask, mask_bits=["CRPIX", "SIG_TELLURIC"]) == [[4, 0, 0, 4]]
    assert ivar(mask=mask, mask_bits=()) == [[4, 4, 4, 4]]
    assert ivar(mask=mask, mask_bits={"APOGEE_PIXMASK": ["CRPIX"]}) == [[4, 0, 4, 4]]
    assert ivar(mask=mask, mask_bits={"SPPIXMASK": ["NODATA"]}) == [[0, 0, 4, 4]]
    decoded = decode(spectra(mask=mask), mask_bits=["CRPIX", "SIG_TELLURIC"])
    assert decoded.decisions["mask_bits"] == "APOGEE_PIXMASK: CRPIX, SIG_TELLURIC"


@pytest.mark.parametrize(
    ("given", "of_spectra", "said"),
    [
        (["CRPX"], {}, "APOGEE_PIXMASK has no bit 'CRPX'; did you mean CRPIX"),
        (["q"], {}, "has no bit 'q'; there are BADPIX, CRPIX"),
        ("BADPIX", {}, r"expected 'default' or a list of names, such as \['BADPIX'\]"),
        ({"SPPIXMAKS": ["NODATA"]}, {}, "there is no mask 'SPPIXMAKS'; did you mean SPPIXMASK"),
        (["BADPIX"], {"mask": None}, "'S0' .* has no mask: leave out the mask bits BADPIX"),
        (["BADPIX"], {"reader": "table-fits"}, "have no names: leave out BADPIX"),
    ],
)
def test_bits_that_do_not_exist(given, of_spectra, said):
    with pytest.raises(ValueError, match=said):
        decode(spectra(**{"mask": np.zeros((1, 4), int)} | of_spectra), mask_bits=given)


def test_a_mask_without_names_can_be_left_out():
    assert ivar(reader="table-fits", mask=np.array([[1, 0, 0, 1]]), mask_bits=[]) == [[4, 4, 4, 4]]


def test_tables_of_bits():
    for mask in mask_bits.MASKS.values():
        assert set(mask.bad) <= set(mask.bits)
        assert len(set(mask.bits.values())) == len(mask.bits)
    assert [mask_bits.APOGEE.bits[name] for name in mask_bits.APOGEE.bad] == [*range(8), 12, 14]
    assert mask_bits.SDSS.bits["BRIGHTSKY"] == 23


def test_velocity_becomes_a_doppler_factor():
    """A line at 5000 Angstrom of a star that recedes with 30 km/s is seen at 5000.5003."""
    decoded = decode(spectra(velocity=np.array([30.0])))
    assert 5000.5003461427 / decoded.doppler[0] == pytest.approx(5000, abs=1e-9)
    assert decode(spectra(velocity=np.array([30.0])), velocity="none").doppler.tolist() == [1]
    assert decode(spectra(velocity=np.array([30.0])), velocity=np.array([-LIGHT / 2])).doppler.tolist() == [0.5]
    assert decode(spectra(velocity=np.array([2 * LIGHT]))).doppler.tolist() == [3]


def test_spectra_at_rest_are_left():
    at_rest = spectra(frame="rest", velocity=np.array([0.0]), columns={"VHELIO": [30.0]})
    assert decode(at_rest).doppler.tolist() == [1]
    assert decode(at_rest).decisions["velocity"] == "at rest in the file"


def test_the_frame_is_rest_where_a_velocity_was_used():
    of_star = spectra(frame="barycentric", velocity=np.array([30.0]))
    assert decode(of_star).decisions["frame"] == "rest"
    assert decode(of_star, velocity=np.array([0.0])).decisions["frame"] == "rest"
    assert decode(of_star, velocity="none").decisions["frame"] == "barycentric"
    assert decode(spectra(frame=None, velocity=np.array([30.0])), velocity="none").decisions["frame"] == "not known"
    assert decode(spectra(frame="rest", velocity=np.array([0.0])), velocity="none").decisions["frame"] == "rest"


def test_a_velocity_that_is_not_known_is_the_outcome_of_that_spectrum_alone():
    decoded = decode(spectra(n_spectra=3, velocity=np.array([0.0, np.nan, -30])))
    assert np.isnan(decoded.doppler).tolist() == [False, True, False]
    assert (decoded.segments[0].ivar == 4).all()


@pytest.mark.parametrize(
    ("velocity", "said"),
    [
        ("RV", "velocity is 'RV': expected 'header', 'none' or a number"),
        (np.zeros(2), r"velocity has shape \(2,\): expected \(1,\)"),
        (3.0, r"velocity has shape \(\): expected \(1,\)"),
        (np.array([-4e5]), "the velocity of 'S0' .* is -400000.0 km/s: expected a number above -c"),
        (np.array([np.inf]), "is inf km/s"),
    ],
)
def test_velocities_that_are_none(velocity, said):
    with pytest.raises(ValueError, match=said):
        decode(spectra(), velocity=velocity)


def test_medium():
    assert decode(spectra()).medium is None
    assert decode(spectra(), medium="air").medium == "air"
    decoded = decode(spectra(medium="vacuum"))
    assert (decoded.medium, decoded.decisions["medium"]) == ("vacuum", "vacuum")
    assert decode(spectra(medium="air"), medium="air").medium == "air"
    with pytest.raises(ValueError, match=r"'S0' .* has vacuum wavelengths: medium='air' contradicts"):
        decode(spectra(medium="vacuum"), medium="air")


def test_nothing_of_the_source_is_changed():
    source = spectra(
        flux=np.array([[np.nan, 0, 1, 2]]), noise=np.array([[0.0, 1, 1, 1]]), mask=np.array([[1, 0, 0, 0]], ">i2"),
        covariance=np.eye(4, dtype=np.float32)[None],
    )  # fmt: skip
    [segment] = source.segments
    before = [np.array(values) for values in (segment.flux, segment.noise, segment.mask, segment.wavelength)]
    for values in (segment.flux, segment.noise, segment.mask, segment.wavelength):
        values.setflags(write=False)
    decoded = decode(source)
    assert decoded.source is source
    np.testing.assert_array_equal(decoded.segments[0].covariance, np.eye(4)[None])
    for values, was in zip((segment.flux, segment.noise, segment.mask, segment.wavelength), before, strict=True):
        np.testing.assert_array_equal(values, was)


def test_every_segment_keeps_its_name_and_grid():
    a, b = Segment(WAVELENGTH, np.ones((1, 4)), np.ones((1, 4)), name="b", log_linear=True), spectra().segments[0]
    both = SurveySpectra("desi-coadd", [a, b], {"TARGETID": ["1"]}, "ivar", np.zeros(1), ["combined"])
    decoded = decode(both)
    assert [(s.name, s.log_linear) for s in decoded.segments] == [("b", True), ("", False)]
    assert decoded.decisions == {
        "mask_bits": "no mask", "noise": "ivar from ivar, 0 where there is none", "velocity": "of the file",
        "medium": "not known", "frame": "rest",
    }  # fmt: skip


def test_wholly_masked_spectra_pass():
    assert ivar(mask=np.ones((1, 4), int)) == [[0, 0, 0, 0]]
