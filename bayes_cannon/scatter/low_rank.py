r"""Scatter of low rank plus a diagonal, ``U U' + diag(s^2)``: a few latent factors a star that all pixels share.

Training is in `scatter.low_rank_training`. The covariance of a star is :math:`C = W^{-1} + U U^T`. By Woodbury's
identity, with :math:`K = I + U^T W U = L L^T`,

.. math:: (y - \Theta v)^T C^{-1} (y - \Theta v) = (y - \Theta v)^T W (y - \Theta v) - |h - H v|^2, \qquad
          h = L^{-1} U^T W y, \quad H = L^{-1} U^T W \Theta

so that labels cost r D + r (r + 1) / 2 more columns of the product with the weights. Pixels without weight drop out of
every sum: missing pixels are handled exactly.
"""

from dataclasses import dataclass, field
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from bayes_cannon.core.arguments import number
from bayes_cannon.core.student_t import log_density
from bayes_cannon.core.typing import Array, PerStar, StarPixel
from bayes_cannon.execution.jax_settings import own_jax_settings
from bayes_cannon.scatter.base import (
    Coefficients,
    LearnedScatter,
    NoiseParts,
    PartsOfStar,
    Scatter,
    joint_solution,
)
from bayes_cannon.scatter.label_tables import Chi2, LabelTables, Response, log_det_of_weights, with_square
from bayes_cannon.scatter.low_rank_em import expectation, star_sums, symmetric
from bayes_cannon.scatter.low_rank_training import check_rank, log_quoted_variance, train_factors
from bayes_cannon.training.problem import PixelProblem, PixelSolution
from bayes_cannon.training.profile.blocks import Pixels

LONE_SHARE = 0.5
"""A factor comes from one star if the star has more than this share of its sum of squares over the training stars."""


@dataclass(frozen=True)
class LowRank(Scatter):
    r"""Scatter of low rank plus a diagonal, ``U U' + diag(s^2)``: a few latent factors a star that all pixels share.

    Attributes
    ----------
    rank
        Number of factors.
    heavy_tails
        Whether spectra follow a multivariate Student-t distribution, whose degrees of freedom are fitted, so that a few
        bad spectra do not dominate the fit.
    tolerance
        Training ends when an iteration gains less than this per star, in natural logarithms of the likelihood.

    Raises
    ------
    ValueError
        If the rank is not a positive integer, or the tolerance not positive.

    Examples
    --------
    >>> tc.scatter.LowRank(5)
    LowRank(rank=5, heavy_tails=False, tolerance=0.01)

    """

    rank: int
    heavy_tails: bool = False
    tolerance: float = 1e-2

    def __post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, int | np.integer) or self.rank < 1:
            raise ValueError(f"rank must be a positive integer, got {self.rank!r}; without factors leave scatter=None")
        if not number(self.tolerance) > 0:
            raise ValueError(f"tolerance must be positive, got {self.tolerance!r}")

    def check(self, problem: PixelProblem) -> None:
        """Raise ValueError if there cannot be that many factors."""
        check_rank(self.rank, *problem.flux.shape)

    def continues(self, previous: LearnedScatter) -> bool:
        """Factors of a lower rank are a start."""
        return isinstance(previous, LowRankScatter) and previous.rank <= self.rank

    def fit(
        self, problem: PixelProblem, start: PixelSolution, previous: LearnedScatter | None = None
    ) -> tuple[PixelSolution, LearnedScatter]:
        """As `Scatter.fit`."""
        of_use = previous is not None and self.continues(previous)
        fit = train_factors(
            problem, start.theta, start.s2, rank=self.rank, factors=previous.factors if of_use and previous else None,
            heavy_tails=self.heavy_tails, tolerance=self.tolerance,
        )  # fmt: skip
        rounds = len(fit.log_likelihood) - 1
        solution = joint_solution(
            start, fit.theta, fit.s2, gain=fit.gradient, rounds=rounds, converged=fit.converged
        )  # fmt: skip
        return solution, LowRankScatter(fit.factors, fit.nu)


