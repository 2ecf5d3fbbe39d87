"""Zarr stores: what is decoded at all, and what was lost."""

import json
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from bayes_cannon.io import read_spectra
from bayes_cannon.io.spectra import Spectra, write_spectra
from bayes_cannon.io.spectra_store import open_store
from bayes_cannon.io.zarr_files import CHECKSUMS, MissingChunksWarning, absent_values, refused_arrays


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def foreign(store: Path, **changes: dict) -> None:
    """A store of format 2 with flux and ivar, and further arrays."""
    store.mkdir()
    (store / ".zgroup").write_text('{"zarr_format": 2}')
    arrays = {"flux": {}, "ivar": {}} | changes
    for name, change in arrays.items():
        shape, dims = ([2, 3], ["star", "pixel"]) if name in ("flux", "ivar") else ([2], ["star"])
        about = {
            "zarr_format": 2, "shape": shape, "chunks": shape, "dtype": "<f8", "compressor": None, "fill_value": None,
            "order": "C", "filters": None,
        }  # fmt: skip
        (store / name).mkdir()
        (store / name / ".zarray").write_text(json.dumps(about | change))
        (store / name / ".zattrs").write_text(json.dumps({"_ARRAY_DIMENSIONS": dims}))
        (store / name / ".".join("0" * len(shape))).write_bytes(np.ones(shape).tobytes())


OBJECTS = {"dtype": "|O", "filters": [{"id": "vlen-utf8"}, {"id": "pickle", "protocol": 5}]}


@pytest.mark.parametrize("name", ["note", "star", "star_id", "flux"])
@pytest.mark.parametrize("change", [OBJECTS, {"dtype": "|O", "compressor": {"id": "pickle"}}, {"dtype": "|O"}])
def test_no_objects_are_decoded(name, change, tmp_path):
    store, flag = tmp_path / "s.zarr", tmp_path / "ran"
    foreign(store, **{name: change})
    chunk = store / name / ("0.0" if name == "flux" else "0")
    chunk.write_bytes(pickle.dumps([Bomb(flag), "|O", (1,)]))
    assert list(refused_arrays(store)) == [name]
    if name == "note" and change is OBJECTS:
        assert read_spectra(store).flux.tolist() == [[1, 1, 1], [1, 1, 1]]
    else:
        # Zarr itself refuses a store of which it knows no type.
        said = "No Zarr data type" if name == "note" else f"'{name}' is not read: it"
        with pytest.raises(ValueError, match=rf"s\.zarr: {said}"):
            read_spectra(store)
    assert not flag.exists()


def test_codecs_of_format_3_inside_others_are_looked_at(tmp_path):
    store = tmp_path / "s.zarr"
    write_spectra(store, Spectra(np.ones((2, 3)), np.ones((2, 3))))
    assert not refused_arrays(store)
    about = json.loads((store / "flux" / "zarr.json").read_text())
    for bad in ({"name": "numcodecs.pickle"}, "numcodecs.json2", 3):
        inner = {"name": "sharding_indexed", "configuration": {"codecs": [bad], "index_codecs": []}}
        (store / "flux" / "zarr.json").write_text(json.dumps(about | {"codecs": [inner]}))
        assert list(refused_arrays(store)) == ["flux"]


