r"""SciPy's L-BFGS-B on the split form, in which the penalty is smooth and zeros are exact.

A penalized term is the difference :math:`\theta_d = p_d - q_d` of two variables with :math:`p_d, q_d \ge 0`, and its
penalty is :math:`\Lambda (p_d + q_d)`. A term whose bounds exclude one sign needs one variable only. Bounds on theta
are bounds on p and q, and s2 >= 0 is a bound on its variable, so that all of them are held exactly.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from bayes_cannon.core.status import PixelStatus
from bayes_cannon.training.problem import PixelProblem, PixelSolution, Progress
from bayes_cannon.training.scipy_solvers.common import SETTINGS, Outcome, Pixel, checked_options, solve_each

_DEFAULTS: dict[str, Any] = {
    "m": 20,
    "factr": 10.0,
    "pgtol": 1e-6,
    "maxfun": 100_000,
    "maxiter": 100_000,
    "maxls": 50,
    "callback": None,
}
_IGNORED = {
    "epsilon": "the gradient is analytic",
    "iprint": "SciPy removed it",
    "disp": "SciPy removed it",
}


def solve_lbfgsb(
    problem: PixelProblem,
    *,
    theta: np.ndarray | None = None,
    s2: np.ndarray | None = None,
    options: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> PixelSolution:
    """Minimize the training scalar over theta and s2 of each pixel with L-BFGS-B (Byrd et al. 1995).

    Each descent is run again from where it ended, with an empty memory, until a run gains nothing. The lowest end of
    all starts is returned.

    Parameters
    ----------
    problem
        The pixels.
    theta, s2
        A previous solution to start from as well, shape (pixel, term) and (pixel,); rows that are not finite are
        ignored.
    options
        Keywords of `scipy.optimize.fmin_l_bfgs_b`: ``m``, ``factr``, ``pgtol``, ``maxfun``, ``maxiter``, ``maxls`` and
        ``callback``. The limits apply to each start. ``pgtol`` is compared with the gradient by the scaled variables.
        ``callback`` is passed all terms that may vary, then s2, in their own units. ``epsilon`` has no effect, because
        the gradient is analytic; neither have ``iprint`` and ``disp``, because SciPy no longer prints.
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

    """
    known = checked_options("l_bfgs_b", options, _DEFAULTS, _IGNORED)

    def descend(pixel: Pixel, theta: np.ndarray, s2: float) -> Outcome:
        return _descend(pixel, theta, s2, known)

    return solve_each(problem, descend, theta=theta, s2=s2, progress=progress)


@dataclass(frozen=True)
class _Split:
    """The variables p and q of the terms, one row a variable; ``theta_d`` is the sum of ``sign * x / scale``.

    All arrays have shape (variable,): the term's index, the sign, the scale, the bounds of the scaled variable and the
    derivative of its penalty.
    """

    term: np.ndarray
    sign: np.ndarray
    scale: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    cost: np.ndarray

    @classmethod
    def of(cls, pixel: Pixel) -> "_Split":
        """One variable for a term without penalty or of one sign, two for the others."""
        rows = []
        for d, (penalty, lower, upper) in enumerate(zip(pixel.penalty, pixel.lower, pixel.upper, strict=True)):
            if penalty == 0 or lower >= 0:
                rows.append((d, 1.0, lower, upper))
            elif upper <= 0:
                rows.append((d, -1.0, -upper, -lower))
            else:
                rows += [(d, 1.0, 0.0, upper), (d, -1.0, 0.0, -lower)]
        table = np.array(rows, dtype=float).reshape(-1, 4)
        term = table[:, 0].astype(int)
        scale = pixel.scale[term]
        return cls(term, table[:, 1], scale, table[:, 2] * scale, table[:, 3] * scale, pixel.penalty[term] / scale)

    def theta(self, x: np.ndarray, n_terms: int) -> np.ndarray:
        """Coefficients of scaled variables, shape (term,)."""
        return np.bincount(self.term, weights=self.sign * x / self.scale, minlength=n_terms)

    def variables(self, theta: np.ndarray) -> np.ndarray:
        """Scaled variables of coefficients: the positive part in p, the negative one in q."""
        return np.clip(self.sign * theta[self.term] * self.scale, self.lower, self.upper)


def _descend(pixel: Pixel, theta: np.ndarray, s2: float, options: dict[str, Any]) -> Outcome:
    split = _Split.of(pixel)
    n_terms = len(theta)

    def unpacked(x: np.ndarray) -> tuple[np.ndarray, float]:
        return split.theta(x[:-1], n_terms), pixel.from_t(x[-1])

    from scipy.optimize import fmin_l_bfgs_b  # Takes half a second, which only its users should wait for.

    def scalar(x: np.ndarray) -> tuple[float, np.ndarray]:
        theta, s2 = unpacked(x)
        value, by_theta, by_s2 = pixel.smooth_gradient(theta, s2)
        by_t = by_s2 * (pixel.typical_noise + s2) / np.sqrt(len(pixel.noise))
        by_x = split.sign * by_theta[split.term] / split.scale + split.cost
        return value + np.dot(split.cost, x[:-1]), np.append(by_x, by_t)

    callback = options["callback"]
    report = None if callback is None else lambda x: callback(np.append(*unpacked(x)))
    limits = [*zip(split.lower, split.upper, strict=True), (0.0, pixel.to_t(np.inf))]
    left = {name: options[name] for name in ("maxiter", "maxfun")}
    value, iterations = pixel.value(theta, s2), 0
    for _ in range(SETTINGS.lbfgsb_max_runs):
        x, _, info = fmin_l_bfgs_b(
            scalar,
            np.append(split.variables(theta), pixel.to_t(s2)),
            bounds=limits,
            **{**options, **left, "callback": report},
        )
        iterations += info["nit"]
        left = {"maxiter": left["maxiter"] - info["nit"], "maxfun": left["maxfun"] - info["funcalls"]}
        new_theta, new_s2 = unpacked(x)
        gain = value - pixel.value(new_theta, new_s2)
        if gain > 0:
            theta, s2, value = new_theta, new_s2, value - gain
        if info["warnflag"] == 1 or gain <= SETTINGS.lbfgsb_min_gain * abs(value):
            break
    status = {0: PixelStatus.CONVERGED, 1: PixelStatus.MAX_ITERATIONS}.get(info["warnflag"], PixelStatus.FAILED)
    return Outcome(theta, s2, value, iterations, status, str(info["task"]))
