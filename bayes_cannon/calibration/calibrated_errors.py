r"""Calibrated label errors: their distribution for each star, learned from held-out stars by `calibration.fit`.

The inferred minus the true labels of a star follow a multivariate Student-t distribution about zero,

.. math:: d_n \sim t_{\nu_n}(0, S_n), \qquad S_n = A_n C_n A_n + H_n F H_n, \qquad
          \mathrm{cov}(d_n) = \frac{\nu_n}{\nu_n - 2} S_n

with C the formal covariance; `programs.residuals` says what A, H, F and nu are. No NumPyro is needed to use it.
"""

from dataclasses import dataclass, field

import numpy as np
from scipy.special import ndtri, stdtrit

from bayes_cannon.core import student_t
from bayes_cannon.core.records import dims
from bayes_cannon.core.typing import PerLabel, PerStar, StarLabel, StarLabelLabel


@dataclass(frozen=True, eq=False)
class Calibration:
    """Parameters that turn formal covariances into calibrated ones.

    Attributes
    ----------
    log_scale
        Logarithm of the factor on the formal errors at the median S/N, shape (label,): half that of the posterior mean
        of its square.
    slope
        Change of ``log_scale`` per unit of ln S/N, shape (label,).
    floor
        Covariance of the errors that are not in the formal ones, at the median leverage, in label units, shape
        (label, label).
    power
        Power of the leverage with which the floor's standard deviations grow, shape (label,).
    tails
        Degrees of freedom above two at the median S/N, harmonic posterior mean; infinite for a normal distribution.
    tail_power
        Power of the S/N with which they grow.
    snr_median, leverage_median
        Of the stars that it was learned from.
    snr_range
        Their lowest and highest S/N. Outside of it the factor and the tails are those at the nearer end.
    spread
        Posterior standard deviations by the names of the above; of the floor those of its standard deviations.
    n_stars, n_left_out
        Held-out stars that it was learned from, and those that had no labels, errors or S/N.
    r_hat, divergences
        The largest of all parameters, and the number of divergent draws.

    """

    log_scale: PerLabel = field(metadata=dims("label"))
    slope: PerLabel = field(metadata=dims("label"))
    floor: np.ndarray = field(metadata=dims("label", "other_label"))
    power: PerLabel = field(metadata=dims("label"))
    tails: float
    tail_power: float
    snr_median: float
    leverage_median: float
    snr_range: tuple[float, float]
    spread: dict[str, np.ndarray] = field(metadata=dims("label"))
    n_stars: int
    n_left_out: int
    r_hat: float
    divergences: int

    @classmethod
    def from_floor(cls, floor: np.ndarray) -> "Calibration":
        """One covariance that is added to that of every star, in label units, shape (label, label), and nothing else.

        Model files of bayes_cannon 0.1 may hold one.
        """
        none = np.zeros(len(floor))
        return cls(
            log_scale=none, slope=none, floor=np.asarray(floor, float), power=none, tails=np.inf, tail_power=0.0,
            snr_median=1.0, leverage_median=1.0, snr_range=(1.0, 1.0), spread={}, n_stars=0, n_left_out=0, r_hat=np.nan,
            divergences=0,
        )  # fmt: skip

    @property
    def n_labels(self) -> int:
        """Number of labels K."""
        return len(self.log_scale)

    def covariance(
        self, covariance: StarLabelLabel, snr: PerStar, leverage: PerStar | None = None,
        reference_errors: StarLabel | None = None,
    ) -> StarLabelLabel:  # fmt: skip
        """Predictive covariance of the labels, tails included, in label units, shape (star, label, label).

        Parameters
        ----------
        covariance
            Formal covariance, shape (star, label, label). A star where it is not finite stays so.
        snr, leverage
            S/N and leverage, shape (star,). A leverage of None is that of a typical star.
        reference_errors
            Errors of reference labels that the inferred ones are to be compared with, shape (star, label), and NaN
            where they are not known; none by default.

        Raises
        ------
        ValueError
            If the shapes do not fit.

        """
        matrix = self.scale_matrix(covariance, snr, leverage, reference_errors)
        return self._inflation(snr)[:, None, None] * matrix

    def floor_covariance(self, snr: PerStar, leverage: PerStar | None = None) -> StarLabelLabel:
        """The part of `covariance` due to the floor, shape (star, label, label)."""
        return self._inflation(snr)[:, None, None] * self._floor(np.shape(snr), leverage)

    def scale_matrix(
        self, covariance: StarLabelLabel, snr: PerStar, leverage: PerStar | None = None,
        reference_errors: StarLabel | None = None,
    ) -> StarLabelLabel:  # fmt: skip
        """S of the Student-t distribution, from the arguments of `covariance`."""
        covariance, snr = np.asarray(covariance, float), np.asarray(snr, float)
        if covariance.shape != (*snr.shape, self.n_labels, self.n_labels) or snr.ndim != 1:
            raise ValueError(
                f"covariance must have shape (star, {self.n_labels}, {self.n_labels}) and snr (star,); "
                f"got {covariance.shape} and {snr.shape}"
            )
        factor = np.exp(self.log_scale + self.slope * self._log_snr(snr)[:, None])
        total = factor[:, :, None] * covariance * factor[:, None, :] + self._floor(snr.shape, leverage)
        if reference_errors is not None:
            total = total + np.nan_to_num(np.asarray(reference_errors, float) ** 2)[:, :, None] * np.eye(self.n_labels)
        return total

    def nu(self, snr: PerStar) -> PerStar:
        """Degrees of freedom of stars of this S/N, shape (star,)."""
        return 2.0 + self.tails * np.exp(self.tail_power * self._log_snr(snr))

    def half_width(
        self, level: float, covariance: StarLabelLabel, snr: PerStar, leverage: PerStar | None = None,
        reference_errors: StarLabel | None = None,
    ) -> StarLabel:  # fmt: skip
        """Half the width of the central interval that holds each label with this probability, shape (star, label).

        The interval is the inferred label plus and minus it. Its quantiles are those of the Student-t distribution,
        so that it is not a fixed multiple of the standard deviation.

        Parameters
        ----------
        level
            Probability, between 0 and 1.
        covariance, snr, leverage, reference_errors
            As for `covariance`.

        """
        if not 0 < level < 1:
            raise ValueError(f"level must be between 0 and 1, such as 0.68; got {level}")
        nu = self.nu(snr)
        finite = np.where(np.isfinite(nu), nu, 1.0)
        quantile = np.where(np.isinf(nu), ndtri((1 + level) / 2), stdtrit(finite, (1 + level) / 2))
        matrix = self.scale_matrix(covariance, snr, leverage, reference_errors)
        return quantile[:, None] * np.sqrt(np.einsum("nkk->nk", matrix))

    def log_score(
        self, difference: StarLabel, covariance: StarLabelLabel, snr: PerStar, leverage: PerStar | None = None,
        reference_errors: StarLabel | None = None,
    ) -> PerStar:  # fmt: skip
        """Log density of inferred minus reference labels, higher is better, shape (star,); NaN where one is missing.

        Comparable with `validate.log_scores`, which is that of a normal distribution.

        Parameters
        ----------
        difference
            Inferred minus reference labels, shape (star, label).
        covariance, snr, leverage, reference_errors
            As for `covariance`.

        """
        matrix, nu = self.scale_matrix(covariance, snr, leverage, reference_errors), self.nu(snr)
        unit = np.sqrt(np.einsum("nkk->nk", matrix))
        scaled, correlation = difference / unit, matrix / (unit[:, :, None] * unit[:, None, :])
        known = np.isfinite(scaled).all(axis=1) & np.isfinite(correlation).all(axis=(1, 2)) & np.isfinite(unit).all(1)
        score = np.full(len(matrix), np.nan)
        d, nu = scaled[known], nu[known]
        squared = np.einsum("nk,nk->n", d, np.linalg.solve(correlation[known], d[:, :, None])[:, :, 0])
        log_det = np.linalg.slogdet(correlation[known])[1] + 2 * np.log(unit[known]).sum(axis=1)
        score[known] = student_t.log_density(squared, log_det, self.n_labels, np.asarray(nu))
        return score

    def _log_snr(self, snr: PerStar) -> PerStar:
        return np.log(np.clip(snr, *self.snr_range) / self.snr_median)

    def _inflation(self, snr: PerStar) -> PerStar:
        """The factor nu / (nu - 2)."""
        return 1 + 2 / (self.nu(snr) - 2)

    def _floor(self, shape: tuple[int, ...], leverage: PerStar | None) -> StarLabelLabel:
        relative = np.ones(shape) if leverage is None else np.asarray(leverage, float) / self.leverage_median
        if relative.shape != shape:
            raise ValueError(f"leverage must have shape {shape}, one value a star as snr; got {relative.shape}")
        reach = relative[:, None] ** self.power
        return reach[:, :, None] * self.floor * reach[:, None, :]
