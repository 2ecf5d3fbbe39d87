r"""The package's own solver: the joint optimum over theta and s^2, certified.

At fixed s^2 the best theta is a weighted lasso, so that what is left is one number a pixel: the profile

.. math:: p(s^2) = \min_\theta \Big[ \sum_n w_n r_n^2 - \sum_n \ln w_n + \Lambda \sum_{d \ge 1} |\theta_d| \Big],
          \qquad w_n = \frac{1}{\sigma_n^2 + s^2}

By the envelope theorem :math:`p' = \sum_n w_n (1 - w_n r_n^2)`. The profile need not be convex: a large s^2 weakens
the data against the penalty, which removes terms, which leaves larger residuals, which a large s^2 explains. Hence

1. `scan` looks at the profile from s^2 = 0 to beyond the variance of the flux, on Gram matrices that are
   interpolated in s^2, and finds its local minima;
2. `joint_newton` goes from the lowest to the optimum of (theta, s^2), with exact gradients, in a few passes, of which
   the slowest pixels of all blocks come last, together;
3. where the scan cannot tell which of two minima is the lower the second step is taken from both; where the noise
   varies too much between stars to interpolate, as the chi^2 of the optimum shows, or that step did not converge,
   `bracketed_newton` does the same with exact Gram matrices and a bracket, from all minima of an exact scan;
4. a bound on the duality gap of theta, and p', are computed at the very point that is returned.

The work is matrix products of the weights of a block of pixels with the moments of the training set (`core.moments`).
Blocks are independent; each core works on one or two.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import chain
from operator import itemgetter
from threading import Lock

import jax
import jax.numpy as jnp
import numpy as np

from bayes_cannon.core.status import PixelStatus
from bayes_cannon.core.terms import Terms
from bayes_cannon.core.typing import Array
from bayes_cannon.execution.compiled_programs import make_room
from bayes_cannon.execution.threads import in_parallel, n_threads
from bayes_cannon.training.problem import PixelProblem, PixelSolution, Progress
from bayes_cannon.training.profile.blocks import (
    Pixels,
    Training,
    block_size,
    padded_monomials,
    padded_size,
    pixel_block,
)
from bayes_cannon.training.profile.bracketed_newton import refine
from bayes_cannon.training.profile.gram_interpolation import NODES, PATH_NODES, Interpolated, sums_at_nodes
from bayes_cannon.training.profile.joint_newton import INTERPOLATED_STEPS, PATH_TOLERANCES, TOLERANCES, Point, certified
from bayes_cannon.training.profile.path import Begin, search
from bayes_cannon.training.profile.results import Fit, Start, Unsettled, fit_of, keep
from bayes_cannon.training.profile.scan import GRID, exact_scan, sums_on_grid

LEFT = 16
"""One pixel in so many may be slow, and is searched for last with those of other blocks."""
ARRAYS_OF_STARS, ARRAYS_OF_TERMS = 10, 8
"""Arrays (pixel, star) and (pixel, term, term) that the compiled programs hold at once, counted generously."""


def solve(
    problem: PixelProblem,
    *,
    theta: np.ndarray | None = None,
    max_memory: float | None = None,
    progress: Progress | None = None,
) -> PixelSolution:
    """Joint optimum over (theta, s2) of every pixel.

    Parameters
    ----------
    problem
        The pixels.
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
        theta=theta,
        max_memory=max_memory,
        progress=progress,
    )
    return solution


