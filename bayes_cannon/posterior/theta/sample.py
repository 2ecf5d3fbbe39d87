r"""The posterior of theta and s of every pixel, by NUTS, HMC or importance sampling of the program `programs.pixel`.

The likelihood of a pixel is compressed once (`chebyshev_likelihood`), so that a draw costs the same whatever the number
of stars. The coordinates are whitened by the normal approximation of expectation propagation
(`expectation_propagation`), so that no mass matrix need be adapted. Pixels whose chains fail their diagnostics run a
second time, whitened by the covariance of the first run's draws; importance weights that fail theirs are replaced by
chains.

Where the scatter is correlated between pixels, the distribution of a single pixel is still that of its program, s^2
being the whole variance of its scatter, ``s_j^2 + |u_j|^2``. Taking the pixels one by one loses nothing where all have
the same terms and weights and no penalty: least squares of each alone is then the best of all together (Zellner 1962).
How theta is correlated between pixels follows from the factors (`labelling.theta_errors`).

Measured against NUTS on theta, s, U and the factors of all stars together (`programs.spectrum`; 50 stars, 6 pixels, a
straight line in one label, one factor that makes up half to three quarters of the scatter, the same priors): without
penalty means agree to 0.1 and standard deviations to 5 %, which is the Monte-Carlo error, and the covariances of theta
between pixels have 0.99 times their size. With noise that differs up to sixfold between the stars the means are 0.3
standard deviations apart, the rest is as before. A penalty breaks the theorem: what the prior says of one pixel then is
informative about the errors of the others, which a fit of single pixels cannot use. Where the standard deviation of the
Laplace prior is seven times that of theta, means are up to 0.25 standard deviations apart, standard deviations up to 10
% too large, and the covariances between pixels 0.75 of what is stated; at two and a half times it is 0.5, 20 % and
0.55; where both are alike 1.1, 40 % and 0.25. Errors of theta are too wide then, not too narrow.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from bayes_cannon.core.status import PosteriorStatus
from bayes_cannon.execution.jax_settings import own_jax_settings
from bayes_cannon.execution.threads import in_parallel
from bayes_cannon.posterior.chains import dispersed_starts, draw_chains, statistics, whitened_again
from bayes_cannon.posterior.diagnostics import convergence
from bayes_cannon.posterior.importance import K_HAT_LIMIT, resampled
from bayes_cannon.posterior.theta.density import (
    PixelDensity,
    PreparedPixels,
    ThetaRun,
    coordinates,
    density_of,
    pixel_keys,
    prepare,
    theta_of,
)
from bayes_cannon.posterior.theta.summary import QUANTILES, ThetaPosterior
from bayes_cannon.training.problem import PixelProblem

PIXELS_AT_ONCE = 32
"""Pixels of a block. A run that is killed loses at most the blocks in progress."""
PIXELS_AGAIN = 8
"""Pixels of a block of second runs, which are few and take more draws each."""
DIVERGENT_LIMIT, DEEP_LIMIT = 0.005, 0.05
"""Largest accepted shares of divergent draws, and of draws whose tree reached the maximum depth."""
COMPETING_DEVIANCE, VOLUME_DEVIANCE = 9.0, 5.0
"""-2 ln posterior of another mode, relative to the best, below which it is flagged, and what each term adds to that."""

FailedPixels = list[tuple[int, np.ndarray]]
"""Pixels that need a second run, with the draws of the first."""


@dataclass(frozen=True)
class ThetaBlock:
    """Finished pixels.

    Attributes
    ----------
    pixels
        Which, shape (pixel,).
    posterior
        Their summary.
    theta, s
        Draws, shape (chain, draw, pixel, term) and (chain, draw, pixel).
    stats
        What ArviZ calls sample statistics, shape (chain, draw, pixel) each.

    """

    pixels: np.ndarray
    posterior: ThetaPosterior
    theta: np.ndarray
    s: np.ndarray
    stats: dict[str, np.ndarray]


FirstRun = Callable[[np.ndarray], tuple[ThetaBlock, dict[int, np.ndarray]]]
"""Returns a block of the given pixels, and the draws of those that need a second run."""


def sample_pixels(run: ThetaRun, pixels: np.ndarray, finished: np.ndarray | None = None) -> Iterator[ThetaBlock]:
    """Posterior of each of the pixels, block after block; those that need a second run come last.

    Draws are from one mode. Where there may be another that is as probable (`ThetaRun.several`), the status says so.

    Parameters
    ----------
    run
        The problem, priors and settings.
    pixels
        Which pixels, shape (chosen pixel,). Draws of a pixel depend on its number, the key and its block.
    finished
        Which pixels are not wanted any more, boolean, shape (pixel,): blocks of which all are finished are left out.

    Yields
    ------
    block
        All pixels but the finished ones, each once.

    """
    for block in _sampled(run, pixels, finished):
        if run.several is not None:
            status = block.posterior.status
            good = np.isin(status, [PosteriorStatus.CONVERGED, PosteriorStatus.RETRIED])
            status[good & run.several[block.pixels]] = PosteriorStatus.SEVERAL_MODES
        yield block


def competing_modes(problem: PixelProblem, n_minima: np.ndarray, margin: np.ndarray) -> np.ndarray:
    """Whether another mode of the posterior of (theta, s) may be as probable, boolean, shape (pixel,).

    Modes are minima of the training scalar, which is -2 ln posterior but for the weak priors of s and theta_0. Where
    there are several, the margin to the second says how their heights differ. Their masses differ by their volumes
    too: by a factor of about ten for each term that is shrunk in one and free in the other.

    Parameters
    ----------
    problem
        The pixels.
    n_minima, margin
        As in `training.problem.PixelSolution`, shape (pixel,).

    """
    n_shrunk = np.where(problem.regularization > 0, problem.free.sum(axis=1) - 1, 0)
    return (n_minima > 1) & (margin < COMPETING_DEVIANCE + VOLUME_DEVIANCE * n_shrunk)


def _sampled(run: ThetaRun, pixels: np.ndarray, finished: np.ndarray | None) -> Iterator[ThetaBlock]:
    done = np.zeros(run.problem.n_pixels, dtype=bool) if finished is None else finished.copy()
    pixels = np.asarray(pixels, dtype=int)
    status = unsampled(run)[pixels]
    refused = pixels[(status != PosteriorStatus.CONVERGED) & ~done[pixels]]
    if len(refused):
        yield _without_posterior(run, refused)
    for group in _groups(run, pixels[status == PosteriorStatus.CONVERGED]):
        blocks = (block for block in _blocks(group) if not done[block].all())
        failed: FailedPixels = []
        yield from _passed(partial(_first_run, run), blocks, done, failed)
        if run.method == "psis":
            pixels_of_chains, failed = np.array([pixel for pixel, _ in failed], dtype=int), []
            chains = partial(_first_run, replace(run, method="nuts"))
            for block in _passed(chains, _blocks(pixels_of_chains), done, failed):
                block.posterior.status[:] = PosteriorStatus.RETRIED
                yield block
        again = (failed[k : k + PIXELS_AGAIN] for k in range(0, len(failed), PIXELS_AGAIN))
        for block in in_parallel(partial(_second_run, run), again):
            kept = np.flatnonzero(~done[block.pixels])
            if len(kept):
                yield _subset(block, kept)


def _blocks(pixels: np.ndarray) -> Iterator[np.ndarray]:
    return (pixels[k : k + PIXELS_AT_ONCE] for k in range(0, len(pixels), PIXELS_AT_ONCE))


def _passed(
    work: FirstRun, blocks: Iterator[np.ndarray], done: np.ndarray, failed: FailedPixels
) -> Iterator[ThetaBlock]:
    """Pixels that pass their first run; the others are added to ``failed``."""
    for block, draws in in_parallel(work, blocks):
        good = block.posterior.status == PosteriorStatus.CONVERGED
        failed += [(pixel, draws[pixel]) for pixel in block.pixels[~good]]
        kept = np.flatnonzero(good & ~done[block.pixels])
        if len(kept):
            yield _subset(block, kept)


def unsampled(run: ThetaRun) -> np.ndarray:
    """Status of pixels that have no posterior, and ``CONVERGED`` for the others, shape (pixel,)."""
    problem = run.problem
    n_stars, n_free = (problem.ivar > 0).sum(axis=0), problem.free.sum(axis=1)
    status = np.full(problem.n_pixels, PosteriorStatus.CONVERGED, dtype=int)
    status[(n_stars < n_free) & (problem.regularization == 0)] = PosteriorStatus.IMPROPER
    solved = np.isfinite(run.theta).all(axis=1) & np.isfinite(run.s2)
    status[(n_stars == 0) | (~solved & (status == PosteriorStatus.CONVERGED))] = PosteriorStatus.NO_INFORMATION
    return status


def _groups(run: ThetaRun, pixels: np.ndarray) -> list[np.ndarray]:
    """Pixels with the same free terms, and either all penalized or none: one compiled program each."""
    kind = np.column_stack([run.problem.free[pixels], run.problem.regularization[pixels] > 0])
    _, which = np.unique(kind, axis=0, return_inverse=True)
    return [pixels[which == k] for k in range(which.max(initial=-1) + 1)]


def _without_posterior(run: ThetaRun, pixels: np.ndarray) -> ThetaBlock:
    n_terms, settings = run.theta.shape[1], run.settings
    posterior = ThetaPosterior.empty(len(pixels), n_terms, unsampled(run)[pixels])
    shape = settings.n_chains, settings.n_draws, len(pixels)
    return ThetaBlock(pixels, posterior, np.full((*shape, n_terms), np.nan), np.full(shape, np.nan), {})


def _subset(block: ThetaBlock, kept: np.ndarray) -> ThetaBlock:
    """Some pixels of a block."""
    stats = {name: array[..., kept] for name, array in block.stats.items()}
    return ThetaBlock(block.pixels[kept], block.posterior.at(kept), block.theta[:, :, kept], block.s[..., kept], stats)


def _first_run(run: ThetaRun, pixels: np.ndarray) -> tuple[ThetaBlock, dict[int, np.ndarray]]:
    """A block, and draws of those of its pixels that need another run."""
    with own_jax_settings():
        prepared = prepare(run, _filled(pixels))
        if run.method == "psis":
            u, stats, k_hat = _resampled_draws(run, prepared), dict[str, np.ndarray](), prepared.weighted.k_hat
        else:
            u, stats = _chain_draws(run, prepared.densities, prepared.pixels, attempt=0)
            k_hat = None
        theta = np.asarray(theta_of(prepared.densities, u))
    block = _summarized(run, pixels, u[..., 0], theta, stats, k_hat, second=False)
    block.posterior.status[prepared.inexact[: len(pixels)]] = PosteriorStatus.INEXACT
    failed = np.flatnonzero(block.posterior.status != PosteriorStatus.CONVERGED)
    # Copies, because a view would keep the draws of the whole block.
    return block, {pixels[k]: u[k].copy() for k in failed}


def _second_run(run: ThetaRun, failed: FailedPixels) -> ThetaBlock:
    pixels = np.array([pixel for pixel, _ in failed])
    with own_jax_settings():
        prepared = prepare(run, _filled(pixels))
        densities = jax.tree.map(lambda array: array[:PIXELS_AGAIN], prepared.densities)
        means, roots = np.array(densities.mean), np.array(densities.root)
        for k, (_, draws) in enumerate(failed):
            means[k], roots[k] = whitened_again(draws, roots[k])
        densities = densities._replace(mean=means, root=roots)
        u, stats = _chain_draws(run, densities, prepared.pixels[:PIXELS_AGAIN], attempt=1)
        theta = np.asarray(theta_of(densities, u))
    block = _summarized(run, pixels, u[..., 0], theta, stats, None, second=True)
    block.posterior.status[prepared.inexact[: len(pixels)]] = PosteriorStatus.INEXACT
    return block


def _filled(pixels: np.ndarray) -> np.ndarray:
    """The pixels repeated up to the size of a block, so that no other shape is ever compiled."""
    return np.resize(pixels, PIXELS_AT_ONCE)


def _chain_draws(
    run: ThetaRun, densities: PixelDensity, pixels: np.ndarray, attempt: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Draws of (v, zeta), shape (pixel, chain, draw, coordinate), and their statistics."""
    settings = run.settings.of_run(attempt)
    keys = jax.vmap(lambda key: jax.random.split(key, 2 * settings.n_chains))(pixel_keys(run, pixels, attempt))
    starts = dispersed_starts(keys[:, settings.n_chains :], densities.mean.shape[1])
    drawn = draw_chains(density_of(run, pixels), densities, keys[:, : settings.n_chains], starts, settings)
    return np.array(coordinates(densities, drawn.z)), statistics(drawn, run.settings)


