r"""How far (theta, s^2) is from the optimum: a duality gap for theta, the gradient of the profile for s^2.

At fixed s^2 the problem of a pixel is convex. With the rows of design and flux scaled by :math:`\sqrt{w_n}` to A and b,
and :math:`\lambda = \Lambda / 2`, it is :math:`\min_\theta \frac12 |b - A\theta|^2 + \sum_d h_d(\theta_d)`, where
:math:`h_d` is the penalty and the bounds of one term. Any u gives a lower bound on it, so that

.. math:: \mathrm{gap} = \tfrac12 |r - u|^2 + \sum_d \left[ h_d(\theta_d) + h_d^*(z_d) - z_d \theta_d \right],
          \qquad r = b - A\theta, \quad z = A^T u

bounds how far theta is from the optimum, in units of the objective. Each bracket is a Fenchel-Young term and not
negative, so that nothing cancels. For u we take the residual minus a combination of the active columns that makes
:math:`z_d = \lambda_d \,\mathrm{sgn}\,\theta_d` on them, which is zero for unpenalized ones, and shrink it until every
other conjugate is finite. Without any penalty the gap is the residual of the normal equations in the metric of the Gram
matrix. It follows from the Gram matrix, the gradient :math:`g = A^T r` and :math:`|r|^2` alone.
"""

import jax
import jax.numpy as jnp
import numpy as np

from bayes_cannon.core.likelihood import log_variance, masked, weights
from bayes_cannon.core.typing import (
    Array,
    PerPixel,
    PerTerm,
    PerTermMask,
    PixelsTerm,
    PixelTerm,
    Scalar,
    StarPixel,
    StarTerm,
    TermTerm,
)
from bayes_cannon.execution.compiled_programs import make_room
from bayes_cannon.execution.jax_settings import own_jax_settings
from bayes_cannon.training.problem import PixelProblem

SAFE_RIDGE = 1e-9
"""Relative ridge with which a matrix is factored that rounding has made indefinite."""


def relative_gap(
    gram: TermTerm,
    gradient: PerTerm,
    chi_squared: Scalar,
    theta: PerTerm,
    lam: PerTerm,
    lower: PerTerm,
    upper: PerTerm,
    *,
    projected: PerTermMask | None = None,
    delta: PerTerm | None = None,
    errors: tuple[Scalar, Scalar] = (0.0, 0.0),
) -> Array:
    """Duality gap of theta at fixed s2, relative to ``sum w r^2 + Lambda |theta|_1``.

    Parameters
    ----------
    gram
        ``A^T A``, shape (term, term). Columns for which ``delta`` is zero affect the scale of the gap only.
    gradient
        ``A^T r``, shape (term,).
    chi_squared
        ``|r|^2 = sum w r^2``.
    theta, lower, upper
        Coefficients and their bounds, shape (term,).
    lam
        Half of Lambda for each term, 0 for the constant, shape (term,).
    projected, delta
        The columns to project on and the coefficients of the residual there, shape (term,), where they are known.
        By default both all active terms, which is best near the optimum, and the unpenalized ones alone are tried, and
        the smaller gap is returned.
    errors
        Bounds on the relative error epsilon of the weights in ``gram``, and on its rounding error in units of
        ``sqrt(G_dd G_ee)``; small compared with 1. The gap is then the largest that is consistent with such errors.
        With a rounding error only the constant may be unpenalized and unbounded.

    Returns
    -------
    gap
        A scalar, not negative. The denominator is at least 1e-12 of ``sum w y^2``, because an exact fit leaves only
        rounding errors.

    """
    wanted = lam * jnp.sign(theta)
    if projected is None or delta is None:
        active = active_terms(theta, lam, lower, upper)
        choices = active, active & (lam == 0)
        deltas = (solve_safely(gram, gradient - wanted, columns) for columns in choices)
        point = (gram, gradient, chi_squared, theta, lam, lower, upper)
        gaps = [relative_gap(*point, projected=p, delta=d) for p, d in zip(choices, deltas, strict=True)]
        return jnp.minimum(*gaps)

    fitted, by_weights, rounding = gram @ delta, *errors
    z = jnp.where(projected, wanted, gradient - fitted)

    # The effect of rounding on z, as |G_de| <= |A_d| |A_e|, and of the constant's column that undoes that on z_0.
    length = jnp.sqrt(jnp.abs(jnp.diagonal(gram)))
    reach = jnp.dot(length, jnp.abs(delta))
    radius = jnp.where(projected, 0.0, (1 + jnp.sqrt((1 + by_weights) / (1 - by_weights))) * rounding * reach * length)

    # The conjugate of a term that is unbounded on one side is finite only up to lam on that side.
    over = jnp.where(jnp.isinf(upper), z, 0.0), jnp.where(jnp.isinf(lower), -z, 0.0)
    largest = jnp.where((lower == upper) | projected, 0.0, jnp.maximum(*over) + radius)
    shrink = jnp.min(jnp.where(largest > lam, lam / jnp.where(largest > 0, largest, 1.0), 1.0))

    # |r - u|^2 for u = shrink (r - (1 + e) A delta), with the error e of each weight.
    size = jnp.maximum(jnp.dot(delta, fitted), 0.0) + rounding * reach**2
    along = jnp.dot(gradient, delta) + by_weights * jnp.sqrt(chi_squared * size / (1 - by_weights))
    distance = (1 - shrink) ** 2 * chi_squared + 2 * (1 - shrink) * shrink * along
    distance += shrink**2 * (1 + by_weights) * size
    distance = (jnp.sqrt(jnp.maximum(distance, 0.0)) + 2 * rounding * reach) ** 2
    penalty = lam * jnp.abs(theta)
    # Convex in z, hence largest at an end of the interval of z.
    ends = (shrink * (z - radius), shrink * (z + radius))
    fenchel = jnp.maximum(*(penalty + _conjugate(z, lam, lower, upper) - z * theta for z in ends))
    gap = 0.5 * distance + jnp.sum(jnp.maximum(jnp.where(projected & (lam == 0), 0.0, fenchel), 0.0))
    return 2 * gap / gap_scale(gram, gradient, chi_squared, theta, lam)


