r"""SciPy's Powell, a direction-set method without derivatives.

The scalar has a kink wherever a penalized term is zero. A line search along a single term crosses it, but one along a
mixture of terms may stall there, as may the directions that Powell's method builds. The method is therefore run again
from where it ended, alternately along the terms themselves and, for terms away from their kink, along directions that
are conjugate in the Gram matrix, until neither gains anything. Bounds, including s2 = 0, act as mirrors, because
SciPy's bounded line search can end higher than it began and never reaches a bound. Between two runs, terms and s2 near
a kink or a bound are set to it exactly where that does not raise the scalar.
"""

from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from bayes_cannon.core.status import PixelStatus
from bayes_cannon.training.problem import PixelProblem, PixelSolution, Progress
from bayes_cannon.training.scipy_solvers.common import SETTINGS, Outcome, Pixel, checked_options, solve_each

if TYPE_CHECKING:
    from scipy.optimize import OptimizeResult

_DEFAULTS: dict[str, Any] = {
    "xtol": 1e-6,
    "ftol": 1e-6,
    "maxiter": 100_000,
    "maxfun": 1_000_000,
    "disp": False,
    "callback": None,
    "direc": None,
}
_IGNORED = {
    "full_output": "everything is returned anyway",
    "retall": "the points on the way are not kept; a callback sees them",
}


