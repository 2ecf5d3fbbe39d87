"""Which programs a training has, that they agree, and that other data of the same shape compile none."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from bayes_cannon.core import compilation
from bayes_cannon.solvers import compiled, profile
from bayes_cannon.solvers.compiled import FAST, LITTLE, PATIENCE, QUICK, programs


@pytest.fixture
def none_yet(monkeypatch):
    """As in a process that has trained nothing."""
    monkeypatch.setattr(compiled, "_trainings", compiled.Counter())
    monkeypatch.setattr(compiled, "_wanted", set())


def test_little_work_has_unoptimized_programs_until_it_is_repeated_often(none_yet):
    seen = [programs((1, 2), LITTLE) for _ in range(PATIENCE + 2)]
    assert [new for _, new in seen] == [True, *[False] * (PATIENCE - 1), True, False]
    assert [chosen is QUICK for chosen, _ in seen] == [True] * PATIENCE + [False] * 2
    assert seen[-1][0] is FAST
    assert programs((1, 3), LITTLE)[1]


def test_much_work_has_optimized_programs(none_yet):
    assert [programs((1, 2), work) for work in (LITTLE + 1, LITTLE, LITTLE + 1, LITTLE)] == [
        (FAST, True), (QUICK, True), (FAST, False), (QUICK, False),
    ]  # fmt: skip


@pytest.mark.parametrize("regularization", [0.0, 300.0])
def test_both_find_the_same(training, monkeypatch, regularization):
    problem, terms = training.problem(regularization), {"exponents": training.vectorizer.exponents, "x": training.x}
    solutions = []
    for chosen in (FAST, QUICK):
        monkeypatch.setattr(profile, "programs", lambda *_, chosen=chosen: (chosen, True))
        solutions.append(profile.solve(problem, **terms))
    fast, quick = solutions
    assert_allclose(quick.objective, fast.objective, rtol=1e-12)
    assert_allclose(quick.theta, fast.theta, atol=1e-8)
    assert ((quick.theta == 0) == (fast.theta == 0)).all()


def test_other_data_and_strengths_compile_nothing(training, monkeypatch):
    """Another Lambda, another censoring, other spectra, and a path that is longer by a few strengths."""
    monkeypatch.setattr(compilation, "_most", np.inf)  # Those of tests before may have left little room.
    terms = {"exponents": training.vectorizer.exponents, "x": training.x}

    def train(shift, censored, lambdas):
        problem = training.problem()
        upper = np.broadcast_to(np.where(censored, 0.0, np.inf), problem.upper.shape)
        problem = replace(problem, flux=problem.flux + shift, lower=-upper, upper=upper)
        profile.solve_path(problem, [np.full(problem.n_pixels, lam) for lam in lambdas], **terms)

    def n_compiled():
        return [program._cache_size() for program in (*FAST, *QUICK)]

    train(0.0, False, (30.0,))
    train(0.0, False, (1.0, 30.0))
    before = n_compiled()
    train(0.1, np.arange(10) == 3, (200.0,))
    train(0.1, np.arange(10) == 3, (1.0, 10.0, 30.0, 100.0))
    assert n_compiled() == before
