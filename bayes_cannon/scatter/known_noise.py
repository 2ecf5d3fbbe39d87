r"""Training where the survey gives the covariance of the noise.

All stars share the covariance :math:`C = G + \mathrm{diag}(s^2) + U U^T` with G given, for example by how spectra are
sampled from coefficients, the scatter s^2 of each pixel, and factors U for what the model misses. Given theta, they
minimize

.. math:: \ln\det C + \mathrm{tr}(C^{-1} S), \qquad S = \frac1N \sum_n u_n e_n e_n^T, \quad e_n = y_n - \Theta v_n

whose derivative by :math:`s_j^2` is the j-th number on the diagonal of :math:`C^{-1} - C^{-1} S C^{-1}`. With
:math:`A = G + \mathrm{diag}(s^2) = L L^T` and the eigenvalues :math:`\omega` and eigenvectors V of
:math:`L^{-1} S L^{-T}` the best factors are :math:`U = L V (\omega - 1)^{1/2}` (Tipping & Bishop 1999); there are as
many as exceed what noise alone makes of N stars and P pixels, :math:`(1 + \sqrt{P / N})^2`.

A G that is singular, or nearly, promises to know some directions of a spectrum exactly. No spectrum is: rounding alone
would pass for information. Its correlations have no eigenvalue below `SMALLEST_SHARE`.

With heavy tails the weights are :math:`u_n = (\nu + P) / (\nu + \chi_n^2)`, and nu maximizes the likelihood. With a
fixed number of factors no round lowers it. Without a penalty the best theta is that of least squares with the weights
u; with one, see `scatter.common_design`. Numbers with a huge error take no part (`scatter.usable_pixels`).
"""

from dataclasses import dataclass, field, replace

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve, cholesky, eigh, solve_triangular
from scipy.optimize import minimize

from bayes_cannon.core.intake import real_numbers
from bayes_cannon.core.student_t import fitted_nu, log_density
from bayes_cannon.scatter.base import LearnedScatter, Scatter, joint_solution
from bayes_cannon.scatter.common_covariance import CommonCovariance, check_complete
from bayes_cannon.scatter.common_design import largest_gain, shared_weight_theta
from bayes_cannon.scatter.pca_start import with_positive_peaks
from bayes_cannon.scatter.usable_pixels import completed, solved_pixels, usual_noise
from bayes_cannon.training.problem import PixelProblem, PixelSolution

MAX_ROUNDS, TOLERANCE = 100, 1e-3
"""Rounds at most, and the gain of the log likelihood a star at which they end."""
GRADIENT_TOLERANCE = 1e-6
"""On the derivative by the logarithm of each pixel's s2, a star."""
SMALLEST_SHARE = 1e-6
"""Of the variance of pixels, what there is at least in any direction: a thousandth of their noise."""


@dataclass(frozen=True, eq=False)
class Given(Scatter):
    r"""Covariance of the noise that the survey gives, the same for all stars, plus fitted scatter.

    The covariance is ``G + diag(s^2) + U U'``, with as many factors U as the model's misfit needs, mostly none.
    Training spectra must be complete; spectra to be labelled need not be. Of ``ivar`` it only matters where it is zero
    or far below what is usual at that pixel.

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
        covariance = real_numbers(self.covariance, "the given covariance")
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
    given, n_stars = _regular(scatter.covariance[np.ix_(solved, solved)]), len(part.design)
    quoted, bad = usual_noise(part.ivar)
    flux = np.where(bad, part.design @ theta[solved].T, part.flux)
    start = np.mean((flux - part.design @ theta[solved].T) ** 2, axis=0) - np.diag(given)
    start = np.maximum(start, 0.0) + 1e-3 * np.diag(given)
    now = _State(theta[solved], start, np.zeros((len(given), 0)), flux, np.zeros_like(given), np.ones(n_stars), np.inf)
    history: list[float] = []
    converged = factors = False
    while not converged and len(history) < MAX_ROUNDS:
        now, log_likelihood = _round(part, bad, given, now, scatter.heavy_tails, factors)
        history.append(log_likelihood)
        settled = len(history) > 1 and abs(history[-1] - history[-2]) < TOLERANCE * n_stars
        # What s2 and the stars' weights explain needs no factors.
        converged, factors = settled and factors, settled or factors
    variance, n_pixels = np.diag(given) + now.scatter2, len(s2)
    gain = largest_gain(replace(part, flux=now.flux), now.theta, now.weight, variance)
    whole = np.full_like(theta, np.nan)
    whole[solved] = now.theta
    out_s2, gradient = _at(solved, now.scatter2, n_pixels, np.inf), _at(solved, gain, n_pixels, np.nan)
    quoted, own = (_at(solved, array, n_pixels, np.nan) for array in (quoted, now.scatter2))
    learned = replace(_learned(now.total(given), now.sample(part), solved, n_pixels, now.nu), quoted=quoted, own=own)
    return GivenSolution(whole, out_s2, learned, gradient, now.weight, np.array(history), converged)


@dataclass(frozen=True)
class _State:
    """Theta, s2 and U of the solved pixels, flux without bad numbers, their spread, the stars' weights, and nu."""

    theta: np.ndarray
    scatter2: np.ndarray
    shared: np.ndarray
    flux: np.ndarray
    spread: np.ndarray
    weight: np.ndarray
    nu: float

    def total(self, given: np.ndarray) -> np.ndarray:
        """The covariance C, shape (pixel, pixel)."""
        return given + np.diag(self.scatter2) + self.shared @ self.shared.T

    def sample(self, part: PixelProblem) -> np.ndarray:
        """That of the residuals, S, shape (pixel, pixel)."""
        residual = self.flux - part.design @ self.theta.T
        return ((residual * self.weight[:, None]).T @ residual + self.spread) / len(residual)


