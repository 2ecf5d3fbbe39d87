"""The lasso on the Gram matrix: optimality conditions, exact zeros, bounds, and matrices that are singular."""

import jax
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import lsq_linear
from sklearn.linear_model import Lasso

from bayes_cannon.training.lasso import LassoState, gram_lasso

N, D = 60, 10
FREE = np.full(D, np.inf)
_jitted = jax.jit(gram_lasso, static_argnames=("max_rounds",))
seeds = st.integers(0, 2**32 - 1)


def solve(design, target, lam, lower=-FREE, upper=FREE, start=None, **kwargs):
    start = np.zeros(D) if start is None else start
    lam = np.broadcast_to(np.asarray(lam, float), D)
    with jax.enable_x64(True):
        state = _jitted(design.T @ design, design.T @ target, lam, lower, upper, start, tolerance=1e-11, **kwargs)
        return LassoState(*(np.asarray(array) for array in state))


def data(seed, conditioning=1.0, sparse=0.5):
    rng = np.random.default_rng(seed)
    design = rng.normal(size=(N, D)) * 10.0 ** rng.uniform(-conditioning, conditioning, D)
    design[:, 1] += 0.95 * design[:, 2] * np.linalg.norm(design[:, 1]) / np.linalg.norm(design[:, 2])
    design[:, 0] = 1
    theta = rng.normal(size=D) * (rng.random(D) > sparse) / np.linalg.norm(design, axis=0) * np.sqrt(N)
    return design, design @ theta + rng.normal(size=N)


def objective(design, target, lam, theta):
    return 0.5 * np.sum((target - design @ theta) ** 2) + np.sum(lam * np.abs(theta))


@settings(max_examples=60)
@given(seeds, st.floats(-2, 2.5), st.booleans())
def test_optimality_conditions(seed, log_lam, constant_is_free):
    design, target = data(seed)
    lam = np.full(D, 10**log_lam)
    if constant_is_free:
        lam[0] = 0
    theta = solve(design, target, lam).theta
    gradient = design.T @ (target - design @ theta)
    slack = 1e-7 * np.linalg.norm(design, axis=0) * np.linalg.norm(target)
    zero = theta == 0
    assert (np.abs(gradient)[zero] <= (lam + slack)[zero]).all()
    assert (np.abs(gradient - lam * np.sign(theta))[~zero] <= slack[~zero]).all()


@settings(max_examples=60)
@given(seeds, st.floats(-2, 2.5))
def test_optimality_conditions_with_bounds(seed, log_lam):
    design, target = data(seed)
    rng = np.random.default_rng(seed + 1)
    size = np.abs(np.linalg.lstsq(design, target, rcond=None)[0])
    lower = np.where(rng.random(D) < 0.5, -size * rng.uniform(-0.5, 1.5, D), -np.inf)
    upper = np.where(rng.random(D) < 0.5, np.maximum(lower, size * rng.uniform(-0.5, 1.5, D)), np.inf)
    upper = np.where(rng.random(D) < 0.2, lower, upper)
    upper, lower = (
        np.where(np.isinf(upper) & (upper < 0), 0.0, upper),
        np.where(np.isneginf(lower) & (upper == lower), 0.0, lower),
    )
    lam = np.full(D, 10**log_lam)
    theta = solve(design, target, lam, lower, upper).theta
    assert ((theta >= lower) & (theta <= upper)).all()

    slack = 1e-7 * np.linalg.norm(design, axis=0) * (np.linalg.norm(target) + np.linalg.norm(design @ theta))
    gradient = design.T @ (target - design @ theta)
    # No single term can lower the objective to either side.
    up = gradient - lam * np.where(theta >= 0, 1, -1)
    down = -gradient - lam * np.where(theta <= 0, 1, -1)
    assert (up[theta < upper] <= slack[theta < upper]).all()
    assert (down[theta > lower] <= slack[theta > lower]).all()


