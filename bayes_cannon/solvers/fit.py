"""What the search of `solvers.profile` returns of some pixels, and how it gets into the solution."""

from typing import NamedTuple

import numpy as np

from bayes_cannon.core.status import PixelStatus
from bayes_cannon.core.typing import Array
from bayes_cannon.solvers.joint import Point
from bayes_cannon.solvers.problem import PixelSolution
from bayes_cannon.solvers.refine import Refined

DEPENDENT_PIVOT = 1e-11
"""Squared pivot of the scaled Gram matrix below which its terms count as linearly dependent."""


class Fit(NamedTuple):
    """What a block returns of its pixels, as NumPy arrays; `pivot` is infinite where terms are penalized."""

    pixels: np.ndarray
    theta: np.ndarray
    s2: np.ndarray
    objective: np.ndarray
    gap: np.ndarray
    gradient: np.ndarray
    pivot: np.ndarray
    steps: np.ndarray
    done: np.ndarray


class Start(NamedTuple):
    """Pixels with a second place to start from."""

    pixels: np.ndarray
    theta: np.ndarray
    s2: np.ndarray


class Unsettled(NamedTuple):
    """What a block returns: its fit, second minima that might be lower, and pixels that want exact matrices."""

    fit: Fit
    rivals: Start
    hard: np.ndarray


def fit_of(pixels: np.ndarray, end: Point | Refined, pivot: Array) -> Fit:
    """Results on the host, without those of the padding."""
    arrays = (end.theta, end.s2, end.objective, end.gap, end.gradient, pivot, end.steps, end.done)
    return Fit(pixels, *(np.asarray(array)[: len(pixels)] for array in arrays))


def keep(solution: PixelSolution, fit: Fit) -> None:
    """Write those results that are lower than what is there, or as low and converged where that is not."""
    some = solution.status[fit.pixels] != PixelStatus.TOO_FEW_STARS
    fit = Fit(*(array[some] for array in fit))
    index, there = fit.pixels, solution.objective[fit.pixels]
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
