r"""Which pixels, and which numbers of a spectrum, take part where pixels are correlated.

A survey marks a bad number by a huge error. For independent pixels that is enough. A covariance that all stars share
does not see the error of one number, so that it has to be told: with the usual quoted noise :math:`\bar\sigma_j` of a
pixel, and the noise of a star's spectrum relative to it

.. math:: g_n = \left( \frac{1}{P_n} \sum_j \mathrm{ivar}_{jn}\, \bar\sigma_j^2 \right)^{-1}

over its used pixels, a number whose quoted variance exceeds :math:`\bar\sigma_j^2 \min(36 \max(g_n, 1), 100)` is
noisier than the covariance says. When labels are inferred, what it has beyond that is added to its variance; the
covariance is learned from the other numbers. Of the mean of inverse variances few such numbers make no difference.
"""

import numpy as np

from bayes_cannon.core.typing import Array
from bayes_cannon.training.problem import PixelProblem

FEWEST_PIXELS = 2
"""Pixels that scatter needs at least to be correlated."""
TRUSTED, MOST_TRUSTED = 36.0, 100.0
"""Times the usual quoted variance that still counts as usual: of a number beside the star's others, and of any.

Noise that is a few times the usual at some pixels is that of stars of another colour, and no mark of the survey.
"""


def solved_pixels(problem: PixelProblem, theta: np.ndarray, s2: np.ndarray) -> np.ndarray:
    """Index of the pixels with a solution. Raises ValueError, which says why there is none, if they are too few."""
    solved = np.flatnonzero(np.isfinite(theta).all(axis=1) & np.isfinite(s2))
    if len(solved) < FEWEST_PIXELS:
        counts = (problem.ivar > 0).sum(axis=0)
        most, stars = (int(counts.max()) if counts.size else 0), len(problem.ivar)
        raise ValueError(
            f"scatter that pixels share needs at least {FEWEST_PIXELS} pixels with a solution, of {problem.n_pixels} "
            f"pixels {len(solved)} have one: {int((counts == 0).sum())} have no star with a positive ivar, and none "
            f"has more than {most} of {stars} stars, with {problem.design.shape[1]} terms. Check ivar and the masks, "
            "add stars, lower the order, or leave scatter=None"
        )
    return solved


def noise_levels(ivar: Array, quoted: Array) -> Array:
    """The g of each star, shape (star,), from ivar (star, pixel) and the usual noise (pixel,); one without pixels."""
    xp = ivar.__array_namespace__()
    count = (ivar > 0).sum(axis=1)
    weight = ivar @ xp.asarray(quoted) ** 2
    return xp.where(weight > 0, count / xp.where(weight > 0, weight, 1.0), 1.0)


def largest_variance(levels: Array, quoted: Array) -> Array:
    """Quoted variance up to which the noise of a number is usual, shape (star, pixel)."""
    xp = levels.__array_namespace__()
    return xp.minimum(TRUSTED * xp.maximum(levels, 1.0), MOST_TRUSTED)[:, None] * xp.asarray(quoted) ** 2


def usual_noise(ivar: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Root mean square of the trusted noise of each pixel, shape (pixel,), and what is not trusted, (star, pixel).

    The ivar, shape (star, pixel), is positive.
    """
    median = np.sqrt(1 / np.median(ivar, axis=0))
    bad = 1 / ivar > largest_variance(noise_levels(ivar, median), median)
    good = ~bad
    return np.sqrt(np.where(good, 1 / ivar, 0.0).sum(axis=0) / np.maximum(good.sum(axis=0), 1)), bad


def completed(
    residual: np.ndarray, bad: np.ndarray, precision: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""Residuals with the mean that the other numbers of the star give in the place of bad ones.

    With the inverse covariance :math:`\Lambda` the bad ones b, given the others o, are normal with mean
    :math:`-\Lambda_{bb}^{-1} \Lambda_{bo} r_o` and covariance :math:`\Lambda_{bb}^{-1}`; ``r' C^-1 r`` of the
    completed residuals is that of the others alone (Little & Rubin 2002, chapter 8).

    Parameters
    ----------
    residual, bad
        Shape (star, pixel).
    precision
        Inverse covariance, shape (pixel, pixel).

    Returns
    -------
    residual
        Completed, shape (star, pixel).
    spread
        Covariance of what was filled in, summed over the stars, shape (pixel, pixel).
    log_det
        ``ln det Lambda_bb``, which the covariance of the others has more than that of all, shape (star,).

    """
    residual = np.where(bad, 0.0, residual)
    spread, log_det = np.zeros_like(precision), np.zeros(len(residual))
    for star in np.flatnonzero(bad.any(axis=1)):
        at = np.flatnonzero(bad[star])
        inner = np.linalg.inv(precision[np.ix_(at, at)])
        residual[star, at] = -inner @ (precision[at] @ residual[star])
        spread[np.ix_(at, at)] += inner
        log_det[star] = -np.linalg.slogdet(inner)[1]
    return residual, spread, log_det