@settings(max_examples=15)
@given(seeds, st.floats(0, 1.7))
def test_agrees_with_scikit_learn(seed, log_lam):
    design, target = data(seed, conditioning=0.3)
    lam = 10**log_lam
    estimator = Lasso(alpha=lam / N, fit_intercept=False, tol=1e-14, max_iter=200_000).fit(design, target)
    theta = solve(design, target, lam).theta
    assert_allclose(theta, estimator.coef_, atol=1e-6 * np.abs(theta).max())
    assert_array_equal(theta == 0, estimator.coef_ == 0)
    assume((theta == 0).any())


@settings(max_examples=30)
@given(seeds)
def test_bounds_without_penalty_agree_with_scipy(seed):
    design, target = data(seed, conditioning=0.3)
    rng = np.random.default_rng(seed)
    lower = np.where(rng.random(D) < 0.6, rng.normal(size=D), -np.inf)
    upper = np.where(rng.random(D) < 0.6, np.where(np.isfinite(lower), lower, 0) + rng.exponential(size=D), np.inf)
    theta = solve(design, target, 0.0, lower, upper).theta
    reference = lsq_linear(design, target, (lower, upper), method="bvls", tol=1e-15).x
    assert_allclose(theta, reference, atol=1e-7 * np.abs(reference).max())


@pytest.mark.parametrize("lam", [0.0, 3.0])
def test_any_start_leads_to_the_same_optimum(lam):
    design, target = data(5)
    rng = np.random.default_rng(0)
    first = solve(design, target, lam)
    for scale in (1e-3, 1.0, 1e3):
        other = solve(design, target, lam, start=scale * rng.normal(size=D))
        assert_allclose(other.theta, first.theta, atol=1e-8 * np.abs(first.theta).max())
    again = solve(design, target, lam, start=first.theta)
    assert again.rounds <= 2
    assert_allclose(again.theta, first.theta, rtol=1e-9)


def test_zero_penalty_is_least_squares():
    design, target = data(1)
    assert_allclose(solve(design, target, 0.0).theta, np.linalg.lstsq(design, target, rcond=None)[0], rtol=1e-8)


def test_a_large_penalty_leaves_the_free_constant_only():
    design, target = data(2)
    theta = solve(design, target, np.where(np.arange(D) == 0, 0.0, 1e9)).theta
    assert_array_equal(theta[1:], 0)
    assert_allclose(theta[0], target.mean(), rtol=1e-12)


@pytest.mark.parametrize("lam", [0.0, 2.0])
def test_singular_gram_matrix(lam):
    """Dependent and empty columns: the optimum is not unique, its objective is."""
    design, target = data(3, conditioning=0.3)
    design[:, 4] = design[:, 3]
    design[:, 5] = design[:, 6] - design[:, 7]
    design[:, 8] = 0
    state = solve(design, target, lam)
    assert np.isfinite(state.theta).all()
    assert state.theta[8] == 0
    if lam == 0:
        reference = np.linalg.lstsq(design, target, rcond=None)[0]
    else:
        reference = Lasso(alpha=lam / N, fit_intercept=False, tol=1e-14, max_iter=200_000).fit(design, target).coef_
    assert_allclose(objective(design, target, lam, state.theta), objective(design, target, lam, reference), rtol=1e-10)


def test_fixed_terms_stay_and_the_others_fit_the_rest():
    design, target = data(4)
    fixed = np.isin(np.arange(D), [2, 5])
    lower, upper = np.where(fixed, 0.1, -np.inf), np.where(fixed, 0.1, np.inf)
    theta = solve(design, target, 0.0, lower, upper, start=np.full(D, 7.0)).theta
    assert_array_equal(theta[fixed], 0.1)
    rest = np.linalg.lstsq(design[:, ~fixed], target - design[:, fixed].sum(axis=1) * 0.1, rcond=None)[0]
    assert_allclose(theta[~fixed], rest, rtol=1e-7)


def test_the_rounds_are_limited():
    design, target = data(6)
    with jax.enable_x64(True):
        assert _jitted(design.T @ design, design.T @ target, np.full(D, 1.0), -FREE, FREE, np.zeros(D),
                       tolerance=0.0, max_rounds=3).rounds == 3  # fmt: skip
