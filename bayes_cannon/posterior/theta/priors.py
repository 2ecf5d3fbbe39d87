"""Proper priors of what the regularization leaves open, for sampling."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from bayes_cannon.core.arguments import listed, number, shown
from bayes_cannon.core.intake import real_numbers
from bayes_cannon.core.typing import PerPixel, PerPixelMask
from bayes_cannon.training.problem import PixelProblem

THETA_0_WIDTH, S_WIDTH = 10.0, 3.0
"""Widths of the default priors, in units of the spread of the training flux at the pixel."""


@dataclass(frozen=True)
class ThetaPriors:
    r"""Priors of each pixel in addition to the Laplace priors of theta.

    .. math:: \theta_0 \sim \mathrm{Normal}(m, t), \qquad s \sim \mathrm{HalfNormal}(h)

    Attributes
    ----------
    theta_0, theta_0_scale
        m and t in flux, shape (pixel,).
    s_scale
        h in flux, shape (pixel,).

    """

    theta_0: np.ndarray
    theta_0_scale: np.ndarray
    s_scale: np.ndarray

    def at(self, pixels: slice) -> "ThetaPriors":
        """Those of some of the pixels."""
        return ThetaPriors(self.theta_0[pixels], self.theta_0_scale[pixels], self.s_scale[pixels])

    @classmethod
    def weak(
        cls,
        problem: PixelProblem,
        theta_0: tuple[float, float] | None = None,
        s_scale: float | np.ndarray | None = None,
    ) -> "ThetaPriors":
        """Weakly informative priors, whose widths are multiples of the spread of the training flux at the pixel.

        Parameters
        ----------
        problem
            The pixels.
        theta_0
            m and t of all pixels. By default the mean training flux of a pixel, and 10 times its standard deviation.
        s_scale
            h, one or one per pixel. By default 3 times that standard deviation.

        Raises
        ------
        ValueError
            If a width is not positive and finite.

        """
        return cls.of_moments(*flux_moments(problem), theta_0=theta_0, s_scale=s_scale)

    @classmethod
    def of_moments(
        cls, mean: PerPixel, spread: PerPixel, known: PerPixelMask, *, theta_0: tuple[float, float] | None,
        s_scale: float | np.ndarray | None,
    ) -> "ThetaPriors":  # fmt: skip
        """The same from what `flux_moments` returns of all pixels."""
        pair: Any = (mean, THETA_0_WIDTH * spread) if theta_0 is None else listed(theta_0) or ()
        if theta_0 is not None and (len(pair) != 2 or not np.isfinite([number(one) for one in pair]).all()):
            raise ValueError(f"theta_0 must be a pair of numbers (mean, standard deviation), got {shown(theta_0)}")
        location, width = pair
        s_scale = None if s_scale is None else real_numbers(s_scale, "s_scale")
        h = S_WIDTH * spread if s_scale is None else s_scale
        shape = mean.shape
        try:
            priors = cls(*(np.array(np.broadcast_to(np.asarray(a, float), shape)) for a in (location, width, h)))
        except ValueError:
            raise ValueError(
                f"s_scale must be a number or have shape {shape}, one value a pixel; got {np.shape(h)}"
            ) from None
        for name, values in (("the scale of theta_0", priors.theta_0_scale), ("s_scale", priors.s_scale)):
            wrong = known & ~((values > 0) & (values < np.inf))
            if wrong.any():
                pixel = int(np.argmax(wrong))
                raise ValueError(f"{name} must be positive and finite; it is {values[pixel]} at pixel {pixel}")
        return priors


def flux_moments(problem: PixelProblem) -> tuple[PerPixel, PerPixel, PerPixelMask]:
    """Mean and spread of the training flux, at least its noise, and whether there is any, each of shape (pixel,)."""
    known = problem.ivar > 0
    count = np.maximum(known.sum(axis=0), 1)
    flux = np.where(known, problem.flux, 0.0)
    mean = flux.sum(axis=0) / count
    spread = np.sqrt(np.where(known, (flux - mean) ** 2, 0.0).sum(axis=0) / count)
    noise = np.sqrt(np.where(known, 1.0 / np.where(known, problem.ivar, 1.0), 0.0).sum(axis=0) / count)
    return mean, np.maximum(spread, noise), known.any(axis=0)
