"""Shards decoded without Zarr: the same numbers as Zarr gives, and every kind of damage is found."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import bayes_cannon as tc
from bayes_cannon.io import spectra_store
from bayes_cannon.io.shard_files import decoded_shard

zarr = pytest.importorskip("zarr")
N, SHARD, PIXELS = 21, 8, 50


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """21 spectra in shards of 8, the last of which has 5."""
    folder, rng = tmp_path_factory.mktemp("shards"), np.random.default_rng(0)
    flux, ivar = rng.normal(1, 0.1, (N, PIXELS)), rng.uniform(0, 1e4, (N, PIXELS))
    flux[3, 4], ivar[3, 4] = np.nan, 0
    labels = {"TEFF": rng.normal(5000, 100, N), "SOURCE": 2**60 + np.arange(N)}
    one = tc.io.Spectra(flux, ivar, wavelength=np.linspace(5000, 5100, PIXELS), labels=labels)
    tc.io.write_spectra(folder / "stars.nc", one)
    tc.io.ingest(folder / "stars.nc", folder / "stars.zarr", shard_size=SHARD)
    return folder / "stars.zarr"


def by_zarr(store: Path, name: str, number: int) -> np.ndarray:
    array = zarr.open_group(store, mode="r")[name]
    return array[number * SHARD : (number + 1) * SHARD]


@pytest.mark.parametrize("name", ["flux", "ivar"])
def test_numbers_are_those_of_zarr(store: Path, name: str) -> None:
    for number, rows in enumerate((8, 8, 5)):
        found = decoded_shard(store, name, number, rows)
        assert found is not None
        assert found.dtype == np.float32
        assert_array_equal(found, by_zarr(store, name, number))


def test_several_chunks_in_a_shard(tmp_path: Path) -> None:
    from bayes_cannon.io.zarr_files import spectra_codecs

    values = np.random.default_rng(1).normal(size=(10, 3)).astype("f4")
    array = zarr.create_group(tmp_path / "s.zarr").create_array(
        "flux", shape=(10, 3), chunks=(2, 3), shards=(6, 3), dtype="float32", compressors=spectra_codecs()
    )
    array[:] = values
    assert_array_equal(decoded_shard(tmp_path / "s.zarr", "flux", 0, 6), values[:6])
    assert_array_equal(decoded_shard(tmp_path / "s.zarr", "flux", 1, 4), values[6:])
    # Zarr leaves out chunks that hold nothing but the fill value, unless it is told to write them, as ours are.
    array[2:4] = 0.0
    with pytest.raises(ValueError, match=r"chunk 1 of its file flux/c/0/0 is not there"):
        decoded_shard(tmp_path / "s.zarr", "flux", 0, 6)


@pytest.mark.parametrize("as_stored", [True, False])
def test_spectra_are_the_same_by_either(store: Path, as_stored: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = tc.io.open_store(store)
    fast = [opened.shard(k, as_stored=as_stored) for k in range(opened.shards)]
    monkeypatch.setattr(spectra_store, "decoded_shard", lambda *_, **__: None)
    for one, slow in zip(fast, (opened.shard(k, as_stored=as_stored) for k in range(opened.shards)), strict=True):
        assert one.flux.dtype == slow.flux.dtype == one.ivar.dtype == (np.float32 if as_stored else float)
        assert_array_equal(one.flux, slow.flux)
        assert_array_equal(one.ivar, slow.ivar)
        assert_array_equal(one.labels["TEFF"], slow.labels["TEFF"])
        assert one.identifiers["SOURCE"].tolist() == slow.identifiers["SOURCE"].tolist()
        assert one.at(slice(0, 2)).flux.dtype == one.flux.dtype
    assert sum(one.n_stars for one in fast) == N


def test_what_is_kept_between_shards_is_neither_shared_nor_of_another_store(tmp_path: Path) -> None:
    path, n = tmp_path / "stars.zarr", 10
    for temperature in (5000.0, 6000.0):
        one = tc.io.Spectra(
            np.ones((n, PIXELS)), np.ones((n, PIXELS)), wavelength=np.linspace(1, 2, PIXELS) * temperature,
            labels={"TEFF": temperature + np.arange(n)}, star_id=[f"{temperature:g}-{k}" for k in range(n)],
        )  # fmt: skip
        tc.io.write_spectra(tmp_path / "stars.nc", one, overwrite=True)
        tc.io.ingest(tmp_path / "stars.nc", path, shard_size=4, overwrite=True)
        store = tc.io.open_store(path)
        for _ in range(2):
            for number in (0, 2, 1):
                found, rows = store.shard(number), np.arange(n)[4 * number : 4 * number + 4]
                assert_array_equal(found.labels["TEFF"], temperature + rows)
                assert found.ids.tolist() == [f"{temperature:g}-{k}" for k in rows]
                assert_array_equal(found.wavelength, one.wavelength)
                for values in (found.labels["TEFF"], found.wavelength, found.ids, found.flux, found.ivar):
                    values[:] = values[::-1]  # Which the next one does not see.


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("data_type",), "float64"),
        (("chunk_key_encoding", "configuration", "separator"), "."),
        (("codecs", 0, "name"), "transpose"),
        (("codecs", 0, "configuration", "index_location"), "start"),
        (("codecs", 0, "configuration", "codecs", 0, "configuration", "endian"), "big"),
        (("codecs", 0, "configuration", "codecs", 1, "name"), "zstd"),
        (("codecs", 0, "configuration", "index_codecs"), [{"name": "bytes", "configuration": {"endian": "little"}}]),
        (("codecs", 0, "configuration", "chunk_shape"), [8, 25]),
        (("codecs",), [{"name": "bytes", "configuration": {"endian": "little"}}]),
        (("chunk_grid",), {}),
    ],
)
def test_what_is_written_otherwise_is_left_to_zarr(store: Path, tmp_path: Path, place: tuple, value: object) -> None:
    about = json.loads((store / "flux/zarr.json").read_text())
    inner = about
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    (tmp_path / "flux").mkdir()
    (tmp_path / "flux/zarr.json").write_text(json.dumps(about))
    assert decoded_shard(tmp_path, "flux", 0, SHARD) is None


@pytest.mark.parametrize("where", [0, 10, 200, -1, -5, -20])
def test_a_byte_that_changed_is_found(store: Path, tmp_path: Path, where: int) -> None:
    """Also without the checksums of the store, which `SpectraStore` compares before: by those of the file itself."""
    (tmp_path / "flux/c/0").mkdir(parents=True)
    (tmp_path / "flux/zarr.json").write_bytes((store / "flux/zarr.json").read_bytes())
    content = bytearray((store / "flux/c/0/0").read_bytes())
    content[where] ^= 1
    (tmp_path / "flux/c/0/0").write_bytes(content)
    with pytest.raises((ValueError, RuntimeError)):
        decoded_shard(tmp_path, "flux", 0, SHARD)


@pytest.mark.parametrize("size", [0, 3, 15, 500])
def test_a_file_that_was_cut_off_is_found(store: Path, tmp_path: Path, size: int) -> None:
    (tmp_path / "flux/c/0").mkdir(parents=True)
    (tmp_path / "flux/zarr.json").write_bytes((store / "flux/zarr.json").read_bytes())
    (tmp_path / "flux/c/0/0").write_bytes((store / "flux/c/0/0").read_bytes()[:size])
    with pytest.raises((ValueError, RuntimeError)):
        decoded_shard(tmp_path, "flux", 0, SHARD)


def test_names_and_labels_of_a_shard_are_read_without_those_of_all(tmp_path: Path, monkeypatch) -> None:
    from bayes_cannon.io import unfinished_store

    monkeypatch.setattr(unfinished_store, "_STARS", 10)
    labels = {"TEFF": np.arange(40.0)}
    one = tc.io.Spectra(np.ones((40, 3)), np.ones((40, 3)), np.arange(1.0, 4.0), labels=labels)
    tc.io.write_spectra(tmp_path / "a.nc", one)
    tc.io.ingest(tmp_path / "a.nc", tmp_path / "s.zarr", shard_size=8)
    arrays = zarr.open_group(tmp_path / "s.zarr", mode="r")
    assert arrays["TEFF"].chunks == (16,)  # Two shards.
    store = tc.io.open_store(tmp_path / "s.zarr")
    assert [store.shard(k).labels["TEFF"].tolist() for k in (0, 4)] == [[*range(8)], [*range(32, 40)]]
    (tmp_path / "s.zarr/TEFF/c/1").unlink()
    assert store.shard(0).labels["TEFF"].tolist() == [*range(8)]
