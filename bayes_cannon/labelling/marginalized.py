"""The fit of a batch of stars with theta integrated out; the equations are in `labelling.theta_errors`."""

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
    ModelTables,
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
    ThetaErrors,
    corrected_coefficients,
    correction,
    noise_matrix,
    sandwich,
    terms_and_gradients,
    variances,
)
from bayes_cannon.scatter.label_tables import Chi2


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
        F and B at x, shape (star, label, label), and the share of B that is subtracted, shape (star,).
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
    """End of the pilots: scaled labels (star, label), the pilot there, whether it is a minimum, and iterations."""

    x: StarLabel
    pilot: Pilot
    converged: Array
    iterations: Array


def fit_integrated(
    tables: ModelTables, errors: ThetaErrors, flux: np.ndarray, ivar: np.ndarray, starts: np.ndarray
) -> BatchFit:
    """As `labelling.compressed.fit_batch`, with theta integrated out; chi^2 is that of the widened errors."""
    found = compressed_batch(tables, flux, ivar)
    together = STARS_IN_CACHE if jax.default_backend() == "cpu" else len(flux)
    best, start, iterations, _, second = search(tables.starts, found.coefficients, starts, together)
    x, pilot, converged, steps = settled(tables, errors, found, best.x[:, 0])
    iterations = iterations + steps
    covariance = sandwich(pilot.information, pilot.b, pilot.gamma)
    decrement = jnp.einsum("nk,nkl,nl->n", pilot.half_gradient, covariance, pilot.half_gradient)
    status = status_of(tables.starts, x, pilot.chi_squared, decrement, converged, pilot.singular, found.used)
    covariance = jnp.where(pilot.singular[:, None, None], jnp.nan, covariance)
    scale = tail_scale(tables.nu, pilot.chi_squared, found.n_tail, x.shape[-1])
    return BatchFit(
        x, scale[:, None, None] * covariance, pilot.chi_squared, decrement, found.used, found.n_tail,
        found.significance, status, iterations, start, found.faulty, scale, second,
    )  # fmt: skip


def settled(tables: ModelTables, errors: ThetaErrors, found: Compressed, x: Array) -> Settled:
    """The minimum of the corrected chi^2 near the scaled labels x, shape (star, label), where the pilots are taken."""
    iterations: Array = jnp.zeros(len(x), dtype=int)
    converged: Array = jnp.zeros(len(x), dtype=bool)
    for _ in range(ROUNDS):
        pilot = pilot_at(tables, errors, found, x)
        x, converged, steps = _moved(tables, pilot, x)
        iterations = iterations + steps
    return Settled(x, pilot_at(tables, errors, found, x), converged, iterations)


@jax.jit
def _minimum(tables: Any, coefficients: StarMoment, x: StarLabel) -> tuple[Array, Array, Array]:
    minima = minimize(Polynomials.from_coefficients(tables, coefficients), x[:, None])
    return minima.point.x[:, 0], minima.converged[:, 0], minima.iterations[:, 0]


def _moved(tables: ModelTables, pilot: Pilot, x: StarLabel) -> tuple[Array, Array, Array]:
    """Minimum of the corrected chi^2 near x; where there is none the labels stay."""
    moved, converged, steps = _minimum(tables.starts.moment_tables, pilot.coefficients, x)
    good = converged & jnp.isfinite(moved).all(axis=1)
    return jnp.where(good[:, None], moved, x), good, steps


def pilot_at(tables: ModelTables, errors: ThetaErrors, found: Compressed, x: StarLabel) -> Pilot:
    """The spectra with the variance that theta has at the scaled labels x, shape (star, label)."""
    v, gradients = terms_and_gradients(tables.term_labels, x)
    own, growth = variances(errors, v)
    w = _widened(found.w, own)
    before = Chi2(found.coefficients, found.root)
    coefficients, root = tables.scatter.grown(tables.response, before, w, found.y, growth)
    chi_squared, score = compare(tables, root, w, found.y, x[:, None])
    diagonal, common = tables.scatter.theta_weights(w, growth, found.used)
    noise = noise_matrix(errors, diagonal, common)
    point = Polynomials.from_coefficients(tables.starts.moment_tables, coefficients)(x[:, None])
    weighted = Polynomials.from_coefficients(tables.starts.term_tables, score)(x[:, None])
    _, _, singular = information_inverse(point, weighted)
    information = 0.5 * point.hessian[:, 0] + weighted.hessian[:, 0]
    gamma, b = correction(noise, gradients, information)
    pull = jnp.einsum("ndk,nde,ne->nk", gradients, noise, v)
    half_gradient = -weighted.gradient[:, 0] - gamma[:, None] * pull
    corrected = corrected_coefficients(coefficients, noise, gamma, errors.pairs)
    return Pilot(corrected, chi_squared, information, b, gamma, half_gradient, singular)


@jax.jit
def _widened(w: StarPixel, own: StarPixel) -> jax.Array:
    """Weights with the variance of theta added."""
    return jnp.asarray(w) / (1.0 + w * own)
