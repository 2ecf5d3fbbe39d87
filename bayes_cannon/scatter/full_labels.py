r"""The test step with a full covariance C, the same for all stars: chi^2 stays one polynomial of the labels.

With the Cholesky factor :math:`C = L L^T`, h = L^-1 y and H = L^-1 Theta,

.. math:: (y - \Theta v)^T C^{-1} (y - \Theta v) = |h - H v|^2

H is the same for every complete spectrum, so that such a star costs one product of its flux with L^-1. Where pixels are
missing the factor is that of the covariance of the others: their rows and columns are those of the identity, so that
shapes stay fixed, and their flux is that of the model. This is exact, and costs a factorization a star.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import cho_factor, cho_solve, cholesky, solve_triangular

from bayes_cannon.core.typing import Array, PerStar, StarMoment, StarPixel
from bayes_cannon.scatter.low_rank import student_t
from bayes_cannon.scatter.low_rank_labels import with_square
from bayes_cannon.scatter.settings import Correlation

MASKED_TOGETHER = 8
"""So many spectra with missing pixels run in one program, whose shapes stay fixed."""
solve_lower = jax.scipy.linalg.solve_triangular


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SharedCovariance:
    """Tables of the covariance. Make it with `from_arrays`.

    Attributes
    ----------
    covariance
        C, shape (pixel, pixel); that of the identity at pixels without solution.
    whitening
        ``L^-1``, shape (pixel, pixel).
    slopes, whitened
        Coefficients with zero for the constant, and L^-1 times them, shape (pixel, term).
    solved
        Which pixels have a solution, shape (pixel,).
    n_leading
        Number of directions whose variance was learned: what counts as pixels for the tails.
    pairs
        Index of the moment that two terms multiply to, shape (term, term).
    terms
        Index of the moment that equals each term, shape (term,).

    """

    covariance: Array
    whitening: Array
    slopes: Array
    whitened: Array
    solved: Array
    n_leading: Array | int
    pairs: Array
    terms: Array

    @classmethod
    def from_arrays(
        cls,
        covariance: np.ndarray,
        slopes: np.ndarray,
        solved: np.ndarray,
        n_leading: int,
        pairs: np.ndarray,
        terms: np.ndarray,
    ) -> "SharedCovariance":
        """Tables of C, shape (pixel, pixel), and the coefficients with zero for the constant, (pixel, term).

        Raises ValueError if C is not positive definite at the solved pixels.
        """
        known = np.where(np.outer(solved, solved), covariance, np.eye(len(solved)))
        try:
            root = cholesky(known, lower=True)
        except np.linalg.LinAlgError as error:
            raise ValueError(
                "the covariance of the scatter is not positive definite: train again, with a larger shrinkage"
            ) from error
        whitening = solve_triangular(root, np.eye(len(solved)), lower=True)
        return cls(known, whitening, slopes, whitening @ slopes, solved, n_leading, pairs, terms)

    def coefficients(self, w: StarPixel, y: StarPixel, coefficients: StarMoment) -> tuple[StarMoment, None]:
        """Coefficients of chi^2; takes the flux above the constant term, and uses the pixels with a weight."""
        used = np.asarray(w) > 0
        out = np.array(_complete_coefficients(self, y, coefficients))
        for rows in self._masked(used):
            some = _masked_coefficients(self, used[rows], np.asarray(y)[rows], np.asarray(coefficients)[rows])
            out[rows] = some
        return out, None

    def compare(self, root: None, w: StarPixel, residual: StarPixel) -> tuple[PerStar, StarPixel]:
        """``r' C^-1 r``, shape (star,), and ``C^-1 r``, over the pixels with a weight."""
        used = np.asarray(w) > 0
        residual = np.where(used, residual, 0.0)
        weighted = np.array(_complete_solution(self, residual))
        for rows in self._masked(used):
            weighted[rows] = _masked_solution(self, used[rows], residual[rows])
        return np.einsum("np,np->n", weighted, residual), weighted

    def n_tail(self, used: Array) -> Array:
        """Number of coordinates that set the scale of each star, shape (star,)."""
        return jnp.minimum(used, self.n_leading)

    def _masked(self, used: np.ndarray) -> Iterator[np.ndarray]:
        """Stars that miss some pixels but not all, a fixed number at a time, the last repeated."""
        stars = np.flatnonzero((used != np.asarray(self.solved)).any(axis=1) & used.any(axis=1))
        for first in range(0, len(stars), MASKED_TOGETHER):
            part = stars[first : first + MASKED_TOGETHER]
            yield np.pad(part, (0, MASKED_TOGETHER - len(part)), mode="edge")


@jax.jit
def _complete_coefficients(shared: SharedCovariance, y: StarPixel, coefficients: StarMoment) -> StarMoment:
    h = y @ shared.whitening.T
    squares = jnp.broadcast_to(shared.whitened.T @ shared.whitened, (len(y), *shared.pairs.shape))
    return with_square(
        jnp.zeros_like(coefficients),
        shared.pairs,
        shared.terms,
        jnp.einsum("np,np->n", h, h),
        h @ shared.whitened,
        squares,
    )


@jax.jit
def _masked_coefficients(shared: SharedCovariance, used: Array, y: StarPixel, coefficients: StarMoment) -> StarMoment:
    def one(star: tuple[Array, Array]) -> tuple[Array, Array, Array]:
        used, y = star
        right = jnp.column_stack([y, jnp.where(used[:, None], shared.slopes, 0.0)])
        half = solve_lower(_masked_root(shared, used), right, lower=True)
        h, of_terms = half[:, 0], half[:, 1:]
        return jnp.dot(h, h), h @ of_terms, of_terms.T @ of_terms

    return with_square(jnp.zeros_like(coefficients), shared.pairs, shared.terms, *jax.lax.map(one, (used, y)))


