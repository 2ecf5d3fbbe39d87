"""Files that hold the detectors of one observation are one row on a grid, when they are read and when ingested."""

import numpy as np
import pytest
from astropy.io import fits

import bayes_cannon as tc
from bayes_cannon.io import unfinished_store
from bayes_cannon.io.gridding import find_grid
from bayes_cannon.io.ingestion import ingest
from bayes_cannon.io.readers.galah import CCD
from bayes_cannon.io.survey_files import FileSettings, grouped, read_spectra

N = 40
FIRST = {1: 4714.0, 2: 5648.0, 3: 6478.0, 4: 7585.0}
STARS = ("210115000101001", "210115000101002", "210115000101003")
WAVELENGTH = np.concatenate([first + 0.5 * np.arange(2, 38) for first in FIRST.values()])
"""Pixels of all four CCDs."""


def write(folder, star, ccd, level):
    """One CCD by the data model of release 4, of constant flux."""
    header = fits.Header({"CRVAL1": FIRST[ccd], "CDELT1": 0.5, "CRPIX1": 1, "RVCOM": 0.0, "SNR": 10.0 + ccd})
    hdus = [fits.PrimaryHDU(np.full(N, level), header), fits.ImageHDU(np.full(N, 0.1), header, name="relative_error")]
    fits.HDUList(hdus).writeto(folder / f"{star}{ccd}.fits")


@pytest.fixture
def folder(tmp_path):
    """Three stars of four CCDs; the files are not in the order of the stars, and the last star has two CCDs."""
    place = tmp_path / "files"
    place.mkdir()
    for k, star in enumerate(STARS):
        for ccd in (1, 2, 3, 4) if k < 2 else (2, 4):
            write(place, star, ccd, 100.0 * (k + 1) + ccd)
    return place


def files(folder):
    """CCD by CCD."""
    return sorted(folder.iterdir(), key=lambda path: (path.name[15], path.name))


def settings():
    return FileSettings(grid=find_grid(WAVELENGTH))


def test_the_rule_of_galah(tmp_path):
    assert CCD.group(tmp_path / "2101150001010012.fits") == CCD.group(tmp_path / "2101150001010014.fits")
    assert CCD.group(tmp_path / "2101150001010012.fits") != CCD.group(tmp_path / "2101150001010022.fits")
    for name in ("2101150001010015.fits", "2101150001010012.nc", "210115000101001_allstar_fit_spectrum.fits", "a.fits"):
        assert CCD.group(tmp_path / name) is None


def test_groups_are_in_the_place_of_their_first_file_and_stay_when_taken_again(folder):
    groups = grouped(files(folder), settings())
    assert [[path.name[:16] for path in group] for group in groups] == [
        [f"{star}{ccd}" for ccd in ccds] for star, ccds in zip(STARS, [(1, 2, 3, 4), (1, 2, 3, 4), (2, 4)], strict=True)
    ]
    flat = [path for group in groups for path in group]
    assert grouped(flat, settings()) == groups
    assert grouped(flat[4:], settings()) == groups[1:]
    assert grouped(flat, FileSettings(survey="apogee-apstar", grid=settings().grid)) == [(path,) for path in flat]
    assert grouped(flat, FileSettings()) == [(path,) for path in flat]


def test_the_ccds_of_a_star_are_one_row(folder):
    read = read_spectra(files(folder), grid=WAVELENGTH)
    assert read.ids.tolist() == list(STARS)
    levels = np.array([[100.0 * (k + 1) + ccd for ccd in FIRST for _ in range(36)] for k in range(3)])
    levels[2, :36] = levels[2, 72:108] = 0
    inner = (np.arange(144) % 36 > 2) & (np.arange(144) % 36 < 33)
    np.testing.assert_allclose(read.flux[:, inner], levels[:, inner], rtol=1e-12)
    np.testing.assert_array_equal(read.ivar[:, inner] > 0, levels[:, inner] > 0)
    assert read.labels["SNR_CCD2"].tolist() == [12, 12, 12]
    np.testing.assert_array_equal(read.labels["SNR_CCD1"], [11, 11, np.nan])
    assert read.identifiers["FILE"][2] == f"{STARS[2]}2.fits, {STARS[2]}4.fits"


def test_without_a_grid_each_ccd_is_a_row(folder):
    read = read_spectra([folder / f"{star}2.fits" for star in STARS])
    assert read.ids.tolist() == list(STARS)
    assert read.labels["SNR"].tolist() == [12, 12, 12]


def test_another_format_under_such_names_is_read_file_by_file(tmp_path, write_apstar):
    for ccd in (1, 2):
        write_apstar(tmp_path / f"{STARS[0]}{ccd}.fits", star=f"star {ccd}")
    assert read_spectra(tmp_path, grid=(15102.0, 15110.0, 1.0)).ids.tolist() == ["star 1", "star 2"]


def test_a_ccd_that_is_there_twice_is_told(folder):
    (folder / "again").mkdir()
    write(folder / "again", STARS[0], 1, 1.0)
    with pytest.raises(ValueError, match=rf"{STARS[0]}1\.fits: segment 'CCD1' of the combined spectrum of {STARS[0]} "):
        read_spectra(folder, grid=WAVELENGTH)


def test_ingested_they_are_the_same_rows_and_a_star_with_a_damaged_file_is_refused(tmp_path, folder):
    pytest.importorskip("zarr")
    damaged = folder / f"{STARS[1]}3.fits"
    damaged.write_bytes(damaged.read_bytes()[:4000])
    for workers in (1, 2):
        store = tmp_path / f"{workers}.zarr"
        done = ingest(files(folder), store, settings=settings(), workers=workers)
        assert (done.n_files, done.n_stars) == (10, 2)
        assert set(done.refused) == {str(folder / f"{STARS[1]}{ccd}.fits") for ccd in (1, 2, 3, 4)}
        assert all(str(damaged) in said for said in done.refused.values())
        stored = tc.io.read_spectra(store)
        good = [path for path in files(folder) if not path.name.startswith(STARS[1])]
        direct = read_spectra(good, grid=WAVELENGTH)
        assert stored.ids.tolist() == direct.ids.tolist()
        np.testing.assert_array_equal(stored.flux, direct.flux.astype(np.float32))


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_broken_run_goes_on_to_the_same_rows(tmp_path, folder, monkeypatch, after):
    pytest.importorskip("zarr")
    options = {"settings": settings(), "shard_size": 1}
    ingest(files(folder), tmp_path / "whole.zarr", **options)
    write, written = unfinished_store.UnfinishedStore.write, []

    def some(self, *given):
        if len(written) == after:
            raise KeyboardInterrupt
        written.append(given)
        write(self, *given)

    monkeypatch.setattr(unfinished_store.UnfinishedStore, "write", some)
    with pytest.raises(KeyboardInterrupt):
        ingest(files(folder), tmp_path / "s.zarr", **options)
    monkeypatch.undo()
    counts = []
    ingest(files(folder), tmp_path / "s.zarr", progress=counts.append, **options)
    assert sum(counts) == 10
    whole, again = tc.io.read_spectra(tmp_path / "whole.zarr"), tc.io.read_spectra(tmp_path / "s.zarr")
    assert again.ids.tolist() == whole.ids.tolist() == list(STARS)
    np.testing.assert_array_equal(again.flux, whole.flux)
