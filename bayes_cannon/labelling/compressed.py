r"""Compressed spectra: chi^2 of a star as one polynomial in its labels, and the fit of a batch of stars with it.

With theta and s^2 fixed, chi^2 of a star is exactly one polynomial in its scaled labels,

.. math:: \chi^2(x) = \sum_j w_j \left[ y_j - v(x) \cdot \theta_j \right]^2 = \sum_m c_m \mu_m(x),
          \qquad w_j = \frac{\mathrm{ivar}_j}{1 + \mathrm{ivar}_j s_j^2}

over the moments :math:`\mu_m` (`core.moments`). The coefficients c of all stars are products of the weights with tables
that are made once from theta, so that the pixels are read once and the search for the minimum never touches them. The
constant term of theta is taken from the flux before, which spares two digits of cancellation.

At the minimum the residuals are computed once more, and with them chi^2, its gradient and the Fisher information.
The latter needs no further pass over the pixels: with :math:`q_d = \sum_j w_j r_j \theta_{jd}`,

.. math:: F_{kl} = \sum_j w_j\, \partial_k f_j\, \partial_l f_j
                 = \tfrac12 \partial_k \partial_l \chi^2 + \sum_d q_d\, \partial_k \partial_l v_d
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayes_cannon.core.likelihood import weights
from bayes_cannon.core.moments import MomentBasis
from bayes_cannon.core.status import StarStatus
from bayes_cannon.core.typing import Array, StarLabel, StarMoment, StarPixel, StarTerm
from bayes_cannon.core.vectorizer import label_factors
from bayes_cannon.labelling.polynomial import Minima, Point, Polynomials, is_minimum, minimize, normalized
from bayes_cannon.labelling.starts import LabelSpace, search_starts
from bayes_cannon.scatter.full_labels import SharedCovariance
from bayes_cannon.scatter.low_rank_labels import SharedScatter
from bayes_cannon.scatter.settings import Correlation

PRODUCT_DTYPE = np.float64
"""Precision of the one large matrix product, of the weights with the products of theta; all else is float64.

Measured in float32: a fit takes a quarter less time with 17 labels and none less with five; its labels are off by up to
1e-5 and 3e-4 of their errors. It would need a correction over the pixels at the end.
"""

PIXELS_IN_CACHE = 256
"""The table of products is made for so many pixels at a time."""

STARS_IN_CACHE = 8
"""So many stars are searched together on a CPU: their Hessians stay in the cache, and few wait for the slowest."""

RANGE_SLACK = 1e-9
"""Scaled labels beyond the training range by no more than this are roundoff, not extrapolation."""

CERTIFIED = 1e-9
"""A star whose decrement exceeds this times ``1 + chi^2`` is not called converged."""

SINGULAR = 1e-12
"""The information is singular below this, relative: its smallest eigenvalue, or what cancellation left of a label's."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainedPixels:
    """What the test step needs of a trained model, as arrays. Make it with `from_arrays`.

    Attributes
    ----------
    constant, slopes, s2
        Constant coefficient (pixel,), all of them with zero in the place of the constant one (pixel, term), and
        variance of the scatter (pixel,); zero at pixels without solution. Apart, because a column of a table is read
        five times slower than a vector.
    solved
        Whether a pixel has a solution, shape (pixel,).
    products
        Coefficients that a unit weight at a pixel adds to chi^2 for zero flux, without theta_0, shape (moment, pixel).
    term_moments
        Index of the moment that equals each term, shape (term,).
    term_labels
        The labels whose product is a term, shape (term, degree), filled up with the number of labels.
    space
        `LabelSpace` of the model.
    shared
        What correlates the pixels, or None where the scatter is independent.
    nu
        Degrees of freedom of the tails; infinite for normal ones.

    """

    constant: Array
    slopes: Array
    s2: Array
    solved: Array
    products: Array
    term_moments: Array
    term_labels: Array
    space: LabelSpace
    shared: SharedScatter | SharedCovariance | None = None
    nu: Array | float = np.inf

    @classmethod
    def from_arrays(
        cls,
        theta: np.ndarray,
        s2: np.ndarray,
        exponents: np.ndarray,
        x: np.ndarray,
        correlation: Correlation | None = None,
    ) -> "TrainedPixels":
        """Tables of a trained model.

        Parameters
        ----------
        theta, s2
            Coefficients (pixel, term) and variance of the scatter (pixel,); not finite at pixels without solution.
        exponents
            Powers of the labels in each term, shape (term, label).
        x
            Scaled training labels, shape (star, label).
        correlation
            Of the scatter between pixels; none by default.

        """
        solved = np.isfinite(theta).all(axis=1) & np.isfinite(s2)
        theta, s2 = np.where(solved[:, None], theta, 0.0), np.where(solved, s2, 0.0)
        basis = MomentBasis.from_terms(exponents)
        space = LabelSpace.from_training(exponents, x)
        slopes = theta.copy()
        slopes[:, 0] = 0.0
        shared: SharedScatter | SharedCovariance | None = None
        if correlation is not None and correlation.noise is None:
            shared = SharedScatter.from_arrays(correlation.factors, slopes, basis.pairs, basis.terms)
        elif correlation is not None:
            tables = correlation.covariance, slopes, solved, correlation.rank, basis.pairs, basis.terms
            shared = SharedCovariance.from_arrays(*tables)
        nu = np.inf if correlation is None else correlation.nu
        host = cls(
            theta[:, 0].copy(), slopes, s2, solved, _products(slopes, basis), basis.terms, label_factors(exponents),
            space, shared, nu,
        )  # fmt: skip
        with jax.enable_x64(True):
            return jax.device_put(host)


