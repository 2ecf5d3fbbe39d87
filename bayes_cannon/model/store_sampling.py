"""Draws of theta from a store of spectra that does not fit the memory, a block of pixels after the other.

Pixels are sampled by themselves, from keys made of their numbers, so that blocks change nothing but where the spectra
come from: `model.store_training` reads them as it does to train. Other processes write what they draw into the store of
the draws by themselves.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from bayes_cannon.core.progress import ProgressOption
from bayes_cannon.execution.shards import Executor
from bayes_cannon.io.posterior_store import StoredPosterior
from bayes_cannon.model.result import TrainingResult
from bayes_cannon.model.store_training import Listener, StoreTraining, read_work, work_file
from bayes_cannon.model.theta_sampling import Kept, ThetaSampling, sample_theta, write_blocks
from bayes_cannon.posterior.theta.priors import flux_moments
from bayes_cannon.posterior.theta.sample import PIXELS_AT_ONCE, ThetaBlock, sample_pixels
from bayes_cannon.posterior.theta.summary import ThetaPosterior
from bayes_cannon.training.problem import PixelProblem

_PARTS_EACH = 2
"""Parts of the pixels for each that an executor has in progress, if there are so many, so that none waits long for
the last."""


def sample_from_store(
    work: StoreTraining, result: TrainingResult, hashes: dict[str, str], spectra_hash: str | None, *,
    out: str | os.PathLike[str] | None, keep_draws: bool | None, overwrite: bool, progress: ProgressOption,
    executor: Executor | None = None, listen: Listener = None, **options: Any,
) -> tuple[xr.DataTree, ThetaPosterior]:  # fmt: skip
    """Tree and summary, as `sample_theta` returns them.

    Parameters
    ----------
    work
        The training from the store that the model comes from.
    result, hashes
        What was learned, and the hashes of the model.
    spectra_hash
        SHA-256 of the training set that it was learned from.
    out, keep_draws, overwrite, progress
        As for `CannonModel.sample`, where ``out`` is called store.
    executor, listen
        As for `CannonModel.sample_store`.
    options
        The other arguments of `ThetaSampling.checked`.

    Raises
    ------
    ValueError
        If the spectra are not those that the model was trained on, if there are processes and no ``out``, and as
        `CannonModel.sample` does.

    """
    if executor is not None and out is None:
        raise ValueError("processes write their draws into a store: say which with out=")
    work.make_blocks(progress=progress)
    if spectra_hash is not None and work.hash() != spectra_hash:
        raise ValueError(
            f"the spectra in {work.rows.store.path}, or the labels, are not those that the model was trained on: give "
            "the same store, stars and preparation as to train_store"
        )
    parts = [flux_moments(_problem(work, pixels)) for pixels in _ranges(work)]
    mean, spread, known = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    none = np.zeros((0, work.plan.n_pixels))
    of_all = PixelProblem(work.terms, none, none, work.regularization, work.lower, work.upper)
    run = ThetaSampling.checked(of_all, result, moments=(mean, spread, known), **options)
    fill = partial(_by_processes, work, run, executor, listen) if executor else partial(_here, work, run)
    return sample_theta(
        run, hashes, store=out, keep_draws=keep_draws, overwrite=overwrite, progress=progress, fill=fill
    )


def _here(
    work: StoreTraining, run: ThetaSampling, kept: Kept, finished: np.ndarray, report: Callable[[int], object]
) -> None:  # fmt: skip
    for pixels in _ranges(work):
        if _wanted(run, pixels, finished).size:
            write_blocks(kept, _blocks(run, pixels, finished, _problem(work, pixels)), report)


def _by_processes(
    work: StoreTraining, run: ThetaSampling, executor: Executor, listen: Listener, kept: StoredPosterior,
    finished: np.ndarray, report: Callable[[int], object],
) -> None:  # fmt: skip
    """Let other processes fill the store."""
    ranges = _ranges(work, _PARTS_EACH * executor.capacity)
    task = _PixelRanges(work, run, kept, ranges)
    missing = [number for number, pixels in enumerate(ranges) if _wanted(run, pixels, finished).size]
    if not missing:
        return
    work.scratch.mkdir(parents=True, exist_ok=True)
    try:
        executor.check([str(work.rows.store.path), str(kept.path), str(task.file)], version("bayes-cannon"))
        work.finish(task, missing, executor, report, listen, "sampling")
    finally:
        task.file.unlink(missing_ok=True)


@dataclass(frozen=True, eq=False)
class _PixelRanges:
    """The work on ranges of pixels. Another process gets the name of a file with all of this, which it reads once."""

    training: StoreTraining
    run: ThetaSampling
    kept: StoredPosterior
    ranges: list[slice]
    read_from: Path | None = None

    @cached_property
    def file(self) -> Path:
        """The file, in the scratch folder of the training. Where this came from it, it is not written again."""
        content = self.training, self.run, self.kept, self.ranges
        return self.read_from or work_file(self.training.scratch, "sampling", content)

    def read(self, number: int) -> PixelProblem:
        """The pixels of a range with their spectra."""
        return _problem(self.training, self.ranges[number])

    def compute(self, number: int, given: PixelProblem) -> int:
        """Sample those that are not finished and write their draws; returns how many they are."""
        pixels, finished = self.ranges[number], np.zeros(self.training.plan.n_pixels, bool)
        finished[self.run.pixels] = self.kept.resumable  # Those of a try that was broken off, too.
        wanted = _wanted(self.run, pixels, finished).size
        write_blocks(self.kept, _blocks(self.run, pixels, finished, given), lambda _: None)
        return wanted

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened, (self.file,)


def _opened(file: Path) -> _PixelRanges:
    training, run, kept, ranges = read_work(file)
    return _PixelRanges(training, run, kept, ranges, file)


def _asked(run: ThetaSampling, pixels: slice) -> np.ndarray:
    """Those of a range that are asked for."""
    return run.pixels[(run.pixels >= pixels.start) & (run.pixels < pixels.stop)]


def _wanted(run: ThetaSampling, pixels: slice, finished: np.ndarray) -> np.ndarray:
    """Those of a range that are asked for and not finished."""
    some = _asked(run, pixels)
    return some[~finished[some]]


def _blocks(
    run: ThetaSampling, pixels: slice, finished: np.ndarray, problem: PixelProblem
) -> Iterator[ThetaBlock]:  # fmt: skip
    """Draws of the pixels of a range that are not finished."""
    part = run.setup.part(problem, pixels.start)
    for block in sample_pixels(part, _asked(run, pixels) - pixels.start, finished[pixels]):
        yield replace(block, pixels=block.pixels + pixels.start)


def _ranges(work: StoreTraining, at_least: int = 1) -> list[slice]:
    """Pixels that are read at a time: at most about those that are trained at a time, and whole blocks of what is
    sampled; so many parts where there are enough pixels.
    """
    n_pixels = work.plan.n_pixels
    most = min(work.plan.block, -(-n_pixels // at_least))
    size = max(most // PIXELS_AT_ONCE, 1) * PIXELS_AT_ONCE
    return [slice(first, min(first + size, n_pixels)) for first in range(0, n_pixels, size)]


def _problem(work: StoreTraining, pixels: slice) -> PixelProblem:
    """The problem of some of the pixels, in float64 as a training set in memory has it."""
    flux, ivar = (np.asarray(array, float) for array in work.read_pixels(pixels))
    return PixelProblem(
        work.terms, flux, ivar, work.regularization[pixels], work.lower[pixels], work.upper[pixels]
    )  # fmt: skip
