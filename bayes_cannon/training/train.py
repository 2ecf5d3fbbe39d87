"""The training step: from spectra with labels to theta and s^2 of every pixel."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any

import numpy as np

from bayes_cannon.core.arguments import mapping
from bayes_cannon.core.intake import real_numbers
from bayes_cannon.core.status import PixelStatus
from bayes_cannon.core.typing import Record
from bayes_cannon.core.warnings import BayesCannonWarning
from bayes_cannon.training.problem import PixelProblem, PixelSolution, Progress
from bayes_cannon.training.profile import solver as profile
from bayes_cannon.training.reml import unbiased_scatter
from bayes_cannon.training.scipy_solvers.lbfgsb import solve_lbfgsb
from bayes_cannon.training.scipy_solvers.powell import solve_powell

OP_METHODS = ("certified", "l_bfgs_b", "powell")
"""Names of the solvers; None stands for the first."""


class TrainingWarning(BayesCannonWarning):
    """Some pixels have no solution, or one that is not certified."""


def train(
    problem: PixelProblem,
    *,
    op_method: str | None = None,
    op_kwds: Mapping[str, Any] | None = None,
    theta: np.ndarray | None = None,
    s2: np.ndarray | None = None,
    max_memory: float | None = None,
    part_of: int = 0,
    progress: Progress | None = None,
) -> PixelSolution:
    """Joint optimum over (theta, s2) of every pixel, by the named solver.

    Parameters
    ----------
    problem
        The pixels.
    op_method
        ``None`` or ``"certified"``: the package's own (`training.profile.solver`); ``"l_bfgs_b"``, ``"powell"``:
        SciPy's. All minimize the same scalar.
    op_kwds
        Keywords of SciPy's ``fmin_l_bfgs_b`` and ``fmin_powell`` under their documented names. The certified solver
        takes none.
    theta, s2
        A previous solution to start from, shape (pixel, term) and (pixel,).
    max_memory
        Bytes of working memory of the certified solver, in addition to the problem and the solution.
    part_of
        Number of pixels of a larger problem that these are a part of: where they are whole blocks of it
        (`training.profile.blocks.block_size`) the certified solver finds the same bits as in that.
    progress
        Called with the number of pixels finished.

    Returns
    -------
    solution
        With status and certificate of every pixel.

    Raises
    ------
    ValueError
        For an unknown method, naming the known ones, and for too little memory, naming the least.
    TypeError
        For a keyword that the method does not know.

    """
    method = check_op_method(op_method)
    options = {str(name): value for name, value in mapping(op_kwds, "op_kwds", "keywords to values").items()}
    if method == "certified":
        if options:
            raise TypeError(
                f"op_kwds {', '.join(sorted(options))} not known: the certified solver (op_method=None) takes none, it "
                'stops when its certificate is reached. SciPy\'s keywords go with op_method="l_bfgs_b" or "powell"'
            )
        return profile.solve(problem, theta=theta, max_memory=max_memory, part_of=part_of, progress=progress)
    solve = solve_lbfgsb if method == "l_bfgs_b" else solve_powell
    return solve(problem, theta=theta, s2=s2, options=options, progress=progress)


def train_path(
    problem: PixelProblem,
    lambdas: Sequence[float] | np.ndarray,
    *,
    progress: Progress | None = None,
) -> list[PixelSolution]:
    """Certified optima at several regularization strengths, for less than training at each.

    Parameters
    ----------
    problem
        The pixels; its own regularization does not matter.
    lambdas
        The strengths, finite and not negative, shape (strength,). Ascending order is cheapest, because each search
        starts from the optimum before.
    progress
        Called with the number of pixels finished, at all strengths.

    Returns
    -------
    solutions
        One for each strength, in the given order, with status and certificate of every pixel.

    Raises
    ------
    ValueError
        If ``lambdas`` is empty or not a list of numbers, or one of them is negative or not finite.

    """
    strengths = np.atleast_1d(real_numbers(lambdas, "lambdas"))
    if strengths.ndim != 1 or not strengths.size:
        raise ValueError(f"lambdas must be a list of numbers, got shape {strengths.shape}")
    for position, strength in enumerate(strengths):
        if not (np.isfinite(strength) and strength >= 0):
            raise ValueError(f"lambdas must be finite and not negative; got {strength} at position {position}")
    regularizations = [np.full(problem.n_pixels, strength) for strength in strengths]
    return profile.solve_path(problem, regularizations, progress=progress)


@dataclass(frozen=True)
class RegularizationPath:
    """The solutions at several strengths; the first axis of every array is the strength.

    Attributes
    ----------
    lambdas
        The strengths, shape (strength,).
    theta
        Shape (strength, pixel, term).
    s2, objective, duality_gap, profile_gradient, n_minima, margin, status
        As in `training.problem.PixelSolution`, shape (strength, pixel).

    """

    lambdas: np.ndarray
    theta: np.ndarray
    s2: np.ndarray
    objective: np.ndarray
    duality_gap: np.ndarray
    profile_gradient: np.ndarray
    n_minima: np.ndarray
    margin: np.ndarray
    status: np.ndarray

    @classmethod
    def from_solutions(
        cls, lambdas: Sequence[float] | np.ndarray, solutions: Sequence[PixelSolution]
    ) -> "RegularizationPath":
        """Stack the solutions of `train_path`."""
        names = [field.name for field in fields(cls)][1:]
        stacked = {name: np.stack([getattr(solution, name) for solution in solutions]) for name in names}
        return cls(np.atleast_1d(np.asarray(lambdas, dtype=float)), **stacked)

    @property
    def n_nonzero(self) -> np.ndarray:
        """Number of penalized terms that are not zero, shape (strength, pixel)."""
        return np.count_nonzero(np.nan_to_num(self.theta[..., 1:]), axis=-1)


def check_op_method(op_method: str | None) -> str:
    """Name of the solver. Raises ValueError for an unknown one, with the nearest known name."""
    if op_method is None:
        return OP_METHODS[0]
    name = str(op_method).lower()
    if name not in OP_METHODS:
        near = get_close_matches(name, OP_METHODS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"op_method must be None or one of {', '.join(OP_METHODS)}; got {op_method!r}{hint}")
    return name


def correct_scatter(problem: PixelProblem, solution: PixelSolution) -> PixelSolution:
    """The same theta with the degrees-of-freedom correction of s2 (`training.reml`)."""
    return replace(solution, s2=unbiased_scatter(problem, solution.theta, solution.s2))


def records(solution: PixelSolution, op_method: str | None) -> list[Record]:
    """One record of the training of each pixel.

    Keys: ``status`` (a `PixelStatus`), ``message``, ``op_method``, ``n_iterations``, ``fopt`` (the training scalar),
    ``duality_gap`` (relative), ``profile_gradient``, ``n_minima``, ``margin`` and ``optimizer_message`` (that of
    SciPy).
    """
    method = check_op_method(op_method)
    return [
        {
            "status": PixelStatus(status),
            "message": PixelStatus(status).message,
            "op_method": method,
            "n_iterations": int(iterations),
            "fopt": float(objective),
            "duality_gap": float(gap),
            "profile_gradient": float(gradient),
            "n_minima": int(n_minima),
            "margin": float(margin),
            "optimizer_message": str(message),
        }
        for status, iterations, objective, gap, gradient, n_minima, margin, message in zip(
            solution.status,
            solution.iterations,
            solution.objective,
            solution.duality_gap,
            solution.profile_gradient,
            solution.n_minima,
            solution.margin,
            solution.messages,
            strict=True,
        )
    ]


def warn_of_failures(solution: PixelSolution) -> None:
    """Warn of each status that needs attention, with the number of its pixels and the first of them."""
    expected = (PixelStatus.CONVERGED, PixelStatus.ZERO_SCATTER, PixelStatus.NO_INFORMATION)
    for status in PixelStatus:
        pixels = np.flatnonzero(solution.status == status)
        if status not in expected and len(pixels):
            warnings.warn(
                f"{len(pixels)} of {len(solution.status)} pixels, the first is pixel {pixels[0]}: {status.message}",
                TrainingWarning,
                stacklevel=3,
            )
