"""The profile solver for blocks of pixels: what `solver` describes, as work for several threads."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import chain
from threading import Lock

import jax
import jax.numpy as jnp
import numpy as np

from bayes_cannon.core.status import PixelStatus
from bayes_cannon.core.typing import StarMoment
from bayes_cannon.execution.compiled_programs import make_room
from bayes_cannon.execution.jax_settings import own_jax_settings
from bayes_cannon.execution.threads import in_parallel, n_blocks, n_threads
from bayes_cannon.training.problem import PixelProblem, PixelSolution, Progress
from bayes_cannon.training.profile.blocks import (
    Pixels,
    Training,
    padded_monomials,
    padded_size,
    pixel_block,
)
from bayes_cannon.training.profile.bracketed_newton import bracketed_newton
from bayes_cannon.training.profile.gram_interpolation import Interpolated, sums_at_nodes
from bayes_cannon.training.profile.joint_newton import JointState, Schedule, exact_certificate
from bayes_cannon.training.profile.path import search
from bayes_cannon.training.profile.results import BlockResult, PixelFit, Starts, merge
from bayes_cannon.training.profile.scan import exact_scan, sums_on_grid
from bayes_cannon.training.profile.settings import SETTINGS

UNFINISHED = 0
"""Kind of a search that continues one that is not finished; others start from the second and the third minimum."""


def solvable(problem: PixelProblem, strengths: np.ndarray) -> np.ndarray:
    """Whether a pixel has a solution at some strength, shape (pixel,)."""
    return np.asarray((problem.unsolvable(strengths) == PixelStatus.CONVERGED).any(axis=0))


def n_nodes(strengths: np.ndarray) -> int:
    """Number of nodes of the interpolation for a training at these strengths."""
    return SETTINGS.n_nodes if len(strengths) == 1 else SETTINGS.n_path_nodes


class BlockSolver:
    """The steps above, for blocks of one fixed size and at every point of the path.

    Parameters
    ----------
    problem
        As for `solve_path`.
    strengths
        Lambda, shape (point, pixel).
    theta
        As for `solve_path`.
    size, max_unfinished
        Number of pixels in a block, and how many of them it may leave unfinished, to be solved at the end with those of
        the other blocks.

    """

    def __init__(
        self,
        problem: PixelProblem,
        strengths: np.ndarray,
        theta: np.ndarray | None = None,
        *,
        size: int,
        max_unfinished: int,
    ):
        self.problem, self.strengths, self.size, self.n_nodes = problem, strengths, size, n_nodes(strengths)
        self.tolerances = SETTINGS.tolerances if len(strengths) == 1 else SETTINGS.path_tolerances
        self.schedule = Schedule(self.tolerances, max_unfinished, SETTINGS.interpolated_steps)
        # So that paths of similar lengths share a program.
        self.n_rows = 1 if len(strengths) == 1 else padded_size(len(strengths))
        terms = problem.terms
        self.theta = np.zeros((problem.n_pixels, terms.n_terms)) if theta is None else np.nan_to_num(theta)
        with own_jax_settings():
            design = padded_monomials(terms.x, terms.exponents)
            single = padded_monomials(terms.x, terms.moments.exponents, np.float32)
            self.training = Training(design, single, jnp.asarray(terms.moments.pairs))
        self._lock = Lock()
        self._moments: StarMoment | None = None

    def solve(self, report: Progress) -> list[PixelSolution]:
        """Joint optima of all pixels, one solution for each point of the path."""
        n_points, n_pixels = self.strengths.shape
        solution = PixelSolution.empty(self.strengths.size, self.theta.shape[1])
        solution.status[:] = self.problem.unsolvable(self.strengths).ravel()
        todo = np.flatnonzero(solvable(self.problem, self.strengths))
        report(n_pixels - len(todo))
        if len(todo):
            _compile_side_by_side(*self._shape, make_room())
            rest = []
            for result in in_parallel(self.first_search, self._blocks(todo), n_blocks()):
                solution.n_minima[result.problems], solution.margin[result.problems] = result.n_minima, result.margin
                merge(solution, *result.certain(True))
                rest.append(result)
                report(len(result.problems) // n_points)
            self._search_rest(solution, rest)
            unsolved = ~np.isfinite(solution.objective)
            solution.n_minima[unsolved], solution.margin[unsolved] = 0, np.nan
        return [solution.part(slice(first, first + n_pixels)) for first in range(0, self.strengths.size, n_pixels)]

    def moments(self) -> StarMoment:
        """Distinct products of two terms in float64, made when first needed."""
        with self._lock:
            if self._moments is None:
                self._moments = padded_monomials(self.problem.terms.x, self.problem.terms.moments.exponents)
        return self._moments

    @property
    def _shape(self) -> tuple[int, int, int, int, int, int]:
        """What the compiled programs of a block depend on."""
        (n_stars, n_terms), n_moments = self.training.design.shape, self.training.single.shape[1]
        return self.size, n_stars, n_terms, n_moments, self.n_rows, self.n_nodes

    def _blocks(self, pixels: np.ndarray) -> Iterator[np.ndarray]:
        """The pixels in blocks of at most the fixed size."""
        return (pixels[first : first + self.size] for first in range(0, len(pixels), self.size))

    def first_search(self, pixels: np.ndarray) -> BlockResult:
        """Optima of a block from the lowest minimum of the scan, at each strength in turn."""
        with own_jax_settings():
            block, sums = self.sums(pixels)
            index = np.resize(pixels, self.size)
            rows, scanned = self.strengths[:, index], np.full(self.size, np.nan)
            found = search(
                self.training, block, sums, sums_on_grid(block, sums), self.theta[index], scanned,
                padded_rows(rows, self.n_rows), self.schedule,
            )  # fmt: skip
            n, n_points = len(pixels), len(rows)
            found = jax.tree.map(lambda array: np.asarray(array)[:n_points], found)
            problems = self.problem.n_pixels * np.arange(n_points)[:, None] + pixels
            fit = self._certified(n, block, rows, found.end)

        def starts(theta: np.ndarray, s2: np.ndarray, iterations: np.ndarray, some: np.ndarray) -> Starts:
            some = some[:, :n]
            return Starts(problems[some], *(array[:, :n][some] for array in (theta, s2, iterations)))

        end, second, third, exact = found
        none = np.zeros_like(end.fit.iterations)
        return BlockResult(
            problems=problems.ravel(),
            fit=fit,
            second_minima=starts(second.theta, second.s2, none, np.isfinite(second.objective)),
            third_minima=starts(third.theta, third.s2, none, np.isfinite(third.objective)),
            unfinished=starts(end.next_theta, end.next_s2, end.fit.iterations, ~end.fit.done & ~exact),
            needs_exact_gram=starts(second.theta, second.s2, none, exact),
            n_minima=second.number[:, :n].ravel(),
            margin=np.where(np.isfinite(second.objective) | exact, np.inf, second.margin)[:, :n].ravel(),
        )

    def sums(self, pixels: np.ndarray) -> tuple[Pixels, Interpolated]:
        """The data of a block, and its sums at the nodes."""
        block = pixel_block(self.problem, pixels, self.size)
        return block, sums_at_nodes(self.training, block, self.n_nodes)

    def _certified(self, n: int, block: Pixels, strengths: np.ndarray, end: JointState) -> PixelFit:
        """The fit of the first n pixels at every strength, one after the other, shape (strength * n,).

        Where nothing is penalized and the gap is not to be trusted, it is computed with the exact Gram matrix.
        Strengths have shape (strength, pixel), the arrays of ``end`` these axes in front.
        """
        free = strengths == 0
        gap, pivot = np.array(end.fit.duality_gap), np.where(free, end.fit.pivot, np.inf)
        for point in np.flatnonzero((pivot == 0).any(axis=1)):
            here = block._replace(regularization=strengths[point])
            there = jax.tree.map(lambda array, point=point: array[point], end)
            exact = exact_certificate(self.training, self.moments(), here, there)
            gap[point], pivot[point] = np.where(free[point], exact, (gap[point], pivot[point]))
        fit = end.fit._replace(duality_gap=gap, pivot=pivot)
        return PixelFit(*(array[:, :n].reshape(-1, *array.shape[2:]) for array in fit))

    def _search_rest(self, solution: PixelSolution, rest: list[BlockResult]) -> None:
        """Optima of stragglers, from second minima, and with exact Gram matrices, from all minima of an exact scan.

        Problems of all points of the path share blocks.
        """
        unfinished = Starts.joined(result.unfinished for result in rest)
        second, third = (
            Starts.joined(getattr(result, name) for result in rest) for name in ("second_minima", "third_minima")
        )
        exact = Starts.joined(result.needs_exact_gram for result in rest)
        failed: list[list[Starts]] = [[], [], []]
        lists = unfinished, second, third
        tasks = ((kind, some) for kind, starts in enumerate(lists) for some in self._cut(starts))
        for kind, starts, fit in in_parallel(self._search_again, tasks, n_blocks()):
            done = np.asarray(fit.done)
            merge(solution, starts.problems[done], fit.at(done), rivals=kind > UNFINISHED)
            failed[kind].append(starts.at(~done))
        minima = []
        for starts, ranks, number in in_parallel(self._exact_minima, self._cut(exact), n_blocks()):
            solution.n_minima[starts.problems] = number
            minima.append(ranks)
        again = (Starts.joined(parts) for parts in (*failed, *zip(*minima, strict=True)) if parts)
        for problems, fit in in_parallel(self._bracketed, chain.from_iterable(map(self._cut, again)), n_blocks()):
            merge(solution, problems, fit, rivals=True)
        for result in rest:
            merge(solution, *result.certain(False))

    def _cut(self, starts: Starts) -> Iterator[Starts]:
        """The problems in blocks of at most the fixed size."""
        return (starts.at(some) for some in self._blocks(np.arange(len(starts.problems))))

    def _pixels(self, starts: Starts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The pixels of the problems, and the problem and the penalty in each place of the block."""
        index = np.resize(np.arange(len(starts.problems)), self.size)
        return starts.problems % self.problem.n_pixels, index, self.strengths.ravel()[starts.problems][index]

    def _search_again(self, task: tuple[int, Starts]) -> tuple[int, Starts, PixelFit]:
        """Local optima of unfinished problems, kind 0, or from second or third minima, kinds 1 and 2."""
        kind, starts = task
        with own_jax_settings():
            pixels, index, penalty = self._pixels(starts)
            block, sums = self.sums(pixels)
            schedule = Schedule(self.tolerances, 0, SETTINGS.interpolated_steps * (kind > UNFINISHED))
            found = search(
                self.training, block, sums, sums_on_grid(block, sums), starts.theta[index], starts.s2[index],
                padded_rows(penalty[None], self.n_rows), schedule,
            )  # fmt: skip
            end = jax.tree.map(lambda array: np.asarray(array)[:1], found.end)
            fit = self._certified(len(pixels), block, penalty[None], end)
        return kind, starts, fit._replace(iterations=starts.iterations + fit.iterations)

    def _exact_minima(self, starts: Starts) -> tuple[Starts, list[Starts], np.ndarray]:
        """Minima of an exact scan, wherever the search has been, one list for each rank, and the number of them."""
        with own_jax_settings():
            pixels, index, penalty = self._pixels(starts)
            block = pixel_block(self.problem, pixels, self.size)._replace(regularization=penalty)
            minima = exact_scan(self.training, self.moments(), block, self.theta[pixels][index])
            s2, objective, theta, number, _ = (np.asarray(array)[: len(pixels)] for array in minima)
        found = np.isfinite(objective).T
        ranks = [starts._replace(theta=theta[:, k], s2=s2[:, k]).at(some) for k, some in enumerate(found)]
        return starts, ranks, number

    def _bracketed(self, starts: Starts) -> tuple[np.ndarray, PixelFit]:
        """Local optima from given points, with exact Gram matrices and a bracket."""
        with own_jax_settings():
            pixels, index, penalty = self._pixels(starts)
            block = pixel_block(self.problem, pixels, self.size)._replace(regularization=penalty)
            fit = bracketed_newton(self.training, self.moments(), block, starts.theta[index], starts.s2[index])
            fit = fit._replace(pivot=jnp.where(block.regularization == 0, fit.pivot, jnp.inf))
            return starts.problems, fit.at(slice(len(pixels)))


