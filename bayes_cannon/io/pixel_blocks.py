"""Spectra by blocks of pixels: of stars in a store that is sharded by stars, or of a scratch store made from it.

Training needs some pixels of all stars; a store has all pixels of some stars. `StarRows` reads either, `PixelBlocks` is
the scratch store: Zarr arrays of flux and ivar (star, pixel) in chunks of some stars and a block of pixels. A chunk is
there whole or not at all, so that the scratch store itself says what of it is missing.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bayes_cannon.core.checks import unusable
from bayes_cannon.core.intake import flux_and_ivar
from bayes_cannon.io.damage import reading
from bayes_cannon.io.preparation import Preparation
from bayes_cannon.io.quantities import with_units
from bayes_cannon.io.spectra_store import SpectraStore

_ARRAYS = ("flux", "ivar")


@dataclass(frozen=True, eq=False)
class StarRows:
    """Spectra of some stars in a store, as a training set of theirs would hold them.

    Attributes
    ----------
    store
        The store.
    stars
        Their rows, ascending, shape (star,).
    preparation
        What is done to each spectrum, or None.
    window
        Rows of the store that are read at once.

    """

    store: SpectraStore
    stars: np.ndarray
    preparation: Preparation | None
    window: int

    def parts(
        self, stars: slice | np.ndarray = slice(None), pixels: slice = slice(None), *, checked: bool = True
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Flux and ivar of some of the stars, in order, a part at a time, shape (star, pixel), float64.

        Parameters
        ----------
        stars
            Places in `stars`, ascending.
        pixels
            Pixels after the preparation.
        checked
            Whether the checksums of shards are compared.

        Raises
        ------
        ValueError
            For ivar that is negative or not finite, and flux that is not finite where ivar is positive, naming the
            star; if files of the store are damaged.

        """
        rows, first = self.stars[stars], 0
        read = pixels if self.preparation is None else slice(None)
        for part in self.store.parts(rows, read, size=self.window, checked=checked):
            spectra = part if self.preparation is None else self.preparation.apply(part)
            flux, ivar, _ = flux_and_ivar(*with_units(spectra)[:2])
            if self.preparation is not None:
                flux, ivar = flux[:, pixels], ivar[:, pixels]
            self._check(flux, ivar, rows[first : first + len(flux)], pixels.start or 0)
            first += len(flux)
            yield flux, ivar

    def filled(
        self, stars: slice | np.ndarray, pixels: slice, dtype: np.dtype, *, checked: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """Flux and ivar of some of the stars in arrays of this type, shape (star, pixel)."""
        flux = ivar = np.empty((0, 0), dtype)
        end, n_stars = 0, len(self.stars[stars])
        for y, w in self.parts(stars, pixels, checked=checked):
            if not end:
                flux, ivar = (np.empty((n_stars, y.shape[1]), dtype) for _ in _ARRAYS)
            flux[end : end + len(y)], ivar[end : end + len(y)] = y, w
            end += len(y)
        return flux, ivar

    def _check(self, flux: np.ndarray, ivar: np.ndarray, rows: np.ndarray, first_pixel: int) -> None:
        bad_ivar, bad_flux = unusable(flux, ivar)
        for name, values, bad, wanted in (
            ("ivar", ivar, bad_ivar, "finite and not negative"),
            ("flux", flux, bad_flux, "finite where ivar is positive"),
        ):  # fmt: skip
            if bad.any():
                star, pixel = np.argwhere(bad)[0]
                raise ValueError(
                    f"{name} in {self.store.path} must be {wanted}; got {values[star, pixel]} for its star "
                    f"{rows[star]} at pixel {first_pixel + pixel}: write the store anew with ivar 0 there, or leave "
                    "the star out"
                )


@dataclass(frozen=True)
class PixelBlocks:
    """A scratch store of blocks of pixels.

    Attributes
    ----------
    path
        Folder of the Zarr store.
    n_stars, n_pixels
        How many.
    batch, block
        Stars and pixels of a chunk.
    dtype
        Name of the type of its numbers.

    """

    path: Path
    n_stars: int
    n_pixels: int
    batch: int
    block: int
    dtype: str

    def make(self, made_of: Mapping[str, str]) -> None:
        """Make it, or go on with one that was made of the same.

        Raises
        ------
        ValueError
            If there is one that was made of something else, naming what differs.

        """
        import zarr  # An extra.

        content = {**made_of, "batch": str(self.batch), "block": str(self.block), "dtype": self.dtype}
        if (self.path / "zarr.json").exists():
            with reading(self.path, "the scratch store", "remove it"):
                found = dict(zarr.open_group(self.path, mode="r").attrs)
            other = [
                f"{k} is {found.get(k, 'absent')} there and {v} here" for k, v in content.items() if found.get(k) != v
            ]
            if other:
                raise ValueError(
                    f"the scratch store {self.path} was made for another training: {'; '.join(other)}. Remove it, or "
                    "choose another folder with scratch="
                )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        root = zarr.open_group(self.path, mode="a", zarr_format=3)
        for name in _ARRAYS:
            if name not in root:
                root.create_array(
                    name, shape=(self.n_stars, self.n_pixels), chunks=(self.batch, self.block), dtype=self.dtype,
                    fill_value=0, dimension_names=("star", "pixel"), compressors=_checksum(),
                )  # fmt: skip
        root.attrs.update(content)

    @property
    def batches(self) -> int:
        """Number of batches of stars."""
        return -(-self.n_stars // self.batch)

    def stars(self, batch: int) -> slice:
        """Places of the stars of a batch."""
        return slice(batch * self.batch, min((batch + 1) * self.batch, self.n_stars))

    def missing(self) -> list[int]:
        """Batches of which chunks are missing."""
        blocks = range(-(-self.n_pixels // self.block))
        return [
            batch
            for batch in range(self.batches)
            if not all((self.path / name / f"c/{batch}/{block}").is_file() for name in _ARRAYS for block in blocks)
        ]

    def write(self, batch: int, flux: np.ndarray, ivar: np.ndarray) -> None:
        """Write the spectra of a batch, shape (star, pixel)."""
        import zarr  # An extra.

        with zarr.config.set({"array.write_empty_chunks": True}):  # What is not there is missing.
            for name, values in zip(_ARRAYS, (flux, ivar), strict=True):
                self._array(name, "r+")[self.stars(batch)] = values

    def read(self, pixels: slice) -> tuple[np.ndarray, np.ndarray]:
        """Flux and ivar of all stars, shape (star, pixel)."""
        flux, ivar = (self.rows(name, slice(None), pixels) for name in _ARRAYS)
        return flux, ivar

    def rows(self, name: str, stars: slice, pixels: slice = slice(None)) -> np.ndarray:
        """Flux or ivar of some stars, shape (star, pixel)."""
        with reading(self.path, "the scratch store", "remove it, and train again"):
            return np.asarray(self._array(name, "r")[stars, pixels])

    def remove(self) -> None:
        """Remove it, if it is there."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self.path)

    def _array(self, name: str, mode: Any) -> Any:
        import zarr  # An extra.

        return zarr.open_array(self.path / name, mode=mode)


def _checksum() -> list[Any]:
    """What its chunks are written with: a checksum alone, because noise is hardly compressed."""
    from zarr.codecs import Crc32cCodec  # An extra.

    return [Crc32cCodec()]
