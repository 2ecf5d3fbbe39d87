r"""Compressed spectra: chi^2 of a star as one polynomial in its labels, and the fit of a batch of stars with it.

With theta and s^2 fixed, chi^2 of a star is exactly one polynomial in its scaled labels,

.. math:: \chi^2(x) = \sum_j w_j \left[ y_j - v(x) \cdot \theta_j \right]^2 = \sum_m c_m \mu_m(x),
          \qquad w_j = \frac{\mathrm{ivar}_j}{1 + \mathrm{ivar}_j s_j^2}

over the moments :math:`\mu_m` (`core.moments`); scatter that pixels share changes the coefficients c, not the form. The
coefficients of all stars are products of the weights with tables that are made once from theta, so that the pixels are
read once and the search for the minimum never touches them. The constant term of theta is subtracted from the flux
first, which saves two digits of cancellation.

At the minimum the residuals are computed once more, and with them chi^2, its gradient and the Fisher information.
The latter needs no further pass over the pixels: with :math:`q_d = \sum_j w_j r_j \theta_{jd}`,

.. math:: F_{kl} = \sum_j w_j\, \partial_k f_j\, \partial_l f_j
                 = \tfrac12 \partial_k \partial_l \chi^2 + \sum_d q_d\, \partial_k \partial_l v_d
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayes_cannon.core.likelihood import weights
from bayes_cannon.core.status import StarStatus
from bayes_cannon.core.terms import Terms
from bayes_cannon.core.typing import Array, PerStar
from bayes_cannon.core.vectorizer import label_factors
from bayes_cannon.execution.devices import by_device
from bayes_cannon.labelling.label_scale import LabelScale, objectives, scaled_points
from bayes_cannon.labelling.polynomial import Minima, Point, Polynomials, is_minimum, minimize, normalized
from bayes_cannon.labelling.starts import LabelStarts, search_starts
from bayes_cannon.scatter.base import LearnedScatter
from bayes_cannon.scatter.label_tables import LabelTables, Response

STARS_IN_CACHE = 8
"""Number of stars searched together on a CPU: their Hessians stay in the cache, and few wait for the slowest."""

CERTIFIED = 1e-9
"""A star whose decrement exceeds this times ``1 + chi^2`` is not called converged."""

OPEN = 1e-6
"""Share of a label in directions without information from which on the label is not determined."""

APART = 1e-4
"""Scaled labels that are further apart belong to two minima."""

SINGULAR = 1e-12
"""The information is singular below this, relative: its smallest eigenvalue, or what cancellation left of a label's."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ModelTables:
    """What the compiled test step needs of a trained model, as arrays. Make it with `from_arrays`.

    Attributes
    ----------
    constant, s2
        Constant coefficient and variance of the scatter, shape (pixel,), zero at pixels without solution. The constant
        is apart from the others, because a column of a table is read five times slower than a vector.
    response
        All other coefficients and their products.
    scatter
        Tables of the learned scatter.
    nu
        Degrees of freedom of a spectrum's Student-t distribution; infinite for a normal one.
    starts
        Where the search for labels starts.
    term_labels
        The labels whose product is a term, shape (term, degree), filled up with the number of labels.
    label_scale
        The beta by which the covariance depends on the labels, shape (label,); None where it does not.

    """

    constant: Array
    s2: Array
    response: Response
    scatter: LabelTables
    nu: Array | float
    starts: LabelStarts
    term_labels: Array
    label_scale: Array | None = None

    def of_stars(self, covariance: np.ndarray | None) -> "ModelTables":
        """Tables of a batch whose noise has these covariances, shape (star, pixel, pixel), if there are any."""
        return self if covariance is None else replace(self, scatter=self.scatter.of_stars(covariance))

    def scale_of(self, n_tail: PerStar) -> LabelScale | None:
        """How the covariance of stars of this n depends on their labels."""
        if self.label_scale is None:
            return None
        return LabelScale(self.label_scale, self.nu, jnp.asarray(n_tail, float))

    @classmethod
    def from_arrays(cls, theta: np.ndarray, s2: np.ndarray, scatter: LearnedScatter, terms: Terms) -> "ModelTables":
        """Tables as NumPy arrays.

        Parameters
        ----------
        theta, s2
            Coefficients (pixel, term) and variance of the scatter (pixel,); not finite at pixels without solution.
        scatter
            Learned scatter.
        terms
            Of the training stars.

        """
        solved = np.isfinite(theta).all(axis=1) & np.isfinite(s2)
        response = Response.from_theta(theta, solved, terms.moments)
        return cls(
            np.where(solved, theta[:, 0], 0.0), np.where(solved, s2, 0.0), response, scatter.label_tables(response),
            scatter.nu, LabelStarts.from_terms(terms), label_factors(terms.exponents), scatter.label_scale,
        )  # fmt: skip


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BatchFit:
    """Fit of a batch of stars in scaled labels; the fields are those of `labelling.fit.LabelFit` but for these.

    Attributes
    ----------
    x
        Scaled labels, shape (star, label), finite even where the status has no solution.
    used, n_tail
        Number of used pixels, and what chi^2 typically is where the model holds and no label is fitted.
    significance
        One over the flux error, shape (star, pixel); infinite at pixels that are not used, so that a partition puts
        them last.
    faulty
        Whether a star has an ivar that is negative or not finite, or a flux that is not finite where ivar is positive.

    """

    x: Array
    covariance: Array
    chi_squared: Array
    decrement: Array
    used: Array
    n_tail: Array
    significance: Array
    status: Array
    iterations: Array
    start: Array
    faulty: Array
    scale: Array
    second: "SecondMinimum"


