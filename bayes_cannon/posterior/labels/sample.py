r"""The posterior of the labels of every star, by NUTS or HMC of the program `programs.star` on compressed spectra.

A star costs the same whatever its number of pixels: they are read once (`labelling.compressed`). The coordinates are
whitened at the best mode of the posterior, so that only the step size is adapted. **The density that is sampled is
confined to the basin of the best mode** (`density`), so that no mean is taken over two modes; other modes are reported,
and the status says where one is nearly as probable.
Stars whose chains fail their diagnostics run a second time, whitened by the covariance of the first run's draws.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from bayes_cannon.core.status import PosteriorStatus
from bayes_cannon.execution.jax_settings import check_key, own_jax_settings
from bayes_cannon.execution.threads import in_parallel
from bayes_cannon.labelling.batches import check_batch, native, padded_batch
from bayes_cannon.labelling.compressed import compressed_batch
from bayes_cannon.labelling.trained import TrainedModel
from bayes_cannon.posterior.chains import whitened_again
from bayes_cannon.posterior.diagnostics import convergence
from bayes_cannon.posterior.labels.chains import (
    STATISTICS,
    LabelRun,
    label_draws,
    scaled_labels,
    star_items,
    widened_spectra,
)
from bayes_cannon.posterior.labels.density import StarDensity
from bayes_cannon.posterior.labels.modes import (
    N_STARTS,
    NO_BARRIER,
    chi_squared_minima,
    is_singular,
    middle_of,
    modes_of,
    starts_of,
)
from bayes_cannon.posterior.labels.priors import LabelPrior
from bayes_cannon.posterior.labels.summary import LabelPosterior
from bayes_cannon.posterior.settings import KERNELS, LABEL_CHAINS, ChainSettings
from bayes_cannon.posterior.theta.sample import DEEP_LIMIT, DIVERGENT_LIMIT
from bayes_cannon.training.problem import Progress

MAX_BATCH = 64
"""Stars of a batch, at most."""
STARS_AGAIN = 4
"""Largest batch of second runs, which are few and take more draws each."""
REPORTED_DEVIANCE, COMPETING_DEVIANCE = 25.0, 9.0
"""-2 ln posterior relative to the best mode, below which another mode is reported, and below which it is flagged."""
N_MODES = N_STARTS
"""Largest number of modes reported: one for each start."""


class FailedStar(NamedTuple):
    """A star that needs a second run: its number, its density, and draws of u, shape (chain, draw, label)."""

    star: int
    item: StarDensity
    u: np.ndarray


class LabelBatch(NamedTuple):
    """Finished stars, which of them have maximum-likelihood labels that the prior excludes, and those to run again."""

    posterior: LabelPosterior
    excluded: np.ndarray
    failed: list[FailedStar]


def sample_star_labels(
    flux: np.ndarray,
    ivar: np.ndarray,
    *,
    trained: TrainedModel,
    prior: LabelPrior,
    key: Any,
    settings: ChainSettings = LABEL_CHAINS,
    first_star: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> LabelPosterior:
    """Posterior of the labels of each star, confined to the basin of its best mode.

    Parameters
    ----------
    flux, ivar
        Normalized flux and its inverse variance, shape (star, pixel). Anything with a shape that gives arrays when
        sliced will do. Flux where ``ivar = 0`` never matters.
    trained
        The model. With a covariance of theta, theta is integrated out.
    prior
        Of the scaled labels.
    key
        Integer or JAX key. What is drawn for a star depends on it and on the star's number only.
    settings
        Of the chains.
    first_star
        Number of the first star.
    batch_size
        Stars in a batch; by default enough for all, at most `MAX_BATCH`. Each size is a compiled program.
    progress
        Called with the number of stars that were finished since the last call.

    Returns
    -------
    posterior
        Draws, summary, modes and status of each star.

    Raises
    ------
    ValueError
        For shapes that do not fit together, fewer than four draws, and an unknown kernel.

    """
    check_batch(flux, ivar, trained.n_pixels)
    n_stars = flux.shape[0]
    _check_settings(settings)
    check_key(key)
    size = batch_size or min(MAX_BATCH, 1 << max(n_stars - 1, 7).bit_length())
    if isinstance(key, int | np.integer):
        with own_jax_settings():
            key = jax.random.key(int(key))
    _ = trained.tables, trained.theta_errors  # Once, before several threads ask for them.
    run = LabelRun(trained, prior, key, settings, size, first_star)

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
        for first in range(0, n_stars, size):
            yield native(flux[first : first + size]), native(ivar[first : first + size]), first

    if n_stars == 0:
        return _empty(run)
    done: list[LabelBatch] = []
    for batch in in_parallel(lambda spectra: _first_run(run, *spectra), batches()):
        done.append(batch)
        if progress is not None:
            progress(batch.posterior.n_stars - len(batch.failed))
    posterior = LabelPosterior.concatenated(batch.posterior for batch in done)
    failed = [star for batch in done for star in batch.failed]
    again = (failed[k : k + STARS_AGAIN] for k in range(0, len(failed), STARS_AGAIN))
    for stars, part in in_parallel(partial(_second_run, run), again):
        _place(posterior, stars - first_star, part)
        if progress is not None:
            progress(len(stars))
    _flag(posterior, np.concatenate([batch.excluded for batch in done]), trained)
    return posterior


def _check_settings(settings: ChainSettings) -> None:
    if settings.kernel not in KERNELS:
        raise ValueError(f"method must be one of {', '.join(KERNELS)}; got {settings.kernel!r}")
    least = {"n_chains": 1, "n_draws": 4, "n_warmup": 1}
    for name, lowest in least.items():
        value = getattr(settings, name)
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < lowest:
            raise ValueError(f"{name} must be an integer of at least {lowest}, got {value!r}")


def _first_run(run: LabelRun, flux: np.ndarray, ivar: np.ndarray, first: int) -> LabelBatch:
    n_stars = flux.shape[0]
    numbers = run.first_star + first + np.arange(run.batch_size)
    tables = run.trained.tables
    with own_jax_settings():
        compressed = compressed_batch(tables, *(padded_batch(array, run.batch_size) for array in (flux, ivar)))
        spectra = jax.tree.map(np.asarray, compressed)
        found = chi_squared_minima(tables.starts, spectra.coefficients)
        status = _status_without_chains(run.prior, np.asarray(found.hessian), spectra.used)
        status = np.where(spectra.faulty, PosteriorStatus.BAD_SPECTRUM, status)
        coefficients, widened = spectra.coefficients, None
        if run.trained.theta_errors is not None:
            coefficients, widened = widened_spectra(run.trained, run.prior, compressed, found.best)
        items = star_items(run, np.asarray(coefficients), spectra.n_tail, widened)
        starts = starts_of(
            tables.starts, np.asarray(coefficients), found, items, middle_of(run.prior), kinds=run.prior.kinds
        )
        modes = modes_of(run.potential, items, starts)
        deviance, x = np.asarray(modes.deviance), np.asarray(scaled_labels(run, modes.u))
        items = items._replace(
            mean=modes.u[:, 0], root=modes.root, barriers=modes.barriers, barrier_distances=modes.barrier_distances
        )  # fmt: skip
        host = jax.tree.map(np.asarray, items)
        u, draws, stats = label_draws(run, host, numbers, status == PosteriorStatus.CONVERGED, 0)
    kept = slice(n_stars)
    stats = {name: array[..., kept] for name, array in stats.items()}
    posterior = _summarized(run, draws[:, :, kept], stats, status[kept])
    posterior.n_pixels[:] = spectra.used[kept]
    posterior.mode_labels[:], posterior.mode_excess[:] = _reported(run, x[kept], deviance[kept], posterior.has_draws)
    best = np.asarray(found.best)[kept]
    excluded = ((best <= run.prior.low) | (best >= run.prior.high)).any(axis=1)
    failed = np.isin(posterior.status, [PosteriorStatus.NOT_MIXED, PosteriorStatus.DIVERGENT])
    again = [
        FailedStar(int(numbers[k]), jax.tree.map(lambda array, k=k: array[k], host), u[:, :, k])
        for k in np.flatnonzero(failed)
    ]
    return LabelBatch(posterior, excluded, again)


def _second_run(run: LabelRun, failed: list[FailedStar]) -> tuple[np.ndarray, LabelPosterior]:
    """Numbers and posteriors of at most `STARS_AGAIN` stars, which are whitened by their draws."""
    stars = np.array([one.star for one in failed])
    filled = np.resize(np.arange(len(failed)), STARS_AGAIN)
    items = jax.tree.map(lambda *rows: np.stack(rows)[filled], *(_whitened_again(one) for one in failed))
    good = np.arange(STARS_AGAIN) < len(failed)
    with own_jax_settings():
        _, draws, stats = label_draws(run, items, stars[filled], good, 1)
    kept = slice(len(failed))
    stats = {name: array[..., kept] for name, array in stats.items()}
    posterior = _summarized(run, draws[:, :, kept], stats, np.full(len(failed), PosteriorStatus.CONVERGED))
    posterior.status[posterior.status == PosteriorStatus.CONVERGED] = PosteriorStatus.RETRIED
    return stars, posterior


def _whitened_again(failed: FailedStar) -> StarDensity:
    """The density whitened by its draws."""
    item = failed.item
    mean, root = whitened_again(failed.u, np.asarray(item.root))
    # The barriers stay where they were: n . z = d in the old coordinates.
    turned = item.barriers @ np.linalg.solve(item.root, root)
    length = np.linalg.norm(turned, axis=1)
    safe = np.where(length > 0, length, 1.0)
    barrier_distances = (item.barrier_distances - item.barriers @ np.linalg.solve(item.root, mean - item.mean)) / safe
    return item._replace(
        mean=mean,
        root=root,
        barriers=turned / safe[:, None],
        barrier_distances=np.where(length > 0, barrier_distances, NO_BARRIER),
    )


def _status_without_chains(prior: LabelPrior, hessian: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Status of stars that have no posterior, and ``CONVERGED`` for the others, shape (star,)."""
    status = np.full(len(used), PosteriorStatus.CONVERGED, dtype=int)
    free = np.flatnonzero(prior.improper)
    status[(used < len(free)) | is_singular(hessian[:, free][:, :, free])] = PosteriorStatus.IMPROPER
    status[used == 0] = PosteriorStatus.NO_INFORMATION
    return status


