"""Zarr stores on a disk: which arrays may be decoded at all, and checksums that find what was lost or damaged.

A store of this package has a group of its own, `CHECKSUMS`, whose attributes hold the CRC-32 of the files that do not
change any more once it is written. Its arrays have the codec ``crc32c`` besides.
"""

import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from itertools import product
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from bayes_cannon.core.warnings import BayesCannonWarning, warn_user

_CHUNKED = ("flux", "ivar", "mask", "wavelength", "dispersion", "star", "star_id")
CHECKSUMS = "bayes_cannon_checksums"
_DESCRIPTIONS = ("zarr.json", ".zarray")
_DEEPEST = 8
_LOST, _CHANGED = "is lost", "is not as it was written (CRC-32 differs)"
_NUMCODECS = frozenset({
    "adler32", "astype", "bitround", "blosc", "bz2", "crc32", "crc32c", "delta", "fixedscaleoffset", "fletcher32",
    "gzip", "jenkins_lookup3", "lz4", "lzma", "packbits", "pcodec", "quantize", "shuffle", "zfpy", "zlib", "zstd",
})  # fmt: skip
_TEXT_CODECS = frozenset({"vlen-utf8", "vlen-bytes"})
_CODECS = frozenset({"blosc", "bytes", "crc32c", "gzip", "sharding_indexed", "transpose", "zstd"}) | _TEXT_CODECS
"""Codecs that turn bytes into numbers or texts. Those that make other objects, such as pickle, can run code."""


class MissingChunksWarning(BayesCannonWarning):
    """A Zarr store without checksums lacks chunks: they were lost, or hold nothing but the fill value."""


def refused_arrays(store: Path) -> dict[str, str]:
    """Arrays of a store, by path, that must not be decoded, with the reason.

    Raises
    ------
    ValueError
        If the description of an array cannot be read, or groups are nested too deeply.

    """
    found = {}
    for folder in _arrays(store, _DEEPEST):
        reasons = [_reason(read_json(folder / name)) for name in _DESCRIPTIONS if (folder / name).is_file()]
        if said := next(filter(None, reasons), None):
            found[folder.relative_to(store).as_posix()] = said
    return found


def checked_codecs() -> list[Any]:
    """Compressors of an array whose chunks carry a checksum."""
    from zarr.codecs import Crc32cCodec, ZstdCodec  # An extra.

    return [ZstdCodec(), Crc32cCodec()]


def spectra_codecs() -> list[Any]:
    """Compressors of flux and ivar in float32, with a checksum.

    The bytes of the numbers are sorted by their place, so that signs and exponents, which are alike, are compressed,
    and digits, which are noise, are copied. Of spectra of LAMOST and Gaia it leaves three quarters, less than Zstandard
    does, and is read four to eight times as fast.
    """
    from zarr.codecs import BloscCodec, Crc32cCodec  # An extra.

    return [BloscCodec(typesize=4, cname="lz4", clevel=5, shuffle="shuffle"), Crc32cCodec()]


def checked_bytes(chunk: np.ndarray) -> bytes:
    """What `checked_codecs` make of a chunk, of numbers or of texts as objects; without Zarr's event loop.

    Each step of Zarr's waits for the loop, in which another thread may read spectra.
    """
    from numcodecs import VLenUTF8, Zstd  # It comes with Zarr, an extra.
    from numcodecs.checksum32 import CRC32C

    plain = VLenUTF8().encode(chunk) if chunk.dtype == object else chunk.astype(chunk.dtype.newbyteorder("<"))
    return bytes(CRC32C(location="end").encode(Zstd(level=0).encode(plain)))


def checked_chunk(content: bytes, dtype: np.dtype) -> np.ndarray:
    """The numbers, or texts as objects, that `checked_bytes` made this of, one after the other."""
    from numcodecs import VLenUTF8, Zstd  # It comes with Zarr, an extra.
    from numcodecs.checksum32 import CRC32C

    plain = Zstd().decode(CRC32C(location="end").decode(content))
    return VLenUTF8().decode(plain) if dtype.kind == "O" else np.frombuffer(plain, dtype.newbyteorder("<"))


