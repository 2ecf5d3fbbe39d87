r"""Training where the survey gives the covariance of the noise.

All stars share the covariance :math:`C = G + \mathrm{diag}(s^2)` with G given, for example by how spectra are sampled
from coefficients, and the scatter s^2 of each pixel fitted. Given theta, s^2 minimizes

.. math:: \ln\det C + \mathrm{tr}(C^{-1} S), \qquad S = \frac1N \sum_n u_n e_n e_n^T, \quad e_n = y_n - \Theta v_n,

whose derivative by :math:`s_j^2` is the j-th number on the diagonal of :math:`C^{-1} - C^{-1} S C^{-1}`. With heavy
tails the weights are :math:`u_n = (\nu + P) / (\nu + \chi_n^2)`, and nu maximizes the likelihood; no round lowers it.
Without a penalty the best theta is that of least squares with the weights u; with one, see
`scatter.common_design`.
"""

from dataclasses import dataclass, field

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve, eigh
from scipy.optimize import minimize

from bayes_cannon.core.student_t import fitted_nu, log_density
from bayes_cannon.scatter.base import LearnedScatter, Scatter, joint_solution
from bayes_cannon.scatter.common_covariance import CommonCovariance, check_complete
from bayes_cannon.scatter.common_design import largest_gain, shared_weight_theta
from bayes_cannon.scatter.pca_start import with_positive_peaks
from bayes_cannon.scatter.usable_pixels import solved_pixels
from bayes_cannon.training.problem import PixelProblem, PixelSolution

MAX_ROUNDS, TOLERANCE = 100, 1e-3
"""Rounds at most, and the gain of the log likelihood a star at which they end."""
GRADIENT_TOLERANCE = 1e-6
"""On the derivative by the logarithm of each pixel's s2, a star."""


@dataclass(frozen=True, eq=False)
class Given(Scatter):
    r"""Covariance of the noise that the survey gives, the same for all stars, plus fitted scatter: ``G + diag(s^2)``.

    Training spectra must be complete; spectra to be labelled need not be. Of ``ivar`` it only matters where it is zero.

    Attributes
    ----------
    covariance
        G in squared flux, shape (pixel, pixel).
    heavy_tails
        Whether spectra follow a multivariate Student-t distribution, whose degrees of freedom are fitted.

    Raises
    ------
    ValueError
        If the covariance is not a finite, symmetric, positive semi-definite matrix.

    Examples
    --------
    >>> tc.scatter.Given(np.eye(3))
    Given(3 pixels, heavy_tails=False)

    """

    covariance: np.ndarray = field(metadata={"dims": ("pixel", "other_pixel")})
    heavy_tails: bool = False

    def __post_init__(self) -> None:
        covariance = np.array(self.covariance, dtype=float)
        if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
            raise ValueError(f"the given covariance must have shape (pixel, pixel), got {covariance.shape}")
        if not np.isfinite(covariance).all():
            row, column = np.argwhere(~np.isfinite(covariance))[0]
            raise ValueError(f"the given covariance is {covariance[row, column]} at pixels {row} and {column}")
        unit = np.sqrt(np.abs(np.diag(covariance)))
        if (np.abs(covariance - covariance.T) > 1e-8 * np.outer(unit, unit)).any():
            raise ValueError("the given covariance is not symmetric; is it a Cholesky factor?")
        smallest = np.linalg.eigvalsh(covariance / np.where(np.outer(unit, unit) > 0, np.outer(unit, unit), 1.0))[0]
        if smallest < -1e-8 or (np.diag(covariance) <= 0).any():
            raise ValueError(
                f"the given covariance is not positive definite: the smallest eigenvalue of its correlations is "
                f"{smallest:.3g}, the smallest variance {np.diag(covariance).min():.3g}"
            )
        covariance.flags.writeable = False
        object.__setattr__(self, "covariance", covariance)

    def __repr__(self) -> str:
        return f"Given({len(self.covariance)} pixels, heavy_tails={self.heavy_tails})"

    def check(self, problem: PixelProblem) -> None:
        """Raise ValueError if the covariance has another number of pixels."""
        if len(self.covariance) != problem.n_pixels:
            raise ValueError(
                f"the given covariance is of {len(self.covariance)} pixels, the spectra have {problem.n_pixels}"
            )

    def fit(
        self, problem: PixelProblem, start: PixelSolution, previous: LearnedScatter | None = None
    ) -> tuple[PixelSolution, LearnedScatter]:
        """As `Scatter.fit`; nothing is taken from ``previous``."""
        fit = train_given(problem, start.theta, start.s2, self)
        rounds = len(fit.log_likelihood)
        solution = joint_solution(
            start, fit.theta, fit.s2, gain=fit.gradient, rounds=rounds, converged=fit.converged
        )  # fmt: skip
        return solution, fit.learned


