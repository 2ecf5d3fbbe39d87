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
fractions the interpolated sum of the weights is :math:`\sum_j m_j / (x_j + s^2)`, with residues :math:`m_j`: as if
there were stars of only K noise variances. Its integral is the sum of logarithms.

The sums are of the residuals from a least-squares fit, the reference, so that float32 suffices: nothing larger than the
noise has to cancel. Arrays have their pixels last, so that the processor works on many at once.
"""

from collections.abc import Callable
from functools import partial, reduce
from operator import add, mul
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayes_cannon.core.typing import (
    Array,
    MomentPixel,
    NodeMomentPixel,
    NodePixel,
    NodeTermPixel,
    PerPixel,
    TermPixel,
)
from bayes_cannon.execution.finished import finished
from bayes_cannon.training.certificate import solve_masked
from bayes_cannon.training.profile.blocks import Pixels, Training, gram_matrix, known_flux
from bayes_cannon.training.profile.settings import SETTINGS


class Interpolated(NamedTuple):
    """Weighted sums of the pixels of a block at the nodes, for the scaled weights.

    Attributes
    ----------
    moments
        Weighted sums of the moments, shape (node, moment, pixel), float32.
    right
        Weighted sums of residual times terms, shape (node, term, pixel), float32.
    square
        Weighted sums of the squared residual, shape (node, pixel), float32.
    reference
        Coefficients of the fit from which the residuals are, shape (term, pixel).
    noise_scale, n_stars, log_ivar
        The variance c, the number of stars with a positive ivar, and the sum of its logarithms, shape (pixel,).
    relative_noise, residues
        The e_j and m_j, shape (node, pixel).
    error
        Relative error of the interpolated sum of the weights midway between the outer nodes, shape (pixel,).
    error_factor
        The largest of the stars' ``prod_j |e_j - e_n| prod_k 1 / (1 + t_k e_n)``, shape (pixel,).

    """

    moments: NodeMomentPixel
    right: NodeTermPixel
    square: NodePixel
    reference: TermPixel
    noise_scale: PerPixel
    n_stars: Array
    log_ivar: PerPixel
    relative_noise: NodePixel
    residues: NodePixel
    error: PerPixel
    error_factor: PerPixel

    def at(self, s2: PerPixel) -> tuple[MomentPixel, TermPixel, PerPixel]:
        """Sums of moments (moment, pixel), residual times terms (term, pixel), squared residual (pixel,); float32."""
        total = self.noise_scale + s2
        weights = finished((self._node_weights(total) / total).astype(jnp.float32))
        moments, right, square = (_combined(weights, array) for array in (self.moments, self.right, self.square))
        return moments, right, square

    def derivatives(self, s2: PerPixel) -> tuple[Array, Array, Array]:
        """The sums of `at` and their first two derivatives by ``ln(c + s2)``, by central differences.

        The three are side by side on a new axis before that of the pixels.
        """
        step, total = SETTINGS.difference_step, self.noise_scale + s2
        totals = total / np.exp(step), total, total * np.exp(step)
        below, here, above = (self._node_weights(total) / total for total in totals)
        stacked = jnp.stack([here, (above - below) / (2 * step), (above - 2 * here + below) / step**2], axis=1)
        weights = finished(stacked.astype(jnp.float32))
        moments, right = (_combined(weights[:, None], array[:, :, None]) for array in (self.moments, self.right))
        return moments, right, _combined(weights, self.square[:, None])

    def error_bound(self, s2: PerPixel) -> Array:
        """Largest relative error of the interpolated weight of any star, shape (pixel,)."""
        t = self.noise_scale / (self.noise_scale + s2)
        distance = t - _nodes(len(self.relative_noise))[:, None]
        return self.error_factor * jnp.prod(jnp.abs(distance / (1 + t * self.relative_noise)), axis=0)

    def powers(self, s2: PerPixel) -> tuple[Array, Array]:
        """``sum_n w_n^2`` and ``sum_n w_n^3``, shape (pixel,) each."""
        w = 1 / (self.noise_scale * (1 + self.relative_noise) + s2)
        return jnp.sum(self.residues * w**2, axis=0), jnp.sum(self.residues * w**3, axis=0)

    def log_variances(self, s2: PerPixel) -> Array:
        """``sum_n ln((sigma_n^2 + s2) / sigma_n^2)``, shape (pixel,)."""
        variances = self.noise_scale * (1 + self.relative_noise)
        return jnp.sum(self.residues * jnp.log1p(s2 / variances), axis=0)

    def _node_weights(self, total: Array) -> Array:
        """Interpolation weight of each node at ``c + s2``, shape (node, pixel)."""
        return _node_weights(self.relative_noise, self.noise_scale / total)


def _nodes(n_nodes: int) -> np.ndarray:
    """Chebyshev nodes in t, from 1 to 0, shape (node,)."""
    return 0.5 + 0.5 * np.cos(np.pi * np.arange(n_nodes) / (n_nodes - 1))


def _node_weights(relative_noise: NodePixel, t: PerPixel) -> Array:
    """Interpolation weight of each node at t, shape (node, pixel), from the e_j."""
    polynomials = _lagrange(t - _nodes(len(relative_noise))[:, None])
    return polynomials * _denominators(relative_noise) / jnp.prod(1 + t * relative_noise, axis=0)


def _lagrange(distance: Array) -> jax.Array:
    """Lagrange's polynomials, from the distance of their argument to each node; both of shape (node, ...)."""
    nodes, ones = _nodes(len(distance)), [1] * (distance.ndim - 1)
    own, apart = np.eye(len(nodes)), nodes - nodes[:, None]
    own, apart = (array.reshape(*array.shape, *ones) for array in (own, apart))
    return jnp.prod(jnp.where(own > 0, 1.0, distance[:, None] / (apart + own)), axis=0)


