"""A FITS file, opened once: its structure for readers that look, its HDUs for the one that reads."""

import gzip
import io
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning

from bayes_cannon.io.damage import reading
from bayes_cannon.io.readers.cards import plain_headers, plain_image

_KEPT = 1 << 26
"""Bytes of a file up to which it is kept in memory between the look at it and its reading."""
_FITS_SUFFIXES = (".fits", ".fit", ".fits.gz", ".fit.gz", ".fits.fz", ".fz")
_CUT = "File may have been truncated|Error validating header"
"""What Astropy warns of, and then goes on without what is missing."""


@dataclass(frozen=True)
class Layout:
    """Headers of all HDUs of a FITS file, values by keyword; none where it is not FITS."""

    headers: Sequence[Mapping[str, Any]]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """EXTNAME of each HDU, in capitals, empty where it has none."""
        return tuple(str(header.get("EXTNAME", "")).strip().upper() for header in self.headers)

    def columns(self, hdu: int) -> tuple[str, ...]:
        """Names of the columns of a table, in capitals; none if there is no table."""
        if hdu >= len(self.headers):
            return ()
        header = self.headers[hdu]
        return tuple(str(header.get(f"TTYPE{k}", "")).upper() for k in range(1, int(header.get("TFIELDS", 0)) + 1))


def layout(path: Path) -> Layout:
    """Headers of all HDUs; none if it is no FITS file, by its first bytes.

    Raises
    ------
    ValueError
        If it begins as a FITS file, or is called so, and cannot be read as one.

    """
    stat = path.stat()
    return _layout(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=4)
def _layout(path: Path, changed: int, size: int) -> Layout:
    with reading(path, "the FITS file", "is it damaged, or was it not wholly copied?"):
        if not _begins_as_fits(path):
            if path.name.lower().endswith(_FITS_SUFFIXES):
                raise ValueError("it does not begin as a FITS file does")
            return Layout(())
        if size < _KEPT and (headers := _content(path, changed, size)[1]):
            return Layout(headers)
        with _whole(path) as hdus:
            return Layout(tuple(hdu.header for hdu in hdus))


def _begins_as_fits(path: Path) -> bool:
    with open(path, "rb") as file:
        start = file.read(6)
    if start[:2] == b"\x1f\x8b":
        with gzip.open(path) as unpacked:
            start = unpacked.read(6)
    return start == b"SIMPLE"


@contextmanager
def opened(path: Path, wanted: str) -> Iterator[fits.HDUList]:
    """The HDUs of a file; whatever goes wrong inside is a ValueError that names the file and what was expected."""
    with _reading(path, wanted), _whole(path) as hdus:
        yield hdus


@contextmanager
def images(path: Path, wanted: str) -> Iterator[Callable[[int], Any]]:
    """As `opened`, but it gives a function from the number of an HDU to its pixels, None where it has none.

    Plain images are taken from the bytes of the file, because Astropy takes longer to make the HDUs than to read them.
    """
    with _reading(path, wanted), ExitStack() as used:

        def image(hdu: int) -> Any:
            stat = path.stat()
            content, headers = _content(path, stat.st_mtime_ns, stat.st_size) if stat.st_size < _KEPT else (b"", None)
            plain = plain_image(content, headers[hdu]) if headers else None
            return used.enter_context(_whole(path))[hdu].data if plain is None else plain

        yield image


@contextmanager
def _reading(path: Path, wanted: str) -> Iterator[None]:
    try:
        with reading(path, "spectra", wanted):
            yield
    finally:  # Reading data changes headers, as those of scaled integers.
        _content.cache_clear()
        _hdus.cache_clear()
        _layout.cache_clear()


@contextmanager
def _whole(path: Path) -> Iterator[fits.HDUList]:
    """The HDUs of a file that must not end too early."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", _CUT, AstropyUserWarning)
        try:
            if path.stat().st_size < _KEPT:
                stat = path.stat()
                yield _hdus(path, stat.st_mtime_ns, stat.st_size)
            else:
                with fits.open(path, memmap=False) as hdus:
                    yield hdus
        except (AstropyUserWarning, OSError) as error:  # Texts of several lines.
            raise ValueError(" ".join(str(error).split())) from error


@lru_cache(maxsize=1)
def _content(path: Path, changed: int, size: int) -> tuple[bytes, tuple[Mapping[str, Any], ...] | None]:
    """A file in memory, and its headers if they are plain, for who looks and for who reads."""
    del changed, size  # They tell a file from one that was written in its place.
    content = path.read_bytes()
    content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    return content, plain_headers(content)


@lru_cache(maxsize=1)
def _hdus(path: Path, changed: int, size: int) -> fits.HDUList:
    """All HDUs of a file in memory, each of which Astropy parses when it is asked for."""
    content, headers = _content(path, changed, size)
    hdus = fits.open(io.BytesIO(content), memmap=False)
    if headers is None:
        last = hdus[len(hdus) - 1].fileinfo()  # The length reads all of them.
        if content[last["datLoc"] + last["datSpan"] :].startswith(b"XTENSION"):  # Astropy only warns.
            raise ValueError(f"it ends within the header of HDU {len(hdus)}")
    return hdus
