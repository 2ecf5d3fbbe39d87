r"""The package's own solver: the joint optimum over theta and s^2, certified.

At fixed s^2 the best theta is a weighted lasso, so that what is left is one number a pixel: the profile

.. math:: p(s^2) = \min_\theta \Big[ \sum_n w_n r_n^2 - \sum_n \ln w_n + \Lambda \sum_{d \ge 1} |\theta_d| \Big],
          \qquad w_n = \frac{1}{\sigma_n^2 + s^2}

By the envelope theorem :math:`p' = \sum_n w_n (1 - w_n r_n^2)`. The profile need not be convex: a large s^2 weakens
the data against the penalty, which removes terms, which leaves larger residuals, which a large s^2 explains. Hence

1. `solvers.scan` looks at the profile from s^2 = 0 to beyond the variance of the flux, on Gram matrices that are
   interpolated in s^2, and finds its local minima;
2. `solvers.joint` goes from the lowest to the optimum of (theta, s^2), with exact gradients, in a few passes;
3. where the scan cannot tell which of two minima is the lower the second step is taken from both; where the noise
   varies too much between stars to interpolate, or that step did not converge, `solvers.refine` does the same with
   exact Gram matrices and a bracket;
4. the duality gap of theta and p' are computed, exactly, at the very point that is returned.

The work is matrix products of the weights of a block of pixels with the moments of the training set (`core.moments`).
Blocks are independent; each core works on one.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayes_cannon.core.moments import MomentBasis
from bayes_cannon.core.status import PixelStatus
from bayes_cannon.core.typing import Array
from bayes_cannon.core.vectorizer import monomials
from bayes_cannon.solvers.block import Pixels, Training, in_parallel, n_threads, padded_size, padded_stars, pixel_block
from bayes_cannon.solvers.joint import (
    PATH_TOLERANCES,
    TOLERANCES,
    Point,
    certified,
    joint_newton,
)
from bayes_cannon.solvers.problem import PixelProblem, PixelSolution, Progress
from bayes_cannon.solvers.refine import Refined, refine
from bayes_cannon.solvers.scan import NODES, Interpolated, Minima, exact_scan, scan, sums_at_nodes

BLOCK_NUMBERS = 2**16
"""Numbers in one (pixel, star) array of a block: 512 KiB, so that a pass stays in the cache and few pixels of a block
wait for the slowest."""
SMALLEST_BLOCK = 32
"""Pixels in a block however many stars there are."""
ARRAYS_OF_STARS, ARRAYS_OF_TERMS = 10, 8
"""Arrays (pixel, star) and (pixel, term, term) that the compiled programs hold at once, counted generously."""
INTERPOLATION_ERROR = 0.02
"""Relative error of the interpolated weights above which a pixel is scanned with exact ones."""
DEPENDENT_PIVOT = 1e-11
"""Squared pivot of the scaled Gram matrix below which its terms count as linearly dependent."""

_COMPILED: set[tuple[int, ...]] = set()
"""Shapes of blocks whose programs have been compiled."""


class _Fit(NamedTuple):
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


class _Start(NamedTuple):
    """Pixels with a second place to start from."""

    pixels: np.ndarray
    theta: np.ndarray
    s2: np.ndarray


class _Unsettled(NamedTuple):
    """What a block returns: its fit, second minima that might be lower, and pixels that want exact matrices."""

    fit: _Fit
    rivals: _Start
    hard: np.ndarray


def solve(
    problem: PixelProblem,
    *,
    exponents: np.ndarray,
    x: np.ndarray,
    theta: np.ndarray | None = None,
    max_memory: float | None = None,
    progress: Progress | None = None,
) -> PixelSolution:
    """Joint optimum over (theta, s2) of every pixel.

    Parameters
    ----------
    problem
        The pixels; `PixelProblem.design` holds the terms with these ``exponents`` at ``x``.
    exponents
        Powers of the labels in each term, shape (term, label).
    x
        Scaled training labels, shape (star, label).
    theta
        Coefficients to start the scan from, shape (pixel, term); NaN counts as zero.
    max_memory
        Bytes of working memory, beside the problem and the solution; by default blocks are as large as runs fast.
    progress
        Called with the number of pixels finished.

    Returns
    -------
    solution
        With certificates for every pixel that has a solution.

    Raises
    ------
    ValueError
        If ``max_memory`` is too small for one pixel on every core, saying how much is needed.

    """
    (solution,) = solve_path(
        problem,
        [problem.regularization],
        exponents=exponents,
        x=x,
        theta=theta,
        max_memory=max_memory,
        progress=progress,
    )
    return solution


def solve_path(
    problem: PixelProblem,
    regularizations: Sequence[np.ndarray],
    *,
    exponents: np.ndarray,
    x: np.ndarray,
    theta: np.ndarray | None = None,
    max_memory: float | None = None,
    progress: Progress | None = None,
) -> list[PixelSolution]:
    """Joint optima at several regularization strengths, from one pass over the data for the Gram matrices.

    Parameters
    ----------
    problem
        As for `solve`; its own regularization does not matter.
    regularizations
        Lambda of every pixel, shape (pixel,), for each point of the path. The search at each starts from the last.
    exponents, x, theta, max_memory
        As for `solve`.
    progress
        Called with the number of pixels finished, at all strengths.

    Returns
    -------
    solutions
        One for each point of the path, each with its own certificates; with several points the iteration ends
        earlier (`solvers.joint.PATH_TOLERANCES`).

    """
    problems = [replace(problem, regularization=lam) for lam in regularizations]
    solutions = [PixelSolution.empty(one.n_pixels, one.design.shape[1]) for one in problems]
    for one, solution in zip(problems, solutions, strict=True):
        solution.status[:] = one.unsolvable()
    solvable = np.any([solution.status == PixelStatus.CONVERGED for solution in solutions], axis=0)
    todo = np.flatnonzero(solvable)
    report = progress or (lambda _: None)
    report(problem.n_pixels - len(todo))
    if not len(todo):
        return solutions
    basis = MomentBasis.from_terms(exponents)
    size = _block_size(len(problem.design), basis, len(todo), max_memory)
    work = _Work(problems, exponents, basis, x, theta, size)
    work.compile()
    rest: list[list[_Unsettled]] = [[] for _ in problems]
    for pixels, ends in in_parallel(work.joint, work.blocks(todo)):
        for solution, unsettled, end in zip(solutions, rest, ends, strict=True):
            _keep(solution, end.fit)
            unsettled.append(end)
        report(len(pixels))
    for step, (solution, unsettled) in enumerate(zip(solutions, rest, strict=True)):
        for fit in work.second_looks(step, unsettled):
            _keep(solution, fit)
    return solutions


class _Work:
    """The steps above for blocks of one fixed size, at every point of the path."""

    def __init__(
        self,
        problems: list[PixelProblem],
        exponents: np.ndarray,
        basis: MomentBasis,
        x: np.ndarray,
        theta: np.ndarray | None,
        size: int,
    ):
        self.problems, self.size = problems, size
        self.tolerances = TOLERANCES if len(problems) == 1 else PATH_TOLERANCES
        shape = problems[0].n_pixels, len(exponents)
        self.theta = np.zeros(shape) if theta is None else np.nan_to_num(theta)
        with jax.enable_x64(True):
            design, moments = (padded_stars(monomials(x, powers)) for powers in (exponents, basis.exponents))
            single = jnp.asarray(moments, jnp.float32)
            self.training = Training(jnp.asarray(design), jnp.asarray(moments), single, jnp.asarray(basis.pairs))

    def compile(self) -> None:
        """Compile the programs of a block side by side, on a block of zeros, if these shapes are new.

        Compiling is most of what a first training costs. A compiled program stays with JAX for as long as Python runs.
        """
        n_stars, n_terms = self.training.design.shape
        shapes = self.size, n_stars, n_terms, self.training.moments.shape[1]
        if shapes in _COMPILED:
            return
        spectra, bounds, one = np.zeros((self.size, n_stars)), np.zeros((self.size, n_terms)), np.zeros(self.size)
        block = Pixels(spectra, spectra, one, bounds, bounds)
        at_nodes = [np.zeros((NODES, *more, self.size), np.float32) for more in ((shapes[3],), (n_terms,), ())]
        sums = Interpolated(at_nodes[0], at_nodes[1], at_nodes[2], bounds.T, one, np.zeros(self.size, int), one)

        def call[**P](program: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
            with jax.enable_x64(True):
                jax.block_until_ready(program(*args, **kwargs))

        with ThreadPoolExecutor(n_threads()) as pool:
            done = [
                pool.submit(call, joint_newton, self.training, block, sums, bounds, one, self.tolerances),
                pool.submit(call, scan, self.training, block, sums, bounds),
                pool.submit(call, sums_at_nodes, self.training, block),
            ]
            if any((problem.regularization == 0).any() for problem in self.problems):
                count, no = np.zeros(self.size, int), np.zeros(self.size, bool)
                point = Point(one, bounds, one, bounds, one, one, one, one, bounds, count, no)
                done.append(pool.submit(call, certified, self.training, block, point))
            for future in done:
                future.result()
        _COMPILED.add(shapes)

    def blocks(self, pixels: np.ndarray) -> Iterator[np.ndarray]:
        """Pixels in blocks of at most the fixed size."""
        return (pixels[first : first + self.size] for first in range(0, len(pixels), self.size))

    def joint(self, pixels: np.ndarray) -> tuple[np.ndarray, list[_Unsettled]]:
        """Optima of a block from the lowest minimum of the scan, for every regularization in turn."""
        ends: list[_Unsettled] = []
        with jax.enable_x64(True):
            block = pixel_block(self.problems[0], pixels, self.size)
            index = np.resize(pixels, self.size)
            sums = sums_at_nodes(self.training, block)
            theta = self.theta[index]
            for problem in self.problems:
                if ends and _stays(ends[-1], block.regularization, problem.regularization[index]):
                    ends.append(ends[-1])
                    continue
                block = block._replace(regularization=problem.regularization[index])
                minima = Minima(*map(np.asarray, scan(self.training, block, sums, theta)))
                point = joint_newton(self.training, block, sums, minima.theta[:, 0], minima.s2[:, 0], self.tolerances)
                theta = point.theta
                ends.append(self._settle(pixels, block, sums, minima, point))
        return pixels, ends

    def _settle(
        self, pixels: np.ndarray, block: Pixels, sums: Interpolated, minima: Minima, point: Point
    ) -> _Unsettled:
        """The fit with its exact certificate, and which pixels need a second look."""
        n, fit = len(pixels), self._certified(pixels, block, point)
        hard = ~fit.done | (np.asarray(sums.error)[:n] > INTERPOLATION_ERROR)
        second = np.isfinite(minima.objective[:n, 1]) & ~hard
        rivals = _Start(pixels[second], *(array[:n, 1][second] for array in (minima.theta, minima.s2)))
        return _Unsettled(fit, rivals, pixels[hard])

    def _certified(self, pixels: np.ndarray, block: Pixels, point: Point) -> _Fit:
        """The fit of some pixels, with the exact gap where nothing is penalized."""
        gap, free = np.asarray(point.gap), block.regularization == 0
        pivot = np.full_like(gap, np.inf)
        if free.any():
            exact = certified(self.training, block, point)
            gap, pivot = (np.where(free, one, other) for one, other in zip(exact, (gap, pivot), strict=True))
        return _fit(pixels, point._replace(gap=gap), pivot)

    def second_looks(self, step: int, ends: list[_Unsettled]) -> Iterator[_Fit]:
        """Optima from the second minima, and, for hard pixels, from all minima of an exact scan."""
        rivals = _Start(*(np.concatenate(arrays) for arrays in zip(*(end.rivals for end in ends), strict=True)))
        starts = (_Start(*(array[some] for array in rivals)) for some in self.blocks(np.arange(len(rivals.pixels))))
        slow = []
        for start, fit in in_parallel(partial(self._again, step), starts):
            yield _Fit(*(array[fit.done] for array in fit))
            slow.append(_Start(*(array[~fit.done] for array in start)))
        hard = self.blocks(np.concatenate([end.hard for end in ends]))
        slow += chain.from_iterable(in_parallel(partial(self._exact_minima, step), hard))
        yield from in_parallel(partial(self._refined, step), (start for start in slow if len(start.pixels)))

    def _again(self, step: int, start: _Start) -> tuple[_Start, _Fit]:
        """Local optimum from given places, and those places."""
        with jax.enable_x64(True):
            block = pixel_block(self.problems[step], start.pixels, self.size)
            index = np.resize(np.arange(len(start.pixels)), self.size)
            sums = sums_at_nodes(self.training, block)
            point = joint_newton(self.training, block, sums, start.theta[index], start.s2[index], self.tolerances)
            return start, self._certified(start.pixels, block, point)

    def _exact_minima(self, step: int, pixels: np.ndarray) -> list[_Start]:
        """Where to start from in pixels whose noise defies interpolation."""
        with jax.enable_x64(True):
            block = pixel_block(self.problems[step], pixels, self.size)
            minima = exact_scan(self.training, block, self.theta[np.resize(pixels, self.size)])
            s2, objective, theta = (np.asarray(array)[: len(pixels)] for array in minima)
        found = np.isfinite(objective)
        return [_Start(pixels[f], theta[f, k], s2[f, k]) for k, f in enumerate(found.T)]

    def _refined(self, step: int, start: _Start) -> _Fit:
        """Local optimum from given places, with exact matrices and a bracket."""
        with jax.enable_x64(True):
            block = pixel_block(self.problems[step], start.pixels, self.size)
            index = np.resize(np.arange(len(start.pixels)), self.size)
            end = refine(self.training, block, start.theta[index], start.s2[index])
            return _fit(start.pixels, end, jnp.where(block.regularization == 0, end.pivot, jnp.inf))


def _stays(end: _Unsettled, before: Array, after: Array) -> bool:
    """Whether a block's optima stay those of a stronger penalty, because every penalized term is zero already.

    The profile at a stronger penalty is nowhere lower, and where these terms are zero it is the same; the gap there
    can only shrink.
    """
    settled = end.fit.done.all() and not len(end.hard) and not len(end.rivals.pixels)
    return bool(settled and not end.fit.theta[:, 1:].any() and np.all(before > 0) and np.all(after >= before))


def _block_size(n_stars: int, basis: MomentBasis, n_pixels: int, max_memory: float | None) -> int:
    """Pixels in a block: as many as run fast, or as fit the memory with a block on every core."""
    rows, n_terms = padded_size(n_stars), len(basis.pairs)
    size = min(max(BLOCK_NUMBERS // rows, SMALLEST_BLOCK), padded_size(n_pixels))
    if max_memory is None:
        return size
    shared = 8 * rows * n_terms + 12 * rows * basis.n_moments
    each = 8 * (ARRAYS_OF_STARS * rows + (NODES + 2) * basis.n_moments + ARRAYS_OF_TERMS * n_terms**2) * n_threads()
    if shared + each > max_memory:
        raise ValueError(
            f"max_memory is {max_memory:.3g} bytes, but {n_stars} stars, {n_terms} terms and {n_threads()} cores need "
            f"at least {shared + each:.3g}"
        )
    return min(size, int((max_memory - shared) // each))


def _fit(pixels: np.ndarray, end: Point | Refined, pivot: Array) -> _Fit:
    """Results on the host, without those of the padding."""
    arrays = (end.theta, end.s2, end.objective, end.gap, end.gradient, pivot, end.steps, end.done)
    return _Fit(pixels, *(np.asarray(array)[: len(pixels)] for array in arrays))


def _keep(solution: PixelSolution, fit: _Fit) -> None:
    """Write those results that are lower than what is there, or as low and converged where that is not."""
    some = solution.status[fit.pixels] != PixelStatus.TOO_FEW_STARS
    fit = _Fit(*(array[some] for array in fit))
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
