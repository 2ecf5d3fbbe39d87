r"""How well a spectrum fits, against how well training spectra of the same noise do.

The reduced chi^2 r of a spectrum is compared with those of the training stars of the nearest S/N, at their own labels.
There theta has seen the spectrum, so that a training star's chi^2 is divided by :math:`(1 - h_n)^2`, with h its
leverage (Cook & Weisberg 1982), which makes it that of a star held out. With m and s the median and the robust standard
deviation of their :math:`\ln r`, the misfit of a spectrum is

.. math:: z = (\ln r - \mathrm{clip}(\ln r, \min(m, 0), \max(m, 0))) / s

Zero stands for a spectrum between the training stars and a perfect model, where the quoted noise alone counts. Large
values are spectra of another kind, not normalized, or with errors that are too small. Negative ones fit too well: those
of a simulation without noise, or, where the quoted noise is larger than that of any training star, with errors that are
too large, such as errors in place of ivar.
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from bayes_cannon.core.records import dims
from bayes_cannon.core.typing import PerStar

NORMAL = 1.482602218505602
"""Standard deviation of a normal distribution over its median absolute deviation."""
NEIGHBORS = 100
"""Training stars of the nearest S/N that a spectrum is compared with."""
SMALLEST_SPREAD = 0.1
"""Of ln r: however alike the training stars are, a spectrum that is worse by some per cent is not another kind."""
DEFAULT_SPREAD = 0.46
"""Where no training spectra are known; a spectrum is then called unlike beyond a factor of ten."""
NOISIER = 3.0
"""Times the noise of the noisiest training star from which on a fit that is too good says that ivar is wrong."""
LIMIT = 5.0
"""Misfit beyond which a spectrum is called unlike the training spectra."""


@dataclass(frozen=True, eq=False)
class GoodnessOfFit:
    """Training stars to compare with; empty where no training spectra are known.

    Attributes
    ----------
    snr, reduced_chi_squared
        S/N and reduced chi^2 of the training stars, corrected for their leverage, shape (star,).

    """

    snr: np.ndarray = field(metadata=dims("reference", about="S/N of training stars"))
    reduced_chi_squared: np.ndarray = field(metadata=dims("reference", about="their reduced chi^2, as if held out"))

    @classmethod
    def unknown(cls) -> "GoodnessOfFit":
        """Without training stars."""
        return cls(np.zeros(0), np.zeros(0))

    @classmethod
    def of_training(
        cls, chi_squared: PerStar, n_pixels: PerStar, snr: PerStar, leverage: PerStar, n_terms: int, n_stars: int
    ) -> "GoodnessOfFit":
        """From chi^2 of the training stars at their labels.

        Parameters
        ----------
        chi_squared, n_pixels, snr
            Of each star, shape (star,).
        leverage
            Of each star, whose mean is one (`labelling.leverage`).
        n_terms, n_stars
            Numbers of terms and of training stars: h is the leverage times the one over the other.

        """
        chi_squared, n_pixels, snr = (np.asarray(values, float) for values in (chi_squared, n_pixels, snr))
        h = np.minimum(leverage * n_terms / n_stars, 0.9)
        with np.errstate(divide="ignore", invalid="ignore"):
            reduced = chi_squared / n_pixels / (1 - h) ** 2
        known = np.isfinite(reduced) & (reduced > 0) & (snr > 0) & np.isfinite(snr)
        order = np.argsort(snr[known], kind="stable")
        return cls(snr[known][order], reduced[known][order])

    @cached_property
    def _neighbors(self) -> tuple[np.ndarray, np.ndarray]:
        """Median and robust standard deviation of ln r of every run of neighbours, in the order of S/N."""
        log_r = np.log(self.reduced_chi_squared)
        near = np.lib.stride_tricks.sliding_window_view(log_r, min(NEIGHBORS, len(log_r)))
        middle = np.median(near, axis=1)
        return middle, NORMAL * np.median(np.abs(near - middle[:, None]), axis=1)

    def is_unlike(self, misfit: PerStar, snr: PerStar) -> np.ndarray:
        """Whether spectra are of another kind than the training spectra, boolean, shape (star,)."""
        noisy = snr < self.snr.min() / NOISIER if len(self.snr) else np.zeros(len(snr), bool)
        return np.asarray((misfit > LIMIT) | ((misfit < -LIMIT) & noisy))

    def misfit(self, reduced_chi_squared: PerStar, snr: PerStar, freedom: PerStar) -> PerStar:
        """Z of spectra with these degrees of freedom, shape (star,); NaN where reduced chi^2 is."""
        with np.errstate(divide="ignore", invalid="ignore"):
            log_r = np.log(reduced_chi_squared)
            least = np.sqrt(2 / np.maximum(freedom, 1))
        if not len(self.snr):
            return log_r / np.maximum(least, DEFAULT_SPREAD)
        middles, spreads = self._neighbors
        first = np.searchsorted(self.snr, snr) - min(NEIGHBORS, len(self.snr)) // 2
        place = np.clip(first, 0, len(middles) - 1)
        middle, spread = middles[place], np.maximum(spreads[place], np.maximum(least, SMALLEST_SPREAD))
        return (log_r - np.clip(log_r, np.minimum(middle, 0), np.maximum(middle, 0))) / spread
