r"""The safe way to the joint optimum of a pixel: Newton's method on the exact profile, within a bracket.

Every step makes the Gram matrix of its s^2 from the data and solves the lasso to the end, so that p' and p'' are those
of the profile itself,

.. math:: p' = \sum w (1 - w r^2), \qquad p'' = \sum w^2 (2 w r^2 - 1) - 2 c_A^T G_{AA}^{-1} c_A, \quad c = \sum w^2 r v

and the sign of p' brackets the root. It costs a pass over the moments a step. Pixels come here where `joint_newton`
did not converge, where the noise varies too much for the interpolation, and to settle between two minima.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bayes_cannon.core.likelihood import log_variance, weights
from bayes_cannon.core.typing import Array
from bayes_cannon.training.certificate import active_terms, relative_gap, smallest_pivot, solve_masked
from bayes_cannon.training.lasso import gram_lasso
from bayes_cannon.training.profile.blocks import Pixels, Training, gram_matrix, known_flux
from bayes_cannon.training.profile.halley import halley_s2
from bayes_cannon.training.profile.joint_newton import residual_sums

GRADIENT_TOLERANCE = 1e-9
"""On p' over the sum of the weights."""
LASSO_TOLERANCE = 1e-8
"""On the largest single-coordinate change, in units of the noise of one star."""
PATIENCE = 8
"""Newton steps after which every other one is a bisection, which ends what Newton's method does not."""
MAX_STEPS = 60
"""Steps at most."""


class Refined(NamedTuple):
    """State of the search; everything but the bracket and ``next_s2`` belongs to the point (theta, s2).

    Attributes
    ----------
    low, high
        Where p' was negative and positive.
    objective, gap, gradient
        As in `training.profile.joint_newton.Point`.
    pivot
        Smallest pivot of the scaled Gram matrix over the terms that are not fixed.

    """

    s2: Array
    theta: Array
    low: Array
    high: Array
    next_s2: Array
    objective: Array
    gap: Array
    gradient: Array
    pivot: Array
    steps: Array
    done: Array


@jax.jit
def refine(training: Training, moments: Array, block: Pixels, theta: Array, s2: Array) -> Refined:
    """Local optimum of the profile of every pixel, from (theta, s2), shape (pixel, term) and (pixel,).

    The moments, shape (star, moment), are those in float64.
    """
    return jax.vmap(partial(_refine, training, moments))(block, theta, s2)


def _refine(training: Training, moments: Array, pixel: Pixels, theta: Array, s2: Array) -> Refined:
    known, flux = known_flux(pixel)
    n_stars = jnp.sum(known)
    centre = n_stars / jnp.sum(pixel.ivar)
    lam, bounds = pixel.lam, (pixel.lower, pixel.upper)

    def step(state: Refined) -> Refined:
        s2 = state.next_s2
        w = weights(pixel.ivar, s2)
        gram = gram_matrix(training, w @ moments)
        tolerance = LASSO_TOLERANCE * jnp.sqrt(n_stars)
        right = (w * flux) @ training.design
        theta = gram_lasso(gram, right, lam, *bounds, state.theta, tolerance=tolerance).theta
        at = residual_sums(training, pixel, theta, s2)

        active = active_terms(theta, lam, *bounds)
        bend = at.bend - 2 * jnp.dot(at.cross, solve_masked(gram, at.cross, active))
        ahead = halley_s2(s2, at.slope, bend, at.bend, jnp.sum(w**2), jnp.sum(w**3), centre)
        low = jnp.where(at.slope < 0, s2, state.low)
        high = jnp.where(at.slope > 0, s2, state.high)
        resolved = jnp.isfinite(high) & (high - low <= 1e-13 * (centre + high))
        stationary = jnp.abs(at.slope) <= GRADIENT_TOLERANCE * at.weight
        return Refined(
            s2=s2, theta=theta, low=low, high=high,
            next_s2=_within(ahead, s2, low, high, centre, state.steps),
            objective=at.chi_squared + jnp.sum(log_variance(pixel.ivar, s2)) + 2 * jnp.sum(lam * jnp.abs(theta)),
            gap=relative_gap(gram, at.gradient, at.chi_squared, theta, lam, *bounds),
            gradient=at.slope / at.weight, pivot=smallest_pivot(gram, pixel.lower < pixel.upper),
            steps=state.steps + 1, done=stationary | ((s2 == 0) & (at.slope >= 0)) | resolved,
        )  # fmt: skip

    infinite = jnp.full_like(s2, jnp.inf)
    first = Refined(
        s2=s2, theta=theta, low=jnp.zeros_like(s2), high=infinite, next_s2=s2, objective=infinite, gap=infinite,
        gradient=infinite, pivot=infinite, steps=jnp.asarray(0), done=jnp.asarray(False),
    )  # fmt: skip
    return jax.lax.while_loop(lambda state: ~state.done & (state.steps < MAX_STEPS), step, first)


def _within(proposal: Array, s2: Array, low: Array, high: Array, centre: Array, steps: Array) -> Array:
    """The proposal, or the geometric middle of the bracket where it leaves it, stands still, or patience is over."""
    middle = jnp.sqrt((centre + low) * (centre + jnp.where(jnp.isinf(high), low, high))) - centre
    bisect = (proposal < low) | (proposal > high) | ((proposal == s2) & (s2 > 0))
    bisect |= (steps >= PATIENCE) & (steps % 2 == 0) & jnp.isfinite(high)
    return jnp.where(bisect, middle, proposal)
