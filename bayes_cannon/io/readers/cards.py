"""The headers of a FITS file in memory, of which no value is parsed before it is asked for, and its images.

Astropy parses the headers of all HDUs with every card, which takes most of the time in which a file is read.
Only what is plain is read here. All else is left to Astropy: keywords and texts that go over several cards or are
longer than the standard's, complex and undefined values, compressed or scaled images, random groups, and files that are
damaged.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from astropy.io import fits

_CARD, _BLOCK = 80, 2880
_HEADER = re.compile(rb"((?:.{80})*?)END {77}", re.DOTALL)
_VALUE = re.compile(
    rb"= +(?:'((?:[ -&(-~]|'')*)'|([+-]?\d+)|([+-]?(?:\d+\.?\d*|\.\d+)(?:[ED][+-]?\d+)?)|([TF])) *(?:/[ -~]*)?"
)
_LONG = {"HIERARCH", "CONTINUE"}
_OTHER_DATA = {"ZIMAGE", "GROUPS"}
_SCALED = {"BSCALE", "BZERO", "BLANK"}
_PIXELS = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
"""NumPy's type of the pixels by BITPIX."""


class Cards(Mapping[str, Any]):
    """Value by keyword, as `astropy.io.fits.Header` gives it; of a keyword that is there twice the first.

    Attributes
    ----------
    data
        Where the data of the HDU begin in the file.

    """

    def __init__(self, raw: bytes, data: int) -> None:
        self._raw, self._values, self.data = raw, dict[str, Any](), data
        text = raw.decode("ascii").upper()
        keywords = [text[place : place + 8].rstrip() for place in range(0, len(text), _CARD)]
        self._places = dict(zip(reversed(keywords), range(len(raw) - _CARD, -1, -_CARD), strict=True))

    def __getitem__(self, keyword: str) -> Any:
        if keyword not in self._values:
            self._values[keyword] = self._parsed(keyword)
        return self._values[keyword]

    def __contains__(self, keyword: object) -> bool:
        return keyword in self._places

    def __iter__(self) -> Iterator[str]:
        return reversed(self._places)

    def __len__(self) -> int:
        return len(self._places)

    @cached_property
    def _header(self) -> fits.Header:
        return fits.Header.fromstring(self._raw)

    def _parsed(self, keyword: str) -> Any:
        if keyword not in self._places:
            raise KeyError(f"Keyword {keyword!r} not found.")
        place = self._places[keyword]
        found = _VALUE.fullmatch(self._raw, place + 8, place + _CARD)
        if found is None or (found[1] and b": " in found[1]):  # Such a text may be a number to Astropy.
            return self._header[keyword]
        text, whole, real, logical = found.groups()
        if text is not None:
            return text.decode("ascii").rstrip().replace("''", "'")
        if logical is not None:
            return logical == b"T"
        return int(whole) if whole is not None else float(real.replace(b"D", b"E"))


def plain_headers(content: bytes) -> tuple[Mapping[str, Any], ...] | None:
    """Headers of all HDUs; None where the file does not end with an HDU, or only Astropy knows what is in one."""
    headers, start = list[Mapping[str, Any]](), 0
    while start < len(content):
        found = _HEADER.match(content, start)
        if found is None or not found[1].startswith(b"XTENSION" if headers else b"SIMPLE  "):
            return None
        data = found.end() + (start - found.end()) % _BLOCK
        try:
            header = Cards(found[1], data)
            axes = [header[f"NAXIS{axis}"] for axis in range(1, header["NAXIS"] + 1)]
            numbers = [header["BITPIX"], header.get("PCOUNT", 0), header.get("GCOUNT", 1), *axes]
        except (LookupError, TypeError, ValueError):
            return None
        is_plain = all(type(one) is int for one in numbers) and min(numbers[1:]) >= 0 and _OTHER_DATA.isdisjoint(header)
        if not is_plain or content[found.end() : data].strip(b" "):
            return None
        bits, parameters, groups, *_ = numbers
        size = abs(bits) // 8 * groups * (parameters + prod(axes)) if axes else 0
        headers.append(header if _LONG.isdisjoint(header) else fits.Header.fromstring(found[1]))
        start = data + size + -size % _BLOCK
    return tuple(headers) if headers and start == len(content) else None


def plain_image(content: bytes, header: Mapping[str, Any]) -> np.ndarray | None:
    """Pixels of the image of one of the `plain_headers`, as Astropy gives them; None where it is no plain image."""
    if not isinstance(header, Cards) or not _SCALED.isdisjoint(header):
        return None
    kind, n_axes = _PIXELS.get(header["BITPIX"]), header["NAXIS"]
    if kind is None or not n_axes or header.get("XTENSION", "IMAGE").rstrip() != "IMAGE":
        return None
    shape = [header[f"NAXIS{axis}"] for axis in range(n_axes, 0, -1)]
    return np.frombuffer(content, kind, prod(shape), header.data).reshape(shape)