def gap_scale(gram: TermTerm, gradient: PerTerm, chi_squared: Scalar, theta: PerTerm, lam: PerTerm) -> Array:
    """Denominator of `relative_gap`: ``sum w r^2 + Lambda |theta|_1``, or rounding where that is larger."""
    flux_squared = chi_squared + 2 * jnp.dot(theta, gradient) + jnp.dot(theta, gram @ theta)
    scale = jnp.maximum(chi_squared + 2 * jnp.sum(lam * jnp.abs(theta)), 1e-12 * jnp.abs(flux_squared))
    return jnp.maximum(scale, jnp.finfo(theta.dtype).tiny)


def active_terms(theta: PixelsTerm, lam: PixelsTerm, lower: PixelsTerm, upper: PixelsTerm) -> Array:
    """Terms on which the objective is smooth: neither zero under a penalty nor at a bound."""
    return ((theta != 0) | (lam == 0)) & (theta > lower) & (theta < upper)


def _conjugate(z: PerTerm, lam: PerTerm, lower: PerTerm, upper: PerTerm) -> Array:
    """Largest ``z t - lam |t|`` over the interval: attained at a finite end, or at zero."""
    at_end = [jnp.where(jnp.isinf(end), -jnp.inf, z * end - lam * jnp.abs(end)) for end in (lower, upper)]
    at_zero = jnp.where((lower <= 0) & (upper >= 0), 0.0, -jnp.inf)
    return jnp.maximum(jnp.maximum(*at_end), at_zero)


def solve_masked(gram: TermTerm, right: Array, mask: PerTermMask, *, ridge: float = 1e-13) -> Array:
    """Solution of the system of the rows and columns in the mask, zero elsewhere; a relative ridge keeps it finite.

    ``right`` has shape (term,), or (term, k) for several right-hand sides.
    """
    return solution_and_pivot(gram, right, mask, ridge=ridge)[0]


def solve_safely(gram: TermTerm, right: Array, mask: PerTermMask) -> Array:
    """As `solve_masked`, with a larger ridge where rounding made the matrix indefinite; for iterations to refine."""
    solution = solve_masked(gram, right, mask)
    return jnp.where(jnp.isfinite(solution).all(), solution, solve_masked(gram, right, mask, ridge=SAFE_RIDGE))


def solution_and_pivot(gram: TermTerm, right: Array, mask: PerTermMask, *, ridge: float = 1e-13) -> tuple[Array, Array]:
    """`solve_masked`, together with `smallest_pivot` of the same factorization."""
    factor, unit = _masked_factor(gram, mask, ridge)
    pivot = jnp.min(jnp.where(mask, jnp.diagonal(factor) ** 2, jnp.inf))
    unit = unit.reshape(-1, *[1] * (right.ndim - 1))
    half = jax.scipy.linalg.solve_triangular(factor, right * unit, lower=True)
    return jax.scipy.linalg.solve_triangular(factor, half, lower=True, trans=1) * unit, pivot


