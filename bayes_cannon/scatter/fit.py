"""From the optimum of the independent model to theta, s2 and correlated scatter together."""

import warnings
from dataclasses import replace

import numpy as np

from bayes_cannon.core.status import PixelStatus
from bayes_cannon.scatter.full import train_full
from bayes_cannon.scatter.full_labels import log_likelihoods_full
from bayes_cannon.scatter.known_noise import train_given
from bayes_cannon.scatter.low_rank import SMALLEST_NU, log_likelihoods, posterior_factors, train_factors
from bayes_cannon.scatter.one_pixel import star_precisions
from bayes_cannon.scatter.settings import Correlation, Full, Given, Scatter
from bayes_cannon.training.problem import PixelProblem, PixelSolution
from bayes_cannon.training.train import TrainingWarning

LONE_SHARE = 0.5
"""Share of a latent factor's squares over the training stars above which one star makes it."""


def train_scatter(
    problem: PixelProblem,
    solution: PixelSolution,
    scatter: Scatter,
    *,
    correlation: Correlation | None = None,
) -> tuple[PixelSolution, Correlation]:
    """Theta, s2 and the correlation of the scatter together, from the optimum of the independent model.

    Parameters
    ----------
    problem
        The pixels.
    solution
        Of the independent model, as `training.train` returns it.
    scatter
        The family and its settings.
    exponents, x
        As for `training.train`.
    correlation
        Factors to start from, at most as many as the rank; a full covariance needs none.

    Returns
    -------
    solution
        The joint optimum. Its certificates are those of the whole likelihood: ``duality_gap`` is the square of the
        largest gain that a single coefficient of theta or U would bring, in units of the training scalar; the
        objective of a single pixel is not defined and NaN, and so is the profile gradient.
    correlation
        What was learned of it.

    Raises
    ------
    ValueError
        If there are too few stars or pixels for the rank, or for a full covariance.

    """
    if isinstance(scatter, Full):
        full = train_full(problem, solution.theta, solution.s2, scatter)
        together = _together(solution, full.theta, full.s2, full.gradient**2, full.rounds, full.converged)
        return together, full.correlation
    if isinstance(scatter, Given):
        given = train_given(problem, solution.theta, solution.s2, scatter)
        rounds = len(given.log_likelihood)
        together = _together(solution, given.theta, given.s2, given.gradient**2, rounds, given.converged)
        return together, given.correlation
    if correlation is not None and (correlation.noise is not None or correlation.rank > scatter.rank):
        correlation = None
    fit = train_factors(
        problem,
        solution.theta,
        solution.s2,
        rank=scatter.rank,
        factors=None if correlation is None else correlation.factors,
        heavy_tails=scatter.heavy_tails,
        tolerance=scatter.tolerance,
    )
    rounds = len(fit.log_likelihood) - 1
    together = _together(solution, fit.theta, fit.s2, fit.gradient**2, rounds, fit.converged)
    return together, Correlation(fit.factors, fit.nu)


def _together(
    solution: PixelSolution, theta: np.ndarray, s2: np.ndarray, gap: np.ndarray, rounds: int, converged: bool
) -> PixelSolution:
    """The solution of the independent model with what was learned from all pixels together."""
    nothing, solved = np.full(len(s2), np.nan), np.isfinite(s2)
    status = np.where(solved & (not converged), PixelStatus.MAX_ITERATIONS, solution.status)
    return replace(
        solution, theta=theta, s2=s2, objective=nothing, duality_gap=gap, profile_gradient=nothing.copy(),
        iterations=np.where(solved, rounds, 0), status=status,
    )  # fmt: skip


def hit_bound(correlation: Correlation) -> bool:
    """Whether the degrees of freedom ended at their lower bound."""
    return correlation.nu <= 1.01 * SMALLEST_NU


def spectrum_log_likelihoods(
    problem: PixelProblem, solution: PixelSolution, correlation: Correlation | None
) -> np.ndarray:
    """Log density of each star's spectrum given its labels, whatever the scatter, shape (star,).

    The stars are those of ``problem``; the same pixels count for every family, so that densities compare.
    """
    spectra = problem.design, problem.flux, problem.ivar
    if correlation is not None and correlation.noise is not None:
        return log_likelihoods_full(*spectra, theta=solution.theta, correlation=correlation)
    used = correlation or Correlation(np.zeros((problem.n_pixels, 1)))
    return log_likelihoods(*spectra, theta=solution.theta, s2=solution.s2, factors=used.factors, nu=used.nu)


def warn_of_lone_stars(problem: PixelProblem, solution: PixelSolution, correlation: Correlation | None) -> None:
    """A warning that names the stars each of which alone makes a latent factor."""
    if correlation is None or correlation.noise is not None:
        return
    z = posterior_factors(
        problem.design, problem.flux, problem.ivar, theta=solution.theta, s2=solution.s2, factors=correlation.factors
    )
    # With heavy tails the factors of a star are as wide as its tau says.
    weights = star_precisions(problem, solution.theta, solution.s2, correlation)
    square = z**2 if weights is None else weights[:, None] * z**2
    share = square / np.maximum(square.sum(axis=0), np.finfo(float).tiny)
    lone = np.argwhere((share > LONE_SHARE).T)
    if len(lone) and len(z) > 2 / LONE_SHARE:
        named = ", ".join(f"factor {factor} by star {star}" for factor, star in lone[:5])
        warnings.warn(
            f"{len(lone)} of {correlation.rank} latent factors come from one star each: {named}. Leave bad stars out, "
            "or use heavy_tails=True",
            TrainingWarning,
            stacklevel=3,
        )


def warn_of_tails(correlation: Correlation | None) -> None:
    """A warning where heavy tails are none."""
    if correlation is not None and hit_bound(correlation):
        warnings.warn(
            f"the degrees of freedom ended at their lower bound, {SMALLEST_NU}: the spread in scale between the stars "
            "is no heavy tail but wrong noise. Scale ivar, raise the rank or leave heavy_tails out",
            TrainingWarning,
            stacklevel=3,
        )
