"""A path over regularization strengths is the same as training at each, only cheaper."""

from dataclasses import replace

import numpy as np
import pytest

from bayes_cannon.core.status import PixelStatus
from bayes_cannon.training.train import train, train_path

LAMBDAS = (0.0, 30.0, 1000.0, 1e5, 1e7, 1e8, 1e7)


def test_path_equals_training_at_each_strength(training, assert_same):
    path = train_path(training.problem(), LAMBDAS)
    assert len(path) == len(LAMBDAS)
    assert not path[4].theta[:, 1:].any()  # so that the next two need no work
    for strength, solution in zip(LAMBDAS, path, strict=True):
        problem = training.problem(strength)
        assert_same(problem, solution, train(problem))
        assert np.all(solution.duality_gap < 1e-8)


def test_model_returns_arrays_over_strengths_and_stays_untrained(training):
    model = training.model()
    seen = []
    path = model.train_path(LAMBDAS, progress=seen.append)
    n_pixels, n_terms = training.theta.shape
    assert path.theta.shape == (len(LAMBDAS), n_pixels, n_terms)
    assert path.s2.shape == path.objective.shape == path.n_nonzero.shape == (len(LAMBDAS), n_pixels)
    assert (path.n_nonzero[0] == n_terms - 1).all()
    assert path.n_nonzero[-1].mean() < path.n_nonzero[1].mean()
    assert np.all(np.diff(path.objective, axis=0) > -1e-6)  # a stronger penalty can only raise the minimum
    assert sum(seen) == n_pixels
    assert not model.is_trained
    assert model.regularization is None


def test_pixels_that_only_a_penalty_determines_have_a_status_of_their_own(training):
    problem = training.problem()
    ivar = problem.ivar.copy()
    ivar[training.theta.shape[1] - 1 :, 3] = 0.0  # one star fewer than terms
    problem = replace(problem, ivar=ivar)
    none, some = train_path(problem, (0.0, 1000.0))
    assert none.status[3] == PixelStatus.TOO_FEW_STARS
    assert np.isnan(none.theta[3]).all()
    assert np.isinf(none.s2[3])
    assert PixelStatus(some.status[3]).has_solution
    assert np.isfinite(some.theta).all()


@pytest.mark.parametrize(
    ("lambdas", "message"),
    [
        ((), "list of numbers"),
        ((1.0, -2.0), "-2.0 at position 1"),
        ((np.nan,), "nan at position 0"),
        ([[1.0]], "shape"),
    ],
)
def test_bad_strengths_are_named(training, lambdas, message):
    with pytest.raises(ValueError, match=message):
        training.model().train_path(lambdas)


def test_working_memory_may_be_small_and_says_what_it_needs(training):
    whole = train(training.problem(30.0))
    parts = train(training.problem(30.0), max_memory=1e6)
    np.testing.assert_allclose(parts.objective, whole.objective, rtol=1e-10)
    with pytest.raises(ValueError, match=r"need at least [\d.e+]+"):
        train(training.problem(30.0), max_memory=1e4)