def _resampled_draws(run: ThetaRun, prepared: PreparedPixels) -> np.ndarray:
    """Draws of (v, theta) with equal weights, shape (pixel, chain, draw, coordinate)."""
    seeds = np.asarray(jax.random.key_data(pixel_keys(run, prepared.pixels, 3)))
    z = resampled(prepared.weighted, [np.random.default_rng(seed) for seed in seeds])
    shape = len(z), run.settings.n_chains, run.settings.n_draws, z.shape[-1]
    return np.array(coordinates(prepared.densities, jnp.asarray(z.reshape(shape))))


def _summarized(
    run: ThetaRun, pixels: np.ndarray, v: np.ndarray, coefficients: np.ndarray, stats: dict[str, np.ndarray],
    k_hat: np.ndarray | None, *, second: bool,
) -> ThetaBlock:  # fmt: skip
    """The block without what filled it up, censored terms filled in, with its summary and diagnostics."""
    n_terms, free = run.theta.shape[1], np.flatnonzero(run.problem.free[pixels[0]])
    n_pixels = len(pixels)
    v, coefficients = v[:n_pixels], coefficients[:n_pixels]
    stats = {name: array[:n_pixels] for name, array in stats.items()}
    k_hat = None if k_hat is None else k_hat[:n_pixels]
    _, n_chains, n_draws = v.shape
    theta = np.zeros((n_chains, n_draws, n_pixels, n_terms))
    theta[..., free] = coefficients.transpose(1, 2, 0, 3)
    s = np.abs(v).transpose(1, 2, 0)
    empty = ThetaPosterior.empty(n_pixels, n_terms, np.full(n_pixels, PosteriorStatus.CONVERGED))
    parameters = np.concatenate([s[..., None], theta[..., free]], axis=-1)
    columns = np.concatenate([[0], 1 + free])
    mixed = np.ones(n_pixels, dtype=bool)
    if k_hat is None:
        found = convergence(parameters)
        mixed = found.mixed(n_chains).all(axis=1)
        for name in ("r_hat", "ess_bulk", "ess_tail"):
            getattr(empty, name)[:, columns] = getattr(found, name)
    share = {
        name: stats[name].mean(axis=(1, 2)) for name in ("diverging", "reached_max_tree_depth", "n_steps") if stats
    }
    divergent, deep, n_steps = (share[name] for name in share) if share else (empty.divergent,) * 3
    status = empty.status
    status[~mixed] = PosteriorStatus.NOT_MIXED
    status[(divergent > DIVERGENT_LIMIT) | (deep > DEEP_LIMIT)] = PosteriorStatus.DIVERGENT
    if k_hat is not None:
        status[k_hat >= K_HAT_LIMIT] = PosteriorStatus.NOT_MIXED
    elif second:
        status[status == PosteriorStatus.CONVERGED] = PosteriorStatus.RETRIED
    flat = theta.reshape(-1, n_pixels, n_terms)
    mean = flat.mean(axis=0)
    away = flat - mean
    posterior = replace(
        empty,
        mean=mean,
        covariance=np.einsum("dpi,dpj->pij", away, away) / (len(flat) - 1),
        s=np.column_stack([s.mean(axis=(0, 1)), s.std(axis=(0, 1), ddof=1), (s**2).mean(axis=(0, 1))]),
        theta_quantiles=np.quantile(flat, QUANTILES, axis=0).swapaxes(0, 1),
        s_quantiles=np.quantile(s, QUANTILES, axis=(0, 1)).T,
        k_hat=empty.k_hat if k_hat is None else k_hat,
        divergent=divergent, deep=deep, n_steps=n_steps,
    )  # fmt: skip
    return ThetaBlock(pixels, posterior, theta, s, {name: array.transpose(1, 2, 0) for name, array in stats.items()})