def seal_store(store: Path, *, known: Mapping[str, str] | None = None, **about: str) -> None:
    """Write the group of checksums of all files that are there now, with further attributes.

    Those that are ``known``, by their path in the store, are not computed again.
    """
    names = [path.relative_to(store).as_posix() for path in _files(store)]
    files = {name: (known or {}).get(name) or crc32(store / name) for name in names}
    folder = store / CHECKSUMS
    folder.mkdir()
    content = {"zarr_format": 3, "node_type": "group", "attributes": about | {"crc32": files}}
    (folder / "zarr.json").write_text(json.dumps(content), encoding="utf-8")


def seal_of(store: Path) -> Mapping[str, Any] | None:
    """What `seal_store` wrote, or None.

    Raises
    ------
    ValueError
        If it cannot be read.

    """
    stamp = seal_stamp(store)
    return None if stamp is None else _seal(_seal_file(store), *stamp)


def seal_stamp(store: Path) -> tuple[int, int] | None:
    """When a store was sealed, and the size of its seal, which are others if it is written anew; None without a seal.

    Raises ValueError as `seal_of`.
    """
    if not (store / CHECKSUMS).exists():
        return None
    path = _seal_file(store)
    if not path.is_file():
        raise ValueError(f"it is damaged: its checksums in {CHECKSUMS} are lost")
    about = path.stat()
    return about.st_mtime_ns, about.st_size


def _seal_file(store: Path) -> Path:
    return store / CHECKSUMS / "zarr.json"


@lru_cache(4)
def _seal(path: Path, _time: int, _size: int) -> Mapping[str, Any]:
    """What a seal says, read once while it does not change: of ten million spectra it is a megabyte."""
    attributes = read_json(path).get("attributes")
    if not isinstance(attributes, dict) or not isinstance(attributes.get("crc32"), dict):
        raise ValueError(f"it is damaged: its checksums in {CHECKSUMS} are lost")
    return attributes


def _checksums(store: Path) -> Mapping[str, str]:
    """CRC-32 of the files of a sealed store, by their path in it; of another store none."""
    seal = seal_of(store)
    return {} if seal is None else seal["crc32"]


def damaged_files(store: Path, wanted: Callable[[str], bool] = lambda _: True) -> dict[str, str]:
    """What is wrong with files of a sealed store that are not as they were written, by their path in it.

    Only those are looked at whose path is ``wanted``.
    """
    found = {}
    for name, checksum in _checksums(store).items():
        if not wanted(name):
            continue
        if not (store / name).is_file():
            found[name] = _LOST
        elif crc32(store / name) != checksum:
            found[name] = _CHANGED
    return found


def sealed_content(store: Path, name: str) -> bytes:
    """A file of a sealed store; ValueError if it is lost or not as it was written."""
    try:
        content = (store / name).read_bytes()
    except FileNotFoundError:
        raise ValueError(f"it is damaged: its file {name} {_LOST}") from None
    if _checksums(store).get(name) != _hexadecimal(zlib.crc32(content)):
        raise ValueError(f"it is damaged: its file {name} {_CHANGED}")
    return content


def check_store(store: Path) -> None:
    """Raise ValueError that names the files of a sealed store that are lost or not as they were written."""
    named = [f"its file {name} {what}" for name, what in damaged_files(store).items()]
    if named:
        more = f", and {len(named) - 3} more" if len(named) > 3 else ""
        raise ValueError(f"it is damaged: {', '.join(named[:3])}{more}")


