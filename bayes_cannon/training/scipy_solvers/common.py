r"""Common parts of SciPy's optimizers: the problem of one pixel in NumPy, the starts, and the loop over pixels.

Stars with ``ivar = 0`` and terms that cannot vary are taken out first. The optimizers then see scaled variables: theta
in units of ``1 / sqrt(sum w v_d^2)``, and in place of s2

.. math:: t = \ln(1 + s^2 / \sigma_0^2), \qquad t \ge 0,

with :math:`\sigma_0^2` the median noise variance. In t the scalar is nearly convex from the noise up to any scatter,
and s2 = 0 is not a special point. The profile over s2 can still have several minima (with a large Lambda: all terms
shrunk and a large s2, or a full fit and a small one). Descents therefore start from the lowest minima of a coarse table
of the profile, and from the previous solution if there is one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

import numpy as np

from bayes_cannon.core.arguments import number, shown
from bayes_cannon.core.status import PixelStatus
from bayes_cannon.training.certificate import certify
from bayes_cannon.training.problem import PixelProblem, PixelSolution, Progress


@dataclass(frozen=True)
class ScipySettings:
    """Settings around SciPy's optimizers, whose own are the user's ``op_kwds``."""

    max_t: float = 100.0
    """Upper end of t: s2 of 1e43 noise variances, for which exp does not overflow yet."""
    grid_size: int = 12
    """Positive values of s2 in the table of the profile."""
    sweeps: int = 20
    """Sweeps of coordinate descent at each of them."""
    max_starts: int = 3
    """Minima of the table from which descents start."""
    rank_tolerance: float = 1e-10
    """Relative singular value below which terms count as linearly dependent."""
    optimal_gap: float = 1e-6
    """A pixel whose line search failed counts as converged if its duality gap is smaller than this, ..."""
    optimal_gradient: float = 1e-4
    """... and its profile gradient than this."""
    lbfgsb_max_runs: int = 10
    """Runs of L-BFGS-B from one start, each with an empty memory."""
    lbfgsb_min_gain: float = 1e-12
    """They end when a run lowers the scalar by less than this, relatively."""
    powell_min_gain: float = 1e-3
    """Runs of Powell's method end when two in a row lower the scalar by less than this times ``ftol``, relatively."""
    powell_snap_distance: float = 1e-3
    """Distance of a scaled coefficient from a kink or a bound within which it is tried there."""


SETTINGS = ScipySettings()


@dataclass(frozen=True)
class Pixel:
    """The free part of one pixel's problem: F terms that may vary, N stars with a positive ivar.

    Attributes
    ----------
    design
        Shape (star, term).
    target
        Flux without the contribution of the fixed terms, shape (star,).
    noise
        Noise variance ``1 / ivar``, shape (star,).
    typical_noise
        Its median, ``sigma_0^2``.
    penalty
        Lambda of each term, 0 for the constant, shape (term,).
    lower, upper
        Bounds, shape (term,).
    scale
        ``sqrt(sum v_d^2 / (sigma^2 + sigma_0^2 + s^2))`` at the s2 of the start, shape (term,).
    free
        Which of all D terms the F are, shape (D,).

    """

    design: np.ndarray
    target: np.ndarray
    noise: np.ndarray
    typical_noise: float
    penalty: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    scale: np.ndarray
    free: np.ndarray

    def value(self, theta: np.ndarray, s2: float) -> float:
        """Training scalar without the penalty of the fixed terms."""
        variance = self.noise + s2
        residual = self.target - self.design @ theta
        return float(
            np.sum(residual * residual / variance) + np.sum(np.log(variance)) + np.dot(self.penalty, np.abs(theta))
        )

    def smooth_gradient(self, theta: np.ndarray, s2: float) -> tuple[float, np.ndarray, float]:
        """Training scalar without the penalty, its gradient by theta, shape (term,), and derivative by s2."""
        variance = self.noise + s2
        residual = self.target - self.design @ theta
        weighted = residual / variance
        value = np.dot(residual, weighted) + np.sum(np.log(variance))
        return float(value), -2 * (weighted @ self.design), float(np.sum(1 / variance) - np.dot(weighted, weighted))

    def scaled_for(self, s2: float) -> "Pixel":
        """The same pixel, with the scales for a start at s2."""
        squares = np.sum(self.design**2 / (self.noise + self.typical_noise + s2)[:, None], axis=0)
        return replace(self, scale=np.sqrt(np.where(squares > 0, squares, 1.0)))

    def to_t(self, s2: float) -> float:
        """Scaled t: times the square root of the number of stars, which makes its curvature about 1."""
        return float(np.minimum(np.log1p(s2 / self.typical_noise), SETTINGS.max_t) * np.sqrt(len(self.noise)))

    def from_t(self, t: float) -> float:
        """Inverse of `to_t`."""
        return float(self.typical_noise * np.expm1(min(t / np.sqrt(len(self.noise)), SETTINGS.max_t)))


