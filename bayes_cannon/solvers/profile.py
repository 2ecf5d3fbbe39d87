r"""The package's own solver: the joint optimum over theta and s^2, certified.

At fixed s^2 the best theta is a weighted lasso, so that what is left is one number a pixel: the profile

.. math:: p(s^2) = \min_\theta \Big[ \sum_n w_n r_n^2 - \sum_n \ln w_n + \Lambda \sum_{d \ge 1} |\theta_d| \Big],
          \qquad w_n = \frac{1}{\sigma_n^2 + s^2}

By the envelope theorem :math:`p' = \sum_n w_n (1 - w_n r_n^2)`. The profile need not be convex: a large s^2 weakens
the data against the penalty, which removes terms, which leaves larger residuals, which a large s^2 explains. Hence:

1. *Scan.* With :math:`t = c / (c + s^2)` the weights times :math:`c + s^2` are smooth in t on (0, 1], also for s^2 to
   infinity, and a few Chebyshev nodes in t give the Gram matrix at every s^2. Being linear in the weights the
   interpolated problem is again a lasso. Along a grid of s^2, from zero to more than the variance of the flux, its
   profile shows every local minimum.
2. *Refine.* From the lowest, and from every other that the interpolation cannot rule out, Newton's method in
   :math:`\ln(c + s^2)` on the exact profile, safeguarded by a bracket. In that variable equal noise gives a convex
   profile, and s^2 = 0 is a point like any other; it is accepted where p' is not negative there.
3. *Certify.* The duality gap of theta and p' are computed from the data at the very point that is returned.

The work is matrix products of the weights of a block of pixels with the moments of the training set (`core.moments`).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayes_cannon.core.likelihood import log_variance, masked, weights
from bayes_cannon.core.moments import MomentBasis
from bayes_cannon.core.status import PixelStatus
from bayes_cannon.core.typing import Array
from bayes_cannon.core.vectorizer import monomials
from bayes_cannon.solvers.certificate import relative_gap, smallest_pivot, solve_masked
from bayes_cannon.solvers.lasso import gram_lasso
from bayes_cannon.solvers.problem import PixelProblem, PixelSolution, Progress

NODES = 6
"""Chebyshev nodes of the scan."""
GRID = 20
"""Values of s^2 in the scan."""
MARGIN = 0.02
"""A second minimum is refined too when it lies within this, times the number of stars, of the lowest in the scan."""
LASSO_TOLERANCE = 1e-8
"""On the largest single-coordinate change, in units of the noise of one star."""
GRADIENT_TOLERANCE = 1e-9
"""On p' over the sum of the weights."""
PATIENCE = 8
"""Newton steps after which every other one is a bisection, which ends what Newton's method does not."""
MAX_STEPS = 60
"""Newton steps on the profile at most."""
BLOCK_NUMBERS = 2**19
"""Numbers in one (pixel, star) array of a block; a handful of such arrays then fit the cache of a core."""


class _Training(NamedTuple):
    """The training set, the same for all pixels."""

    design: Array
    moments: Array
    pairs: Array


class _Pixels(NamedTuple):
    """A block of pixels, or one of them under vmap."""

    flux: Array
    ivar: Array
    regularization: Array
    lower: Array
    upper: Array
    theta: Array


class _Candidates(NamedTuple):
    """The two lowest minima of the scan."""

    s2: Array
    objective: Array
    theta: Array


class _Refinement(NamedTuple):
    """State of Newton's method on the profile; everything belongs to the point ``s2``."""

    s2: Array
    low: Array
    high: Array
    theta: Array
    next_s2: Array
    gradient: Array
    gap: Array
    objective: Array
    pivot: Array
    steps: Array
    done: Array


