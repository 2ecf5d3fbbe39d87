r"""Labels where each star has a covariance of its own: the pixel side of the test step.

Chi^2 stays one polynomial of the labels. Of the q coordinates z = B' y that count (`scatter.star_noise_training`)

.. math:: (z - \Theta v)^T C_n^{-1} (z - \Theta v) = |h - H v|^2, \qquad C_n = \kappa G_n + L = L_n L_n^T, \quad
          h = L_n^{-1} z, \quad H = L_n^{-1} \Theta

so that a star costs the projection of its noise, q P^2 for P pixels, and a factorization, q^3 / 3. Where pixels are
missing, B is that of the others: their coordinates are those of another basis, in which L is :math:`S L S`, with
:math:`S = E^T E` of the directions E there, and chi^2 does not depend on the basis.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayes_cannon.core.typing import Array, PerStar, StarMoment, StarPixel
from bayes_cannon.scatter.label_tables import Chi2, LabelTables, Response, with_square
from bayes_cannon.scatter.star_noise_training import SMALLEST

TOGETHER = 32
"""Stars whose covariances are projected together, and stay in the cache."""
NO_COVARIANCE = (
    "the model was trained with the covariance of the noise of each star, and needs that of these, too: give "
    "covariance=, shape (star, pixel, pixel), to test or fit_labels"
)
solve_lower = jax.scipy.linalg.solve_triangular


class StarRoots(NamedTuple):
    """Of a batch: Cholesky factors, shape (star, direction, direction), and B' Theta, shape (star, direction, term)."""

    lower: Array
    theta: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StarNoiseTables(LabelTables):
    """Tables of the directions and what is known of the noise.

    Attributes
    ----------
    projection, basis
        B and E, shape (pixel, direction); zero at pixels without solution.
    theta
        Theta with zero for the constant, shape (pixel, term).
    own
        s^2, which the weights hold beside the quoted noise, shape (pixel,).
    scatter, usual
        L, and the mean covariance of the training stars, shape (direction, direction).
    noise_scale
        kappa.
    correlation
        R, shape (pixel, pixel); None where stars have covariances.
    given
        These, of the stars of the batch, shape (star, pixel, pixel).

    """

    projection: Array
    basis: Array
    theta: Array
    own: Array
    scatter: Array
    usual: Array
    noise_scale: Array | float
    correlation: Array | None
    given: Array | None = None

    def of_stars(self, covariance: np.ndarray) -> "StarNoiseTables":
        """Tables for a batch of stars whose noise has these covariances, shape (star, pixel, pixel)."""
        return replace(self, given=covariance)

    def chi_squared(self, response: Response, w: StarPixel, y: StarPixel, growth: PerStar) -> Chi2:
        """As `LabelTables.chi_squared`; errors of theta add ``h`` times the mean covariance of the training stars."""
        if self.correlation is None and self.given is None:
            raise ValueError(NO_COVARIANCE)
        root = _roots(self, w, growth)
        zero = jnp.zeros((len(y), response.products.shape[0]))
        return Chi2(_chi_squared(self.projection, response, root, y, zero), root)

    def compare(self, root: StarRoots, w: StarPixel, residual: StarPixel) -> tuple[PerStar, StarPixel]:
        """As `LabelTables.compare`, of the coordinates."""
        return _compare(self.projection, root.lower, jnp.asarray(w), jnp.asarray(residual))

    def n_tail(self, used: Array) -> Array:
        """Coordinates that count."""
        return jnp.minimum(used, self.projection.shape[1])

    def log_det(self, root: StarRoots, w: StarPixel) -> PerStar:
        """As `LabelTables.log_det`; pixels that a star misses make the same difference to all parts."""
        return 2 * jnp.log(jnp.diagonal(root.lower, axis1=1, axis2=2)).sum(axis=1)

    def theta_weights(self, w: StarPixel, growth: PerStar, used: Array) -> tuple[StarPixel, PerStar]:
        """As `LabelTables.theta_weights`: all of it is shared, and S is the mean covariance of the training stars."""
        return jnp.zeros_like(w), _weight_of_theta(self.usual, _roots(self, w, growth).lower)


@jax.jit
def _roots(tables: StarNoiseTables, w: StarPixel, growth: PerStar) -> StarRoots:
    used = w > 0
    # Weights are 1 / (1 / ivar + own).
    variance = jnp.where(used, 1 / jnp.where(used, w, 1.0) - tables.own, 0.0)
    error = jnp.sqrt(jnp.maximum(variance, 0.0))
    ridge, correlation = SMALLEST * jnp.eye(tables.projection.shape[1]), tables.correlation

    def one(star: tuple[Array, ...]) -> StarRoots:
        used, error, growth, *given = star
        seen = jnp.where(used[:, None], tables.projection, 0.0)
        noise: Array
        if given:
            noise = seen.T @ (jnp.where(used[:, None] & used[None, :], given[0], 0.0) @ seen)
        else:
            assert correlation is not None
            scaled = error[:, None] * seen
            noise = scaled.T @ (correlation @ scaled)
        s = jnp.where(used[:, None], tables.basis, 0.0).T @ tables.basis
        common = tables.scatter + (growth - 1) * tables.usual
        lower = jnp.linalg.cholesky(tables.noise_scale * (noise + ridge) + s @ common @ s)
        return StarRoots(lower, seen.T @ tables.theta)

    own = () if tables.given is None else (tables.given,)
    stars = used, error, jnp.asarray(growth), *own
    return StarRoots(*jax.lax.map(one, stars, batch_size=TOGETHER))


@jax.jit
def _chi_squared(projection: Array, response: Response, root: StarRoots, y: StarPixel, zero: Array) -> StarMoment:
    z = y @ projection
    half = solve_lower(root.lower, jnp.concatenate([z[:, :, None], root.theta], axis=2), lower=True)
    h, of_terms = half[:, :, 0], half[:, :, 1:]
    linear, squares = jnp.einsum("nq,nqt->nt", h, of_terms), jnp.einsum("nqt,nqu->ntu", of_terms, of_terms)
    return with_square(zero, response, jnp.sum(h**2, axis=1), linear, squares)


@jax.jit
def _compare(projection: Array, lower: Array, w: StarPixel, residual: StarPixel) -> tuple[Array, Array]:
    used = w > 0
    z = jnp.where(used, residual, 0.0) @ projection
    half = solve_lower(lower, z[:, :, None], lower=True)
    pulled = solve_lower(lower, half, lower=True, trans=1)[:, :, 0]
    return jnp.sum(half[:, :, 0] ** 2, axis=1), jnp.where(used, pulled @ projection.T, 0.0)


@jax.jit
def _weight_of_theta(usual: Array, lower: Array) -> Array:
    half = solve_lower(lower, jnp.broadcast_to(usual, lower.shape), lower=True)
    return jnp.trace(solve_lower(lower, half, lower=True, trans=1), axis1=1, axis2=2)
