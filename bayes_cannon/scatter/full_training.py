r"""Training with the full covariance of the scatter, for spectra of few pixels or many stars.

The residuals of all stars share one covariance, in units of the mean quoted noise :math:`\bar\sigma_j` of each pixel

.. math:: T = (1 - a)\, S + a\, \mathrm{diag}(S) = E\, \mathrm{diag}(\lambda)\, E^T, \qquad
          S = \frac{N}{N - D}\, \frac{\sum_n u_n e_n e_n^T}{\sum_n u_n}, \quad
          e_n = (y_n - \Theta v_n) / \bar\sigma

with the shrinkage a. Spectra sampled from fewer numbers than pixels, as Gaia's XP spectra are, have directions in
which the residuals are much smaller than the quoted noise. There a misfit of the model would pass for information, so
that only the leading directions, those with :math:`\lambda` above a given share of the quoted noise in the first round,
keep their variance; all others get the quoted noise. With heavy tails the q leading coordinates of a star follow a
multivariate Student-t distribution together, with :math:`u_n = (\nu + q) / (\nu + \chi_n^2)`; one common scale and nu
maximize its likelihood in each round, which is the parameter expansion of Liu, Rubin & Wu (1998).

All pixels have the same weights, so that without a penalty the best theta is that of least squares with the weights
u, whatever the covariance. With a penalty or bounds each pixel is a lasso of its own with its variance ``diag T``.

The covariance of the stars that it was learned from is too small for others. What factor it needs, and the shrinkage,
come from training stars that are held out in turn.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from scipy.linalg import cholesky, eigh, solve_triangular
from scipy.optimize import minimize, minimize_scalar

from bayes_cannon.core.student_t import LARGEST_NU, SMALLEST_NU, log_density
from bayes_cannon.scatter.common_covariance import CommonCovariance, check_complete, log_density_across, outside
from bayes_cannon.scatter.common_design import is_free, largest_gain, shared_weight_theta
from bayes_cannon.scatter.pca_start import with_positive_peaks
from bayes_cannon.scatter.usable_pixels import solved_pixels
from bayes_cannon.training.problem import PixelProblem

SHRINKAGES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8)
"""Strengths of shrinkage that are tried where none is given."""
N_FOLDS = 5
"""Parts of the training stars that are held out in turn."""
FIRST_NU = 5.0
"""Degrees of freedom that the search starts from."""
MAX_ROUNDS, TOLERANCE = 100, 1e-3
"""Rounds at most, and the change of the stars' weights, and of variances that theta depends on, at which they end."""


class FullSettings(Protocol):
    """What `scatter.full.Full` states; its attributes are documented there."""

    @property
    def shrinkage(self) -> float | None:
        """The a of ``(1 - a) S + a diag(S)``, or None to choose it."""

    @property
    def heavy_tails(self) -> bool:
        """Whether the degrees of freedom are fitted."""

    @property
    def share(self) -> float:
        """Smallest variance along a direction, in units of the quoted noise, that is trusted."""


@dataclass(frozen=True)
class FullSolution:
    """Optimum of P pixels together.

    Attributes
    ----------
    theta, s2
        Shape (pixel, term) and (pixel,): NaN and infinite at pixels that took no part. s2 is what the variance of a
        pixel has beyond the mean quoted noise, at least zero.
    learned
        The covariance, for stars other than those it was learned from.
    gradient
        Largest change that one coefficient of theta alone would make at the final weights and variances, in units of
        the square root of the training scalar, shape (pixel,).
    weight
        Scale u of each star, shape (star,), one on average: small for stars that do not fit.
    shrinkage
        The a that was used.
    scale
        What the covariance of the training stars was multiplied by.
    rounds, converged
        Rounds, and whether the weights settled.

    """

    theta: np.ndarray
    s2: np.ndarray
    learned: CommonCovariance
    gradient: np.ndarray
    weight: np.ndarray
    shrinkage: float
    scale: float
    rounds: int
    converged: bool


