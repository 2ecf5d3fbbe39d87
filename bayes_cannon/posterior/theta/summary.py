"""The posterior of theta and s, as arrays over pixels."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

QUANTILES = (0.025, 0.16, 0.5, 0.84, 0.975)
"""Levels of the quantiles that are kept."""


@dataclass(frozen=True)
class ThetaPosterior:
    """Summary of the posterior of each pixel; of the likelihood and priors that `sample` states.

    Attributes
    ----------
    mean, covariance
        Of theta, shape (pixel, term) and (pixel, term, term); zero for censored terms, NaN without a posterior.
    s
        Mean, standard deviation and mean square of s in flux, shape (pixel, 3). The last is the posterior mean of s^2.
    theta_quantiles, s_quantiles
        At `QUANTILES`, shape (pixel, quantile, term) and (pixel, quantile).
    r_hat, ess_bulk, ess_tail
        Of s and of each term, shape (pixel, 1 + term); NaN for censored terms and where none was computed.
    k_hat
        Pareto shape of the importance weights, shape (pixel,); NaN for chains.
    divergent, deep
        Share of draws that diverged and of those whose tree was as deep as allowed, shape (pixel,).
    n_steps
        Mean number of leapfrog steps a draw, shape (pixel,).
    status
        `PosteriorStatus`, shape (pixel,).

    """

    mean: np.ndarray
    covariance: np.ndarray
    s: np.ndarray
    theta_quantiles: np.ndarray
    s_quantiles: np.ndarray
    r_hat: np.ndarray
    ess_bulk: np.ndarray
    ess_tail: np.ndarray
    k_hat: np.ndarray
    divergent: np.ndarray
    deep: np.ndarray
    n_steps: np.ndarray
    status: np.ndarray

    @classmethod
    def empty(cls, n_pixels: int, n_terms: int, status: np.ndarray) -> "ThetaPosterior":
        """No posterior for any pixel, for the reason given by the status, shape (pixel,)."""

        def nan(*shape: int) -> np.ndarray:
            return np.full((n_pixels, *shape), np.nan)

        n_levels = len(QUANTILES)
        return cls(
            nan(n_terms), nan(n_terms, n_terms), nan(3), nan(n_levels, n_terms), nan(n_levels), nan(1 + n_terms),
            nan(1 + n_terms), nan(1 + n_terms), nan(), nan(), nan(), nan(), np.array(status, dtype=int),
        )  # fmt: skip

    @property
    def n_pixels(self) -> int:
        """Number of pixels."""
        return len(self.mean)

    @property
    def s2(self) -> np.ndarray:
        """Posterior mean of s^2, shape (pixel,)."""
        return self.s[:, 2]

    def at(self, pixels: np.ndarray) -> "ThetaPosterior":
        """The posterior of some of the pixels."""
        return ThetaPosterior(*(getattr(self, field.name)[pixels] for field in fields(self)))

    def place(self, pixels: np.ndarray, other: "ThetaPosterior") -> None:
        """Write the posterior of some pixels into this one, in place."""
        for field in fields(self):
            getattr(self, field.name)[pixels] = getattr(other, field.name)

    def equal_for_labels(self, other: "ThetaPosterior") -> bool:
        """Whether labels are the same with both, but for roundoff."""
        return all(
            np.allclose(getattr(self, name), getattr(other, name), rtol=1e-9, atol=0.0, equal_nan=True)
            for name in ("mean", "covariance", "s2")
        )

    def packed(self) -> dict[str, np.ndarray]:
        """What labels need: mean, lower triangle of the covariance row by row (pixel, pair), mean of s^2, status."""
        rows, columns = np.tril_indices(self.mean.shape[1])
        return {
            "theta_mean": self.mean, "theta_covariance": self.covariance[:, rows, columns], "s2_mean": self.s2,
            "status": self.status,
        }  # fmt: skip

    @classmethod
    def from_packed(cls, packed: Mapping[str, np.ndarray]) -> "ThetaPosterior":
        """The posterior with what `packed` keeps; the rest is NaN."""
        mean, triangle = packed["theta_mean"], packed["theta_covariance"]
        n_pixels, n_terms = mean.shape
        whole = cls.empty(n_pixels, n_terms, packed["status"])
        rows, columns = np.tril_indices(n_terms)
        whole.mean[:], whole.s[:, 2] = mean, packed["s2_mean"]
        whole.covariance[:, rows, columns] = whole.covariance[:, columns, rows] = triangle
        return whole
