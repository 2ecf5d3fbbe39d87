r"""chi^2 of spectra as one polynomial of the labels, whatever the scatter: the pixel side of the compiled test step.

With independent scatter

.. math:: \chi^2(x) = \sum_j w_j \left[ y_j - v(x) \cdot \theta_j \right]^2 = \sum_m c_m \mu_m(x)

over the moments :math:`\mu_m` (`core.moments`). Scatter that pixels share changes the coefficients c, not the form.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayes_cannon.core.moments import MomentBasis
from bayes_cannon.core.typing import Array, PerStar, StarMoment, StarPixel

PRODUCT_DTYPE = np.float64
"""Precision of the one large matrix product, of the weights with the products of theta; all else is float64.

Measured in float32: a fit takes a quarter less time with 17 labels and none less with five; its labels are off by up to
1e-5 and 3e-4 of their errors. It would need a correction over the pixels at the end.
"""

PIXELS_IN_CACHE = 256
"""Number of pixels for which the table of products is made at a time."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Response:
    """How the flux responds to the labels, for independent pixels. Make it with `from_theta`.

    Attributes
    ----------
    theta
        Coefficients with zero in the place of the constant one, and at pixels without solution, shape (pixel, term).
    solved
        Whether a pixel has a solution, shape (pixel,).
    products
        Coefficients that a unit weight at a pixel adds to chi^2 for zero flux, shape (moment, pixel).
    pairs
        Index of the moment that two terms multiply to, shape (term, term).
    terms
        Index of the moment that equals each term, shape (term,).

    """

    theta: Array
    solved: Array
    products: Array
    pairs: Array
    terms: Array

    @classmethod
    def from_theta(cls, theta: np.ndarray, solved: np.ndarray, basis: MomentBasis) -> "Response":
        """Tables of the coefficients, shape (pixel, term)."""
        response = np.where(solved[:, None], theta, 0.0)
        response[:, 0] = 0.0
        return cls(response, solved, _products(response, basis), basis.pairs, basis.terms)

    def chi_squared(self, w: StarPixel, y: StarPixel) -> StarMoment:
        """Coefficients of chi^2 over the moments of the scaled labels, shape (star, moment), for independent pixels.

        Takes the weights w and the flux above the constant term y, both (star, pixel) and zero in pixels not used.
        """
        dtype = self.products.dtype
        coefficients = jnp.einsum("np,mp->nm", w.astype(dtype), self.products).astype(w.dtype)
        weighted = jax.lax.optimization_barrier(w * y)
        coefficients = coefficients.at[:, self.terms].add(-2 * (weighted @ self.theta))
        return coefficients.at[:, self.terms[0]].add(row_products(weighted, y))


class Chi2(NamedTuple):
    """chi^2 of a batch: its coefficients, shape (star, moment), and what `LabelTables.compare` needs of each star."""

    coefficients: StarMoment
    root: Any


class LabelTables(ABC):
    """Scatter as the test step uses it: a frozen dataclass that is a JAX pytree. Its verbs run with float64 enabled."""

    @abstractmethod
    def chi_squared(self, response: Response, w: StarPixel, y: StarPixel, growth: PerStar) -> Chi2:
        """chi^2 as a polynomial of the labels.

        Parameters
        ----------
        response
            Of the model.
        w, y
            Weights for independent pixels, and flux above the constant term, both (star, pixel) and zero in pixels not
            used.
        growth
            Factor ``1 + h`` by which the covariance that pixels share grows with the errors of theta, shape (star,).

        """

    def of_stars(self, covariance: np.ndarray) -> "LabelTables":
        """Tables for a batch of stars whose noise has these covariances, shape (star, pixel, pixel)."""
        raise TypeError(f"{type(self).__name__} has no place for a covariance of each star")

    def grown(self, response: Response, before: Chi2, w: StarPixel, y: StarPixel, growth: PerStar) -> Chi2:
        """As `chi_squared`, for spectra of which it is known ``before`` for other weights and no growth."""
        return self.chi_squared(response, w, y, growth)

    @abstractmethod
    def compare(self, root: Any, w: StarPixel, residual: StarPixel) -> tuple[PerStar, StarPixel]:
        """``r' C^-1 r``, shape (star,), and ``C^-1 r``, for the root that `chi_squared` returned."""

    def n_tail(self, used: Array) -> Array:
        """Number of coordinates that set the scale of a star with heavy tails, from its used pixels, shape (star,)."""
        return used

    @abstractmethod
    def log_det(self, root: Any, w: StarPixel) -> PerStar:
        """``ln det C`` of each star, shape (star,), in units that all parts of the training stars have in common."""

    def star_scale(self, root: Any, w: StarPixel) -> PerStar:
        """The c by which what pixels share is multiplied for a star, shape (star,), to which errors of theta add h."""
        return jnp.ones(len(w))

    @abstractmethod
    def theta_weights(self, w: StarPixel, growth: PerStar, used: Array) -> tuple[StarPixel, PerStar]:
        """Diagonal of C^-1, shape (star, pixel), for errors of theta that each pixel has for itself, and
        ``tr(C^-1 S)``, shape (star,), with the covariance S of those that pixels share (`labelling.theta_errors`).
        """


def with_square(coefficients: Array, response: Response, constant: Array, linear: Array, squares: Array) -> jax.Array:
    """Coefficients of chi^2, shape (star, moment), with ``|h - H v|^2`` added, from |h|^2, H'h and H'H of each star."""
    pairs, terms = response.pairs, response.terms
    out = jnp.asarray(coefficients).at[:, pairs.reshape(-1)].add(squares.reshape(len(squares), -1))
    return out.at[:, terms].add(-2 * linear).at[:, terms[0]].add(constant)


def log_det_of_weights(w: StarPixel) -> Array:
    """``ln det W^-1`` over the used pixels, shape (star,)."""
    return -jnp.sum(jnp.where(w > 0, jnp.log(jnp.where(w > 0, w, 1.0)), 0.0), axis=1)


def row_products(a: StarPixel, b: StarPixel) -> Array:
    """Sum of a times b over the pixels, shape (star,).

    Of two finished arrays this takes a third of the time of a sum that computes what it adds, one number at a time.
    """
    return jnp.einsum("np,np->n", a, b)


def _products(theta: np.ndarray, basis: MomentBasis) -> np.ndarray:
    products = np.zeros((basis.n_moments, len(theta)), PRODUCT_DTYPE)
    for first in range(0, len(theta), PIXELS_IN_CACHE):
        pixels = slice(first, first + PIXELS_IN_CACHE)
        block = np.ascontiguousarray(theta[pixels].T)
        sums = np.zeros((basis.n_moments, block.shape[1]))
        for d in range(1, len(block)):
            twice = 2 * block[d] * block[1 : d + 1]
            twice[-1] *= 0.5
            # Products of one term with different others are different moments, so that none is added twice.
            sums[basis.pairs[d, 1 : d + 1]] += twice
        products[:, pixels] = sums
    return products
