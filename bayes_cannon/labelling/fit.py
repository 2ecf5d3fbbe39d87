"""The test step: labels of stars from their spectra (Casey et al. 2016, equation 3), and their covariance.

The spectra are compressed to polynomials and fitted (`labelling.compressed`). Stars are read in batches of one
shape, the last one padded with ``ivar = 0``, so that one compiled program serves all, and the memory does not grow with
their number.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from itertools import chain
from typing import Self

import jax
import numpy as np

from bayes_cannon.core.intake import real_numbers
from bayes_cannon.core.status import StarStatus
from bayes_cannon.core.typing import PerPixelMask, PerStar, StarPixel
from bayes_cannon.execution.compiled_programs import make_room
from bayes_cannon.execution.devices import BLOCKS_ON_GPU, NUMBERS_ON_GPU, by_device
from bayes_cannon.execution.jax_settings import own_jax_settings
from bayes_cannon.execution.threads import at_most
from bayes_cannon.labelling.batches import check_batch, covariance_batch, native, padded_batch, with_covariances
from bayes_cannon.labelling.compressed import BatchFit, fit_batch
from bayes_cannon.labelling.marginalized import fit_integrated
from bayes_cannon.labelling.trained import TrainedModel
from bayes_cannon.training.problem import Progress

Spectra = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]
"""Flux and ivar, shape (star, pixel), further starts in scaled labels, shape (star, start, label), and covariances of
the noise, shape (star, pixel, pixel), or None."""

ELEMENTS_PER_BATCH = 500_000
"""Stars times pixels of a batch: 4 MB for each array of that shape, which stays in the cache.

Larger arrays go back to the system after each batch, and to fetch them anew can take as long as to fill them. On a GPU
a batch has `execution.devices.NUMBERS_ON_GPU`.
"""

TABLE_PER_BATCH = 8
"""Largest number of entries of the table of products, which is read once a batch, per element of a batch."""

RIVAL = 9.0
"""A second minimum counts if chi^2 is larger by less than this, and it is further away, squared, in the errors."""

WORKERS = min(os.cpu_count() or 1, 8) + 1
"""Number of batches computed at a time: one more than cores, so that none idles while Python has a batch.

