r"""The joint optimum of a pixel by Newton's method on its exact profile, within a bracket. Read this first.

This is the reference solver: slow, safe and short. At fixed s^2 the optimal theta is a weighted lasso, which leaves the
profile :math:`p(s^2)` (`solver`) as a function of one variable. Each step

1. forms the Gram matrix at its s^2 from the data, which costs a pass over the moments, and solves the lasso to
   convergence, so that

   .. math:: p' = \sum w (1 - w r^2), \qquad
             p'' = \sum w^2 (2 w r^2 - 1) - 2 c_A^T G_{AA}^{-1} c_A, \quad c = \sum w^2 r v

   are the derivatives of the profile itself; A are the active terms;
2. narrows the bracket, of which p' is negative at the lower end and positive at the upper;
3. takes Halley's step (`halley`), or bisects where that leaves the bracket or takes too long.

It is used where `joint_newton` did not converge, where the noise varies too much between stars to interpolate Gram
matrices, and to decide between two minima.
"""

from functools import partial

import jax
import jax.numpy as jnp

from bayes_cannon.core.likelihood import log_variance, weights
from bayes_cannon.core.typing import Array, PerPixel, PixelTerm, StarMoment
from bayes_cannon.training.certificate import active_terms, relative_gap, smallest_pivot, solve_safely
from bayes_cannon.training.lasso import gram_lasso
from bayes_cannon.training.profile.blocks import Pixels, Training, gram_matrix, known_flux
from bayes_cannon.training.profile.halley import halley_s2
from bayes_cannon.training.profile.residuals import residual_sums
from bayes_cannon.training.profile.results import PixelFit
from bayes_cannon.training.profile.settings import SETTINGS

type _Bracket = tuple[jax.Array, jax.Array, jax.Array]
"""Where p' was negative, where it was positive, and the next s2."""


@jax.jit
def bracketed_newton(
    training: Training, moments: StarMoment, block: Pixels, theta: PixelTerm, s2: PerPixel
) -> PixelFit:
    """Local optimum of the profile of every pixel, starting from theta and s2.

    The moments, shape (star, moment), are in float64.
    """
    return jax.vmap(partial(_one_pixel, training, moments))(block, theta, s2)


def _one_pixel(training: Training, moments: Array, pixel: Pixels, theta: Array, s2: Array) -> PixelFit:
    known, flux = known_flux(pixel)
    n_stars = jnp.sum(known)
    noise_scale = n_stars / jnp.sum(pixel.ivar)
    lam, bounds = pixel.lam, (pixel.lower, pixel.upper)

    def step(state: tuple[PixelFit, _Bracket]) -> tuple[PixelFit, _Bracket]:
        before, (low, high, s2) = state
        w = weights(pixel.ivar, s2)
        gram, right = gram_matrix(training, w @ moments), (w * flux) @ training.design
        tolerance = SETTINGS.bracket_lasso_tolerance * jnp.sqrt(n_stars)
        theta = gram_lasso(gram, right, lam, *bounds, before.theta, tolerance=tolerance).theta

        sums = residual_sums(training, pixel, theta, s2)
        gradient, active = sums.s2_gradient, active_terms(theta, lam, *bounds)
        curvature = sums.s2_curvature - 2 * jnp.dot(sums.cross, solve_safely(gram, sums.cross, active))
        low, high = jnp.where(gradient < 0, s2, low), jnp.where(gradient > 0, s2, high)
        stationary = jnp.abs(gradient) <= SETTINGS.bracket_gradient_tolerance * sums.weight
        resolved = jnp.isfinite(high) & (high - low <= 1e-13 * (noise_scale + high))

        proposal = halley_s2(s2, gradient, curvature, sums.s2_curvature, jnp.sum(w**2), jnp.sum(w**3), noise_scale)
        next_s2 = _within(proposal, s2, low, high, noise_scale, before.iterations)
        fit = PixelFit(
            theta=theta, s2=s2,
            objective=sums.chi_squared + jnp.sum(log_variance(pixel.ivar, s2)) + 2 * jnp.sum(lam * jnp.abs(theta)),
            duality_gap=relative_gap(gram, sums.gradient, sums.chi_squared, theta, lam, *bounds),
            profile_gradient=gradient / sums.weight, iterations=before.iterations + 1,
            pivot=smallest_pivot(gram, pixel.lower < pixel.upper),
            done=stationary | ((s2 == 0) & (gradient >= 0)) | resolved,
        )  # fmt: skip
        return fit, (low, high, next_s2)

    infinite = jnp.full_like(s2, jnp.inf)
    start = PixelFit(theta, s2, infinite, infinite, infinite, jnp.asarray(0), infinite, jnp.asarray(False))
    fit, _ = jax.lax.while_loop(
        lambda state: ~state[0].done & (state[0].iterations < SETTINGS.max_bracket_steps),
        step,
        (start, (jnp.zeros_like(s2), infinite, jnp.asarray(s2))),
    )
    return fit


def _within(proposal: Array, s2: Array, low: Array, high: Array, noise_scale: Array, iterations: Array) -> jax.Array:
    """The proposed s2, or the geometric middle of the bracket where it is outside or no progress, or time is up."""
    middle = jnp.sqrt((noise_scale + low) * (noise_scale + jnp.where(jnp.isinf(high), low, high))) - noise_scale
    bisect = (proposal < low) | (proposal > high) | ((proposal == s2) & (s2 > 0))
    bisect |= (iterations >= SETTINGS.bisection_after) & (iterations % 2 == 0) & jnp.isfinite(high)
    return jnp.where(bisect, middle, proposal)
