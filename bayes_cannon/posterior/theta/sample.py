r"""The posterior of theta and s of every pixel, by NUTS, HMC or importance sampling of the program `programs.pixel`.

The likelihood of a pixel is compressed once (`chebyshev_likelihood`), so that a draw costs the same whatever the number
of stars. The coordinates are whitened by the normal law of expectation propagation (`expectation_propagation`), which
makes the adaptation of a mass matrix needless. Pixels whose chains fail their diagnostics run a second time, whitened
by the covariance of the first run's draws; importance weights that fail theirs are replaced by chains.

Where the scatter is correlated between pixels, the law of a single pixel is still that of its program, s^2 being the
whole variance of its scatter, ``s_j^2 + |u_j|^2``. Taking the pixels one by one loses nothing where all have the same
terms and weights and no penalty: least squares of each alone is then the best of all together (Zellner 1962). How theta
is correlated between pixels follows from the factors (`labelling.theta_errors`).

Measured against NUTS on theta, s, U and the factors of all stars together (`programs.spectrum`; 50 stars, 6 pixels, a
straight line in one label, one factor that makes up half to three quarters of the scatter, the same priors): without
penalty means agree to 0.1 and standard deviations to 5 %, which is the Monte-Carlo error, and the covariances of theta
between pixels have 0.99 times their size. With noise that differs up to sixfold between the stars the means are 0.3
standard deviations apart, the rest is as before. A penalty breaks the theorem: what the prior says of one pixel then
tells of the errors of the others, which pixels taken one by one do not hear. Where the standard deviation of the
Laplace prior is seven times that of theta, means are up to 0.25 standard deviations apart, standard deviations up to
10 % too large, and the covariances between pixels 0.75 of what is stated; at two and a half times it is 0.5, 20 % and
0.55; where both are alike 1.1, 40 % and 0.25. Errors of theta are too wide then, not too narrow.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from bayes_cannon.core.status import PosteriorStatus
from bayes_cannon.execution.threads import in_parallel
from bayes_cannon.posterior.chains import dispersed_starts, draw_chains, statistics, whitened_again
from bayes_cannon.posterior.diagnostics import convergence
from bayes_cannon.posterior.importance import K_HAT_LIMIT, resampled
from bayes_cannon.posterior.theta.density import (
    Item,
    Prepared,
    Setup,
    coordinates,
    density_of,
    pixel_keys,
    prepare,
    theta_of,
)
from bayes_cannon.posterior.theta.summary import QUANTILES, ThetaPosterior

PIXELS_AT_ONCE = 32
"""Pixels of a block: what is lost when a run is killed."""
PIXELS_AGAIN = 8
"""Pixels of a second run: they are few, and each draws much."""
DIVERGENT_LIMIT, DEEP_LIMIT = 0.005, 0.05
"""Largest share of draws that may diverge, and whose tree may be as deep as allowed."""


Failed = list[tuple[int, np.ndarray]]
"""Pixels that need another run, with the draws of the first."""


@dataclass(frozen=True)
class Block:
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


FirstRun = Callable[[np.ndarray], tuple[Block, dict[int, np.ndarray]]]
"""A block of these pixels, and draws of those that need another run."""


def sample_pixels(setup: Setup, pixels: np.ndarray, finished: np.ndarray | None = None) -> Iterator[Block]:
    """Posterior of each of the pixels, block after block; those that need a second run come last.

    Parameters
    ----------
    setup
        What is sampled.
    pixels
        Which pixels, shape (chosen pixel,). Draws of a pixel depend on its number, the key and its block.
    finished
        Which pixels are not wanted any more, boolean, shape (pixel,): blocks of which all are finished are left out.

    Yields
    ------
    block
        All pixels but the finished ones, each once.

    """
    done = np.zeros(setup.problem.n_pixels, dtype=bool) if finished is None else finished.copy()
    pixels = np.asarray(pixels, dtype=int)
    status = unsampled(setup)[pixels]
    refused = pixels[(status != PosteriorStatus.CONVERGED) & ~done[pixels]]
    if len(refused):
        yield _nothing(setup, refused)
    for group in _groups(setup, pixels[status == PosteriorStatus.CONVERGED]):
        blocks = (block for block in _blocks(group) if not done[block].all())
        failed: Failed = []
        yield from _passed(partial(_first_run, setup), blocks, done, failed)
        if setup.method == "psis":
            pixels_of_chains, failed = np.array([pixel for pixel, _ in failed], dtype=int), []
            chains = partial(_first_run, replace(setup, method="nuts"))
            for block in _passed(chains, _blocks(pixels_of_chains), done, failed):
                block.posterior.status[:] = PosteriorStatus.RETRIED
                yield block
        again = (failed[k : k + PIXELS_AGAIN] for k in range(0, len(failed), PIXELS_AGAIN))
        for block in in_parallel(partial(_second_run, setup), again):
            kept = np.flatnonzero(~done[block.pixels])
            if len(kept):
                yield _part(block, kept)


def _blocks(pixels: np.ndarray) -> Iterator[np.ndarray]:
    return (pixels[k : k + PIXELS_AT_ONCE] for k in range(0, len(pixels), PIXELS_AT_ONCE))


def _passed(work: FirstRun, blocks: Iterator[np.ndarray], done: np.ndarray, failed: Failed) -> Iterator[Block]:
    """Pixels that pass their first run; the others are added to ``failed``."""
    for block, draws in in_parallel(work, blocks):
        good = block.posterior.status == PosteriorStatus.CONVERGED
        failed += [(pixel, draws[pixel]) for pixel in block.pixels[~good]]
        kept = np.flatnonzero(good & ~done[block.pixels])
        if len(kept):
            yield _part(block, kept)


def unsampled(setup: Setup) -> np.ndarray:
    """Status of pixels that have no posterior, and ``CONVERGED`` for the others, shape (pixel,)."""
    problem = setup.problem
    n_stars, n_free = (problem.ivar > 0).sum(axis=0), problem.free.sum(axis=1)
    status = np.full(problem.n_pixels, PosteriorStatus.CONVERGED, dtype=int)
    status[(n_stars < n_free) & (problem.regularization == 0)] = PosteriorStatus.IMPROPER
    solved = np.isfinite(setup.theta).all(axis=1) & np.isfinite(setup.s2)
    status[(n_stars == 0) | (~solved & (status == PosteriorStatus.CONVERGED))] = PosteriorStatus.NO_INFORMATION
    return status


def _groups(setup: Setup, pixels: np.ndarray) -> list[np.ndarray]:
    """Pixels with the same free terms, and either all penalized or none: one compiled program each."""
    kind = np.column_stack([setup.problem.free[pixels], setup.problem.regularization[pixels] > 0])
    _, which = np.unique(kind, axis=0, return_inverse=True)
    return [pixels[which == k] for k in range(which.max(initial=-1) + 1)]


def _nothing(setup: Setup, pixels: np.ndarray) -> Block:
    n_terms, settings = setup.theta.shape[1], setup.settings
    posterior = ThetaPosterior.empty(len(pixels), n_terms, unsampled(setup)[pixels])
    shape = settings.n_chains, settings.n_draws, len(pixels)
    return Block(pixels, posterior, np.full((*shape, n_terms), np.nan), np.full(shape, np.nan), {})


def _part(block: Block, kept: np.ndarray) -> Block:
    """Some pixels of a block."""
    stats = {name: array[..., kept] for name, array in block.stats.items()}
    return Block(block.pixels[kept], block.posterior.at(kept), block.theta[:, :, kept], block.s[..., kept], stats)


def _first_run(setup: Setup, pixels: np.ndarray) -> tuple[Block, dict[int, np.ndarray]]:
    """A block, and draws of those of its pixels that need another run."""
    with jax.enable_x64(True):
        prepared = prepare(setup, _filled(pixels))
        if setup.method == "psis":
            items, k_hat, u, stats = (
                prepared.linear,
                prepared.weighted.k_hat,
                _resampled_draws(setup, prepared),
                dict[str, np.ndarray](),
            )
        else:
            items, k_hat = prepared.items, None
            u, stats = _chain_draws(setup, items, prepared.pixels, run=0)
        theta = np.asarray(theta_of(items, u))
    block = _summarized(setup, pixels, u, theta, stats, k_hat, second=False)
    block.posterior.status[prepared.inexact[: len(pixels)]] = PosteriorStatus.INEXACT
    failed = np.flatnonzero(block.posterior.status != PosteriorStatus.CONVERGED)
    # Copies, because a view would keep the draws of the whole block.
    return block, {pixels[k]: u[k].copy() for k in failed}


def _second_run(setup: Setup, failed: Failed) -> Block:
    pixels = np.array([pixel for pixel, _ in failed])
    with jax.enable_x64(True):
        prepared = prepare(setup, _filled(pixels))
        items = jax.tree.map(lambda array: array[:PIXELS_AGAIN], prepared.items)
        means, roots = np.array(items.mean), np.array(items.root)
        for k, (_, draws) in enumerate(failed):
            means[k], roots[k] = whitened_again(draws, roots[k])
        items = items._replace(mean=jnp.asarray(means), root=jnp.asarray(roots))
        u, stats = _chain_draws(setup, items, prepared.pixels[:PIXELS_AGAIN], run=1)
        theta = np.asarray(theta_of(items, u))
    block = _summarized(setup, pixels, u, theta, stats, None, second=True)
    block.posterior.status[prepared.inexact[: len(pixels)]] = PosteriorStatus.INEXACT
    return block


def _filled(pixels: np.ndarray) -> np.ndarray:
    """The pixels repeated up to the size of a block, so that no other shape is ever compiled."""
    return np.resize(pixels, PIXELS_AT_ONCE)


def _chain_draws(setup: Setup, items: Item, pixels: np.ndarray, run: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Draws of u, shape (pixel, chain, draw, coordinate), and their statistics."""
    settings = setup.settings.of_run(run)
    keys = jax.vmap(lambda key: jax.random.split(key, 2 * settings.n_chains))(pixel_keys(setup, pixels, run))
    starts = dispersed_starts(keys[:, settings.n_chains :], items.mean.shape[1])
    drawn = draw_chains(density_of(setup, pixels), items, keys[:, : settings.n_chains], starts, settings)
    return np.array(coordinates(items, drawn.z)), statistics(drawn, setup.settings)