def _round(
    part: PixelProblem, bad: np.ndarray, given: np.ndarray, now: _State, heavy_tails: bool, factors: bool
) -> tuple[_State, float]:
    """Theta, s2, factors if wanted, then weights and bad numbers; and the log likelihood of all stars."""
    variance = np.diag(given) + now.scatter2
    theta = shared_weight_theta(replace(part, flux=now.flux), now.theta, now.weight, variance)
    now = replace(now, theta=theta)
    sample = now.sample(part)
    now = replace(now, scatter2=_scatter(given + now.shared @ now.shared.T, sample, now.scatter2))
    if factors:
        own = given + np.diag(now.scatter2)
        now = replace(now, shared=_shared_factors(own, sample, part.n_stars, now.shared.shape[1]))
    factor = cho_factor(now.total(given), lower=True)
    log_det = np.full(part.n_stars, 2 * np.log(np.diag(factor[0])).sum())
    residual, count = now.flux - part.design @ theta.T, part.n_pixels - bad.sum(axis=1)
    if bad.any():
        inverse = cho_solve(factor, np.eye(part.n_pixels))
        residual, spread, lost = completed(part.flux - part.design @ theta.T, bad, inverse)
        now = replace(now, flux=np.where(bad, part.design @ theta.T + residual, part.flux), spread=spread)
        log_det = log_det + lost
    chi_squared = np.sum(residual * cho_solve(factor, residual.T).T, axis=1)
    if heavy_tails:
        nu = fitted_nu(chi_squared, log_det, count)
        weight = np.ones(part.n_stars) if np.isinf(nu) else (nu + count) / (nu + chi_squared)
        now = replace(now, nu=nu, weight=weight)
    return now, float(log_density(chi_squared, log_det, count, now.nu).sum())


def _at(pixels: np.ndarray, values: np.ndarray, n_pixels: int, fill: float) -> np.ndarray:
    """An array of all pixels, with these values at some, shape (pixel,)."""
    out = np.full(n_pixels, fill)
    out[pixels] = values
    return out


def _regular(given: np.ndarray) -> np.ndarray:
    """The covariance with no direction that has less than the smallest share of the variance of the pixels."""
    unit = np.sqrt(np.diag(given))
    values, vectors = eigh(given / np.outer(unit, unit))
    if values[0] >= SMALLEST_SHARE:
        return given
    return (vectors * np.maximum(values, SMALLEST_SHARE)) @ vectors.T * np.outer(unit, unit)


def _shared_factors(own: np.ndarray, sample: np.ndarray, n_stars: int, fewest: int) -> np.ndarray:
    """The factors of the highest likelihood beside a covariance, shape (pixel, factor), at least this number."""
    root = cholesky(own, lower=True)
    half = solve_triangular(root, sample, lower=True)
    values, vectors = eigh(solve_triangular(root, half.T, lower=True))
    # The largest eigenvalue of pure noise is this, and its scatter is of the order of the last factor.
    edge = (1 + np.sqrt(len(own) / n_stars)) ** 2 * (1 + 4 * n_stars ** (-2 / 3))
    n_factors = max(fewest, int((values > edge).sum()))
    if not n_factors:
        return np.zeros((len(own), 0))
    return root @ (vectors[:, -n_factors:] * np.sqrt(np.maximum(values[-n_factors:] - 1, 0.0)))


def _learned(total: np.ndarray, sample: np.ndarray, solved: np.ndarray, n_pixels: int, nu: float) -> CommonCovariance:
    """The covariance by its directions; those that have the smallest share only are across the leading ones."""
    unit = np.sqrt(np.diag(total))
    variances, basis = (array[..., ::-1] for array in eigh(total / np.outer(unit, unit)))
    leading = variances > 2 * SMALLEST_SHARE
    others, noise, floor = basis[:, ~leading], unit, 1.0
    if not leading.all():
        noise = unit * np.sqrt(SMALLEST_SHARE)
        left = np.einsum("pk,pq,qk->k", others, sample / np.outer(noise, noise), others, optimize=True)
        floor = float(min(left.mean(), 1.0))
    factors = np.zeros((n_pixels, int(leading.sum())))
    factors[solved] = unit[:, None] * with_positive_peaks(basis[:, leading]) * np.sqrt(variances[leading])
    return CommonCovariance(factors, _at(solved, noise, n_pixels, np.nan), nu, floor)


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