def solve_powell(
    problem: PixelProblem,
    *,
    theta: np.ndarray | None = None,
    s2: np.ndarray | None = None,
    options: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> PixelSolution:
    """Minimize the training scalar over theta and s2 of each pixel with Powell's method (Powell 1964).

    Parameters
    ----------
    problem
        The pixels.
    theta, s2
        A previous solution to start from as well, shape (pixel, term) and (pixel,); rows that are not finite are
        ignored.
    options
        Keywords of `scipy.optimize.fmin_powell`: ``xtol``, ``ftol``, ``maxiter``, ``maxfun``, ``disp``, ``callback``
        and ``direc``. The limits apply to each start. Runs are repeated until two in a row gain less than a thousandth
        of ``ftol``. ``direc`` are the directions of the first run, shape (term + 1, term + 1), one a row, in theta
        and in the variable t of s2 (see `common`); rows and columns of fixed terms are ignored. ``callback`` is passed
        all terms that may vary, then s2. ``full_output`` and ``retall`` have no effect.
    progress
        Called with 1 after each pixel.

    Returns
    -------
    solution
        With SciPy's messages, and the iterations of the start that led to it.

    Raises
    ------
    TypeError
        For an unknown keyword.
    ValueError
        If ``direc`` has another shape.

    """
    known = checked_options("powell", options, _DEFAULTS, _IGNORED)
    size = problem.design.shape[1] + 1
    if known["direc"] is not None and np.shape(known["direc"]) != (size, size):
        raise ValueError(
            f"direc must have shape ({size}, {size}), one direction a row over all terms and s2; "
            f"got {np.shape(known['direc'])}"
        )

    def descend(pixel: Pixel, theta: np.ndarray, s2: float) -> Outcome:
        return _descend(pixel, theta, s2, known)

    return solve_each(problem, descend, theta=theta, s2=s2, progress=progress)


def _descend(pixel: Pixel, theta: np.ndarray, s2: float, options: dict[str, Any]) -> Outcome:
    value, iterations, evaluations, idle = pixel.value(theta, s2), 0, 0, 0
    for run in count():
        left = {"maxiter": options["maxiter"] - iterations, "maxfev": options["maxfun"] - evaluations}
        directions = _conjugate(pixel, theta, s2) if run % 2 else np.eye(len(theta) + 1)
        if run == 0 and options["direc"] is not None:
            directions = _in_scaled_variables(pixel, np.asarray(options["direc"], dtype=float))
        found = _run(pixel, theta, s2, directions, {**options, **left})
        iterations, evaluations = iterations + found.nit, evaluations + found.nfev
        new_theta, new_s2, new_value = _snapped(pixel, *_unpacked(pixel, found.x))
        gain = value - new_value
        if gain > 0:
            theta, s2, value = new_theta, new_s2, new_value
        idle = idle + 1 if gain <= SETTINGS.powell_min_gain * options["ftol"] * abs(value) else 0
        if idle == 2 or not found.success:
            break
    status = {0: PixelStatus.CONVERGED, 1: PixelStatus.MAX_ITERATIONS, 2: PixelStatus.MAX_ITERATIONS}
    return Outcome(theta, s2, value, iterations, status.get(found.status, PixelStatus.FAILED), str(found.message))


def _run(
    pixel: Pixel, theta: np.ndarray, s2: float, directions: np.ndarray, options: dict[str, Any]
) -> "OptimizeResult":
    from scipy.optimize import minimize  # Takes half a second, which only its users should wait for.

    callback = options["callback"]
    return minimize(
        lambda x: pixel.value(*_unpacked(pixel, x)),
        np.append(theta * pixel.scale, pixel.to_t(s2)),
        method="Powell",
        callback=None if callback is None else lambda x: callback(np.append(*_unpacked(pixel, x))),
        options={
            **{name: options[name] for name in ("xtol", "ftol", "maxiter", "maxfev", "disp")},
            "direc": directions,
        },
    )


def _unpacked(pixel: Pixel, x: np.ndarray) -> tuple[np.ndarray, float]:
    return _folded(x[:-1] / pixel.scale, pixel.lower, pixel.upper), pixel.from_t(abs(x[-1]))


def _folded(theta: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Coefficients mirrored at their bounds, so that a line search may leave them and every value is within."""
    if ((theta >= lower) & (theta <= upper)).all():
        return theta
    with np.errstate(invalid="ignore"):
        width = upper - lower
        beyond = np.where(np.isfinite(width), np.mod(theta - lower, 2 * width), 0.0)
        both = lower + np.minimum(beyond, 2 * width - beyond)
        one = np.where(np.isfinite(lower), lower + np.abs(theta - lower), upper - np.abs(theta - upper))
    folded = np.where(np.isfinite(width), both, np.where(np.isfinite(lower) | np.isfinite(upper), one, theta))
    return np.clip(folded, lower, upper)


def _in_scaled_variables(pixel: Pixel, directions: np.ndarray) -> np.ndarray:
    kept = np.append(pixel.free, True)
    return directions[np.ix_(kept, kept)] * np.append(pixel.scale, np.sqrt(len(pixel.noise)))


def _conjugate(pixel: Pixel, theta: np.ndarray, s2: float) -> np.ndarray:
    """Directions, one a row: conjugate in the Gram matrix for terms away from kinks and bounds, axes for the others."""
    at_kink = (pixel.penalty > 0) & (theta == 0)
    smooth = np.flatnonzero(~at_kink & (theta > pixel.lower) & (theta < pixel.upper))
    directions = np.eye(len(theta) + 1)
    scaled = pixel.design[:, smooth] / pixel.scale[smooth]
    gram = scaled.T @ (scaled / (pixel.noise + s2)[:, None])
    curvature, vectors = np.linalg.eigh(gram)
    length = 1 / np.sqrt(np.maximum(curvature, 1e-12 * max(curvature.max(initial=0.0), 1e-300)))
    directions[np.ix_(smooth, smooth)] = (vectors * length).T
    return directions


def _snapped(pixel: Pixel, theta: np.ndarray, s2: float) -> tuple[np.ndarray, float, float]:
    """The point with terms at exactly zero or a bound, and s2 at zero, wherever that does not raise the scalar."""
    theta, value = theta.copy(), pixel.value(theta, s2)
    for d in np.argsort(np.abs(theta * pixel.scale)):
        kink = min(max(0.0, pixel.lower[d]), pixel.upper[d]) if pixel.penalty[d] > 0 else np.inf
        for end in (kink, pixel.lower[d], pixel.upper[d]):
            if (
                0
                < abs(theta[d] - end) * pixel.scale[d]
                < SETTINGS.powell_snap_distance * max(1.0, abs(end) * pixel.scale[d])
            ):
                trial = np.where(np.arange(len(theta)) == d, end, theta)
                if (at_trial := pixel.value(trial, s2)) <= value:
                    theta, value = trial, at_trial
    if s2 > 0 and (at_zero := pixel.value(theta, 0.0)) <= value:
        s2, value = 0.0, at_zero
    return theta, s2, value
