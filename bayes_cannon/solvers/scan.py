r"""The profile of every pixel along s^2, for the price of a few passes over the data.

With :math:`t = c / (c + s^2)` and c the geometric mean of the noise variances, the scaled weight of star n is

.. math:: (c + s^2) w_n = \frac{1}{1 + t e_n}, \qquad e_n = \sigma_n^2 / c - 1

for every s^2 from zero (t = 1) to infinity (t = 0). Its values at K nodes :math:`t_k` give it everywhere, as the
fraction with the poles of K other noise variances :math:`x_j`, spread over those of the pixel,

.. math:: \frac{1}{1 + t e_n} \approx \sum_k \ell_k(t) \frac{D(t_k)}{D(t)} \frac{1}{1 + t_k e_n}, \qquad
          D(t) = \prod_j (1 + t e_j), \quad e_j = x_j / c - 1

with Lagrange's polynomials :math:`\ell_k`. For stars of noise :math:`x_j` it is exact, and the relative error of others
is the product over j and k of :math:`(e_j - e_n) (t - t_k) / [(1 + t e_j)(1 + t_k e_n)]`: with five nodes at most
1e-3 for noise that varies by a factor of four between stars, where a polynomial in t errs by 2e-2, and 2e-2 for a
factor of 16. So a pass for each node gives the Gram matrix, the right-hand side and chi^2 at every s^2. All three are
linear in the weights, so the interpolated problem is again a weighted lasso, with slightly other weights. In partial
fractions the interpolated sum of the weights is :math:`\sum_j m_j / (x_j + s^2)`, as if there were stars of K kinds,
which gives the sum of logarithms, its integral.

The sums are of what the flux has beyond a least-squares fit, the reference, so that float32 resolves them: nothing
larger than the noise has to cancel. The result of the scan is where `solvers.joint` starts, in float64. Arrays have
their pixels last, where the processor works on many at once.
"""

from collections.abc import Callable
from functools import partial, reduce
from operator import add, mul
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayes_cannon.core.likelihood import weights
from bayes_cannon.core.typing import Array
from bayes_cannon.solvers.block import Pixels, Training, gram_matrix, known_flux
from bayes_cannon.solvers.certificate import solve_masked
from bayes_cannon.solvers.lasso import coordinate_descent, symmetric_product

NODES, PATH_NODES = 5, 7
"""Chebyshev nodes in t. A path takes more, which spare it an exact step at each of its points: an interpolated Gram
matrix is ten times as good for each node more."""
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
REFERENCE_RIDGE = 1e-5
"""Of the reference fit, relative: above the rounding of a Gram matrix in float32."""

NARROWEST, WIDEST = np.log(2.0) / 2, np.log(1e6) / 2
"""Half of the logarithmic range that the variances x_j cover, at least and at most."""

STEP = 1e-3
"""Of the differences that stand for derivatives, in the logarithm of a variance."""

_GROW = np.exp(STEP)