def _products(slopes: np.ndarray, basis: MomentBasis) -> np.ndarray:
    products = np.zeros((basis.n_moments, len(slopes)), PRODUCT_DTYPE)
    for first in range(0, len(slopes), PIXELS_IN_CACHE):
        pixels = slice(first, first + PIXELS_IN_CACHE)
        block = np.ascontiguousarray(slopes[pixels].T)
        sums = np.zeros((basis.n_moments, block.shape[1]))
        for d in range(1, len(block)):
            twice = 2 * block[d] * block[1 : d + 1]
            twice[-1] *= 0.5
            # Products of one term with different others are different moments, so that none is added twice.
            sums[basis.pairs[d, 1 : d + 1]] += twice
        products[:, pixels] = sums
    return products


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BatchFit:
    """Fit of a batch of stars in scaled labels; the fields are those of `labelling.fit.LabelFit` but for these.

    Attributes
    ----------
    x
        Scaled labels, shape (star, label), numbers even where the status says that there is no solution.
    used
        Number of used pixels.
    significance
        Flux over its error, shape (star, pixel); infinite at pixels that are not used, so that a partition puts them
        last.
    faulty
        Whether a star has an ivar that is negative or not finite, or a flux that is not finite where ivar is positive.

    """

    x: Array
    covariance: Array
    chi_squared: Array
    decrement: Array
    used: Array
    significance: Array
    status: Array
    iterations: Array
    start: Array
    faulty: Array
    scale: Array


class Compressed(NamedTuple):
    """A batch of spectra: weights, flux above the constant term, coefficients of chi^2 over the moments (star, moment).

    Then what compares correlated pixels, flux over error, used pixels, those that set the tails' scale, and bad input.
    """

    w: Array
    y: Array
    coefficients: Array
    root: Any
    significance: Array
    used: Array
    n_tail: Array
    faulty: Array


def fit_batch(pixels: TrainedPixels, flux: np.ndarray, ivar: np.ndarray, starts: np.ndarray) -> BatchFit:
    """Fit of the stars with these spectra (star, pixel) and further starts in scaled labels (star, start, label).

    Must be called with float64 enabled. Each part is compiled once for each shape; the model is data. The parts that
    touch pixels are apart, so that another number of pixels does not compile the search again.
    """
    w, y, coefficients, root, significance, used, count, faulty = compressed_batch(pixels, flux, ivar)
    together = STARS_IN_CACHE if jax.default_backend() == "cpu" else len(flux)
    best, start, iterations, converged = search(pixels.space, coefficients, starts, together)
    chi_squared, score = compare(pixels, root, w, y, best.x)
    x, covariance, decrement, status, scale = judge(
        pixels.space, pixels.nu, best, score, chi_squared, converged, used, count
    )
    return BatchFit(x, covariance, chi_squared, decrement, used, significance, status, iterations, start, faulty, scale)


