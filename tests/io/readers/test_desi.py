"""DESI coadds: three arms, with fibres on the sky and on nothing."""

import numpy as np
import pytest
from astropy.io import fits

from bayes_cannon.io.readers.desi import COADD

TARGETS = np.array([-2713437, 39627866878511337, 616088619186127404])
ARMS = {"B": np.arange(3600, 3608, 0.8), "R": np.arange(5760, 5769, 0.8), "Z": np.arange(7520, 7532, 0.8)}
RNG = np.random.default_rng(0)
DATA = {arm: RNG.normal(1, 0.1, (3, 3, grid.size)).astype("f4") for arm, grid in ARMS.items()}


def write(path, *, masks=True, scored=TARGETS, fibermap=("TARGETID", "COADD_FIBERSTATUS", "OBJTYPE")):
    columns = {
        "TARGETID": fits.Column("TARGETID", "K", array=TARGETS),
        "COADD_FIBERSTATUS": fits.Column("COADD_FIBERSTATUS", "J", array=[1033, 0, 520]),
        "OBJTYPE": fits.Column("OBJTYPE", "3A", array=["", "TGT", "SKY"]),
    }
    columns = [columns[name] for name in fibermap]
    columns += [fits.Column("TARGET_RA", "D", unit="deg", array=[1.0, 2.0, 3.0])]
    columns += [fits.Column("COLOURS", "2E", array=np.ones((3, 2)))]
    hdus = [fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns, name="FIBERMAP")]
    unit = fits.Header({"BUNIT": "10**-17 erg/(s cm2 Angstrom)"})
    for arm, grid in ARMS.items():
        flux, ivar, resolution = DATA[arm]
        hdus += [fits.ImageHDU(grid, name=f"{arm}_WAVELENGTH"), fits.ImageHDU(flux, unit, name=f"{arm}_FLUX")]
        hdus += [fits.ImageHDU(ivar, name=f"{arm}_IVAR"), fits.ImageHDU(resolution, name=f"{arm}_RESOLUTION")]
        if masks:
            hdus.append(fits.ImageHDU((flux > 1).astype("u4") * 2**31, name=f"{arm}_MASK"))
    scores = [fits.Column("TARGETID", "K", array=scored), fits.Column("MEDIAN_COADD_SNR_B", "E", array=[0, 9, 1])]
    hdus.append(fits.BinTableHDU.from_columns(scores, name="SCORES"))
    fits.HDUList(hdus).writeto(path)
    return path


def test_coadd(tmp_path):
    path = write(tmp_path / "coadd.fits")
    assert COADD.recognizes(path)
    (spectra,) = COADD.read(path)
    assert [segment.name for segment in spectra.segments] == ["B", "R", "Z"]
    for segment in spectra.segments:
        flux, ivar, _ = DATA[segment.name]
        np.testing.assert_array_equal(segment.wavelength, ARMS[segment.name])
        np.testing.assert_array_equal(segment.flux, flux)
        np.testing.assert_array_equal(segment.noise, ivar)
        np.testing.assert_array_equal(segment.mask, (flux > 1) * 2**31)
    assert list(spectra.star_id) == ["-2713437", "39627866878511337", "616088619186127404"]
    assert list(spectra.columns["NOT_A_TARGET"]) == [1, 0, 1]
    assert list(spectra.columns["MEDIAN_COADD_SNR_B"]) == [0, 9, 1]
    assert list(spectra.columns["OBJTYPE"]) == ["", "TGT", "SKY"]
    assert "COLOURS" not in spectra.columns
    assert spectra.units == {"TARGET_RA": "deg"}
    assert (spectra.medium, spectra.frame, spectra.noise_kind) == ("vacuum", "barycentric", "ivar")
    assert spectra.flux_unit == "10**-17 erg/(s cm2 Angstrom)"
    assert np.isnan(spectra.velocity).all()
    assert (spectra.which == "combined").all()


def test_without_masks(tmp_path):
    (spectra,) = COADD.read(write(tmp_path / "coadd.fits", masks=False))
    assert all(segment.mask is None for segment in spectra.segments)


def test_other_files(tmp_path):
    assert not COADD.recognizes(write(tmp_path / "exposures.fits", fibermap=("TARGETID", "OBJTYPE")))
    with pytest.raises(ValueError, match=r"mixed\.fits: the tables FIBERMAP and SCORES do not name the same fibres"):
        COADD.read(write(tmp_path / "mixed.fits", scored=TARGETS[::-1]))
    (tmp_path / "notes.txt").write_text("no FITS file")
    assert not COADD.recognizes(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match=r"notes\.txt"):
        COADD.read(tmp_path / "notes.txt")


@pytest.mark.shared
def test_real_coadd(shared):
    path = shared("data/survey_files/coadd-sv3-dark-26065.fits")
    assert COADD.recognizes(path)
    (spectra,) = COADD.read(path)
    assert [s.flux.shape for s in spectra.segments] == [(5, 2751), (5, 2326), (5, 2881)]
    assert list(spectra.star_id[:3]) == ["-2713437", "-2713415", "39627866878511337"]
    assert list(spectra.columns["NOT_A_TARGET"]) == [1, 1, 0, 1, 0]
    np.testing.assert_allclose(spectra.columns["MEDIAN_COADD_SNR_Z"], [0, 0, 2.64658, 0, 1.824365], rtol=1e-6)
    assert [int((s.noise > 0).sum()) for s in spectra.segments] == [5502, 4636, 5743]
    with fits.open(path) as hdus:
        np.testing.assert_array_equal(spectra.segments[2].mask, hdus["Z_MASK"].data)
        np.testing.assert_array_equal(spectra.segments[1].wavelength, hdus["R_WAVELENGTH"].data)