@dataclass(frozen=True)
class _Fit:
    """State of the iteration on some stars, in units of the mean quoted noise.

    Attributes
    ----------
    theta, noise
        Theta in flux, shape (pixel, term), and the quoted noise, shape (pixel,).
    covariance
        T before its directions are chosen, shape (pixel, pixel).
    basis, variances
        The leading directions, shape (pixel, q), and the variances along them, shape (q,); where all lead both are
        None.
    root
        Cholesky factor of T where all directions lead, else None.
    floor
        Mean variance along all other directions.
    nu, weight, rounds, converged
        As in `FullSolution`.

    """

    theta: np.ndarray
    noise: np.ndarray
    covariance: np.ndarray
    basis: np.ndarray | None
    variances: np.ndarray | None
    root: np.ndarray | None
    floor: float
    nu: float
    weight: np.ndarray
    rounds: int
    converged: bool

    @property
    def n_leading(self) -> int:
        """Number of leading directions q."""
        return len(self.noise) if self.variances is None else len(self.variances)

    @property
    def log_det(self) -> float:
        """Logarithm of the determinant of the leading part."""
        if self.root is not None:
            return 2 * float(np.log(np.diag(self.root)).sum())
        return 0.0 if self.variances is None else float(np.log(self.variances).sum())

    def residual(self, problem: PixelProblem) -> np.ndarray:
        """Flux beyond the model, shape (star, pixel)."""
        return (problem.flux - problem.design @ self.theta.T) / self.noise

    def log_density(self, problem: PixelProblem) -> np.ndarray:
        """Log density of each star's spectrum given its labels, shape (star,)."""
        residual = self.residual(problem)
        leading = log_density(_chi_squared(residual, self), self.log_det, self.n_leading, self.nu)
        across = 0.0 if self.basis is None else log_density_across(residual, self.basis, self.floor)
        return leading + across - np.log(self.noise).sum()


def _chi_squared(residual: np.ndarray, fit: _Fit) -> np.ndarray:
    """Squared length of the leading coordinates in units of their variances, shape (star,)."""
    if fit.basis is None:
        return np.sum(solve_triangular(fit.root, residual.T, lower=True) ** 2, axis=0)
    return np.sum((residual @ fit.basis) ** 2 / fit.variances, axis=1)


def train_full(problem: PixelProblem, theta: np.ndarray, s2: np.ndarray, scatter: FullSettings) -> FullSolution:
    """Theta and the full covariance.

    Parameters
    ----------
    problem
        The pixels. Those without a finite ``theta`` take no part.
    theta, s2
        Optimum of the independent model, shape (pixel, term) and (pixel,).
    scatter
        What is asked for.

    Returns
    -------
    solution
        In canonical form: factors orthogonal in the metric of the quoted noise, the strongest first.

    Raises
    ------
    ValueError
        If a star misses a pixel that others have, there are too few stars, the noise exceeds all residuals, or the
        shrinkage is zero with fewer stars than pixels.

    """
    solved = solved_pixels(problem, theta, s2)
    part = problem.at(solved)
    check_complete(part.ivar, solved)
    fold = np.random.default_rng(0).permutation(len(part.design)) % N_FOLDS
    start = theta[solved]
    held_out = _best_held_out(part, start, scatter, fold)
    fit = _fit(part, start, scatter, held_out.shrinkage)
    scale = held_out.scale(fit.nu)
    basis, variances = _canonical(fit)
    gain = largest_gain(part, fit.theta, fit.weight, np.diag(fit.covariance) * fit.noise**2)
    theta, s2, noise, gradient = (np.full_like(array, np.nan) for array in (theta, s2, s2, s2))
    factors = np.zeros((len(s2), len(variances)))
    theta[solved], noise[solved], gradient[solved] = fit.theta, fit.noise, gain
    factors[solved] = fit.noise[:, None] * basis * np.sqrt(scale * variances)
    s2[:] = np.inf
    s2[solved] = np.maximum((factors[solved] ** 2).sum(axis=1) - fit.noise**2 * (basis**2).sum(axis=1), 0.0)
    learned = CommonCovariance(factors, noise, fit.nu, fit.floor)
    return FullSolution(theta, s2, learned, gradient, fit.weight, held_out.shrinkage, scale, fit.rounds, fit.converged)