def compressed_batch(pixels: TrainedPixels, flux: np.ndarray, ivar: np.ndarray) -> Compressed:
    """The spectra (star, pixel) as polynomials. Must be called with float64 enabled."""
    w, y, coefficients, significance, used, faulty = _compress(pixels, flux, ivar)
    if pixels.shared is None:
        return Compressed(w, y, coefficients, None, significance, used, used, faulty)
    coefficients, root = pixels.shared.coefficients(w, y, coefficients)
    return Compressed(w, y, coefficients, root, significance, used, pixels.shared.n_tail(used), faulty)


@jax.jit
def _compress(pixels: TrainedPixels, flux: Array, ivar: Array) -> tuple[Array, ...]:
    """Weights and flux above the constant term, coefficients of chi^2, flux over error, used pixels, bad input."""
    faulty = _count(~((ivar >= 0) & (ivar < jnp.inf)) | ((ivar > 0) & ~jnp.isfinite(flux))) > 0
    used = (ivar > 0) & pixels.solved & ~faulty[:, None]
    y, ivar = (jnp.where(used, array, 0.0).astype(jnp.float64) for array in (flux, ivar))
    # Of flux that is one, or a logarithm: the flux itself is no part of it, because a logarithm may have any sign.
    significance = jnp.where(used, jnp.sqrt(ivar.astype(jnp.float32)), jnp.inf)
    w = weights(ivar, pixels.s2)
    above = jnp.where(used, y - pixels.constant, 0.0)
    return w, above, chi_squared_coefficients(pixels, w, above), significance, _count(used), faulty


def _count(mask: Array) -> Array:
    """How often each row of the mask is true, below 2^24: a product takes half the time of a sum, or of ``any``."""
    return (mask.astype(jnp.float32) @ jnp.ones(mask.shape[1], jnp.float32)).astype(jnp.int32)


@partial(jax.jit, static_argnames="together")
def search(space: LabelSpace, coefficients: Array, starts: Array, together: int) -> tuple[Point, Array, Array, Array]:
    """Lowest minimum of each star from all its starts; so many stars ``together``, one group after the other."""
    n_stars = len(coefficients)
    starts = jnp.concatenate([search_starts(space, coefficients), starts], axis=1)

    def grouped(array: Array) -> Array:
        filled = jnp.pad(array, [(0, -n_stars % together), *[(0, 0)] * (array.ndim - 1)])
        return filled.reshape(-1, together, *array.shape[1:])

    def lowest(group: tuple[Array, Array]) -> tuple[Point, Array, Array, Array]:
        polynomials = Polynomials.from_coefficients(space.moment_tables, group[0])
        return _lowest(minimize(polynomials, group[1]))

    found = jax.lax.map(lowest, (grouped(coefficients), grouped(starts)))
    return jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:])[:n_stars], found)


def compare(pixels: TrainedPixels, root: Any, w: Array, y: Array, x: Array) -> tuple[Array, Array]:
    """chi^2 over the pixels, and ``sum_j (C^-1 r)_j theta_jd``, shape (star, term), with zero for the constant."""
    if pixels.shared is None:
        return _independent_comparison(pixels, w, y, x)
    residual = _residual(pixels, y, x)
    chi_squared, weighted = pixels.shared.compare(root, w, residual)
    return chi_squared, weighted @ pixels.slopes


@jax.jit
def _independent_comparison(pixels: TrainedPixels, w: Array, y: Array, x: Array) -> tuple[Array, Array]:
    residual = _residual(pixels, y, x)
    weighted = jax.lax.optimization_barrier(w * residual)
    return _row_products(weighted, residual), weighted @ pixels.slopes


@jax.jit
def _residual(pixels: TrainedPixels, y: Array, x: Array) -> Array:
    return y - _terms(pixels, x[:, 0]) @ pixels.slopes.T


@jax.jit
def tail_scale(nu: Array, chi_squared: Array, used: Array, n_labels: int) -> Array:
    """Posterior variance scale of each star, ``(nu + chi^2) / (nu + P - K)``; one for normal tails."""
    finite = jnp.isfinite(nu)
    safe = jnp.where(finite, nu, 1.0)
    freedom = jnp.maximum(safe + used - n_labels, 1.0)
    return jnp.where(finite, (safe + chi_squared) / freedom, 1.0)