def solve(
    problem: PixelProblem,
    *,
    exponents: np.ndarray,
    x: np.ndarray,
    theta: np.ndarray | None = None,
    progress: Progress | None = None,
) -> PixelSolution:
    """Joint optimum over (theta, s2) of every pixel.

    Parameters
    ----------
    problem
        The pixels; `PixelProblem.design` holds the terms with these ``exponents`` at ``x``.
    exponents
        Powers of the labels in each term, shape (term, label).
    x
        Scaled training labels, shape (star, label).
    theta
        Coefficients to start the scan from, shape (pixel, term); rows with NaN are not used.
    progress
        Called with the number of pixels finished.

    Returns
    -------
    solution
        With certificates for every pixel that has a solution.

    """
    n_stars, n_terms = problem.design.shape
    solution = PixelSolution.empty(problem.n_pixels, n_terms)
    solution.status[:] = problem.unsolvable()
    todo = np.flatnonzero(solution.status == PixelStatus.CONVERGED)
    if progress is not None and len(todo) < problem.n_pixels:
        progress(problem.n_pixels - len(todo))
    start = np.zeros((problem.n_pixels, n_terms)) if theta is None else np.nan_to_num(theta)
    basis = MomentBasis.from_terms(exponents)
    size = int(np.clip(BLOCK_NUMBERS // n_stars, 8, max(8, len(todo))))
    with jax.enable_x64(True):
        training = _Training(
            jnp.asarray(problem.design), jnp.asarray(monomials(np.asarray(x, float), basis.exponents)), basis.pairs
        )
        again: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for first in range(0, len(todo), size):
            pixels = todo[first : first + size]
            block = _block(problem, pixels, start, size)
            candidates = _scan(training, block)
            refined = _refine(training, block._replace(theta=candidates.theta[:, 0]), candidates.s2[:, 0])
            _keep(solution, pixels, refined)
            rival = np.isfinite(np.asarray(candidates.objective[: len(pixels), 1]))
            again.append(
                (pixels[rival], *(np.asarray(a)[: len(pixels), 1][rival] for a in (candidates.s2, candidates.theta)))
            )
            if progress is not None:
                progress(len(pixels))
        _refine_rivals(problem, solution, training, again, size)
    return solution


def _refine_rivals(problem, solution, training, again, size) -> None:
    """Start from the second minimum where the scan could not tell which one is lower, and keep the lower end."""
    pixels, s2, theta = (np.concatenate(arrays) for arrays in zip(*again, strict=True)) if again else ([], [], [])
    start = np.zeros_like(solution.theta)
    for first in range(0, len(pixels), size):
        some = slice(first, first + size)
        start[pixels[some]] = theta[some]
        block = _block(problem, pixels[some], start, size)
        padded = np.resize(s2[some], size)
        _keep(solution, pixels[some], _refine(training, block, padded))


def _block(problem: PixelProblem, pixels: np.ndarray, theta: np.ndarray, size: int) -> _Pixels:
    """The data of some pixels, repeated to the fixed size of a block so that nothing is compiled twice."""
    index = np.resize(pixels, size)
    ivar = np.ascontiguousarray(problem.ivar[:, index].T)
    flux = masked(problem.flux[:, index].T, ivar)
    return _Pixels(flux, ivar, problem.regularization[index], problem.lower[index], problem.upper[index], theta[index])


def _keep(solution: PixelSolution, pixels: np.ndarray, refined: _Refinement) -> None:
    """Write those results that are better than what is there."""
    new = {name: np.asarray(array)[: len(pixels)] for name, array in refined._asdict().items()}
    better = ~(solution.objective[pixels] <= new["objective"])
    index = pixels[better]
    s2, done = new["s2"][better], new["done"][better]
    degenerate = new["pivot"][better] < 1e-11
    status = np.where(s2 == 0, PixelStatus.ZERO_SCATTER, PixelStatus.CONVERGED)
    status = np.where(degenerate, PixelStatus.DEGENERATE, status)
    solution.status[index] = np.where(done, status, PixelStatus.MAX_ITERATIONS)
    solution.theta[index] = new["theta"][better]
    solution.s2[index] = s2
    solution.objective[index] = new["objective"][better]
    solution.duality_gap[index] = new["gap"][better]
    solution.profile_gradient[index] = new["gradient"][better]
    solution.iterations[index] = new["steps"][better]


def _penalty(pixel: _Pixels) -> Array:
    return 0.5 * pixel.regularization * (jnp.arange(len(pixel.theta)) > 0)


@jax.jit
def _scan(training: _Training, block: _Pixels) -> _Candidates:
    return jax.vmap(partial(_scan_pixel, training))(block)


def _scan_pixel(training: _Training, pixel: _Pixels) -> _Candidates:
    """Profile of the interpolated problem along a grid of s^2, and its two lowest local minima."""
    known = pixel.ivar > 0
    n_stars = jnp.sum(known)
    variance = 1 / jnp.where(known, pixel.ivar, 1.0)
    centre = jnp.exp(jnp.sum(jnp.where(known, jnp.log(variance), 0.0)) / n_stars)
    mean = jnp.sum(jnp.where(known, pixel.flux, 0.0)) / n_stars
    largest = 2 * jnp.max(jnp.where(known, (pixel.flux - mean) ** 2, 0.0)) + 1e-3 * centre
    smallest = jnp.min(jnp.where(known, variance, jnp.inf))
    grid = smallest * jnp.expm1(jnp.linspace(0.0, 1.0, GRID) * jnp.log1p(largest / smallest))

    t_low = centre / (centre + largest)
    chebyshev = jnp.cos(jnp.pi * jnp.arange(NODES) / (NODES - 1))
    nodes = t_low + (1 - t_low) * (1 + chebyshev) / 2

    def at_node(t: Array) -> tuple[Array, ...]:
        scaled = jnp.where(known, 1.0 / (1.0 + t * (variance / centre - 1.0)), 0.0)
        weighted = scaled * pixel.flux
        logs = jnp.sum(jnp.where(known, -jnp.log(jnp.where(known, scaled, 1.0)), 0.0))
        return scaled @ training.moments, weighted @ training.design, jnp.dot(weighted, pixel.flux), logs

    gram_moments, right, square, logs = jax.lax.map(at_node, nodes)
    lam = _penalty(pixel)
    barycentric = jnp.where(jnp.arange(NODES) % 2 == 0, 1.0, -1.0) * jnp.where(
        (jnp.arange(NODES) == 0) | (jnp.arange(NODES) == NODES - 1), 0.5, 1.0
    )

    def at_grid(theta: Array, s2: Array) -> tuple[Array, tuple[Array, Array]]:
        total = centre + s2
        distance = centre / total - nodes
        hit = distance == 0
        ratio = barycentric / jnp.where(hit, 1.0, distance)
        interpolate = jnp.where(jnp.any(hit), hit.astype(ratio.dtype), ratio / jnp.sum(ratio))
        gram = (interpolate @ gram_moments)[training.pairs] / total
        b = interpolate @ right / total
        fit = gram_lasso(gram, b, lam, pixel.lower, pixel.upper, theta, tolerance=1e-4, max_rounds=8)
        chi_squared = interpolate @ square / total - 2 * b @ fit.theta + fit.theta @ gram @ fit.theta
        log_variances = interpolate @ logs + n_stars * jnp.log(total)
        return fit.theta, (chi_squared + log_variances + 2 * jnp.sum(lam * jnp.abs(fit.theta)), fit.theta)

    _, (profile, theta) = jax.lax.scan(at_grid, pixel.theta, grid)
    edge = jnp.full(1, jnp.inf)
    is_minimum = (profile <= jnp.concatenate([edge, profile[:-1]])) & (profile <= jnp.concatenate([profile[1:], edge]))
    level = jnp.where(is_minimum | (profile == jnp.min(profile)), profile, jnp.inf)
    order = jnp.argsort(level)[:2]
    objective = level[order]
    objective = jnp.where(objective > objective[0] + MARGIN * n_stars, jnp.inf, objective)
    return _Candidates(grid[order], objective, theta[order])


@jax.jit
def _refine(training: _Training, block: _Pixels, s2: Array) -> _Refinement:
    return jax.vmap(partial(_refine_pixel, training))(block, s2)


def _refine_pixel(training: _Training, pixel: _Pixels, s2: Array) -> _Refinement:
    """Newton's method in u = ln(c + s^2) on the exact profile, from s2 and `_Pixels.theta`."""
    n_stars = jnp.sum(pixel.ivar > 0)
    centre = n_stars / jnp.sum(pixel.ivar)
    lam = _penalty(pixel)
    zero, infinite = jnp.zeros_like(s2), jnp.full_like(s2, jnp.inf)

    def evaluate(state: _Refinement) -> _Refinement:
        s2 = state.next_s2
        w = weights(pixel.ivar, s2)
        gram = (w @ training.moments)[training.pairs]
        right = (w * pixel.flux) @ training.design
        tolerance = LASSO_TOLERANCE * jnp.sqrt(n_stars)
        theta = gram_lasso(gram, right, lam, pixel.lower, pixel.upper, state.theta, tolerance=tolerance).theta

        residual = jnp.where(w > 0, pixel.flux - training.design @ theta, 0.0)
        wr = w * residual
        chi_squared = jnp.dot(wr, residual)
        penalty = 2 * jnp.sum(lam * jnp.abs(theta))
        gradient = jnp.sum(w) - jnp.dot(wr, wr)
        scale = jnp.sum(w)
        low = jnp.where(gradient < 0, s2, state.low)
        high = jnp.where(gradient > 0, s2, state.high)

        active = ((theta != 0) | (lam == 0)) & (theta > pixel.lower) & (theta < pixel.upper)
        cross = (w * wr) @ training.design
        curvature = jnp.dot(w, 2 * wr**2 - w) - 2 * jnp.dot(cross, solve_masked(gram, cross, active))
        at_boundary = (s2 == 0) & (gradient >= 0)
        resolved = jnp.isfinite(high) & (high - low <= 1e-13 * (centre + high))
        done = (jnp.abs(gradient) <= GRADIENT_TOLERANCE * scale) | at_boundary | resolved
        return _Refinement(
            s2=s2, low=low, high=high, theta=theta,
            next_s2=_next_s2(s2, low, high, gradient, curvature, centre, state.steps),
            gradient=gradient / scale,
            gap=relative_gap(gram, training.design.T @ wr, chi_squared, theta, lam, pixel.lower, pixel.upper),
            objective=chi_squared + jnp.sum(log_variance(pixel.ivar, s2)) + penalty,
            pivot=jnp.where(pixel.regularization > 0, 1.0, smallest_pivot(gram, pixel.lower < pixel.upper)),
            steps=state.steps + 1, done=done,
        )  # fmt: skip

    first = _Refinement(
        s2=s2, low=zero, high=infinite, theta=pixel.theta, next_s2=s2, gradient=infinite, gap=infinite,
        objective=infinite, pivot=infinite, steps=jnp.asarray(0), done=jnp.asarray(False),
    )  # fmt: skip
    return jax.lax.while_loop(lambda state: ~state.done & (state.steps < MAX_STEPS), evaluate, first)


def _next_s2(
    s2: Array, low: Array, high: Array, gradient: Array, curvature: Array, centre: Array, steps: Array
) -> Array:
    """Newton step in ln(c + s^2) of at most a factor e^2, bisected where it leaves the bracket; zero is the least."""
    total = centre + s2
    slope, bend = total * gradient, total**2 * curvature + total * gradient
    step = jnp.where(bend > 0, -slope / jnp.where(bend > 0, bend, 1.0), -jnp.sign(slope))
    proposal = total * jnp.exp(jnp.clip(step, -2.0, 2.0)) - centre
    proposal = jnp.maximum(proposal, 0.0)
    middle = jnp.sqrt((centre + low) * (centre + jnp.where(jnp.isinf(high), low, high))) - centre
    outside = (proposal < low) | (proposal > high) | ((proposal == s2) & (s2 > 0))
    outside |= (steps >= PATIENCE) & (steps % 2 == 0) & jnp.isfinite(high)
    return jnp.where(outside, middle, proposal)
