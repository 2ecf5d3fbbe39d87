"""The profile of every pixel along s^2 and its minima, on sums that are interpolated (`gram_interpolation`).

Coordinate descent follows theta from one s^2 to the next, in float32. The result is where `joint_newton` starts, in
float64. Arrays have their pixels last, where the processor works on many at once.
"""

from collections.abc import Callable
from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayes_cannon.core.likelihood import weights
from bayes_cannon.core.typing import Array
from bayes_cannon.training.lasso import coordinate_descent, symmetric_product
from bayes_cannon.training.profile.blocks import Pixels, Training, known_flux
from bayes_cannon.training.profile.gram_interpolation import Interpolated

GRID = 16
"""Values of s^2 at which the profile is looked at."""
SWEEPS, FIRST_SWEEPS, SWEEPS_AGAIN = 4, 16, 2
"""Sweeps of coordinate descent from one value of s^2 to the next, at the first, and with another penalty."""
EXACT_GRID, EXACT_SWEEPS, EXACT_MINIMA = 64, 12, 4
"""The same for pixels whose noise spans decades, and how many of their minima are kept, whatever their height."""
WINDOW = 5
"""Values of the grid whose polynomial says where between them a minimum is."""
MARGIN = 0.02
"""A second minimum counts when it lies within this, times the number of stars, of the lowest; and a chi^2 that is not
what it was interpolated to be by more means that the scan may have been misled."""


class Grid(NamedTuple):
    """The sums where the scan looks, none of which depends on the regularization or the bounds.

    Attributes
    ----------
    s2
        From 0 to beyond the variance of the flux, nearly logarithmic, shape (grid, pixel).
    smallest
        Below this the values are nearly even, shape (pixel,).
    moments, right, square
        Shape (grid, moment, pixel), (grid, term, pixel), (grid, pixel), float32.
    log_variances
        ``sum_n ln((sigma_n^2 + s2) / sigma_n^2)``, shape (grid, pixel).

    """

    s2: Array
    smallest: Array
    moments: Array
    right: Array
    square: Array
    log_variances: Array


class Minima(NamedTuple):
    """The lowest local minima of the profile on the grid, lowest first; an infinite objective means that it is none.

    Attributes
    ----------
    s2, objective
        Shape (pixel, minimum). The minimum is moved between the values of the grid by the parabola through three of
        them; the objective is that on the grid.
    theta
        Shape (pixel, minimum, term).

    """

    s2: Array
    objective: Array
    theta: Array


@jax.jit
def sums_on_grid(block: Pixels, sums: Interpolated) -> Grid:
    """The interpolated sums where the scan looks. Nothing in them depends on the regularization or the bounds."""
    s2, smallest = _places(block, sums.centre, GRID)
    at = jax.lax.map(lambda s2: (*sums.at(s2), sums.log_variances(s2)), s2)
    return Grid(s2, smallest, *at)


@jax.jit
def scan(
    training: Training, block: Pixels, sums: Interpolated, grid: Grid, theta: Array, before: Array | None = None
) -> tuple[Minima, Array]:
    """Lowest minima of the profile along s^2 of every pixel of a block, and theta on the grid, (grid, term, pixel).

    It starts from theta, shape (pixel, term), or where that is zero from the reference, which solves the problem
    without a penalty at one s^2. With theta on the grid from ``before``, for another penalty, what changed there from
    one s2 to the next is expected again.
    """
    theta = jnp.where(theta.any(axis=1, keepdims=True), theta, sums.reference.T)
    at = grid.moments, grid.right, grid.square, grid.log_variances
    sweeps = jnp.full(GRID, SWEEPS).at[0].set(FIRST_SWEEPS)
    if before is not None:
        sweeps = jnp.where(before.any(), SWEEPS_AGAIN, sweeps)
    profile, thetas = _along(training, block, sums.reference, at, lambda sums: sums, theta, sweeps, before)
    minima = _minima(profile, thetas, grid.s2, grid.smallest, keep=2)
    low_enough = minima.objective <= minima.objective[:, :1] + MARGIN * sums.n_stars[:, None]
    return minima._replace(objective=jnp.where(low_enough, minima.objective, jnp.inf)), thetas


@jax.jit
def exact_scan(training: Training, moments: Array, block: Pixels, theta: Array) -> Minima:
    """As `scan`, with a pass over the data for every s2 of the grid: slow, for noise that defies interpolation.

    The moments, shape (star, moment), are those in float64.
    """
    flux = known_flux(block)[1]

    def sums_at(s2: Array) -> tuple[Array, ...]:
        w = weights(block.ivar, s2[:, None])
        weighted = w * flux
        sums = (w @ moments).T, (weighted @ training.design).T
        return *sums, jnp.sum(weighted * flux, axis=1), jnp.sum(jnp.log1p(block.ivar * s2[:, None]), axis=1)

    s2, smallest = _places(block, jnp.sum(block.ivar > 0, axis=1) / jnp.sum(block.ivar, axis=1), EXACT_GRID)
    sweeps = jnp.full(EXACT_GRID, EXACT_SWEEPS).at[0].set(FIRST_SWEEPS)
    profile, thetas = _along(training, block, jnp.zeros_like(theta.T), s2, sums_at, theta, sweeps)
    return _minima(profile, thetas, s2, smallest, keep=EXACT_MINIMA)


