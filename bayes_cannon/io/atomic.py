"""Writing a file or a Zarr store so that it is either wholly there or not there at all, whatever happens meanwhile.

It is made in a hidden folder beside its place, ``.bayes_cannon-...``, brought to the disk (fsync), and then takes its
place in one step. The folder holds a lock, which the operating system gives back when the writer dies: the next write
into the same folder removes what dead writers left, and puts back what one had moved aside.
"""

import ctypes
import logging
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bayes_cannon.core.arguments import file_path, flag

fcntl: Any = import_module("fcntl") if find_spec("fcntl") else None
"""None on Windows, where an open file cannot be removed, which serves as the lock."""
_STORE_MARKS = ("zarr.json", ".zgroup")
"""A folder that holds one of these is a Zarr store. Any other folder is never overwritten."""
_MARK = ".bayes_cannon-"
_LOCK, _OLD = "lock", "old"
_DAY = 86400.0
"""Seconds after which the folder of another computer, whose locks may not be seen, is left over."""
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_log = logging.getLogger(__name__)


def check_output_path(path: str | os.PathLike, *, overwrite: bool) -> Path:
    """Refuse a path that cannot or must not be written, before any work is done for it.

    Raises
    ------
    FileExistsError
        If something is there and ``overwrite`` is False, or if a folder is there that is no Zarr store.
    FileNotFoundError
        If the folder that it is to lie in does not exist.

    """
    path = file_path(path)
    place = _place(path)
    if not place.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {place.parent} does not exist; create it first")
    if path.is_dir() and not any((path / mark).exists() for mark in _STORE_MARKS):
        raise FileExistsError(f"cannot write {path}: a folder of that name exists; choose another name or remove it")
    if not flag(overwrite, "overwrite") and (path.exists() or path.is_symlink()):
        raise FileExistsError(f"{path} exists; pass overwrite=True to replace it, or choose another name")
    return path


@contextmanager
def atomic_path(path: str | os.PathLike, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary path that takes the place of ``path`` when the block ends without an error.

    The temporary path has the same name in another folder. After an error nothing is left behind and what was at
    ``path`` is as it was; after the end of the process by force the next write to ``path`` removes what is left. A
    symbolic link stays, and what it points to is replaced. The file gets the permissions of the one that it replaces.

    Raises
    ------
    OSError
        If writing fails, as on a full disk, naming ``path``. Otherwise errors are those of `check_output_path`.

    """
    path = check_output_path(path, overwrite=overwrite)
    place = _place(path)
    try:
        with _working_folder(place.parent) as folder:
            temporary = folder / place.name
            yield temporary
            put_in_place(temporary, place, folder / _OLD)
    except OSError as error:
        if error.filename is not None and _MARK not in os.fsdecode(error.filename):
            raise
        if error.errno is None:
            raise OSError(f"cannot write {path}: {error}") from error
        raise OSError(error.errno, f"cannot write it: {error.strerror}", str(path)) from error


def put_in_place(made: Path, place: Path, aside: Path) -> None:
    """Let what was made take its place in one step, after it was brought to the disk.

    What is in the place is replaced; where the system cannot exchange two folders it steps aside, into another folder.
    """
    place = _place(place)
    _keep_permissions(place, made)
    _sync(made)
    _replace(place, made, aside)
    _sync_folder(place.parent)
    _log.info("wrote %s", place)


def recover(path: str | os.PathLike) -> Path:
    """The path; where nothing is there, after what a writer that was killed had moved aside was put back."""
    path = file_path(path)
    place = _place(path)
    if not path.exists() and place.parent.is_dir():
        with suppress(OSError):  # A folder that must not be written: the path stays missing.
            _remove_dead(place.parent)
    return path


def remove_dead(folder: Path) -> None:
    """Remove what writers that were killed left in a folder, where it may be written."""
    with locked(folder) if os.access(folder, os.R_OK) else nullcontext(), suppress(OSError):
        _remove_dead(folder)


def remains_in(store: Path) -> set[Path]:
    """Folders within a store in which writers have left something, or are writing."""
    return {rest.parent for rest in store.rglob(f"{_MARK}*")}


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait until no other process is in a block that holds the same file or folder; nothing where this cannot be."""
    if fcntl is None:
        yield
        return
    # Network file systems lock for oneself alone only what may be written.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        with suppress(OSError):  # Some of them know no locks.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _place(path: Path) -> Path:
    """Where the file itself lies, behind symbolic links."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


@contextmanager
def _working_folder(parent: Path) -> Iterator[Path]:
    """A folder of this process alone, after those of dead writers were removed."""
    # Alone, so that nobody takes it for dead between its making and its locking.
    with locked(parent) if os.access(parent, os.R_OK) else nullcontext():
        _remove_dead(parent)
        folder = parent / f"{_MARK}{uuid.uuid4().hex[:12]}"
        folder.mkdir(mode=0o700)
        lock = (folder / _LOCK).open("w")
        with suppress(OSError):
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        lock.write(socket.gethostname())
        lock.flush()
        yield folder
    finally:
        with suppress(OSError):  # On a full disk.
            lock.close()
        shutil.rmtree(folder, ignore_errors=True)


def _remove_dead(parent: Path) -> None:
    """Remove temporary folders whose writer is dead; what it had moved aside comes back if its place is empty."""
    with os.scandir(parent) as entries:
        folders = [Path(entry) for entry in entries if entry.name.startswith(_MARK) and entry.is_dir()]
    for folder in folders:
        if _is_held(folder / _LOCK):
            continue
        if (folder / _OLD).is_dir():
            for aside in (folder / _OLD).iterdir():
                if not (parent / aside.name).exists():
                    aside.rename(parent / aside.name)
        shutil.rmtree(folder, ignore_errors=True)


def _is_held(lock: Path) -> bool:
    """Whether the process that made this lock lives, as far as can be known."""
    try:
        with lock.open() as file:
            if file.read() not in (socket.gethostname(), ""):
                return time.time() - lock.stat().st_mtime < _DAY
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if fcntl is None:
            lock.unlink()
    except FileNotFoundError:  # It died before it wrote anything.
        return False
    except OSError:
        return True
    return False


def _keep_permissions(place: Path, temporary: Path) -> None:
    """Those of what is replaced, if it is of the same kind."""
    if place.exists() and place.is_dir() == temporary.is_dir():
        temporary.chmod(place.stat().st_mode & 0o7777)


def _sync(path: Path) -> None:
    """Bring a file, or a folder with all in it, to the disk."""
    if path.is_dir():
        for folder, _, names in os.walk(path):
            for name in names:
                _sync(Path(folder, name))
            _sync_folder(Path(folder))
    else:
        with path.open("rb+") as file:
            os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can."""
    with suppress(OSError):  # Windows, and some network file systems.
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _replace(place: Path, temporary: Path, old: Path) -> None:
    """Put what was written in its place. A folder is exchanged in one step, or else steps aside first."""
    if not place.is_dir():
        os.replace(temporary, place)
    elif not _exchange(temporary, place):
        old.mkdir()
        place.rename(old / place.name)
        try:
            temporary.rename(place)
        except BaseException:
            (old / place.name).rename(place)
            raise


def _exchange(one: Path, other: Path) -> bool:
    """Let two paths change their names in one step; False where the system cannot (Linux can, on most disks)."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    return rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0
