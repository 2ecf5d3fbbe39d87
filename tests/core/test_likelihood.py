"""The training scalar against its formula written out, and flux without weight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal

from bayes_cannon.core.likelihood import log_variance, masked, training_scalar, weights

IVAR = np.array([1e4, 4e4, 0.0, 1e2, 1e6])
FLUX = np.array([1.0, 0.97, np.nan, 1.02, 0.99])
DESIGN = np.column_stack([np.ones(5), np.linspace(-1, 1, 5), np.linspace(-1, 1, 5) ** 2])


def written_out(theta, s2, regularization):
    total = regularization * np.abs(theta[1:]).sum()
    for y, ivar, v in zip(FLUX, IVAR, DESIGN, strict=True):
        if ivar > 0:
            variance = 1 / ivar + s2
            total += (y - v @ theta) ** 2 / variance + np.log(variance)
    return total


@given(arrays(float, 3, elements=st.floats(-2, 2)), st.floats(0, 1), st.floats(0, 1e5))
def test_scalar_is_the_formula(theta, s2, regularization):
    value = training_scalar(
        theta, np.float64(s2), design=DESIGN, flux=masked(FLUX, IVAR), ivar=IVAR, regularization=regularization
    )
    assert_allclose(value, written_out(theta, s2, regularization), rtol=1e-10)


@settings(max_examples=20)
@given(arrays(float, 3, elements=st.floats(0.1, 2)), st.floats(1e-6, 1e-2))
def test_gradient_of_jax_is_that_of_the_formula(theta, s2):
    with jax.enable_x64(True):

        def scalar(theta, s2):
            return training_scalar(
                theta, s2, design=DESIGN, flux=masked(FLUX, IVAR), ivar=jnp.asarray(IVAR), regularization=30.0
            )

        by_theta, by_s2 = jax.grad(scalar, argnums=(0, 1))(jnp.asarray(theta), jnp.asarray(s2))
        by_theta, by_s2 = np.asarray(by_theta), float(by_s2)
    w = np.where(IVAR > 0, IVAR / (1 + IVAR * s2), 0)
    residual = np.nan_to_num(FLUX) - DESIGN @ theta
    assert_allclose(by_theta, -2 * DESIGN.T @ (w * residual) + 30 * np.array([0, 1, 1]), rtol=1e-9, atol=1e-6)
    assert_allclose(by_s2, np.sum(w - w**2 * residual**2), rtol=1e-9)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_flux_without_weight_is_zero(value):
    assert_array_equal(masked(np.array([1.0, value]), np.array([2.0, 0.0])), [1.0, 0.0])


def test_weights_and_log_variance_at_the_ends():
    assert_allclose(weights(IVAR, np.float64(0.0)), IVAR)
    assert_allclose(weights(IVAR, np.float64(1e-2)), 1 / (np.array([1e-4, 2.5e-5, np.inf, 1e-2, 1e-6]) + 1e-2))
    assert_allclose(log_variance(IVAR, np.float64(0.0)), [-np.log(1e4), -np.log(4e4), 0, -np.log(1e2), -np.log(1e6)])
    assert_array_equal(weights(IVAR[:2], np.float64(np.inf)), np.zeros(2))