def _summarized(run: LabelRun, draws: np.ndarray, stats: dict[str, np.ndarray], status: np.ndarray) -> LabelPosterior:
    """Posterior of the stars with summary and diagnostics; NaN for those that the status says have none."""
    n_stars, n_labels = draws.shape[2:]
    status, found = status.copy(), convergence(draws)
    mixed = found.mixed(run.settings.n_chains).all(axis=1)
    divergent, deep = (stats[name].mean(axis=(0, 1)) for name in ("diverging", "reached_max_tree_depth"))
    good = status == PosteriorStatus.CONVERGED
    status[good & ~mixed] = PosteriorStatus.NOT_MIXED
    if run.settings.kernel == "hmc":
        deep = np.zeros(n_stars)
    status[good & ((divergent > DIVERGENT_LIMIT) | (deep > DEEP_LIMIT))] = PosteriorStatus.DIVERGENT
    draws[:, :, ~good] = np.nan
    unknown = {
        name: np.where(good[:, None], getattr(found, name), np.nan) for name in ("r_hat", "ess_bulk", "ess_tail")
    }
    for name, kind in STATISTICS.items():
        stats[name] = np.where(good, stats[name], np.nan if kind is float else 0).astype(kind)
    return LabelPosterior.from_draws(
        draws, **unknown, mode_labels=np.full((n_stars, N_MODES, n_labels), np.nan),
        mode_excess=np.full((n_stars, N_MODES), np.nan), n_pixels=np.zeros(n_stars, dtype=int), status=status,
        stats=stats,
    )  # fmt: skip


