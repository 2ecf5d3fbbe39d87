r"""Weighted lasso with bounds, from the Gram matrix alone.

.. math:: \min_\theta \; \tfrac12 \theta^T G \theta - b^T \theta + \sum_d \lambda_d |\theta_d|,
          \qquad l \le \theta \le u

Each round is one Newton step on the terms that are neither zero nor at a bound, with their signs held, followed by a
few sweeps of coordinate descent, which find the active set. Neither ever raises the objective (`newton_move`). Once
the active set is right, the Newton step reaches the optimum, which takes a handful of rounds in all; zeros are exact.
(Coordinate descent: Friedman, Hastie & Tibshirani 2010, eq. 9; the active-set step as in Osborne et al. 2000.)
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bayes_cannon.core.typing import Array, PerTerm, PerTermMask, Scalar, TermPixels, TermTerm, TermTermPixels
from bayes_cannon.execution.finished import finished
from bayes_cannon.training.certificate import active_terms, solve_safely

SWEEPS = 2
"""Sweeps of coordinate descent after each Newton step."""
MAX_ROUNDS = 100
"""Rounds at most, each a Newton step and its sweeps."""


class LassoState(NamedTuple):
    """Where the iteration stands.

    Attributes
    ----------
    theta
        Coefficients, shape (term,).
    gradient
        ``b - G theta``, shape (term,).
    residual
        Largest change that one coordinate alone would make, in units of the square root of the objective.
    rounds
        Rounds so far.

    """

    theta: Array
    gradient: Array
    residual: Array
    rounds: Array


def coordinate_optimum(
    value: Array, gradient: Array, curvature: Array, lam: Array, lower: Array, upper: Array
) -> Array:
    """Optimum of one coordinate, the others held: soft thresholding, then the bounds. Works elementwise on arrays."""
    z = gradient + curvature * value
    return jnp.clip(jnp.sign(z) * jnp.maximum(jnp.abs(z) - lam, 0.0) / curvature, lower, upper)


def coordinate_descent(
    gram: TermTermPixels,
    gradient: TermPixels,
    lam: TermPixels,
    lower: TermPixels,
    upper: TermPixels,
    theta: TermPixels,
    *,
    sweeps: int | Array,
) -> tuple[jax.Array, jax.Array]:
    """Sweeps over all coordinates in turn, each set to its optimum.

    Every array may have one more axis at its end, the pixel: with pixels side by side in memory the sweeps are several
    times as fast as pixel after pixel.

    Parameters
    ----------
    gram, lam, lower, upper, theta
        As for `gram_lasso`; theta within the bounds.
    gradient
        ``b - G theta``, shape (term,).
    sweeps
        Number of sweeps.

    Returns
    -------
    theta, gradient
        At the new point, shape (term,).

    """

    def update(i: Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        theta, gradient = carry
        d = i % len(lam)
        curvature = gram[d, d]
        moves = curvature > 0
        best = coordinate_optimum(theta[d], gradient[d], jnp.where(moves, curvature, 1.0), lam[d], lower[d], upper[d])
        # So that theta is changed in place.
        new, old = finished((jnp.where(moves, best, theta[d]), theta[d]))
        return theta.at[d].set(new), gradient - gram[d] * (new - old)

    return jax.lax.fori_loop(0, sweeps * len(lam), update, (jnp.asarray(theta), jnp.asarray(gradient)))


def symmetric_product(row: Callable[[Array], Array], vector: TermPixels) -> jax.Array:
    """``G v`` of many pixels, with the pixels side by side in memory, shape (term, ..., pixel).

    Summed column by column, because a batched product works on one pixel after the other, which is several times as
    slow.

    Parameters
    ----------
    row
        Returns a row of G, which is symmetric, shape (term, ..., pixel). It may compute it on demand, because with many
        terms all rows together do not fit into the cache.
    vector
        Shape (term, pixel).

    """
    one = jax.eval_shape(row, jnp.asarray(0))
    first = jnp.zeros(one.shape, jnp.result_type(one, vector))
    return jax.lax.fori_loop(0, len(vector), lambda e, total: total + row(e) * vector[e], first, unroll=3)


def newton_move(
    gram: TermTerm,
    gradient: PerTerm,
    theta: PerTerm,
    step: PerTerm,
    active: PerTermMask,
    lam: PerTerm,
    lower: PerTerm,
    upper: PerTerm,
) -> jax.Array:
    """Theta after a step on the active terms, with every sign and bound kept.

    Returns the better of two moves: the whole step with all terms that would change sign set to zero, which drops many
    terms at once, and the part of the step up to the first such term, which never raises the objective. ``gradient`` is
    ``b - G theta``.
    """
    ahead = jnp.where(step > 0, upper, lower)
    ahead = jnp.where((lam > 0) & (theta * step < 0) & (theta * ahead < 0), 0.0, ahead)
    room = jnp.where(active & (step != 0), (ahead - theta) / jnp.where(step == 0, 1.0, step), jnp.inf)
    length = jnp.minimum(1.0, jnp.min(room))
    partly = jnp.where(active, jnp.where(room <= length, ahead, theta + length * step), theta)
    wholly = jnp.where(active, jnp.where(room <= 1.0, ahead, theta + step), theta)

    # The difference of their objectives, from one product with the difference of the moves: nothing cancels.
    between, beyond = 0.5 * (partly + wholly) - theta, wholly - partly
    more = jnp.dot(beyond, gram @ between - gradient) + jnp.sum(lam * (jnp.abs(wholly) - jnp.abs(partly)))
    return jnp.where(more <= 0, wholly, partly)


def gram_lasso(
    gram: TermTerm,
    right: PerTerm,
    lam: PerTerm,
    lower: PerTerm,
    upper: PerTerm,
    theta: PerTerm,
    *,
    tolerance: Scalar,
    max_rounds: int | Array = MAX_ROUNDS,
) -> LassoState:
    """Minimize by Newton steps on the active set and coordinate descent (see the module's docstring).

    Parameters
    ----------
    gram, right
        ``G = A^T A``, shape (term, term), and ``b = A^T y``, shape (term,).
    lam
        Weight of the absolute value of each term, shape (term,), not negative.
    lower, upper
        Bounds, shape (term,); equal for a fixed term.
    theta
        Where to start, shape (term,); it is clipped to the bounds.
    tolerance
        On `LassoState.residual`.
    max_rounds
        Number of rounds at most.

    Not checked: that ``gram`` is positive semi-definite.

    """
    diagonal = jnp.diagonal(gram)
    moves = (diagonal > 0) & (lower < upper)
    curvature = jnp.where(moves, diagonal, 1.0)

    def newton(theta: Array, gradient: Array) -> tuple[Array, Array]:
        active = moves & active_terms(theta, lam, lower, upper)
        step = solve_safely(gram, gradient - lam * jnp.sign(theta), active)
        moved = newton_move(gram, gradient, theta, step, active, lam, lower, upper)
        return moved, right - gram @ moved

    def one_round(state: LassoState) -> LassoState:
        theta, gradient = newton(state.theta, state.gradient)
        theta, _ = coordinate_descent(gram, gradient, lam, lower, upper, theta, sweeps=SWEEPS)
        gradient = right - gram @ theta
        change = coordinate_optimum(theta, gradient, curvature, lam, lower, upper) - theta
        residual = jnp.max(jnp.where(moves, jnp.abs(change) * jnp.sqrt(curvature), 0.0))
        return LassoState(theta, gradient, residual, state.rounds + 1)

    start = jnp.clip(theta, lower, upper)
    first = LassoState(start, right - gram @ start, jnp.asarray(jnp.inf, gram.dtype), jnp.asarray(0))
    return jax.lax.while_loop(lambda s: (s.residual > tolerance) & (s.rounds < max_rounds), one_round, first)