def _resampled_draws(setup: Setup, prepared: Prepared) -> np.ndarray:
    """Draws of (v, zeta) with equal weights, shape (pixel, chain, draw, coordinate)."""
    seeds = np.asarray(jax.random.key_data(pixel_keys(setup, prepared.pixels, 3)))
    z = resampled(prepared.weighted, [np.random.default_rng(seed) for seed in seeds])
    shape = len(z), setup.settings.n_chains, setup.settings.n_draws, z.shape[-1]
    return np.array(coordinates(prepared.linear, jnp.asarray(z.reshape(shape))))


def _summarized(
    setup: Setup, pixels: np.ndarray, u: np.ndarray, coefficients: np.ndarray, stats: dict[str, np.ndarray],
    k_hat: np.ndarray | None, *, second: bool,
) -> Block:  # fmt: skip
    """The block without what filled it up, censored terms filled in, with its summary and diagnostics."""
    n_terms, free = setup.theta.shape[1], np.flatnonzero(setup.problem.free[pixels[0]])
    n_pixels = len(pixels)
    u, coefficients = u[:n_pixels], coefficients[:n_pixels]
    stats = {name: array[:n_pixels] for name, array in stats.items()}
    k_hat = None if k_hat is None else k_hat[:n_pixels]
    _, n_chains, n_draws, _ = u.shape
    theta = np.zeros((n_chains, n_draws, n_pixels, n_terms))
    theta[..., free] = coefficients.transpose(1, 2, 0, 3)
    s = np.abs(u[..., 0]).transpose(1, 2, 0)
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
    return Block(pixels, posterior, theta, s, {name: array.transpose(1, 2, 0) for name, array in stats.items()})