def inverse_masked(gram: TermTerm, mask: PerTermMask) -> Array:
    """Inverse of the rows and columns in the mask, zero elsewhere, shape (term, term)."""
    factor, unit = _masked_factor(gram, mask)
    inverse = jax.scipy.linalg.cho_solve((factor, True), jnp.eye(len(unit), dtype=gram.dtype))
    return jnp.where(mask[:, None] & mask[None, :], inverse * (unit[:, None] * unit[None, :]), 0.0)


def smallest_pivot(gram: TermTerm, mask: PerTermMask) -> Array:
    """Smallest squared pivot of the Gram matrix scaled to a unit diagonal; about 1e-13 where columns are dependent.

    It is zero where rounding has made the matrix indefinite.
    """
    factor, _ = _masked_factor(gram, mask)
    return jnp.nan_to_num(jnp.min(jnp.where(mask, jnp.diagonal(factor) ** 2, jnp.inf)), nan=0.0, posinf=jnp.inf)


def _masked_factor(gram: TermTerm, mask: PerTermMask, ridge: float = 1e-13) -> tuple[Array, Array]:
    """Cholesky factor of the masked matrix, scaled to a unit diagonal, and the scale of each term, zero elsewhere."""
    scale = jnp.where(mask & (jnp.diagonal(gram) > 0), jnp.sqrt(jnp.abs(jnp.diagonal(gram))), 1.0)
    unit = mask / scale
    # Transposed, so that LAPACK, which wants columns contiguous, reads it in place; the matrix is symmetric.
    scaled = jnp.where(mask[:, None] & mask[None, :], gram.T * (unit[:, None] * unit[None, :]), 0.0)
    system = scaled + jnp.eye(len(scale), dtype=gram.dtype) * jnp.where(mask, ridge, 1.0)
    # Only one triangle is read; symmetrizing the matrix would cost a transposed copy.
    return jnp.linalg.cholesky(system, symmetrize_input=False), unit


@jax.jit
def _certify_block(
    design: StarTerm,
    flux: StarPixel,
    ivar: StarPixel,
    regularization: PerPixel,
    lower: PixelTerm,
    upper: PixelTerm,
    theta: PixelTerm,
    s2: PerPixel,
) -> tuple[PerPixel, PerPixel, PerPixel]:
    def one(pixel: tuple[Array, ...]) -> tuple[Array, Array, Array]:
        flux, ivar, regularization, lower, upper, theta, s2 = pixel
        w = weights(ivar, s2)
        residual = flux - design @ theta
        gram, gradient = design.T @ (w[:, None] * design), design.T @ (w * residual)
        chi_squared = jnp.sum(w * residual**2)
        lam = 0.5 * regularization * (jnp.arange(len(theta)) > 0)
        objective = chi_squared + jnp.sum(log_variance(ivar, s2)) + 2 * jnp.sum(lam * jnp.abs(theta))
        gap = relative_gap(gram, gradient, chi_squared, theta, lam, lower, upper)
        return objective, gap, jnp.sum(w * (1 - w * residual**2)) / jnp.sum(w)

    certificates: tuple[Array, Array, Array] = jax.lax.map(
        one, (flux.T, ivar.T, regularization, lower, upper, theta, s2)
    )
    return certificates


def certify(problem: PixelProblem, theta: np.ndarray, s2: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Objective, relative duality gap and profile gradient of each pixel, at any (theta, s2).

    It is independent of how the point was found, so that it checks every solver. It costs one Gram matrix a pixel, and
    the certificate of pixels without a solution is NaN.

    Returns
    -------
    objective, duality_gap, profile_gradient
        Shape (pixel,) each, as in `PixelSolution`.

    """
    make_room()
    with own_jax_settings():
        out = _certify_block(
            problem.design, masked(problem.flux, problem.ivar), problem.ivar, problem.regularization,
            problem.lower, problem.upper, theta, s2,
        )  # fmt: skip
        objective, gap, gradient = (np.array(array) for array in out)
    solved = (problem.unsolvable() == 0) & np.isfinite(theta).all(axis=1)
    objective, gap, gradient = (np.where(solved, array, np.nan) for array in (objective, gap, gradient))
    return objective, gap, gradient