@jax.jit
def judge(
    space: LabelSpace,
    nu: Array,
    best: Point,
    score: Array,
    chi_squared: Array,
    converged: Array,
    used: Array,
    n_tail: Array,
) -> tuple[Array, Array, Array, Array, Array]:
    """Scaled labels, covariance, decrement, status and variance scale of each star at its minimum."""
    x = best.x[:, 0]
    weighted = Polynomials.from_coefficients(space.term_tables, score)(best.x)
    covariance, decrement, singular = information_inverse(best, weighted)
    status = status_of(space, x, chi_squared, decrement, converged, singular, used)
    scale = tail_scale(nu, chi_squared, n_tail, x.shape[1])
    return x, scale[:, None, None] * covariance, decrement, status, scale


@jax.jit
def status_of(
    space: LabelSpace, x: Array, chi_squared: Array, decrement: Array, converged: Array, singular: Array, used: Array
) -> Array:
    """Status of each star with the scaled labels x, shape (star, label)."""
    converged = converged & ~(decrement > CERTIFIED * (1 + chi_squared))
    outside = jnp.any((x < space.low - RANGE_SLACK) | (x > space.high + RANGE_SLACK), axis=1)
    return jnp.select(
        [used == 0, used < x.shape[1], ~converged, singular, outside],
        [
            StarStatus.NO_INFORMATION, StarStatus.TOO_FEW_PIXELS, StarStatus.MAX_ITERATIONS,
            StarStatus.SINGULAR, StarStatus.OUTSIDE_TRAINING_SET,
        ],
        StarStatus.CONVERGED,
    )  # fmt: skip


def chi_squared_coefficients(pixels: TrainedPixels, w: StarPixel, y: StarPixel) -> StarMoment:
    """Coefficients of chi^2 over the moments of the scaled labels, shape (star, moment).

    Takes the weights w and the flux above the constant term y, both (star, pixel) and zero in pixels not used.
    """
    dtype = pixels.products.dtype
    coefficients = jnp.einsum("np,mp->nm", w.astype(dtype), pixels.products).astype(w.dtype)
    weighted = jax.lax.optimization_barrier(w * y)
    coefficients = coefficients.at[:, pixels.term_moments].add(-2 * (weighted @ pixels.slopes))
    return coefficients.at[:, pixels.term_moments[0]].add(_row_products(weighted, y))


def _row_products(a: StarPixel, b: StarPixel) -> Array:
    """Sum of a times b over the pixels, shape (star,).

    Of two finished arrays this takes a third of the time of a sum that computes what it adds, one number at a time.
    """
    return jnp.einsum("np,np->n", a, b)


def _terms(pixels: TrainedPixels, x: StarLabel) -> StarTerm:
    padded = jnp.concatenate([x, jnp.ones_like(x[:, :1])], axis=1)
    return jnp.prod(padded[:, pixels.term_labels], axis=-1)


def _lowest(minima: Minima) -> tuple[Point, Array, Array, Array]:
    """The lowest minimum of each star as a single start, which start it was, its iterations, whether it is one."""
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
    return best, start, chosen(minima.iterations)[:, 0], converged


def information_inverse(best: Point, weighted: Point) -> tuple[Array, Array, Array]:
    """Covariance of the scaled labels, decrement, and whether the information is singular.

    ``weighted`` is the polynomial ``q . v`` at the labels: minus half the gradient of chi^2 is its gradient.
    """
    half, bend = 0.5 * best.hessian[:, 0], weighted.hessian[:, 0]
    information = half + bend
    kept = jnp.diagonal(information, axis1=1, axis2=2)
    terms = jnp.diagonal(jnp.abs(half) + jnp.abs(bend), axis1=1, axis2=2)
    scaled, root = normalized(information)
    finite = jnp.isfinite(scaled).all(axis=(1, 2))
    identity = jnp.eye(root.shape[1])
    values, vectors = jnp.linalg.eigh(jnp.where(finite[:, None, None], scaled, identity))
    singular = ~finite | jnp.any(kept <= SINGULAR * terms, axis=1) | (values[:, 0] <= SINGULAR * values[:, -1])
    inverse = jnp.einsum("nik,nk,njk->nij", vectors, 1 / jnp.where(singular[:, None], 1.0, values), vectors)
    covariance = 0.5 * (inverse + inverse.swapaxes(1, 2)) / (root[:, :, None] * root[:, None, :])
    covariance = jnp.where(singular[:, None, None], jnp.nan, covariance)
    gradient = weighted.gradient[:, 0]
    return covariance, jnp.einsum("nk,nkl,nl->n", gradient, covariance, gradient), singular
