"""Importance sampling against targets whose moments and tails are known."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bayes_cannon.posterior.importance import K_HAT_LIMIT, WeightedDraws, draw_weighted, resampled

N_DRAWS, N_COORDINATES = 4000, 2


class Target(NamedTuple):
    """Normal densities with a mean and standard deviations, (item, coordinate); ``mean`` sets the dimension."""

    mean: np.ndarray
    sd: np.ndarray


def normal(item, z):
    return 0.5 * jnp.sum(((z - item.mean) / item.sd) ** 2)


def cauchy(item, z):
    """Cauchy in the first coordinate, normal in the second."""
    return jnp.log1p(z[0] ** 2) + 0.5 * z[1] ** 2


def bimodal(item, z):
    """Two modes at plus and minus 1.5: the same in -z, as if v were -v."""
    return -jnp.logaddexp(-2 * (z[0] - 1.5) ** 2, -2 * (z[0] + 1.5) ** 2) + 0.5 * z[1] ** 2


def weighted(potential, mean, sd):
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), len(mean))
        return draw_weighted(potential, Target(np.array(mean), np.array(sd)), keys, N_DRAWS, np.zeros(len(mean)))


def test_moments_are_those_of_the_target():
    # The first coordinate has its mean at zero, as its mirror image is proposed, too.
    mean, sd = np.array([[0.0, 0.3], [0.0, -0.2]]), np.array([[0.8, 0.9], [1.1, 0.7]])
    found = weighted(normal, mean, sd)
    assert (found.k_hat < 0.5).all()
    assert_allclose(found.weight.sum(axis=1), 1)
    size = 1 / np.sum(found.weight**2, axis=1)
    assert (size > N_DRAWS / 3).all()
    error = 4 / np.sqrt(size[:, None])
    got = np.einsum("pd,pdk->pk", found.weight, found.z)
    assert (np.abs(got - mean) < error * sd).all()
    variance = np.einsum("pd,pdk->pk", found.weight, (found.z - mean[:, None]) ** 2)
    assert (np.abs(variance / sd**2 - 1) < error * np.sqrt(2)).all()


def test_k_hat_is_the_shape_of_the_tail():
    """Of a Cauchy target: ratios grow as z^9 where the t proposal of 10 degrees of freedom falls as z^-11."""
    found = weighted(cauchy, np.zeros((1, 2)), np.ones((1, 2)))
    # P(ratio > u) = P(|z| > u^(1/9)) = u^(-10/9): the shape is 0.9, estimated from 3 sqrt(n) draws.
    tail = 3 * np.sqrt(N_DRAWS)
    assert abs(found.k_hat[0] - 0.9) < 4 * 1.9 / np.sqrt(tail)
    assert found.k_hat[0] > weighted(normal, np.zeros((1, 2)), np.ones((1, 2))).k_hat[0] + 0.3
    assert K_HAT_LIMIT == 0.7


def test_the_mirror_image_is_proposed_too():
    found = weighted(bimodal, np.zeros((1, 2)), np.ones((1, 2)))
    assert abs(found.weight[0] @ np.sign(found.z[0, :, 0])) < 4 / np.sqrt(N_DRAWS / 3)


def test_a_density_that_is_not_finite_has_no_good_weights():
    sd = np.array([[1.0, 1.0], [np.nan, 1.0]])
    assert_array_equal(np.isinf(weighted(normal, np.zeros((2, 2)), sd).k_hat), [False, True])


@pytest.mark.parametrize("seed", range(3))
def test_resampling_repeats_each_draw_by_its_weight(seed):
    rng = np.random.default_rng(seed)
    z = np.arange(50.0)[None, :, None]
    weight = rng.dirichlet(np.full(50, 0.3))[None]
    out = resampled(WeightedDraws(z, weight, np.zeros(1)), [rng])
    times = np.bincount(out.ravel().astype(int), minlength=50)
    assert times.sum() == 50
    # Systematic resampling: the number above or below the expected one.
    assert (np.abs(times - 50 * weight[0]) < 1).all()
    assert (np.diff(out.ravel()) < 0).any()
