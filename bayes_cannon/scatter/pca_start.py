"""Principal components of the residuals of a model: starting values of the latent factors."""

import numpy as np
from scipy.linalg import eigh
from scipy.sparse.linalg import svds

from bayes_cannon.core.likelihood import masked, weights
from bayes_cannon.training.problem import PixelProblem

LARGEST_GRAM = 3000
"""Largest number of stars or pixels for which the Gram matrix is made and factored; Lanczos iterations need none."""
SMALLEST_SHARE = 0.02
"""A component keeps at least this share of its variance, lest a factor start at zero, where it would stay."""


def principal_factors(
    problem: PixelProblem, theta: np.ndarray, s2: np.ndarray, factors: np.ndarray, n_new: int
) -> tuple[np.ndarray, np.ndarray]:
    """Factors of the largest principal components of the residuals, each pixel in units of its mean error.

    Parameters
    ----------
    problem
        The pixels.
    theta, s2
        Shape (pixel, term) and (pixel,).
    factors
        Existing factors, shape (pixel, factor); the residuals are taken orthogonal to them.
    n_new
        Number of further factors.

    Returns
    -------
    more
        Shape (pixel, n_new). A component of variance l, the noise's being one, has a factor of length ``sqrt(l - 1)``.
    s2
        s2 without the variance of the new factors, at least a twentieth of it.

    """
    w = weights(problem.ivar, s2)
    n_known = np.maximum((problem.ivar > 0).sum(axis=0), 1)
    root = np.sqrt(w.sum(axis=0) / n_known)
    residual = (masked(problem.flux, problem.ivar) - problem.design @ theta.T) * (problem.ivar > 0) * root
    if factors.shape[1]:
        basis, _ = np.linalg.qr(factors * root[:, None])
        residual -= (residual @ basis) @ basis.T
    values, vectors = _leading(residual, n_new)
    variance = values**2 / len(residual)
    length = np.sqrt(np.maximum(variance - 1, SMALLEST_SHARE * variance))
    more = vectors * length / root[:, None]
    return more, np.maximum(s2 - (more**2).sum(axis=1), 0.05 * s2)


def with_positive_peaks(vectors: np.ndarray) -> np.ndarray:
    """Columns, each with the sign that makes its number of the largest size positive."""
    peaks = vectors[np.argmax(np.abs(vectors), axis=0), np.arange(vectors.shape[1])]
    return vectors * np.where(peaks < 0, -1.0, 1.0)


def _leading(matrix: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Largest singular values, in descending order, and their right singular vectors, shape (column, n)."""
    rows, columns = matrix.shape
    small = min(rows, columns)
    if small > max(LARGEST_GRAM, 4 * n):
        _, values, vectors = svds(matrix, k=n, v0=np.ones(small), solver="arpack")
        return values[::-1], vectors[::-1].T
    gram = matrix @ matrix.T if rows < columns else matrix.T @ matrix
    squares, sides = eigh(gram, subset_by_index=[small - n, small - 1])
    values, sides = np.sqrt(np.maximum(squares[::-1], 0.0)), sides[:, ::-1]
    if rows >= columns:
        return values, sides
    tiny = np.finfo(float).tiny
    return values, (matrix.T @ sides) / np.maximum(values, tiny)
