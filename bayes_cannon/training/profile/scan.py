"""Minima of the profile of every pixel along a grid of s^2, on interpolated sums (`gram_interpolation`).

Coordinate descent follows theta from one s^2 to the next, in float32; `joint_newton` then starts from the minima.
Arrays have their pixels last, so that the processor works on many at once.
"""

from collections.abc import Callable
from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayes_cannon.core.likelihood import weights
from bayes_cannon.core.typing import (
    Array,
    GridMomentPixel,
    GridPixel,
    GridTermPixel,
    PerPixel,
    PixelTerm,
    StarMoment,
)
from bayes_cannon.training.lasso import coordinate_descent, gram_lasso, symmetric_product
from bayes_cannon.training.profile.blocks import Pixels, Training, known_flux
from bayes_cannon.training.profile.gram_interpolation import Interpolated
from bayes_cannon.training.profile.settings import SETTINGS


class Grid(NamedTuple):
    """The sums on the grid of s2, none of which depends on the regularization or the bounds.

    Attributes
    ----------
    s2
        From 0 to beyond the variance of the flux, nearly logarithmic, shape (grid, pixel).
    smallest
        Below this value of s2 the grid is nearly linear, shape (pixel,).
    moments, right, square
        Shape (grid, moment, pixel), (grid, term, pixel), (grid, pixel), float32.
    log_variances
        ``sum_n ln((sigma_n^2 + s2) / sigma_n^2)``, shape (grid, pixel).

    """

    s2: GridPixel
    smallest: PerPixel
    moments: GridMomentPixel
    right: GridTermPixel
    square: GridPixel
    log_variances: GridPixel


class Minima(NamedTuple):
    """The lowest local minima of the profile on the grid, lowest first; an infinite objective means no minimum.

    Attributes
    ----------
    s2, objective
        Shape (pixel, minimum). s2 is that of the minimum of a polynomial through the values around it; the objective is
        that on the grid.
    theta
        Shape (pixel, minimum, term).
    number
        Of all local minima on the grid, shape (pixel,).
    margin
        How far the second is above the lowest on the grid, infinite where there is none, shape (pixel,).

    """

    s2: Array
    objective: Array
    theta: Array
    number: Array
    margin: Array

    def rank(self, k: int) -> "Minima":
        """The minimum of this rank of every pixel, without the axis of the minima."""
        return self._replace(s2=self.s2[:, k], objective=self.objective[:, k], theta=self.theta[:, k])


@jax.jit
def sums_on_grid(block: Pixels, sums: Interpolated) -> Grid:
    """The interpolated sums on the grid of s2."""
    s2, smallest = _grid(block, sums.noise_scale, SETTINGS.grid_size)
    at = jax.lax.map(lambda s2: (*sums.at(s2), sums.log_variances(s2)), s2)
    return Grid(s2, smallest, *at)


@jax.jit
def scan(
    training: Training,
    block: Pixels,
    sums: Interpolated,
    grid: Grid,
    theta: PixelTerm,
    warm: GridTermPixel | None = None,
) -> tuple[Minima, GridTermPixel]:
    """Lowest three minima of the profile of every pixel of a block, and theta on the grid, shape (grid, term, pixel).

    The scan starts from theta, shape (pixel, term), or, where that is zero, from the reference fit, which solves the
    problem without a penalty at one s2. For a warm start, ``warm`` is theta on the grid at another penalty: the changes
    from one s2 to the next are then predicted to be those found there.
    """
    theta = jnp.where(theta.any(axis=1, keepdims=True), theta, sums.reference.T)
    at = grid.moments, grid.right, grid.square, grid.log_variances
    sweeps = jnp.full(SETTINGS.grid_size, SETTINGS.sweeps).at[0].set(SETTINGS.first_sweeps)
    if warm is not None:
        sweeps = jnp.where(warm.any(), SETTINGS.warm_sweeps, sweeps)
    profile, thetas = _along_grid(
        training, block, sums.reference, at, lambda sums: sums, coordinate_descent, theta, sweeps, warm
    )
    minima = _minima(profile, thetas, grid.s2, grid.smallest, keep=3)
    margin = SETTINGS.second_minimum_margin * sums.n_stars[:, None]
    low_enough = minima.objective <= minima.objective[:, :1] + margin
    return minima._replace(objective=jnp.where(low_enough, minima.objective, jnp.inf)), thetas


