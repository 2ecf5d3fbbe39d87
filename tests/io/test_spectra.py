"""Spectra in files: an exact round trip in every format, and an error that names file and variable for bad ones."""

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

from bayes_cannon.io import read_spectra
from bayes_cannon.io import spectra as spectra_module
from bayes_cannon.io.damage import SEAL_SIZE
from bayes_cannon.io.spectra import Spectra, read_spectra_file, write_spectra
from bayes_cannon.io.zarr_files import CHECKSUMS

SUFFIXES = [".nc", ".h5", ".hdf5", ".zarr", ".npz"]
SHARED = Path(__file__).parents[2] / "../shared/data"


@pytest.fixture
def stars() -> Spectra:
    """Three stars of four pixels, with what is not known among it."""
    rng = np.random.default_rng(2)
    flux = rng.normal(size=(3, 4))
    flux[1, 2] = np.nan
    return Spectra(
        flux,
        rng.random((3, 4)),
        np.linspace(4000, 5000, 4),
        np.array(["HD 1", "σ Ori", ""]),
        {"TEFF": np.array([5000.1, np.nan, 4000.0]), "AGE": np.array([1.0, 2.0, 3.0])},
        # Units that time decoding would swallow.
        {"TEFF": "K", "AGE": "days since 2000-01-01", "wavelength": "Angstrom", "flux": "1"},
        {"origin": "made up", "resolution": 2000.5},
        identifiers={"SOURCE_ID": np.array([4567890123456789012, 2, -1]), "FIELD": np.array([b"M 67", b"", b"000+00"])},
    )


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip_is_exact(stars, suffix, tmp_path):
    path = tmp_path / f"stars{suffix}"
    write_spectra(path, stars)
    read = read_spectra(path)
    assert same(read.flux, stars.flux)
    assert same(read.ivar, stars.ivar)
    assert same(read.wavelength, stars.wavelength)
    assert read.ids.tolist() == ["HD 1", "σ Ori", ""]
    assert set(read.labels) == {"TEFF", "AGE"}
    assert all(same(read.labels[name], stars.labels[name]) for name in read.labels)
    assert {name: values.tolist() for name, values in read.identifiers.items()} == {
        "SOURCE_ID": ["4567890123456789012", "2", "-1"], "FIELD": ["M 67", "", "000+00"],
    }  # fmt: skip
    assert all(same(read.identifiers[name], stars.identifiers[name]) for name in read.identifiers)
    assert read.units == stars.units
    assert read.attrs == stars.attrs
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_without_wavelength_ids_and_labels(suffix, tmp_path):
    write_spectra(tmp_path / f"bare{suffix}", Spectra(np.ones((2, 3)), np.ones((2, 3))))
    read = read_spectra(tmp_path / f"bare{suffix}")
    assert read.wavelength is None
    assert read.ids.tolist() == ["0", "1"]
    assert not read.has_own_ids
    assert not read.labels


@pytest.mark.parametrize("suffix", [".nc", ".zarr", ".npz"])
def test_existing_file_needs_overwrite(stars, suffix, tmp_path):
    path = tmp_path / f"stars{suffix}"
    write_spectra(path, stars)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write_spectra(path, stars.at([0]))
    assert read_spectra(path).n_stars == 3
    write_spectra(path, stars.at([0]), overwrite=True)
    assert read_spectra(path).n_stars == 1
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_folder_that_is_no_zarr_store_is_never_replaced(stars, tmp_path):
    precious = tmp_path / "thesis.zarr"
    precious.mkdir()
    (precious / "chapter1.tex").write_text("once")
    with pytest.raises(FileExistsError, match="a folder of that name exists"):
        write_spectra(precious, stars, overwrite=True)
    assert (precious / "chapter1.tex").read_text() == "once"


@pytest.mark.parametrize("suffix", [".nc", ".zarr", ".npz"])
def test_failed_write_leaves_nothing(stars, suffix, tmp_path, monkeypatch):
    def fails(path, *_, **__):
        raise RuntimeError("disk full")

    monkeypatch.setattr(spectra_module.np, "savez_compressed", fails)
    monkeypatch.setattr(spectra_module, "write_groups", lambda path, groups: (path.touch(), fails(path)))
    monkeypatch.setattr(xr.Dataset, "to_zarr", lambda self, path, **_: (path.mkdir(), fails(path)))
    with pytest.raises(RuntimeError, match="disk full"):
        write_spectra(tmp_path / f"stars{suffix}", stars)
    assert not list(tmp_path.iterdir())


