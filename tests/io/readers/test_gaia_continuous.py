"""Gaia XP coefficients: our algebra on a made-up map, and the map of gaiaxpy against its own conversion."""

import sys

import numpy as np
import pytest
from astropy.table import Table

import bayes_cannon as tc
from bayes_cannon.io.readers import gaia_continuous
from bayes_cannon.io.readers.gaia import RVS, XP_SAMPLED
from bayes_cannon.io.readers.gaia_continuous import BANDS, XP_CONTINUOUS, Coefficients, Sampling, sampled
from bayes_cannon.io.survey_files import FileSettings

SOURCES = np.array([4594961454434214144, 30343944744320, 6344493361434378624])


def made_up_sampling():
    """Seven samples; BP has four coefficients and sees the first five of them, RP three and the last four."""
    rng = np.random.default_rng(1)
    weight = np.array([1, 1, 1, 0.7, 0.2, 0, 0])
    return Sampling(
        wavelength=4000 + 20.0 * np.arange(7),
        basis={"bp": rng.normal(size=(7, 4)), "rp": rng.normal(size=(7, 3))},
        weight={"bp": weight, "rp": 1 - weight},
        sees={"bp": np.arange(7) < 5, "rp": np.arange(7) > 2},
    )


def coefficient_table(sampling, n_stars=3, seed=2):
    """A table as the archive's; correlations are those of a positive definite matrix."""
    rng = np.random.default_rng(seed)
    table = Table({"source_id": SOURCES[np.arange(n_stars) % 3], "ra": 10.0 * np.arange(n_stars)})
    for band in BANDS:
        n = sampling.basis[band].shape[1]
        factors = rng.normal(size=(n_stars, n, 3 * n))
        covariance = factors @ factors.transpose(0, 2, 1)
        error = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
        correlation = covariance / error[:, :, None] / error[:, None, :]
        table[f"{band}_n_parameters"] = np.full(n_stars, n)
        table[f"{band}_standard_deviation"] = rng.uniform(0.8, 1.5, n_stars)
        table[f"{band}_coefficients"] = rng.normal(0, 100, (n_stars, n))
        table[f"{band}_coefficient_errors"] = error
        table[f"{band}_coefficient_correlations"] = correlation[:, *np.tril_indices(n, -1)]
    return table


def by_hand(table, sampling, star, bands=BANDS):
    """Flux and covariance of one star, the correlation matrix filled element by element."""
    flux, covariance = 0, 0
    for band in bands:
        n = sampling.basis[band].shape[1]
        correlation = np.eye(n)
        numbers = iter(table[f"{band}_coefficient_correlations"][star])
        for i in range(n):
            for j in range(i):
                correlation[i, j] = correlation[j, i] = next(numbers)
        error = np.diag(table[f"{band}_coefficient_errors"][star])
        share = np.where(sampling.sees[band], 1, np.nan) if len(bands) == 1 else sampling.weight[band]
        matrix = np.diag(share) @ sampling.basis[band] if len(bands) == 2 else share[:, None] * sampling.basis[band]
        flux = flux + matrix @ table[f"{band}_coefficients"][star]
        covariance = covariance + matrix @ error @ correlation @ error @ matrix.T
    return flux, covariance


@pytest.fixture
def made_up(monkeypatch):
    sampling = made_up_sampling()
    monkeypatch.setattr(gaia_continuous, "archive_sampling", lambda: sampling)
    return sampling