@jax.jit
def exact_scan(training: Training, moments: StarMoment, block: Pixels, theta: PixelTerm) -> Minima:
    """As `scan`, with a pass over the data for every s2 of the grid: slow, where noise varies too much to interpolate.

    The moments, shape (star, moment), are in float64.
    """
    flux = known_flux(block)[1]

    def sums_at(s2: Array) -> tuple[Array, ...]:
        w = weights(block.ivar, s2[:, None])
        weighted = w * flux
        sums = (w @ moments).T, (weighted @ training.design).T
        return *sums, jnp.sum(weighted * flux, axis=1), jnp.sum(jnp.log1p(block.ivar * s2[:, None]), axis=1)

    few = block.flux.shape[1] <= SETTINGS.few_stars
    size = SETTINGS.few_grid_size if few else SETTINGS.exact_grid_size
    s2, smallest = _grid(block, jnp.sum(block.ivar > 0, axis=1) / jnp.sum(block.ivar, axis=1), size)
    rounds = jnp.full(size, SETTINGS.exact_rounds)
    if not few:
        rounds = jnp.full(size, SETTINGS.exact_sweeps).at[0].set(SETTINGS.first_sweeps)
    minimize = _lasso if few else coordinate_descent
    profile, thetas = _along_grid(training, block, jnp.zeros_like(theta.T), s2, sums_at, minimize, theta, rounds)
    return _minima(profile, thetas, s2, smallest, keep=SETTINGS.exact_minima)


def _lasso(
    gram: Array, gradient: Array, lam: Array, lower: Array, upper: Array, theta: Array, *, sweeps: Array
) -> tuple[Array, Array]:
    """As `lasso.coordinate_descent` of many pixels, but by at most ``sweeps`` rounds of `lasso.gram_lasso`."""

    def one(gram: Array, gradient: Array, lam: Array, lower: Array, upper: Array, theta: Array) -> tuple[Array, Array]:
        right, tolerance = gradient + gram @ theta, SETTINGS.bracket_lasso_tolerance
        state = gram_lasso(gram, right, lam, lower, upper, theta, tolerance=tolerance, max_rounds=sweeps)
        return state.theta, state.gradient

    found: tuple[Array, Array] = jax.vmap(one, in_axes=-1, out_axes=-1)(gram, gradient, lam, lower, upper, theta)
    return found