class Interpolated(NamedTuple):
    """What is known of the pixels at the nodes, for the scaled weights; under vmap, of one pixel.

    Attributes
    ----------
    moments
        Weighted sums of the moments, shape (node, moment, pixel), float32.
    right
        Weighted sums of residual times terms, shape (node, term, pixel), float32.
    square
        Weighted sums of the squared residual, shape (node, pixel), float32.
    reference
        Coefficients that the residuals are from, shape (term, pixel).
    centre, n_stars, log_ivar
        The variance c, the number of stars with a positive ivar, and the sum of its logarithms, shape (pixel,).
    excess, kinds
        The e_j and m_j, shape (node, pixel).
    error
        Relative error of the interpolated sum of the weights midway between the outer nodes, shape (pixel,).
    worst
        The largest of the stars' ``prod_j |e_j - e_n| prod_k 1 / (1 + t_k e_n)``, shape (pixel,).

    """

    moments: Array
    right: Array
    square: Array
    reference: Array
    centre: Array
    n_stars: Array
    log_ivar: Array
    excess: Array
    kinds: Array
    error: Array
    worst: Array

    def at(self, s2: Array) -> tuple[Array, Array, Array]:
        """Sums of moments (moment, pixel), residual times terms (term, pixel), squared residual (pixel,); float32."""
        total = self.centre + s2
        share = jax.lax.optimization_barrier((_shares(self.excess, self.centre / total) / total).astype(jnp.float32))
        moments, right, square = (_combined(share, array) for array in (self.moments, self.right, self.square))
        return moments, right, square

    def derivatives(self, s2: Array) -> tuple[Array, Array, Array]:
        """The sums of `at` and their first two derivatives by ``ln(c + s2)``, good to `STEP`^2.

        The three are side by side on a new axis before that of the pixels.
        """
        total = self.centre + s2
        below, here, above = (_shares(self.excess, self.centre / x) / x for x in (total / _GROW, total, total * _GROW))
        shares = jnp.stack([here, (above - below) / (2 * STEP), (above - 2 * here + below) / STEP**2], axis=1)
        finished = jax.lax.optimization_barrier(shares.astype(jnp.float32))
        moments, right = (_combined(finished[:, None], array[:, :, None]) for array in (self.moments, self.right))
        return moments, right, _combined(finished, self.square[:, None])

    def bound(self, s2: Array) -> Array:
        """Largest relative error of the interpolated weight of any star."""
        t = self.centre / (self.centre + s2)
        beyond = t - _nodes(len(self.excess))[:, None]
        return self.worst * jnp.prod(jnp.abs(beyond / (1 + t * self.excess)), axis=0)

    def powers(self, s2: Array) -> tuple[Array, Array]:
        """``sum_n w_n^2`` and ``sum_n w_n^3``, shape (pixel,) each."""
        w = 1 / (self.centre * (1 + self.excess) + s2)
        return jnp.sum(self.kinds * w**2, axis=0), jnp.sum(self.kinds * w**3, axis=0)

    def log_variances(self, s2: Array) -> Array:
        """``sum_n ln((sigma_n^2 + s2) / sigma_n^2)``, shape (pixel,)."""
        variances = self.centre * (1 + self.excess)
        return jnp.sum(self.kinds * jnp.log1p(s2 / variances), axis=0)


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


def _nodes(n_nodes: int) -> np.ndarray:
    """Chebyshev nodes in t, from 1 to 0, shape (node,)."""
    return 0.5 + 0.5 * np.cos(np.pi * np.arange(n_nodes) / (n_nodes - 1))


def _shares(excess: Array, t: Array) -> Array:
    """What the value at each node counts at t, shape (node, pixel), for t of shape (pixel,)."""
    return _lagrange(t - _nodes(len(excess))[:, None]) * _denominators(excess) / jnp.prod(1 + t * excess, axis=0)


def _lagrange(beyond: Array) -> jax.Array:
    """Lagrange's polynomials, shape (node, ...), from how far their argument is from each node, shape (node, ...)."""
    nodes, ones = _nodes(len(beyond)), [1] * (beyond.ndim - 1)
    own, apart = np.eye(len(nodes)), nodes - nodes[:, None]
    own, apart = (array.reshape(*array.shape, *ones) for array in (own, apart))
    return jnp.prod(jnp.where(own > 0, 1.0, beyond[:, None] / (apart + own)), axis=0)


def _denominators(excess: Array) -> jax.Array:
    """The D at each node, shape (node, pixel)."""
    return jnp.prod(1 + _nodes(len(excess))[:, None, None] * excess, axis=1)


def _kinds(excess: Array, weight: Array) -> Array:
    """The m_j, the residues, from the sums of the scaled weights at the nodes, both of shape (node, pixel)."""
    # Lagrange's polynomials at the poles t = -1 / e_j, times a power of e_j, which may be zero.
    at_poles = _lagrange(-(1 + _nodes(len(excess))[:, None, None] * excess))
    numerator = jnp.sum(at_poles * (weight * _denominators(excess))[:, None], axis=0)
    own = np.eye(len(excess))[:, :, None]
    return numerator / jnp.prod(jnp.where(own > 0, 1.0, excess[:, None] - excess), axis=1)


def folded(combine: Callable[[jax.Array, jax.Array], jax.Array], array: jax.Array) -> jax.Array:
    """The eighths of the last axis, which `padded_size` makes alike, combined: to reduce it all takes twice as long."""
    first, *others = jnp.split(array, 8, axis=-1)
    return jax.lax.optimization_barrier(reduce(combine, others, first))


def _combined(share: Array, array: Array) -> Array:
    """Sum over the first axis, written out, because a reduction over it is several times as slow.

    It is finished before the Gram matrix reads it, which would compute each moment as often as it occurs there.
    """
    return jax.lax.optimization_barrier(reduce(add, (share[k] * array[k] for k in range(len(share)))))


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


