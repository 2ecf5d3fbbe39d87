"""How the scatter is correlated between pixels: what is asked for, and what was learned."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LowRank:
    r"""Scatter of low rank plus a diagonal, ``U U' + diag(s^2)``: a few latent factors a star that all pixels share.

    Attributes
    ----------
    rank
        Number of factors.
    heavy_tails
        Whether spectra follow a multivariate Student-t law, whose degrees of freedom are fitted, so that a few bad
        spectra neither set the scatter nor are trusted.
    tolerance
        Training ends when an iteration gains less than this a star, in natural logarithms of the likelihood.

    Raises
    ------
    ValueError
        If the rank is no positive integer, or the tolerance not positive.

    """

    rank: int
    heavy_tails: bool = False
    tolerance: float = 1e-2

    def __post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, int | np.integer) or self.rank < 1:
            raise ValueError(f"rank must be a positive integer, got {self.rank!r}; without factors leave scatter=None")
        if not self.tolerance > 0:
            raise ValueError(f"tolerance must be positive, got {self.tolerance!r}")


@dataclass(frozen=True)
class Correlation:
    """What is learned of the correlated scatter.

    Attributes
    ----------
    factors
        U in flux, shape (pixel, factor): orthogonal in the metric of the mean weights, the strongest first, the largest
        number of each positive.
    nu
        Degrees of freedom of the Student-t law of a spectrum; infinite where it is normal.

    """

    factors: np.ndarray
    nu: float = np.inf

    @property
    def rank(self) -> int:
        """Number of factors."""
        return self.factors.shape[1]
