"""Finding that a file is damaged before a library trips over it.

A damaged HDF5 file can hang the library that reads it, or end the process. Files of this package therefore end with a
checksum of all bytes before (`seal`), in one line::

    bayes_cannon sha256 <64 hexadecimal digits> of <number> bytes

which HDF5 and zip do not look at. It is compared before anything else is read. A file without it, which others have
made or changed, is first read by another process, with a limit on its time (`check`).
"""

import os
import re
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from bayes_cannon.execution.memory import physical_memory

UNREADABLE = (
    ArithmeticError, AssertionError, AttributeError, BufferError, EOFError, LookupError, MemoryError, OSError,
    RuntimeError, SyntaxError, TypeError, ValueError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What libraries raise for contents that are not as they should be."""

_SEAL = re.compile(rb"\nbayes_cannon sha256 ([0-9a-f]{64}) of (\d{20}) bytes\n")
SEAL_SIZE = len(b"\nbayes_cannon sha256  of  bytes\n") + 64 + 20
_PIECE = 1 << 20
_SECONDS, _BYTES_A_SECOND = 30.0, 5e6
"""Time that reading may take in the other process: so much, and as long as this slow a disk would take."""

_READ_ALL = """
import sys, h5netcdf, h5py
def walk(group):
    dict(group.attrs)
    for variable in group.variables.values():
        variable.dimensions, dict(variable.attrs)
        data = variable._h5ds
        if data.shape and data.chunks:
            for part in data.iter_chunks():
                data[part]
        elif data.shape is not None:
            data[()]
    for part in group.groups.values():
        walk(part)
try:
    with h5netcdf.File(sys.argv[1], "r", phony_dims="sort") as file:
        walk(file)
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


@contextmanager
def reading(path: str | os.PathLike, what: str, remedy: str) -> Iterator[None]:
    """Make of whatever libraries raise for bad contents a ValueError ``cannot read WHAT from PATH: ...; REMEDY``."""
    try:
        yield
    except UNREADABLE as error:
        said = f"{error.args[0]!r} is missing" if type(error) is KeyError and error.args else str(error)
        raise ValueError(f"cannot read {what} from {path}: {said or type(error).__name__}; {remedy}") from error


def seal(path: str | os.PathLike, *, reserved: bool = False) -> None:
    """Add the checksum at the end of a file; with ``reserved`` in place of its last `SEAL_SIZE` bytes."""
    with open(path, "rb+") as file:
        size = file.seek(0, os.SEEK_END) - SEAL_SIZE * reserved
        digest = _digest(file, size)
        file.seek(size)
        file.write(b"\nbayes_cannon sha256 %s of %020d bytes\n" % (digest.encode(), size))


def check(path: str | os.PathLike, *, hdf5: bool) -> None:
    """Raise ValueError if the file is damaged, as far as can be known.

    Parameters
    ----------
    path
        The file.
    hdf5
        Whether it is HDF5 and must, unless it is sealed, be read by another process first.

    """
    with open(path, "rb") as file:
        whole = file.seek(0, os.SEEK_END)
        size = max(whole - SEAL_SIZE, 0)
        file.seek(size)
        found = _SEAL.fullmatch(file.read())
        if found:
            if int(found[2]) != size or _digest(file, size) != found[1].decode():
                raise ValueError("it is damaged: its bytes are not those that were written (SHA-256 differs)")
        elif hdf5:
            if size <= _end_of_hdf5(file) < whole:
                raise ValueError("it is damaged: its end is not that which was written")
            _read_elsewhere(Path(path), whole)


def check_fits(name: str, size: int) -> None:
    """Raise ValueError if an array of so many bytes is larger than the memory of this computer."""
    memory = physical_memory()
    if size > memory:
        raise ValueError(f"{name} has {size / 1e9:.3g} GB, and the memory {memory / 1e9:.3g} GB: choose fewer stars")


def _end_of_hdf5(file: BinaryIO) -> int:
    """Where an HDF5 file says that it ends (versions 0, 2 and 3 of its superblock), -1 if it does not."""
    file.seek(0)
    start = file.read(48)
    if len(start) < 48 or not start.startswith(b"\x89HDF\r\n\x1a\n") or start[8] not in (0, 2, 3):
        return -1
    place = 40 if start[8] == 0 else 28
    return int.from_bytes(start[place : place + 8], "little")


def _digest(file: BinaryIO, size: int) -> str:
    """SHA-256 of the first bytes of an open file, in hexadecimal."""
    digest = sha256()
    file.seek(0)
    while size > 0:
        piece = file.read(min(size, _PIECE))
        if not piece:
            break
        digest.update(piece)
        size -= len(piece)
    return digest.hexdigest()


def _read_elsewhere(path: Path, size: int) -> None:
    """Read all of an HDF5 file in another process, which may hang or die of it."""
    limit = _SECONDS + size / _BYTES_A_SECOND
    command = [sys.executable, "-c", _READ_ALL, str(path.absolute())]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=limit, check=False, env=environment,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ValueError(f"it is damaged: HDF5 has not read it within {limit:.0f} s") from None
    if done.returncode == 1:
        raise ValueError(f"it is truncated or damaged: {done.stderr.strip()[-500:]}")
    if done.returncode:
        raise ValueError(f"it is damaged: a process that read it ended with {done.returncode}")
