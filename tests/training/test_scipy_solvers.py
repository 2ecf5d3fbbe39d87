"""SciPy's optimizers against brute force, from cold starts and from a previous optimum, and at every edge."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from threadpoolctl import threadpool_limits

from bayes_cannon.core.status import PixelStatus
from bayes_cannon.core.terms import Terms
from bayes_cannon.core.vectorizer import PolynomialVectorizer
from bayes_cannon.training.problem import PixelProblem
from bayes_cannon.training.scipy_solvers.lbfgsb import solve_lbfgsb
from bayes_cannon.training.scipy_solvers.powell import solve_powell

SOLVERS = {"l_bfgs_b": solve_lbfgsb, "powell": solve_powell}
TOLERANCE = {"l_bfgs_b": 1e-8, "powell": 1e-7}
LAMBDAS = (0.0, 30.0, 1000.0, 1e6)

both = pytest.mark.parametrize("name", SOLVERS)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """The products are tiny; threads that wait for each other only cost time."""
    with threadpool_limits(1):
        yield


def simulated(n_pixels=2, n_stars=1000, s=0.004, noise=(0.003, 0.015), seed=0):
    """Quadratic model of three labels; 60 % of the terms are zero."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 0.3, (n_stars, 3))
    terms = Terms(PolynomialVectorizer(("TEFF", "LOGG", "FE_H"), 2).exponents, x)
    theta = rng.normal(0, 0.05, (n_pixels, 10)) * (rng.random((n_pixels, 10)) > 0.6)
    theta[:, 0] = 1
    sigma = rng.uniform(*noise, (n_stars, n_pixels))
    flux = terms.design @ theta.T + np.hypot(sigma, s) * rng.normal(size=sigma.shape)
    return terms, flux, 1 / sigma**2


def small(regularization=0.0, n_pixels=3, **kwargs):
    return PixelProblem.unbounded(*simulated(n_pixels, n_stars=200, **kwargs), regularization)


@pytest.fixture(scope="module")
def best(brute_force):
    """Objective, theta and s2 of every pixel by brute force; computed once for both optimizers."""
    known = {}

    def found(problem):
        arrays = (problem.design, *(array for name, array in vars(problem).items() if name != "terms"))
        key = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
        if key not in known:
            pixels = [brute_force(problem, j, n_grid=50) for j in range(problem.n_pixels)]
            known[key] = [np.array(part) for part in zip(*pixels, strict=True)]
        return known[key]

    return found


@pytest.fixture(scope="module")
def excess(best):
    """How far the scalar of a solution is above the lowest, relative."""

    def relative(problem, solution):
        objective = best(problem)[0]
        return (solution.objective - objective) / np.abs(objective)

    return relative


@both
@pytest.mark.parametrize("regularization", LAMBDAS)
def test_reaches_brute_force(name, regularization, excess):
    problem = PixelProblem.unbounded(*simulated(), regularization)
    solution = SOLVERS[name](problem)
    assert np.abs(excess(problem, solution)).max() < TOLERANCE[name]
    assert (solution.status == PixelStatus.CONVERGED).all()
    assert np.abs(solution.profile_gradient).max() < 1e-5
    assert solution.duality_gap.max() < 1e-4
    assert (solution.iterations > 0).all()


@both
def test_reaches_brute_force_from_a_previous_optimum(name, excess):
    problem = small()
    solution = SOLVERS[name](problem)
    for regularization in (1e6, 30.0):
        problem = replace(problem, regularization=np.full(problem.n_pixels, regularization))
        solution = SOLVERS[name](problem, theta=solution.theta, s2=solution.s2)
        assert np.abs(excess(problem, solution)).max() < TOLERANCE[name]


@both
def test_finds_the_lower_of_two_minima(name, excess):
    """Few stars: from full fit to all terms shrunk as Lambda grows, with both as local minima in between."""
    regularization = np.geomspace(30, 3e4, 6)
    problem = PixelProblem.unbounded(
        *simulated(n_pixels=6, n_stars=25, s=0.002, noise=(0.001, 0.003), seed=3), regularization
    )
    assert np.abs(excess(problem, SOLVERS[name](problem))).max() < TOLERANCE[name]


@both
def test_zeros_are_exact(name, best):
    problem = small(1000.0)
    solution = SOLVERS[name](problem)
    _, reference, _ = best(problem)
    assert (reference == 0).any()
    assert_array_equal(solution.theta == 0, reference == 0)


@both
def test_scatter_of_exactly_zero(name, best):
    problem = small(30.0, s=0.0, n_pixels=4)
    solution = SOLVERS[name](problem)
    zero = best(problem)[2] == 0
    assert zero.any()
    assert_array_equal(solution.s2 == 0, zero)
    assert_array_equal(solution.status == PixelStatus.ZERO_SCATTER, zero)
    assert (solution.profile_gradient[zero] >= 0).all()


@both
def test_censored_terms_stay_zero(name, excess):
    problem = small(300.0)
    censored = np.zeros((3, 10), dtype=bool)
    censored[:2, [1, 4, 5, 6]] = True
    censored[2, 1:] = True
    problem = replace(
        problem, lower=np.where(censored, 0.0, problem.lower), upper=np.where(censored, 0.0, problem.upper)
    )
    solution = SOLVERS[name](problem)
    assert (solution.theta[censored] == 0).all()
    assert np.abs(excess(problem, solution)).max() < TOLERANCE[name]


@both
def test_every_term_fixed(name):
    problem = small()
    fixed = np.broadcast_to(np.array([1.0] + 9 * [0.0]), (3, 10))
    solution = SOLVERS[name](replace(problem, lower=fixed, upper=fixed))
    assert_array_equal(solution.theta, fixed)
    residual2 = (problem.flux - 1) ** 2
    w = 1 / (1 / problem.ivar + solution.s2)
    assert_allclose((w * w * residual2).sum(axis=0), w.sum(axis=0), rtol=1e-5)


