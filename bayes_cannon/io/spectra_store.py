"""A Zarr store of spectra, read shard by shard, or in smaller parts of some stars and pixels.

A shard is one file for the flux and one for the ivar of some thousand stars (`io.unfinished_store`).
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import xarray as xr

from bayes_cannon.io.atomic import recover
from bayes_cannon.io.damage import reading
from bayes_cannon.io.packing import PACKED
from bayes_cannon.io.shard_files import decoded_shard
from bayes_cannon.io.spectra import Spectra, StoredSpectra, open_dataset
from bayes_cannon.io.spectra_variables import RESERVED, from_dataset, plain_attributes
from bayes_cannon.io.zarr_files import damaged_files, missing_chunks, seal_of, seal_stamp

_ARRAYS = ("flux", "ivar")
_STARS_KEPT = 65_536
"""Largest chunk of names and labels that is kept decoded: some megabytes."""


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
    pixel_bytes
        Bytes of flux and ivar of a pixel, as they are stored, before compression.
    identifiers
        Names of its texts, and of integers of 64 bits, of which there is one a star; ``star_id`` apart.
    chunks
        Stars and pixels that are decoded together, as a part of a shard.
    single
        Whether float32 holds every flux and ivar exactly.

    """

    path: Path
    n_stars: int
    n_pixels: int
    shard_size: int
    pixel_bytes: int = 16
    identifiers: tuple[str, ...] = ()
    chunks: tuple[int, int] = (1, 1)
    single: bool = False

    @property
    def sha256(self) -> str:
        """What tells its spectra from others: SHA-256 of the checksums of its files.

        Of a store that others wrote, which has none, it is that of the names, sizes and times of its files of flux and
        ivar: a copy of it is another store unless it keeps the times.
        """
        seal = seal_of(self.path)
        if seal is not None:
            files = {name: value for name, value in seal["crc32"].items() if name.split("/")[0] in _ARRAYS}
        else:
            paths = [path for array in _ARRAYS for path in (self.path / array).rglob("*") if path.is_file()]
            stamps = [(path.relative_to(self.path).as_posix(), path.stat()) for path in paths]
            files = {name: [about.st_size, about.st_mtime_ns] for name, about in stamps}
        return sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.n_stars // self.shard_size)

    def attributes(self) -> dict[str, str | float | int]:
        """Texts and numbers about the whole store."""
        with open_dataset(self.path, ".zarr", checked=False) as dataset:
            return plain_attributes(dataset.attrs)

    def shard(self, number: int, *, as_stored: bool = False) -> Spectra:
        """The spectra of one shard, in memory.

        Parameters
        ----------
        number
            Of the shard, from 0.
        as_stored
            Whether flux and ivar that the store holds in float32, and not packed, stay in float32.

        Raises
        ------
        FileNotFoundError
            If the store was removed meanwhile.
        IndexError
            If there is no such shard.
        ValueError
            If its files are lost or damaged.

        """
        if not 0 <= number < self.shards:
            raise IndexError(f"{self.path} has the shards 0 to {self.shards - 1}, and no shard {number}")
        if not self.path.exists():
            raise FileNotFoundError(f"the store {self.path} is not there any more: it was removed or moved")
        with reading(self.path, f"shard {number}", "write the store anew"), self._opened() as dataset:
            first, kind = number * self.shard_size, StoredSpectra if as_stored else Spectra
            rows = slice(first, min(first + self.shard_size, self.n_stars))
            absent = missing_chunks(self.path, dataset, rows)
            return kind(**from_dataset(self._rows(dataset, number, rows), absent, as_stored=as_stored))

    def _rows(self, dataset: xr.Dataset, number: int, rows: slice) -> xr.Dataset:
        """The rows of a shard, with flux and ivar decoded where that is faster."""
        found: dict[str, xr.Variable] = {}
        stamp = seal_stamp(self.path)
        if stamp is not None:  # So that its files are what they were when they were written.
            found |= self._of_stars(dataset, rows, stamp)
            for name in _ARRAYS:
                values = decoded_shard(self.path, name, number, rows.stop - rows.start, sealed=True)
                if values is not None:
                    found[name] = xr.Variable(dataset[name].dims, values, dataset[name].attrs)
            left = [name for name in _ARRAYS if name not in found]
            if left:
                _check(self.path, lambda file: file.startswith(_files_of(number, left)))
        return dataset.drop_vars(found).isel(star=rows, missing_dims="ignore").assign(found)

    def _of_stars(self, dataset: xr.Dataset, rows: slice, stamp: tuple[int, int]) -> dict[str, xr.Variable]:
        """Names and labels of some stars, from chunks that many shards share and that are decoded once for them."""
        given = {str(name): one for name, one in dataset.variables.items() if one.dims == ("star",)}
        chunks = [one.encoding.get("chunks") for one in given.values()]  # Old versions of xarray forget those of names.
        size = max((lengths[0] for lengths in chunks if lengths), default=0)
        first = rows.start // size * size if size else 0
        if rows.stop > first + size or size > _STARS_KEPT:
            return {}
        kept = _kept_stars(self.path, *stamp, tuple(given), first, min(first + size, self.n_stars))
        return {name: one.isel(star=slice(rows.start - first, rows.stop - first)) for name, one in kept.items()}

    def _opened(self) -> AbstractContextManager[xr.Dataset]:
        """What the store holds, with arrays that are read when they are used, each time anew."""
        stamp = seal_stamp(self.path)
        if stamp is None:
            return open_dataset(self.path, ".zarr", checked=False)
        return nullcontext(_kept_open(self.path, *stamp))

    def __iter__(self) -> Iterator[Spectra]:
        return (self.shard(number) for number in range(self.shards))

    def stars(self) -> Spectra:
        """What is known of all stars, such as names and labels, without their pixels."""
        with (
            reading(self.path, "the stars", "write the store anew"),
            open_dataset(self.path, ".zarr", checked=False) as dataset,
        ):
            of_pixels = [name for name, array in dataset.variables.items() if array.dims == ("pixel",)]
            known = dataset.drop_vars(["mask", "noise_correlation", *of_pixels], errors="ignore")
            absent = missing_chunks(self.path, known.drop_vars(_ARRAYS))
            return Spectra(**from_dataset(known.isel(pixel=slice(0)), absent))

    def parts(
        self, stars: np.ndarray, pixels: slice = slice(None), *, size: int, checked: bool = True
    ) -> Iterator[Spectra]:
        """Spectra of some stars, without what else is known of them, from at most ``size`` rows of a shard at a time.

        Parameters
        ----------
        stars
            Rows of the store, ascending, shape (star,).
        pixels
            Which pixels.
        size
            Rows of the store that may be read at once.
        checked
            Whether the checksum of each shard is compared before it is read.

        Raises
        ------
        ValueError
            If files of a shard are lost or damaged.

        """
        with open_dataset(self.path, ".zarr", checked=False) as dataset:
            unused = [name for name in dataset.variables if name not in (*_ARRAYS, "mask", "wavelength", "dispersion")]
            dataset = dataset.drop_vars(unused).isel(pixel=pixels)
            for number in np.unique(stars // self.shard_size):
                first, last = number * self.shard_size, min((number + 1) * self.shard_size, self.n_stars)
                with reading(self.path, f"shard {number}", "write the store anew"):
                    if checked:
                        _check(self.path, lambda name, k=number: name.startswith(_files_of(k)))  # type: ignore[misc]
                for start in range(first, last, size):
                    end = min(start + size, last)
                    rows = stars[np.searchsorted(stars, start) : np.searchsorted(stars, end)]
                    if not len(rows):
                        continue
                    with reading(self.path, f"shard {number}", "write the store anew"):
                        read = slice(int(rows[0]), int(rows[-1]) + 1)
                        absent = missing_chunks(self.path, dataset, read)
                        absent = {name: mask.isel(pixel=pixels, missing_dims="ignore") for name, mask in absent.items()}
                        part = Spectra(**from_dataset(dataset.isel(star=read), absent))
                    yield part.at(rows - rows[0])


@lru_cache(1)
def _kept_open(path: Path, _time: int, _size: int) -> xr.Dataset:
    """A store that does not change, opened once: it takes a third as long as to decode a shard."""
    dataset = open_dataset(path, ".zarr", checked=False, cache=False)
    for name in ("wavelength", "dispersion"):
        if name in dataset.variables:
            dataset.variables[name].load()
    return dataset


@lru_cache(1)
def _kept_stars(
    path: Path, time: int, size: int, names: tuple[str, ...], first: int, last: int
) -> dict[str, xr.Variable]:  # fmt: skip
    """Names and labels of some stars of such a store, decoded."""
    dataset = _kept_open(path, time, size)
    return {name: dataset.variables[name].isel(star=slice(first, last)).load() for name in names}


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
            chunks = int(encoding["chunks"][0]), int(encoding["chunks"][1])
            arrays = [dataset[name] for name in _ARRAYS]
            single = all(array.dtype == np.float32 and not PACKED & {*array.attrs} for array in arrays)
            names = {
                str(name) for name, one in dataset.variables.items()
                if one.dims == ("star",) and (one.dtype.kind in "OSUT" or one.dtype.str[1:] in ("i8", "u8"))
            }  # fmt: skip
            pixel_bytes = flux.dtype.itemsize + dataset["ivar"].dtype.itemsize
            identifiers = tuple(sorted(names - {*RESERVED}))
            return SpectraStore(path, len(flux), flux.shape[1], int(size), pixel_bytes, identifiers, chunks, single)


def _files_of(shard: int, arrays: Iterable[str] = _ARRAYS) -> tuple[str, ...]:
    """How the names of the files of a shard begin."""
    return tuple(f"{array}/c/{shard}/" for array in arrays)


def _check(path: Path, wanted: Callable[[str], bool]) -> None:
    """Raise for damage of some files."""
    damaged = damaged_files(path, wanted)
    for name, what in damaged.items():
        raise ValueError(f"it is damaged: its file {name} {what}")


def unfinished(path: Path) -> Path:
    """Folder in which a store is filled."""
    return path.with_name(f"{path.name}.unfinished")
