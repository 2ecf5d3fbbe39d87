"""Spec files of SDSS and BOSS against what Astropy reads of them."""

import numpy as np
import pytest
from astropy.io import fits

from bayes_cannon.io.decoding import LIGHT, decode
from bayes_cannon.io.readers.sdss_spec import SPEC

LITE = "data/survey_files/spec-0266-51602-0031.fits"
FULL = "data/survey_files/spec-3586-55181-0220.fits"


@pytest.fixture
def spec(tmp_path):
    """A spec file of 5 pixels."""

    def write(row=(("SPECOBJID", "22A", "1"), ("Z", "E", 1e-4)), *, n_rows=1, **cards):
        loglam = 3.58 + 1e-4 * np.arange(5)
        columns = [
            fits.Column("FLUX", "E", array=np.ones(5)), fits.Column("LOGLAM", "E", array=loglam),
            fits.Column("IVAR", "E", array=[1, 0, 4, 4, 4]),
            fits.Column("AND_MASK", "J", array=[0, 0, 1 << 23, 1 << 16, 0]),
            fits.Column("OR_MASK", "J", array=[-1] * 5),
        ]  # fmt: skip
        about = [fits.Column(name, form, array=[value] * n_rows) for name, form, value in row]
        tables = [fits.BinTableHDU.from_columns(table) for table in (columns, about) if table]
        path = tmp_path / "spec.fits"
        header = fits.Header({"PLATEID": 266, "MJD": 51602, "FIBERID": 31} | cards)
        fits.HDUList([fits.PrimaryHDU(header=header), *tables]).writeto(path, overwrite=True)
        return path

    return write


@pytest.mark.shared
def test_lite(shared):
    path = shared(LITE)
    assert SPEC.recognizes(path)
    [spectra] = SPEC.read(path)
    with fits.open(path) as hdus:
        coadd, about = hdus[1].data, hdus[2].data
        [segment] = spectra.segments
        for values, name in ((segment.flux, "flux"), (segment.noise, "ivar"), (segment.mask, "and_mask")):
            np.testing.assert_array_equal(values, coadd[name][None])
        loglam = coadd["loglam"]
        assert spectra.velocity[0] == pytest.approx(299792.458 * float(about["Z"][0]), rel=1e-12)
        assert spectra.columns["ELODIE_TEFF"].tolist() == about["ELODIE_TEFF"].tolist() == [9000]
        # COEFF0 of the header is 13 pixels, 900 km/s, off.
        assert np.log10(segment.wavelength[0]) - hdus[0].header["COEFF0"] == pytest.approx(13e-4, abs=2e-7)
    np.testing.assert_allclose(np.log10(segment.wavelength), loglam, rtol=1e-12)
    assert {key: values[0] for key, values in spectra.identifiers.items()} == {
        "SPECOBJID": "299497923312379904", "BESTOBJID": "1237648721216405598", "FILE": path.name, "PLATE": "266",
        "MJD": "51602", "FIBERID": "31",
    }  # fmt: skip
    assert (spectra.which[0], spectra.medium, spectra.frame) == ("combined", "vacuum", "heliocentric")
    assert spectra.flux_unit == "1e-17 erg / (Angstrom s cm2)"
    assert segment.log_linear


@pytest.mark.shared
def test_default_mask_of_lite(shared):
    path = shared(LITE)
    [segment] = decode(SPEC.read(path)[0]).segments
    coadd = fits.getdata(path, 1)
    bad = (coadd["and_mask"] & (1 << 23 | 1 << 27)) != 0  # The others that are set there are 16 and 20.
    np.testing.assert_array_equal(segment.ivar[0], np.where(bad, 0, coadd["ivar"]))
    assert bad.any()


@pytest.mark.shared
def test_full_file_has_its_exposures(shared):
    path = shared(FULL)
    combined, *exposures = SPEC.read(path)
    assert combined.star_id.tolist() == ["4037537626000957440"]
    assert combined.identifiers["THING_ID"].tolist() == ["80010542"]
    assert [record.which.tolist() for record in exposures] == [[f"visit {k}"] for k in range(1, 8)]
    assert all(record.velocity == combined.velocity for record in exposures)
    assert "SN_MEDIAN_ALL" in combined.columns
    assert "SN_MEDIAN_ALL" not in exposures[0].columns
    with fits.open(path) as hdus:
        for name, segment in (("B1-00104929-00104934-00104935", 0), ("R1-00104929-00104934-00104935", 1)):
            found = exposures[2].segments[segment]
            assert found.name == name[:2].lower()
            np.testing.assert_array_equal(found.flux[0], hdus[name].data["flux"])
            np.testing.assert_array_equal(found.mask[0], hdus[name].data["mask"])
            np.testing.assert_allclose(found.wavelength, 10 ** hdus[name].data["loglam"].astype(float), rtol=1e-12)


def test_without_a_redshift_the_velocity_is_not_known(spec):
    for path in (spec(row=()), spec(row=[("SPECOBJID", "22A", "1")])):
        assert np.isnan(SPEC.read(path)[0].velocity).all()
    [spectra] = SPEC.read(spec())
    assert decode(spectra).doppler[0] == pytest.approx(1 + 1e-4, rel=1e-10)
    assert spectra.velocity[0] == pytest.approx(1e-4 * LIGHT, rel=1e-6)


def test_what_names_the_star(spec):
    assert SPEC.read(spec())[0].star_id.tolist() == ["1"]
    both = [("SPECOBJID", "22A", "1"), ("SDSS_ID", "K", 7)]
    assert SPEC.read(spec(row=both))[0].star_id.tolist() == ["7"]
    [nameless] = SPEC.read(spec(row=()))
    assert {key: values[0] for key, values in nameless.identifiers.items()} == {
        "FILE": "spec.fits", "PLATE": "266", "MJD": "51602", "FIBERID": "31",
    }  # fmt: skip


def test_air_is_told_by_the_header(spec):
    assert SPEC.read(spec(VACUUM=False))[0].medium == "air"


def test_the_or_mask_is_left_alone(spec):
    [segment] = decode(SPEC.read(spec())[0]).segments
    assert segment.ivar.tolist() == [[1, 0, 0, 4, 4]]


def test_several_objects_are_refused(spec):
    with pytest.raises(ValueError, match=r"spec\.fits: HDU 2 has 2 rows: expected one"):
        SPEC.read(spec(n_rows=2))