def fewest_stars(n_terms: int) -> int:
    """Training stars that a full covariance needs at least, so that each part that is held out leaves enough."""
    return 3 * n_terms + N_FOLDS


def check_stars(n_stars: int, n_terms: int) -> None:
    """Raise ValueError if there are too few training stars."""
    if n_stars < fewest_stars(n_terms):
        raise ValueError(
            f"a full covariance needs at least {fewest_stars(n_terms)} stars with {n_terms} terms, there are {n_stars}"
        )


@dataclass(frozen=True)
class _HeldOut:
    """Training stars, each seen by a covariance of the others.

    Attributes
    ----------
    shrinkage
        Of the covariances.
    log_density
        Mean over the stars.
    chi_squared, n_leading
        Squared length of the leading coordinates, and their number, shape (star,).

    """

    shrinkage: float
    log_density: float
    chi_squared: np.ndarray
    n_leading: np.ndarray

    @classmethod
    def computed(
        cls, problem: PixelProblem, theta: np.ndarray, scatter: FullSettings, shrinkage: float, fold: np.ndarray
    ) -> "_HeldOut":
        """Each fold held out in turn."""
        chi_squared, n_leading, density = np.zeros((3, len(fold)))
        for part in range(N_FOLDS):
            out = fold == part
            fit, others = _fit(problem.of_stars(~out), theta, scatter, shrinkage), problem.of_stars(out)
            chi_squared[out], n_leading[out] = _chi_squared(fit.residual(others), fit), fit.n_leading
            density[out] = fit.log_density(others)
        return cls(shrinkage, float(density.mean()), chi_squared, n_leading)

    def scale(self, nu: float) -> float:
        """Scale of the covariance of the highest likelihood of these stars."""
        if np.isinf(nu):
            return float(self.chi_squared.sum() / self.n_leading.sum())

        def loss(log_scale: float) -> float:
            chi_squared = self.chi_squared / np.exp(log_scale)
            return -float(np.sum(log_density(chi_squared, self.n_leading * log_scale, self.n_leading, nu)))

        return float(np.exp(minimize_scalar(loss, bounds=(-5, 5), method="bounded").x))


def _best_held_out(problem: PixelProblem, theta: np.ndarray, scatter: FullSettings, fold: np.ndarray) -> _HeldOut:
    """The given shrinkage, or that of the highest density of held-out spectra."""
    n_stars, n_terms = problem.design.shape
    check_stars(n_stars, n_terms)
    too_few = n_stars * (N_FOLDS - 1) // N_FOLDS - n_terms <= problem.n_pixels
    if scatter.shrinkage == 0 and too_few:
        raise ValueError(
            f"shrinkage 0 needs a quarter more stars than pixels and terms: there are {n_stars} stars, "
            f"{problem.n_pixels} pixels and {n_terms} terms; give a larger one, or leave it out to have it chosen"
        )
    if scatter.shrinkage is not None:
        return _HeldOut.computed(problem, theta, scatter, scatter.shrinkage, fold)
    tried = SHRINKAGES[1:] if too_few else SHRINKAGES
    best = _HeldOut.computed(problem, theta, scatter, tried[0], fold)
    for shrinkage in tried[1:]:
        other = _HeldOut.computed(problem, theta, scatter, shrinkage, fold)
        if other.log_density < best.log_density:
            break  # Beyond the maximum.
        best = other
    return best


