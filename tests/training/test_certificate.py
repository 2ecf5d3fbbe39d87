"""The certificate: an upper bound on what is missing to the optimum, zero there, and computed from the data alone."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.optimize import lsq_linear
from sklearn.linear_model import Lasso

from bayes_cannon.core.likelihood import training_scalar
from bayes_cannon.core.status import PixelStatus
from bayes_cannon.core.terms import Terms
from bayes_cannon.training.certificate import certify, inverse_masked, relative_gap, smallest_pivot, solve_masked
from bayes_cannon.training.problem import PixelProblem
from bayes_cannon.training.profile import solver as profile

N, D = 60, 10
LAMBDAS = (0.0, 30.0, 1000.0)
_gap = jax.jit(relative_gap)


def gap(design, target, theta, lam, lower, upper):
    residual = target - design @ theta
    with jax.enable_x64(True):
        return float(_gap(design.T @ design, design.T @ residual, residual @ residual, theta, lam, lower, upper))


def scalar(design, target, theta, lam):
    """What is minimized; the gap is relative to it too."""
    return np.sum((target - design @ theta) ** 2) + 2 * np.sum(lam * np.abs(theta))


def regression(seed):
    rng = np.random.default_rng(seed)
    design = rng.normal(size=(N, D))
    design[:, 0] = 1
    return design, design @ (rng.normal(size=D) * (rng.random(D) > 0.4)) + rng.normal(size=N)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.floats(-6, 1), st.sampled_from([0.0, 1.0, 20.0]), st.booleans())
def test_gap_bounds_the_excess(seed, log_distance, lam, bounded):
    """Against the true optimum by scikit-learn or SciPy, at points anywhere near it."""
    design, target = regression(seed)
    rng = np.random.default_rng(seed + 1)
    lower, upper = np.full(D, -np.inf), np.full(D, np.inf)
    if bounded:
        lower[2:5], upper[4:7] = -0.3, 0.2
    penalty = np.full(D, lam)
    penalty[0] = 0
    best = reference(design, target, penalty, lower, upper)
    theta = np.clip(best + 10**log_distance * rng.normal(size=D) * (rng.random(D) > 0.3), lower, upper)
    theta[best == 0] *= rng.random() > 0.5
    theta = np.clip(theta, lower, upper)
    excess = scalar(design, target, theta, penalty) - scalar(design, target, best, penalty)
    reported = gap(design, target, theta, penalty, lower, upper) * scalar(design, target, theta, penalty)
    assert reported >= excess - 1e-9 * scalar(design, target, theta, penalty)


def reference(design, target, penalty, lower, upper):
    if not penalty.any():
        return lsq_linear(design, target, (lower, upper), method="bvls", tol=1e-15).x
    if np.isinf(lower).all():
        centred = design[:, 1:] - design[:, 1:].mean(axis=0)
        estimator = Lasso(alpha=penalty[1] / N, fit_intercept=False, tol=1e-14, max_iter=200_000)
        rest = estimator.fit(centred, target - target.mean()).coef_
        return np.concatenate([[target.mean() - design[:, 1:].mean(axis=0) @ rest], rest])
    # theta = p - q with p, q >= 0 makes the penalty linear, and completing the square makes it least squares.
    signs = np.column_stack([np.eye(D), -np.eye(D)])
    gram = signs.T @ design.T @ design @ signs + 1e-13 * np.eye(2 * D)
    root = np.linalg.cholesky(gram).T
    right = np.linalg.solve(root.T, signs.T @ design.T @ target - np.tile(penalty, 2))
    largest = np.minimum(np.concatenate([upper, -lower]), 1e9)
    split = lsq_linear(root, right, (np.zeros(2 * D), largest), method="bvls", tol=1e-15).x
    return np.clip(signs @ split, lower, upper)


def test_gap_is_the_textbook_gap_of_the_lasso():
    """Primal minus dual at the residual scaled to be feasible, with the constant projected out by hand."""
    design, target = regression(0)
    penalty = np.where(np.arange(D) > 0, 5.0, 0.0)
    free = np.full(D, np.inf)
    theta = np.random.default_rng(1).normal(size=D) * 0.3
    theta[0] = np.mean(target - design[:, 1:] @ theta[1:])
    residual = target - design @ theta
    shrink = min(1.0, (5.0 / np.abs(design[:, 1:].T @ residual)).min())
    dual = 0.5 * target @ target - 0.5 * np.sum((target - shrink * residual) ** 2)
    primal = 0.5 * residual @ residual + 5.0 * np.abs(theta[1:]).sum()
    expected = (primal - dual) / (0.5 * scalar(design, target, theta, penalty))
    assert expected > 1e-3
    assert_allclose(gap(design, target, theta, penalty, -free, free), expected, rtol=1e-9)


@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1), st.floats(-6, 0), st.floats(-6, -0.5), st.sampled_from([1.0, 20.0]), *2 * [st.booleans()]
)
def test_gap_with_a_gram_matrix_of_wrong_weights_bounds_the_excess(seed, log_distance, log_error, lam, bounded, alike):
    """Every weight wrong by as much as is said, and all entries rounded by as much.

    Where all weights are too large alike, the steps are too short, and what they leave is what the errors are for.
    """
    design, target = regression(seed)
    rng = np.random.default_rng(seed + 1)
    lower, upper = np.full(D, -np.inf), np.full(D, np.inf)
    if bounded:
        lower[2:5], upper[4:7] = -0.3, 0.2
    penalty = np.where(np.arange(D) > 0, lam, 0.0)
    best = reference(design, target, penalty, lower, upper)
    theta = np.clip(best + 10**log_distance * rng.normal(size=D) * (best != 0), lower, upper)
    residual = target - design @ theta
    exact, gradient = design.T @ design, design.T @ residual
    errors = 10**log_error, 1e-6
    wrong = (design.T * (1 + errors[0] * (1 if alike else rng.choice([-1, 1], size=N)))) @ design
    length = np.sqrt(np.diag(exact))
    rounding = rng.choice([-1, 1], size=(D, D))
    wrong += errors[1] * np.outer(length, length) * (np.tril(rounding) + np.tril(rounding, -1).T)
    active = (best != 0) & (theta > lower) & (theta < upper)
    delta = np.zeros(D)
    delta[active] = np.linalg.solve(wrong[np.ix_(active, active)], (gradient - penalty * np.sign(theta))[active])
    constant = np.arange(D) == 0
    delta[0] = (gradient[0] - wrong[0, 1:] @ delta[1:]) / wrong[0, 0]
    with jax.enable_x64(True):
        bound = _gap(
            wrong, gradient, residual @ residual, theta, penalty, lower, upper,
            projected=constant, delta=delta, errors=errors,
        )  # fmt: skip
    size = scalar(design, target, theta, penalty)
    excess = (size - scalar(design, target, best, penalty)) / size
    assert float(bound) >= excess - 1e-12


def test_gap_with_nearly_right_weights_is_of_second_order():
    """Where projecting on the constant alone leaves the error of theta, the excess itself is its square."""
    design, target = regression(3)
    rng = np.random.default_rng(4)
    penalty, free = np.where(np.arange(D) > 0, 20.0, 0.0), np.full(D, np.inf)
    best = reference(design, target, penalty, -free, free)
    theta = best + 1e-5 * rng.normal(size=D) * (best != 0)
    residual = target - design @ theta
    gradient, wrong = design.T @ residual, (design.T * (1 + 1e-3 * rng.choice([-1, 1], size=N))) @ design
    delta = np.zeros(D)
    active = np.ix_(best != 0, best != 0)
    delta[best != 0] = np.linalg.solve(wrong[active], (gradient - penalty * np.sign(theta))[best != 0])
    constant = np.arange(D) == 0
    point = wrong, gradient, residual @ residual, theta, penalty, -free, free

    def bound(rest):
        delta = np.where(constant, 0.0, rest)
        delta[0] = (gradient[0] - wrong[0, 1:] @ delta[1:]) / wrong[0, 0]
        with jax.enable_x64(True):
            return float(_gap(*point, projected=constant, delta=delta, errors=(1e-3, 0.0)))

    assert bound(np.zeros(D)) > 1e-6
    assert bound(delta) < 1e-9


def test_gap_of_least_squares_is_the_whole_excess():
    design, target = regression(2)
    free, theta = np.full(D, np.inf), np.full(D, 0.1)
    best = np.linalg.lstsq(design, target, rcond=None)[0]
    excess = scalar(design, target, theta, np.zeros(D)) - scalar(design, target, best, np.zeros(D))
    reported = gap(design, target, theta, np.zeros(D), -free, free)
    assert_allclose(reported, excess / scalar(design, target, theta, np.zeros(D)), rtol=1e-9)


def solved(training, regularization):
    problem = training.problem(regularization)
    solution = profile.solve(problem)
    return problem, solution


@pytest.mark.parametrize("regularization", LAMBDAS)
def test_certificate_at_the_optimum_and_away_from_it(training, regularization):
    problem, solution = solved(training, regularization)
    objective, at_optimum, gradient = certify(problem, solution.theta, solution.s2)
    assert at_optimum.max() < 1e-9
    interior = solution.s2 > 0
    assert np.abs(gradient[interior]).max() < 1e-7
    assert (gradient[~interior] >= 0).all()
    assert_allclose(objective, solution.objective, rtol=1e-13)
    assert_allclose(gradient, solution.profile_gradient, atol=1e-9)

    rng = np.random.default_rng(0)
    theta = solution.theta + 1e-3 * rng.normal(size=solution.theta.shape)
    moved, reported, _ = certify(problem, theta, solution.s2)
    w = 1 / (1 / problem.ivar + solution.s2)
    chi_squared = np.sum(w * (problem.flux - problem.design @ theta.T) ** 2, axis=0)
    excess = (moved - solution.objective) / (chi_squared + regularization * np.abs(theta[:, 1:]).sum(axis=1))
    assert (excess > 0).all()
    assert (reported >= excess * (1 - 1e-9)).all()


def test_objective_is_the_training_scalar(training):
    problem, solution = solved(training, 30.0)
    for j in (0, 7):
        expected = training_scalar(
            solution.theta[j], solution.s2[j], design=problem.design, flux=problem.flux[:, j], ivar=problem.ivar[:, j],
            regularization=30.0,
        )  # fmt: skip
        assert_allclose(solution.objective[j], expected, rtol=1e-13)


def test_profile_gradient_is_that_of_the_profile(training):
    """A finite difference of the scalar over s2, theta refitted at each by least squares."""
    problem = training.problem()
    j, s2, step = 4, 2e-5, 1e-9

    def refitted(s2):
        root = np.sqrt(1 / (1 / problem.ivar[:, j] + s2))
        theta = np.linalg.lstsq(root[:, None] * problem.design, root * problem.flux[:, j], rcond=None)[0]
        return theta, np.sum((root * (problem.flux[:, j] - problem.design @ theta)) ** 2) - 2 * np.log(root).sum()

    theta, _ = refitted(s2)
    slope = (refitted(s2 + step)[1] - refitted(s2 - step)[1]) / (2 * step)
    everywhere = np.broadcast_to(theta, (60, 10))
    _, small_gap, gradient = certify(problem, everywhere, np.full(60, s2))
    weight = np.sum(1 / (1 / problem.ivar[:, j] + s2))
    assert_allclose(gradient[j], slope / weight, rtol=1e-4)
    assert small_gap[j] < 1e-20


def test_bounds_and_censored_terms(training):
    """Optimal within the bounds is certified as optimal; the same point without the bounds is not."""
    problem = training.problem(30.0)
    lower, upper = problem.lower.copy(), problem.upper.copy()
    lower[:, 1], upper[:, 2] = 0.01, -0.005
    lower[:, 3] = upper[:, 3] = 0.0
    bounded = replace(problem, lower=lower, upper=upper)
    solution = profile.solve(bounded)
    assert (solution.theta[:, 3] == 0).all()
    assert certify(bounded, solution.theta, solution.s2)[1].max() < 1e-9
    unbounded = certify(problem, solution.theta, solution.s2)[1]
    assert np.median(unbounded) > 1e-4


def test_pixels_without_a_solution_have_no_certificate(training):
    ivar = training.ivar.copy()
    ivar[:, 0] = 0
    problem = replace(training.problem(), ivar=ivar)
    theta = np.where(np.arange(60)[:, None] == 1, np.nan, np.ones((60, 10)))
    for array in certify(problem, theta, np.full(60, 1e-5)):
        assert np.isnan(array[:2]).all()
        assert np.isfinite(array[2:]).all()
    assert problem.unsolvable()[0] == PixelStatus.NO_INFORMATION


def test_masked_linear_algebra():
    rng = np.random.default_rng(3)
    design = rng.normal(size=(N, D)) * 10.0 ** rng.uniform(-3, 3, D)
    gram, right, mask = design.T @ design, rng.normal(size=D), rng.random(D) > 0.3
    inner = np.ix_(mask, mask)
    with jax.enable_x64(True):
        solution, inverse = np.asarray(solve_masked(gram, right, mask)), np.asarray(inverse_masked(gram, mask))
        good = float(smallest_pivot(gram, mask))
        gram[:, 1], gram[1, :] = gram[:, 0], gram[0, :]
        gram[1, 1] = gram[0, 0]
        bad = float(smallest_pivot(gram, np.ones(D, bool)))
    original = design.T @ design
    assert_allclose(solution[mask], np.linalg.solve(original[inner], right[mask]), rtol=1e-6)
    assert (solution[~mask] == 0).all()
    assert_allclose(inverse[inner] @ original[inner], np.eye(mask.sum()), atol=1e-6)
    assert (inverse[~mask] == 0).all()
    assert good > 1e-3
    assert bad < 1e-11


def test_problem_of_some_pixels():
    flux = np.arange(12.0).reshape(4, 3)
    problem = PixelProblem.unbounded(Terms.linear(np.ones((4, 2))), flux, np.ones((4, 3)), np.array([1.0, 2.0, 3.0]))
    part = problem.at(np.array([2, 0]))
    assert part.flux[0].tolist() == [2, 0]
    assert part.regularization.tolist() == [3, 1]
    assert part.n_pixels == 2
    assert part.free.all()
