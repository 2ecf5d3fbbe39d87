"""A Zarr store of spectra, read shard by shard.

A shard is one file for the flux and one for the ivar of some thousand stars (`io.unfinished_store`).
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bayes_cannon.io.atomic import recover
from bayes_cannon.io.damage import reading
from bayes_cannon.io.spectra import Spectra, open_dataset
from bayes_cannon.io.spectra_variables import from_dataset
from bayes_cannon.io.zarr_files import damaged_files

_ARRAYS = ("flux", "ivar")


@dataclass(frozen=True)
class SpectraStore:
    """A Zarr store of spectra whose shards are read when they are asked for.

    Attributes
    ----------
    path
        Folder of the store.
    n_stars, n_pixels
        How many.
    shard_size
        Spectra of a shard; the last may have fewer.

    """

    path: Path
    n_stars: int
    n_pixels: int
    shard_size: int

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.n_stars // self.shard_size)

    def shard(self, number: int) -> Spectra:
        """The spectra of one shard, in memory.

        Raises
        ------
        IndexError
            If there is no such shard.
        ValueError
            If its files are lost or damaged.

        """
        if not 0 <= number < self.shards:
            raise IndexError(f"{self.path} has the shards 0 to {self.shards - 1}, and no shard {number}")
        with reading(self.path, f"shard {number}", "write the store anew"):
            _check(self.path, lambda name: name.startswith(tuple(f"{array}/c/{number}/" for array in _ARRAYS)))
            with open_dataset(self.path, ".zarr", checked=False) as dataset:
                rows = slice(number * self.shard_size, (number + 1) * self.shard_size)
                return Spectra(**from_dataset(dataset.isel(star=rows), {}))  # Its checksums tell of lost chunks.

    def __iter__(self) -> Iterator[Spectra]:
        return (self.shard(number) for number in range(self.shards))


def open_store(path: str | os.PathLike) -> SpectraStore:
    """Open a Zarr store of spectra without reading them.

    Raises
    ------
    FileNotFoundError
        If there is no such store; one that is unfinished is named.
    ImportError
        If the extra ``bayes-cannon[zarr]`` is not installed.
    ValueError
        If it holds no spectra, or is damaged, shards apart: they are looked at when they are read.

    Examples
    --------
    >>> spectra = tc.io.Spectra(np.ones((3, 4)), np.full((3, 4), 1e4), wavelength=np.linspace(5000, 5003, 4))
    >>> tc.io.write_spectra("store.zarr", spectra)
    >>> store = tc.io.open_store("store.zarr")
    >>> store.n_stars, store.shards, store.shard(0).n_stars
    (3, 1, 3)

    """
    path = recover(path)
    if not path.exists():
        begun = unfinished(path)
        hint = f"; it is unfinished, in {begun}: the command that began it goes on with it" if begun.exists() else ""
        raise FileNotFoundError(f"there is no store {path}{hint}")
    with reading(path, "the store", "expected flux and ivar of shape (star, pixel)"):
        _check(path, lambda name: not name.startswith(tuple(f"{array}/c/" for array in _ARRAYS)))
        with open_dataset(path, ".zarr", checked=False) as dataset:
            flux = dataset["flux"]
            if flux.dims != ("star", "pixel"):
                raise ValueError(f"the dimensions of 'flux' must be star and pixel, got {flux.dims}")
            encoding = flux.encoding
            size = (encoding.get("shards") or encoding["chunks"])[0]
            return SpectraStore(path, len(flux), flux.shape[1], int(size))


def _check(path: Path, wanted: Callable[[str], bool]) -> None:
    """Raise for damage of some files."""
    damaged = damaged_files(path, wanted)
    for name, what in damaged.items():
        raise ValueError(f"it is damaged: its file {name} {what}")


def unfinished(path: Path) -> Path:
    """Folder in which a store is filled."""
    return path.with_name(f"{path.name}.unfinished")
