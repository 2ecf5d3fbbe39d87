"""Draws of theta from a store of spectra that does not fit the memory, a block of pixels after the other.

Pixels are sampled by themselves, from keys made of their numbers, so that blocks change nothing but where the spectra
come from: `model.store_training` reads them as it does to train.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from bayes_cannon.core.progress import ProgressOption
from bayes_cannon.model.result import TrainingResult
from bayes_cannon.model.store_training import StoreTraining
from bayes_cannon.model.theta_sampling import ThetaSampling, sample_theta
from bayes_cannon.posterior.theta.priors import flux_moments
from bayes_cannon.posterior.theta.sample import PIXELS_AT_ONCE, ThetaBlock, sample_pixels
from bayes_cannon.posterior.theta.summary import ThetaPosterior
from bayes_cannon.training.problem import PixelProblem


def sample_from_store(
    work: StoreTraining, result: TrainingResult, hashes: dict[str, str], spectra_hash: str | None, *,
    out: str | os.PathLike[str] | None, keep_draws: bool | None, overwrite: bool, progress: ProgressOption,
    **options: Any,
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
    options
        The other arguments of `ThetaSampling.checked`.

    Raises
    ------
    ValueError
        If the spectra are not those that the model was trained on, and as `CannonModel.sample` does.

    """
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

    def blocks(finished: np.ndarray) -> Iterator[ThetaBlock]:
        for pixels in _ranges(work):
            wanted = run.pixels[(run.pixels >= pixels.start) & (run.pixels < pixels.stop)] - pixels.start
            if finished[pixels][wanted].all():
                continue
            part = run.setup.part(_problem(work, pixels), pixels.start)
            for block in sample_pixels(part, wanted, finished[pixels]):
                yield replace(block, pixels=block.pixels + pixels.start)

    return sample_theta(
        run, hashes, store=out, keep_draws=keep_draws, overwrite=overwrite, progress=progress, blocks=blocks
    )


def _ranges(work: StoreTraining) -> list[slice]:
    """Pixels that are read at a time: about those that are trained at a time, and whole blocks of what is sampled."""
    size, n_pixels = max(work.plan.block // PIXELS_AT_ONCE, 1) * PIXELS_AT_ONCE, work.plan.n_pixels
    return [slice(first, min(first + size, n_pixels)) for first in range(0, n_pixels, size)]


def _problem(work: StoreTraining, pixels: slice) -> PixelProblem:
    """The problem of some of the pixels, in float64 as a training set in memory has it."""
    flux, ivar = (np.asarray(array, float) for array in work.read_pixels(pixels))
    return PixelProblem(
        work.terms, flux, ivar, work.regularization[pixels], work.lower[pixels], work.upper[pixels]
    )  # fmt: skip