@dataclass(frozen=True, eq=False)
class LowRankScatter(LearnedScatter):
    """Learned scatter of low rank.

    Attributes
    ----------
    factors
        U in flux, shape (pixel, factor): orthogonal in the metric of the mean weights, the strongest first, the largest
        number of each positive; zero at pixels without solution.
    nu
        Degrees of freedom of a spectrum's Student-t distribution; infinite where it is normal.

    """

    factors: np.ndarray = field(metadata={"dims": ("pixel", "factor")})
    nu: float = np.inf

    @property
    def rank(self) -> int:
        """Number of factors."""
        return self.factors.shape[1]

    def check(self, n_pixels: int) -> None:
        """Raise ValueError unless the factors have this number of pixels."""
        if len(self.factors) != n_pixels:
            raise ValueError(f"the scatter has factors of {len(self.factors)} pixels, theta has {n_pixels}")

    def log_likelihood(self, problem: PixelProblem, solution: Coefficients) -> np.ndarray:
        """As `LearnedScatter.log_likelihood`."""
        _, chi_squared, log_det, count = self._expected(problem, solution)
        return np.asarray(log_density(chi_squared, log_det, count, self.nu))

    def star_precisions(self, problem: PixelProblem, solution: Coefficients) -> np.ndarray | None:
        """``(nu + P) / (nu + chi^2)``."""
        if not np.isfinite(self.nu):
            return None
        _, chi_squared, _, count = self._expected(problem, solution)
        return (self.nu + count) / (self.nu + chi_squared)

    def latent_factors(self, problem: PixelProblem, solution: Coefficients) -> np.ndarray:
        """Posterior mean ``(I + U'WU)^-1 U'W (y - Theta v)``."""
        return self._expected(problem, solution)[0]

    def cautions(self, problem: PixelProblem, solution: Coefficients) -> list[str]:
        """Names, too, the stars each of which alone makes a latent factor."""
        z = self.latent_factors(problem, solution)
        # With heavy tails the variance of a star's factors is 1 / tau.
        tau = self.star_precisions(problem, solution)
        square = z**2 if tau is None else tau[:, None] * z**2
        share = square / np.maximum(square.sum(axis=0), np.finfo(float).tiny)
        lone = np.argwhere((share > LONE_SHARE).T)
        texts = super().cautions(problem, solution)
        if len(lone) and len(z) > 2 / LONE_SHARE:
            named = ", ".join(f"factor {factor} by star {star}" for factor, star in lone[:5])
            texts.append(
                f"{len(lone)} of {self.rank} latent factors come from one star each: {named}. Leave bad stars out, "
                "or use heavy_tails=True"
            )
        return texts

    def marginal_variance(self, problem: PixelProblem, s2: np.ndarray) -> np.ndarray:
        """``s_j^2 + |u_j|^2``."""
        return s2 + np.sum(self.factors**2, axis=1)

    def total_variance(self, s2: np.ndarray, ivar: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """``s_j^2 + |u_j|^2 + 1 / ivar``."""
        return s2[pixels] + np.sum(self.factors[pixels] ** 2, axis=1) + 1.0 / ivar

    def variance_shares(self, s2: np.ndarray) -> np.ndarray:
        """As `LearnedScatter.variance_shares`."""
        solved = np.isfinite(s2)
        each = np.sum(self.factors[solved] ** 2, axis=0)
        return each / (each.sum() + s2[solved].sum())

    def label_tables(self, response: Response) -> "LowRankTables":
        """As `LearnedScatter.label_tables`."""
        return LowRankTables.from_factors(self.factors, response)

    def split_theta_covariance(self, covariance: np.ndarray, gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The part of the errors that comes from the factors is shared; the rest is each pixel's own."""
        total = np.einsum("pde,de->p", covariance, gram) / len(gram)
        shared = np.sum(self.factors**2, axis=1) / np.where(total > 0, total, np.inf)
        own = covariance * (1.0 - np.minimum(shared, 1.0))[:, None, None]
        return own, np.linalg.pinv(gram, hermitian=True)

    def noise_parts(self, s2: np.ndarray) -> PartsOfStar:
        """As `LearnedScatter.noise_parts`."""

        def parts(used: np.ndarray, ivar: np.ndarray, of_theta: np.ndarray, h: float) -> NoiseParts:
            return DiagonalAndFactors.of_star(1.0 / ivar, s2[used], of_theta, self.factors[used], h)

        return parts

    def _expected(
        self, problem: PixelProblem, solution: Coefficients
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Posterior mean of the factors, ``r' C^-1 r``, ``ln det C`` and number of pixels of each star."""
        theta, s2 = solution.theta, solution.s2
        solved = np.isfinite(theta).all(axis=1) & np.isfinite(s2)
        flux, ivar = problem.flux[:, solved], problem.ivar[:, solved]
        free = np.full((int(solved.sum()), problem.design.shape[1]), np.inf)
        block = Pixels(flux.T, ivar.T, np.zeros(len(free)), -free, free)
        with own_jax_settings():
            point = theta[solved], self.factors[solved], s2[solved]
            sums = star_sums(problem.design, block, *point, np.ones(len(free), bool))
            latent, chi_squared, log_det = expectation(sums)
            return (
                np.array(latent.mean), np.array(chi_squared), np.array(log_det) + log_quoted_variance(ivar),
                np.array(sums.n_pixels),
            )  # fmt: skip


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LowRankTables(LabelTables):
    """Tables of the factors. Make it with `from_factors`.

    Attributes
    ----------
    factors
        U, shape (pixel, factor).
    squares
        Products of two factors, shape (pixel, pair of factors).
    crossed
        Products of a factor with a term's coefficient, the constant's being zero, shape (pixel, factor x term).

    """

    factors: Array
    squares: Array
    crossed: Array

    @classmethod
    def from_factors(cls, factors: np.ndarray, response: Response) -> "LowRankTables":
        """Tables of U, shape (pixel, factor)."""
        rows, columns = np.tril_indices(factors.shape[1])
        crossed = (factors[:, :, None] * np.asarray(response.theta)[:, None, :]).reshape(len(factors), -1)
        return cls(factors, factors[:, rows] * factors[:, columns], crossed)

    def chi_squared(self, response: Response, w: StarPixel, y: StarPixel, growth: PerStar) -> Chi2:
        """As `LabelTables.chi_squared`; the root is the Cholesky factor of K of each star."""
        return _chi_squared(self, response, w, y, growth)

    def compare(self, root: Array, w: StarPixel, residual: StarPixel) -> tuple[PerStar, StarPixel]:
        """As `LabelTables.compare`."""
        return _compare(self, root, w, residual)

    def log_det(self, root: Array, w: StarPixel) -> PerStar:
        """As `LabelTables.log_det`: the factors add ``ln det K`` where errors of theta have no part in the root."""
        return log_det_of_weights(w) + 2 * jnp.sum(jnp.log(jnp.diagonal(root, axis1=1, axis2=2)), axis=1)

    def theta_weights(self, w: StarPixel, growth: PerStar, used: Array) -> tuple[StarPixel, PerStar]:
        """As `LabelTables.theta_weights`; S is ``U U'``."""
        return _theta_weights(self.factors, w, growth)


@jax.jit
def _chi_squared(tables: LowRankTables, response: Response, w: StarPixel, y: StarPixel, growth: PerStar) -> Chi2:
    n_factors = tables.factors.shape[1]
    gram = symmetric(w @ tables.squares, n_factors)
    root = jnp.linalg.cholesky(gram + jnp.eye(n_factors) / jnp.asarray(growth)[:, None, None])
    crossed = (w @ tables.crossed).reshape(len(w), n_factors, -1)
    right = jnp.concatenate([((w * y) @ tables.factors)[:, :, None], crossed], axis=2)
    half = jax.scipy.linalg.solve_triangular(root, right, lower=True)
    h, of_terms = half[:, :, 0], half[:, :, 1:]
    squares = jnp.einsum("nrd,nre->nde", of_terms, of_terms)
    linear = jnp.einsum("nr,nrd->nd", h, of_terms)
    independent = response.chi_squared(w, y)
    return Chi2(with_square(independent, response, -jnp.sum(h**2, axis=1), -linear, -squares), root)


@jax.jit
def _compare(tables: LowRankTables, root: Array, w: StarPixel, residual: StarPixel) -> tuple[PerStar, StarPixel]:
    """The factors explain ``r' W U K^-1 U' W r``."""
    weighted = jax.lax.optimization_barrier(w * residual)
    pulled = (weighted @ tables.factors)[:, :, None]
    half = jax.scipy.linalg.solve_triangular(root, pulled, lower=True)
    mean = jax.scipy.linalg.solve_triangular(root, half, lower=True, trans=1)[:, :, 0]
    chi_squared = jnp.einsum("np,np->n", weighted, residual) - jnp.sum(half[:, :, 0] ** 2, axis=1)
    return chi_squared, weighted - w * (mean @ tables.factors.T)


@jax.jit
def _theta_weights(factors: Array, w: StarPixel, growth: PerStar) -> tuple[StarPixel, PerStar]:
    n_factors = factors.shape[1]
    gram = jnp.einsum("np,pr,ps->nrs", w, factors, factors)
    inner = gram + jnp.eye(n_factors) / jnp.asarray(growth)[:, None, None]
    root = jnp.linalg.cholesky(inner)
    pulled = w[:, None, :] * factors.T
    half = jax.scipy.linalg.solve_triangular(root, pulled, lower=True)
    diagonal = w - jnp.sum(half**2, axis=1)
    solved = jax.scipy.linalg.cho_solve((root, True), gram)
    return diagonal, jnp.einsum("nrr->n", gram) - jnp.einsum("nrs,nsr->n", gram, solved)


@dataclass(frozen=True)
class DiagonalAndFactors(NoiseParts):
    """Parts ``C_i = diag(d_i) + m_i F F'``, whose sum is inverted by Woodbury's identity.

    Attributes
    ----------
    diagonals, multiples
        d and m of each part, shape (part, pixel) and (part,).
    factors
        F, shape (pixel, factor); none for independent scatter.

    """

    diagonals: np.ndarray
    multiples: np.ndarray
    factors: np.ndarray

    @classmethod
    def of_star(
        cls, photon: np.ndarray, s2: np.ndarray, of_theta: np.ndarray, factors: np.ndarray, h: float
    ) -> "DiagonalAndFactors":
        """Variances of the noise, the scatter and theta at the used pixels, shape (pixel,), and the factors there."""
        return cls(np.stack([photon, s2, np.zeros(len(s2)), of_theta]), np.array([0.0, 0.0, 1.0, h]), factors)

    @cached_property
    def _inverse(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        w = 1.0 / self.diagonals.sum(axis=0)
        weighted = w[:, None] * self.factors
        gram = self.factors.T @ weighted
        return w, weighted, gram, np.linalg.inv(np.eye(len(gram)) / self.multiples.sum() + gram)

    def solved(self, right: np.ndarray) -> np.ndarray:
        """As `NoiseParts.solved`."""
        w, weighted, _, inner = self._inverse
        return w[:, None] * right - weighted @ (inner @ (weighted.T @ right))

    def weights(self) -> tuple[np.ndarray, float]:
        """As `NoiseParts.weights`."""
        w, weighted, gram, inner = self._inverse
        diagonal = w - np.einsum("pr,rs,ps->p", weighted, inner, weighted, optimize=True)
        return diagonal, float(np.trace(gram) - np.sum(gram * (inner @ gram)))

    def variances(self, gain: np.ndarray) -> np.ndarray:
        """As `NoiseParts.variances`."""
        shared = np.sum((gain @ self.factors) ** 2, axis=1)
        return self.diagonals @ (gain**2).T + self.multiples[:, None] * shared
