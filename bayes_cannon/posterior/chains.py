r"""Many small posteriors at once, by NumPyro's NUTS or HMC: one compiled program, whose lanes are items and chains.

Every density is given in coordinates in which its covariance is about the identity, so that only the step size is
adapted. Few items run in lock-step: under vmap each draw takes as many leapfrog steps as the longest tree of all lanes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer import HMC, NUTS

from bayes_cannon.core.typing import Array

ITEMS_TOGETHER = 4
"""So many items run in lock-step by default."""
FIRST_STEP = 0.3
KERNELS = ("nuts", "hmc")


@dataclass(frozen=True)
class ChainSettings:
    """How to sample.

    Attributes
    ----------
    kernel
        ``"nuts"``, the No-U-Turn sampler, or ``"hmc"`` with a fixed length of trajectories.
    n_chains, n_warmup, n_draws
        Chains of each item, draws that adapt the step size and are forgotten, and draws kept, of each chain.
    target_accept
        Mean acceptance that the step size is adapted to. Kinks make small steps dear: ESS per second is highest here.
    max_tree_depth
        A tree has at most ``2^depth - 1`` leapfrog steps.
    trajectory
        Length of HMC's trajectories, in units of the standard deviations.

    """

    kernel: str = "nuts"
    n_chains: int = 4
    n_warmup: int = 150
    n_draws: int = 500
    target_accept: float = 0.7
    max_tree_depth: int = 8
    trajectory: float = 2.0


class Draws(NamedTuple):
    """What was drawn, shape (item, chain, draw) and for z (item, chain, draw, coordinate)."""

    z: Array
    potential: Array
    n_steps: Array
    diverging: Array
    acceptance: Array
    energy: Array
    step_size: Array


@partial(jax.jit, static_argnames=("potential", "settings", "together"))
def draw_chains(
    potential: Callable[[Any, Array], Array],
    items: Any,
    keys: Array,
    starts: Array,
    settings: ChainSettings,
    together: int = ITEMS_TOGETHER,
) -> Draws:
    """Chains of each item.

    Parameters
    ----------
    potential
        Minus the logarithm of the density, of one item's data and its coordinates z. Must be the same object in each
        call, or all is compiled again.
    items
        Data of all items, a pytree with the item as the leading axis.
    keys
        A key for each chain, shape (item, chain).
    starts
        First z of each chain, shape (item, chain, coordinate).
    settings
        Of all chains.
    together
        So many items run in lock-step: the more, the fewer steps of the program, and the longer each trajectory waits.

    """

    def of_item(item: tuple[Any, Array, Array]) -> Draws:
        data, keys, starts = item
        return jax.vmap(lambda key, start: _chain(partial(potential, data), key, start, settings))(keys, starts)

    return jax.lax.map(of_item, (items, keys, starts), batch_size=together)


def _chain(potential: Callable[[Array], Array], key: Array, start: Array, settings: ChainSettings) -> Draws:
    kernel = _kernel(potential, settings)
    state = kernel.init(key, settings.n_warmup, start, (), {})

    def step(state: Any, _: None) -> tuple[Any, Draws]:
        state = kernel.sample(state, (), {})
        kept = Draws(
            state.z, state.potential_energy, state.num_steps, state.diverging, state.accept_prob, state.energy,
            state.adapt_state.step_size,
        )  # fmt: skip
        return state, kept

    # One loop for both phases, which halves the time to compile.
    drawn = jax.lax.scan(step, state, length=settings.n_warmup + settings.n_draws)[1]
    return jax.tree.map(lambda array: array[settings.n_warmup :], drawn)


def _kernel(potential: Callable[[Array], Array], settings: ChainSettings) -> HMC:
    options: dict[str, Any] = {
        "potential_fn": potential, "step_size": FIRST_STEP, "adapt_mass_matrix": False,
        "target_accept_prob": settings.target_accept,
    }  # fmt: skip
    if settings.kernel == "hmc":
        return HMC(**options, trajectory_length=settings.trajectory)
    return NUTS(**options, max_tree_depth=settings.max_tree_depth)


def statistics(draws: Draws, settings: ChainSettings) -> dict[str, np.ndarray]:
    """What ArviZ calls sample statistics, shape (item, chain, draw) each."""
    kept = {name: np.asarray(getattr(draws, name)) for name in ("n_steps", "diverging", "energy", "step_size")}
    depth = np.ceil(np.log2(kept["n_steps"] + 1)).astype(int)
    return kept | {
        "acceptance_rate": np.asarray(draws.acceptance), "lp": -np.asarray(draws.potential), "tree_depth": depth,
        "reached_max_tree_depth": depth >= settings.max_tree_depth,
    }  # fmt: skip


def whitened_again(draws: np.ndarray, root: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and root of the covariance of draws (chain, draw, coordinate), drawn a little to that of the root before."""
    flat = draws.reshape(-1, draws.shape[-1])
    n, prior = len(flat), 5 * len(root)
    covariance = (n * np.atleast_2d(np.cov(flat.T)) + prior * root @ root.T) / (n + prior)
    return flat.mean(axis=0), np.linalg.cholesky(covariance)


def dispersed_starts(keys: Array, n_coordinates: int) -> jax.Array:
    """Starting points with twice the standard deviation of the posterior in every coordinate, (item, chain, ...)."""
    draw = partial(jax.random.normal, shape=(n_coordinates,), dtype=jnp.float64)
    return 2.0 * jax.vmap(jax.vmap(draw))(keys)
