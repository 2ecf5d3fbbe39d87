"""The training step: from spectra with labels to theta and s^2 of every pixel."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any

import numpy as np

from bayes_cannon.core.scatter import Correlation, Full, Given, Scatter
from bayes_cannon.core.status import PixelStatus
from bayes_cannon.core.typing import Record
from bayes_cannon.core.warnings import BayesCannonWarning
from bayes_cannon.solvers import profile
from bayes_cannon.solvers.covariance import log_likelihoods_full
from bayes_cannon.solvers.factors import SMALLEST_NU, log_likelihoods, posterior_factors, train_factors
from bayes_cannon.solvers.full import train_full
from bayes_cannon.solvers.given import train_given
from bayes_cannon.solvers.marginal import star_precisions
from bayes_cannon.solvers.problem import PixelProblem, PixelSolution, Progress
from bayes_cannon.solvers.scatter import unbiased_scatter
from bayes_cannon.solvers.scipy_lbfgsb import solve_lbfgsb
from bayes_cannon.solvers.scipy_powell import solve_powell

LONE_SHARE = 0.5
"""Share of a latent factor's squares over the training stars above which one star makes it."""
OP_METHODS = ("certified", "l_bfgs_b", "powell")
"""Names of the solvers; None stands for the first."""


class TrainingWarning(BayesCannonWarning):
    """Some pixels have no theta, or one that is not certified."""


