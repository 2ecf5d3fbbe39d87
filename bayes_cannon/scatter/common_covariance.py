r"""Scatter whose covariance is the same for all stars, as `scatter.Full` and `scatter.Given` learn it.

Chi^2 stays one polynomial of the labels. With the Cholesky factor :math:`C = L L^T`, h = L^-1 y and H = L^-1 Theta,

.. math:: (y - \Theta v)^T C^{-1} (y - \Theta v) = |h - H v|^2

H is the same for every complete spectrum, so that such a star costs one product of its flux with L^-1. Where pixels are
missing the factor is that of the covariance of the others: their rows and columns are those of the identity, so that
shapes stay fixed, and their flux is that of the model. This is exact, and costs a factorization a star.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import cho_factor, cho_solve, cholesky, solve_triangular

from bayes_cannon.core.student_t import log_density
from bayes_cannon.core.typing import Array, PerStar, StarMoment, StarPixel
from bayes_cannon.scatter.base import Coefficients, LearnedScatter, NoiseParts, PartsOfStar, mean_quoted_variance
from bayes_cannon.scatter.label_tables import Chi2, LabelTables, Response, with_square
from bayes_cannon.training.problem import PixelProblem

MASKED_TOGETHER = 8
"""Number of spectra with missing pixels that run in one program, whose shapes stay fixed."""
solve_lower = jax.scipy.linalg.solve_triangular


@dataclass(frozen=True, eq=False)
class CommonCovariance(LearnedScatter):
    r"""Covariance :math:`U U^T + N (I - E E^T) N` of all stars, E being U over the noise N, normalized.

    Attributes
    ----------
    factors
        U in flux, shape (pixel, factor), the leading directions, of the length of their scatter: orthogonal in the
        metric of the noise, the strongest first, the largest number of each positive; zero at pixels without solution.
    noise
        N, the scatter across the factors, shape (pixel,): the mean quoted noise; NaN at pixels without solution.
    nu
        Degrees of freedom of the Student-t distribution along these directions; infinite where it is normal.
    floor
        Variance of the training residuals across the factors, in units of that noise.

    """

    factors: np.ndarray = field(metadata={"dims": ("pixel", "factor")})
    noise: np.ndarray = field(metadata={"dims": ("pixel",)})
    nu: float = np.inf
    floor: float = 1.0

    @property
    def rank(self) -> int:
        """Number of leading directions."""
        return self.factors.shape[1]

    @cached_property
    def covariance(self) -> np.ndarray:
        """The covariance, shape (pixel, pixel); pixels without solution have zero."""
        noise = np.where(np.isfinite(self.noise), self.noise, 0.0)
        scaled, variances = self._scaled
        root = scaled * np.sqrt(np.abs(variances - 1) / np.where(variances > 0, variances, 1.0))
        covariance = (root * np.sign(variances - 1)) @ root.T
        covariance[np.diag_indices_from(covariance)] += 1
        return covariance * noise[:, None] * noise

    @property
    def _scaled(self) -> tuple[np.ndarray, np.ndarray]:
        """U over the noise, and the variance along each direction."""
        known = np.isfinite(self.noise) & (self.noise > 0)
        scaled = self.factors / np.where(known, self.noise, 1.0)[:, None]
        return scaled, np.sum(scaled**2, axis=0)

    def check(self, n_pixels: int) -> None:
        """Raise ValueError unless it is the covariance of this number of pixels."""
        if len(self.factors) != n_pixels:
            raise ValueError(f"the scatter has factors of {len(self.factors)} pixels, theta has {n_pixels}")

    def log_likelihood(self, problem: PixelProblem, solution: Coefficients) -> np.ndarray:
        """As `LearnedScatter.log_likelihood`; ValueError if a star misses a pixel that has a solution."""
        residual, basis, variances, noise = self._along_directions(problem, solution)
        chi_squared = np.sum((residual @ basis) ** 2 / variances, axis=1)
        leading = log_density(chi_squared, np.log(variances).sum(), len(variances), self.nu)
        return leading + log_density_across(residual, basis, self.floor) - np.log(noise).sum()

    def star_precisions(self, problem: PixelProblem, solution: Coefficients) -> np.ndarray | None:
        """``(nu + q) / (nu + chi^2)`` along the q directions, over its mean; ValueError if a star misses a pixel."""
        if not np.isfinite(self.nu):
            return None
        residual, basis, variances, _ = self._along_directions(problem, solution)
        chi_squared = np.sum((residual @ basis) ** 2 / variances, axis=1)
        weight = (self.nu + len(variances)) / (self.nu + chi_squared)
        return weight / weight.mean()

    def _along_directions(
        self, problem: PixelProblem, solution: Coefficients
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Residuals over the noise at the solved pixels, leading directions, variances along them, and the noise."""
        solved = np.flatnonzero(np.isfinite(self.noise))
        check_complete(problem.ivar[:, solved], solved)
        noise = self.noise[solved]
        scaled = self.factors[solved] / noise[:, None]
        variances = (scaled**2).sum(axis=0)
        residual = (problem.flux[:, solved] - problem.design @ solution.theta[solved].T) / noise
        return residual, scaled / np.sqrt(variances), variances, noise

    def latent_factors(self, problem: PixelProblem, solution: Coefficients) -> np.ndarray:
        """Coordinates along the leading directions, each of unit variance: ``U' C^-1 (y - Theta v)``."""
        theta = solution.theta
        used = (problem.ivar > 0) & np.isfinite(theta).all(axis=1)
        residual = np.where(used, np.nan_to_num(problem.flux) - problem.design @ np.nan_to_num(theta).T, 0.0)
        out = np.zeros((len(used), self.rank))
        masks, which = np.unique(used, axis=0, return_inverse=True)
        for k, mask in enumerate(masks):
            rows, pixels = np.flatnonzero(which == k), np.flatnonzero(mask)
            if not len(pixels):
                continue  # Without a spectrum the mean is that of all stars, zero.
            part = cho_solve(cho_factor(self.covariance[np.ix_(pixels, pixels)]), self.factors[pixels])
            out[rows] = residual[np.ix_(rows, pixels)] @ part
        return out

    def marginal_variance(self, problem: PixelProblem, s2: np.ndarray) -> np.ndarray:
        """What the diagonal has beyond the mean quoted noise, at least zero."""
        noise2 = np.where(np.isfinite(self.noise), self.noise, 1.0) ** 2
        _, variances = self._scaled
        safe = np.where(variances > 0, variances, 1.0)
        along = self.factors**2 @ np.where(variances > 0, 1.0 - 1.0 / safe, 0.0)
        beyond = noise2 + along - mean_quoted_variance(problem.ivar)
        return np.where(np.isfinite(s2), np.maximum(beyond, 0.0), s2)

    def total_variance(self, s2: np.ndarray, ivar: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """The diagonal, whatever the ivar: the quoted noise is part of it."""
        return np.broadcast_to(np.diagonal(self.covariance)[pixels], ivar.shape)

    def variance_shares(self, s2: np.ndarray) -> np.ndarray:
        """As `LearnedScatter.variance_shares`, of the trace of the covariance."""
        return np.sum(self.factors[np.isfinite(s2)] ** 2, axis=0) / np.trace(self.covariance)

    def label_tables(self, response: Response) -> "CovarianceTables":
        """As `LearnedScatter.label_tables`; ValueError if the covariance is not positive definite."""
        return CovarianceTables.from_covariance(self.covariance, response, self.rank)

    def split_theta_covariance(self, covariance: np.ndarray, gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels share all of it."""
        return np.zeros_like(covariance), np.linalg.pinv(gram, hermitian=True)

    def noise_parts(self, s2: np.ndarray) -> PartsOfStar:
        """As `LearnedScatter.noise_parts`: photon noise is what is no more than the noise N, correlated the rest."""
        noise = np.where(np.isfinite(self.noise), self.noise, 0.0)
        scaled, variances = self._scaled
        basis = scaled / np.sqrt(np.where(variances > 0, variances, 1.0))
        beyond = (basis * np.maximum(variances - 1, 0.0)) @ basis.T * np.outer(noise, noise)
        photon = self.covariance - beyond
        last: list[DenseParts] = []

        def parts(used: np.ndarray, ivar: np.ndarray, of_theta: np.ndarray, h: float) -> NoiseParts:
            if not last or not np.array_equal(last[0].used, used):  # Stars that miss no pixel share one factor.
                at = np.ix_(used, used)
                factor = cho_factor(photon[at] + beyond[at])
                last[:] = [DenseParts(used, photon[at], beyond[at], factor, self.rank, h)]
            return replace(last[0], h=h)

        return parts


@dataclass(frozen=True)
class DenseParts(NoiseParts):
    """A full covariance, ``photon + beyond``, which the errors of theta multiply by 1 + h."""

    used: np.ndarray
    photon: np.ndarray
    beyond: np.ndarray
    factor: tuple[np.ndarray, bool]
    rank: int
    h: float

    def solved(self, right: np.ndarray) -> np.ndarray:
        """As `NoiseParts.solved`."""
        return cho_solve(self.factor, right) / (1.0 + self.h)

    def weights(self) -> tuple[np.ndarray, float]:
        """As `NoiseParts.weights`; no pixel's theta has errors of its own, so that the diagonal does not matter."""
        return np.zeros(len(self.photon)), min(len(self.photon), self.rank) / (1.0 + self.h)

    def variances(self, gain: np.ndarray) -> np.ndarray:
        """As `NoiseParts.variances`."""
        photon, beyond = (np.einsum("kp,kp->k", gain @ part, gain) for part in (self.photon, self.beyond))
        return np.stack([photon, np.zeros_like(photon), beyond, self.h * (photon + beyond)])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CovarianceTables(LabelTables):
    """Tables of the covariance. Make it with `from_covariance`.

    Attributes
    ----------
    covariance
        C, shape (pixel, pixel); that of the identity at pixels without solution.
    whitening
        ``L^-1``, shape (pixel, pixel).
    whitened
        ``L^-1`` times the coefficients, with zero for the constant, shape (pixel, term).
    solved
        Whether a pixel has a solution, shape (pixel,).
    n_leading
        Number of directions whose variance was learned: what counts as pixels for the tails.

    """

    covariance: Array
    whitening: Array
    whitened: Array
    solved: Array
    n_leading: Array | int

    @classmethod
    def from_covariance(cls, covariance: np.ndarray, response: Response, n_leading: int) -> "CovarianceTables":
        """Tables of C, shape (pixel, pixel).

        Raises ValueError if C is not positive definite at the pixels with a solution.
        """
        solved = np.asarray(response.solved)
        known = np.where(np.outer(solved, solved), covariance, np.eye(len(solved)))
        try:
            root = cholesky(known, lower=True)
        except np.linalg.LinAlgError as error:
            raise ValueError(
                "the covariance of the scatter is not positive definite: train again, with a larger shrinkage"
            ) from error
        whitening = solve_triangular(root, np.eye(len(solved)), lower=True)
        return cls(known, whitening, whitening @ np.asarray(response.theta), solved, n_leading)

    def chi_squared(self, response: Response, w: StarPixel, y: StarPixel, growth: PerStar) -> Chi2:
        """As `LabelTables.chi_squared`; of the weights only counts which are zero. The root is the growth."""
        used = np.asarray(w) > 0
        out = np.array(_complete_chi_squared(self, response, y))
        for rows in self._masked(used):
            out[rows] = _masked_chi_squared(self, response, used[rows], np.asarray(y)[rows])
        return Chi2(out / np.asarray(growth)[:, None], growth)

    def grown(self, response: Response, before: Chi2, w: StarPixel, y: StarPixel, growth: PerStar) -> Chi2:
        """The covariance grows as a whole, so that nothing is factored again."""
        return Chi2(before.coefficients / growth[:, None], growth)

    def compare(self, root: PerStar, w: StarPixel, residual: StarPixel) -> tuple[PerStar, StarPixel]:
        """As `LabelTables.compare`, over the pixels with a weight."""
        used = np.asarray(w) > 0
        residual = np.where(used, residual, 0.0)
        weighted = np.array(_complete_solution(self, residual))
        for rows in self._masked(used):
            weighted[rows] = _masked_solution(self, used[rows], residual[rows])
        weighted /= np.asarray(root)[:, None]
        return np.einsum("np,np->n", weighted, residual), weighted

    def n_tail(self, used: Array) -> Array:
        """At most the number of leading directions."""
        return jnp.minimum(used, self.n_leading)

    def theta_weights(self, w: StarPixel, growth: PerStar, used: Array) -> tuple[StarPixel, PerStar]:
        """As `LabelTables.theta_weights`: all of it is shared, and S is C."""
        return jnp.zeros_like(w), self.n_tail(used) / growth

    def _masked(self, used: np.ndarray) -> Iterator[np.ndarray]:
        """Stars that miss some pixels but not all, a fixed number at a time, the last repeated."""
        stars = np.flatnonzero((used != np.asarray(self.solved)).any(axis=1) & used.any(axis=1))
        for first in range(0, len(stars), MASKED_TOGETHER):
            part = stars[first : first + MASKED_TOGETHER]
            yield np.pad(part, (0, MASKED_TOGETHER - len(part)), mode="edge")


@jax.jit
def _complete_chi_squared(tables: CovarianceTables, response: Response, y: StarPixel) -> StarMoment:
    h = y @ tables.whitening.T
    squares = jnp.broadcast_to(tables.whitened.T @ tables.whitened, (len(y), *response.pairs.shape))
    zero = jnp.zeros((len(y), len(response.products)))
    return with_square(zero, response, jnp.einsum("np,np->n", h, h), h @ tables.whitened, squares)


@jax.jit
def _masked_chi_squared(tables: CovarianceTables, response: Response, used: Array, y: StarPixel) -> StarMoment:
    def one(star: tuple[Array, Array]) -> tuple[Array, Array, Array]:
        used, y = star
        right = jnp.column_stack([y, jnp.where(used[:, None], response.theta, 0.0)])
        half = solve_lower(_masked_root(tables, used), right, lower=True)
        h, of_terms = half[:, 0], half[:, 1:]
        return jnp.dot(h, h), h @ of_terms, of_terms.T @ of_terms

    zero = jnp.zeros((len(y), len(response.products)))
    return with_square(zero, response, *jax.lax.map(one, (used, y)))


@jax.jit
def _complete_solution(tables: CovarianceTables, residual: StarPixel) -> Array:
    return residual @ tables.whitening.T @ tables.whitening


@jax.jit
def _masked_solution(tables: CovarianceTables, used: Array, residual: StarPixel) -> Array:
    def one(star: tuple[Array, Array]) -> jax.Array:
        root = _masked_root(tables, star[0])
        return solve_lower(root, solve_lower(root, star[1], lower=True), lower=True, trans=1)

    return jax.lax.map(one, (used, residual))


def _masked_root(tables: CovarianceTables, used: Array) -> jax.Array:
    """Cholesky factor for one star, of the covariance of its used pixels, the others' being the identity."""
    both = used[:, None] & used[None, :]
    return jnp.linalg.cholesky(jnp.where(both, tables.covariance, jnp.eye(len(used))))


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
