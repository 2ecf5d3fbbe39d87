"""The model file: one netCDF-4 (HDF5) file that says what is in it.

Its groups are the records of a model (`io.record_file`): ``stars`` (the training set), ``settings``, ``result`` and
``provenance``. Dimensions are ``pixel``, ``term``, ``label`` and ``star``. Any HDF5 or netCDF tool reads it. The
attribute ``format`` is ``"bayes_cannon model"`` and ``format_version`` an integer that grows whenever an older version
could no longer read the file.
"""

import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from bayes_cannon.io.atomic import atomic_path, recover
from bayes_cannon.io.damage import UNREADABLE, check
from bayes_cannon.io.record_file import Groups, read_groups, write_groups

FORMAT = "bayes_cannon model"
ROWS_HASHED = 64
"""Rows of an array that are made float64 at a time for its hash."""
FORMAT_VERSION, OLDEST_VERSION = 4, 4
"""Versions up to 3, of before the first release, had one flat list of variables."""

_REMEDY = "Give the path of a file that CannonModel.write made"
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_PICKLE = (
    "a Python pickle, as models of the original package are. Convert it: bayes-cannon convert OLD NEW, or "
    "bayes_cannon.read_original_model(OLD) in Python, which unpickle nothing"
)
_KNOWN_SIGNATURES = {
    b"\x80": _PICKLE,
    b"}q": _PICKLE,  # A dict in protocol 1, and in protocol 0.
    b"(dp": _PICKLE,
    b"PK": "a zip archive, such as an .npz file",
    b"SIMPLE": "a FITS file",
    b"CDF": "a netCDF-3 file",
}


def write(path: str | os.PathLike[str], groups: Groups, *, overwrite: bool = False) -> None:
    """Write the groups of a model. The file appears whole or not at all.

    Raises
    ------
    FileExistsError
        If the file exists and ``overwrite`` is False.
    FileNotFoundError
        If the folder does not exist.

    """
    root = groups[""].assign_attrs(format=FORMAT, format_version=FORMAT_VERSION, bayes_cannon=version("bayes-cannon"))
    with atomic_path(path, overwrite=overwrite) as temporary:
        write_groups(temporary, groups | {"": root})


def read[T](path: str | os.PathLike[str], made: Callable[[Groups], T]) -> T:
    """What ``made`` makes of the groups of a model file, which is closed before.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no model file, is truncated or damaged, is of a format that this version does not read, or contradicts
        itself. A pickle is recognized and never unpickled.

    """
    path = recover(path)
    _check_signature(path)
    try:
        check(path, hdf5=True)
        with h5py.File(path) as file:
            attributes = dict(file.attrs)
    except UNREADABLE as error:
        raise _damaged(path, error) from error
    _check_format(path, attributes)
    try:
        groups = read_groups(path)
    except UNREADABLE as error:
        raise _damaged(path, error) from error
    try:
        return made(groups)
    except KeyError as error:
        raise ValueError(f"{path} is no valid model file: {error.args[0]!r} is missing in it") from error
    except UNREADABLE as error:
        raise ValueError(f"{path} is no valid model file: {str(error) or type(error).__name__}") from error


def provenance_of_writing() -> dict[str, str]:
    """Versions and the time of writing (UTC), text by name."""
    return {
        "bayes_cannon": version("bayes-cannon"),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "jax": version("jax"),
    }


def training_set_hash(labels: np.ndarray, flux: np.ndarray, ivar: np.ndarray) -> str:
    """SHA-256 of a training set, as of `array_hash`, of labels, flux and ivar."""
    return array_hash(labels, flux, ivar)


def array_hash(*arrays: np.ndarray) -> str:
    """SHA-256 of the shapes and float64 values of arrays, in hexadecimal; some rows at a time are made float64."""
    return hash_of_parts((values.shape, _in_rows(values)) for values in map(np.atleast_1d, arrays))


def hash_of_parts(arrays: Iterable[tuple[tuple[int, ...], Iterable[np.ndarray]]]) -> str:
    """As `array_hash`, of arrays that are given as their shape and, in order, their rows."""
    digest = sha256()
    for shape, parts in arrays:
        digest.update(repr(shape).encode())
        for values in parts:
            digest.update(np.ascontiguousarray(values, dtype="<f8"))
    return digest.hexdigest()


def _in_rows(values: np.ndarray) -> Iterator[np.ndarray]:
    return (values[first : first + ROWS_HASHED] for first in range(0, len(values), ROWS_HASHED))


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} is truncated or damaged: {error}. Restore it from a copy or train the model again")


def _check_signature(path: Path) -> None:
    """Raise unless the file begins as an HDF5 file."""
    if not path.exists():
        raise FileNotFoundError(f"there is no model file {path}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder, and a model is one file. {_REMEDY}")
    with path.open("rb") as file:
        start = file.read(len(_HDF5_SIGNATURE))
    if not start:
        raise ValueError(f"{path} is empty. {_REMEDY}")
    if start != _HDF5_SIGNATURE:
        kind = next((text for mark, text in _KNOWN_SIGNATURES.items() if start.startswith(mark)), "no HDF5 file")
        raise ValueError(f"{path} is no model file but {kind}. {_REMEDY}")


def _check_format(path: Path, attributes: Mapping[Any, Any]) -> None:
    """Raise unless the file is of a format that this version reads."""
    found = attributes.get("format", "absent")
    if not isinstance(found, str) or found != FORMAT:
        raise ValueError(f"{path} is no model file: its attribute 'format' is {found!r}, not {FORMAT!r}. {_REMEDY}")
    found = np.ravel(attributes.get("format_version", 0))
    if found.dtype.kind not in "iu" or found.size != 1 or found[0] < 1:
        raise ValueError(f"{path} is no valid model file: its attribute 'format_version' is {found.tolist()}")
    number = int(found[0])
    if number > FORMAT_VERSION:
        written_by = attributes.get("bayes_cannon", "an unknown version")
        raise ValueError(
            f"{path} has format version {number}, written by bayes_cannon {written_by}; this is bayes_cannon "
            f"{version('bayes-cannon')}, which reads up to version {FORMAT_VERSION}. Upgrade bayes_cannon"
        )
    if number < OLDEST_VERSION:
        raise ValueError(
            f"{path} has format version {number}, of bayes_cannon before its first release; this version reads from "
            f"version {OLDEST_VERSION} on. Train the model again and write it anew"
        )
