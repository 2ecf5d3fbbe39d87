"""A posterior that is written pixel by pixel to a Zarr store, so that a killed run can go on.

The arrays exist from the start, filled with NaN, in chunks of a block of pixels. A pixel is marked as finished only
after all of it has been written, so that every chunk with a finished pixel must be there; all have checksums. A run
that goes on samples anew the pixels of those that were lost or damaged (`io.posterior_chunks`). The store holds a mark
of the run that made it, by which a run finds that another has replaced it.
"""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import xarray as xr

from bayes_cannon.core.warnings import BayesCannonWarning, warn_user
from bayes_cannon.io.atomic import atomic_path, locked, recover, remains_in, remove_dead
from bayes_cannon.io.posterior_chunks import MARK, damaged_chunks
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
    open_posterior,
    read_posterior,
)
from bayes_cannon.io.zarr_files import CHECKSUMS, checked_codecs, crc32, damaged_files, seal_of, seal_store

if TYPE_CHECKING:
    from bayes_cannon.posterior.theta.sample import ThetaBlock


class DamagedStoreWarning(BayesCannonWarning):
    """A part of a posterior store was lost or damaged, and is made anew."""


class StoredPosterior:
    """A tree in a Zarr store."""

    def __init__(self, path: Path, subject: Subject, keep_draws: bool, run: str | None = None):
        import zarr  # An extra.

        self._path, self._subject, self._keep_draws = path.absolute(), subject, keep_draws
        self._root = zarr.open_group(path, mode="r+", zarr_format=3)
        self._run = run or _run_of(path)

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process that writes to it, too; it stops, as this one, if another run replaces the store."""
        return type(self), (self._path, self._subject, self._keep_draws, self._run)

    @property
    def path(self) -> Path:
        """Folder of the store."""
        return self._path

    @classmethod
    def open(
        cls, path: str | os.PathLike, subject: Subject, *, keep_draws: bool, block: int, overwrite: bool = False
    ) -> Self:
        """Open the store of a run that was broken off, or make a new one.

        What was lost or damaged is made anew, with a `DamagedStoreWarning` that names it.

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
            If the store that exists was made with other settings or of another model, naming what differs, or is
            damaged in a way that cannot be mended.
        FileExistsError
            If something else is there.
        ImportError
            If the extra ``bayes-cannon[zarr]`` is not installed.

        """
        path = recover(path)
        need_zarr(path)
        if not path.exists() or overwrite:
            mark = path / CHECKSUMS / "zarr.json"
            # Not while another run writes a block.
            with locked(mark) if mark.is_file() else nullcontext(), atomic_path(path, overwrite=overwrite) as temporary:
                _create(temporary, subject, keep_draws, block)
            return cls(path, subject, keep_draws)
        for folder in (path.absolute().parent, *remains_in(path)):
            remove_dead(folder)
        mended = _mend_frame(path, subject, keep_draws, block)
        _check_same(path, subject, keep_draws)
        store = cls(path, subject, keep_draws)
        mended += store._drop_damaged_chunks()
        if mended:
            warn_user(
                f"{len(mended)} files of the store {path} were lost or damaged and are made anew, which samples their "
                f"pixels again: {', '.join(mended[:3])}{', ...' if len(mended) > 3 else ''}",
                DamagedStoreWarning,
            )
        return store

    @property
    def resumable(self) -> np.ndarray:
        """Which of the pixels need not be sampled any more, shape (pixel,)."""
        finished, status = (np.asarray(self._array("summary", name)[:]) for name in ("finished", "status"))
        return first_run(finished, status)

    def write(self, block: "ThetaBlock") -> None:
        """Write finished pixels.

        Raises
        ------
        RuntimeError
            If another run has replaced the store, or it was removed. Nothing is written then.

        """
        rows = np.searchsorted(self._subject.pixels, block.pixels)
        arrays = block_arrays(block, self._keep_draws)
        with self._alone():
            for group, variables in self._subject.variables(self._keep_draws).items():
                for name, one in variables.items():
                    if name != "finished":
                        # What was not made is written too, so that a chunk which is not there is one that was lost.
                        values = arrays[group].get(name, one.fill)
                        self._array(group, name).oindex[at_pixels(one, rows)] = values
            self._array("summary", "finished").oindex[(rows,)] = True

    def tree(self) -> xr.DataTree:
        """The tree, whose arrays are read when they are used."""
        return read_posterior(self._path)

    def _array(self, group: str, name: str) -> Any:
        import zarr  # An extra.

        with zarr.config.set({"array.write_empty_chunks": True}):
            return self._root[f"{group}/{name}"]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """While no other run writes to the store or replaces it; RuntimeError if one has."""
        try:
            with locked(self._path / CHECKSUMS / "zarr.json"):
                if _run_of(self._path) != self._run:
                    raise FileNotFoundError
                yield
        except FileNotFoundError as error:
            raise RuntimeError(
                f"the store {self._path} was removed or replaced by another run while this one wrote to it: its pixels "
                "are not written any more. Sample again, with a store of its own for each run"
            ) from error

    def _drop_damaged_chunks(self) -> list[str]:
        """Remove chunks that are damaged and mark their pixels as not finished; names of these and of lost ones."""
        with self._alone():
            for rest in self._path.rglob("*.partial"):  # Of a chunk that was being written by a run that was killed.
                rest.unlink()
            damaged = damaged_chunks(self._path)
            finished = self._array("summary", "finished")
            again = np.zeros(finished.shape, dtype=bool)
            for name, rows in damaged.items():
                again[rows] = True
                (self._path / name).unlink(missing_ok=True)
            if damaged:
                finished[:] = False if again.all() else finished[:] & ~again
        return list(damaged)


def _run_of(path: Path) -> str:
    """The mark of the run that made a store."""
    seal = seal_of(path)
    if seal is None or "run" not in seal:
        raise ValueError(f"the store {path} has no checksums, which an older version did not write or a copy lost")
    return str(seal["run"])


def _mend_frame(path: Path, subject: Subject, keep_draws: bool, block: int) -> list[str]:
    """Write anew what was lost of the files that do not change while a run goes on; their names."""
    if seal_of(path) is None:
        read_posterior(path)  # Something else has a better message.
    damaged, remedy = damaged_files(path), "pass overwrite=True to replace it, or choose another store"
    if not damaged:
        return []
    with TemporaryDirectory() as folder:
        fresh = Path(folder) / "store"
        _create(fresh, subject, keep_draws, block)
        right = (seal_of(path) or {})["crc32"]
        for name, what in damaged.items():
            if not (fresh / name).is_file() or crc32(fresh / name) != right[name]:
                raise ValueError(f"the store {path} is damaged: its file {name} {what}; {remedy}")
            with atomic_path(_made(path / name), overwrite=True) as temporary:
                shutil.copy(fresh / name, temporary)
    return list(damaged)


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _create(path: Path, subject: Subject, keep_draws: bool, block: int) -> None:
    """All arrays, with nothing in those that are filled pixel by pixel."""
    import zarr  # An extra.

    tree, codecs = frame(subject, keep_draws), checked_codecs()
    packings = {
        node.path: {name: {"compressors": codecs} for name in node.to_dataset(inherit=False).variables}
        for node in tree.subtree
    }
    tree.to_zarr(path, mode="w", consolidated=False, zarr_format=3, encoding=packings, write_empty_chunks=True)
    root = zarr.open_group(path, mode="r+", zarr_format=3)
    for group, variables in subject.variables(keep_draws).items():
        for name, one in variables.items():
            # One chunk, which changes in one step.
            size = len(subject.pixels) if name == "finished" else min(block, len(subject.pixels))
            shape = subject.shape(one)
            chunks = tuple(size if dim == "pixel" else n for dim, n in zip(one.dims, shape, strict=True))
            root[group].create_array(
                name, shape=shape, chunks=chunks, dtype=one.dtype, fill_value=np.dtype(one.dtype).type(one.fill),
                dimension_names=one.dims, attributes=attributes_of(name, one), compressors=codecs,
            )  # fmt: skip
    (path / MARK).write_text("bayes_cannon\n", encoding="utf-8")
    seal_store(path, run=uuid.uuid4().hex)
    with zarr.config.set({"array.write_empty_chunks": True}):
        root["summary/finished"][:] = False


def _check_same(path: Path, subject: Subject, keep_draws: bool) -> None:
    """Raise unless the store holds the same run."""
    tree = open_posterior(path)
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
