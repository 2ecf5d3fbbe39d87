"""A store of labels by itself: files of shards, texts, damage, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from bayes_cannon.io.label_store import LabelStore, make_label_store, open_labels

zarr = pytest.importorskip("zarr")
EMPTY = {
    "labels": np.zeros((0, 2)), "covariance": np.zeros((0, 2, 2)), "status": np.zeros(0, int),
    "star_id": np.empty(0, str),
}  # fmt: skip
ABOUT = {
    "label_names": ["TEFF", "FE_H"], "label_units": {"TEFF": "K"}, "model_sha256": "m", "spectra_sha256": "s",
    "options": {}, "identifiers": {}, "error_sources": [], "meta": {},
}  # fmt: skip


def make(path: Path, **about: object) -> LabelStore:
    return make_label_store(path, n_stars=10, shard_size=4, empty=EMPTY, about={**ABOUT, **about}, model=b"model")


def shard(number: int, n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(number)
    return {
        "labels": rng.normal(size=(n, 2)), "covariance": rng.normal(size=(n, 2, 2)), "status": np.arange(n) + number,
        "star_id": np.array([f"é{number} {k}" for k in range(n)]),
    }  # fmt: skip


def test_what_is_written_is_read(tmp_path: Path) -> None:
    store = make(tmp_path / "a.zarr")
    assert store.missing() == [0, 1, 2]
    store.write(2, shard(2, 2))
    store.write(0, shard(0, 4))
    assert open_labels(tmp_path / "a.zarr").missing() == [1]
    for number, n in ((0, 4), (2, 2)):
        for name, values in shard(number, n).items():
            np.testing.assert_array_equal(store.read(number)[name], values)
    assert store.model_file() == b"model"


def test_files_are_those_that_zarr_writes(tmp_path: Path) -> None:
    store, other = make(tmp_path / "a.zarr"), make(tmp_path / "b.zarr")
    store.write(2, shard(2, 2))
    root = zarr.open_group(other.path)
    with zarr.config.set({"array.write_empty_chunks": True}):
        for name, values in shard(2, 2).items():
            root[name][8:] = values.astype(object) if values.dtype.kind == "U" else values
    for name, axes in (("labels", ".0"), ("covariance", ".0.0"), ("status", ""), ("star_id", "")):
        assert (store.path / name / f"c.2{axes}").read_bytes() == (other.path / name / f"c.2{axes}").read_bytes()


def test_what_zarr_reads_is_read(tmp_path: Path) -> None:
    store = make(tmp_path / "a.zarr")
    store.write(2, shard(2, 2))
    root = zarr.open_group(store.path, mode="r")
    for name, values in store.read(2).items():
        np.testing.assert_array_equal(values, root[name][8:].astype(values.dtype))
        assert values.flags.writeable
    with pytest.raises(ValueError, match=r"shard 1 of the labels .*No such file"):
        store.read(1)


def test_zarr_reads_it_and_finds_fill_values_where_nothing_is_written(tmp_path: Path) -> None:
    store = make(tmp_path / "a.zarr")
    store.write(0, shard(0, 4))
    root = zarr.open_group(tmp_path / "a.zarr", mode="r")
    assert np.isnan(root["labels"][4:]).all()
    assert (root["status"][4:] == -1).all()
    assert root["label"][:].tolist() == ["TEFF", "FE_H"]
    assert root["labels"].metadata.dimension_names == ("star", "label")


def test_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    store = make(tmp_path / "a.zarr")
    contents = []
    for _ in range(2):
        store.write(1, shard(1, 4))
        contents.append({path.name: path.read_bytes() for path in (tmp_path / "a.zarr").rglob("c.1*")})
    assert contents[0] == contents[1]


def test_numbers_that_are_all_the_fill_value_are_a_shard_too(tmp_path: Path) -> None:
    store = make(tmp_path / "a.zarr")
    nothing = {name: np.full((4, *values.shape[1:]), -1 if values.dtype.kind == "i" else np.nan) for name, values in
               EMPTY.items() if name != "star_id"}  # fmt: skip
    store.write(1, {**nothing, "status": np.full(4, -1), "star_id": np.full(4, "")})
    assert store.missing() == [0, 2]


def test_damage_is_found(tmp_path: Path) -> None:
    store = make(tmp_path / "a.zarr")
    store.write(0, shard(0, 4))
    file = tmp_path / "a.zarr" / "labels" / "c.0.0"
    content = bytearray(file.read_bytes())
    content[3] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"cannot read shard 0 of the labels from .*; remove the files c\.0\*"):
        store.read(0)


@pytest.mark.parametrize(
    ("name", "what"),
    [("model_sha256", "another model"), ("spectra_sha256", "other spectra"), ("options", "other options")],
)
def test_a_store_of_something_else_is_refused(tmp_path: Path, name: str, what: str) -> None:
    make(tmp_path / "a.zarr")
    make(tmp_path / "a.zarr")
    with pytest.raises(ValueError, match=f"a.zarr holds labels of {what}: its {name} is"):
        make(tmp_path / "a.zarr", **{name: "other"})


def test_what_is_no_store_of_labels_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no store of labels .*none\.zarr"):
        open_labels(tmp_path / "none.zarr")
    zarr.open_group(tmp_path / "other.zarr", mode="w")
    with pytest.raises(ValueError, match="it is no store of labels"):
        open_labels(tmp_path / "other.zarr")
    with pytest.raises(FileExistsError, match=r"other\.zarr exists and is no store of labels"):
        make(tmp_path / "other.zarr")