@both
def test_bounds_are_kept_and_the_optimum_within_them_is_found(name, excess):
    problem = small()
    lower, upper = problem.lower.copy(), problem.upper.copy()
    lower[:, 0] = 1.001
    lower[:, 2], upper[:, 2] = -0.01, 0.02
    lower[:, 3], upper[:, 4], upper[:, 5] = 0.02, -0.01, 0.0
    lower[:, 6] = upper[:, 6] = 0.03
    problem = replace(problem, lower=lower, upper=upper)
    solution = SOLVERS[name](problem)
    assert ((solution.theta >= lower) & (solution.theta <= upper)).all()
    assert np.abs(excess(problem, solution)).max() < TOLERANCE[name]
    assert solution.duality_gap.max() < 1e-6

    penalized = replace(problem, regularization=np.full(3, 30.0))
    solution = SOLVERS[name](penalized)
    assert ((solution.theta >= lower) & (solution.theta <= upper)).all()
    assert solution.duality_gap.max() < 1e-4
    assert np.abs(solution.profile_gradient).max() < 1e-5


@both
def test_stars_without_weight_do_not_matter(name):
    problem = small(30.0)
    flux, ivar = problem.flux.copy(), problem.ivar.copy()
    flux[:40], ivar[:40] = np.nan, 0.0
    masked = SOLVERS[name](replace(problem, flux=flux, ivar=ivar))
    dropped = SOLVERS[name](replace(problem, flux=flux, ivar=ivar).of_stars(np.arange(40, len(flux))))
    assert_allclose(masked.objective, dropped.objective, rtol=1e-12)
    assert_array_equal(masked.theta, dropped.theta)
    assert_array_equal(masked.s2, dropped.s2)


@both
def test_pixels_without_a_solution(name):
    problem = small()
    ivar = problem.ivar.copy()
    ivar[:, 0] = 0
    ivar[5:, 1] = 0
    seen = []
    solution = SOLVERS[name](replace(problem, ivar=ivar), progress=seen.append)
    assert_array_equal(solution.status, [PixelStatus.NO_INFORMATION, PixelStatus.TOO_FEW_STARS, PixelStatus.CONVERGED])
    assert np.isnan(solution.theta[:2]).all()
    assert np.isinf(solution.s2[:2]).all()
    assert np.isfinite(solution.theta[2]).all()
    assert seen == [1, 1, 1]


@both
def test_dependent_terms_are_reported(name, best):
    problem = small(n_pixels=1)
    design = problem.design.copy()
    design[:, 9] = 2 * design[:, 3]
    solution = SOLVERS[name](replace(problem, terms=Terms.linear(design)))
    alone = replace(problem, terms=Terms.linear(design[:, :9]), lower=problem.lower[:, :9], upper=problem.upper[:, :9])
    assert solution.status[0] == PixelStatus.DEGENERATE
    assert_allclose(solution.objective, best(alone)[0], rtol=1e-7)


@both
def test_a_previous_solution_is_used_where_it_is_finite(name, excess):
    """One iteration reaches the optimum from there, and does not from a cold start."""
    problem = small(1000.0)
    previous = SOLVERS[name](problem)
    assert np.abs(excess(problem, previous)).max() < TOLERANCE[name]
    theta = previous.theta.copy()
    theta[0] = np.nan
    solution = SOLVERS[name](problem, theta=theta, s2=previous.s2, options={"maxiter": 1})
    assert excess(problem, solution)[0] > 1e-6
    assert np.abs(excess(problem, solution)[1:]).max() < 1e-9


@both
def test_a_previous_theta_without_a_scatter(name, excess):
    problem = small(30.0)
    previous = SOLVERS[name](problem)
    solution = SOLVERS[name](problem, theta=previous.theta, s2=np.full(3, np.inf))
    assert np.abs(excess(problem, solution)).max() < TOLERANCE[name]


@both
def test_limits_are_reported_with_the_message_of_scipy(name):
    solution = SOLVERS[name](small(30.0, n_pixels=1), options={"maxiter": 1})
    assert solution.status[0] == PixelStatus.MAX_ITERATIONS
    assert solution.iterations[0] == 1
    assert "iteration" in solution.messages[0].lower()


@both
def test_unknown_keyword_lists_the_known_ones(name):
    with pytest.raises(TypeError, match=r"'maxitre'.*nearest known is 'maxiter'.*callback.*disp.*maxfun"):
        SOLVERS[name](small(n_pixels=1), options={"maxitre": 3})


@both
def test_documented_keywords(name, excess):
    problem = small(30.0, n_pixels=1)
    points = []
    options = {
        "l_bfgs_b": {"m": 5, "factr": 0.1, "pgtol": 1e-8, "epsilon": 1e-8, "iprint": -1, "disp": False, "maxls": 20},
        "powell": {"xtol": 1e-8, "ftol": 1e-8, "disp": False, "retall": 1, "full_output": True, "direc": np.eye(11)},
    }[name]
    solution = SOLVERS[name](
        problem, options={**options, "maxiter": np.inf, "maxfun": 10**5, "callback": points.append}
    )
    assert np.abs(excess(problem, solution)).max() < 1e-6
    assert {point.shape for point in points} == {(11,)}
    assert_allclose(points[-1][-1], solution.s2[0], rtol=1e-3)


def test_directions_of_the_wrong_shape():
    with pytest.raises(ValueError, match=r"direc must have shape \(11, 11\).*got \(2, 2\)"):
        solve_powell(small(n_pixels=1), options={"direc": np.eye(2)})