On a GPU there are `execution.devices.BLOCKS_ON_GPU`.
"""


@dataclass(frozen=True)
class LabelFit:
    """Labels of N stars, in their units, and how they were found.

    Attributes
    ----------
    labels
        Shape (star, label); NaN where the status has no solution, and for a label that the spectrum leaves open.
    covariance
        Inverse Fisher information, in products of label units, shape (star, label, label); NaN in the rows and columns
        of labels that are not determined.
    chi_squared
        ``sum_j w_j r_j^2`` at the labels, shape (star,), over what the labels make of the covariance, if they do.
    reduced_chi_squared
        chi^2 over its degrees of freedom: used pixels, or what chi^2 typically is where a covariance has directions
        without residuals (`scatter.Full`), minus the number of labels; NaN where that is not positive.
    n_pixels
        Number of used pixels: positive ivar, and a trained theta.
    snr
        Median of one over the flux error in the used pixels: the S/N of a normalized flux or of a logarithm of flux.
    status
        `StarStatus` of each star.
    iterations
        Newton steps from the start that won.
    start
        Which start won: 0 the best training star, 1 the best of those far from it, 2 the fiducial labels, from 3 on
        those in ``initial_labels``.
    decrement
        Certificate: squared distance to the stationary point of chi^2 in units of the errors, ``g^T F^-1 g / 4`` from
        the gradient of chi^2 over the residuals at the labels; NaN where F is singular.
    scale
        Posterior variance scale of the star, by which the covariance is multiplied: one for normal tails, and with
        heavy ones larger than one for a spectrum that does not fit.
    misfit
        How far ln of the reduced chi^2 is from that of training stars of the same S/N, in their standard deviations,
        shape (star,); negative where it fits too well (`labelling.goodness`).
    second_labels, second_excess
        Labels of a second minimum that is nearly as deep, shape (star, label), and by how much chi^2 is larger there,
        shape (star,). NaN where the search met none.

    """

    labels: np.ndarray
    covariance: np.ndarray
    chi_squared: np.ndarray
    reduced_chi_squared: np.ndarray
    n_pixels: np.ndarray
    snr: np.ndarray
    status: np.ndarray
    iterations: np.ndarray
    start: np.ndarray
    decrement: np.ndarray
    scale: np.ndarray
    misfit: np.ndarray
    second_labels: np.ndarray
    second_excess: np.ndarray

    @classmethod
    def concatenated(cls, parts: Iterable["LabelFit"]) -> "LabelFit":
        """One fit of all the stars in at least one part."""
        parts = list(parts)
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def at(self, stars: np.ndarray) -> Self:
        """The fit of some of the stars, by mask or index."""
        return type(self)(*(getattr(self, field.name)[stars] for field in fields(self)))


def fit_labels(
    trained: TrainedModel,
    flux: np.ndarray,
    ivar: np.ndarray,
    *,
    initial_labels: np.ndarray | None = None,
    batch_size: int | None = None,
    covariance: np.ndarray | None = None,
    progress: Progress | None = None,
) -> LabelFit:
    r"""Labels that minimize chi^2 of each star, the lowest of several local minima, and their covariance.

    Parameters
    ----------
    trained
        The model. With a covariance of theta, theta is integrated out (`labelling.theta_errors`).
    flux, ivar
        Normalized flux and its inverse variance, shape (star, pixel). Anything with a shape that gives arrays when
        sliced will do, such as a memory map; it is read batch by batch. Flux where ``ivar = 0`` never matters.
    initial_labels
        Further starting points in label units: one set (label,), one set for all stars (1, label), one per star
        (star, label), or several per star (star, start, label).
    batch_size
        Stars in a batch. By default a power of two near `ELEMENTS_PER_BATCH` over the pixels, or enough for all stars.
    covariance
        Of the noise of each star, shape (star, pixel, pixel), for scatter that takes it (`scatter.star_noise`). A star
        with numbers that are not finite counts as a bad spectrum.
    progress
        Called with the number of stars that were finished since the last call.

    Returns
    -------
    fit
        Labels, covariance and diagnostics of each star.

    Raises
    ------
    ValueError
        For shapes that do not fit together, or initial labels that are not finite. A bad spectrum is a status.

    Notes
    -----
    The covariance assumes that the scatter is known and of the kind that the model has. Where the model calls the
    scatter independent and it is not, the errors are several times too small.

    """
    check_batch(flux, ivar, trained.n_pixels)
    n_stars = flux.shape[0]
    starts = _scaled_starts(initial_labels, n_stars, trained)
    size = _batch_size(batch_size, n_stars, trained)
    if covariance is not None:
        size = covariance_batch(size, trained.n_pixels)

    def batches() -> Iterator[Spectra]:
        for first in range(0, n_stars, size):
            stars = slice(first, first + size)
            yield flux[stars], ivar[stars], starts[stars], None if covariance is None else covariance[stars]

    parts = [_no_stars(trained.n_labels)]
    for part in fit_batches(trained, batches(), size):
        parts.append(part)
        if progress is not None:
            progress(len(part.status))
    return LabelFit.concatenated(parts)


def fit_label_stream(
    trained: TrainedModel,
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    initial_labels: np.ndarray | None = None,
    batch_size: int | None = None,
) -> Iterator[LabelFit]:
    """The same as `fit_labels` for spectra that come one batch after the other, from files for example.

    Parameters
    ----------
    trained
        The model.
    batches
        Flux and ivar, both (star, pixel), of some stars at a time; any number of stars, or a memory map of all.
    initial_labels
        Further starting points of all stars in label units: one set (label,), or several (1, start, label).
    batch_size
        Stars that are computed together. By default what `fit_labels` takes for as many stars as the first batch has.

    Returns
    -------
    fits
        The fit of each batch, in order. About as many stars as fill `WORKERS` batches are read ahead.

    Raises
    ------
    ValueError
        As `fit_labels`, when the batch is reached.

    """
    starts = _scaled_starts(initial_labels, 1, trained)
    if batch_size is not None:
        _batch_size(batch_size, 1, trained)
    waiting: deque[int] = deque()

    def pieces(flux: np.ndarray, ivar: np.ndarray, size: int) -> Iterator[Spectra]:
        check_batch(flux, ivar, trained.n_pixels)
        waiting.append(len(flux))
        for first in range(0, max(len(flux), 1), size):
            part = flux[first : first + size]
            yield part, ivar[first : first + size], np.broadcast_to(starts, (len(part), *starts.shape[1:])), None

    def fits() -> Iterator[LabelFit]:
        source = iter(batches)
        for head in source:
            size = _batch_size(batch_size, len(head[0]), trained)
            spectra = (piece for batch in chain([head], source) for piece in pieces(*batch, size))
            parts: list[LabelFit] = []
            for part in fit_batches(trained, spectra, size):
                parts.append(part)
                if sum(len(part.status) for part in parts) == waiting[0]:
                    waiting.popleft()
                    yield LabelFit.concatenated(parts)
                    parts = []

    return fits()


def fit_batches(trained: TrainedModel, batches: Iterable[Spectra], batch_size: int) -> Iterator[LabelFit]:
    """Fit of each batch of at most ``batch_size`` stars, in order; `WORKERS` of them are computed at a time.

    A batch is flux (star, pixel), ivar (star, pixel), further starts (star, start, label) in *scaled* labels, and
    covariances or None; the number of starts, which may be zero, is the same for all. Errors are those of `fit_labels`.
    """
    make_room()
    _ = trained.tables, trained.theta_errors  # Once, before several threads ask for them.
    running: deque[Future[LabelFit]] = deque()
    workers = by_device(at_most(WORKERS), BLOCKS_ON_GPU)
    pool = ThreadPoolExecutor(workers)
    try:
        for batch in batches:
            running.append(pool.submit(_fitted, trained, batch, batch_size))
            if len(running) > workers:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _fitted(trained: TrainedModel, batch: Spectra, batch_size: int) -> LabelFit:
    """Results of the stars of a batch, without the padding, in label units."""
    flux, ivar, starts = native(batch[0]), native(batch[1]), np.asarray(batch[2], float)
    tables, errors, scaling = trained.tables, trained.theta_errors, trained.scaling
    if batch[3] is not None:
        ivar, noise = with_covariances(ivar, batch[3])
        tables = tables.of_stars(padded_batch(noise, batch_size))
    with own_jax_settings():
        padded = (padded_batch(array, batch_size) for array in (flux, ivar, starts))
        found = fit_batch(tables, *padded) if errors is None else fit_integrated(tables, errors, *padded)
        out = jax.tree.map(lambda array: np.asarray(array)[: len(flux)], found)
    n_labels = out.x.shape[1]
    ended = np.where(out.faulty, StarStatus.BAD_SPECTRUM, out.status).astype(int)
    solved = ~np.isin(ended, [status for status in StarStatus if not status.has_solution])
    covariance = np.where(solved[:, None, None], scaling.unscaled_covariance(out.covariance), np.nan)
    determined = solved[:, None] & ~(
        (ended == StarStatus.SINGULAR)[:, None] & np.isnan(np.diagonal(covariance, axis1=1, axis2=2))
    )
    chi_squared = np.where(solved, out.chi_squared, np.nan)
    freedom = out.n_tail - n_labels
    reduced = np.where(freedom > 0, chi_squared / np.where(freedom > 0, freedom, 1), np.nan)
    snr = _medians(out.significance, out.used)
    misfit = np.asarray(trained.goodness.misfit(reduced, snr, freedom))
    is_rival = _is_rival(out)
    return LabelFit(
        labels=np.where(determined, scaling.unscaled(out.x), np.nan),
        covariance=covariance,
        chi_squared=chi_squared,
        reduced_chi_squared=reduced,
        n_pixels=out.used.astype(int),
        snr=snr,
        status=_judged(ended, is_rival, trained.goodness.is_unlike(misfit, snr)),
        iterations=np.where(solved, out.iterations, 0).astype(int),
        start=np.where(solved, out.start, -1).astype(int),
        decrement=np.where(solved, out.decrement, np.nan),
        scale=np.where(solved, out.scale, np.nan),
        misfit=misfit,
        second_labels=np.where((solved & is_rival)[:, None], scaling.unscaled(out.second.x), np.nan),
        second_excess=np.where(solved & is_rival, out.second.excess, np.nan),
    )


def _is_rival(out: BatchFit) -> np.ndarray:
    """Whether a star has a second minimum that is nearly as deep, and further away than its errors reach, (star,)."""
    known = np.isfinite(out.second.excess) & np.isfinite(out.covariance).all(axis=(1, 2))
    rival = np.zeros(len(known), bool)
    rows = np.flatnonzero(known & (out.second.excess < RIVAL * out.scale))
    away = out.second.x[rows] - out.x[rows]
    distance = np.einsum("nk,nk->n", away, np.linalg.solve(out.covariance[rows], away[..., None])[..., 0])
    rival[rows] = distance > RIVAL
    return rival


def _judged(ended: np.ndarray, is_rival: np.ndarray, is_unlike: np.ndarray) -> np.ndarray:
    """Status with what else is to be known of a fit that has ended well, the gravest first."""
    good = np.isin(ended, [StarStatus.CONVERGED, StarStatus.OUTSIDE_TRAINING_SET])
    status = np.where(good & is_rival, StarStatus.SEVERAL_MINIMA, ended)
    return np.where(good & is_unlike, StarStatus.UNLIKE_TRAINING_SPECTRA, status)


def signal_to_noise(ivar: StarPixel, solved: PerPixelMask) -> PerStar:
    """S/N of spectra as `LabelFit` has it, without a fit: ivar (star, pixel), and which pixels have a solution."""
    used = np.asarray((ivar > 0) & np.isfinite(ivar) & solved)
    return _medians(np.where(used, np.sqrt(np.where(used, ivar, 1.0)), np.inf), used.sum(axis=1))


def _medians(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Median of each row's finite numbers, whose count is given, the others being infinite; NaN where there is none."""
    medians = np.full(len(values), np.nan)
    # Spectra with one error for all pixels need no partition: more than half of the numbers are the lowest.
    lowest = values.min(axis=1, initial=np.inf)
    single = (counts > 0) & (2 * np.count_nonzero(values == lowest[:, None], axis=1) > counts + 1)
    medians[single] = lowest[single]
    for count in np.unique(counts[(counts > 0) & ~single]):
        rows, middle = np.flatnonzero((counts == count) & ~single), int(count) // 2
        # One partition at one place: to sort takes longer, and NumPy is seven times slower where two are wanted.
        parted = np.partition(values if len(rows) == len(values) else values[rows], middle, axis=1)
        below = parted[:, middle] if count % 2 else parted[:, :middle].max(axis=1)
        medians[rows] = (parted[:, middle] + below) / 2
    return medians