def _denominators(relative_noise: NodePixel) -> jax.Array:
    """D at each node, shape (node, pixel)."""
    return jnp.prod(1 + _nodes(len(relative_noise))[:, None, None] * relative_noise, axis=1)


def _residues(relative_noise: NodePixel, weight: NodePixel) -> Array:
    """The residues m_j, from the sums of the scaled weights at the nodes, shape (node, pixel)."""
    # Lagrange's polynomials at the poles t = -1 / e_j, times a power of e_j, which may be zero.
    at_poles = _lagrange(-(1 + _nodes(len(relative_noise))[:, None, None] * relative_noise))
    numerator = jnp.sum(at_poles * (weight * _denominators(relative_noise))[:, None], axis=0)
    own = np.eye(len(relative_noise))[:, :, None]
    return numerator / jnp.prod(jnp.where(own > 0, 1.0, relative_noise[:, None] - relative_noise), axis=1)


def folded(combine: Callable[[jax.Array, jax.Array], jax.Array], array: Array) -> jax.Array:
    """The last axis reduced to an eighth of its length, which `padded_size` makes a multiple of eight.

    Reducing an array in these two stages takes half the time of reducing it at once.
    """
    first, *others = jnp.split(jnp.asarray(array), 8, axis=-1)
    return finished(reduce(combine, others, first))


def _combined(weights: Array, array: Array) -> Array:
    """Weighted sum over the first axis, written out, because a reduction over it is several times as slow."""
    return finished(reduce(add, (weights[k] * array[k] for k in range(len(weights)))))


