r"""Posterior draws without chains, by Pareto-smoothed importance sampling (Vehtari et al. 2024).

The proposal is a multivariate Student-t distribution with the mean and covariance of expectation propagation. It is
close enough to the posterior where the Pareto shape k-hat of the weights is below 0.7.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayes_cannon.core import student_t
from bayes_cannon.core.typing import Array
from bayes_cannon.execution.devices import is_cpu

FREEDOM = 10.0
"""Degrees of freedom of the proposal."""
K_HAT_LIMIT = 0.7


class WeightedDraws(NamedTuple):
    """Draws z, shape (item, draw, coordinate), their normalized weights (item, draw), and k-hat (item,)."""

    z: np.ndarray
    weight: np.ndarray
    k_hat: np.ndarray


def draw_weighted(
    potential: Callable[[Any, Array], Array], items: Any, keys: Array, n_draws: int, mirrored: Array
) -> WeightedDraws:
    """Weighted draws of each item.

    Parameters
    ----------
    potential
        Minus the logarithm of the density, of one item's data and its coordinates z, the same in ``-v`` as in v, the
        first coordinate before whitening.
    items
        Data of all items, a pytree with the item as the leading axis.
    keys
        A key of each item, shape (item,).
    n_draws
        Number of draws.
    mirrored
        The z of v = 0 for each item, shape (item,): of a draw and its mirror image either is proposed.

    """
    from arviz_stats.base import array_stats  # Importing it takes a second.

    n_coordinates = items.mean.shape[1]
    z, log_ratio = map(np.asarray, _proposed(potential, items, keys, mirrored, n_draws, n_coordinates))
    known = np.isfinite(log_ratio).all(axis=1)
    log_weight, k_hat = np.zeros_like(log_ratio), np.full(len(z), np.inf)
    if known.any():
        # ArviZ takes logarithms of likelihoods, whose inverse are the weights.
        log_weight[known], k_hat[known] = array_stats.psislw(-log_ratio[known], r_eff=1.0, axis=-1)
    weight = np.exp(log_weight - log_weight.max(axis=1, keepdims=True))
    return WeightedDraws(z, weight / weight.sum(axis=1, keepdims=True), k_hat)


@partial(jax.jit, static_argnums=(0, 4, 5))
def _proposed(
    potential: Callable[[Any, Array], Array], items: Any, keys: Array, mirrored: Array, n_draws: int, n_coordinates: int
) -> tuple[Array, Array]:
    def of_item(item: tuple[Any, Array, Array]) -> tuple[Array, Array]:
        data, key, mirror = item
        normal_key, scale_key = jax.random.split(key)
        scale = 2.0 * jax.random.gamma(scale_key, FREEDOM / 2, (n_draws, 1)) / FREEDOM
        z = jax.random.normal(normal_key, (n_draws, n_coordinates)) / jnp.sqrt(scale)
        image = z.at[:, 0].set(2 * mirror - z[:, 0])
        log_proposal = jnp.logaddexp(*(_log_proposal(point) for point in (z, image)))
        return z, -jax.vmap(lambda point: potential(data, point))(z) - log_proposal

    return jax.lax.map(of_item, (items, keys, mirrored), batch_size=None if is_cpu() else len(keys))


def _log_proposal(z: jax.Array) -> Array:
    return student_t.log_density(jnp.sum(z**2, axis=1), 0.0, z.shape[1], FREEDOM)


def resampled(weighted: WeightedDraws, generators: Sequence[np.random.Generator]) -> np.ndarray:
    """The same number of draws with equal weights, by systematic resampling, in random order; shaped as ``z``."""
    out = np.empty_like(weighted.z)
    n = weighted.z.shape[1]
    for item, (z, weight, rng) in enumerate(zip(weighted.z, weighted.weight, generators, strict=True)):
        chosen = np.searchsorted(np.cumsum(weight), (np.arange(n) + rng.uniform()) / n)
        out[item] = z[rng.permutation(np.minimum(chosen, n - 1))]
    return out