def write_csv(path, table, *, missing=()):
    """As the archive writes it: arrays are texts; ``missing`` names (row, photometer) without values."""
    lines = [",".join(table.colnames)]
    for k, row in enumerate(table):
        cells = [f'"({", ".join(map(str, map(float, cell)))})"' if np.ndim(cell) else str(cell) for cell in row]
        lost = [name.startswith(band) for name in table.colnames for star, band in missing if star == k]
        lines.append(
            ",".join("null" if bad else cell for bad, cell in zip(lost or [False] * len(cells), cells, strict=True))
        )
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("format", ["csv", "ascii.ecsv", "fits", "votable"])
def test_flux_is_linear_in_the_coefficients(tmp_path, made_up, format):  # noqa: A002
    table = coefficient_table(made_up)
    path = tmp_path / "xp.dat"
    write_csv(path, table) if format == "csv" else table.write(path, format=format)
    assert XP_CONTINUOUS.recognizes(path)
    assert not XP_SAMPLED.recognizes(path)
    assert not RVS.recognizes(path)
    (spectra,) = XP_CONTINUOUS.read(path, covariance=True)
    (segment,) = spectra.segments
    for star in range(3):
        flux, covariance = by_hand(table, made_up, star)
        np.testing.assert_allclose(segment.flux[star], flux, rtol=1e-12)
        np.testing.assert_allclose(segment.covariance[star], covariance, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(segment.noise[star] ** 2, np.diag(covariance), rtol=1e-12)
    np.testing.assert_array_equal(segment.wavelength, made_up.wavelength)
    assert list(spectra.star_id) == [str(source) for source in SOURCES]
    np.testing.assert_array_equal(spectra.columns["ra"], [0, 10, 20])
    assert (spectra.medium, spectra.frame, spectra.noise_kind) == ("vacuum", None, "error")
    assert XP_CONTINUOUS.read(path)[0].segments[0].covariance is None


def test_a_missing_photometer(tmp_path, made_up):
    """The other gives the flux alone, unweighted, and NaN where it does not see."""
    table = coefficient_table(made_up)
    path = write_csv(tmp_path / "xp.csv", table, missing=[(0, "bp"), (2, "rp")])
    segment = XP_CONTINUOUS.read(path, covariance=True)[0].segments[0]
    for star, bands in ((0, ("rp",)), (1, BANDS), (2, ("bp",))):
        flux, covariance = by_hand(table, made_up, star, bands)
        np.testing.assert_allclose(segment.flux[star], flux, rtol=1e-12)
        np.testing.assert_allclose(segment.covariance[star], covariance, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(segment.noise[star], np.sqrt(np.diag(covariance)), rtol=1e-12)
    assert np.isnan(segment.flux[0, :3]).all()
    path = write_csv(tmp_path / "all.csv", table, missing=[(0, "bp"), (1, "bp"), (2, "bp")])
    alone = XP_CONTINUOUS.read(path)[0].segments[0]
    np.testing.assert_array_equal(alone.flux[0], segment.flux[0])


def test_more_stars_than_are_held_at_once():
    sampling = made_up_sampling()
    table = coefficient_table(sampling, n_stars=300)
    arrays = ("coefficients", "coefficient_errors", "coefficient_correlations")
    coefficients = {band: Coefficients(*(np.array(table[f"{band}_{what}"]) for what in arrays)) for band in BANDS}
    flux, error, _ = sampled(coefficients, sampling)
    for star in (0, 127, 128, 299):
        expected, covariance = by_hand(table, sampling, star)
        np.testing.assert_allclose(flux[star], expected, rtol=1e-12)
        np.testing.assert_allclose(error[star], np.sqrt(np.diag(covariance)), rtol=1e-12)


def test_correlation_of_the_noise(tmp_path, made_up, monkeypatch):
    """By `read_spectra`, as the mean of what the formula gives for each star, and the same from a store."""
    monkeypatch.setattr("bayes_cannon.io.readers.registry.find_spec", lambda name: True)
    table = coefficient_table(made_up)
    path = write_csv(tmp_path / "xp.csv", table)
    assert tc.io.read_spectra(path).noise_correlation is None
    spectra = tc.io.read_spectra(path, covariance=True)
    expected = np.zeros((7, 7))
    for star in range(3):
        covariance = by_hand(table, made_up, star)[1]
        error = np.sqrt(np.diag(covariance))
        expected += covariance / np.outer(error, error) / 3
    np.testing.assert_allclose(spectra.noise_correlation, expected, rtol=1e-12, atol=1e-12)
    pytest.importorskip("zarr")
    tc.io.ingest(path, tmp_path / "xp.zarr", settings=FileSettings(covariance=True))
    stored = tc.io.read_spectra(tmp_path / "xp.zarr")
    np.testing.assert_allclose(stored.noise_correlation, spectra.noise_correlation, rtol=1e-14, atol=1e-15)


def test_faulty_files_are_named(tmp_path, made_up):
    table = coefficient_table(made_up)
    table["bp_coefficients"] = np.ones((3, 5))
    path = write_csv(tmp_path / "xp.csv", table)
    with pytest.raises(
        ValueError, match=r"xp\.csv: 5 numbers a spectrum where gaiaxpy has 4: is it of another data rel"
    ):
        XP_CONTINUOUS.read(path)
    table.remove_column("rp_coefficient_errors")
    with pytest.raises(ValueError, match=r"xp\.csv: there is no column rp_coefficient_errors"):
        XP_CONTINUOUS.read(write_csv(path, table))


def test_without_gaiaxpy_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gaiaxpy", None)
    monkeypatch.setitem(sys.modules, "gaiaxpy.core.config", None)
    gaia_continuous.archive_sampling.cache_clear()
    with pytest.raises(ImportError, match=r"need the package gaiaxpy: install bayes-cannon\[gaia\]"):
        gaia_continuous.archive_sampling()


@pytest.mark.filterwarnings("ignore:The 'float_precision' argument is deprecated")  # of pandas, by gaiaxpy
def test_as_gaiaxpy_converts(tmp_path):
    """Flux and errors of its own conversion to the samples of the archive, with and without one photometer."""
    pytest.importorskip("gaiaxpy", reason="gaiaxpy is not installed", exc_type=ImportError)
    from gaiaxpy import calibrate

    gaia_continuous.archive_sampling.cache_clear()
    sampling = gaia_continuous.archive_sampling()
    np.testing.assert_allclose(sampling.wavelength, XP_SAMPLED.wavelength, rtol=1e-12)
    table = coefficient_table(sampling)
    path = write_csv(tmp_path / "xp.csv", table, missing=[(0, "bp"), (2, "rp")])
    spectra, nanometres = calibrate(str(path), truncation=False, save_file=False)
    (segment,) = XP_CONTINUOUS.read(path)[0].segments
    np.testing.assert_allclose(segment.wavelength, 10 * nanometres)
    # Relative to the largest of the spectrum: sums of 110 terms of both signs may come near zero.
    for ours, theirs in ((segment.flux, spectra["flux"]), (segment.noise, spectra["flux_error"])):
        theirs = np.vstack(theirs)
        np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
        scale = np.nanmax(np.abs(theirs), axis=1, keepdims=True)
        np.testing.assert_allclose(ours / scale, theirs / scale, atol=1e-10, rtol=0)
