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
class Full:
    r"""Full covariance of the scatter, the same for all stars, for spectra of up to a few thousand pixels.

    It is for pixels that are correlated by construction, such as sampled Gaia XP spectra, and for spectra without
    quoted noise. The noise that a single star quotes does not enter: with heavy tails its chi^2 scales its errors,
    without them spectra must be as noisy as those that trained. Training spectra must be complete; spectra to be
    labelled need not be. See `scatter.full`.

    Attributes
    ----------
    shrinkage
        a in :math:`(1 - a) S + a\, \mathrm{diag}(S)`, from 0 to 1; None to choose it by the likelihood of held-out
        training spectra.
    heavy_tails
        Whether spectra follow a multivariate Student-t law, whose degrees of freedom are fitted.
    share
        Directions in which residuals have less than this share of the quoted noise variance get the quoted noise.

    Raises
    ------
    ValueError
        If the shrinkage is not from 0 to 1, or the share negative or not finite.

    """

    shrinkage: float | None = None
    heavy_tails: bool = False
    share: float = 0.05

    def __post_init__(self) -> None:
        if self.shrinkage is not None and not 0 <= self.shrinkage <= 1:
            raise ValueError(f"shrinkage must be from 0 to 1, or None to choose it; got {self.shrinkage!r}")
        if not 0 <= self.share < np.inf:
            raise ValueError(f"share must be finite and not negative, got {self.share!r}")


@dataclass(frozen=True, eq=False)
class Given:
    r"""Covariance of the noise that the survey gives, the same for all stars, plus fitted scatter: ``G + diag(s^2)``.

    Training spectra must be complete; spectra to be labelled need not be. Of ``ivar`` only counts where it is zero.
    See `scatter.known_noise`.

    Attributes
    ----------
    covariance
        G in squared flux, shape (pixel, pixel).
    heavy_tails
        Whether spectra follow a multivariate Student-t law, whose degrees of freedom are fitted.

    Raises
    ------
    ValueError
        If the covariance is not a finite, symmetric, positive semi-definite matrix.

    """

    covariance: np.ndarray
    heavy_tails: bool = False

    def __post_init__(self) -> None:
        covariance = np.array(self.covariance, dtype=float)
        if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
            raise ValueError(f"the given covariance must have shape (pixel, pixel), got {covariance.shape}")
        if not np.isfinite(covariance).all():
            row, column = np.argwhere(~np.isfinite(covariance))[0]
            raise ValueError(f"the given covariance is {covariance[row, column]} at pixels {row} and {column}")
        unit = np.sqrt(np.abs(np.diag(covariance)))
        if (np.abs(covariance - covariance.T) > 1e-8 * np.outer(unit, unit)).any():
            raise ValueError("the given covariance is not symmetric; is it a Cholesky factor?")
        smallest = np.linalg.eigvalsh(covariance / np.where(np.outer(unit, unit) > 0, np.outer(unit, unit), 1.0))[0]
        if smallest < -1e-8 or (np.diag(covariance) <= 0).any():
            raise ValueError(
                f"the given covariance is not positive definite: the smallest eigenvalue of its correlations is "
                f"{smallest:.3g}, the smallest variance {np.diag(covariance).min():.3g}"
            )
        covariance.flags.writeable = False
        object.__setattr__(self, "covariance", covariance)

    def __repr__(self) -> str:
        return f"Given({len(self.covariance)} pixels, heavy_tails={self.heavy_tails})"


Scatter = LowRank | Full | Given
"""What may be asked for; None is independent scatter."""
AUTO = "auto"
"""What asks for the family and rank of the highest likelihood of held-out spectra."""


@dataclass(frozen=True)
class Correlation:
    """What is learned of the correlated scatter.

    Attributes
    ----------
    factors
        U in flux, shape (pixel, factor): orthogonal in the metric of the mean weights, the strongest first, the largest
        number of each positive. Of a full covariance the leading directions, of the length of their scatter.
    nu
        Degrees of freedom of the Student-t law of a spectrum; infinite where it is normal.
    noise
        Of a full covariance the mean quoted noise, shape (pixel,), the scatter across the factors; NaN at pixels
        without solution. None for low rank.
    floor
        Of a full covariance the variance of the training residuals across the factors, in units of that noise.

    """

    factors: np.ndarray
    nu: float = np.inf
    noise: np.ndarray | None = None
    floor: float = 1.0

    @property
    def rank(self) -> int:
        """Number of factors."""
        return self.factors.shape[1]

    def whole_scatter(self, s2: np.ndarray, quoted: np.ndarray) -> np.ndarray:
        r"""Variance of all that scatters a pixel beside its quoted noise, :math:`s_j^2 + |u_j|^2`, shape (pixel,).

        Of a full covariance what its diagonal has beyond the mean quoted noise, at least zero.

        Parameters
        ----------
        s2
            As it was trained with these factors, shape (pixel,); infinite at pixels without solution, and returned so.
        quoted
            Mean variance of the quoted noise, shape (pixel,).

        """
        square = self.factors**2
        if self.noise is None:
            return s2 + square.sum(axis=1)
        noise2 = np.where(np.isfinite(self.noise), self.noise, 1.0) ** 2
        variances = (square / noise2[:, None]).sum(axis=0)
        along = square @ np.where(variances > 0, 1.0 - 1.0 / np.where(variances > 0, variances, 1.0), 0.0)
        return np.where(np.isfinite(s2), np.maximum(noise2 + along - quoted, 0.0), s2)

    @property
    def covariance(self) -> np.ndarray:
        r"""Full covariance :math:`U U^T + N (I - E E^T) N`, E being U over the noise N, normalized; (pixel, pixel).

        Pixels without solution have zero. Raises ValueError for low rank, whose diagonal differs from star to star.
        """
        if self.noise is None:
            raise ValueError("scatter of low rank has no covariance that all stars share")
        noise = np.where(np.isfinite(self.noise), self.noise, 0.0)
        scaled = self.factors / np.where(noise > 0, noise, 1.0)[:, None]
        variances = np.sum(scaled**2, axis=0)
        left = scaled * np.sqrt(np.abs(variances - 1) / np.where(variances > 0, variances, 1.0))
        covariance = (left * np.sign(variances - 1)) @ left.T
        covariance[np.diag_indices_from(covariance)] += 1
        return covariance * noise[:, None] * noise
