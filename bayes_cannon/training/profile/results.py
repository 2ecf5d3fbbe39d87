"""Results of the profile solver for a block of pixels, and how they are merged into a `PixelSolution`."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from bayes_cannon.core.status import PixelStatus
from bayes_cannon.core.typing import PerPixels, PixelsInt, PixelsMask, PixelsTerm
from bayes_cannon.training.problem import PixelSolution
from bayes_cannon.training.profile.settings import SETTINGS

SAME_MINIMUM = 1e-3
"""Two minima are the same if their s2 differ by less, relatively."""
ROUNDING = 1e-9
"""Relative difference of two objectives that may be one of rounding."""
SOLVED = (PixelStatus.CONVERGED, PixelStatus.ZERO_SCATTER, PixelStatus.DEGENERATE)


class PixelFit(NamedTuple):
    """Where the fit of each pixel of a block stands; under vmap, of one pixel.

    Attributes
    ----------
    theta, s2
        The point, shape (pixel, term) and (pixel,).
    objective, duality_gap, profile_gradient
        At this point, as in `training.problem.PixelSolution`, shape (pixel,).
    iterations
        Newton steps with exact gradients so far, shape (pixel,).
    pivot
        Smallest squared pivot of the scaled Gram matrix, shape (pixel,); where the solution is returned it is infinite
        for penalized pixels, whose terms may be dependent.
    done
        Whether the tolerances are met, shape (pixel,).

    """

    theta: PixelsTerm
    s2: PerPixels
    objective: PerPixels
    duality_gap: PerPixels
    profile_gradient: PerPixels
    iterations: PixelsInt
    pivot: PerPixels
    done: PixelsMask

    def at(self, some: np.ndarray | slice) -> "PixelFit":
        """The fit of some of the pixels, by mask, index or slice, as NumPy arrays."""
        return PixelFit(*(np.asarray(array)[some] for array in self))


class Starts(NamedTuple):
    """Problems to solve, each from a given point.

    A problem is a pixel at a point of the path: number ``point * n_pixels + pixel``.

    Attributes
    ----------
    problems
        Numbers of the problems, shape (problem,).
    theta, s2
        Where to start, shape (problem, term) and (problem,).
    iterations
        Steps that led there, shape (problem,).

    """

    problems: np.ndarray
    theta: np.ndarray
    s2: np.ndarray
    iterations: np.ndarray

    def at(self, some: np.ndarray) -> "Starts":
        """Some of the problems, by mask or index."""
        return Starts(*(array[some] for array in self))

    @classmethod
    def joined(cls, parts: Iterable["Starts"]) -> "Starts":
        """The problems of all parts."""
        return cls(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


class BlockResult(NamedTuple):
    """Result of the first search in a block, and what is left to do.

    Attributes
    ----------
    problems, fit
        Numbers of the problems, and where their search ended.
    second_minima, third_minima
        Second and third minima of the profile, which may be lower.
    unfinished
        Stragglers, which the block did not wait for.
    needs_exact_gram
        Problems to solve again with exact Gram matrices; their theta and s2 are not used.
    n_minima, margin
        As in `training.problem.PixelSolution`, as far as they are known without the second minima, shape (problem,).

    """

    problems: np.ndarray
    fit: PixelFit
    second_minima: Starts
    third_minima: Starts
    unfinished: Starts
    needs_exact_gram: Starts
    n_minima: np.ndarray
    margin: np.ndarray

    def certain(self, wanted: bool) -> tuple[np.ndarray, PixelFit]:
        """Problems that need no exact Gram matrices, or with False those that do, and their fits."""
        chosen = np.isin(self.problems, self.needs_exact_gram.problems) != wanted
        return self.problems[chosen], self.fit.at(chosen)


def merge(solution: PixelSolution, problems: np.ndarray, fit: PixelFit, *, rivals: bool = False) -> None:
    """Write those fits into the solution that are lower than what it has, or as low and the first to converge.

    Between a converged fit and one that is not, a difference of rounding decides nothing.

    Those of ``rivals`` started from other minima: they count for the margin, or, where they ended at the known minimum,
    there is one minimum less.
    """
    solvable = solution.status[problems] != PixelStatus.TOO_FEW_STARS
    problems, fit = problems[solvable], fit.at(solvable)
    known = solution.objective[problems]
    if rivals:
        other = solution.s2[problems]
        both = fit.done & np.isin(solution.status[problems], SOLVED) & np.isfinite(known)
        apart = np.abs(fit.s2 - other) > SAME_MINIMUM * np.maximum(fit.s2, other)
        lowest, found = problems[both & apart], np.abs(fit.objective - known)[both & apart]
        solution.margin[lowest] = np.where(
            fit.objective[both & apart] < known[both & apart], found, np.minimum(found, solution.margin[lowest])
        )
        solution.n_minima[problems[both & ~apart]] -= 1
    first = (solution.status[problems] == PixelStatus.MAX_ITERATIONS) & fit.done
    late = np.isin(solution.status[problems], SOLVED) & ~fit.done
    rounding = ROUNDING * np.abs(known)
    better = np.isnan(known) | (fit.objective < known - late * rounding) | (first & (fit.objective <= known + rounding))
    status = np.where(fit.s2 == 0, PixelStatus.ZERO_SCATTER, PixelStatus.CONVERGED)
    status = np.where(fit.pivot < SETTINGS.dependent_pivot, PixelStatus.DEGENERATE, status)
    solution.status[problems[better]] = np.where(fit.done, status, PixelStatus.MAX_ITERATIONS)[better]
    for name in ("theta", "s2", "objective", "duality_gap", "profile_gradient", "iterations"):
        getattr(solution, name)[problems[better]] = getattr(fit, name)[better]