class SecondMinimum(NamedTuple):
    """The lowest minimum apart from the best: scaled labels (star, label), and by how much chi^2 is larger, (star,).

    Where the search met no other the labels are those of the best, and the difference is infinite.
    """

    x: Array
    excess: Array


class Compressed(NamedTuple):
    """A batch of spectra: weights, flux above the constant term, coefficients of chi^2 over the moments (star, moment).

    Then the root for `LabelTables.compare`, one over the flux error, used pixels, the coordinates that set the scale of
    heavy tails, and bad input.
    """

    w: Array
    y: Array
    coefficients: Array
    root: Any
    significance: Array
    used: Array
    n_tail: Array
    faulty: Array


def fit_batch(tables: ModelTables, flux: np.ndarray, ivar: np.ndarray, starts: np.ndarray) -> BatchFit:
    """Fit of the stars with these spectra (star, pixel) and further starts in scaled labels (star, start, label).

    Must be called with float64 enabled. Each part is compiled once for each shape; the model is data. The parts that
    touch pixels are separate, so that another number of pixels does not compile the search again.
    """
    found = compressed_batch(tables, flux, ivar)
    together = by_device(STARS_IN_CACHE, len(flux))
    by_labels = tables.scale_of(found.n_tail)
    best, start, iterations, converged, second = search(tables.starts, found.coefficients, starts, together, by_labels)
    chi_squared, score = compare(tables, found.root, found.w, found.y, best.x)
    if by_labels is not None:
        chi_squared = chi_squared * jnp.exp(-by_labels.exponent(best.x[:, 0]))
        best = _without_scale(tables.starts, found.coefficients, best.x)
    x, covariance, decrement, status, scale = judge(
        tables.starts, tables.nu, best, score, chi_squared, converged, found.used, found.n_tail, by_labels
    )
    return BatchFit(
        x, covariance, chi_squared, decrement, found.used, found.n_tail, found.significance, status, iterations, start,
        found.faulty, scale, second,
    )  # fmt: skip


def compressed_batch(tables: ModelTables, flux: np.ndarray, ivar: np.ndarray) -> Compressed:
    """The spectra (star, pixel) as polynomials. Must be called with float64 enabled."""
    w, y, significance, used, faulty = _weighted(tables.constant, tables.s2, tables.response.solved, flux, ivar)
    coefficients, root = tables.scatter.chi_squared(tables.response, w, y, jnp.ones(len(w)))
    return Compressed(w, y, coefficients, root, significance, used, tables.scatter.n_tail(used), faulty)


@jax.jit
def _weighted(constant: Array, s2: Array, solved: Array, flux: Array, ivar: Array) -> tuple[Array, ...]:
    """Weights and flux above the constant term, one over the flux error, used pixels, bad input."""
    faulty = _count(~((ivar >= 0) & (ivar < jnp.inf)) | ((ivar > 0) & ~jnp.isfinite(flux))) > 0
    used = (ivar > 0) & solved & ~faulty[:, None]
    y, ivar = (jnp.where(used, array, 0.0).astype(jnp.float64) for array in (flux, ivar))
    # Of flux that is one, or a logarithm: the flux itself does not enter, because a logarithm may have any sign.
    significance = jnp.where(used, jnp.sqrt(ivar.astype(jnp.float32)), jnp.inf)
    w = weights(ivar, s2)
    return w, jnp.where(used, y - constant, 0.0), significance, _count(used), faulty