@dataclass(frozen=True)
class Outcome:
    """Where one descent ended: the point, and SciPy's iterations, status and message."""

    theta: np.ndarray
    s2: float
    value: float
    iterations: int
    status: PixelStatus
    message: str


Descent = Callable[[Pixel, np.ndarray, float], Outcome]
"""A local minimization over theta and s2 from a start that lies within the bounds."""


def solve_each(
    problem: PixelProblem,
    descend: Descent,
    *,
    theta: np.ndarray | None,
    s2: np.ndarray | None,
    progress: Progress | None,
) -> PixelSolution:
    """Lowest outcome over the starts of every pixel, with its certificate.

    Parameters
    ----------
    problem
        The pixels.
    descend
        The local minimization.
    theta, s2
        Previous solution, shape (pixel, term) and (pixel,); rows that are not finite are ignored.
    progress
        Called with 1 after each pixel.

    """
    n_pixels, n_terms = problem.lower.shape
    solution = PixelSolution.empty(n_pixels, n_terms)
    solution.status[:] = problem.unsolvable()
    for j in range(n_pixels):
        if solution.status[j] == PixelStatus.CONVERGED:
            pixel = _one_pixel(problem, j)
            free = problem.free[j]
            starts = _starting_points(pixel)
            if theta is not None and np.isfinite(theta[j]).all():
                starts.append(_previous(pixel, theta[j, free], np.nan if s2 is None else float(s2[j])))
            ends = [descend(pixel.scaled_for(scatter), at, scatter) for at, scatter in starts]
            best = min(ends, key=lambda end: end.value)
            solution.theta[j] = np.where(free, 0.0, problem.lower[j])
            solution.theta[j, free] = best.theta
            solution.s2[j] = best.s2
            solution.iterations[j] = best.iterations
            solution.messages[j] = best.message
            solution.status[j] = _status(pixel, best)
        if progress is not None:
            progress(1)
    for field, values in zip(
        ("objective", "duality_gap", "profile_gradient"), certify(problem, solution.theta, solution.s2), strict=True
    ):
        getattr(solution, field)[:] = values
    _forgive_round_off(solution)
    return solution


def checked_options(
    method: str, options: Mapping[str, Any] | None, defaults: Mapping[str, Any], ignored: Mapping[str, str]
) -> dict[str, Any]:
    """The defaults, updated by the options except those that have no effect.

    Raises
    ------
    TypeError
        For a keyword that is neither in the defaults nor among the ignored ones.

    """
    known = sorted({*defaults, *ignored})
    for name, value in (options or {}).items():
        if isinstance(defaults.get(name), int | float) and np.isnan(number(value)) and not isinstance(value, bool):
            raise ValueError(f"{name} in op_kwds of {method!r} must be a number, got {shown(value)}")
        if name not in known:
            nearest = get_close_matches(name, known, n=1)
            hint = f" (the nearest known is {nearest[0]!r})" if nearest else ""
            raise TypeError(f"unknown keyword {name!r} in op_kwds of {method!r}{hint}. Known are {', '.join(known)}")
    return {**defaults, **{name: value for name, value in (options or {}).items() if name in defaults}}


def _one_pixel(problem: PixelProblem, j: int) -> Pixel:
    known, free = problem.ivar[:, j] > 0, problem.free[j]
    design = problem.design[known]
    noise = 1 / problem.ivar[known, j]
    pixel = Pixel(
        design=np.ascontiguousarray(design[:, free]),
        target=problem.flux[known, j] - design[:, ~free] @ problem.lower[j, ~free],
        noise=noise,
        typical_noise=float(np.median(noise)),
        penalty=(problem.regularization[j] * (np.arange(len(free)) > 0))[free],
        lower=problem.lower[j, free],
        upper=problem.upper[j, free],
        scale=np.ones(free.sum()),
        free=free,
    )
    return pixel.scaled_for(0.0)


