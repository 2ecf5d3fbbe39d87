"""Errors that a certificate allows, for tests that compare two solutions of one problem."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

from bayes_cannon.training.certificate import certify
from bayes_cannon.training.problem import PixelProblem, PixelSolution

ROUNDING = 1e-12
"""Relative error of a sum over the stars, well above that of double precision."""


class Errors(NamedTuple):
    """Largest errors of the objective (pixel,), theta (pixel, term) and s2 (pixel,)."""

    objective: np.ndarray
    theta: np.ndarray
    s2: np.ndarray


def _errors_of_pixel(
    problem: PixelProblem, j: int, theta: np.ndarray, s2: float, gap: float, gradient: float
) -> tuple[float, np.ndarray, float]:
    known, free = problem.ivar[:, j] > 0, problem.free[j]
    design, w = problem.design[known], 1 / (1 / problem.ivar[known, j] + s2)
    r = problem.flux[known, j] - design @ theta
    penalty = problem.regularization[j] * (np.arange(len(theta)) > 0)
    inside = (theta > problem.lower[j]) & (theta < problem.upper[j])
    active = ((theta != 0) | (penalty == 0)) & inside
    gram, cross = design.T @ (w[:, None] * design), design.T @ (w**2 * r)

    # At this s2 the objective is at least as curved as (theta - optimum)' G (theta - optimum).
    above = (gap + ROUNDING**2) * (np.sum(w * r**2) + penalty @ np.abs(theta))
    at_s2, drift = np.zeros(len(theta)), np.zeros(len(theta))
    at_s2[free] = np.sqrt(above * np.diag(np.linalg.inv(gram[np.ix_(free, free)])))
    drift[active] = np.linalg.solve(gram[np.ix_(active, active)], cross[active])

    # The derivative of the profile, which a theta that is not optimal changes by 2 c' (theta - optimum).
    derivative = 2 * np.sqrt(max(cross @ drift, 0) * above) + ROUNDING * w.sum()
    derivative = derivative + abs(gradient) * w.sum() if s2 > 0 else max(derivative - gradient * w.sum(), 0.0)
    curvature = np.sum(w**2 * (2 * w * r**2 - 1)) - 2 * cross @ drift
    # Twice, because the curvature changes on the way.
    of_s2 = 2 * derivative / curvature if derivative > 0 else 0.0
    rounding = ROUNDING * (np.sum(w * r**2) + np.sum(np.abs(np.log(w))))
    return above + derivative * of_s2 + rounding, at_s2 + np.abs(drift) * of_s2, of_s2


@pytest.fixture(scope="session")
def errors() -> Callable[[PixelProblem, PixelSolution], Errors]:
    """Errors that the certificate of a solution allows, to first order; the certificate is computed independently."""

    def allowed(problem: PixelProblem, solution: PixelSolution) -> Errors:
        _, gap, gradient = certify(problem, solution.theta, solution.s2)
        pixels = zip(solution.theta, solution.s2, gap, gradient, strict=True)
        each = [_errors_of_pixel(problem, j, *point) for j, point in enumerate(pixels)]
        return Errors(*(np.array(part) for part in zip(*each, strict=True)))

    return allowed


@pytest.fixture(scope="session")
def assert_same(errors: Callable[[PixelProblem, PixelSolution], Errors]) -> Callable[..., None]:
    """Assert that two solutions of a problem are one, within what their certificates leave open."""

    def check(problem: PixelProblem, solution: PixelSolution, other: PixelSolution) -> None:
        one, two = errors(problem, solution), errors(problem, other)
        for name in ("objective", "theta", "s2"):
            difference = np.abs(getattr(solution, name) - getattr(other, name))
            assert (difference <= getattr(one, name) + getattr(two, name)).all(), name
        # A scatter of zero is told from a positive one where the errors are smaller than it.
        clear = np.maximum(solution.s2, other.s2) > one.s2 + two.s2
        assert (solution.status == other.status)[clear | ((solution.s2 == 0) & (other.s2 == 0))].all()

    return check