def train(
    problem: PixelProblem,
    *,
    exponents: np.ndarray,
    x: np.ndarray,
    op_method: str | None = None,
    op_kwds: Mapping[str, Any] | None = None,
    theta: np.ndarray | None = None,
    s2: np.ndarray | None = None,
    max_memory: float | None = None,
    progress: Progress | None = None,
) -> PixelSolution:
    """Joint optimum over (theta, s2) of every pixel, by the named solver.

    Parameters
    ----------
    problem
        The pixels.
    exponents, x
        Powers of the terms, shape (term, label), and scaled training labels, shape (star, label), that
        `PixelProblem.design` was made from.
    op_method
        ``None`` or ``"certified"``: the package's own (`solvers.profile`); ``"l_bfgs_b"``, ``"powell"``: SciPy's. All
        minimize the same scalar.
    op_kwds
        Keywords of SciPy's ``fmin_l_bfgs_b`` and ``fmin_powell`` under their documented names. The certified solver
        takes none.
    theta, s2
        A previous solution to start from, shape (pixel, term) and (pixel,).
    max_memory
        Bytes of working memory of the certified solver, beside the problem and the solution.
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
    options = dict(op_kwds or {})
    if method == "certified":
        if options:
            raise TypeError(
                f"op_kwds {', '.join(sorted(options))} not known: the certified solver (op_method=None) takes none, it "
                'stops when its certificate is reached. SciPy\'s keywords go with op_method="l_bfgs_b" or "powell"'
            )
        return profile.solve(problem, exponents=exponents, x=x, theta=theta, max_memory=max_memory, progress=progress)
    solve = solve_lbfgsb if method == "l_bfgs_b" else solve_powell
    return solve(problem, theta=theta, s2=s2, options=options, progress=progress)


def train_path(
    problem: PixelProblem,
    lambdas: Sequence[float] | np.ndarray,
    *,
    exponents: np.ndarray,
    x: np.ndarray,
    progress: Progress | None = None,
) -> list[PixelSolution]:
    """Certified optima at several regularization strengths, which share their passes over the data.

    Parameters
    ----------
    problem
        The pixels; its own regularization does not matter.
    lambdas
        The strengths, finite and not negative, shape (strength,). Cheapest in ascending order, as each starts from
        the one before.
    exponents, x
        As for `train`.
    progress
        Called with the number of pixels finished, at all strengths.

    Returns
    -------
    solutions
        One for each strength, in the given order, every pixel with status and certificate.

    Raises
    ------
    ValueError
        If ``lambdas`` is empty, no list of numbers, or one of them is negative or not finite.

    """
    strengths = np.atleast_1d(np.asarray(lambdas, dtype=float))
    if strengths.ndim != 1 or not strengths.size:
        raise ValueError(f"lambdas must be a list of numbers, got shape {strengths.shape}")
    for position, strength in enumerate(strengths):
        if not (np.isfinite(strength) and strength >= 0):
            raise ValueError(f"lambdas must be finite and not negative; got {strength} at position {position}")
    regularizations = [np.full(problem.n_pixels, strength) for strength in strengths]
    return profile.solve_path(problem, regularizations, exponents=exponents, x=x, progress=progress)


@dataclass(frozen=True)
class RegularizationPath:
    """What training at several strengths gave; the first axis of every array is the strength.

    Attributes
    ----------
    lambdas
        The strengths, shape (strength,).
    theta
        Shape (strength, pixel, term).
    s2, objective, duality_gap, profile_gradient, status
        As in `solvers.problem.PixelSolution`, shape (strength, pixel).

    """

    lambdas: np.ndarray
    theta: np.ndarray
    s2: np.ndarray
    objective: np.ndarray
    duality_gap: np.ndarray
    profile_gradient: np.ndarray
    status: np.ndarray

    @classmethod
    def from_solutions(
        cls, lambdas: Sequence[float] | np.ndarray, solutions: Sequence[PixelSolution]
    ) -> "RegularizationPath":
        """Stack what `train_path` returns."""
        names = [field.name for field in fields(cls)][1:]
        stacked = {name: np.stack([getattr(solution, name) for solution in solutions]) for name in names}
        return cls(np.atleast_1d(np.asarray(lambdas, dtype=float)), **stacked)

    @property
    def n_nonzero(self) -> np.ndarray:
        """Number of penalized terms that are not zero, shape (strength, pixel)."""
        return np.count_nonzero(np.nan_to_num(self.theta[..., 1:]), axis=-1)


def check_op_method(op_method: str | None) -> str:
    """Name of the solver; an unknown one is an error that names the nearest."""
    if op_method is None:
        return OP_METHODS[0]
    name = str(op_method).lower()
    if name not in OP_METHODS:
        near = get_close_matches(name, OP_METHODS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"op_method must be None or one of {', '.join(OP_METHODS)}; got {op_method!r}{hint}")
    return name


def train_scatter(
    problem: PixelProblem,
    solution: PixelSolution,
    scatter: Scatter,
    *,
    exponents: np.ndarray,
    x: np.ndarray,
    correlation: Correlation | None = None,
) -> tuple[PixelSolution, Correlation]:
    """Theta, s2 and the correlation of the scatter together, from the optimum of the independent model.

    Parameters
    ----------
    problem
        The pixels.
    solution
        Of the independent model, as `train` returns it.
    scatter
        The family and its settings.
    exponents, x
        As for `train`.
    correlation
        Factors to start from, at most as many as the rank; a full covariance needs none.

    Returns
    -------
    solution
        The joint optimum. Its certificates are those of the whole likelihood: ``duality_gap`` is the square of the
        largest gain that a single coefficient of theta or U would bring, in units of the training scalar; the
        objective of a single pixel is not defined and NaN, and so is the profile gradient.
    correlation
        What was learned of it.

    Raises
    ------
    ValueError
        If there are too few stars or pixels for the rank, or for a full covariance.

    """
    if isinstance(scatter, Full):
        full = train_full(problem, solution.theta, solution.s2, scatter)
        together = _together(solution, full.theta, full.s2, full.gradient**2, full.rounds, full.converged)
        return together, full.correlation
    if isinstance(scatter, Given):
        given = train_given(problem, solution.theta, solution.s2, scatter)
        rounds = len(given.log_likelihood)
        together = _together(solution, given.theta, given.s2, given.gradient**2, rounds, given.converged)
        return together, given.correlation
    if correlation is not None and (correlation.noise is not None or correlation.rank > scatter.rank):
        correlation = None
    fit = train_factors(
        problem,
        solution.theta,
        solution.s2,
        exponents=exponents,
        x=x,
        rank=scatter.rank,
        factors=None if correlation is None else correlation.factors,
        heavy_tails=scatter.heavy_tails,
        tolerance=scatter.tolerance,
    )
    rounds = len(fit.log_likelihood) - 1
    together = _together(solution, fit.theta, fit.s2, fit.gradient**2, rounds, fit.converged)
    return together, Correlation(fit.factors, fit.nu)


def _together(
    solution: PixelSolution, theta: np.ndarray, s2: np.ndarray, gap: np.ndarray, rounds: int, converged: bool
) -> PixelSolution:
    """The solution of the independent model with what was learned from all pixels together."""
    nothing, solved = np.full(len(s2), np.nan), np.isfinite(s2)
    status = np.where(solved & (not converged), PixelStatus.MAX_ITERATIONS, solution.status)
    return replace(
        solution, theta=theta, s2=s2, objective=nothing, duality_gap=gap, profile_gradient=nothing.copy(),
        iterations=np.where(solved, rounds, 0), status=status,
    )  # fmt: skip


def hit_bound(correlation: Correlation) -> bool:
    """Whether the degrees of freedom ended at their lower bound."""
    return correlation.nu <= 1.01 * SMALLEST_NU


def spectrum_log_likelihoods(
    problem: PixelProblem, solution: PixelSolution, correlation: Correlation | None
) -> np.ndarray:
    """Log density of each star's spectrum given its labels, whatever the scatter, shape (star,).

    The stars are those of ``problem``; the same pixels count for every family, so that densities compare.
    """
    spectra = problem.design, problem.flux, problem.ivar
    if correlation is not None and correlation.noise is not None:
        return log_likelihoods_full(*spectra, theta=solution.theta, correlation=correlation)
    used = correlation or Correlation(np.zeros((problem.n_pixels, 1)))
    return log_likelihoods(*spectra, theta=solution.theta, s2=solution.s2, factors=used.factors, nu=used.nu)


def correct_scatter(problem: PixelProblem, solution: PixelSolution) -> PixelSolution:
    """The same theta with the degrees-of-freedom correction of s2 (`solvers.scatter`)."""
    return replace(solution, s2=unbiased_scatter(problem, solution.theta, solution.s2))


def records(solution: PixelSolution, op_method: str | None) -> list[Record]:
    """One record per pixel: what a person or a script wants to know of its training.

    Keys: ``status`` (a `PixelStatus`), ``message``, ``op_method``, ``n_iterations``, ``fopt`` (the training scalar),
    ``duality_gap`` (relative), ``profile_gradient`` and ``optimizer_message`` (SciPy's own words).
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
            "optimizer_message": str(message),
        }
        for status, iterations, objective, gap, gradient, message in zip(
            solution.status,
            solution.iterations,
            solution.objective,
            solution.duality_gap,
            solution.profile_gradient,
            solution.messages,
            strict=True,
        )
    ]


