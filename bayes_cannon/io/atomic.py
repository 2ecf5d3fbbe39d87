"""Writing a file so that it is either wholly there or not there at all."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_STORE_MARKS = ("zarr.json", ".zgroup")
"""A folder that holds one of these is a Zarr store. Any other folder is never overwritten."""


def check_output_path(path: str | os.PathLike, *, overwrite: bool) -> Path:
    """Refuse a path that cannot or must not be written, before any work is done for it.

    Raises
    ------
    FileExistsError
        If something is there and ``overwrite`` is False, or if a folder is there that is no Zarr store.
    FileNotFoundError
        If the folder that it is to lie in does not exist.

    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {path.parent} does not exist; create it first")
    if path.is_dir() and not any((path / mark).exists() for mark in _STORE_MARKS):
        raise FileExistsError(f"cannot write {path}: a folder of that name exists; choose another name or remove it")
    if not overwrite and (path.exists() or path.is_symlink()):
        raise FileExistsError(f"{path} exists; pass overwrite=True to replace it, or choose another name")
    return path


@contextmanager
def atomic_path(path: str | os.PathLike, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that takes its place when the block ends without an error.

    After an error nothing is left behind and what was at ``path`` is as it was. The temporary name keeps the suffix,
    by which some writers choose the format. Errors are those of `check_output_path`.
    """
    path = check_output_path(path, overwrite=overwrite)
    mark = uuid.uuid4().hex[:12]
    temporary = path.with_name(f".{path.stem}.{mark}{path.suffix}")
    try:
        yield temporary
        if path.is_dir():
            # A folder cannot be replaced in one step: the old one steps aside first.
            aside = path.with_name(f".{path.name}.{mark}.old")
            path.rename(aside)
            temporary.rename(path)
            shutil.rmtree(aside)
        else:
            os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)
