r"""Maximum likelihood of the Cannon with latent factors: scatter that is correlated between pixels.

.. math:: y_n = \Theta v_n + U z_n + e_n, \quad z_n \sim \mathrm{Normal}(0, I_r), \quad
          e_{jn} \sim \mathrm{Normal}(0, \sigma_{jn}^2 + s_j^2)

with z and e divided by :math:`\sqrt{\tau_n}` where the tails are heavy,
:math:`\tau_n \sim \mathrm{Gamma}(\nu / 2, \nu / 2)`, so that a spectrum follows a multivariate Student-t distribution.
The penalty on theta is that of the independent model, which is the case r = 0.

The iteration is expectation and conditional maximization (Meng & Rubin 1993), from the independent optimum and the
principal components of its residuals. With the posterior of the factors, mean :math:`m_n` and covariance
:math:`S_n = (I + U^T W_n U)^{-1}`, and with :math:`u_n = (\nu + P_n) / (\nu + \chi_n^2)`,

1. every pixel is a weighted lasso on the columns (v, m), with :math:`\sum_n w_n S_n` added to the part of the Gram
   matrix that belongs to the factors;
2. s^2 goes a Newton step, or, where that does not lower the expected scalar, the step of expectation-maximization;
3. the factors' mean and covariance are freed and then absorbed into theta and U (parameter expansion: Liu, Rubin & Wu
   1998), which makes it fast;
4. nu maximizes the likelihood itself (Liu & Rubin 1994).

No step lowers the likelihood. One pass over the data an iteration does the work of 1, 2 and of the next expectation.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from bayes_cannon.core.student_t import fitted_nu, log_density
from bayes_cannon.execution.jax_settings import own_jax_settings
from bayes_cannon.execution.threads import in_parallel, n_blocks
from bayes_cannon.scatter.low_rank_em import (
    Latent,
    StarSums,
    expectation,
    factor_moments,
    latent_columns,
    maximize,
    star_sums,
    transformed,
)
from bayes_cannon.scatter.pca_start import principal_factors, with_positive_peaks
from bayes_cannon.scatter.usable_pixels import solved_pixels
from bayes_cannon.training.problem import PixelProblem
from bayes_cannon.training.profile.blocks import Pixels, block_size, padded_monomials, pixel_block


@dataclass(frozen=True)
class FactorSolution:
    """Optimum of P pixels together.

    Attributes
    ----------
    theta, s2
        Shape (pixel, term) and (pixel,); NaN and infinite at pixels that took no part.
    factors
        U, shape (pixel, factor), in canonical form: orthogonal in the metric of the mean weights, the strongest first,
        the largest number of each positive; zero at pixels that took no part.
    nu
        Degrees of freedom of the tails, infinite for normal ones.
    log_likelihood
        Of all stars after each iteration, less half the penalty, shape (iteration,); it never falls.
    gradient
        Largest change that one coefficient of theta or U alone would make, in units of the square root of the training
        scalar, shape (pixel,).
    tau
        Posterior mean of each star's tau, shape (star,): small for stars that do not fit.
    converged
        Whether the last iteration gained less than the tolerance.

    """

    theta: np.ndarray
    s2: np.ndarray
    factors: np.ndarray
    nu: float
    log_likelihood: np.ndarray
    gradient: np.ndarray
    tau: np.ndarray
    converged: bool


def train_factors(
    problem: PixelProblem,
    theta: np.ndarray,
    s2: np.ndarray,
    *,
    rank: int,
    factors: np.ndarray | None = None,
    heavy_tails: bool = False,
    tolerance: float = 1e-2,
    max_iterations: int = 200,
) -> FactorSolution:
    """Joint optimum of theta, the factors and s2.

    Parameters
    ----------
    problem
        The pixels. Those without a finite ``theta`` take no part.
    theta, s2
        Where to start, shape (pixel, term) and (pixel,): the optimum of the independent model.
    rank
        Number of factors r, at least one.
    factors
        Factors to start from, shape (pixel, factor), at most r; the others are principal components of what they leave.
    heavy_tails
        Whether the degrees of freedom are fitted; otherwise the distribution is normal.
    tolerance
        The iteration ends when it gains less than this a star, in natural logarithms of the likelihood.
    max_iterations
        Iterations at most.

    Returns
    -------
    solution
        In canonical form.

    Raises
    ------
    ValueError
        If fewer than two pixels have a solution, or the rank is below one or above what stars and pixels allow.

    """
    solved = solved_pixels(problem, theta, s2)
    check_rank(rank, len(problem.design), len(solved))
    part = problem.at(solved)
    start = np.zeros((len(solved), 0)) if factors is None else factors[solved]
    missing = rank - start.shape[1]
    theta, s2 = theta[solved].copy(), s2[solved].copy()
    with own_jax_settings():
        if missing > 0:
            more, s2 = principal_factors(part, theta, s2, start, missing)
            start = np.hstack([start, more])
        work = _Work(part, theta, s2, start)
        history, converged = work.iterate(heavy_tails, tolerance * len(problem.design), max_iterations)
        work.rotate()
    return work.solution(problem, solved, np.array(history), converged)


def log_quoted_variance(ivar: np.ndarray) -> np.ndarray:
    """``sum ln sigma^2`` over the known pixels of each star, shape (star,)."""
    return np.array([-np.log(row[row > 0]).sum() for row in ivar])


def check_rank(rank: int, n_stars: int, n_pixels: int) -> None:
    """Raise ValueError unless there can be that many factors."""
    most = min(n_stars, n_pixels) - 1
    if isinstance(rank, bool) or not isinstance(rank, int | np.integer) or not 1 <= rank <= most:
        raise ValueError(
            f"the rank of the scatter must be an integer from 1 to {most}, as there are {n_stars} stars and {n_pixels} "
            f"pixels with a solution; got {rank!r}"
        )


class _Work:
    """The state of the iteration."""

    def __init__(
        self,
        problem: PixelProblem,
        theta: np.ndarray,
        s2: np.ndarray,
        factors: np.ndarray,
    ):
        self.problem, self.theta, self.s2, self.factors = problem, theta, s2, factors
        terms, basis = problem.terms, problem.terms.moments
        self.design, self.moments = (padded_monomials(terms.x, powers) for powers in (terms.exponents, basis.exponents))
        self.pairs = basis.pairs
        self.gradient = np.full(problem.n_pixels, np.inf)
        self.n_stars, self.nu = len(problem.design), np.inf
        self.log_noise = log_quoted_variance(problem.ivar)
        self.free_mean = not problem.regularization.any() and bool(np.isinf(problem.lower).all())
        self.free_mean &= bool(np.isinf(problem.upper).all())
        self.size = block_size(self.n_stars, terms.n_terms, problem.n_pixels)

    def iterate(self, heavy_tails: bool, tolerance: float, max_iterations: int) -> tuple[list[float], bool]:
        """Penalized log likelihood after each iteration, and whether the gain fell below the tolerance."""
        history: list[float] = []
        sums, done = self._sums(), False
        for iteration in range(max_iterations + 1):
            latent, chi_squared, log_det = expectation(sums)
            parts = (np.asarray(array)[: self.n_stars] for array in (chi_squared, log_det, sums.n_pixels))
            chi_squared, log_det, count = parts
            log_det = log_det + self.log_noise
            if heavy_tails:
                self.nu = fitted_nu(chi_squared, log_det, count)
            penalty = 0.5 * np.sum(self.problem.regularization * np.abs(self.theta[:, 1:]).sum(axis=1))
            history.append(float(np.sum(log_density(chi_squared, log_det, count, self.nu)) - penalty))
            done = iteration > 0 and history[-1] - history[-2] <= tolerance
            self.tau = np.ones(self.n_stars) if np.isinf(self.nu) else (self.nu + count) / (self.nu + chi_squared)
            if done or iteration == max_iterations:
                break
            latent = latent._replace(weight=jnp.zeros(len(self.design)).at[: self.n_stars].set(self.tau))
            sums = self._expanded(self._step(latent), latent)
        return history, done

    def _blocks(self) -> Iterator[np.ndarray]:
        n = self.problem.n_pixels
        return (np.arange(first, min(first + self.size, n)) for first in range(0, n, self.size))

    def _sums(self) -> StarSums:
        """Sums over the pixels at the current point."""

        def work(pixels: np.ndarray) -> StarSums:
            with own_jax_settings():
                point, count = self._point(pixels)
                return star_sums(self.design, *point, count)

        return _total(in_parallel(work, self._blocks(), n_blocks()))

    def _point(self, pixels: np.ndarray) -> tuple[tuple[Pixels, np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
        """Data and parameters of a block, and which of its rows are not padding."""
        index = np.resize(pixels, self.size)
        block = pixel_block(self.problem, pixels, self.size)
        return (block, self.theta[index], self.factors[index], self.s2[index]), np.arange(self.size) < len(pixels)

    def _step(self, latent: Latent) -> StarSums:
        """Conditional maximization of all pixels, in place, and the sums at the new point."""
        columns = latent_columns(self.design, self.moments, latent)

        def work(pixels: np.ndarray) -> StarSums:
            with own_jax_settings():
                point, real = self._point(pixels)
                out = maximize(self.design, self.pairs, columns, latent, *point, real)
                n = len(pixels)
                self.theta[pixels], self.factors[pixels] = np.asarray(out.theta)[:n], np.asarray(out.factors)[:n]
                self.s2[pixels], self.gradient[pixels] = np.asarray(out.s2)[:n], np.asarray(out.gradient)[:n]
                return out.sums

        return _total(in_parallel(work, self._blocks(), n_blocks()))

    def _expanded(self, sums: StarSums, latent: Latent) -> StarSums:
        """Absorb mean and covariance of the factors into theta and U, and the sums at the point that results."""
        # A mean that went into theta would break its penalty or bounds: then there are no terms for it to depend on.
        terms = self.design if self.free_mean else jnp.zeros_like(self.design)
        shift, root = factor_moments(terms, latent, self.n_stars)
        self.theta += self.factors @ np.asarray(shift)
        self.factors = self.factors @ np.asarray(root)
        return transformed(sums, self.design @ shift.T, root)

    def rotate(self) -> None:
        """Bring the factors to their canonical form, which changes no likelihood."""
        known = self.problem.ivar > 0
        variance = np.where(known, 1 / np.where(known, self.problem.ivar, 1.0), 0.0)
        mean = variance.sum(axis=0) / np.maximum(known.sum(axis=0), 1) + self.s2
        scaled = self.factors / np.sqrt(mean)[:, None]
        _, _, rotation = np.linalg.svd(scaled, full_matrices=False)
        self.factors = with_positive_peaks(scaled @ rotation.T) * np.sqrt(mean)[:, None]

    def solution(
        self, problem: PixelProblem, solved: np.ndarray, history: np.ndarray, converged: bool
    ) -> FactorSolution:
        """Results at all pixels of the problem."""
        n_pixels = problem.n_pixels
        theta, s2 = np.full((n_pixels, self.theta.shape[1]), np.nan), np.full(n_pixels, np.inf)
        factors, gradient = np.zeros((n_pixels, self.factors.shape[1])), np.full(n_pixels, np.nan)
        theta[solved], s2[solved], factors[solved], gradient[solved] = self.theta, self.s2, self.factors, self.gradient
        return FactorSolution(theta, s2, factors, self.nu, history, gradient, self.tau, converged)


def _total(parts: Iterator[StarSums]) -> StarSums:
    total = next(parts)
    for part in parts:
        total = StarSums(*(a + b for a, b in zip(total, part, strict=True)))
    return total
