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
from typing import Any

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve, cholesky, eigh, solve_triangular
from scipy.optimize import minimize

from bayes_cannon.core.intake import real_numbers
from bayes_cannon.core.student_t import fitted_nu, log_density
from bayes_cannon.core.typing import PerStar
from bayes_cannon.scatter.base import FEWEST_SHARE, LearnedScatter, PartSolution, Scatter, joint_solution
from bayes_cannon.scatter.common_covariance import CommonCovariance, check_complete
from bayes_cannon.scatter.common_design import is_free, largest_gain, shared_weight_theta
from bayes_cannon.scatter.conjugate_training import Directions, leading_directions
from bayes_cannon.scatter.full_training import check_shrinkage_and_share, check_stars
from bayes_cannon.scatter.pca_start import with_positive_peaks
from bayes_cannon.scatter.star_noise import NoiseAndScatter
from bayes_cannon.scatter.star_noise_training import train_star_noise
from bayes_cannon.scatter.usable_pixels import completed, solved_pixels, usual_noise
from bayes_cannon.training.problem import PixelProblem, PixelSolution
from bayes_cannon.training.train import train

MAX_ROUNDS, TOLERANCE = 100, 1e-3
"""Rounds at most, and the gain of the log likelihood a star at which they end."""
GRADIENT_TOLERANCE = 1e-6
"""On the derivative by the logarithm of each pixel's s2, a star."""
OFF_ONE = 1e-6
"""By how much a correlation of a pixel with itself may be off one."""
SMALLEST_SHARE = 1e-6
"""Of the variance of pixels, what there is at least in any direction: a thousandth of their noise."""