def _reported(run: LabelRun, x: np.ndarray, deviance: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels and relative -2 ln posterior of the modes below `REPORTED_DEVIANCE`, in ascending order."""
    order = np.argsort(deviance, axis=1, kind="stable")
    deviance = np.take_along_axis(deviance, order, axis=1)
    labels = run.trained.scaling.unscaled(np.take_along_axis(x, order[..., None], axis=1))
    kept = (deviance < REPORTED_DEVIANCE) & known[:, None]
    return np.where(kept[..., None], labels, np.nan), np.where(kept, deviance, np.nan)


def _place(posterior: LabelPosterior, stars: np.ndarray, part: LabelPosterior) -> None:
    """Write the second run's posteriors into the first's, in place, with the modes that it found."""
    first = ("mode_labels", "mode_excess", "n_pixels")
    posterior.place(stars, replace(part, **{name: getattr(posterior, name)[stars] for name in first}))


def _flag(posterior: LabelPosterior, excluded: np.ndarray, trained: TrainedModel) -> None:
    """Set the status of converged stars with competing or excluded modes, or whose mean is outside, in place."""
    good = np.isin(posterior.status, [PosteriorStatus.CONVERGED, PosteriorStatus.RETRIED])
    several = (posterior.mode_excess[:, 1:] < COMPETING_DEVIANCE).any(axis=1)
    posterior.status[good & several] = PosteriorStatus.SEVERAL_MODES
    posterior.status[good & excluded] = PosteriorStatus.MODE_EXCLUDED
    with own_jax_settings():
        outside = np.asarray(trained.tables.starts.outside(trained.scaling.scaled(posterior.mean)))
    posterior.status[good & ~several & ~excluded & outside] = PosteriorStatus.OUTSIDE_TRAINING_SET


def _empty(run: LabelRun) -> LabelPosterior:
    """The posterior of no star."""
    shape = run.settings.n_chains, run.settings.n_draws, 0
    n_labels = run.trained.n_labels
    none = np.zeros((0, n_labels))
    return LabelPosterior.from_draws(
        np.zeros((*shape, n_labels)), r_hat=none, ess_bulk=none, ess_tail=none,
        mode_labels=np.zeros((0, N_MODES, n_labels)), mode_excess=np.zeros((0, N_MODES)),
        n_pixels=np.zeros(0, dtype=int), status=np.zeros(0, dtype=int),
        stats={name: np.zeros(shape, kind) for name, kind in STATISTICS.items()},
    )  # fmt: skip
