"""What the law of a single pixel takes from scatter that pixels share: its whole variance, and the weights of stars."""

import numpy as np

from bayes_cannon.scatter.full_labels import posterior_precisions_full
from bayes_cannon.scatter.low_rank import posterior_precisions
from bayes_cannon.scatter.settings import Correlation
from bayes_cannon.training.problem import PixelProblem


def star_precisions(
    problem: PixelProblem, theta: np.ndarray, s2: np.ndarray, correlation: Correlation | None
) -> np.ndarray | None:
    """Tau of each training star by which heavy tails divide its variances, shape (star,); None for normal tails.

    Parameters
    ----------
    problem
        The pixels.
    theta, s2, correlation
        The trained model, theta of shape (pixel, term), s2 of shape (pixel,).

    Raises
    ------
    ValueError
        If the covariance is full and a star misses a pixel.

    """
    if correlation is None or not np.isfinite(correlation.nu):
        return None
    spectra = problem.design, problem.flux, problem.ivar
    if correlation.noise is not None:
        return posterior_precisions_full(*spectra, theta=theta, correlation=correlation)
    return posterior_precisions(*spectra, theta=theta, s2=s2, factors=correlation.factors, nu=correlation.nu)


def whole_scatter(problem: PixelProblem, s2: np.ndarray, correlation: Correlation | None) -> np.ndarray:
    """Variance of the whole scatter of each pixel, with what it shares with others, shape (pixel,)."""
    if correlation is None:
        return s2
    known = problem.ivar > 0
    noise = np.where(known, 1.0 / np.where(known, problem.ivar, 1.0), 0.0).sum(axis=0)
    return correlation.whole_scatter(s2, noise / np.maximum(known.sum(axis=0), 1))
