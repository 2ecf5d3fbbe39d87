"""A posterior that is written pixel by pixel to a Zarr store, so that a killed run can go on.

The arrays exist from the start, filled with NaN, in chunks of a block of pixels. A pixel is marked as finished only
after all of it has been written.
"""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import xarray as xr

from bayes_cannon.io.atomic import atomic_path
from bayes_cannon.io.posterior_tree import (
    SETTING,
    Subject,
    at_pixels,
    attributes_of,
    block_arrays,
    check_model,
    differences,
    first_run,
    frame,
    need_zarr,
    read_posterior,
)

if TYPE_CHECKING:
    from bayes_cannon.posterior.theta.sample import ThetaBlock


class StoredPosterior:
    """A tree in a Zarr store."""

    def __init__(self, path: Path, subject: Subject, keep_draws: bool):
        import zarr  # An extra.

        self._path, self._subject, self._keep_draws = path, subject, keep_draws
        self._root = zarr.open_group(path, mode="r+", zarr_format=3)

    @classmethod
    def open(
        cls, path: str | os.PathLike, subject: Subject, *, keep_draws: bool, block: int, overwrite: bool = False
    ) -> Self:
        """Open the store of a run that was broken off, or make a new one.

        Parameters
        ----------
        path
            Folder of the store.
        subject
            What is sampled.
        keep_draws
            Whether the draws are written, and not the summary alone.
        block
            Pixels of a chunk.
        overwrite
            Replace a store that exists.

        Raises
        ------
        ValueError
            If the store that exists was made with other settings or of another model, naming what differs.
        FileExistsError
            If something else is there.
        ImportError
            If the extra ``bayes-cannon[zarr]`` is not installed.

        """
        path = Path(path)
        need_zarr(path)
        if not path.exists() or overwrite:
            with atomic_path(path, overwrite=overwrite) as temporary:
                _create(temporary, subject, keep_draws, block)
        else:
            _check_same(path, subject, keep_draws)
        return cls(path, subject, keep_draws)

    @property
    def resumable(self) -> np.ndarray:
        """Which of the pixels need not be sampled any more, shape (pixel,)."""
        finished, status = (np.asarray(self._array("summary", name)[:]) for name in ("finished", "status"))
        return first_run(finished, status)

    def write(self, block: "ThetaBlock") -> None:
        """Write finished pixels."""
        rows = np.searchsorted(self._subject.pixels, block.pixels)
        variables = self._subject.variables(self._keep_draws)
        for group, arrays in block_arrays(block, self._keep_draws).items():
            for name, values in arrays.items():
                self._array(group, name).oindex[at_pixels(variables[group][name], rows)] = values
        self._array("summary", "finished").oindex[(rows,)] = True

    def tree(self) -> xr.DataTree:
        """The tree, whose arrays are read when they are used."""
        return read_posterior(self._path)

    def _array(self, group: str, name: str) -> Any:
        return self._root[f"{group}/{name}"]


def _create(path: Path, subject: Subject, keep_draws: bool, block: int) -> None:
    """All arrays, with nothing in those that are filled pixel by pixel."""
    import zarr  # An extra.

    try:
        frame(subject, keep_draws).to_zarr(path, mode="w", consolidated=False)
        root = zarr.open_group(path, mode="r+", zarr_format=3)
        for group, variables in subject.variables(keep_draws).items():
            for name, one in variables.items():
                # One chunk, which changes in one step.
                size = len(subject.pixels) if name == "finished" else min(block, len(subject.pixels))
                shape = subject.shape(one)
                chunks = tuple(size if dim == "pixel" else n for dim, n in zip(one.dims, shape, strict=True))
                root[group].create_array(
                    name, shape=shape, chunks=chunks, dtype=one.dtype, fill_value=np.dtype(one.dtype).type(one.fill),
                    dimension_names=one.dims, attributes=attributes_of(name, one),
                )  # fmt: skip
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise


def _check_same(path: Path, subject: Subject, keep_draws: bool) -> None:
    """Raise unless the store holds the same run."""
    tree = read_posterior(path)
    attributes = tree.attrs
    remedy = "pass overwrite=True to replace it, or choose another store"
    try:
        check_model(attributes, subject.model, f"the store {path}")
    except ValueError as error:
        raise ValueError(f"{error}; or {remedy}") from None
    other = differences(attributes, SETTING, subject.settings)
    if other:
        named = "; ".join(f"{name} is {found} there and {wanted} here" for name, (found, wanted) in other.items())
        raise ValueError(f"the store {path} was made with other settings: {named}. Use the same, or {remedy}")
    with_draws = "posterior" in tree.children
    if with_draws != keep_draws:
        raise ValueError(f"the store {path} has keep_draws={with_draws}, not {keep_draws}: use the same, or {remedy}")