@dataclass(frozen=True, eq=False)
class Given(Scatter):
    r"""Covariance of the noise that the survey gives, plus fitted scatter.

    ``Given(covariance)`` is the same for all stars: ``G + diag(s^2) + U U'``, with as many factors U as the model's
    misfit needs, mostly none. Of ``ivar`` it only matters where it is zero or far below what is usual at that pixel.

    ``Given(correlation=R)`` has one of each star, ``kappa D R D + L`` with the errors ``D = ivar^-1/2`` of its pixels,
    and ``Given()`` the one that each star brings, ``kappa G + L``: those of the training stars are part of the
    training set, ``CannonModel(..., covariance=G)``, and those of others go with their spectra, ``test(flux, ivar,
    covariance=G)``. The factor kappa, by which the survey is off, and the covariance L of the scatter are fitted
    (`scatter.star_noise_training`), and there is neither a penalty nor a bound on theta.

    Training spectra must be complete; spectra to be labelled need not be.

    Attributes
    ----------
    covariance
        G in squared flux, shape (pixel, pixel), the same for all stars.
    heavy_tails
        Whether spectra follow a multivariate Student-t distribution, whose degrees of freedom are fitted.
    correlation
        R, shape (pixel, pixel), such as `io.Spectra.noise_correlation`; not together with a covariance.
    shrinkage
        With one covariance a star: what is taken from the scatter along each direction, in units of the mean noise
        there, from 0 to 1; None to choose it by the likelihood of held-out training stars.
    share
        With one covariance a star: directions in which residuals have less than this share of the quoted noise
        variance do not count.

    Raises
    ------
    ValueError
        If a matrix is not finite, symmetric and positive semi-definite, if both are given, or for a shrinkage or share
        out of range.

    Examples
    --------
    >>> tc.scatter.Given(np.eye(3))
    Given(3 pixels, heavy_tails=False)
    >>> tc.scatter.Given(correlation=np.eye(3), heavy_tails=True)
    Given(correlation of 3 pixels, heavy_tails=True, shrinkage=None, share=0.05)
    >>> tc.scatter.Given()
    Given(one a star, heavy_tails=False, shrinkage=None, share=0.05)

    """

    covariance: np.ndarray | None = field(default=None, metadata={"dims": ("pixel", "other_pixel")})
    heavy_tails: bool = False
    correlation: np.ndarray | None = field(default=None, metadata={"dims": ("pixel", "other_pixel")})
    shrinkage: float | None = None
    share: float = 0.05

    def __post_init__(self) -> None:
        if self.covariance is not None and self.correlation is not None:
            raise ValueError(
                "give either a covariance, the same for all stars, or a correlation, which makes one of each star with "
                "the errors of its pixels"
            )
        for name in ("covariance", "correlation"):
            given = getattr(self, name)
            if given is not None:
                object.__setattr__(self, name, _checked_matrix(given, name))
        if self.correlation is not None and (np.abs(np.diag(self.correlation) - 1) > OFF_ONE).any():
            pixel = int(np.argmax(np.abs(np.diag(self.correlation) - 1)))
            raise ValueError(
                f"the given correlation is {self.correlation[pixel, pixel]:.6g} of pixel {pixel} with itself, where it "
                "must be one: is it a covariance?"
            )
        check_shrinkage_and_share(self.shrinkage, self.share)

    def __repr__(self) -> str:
        if self.covariance is not None:
            return f"Given({len(self.covariance)} pixels, heavy_tails={self.heavy_tails})"
        which = "one a star" if self.correlation is None else f"correlation of {len(self.correlation)} pixels"
        return f"Given({which}, heavy_tails={self.heavy_tails}, shrinkage={self.shrinkage}, share={self.share})"

    def check(self, problem: PixelProblem) -> None:
        """Raise ValueError if the matrix has another number of pixels, or what each star needs is not there."""
        matrix = self.correlation if self.covariance is None else self.covariance
        if matrix is not None and len(matrix) != problem.n_pixels:
            name = "covariance" if self.correlation is None else "correlation"
            raise ValueError(f"the given {name} is of {len(matrix)} pixels, the spectra have {problem.n_pixels}")
        if self.covariance is not None:
            return
        if matrix is None and problem.covariance is None:
            raise ValueError(
                "scatter.Given() takes the covariance of the noise of each star from the training set, which has none: "
                "make the model with covariance=, shape (star, pixel, pixel), or give one covariance or correlation"
            )
        if not is_free(problem):
            raise ValueError(
                "scatter.Given with one covariance a star knows no regularization, censoring or bounds: leave these "
                "out, or give one covariance for all stars"
            )
        check_stars(*problem.design.shape)

    def fit(
        self, problem: PixelProblem, start: PixelSolution, previous: LearnedScatter | None = None
    ) -> tuple[PixelSolution, LearnedScatter]:
        """As `Scatter.fit`; nothing is taken from ``previous``."""
        if self.covariance is None:
            return self._fit_star_noise(problem, start, None)
        fit = train_given(problem, start.theta, start.s2, self)
        rounds = len(fit.log_likelihood)
        solution = joint_solution(
            start, fit.theta, fit.s2, gain=fit.gradient, rounds=rounds, converged=fit.converged
        )  # fmt: skip
        return solution, fit.learned

    def _fit_star_noise(
        self, problem: PixelProblem, start: PixelSolution, directions: Directions | None
    ) -> tuple[PixelSolution, LearnedScatter]:
        self.check(problem)
        fit = train_star_noise(problem, self, directions)
        learned = NoiseAndScatter.of(fit, self.correlation, problem.n_pixels)
        # Theta is that of least squares at its weights and covariances, so that no coefficient alone gains.
        gain = np.where(np.isfinite(learned.quoted), 0.0, np.nan)
        solution = joint_solution(
            start, fit.theta, learned.scatter_variance(), gain=gain, rounds=len(fit.log_likelihood),
            converged=fit.converged,
        )  # fmt: skip
        return solution, learned

    def common_ground(self, problem: PixelProblem) -> Directions | None:
        """As `Scatter.common_ground`: the directions of all stars, where each has a covariance of its own."""
        return None if self.covariance is not None else leading_directions(problem, self.share)

    def fit_part(self, problem: PixelProblem, share: PerStar, ground: Directions | None) -> PartSolution:
        """As `Scatter.fit_part`."""
        if self.covariance is not None:
            return super().fit_part(problem, share, ground)
        part = problem.of_stars(np.asarray(share) >= FEWEST_SHARE)
        solution, learned = self._fit_star_noise(part, train(part), ground)
        return PartSolution(solution.theta, solution.s2, learned, None)


def _checked_matrix(given: Any, name: str) -> np.ndarray:
    """The matrix, which must not be changed any more; ValueError if it can be no covariance."""
    covariance = real_numbers(given, f"the given {name}")
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        more = ": that of each star goes with its spectrum" if covariance.ndim == 3 else ""
        raise ValueError(f"the given {name} must have shape (pixel, pixel), got {covariance.shape}{more}")
    if not np.isfinite(covariance).all():
        row, column = np.argwhere(~np.isfinite(covariance))[0]
        raise ValueError(f"the given {name} is {covariance[row, column]} at pixels {row} and {column}")
    unit = np.sqrt(np.abs(np.diag(covariance)))
    if (np.abs(covariance - covariance.T) > 1e-8 * np.outer(unit, unit)).any():
        raise ValueError(f"the given {name} is not symmetric; is it a Cholesky factor?")
    smallest = np.linalg.eigvalsh(covariance / np.where(np.outer(unit, unit) > 0, np.outer(unit, unit), 1.0))[0]
    if smallest < -1e-8 or (np.diag(covariance) <= 0).any():
        raise ValueError(
            f"the given {name} is not positive definite: the smallest eigenvalue of its correlations is "
            f"{smallest:.3g}, the smallest variance {np.diag(covariance).min():.3g}"
        )
    covariance.flags.writeable = False
    return np.asarray(covariance)


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
    assert scatter.covariance is not None
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
