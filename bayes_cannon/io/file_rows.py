"""Files read by worker processes, in their order: what a store holds of each, or why it is refused.

Nothing here loads JAX, which has threads and memory that workers do not need.
"""

import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from bayes_cannon.io.alike import First, check_alike
from bayes_cannon.io.preparation import Preparation
from bayes_cannon.io.rows import Rows
from bayes_cannon.io.spectra import Spectra
from bayes_cannon.io.survey_files import FileSettings, spectra_of_files

_BATCH, _BATCH_BYTES = 16, 64e6
"""Files that a worker reads at a time: so many, and no more than one beyond so many bytes."""

Group = tuple[Path, ...]
"""Files that become rows together; mostly one."""


@dataclass(frozen=True)
class Work:
    """What a worker needs to know, the same for all files; ``first`` is what all must be like, if anything."""

    settings: FileSettings
    preparation: Preparation
    first: First | None = None
    scale: float = 1.0


@dataclass(frozen=True)
class FileRows:
    """What the store holds of a group of files."""

    rows: Rows
    units: Mapping[str, str]
    attrs: Mapping[str, str]
    noise_correlation: np.ndarray | None


def in_order(groups: Sequence[Group], work: Work, workers: int) -> Iterator[tuple[Group, FileRows | str]]:
    """Rows of each group of files, or why it is refused, in their order; never more than a few batches ahead."""
    batches = _batches(groups)
    if workers == 1:
        yield from ((group, _rows(group, work)) for group in groups)
        return
    waiting, pool = deque[tuple[list[Group], Future]](), _pool(work, workers)
    try:
        while True:
            for batch in islice(batches, 2 * workers - len(waiting)):
                waiting.append((batch, pool.submit(_rows_of, batch)))
            if not waiting:
                return
            batch, future = waiting.popleft()
            try:
                found = future.result()
            except BrokenProcessPool:  # A library has crashed, or the system has killed it for its memory.
                pool.shutdown()
                found, pool = [_rows_apart(group, work) for group in batch], _pool(work, workers)
                waiting = deque((other, pool.submit(_rows_of, other)) for other, _ in waiting)
            yield from zip(batch, found, strict=True)
    finally:
        pool.shutdown(cancel_futures=True)


def _batches(groups: Sequence[Group]) -> Iterator[list[Group]]:
    batch, size = list[Group](), 0
    for group in groups:
        batch.append(group)
        with suppress(OSError):  # It vanished, which its reader will tell.
            size += sum(path.stat().st_size for path in group)
        if len(batch) == _BATCH or size > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _pool(work: Work, workers: int) -> ProcessPoolExecutor:
    """Processes that start without what this one has loaded: no JAX, no threads."""
    context = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload([__name__])
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(work,))


_works: list[Work] = []
"""In a worker, what it needs to know."""


def _start(work: Work) -> None:
    threadpool_limits(1)
    _works[:] = [work]


def _rows_of(batch: Sequence[Group]) -> list[FileRows | str]:
    return [_rows(group, _works[0]) for group in batch]


def _rows_apart(group: Group, work: Work) -> FileRows | str:
    """Rows of files that a process of its own reads, as that may die of it."""
    with _pool(work, 1) as pool:
        try:
            return pool.submit(_rows_of, [group]).result()[0]
        except BrokenProcessPool:
            return "the process that read it died"


def _rows(group: Group, work: Work) -> FileRows | str:
    """What the store holds of a group of files, or why it is refused."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            spectra = _prepared(group, work)
        attrs = {name: str(value) for name, value in spectra.attrs.items()}
        # Thousands of files would print thousands of lines.
        said = sorted({one.category.__name__ for one in caught if issubclass(one.category, UserWarning)})
        if said:
            attrs["warnings"] = ", ".join(said)
        return FileRows(Rows.of(spectra, work.scale), spectra.units, attrs, spectra.noise_correlation)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a reader raises, the other files go on
        return " ".join(str(error).split()) or type(error).__name__


def _prepared(group: Group, work: Work) -> Spectra:
    """The spectra of a group of files as they go into the store."""
    spectra = spectra_of_files(group, work.settings)
    if work.first is not None:
        check_alike(spectra, group[0], work.first)
    return work.preparation.apply(spectra)