@jax.jit
def _complete_solution(shared: SharedCovariance, residual: StarPixel) -> Array:
    return residual @ shared.whitening.T @ shared.whitening


@jax.jit
def _masked_solution(shared: SharedCovariance, used: Array, residual: StarPixel) -> Array:
    def one(star: tuple[Array, Array]) -> jax.Array:
        root = _masked_root(shared, star[0])
        return solve_lower(root, solve_lower(root, star[1], lower=True), lower=True, trans=1)

    return jax.lax.map(one, (used, residual))


def _masked_root(shared: SharedCovariance, used: Array) -> jax.Array:
    """Cholesky factor for one star, of the covariance of its used pixels, the others' being the identity."""
    both = used[:, None] & used[None, :]
    return jnp.linalg.cholesky(jnp.where(both, shared.covariance, jnp.eye(len(used))))


def posterior_coordinates(
    design: np.ndarray, flux: np.ndarray, ivar: np.ndarray, *, theta: np.ndarray, correlation: Correlation
) -> np.ndarray:
    """Mean of each star's coordinates along the leading directions, ``U' C^-1 (y - Theta v)``, shape (star, factor).

    Parameters
    ----------
    design
        Terms of the stars, shape (star, term).
    flux, ivar
        Shape (star, pixel).
    theta, correlation
        The model, theta of shape (pixel, term). Pixels without a solution take no part.

    """
    used = (ivar > 0) & np.isfinite(theta).all(axis=1)
    residual = np.where(used, np.nan_to_num(flux) - design @ np.nan_to_num(theta).T, 0.0)
    covariance, out = correlation.covariance, np.zeros((len(flux), correlation.rank))
    masks, which = np.unique(used, axis=0, return_inverse=True)
    for k, mask in enumerate(masks):
        rows, pixels = np.flatnonzero(which == k), np.flatnonzero(mask)
        part = cho_solve(cho_factor(covariance[np.ix_(pixels, pixels)]), correlation.factors[pixels])
        out[rows] = residual[np.ix_(rows, pixels)] @ part
    return out


def log_likelihoods_full(
    design: np.ndarray, flux: np.ndarray, ivar: np.ndarray, *, theta: np.ndarray, correlation: Correlation
) -> np.ndarray:
    """Log density of each star's spectrum given its labels, shape (star,).

    Parameters
    ----------
    design
        Terms of the stars, shape (star, term).
    flux, ivar
        Shape (star, pixel), complete in the pixels that have a solution.
    theta, correlation
        The model.

    Raises
    ------
    ValueError
        If a star misses a pixel.

    """
    residual, basis, variances, noise = _along_directions(design, flux, ivar, theta, correlation)
    chi_squared = np.sum((residual @ basis) ** 2 / variances, axis=1)
    leading = student_t(chi_squared, np.log(variances).sum(), len(variances), correlation.nu)
    return leading + log_density_across(residual, basis, correlation.floor) - np.log(noise).sum()


def posterior_precisions_full(
    design: np.ndarray, flux: np.ndarray, ivar: np.ndarray, *, theta: np.ndarray, correlation: Correlation
) -> np.ndarray:
    """Weight u of each star, shape (star,), one on average; parameters and errors as for `log_likelihoods_full`."""
    residual, basis, variances, _ = _along_directions(design, flux, ivar, theta, correlation)
    weight = (correlation.nu + len(variances)) / (correlation.nu + np.sum((residual @ basis) ** 2 / variances, axis=1))
    return weight / weight.mean()


def _along_directions(
    design: np.ndarray, flux: np.ndarray, ivar: np.ndarray, theta: np.ndarray, correlation: Correlation
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Residuals over the noise at the solved pixels, leading directions, variances along them, and the noise."""
    noise = correlation.noise
    if noise is None:
        raise ValueError("the correlation is not a full covariance: it has no noise")
    solved = np.flatnonzero(np.isfinite(noise))
    check_complete(ivar[:, solved], solved)
    scaled = correlation.factors[solved] / noise[solved, None]
    variances = (scaled**2).sum(axis=0)
    residual = (flux[:, solved] - design @ theta[solved].T) / noise[solved]
    return residual, scaled / np.sqrt(variances), variances, noise[solved]


def log_density_across(residual: np.ndarray, basis: np.ndarray, floor: float) -> np.ndarray:
    """Normal log density across the leading directions, of this variance in each, shape (star,)."""
    n_others = basis.shape[0] - basis.shape[1]
    if not n_others:
        return np.zeros(len(residual))
    return -0.5 * (outside(residual, basis) / floor + n_others * np.log(2 * np.pi * floor))


def outside(residual: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Squared length across the leading directions, shape (star,)."""
    return np.sum(residual**2, axis=1) - np.sum((residual @ basis) ** 2, axis=1)


def check_complete(ivar: np.ndarray, pixels: np.ndarray) -> None:
    """Raise ValueError, naming the first, if a star has no ivar, shape (star, pixel), at one of these pixels."""
    lost = ivar <= 0
    if lost.any():
        star, pixel = np.argwhere(lost)[0]
        raise ValueError(
            f"a full covariance is learned from complete spectra, but {lost.sum()} pixels of {lost.any(axis=1).sum()} "
            f"stars have no ivar, the first is pixel {pixels[pixel]} of star {star}: leave those stars or pixels out, "
            "or use scatter.LowRank"
        )
