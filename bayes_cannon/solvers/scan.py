r"""The profile of every pixel along s^2, for the price of a few passes over the data.

With :math:`t = c / (c + s^2)` and c the geometric mean of the noise variances, the scaled weight of star n,

.. math:: (c + s^2) w_n = \frac{1}{1 + t (\sigma_n^2 / c - 1)}

is smooth in t on [0, 1], that is for every s^2 from zero to infinity; it is 1 at t = 0. A few Chebyshev nodes in t
hence give the Gram matrix, the right-hand side and chi^2 at every s^2. For noise that varies by a factor of four
between stars five nodes are good to a percent, for equal noise one is exact. All three are linear in the weights, so
the interpolated problem is again a weighted lasso, with slightly other weights. The sum of logarithms follows without
any logarithm: its derivative by s^2 is the sum of the weights, a polynomial in t.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayes_cannon.core.likelihood import weights
from bayes_cannon.core.typing import Array
from bayes_cannon.solvers.block import Pixels, Training, gram_matrix, known_flux
from bayes_cannon.solvers.lasso import coordinate_descent, gram_lasso

NODES = 5
"""Chebyshev nodes in t."""
GRID = 16
"""Values of s^2 at which the profile is looked at."""
SWEEPS = 4
"""Sweeps of coordinate descent from one value of s^2 to the next."""
EXACT_GRID, EXACT_SWEEPS, EXACT_MINIMA = 64, 12, 4
"""The same for pixels whose noise spans decades, and how many of their minima are kept, whatever their height."""
MARGIN = 0.02
"""A second minimum counts when it lies within this, times the number of stars, of the lowest."""

_NODES = 0.5 + 0.5 * np.cos(np.pi * np.arange(NODES) / (NODES - 1))
_COEFFICIENTS = np.linalg.inv(np.vander(_NODES, increasing=True))
"""From values at the nodes to the coefficients of the polynomial in t."""
_BETWEEN = np.array([_NODES[:2].mean(), _NODES[-2:].mean()])


class Interpolated(NamedTuple):
    """What is known of a pixel at the nodes; everything is for the scaled weights.

    Attributes
    ----------
    moments
        Weighted sums of the moments, shape (node, moment).
    right
        Weighted sums of flux times terms, shape (node, term).
    square
        Weighted sums of the squared flux, shape (node,).
    centre
        The variance c.
    n_stars
        Stars with a positive ivar.
    error
        Relative error of the interpolated sum of the weights midway between the outer nodes.

    """

    moments: Array
    right: Array
    square: Array
    centre: Array
    n_stars: Array
    error: Array

    def at(self, s2: Array) -> tuple[Array, Array, Array]:
        """Sums of moments (moment,), flux times terms (term,) and squared flux, with the weights of this s2."""
        total = self.centre + s2
        share = ((self.centre / total) ** jnp.arange(NODES)) @ _COEFFICIENTS / total
        return share @ self.moments, share @ self.right, share @ self.square

    def log_variances(self, s2: Array) -> Array:
        """``sum_n ln((sigma_n^2 + s2) / sigma_n^2)``."""
        t = self.centre / (self.centre + s2)
        coefficients = (_COEFFICIENTS @ self.moments[:, 0])[1:]
        degree = jnp.arange(1, NODES)
        return -self.n_stars * jnp.log(t) + jnp.sum(coefficients * (1 - t**degree) / degree)


class Exact(NamedTuple):
    """The same sums from the data themselves, a pass for every s2: slow, for noise that defies interpolation.

    Attributes are those of `Interpolated`, as far as they are needed.
    """

    training: Training
    pixel: Pixels
    centre: Array
    n_stars: Array

    def at(self, s2: Array) -> tuple[Array, Array, Array]:
        """Sums of moments (moment,), flux times terms (term,) and squared flux, with the weights of this s2."""
        w = weights(self.pixel.ivar, s2)
        weighted = w * known_flux(self.pixel)[1]
        return w @ self.training.moments, weighted @ self.training.design, jnp.dot(weighted, known_flux(self.pixel)[1])

    def log_variances(self, s2: Array) -> Array:
        """``sum_n ln((sigma_n^2 + s2) / sigma_n^2)``."""
        return jnp.sum(jnp.log1p(self.pixel.ivar * s2))


class Minima(NamedTuple):
    """The lowest local minima of the profile on the grid, lowest first; an infinite objective means that it is none.

    Attributes
    ----------
    s2, objective
        Shape (minimum,).
    theta
        Shape (minimum, term).

    """

    s2: Array
    objective: Array
    theta: Array


def interpolated(training: Training, pixel: Pixels) -> Interpolated:
    """Pass over the data of one pixel, once a node."""
    known, flux = known_flux(pixel)
    n_stars = jnp.sum(known)
    log_ivar = jnp.sum(jnp.where(known, jnp.log(jnp.where(known, pixel.ivar, 1.0)), 0.0))
    centre = jnp.exp(-log_ivar / n_stars)
    excess = 1 / jnp.where(known, pixel.ivar * centre, 1.0) - 1

    def at_node(t: Array) -> tuple[Array, Array, Array]:
        scaled = jnp.where(known, 1 / (1 + t * excess), 0.0)
        weighted = scaled * flux
        return scaled @ training.moments, weighted @ training.design, jnp.dot(weighted, flux)

    moments, right, square = jax.lax.map(at_node, jnp.asarray(_NODES))
    exact = jnp.stack([jnp.sum(jnp.where(known, 1 / (1 + t * excess), 0.0)) for t in _BETWEEN])
    share = _BETWEEN[:, None] ** jnp.arange(NODES) @ _COEFFICIENTS
    error = jnp.max(jnp.abs(share @ moments[:, 0] / exact - 1))
    return Interpolated(moments, right, square, centre, n_stars, error)


@jax.jit
def sums_at_nodes(training: Training, block: Pixels) -> Interpolated:
    """Pass over the data of a block. Nothing in it depends on the regularization or the bounds."""
    return jax.vmap(partial(interpolated, training))(block)


@jax.jit
def scan(training: Training, block: Pixels, sums: Interpolated, theta: Array) -> Minima:
    """Lowest minima of the profile along s^2 of every pixel of a block, from theta, shape (pixel, term)."""
    minima = jax.vmap(partial(_minima, training, grid_size=GRID, sweeps=SWEEPS, keep=2))(block, sums, theta)
    low_enough = minima.objective <= minima.objective[:, :1] + MARGIN * sums.n_stars[:, None]
    return minima._replace(objective=jnp.where(low_enough, minima.objective, jnp.inf))


@jax.jit
def exact_scan(training: Training, block: Pixels, theta: Array) -> Minima:
    """As `scan`, with a pass over the data for every s2 of the grid."""

    def one(pixel: Pixels, theta: Array) -> Minima:
        n_stars = jnp.sum(pixel.ivar > 0)
        sums = Exact(training, pixel, n_stars / jnp.sum(pixel.ivar), n_stars)
        return _minima(training, pixel, sums, theta, grid_size=EXACT_GRID, sweeps=EXACT_SWEEPS, keep=EXACT_MINIMA)

    return jax.vmap(one)(block, theta)


def _minima(
    training: Training,
    pixel: Pixels,
    sums: Interpolated | Exact,
    theta: Array,
    *,
    grid_size: int,
    sweeps: int,
    keep: int,
) -> Minima:
    known, flux = known_flux(pixel)
    mean = jnp.sum(flux) / sums.n_stars
    largest = 2 * jnp.max(jnp.where(known, (flux - mean) ** 2, 0.0)) + 1e-3 * sums.centre
    smallest = 1 / jnp.max(pixel.ivar)
    grid = smallest * jnp.expm1(jnp.linspace(0.0, 1.0, grid_size) * jnp.log1p(largest / smallest))

    def objective(theta: Array, gradient: Array, s2: Array, right: Array, square: Array) -> Array:
        # chi^2 = y'Wy - (b + g) . theta, since g = b - G theta.
        penalty = 2 * jnp.sum(pixel.lam * jnp.abs(theta))
        return square - jnp.dot(right + gradient, theta) + sums.log_variances(s2) + penalty

    def problem(s2: Array) -> tuple[Array, Array, Array]:
        moments, right, square = sums.at(s2)
        return gram_matrix(training, moments), right, square

    def step(theta: Array, s2: Array) -> tuple[Array, tuple[Array, Array]]:
        gram, right, square = problem(s2)
        theta, gradient = coordinate_descent(
            gram, right - gram @ theta, pixel.lam, pixel.lower, pixel.upper, theta, sweeps=sweeps
        )
        return theta, (objective(theta, gradient, s2, right, square), theta)

    gram, right, square = problem(grid[0])
    first = gram_lasso(gram, right, pixel.lam, pixel.lower, pixel.upper, theta, tolerance=1e-3, max_rounds=20)
    at_zero = objective(first.theta, first.gradient, grid[0], right, square)
    _, (rest, theta_rest) = jax.lax.scan(step, first.theta, grid[1:])
    profile, thetas = jnp.append(at_zero, rest), jnp.concatenate([first.theta[None], theta_rest])

    padded = jnp.pad(profile, 1, constant_values=jnp.inf)
    is_minimum = (profile <= padded[:-2]) & (profile <= padded[2:])
    order = jnp.argsort(jnp.where(is_minimum, profile, jnp.inf))[:keep]
    lowest = jnp.where(is_minimum, profile, jnp.inf)[order]
    return Minima(grid[order], lowest, thetas[order])