@partial(jax.jit, static_argnames="n_nodes")
def sums_at_nodes(training: Training, block: Pixels, n_nodes: int) -> Interpolated:
    """Pass over the data of a block, once a node. Nothing in it depends on the regularization or the bounds."""
    places, middle_node = _nodes(n_nodes), n_nodes // 2
    # Where the logarithms of the x_j lie in their range.
    spread = np.cos(np.pi * (np.arange(n_nodes) + 0.5) / n_nodes)[:, None]
    known, flux = known_flux(block)
    n_stars = jnp.sum(known, axis=1)
    # Any centre will do, so that its logarithms may be in float32.
    logarithms = jnp.log(jnp.where(known, block.ivar, 1.0).astype(jnp.float32))
    middle = jnp.sum(logarithms, axis=1) / n_stars
    beyond = jnp.where(known, middle[:, None] - logarithms, 0.0)
    centre = jnp.exp(-middle.astype(jnp.float64))
    least, most = jnp.maximum(jnp.min(beyond, axis=1), -WIDEST), jnp.minimum(jnp.max(beyond, axis=1), WIDEST)
    half = jnp.maximum(most - least, 2 * NARROWEST) / 2
    of_kinds = jnp.expm1(0.5 * (least + most) + half * spread)
    excess = (1 / jnp.where(known, block.ivar * centre[:, None], 1.0) - 1).astype(jnp.float32)
    design = training.design.astype(jnp.float32)

    def scaled(t: Array) -> Array:
        return jnp.where(known, 1 / (1 + t * excess), 0.0)

    # All nodes at once, and finished before the products read them: a third less time than node after node.
    nodes = jnp.asarray(places, jnp.float32)[:, None, None]
    at_nodes = jax.lax.optimization_barrier(scaled(nodes))
    # Some devices multiply float32 with fewer digits, if they may.
    product = partial(jnp.einsum, precision="highest")
    moment_sums = product("kps,sm->kpm", at_nodes, training.single)
    gram = gram_matrix(training, moment_sums[middle_node].astype(jnp.float64))
    right = ((at_nodes[middle_node] * flux.astype(jnp.float32)) @ design).astype(jnp.float64)
    solve = jax.vmap(lambda gram, right: solve_masked(gram, right, jnp.ones(right.shape, bool), ridge=REFERENCE_RIDGE))
    reference = solve(gram, right)
    reference = jnp.where(jnp.isfinite(reference).all(axis=1, keepdims=True), reference, 0.0)
    fitted = jax.vmap(lambda reference: training.design @ reference)(jax.lax.optimization_barrier(reference))
    residual = jnp.where(known, flux - fitted, 0.0).astype(jnp.float32)
    weighted = jax.lax.optimization_barrier(at_nodes * residual)
    right = jnp.moveaxis(product("kps,sd->kpd", weighted, design), 1, -1)
    # A batched product would be turned first.
    square = jnp.sum(folded(add, at_nodes * residual * residual), axis=2)
    moment_sums = jnp.moveaxis(moment_sums, 1, -1)

    midway = places[:2].mean(), places[-2:].mean()
    exact = jnp.stack([jnp.sum(scaled(t), axis=1) for t in jnp.asarray(midway, jnp.float32)])
    weight = moment_sums[:, 0].astype(jnp.float64)
    between = jnp.stack([jnp.sum(_shares(of_kinds, jnp.full_like(centre, t)) * weight, axis=0) for t in midway])
    error = jnp.max(jnp.abs(between / exact - 1), axis=0)
    kinds = _kinds(of_kinds, weight)
    apart = reduce(mul, (jnp.abs(e.astype(jnp.float32)[:, None] - excess) for e in of_kinds))
    worst = jnp.max(folded(jnp.maximum, reduce(mul, at_nodes) * apart), axis=1)
    ratios = folded(mul, jnp.where(known, block.ivar * centre[:, None], 1.0))
    log_ivar = jnp.sum(jnp.log(ratios), axis=1) - n_stars * jnp.log(centre)
    return Interpolated(
        moment_sums, right, square, reference.T, centre, n_stars, log_ivar, of_kinds, kinds, error, worst
    )


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
        gradient = right - symmetric_product(gram, theta - reference)
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
