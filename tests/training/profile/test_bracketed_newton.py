"""The reference solver: from any start it ends where the profile has its minimum, and where the fast solver ends."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from bayes_cannon.training.problem import PixelSolution
from bayes_cannon.training.profile import solver as profile
from bayes_cannon.training.profile.block_solver import BlockSolver
from bayes_cannon.training.profile.blocks import pixel_block
from bayes_cannon.training.profile.bracketed_newton import bracketed_newton
from bayes_cannon.training.profile.settings import SETTINGS


@pytest.mark.parametrize("s2", [0.0, 1e-9, 1.0])
@pytest.mark.parametrize("regularization", [0.0, 30.0])
def test_ends_where_the_fast_solver_ends(training, assert_same, regularization, s2):
    problem = training.problem(regularization)
    expected = profile.solve(problem)
    work = BlockSolver(problem, problem.regularization[None], size=64, max_unfinished=0)
    with jax.enable_x64(True):
        block = pixel_block(problem, np.arange(60), 64)
        fit = bracketed_newton(work.training, work.moments(), block, np.zeros((64, 10)), np.full(64, s2)).at(slice(60))
    assert fit.done.all()
    assert fit.iterations.max() < SETTINGS.max_bracket_steps
    found = {name: getattr(fit, name) for name in ("theta", "s2", "objective", "duality_gap", "profile_gradient")}
    solution: PixelSolution = replace(expected, **found)
    assert_same(problem, solution, expected)