def _batch_size(batch_size: int | None, n_stars: int, trained: TrainedModel) -> int:
    if batch_size is None:
        table_size = trained.terms.moments.n_moments * trained.n_pixels
        in_cache = max(ELEMENTS_PER_BATCH, table_size // TABLE_PER_BATCH) // max(trained.n_pixels, 1)
        # All stars of a batch are searched together on a GPU, so that their Hessians are to fit, too.
        hessian = trained.tables.starts.moment_tables.sources.size
        most = by_device(in_cache, NUMBERS_ON_GPU // max(trained.n_pixels, hessian, 1))
        # Powers of two, so that few shapes are ever compiled.
        return 1 << min(max(most, 1).bit_length() - 1, max(n_stars - 1, 7).bit_length())
    if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer) or batch_size < 1:
        raise ValueError(f"batch_size must be a positive integer or None, got {batch_size!r}")
    return int(batch_size)


def _scaled_starts(initial_labels: np.ndarray | None, n_stars: int, trained: TrainedModel) -> np.ndarray:
    """Starting points of each star in scaled labels, shape (star, start, label)."""
    n_labels = trained.n_labels
    if initial_labels is None:
        return np.zeros((n_stars, 0, n_labels))
    labels = real_numbers(initial_labels, "initial_labels")
    shape = labels.shape
    if labels.ndim in (1, 2):
        labels = np.atleast_2d(labels)[:, None, :]
    if labels.ndim != 3 or labels.shape[2] != n_labels or labels.shape[0] not in (1, n_stars):
        raise ValueError(
            f"initial_labels must have shape ({n_labels},), (1, {n_labels}), ({n_stars}, {n_labels}) or "
            f"({n_stars}, start, {n_labels}); got {shape}"
        )
    if not np.isfinite(labels).all():
        star, start, label = np.argwhere(~np.isfinite(labels))[0]
        raise ValueError(
            f"initial_labels has {labels[star, start, label]} for label {label} of star {star}: leave the star's start "
            "out, or give it the fiducial labels"
        )
    return trained.scaling.scaled(np.broadcast_to(labels, (n_stars, *labels.shape[1:])))


def _no_stars(n_labels: int) -> LabelFit:
    """The fit of an empty list of stars."""
    none, integers = np.zeros(0), np.zeros(0, int)
    return LabelFit(
        labels=np.zeros((0, n_labels)), covariance=np.zeros((0, n_labels, n_labels)), chi_squared=none,
        reduced_chi_squared=none, n_pixels=integers, snr=none, status=integers, iterations=integers, start=integers,
        decrement=none, scale=none, misfit=none, second_labels=np.zeros((0, n_labels)), second_excess=none,
    )  # fmt: skip