def test_identifiers_go_with_their_stars(stars):
    chosen = stars.at(np.array([2, 0]))
    assert chosen.identifiers["SOURCE_ID"].tolist() == ["-1", "4567890123456789012"]
    assert chosen.identifiers["FIELD"].tolist() == ["000+00", "M 67"]


def test_integers_that_float64_does_not_hold_are_no_labels(tmp_path):
    """The digits of a 19-digit source id are kept, given as a label, in an .npz and in a netCDF file of others."""
    source = np.array([4567890123456789013, -(2**53) - 1])
    few = {"flux": np.ones((2, 3)), "ivar": np.ones((2, 3))}
    given = Spectra(**few, labels={"GAIA": source, "N": np.array([2**53, -(2**53)])})
    np.savez(tmp_path / "s.npz", **few, GAIA=source, N=given.labels["N"])
    variables = {name: (("star", "pixel"), values) for name, values in few.items()}
    missing = ("star", np.array([*source[:1], -1]), {"_FillValue": -1})
    variables |= {"GAIA": ("star", source), "N": ("star", given.labels["N"]), "OTHER": missing}
    xr.Dataset(variables).to_netcdf(tmp_path / "s.nc", engine="h5netcdf")
    for spectra in (given, read_spectra(tmp_path / "s.npz"), read_spectra(tmp_path / "s.nc")):
        assert spectra.identifiers["GAIA"].tolist() == ["4567890123456789013", "-9007199254740993"]
        assert spectra.labels["N"].tolist() == [2.0**53, -(2.0**53)]
        assert set(spectra.labels) == {"N"}
    assert spectra.identifiers["OTHER"].tolist() == ["4567890123456789013", ""]


def test_names_of_identifiers_are_checked():
    ones = np.ones((2, 3))
    with pytest.raises(ValueError, match="'TEFF' is a label and an identifier"):
        Spectra(ones, ones, labels={"TEFF": [1.0, 2.0]}, identifiers={"TEFF": ["a", "b"]})
    with pytest.raises(ValueError, match="cannot be called 'star_id'"):
        Spectra(ones, ones, identifiers={"star_id": ["a", "b"]})
    with pytest.raises(ValueError, match=r"FIELD must have shape \(2,\)"):
        Spectra(ones, ones, identifiers={"FIELD": ["a"]})


def test_labels_as_an_array_with_names(tmp_path):
    np.savez(
        tmp_path / "s.npz",
        flux=np.ones((2, 3), np.float32),
        ivar=np.ones((2, 3), np.float32),
        dispersion=np.arange(3),
        labels=np.array([[1.0, 2.0], [3.0, 4.0]]),
        label_errors=np.array([[0.1, 0.2], [0.3, 0.4]]),
        label_names=np.array(["TEFF", "LOGG"]),
        subclass=np.array(["G", "K"]),
        andmask=np.zeros((2, 3), int),
    )
    read = read_spectra(tmp_path / "s.npz")
    assert read.flux.dtype == float
    assert read.wavelength.tolist() == [0, 1, 2]
    assert {name: values.tolist() for name, values in read.labels.items()} == {
        "TEFF": [1, 3], "LOGG": [2, 4], "TEFF_ERR": [0.1, 0.3], "LOGG_ERR": [0.2, 0.4],
    }  # fmt: skip
    assert read.label_array(["LOGG", "TEFF"]).tolist() == [[2, 1], [4, 3]]
    with pytest.raises(ValueError, match="no label 'FE_H'; there are TEFF, LOGG"):
        read.label_array(["FE_H"])


