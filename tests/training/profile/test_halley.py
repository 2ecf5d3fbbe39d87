"""Halley's step in s2 against the root that SciPy finds, and Newton's step."""

import jax
import numpy as np
import pytest
from scipy.optimize import brentq

from bayes_cannon.training.profile.halley import halley_s2
from bayes_cannon.training.profile.settings import SETTINGS


def derivatives(variance, square, s2):
    """First and second derivative of sum ln(variance + s2) + square / (variance + s2), sum w^2 and sum w^3."""
    w = 1 / (variance + s2)
    gradient, curvature = np.sum(w * (1 - w * square)), np.sum(w**2 * (2 * w * square - 1))
    return gradient, curvature, np.sum(w**2), np.sum(w**3)


def halley(variance, square, s2, noise_scale):
    gradient, curvature, sum_w2, sum_w3 = derivatives(variance, square, s2)
    with jax.enable_x64(True):
        return float(
            halley_s2(*(np.array(value) for value in (s2, gradient, curvature, curvature, sum_w2, sum_w3, noise_scale)))
        )


def test_error_is_of_third_order_for_equal_noise():
    rng = np.random.default_rng(1)
    variance, truth = np.ones(500), 2.0
    square = rng.normal(size=500) ** 2
    square *= (1 + truth) / square.mean()
    away = np.array([0.4, 0.2, 0.1])
    left = [abs(np.log((1 + halley(variance, square, 3 * np.exp(u) - 1, 1.0)) / 3)) for u in away]
    assert left[0] / left[1] == pytest.approx(8, rel=0.1)
    assert left[1] / left[2] == pytest.approx(8, rel=0.1)
    assert left[2] < 1e-3 * away[2]


@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0])
def test_comes_closer_than_newton_where_noise_varies(spread):
    rng = np.random.default_rng(2)
    left_by_halley, left_by_newton = [], []
    for _ in range(50):
        variance = np.exp(spread * rng.normal(size=800))
        square = (variance + rng.uniform(0.2, 3.0)) * rng.normal(size=800) ** 2
        root = brentq(lambda s2, v=variance, y=square: derivatives(v, y, s2)[0], 0.0, 50.0, xtol=1e-14, rtol=1e-14)
        start = (1 + root) * 1.1 - 1
        left_by_halley.append(abs(halley(variance, square, start, 1.0) - root))
        gradient, curvature, *_ = derivatives(variance, square, start)
        total = 1 + start
        newton = total * np.exp(-total * gradient / (total**2 * curvature + total * gradient)) - 1
        left_by_newton.append(abs(newton - root))
    assert np.median(left_by_halley) < 0.3 * np.median(left_by_newton)
    assert np.max(left_by_halley) < np.max(left_by_newton)


@pytest.mark.parametrize("gradient", [-1.0, 1.0])
def test_goes_downhill_where_curvature_is_not_positive(gradient):
    s2, curvature = 40.0, -1.0
    ahead = halley_s2(*(np.array(value) for value in (s2, gradient, curvature, curvature, 1.0, 1.0, 1.0)))
    assert float(ahead) == pytest.approx((1 + s2) * np.exp(-gradient) - 1, rel=1e-5)


def test_no_step_is_longer_than_the_bound():
    gradient, curvature = -1e3, 1e2
    ahead = halley_s2(*(np.array(value) for value in (10.0, gradient, curvature, 1e-3, 1.0, 1.0, 1.0)))
    assert float(ahead) == pytest.approx(11 * np.exp(SETTINGS.max_halley_step) - 1, rel=1e-5)


def test_never_negative():
    variance, square = np.ones(100), np.full(100, 0.1)
    assert halley(variance, square, 0.0, 1.0) == 0.0
    assert halley(variance, square, 0.5, 1.0) == 0.0
