r"""The scatter without the bias of maximum likelihood.

Maximum likelihood ignores the D of N degrees of freedom that theta takes, so that s^2 is biased low by about
:math:`(D / N)(s^2 + \sigma^2) / s^2`, relatively. Restricted maximum likelihood (REML) marginalizes over theta under a
flat prior, which adds :math:`\ln \det G(s^2)` to the training scalar. With the residuals and the leverages
:math:`h_n = w_n v_n^T G^{-1} v_n` of the fitted terms held fixed, its condition is (Patterson & Thompson 1971)

.. math:: \sum_n w_n (1 - h_n) = \sum_n w_n^2 r_n^2
"""

import jax
import jax.numpy as jnp
import numpy as np

from bayes_cannon.core.likelihood import masked, weights
from bayes_cannon.core.typing import Array, PerPixel, PixelsStar, PixelTerm, PixelTermMask, StarTerm
from bayes_cannon.execution.jax_settings import own_jax_settings
from bayes_cannon.training.certificate import inverse_masked
from bayes_cannon.training.problem import PixelProblem

BISECTIONS = 60
"""Each halves the bracket of s2: to below rounding from any start."""


def unbiased_scatter(problem: PixelProblem, theta: np.ndarray, s2: np.ndarray) -> np.ndarray:
    """Restricted-maximum-likelihood s2 at the fitted theta. Terms that are zero or fixed take no degree of freedom.

    Parameters
    ----------
    problem
        The training problem.
    theta, s2
        Its optimum, shape (pixel, term) and (pixel,).

    Returns
    -------
    s2
        Shape (pixel,), not below the given one except by rounding; infinite where that is.

    """
    solved = np.isfinite(theta).all(axis=1) & np.isfinite(s2)
    corrected = s2.copy()
    if not solved.any():
        return corrected
    part = problem.at(solved)
    active = (theta[solved] != 0) & part.free
    active[:, 0] |= part.free[:, 0]
    with own_jax_settings():
        flux = masked(part.flux, part.ivar)
        corrected[solved] = np.asarray(_unbiased(part.design, flux.T, part.ivar.T, theta[solved], s2[solved], active))
    return corrected


@jax.jit
def _unbiased(
    design: StarTerm, flux: PixelsStar, ivar: PixelsStar, theta: PixelTerm, s2: PerPixel, active: PixelTermMask
) -> PerPixel:
    def one(pixel: tuple[Array, ...]) -> Array:
        flux, ivar, theta, s2, active = pixel
        w = weights(ivar, s2)
        inverse = inverse_masked(design.T @ (w[:, None] * design), active)
        kept = 1 - w * jnp.sum((design @ inverse) * design, axis=1)
        square = jnp.where(ivar > 0, flux - design @ theta, 0.0) ** 2

        def condition(s2: Array) -> Array:
            w = weights(ivar, s2)
            return jnp.sum(w * kept) - jnp.sum(w**2 * square)

        # The condition is negative below the root and positive above, so that bisection finds it.
        noise_scale = jnp.sum(ivar > 0) / jnp.sum(ivar)
        largest = 10 * (s2 + noise_scale) + 2 * jnp.max(jnp.where(ivar > 0, square, 0.0))

        def halve(_: Array, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bracket
            middle = jnp.sqrt((noise_scale + low) * (noise_scale + high)) - noise_scale
            below = condition(middle) < 0
            return jnp.where(below, middle, low), jnp.where(below, high, middle)

        low, high = jax.lax.fori_loop(0, BISECTIONS, halve, (jnp.zeros_like(s2), largest))
        return jnp.where(condition(jnp.zeros_like(s2)) >= 0, 0.0, 0.5 * (low + high))

    return jax.lax.map(one, (flux, ivar, theta, s2, active))
