"""The optimum of one pixel by brute force, from parts that the package does not use.

The profile over s2 is tabulated on a fine grid, zero included, with scikit-learn's lasso (or NumPy's least squares) at
every step, and refined around its lowest minima. Slow on purpose: about a third of a second a pixel.
"""

import warnings

import numpy as np
from scipy.optimize import lsq_linear, minimize_scalar
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Lasso

from bayes_cannon.training.problem import PixelProblem


def brute_force(problem: PixelProblem, pixel: int, *, n_grid: int = 80) -> tuple[float, np.ndarray, float]:
    """Lowest training scalar of one pixel, to about 1e-11 relative, and where it is.

    Terms with equal bounds (censored ones) are kept there. Other bounds are known to least squares only: with a
    positive Lambda they are an error.

    Returns
    -------
    objective, theta, s2
        A number, shape (term,), and a number.

    """
    known = problem.ivar[:, pixel] > 0
    design, flux, ivar = problem.design[known], problem.flux[known, pixel], problem.ivar[known, pixel]
    lam, lower, upper = (float(problem.regularization[pixel]), problem.lower[pixel], problem.upper[pixel])

    def profile(s2: float) -> tuple[float, np.ndarray]:
        w = 1 / (1 / ivar + s2)
        theta = _theta_at(design, flux, w, lam, lower, upper)
        chi_squared = np.sum(w * (flux - design @ theta) ** 2)
        return float(chi_squared - np.sum(np.log(w)) + lam * np.abs(theta[1:]).sum()), theta

    largest = 10 * (flux.var() + np.median(1 / ivar))
    grid = np.concatenate([[0.0], np.geomspace(1e-4 * np.median(1 / ivar), largest, n_grid)])
    values = np.array([profile(s2)[0] for s2 in grid])
    padded = np.concatenate([[np.inf], values, [np.inf]])
    minima = np.flatnonzero((padded[1:-1] <= padded[:-2]) & (padded[1:-1] <= padded[2:]))
    candidates = [0.0]
    for k in minima[np.argsort(values[minima])][:3]:
        low, high = grid[max(k - 1, 0)], grid[min(k + 1, n_grid)]
        found = minimize_scalar(
            lambda s2: profile(s2)[0], bounds=(low, high), method="bounded", options={"xatol": 1e-7 * high}
        )
        candidates += [grid[k], found.x]
    s2 = min(candidates, key=lambda s2: profile(s2)[0])
    objective, theta = profile(s2)
    return objective, theta, float(s2)


def _theta_at(
    design: np.ndarray, flux: np.ndarray, w: np.ndarray, lam: float, lower: np.ndarray, upper: np.ndarray
) -> np.ndarray:
    free = lower < upper
    theta = np.where(free, 0.0, lower)
    target = flux - design @ theta
    bounded = np.isfinite(lower[free]).any() or np.isfinite(upper[free]).any()
    root = np.sqrt(w)
    if lam == 0 and bounded:
        limits = (lower[free], upper[free])
        theta[free] = lsq_linear(root[:, None] * design[:, free], root * target, limits, method="bvls", tol=1e-15).x
    elif lam == 0:
        theta[free] = np.linalg.lstsq(root[:, None] * design[:, free], root * target, rcond=None)[0]
    elif bounded or not free[0]:
        raise ValueError("brute force knows bounds without regularization only")
    else:
        theta[free] = _lasso(design[:, free], target, w, lam)
    return theta


def _lasso(design: np.ndarray, target: np.ndarray, w: np.ndarray, lam: float) -> np.ndarray:
    """Weighted lasso; the first column of the design is the constant, which is not penalized."""
    if design.shape[1] == 1:
        return np.array([np.average(target, weights=w)])
    estimator = Lasso(alpha=lam / 2 / w.sum(), tol=1e-12, max_iter=100_000)
    with warnings.catch_warnings():
        # The tolerance is near round-off; what is missing to it, the polish below supplies.
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator.fit(design[:, 1:], target, sample_weight=w)
    theta = np.concatenate([[estimator.intercept_], estimator.coef_])

    # With zeros and signs known the optimum is a linear system.
    active = (theta != 0) | (np.arange(len(theta)) == 0)
    sign = np.sign(theta) * (np.arange(len(theta)) > 0)
    columns = design[:, active]
    solved = np.linalg.solve(columns.T @ (w[:, None] * columns), columns.T @ (w * target) - lam / 2 * sign[active])
    polished = np.zeros_like(theta)
    polished[active] = solved
    return polished if np.array_equal(np.sign(polished[1:]), np.sign(theta[1:])) else theta
