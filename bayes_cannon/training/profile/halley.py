r"""Halley's step towards the zero of the profile's derivative, in ln(c + s^2).

In :math:`u = \ln T`, :math:`T = c + s^2`, the derivatives of a function p of s^2 are

.. math:: p_u = T p', \qquad p_{uu} = T^2 p'' + T p', \qquad p_{uuu} = T^3 p''' + 3 T^2 p'' + T p'

and the step is :math:`-a / (1 - \tfrac12 a\, p_{uuu} / p_{uu})` with :math:`a = p_u / p_{uu}`. For equal noise its
error is of third order, where that of Newton's step is of second; for the heteroscedastic noise of real surveys its
error is about a tenth of that of Newton's step. The third derivative at fixed theta is
:math:`p''' = \sum w^3 (2 - 6 w r^2)`. Instead of computing it exactly, we replace :math:`w r^2` by its mean, estimated
from :math:`p'' = \sum w^2 (2 w r^2 - 1)` and taken equal for all stars.
(Halley's method: Traub 1964, Iterative Methods for the Solution of Equations.)
"""

import jax
import jax.numpy as jnp

from bayes_cannon.core.typing import PerPixels
from bayes_cannon.training.profile.settings import SETTINGS


def halley_s2(
    s2: PerPixels,
    gradient: PerPixels,
    curvature: PerPixels,
    curvature_at_theta: PerPixels,
    sum_w2: PerPixels,
    sum_w3: PerPixels,
    noise_scale: PerPixels,
) -> jax.Array:
    """Next s2, not negative; a factor e downhill where the curvature is not positive.

    Parameters
    ----------
    s2
        Where the step begins, of any shape; all other arguments have the same.
    gradient, curvature
        First and second derivative of the profile by s2.
    curvature_at_theta
        The second derivative at fixed theta, without the part that is due to theta following s2.
    sum_w2, sum_w3
        ``sum w^2`` and ``sum w^3``, approximately.
    noise_scale
        The variance c.

    """
    total = noise_scale + s2
    third = -sum_w3 * (1 + 3 * curvature_at_theta / sum_w2)
    third = total**3 * third + 3 * total**2 * curvature + total * gradient
    gradient, curvature = total * gradient, total**2 * curvature + total * gradient
    safe = jnp.where(curvature > 0, curvature, 1.0)
    newton = gradient / safe
    limit = SETTINGS.max_halley_correction
    correction = jnp.clip(1 - 0.5 * newton * third / safe, 1 / limit, limit)
    step = jnp.where(curvature > 0, -newton / correction, -jnp.sign(gradient))
    longest = SETTINGS.max_halley_step
    return jnp.maximum(total * jnp.exp(jnp.clip(step, -longest, longest)) - noise_scale, 0.0)