def _count(mask: Array) -> Array:
    """How often each row of the mask is true, below 2^24: a product takes half the time of a sum, or of ``any``."""
    return (mask.astype(jnp.float32) @ jnp.ones(mask.shape[1], jnp.float32)).astype(jnp.int32)


@partial(jax.jit, static_argnames="together")
def search(
    tables: LabelStarts, coefficients: Array, starts: Array, together: int, scale: LabelScale | None = None
) -> tuple[Point, Array, Array, Array, SecondMinimum]:
    """Lowest minimum of each star from all its starts; groups of ``together`` stars run one after the other.

    Of chi^2, or of what stands for it where the covariance depends on the labels (`labelling.label_scale`).
    """
    n_stars = len(coefficients)
    starts = jnp.concatenate([search_starts(tables, coefficients), starts], axis=1)

    def grouped(array: Array) -> Array:
        filled = jnp.pad(array, [(0, -n_stars % together), *[(0, 0)] * (array.ndim - 1)])
        return filled.reshape(-1, together, *array.shape[1:])

    def lowest(group: tuple[Array, Array, Array | None]) -> tuple[Point, Array, Array, Array, SecondMinimum]:
        own = None if scale is None or group[2] is None else replace(scale, count=group[2])
        return _lowest(minimize(objectives(tables.moment_tables, group[0], own), group[1]))

    counts = None if scale is None else grouped(scale.count)
    found = jax.lax.map(lowest, (grouped(coefficients), grouped(starts), counts))
    return jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:])[:n_stars], found)


@jax.jit
def _without_scale(tables: LabelStarts, coefficients: Array, x: Array) -> Point:
    return Polynomials.from_coefficients(tables.moment_tables, coefficients)(x)


def compare(tables: ModelTables, root: Any, w: Array, y: Array, x: Array) -> tuple[Array, Array]:
    """chi^2 over the pixels, and ``sum_j (C^-1 r)_j theta_jd``, shape (star, term), with zero for the constant."""
    theta = tables.response.theta
    chi_squared, weighted = tables.scatter.compare(root, w, _residual(theta, tables.term_labels, y, x[:, 0]))
    return chi_squared, weighted @ theta


@jax.jit
def _residual(theta: Array, term_labels: Array, y: Array, x: Array) -> Array:
    padded = jnp.concatenate([x, jnp.ones_like(x[:, :1])], axis=1)
    return y - jnp.prod(padded[:, term_labels], axis=-1) @ theta.T


@jax.jit
def tail_scale(nu: Array, chi_squared: Array, used: Array, n_labels: int) -> Array:
    """What the covariance of each star is multiplied by, ``(nu + chi^2) / (nu + P - K - 2)``; one for normal tails.

    The labels then follow a Student-t distribution of ``nu + P - K`` degrees of freedom, whose covariance this is, and
    which has none, an infinite one, up to two.
    """
    finite = jnp.isfinite(nu)
    safe = jnp.where(finite, nu, 1.0)
    freedom = safe + used - n_labels - 2
    scale = jnp.where(freedom > 0, (safe + chi_squared) / jnp.where(freedom > 0, freedom, 1.0), jnp.inf)
    return jnp.where(finite, scale, 1.0)


@jax.jit
def judge(
    starts: LabelStarts,
    nu: Array,
    best: Point,
    score: Array,
    chi_squared: Array,
    converged: Array,
    used: Array,
    n_tail: Array,
    by_labels: LabelScale | None = None,
) -> tuple[Array, Array, Array, Array, Array]:
    """Scaled labels, covariance, decrement, status and variance scale of each star at its minimum.

    ``best`` is chi^2 there, without its scale by the labels.
    """
    x = best.x[:, 0]
    weighted = Polynomials.from_coefficients(starts.term_tables, score)(best.x)
    scale = tail_scale(nu, chi_squared, n_tail, x.shape[1])
    if by_labels is not None:
        best, weighted = scaled_points(by_labels, best, weighted, chi_squared, scale)
    covariance, decrement, singular = information_inverse(best, weighted)
    status = status_of(starts, x, chi_squared, decrement, converged, singular, used)
    return x, scale[:, None, None] * covariance, decrement, status, scale


