"""A file that is no model file, or a damaged one, is refused with an error that says what it is."""

import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest

from bayes_cannon.core.scaling import LabelScaling
from bayes_cannon.io.model_file import FORMAT_VERSION, OLDEST_VERSION, training_set_hash, write
from bayes_cannon.io.model_file import read as read_file
from bayes_cannon.io.record_file import Groups, to_groups


def read(path: Path) -> Groups:
    return read_file(path, lambda groups: groups)


@pytest.fixture
def written(tmp_path) -> Path:
    """A whole file of the format, of some record."""
    write(tmp_path / "m", to_groups(LabelScaling(np.random.default_rng(0).normal(size=9000), np.ones(9000))))
    return tmp_path / "m"


def test_hash_depends_on_every_value_and_on_the_shape():
    rng = np.random.default_rng(0)
    labels, flux, ivar = rng.normal(size=(5, 2)), rng.normal(size=(5, 3)), rng.random((5, 3))
    changed = ivar.copy()
    changed[-1, -1] += 1e-9
    hashes = {
        training_set_hash(labels, flux, ivar),
        training_set_hash(labels, flux, changed),
        training_set_hash(labels, ivar, flux),
        training_set_hash(labels.T, flux, ivar),
    }
    assert len(hashes) == 4
    assert training_set_hash(labels, flux, np.asfortranarray(ivar)) in hashes


def test_missing_folder_and_folder_in_the_way(tmp_path):
    groups = to_groups(LabelScaling(np.zeros(1), np.ones(1)))
    with pytest.raises(FileNotFoundError, match="does not exist; create it"):
        write(tmp_path / "no" / "m", groups)
    with pytest.raises(FileExistsError, match="a folder of that name exists"):
        write(tmp_path, groups, overwrite=True)


class Bomb:
    """Unpickling it runs code."""

    def __reduce__(self):
        return exec, ("raise SystemExit('unpickled')",)


def _foreign(kind: str, path: Path) -> None:
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Bomb()))
    elif kind == "pickle of protocol 0":
        path.write_bytes(pickle.dumps(Bomb(), protocol=0))
    elif kind == "npz":
        with path.open("wb") as file:
            np.savez(file, theta=np.ones(3))
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("theta = 1")
    elif kind == "folder":
        path.mkdir()
    elif kind == "HDF5 without format":
        with h5py.File(path, "w") as file:
            file["theta"] = np.ones(3)
    elif kind == "HDF5 of another format":
        with h5py.File(path, "w") as file:
            file.attrs["format"] = "something else"
    elif kind == "format without version":
        with h5py.File(path, "w") as file:
            file.attrs["format"] = "bayes_cannon model"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("pickle", "Python pickle"),
        ("pickle of protocol 0", "no HDF5 file"),
        ("npz", "zip archive"),
        ("empty", "is empty"),
        ("text", "no HDF5 file"),
        ("folder", "is a folder"),
        ("HDF5 without format", "its attribute 'format' is 'absent'"),
        ("HDF5 of another format", "its attribute 'format' is 'something else'"),
        ("format without version", "format_version"),
    ],
)
def test_foreign_file_is_refused_by_name(kind, said, tmp_path):
    path = tmp_path / "foreign.model"
    _foreign(kind, path)
    with pytest.raises(ValueError, match=said) as caught:
        read(path)
    assert "foreign.model" in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no model file .*my\.model"):
        read(tmp_path / "my.model")


@pytest.mark.parametrize("fraction", [0.0003, 0.1, 0.5, 0.999])
def test_truncated_file(written, fraction):
    whole = written.read_bytes()
    written.write_bytes(whole[: int(fraction * len(whole))])
    with pytest.raises(ValueError, match=r"truncated or damaged|no HDF5 file|is damaged") as caught:
        read(written)
    assert str(written) in str(caught.value)


def test_file_damaged_inside(written):
    with h5py.File(written) as file:
        offset = file["fiducial"].id.get_chunk_info(0).byte_offset
    with written.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 64)
    with pytest.raises(ValueError, match="is damaged"):
        read(written)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (FORMAT_VERSION + 1, r"written by bayes_cannon 99\.0.*Upgrade bayes_cannon"),
        (OLDEST_VERSION - 1, r"before its first release.*Train the model again"),
    ],
)
def test_other_format_version_says_what_to_do(written, number, said):
    with h5py.File(written, "r+") as file:
        file.attrs["format_version"] = number
        file.attrs["bayes_cannon"] = "99.0"
    with pytest.raises(ValueError, match=said):
        read(written)


def test_a_full_disk_is_an_error_that_names_the_file_and_keeps_the_old_one(written):
    resource = pytest.importorskip("resource")
    before, limits = written.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"File too large.*/m'"):
            write(
                written,
                to_groups(LabelScaling(np.random.default_rng(1).normal(size=9000), np.ones(9000))),
                overwrite=True,
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert written.read_bytes() == before
    assert list(written.parent.iterdir()) == [written]


def test_no_flipped_bit_passes(written):
    whole = written.read_bytes()
    for place in range(0, len(whole), len(whole) // 40):
        bad = bytearray(whole)
        bad[place] ^= 0x10
        written.write_bytes(bad)
        with pytest.raises(ValueError, match=r"is damaged|no HDF5 file"):
            read(written)
