"""What the search of `solver` returns of some pixels, and how it gets into the solution."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from bayes_cannon.core.status import PixelStatus
from bayes_cannon.core.typing import Array
from bayes_cannon.training.problem import PixelSolution
from bayes_cannon.training.profile.bracketed_newton import Refined
from bayes_cannon.training.profile.joint_newton import Point

DEPENDENT_PIVOT = 1e-11
"""Squared pivot of the scaled Gram matrix below which its terms count as linearly dependent."""


class Fit(NamedTuple):
    """What a block returns of its problems, as NumPy arrays; `pivot` is infinite where terms are penalized.

    A problem is a pixel at a point of the path: number ``point * n_pixels + pixel``.
    """

    problems: np.ndarray
    theta: np.ndarray
    s2: np.ndarray
    objective: np.ndarray
    gap: np.ndarray
    gradient: np.ndarray
    pivot: np.ndarray
    steps: np.ndarray
    done: np.ndarray

    def where(self, some: np.ndarray) -> "Fit":
        """Of some problems, by mask or index."""
        return Fit(*(array[some] for array in self))


class Start(NamedTuple):
    """Problems, a place to start from, and the steps that led there."""

    problems: np.ndarray
    theta: np.ndarray
    s2: np.ndarray
    steps: np.ndarray

    def where(self, some: np.ndarray) -> "Start":
        """Those of some problems, by mask or index."""
        return Start(*(array[some] for array in self))

    @classmethod
    def joined(cls, starts: Iterable["Start"]) -> "Start":
        """All of several blocks."""
        return cls(*(np.concatenate(arrays) for arrays in zip(*starts, strict=True)))


class Unsettled(NamedTuple):
    """What a block returns of its problems.

    Attributes
    ----------
    fit
        The optima, or how far the search has come.
    rivals
        Second minima, which might be lower.
    late
        Where the search of those goes on that the block did not wait for.
    hard
        Those that want exact matrices, from anywhere.

    """

    fit: Fit
    rivals: Start
    late: Start
    hard: Start


def fit_of(problems: np.ndarray, end: Point | Refined, pivot: Array) -> Fit:
    """Results on the host; the arrays may be longer than there are problems."""
    arrays = (end.theta, end.s2, end.objective, end.gap, end.gradient, pivot, end.steps, end.done)
    return Fit(problems, *(np.asarray(array)[: len(problems)] for array in arrays))


def keep(solution: PixelSolution, fit: Fit) -> None:
    """Write those results that are lower than what is there, or as low and converged where that is not."""
    some = solution.status[fit.problems] != PixelStatus.TOO_FEW_STARS
    fit = fit.where(some)
    index, there = fit.problems, solution.objective[fit.problems]
    unfinished = solution.status[index] == PixelStatus.MAX_ITERATIONS
    better = ~(there <= fit.objective) | (unfinished & fit.done & (fit.objective <= there + 1e-9 * np.abs(there)))
    status = np.where(fit.s2 == 0, PixelStatus.ZERO_SCATTER, PixelStatus.CONVERGED)
    status = np.where(fit.pivot < DEPENDENT_PIVOT, PixelStatus.DEGENERATE, status)
    values = {
        "theta": fit.theta, "s2": fit.s2, "objective": fit.objective, "duality_gap": fit.gap,
        "profile_gradient": fit.gradient, "iterations": fit.steps,
        "status": np.where(fit.done, status, PixelStatus.MAX_ITERATIONS),
    }  # fmt: skip
    for name, array in values.items():
        getattr(solution, name)[index[better]] = array[better]
