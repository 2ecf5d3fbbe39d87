r"""Halley's step towards the zero of the profile's derivative, in ln(c + s^2).

In :math:`u = \ln T`, :math:`T = c + s^2`, the derivatives of a function p of s^2 are

.. math:: p_u = T p', \qquad p_{uu} = T^2 p'' + T p', \qquad p_{uuu} = T^3 p''' + 3 T^2 p'' + T p'

and the step is :math:`-a / (1 - \tfrac12 a\, p_{uuu} / p_{uu})` with :math:`a = p_u / p_{uu}`. For equal noise its
error is of third order, where Newton's is of second; for the noise of real surveys it leaves about a tenth of what
Newton's step leaves. At fixed theta :math:`p''' = \sum w^3 (2 - 6 w r^2)`, of which no exact sum is needed:
:math:`w r^2`, one in the mean, counts as what :math:`p'' = \sum w^2 (2 w r^2 - 1)` says of it, the same for all stars.
(Halley's method: Traub 1964, Iterative Methods for the Solution of Equations.)
"""

import jax
import jax.numpy as jnp

from bayes_cannon.core.typing import Array

LONGEST = 2.0
"""Of a step in the logarithm."""
MOST = 2.0
"""Factor between Halley's step and Newton's at most: beyond, the third derivative is no longer a correction."""


def halley_s2(
    s2: Array, slope: Array, bend: Array, bend_at_theta: Array, squares: Array, cubes: Array, centre: Array
) -> jax.Array:
    """Next s2, not negative; downhill by a factor e where the curvature is not positive.

    Parameters
    ----------
    s2
        Where the step begins, of any shape; so all others.
    slope, bend
        First and second derivative of the profile by s2.
    bend_at_theta
        The second derivative at fixed theta, without what theta gains by following s2.
    squares, cubes
        ``sum w^2`` and ``sum w^3``, near enough.
    centre
        The variance c.

    """
    total = centre + s2
    third = -cubes * (1 + 3 * bend_at_theta / squares)
    third = total**3 * third + 3 * total**2 * bend + total * slope
    slope, bend = total * slope, total**2 * bend + total * slope
    safe = jnp.where(bend > 0, bend, 1.0)
    newton = slope / safe
    shorter = jnp.clip(1 - 0.5 * newton * third / safe, 1 / MOST, MOST)
    step = jnp.where(bend > 0, -newton / shorter, -jnp.sign(slope))
    return jnp.maximum(total * jnp.exp(jnp.clip(step, -LONGEST, LONGEST)) - centre, 0.0)
