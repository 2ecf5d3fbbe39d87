"""Expectation propagation against quadrature in one and two dimensions, and against the normal posterior."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bayes_cannon.posterior.theta.expectation_propagation import laplace_posterior, tilted_moments

CORRELATED = np.array([[4.0, 2.4], [2.4, 3.0]])
CLOSE = 0.05
"""Errors of means and standard deviations, in standard deviations: a few per cent, as the module states."""


def by_quadrature(gram, linear, rate):
    """Mean and covariance of the posterior on a grid."""
    one = np.linspace(-6, 6, 6001 if len(linear) == 1 else 601)
    theta = np.stack(np.meshgrid(*[one] * len(linear), indexing="ij"), axis=-1)
    exponent = theta @ linear - 0.5 * np.sum(theta @ gram * theta, axis=-1) - np.abs(theta) @ rate
    weight = np.exp(exponent - exponent.max())
    weight /= weight.sum()
    mean = np.tensordot(weight, theta, len(linear))
    away = (theta - mean).reshape(-1, len(linear))
    return mean, (away.T * weight.ravel()) @ away


@pytest.mark.parametrize(("mean", "rate"), [(0.3, 1.0), (-2.0, 3.0), (0.0, 0.5), (3.0, 2.0)])
def test_tilted_moments_are_those_of_quadrature(mean, rate):
    expected, variance = by_quadrature(np.eye(1) / 0.6, np.array([mean / 0.6]), np.array([rate]))
    got = tilted_moments(np.array(mean), np.array(0.6), np.array(rate))
    assert_allclose(got, (expected[0], variance[0, 0]), rtol=1e-4, atol=1e-6)


def test_tilted_moments_far_from_the_kink_are_those_of_a_shifted_normal_distribution():
    mean = np.array([40.0, -40.0, 1e6])
    got_mean, got_variance = tilted_moments(mean, np.ones(3), np.full(3, 2.0))
    assert_allclose(got_mean, mean - 2 * np.sign(mean))
    assert_allclose(got_variance, 1)


@pytest.mark.parametrize("linear", [[0.0, 0.0], [1.0, -0.5], [3.0, 4.0]])
@pytest.mark.parametrize("rate", [[1.0, 1.0], [0.3, 4.0]])
def test_two_coefficients_are_those_of_quadrature(linear, rate):
    linear, rate = np.array(linear), np.array(rate)
    mean, covariance = by_quadrature(CORRELATED, linear, rate)
    found = laplace_posterior(CORRELATED[None], linear[None], rate[None])
    sd = np.sqrt(np.diag(covariance))
    assert found.change[0] < 1e-6
    assert_allclose(found.mean[0], mean, atol=CLOSE * sd.max())
    assert_allclose(np.sqrt(np.diag(found.covariance[0])), sd, rtol=CLOSE)
    correlation = [matrix[0, 1] / np.sqrt(matrix[0, 0] * matrix[1, 1]) for matrix in (covariance, found.covariance[0])]
    assert_allclose(*correlation, atol=2 * CLOSE)


def test_a_pixel_is_the_same_in_any_company():
    linear, rate = np.array([[0.0, 0.0], [3.0, 4.0]]), np.array([[1.0, 1.0], [0.3, 4.0]])
    together = laplace_posterior(np.stack([CORRELATED] * 2), linear, rate)
    for pixel in range(2):
        alone = laplace_posterior(CORRELATED[None], linear[[pixel]], rate[[pixel]])
        # Rounds end when all pixels have converged, so that one may have a few more.
        assert_allclose(together.mean[pixel], alone.mean[0], atol=1e-5)


def test_without_priors_it_is_the_normal_posterior():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(3, 4, 8)) * np.array([1.0, 1e3, 1e-3, 1.0])[:, None]
    gram, linear = root @ root.swapaxes(1, 2), rng.normal(size=(3, 4))
    found = laplace_posterior(gram, linear, np.zeros((3, 4)))
    covariance = np.linalg.inv(gram)
    assert_allclose(found.covariance, covariance, rtol=1e-6)
    assert_allclose(found.mean, np.einsum("pde,pe->pd", covariance, linear), rtol=1e-6)
    assert (found.precision == 0).all()


def test_a_coefficient_that_the_data_leave_open_has_its_prior():
    found = laplace_posterior(np.diag([2.0, 0.0])[None], np.array([[1.0, 0.0]]), np.array([[0.0, 4.0]]))
    assert_allclose(found.mean[0], [0.5, 0.0], atol=1e-12)
    # The variance of a Laplace distribution is twice the square of its scale.
    assert_allclose(np.sqrt(found.covariance[0, 1, 1]), np.sqrt(2) / 4, rtol=2 * CLOSE)
    with pytest.raises(np.linalg.LinAlgError):
        laplace_posterior(np.ones((1, 2, 2)), np.zeros((1, 2)), np.zeros((1, 2)))
