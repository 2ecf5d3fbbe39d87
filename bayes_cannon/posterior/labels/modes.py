"""Modes of the density of a star's labels, by a damped Newton iteration from several starts, and whitening at the best.

Starts are the minima of chi^2 that the fit of labels finds from its own starts, the training star where the posterior
is largest, and the middle of the prior. Two minima count as one mode if the barrier between them is lower than
`ModeSearch.barrier`.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayes_cannon.core.typing import Array
from bayes_cannon.execution.devices import by_device
from bayes_cannon.labelling.label_scale import LabelScale
from bayes_cannon.labelling.polynomial import Polynomials, minimize
from bayes_cannon.labelling.starts import LabelStarts, search_starts
from bayes_cannon.posterior.labels.density import Potential, StarDensity, unbounded
from bayes_cannon.posterior.labels.priors import LabelPrior

N_STARTS = 5
STARS_TOGETHER = 32
"""Stars whose modes are looked for together on a processor; on a GPU all those of a batch."""
NO_BARRIER = 1e30
"""Distance of a barrier where there is no other mode."""


@dataclass(frozen=True)
class ModeSearch:
    """Settings of the search for modes.

    Attributes
    ----------
    max_steps, halvings, max_step
        Newton steps, halvings tried of each, and the longest step in unbounded coordinates, whose unit is about the
        range of the training labels.
    decrement
        Squared Newton decrement at which the iteration ends.
    singular
        Relative eigenvalue of the scaled Hessian below which a direction counts as undetermined.
    margin
        Distance that starts keep from bounds, relative to the width between them.
    barrier
        Two minima are separate modes if -2 ln posterior between them exceeds the higher one by more than this.
    same
        Distance, in standard deviations, below which two minima are the same.
    n_between
        Points on the line between two minima where the density is evaluated to find the barrier.

    """

    max_steps: int = 60
    halvings: int = 10
    max_step: float = 2.0
    decrement: float = 1e-9
    singular: float = 1e-10
    margin: float = 0.02
    barrier: float = 1.0
    same: float = 1e-3
    n_between: int = 31


SEARCH = ModeSearch()


class ChiSquaredMinima(NamedTuple):
    """Minima of chi^2 of each star, shape (star, start, label), the lowest (star, label), and the Hessian there."""

    x: Array
    best: Array
    hessian: Array


class Modes(NamedTuple):
    """Modes of each star, the best first, and whitening there.

    Attributes
    ----------
    u
        Unbounded coordinates, shape (star, mode, label).
    deviance
        -2 ln posterior minus that of the first, shape (star, mode); infinite where it is not a separate mode.
    root
        Root of the inverse curvature at the first, shape (star, label, label).
    barriers, barrier_distances
        Directions of the other modes and distances of the barriers to them, in whitened coordinates, shape
        (star, mode - 1, label) and (star, mode - 1).

    """

    u: Array
    deviance: Array
    root: Array
    barriers: Array
    barrier_distances: Array


@jax.jit
def chi_squared_minima(space: LabelStarts, coefficients: Array) -> ChiSquaredMinima:
    """Minima of the polynomials with these coefficients, shape (star, moment)."""
    polynomials = Polynomials.from_coefficients(space.moment_tables, coefficients)
    point = minimize(polynomials, search_starts(space, coefficients)).point
    value = jnp.where(jnp.isfinite(point.value), point.value, jnp.inf)
    best = jnp.argmin(value, axis=1)[:, None]
    hessian = jnp.take_along_axis(point.hessian, best[..., None, None], axis=1)[:, 0]
    return ChiSquaredMinima(point.x, jnp.take_along_axis(point.x, best[..., None], axis=1)[:, 0], hessian)


@partial(jax.jit, static_argnames="kinds")
def starts_of(
    space: LabelStarts,
    coefficients: Array,
    found: ChiSquaredMinima,
    items: StarDensity,
    middle: Array,
    kinds: tuple[str, ...],
) -> jax.Array:
    """Starts in unbounded coordinates, shape (star, start, label)."""
    chi_squared = coefficients @ space.anchor_moments.T
    if items.label_scale is not None:
        one = items.label_scale
        lift = LabelScale(one.beta[0], jnp.asarray(one.nu)[0], jnp.asarray(one.count)[:, None])
        chi_squared = lift.objective(chi_squared, lift.exponent(space.anchors))
    if items.tails is not None:
        nu, count = (array[:, None] for array in items.tails)
        chi_squared = (nu + count) * jnp.log1p(chi_squared / nu)
    anchors, low, high = space.anchors, items.low[0], items.high[0]
    inside = jnp.all((anchors > low) & (anchors < high), axis=1)
    if items.prior is not None:
        prior = jax.tree.map(lambda array: array[0], items.prior)
        log_prior = jax.vmap(prior.log_prob)(jnp.clip(anchors, *_ends(low, high)))
        chi_squared = chi_squared - 2 * log_prior
    anchor = anchors[jnp.argmin(jnp.where(inside, chi_squared, jnp.inf), axis=1)]
    added = jnp.stack([anchor, jnp.broadcast_to(middle, anchor.shape)], axis=1)
    x = jnp.clip(jnp.concatenate([found.x, added], axis=1), *_ends(low, high))
    return jax.vmap(jax.vmap(lambda x: unbounded(kinds, low, high, x)))(x)


def _ends(low: Array, high: Array) -> tuple[Array, Array]:
    """Bounds drawn in a little."""
    width = jnp.where(jnp.isfinite(high - low), high - low, 1.0)
    return low + SEARCH.margin * width, high - SEARCH.margin * width


def middle_of(prior: LabelPrior) -> np.ndarray:
    """Scaled labels within the support: the mean of the prior where it has one, else the fiducial labels."""
    x = np.zeros(len(prior.low))
    if prior.distribution is not None:
        try:
            mean = np.asarray(prior.distribution.mean, float)
        except NotImplementedError:
            mean = x
        x = np.where(np.isfinite(mean), mean, x)
    return np.clip(x, prior.low, prior.high)


@partial(jax.jit, static_argnames="potential")
def modes_of(potential: Potential, items: StarDensity, starts: Array) -> Modes:
    """Modes that are reached from the starts u, shape (star, start, label); the items must not be whitened."""

    def of_star(star: tuple[StarDensity, Array]) -> Modes:
        item, starts = star
        energy = partial(potential, item)
        u, value = jax.vmap(partial(_descended, energy))(starts)
        order = jnp.argsort(value)
        u, value = u[order], value[order]
        root = _root(jax.hessian(energy)(u[0]))
        away = jnp.linalg.solve(root, (u[1:] - u[0]).T).T
        length = jnp.linalg.norm(away, axis=1)
        part = jnp.linspace(0.0, 1.0, SEARCH.n_between + 2)[1:-1]
        between = jax.vmap(lambda end: jax.vmap(lambda t: energy(u[0] + t * (end - u[0])))(part))(u[1:])
        top = jnp.argmax(between, axis=1)
        apart = 2 * (jnp.max(between, axis=1) - value[1:]) > SEARCH.barrier
        gaps = jnp.linalg.norm(away[:, None] - away[None], axis=2)
        repeated = jnp.any(jnp.tril(gaps < jnp.maximum(SEARCH.same, 1e-3 * length), -1), axis=1)
        other = apart & ~repeated & jnp.isfinite(value[1:]) & (length > SEARCH.same)
        deviance = jnp.where(other, 2 * (value[1:] - value[0]), jnp.inf)
        barriers = jnp.where(other[:, None], away / jnp.where(length > 0, length, 1.0)[:, None], 0.0)
        barrier_distances = jnp.where(other, part[top] * length, NO_BARRIER)
        return Modes(u, jnp.append(jnp.zeros(1), deviance), root, barriers, barrier_distances)

    return jax.lax.map(of_star, (items, starts), batch_size=by_device(STARS_TOGETHER, len(starts)))


def _descended(energy: Any, start: Array) -> tuple[Array, Array]:
    """The minimum that is reached from the start, and the energy there."""
    lengths = 0.5 ** jnp.arange(SEARCH.halvings)

    def step(state: Any) -> Any:
        u, value, _, n_steps = state
        gradient = jax.grad(energy)(u)
        root = _root(jax.hessian(energy)(u))
        pulled = root.T @ gradient
        move = -(root @ pulled)
        move = move * jnp.minimum(1.0, SEARCH.max_step / jnp.maximum(jnp.max(jnp.abs(move)), 1e-300))
        trials = u + lengths[:, None] * move
        values = jax.vmap(energy)(trials)
        values = jnp.where(jnp.isfinite(values), values, jnp.inf)
        best = jnp.argmin(values)
        better = values[best] < value
        going = better & (jnp.sum(pulled**2) > SEARCH.decrement)
        return jnp.where(better, trials[best], u), jnp.minimum(value, values[best]), going, n_steps + 1

    first = energy(start)
    state = start, jnp.where(jnp.isfinite(first), first, jnp.inf), jnp.array(True), jnp.array(0)
    u, value, _, _ = jax.lax.while_loop(lambda state: state[2] & (state[3] < SEARCH.max_steps), step, state)
    return u, value


def _root(hessian: Array) -> jax.Array:
    """Root of the inverse of the Hessian, whose eigenvalues are made positive, shape (label, label)."""
    diagonal = jnp.abs(jnp.diagonal(hessian))
    largest = jnp.max(diagonal)
    scale = jnp.sqrt(jnp.maximum(diagonal, jnp.where(largest > 0, 1e-10 * largest, 1.0)))
    values, vectors = jnp.linalg.eigh(hessian / (scale[:, None] * scale[None, :]))
    values = jnp.maximum(jnp.abs(values), SEARCH.singular * jnp.max(jnp.abs(values)))
    return vectors / jnp.sqrt(values) / scale[:, None]


def is_singular(hessian: np.ndarray) -> np.ndarray:
    """Whether the curvature of chi^2 leaves a direction open, boolean, shape (star,), from (star, label, label)."""
    if hessian.shape[-1] == 0:
        return np.zeros(len(hessian), dtype=bool)
    diagonal = np.diagonal(hessian, axis1=1, axis2=2)
    scale = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    values = np.linalg.eigvalsh(np.nan_to_num(hessian / (scale[:, :, None] * scale[:, None, :])))
    return (values[:, 0] <= SEARCH.singular * values[:, -1]) | (diagonal <= 0).any(axis=1)
