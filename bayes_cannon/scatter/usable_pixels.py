r"""Which pixels, and which numbers of a spectrum, take part where pixels are correlated.

A survey marks a bad number by a huge error. For independent pixels that is enough. A covariance that all stars share
does not see the error of one number, so that it has to be told: with the usual quoted noise :math:`\bar\sigma_j` of a
pixel, and the noise of a star's spectrum relative to it

.. math:: g_n = \left( \frac{1}{P_n} \sum_j \mathrm{ivar}_{jn}\, \bar\sigma_j^2 \right)^{-1}

over its used pixels, a number whose quoted variance exceeds :math:`\bar\sigma_j^2 \min(9 \max(g_n, 1), 100)` is noisier
than the covariance says. When labels are inferred, what it has beyond that is added to its variance; the covariance is
learned from the other numbers. Of the mean of inverse variances few such numbers make no difference.
"""

import numpy as np

from bayes_cannon.core.typing import Array
from bayes_cannon.training.problem import PixelProblem

FEWEST_PIXELS = 2
"""Pixels that scatter needs at least to be correlated."""
TRUSTED, MOST_TRUSTED = 9.0, 100.0
"""Times the usual quoted variance that still counts as usual: of a number beside the star's others, and of any."""


def solved_pixels(problem: PixelProblem, theta: np.ndarray, s2: np.ndarray) -> np.ndarray:
    """Index of the pixels with a solution. Raises ValueError, which says why there is none, if they are too few."""
    solved = np.flatnonzero(np.isfinite(theta).all(axis=1) & np.isfinite(s2))
    if len(solved) < FEWEST_PIXELS:
        counts = (problem.ivar > 0).sum(axis=0)
        most, stars = (int(counts.max()) if counts.size else 0), len(problem.ivar)
        raise ValueError(
            f"scatter that pixels share needs at least {FEWEST_PIXELS} pixels with a solution, of {problem.n_pixels} "
            f"pixels {len(solved)} have one: {int((counts == 0).sum())} have no star with a positive ivar, and none has "
            f"more than {most} of {stars} stars, with {problem.design.shape[1]} terms. Check ivar and the masks, add "
            "stars, lower the order, or leave scatter=None"
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
    """Usual noise of each pixel, shape (pixel,), the root mean square of trusted ones; and which are not, (star, pixel).

    The ivar, shape (star, pixel), is positive.
    """
    median = np.sqrt(1 / np.median(ivar, axis=0))
    bad = 1 / ivar > largest_variance(noise_levels(ivar, median), median)
    good = ~bad
    return np.sqrt(np.where(good, 1 / ivar, 0.0).sum(axis=0) / np.maximum(good.sum(axis=0), 1)), bad