def test_dimensions_in_the_other_order_are_turned(stars, tmp_path):
    flux = xr.DataArray(stars.flux.T, dims=("pixel", "star"))
    xr.Dataset({"flux": flux, "ivar": flux**2}).to_netcdf(tmp_path / "s.nc", engine="h5netcdf")
    assert same(read_spectra(tmp_path / "s.nc").flux, stars.flux)


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_packed_numbers_are_unpacked_and_missing_ones_masked(suffix, tmp_path):
    flux = np.array([[1.0, 1.25, 0.5], [0.75, 1.5, 2.0]])
    ivar = np.full((2, 3), 1e4)
    labels = np.array([5000.0, np.nan])
    data = xr.Dataset(
        {"flux": (("star", "pixel"), flux.copy()), "ivar": (("star", "pixel"), ivar.copy()), "TEFF": ("star", labels)},
        {"wavelength": ("pixel", [5000.0, 5000.5, 5001.0])},
    )
    data["flux"][0, 1] = data["ivar"][1, 2] = np.nan
    packing = {"dtype": "int16", "scale_factor": 1 / 4096, "add_offset": 1.0, "_FillValue": np.int16(-32768)}
    half = {"dtype": "int32", "scale_factor": 0.5, "add_offset": 0.0, "_FillValue": np.int32(-1)}
    encoding = {"flux": packing, "ivar": {"_FillValue": -999.0}, "TEFF": half, "wavelength": half}
    data.to_netcdf(tmp_path / "s.nc", engine="h5netcdf", encoding=encoding)
    if suffix == ".zarr":
        raw = xr.load_dataset(tmp_path / "s.nc", engine="h5netcdf", mask_and_scale=False)
        raw.drop_encoding().to_zarr(tmp_path / "s.zarr", consolidated=False, zarr_format=3)
    read = read_spectra(tmp_path / f"s{suffix}")
    missing = np.array([[False, True, False], [False, False, True]])
    assert read.flux[~missing].tolist() == flux[~missing].tolist()
    assert read.ivar.tolist() == np.where(missing, 0, ivar).tolist()
    assert np.isnan(read.flux[0, 1])
    assert read.flux[1, 2] == 2
    assert read.wavelength.tolist() == [5000, 5000.5, 5001]
    np.testing.assert_array_equal(read.labels["TEFF"], labels)


def test_a_missing_wavelength_is_an_error(stars, tmp_path):
    data = xr.Dataset(
        {"flux": (("star", "pixel"), np.ones((2, 3))), "ivar": (("star", "pixel"), np.ones((2, 3)))},
        {"wavelength": ("pixel", [1.0, np.nan, 3.0])},
    )
    data.to_netcdf(tmp_path / "s.nc", engine="h5netcdf", encoding={"wavelength": {"_FillValue": -1.0}})
    with pytest.raises(ValueError, match=r"s\.nc: wavelength is missing at pixel 1"):
        read_spectra(tmp_path / "s.nc")


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (5, 5)])
@pytest.mark.parametrize("name", ["wavelength", "dispersion"])
def test_plain_hdf5_is_told_by_shapes(shape, name, tmp_path):
    n_stars, n_pixels = shape
    flux = np.arange(float(n_stars * n_pixels)).reshape(shape)
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["flux"], file["ivar"], file[name] = flux, flux**2, 5000.0 + np.arange(n_pixels)
        file["TEFF"], file["LOGG"] = np.arange(n_stars), np.arange(n_stars, dtype="f4") / 2
        file["star_id"] = [f"s{k}" for k in range(n_stars)]
        file["TEFF"].attrs["units"] = "K"
        file.attrs["origin"] = "a survey"
        file["note"], file["mask"] = "text", np.zeros(shape, bool)
        file["cube"] = np.ones((2, 3, 4))
        file.create_group("more")["flux"] = np.ones(3)
    read = read_spectra(tmp_path / "s.h5")
    assert same(read.flux, flux)
    assert same(read.ivar, flux**2)
    assert read.wavelength.tolist() == (5000 + np.arange(n_pixels)).tolist()
    assert read.ids.tolist() == [f"s{k}" for k in range(n_stars)]
    assert {label: values.tolist() for label, values in read.labels.items()} == {
        "TEFF": list(range(n_stars)), "LOGG": [k / 2 for k in range(n_stars)],
    }  # fmt: skip
    assert read.units == {"TEFF": "K"}
    assert read.attrs == {"origin": "a survey"}


def test_plain_hdf5_with_a_table_of_labels_and_packed_flux(tmp_path):
    with h5py.File(tmp_path / "s.hdf5", "w") as file:
        file["flux"] = np.array([[10, -1, 30], [40, 50, 60]], "i2")
        file["flux"].attrs["scale_factor"], file["flux"].attrs["_FillValue"] = 0.1, np.int16(-1)
        file["ivar"] = np.ones((2, 3))
        file["labels"], file["label_names"] = np.array([[1.0, 2.0], [3.0, 4.0]]), ["TEFF", "LOGG"]
    read = read_spectra(tmp_path / "s.hdf5")
    np.testing.assert_allclose(read.flux, [[1, np.nan, 3], [4, 5, 6]])
    assert read.ivar.tolist() == [[1, 0, 1], [1, 1, 1]]
    assert {name: values.tolist() for name, values in read.labels.items()} == {"TEFF": [1, 3], "LOGG": [2, 4]}


