r"""The weighted sums of every pixel at any s^2, for the price of a few passes over the data.

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
larger than the noise has to cancel. Arrays have their pixels last, where the processor works on many at once.
"""

from collections.abc import Callable
from functools import partial, reduce
from operator import add, mul
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayes_cannon.core.typing import Array
from bayes_cannon.training.certificate import solve_masked
from bayes_cannon.training.profile.blocks import Pixels, Training, gram_matrix, known_flux

NODES, PATH_NODES = 5, 7
"""Chebyshev nodes in t. A path takes more, which spare it an exact step at each of its points: an interpolated Gram
matrix is ten times as good for each node more."""
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