@pytest.mark.parametrize(
    "name", ["flux/c/0/0", "ivar/zarr.json", "TEFF/zarr.json", "TEFF/c/0", "star/c/0", "zarr.json"]
)
@pytest.mark.parametrize("how", ["lost", "changed"])
def test_files_that_are_lost_or_damaged_are_named(name, how, tmp_path):
    store = tmp_path / "s.zarr"
    labels = {"TEFF": np.array([5e3, 6e3])}
    write_spectra(store, Spectra(np.ones((2, 3)), np.ones((2, 3)), star_id=["a", "b"], labels=labels))
    if how == "lost":
        (store / name).unlink()
    else:
        data = bytearray((store / name).read_bytes())
        data[len(data) // 2] ^= 1
        (store / name).write_bytes(data)
    with pytest.raises(ValueError, match=rf"s\.zarr: it is damaged: its file {name}"):
        read_spectra(store)


def test_lost_checksums_are_found(tmp_path):
    store = tmp_path / "s.zarr"
    write_spectra(store, Spectra(np.ones((2, 3)), np.ones((2, 3))))
    (store / CHECKSUMS / "zarr.json").unlink()
    with pytest.raises(ValueError, match=r"its checksums in .* are lost"):
        read_spectra(store)


def missing(store: Path, name: str) -> None:
    """A store as others write it, over two chunks of stars, that lacks the second chunk of an array."""
    dataset = xr.Dataset(
        {
            "flux": (("star", "pixel"), np.full((4, 3), 2.0)), "ivar": (("star", "pixel"), np.full((4, 3), 5.0)),
            "TEFF": ("star", np.array([4e3, 5e3, 6e3, 7e3])), "flag": ("star", np.array([1, 1, 1, 1])),
        },
        {"wavelength": ("pixel", np.arange(3.0)), "star": np.array(["a", "b", "c", "d"], object)},
    )  # fmt: skip
    sizes = {"pixel": 3, "star": 2}
    packing = {name: {"chunks": [sizes[dim] for dim in dataset[name].dims]} for name in dataset.variables}
    dataset.to_zarr(store, zarr_format=3, consolidated=False, encoding=packing)
    (chunk,) = (store / name / "c").rglob("1/0" if name in ("flux", "ivar") else "1" if name != "wavelength" else "0")
    chunk.unlink()


@pytest.mark.parametrize("name", ["flux", "ivar"])
def test_a_chunk_of_a_foreign_store_that_is_not_there_is_ivar_zero(name, tmp_path):
    missing(tmp_path / "s.zarr", name)
    with pytest.warns(MissingChunksWarning, match=rf"no chunks for 6 of 12 values of '{name}'"):
        spectra = read_spectra(tmp_path / "s.zarr")
    assert spectra.ivar.tolist() == [[5.0] * 3] * 2 + [[0.0] * 3] * 2
    assert spectra.flux[:2].tolist() == [[2.0] * 3] * 2
    assert spectra.labels["TEFF"].tolist() == [4e3, 5e3, 6e3, 7e3]


@pytest.mark.parametrize("name", ["TEFF", "flag"])
def test_a_label_whose_chunk_is_not_there_is_not_known(name, tmp_path):
    """A lost chunk of integers would be read as 0, which is no missing value to anybody."""
    missing(tmp_path / "s.zarr", name)
    with pytest.warns(MissingChunksWarning, match=rf"2 of 4 values of '{name}'"):
        spectra = read_spectra(tmp_path / "s.zarr")
    assert np.isnan(spectra.labels[name]).tolist() == [False, False, True, True]
    assert (spectra.ivar == 5).all()


@pytest.mark.parametrize("name", ["flux", "ivar", "TEFF"])
def test_what_is_not_there_is_not_known_to_those_who_read_a_part(name, tmp_path):
    """A training or labelling that reads shards must not take a lost chunk for zeros."""
    missing(tmp_path / "s.zarr", name)
    store, lost = open_store(tmp_path / "s.zarr"), [0.0] * 3 if name != "TEFF" else [5.0] * 3
    assert store.shard_size == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.shard(0).ivar.tolist() == [[5.0] * 3] * 2
        assert next(store.parts(np.array([0, 1]), slice(1, 3), size=4)).ivar.tolist() == [[5.0] * 2] * 2
    with pytest.warns(MissingChunksWarning, match=f"'{name}'"):
        shard = store.shard(1)
    assert shard.ivar.tolist() == [lost] * 2
    assert np.isnan(shard.labels["TEFF"]).all() == (name == "TEFF")
    if name == "TEFF":
        with pytest.warns(MissingChunksWarning, match="2 of 4 values of 'TEFF'"):
            assert np.isnan(store.stars().labels["TEFF"]).tolist() == [False, False, True, True]
        return
    with pytest.warns(MissingChunksWarning, match=f"'{name}'"):
        (first, second) = store.parts(np.array([1, 3]), slice(1, 3), size=4)
    assert (first.ivar.tolist(), second.ivar.tolist()) == ([[5.0] * 2], [lost[1:]])


@pytest.mark.parametrize("name", ["wavelength", "star"])
def test_wavelengths_and_names_whose_chunk_is_not_there_are_refused(name, tmp_path):
    missing(tmp_path / "s.zarr", name)
    with pytest.raises(ValueError, match=rf"s\.zarr: chunks of '{name}' are not there"):
        read_spectra(tmp_path / "s.zarr")


def test_chunks_within_shards_are_looked_for_by_shard(tmp_path):
    store = tmp_path / "s.zarr"
    array = zarr.create_group(store).create_array("flux", shape=(4, 8), chunks=(2, 2), shards=(2, 4), dtype="f8")
    array[:2] = 1.0
    assert absent_values(store, "flux").tolist() == [[False] * 8] * 2 + [[True] * 8] * 2
    assert absent_values(store, "flux", slice(1, 3)).tolist() == [[False] * 8, [True] * 8]
    assert absent_values(store, "flux", slice(0, 2)) is None
    array[2:] = 1.0
    assert absent_values(store, "flux") is None
