"""mwmStar and mwmVisit files made by the data model of Astra."""

import numpy as np
import pytest
from astropy.io import fits

from bayes_cannon.io.decoding import LIGHT, decode
from bayes_cannon.io.readers.mwm import MWMSTAR, MWMVISIT

GRIDS = {"BOSS": (3.5523, 1e-4, 6), "APOGEE": (4.179, 6e-6, 8)}
FLAGS = {"BOSS": [0, 1 << 23, 1 << 27 | 1 << 16, 128], "APOGEE": [0, 1 << 23, 128, 1 << 14]}


def table(instrument, observatory, n_rows, *, star=True, wavelength=True, **columns):
    """One of the HDUs, without rows where there are no spectra."""
    first, step, n_pixels = GRIDS[instrument]
    flags = np.resize(FLAGS[instrument], n_pixels).astype("f4")
    arrays = {
        "flux": np.arange(1, n_rows + 1)[:, None] * np.ones(n_pixels), "ivar": np.full((n_rows, n_pixels), 4.0),
        "pixel_flags": np.tile(flags, (n_rows, 1)), "continuum": np.ones((n_rows, n_pixels)),
    }  # fmt: skip
    if wavelength:
        arrays["wavelength"] = np.tile(10 ** (first + step * np.arange(n_pixels)), (n_rows, 1))
    form = f"{n_pixels}E" if n_rows else "0E"
    made = [
        fits.Column(name, form.replace("E", "D") if name == "wavelength" else form, array=values if n_rows else None)
        for name, values in arrays.items()
        if name not in columns
    ]
    facts = {"sdss_id": ("K", 42), "telescope": ("6A", f"{observatory.lower()}25m"), "snr": ("E", 50.0)}
    facts |= {"min_mjd": ("J", 59800)} if star else {"mjd": ("J", 59800), "in_stack": ("L", True)}
    facts |= {name: (form, values) for name, (form, values) in columns.items()}
    for name, (column_form, value) in facts.items():
        values = value if isinstance(value, list) else [value] * n_rows
        made.append(fits.Column(name, column_form, array=values if n_rows else None))
    cards = {"EXTNAME": f"{instrument}/{observatory}", "CRVAL": first, "CDELT": step, "CRPIX": 1, "NPIXELS": n_pixels}
    return fits.BinTableHDU.from_columns(made, header=fits.Header(cards))


@pytest.fixture
def written(tmp_path):
    def write(*tables, name="mwmStar-0.6.0-42.fits"):
        primary = fits.PrimaryHDU(header=fits.Header({"SDSS_ID": 42, "V_ASTRA": "0.6.0", "GAIA3_ID": 99}))
        fits.HDUList([primary, *tables]).writeto(tmp_path / name, overwrite=True)
        return tmp_path / name

    return write


@pytest.fixture
def star(written):
    return written(
        table("BOSS", "APO", 1, v_rad=("E", 33.0)), table("BOSS", "LCO", 0), table("APOGEE", "APO", 0),
        table("APOGEE", "LCO", 1, obj=("18A", "2M00000000+0000000")),
    )  # fmt: skip


def visits(**columns):
    """Three visits to APO by each instrument, of which the second did not go into the stack."""
    options = {"star": False, "wavelength": False, "in_stack": ("L", [True, False, True])}
    velocity = {"BOSS": ("xcsao_v_rad", [10.0, 20.0, 30.0]), "APOGEE": ("v_rel", [-10.0, -20.0, -30.0])}
    return [
        table(instrument, "APO", 3, **{name: ("E", values)} | options | columns)
        for instrument, (name, values) in velocity.items()
    ]


