"""What all batches of stars share, and the chains of one batch: from densities to draws of the labels."""

from dataclasses import dataclass, field
from functools import partial
from threading import Event, Lock
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayes_cannon.core.typing import Array
from bayes_cannon.execution.devices import by_device
from bayes_cannon.labelling.compressed import Compressed
from bayes_cannon.labelling.label_scale import LabelScale
from bayes_cannon.labelling.marginalized import pilot_at, settled
from bayes_cannon.labelling.theta_errors import curvature_root
from bayes_cannon.labelling.trained import TrainedModel
from bayes_cannon.posterior.chains import Draws, dispersed_starts, draw_chains, statistics
from bayes_cannon.posterior.labels.density import Potential, StarDensity, forms, label_potential, within
from bayes_cannon.posterior.labels.modes import NO_BARRIER, middle_of
from bayes_cannon.posterior.labels.priors import LabelPrior
from bayes_cannon.posterior.settings import ChainSettings

STATISTICS: dict[str, type] = {
    "lp": float, "n_steps": int, "diverging": bool, "energy": float, "acceptance_rate": float, "step_size": float,
    "tree_depth": int, "reached_max_tree_depth": bool,
}  # fmt: skip
"""What is kept of each draw."""
STARS_TOGETHER = 16
"""Stars that run in lock-step in one call of the compiled program; on a GPU all those of a batch."""


@dataclass(frozen=True)
class LabelRun:
    """What all batches of a run share.

    Attributes
    ----------
    trained
        The model.
    prior
        Of the scaled labels.
    key
        JAX key; that of a star is folded in with its number.
    settings
        Of the chains.
    batch_size
        Stars of a batch.
    first_star
        Number of the first star.
    lock, compiled
        Whether the chains of first and second runs were compiled, and what keeps other threads from doing so meanwhile.

    """

    trained: TrainedModel
    prior: LabelPrior
    key: Any
    settings: ChainSettings
    batch_size: int
    first_star: int = 0
    lock: Any = field(default_factory=Lock)
    compiled: tuple[Event, Event] = field(default_factory=lambda: (Event(), Event()))

    @property
    def potential(self) -> Potential:
        """Minus the log density of a star."""
        return label_potential(tuple(map(tuple, self.trained.terms.exponents.tolist())), self.prior.kinds)


def star_items(
    run: LabelRun, coefficients: np.ndarray, count: np.ndarray, widened: tuple[Array, Array] | None = None
) -> StarDensity:
    """Densities of the stars in their own coordinates."""
    n_stars, n_labels = len(coefficients), run.trained.n_labels

    def repeated(array: Any) -> jax.Array:
        return jnp.broadcast_to(jnp.asarray(array, float), (n_stars, *jnp.shape(array)))

    nu, beta = float(run.trained.scatter.nu), run.trained.scatter.label_scale
    return StarDensity(
        jnp.asarray(forms(coefficients, run.trained.terms.exponents)),
        (repeated(nu), jnp.asarray(count, float)) if np.isfinite(nu) else None,
        widened,
        jax.tree.map(repeated, run.prior.distribution),
        repeated(run.prior.low), repeated(run.prior.high), repeated(np.zeros(n_labels)), repeated(np.eye(n_labels)),
        repeated(np.zeros((1, n_labels))), repeated(np.full(1, NO_BARRIER)),
        None if beta is None else LabelScale(repeated(beta), repeated(nu), jnp.asarray(count, float)),
    )  # fmt: skip


def widened_spectra(
    trained: TrainedModel, prior: LabelPrior, found: Compressed, x: Array
) -> tuple[Array, tuple[Array, Array]]:  # fmt: skip
    """Coefficients of chi^2 with theta integrated out, shape (star, moment), and how it is widened about its minimum.

    The minimum is looked for near the scaled labels x, shape (star, label). Where there is none, chi^2 has the variance
    of theta at the middle of the prior and is not widened.
    """
    tables, errors = trained.tables, trained.theta_errors
    assert errors is not None
    end = settled(tables, errors, found, x)
    good = end.converged & ~end.pilot.singular & jnp.isfinite(end.x).all(axis=1)
    place = jnp.where(good[:, None], end.x, jnp.asarray(middle_of(prior)))
    pilot = end.pilot if bool(good.all()) else pilot_at(tables, errors, found, place)
    turn = curvature_root(pilot.information, pilot.b, pilot.left)
    return pilot.coefficients, (place, jnp.where(good[:, None, None], turn, jnp.eye(x.shape[1])))


def label_draws(
    run: LabelRun, items: StarDensity, numbers: np.ndarray, good: np.ndarray, attempt: int
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Draws of u and of the labels, shape (chain, draw, star, label), and their statistics, of the good stars."""
    settings, n_labels = run.settings, run.trained.n_labels
    shape = settings.n_chains, settings.n_draws, len(numbers)
    u = np.full((*shape, n_labels), np.nan)
    stats: dict[str, np.ndarray] = {name: np.zeros(shape, kind) for name, kind in STATISTICS.items()}
    wanted, size = np.flatnonzero(good), min(by_device(STARS_TOGETHER, len(numbers)), len(numbers))
    for first in range(0, len(wanted), size):
        stars = wanted[first : first + size]
        # Always as many, so that one program serves all.
        filled = np.resize(stars, size)
        part = jax.tree.map(lambda array, filled=filled: array[filled], items)
        drawn = _drawn(run, part, numbers[filled], attempt)
        kept = {"z": np.asarray(drawn.z)} | statistics(drawn, settings)
        kept = {name: np.moveaxis(array, 0, 2)[:, :, : len(stars)] for name, array in kept.items()}
        mean, root = part.mean[: len(stars)], part.root[: len(stars)]
        u[:, :, stars] = mean + np.einsum("nij,cdnj->cdni", root, kept.pop("z"))
        for name, array in kept.items():
            stats[name][..., stars] = array
    return u, run.trained.scaling.unscaled(np.asarray(scaled_labels(run, u))), stats


def _drawn(run: LabelRun, items: StarDensity, numbers: np.ndarray, attempt: int) -> Draws:
    """Draws of z, star first."""
    settings = run.settings.of_run(attempt)
    own = jax.vmap(lambda star: jax.random.fold_in(jax.random.fold_in(run.key, star), attempt))(numbers)
    keys = jax.vmap(lambda key: jax.random.split(key, 2 * settings.n_chains))(own)
    starts = dispersed_starts(keys[:, settings.n_chains :], run.trained.n_labels)
    arguments = run.potential, items, keys[:, : settings.n_chains], starts, settings, len(numbers)
    compiled = run.compiled[attempt]
    if compiled.is_set():
        return draw_chains(*arguments)
    with run.lock:  # NumPyro's handlers are not safe among threads.
        drawn = draw_chains(*arguments)
        compiled.set()
        return drawn


def scaled_labels(run: LabelRun, u: Any) -> jax.Array:
    """Scaled labels of unbounded coordinates, shape (..., label)."""
    return _within(run.prior.kinds, run.prior.low, run.prior.high, u)


@partial(jax.jit, static_argnums=0)
def _within(kinds: tuple[str, ...], low: Array, high: Array, u: Array) -> jax.Array:
    flat = jnp.reshape(u, (-1, u.shape[-1]))
    return jax.vmap(lambda u: within(kinds, low, high, u)[0])(flat).reshape(u.shape)