def test_plain_hdf5_that_does_not_fit_together_is_refused(tmp_path):
    for name, shape, said in (("ivar", (6, 4), r"ivar must have shape \(4, 6\)"), ("wavelength", (4,), "wavelength")):
        arrays = {"flux": np.ones((4, 6)), "ivar": np.ones((4, 6)), name: np.ones(shape)}
        with h5py.File(tmp_path / "s.h5", "w") as file:
            for one, values in arrays.items():
                file[one] = values
        with pytest.raises(ValueError, match=said):
            read_spectra(tmp_path / "s.h5")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_is_an_error_that_names_the_file(suffix, tmp_path):
    import resource

    path = tmp_path / f"s{suffix}"
    rng = np.random.default_rng(0)
    write_spectra(path, Spectra(np.ones((2, 3)), np.ones((2, 3))))
    large = Spectra(rng.normal(size=(20, 300)), np.ones((20, 300)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, limits[1]))
    try:
        with pytest.raises(OSError, match=rf"File too large.*s\{suffix}"):
            write_spectra(path, large, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert read_spectra(path).n_stars == 2
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_numbers_are_never_read(stars, suffix, tmp_path):
    path = tmp_path / f"s{suffix}"
    write_spectra(path, stars)
    files = [one for one in path.rglob("*") if one.is_file() and one.parent.name != CHECKSUMS] or [path]
    for file in files:
        whole = file.read_bytes()
        # A zip archive whose checksum is no longer one is read as that of others is, and its numbers are whole.
        size = len(whole) - SEAL_SIZE * (suffix == ".npz")
        for place in range(5, size, max(size // 7, 1)):
            bad = bytearray(whole)
            bad[place] ^= 0x10
            file.write_bytes(bad)
            with pytest.raises(ValueError, match=rf"s\{suffix}.*damaged"):
                read_spectra(path)
        file.write_bytes(whole)
    assert same(read_spectra(path).ivar, stars.ivar)


def test_every_array_has_a_checksum_of_its_own(stars, tmp_path):
    write_spectra(tmp_path / "s.nc", stars)
    with h5py.File(tmp_path / "s.nc") as file:
        assert all(file[name].fletcher32 for name in ("flux", "ivar", "wavelength", "TEFF", "AGE"))
    with xr.open_dataset(tmp_path / "s.nc", engine="h5netcdf", decode_times=False) as data:
        assert set(data.coords) == {"star", "wavelength"}
        assert data["flux"].dims == ("star", "pixel")


@pytest.mark.parametrize("attrs", ["[1]", "3", "{", '{"units": 3}', "[" * 100_000])
def test_npz_with_other_attrs_is_refused_by_name(attrs, tmp_path):
    np.savez(tmp_path / "s.npz", flux=np.ones((2, 3)), ivar=np.ones((2, 3)), attrs=np.array(attrs))
    with pytest.raises(ValueError, match=r"cannot read spectra from .*s\.npz"):
        read_spectra(tmp_path / "s.npz")


def _bad_file(kind: str, folder: Path) -> Path:
    flux = np.ones((2, 3))
    arrays = {
        "no ivar": {"flux": flux},
        "no flux": {"ivar": flux},
        "ivar of another shape": {"flux": flux, "ivar": np.ones((2, 4))},
        "one spectrum": {"flux": flux[0], "ivar": flux[0]},
        "wavelength of another length": {"flux": flux, "ivar": flux, "wavelength": np.ones(4)},
        "texts for flux": {"flux": flux.astype(str), "ivar": flux, "x": np.array(["a"])},
        "labels without names": {"flux": flux, "ivar": flux, "labels": flux},
        "too few names": {"flux": flux, "ivar": flux, "labels": flux, "label_names": np.array(["A"])},
        "pickled array": {"flux": flux, "ivar": flux, "labels": np.array([{}, None])},
    }
    path = folder / "bad.npz"
    if kind in arrays:
        content = arrays[kind]
        if kind == "texts for flux":
            content["flux"][0, 0] = "bad"
        np.savez(path, **content)
    elif kind == "not a zip":
        path.write_text("flux")
    elif kind == "one array":
        with path.open("wb") as file:
            np.save(file, flux)
    elif kind == "truncated npz":
        np.savez(path, flux=np.ones((50, 50)), ivar=np.ones((50, 50)))
        path.write_bytes(path.read_bytes()[:9000])
    else:
        path = folder / "bad.nc"
        dims = ("row", "column") if kind == "other dimensions" else ("star", "pixel")
        dataset = xr.Dataset({"flux": (dims, flux), "ivar": (dims, flux)})
        if kind == "wavelength over stars":
            dataset = dataset.assign_coords(wavelength=("star", [1.0, 2.0]))
        if kind == "netCDF without flux":
            dataset = dataset.drop_vars("flux")
        dataset.to_netcdf(path, engine="h5netcdf")
        if kind == "truncated netCDF":
            path.write_bytes(path.read_bytes()[:3000])
        if kind == "plain HDF5":
            with h5py.File(path, "w") as file:
                file["flux"] = flux
    return path


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("no ivar", "no array 'ivar'"),
        ("no flux", "no array 'flux'"),
        ("ivar of another shape", r"ivar must have shape \(2, 3\)"),
        ("one spectrum", "flux must have shape"),
        ("wavelength of another length", r"wavelength must have shape \(3,\)"),
        ("texts for flux", "flux must be real numbers"),
        ("labels without names", "label_names"),
        ("too few names", "label_names"),
        ("pickled array", "'labels' cannot be loaded"),
        ("not a zip", "bad.npz"),
        ("one array", "one array"),
        ("truncated npz", "bad.npz"),
        ("other dimensions", "dimensions of 'flux' must be star and pixel"),
        ("wavelength over stars", "dimension of 'wavelength' must be pixel"),
        ("netCDF without flux", "no variable 'flux'"),
        ("truncated netCDF", "bad.nc"),
        ("plain HDF5", "bad.nc"),
    ],
)
def test_bad_file_is_named_with_its_variable(kind, said, tmp_path):
    path = _bad_file(kind, tmp_path)
    with pytest.raises(ValueError, match=said) as caught:
        read_spectra(path)
    assert str(path) in str(caught.value)
    assert "expected flux and ivar of shape (star, pixel)" in str(caught.value)


def test_missing_file_and_unknown_suffix(stars, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*no\.nc"):
        read_spectra(tmp_path / "no.nc")
    for unknown in (tmp_path / "stars.csv", tmp_path / "stars"):
        with pytest.raises(ValueError, match=r"must be one of \.nc, \.h5"):
            read_spectra_file(unknown)
        with pytest.raises(ValueError, match=r"must be one of \.nc, \.h5"):
            write_spectra(unknown, stars)


def test_zarr_is_an_extra(stars, tmp_path, monkeypatch):
    monkeypatch.setattr(spectra_module, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"bayes-cannon\[zarr\]"):
        write_spectra(tmp_path / "s.zarr", stars)
    with pytest.raises(ImportError, match=r"bayes-cannon\[zarr\]"):
        read_spectra(tmp_path / "s.zarr")


def test_a_label_cannot_take_the_name_of_another_variable():
    with pytest.raises(ValueError, match="cannot be called 'flux'"):
        Spectra(np.ones((2, 3)), np.ones((2, 3)), labels={"flux": np.ones(2)})


def test_choosing_stars_keeps_rows_together(stars):
    some = stars.at(np.array([False, True, True]))
    assert some.ids.tolist() == ["σ Ori", ""]
    assert same(some.flux, stars.flux[1:])
    assert some.labels["AGE"].tolist() == [2, 3]
    assert some.units == stars.units


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.exists(), reason="the reference data are not beside the project")
def test_lamost_file_as_others_made_it():
    read = read_spectra(SHARED / "lamost_dr1.npz")
    assert read.flux.shape == (131, 3904)
    assert read.wavelength[0] == pytest.approx(3699.985, abs=1e-3)
    assert {"teff", "teff_ERR", "rv_kms"} <= set(read.labels)
    with pytest.raises(ValueError, match="no array 'ivar'"):
        read_spectra(SHARED / "miles.npz")