def absent_values(store: Path, name: str, rows: slice = slice(None)) -> np.ndarray | None:
    """Which values in some rows of an array have no chunk, and are read as its fill value; None if all have one.

    By the specification of Zarr that is what such a chunk means, and writers leave out chunks that hold nothing else;
    but a chunk that was lost looks the same.
    """
    import zarr  # An extra.

    array: Any = zarr.open_group(store, mode="r")[name]
    size = array.shards or array.chunks
    first, last, _ = rows.indices(array.shape[0])
    absent = np.zeros((last - first, *array.shape[1:]), bool)
    counts = [ceil(n / step) for n, step in zip(array.shape[1:], size[1:], strict=True)]
    for place in product(range(first // size[0], ceil(last / size[0])), *map(range, counts)):
        if not (store / name / array.metadata.encode_chunk_key(place)).is_file():
            starts = [k * step for k, step in zip(place, size, strict=True)]
            starts[0] -= first
            absent[tuple(slice(max(at, 0), at + step) for at, step in zip(starts, size, strict=True))] = True
    return absent if absent.any() else None


def missing_chunks(path: Path, dataset: xr.Dataset, rows: slice = slice(None)) -> dict[str, xr.Variable]:
    """Where the numbers of some stars have no chunk, True, by name; a warning says what is made of that.

    A store that this package wrote has them all, which its checksums tell (`check_store`).
    """
    if seal_of(path) is not None:
        return {}
    names = [name for name in map(str, dataset.variables) if name in _CHUNKED or dataset[name].dims == ("star",)]
    masks = {name: mask for name in names if (mask := _absent_of(path, dataset[name].variable, name, rows)) is not None}
    for name in masks:
        if name in ("wavelength", "dispersion", "star", "star_id"):
            raise ValueError(f"chunks of {name!r} are not there: copy the store anew, or write it once more")
    if masks:
        named = ", ".join(f"{int(mask.sum())} of {mask.size} values of {name!r}" for name, mask in masks.items())
        warn_user(
            f"the store {path} has no chunks for {named}. They were lost, or not written because they hold nothing but "
            "the fill value; ivar is taken as 0 where flux or ivar have none, and labels as not known (NaN). To keep "
            "them write with write_empty_chunks=True",
            MissingChunksWarning,
        )
    return masks


def _absent_of(path: Path, variable: xr.Variable, name: str, rows: slice) -> xr.Variable | None:
    """What `absent_values` says of a variable, of some of its stars if it is of stars."""
    is_of_stars = variable.dims[:1] == ("star",)
    mask = absent_values(path, name, rows if is_of_stars else slice(None))
    if mask is None:
        return None
    found = xr.Variable(variable.dims, mask)
    found = found if is_of_stars else found.isel(star=rows, missing_dims="ignore")
    return found if found.any() else None


def _files(store: Path) -> list[Path]:
    return sorted(Path(folder, name) for folder, _, names in os.walk(store) for name in names)


def crc32(path: Path) -> str:
    """CRC-32 of a file, in hexadecimal."""
    value = 0
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            value = zlib.crc32(piece, value)
    return _hexadecimal(value)


def _hexadecimal(crc: int) -> str:
    return f"{crc:08x}"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; ValueError that names the file if it is none."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its file {path} is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"its file {path} must be a JSON object")
    return content


def _arrays(folder: Path, depth: int) -> Iterator[Path]:
    """Folders of all arrays. Links are followed, as Zarr does."""
    for part in sorted(folder.iterdir()):
        if not part.is_dir():
            continue
        is_group = (part / ".zgroup").is_file()
        if (part / "zarr.json").is_file():
            is_group |= read_json(part / "zarr.json").get("node_type") == "group"
        if (part / ".zarray").is_file() or ((part / "zarr.json").is_file() and not is_group):
            yield part
        if is_group and not depth:
            raise ValueError(f"its groups are nested too deeply: {part}")
        if is_group:
            yield from _arrays(part, depth - 1)


def _reason(about: Mapping[str, Any]) -> str | None:
    """Why an array with this description must not be decoded."""
    if about.get("zarr_format") == 3:
        return _reason_of_codecs(about.get("codecs"))
    given = [about.get("compressor"), *(about.get("filters") or [])]
    names = [codec.get("id") if isinstance(codec, dict) else codec for codec in given if codec is not None]
    is_object = "O" in json.dumps(about.get("dtype"))
    allowed = _NUMCODECS | _TEXT_CODECS
    bad = [name for name in names if not isinstance(name, str) or name not in allowed]
    if bad:
        return f"its codec {bad[0]!r} is none of numbers or texts"
    if is_object and not _TEXT_CODECS & {*names}:
        return "it holds objects"
    return None


def _reason_of_codecs(codecs: Any) -> str | None:
    if not isinstance(codecs, list):
        return "its codecs are not a list"
    for codec in codecs:
        name = codec.get("name") if isinstance(codec, dict) else codec
        if not isinstance(name, str) or (name not in _CODECS and name.removeprefix("numcodecs.") not in _NUMCODECS):
            return f"its codec {name!r} is none of numbers or texts"
        inner = codec.get("configuration") or {} if isinstance(codec, dict) else {}
        for part in ("codecs", "index_codecs"):
            if part in inner and (said := _reason_of_codecs(inner[part])):
                return said
    return None