def _fit(problem: PixelProblem, theta: np.ndarray, scatter: FullSettings, shrinkage: float) -> _Fit:
    """Rounds of theta, covariance, tails and weights until the weights settle."""
    n_stars, n_terms = problem.design.shape
    noise = np.sqrt(np.mean(1 / problem.ivar, axis=0))
    span: np.ndarray | None = None
    weight, start = np.ones(n_stars), (1.0, FIRST_NU)  # The second is where the search for scale and nu starts.
    variance = np.mean((problem.flux - problem.design @ theta.T) ** 2, axis=0)
    for rounds in range(1, MAX_ROUNDS + 1):
        theta = shared_weight_theta(problem, theta, weight, variance)
        residual = (problem.flux - problem.design @ theta.T) / noise
        covariance = (residual * weight[:, None]).T @ residual * (n_stars / (n_stars - n_terms) / weight.sum())
        diagonal = np.diag(covariance).copy()
        covariance *= 1 - shrinkage
        np.fill_diagonal(covariance, diagonal)
        fit = _Fit(theta, noise, covariance, None, None, None, 1.0, np.inf, weight, rounds, False)
        fit = _directions(fit, scatter, shrinkage * diagonal.min(), span)
        span = fit.basis
        if scatter.heavy_tails:
            chi_squared = _chi_squared(residual, fit)
            scale, nu = start = _scale_and_nu(chi_squared, fit.n_leading, start)
            new = (nu + fit.n_leading) / (nu + chi_squared / scale)
            fit = _scaled(fit, scale, nu, new / new.mean())
        change = np.abs(fit.weight - weight).max()
        if not is_free(problem):  # Only then does theta depend on the variances.
            change = max(change, np.abs(np.diag(fit.covariance) * noise**2 / variance - 1).max())
        weight, variance = fit.weight, np.diag(fit.covariance) * noise**2
        if change < TOLERANCE:
            fit = replace(fit, converged=True)
            break
    if fit.basis is None:
        return fit
    others = outside((problem.flux - problem.design @ theta.T) / noise, fit.basis).sum() / (n_stars - n_terms)
    return replace(fit, floor=float(others) / (problem.n_pixels - fit.n_leading))


def _scaled(fit: _Fit, scale: float, nu: float, weight: np.ndarray) -> _Fit:
    """The fit with all variances of the leading directions multiplied, and its tails."""
    return replace(
        fit,
        covariance=scale * fit.covariance,
        variances=None if fit.variances is None else scale * fit.variances,
        root=None if fit.root is None else np.sqrt(scale) * fit.root,
        nu=nu,
        weight=weight,
    )


def _scale_and_nu(chi_squared: np.ndarray, n_leading: int, start: tuple[float, float]) -> tuple[float, float]:
    """Scale of the covariance and degrees of freedom of the highest likelihood."""

    def loss(logs: np.ndarray) -> float:
        scale, nu = np.exp(logs)
        return -float(np.mean(log_density(chi_squared / scale, n_leading * logs[0], n_leading, nu)))

    bounds = [(-20, 20), (np.log(SMALLEST_NU), np.log(LARGEST_NU))]
    options = {"xatol": 1e-5, "fatol": 1e-8}
    best = minimize(loss, np.log(start), method="Nelder-Mead", bounds=bounds, options=options)
    return float(np.exp(best.x[0])), float(np.exp(best.x[1]))


def _directions(fit: _Fit, scatter: FullSettings, smallest: float, span: np.ndarray | None) -> _Fit:
    """The fit with its leading directions; ``smallest`` is a variance that no direction falls below.

    The first round decides what they span, and passes it on as ``span``: otherwise the direction of a bad star would
    come and go with its weight, from round to round. A variance within that falls below the share is raised to it.
    """
    if span is None and smallest < scatter.share:
        variances, basis = eigh(fit.covariance)
        leading = variances > scatter.share
        if not leading.any():
            share = scatter.share
            raise ValueError(
                f"no direction of the residuals has {share} of the quoted noise: scale ivar, it is too small"
            )
        span = None if leading.all() else basis[:, leading]
    if span is None:
        return replace(fit, root=cholesky(fit.covariance, lower=True))
    variances, rotation = eigh(span.T @ fit.covariance @ span)
    return replace(fit, basis=span @ rotation[:, ::-1], variances=np.maximum(variances[::-1], scatter.share))


def _canonical(fit: _Fit) -> tuple[np.ndarray, np.ndarray]:
    """Leading directions and their variances, the strongest first, the largest number of each positive."""
    if fit.basis is None or fit.variances is None:
        variances, basis = (array[..., ::-1] for array in eigh(fit.covariance))
    else:
        variances, basis = fit.variances, fit.basis
    return with_positive_peaks(basis), variances
