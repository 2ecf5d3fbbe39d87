"""Sums over the stars of weighted residuals: the gradients of the training scalar at one point (theta, s2)."""

from operator import add
from typing import NamedTuple

import jax.numpy as jnp

from bayes_cannon.core.likelihood import weights
from bayes_cannon.core.typing import PerPixels, PixelsTerm
from bayes_cannon.execution.finished import finished
from bayes_cannon.training.lasso import symmetric_product
from bayes_cannon.training.profile.blocks import Pixels, Training, known_flux
from bayes_cannon.training.profile.gram_interpolation import Interpolated, folded


class ResidualSums(NamedTuple):
    """Sums over the stars, with w the weights, r the residuals and v the terms.

    Attributes
    ----------
    chi_squared, weight
        ``sum w r^2`` and ``sum w``, shape (pixel,).
    gradient, cross
        ``sum w r v`` and ``sum w^2 r v``, shape (pixel, term).
    s2_gradient, s2_curvature
        First and second derivative of the training scalar by s2 at fixed theta, shape (pixel,).

    """

    chi_squared: PerPixels
    weight: PerPixels
    gradient: PixelsTerm
    cross: PixelsTerm
    s2_gradient: PerPixels
    s2_curvature: PerPixels


def residual_sums(training: Training, pixel: Pixels, theta: PixelsTerm, s2: PerPixels) -> ResidualSums:
    """The sums of one pixel, by one pass over its data with three products with the terms."""
    known, flux = known_flux(pixel)
    w = weights(pixel.ivar, s2)
    residual = jnp.where(known, flux - training.design @ theta, 0.0)
    w, residual, wr = finished((w, residual, w * residual))
    wwr = finished(w * wr)
    eighths = tuple(folded(add, terms) for terms in (wr * residual, w, wr * wr, wwr * wr, w * w))
    chi_squared, weight, square, cube, weight_squared = map(jnp.sum, finished(eighths))
    return ResidualSums(
        chi_squared=chi_squared,
        weight=weight,
        gradient=wr @ training.design,
        cross=wwr @ training.design,
        s2_gradient=weight - square,
        s2_curvature=2 * cube - weight_squared,
    )


def interpolated_sums(training: Training, sums: Interpolated, theta: PixelsTerm, s2: PerPixels) -> ResidualSums:
    """The sums of all pixels of a block without a pass over the data, as accurate as the interpolation."""
    delta, total = theta.T - sums.reference, sums.noise_scale + s2
    moments, right, square = sums.derivatives(s2)
    right, weight = right.astype(theta.dtype), moments[0].astype(theta.dtype)
    gradient = right - symmetric_product(lambda e: moments[jnp.asarray(training.pairs)[e]], delta)
    chi_squared = square - jnp.sum((right + gradient) * delta[:, None], axis=0)
    # By ln(c + s2): the second derivative is that by s2, times (c + s2)^2, plus the first.
    return ResidualSums(
        chi_squared=chi_squared[0],
        weight=weight[0],
        gradient=gradient[:, 0].T,
        cross=-(gradient[:, 1] / total).T,
        s2_gradient=chi_squared[1] / total + weight[0],
        s2_curvature=(chi_squared[2] - chi_squared[1]) / total**2 + weight[1] / total,
    )