def _along_grid[T](
    training: Training,
    block: Pixels,
    reference: Array,
    places: T,
    sums: Callable[[T], tuple[Array, ...]],
    minimize: Callable[..., tuple[Array, Array]],
    theta: Array,
    sweeps: Array,
    warm: Array | None = None,
) -> tuple[Array, Array]:
    """Profile (grid, pixel) and coefficients (grid, term, pixel), from theta (pixel, term) at the first place on.

    ``sums`` gives, at one of the places, the sums of moments (moment, pixel), of the residual from the reference times
    terms (term, pixel) and squared (pixel,), and of the logarithms (pixel,). ``minimize`` improves theta at a place, as
    `lasso.coordinate_descent` does; ``sweeps`` says by how many sweeps.
    """
    dtype = jax.eval_shape(sums, jax.tree.map(lambda array: array[0], places))[2].dtype
    lam, lower, upper, theta = (array.T.astype(dtype) for array in (block.lam, block.lower, block.upper, theta))
    reference = reference.astype(dtype)

    start = jnp.clip(theta, lower, upper)
    if warm is None:
        changes = jnp.zeros((len(sweeps), *theta.shape), dtype)
    else:
        changes = jnp.diff(warm, axis=0, prepend=warm[:1])
        start = jnp.where(warm.any(), warm[0], start)

    def step(theta: jax.Array, at: tuple[T, Array, Array]) -> tuple[jax.Array, tuple[Array, Array]]:
        place, n_sweeps, change = at
        theta = jnp.clip(theta + change, lower, upper)
        moments, right, square, log_variances = sums(place)
        gram = moments[training.pairs]
        gradient = right - symmetric_product(lambda e: gram[e], theta - reference)
        found, gradient = minimize(gram, gradient, lam, lower, upper, theta, sweeps=n_sweeps)
        theta = jnp.asarray(found)
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
    n_points = SETTINGS.polynomial_points
    first = jnp.clip(order - n_points // 2, 0, len(profile) - n_points)
    values = jnp.stack([jnp.take_along_axis(profile, first + k, axis=0) for k in range(n_points)])
    offset = _lowest_point(values - lowest, order - first)
    u = (order + offset) / (len(s2) - 1)
    between = smallest * jnp.expm1(u * jnp.log1p(s2[-1] / smallest))
    moved = jnp.where(offset > 0, order + 1, order - 1)
    near, far = (jnp.take_along_axis(thetas, index[:, None], axis=0) for index in (order, moved))
    theta = jnp.where((near == 0) | (offset == 0)[:, None], near, near + jnp.abs(offset)[:, None] * (far - near))
    margin = (lowest[1] - lowest[0]).astype(smallest.dtype)
    return Minima(
        between.T, lowest.T, jnp.moveaxis(theta, -1, 0).astype(smallest.dtype), jnp.sum(is_minimum, axis=0), margin
    )


def _lowest_point(values: Array, place: Array) -> jax.Array:
    """Distance from the lowest of evenly spaced places to the minimum of the polynomial through all, in spacings.

    Newton's steps from the lowest place; zero where they lead away from it or beyond the outer places.

    Parameters
    ----------
    values
        At each place, less the lowest, shape (place, ...).
    place
        Where the lowest is, shape (...).

    """
    n_points = len(values)
    powers = np.arange(n_points)
    to_coefficients = jnp.asarray(np.linalg.inv(powers[:, None] ** powers.astype(float)), values.dtype)
    polynomial = jnp.tensordot(to_coefficients, values, 1)
    first = [m * polynomial[m] for m in powers[:0:-1]]
    second = [m * (m - 1) * polynomial[m] for m in powers[:1:-1]]
    x = start = place.astype(values.dtype)
    for _ in range(3):
        gradient, curvature = (reduce(lambda total, c: total * x + c, terms) for terms in (first, second))
        step = jnp.where(curvature > 0, -gradient / jnp.where(curvature > 0, curvature, 1.0), 0.0)
        x = jnp.clip(x + step, jnp.maximum(start - 1, 0), jnp.minimum(start + 1, n_points - 1))
    return jnp.where(jnp.isfinite(x), x - start, 0.0)


def _grid(block: Pixels, noise_scale: Array, size: int) -> tuple[Array, Array]:
    """Values of s2 (grid, pixel) from 0 to beyond the variance of the flux, nearly logarithmic from ``smallest`` on."""
    known, flux = known_flux(block)
    mean = jnp.sum(flux, axis=1, keepdims=True) / jnp.sum(known, axis=1, keepdims=True)
    largest = 2 * jnp.max(jnp.where(known, (flux - mean) ** 2, 0.0), axis=1) + 1e-3 * noise_scale
    smallest = 1 / jnp.max(block.ivar, axis=1)
    u = jnp.linspace(0.0, 1.0, size)[:, None]
    return smallest * jnp.expm1(u * jnp.log1p(largest / smallest)), smallest
