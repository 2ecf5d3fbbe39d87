r"""How the covariance of a star depends on its quoted noise and its labels, by the likelihood of other stars.

The covariance of a star is that of all times

.. math:: c_n = e^{\beta \cdot x_n} (b_0 + b_1 g_n)

with the noise :math:`g_n` of its spectrum relative to the usual one (`scatter.usable_pixels`) and its scaled labels
:math:`x_n`, normalized so that :math:`1 / c_n` is one on average. Labels count only where that is asked for, and where
the data want it: beta is zero unless it gains more log likelihood of stars that had no part in it than it has
parameters.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize
from scipy.special import digamma

from bayes_cannon.core.student_t import LARGEST_NU, SMALLEST_NU, log_density
from bayes_cannon.core.typing import PerStar, StarLabel

FIRST_NU = 5.0
"""Degrees of freedom that the search starts from."""
LARGEST_LOGIT = 8.0
"""On the share of the covariance that does not grow with the quoted noise."""
LARGEST_LOG_SCALE = 20.0
LARGEST_BETA = 10.0
VARIED = 1.001
"""Ratio of the noise of stars from which on it is fitted how their covariance grows with it."""


@dataclass(frozen=True)
class StarScale:
    """The b0, b1 and beta, shape (label,), of the c of a star; without beta labels make no difference."""

    constant: float = 1.0
    slope: float = 0.0
    beta: np.ndarray | None = None

    def of(self, levels: PerStar, x: StarLabel) -> PerStar:
        """The c of stars with these g, shape (star,), and scaled labels, shape (star, label)."""
        return np.asarray((self.constant + self.slope * levels) * label_factor(self.beta, x))


def label_factor(beta: np.ndarray | None, x: StarLabel) -> PerStar:
    """The part of c that the labels make, shape (star,); one without beta."""
    return np.ones(len(x)) if beta is None else np.asarray(np.exp(x @ beta))


@dataclass(frozen=True)
class Unseen:
    """Stars by a covariance that they had no part in.

    Attributes
    ----------
    chi_squared, log_det
        Squared length and ``ln det`` of that covariance, without c, shape (star,).
    share
        By how much each star counts, shape (star,).
    levels, x
        The g, shape (star,), and the scaled labels, shape (star, label).
    n_leading
        Number of coordinates.

    """

    chi_squared: PerStar
    log_det: PerStar
    share: PerStar
    levels: PerStar
    x: StarLabel
    n_leading: int

    @property
    def varied(self) -> bool:
        """Whether the quoted noise of the stars differs."""
        return varied(self.levels)


def varied(levels: PerStar) -> bool:
    """Whether the quoted noise of stars differs."""
    return bool(levels.max() > VARIED * levels.min())


@dataclass(frozen=True)
class ScaleFit:
    """What maximizes the likelihood.

    Attributes
    ----------
    score
        Mean log likelihood of the stars.
    scale, nu, growth
        What the covariance is to be multiplied by, besides c, the degrees of freedom, and c.
    gain
        Log likelihood that beta gains, summed over the stars, over that without; zero without beta.
    end
        Where the search ended, for the next to start from.

    """

    score: float
    scale: float
    nu: float
    growth: StarScale
    gain: float
    end: np.ndarray

    @property
    def wants_labels(self) -> bool:
        """Whether beta gains more than it has parameters, of stars that had no part in beta either.

        Of those the gain is smaller by the number of parameters (Stone 1977).
        """
        return self.growth.beta is not None and self.gain > 2 * len(self.growth.beta)


def fitted_scale(
    stars: Unseen, *, heavy_tails: bool, label_scale: bool = False, start: np.ndarray | None = None
) -> ScaleFit:
    """Scale, degrees of freedom and c of the highest likelihood.

    Parameters
    ----------
    stars
        By a covariance without them.
    heavy_tails, label_scale
        Whether nu and beta are fitted.
    start
        The ``end`` of an earlier search.

    """
    n_labels = stars.x.shape[1]
    start = np.r_[0.0, np.log(FIRST_NU), np.zeros(1 + n_labels)] if start is None else start
    fixed = [False, not heavy_tails, not stars.varied, *[not label_scale] * n_labels]
    if not label_scale:
        return _maximized(stars, np.r_[start[:3], np.zeros(n_labels)], fixed, heavy_tails)
    without = fitted_scale(stars, heavy_tails=heavy_tails, start=start)
    found = _maximized(stars, start, fixed, heavy_tails)
    return replace(found, gain=float(stars.share.sum()) * (found.score - without.score))


def _maximized(stars: Unseen, start: np.ndarray, fixed: list[bool], heavy_tails: bool) -> ScaleFit:
    bounds = [
        (-LARGEST_LOG_SCALE, LARGEST_LOG_SCALE), (np.log(SMALLEST_NU), np.log(LARGEST_NU)),
        (-LARGEST_LOGIT, LARGEST_LOGIT), *[(-LARGEST_BETA, LARGEST_BETA)] * stars.x.shape[1],
    ]  # fmt: skip
    held = [(at, at) if hold else bound for at, hold, bound in zip(start, fixed, bounds, strict=True)]
    options = {"ftol": 1e-14, "gtol": 1e-9, "maxiter": 500}
    best = minimize(_loss, start, (stars, heavy_tails), jac=True, method="L-BFGS-B", bounds=held, options=options)
    at = np.asarray(best.x)
    constant, slope = _shape(at, stars.varied)
    beta = None if all(fixed[3:]) else at[3:].copy()
    norm = np.average(1 / StarScale(constant, slope, beta).of(stars.levels, stars.x), weights=stars.share)
    nu = float(np.exp(at[1])) if heavy_tails else np.inf
    growth = StarScale(float(constant * norm), float(slope * norm), beta)
    return ScaleFit(-float(best.fun), float(np.exp(at[0]) / norm), nu, growth, 0.0, at)


def _shape(at: np.ndarray, varied: bool) -> tuple[float, float]:
    constant = 1 / (1 + np.exp(-at[2])) if varied else 1.0
    return float(constant), float(1 - constant)


def _loss(at: np.ndarray, stars: Unseen, heavy_tails: bool) -> tuple[float, np.ndarray]:
    """Minus the mean log likelihood, by ln scale, ln nu, the logit of b0's share and beta, and its gradient."""
    q, (constant, slope) = stars.n_leading, _shape(at, stars.varied)
    nu = float(np.exp(at[1])) if heavy_tails else np.inf
    level = constant + slope * stars.levels
    log_scale = at[0] + np.log(level) + stars.x @ at[3:]
    chi_squared = stars.chi_squared * np.exp(-log_scale)
    density = np.asarray(log_density(chi_squared, stars.log_det + q * log_scale, q, nu))
    u = (nu + q) / (nu + chi_squared) if heavy_tails else 1.0
    by_scale = 0.5 * (u * chi_squared - q)
    by_nu: float | np.ndarray = 0.0
    if heavy_tails:
        z = chi_squared / nu
        by_nu = digamma(0.5 * (nu + q)) - digamma(0.5 * nu) - q / nu - np.log1p(z) + (nu + q) / nu * z / (1 + z)
        by_nu = 0.5 * nu * by_nu
    by_logit = by_scale * constant * slope * (1 - stars.levels) / level
    columns = by_scale, np.broadcast_to(by_nu, by_scale.shape), by_logit, stars.x * by_scale[:, None]
    weights = stars.share / stars.share.sum()
    return -float(weights @ density), -np.asarray(weights @ np.column_stack(columns))
