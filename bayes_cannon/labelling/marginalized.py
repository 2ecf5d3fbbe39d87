"""The fit of a batch of stars with theta integrated out: the equations are those of `labelling.theta_errors`."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayes_cannon.core.typing import Array, PerStar, StarLabel, StarMoment, StarPixel
from bayes_cannon.labelling.compressed import (
    STARS_IN_CACHE,
    BatchFit,
    Compressed,
    TrainedPixels,
    chi_squared_coefficients,
    compare,
    compressed_batch,
    information_inverse,
    search,
    status_of,
    tail_scale,
)
from bayes_cannon.labelling.polynomial import Polynomials, minimize
from bayes_cannon.labelling.theta_errors import (
    ROUNDS,
    ThetaUncertainty,
    corrected_coefficients,
    correction,
    noise_matrix,
    sandwich,
    shared_weights,
    terms_and_slopes,
    variances,
)
from bayes_cannon.scatter.low_rank_labels import SharedScatter


@dataclass(frozen=True)
class Pilot:
    """The spectra with the variance of theta at some labels x.

    Attributes
    ----------
    coefficients
        Of the corrected chi^2 over the moments, shape (star, moment).
    chi_squared
        chi^2 at x, shape (star,).
    information, b, gamma
        F and B at x, shape (star, label, label), and how much of B is taken out, shape (star,).
    half_gradient
        Half the gradient of the corrected chi^2 at x, shape (star, label).
    singular
        Where F is, shape (star,).

    """

    coefficients: StarMoment
    chi_squared: PerStar
    information: Array
    b: Array
    gamma: PerStar
    half_gradient: StarLabel
    singular: Array


class Settled(NamedTuple):
    """Where the pilots end: scaled labels (star, label), the pilot there, whether it is a minimum, iterations."""

    x: StarLabel
    pilot: Pilot
    converged: Array
    iterations: Array


def fit_integrated(
    pixels: TrainedPixels, uncertainty: ThetaUncertainty, flux: np.ndarray, ivar: np.ndarray, starts: np.ndarray
) -> BatchFit:
    """As `labelling.compressed.fit_batch`, with theta integrated out; chi^2 is that of the widened errors."""
    found = compressed_batch(pixels, flux, ivar)
    together = STARS_IN_CACHE if jax.default_backend() == "cpu" else len(flux)
    best, start, iterations, _ = search(pixels.space, found.coefficients, starts, together)
    x, pilot, converged, steps = settled(pixels, uncertainty, found, best.x[:, 0])
    iterations = iterations + steps
    covariance = sandwich(pilot.information, pilot.b, pilot.gamma)
    decrement = jnp.einsum("nk,nkl,nl->n", pilot.half_gradient, covariance, pilot.half_gradient)
    status = status_of(pixels.space, x, pilot.chi_squared, decrement, converged, pilot.singular, found.used)
    covariance = jnp.where(pilot.singular[:, None, None], jnp.nan, covariance)
    scale = tail_scale(pixels.nu, pilot.chi_squared, found.n_tail, x.shape[-1])
    return BatchFit(
        x, scale[:, None, None] * covariance, pilot.chi_squared, decrement, found.used, found.significance, status,
        iterations, start, found.faulty, scale,
    )  # fmt: skip


def settled(pixels: TrainedPixels, uncertainty: ThetaUncertainty, found: Compressed, x: Array) -> Settled:
    """The minimum of the corrected chi^2 near the scaled labels x, shape (star, label), where the pilots are taken."""
    iterations: Array = jnp.zeros(len(x), dtype=int)
    converged: Array = jnp.zeros(len(x), dtype=bool)
    for _ in range(ROUNDS):
        pilot = pilot_at(pixels, uncertainty, found, x)
        x, converged, steps = _moved(pixels, pilot, x)
        iterations = iterations + steps
    return Settled(x, pilot_at(pixels, uncertainty, found, x), converged, iterations)


@jax.jit
def _minimum(tables: Any, coefficients: StarMoment, x: StarLabel) -> tuple[Array, Array, Array]:
    minima = minimize(Polynomials.from_coefficients(tables, coefficients), x[:, None])
    return minima.point.x[:, 0], minima.converged[:, 0], minima.iterations[:, 0]


def _moved(pixels: TrainedPixels, pilot: Pilot, x: StarLabel) -> tuple[Array, Array, Array]:
    """Minimum of the corrected chi^2 near x; where there is none the labels stay."""
    moved, converged, steps = _minimum(pixels.space.moment_tables, pilot.coefficients, x)
    good = converged & jnp.isfinite(moved).all(axis=1)
    return jnp.where(good[:, None], moved, x), good, steps


def pilot_at(pixels: TrainedPixels, uncertainty: ThetaUncertainty, found: Compressed, x: StarLabel) -> Pilot:
    """The spectra with the variance that theta has at the scaled labels x, shape (star, label)."""
    v, slopes = terms_and_slopes(pixels.term_labels, x)
    own, h = variances(uncertainty, v)
    w = _widened(found.w, own)
    coefficients, root, growth = _chi_squared(pixels, found, w, h)
    chi_squared, score = compare(pixels, root, w, found.y, x[:, None])
    chi_squared, score = chi_squared / growth, score / growth[:, None]
    diagonal, shared = shared_weights(pixels, w, h, found.used)
    noise = noise_matrix(uncertainty, diagonal, shared)
    space = pixels.space
    point = Polynomials.from_coefficients(space.moment_tables, coefficients)(x[:, None])
    weighted = Polynomials.from_coefficients(space.term_tables, score)(x[:, None])
    _, _, singular = information_inverse(point, weighted)
    information = 0.5 * point.hessian[:, 0] + weighted.hessian[:, 0]
    gamma, b = correction(noise, slopes, information)
    pull = jnp.einsum("ndk,nde,ne->nk", slopes, noise, v)
    half_gradient = -weighted.gradient[:, 0] - gamma[:, None] * pull
    corrected = corrected_coefficients(coefficients, noise, gamma, uncertainty.pairs)
    return Pilot(corrected, chi_squared, information, b, gamma, half_gradient, singular)


@jax.jit
def _widened(w: StarPixel, own: StarPixel) -> jax.Array:
    """Weights with the variance of theta added."""
    return jnp.asarray(w) / (1.0 + w * own)


def _chi_squared(pixels: TrainedPixels, found: Compressed, w: StarPixel, h: PerStar) -> tuple[StarMoment, Any, PerStar]:
    """Coefficients of chi^2, what `compare` needs, and what chi^2 is still to be divided by."""
    one = jnp.ones(len(w))
    if pixels.shared is None:
        return chi_squared_coefficients(pixels, w, found.y), None, one
    if isinstance(pixels.shared, SharedScatter):
        plain = chi_squared_coefficients(pixels, w, found.y)
        coefficients, root = pixels.shared.coefficients(w, found.y, plain, 1.0 + h)
        return coefficients, root, one
    # A full covariance grows as a whole.
    return found.coefficients / (1.0 + h)[:, None], found.root, 1.0 + h