def warn_of_failures(solution: PixelSolution) -> None:
    """One warning that counts the pixels of each status that a person should look at."""
    expected = (PixelStatus.CONVERGED, PixelStatus.ZERO_SCATTER, PixelStatus.NO_INFORMATION)
    for status in PixelStatus:
        pixels = np.flatnonzero(solution.status == status)
        if status not in expected and len(pixels):
            warnings.warn(
                f"{len(pixels)} of {len(solution.status)} pixels, the first is pixel {pixels[0]}: {status.message}",
                TrainingWarning,
                stacklevel=3,
            )


def warn_of_lone_stars(problem: PixelProblem, solution: PixelSolution, correlation: Correlation | None) -> None:
    """A warning that names the stars each of which alone makes a latent factor."""
    if correlation is None or correlation.noise is not None:
        return
    z = posterior_factors(
        problem.design, problem.flux, problem.ivar, theta=solution.theta, s2=solution.s2, factors=correlation.factors
    )
    # With heavy tails the factors of a star are as wide as its tau says.
    weights = star_precisions(problem, solution.theta, solution.s2, correlation)
    square = z**2 if weights is None else weights[:, None] * z**2
    share = square / np.maximum(square.sum(axis=0), np.finfo(float).tiny)
    lone = np.argwhere((share > LONE_SHARE).T)
    if len(lone) and len(z) > 2 / LONE_SHARE:
        named = ", ".join(f"factor {factor} by star {star}" for factor, star in lone[:5])
        warnings.warn(
            f"{len(lone)} of {correlation.rank} latent factors come from one star each: {named}. Leave bad stars out, "
            "or use heavy_tails=True",
            TrainingWarning,
            stacklevel=3,
        )


def warn_of_tails(correlation: Correlation | None) -> None:
    """A warning where heavy tails are none."""
    if correlation is not None and hit_bound(correlation):
        warnings.warn(
            f"the degrees of freedom ended at their lower bound, {SMALLEST_NU}: the spread in scale between the stars "
            "is no heavy tail but wrong noise. Scale ivar, raise the rank or leave heavy_tails out",
            TrainingWarning,
            stacklevel=3,
        )
