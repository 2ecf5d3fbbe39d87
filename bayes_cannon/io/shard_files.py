"""The files of flux and ivar in a store that this package wrote, decoded by numcodecs.

Zarr gives the same numbers, but takes each chunk of a shard through its event loop: three to five times as long, which
is a tenth of the time of a shard's labels. What is written otherwise is left to Zarr.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bayes_cannon.io.zarr_files import read_json, sealed_content

_INDEX_CODECS = ["bytes", "crc32c"]
_CODECS = ["bytes", "blosc", "crc32c"]
_CHECKSUM = 4
"""Bytes of a CRC-32C."""


def decoded_shard(
    store: Path, name: str, number: int, n_rows: int, *, sealed: bool = False
) -> np.ndarray | None:  # fmt: skip
    """Numbers of a shard as they are stored, shape (row, pixel); None if the array is not written as ours are.

    Parameters
    ----------
    store
        Folder of the store.
    name
        Of an array (star, pixel).
    number
        Of the shard, from 0.
    n_rows
        Rows that it has, of those for which there is place.
    sealed
        Whether the store has a checksum of the file, which stands for those of its chunks.

    Raises
    ------
    ValueError
        If the file is damaged.

    Notes
    -----
    A shard is its chunks, one after the other, and an index of 64-bit offsets and lengths with a CRC-32C at its end
    (specification of the Zarr codec ``sharding_indexed``, version 1.0); each chunk ends with a CRC-32C as well.

    """
    from numcodecs.blosc import decompress  # It comes with Zarr, an extra.
    from numcodecs.checksum32 import CRC32C

    layout = _layout(read_json(store / name / "zarr.json"))
    if layout is None:
        return None
    rows, chunk, n_pixels = layout
    file = f"{name}/c/{number}/0"
    content = memoryview(sealed_content(store, file) if sealed else (store / file).read_bytes())
    checked = CRC32C(location="end")
    n_chunks = rows // chunk
    index = np.frombuffer(checked.decode(content[-16 * n_chunks - _CHECKSUM :]), dtype="<u8").reshape(n_chunks, 2)
    values = np.empty((-(-n_rows // chunk) * chunk, n_pixels), dtype=np.float32)
    for place, (offset, length) in enumerate(index[: len(values) // chunk].tolist()):
        if offset + length > len(content):
            raise ValueError(f"it is damaged: chunk {place} of its file {file} is not there")
        one = content[offset : offset + length]
        decompress(one[:-_CHECKSUM] if sealed else checked.decode(one), values[place * chunk : (place + 1) * chunk])
    return values[:n_rows]


def _layout(about: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """Rows of a shard and of a chunk, and pixels of both; None for an array that is described otherwise."""
    try:
        (sharding,) = about["codecs"]
        inner = sharding["configuration"]
        (rows, n_pixels), (chunk, wide) = about["chunk_grid"]["configuration"]["chunk_shape"], inner["chunk_shape"]
        orders = {codecs[0]["configuration"]["endian"] for codecs in (inner["codecs"], inner["index_codecs"])}
        is_ours = (
            about["data_type"] == "float32"
            and about["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "/"}}
            and sharding["name"] == "sharding_indexed"
            and inner["index_location"] == "end"
            and [codec["name"] for codec in inner["index_codecs"]] == _INDEX_CODECS
            and [codec["name"] for codec in inner["codecs"]] == _CODECS
            and orders == {"little"}
            and wide == n_pixels == about["shape"][1]
        )
    except (KeyError, TypeError, ValueError, IndexError):
        return None
    return (int(rows), int(chunk), int(n_pixels)) if is_ours else None
