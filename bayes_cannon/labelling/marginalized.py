"""The fit of a batch of stars with theta integrated out; the equations are in `labelling.theta_errors`."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayes_cannon.core.typing import Array, PerStar, StarLabel, StarMoment, StarPixel
from bayes_cannon.execution.devices import by_device
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
from bayes_cannon.labelling.label_scale import LabelScale, objectives
from bayes_cannon.labelling.polynomial import Polynomials, minimize
from bayes_cannon.labelling.theta_errors import (
    ROUNDS,
    ThetaErrors,
    corrected_coefficients,
    noise_matrix,
    sandwich,
    symmetric_form,
    terms_and_gradients,
    trusted,
    variances,
)
from bayes_cannon.scatter.label_tables import Chi2


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Pilot:
    """The spectra with the variance of theta at some labels x.

    Attributes
    ----------
    coefficients
        Of the corrected chi^2 over the moments, shape (star, moment).
    chi_squared
        chi^2 at x, shape (star,).
    information, b
        F and B at x, shape (star, label, label).
    half_gradient, pull, left
        Half the gradient of the corrected chi^2 at x, what the correction takes from it, and what it leaves, shape
        (star, label).
    part
        The part of the correction that counts, shape (star,).
    singular
        Where F is, shape (star,).

    """

    coefficients: StarMoment
    chi_squared: PerStar
    information: Array
    b: Array
    half_gradient: StarLabel
    pull: StarLabel
    left: StarLabel
    part: PerStar
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
    together = by_device(STARS_IN_CACHE, len(flux))
    by_labels = tables.scale_of(found.n_tail)
    best, start, iterations, _, second = search(tables.starts, found.coefficients, starts, together, by_labels)
    x, pilot, converged, steps = settled(tables, errors, found, best.x[:, 0])
    iterations = iterations + steps
    covariance = sandwich(pilot.information, pilot.b, pilot.left)
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
    before, start = form_of(tables, errors, found), x
    part = None
    for number in range(ROUNDS):
        pilot = pilot_at(tables, errors, found, x, before, part)
        # From then on it is held, so that the labels settle.
        part = pilot.part if number == 1 else part
        x, converged, steps = _moved(tables, pilot, x, tables.scale_of(found.n_tail))
        iterations = iterations + steps
    # Where there is no minimum neither labels nor errors are the corrected ones.
    x = jnp.where(converged[:, None], x, start)
    pilot = pilot_at(tables, errors, found, x, before, part)
    return Settled(x, uncorrected(pilot, ~converged), converged, iterations)


def uncorrected(pilot: Pilot, some: Array) -> Pilot:
    """The pilot of which some stars, by mask, have labels and errors without the correction of the score."""
    b = jnp.where(some[:, None, None], 0.0, pilot.b)
    half_gradient = pilot.half_gradient + jnp.where(some[:, None], pilot.pull, 0.0)
    left = pilot.left + jnp.where(some[:, None], pilot.pull, 0.0)
    return replace(pilot, b=b, half_gradient=half_gradient, left=left)


@jax.jit
def _minimum(
    tables: Any, coefficients: StarMoment, x: StarLabel, by_labels: LabelScale | None
) -> tuple[Array, Array, Array]:
    minima = minimize(objectives(tables, coefficients, by_labels), x[:, None])
    return minima.point.x[:, 0], minima.converged[:, 0], minima.iterations[:, 0]


def _moved(tables: ModelTables, pilot: Pilot, x: StarLabel, by_labels: LabelScale | None) -> tuple[Array, Array, Array]:
    """Minimum of the corrected chi^2 near x; where there is none the labels stay."""
    moved, converged, steps = _minimum(tables.starts.moment_tables, pilot.coefficients, x, by_labels)
    good = converged & jnp.isfinite(moved).all(axis=1)
    return jnp.where(good[:, None], moved, x), good, steps


def form_of(tables: ModelTables, errors: ThetaErrors, found: Compressed) -> Chi2:
    """chi^2 over the pairs of terms, without the variance of theta."""
    return tables.scatter.chi_squared(errors.response, found.w, found.y, jnp.ones(len(found.w)))


def pilot_at(
    tables: ModelTables,
    errors: ThetaErrors,
    found: Compressed,
    x: StarLabel,
    before: Chi2 | None = None,
    part: PerStar | None = None,
) -> Pilot:
    """The spectra with the variance that theta has at the scaled labels x, shape (star, label).

    ``before`` is the `form_of` the spectra, ``part`` the part of the correction that counts, where they are known.
    """
    before = form_of(tables, errors, found) if before is None else before
    v, gradients = terms_and_gradients(tables.term_labels, x)
    own, growth = variances(errors, v)
    by_labels = tables.scale_of(found.n_tail)
    if by_labels is not None:  # Errors of theta do not grow with c, which divides all of chi^2 in the end.
        least = -0.5 * tables.scatter.star_scale(before.root, found.w)
        growth = 1 + jnp.maximum((growth - 1) * jnp.exp(-by_labels.exponent(x)), least)
    w = _widened(found.w, own)
    packed, root = tables.scatter.grown(errors.response, before, w, found.y, growth)
    form = symmetric_form(packed)
    chi_squared, score = compare(tables, root, w, found.y, x[:, None])
    diagonal, common = tables.scatter.theta_weights(w, growth, found.used)
    noise = noise_matrix(errors, diagonal, common)
    n_moments = found.coefficients.shape[1]
    coefficients = corrected_coefficients(form, jnp.zeros_like(noise), errors.pairs, n_moments)
    point = Polynomials.from_coefficients(tables.starts.moment_tables, coefficients)(x[:, None])
    weighted = Polynomials.from_coefficients(tables.starts.term_tables, score)(x[:, None])
    _, _, singular = information_inverse(point, weighted)
    information = 0.5 * point.hessian[:, 0] + weighted.hessian[:, 0]
    noise, b, here = trusted(noise, form, gradients, information)
    part = here if part is None else part
    whole = jnp.einsum("ndk,nde,ne->nk", gradients, noise, v)
    pull = part[:, None] * whole
    half_gradient = -weighted.gradient[:, 0] - pull
    corrected = corrected_coefficients(form, part[:, None, None] * noise, errors.pairs, n_moments)
    b = part[:, None, None] * b
    pilot = Pilot(corrected, chi_squared, information, b, half_gradient, pull, whole - pull, part, singular)
    if by_labels is None:
        return pilot
    subtracted = part * jnp.einsum("nd,nde,ne->n", v, noise, v)
    return _over_scale(pilot, by_labels, tables.nu, x, found.n_tail, subtracted)


@jax.jit
def _over_scale(
    pilot: Pilot, by_labels: LabelScale, nu: Array, x: StarLabel, n_tail: Array, subtracted: PerStar
) -> Pilot:
    """The pilot over the scale c of each star, with what c tells of the labels.

    ``subtracted`` is what the correction takes from chi^2 before, shape (star,).
    """
    shrink = jnp.exp(-by_labels.exponent(x))
    chi_squared, left = pilot.chi_squared * shrink, (pilot.chi_squared - subtracted) * shrink
    row, matrix = shrink[:, None], shrink[:, None, None]
    scale = tail_scale(nu, chi_squared, n_tail, x.shape[1])
    return replace(
        pilot, chi_squared=chi_squared, information=matrix * pilot.information + by_labels.information(scale),
        b=matrix * pilot.b, half_gradient=row * pilot.half_gradient + by_labels.half_gradient(left),
        pull=row * pilot.pull, left=row * pilot.left,
    )  # fmt: skip


@jax.jit
def _widened(w: StarPixel, own: StarPixel) -> jax.Array:
    """Weights with the variance of theta added."""
    return jnp.asarray(w) / (1.0 + w * own)
