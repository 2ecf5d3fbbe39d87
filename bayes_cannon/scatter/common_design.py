"""Theta where every pixel gives the stars the same weights: one Gram matrix for all pixels."""

import jax
import jax.numpy as jnp
import numpy as np

from bayes_cannon.core.typing import Array
from bayes_cannon.execution.jax_settings import own_jax_settings
from bayes_cannon.training.lasso import coordinate_optimum, gram_lasso
from bayes_cannon.training.problem import PixelProblem

LASSO_TOLERANCE = 1e-9
"""On the largest single-coordinate change, in units of the square root of the scalar."""


def is_free(problem: PixelProblem) -> bool:
    """Whether there is neither a penalty nor a bound."""
    return not problem.regularization.any() and bool(np.isinf(problem.lower).all() and np.isinf(problem.upper).all())


def shared_weight_theta(
    problem: PixelProblem, theta: np.ndarray, weight: np.ndarray, variance: np.ndarray
) -> np.ndarray:
    """Least squares with the stars' weights; with a penalty or bounds a lasso of each pixel with its variance.

    Parameters
    ----------
    problem
        The pixels, with complete spectra.
    theta
        Where the lasso starts, shape (pixel, term).
    weight, variance
        Of the stars, shape (star,), and of the pixels, shape (pixel,).

    """
    if is_free(problem):
        root = np.sqrt(weight)[:, None]
        return np.linalg.lstsq(root * problem.design, root * problem.flux, rcond=None)[0].T
    weighted = weight[:, None] * problem.design
    gram, right = weighted.T @ problem.design, (weighted.T @ problem.flux).T

    with own_jax_settings():
        return np.array(
            _lassos(gram, right, _half_penalty(problem), problem.lower, problem.upper, theta, variance)
        )  # fmt: skip


@jax.jit
def _lassos(
    gram: Array, right: Array, lam: Array, lower: Array, upper: Array, theta: Array, variance: Array
) -> jax.Array:
    """Theta of every pixel, shape (pixel, term), from one Gram matrix and the right-hand sides of all."""

    def one(right: Array, lam: Array, lower: Array, upper: Array, theta: Array, variance: Array) -> jax.Array:
        scaled = gram / variance, right / variance
        return jnp.asarray(gram_lasso(*scaled, lam, lower, upper, theta, tolerance=LASSO_TOLERANCE).theta)

    return jax.vmap(one)(right, lam, lower, upper, theta, variance)


def largest_gain(problem: PixelProblem, theta: np.ndarray, weight: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Largest change that one coefficient alone would make, in units of the root of the scalar, shape (pixel,)."""
    weighted = weight[:, None] * problem.design
    curvature = np.sum(weighted * problem.design, axis=0) / variance[:, None]
    gradient = ((problem.flux - problem.design @ theta.T).T @ weighted) / variance[:, None]
    with own_jax_settings():
        bounds = problem.lower, problem.upper
        best = np.asarray(coordinate_optimum(theta, gradient, curvature, _half_penalty(problem), *bounds))
    return np.max(np.abs(best - theta) * np.sqrt(curvature), axis=1)


def _half_penalty(problem: PixelProblem) -> np.ndarray:
    """Half of Lambda for every term but the constant, shape (pixel, term)."""
    return 0.5 * np.where(np.arange(problem.design.shape[1]) > 0, problem.regularization[:, None], 0.0)