def solve_path(
    problem: PixelProblem,
    regularizations: Sequence[np.ndarray],
    *,
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
    theta, max_memory
        As for `solve`.
    progress
        Called with the number of pixels finished, at all strengths.

    Returns
    -------
    solutions
        One for each point of the path, each with its own certificates; with several points the iteration ends
        earlier (`training.profile.joint_newton.PATH_TOLERANCES`).

    """
    strengths = np.stack([np.broadcast_to(lam, problem.n_pixels) for lam in regularizations])
    whole = PixelSolution.empty(strengths.size, problem.design.shape[1])
    status = problem.unsolvable(strengths)
    whole.status[:] = status.ravel()
    todo = np.flatnonzero((status == PixelStatus.CONVERGED).any(axis=0))
    report = progress or (lambda _: None)
    report(problem.n_pixels - len(todo))
    if len(todo):
        n_nodes = NODES if len(strengths) == 1 else PATH_NODES
        size = _size_within(problem.terms, len(todo), n_nodes, max_memory)
        # To leave some of a single block would cost a second one.
        leave = size // LEFT if len(todo) > size else 0
        work = _Work(problem, strengths, theta, size, n_nodes, leave)
        _compile_side_by_side(*work.shape, make_room())
        rest: list[Unsettled] = []
        for pixels, found in in_parallel(work.first_look, work.blocks(todo)):
            keep(whole, found.fit)
            rest.append(found)
            report(len(pixels))
        for fit in work.second_looks(rest):
            keep(whole, fit)
    return [whole.part(slice(first, first + problem.n_pixels)) for first in range(0, strengths.size, problem.n_pixels)]


class _Work:
    """The steps above for blocks of one fixed size, at every point of the path."""

    def __init__(
        self,
        problem: PixelProblem,
        strengths: np.ndarray,
        theta: np.ndarray | None,
        size: int,
        n_nodes: int,
        leave: int,
    ):
        self.problem, self.strengths, self.size, self.n_nodes, self.leave = problem, strengths, size, n_nodes, leave
        self.tolerances = TOLERANCES if len(strengths) == 1 else PATH_TOLERANCES
        # So that paths of similar lengths share a program.
        self.n_rows = 1 if len(strengths) == 1 else padded_size(len(strengths))
        terms = problem.terms
        shape = problem.n_pixels, terms.n_terms
        self.theta = np.zeros(shape) if theta is None else np.nan_to_num(theta)
        with jax.enable_x64(True):
            design = padded_monomials(terms.x, terms.exponents)
            single = padded_monomials(terms.x, terms.moments.exponents, np.float32)
            self.training = Training(design, single, jnp.asarray(terms.moments.pairs))
        self._lock = Lock()
        self._moments: Array | None = None

    def moments(self) -> Array:
        """Those in float64, made when they are first wanted."""
        with self._lock:
            if self._moments is None:
                self._moments = padded_monomials(self.problem.terms.x, self.problem.terms.moments.exponents)
        return self._moments

    @property
    def shape(self) -> tuple[int, int, int, int, int, int]:
        """What the compiled programs of a block depend on."""
        (n_stars, n_terms), n_moments = self.training.design.shape, self.training.single.shape[1]
        return self.size, n_stars, n_terms, n_moments, self.n_rows, self.n_nodes

    def blocks(self, pixels: np.ndarray) -> Iterator[np.ndarray]:
        """Pixels in blocks of at most the fixed size."""
        return (pixels[first : first + self.size] for first in range(0, len(pixels), self.size))

    def first_look(self, pixels: np.ndarray) -> tuple[np.ndarray, Unsettled]:
        """Optima of a block from the lowest minimum of the scan, for every regularization in turn."""
        with jax.enable_x64(True):
            block, sums = self._sums(pixels)
            index = np.resize(pixels, self.size)
            begin = Begin(self.theta[index], np.zeros(self.size), True)
            rows = self.strengths[:, index]
            grid = sums_on_grid(block, sums)
            found = search(
                self.training, block, sums, grid, begin, padded_rows(rows, self.n_rows), len(rows), self.tolerances,
                self.leave, INTERPOLATED_STEPS,
            )  # fmt: skip
            n, n_points = len(pixels), len(rows)
            found = jax.tree.map(lambda array: np.asarray(array)[:n_points], found)
            problems = (self.problem.n_pixels * np.arange(n_points)[:, None] + pixels).ravel()
            fit = self._certified(problems, block, rows, found.end)

        def start(theta: np.ndarray, s2: np.ndarray, steps: np.ndarray, some: np.ndarray) -> Start:
            point, pixel = np.nonzero(some[:, :n])
            return Start(problems.reshape(n_points, n)[some[:, :n]], *(x[point, pixel] for x in (theta, s2, steps)))

        end, rival = found.end, (found.rival_theta, found.rival_s2, np.zeros_like(found.end.steps))
        late = start(end.next_theta, end.next_s2, end.steps, ~end.done & ~found.hard)
        return pixels, Unsettled(fit, start(*rival, found.is_rival), late, start(*rival, found.hard))

    def _sums(self, pixels: np.ndarray) -> tuple[Pixels, Interpolated]:
        block = pixel_block(self.problem, pixels, self.size)
        return block, sums_at_nodes(self.training, block, self.n_nodes)

    def _certified(self, problems: np.ndarray, block: Pixels, strengths: np.ndarray, end: Point) -> Fit:
        """The fit of some problems; where nothing is penalized and the gap is not to be trusted, with the exact one.

        Strengths have shape (strength, pixel), the arrays of ``end`` these axes at their front.
        """
        free, n = strengths == 0, len(problems) // len(strengths)
        end = Point(*(array[: len(strengths)] for array in end))
        gap, pivot = np.array(end.gap), np.where(free, end.pivot, np.inf)
        for point in np.flatnonzero((pivot == 0).any(axis=1)):
            here = block._replace(regularization=strengths[point])
            there = jax.tree.map(itemgetter(int(point)), end)
            exact = certified(self.training, self.moments(), here, there)
            gap[point], pivot[point] = np.where(free[point], exact, (gap[point], pivot[point]))
        flat = [array[:, :n].reshape(len(problems), *array.shape[2:]) for array in (*end._replace(gap=gap), pivot)]
        return fit_of(problems, Point(*flat[:-1]), flat[-1])

    def second_looks(self, rest: list[Unsettled]) -> Iterator[Fit]:
        """Optima from the second minima, of the slow pixels, and, of hard ones, from all minima of an exact scan.

        Those of all points of the path share blocks.
        """
        rivals, late, hard = (
            Start.joined(starts) for starts in zip(*((end.rivals, end.late, end.hard) for end in rest), strict=True)
        )
        # Those of a list are of different problems.
        left: list[list[Start]] = [[], []]
        tasks = ((kind, start) for kind, starts in enumerate((rivals, late)) for start in self._cut(starts))
        for kind, start, fit in in_parallel(self._again, tasks):
            yield fit.where(fit.done)
            left[kind].append(start.where(~fit.done))
        left += zip(*in_parallel(self._exact_minima, self._cut(hard)), strict=True)
        starts = (Start.joined(starts) for starts in left if starts)
        yield from in_parallel(self._refined, chain.from_iterable(map(self._cut, starts)))

    def _cut(self, start: Start) -> Iterator[Start]:
        """In blocks of at most the fixed size."""
        return (start.where(some) for some in self.blocks(np.arange(len(start.problems))))

    def _pixels(self, start: Start) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The pixels, index of what the block holds, and the penalty of each there."""
        index = np.resize(np.arange(len(start.problems)), self.size)
        return start.problems % self.problem.n_pixels, index, self.strengths.ravel()[start.problems][index]

    def _again(self, task: tuple[int, Start]) -> tuple[int, Start, Fit]:
        """Local optimum from second minima, kind 0, or from where a slow search was, and what it started from."""
        kind, start = task
        with jax.enable_x64(True):
            pixels, index, penalty = self._pixels(start)
            block, sums = self._sums(pixels)
            begin = Begin(start.theta[index], start.s2[index], False)
            steps = (INTERPOLATED_STEPS, 0)[kind]
            grid, rows = sums_on_grid(block, sums), padded_rows(penalty[None], self.n_rows)
            found = search(self.training, block, sums, grid, begin, rows, 1, self.tolerances, 0, steps)
            end = jax.tree.map(np.asarray, found.end)
            fit = self._certified(start.problems, block, penalty[None], end)
            return kind, start, fit._replace(steps=start.steps + fit.steps)

    def _exact_minima(self, start: Start) -> list[Start]:
        """Where to start from in pixels whose noise defies interpolation, wherever their search has been."""
        with jax.enable_x64(True):
            pixels, index, penalty = self._pixels(start)
            block = pixel_block(self.problem, pixels, self.size)._replace(regularization=penalty)
            minima = exact_scan(self.training, self.moments(), block, self.theta[pixels][index])
            s2, objective, theta = (np.asarray(array)[: len(pixels)] for array in minima)
        found = np.isfinite(objective).T
        return [start._replace(theta=theta[:, k], s2=s2[:, k]).where(f) for k, f in enumerate(found)]

    def _refined(self, start: Start) -> Fit:
        """Local optimum from given places, with exact matrices and a bracket."""
        with jax.enable_x64(True):
            pixels, index, penalty = self._pixels(start)
            block = pixel_block(self.problem, pixels, self.size)._replace(regularization=penalty)
            end = refine(self.training, self.moments(), block, start.theta[index], start.s2[index])
            return fit_of(start.problems, end, jnp.where(block.regularization == 0, end.pivot, jnp.inf))


def padded_rows(strengths: np.ndarray, n_rows: int) -> np.ndarray:
    """Strengths, shape (strength, pixel), with rows of zeros, so that paths of similar lengths share a program."""
    return np.pad(strengths, [(0, n_rows - len(strengths)), (0, 0)])


@lru_cache(maxsize=1024)
def _compile_side_by_side(
    size: int, n_stars: int, n_terms: int, n_moments: int, n_rows: int, n_nodes: int, dropped: int
) -> None:
    """Compile the programs of a block on all cores, by calling each on zeros, once for each shape in a process.

    They would be compiled one after the other when they are first called, which is most of what a first training costs.
    JAX keeps them; ``dropped`` says how often it was told to forget them (`execution.compiled_programs`). The results
    of a training do not depend on whether this was done.
    """
    spectra, bounds, one = np.zeros((size, n_stars)), np.zeros((size, n_terms)), np.zeros(size)
    block = Pixels(spectra, spectra, one, bounds, bounds)

    def zeros[**P, T](program: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the program would return, filled with zeros."""
        shapes = jax.eval_shape(program, *args, **kwargs)
        return jax.tree.map(lambda array: np.zeros(array.shape, array.dtype), shapes)

    def call[**P](program: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        with jax.enable_x64(True):
            jax.block_until_ready(program(*args, **kwargs))

    with jax.enable_x64(True):
        training = Training(
            jnp.zeros((n_stars, n_terms)), jnp.zeros((n_stars, n_moments), np.float32),
            jnp.zeros((n_terms, n_terms), int),
        )  # fmt: skip
        sums = zeros(partial(sums_at_nodes, n_nodes=n_nodes), training, block)
        grid = zeros(sums_on_grid, block, sums)
    begin, rows = Begin(bounds, one, True), np.zeros((n_rows, size))
    with ThreadPoolExecutor(n_threads()) as pool:
        calls = [
            pool.submit(call, search, training, block, sums, grid, begin, rows, 1, TOLERANCES, 0, 0),
            pool.submit(call, sums_at_nodes, training, block, n_nodes),
            pool.submit(call, sums_on_grid, block, sums),
        ]
        for future in calls:
            future.result()


def _size_within(terms: Terms, n_pixels: int, n_nodes: int, max_memory: float | None) -> int:
    """As many pixels as run fast, or as fit the memory with all blocks that are computed at a time."""
    n_stars, n_terms, basis = terms.n_stars, terms.n_terms, terms.moments
    rows = padded_size(n_stars)
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