def padded_rows(strengths: np.ndarray, n_rows: int) -> np.ndarray:
    """Strengths, shape (strength, pixel), with rows of NaN, so that paths of similar lengths share a program."""
    return np.pad(strengths, [(0, n_rows - len(strengths)), (0, 0)], constant_values=np.nan)


@lru_cache(maxsize=1024)
def _compile_side_by_side(
    size: int, n_stars: int, n_terms: int, n_moments: int, n_rows: int, n_nodes: int, dropped: int
) -> None:
    """Compile the programs of a block on all cores, by calling each on zeros, once for each shape in a process.

    Without this they would be compiled one after the other when they are first called, which takes most of the time of
    a first training.
    JAX keeps them; ``dropped`` says how often it was told to forget them (`execution.compiled_programs`). The results
    of a training do not depend on this function.
    """
    spectra, bounds, one = np.zeros((size, n_stars)), np.zeros((size, n_terms)), np.zeros(size)
    block = Pixels(spectra, spectra, one, bounds, bounds)

    def zeros[**P, T](program: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the program would return, filled with zeros."""
        shapes = jax.eval_shape(program, *args, **kwargs)
        return jax.tree.map(lambda array: np.zeros(array.shape, array.dtype), shapes)

    def call[**P](program: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        with own_jax_settings():
            jax.block_until_ready(program(*args, **kwargs))

    with own_jax_settings():
        training = Training(
            jnp.zeros((n_stars, n_terms)), jnp.zeros((n_stars, n_moments), np.float32),
            jnp.zeros((n_terms, n_terms), int),
        )  # fmt: skip
        sums = zeros(partial(sums_at_nodes, n_nodes=n_nodes), training, block)
        grid = zeros(sums_on_grid, block, sums)
    rows, schedule = np.zeros((n_rows, size)), Schedule(SETTINGS.tolerances, 0, 0)
    with ThreadPoolExecutor(n_threads()) as pool:
        calls = [
            pool.submit(call, search, training, block, sums, grid, bounds, one, rows, schedule),
            pool.submit(call, sums_at_nodes, training, block, n_nodes),
            pool.submit(call, sums_on_grid, block, sums),
        ]
        for future in calls:
            future.result()