def _along[T](
    training: Training,
    block: Pixels,
    reference: Array,
    places: T,
    sums: Callable[[T], tuple[Array, ...]],
    theta: Array,
    sweeps: Array,
    before: Array | None = None,
) -> tuple[Array, Array]:
    """Profile (grid, pixel) and coefficients (grid, term, pixel), from theta (pixel, term) at the first place on.

    ``sums`` gives, at one of the places, the sums of moments (moment, pixel), of the residual from the reference times
    terms (term, pixel) and squared (pixel,), and of the logarithms (pixel,). ``sweeps`` says how many at each place.
    """
    dtype = jax.eval_shape(sums, jax.tree.map(lambda array: array[0], places))[2].dtype
    lam, lower, upper, theta = (array.T.astype(dtype) for array in (block.lam, block.lower, block.upper, theta))
    reference = reference.astype(dtype)

    start = jnp.clip(theta, lower, upper)
    if before is None:
        changes = jnp.zeros((len(sweeps), *theta.shape), dtype)
    else:
        changes = jnp.diff(before, axis=0, prepend=before[:1])
        start = jnp.where(before.any(), before[0], start)

    def step(theta: jax.Array, at: tuple[T, Array, Array]) -> tuple[jax.Array, tuple[Array, Array]]:
        place, n_sweeps, change = at
        theta = jnp.clip(theta + change, lower, upper)
        moments, right, square, log_variances = sums(place)
        gram = moments[training.pairs]
        gradient = right - symmetric_product(lambda e: gram[e], theta - reference)
        theta, gradient = coordinate_descent(gram, gradient, lam, lower, upper, theta, sweeps=n_sweeps)
        # chi^2 = r'Wr - (b + g) . (theta - reference), since g = b - G (theta - reference).
        chi_squared = square - jnp.sum((right + gradient) * (theta - reference), axis=0)
        return theta, (chi_squared + 2 * jnp.sum(lam * jnp.abs(theta), axis=0) + log_variances, theta)

    _, (profile, thetas) = jax.lax.scan(step, start, (places, sweeps, changes))
    return profile, thetas


def _minima(profile: Array, thetas: Array, s2: Array, smallest: Array, *, keep: int) -> Minima:
    padded = jnp.pad(profile, ((1, 1), (0, 0)), constant_values=jnp.inf)
    is_minimum = (profile <= padded[:-2]) & (profile <= padded[2:])
    order = jnp.argsort(jnp.where(is_minimum, profile, jnp.inf), axis=0)[:keep]
    lowest = jnp.take_along_axis(jnp.where(is_minimum, profile, jnp.inf), order, axis=0)
    first = jnp.clip(order - WINDOW // 2, 0, len(profile) - WINDOW)
    values = jnp.stack([jnp.take_along_axis(profile, first + k, axis=0) for k in range(WINDOW)])
    offset = _lowest_point(values - lowest, order - first)
    u = (order + offset) / (len(s2) - 1)
    between = smallest * jnp.expm1(u * jnp.log1p(s2[-1] / smallest))
    moved = jnp.where(offset > 0, order + 1, order - 1)
    near, far = (jnp.take_along_axis(thetas, index[:, None], axis=0) for index in (order, moved))
    theta = jnp.where((near == 0) | (offset == 0)[:, None], near, near + jnp.abs(offset)[:, None] * (far - near))
    return Minima(between.T, lowest.T, jnp.moveaxis(theta, -1, 0).astype(smallest.dtype))


def _lowest_point(values: Array, place: Array) -> jax.Array:
    """How far from an evenly spaced place the minimum of the polynomial through all places is, in units of the spacing.

    By Newton's steps from the place of the lowest value; zero where they lead away, or out of all places.

    Parameters
    ----------
    values
        At each place, less the lowest, shape (place, ...).
    place
        Where the lowest is, shape (...).

    """
    powers = np.arange(WINDOW)
    to_coefficients = jnp.asarray(np.linalg.inv(powers[:, None] ** powers.astype(float)), values.dtype)
    polynomial = jnp.tensordot(to_coefficients, values, 1)
    slope = [m * polynomial[m] for m in powers[:0:-1]]
    bend = [m * (m - 1) * polynomial[m] for m in powers[:1:-1]]
    x = start = place.astype(values.dtype)
    for _ in range(3):
        downhill, curvature = (reduce(lambda total, c: total * x + c, terms) for terms in (slope, bend))
        step = jnp.where(curvature > 0, -downhill / jnp.where(curvature > 0, curvature, 1.0), 0.0)
        x = jnp.clip(x + step, jnp.maximum(start - 1, 0), jnp.minimum(start + 1, WINDOW - 1))
    return jnp.where(jnp.isfinite(x), x - start, 0.0)


def _places(block: Pixels, centre: Array, size: int) -> tuple[Array, Array]:
    """Values of s2 (grid, pixel) from 0 to beyond the variance of the flux, nearly logarithmic from ``smallest`` on."""
    known, flux = known_flux(block)
    mean = jnp.sum(flux, axis=1, keepdims=True) / jnp.sum(known, axis=1, keepdims=True)
    largest = 2 * jnp.max(jnp.where(known, (flux - mean) ** 2, 0.0), axis=1) + 1e-3 * centre
    smallest = 1 / jnp.max(block.ivar, axis=1)
    u = jnp.linspace(0.0, 1.0, size)[:, None]
    return smallest * jnp.expm1(u * jnp.log1p(largest / smallest)), smallest