KnownNoise = Given


@dataclass(frozen=True)
class GivenSolution:
    """Optimum of P pixels together.

    Attributes
    ----------
    theta, s2
        Shape (pixel, term) and (pixel,): NaN and infinite at pixels that took no part.
    learned
        The covariance C.
    gradient
        As in `scatter.full_training.FullSolution`, shape (pixel,).
    weight
        u of each star, shape (star,).
    log_likelihood
        Of all stars after each round; without a penalty it never falls.
    converged
        Whether the last round gained less than the tolerance.

    """

    theta: np.ndarray
    s2: np.ndarray
    learned: CommonCovariance
    gradient: np.ndarray
    weight: np.ndarray
    log_likelihood: np.ndarray
    converged: bool


def train_given(problem: PixelProblem, theta: np.ndarray, s2: np.ndarray, scatter: Given) -> GivenSolution:
    """Theta and s2 with the given covariance of the noise.

    Parameters
    ----------
    problem
        The pixels. Those without a finite ``theta`` take no part.
    theta, s2
        Optimum of the independent model, shape (pixel, term) and (pixel,).
    scatter
        With the covariance, shape (pixel, pixel).

    Raises
    ------
    ValueError
        If the covariance is of another number of pixels, fewer than two of them have a solution, or a star misses a
        pixel that others have.

    """
    scatter.check(problem)
    solved = solved_pixels(problem, theta, s2)
    part = problem.at(solved)
    check_complete(part.ivar, solved)
    given, n_stars = scatter.covariance[np.ix_(solved, solved)], len(part.design)
    start = theta[solved]
    scatter2 = np.maximum(np.mean((part.flux - part.design @ start.T) ** 2, axis=0) - np.diag(given), 0.0)
    scatter2 += 1e-3 * np.diag(given)
    weight, nu, history, converged = np.ones(n_stars), np.inf, [], False
    for _ in range(MAX_ROUNDS):
        start = shared_weight_theta(part, start, weight, np.diag(given) + scatter2)
        residual = part.flux - part.design @ start.T
        scatter2 = _scatter(given, (residual * weight[:, None]).T @ residual / n_stars, scatter2)
        factor = cho_factor(given + np.diag(scatter2), lower=True)
        chi_squared = np.sum(residual * cho_solve(factor, residual.T).T, axis=1)
        log_det, count = 2 * np.log(np.diag(factor[0])).sum(), np.full(n_stars, len(solved))
        if scatter.heavy_tails:
            nu = fitted_nu(chi_squared, np.full(n_stars, log_det), count)
            weight = np.ones(n_stars) if np.isinf(nu) else (nu + count) / (nu + chi_squared)
        history.append(float(log_density(chi_squared, log_det, len(solved), nu).sum()))
        converged = len(history) > 1 and history[-1] - history[-2] < TOLERANCE * n_stars
        if converged:
            break
    full_theta, out_s2, noise, gradient = (np.full_like(array, np.nan) for array in (theta, s2, s2, s2))
    full_theta[solved], out_s2[:] = start, np.inf
    out_s2[solved], noise[solved] = scatter2, np.sqrt(np.diag(given) + scatter2)
    gradient[solved] = largest_gain(part, start, weight, noise[solved] ** 2)
    factors = np.zeros((len(s2), len(solved)))
    scaled = (given + np.diag(scatter2)) / np.outer(noise[solved], noise[solved])
    variances, basis = (array[..., ::-1] for array in eigh(scaled))
    factors[solved] = noise[solved, None] * with_positive_peaks(basis) * np.sqrt(variances)
    learned = CommonCovariance(factors, noise, nu)
    return GivenSolution(full_theta, out_s2, learned, gradient, weight, np.array(history), converged)


def _scatter(given: np.ndarray, sample: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The s2 of the highest likelihood, by L-BFGS-B in its logarithm; it may end at a 1e-12th of the noise."""
    unit = np.diag(given) + np.diag(sample)

    def loss(logs: np.ndarray) -> tuple[float, np.ndarray]:
        s2 = unit * np.exp(logs)
        try:
            factor = cho_factor(given + np.diag(s2), lower=True)
        except LinAlgError:
            return np.inf, np.zeros_like(logs)
        inverse = cho_solve(factor, np.eye(len(s2)))
        right = inverse @ sample
        gradient = np.diag(inverse) - np.sum(right * inverse, axis=1)
        return 2 * np.log(np.diag(factor[0])).sum() + np.trace(right), gradient * s2

    bounds = [(np.log(1e-12), np.log(10.0))] * len(unit)
    options = {"maxiter": 1000, "gtol": GRADIENT_TOLERANCE, "ftol": 1e-13}
    best = minimize(loss, np.log(start / unit), jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return unit * np.exp(best.x)
