r"""The scatter without the bias of maximum likelihood.

Maximum likelihood spends D of N degrees of freedom on theta and does not count them, so that s^2 comes out low by about
:math:`(D / N)(s^2 + \sigma^2) / s^2`, relative. Restricted maximum likelihood integrates theta out under a flat prior,
which adds :math:`\ln \det G(s^2)` to the training scalar. With the residuals and the leverages
:math:`h_n = w_n v_n^T G^{-1} v_n` of the fitted terms held, its condition is (Patterson & Thompson 1971)

.. math:: \sum_n w_n (1 - h_n) = \sum_n w_n^2 r_n^2
"""

import jax
import jax.numpy as jnp
import numpy as np

from bayes_cannon.core.likelihood import masked, weights
from bayes_cannon.core.typing import Array
from bayes_cannon.training.certificate import inverse_masked
from bayes_cannon.training.problem import PixelProblem

STEPS = 60


def unbiased_scatter(problem: PixelProblem, theta: np.ndarray, s2: np.ndarray) -> np.ndarray:
    """Restricted-maximum-likelihood s2 at the fitted theta; the terms that are zero or at a bound cost nothing.

    Parameters
    ----------
    problem
        The training problem.
    theta, s2
        Its maximum, shape (pixel, term) and (pixel,).

    Returns
    -------
    s2
        Shape (pixel,), never below the given one by more than rounding; infinite where it was.

    """
    solved = np.isfinite(theta).all(axis=1) & np.isfinite(s2)
    corrected = s2.copy()
    if not solved.any():
        return corrected
    part = problem.at(solved)
    active = (theta[solved] != 0) & part.free
    active[:, 0] |= part.free[:, 0]
    with jax.enable_x64(True):
        flux = masked(part.flux, part.ivar)
        corrected[solved] = np.asarray(_unbiased(part.design, flux.T, part.ivar.T, theta[solved], s2[solved], active))
    return corrected


@jax.jit
def _unbiased(design: Array, flux: Array, ivar: Array, theta: Array, s2: Array, active: Array) -> Array:
    def one(pixel: tuple[Array, ...]) -> Array:
        flux, ivar, theta, s2, active = pixel
        w = weights(ivar, s2)
        inverse = inverse_masked(design.T @ (w[:, None] * design), active)
        kept = 1 - w * jnp.sum((design @ inverse) * design, axis=1)
        square = jnp.where(ivar > 0, flux - design @ theta, 0.0) ** 2

        def condition(s2: Array) -> Array:
            w = weights(ivar, s2)
            return jnp.sum(w * kept) - jnp.sum(w**2 * square)

        # The condition is negative below the root and positive above; bisection needs no more than that.
        centre = jnp.sum(ivar > 0) / jnp.sum(ivar)
        largest = 10 * (s2 + centre) + 2 * jnp.max(jnp.where(ivar > 0, square, 0.0))

        def halve(_: Array, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bracket
            middle = jnp.sqrt((centre + low) * (centre + high)) - centre
            below = condition(middle) < 0
            return jnp.where(below, middle, low), jnp.where(below, high, middle)

        low, high = jax.lax.fori_loop(0, STEPS, halve, (jnp.zeros_like(s2), largest))
        return jnp.where(condition(jnp.zeros_like(s2)) >= 0, 0.0, 0.5 * (low + high))

    return jax.lax.map(one, (flux, ivar, theta, s2, active))
