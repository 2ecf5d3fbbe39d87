"""Which chunks a posterior store must have, and which of them are lost or damaged."""

from math import ceil
from pathlib import Path

import numpy as np

from bayes_cannon.io.posterior_variables import DRAWS, STATS, SUMMARY
from bayes_cannon.io.zarr_files import read_json

_GROUPS = {"summary": SUMMARY, "posterior": DRAWS, "sample_stats": STATS}


MARK = Path("summary", "status", "made_by_a_run")
"""A file in a store of a run, which neither Zarr nor xarray sees: a copy by xarray has other chunks."""


def damaged_chunks(store: Path) -> dict[str, slice]:
    """Chunks that are lost or damaged, by their path in a store that `io.posterior_store` made, with their pixels.

    A chunk must be there if one of its pixels is finished. Every chunk that is there must be whole: its last four bytes
    are the CRC-32C of the others.
    """
    finished, everything = _finished(store), slice(None)
    found = {} if finished is not None else {"summary/finished/c/0": everything}
    for group, variables in _GROUPS.items():
        if not (store / group / next(iter(variables)) / "zarr.json").is_file():
            continue
        for name, variable in variables.items():
            if name == "finished":
                continue
            axis = variable.dims.index("pixel")
            about = read_json(store / group / name / "zarr.json")
            size, n_pixels = about["chunk_grid"]["configuration"]["chunk_shape"][axis], about["shape"][axis]
            for number in range(ceil(n_pixels / size)):
                rows = slice(number * size, min((number + 1) * size, n_pixels))
                place = "/".join(str(number if k == axis else 0) for k in range(len(variable.dims)))
                path = f"{group}/{name}/c/{place}"
                needed = finished is not None and finished[rows].any()
                if not _is_whole(store / path) if (store / path).exists() else needed:
                    found[path] = rows
    return found


def _finished(store: Path) -> np.ndarray | None:
    """Which pixels are finished, shape (pixel,), or None if nobody knows any more."""
    import zarr  # An extra.

    if not _is_whole(store / "summary/finished/c/0"):
        return None
    return np.asarray(zarr.open_group(store, mode="r")["summary/finished"][:])


def _is_whole(chunk: Path) -> bool:
    import google_crc32c  # What zarr uses.

    content = chunk.read_bytes() if chunk.is_file() else b""
    return len(content) > 4 and google_crc32c.value(content[:-4]).to_bytes(4, "little") == content[-4:]