@jax.jit
def status_of(
    starts: LabelStarts, x: Array, chi_squared: Array, decrement: Array, converged: Array, singular: Array, used: Array
) -> Array:
    """Status of each star with the scaled labels x, shape (star, label)."""
    converged = converged & ~(decrement > CERTIFIED * (1 + chi_squared))
    outside = starts.outside(x)
    return jnp.select(
        [used == 0, used < x.shape[1], ~converged, singular, outside],
        [
            StarStatus.NO_INFORMATION, StarStatus.TOO_FEW_PIXELS, StarStatus.MAX_ITERATIONS,
            StarStatus.SINGULAR, StarStatus.OUTSIDE_TRAINING_SET,
        ],
        StarStatus.CONVERGED,
    )  # fmt: skip


def _lowest(minima: Minima) -> tuple[Point, Array, Array, Array, SecondMinimum]:
    """The lowest minimum of each star as a single start, which start it was, its iterations, whether it is one.

    And the lowest of those that are apart from it.
    """
    point = minima.point
    value = jnp.where(jnp.isfinite(point.value), point.value, jnp.inf)
    lowest = jnp.min(value, axis=1, keepdims=True)
    # Starts that reached the same minimum differ by roundoff only, which must not choose among them.
    same = value <= lowest + 1e-11 * (1 + jnp.abs(lowest)) + 8 * jnp.finfo(value.dtype).eps * point.magnitude
    start = jnp.argmax(2 * same + (same & minima.converged), axis=1)

    def chosen(array: Array) -> Array:
        won = (jnp.arange(array.shape[1]) == start[:, None]).reshape(*array.shape[:2], *[1] * (array.ndim - 2))
        return jnp.sum(jnp.where(won, array, 0), axis=1, keepdims=True, dtype=array.dtype)

    best = jax.tree.map(chosen, point)
    converged = chosen(minima.converged)[:, 0] & is_minimum(best.hessian[:, 0])
    apart = jnp.max(jnp.abs(point.x - best.x), axis=2) > APART
    others = jnp.where(apart & minima.converged & is_minimum(point.hessian), value, jnp.inf)
    index = jnp.argmin(others, axis=1)[:, None]
    excess = jnp.take_along_axis(others, index, axis=1)[:, 0] - lowest[:, 0]
    second = SecondMinimum(jnp.take_along_axis(point.x, index[:, :, None], axis=1)[:, 0], excess)
    return best, start, chosen(minima.iterations)[:, 0], converged, second


def information_inverse(best: Point, weighted: Point) -> tuple[Array, Array, Array]:
    """Covariance of the scaled labels, NaN for labels that are not determined, decrement, and whether some are not.

    ``weighted`` is the polynomial ``q . v`` at the labels: minus half the gradient of chi^2 is its gradient.
    """
    half, rest = 0.5 * best.hessian[:, 0], weighted.hessian[:, 0]
    information = half + rest
    kept = jnp.diagonal(information, axis1=1, axis2=2)
    terms = jnp.diagonal(jnp.abs(half) + jnp.abs(rest), axis1=1, axis2=2)
    scaled, root = normalized(information)
    finite = jnp.isfinite(scaled).all(axis=(1, 2))
    identity = jnp.eye(root.shape[1])
    values, vectors = jnp.linalg.eigh(jnp.where(finite[:, None, None], scaled, identity))
    lost = kept <= SINGULAR * terms
    empty = values <= SINGULAR * values[:, -1:]
    singular = ~finite | jnp.any(lost, axis=1) | empty[:, 0]
    inverse = jnp.einsum("nik,nk,njk->nij", vectors, jnp.where(empty, 0.0, 1 / jnp.where(empty, 1.0, values)), vectors)
    covariance = 0.5 * (inverse + inverse.swapaxes(1, 2)) / (root[:, :, None] * root[:, None, :])
    gradient = weighted.gradient[:, 0]
    decrement = jnp.einsum("nk,nkl,nl->n", gradient, covariance, gradient)
    # A label that takes part in a direction without information is not determined; the others are, as without it.
    open_labels = lost | (jnp.sum(jnp.where(empty[:, None], vectors**2, 0.0), axis=2) > OPEN) | ~finite[:, None]
    covariance = jnp.where(open_labels[:, :, None] | open_labels[:, None, :], jnp.nan, covariance)
    return covariance, jnp.where(singular, jnp.nan, decrement), singular
