r"""The package's own solver: the joint optimum over theta and s^2, certified.

At fixed s^2 the best theta is a weighted lasso, so that what is left is one number a pixel: the profile

.. math:: p(s^2) = \min_\theta \Big[ \sum_n w_n r_n^2 - \sum_n \ln w_n + \Lambda \sum_{d \ge 1} |\theta_d| \Big],
          \qquad w_n = \frac{1}{\sigma_n^2 + s^2}

By the envelope theorem :math:`p' = \sum_n w_n (1 - w_n r_n^2)`. The profile need not be convex: a large s^2 weakens
the data against the penalty, which removes terms, which leaves larger residuals, which a large s^2 explains. Hence

1. `solvers.scan` looks at the profile from s^2 = 0 to beyond the variance of the flux, on Gram matrices that are
   interpolated in s^2, and finds its local minima;
2. `solvers.joint` goes from the lowest to the optimum of (theta, s^2), with exact gradients, in a few passes, of which
   the slowest pixels of all blocks come last, together;
3. where the scan cannot tell which of two minima is the lower the second step is taken from both; where the noise
   varies too much between stars to interpolate, as the chi^2 of the optimum shows, or that step did not converge,
   `solvers.refine` does the same with exact Gram matrices and a bracket, from all minima of an exact scan;
4. a bound on the duality gap of theta, and p', are computed at the very point that is returned.

The work is matrix products of the weights of a block of pixels with the moments of the training set (`core.moments`).
Blocks are independent; each core works on one or two.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from threading import Lock

import jax
import jax.numpy as jnp
import numpy as np

from bayes_cannon.core.moments import MomentBasis
from bayes_cannon.core.status import PixelStatus
from bayes_cannon.core.typing import Array
from bayes_cannon.solvers.block import (
    Pixels,
    Training,
    block_size,
    in_parallel,
    n_threads,
    padded_monomials,
    padded_size,
    pixel_block,
)
from bayes_cannon.solvers.fit import Fit, Start, Unsettled, fit_of, keep
from bayes_cannon.solvers.joint import (
    INTERPOLATED_STEPS,
    MAX_STEPS,
    PATH_TOLERANCES,
    TOLERANCES,
    Point,
    certified,
    joint_newton,
)
from bayes_cannon.solvers.problem import PixelProblem, PixelSolution, Progress
from bayes_cannon.solvers.refine import refine
from bayes_cannon.solvers.scan import (
    GRID,
    MARGIN,
    NODES,
    PATH_NODES,
    Grid,
    Interpolated,
    exact_scan,
    scan,
    sums_at_nodes,
    sums_on_grid,
)

LEFT = 16
"""One pixel in so many may be slow, and is searched for last with those of other blocks."""
ARRAYS_OF_STARS, ARRAYS_OF_TERMS = 10, 8
"""Arrays (pixel, star) and (pixel, term, term) that the compiled programs hold at once, counted generously."""
INTERPOLATION_ERROR = 0.02
"""Relative error of the interpolated weights above which a pixel is scanned with exact ones."""
_COMPILED: set[tuple[int, ...]] = set()
"""Shapes of blocks whose programs have been compiled."""


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
        If ``max_memory`` is too small for one pixel in each of the blocks that are computed at a time, saying how
        much is needed.

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
    strengths = np.stack([np.broadcast_to(lam, problem.n_pixels) for lam in regularizations])
    solutions = [PixelSolution.empty(problem.n_pixels, problem.design.shape[1]) for _ in strengths]
    for lam, solution in zip(strengths, solutions, strict=True):
        solution.status[:] = replace(problem, regularization=lam).unsolvable()
    solvable = np.any([solution.status == PixelStatus.CONVERGED for solution in solutions], axis=0)
    todo = np.flatnonzero(solvable)
    report = progress or (lambda _: None)
    report(problem.n_pixels - len(todo))
    if not len(todo):
        return solutions
    basis = MomentBasis.from_terms(exponents)
    n_nodes = NODES if len(strengths) == 1 else PATH_NODES
    size = _size_within(len(problem.design), basis, len(todo), n_nodes, max_memory)
    # To leave some of a single block would cost a second one.
    leave = size // LEFT if len(todo) > size else 0
    work = _Work(problem, strengths, exponents, basis, x, theta, size, n_nodes, leave)
    work.compile()
    rest: list[Unsettled] = []
    for pixels, path in in_parallel(work.joint, work.blocks(todo)):
        for solution, end in zip(solutions, path, strict=True):
            keep(solution, end.fit)
        rest += path
        report(len(pixels))
    for points, fit in work.second_looks(rest):
        for point in np.unique(points):
            keep(solutions[point], fit.where(points == point))
    return solutions


@dataclass(eq=False)
class _Search:
    """A block with its sums at the nodes, where its search goes on from, and what it has found along the path."""

    pixels: np.ndarray
    block: Pixels
    sums: Interpolated
    grid: Grid
    theta: Array
    ends: list[Unsettled] = field(default_factory=list)

    def stays(self, regularization: np.ndarray) -> bool:
        """Whether the optima stay those of a stronger penalty, because every penalized term is zero already.

        The profile at a stronger penalty is nowhere lower, and where these terms are zero it is the same; the gap there
        can only shrink.
        """
        if not self.ends:
            return False
        end, before, after = self.ends[-1], self.block.regularization, regularization[self.pixels]
        penalized = np.all(before > 0) and np.all(after >= before[: len(after)])
        return bool(end.settled and penalized and not end.fit.theta[:, 1:].any())


class _Work:
    """The steps above for blocks of one fixed size, at every point of the path."""

    def __init__(
        self,
        problem: PixelProblem,
        strengths: np.ndarray,
        exponents: np.ndarray,
        basis: MomentBasis,
        x: np.ndarray,
        theta: np.ndarray | None,
        size: int,
        n_nodes: int,
        leave: int,
    ):
        self.problem, self.strengths, self.size, self.n_nodes, self.leave = problem, strengths, size, n_nodes, leave
        self.tolerances = TOLERANCES if len(strengths) == 1 else PATH_TOLERANCES
        shape = problem.n_pixels, len(exponents)
        self.theta = np.zeros(shape) if theta is None else np.nan_to_num(theta)
        with jax.enable_x64(True):
            design, single = padded_monomials(x, exponents), padded_monomials(x, basis.exponents, np.float32)
            self.training = Training(design, single, jnp.asarray(basis.pairs))
        self._x, self._basis, self._lock = x, basis, Lock()
        self._moments: Array | None = None

    def moments(self) -> Array:
        """Those in float64, made when they are first wanted."""
        with self._lock:
            if self._moments is None:
                self._moments = padded_monomials(self._x, self._basis.exponents)
        return self._moments

    def compile(self) -> None:
        """Compile the programs of a block side by side, on a block of zeros, if these shapes are new.

        Compiling is most of what a first training costs. A compiled program stays with JAX for as long as Python runs.
        """
        n_stars, n_terms = self.training.design.shape
        shapes = self.size, n_stars, n_terms, self.training.single.shape[1], self.n_nodes
        if shapes in _COMPILED:
            return
        spectra, bounds, one = np.zeros((self.size, n_stars)), np.zeros((self.size, n_terms)), np.zeros(self.size)
        block = Pixels(spectra, spectra, one, bounds, bounds)

        def like[**P, T](program: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
            shapes = jax.eval_shape(program, *args, **kwargs)
            return jax.tree.map(lambda array: np.zeros(array.shape, array.dtype), shapes)

        def call[**P](program: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
            with jax.enable_x64(True):
                jax.block_until_ready(program(*args, **kwargs))

        with jax.enable_x64(True):
            sums = like(partial(sums_at_nodes, n_nodes=self.n_nodes), self.training, block)
            grid = like(sums_on_grid, block, sums)
        with ThreadPoolExecutor(n_threads()) as pool:
            done = [
                pool.submit(call, joint_newton, self.training, block, sums, bounds, one, self.tolerances, 0, 0),
                pool.submit(call, scan, self.training, block, sums, grid, bounds),
                pool.submit(call, sums_at_nodes, self.training, block, self.n_nodes),
                pool.submit(call, sums_on_grid, block, sums),
            ]
            for future in done:
                future.result()
        _COMPILED.add(shapes)

    def blocks(self, pixels: np.ndarray) -> Iterator[np.ndarray]:
        """Pixels in blocks of at most the fixed size."""
        return (pixels[first : first + self.size] for first in range(0, len(pixels), self.size))

    def joint(self, pixels: np.ndarray) -> tuple[np.ndarray, list[Unsettled]]:
        """Optima of a block from the lowest minimum of the scan, for every regularization in turn."""
        with jax.enable_x64(True):
            search = self._search(pixels)
            for point, lam in enumerate(self.strengths):
                search.ends.append(search.ends[-1] if search.stays(lam) else self._end(search, point))
        return pixels, search.ends

    def _search(self, pixels: np.ndarray) -> _Search:
        block = pixel_block(self.problem, pixels, self.size)
        sums = sums_at_nodes(self.training, block, self.n_nodes)
        grid = sums_on_grid(block, sums)
        return _Search(pixels, block, sums, grid, self.theta[np.resize(pixels, self.size)])

    def _end(self, search: _Search, point: int) -> Unsettled:
        """The fit with its certificate at one point of the path, and which pixels need a second look."""
        pixels, n = search.pixels, len(search.pixels)
        search.block = search.block._replace(regularization=np.resize(self.strengths[point, pixels], self.size))
        low = scan(self.training, search.block, search.sums, search.grid, search.theta)
        s2, objective, theta = (np.asarray(array) for array in low)
        start, steps = (theta[:, 0], s2[:, 0]), INTERPOLATED_STEPS
        end = joint_newton(self.training, search.block, search.sums, *start, self.tolerances, self.leave, steps)
        search.theta = end.theta
        fit = self._certified(pixels, search.block, end)
        points, none = np.full(n, point), np.zeros(n, int)
        ahead = Start(pixels, points, *(np.asarray(array)[:n] for array in (end.next_theta, end.next_s2, end.steps)))
        rivals = Start(pixels, points, theta[:n, 1], s2[:n, 1], none)
        lost = (fit.steps == MAX_STEPS) | ~np.isfinite(ahead.s2) | ~np.isfinite(ahead.theta).all(axis=1)
        misled = np.asarray(end.mismatch)[:n] > MARGIN * np.asarray(search.sums.n_stars)[:n]
        hard = (lost & ~fit.done) | misled | (np.asarray(search.sums.error)[:n] > INTERPOLATION_ERROR)
        second = np.isfinite(objective[:n, 1]) & ~hard
        return Unsettled(fit, rivals.where(second), ahead.where(~fit.done & ~hard), rivals.where(hard))

    def _certified(self, pixels: np.ndarray, block: Pixels, end: Point) -> Fit:
        """The fit of some pixels; where nothing is penalized and the gap is not to be trusted, with the exact one."""
        free = block.regularization == 0
        gap, pivot = np.asarray(end.gap), np.where(free, end.pivot, np.inf)
        if (pivot == 0).any():
            exact = certified(self.training, self.moments(), block, end)
            gap, pivot = (np.where(free, one, other) for one, other in zip(exact, (gap, pivot), strict=True))
        return fit_of(pixels, end._replace(gap=gap), pivot)

    def second_looks(self, rest: list[Unsettled]) -> Iterator[tuple[np.ndarray, Fit]]:
        """Optima from the second minima, of the slow pixels, and, of hard ones, from all minima of an exact scan.

        The points of the path that they are at come with each fit: those of all points share blocks.
        """
        rivals, late, hard = (
            Start.joined(starts) for starts in zip(*((end.rivals, end.late, end.hard) for end in rest), strict=True)
        )
        # Those of a list are of different pixels, or at different points.
        left: list[list[Start]] = [[], []]
        tasks = ((kind, start) for kind, starts in enumerate((rivals, late)) for start in self._cut(starts))
        for kind, start, fit in in_parallel(self._again, tasks):
            yield start.points[fit.done], fit.where(fit.done)
            left[kind].append(start.where(~fit.done))
        left += zip(*in_parallel(self._exact_minima, self._cut(hard)), strict=True)
        starts = (Start.joined(starts) for starts in left if starts)
        yield from in_parallel(self._refined, chain.from_iterable(map(self._cut, starts)))

    def _cut(self, start: Start) -> Iterator[Start]:
        """In blocks of at most the fixed size."""
        return (start.where(some) for some in self.blocks(np.arange(len(start.pixels))))

    def _block(self, start: Start) -> tuple[Pixels, np.ndarray]:
        """The data, each pixel with the penalty at its point of the path, and the index of what the block holds."""
        block, index = pixel_block(self.problem, start.pixels, self.size), np.arange(len(start.pixels))
        index, penalty = np.resize(index, self.size), self.strengths[start.points, start.pixels]
        return block._replace(regularization=penalty[index]), index

    def _again(self, task: tuple[int, Start]) -> tuple[int, Start, Fit]:
        """Local optimum from second minima, kind 0, or from where a slow search was, and what it started from."""
        kind, start = task
        with jax.enable_x64(True):
            block, index = self._block(start)
            sums = sums_at_nodes(self.training, block, self.n_nodes)
            place = start.theta[index], start.s2[index]
            end = joint_newton(self.training, block, sums, *place, self.tolerances, 0, (INTERPOLATED_STEPS, 0)[kind])
            fit = self._certified(start.pixels, block, end)
            return kind, start, fit._replace(steps=start.steps + fit.steps)

    def _exact_minima(self, start: Start) -> list[Start]:
        """Where to start from in pixels whose noise defies interpolation, wherever their search has been."""
        with jax.enable_x64(True):
            block, index = self._block(start)
            minima = exact_scan(self.training, self.moments(), block, self.theta[start.pixels][index])
            s2, objective, theta = (np.asarray(array)[: len(start.pixels)] for array in minima)
        found = np.isfinite(objective).T
        return [start._replace(theta=theta[:, k], s2=s2[:, k]).where(f) for k, f in enumerate(found)]

    def _refined(self, start: Start) -> tuple[np.ndarray, Fit]:
        """Local optimum from given places, with exact matrices and a bracket, and the points of the path."""
        with jax.enable_x64(True):
            block, index = self._block(start)
            end = refine(self.training, self.moments(), block, start.theta[index], start.s2[index])
            free = block.regularization == 0
            return start.points, fit_of(start.pixels, end, jnp.where(free, end.pivot, jnp.inf))


def _size_within(n_stars: int, basis: MomentBasis, n_pixels: int, n_nodes: int, max_memory: float | None) -> int:
    """As many pixels as run fast, or as fit the memory with all blocks that are computed at a time."""
    rows, n_terms = padded_size(n_stars), len(basis.pairs)
    size = block_size(n_stars, n_pixels)
    if max_memory is None:
        return size
    shared = 8 * rows * n_terms + 12 * rows * basis.n_moments
    once = ARRAYS_OF_STARS * rows + (n_nodes + GRID // 2 + 2) * basis.n_moments + ARRAYS_OF_TERMS * n_terms**2
    each = 8 * once * n_threads()
    if shared + each > max_memory:
        raise ValueError(
            f"max_memory is {max_memory:.3g} bytes, but {n_stars} stars, {n_terms} terms and {n_threads()} blocks at a "
            f"time need at least {shared + each:.3g}"
        )
    return min(size, int((max_memory - shared) // each))