def test_combined_spectra(star):
    assert MWMSTAR.recognizes(star)
    assert not MWMVISIT.recognizes(star)
    boss, apogee = MWMSTAR.read(star)
    for spectra, telescope in ((boss, "apo25m"), (apogee, "lco25m")):
        assert spectra.which.tolist() == ["combined"]
        assert spectra.star_id.tolist() == ["42"]
        assert next(iter(spectra.identifiers)) == "sdss_id"
        assert spectra.identifiers["telescope"].tolist() == [telescope]
        assert spectra.identifiers["gaia_dr3_source_id"].tolist() == ["99"]
        assert (spectra.medium, spectra.frame, spectra.noise_kind) == ("vacuum", "rest", "ivar")
        assert spectra.columns["snr"].tolist() == [50]
    assert apogee.identifiers["obj"].tolist() == ["2M00000000+0000000"]
    assert boss.columns["v_rad"].tolist() == [33]
    np.testing.assert_allclose(boss.segments[0].wavelength, 10 ** (3.5523 + 1e-4 * np.arange(6)), rtol=1e-14)
    assert decode(boss).doppler.tolist() == [1]


def test_each_instrument_has_its_own_mask_bits(star):
    boss, apogee = MWMSTAR.read(star)
    assert boss.segments[0].mask.dtype.kind == "i"
    assert decode(boss).segments[0].ivar.tolist() == [[4, 0, 0, 4, 4, 0]]
    assert decode(apogee).segments[0].ivar.tolist() == [[4, 4, 0, 0, 4, 4, 0, 0]]


def test_visits_outside_the_stack_are_not_at_rest(written):
    path = written(*visits(), name="mwmVisit.fits")
    assert MWMVISIT.recognizes(path)
    assert not MWMSTAR.recognizes(path)
    boss, boss_outside, apogee, apogee_outside = MWMVISIT.read(path)
    for spectra in (boss, apogee):
        assert spectra.which.tolist() == ["visit 1", "visit 3"]
        assert spectra.frame == "rest"
        assert spectra.segments[0].flux[:, 0].tolist() == [1, 3]
        assert decode(spectra).doppler.tolist() == [1, 1]
    for spectra, frame, velocity in ((boss_outside, "heliocentric", 20), (apogee_outside, "observed", -20)):
        assert spectra.which.tolist() == ["visit 2"]
        assert spectra.frame == frame
        assert decode(spectra).doppler[0] == pytest.approx(1 + velocity / LIGHT, rel=1e-14)
    np.testing.assert_allclose(apogee.segments[0].wavelength, 10 ** (4.179 + 6e-6 * np.arange(8)), rtol=1e-14)


def test_a_velocity_that_is_missing_is_not_known(written):
    columns = {"v_rel": ("E", [1.0, np.nan, 1.0]), "xcsao_v_rad": ("E", [1.0, 2.0, 3.0])}
    outside = MWMVISIT.read(written(*visits(**columns)))[3]
    assert np.isnan(decode(outside).doppler).all()


def test_a_file_without_spectra_is_refused(written):
    path = written(table("BOSS", "APO", 0), table("APOGEE", "APO", 0))
    assert MWMSTAR.recognizes(path)
    with pytest.raises(ValueError, match=r"mwmStar-0\.6\.0-42\.fits: none of its tables has a row"):
        MWMSTAR.read(path)


def test_model_spectra_are_another_kind_of_file(written):
    path = written(table("BOSS", "APO", 1, model_flux=("6E", [np.ones(6)])))
    assert not MWMSTAR.recognizes(path)


def test_mask_bits_must_be_whole_numbers(written):
    path = written(table("APOGEE", "APO", 2, pixel_flags=("8E", [np.zeros(8), np.full(8, 0.5)])))
    with pytest.raises(ValueError, match=r"pixel_flags of APOGEE/APO at \(1, 0\) is 0\.5: expected a whole number"):
        MWMSTAR.read(path)


def test_rows_of_one_table_share_their_wavelengths(written):
    hdu = table("APOGEE", "APO", 2)
    hdu.data["wavelength"][1, 3] += 0.1
    with pytest.raises(ValueError, match="row 1 of APOGEE/APO has other wavelengths than row 0"):
        MWMSTAR.read(written(hdu))
