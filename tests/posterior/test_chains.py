"""Chains of small densities: thinning, and what first and second runs are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bayes_cannon.posterior.chains import dispersed_starts, draw_chains, statistics
from bayes_cannon.posterior.settings import ChainSettings

N_ITEMS, N_CHAINS, N_COORDINATES = 3, 2, 2


def potential(scale, z):
    """A normal distribution whose first coordinate has this standard deviation."""
    return 0.5 * ((z[0] / scale) ** 2 + z[1] ** 2)


def drawn(**settings):
    chosen = ChainSettings(**{"n_chains": N_CHAINS, "n_warmup": 40, "n_draws": 30} | settings)
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(1), (N_ITEMS, 2 * N_CHAINS))
        starts = dispersed_starts(keys[:, N_CHAINS:], N_COORDINATES)
        return draw_chains(potential, jnp.array([1.0, 0.5, 20.0]), keys[:, :N_CHAINS], starts, chosen)


def test_thinned_draws_are_some_of_all():
    every, some = drawn(n_draws=120), drawn(thinning=4)
    assert_array_equal(some.z, every.z[:, :, 3::4])
    steps = np.asarray(every.n_steps).reshape(N_ITEMS, N_CHAINS, 30, 4)
    assert_array_equal(some.n_steps, steps.max(axis=-1))
    diverging = np.asarray(every.diverging).reshape(steps.shape)
    assert_array_equal(some.diverging, diverging.any(axis=-1))


def test_first_runs_have_shallow_trees_and_second_ones_those_that_are_allowed():
    settings = ChainSettings(max_tree_depth=5)
    first, second = settings.of_run(0), settings.of_run(1)
    assert (first.max_tree_depth, second.max_tree_depth) == (2, 5)
    assert second.n_warmup > first.n_warmup
    assert (second.n_chains, second.n_draws) == (first.n_chains, first.n_draws)
    assert ChainSettings(max_tree_depth=1).of_run(0).max_tree_depth == 1
    # A distribution that is badly whitened needs long trajectories.
    kept = drawn(max_tree_depth=2), drawn(max_tree_depth=5)
    assert [np.asarray(one.n_steps)[2].max() for one in kept] == [3, 31]
    shallow, deep = (statistics(one, settings)["reached_max_tree_depth"] for one in kept)
    assert not shallow.any()
    assert deep[2].any()


@pytest.mark.parametrize("depth", [2, 6])
def test_draws_are_of_the_density(depth):
    with jax.enable_x64(True):
        z = np.asarray(drawn(n_warmup=150, n_draws=4000, max_tree_depth=depth).z)
    sd = np.array([[1.0, 1.0], [0.5, 1.0]])
    assert_allclose(z[:2].std(axis=(1, 2)), sd, rtol=0.06)
    assert (np.abs(z[:2].mean(axis=(1, 2))) < 0.08 * sd).all()