@partial(jax.jit, static_argnames="n_nodes")
def sums_at_nodes(training: Training, block: Pixels, n_nodes: int) -> Interpolated:
    """The sums of a block by one pass over its data for each node.

    Nothing in them depends on the regularization or the bounds.
    """
    places, middle_node = _nodes(n_nodes), n_nodes // 2
    known, flux = known_flux(block)
    n_stars = jnp.sum(known, axis=1)
    noise_scale, poles = _noise(block, known, n_stars, n_nodes)
    relative_noise = (1 / jnp.where(known, block.ivar * noise_scale[:, None], 1.0) - 1).astype(jnp.float32)
    design = training.design.astype(jnp.float32)

    def scaled(t: Array) -> Array:
        return jnp.where(known, 1 / (1 + t * relative_noise), 0.0)

    # All nodes at once, which takes a third less time than node after node.
    at_nodes = finished(scaled(jnp.asarray(places, jnp.float32)[:, None, None]))
    # Some devices multiply float32 with fewer digits unless told not to.
    product = partial(jnp.einsum, precision="highest")
    moment_sums = product("kps,sm->kpm", at_nodes, training.single)
    gram = gram_matrix(training, moment_sums[middle_node].astype(jnp.float64))
    right = ((at_nodes[middle_node] * flux.astype(jnp.float32)) @ design).astype(jnp.float64)
    reference = _reference_fit(gram, right)
    fitted = jax.vmap(lambda reference: training.design @ reference)(finished(reference))
    residual = jnp.where(known, flux - fitted, 0.0).astype(jnp.float32)
    weighted = finished(at_nodes * residual)
    right = jnp.moveaxis(product("kps,sd->kpd", weighted, design), 1, -1)
    # Not as a batched product, for which the arrays would be transposed first.
    square = jnp.sum(folded(add, at_nodes * residual * residual), axis=2)
    moment_sums = jnp.moveaxis(moment_sums, 1, -1)

    midway = places[:2].mean(), places[-2:].mean()
    exact = jnp.stack([jnp.sum(scaled(t), axis=1) for t in jnp.asarray(midway, jnp.float32)])
    weight = moment_sums[:, 0].astype(jnp.float64)
    between = jnp.stack([jnp.sum(_node_weights(poles, jnp.full_like(noise_scale, t)) * weight, axis=0) for t in midway])
    error = jnp.max(jnp.abs(between / exact - 1), axis=0)
    apart = reduce(mul, (jnp.abs(e.astype(jnp.float32)[:, None] - relative_noise) for e in poles))
    error_factor = jnp.max(folded(jnp.maximum, reduce(mul, at_nodes) * apart), axis=1)
    ratios = folded(mul, jnp.where(known, block.ivar * noise_scale[:, None], 1.0))
    log_ivar = jnp.sum(jnp.log(ratios), axis=1) - n_stars * jnp.log(noise_scale)
    return Interpolated(
        moment_sums, right, square, reference.T, noise_scale, n_stars, log_ivar, poles, _residues(poles, weight), error,
        error_factor,
    )  # fmt: skip


def _noise(block: Pixels, known: Array, n_stars: Array, n_nodes: int) -> tuple[Array, Array]:
    """Geometric mean c of the noise variances, shape (pixel,), and the e_j of the poles, shape (node, pixel)."""
    # Any scale near the mean will do, so that the logarithms may be in float32.
    logarithms = jnp.log(jnp.where(known, block.ivar, 1.0).astype(jnp.float32))
    mean = jnp.sum(logarithms, axis=1) / n_stars
    deviation = jnp.where(known, mean[:, None] - logarithms, 0.0)
    widest = SETTINGS.max_noise_range / 2
    least, most = jnp.maximum(jnp.min(deviation, axis=1), -widest), jnp.minimum(jnp.max(deviation, axis=1), widest)
    half = jnp.maximum(most - least, SETTINGS.min_noise_range) / 2
    places = np.cos(np.pi * (np.arange(n_nodes) + 0.5) / n_nodes)[:, None]
    return jnp.exp(-mean.astype(jnp.float64)), jnp.expm1(0.5 * (least + most) + half * places)


def _reference_fit(gram: Array, right: Array) -> Array:
    """Least-squares coefficients (pixel, term); zero where there are none."""
    ridge = SETTINGS.reference_ridge
    solve = jax.vmap(lambda gram, right: solve_masked(gram, right, jnp.ones(right.shape, bool), ridge=ridge))
    solution = solve(gram, right)
    return jnp.where(jnp.isfinite(solution).all(axis=1, keepdims=True), solution, 0.0)
