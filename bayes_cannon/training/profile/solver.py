r"""The package's own solver: the joint optimum over theta and s^2, certified.

At fixed s^2 the optimal theta is a weighted lasso, which leaves one variable a pixel: the profile

.. math:: p(s^2) = \min_\theta \Big[ \sum_n w_n r_n^2 - \sum_n \ln w_n + \Lambda \sum_{d \ge 1} |\theta_d| \Big],
          \qquad w_n = \frac{1}{\sigma_n^2 + s^2}

By the envelope theorem :math:`p' = \sum_n w_n (1 - w_n r_n^2)`. The profile need not be convex: a large s^2 weakens
the data against the penalty, which removes terms, which leaves larger residuals, which call for a large s^2. Hence

1. `scan` evaluates the profile from s^2 = 0 to beyond the variance of the flux, on Gram matrices that are
   interpolated in s^2 (`gram_interpolation`), and finds its local minima;
2. `joint_newton` iterates from the lowest to the optimum of (theta, s^2), with exact gradients, in a few passes over
   the data; the slowest pixels of all blocks are finished together at the end;
3. where the scan cannot tell which of two minima is the lower, step 2 starts from both; where the noise varies too much
   between stars to interpolate, as the chi^2 of the optimum shows, or step 2 did not converge, `bracketed_newton`
   solves with exact Gram matrices and a bracket, from all minima of an exact scan;
4. a bound on the duality gap of theta, and p', are computed at the very point that is returned.

`bracketed_newton` is the reference: read it first. All numbers of the solver are in `settings`.

The work is matrix products of the weights of a block of pixels with the moments of the training set (`core.moments`).
Blocks are independent; each core works on one or two. On a GPU they are larger and fewer (`execution.devices`).
"""

from collections.abc import Sequence

import numpy as np

from bayes_cannon.core.arguments import number, shown
from bayes_cannon.core.terms import Terms
from bayes_cannon.execution.threads import n_blocks
from bayes_cannon.training.problem import PixelProblem, PixelSolution, Progress
from bayes_cannon.training.profile.block_solver import BlockSolver, n_nodes, solvable
from bayes_cannon.training.profile.blocks import block_size, padded_size
from bayes_cannon.training.profile.settings import SETTINGS


def solve(
    problem: PixelProblem,
    *,
    theta: np.ndarray | None = None,
    max_memory: float | None = None,
    part_of: int = 0,
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
        Bytes of working memory in addition to the problem and the solution; by default blocks have the fastest size.
    part_of
        Number of pixels of a larger problem that these are a part of, whose blocks are then as large as in that.
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
        part_of=part_of,
        progress=progress,
    )
    return solution


def solve_path(
    problem: PixelProblem,
    regularizations: Sequence[np.ndarray],
    *,
    theta: np.ndarray | None = None,
    max_memory: float | None = None,
    part_of: int = 0,
    progress: Progress | None = None,
) -> list[PixelSolution]:
    """Joint optima at several regularization strengths, from one pass over the data for the Gram matrices.

    Parameters
    ----------
    problem
        As for `solve`; its own regularization does not matter.
    regularizations
        Lambda of every pixel, shape (pixel,), for each point of the path. The search at each starts from the last.
    theta, max_memory, part_of
        As for `solve`.
    progress
        Called with the number of pixels finished, at all strengths.

    Returns
    -------
    solutions
        One for each point of the path, each with its own certificates; with several points the iteration ends
        earlier (`ProfileSettings.path_tolerances`).

    """
    strengths = np.stack([np.broadcast_to(lam, problem.n_pixels) for lam in regularizations])
    n_solvable = max(int(solvable(problem, strengths).sum()), part_of)
    size = _size_within(problem.terms, max(n_solvable, 1), n_nodes(strengths), max_memory)
    # Leaving stragglers of a single block would cost a second one.
    max_unfinished = int(size * SETTINGS.straggler_share) if n_solvable > size else 0
    blocks = BlockSolver(problem, strengths, theta, size=size, max_unfinished=max_unfinished)
    return blocks.solve(progress or (lambda _: None))


def working_memory(terms: Terms, n_nodes: int = SETTINGS.n_nodes) -> tuple[int, int]:
    """Bytes that all blocks share, and upper bound on those for each pixel of a block, with all computed at a time."""
    n_terms, n_moments, rows = terms.n_terms, terms.moments.n_moments, padded_size(terms.n_stars)
    once = SETTINGS.star_arrays * rows + SETTINGS.term_arrays * n_terms**2
    once += (n_nodes + SETTINGS.grid_size // 2 + 2) * n_moments
    return 8 * rows * n_terms + 12 * rows * n_moments, 8 * once * n_blocks()


def _size_within(terms: Terms, n_pixels: int, n_nodes: int, max_memory: float | None) -> int:
    """Number of pixels in a block that runs fast, or that fits into memory with all blocks computed at a time."""
    n_stars, n_terms = terms.n_stars, terms.n_terms
    size = block_size(n_stars, n_terms, n_pixels)
    if max_memory is None:
        return size
    shared, each = working_memory(terms, n_nodes)
    if not shared + each <= number(max_memory):
        raise ValueError(
            f"max_memory is {shown(max_memory)} bytes, but {n_stars} stars, {n_terms} terms and {n_blocks()} blocks "
            f"at a time need at least {shared + each:.3g}"
        )
    return min(size, int((max_memory - shared) // each))
