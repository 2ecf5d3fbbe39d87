r"""The test step with correlated scatter: what the factors take from chi^2, which stays one polynomial of the labels.

The covariance of a star is :math:`C = W^{-1} + U U^T`. By Woodbury's identity, with :math:`K = I + U^T W U = L L^T`,

.. math:: (y - \Theta v)^T C^{-1} (y - \Theta v) = (y - \Theta v)^T W (y - \Theta v) - |h - H v|^2, \qquad
          h = L^{-1} U^T W y, \quad H = L^{-1} U^T W \Theta

so that r D + r (r + 1) / 2 more columns of the product with the weights are all that it costs. Pixels without weight
drop out of every sum: missing pixels are handled exactly.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from bayes_cannon.core.typing import Array, PerStar, StarMoment, StarPixel
from bayes_cannon.scatter.low_rank_em import symmetric


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SharedScatter:
    """Tables of the factors. Make it with `from_arrays`.

    Attributes
    ----------
    factors
        U, shape (pixel, factor).
    squares
        Products of two factors, shape (pixel, pair of factors).
    crossed
        Products of a factor with a term's coefficient, the constant's being zero, shape (pixel, factor x term).
    pairs
        Index of the moment that two terms multiply to, shape (term, term).
    terms
        Index of the moment that equals each term, shape (term,).

    """

    factors: Array
    squares: Array
    crossed: Array
    pairs: Array
    terms: Array

    @classmethod
    def from_arrays(
        cls, factors: np.ndarray, slopes: np.ndarray, pairs: np.ndarray, terms: np.ndarray
    ) -> "SharedScatter":
        """Tables of U, shape (pixel, factor), and the coefficients with zero for the constant, (pixel, term)."""
        rows, columns = np.tril_indices(factors.shape[1])
        crossed = (factors[:, :, None] * slopes[:, None, :]).reshape(len(factors), -1)
        return cls(factors, factors[:, rows] * factors[:, columns], crossed, pairs, terms)

    def coefficients(
        self, w: StarPixel, y: StarPixel, coefficients: StarMoment, growth: PerStar | None = None
    ) -> tuple[StarMoment, Array]:
        """Coefficients of chi^2 with the correlation, from those without, and what `compare` needs of each star.

        ``growth`` multiplies the shared covariance U U' of each star, shape (star,); one by default.
        """
        return correlated(self, w, y, coefficients, jnp.ones(len(w)) if growth is None else growth)

    def compare(self, root: Array, w: StarPixel, residual: StarPixel) -> tuple[PerStar, StarPixel]:
        """``r' C^-1 r``, shape (star,), and ``C^-1 r``."""
        return decorrelated(self, root, w, residual)

    def n_tail(self, used: Array) -> Array:
        """Number of coordinates that set the scale of each star, shape (star,)."""
        return used


def with_square(
    coefficients: Array, pairs: Array, terms: Array, constant: Array, linear: Array, squares: Array
) -> jax.Array:
    """Coefficients of chi^2, shape (star, moment), with ``|h - H v|^2`` added, from |h|^2, H'h and H'H of each star."""
    out = jnp.asarray(coefficients).at[:, pairs.reshape(-1)].add(squares.reshape(len(squares), -1))
    return out.at[:, terms].add(-2 * linear).at[:, terms[0]].add(constant)


@jax.jit
def correlated(
    shared: SharedScatter, w: StarPixel, y: StarPixel, coefficients: StarMoment, growth: PerStar
) -> tuple[StarMoment, Array]:
    """Coefficients of chi^2 with the correlation, from those without, and the Cholesky factor of K of each star.

    Takes weights w and flux above the constant term y, both (star, pixel) and zero in pixels not used.
    """
    n_factors = shared.factors.shape[1]
    gram = symmetric(w @ shared.squares, n_factors)
    root = jnp.linalg.cholesky(gram + jnp.eye(n_factors) / jnp.asarray(growth)[:, None, None])
    crossed = (w @ shared.crossed).reshape(len(w), n_factors, -1)
    right = jnp.concatenate([((w * y) @ shared.factors)[:, :, None], crossed], axis=2)
    half = jax.scipy.linalg.solve_triangular(root, right, lower=True)
    h, of_terms = half[:, :, 0], half[:, :, 1:]
    squares = jnp.einsum("nrd,nre->nde", of_terms, of_terms)
    linear = jnp.einsum("nr,nrd->nd", h, of_terms)
    return with_square(coefficients, shared.pairs, shared.terms, -jnp.sum(h**2, axis=1), -linear, -squares), root


@jax.jit
def decorrelated(shared: SharedScatter, root: Array, w: StarPixel, residual: StarPixel) -> tuple[PerStar, StarPixel]:
    """``r' C^-1 r``, shape (star,), and ``C^-1 r``: the factors explain ``r' W U K^-1 U' W r``."""
    weighted = jax.lax.optimization_barrier(w * residual)
    pulled = (weighted @ shared.factors)[:, :, None]
    half = jax.scipy.linalg.solve_triangular(root, pulled, lower=True)
    mean = jax.scipy.linalg.solve_triangular(root, half, lower=True, trans=1)[:, :, 0]
    chi_squared = jnp.einsum("np,np->n", weighted, residual) - jnp.sum(half[:, :, 0] ** 2, axis=1)
    return chi_squared, weighted - w * (mean @ shared.factors.T)
