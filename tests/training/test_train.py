"""The training verb: every solver reaches the same optimum, and what it says of each pixel."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bayes_cannon.core.status import PixelStatus
from bayes_cannon.core.terms import Terms
from bayes_cannon.training.certificate import certify
from bayes_cannon.training.problem import PixelProblem, PixelSolution
from bayes_cannon.training.train import OP_METHODS, check_op_method, correct_scatter, records, train
from bayes_cannon.vectorizer import PolynomialVectorizer

TOLERANCE = {"l_bfgs_b": 1e-6, "powell": 1e-5}
STRICT = {"l_bfgs_b": None, "powell": {"xtol": 1e-8, "ftol": 1e-8, "maxiter": 100000, "maxfun": 100000}}
LAMBDAS = (0.0, 30.0, 1000.0)


@pytest.fixture(scope="module")
def one_label():
    """Sixty pixels of a quadratic model of one label: SciPy needs seconds, not minutes, for them."""
    rng = np.random.default_rng(8)
    x = rng.uniform(-0.6, 0.6, (200, 1))
    vectorizer = PolynomialVectorizer(("TEFF",), 2)
    design = vectorizer(x).T
    theta = rng.normal(0, 0.03, (60, 3)) * (rng.random((60, 3)) > 0.4)
    theta[:, 0] = 1
    sigma = rng.uniform(0.003, 0.015, (200, 60))
    scatter = rng.uniform(0, 0.01, 60)
    flux = design @ theta.T + np.hypot(sigma, scatter) * rng.normal(size=sigma.shape)
    return PixelProblem.unbounded(Terms(vectorizer.exponents, x), flux, 1 / sigma**2)


def relative(solution, reference):
    return (solution.objective - reference.objective) / np.abs(reference.objective)


@pytest.mark.parametrize("regularization", LAMBDAS)
def test_the_three_optimizers_agree_on_sixty_pixels(one_label, assert_same, regularization):
    """From a cold start, and from the optimum for another Lambda; the certified solver's scalar is never beaten."""
    problem = one_label
    other = train(replace(problem, regularization=np.full(60, 300.0)))
    problem = replace(problem, regularization=np.full(60, regularization))
    certified = train(problem)
    assert_same(problem, train(problem, theta=other.theta, s2=other.s2), certified)
    for method, tolerance in TOLERANCE.items():
        for start in ({}, {"theta": other.theta, "s2": other.s2}):
            solution = train(problem, op_method=method, op_kwds=STRICT[method], **start)
            excess = relative(solution, certified)
            assert np.abs(excess).max() < tolerance
            assert excess.min() > -1e-9
            assert_allclose(certify(problem, solution.theta, solution.s2)[0], solution.objective, rtol=1e-12)


def test_ten_terms_and_a_lambda_for_each_pixel(training):
    ivar = np.where(np.arange(60) < 12, training.ivar, 0.0)
    problem = replace(training.problem(np.tile(LAMBDAS, 20)), ivar=ivar)
    certified = train(training.problem(problem.regularization))
    for method, tolerance in TOLERANCE.items():
        excess = relative(train(problem, op_method=method, op_kwds=STRICT[method]), certified)[:12]
        assert np.abs(excess).max() < tolerance
        assert excess.min() > -1e-9


def test_names_of_the_solvers():
    assert check_op_method(None) == "certified" == OP_METHODS[0]
    assert check_op_method("L_BFGS_B") == "l_bfgs_b"
    with pytest.raises(
        ValueError, match=r"None or one of certified, l_bfgs_b, powell; got 'powel'; did you mean 'powell'"
    ):
        check_op_method("powel")
    with pytest.raises(ValueError, match="got 'nelder'"):
        check_op_method("nelder")


def test_the_certified_solver_takes_no_keywords(one_label):
    problem = one_label
    with pytest.raises(TypeError, match=r"op_kwds factr, xtol not known.*op_method=\"l_bfgs_b\" or \"powell\""):
        train(problem, op_kwds={"xtol": 1, "factr": 2})


@pytest.mark.parametrize("method", ["l_bfgs_b", "powell"])
def test_unknown_keywords_list_the_known_ones(one_label, method):
    problem = one_label
    with pytest.raises((TypeError, ValueError), match=r"'maxitre'.*maxiter"):
        train(problem, op_method=method, op_kwds={"maxitre": 3})


def test_records_say_what_was_found(one_label):
    problem = one_label
    ivar = problem.ivar.copy()
    ivar[:, 3] = 0
    solution = train(replace(problem, ivar=ivar))
    metadata = records(solution, None)
    assert len(metadata) == 60
    for j, record in enumerate(metadata):
        assert record["op_method"] == "certified"
        assert record["message"] == record["status"].message
        assert_array_equal(record["fopt"], solution.objective[j])
        assert_array_equal(record["duality_gap"], solution.duality_gap[j])
        assert_array_equal(record["profile_gradient"], solution.profile_gradient[j])
        assert isinstance(record["n_iterations"], int)
    assert metadata[3]["status"] == PixelStatus.NO_INFORMATION
    assert "skipped in the test step" in metadata[3]["message"]
    assert np.isnan(metadata[3]["fopt"])
    assert {record["status"] for record in metadata} == {
        PixelStatus.CONVERGED, PixelStatus.ZERO_SCATTER, PixelStatus.NO_INFORMATION,
    }  # fmt: skip


def test_the_words_of_scipy_are_kept(one_label):
    problem = one_label
    solution = train(problem.at(np.arange(2)), op_method="l_bfgs_b")
    assert all("CONVERGENCE" in record["optimizer_message"] for record in records(solution, "l_bfgs_b"))


def test_scatter_is_corrected_and_nothing_else(one_label):
    problem = one_label
    solution = train(problem)
    corrected = correct_scatter(problem, solution)
    assert (corrected.s2 > solution.s2)[solution.s2 > 0].all()
    assert_array_equal(corrected.theta, solution.theta)
    assert_array_equal(corrected.objective, solution.objective)


def test_every_status_has_a_text():
    messages = [status.message for status in PixelStatus]
    assert len(set(messages)) == len(messages)
    assert all(messages)
    empty = PixelSolution.empty(2, 3)
    assert (empty.status == PixelStatus.NO_INFORMATION).all()
    assert not PixelStatus.NO_INFORMATION.has_solution
    assert PixelStatus.ZERO_SCATTER.has_solution