def _starting_points(pixel: Pixel) -> list[tuple[np.ndarray, float]]:
    """Lowest minima of the profile on a coarse grid of s2: from no scatter to all of the flux's variance."""
    null = np.clip(np.zeros(len(pixel.lower)), pixel.lower, pixel.upper)
    spread = max(float(np.var(pixel.target - pixel.design @ null)), pixel.typical_noise)
    grid = np.concatenate([[0.0], np.geomspace(0.03 * pixel.typical_noise, spread, SETTINGS.grid_size)])
    theta = np.clip(_least_squares(pixel)[0], pixel.lower, pixel.upper)
    table = []
    for s2 in grid:
        theta = _coordinate_descent(pixel, theta, s2)
        table.append(theta)
    values = np.array([pixel.value(theta, s2) for theta, s2 in zip(table, grid, strict=True)])
    padded = np.concatenate([[np.inf], values, [np.inf]])
    minima = np.flatnonzero((values <= padded[:-2]) & (values <= padded[2:]))
    lowest = minima[np.argsort(values[minima])][: SETTINGS.max_starts]
    return [(table[k], float(grid[k])) for k in lowest]


def _least_squares(pixel: Pixel) -> tuple[np.ndarray, int]:
    """Weighted least squares without penalty and bounds at a typical s2, and the rank of the terms."""
    root = 1 / np.sqrt(pixel.noise + pixel.typical_noise)
    scaled = root[:, None] * pixel.design / pixel.scale
    theta, _, rank, _ = np.linalg.lstsq(scaled, root * pixel.target, rcond=SETTINGS.rank_tolerance)
    return theta / pixel.scale, int(rank)


def _coordinate_descent(pixel: Pixel, theta: np.ndarray, s2: float) -> np.ndarray:
    """A few sweeps over the terms at fixed s2, as a start."""
    weighted = pixel.design / (pixel.noise + s2)[:, None]
    gram, projected = weighted.T @ pixel.design, weighted.T @ pixel.target
    theta = theta.copy()
    for _ in range(SETTINGS.sweeps):
        for d in np.flatnonzero(np.diagonal(gram) > 0):
            z = projected[d] - gram[d] @ theta + gram[d, d] * theta[d]
            shrunk = np.sign(z) * max(abs(z) - pixel.penalty[d] / 2, 0.0) / gram[d, d]
            theta[d] = min(max(shrunk, pixel.lower[d]), pixel.upper[d])
    return theta


def _previous(pixel: Pixel, theta: np.ndarray, s2: float) -> tuple[np.ndarray, float]:
    theta = np.clip(theta, pixel.lower, pixel.upper)
    if not (np.isfinite(s2) and s2 >= 0):
        s2 = max(float(np.mean((pixel.target - pixel.design @ theta) ** 2 - pixel.noise)), 0.0)
    return theta, s2


def _status(pixel: Pixel, best: Outcome) -> PixelStatus:
    if best.status != PixelStatus.CONVERGED:
        return best.status
    if not pixel.penalty.any() and _least_squares(pixel)[1] < len(pixel.scale):
        return PixelStatus.DEGENERATE
    return PixelStatus.ZERO_SCATTER if best.s2 == 0 else PixelStatus.CONVERGED


def _forgive_round_off(solution: PixelSolution) -> None:
    """A line search that finds nothing lower did not fail if the certificate shows that nothing is lower."""
    gradient = np.where(solution.s2 > 0, np.abs(solution.profile_gradient), -solution.profile_gradient)
    optimal = (solution.duality_gap < SETTINGS.optimal_gap) & (gradient < SETTINGS.optimal_gradient)
    forgiven = (solution.status == PixelStatus.FAILED) & optimal
    solution.status[forgiven & (solution.s2 > 0)] = PixelStatus.CONVERGED
    solution.status[forgiven & (solution.s2 == 0)] = PixelStatus.ZERO_SCATTER
