"""Files as people name them: one, several, a folder, a list in a file, a pattern."""

import os
from collections.abc import Sequence
from glob import glob, has_magic
from pathlib import Path

from bayes_cannon.core.arguments import file_path, listed

Paths = str | os.PathLike | Sequence[str | os.PathLike]


def list_files(paths: Paths) -> list[Path]:
    """The files that are meant, in a fixed order: as they are named, those of a folder or pattern sorted by name.

    Parameters
    ----------
    paths
        One or several of: a file; a folder, for all files in it and in its folders, but for hidden ones; ``@LIST``,
        for the lines of a text file, each of which is one of these; a pattern such as ``plate/*.fits``. A Zarr store
        counts as a file. Whether a file that is named exists is for whoever reads it.

    Raises
    ------
    FileNotFoundError
        If a list is missing, a folder holds no files, or a pattern fits none.
    ValueError
        If there are no files at all, or one is named twice.

    Examples
    --------
    >>> for name in ("b.fits", "a.fits"):
    ...     open(name, "w").close()
    >>> [path.name for path in list_files("*.fits")]
    ['a.fits', 'b.fits']

    """
    several = None if isinstance(paths, str | os.PathLike) else listed(paths)
    named = [paths] if several is None else several
    found = [path for one in named for path in _files(str(file_path(one)))]
    if not found:
        raise ValueError("there are no files to read: name a file, a folder or a list of files")
    seen: set[Path] = set()
    for path in found:
        if path in seen:
            raise ValueError(f"the file {path} is named twice: leave one of the two out")
        seen.add(path)
    return found


def _files(named: str, inside: str = "") -> list[Path]:
    if named.startswith("@") and not Path(named).exists():
        if inside:
            raise ValueError(f"the list {inside} names another list, {named}: name the files there")
        return [path for line in _lines(Path(named[1:])) for path in _files(line, inside=named[1:])]
    path = Path(named)
    if path.is_dir() and not _is_store(path):
        return _in_folder(path)
    if not path.exists() and has_magic(named):
        matching = sorted(Path(one) for one in glob(named, recursive=True))
        files = [file for one in matching for file in ([one] if one.is_file() or _is_store(one) else [])]
        if not files:
            raise FileNotFoundError(f"no file fits the pattern {named}")
        return files
    return [path]


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no list of files {path}")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"the list {path} is no text in UTF-8: {error}") from None
    return [line for line in lines if line and not line.startswith("#")]


def _in_folder(folder: Path) -> list[Path]:
    found = []
    for place, folders, names in os.walk(folder, followlinks=True):
        stores = [name for name in folders if _is_store(Path(place, name))]
        folders[:] = [name for name in folders if name not in stores and not name.startswith(".")]
        found += [Path(place, name) for name in [*names, *stores] if not name.startswith(".")]
    if not found:
        raise FileNotFoundError(f"the folder {folder} holds no files")
    return sorted(found)


def _is_store(path: Path) -> bool:
    return path.suffix.lower() == ".zarr" and path.is_dir()
