"""Coordinates without the kink of a Laplace prior: the way there and back, the Jacobian, and what they are for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from bayes_cannon.posterior.theta.laplace_coordinates import stretch_of, stretched, unstretched

# Mean and rate in units of the width: at zero, near it, far from it, with weak and strong priors, and none.
MEAN = np.array([0.0, 0.3, -0.3, 2.0, -4.0, 30.0, 0.5, 0.1])
RATE = np.array([1.0, 1.0, 3.0, 0.5, 2.0, 1.0, 50.0, 0.0])
WIDTH = 0.02
STRETCH = stretch_of(WIDTH * MEAN, np.full(MEAN.shape, WIDTH**2), RATE / WIDTH)


@pytest.fixture(scope="module")
def map_at():
    """Theta, the logarithm of its derivative, and that derivative by differentiation, at many zeta."""
    zeta = np.linspace(-4, 4, 41)[:, None] + np.zeros(MEAN.shape)
    with jax.enable_x64(True):
        stretch = jax.tree.map(jnp.asarray, STRETCH)
        theta, log_slope = jax.jit(stretched)(stretch, jnp.asarray(zeta))
        one = lambda zeta: stretched(stretch, zeta)[0]  # noqa: E731
        derivative = jax.jit(jax.vmap(lambda zeta: jnp.diagonal(jax.jacfwd(one)(zeta))))(jnp.asarray(zeta))
        return zeta, np.asarray(theta), np.asarray(log_slope), np.asarray(derivative)


def test_there_and_back(map_at):
    zeta, theta, _, _ = map_at
    assert (np.diff(theta, axis=0) > 0).all()
    assert_allclose(unstretched(STRETCH, theta), zeta, atol=1e-6)


def test_jacobian_is_the_derivative(map_at):
    _, _, log_slope, derivative = map_at
    assert_allclose(log_slope, np.log(derivative), atol=1e-6)


def test_without_a_prior_the_map_is_linear(map_at):
    zeta, theta, log_slope, _ = map_at
    assert_allclose(theta[:, -1], WIDTH * (MEAN[-1] + zeta[:, -1]), rtol=1e-10)
    assert_allclose(log_slope[:, -1], np.log(WIDTH), rtol=1e-10)


def test_the_marginal_becomes_standard_normal(map_at):
    """Of the coefficient whose density the map was made for: ``Normal(m, c)`` times the Laplace prior."""
    zeta, theta, log_slope, _ = map_at
    scaled = theta / WIDTH
    log_density = -0.5 * (scaled - MEAN) ** 2 - RATE * np.abs(scaled) + log_slope
    middle = len(zeta) // 2
    near = np.abs(MEAN) - RATE < 5  # Farther away the map is linear, about the mode.
    excess = log_density - log_density[middle] + 0.5 * zeta**2
    assert_allclose(excess[:, near & (RATE < 20)], 0, atol=1e-6)
