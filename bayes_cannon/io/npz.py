"""Arrays by name in NumPy's ``.npz``, with a checksum of the whole file (`io.damage`) as the comment of the archive."""

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bayes_cannon.io.damage import SEAL_SIZE, UNREADABLE, check, seal


def write_npz(path: Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, Mapping[str, Any]]) -> None:
    """Write arrays, and what is said ``about`` them as JSON in an array ``attrs``."""
    np.savez_compressed(path, allow_pickle=False, attrs=np.array(json.dumps(about)), **arrays)
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = bytes(SEAL_SIZE)
    seal(path, reserved=True)


def put_npz(path: Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, Mapping[str, Any]]) -> None:
    """As `write_npz`, of a file that is there whole or not at all."""
    partial = path.with_name(f"partial-{path.name}")
    write_npz(partial, arrays, about)
    os.replace(partial, path)


def read_npz(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of an .npz by name, and what `write_npz` was told about them.

    Raises
    ------
    ValueError
        If an array cannot be loaded, naming it; a damaged archive can raise any of `io.damage.UNREADABLE`.

    """
    check(path, hdf5=False)
    # The stream is ours: numpy.load leaves a file open that it could not read.
    with path.open("rb") as stream:
        file = np.load(stream, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("it is one array, not an .npz archive")
        damaged = (
            file.zip.testzip() if file.zip else None
        )  # NumPy reads an array whose header is too short, without the end and its CRC.
        if damaged is not None:
            raise ValueError(f"it is damaged: the CRC-32 of {damaged!r} differs")
        arrays = {}
        for name in file.files:
            try:
                arrays[name] = file[name]
            except UNREADABLE as error:
                raise ValueError(f"the array {name!r} cannot be loaded: {error}") from error
    about = json.loads(str(arrays.pop("attrs"))) if "attrs" in arrays else {}
    if not isinstance(about, dict) or not all(isinstance(part, dict) for part in about.values()):
        raise ValueError(f"'attrs' must be a JSON object with units and attrs, got {about!r:.60}")
    return arrays, about
