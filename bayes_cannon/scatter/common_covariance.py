r"""Scatter whose covariance is the same for all stars, but for its scale, as `scatter.Full` and `Given` learn it."""

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from bayes_cannon.core.student_t import log_density
from bayes_cannon.scatter.base import Coefficients, LearnedScatter, NoiseParts, PartsOfStar, mean_quoted_variance
from bayes_cannon.scatter.covariance_tables import CovarianceTables, StarNoise, expected_square
from bayes_cannon.scatter.label_tables import Response
from bayes_cannon.scatter.usable_pixels import completed, largest_variance, noise_levels
from bayes_cannon.training.problem import PixelProblem


@dataclass(frozen=True, eq=False)
class CommonCovariance(LearnedScatter):
    r"""Covariance :math:`C = U U^T + N (I - E E^T) N` of all stars, E being U over the noise N, normalized.

    That of a star is :math:`e^{\beta \cdot x} (b_0 + b_1 g) C`, with its scaled labels x and the noise g of its
    spectrum relative to that of the training spectra; and a number with a huge error has what that is beyond the usual
    besides (`scatter.usable_pixels`).

    Attributes
    ----------
    factors
        U in flux, shape (pixel, factor), the leading directions, of the length of their scatter: orthogonal in the
        metric of the noise, the strongest first, the largest number of each positive; zero at pixels without solution.
    noise
        N, the scatter across the factors, shape (pixel,); NaN at pixels without solution.
    nu
        Degrees of freedom of the Student-t distribution along these directions; infinite where it is normal.
    floor
        Variance of residuals across the factors, in units of that noise.
    typical
        Their squares along a factor, in units of its variance.
    quoted
        Usual quoted noise of the training spectra, shape (pixel,); None where the quoted noise does not enter.
    own
        s^2 of the model, shape (pixel,), which its weights hold beside the quoted noise; None with ``quoted``.
    constant, slope
        The b0 and b1 of the scale of a star.
    theta_included
        As `LearnedScatter` has it: the scale of C is that of held-out stars.
    label_variance
        As `LearnedScatter` has it.
    label_scale
        The beta, shape (label,); None where labels make no difference.

    """

    factors: np.ndarray = field(metadata={"dims": ("pixel", "factor")})
    noise: np.ndarray = field(metadata={"dims": ("pixel",)})
    nu: float = np.inf
    floor: float = 1.0
    typical: float = 1.0
    quoted: np.ndarray | None = field(default=None, metadata={"dims": ("pixel",)})
    own: np.ndarray | None = field(default=None, metadata={"dims": ("pixel",)})
    constant: float = 1.0
    slope: float = 0.0
    theta_included: float = 1.0
    label_variance: float = 1.0
    label_scale: np.ndarray | None = field(default=None, metadata={"dims": ("label",)})

    @property
    def rank(self) -> int:
        """Number of leading directions."""
        return self.factors.shape[1]

    @cached_property
    def covariance(self) -> np.ndarray:
        """The covariance, shape (pixel, pixel); pixels without solution have zero."""
        noise = np.where(np.isfinite(self.noise), self.noise, 0.0)
        scaled, variances = self._scaled
        root = scaled * np.sqrt(np.abs(variances - 1) / np.where(variances > 0, variances, 1.0))
        covariance = (root * np.sign(variances - 1)) @ root.T
        covariance[np.diag_indices_from(covariance)] += 1
        return covariance * noise[:, None] * noise

    @property
    def _scaled(self) -> tuple[np.ndarray, np.ndarray]:
        """U over the noise, and the variance along each direction."""
        known = np.isfinite(self.noise) & (self.noise > 0)
        scaled = self.factors / np.where(known, self.noise, 1.0)[:, None]
        return scaled, np.sum(scaled**2, axis=0)

    @property
    def _leading_log_det(self) -> float:
        """``ln det C`` along the leading directions, in units of the usual quoted noise where that is known."""
        unit = self.noise if self.quoted is None else self.quoted
        known = np.isfinite(unit) & (unit > 0)
        squares = np.sum((self.factors[known] / unit[known, None]) ** 2, axis=0)
        return float(np.log(squares[squares > 0]).sum())

    def check(self, n_pixels: int) -> None:
        """Raise ValueError unless it is the covariance of this number of pixels."""
        if len(self.factors) != n_pixels:
            raise ValueError(f"the scatter has factors of {len(self.factors)} pixels, theta has {n_pixels}")

    def log_likelihood(self, problem: PixelProblem, solution: Coefficients) -> np.ndarray:
        """As `LearnedScatter.log_likelihood`; ValueError if a star misses a pixel that has a solution.

        Student-t along the leading directions and normal across them, with the covariance that labels have: of the
        noise N across, even where training residuals are smaller.
        """
        residual, basis, variances, noise, growth, beyond = self._along_directions(problem, solution)
        chi_squared = np.sum((residual @ basis) ** 2 / variances, axis=1)
        leading = log_density(chi_squared, np.log(variances).sum(), len(variances), self.nu)
        scale = 0.5 * len(noise) * np.log(growth)
        return leading + log_density_across(residual, basis) - np.log(noise).sum() - scale + beyond

    def typical_square(self, n_pixels: int) -> float:
        """As `LearnedScatter.typical_square`: directions in which there are no residuals do not count."""
        return float(expected_square(n_pixels, self.rank, self.typical, self.floor))

    def star_precisions(self, problem: PixelProblem, solution: Coefficients) -> np.ndarray | None:
        """``(nu + q) / (nu + chi^2)`` along the q directions, and one over what the labels make, over their mean.

        ValueError if a star misses a pixel.
        """
        if not np.isfinite(self.nu) and self.label_scale is None:
            return None
        weight = 1 / self.label_factor(problem.terms.x)
        if np.isfinite(self.nu):
            residual, basis, variances, *_ = self._along_directions(problem, solution)
            chi_squared = np.sum((residual @ basis) ** 2 / variances, axis=1)
            weight = weight * (self.nu + len(variances)) / (self.nu + chi_squared)
        return np.asarray(weight / weight.mean())

    def _along_directions(
        self, problem: PixelProblem, solution: Coefficients
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Residuals over the noise and the root of the star's scale, at the solved pixels, and what belongs to them.

        Leading directions, variances along them, the noise, the scale of each star, and the log density that numbers
        with huge errors have by themselves instead of by the covariance; their residuals are what the others make of
        them.
        """
        solved = np.flatnonzero(np.isfinite(self.noise))
        ivar = problem.ivar[:, solved]
        check_complete(ivar, solved)
        noise = self.noise[solved]
        scaled = self.factors[solved] / noise[:, None]
        variances = (scaled**2).sum(axis=0)
        basis = scaled / np.sqrt(variances)
        flux = problem.flux[:, solved] - problem.design @ solution.theta[solved].T
        growth, extra = self._star_noise(ivar, solved)
        growth = growth * self.label_factor(problem.terms.x)
        residual, beyond = flux / noise / np.sqrt(growth)[:, None], np.zeros(len(flux))
        if (extra > 0).any():
            precision = (basis * (1 / variances - 1)) @ basis.T
            precision[np.diag_indices_from(precision)] += 1
            residual, _, log_det = completed(residual, extra > 0, precision)
            alone = -0.5 * (flux**2 * ivar - np.log(ivar)) + np.log(noise) + 0.5 * np.log(growth)[:, None]
            beyond = np.where(extra > 0, alone, 0.0).sum(axis=1) - 0.5 * log_det
        return residual, basis, variances, noise, growth, beyond

    def _star_noise(self, ivar: np.ndarray, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scale of each star, shape (star,), and the variance that a number has beyond the usual, (star, pixel).

        Of these pixels' ivar, shape (star, pixel), zero where one is missing.
        """
        if self.quoted is None:
            return np.ones(len(ivar)), np.zeros(ivar.shape)
        quoted = self.quoted[pixels]
        levels = np.asarray(noise_levels(ivar, quoted))
        known = ivar > 0
        extra = np.where(known, 1 / np.where(known, ivar, 1.0) - largest_variance(levels, quoted), 0.0)
        return self.constant + self.slope * levels, np.maximum(extra, 0.0)

    def latent_factors(self, problem: PixelProblem, solution: Coefficients) -> np.ndarray:
        """Coordinates along the leading directions, each of unit variance: ``U' C^-1 (y - Theta v)``."""
        theta = solution.theta
        used = (problem.ivar > 0) & np.isfinite(theta).all(axis=1)
        residual = np.where(used, np.nan_to_num(problem.flux) - problem.design @ np.nan_to_num(theta).T, 0.0)
        out = np.zeros((len(used), self.rank))
        masks, which = np.unique(used, axis=0, return_inverse=True)
        for k, mask in enumerate(masks):
            rows, pixels = np.flatnonzero(which == k), np.flatnonzero(mask)
            if not len(pixels):
                continue  # Without a spectrum the mean is that of all stars, zero.
            inner = self.covariance[np.ix_(pixels, pixels)]
            growth, extra = self._star_noise(problem.ivar[np.ix_(rows, pixels)], pixels)
            growth = growth * self.label_factor(problem.terms.x[rows])
            usual = ~(extra > 0).any(axis=1)
            part = cho_solve(cho_factor(inner), self.factors[pixels])
            out[rows[usual]] = residual[np.ix_(rows[usual], pixels)] @ part / np.sqrt(growth[usual, None])
            for star, scale, own in zip(rows[~usual], growth[~usual], extra[~usual], strict=True):
                solved = cho_solve(cho_factor(inner + np.diag(own / scale)), residual[star, pixels])
                out[star] = self.factors[pixels].T @ solved / np.sqrt(scale)
        return out

    def marginal_variance(self, problem: PixelProblem, s2: np.ndarray) -> np.ndarray:
        """What the diagonal has beyond the usual quoted noise, at least zero."""
        quoted = mean_quoted_variance(problem.ivar) if self.quoted is None else np.nan_to_num(self.quoted) ** 2
        return np.where(np.isfinite(s2), np.maximum(np.diagonal(self.covariance) - quoted, 0.0), s2)

    def total_variance(self, s2: np.ndarray, ivar: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """The diagonal, scaled for the star; the quoted noise is part of it, but for what is beyond the usual."""
        growth, extra = self._star_noise(np.where(np.isfinite(ivar), ivar, 0.0), pixels)
        return growth[:, None] * np.diagonal(self.covariance)[pixels] + extra

    def variance_shares(self, s2: np.ndarray) -> np.ndarray:
        """As `LearnedScatter.variance_shares`, of the trace of the covariance."""
        return np.sum(self.factors[np.isfinite(s2)] ** 2, axis=0) / np.trace(self.covariance)

    def label_tables(self, response: Response) -> "CovarianceTables":
        """As `LearnedScatter.label_tables`; ValueError if the covariance is not positive definite."""
        if self.quoted is None or self.own is None:
            noise = StarNoise.none(len(self.noise))
        else:
            noise = StarNoise(np.nan_to_num(self.quoted), np.nan_to_num(self.own), self.constant, self.slope)
        return CovarianceTables.from_covariance(
            self.covariance,
            response,
            self.rank,
            typical=self.typical,
            floor=self.floor,
            leading_log_det=self._leading_log_det,
            noise=noise,
        )

    def split_theta_covariance(self, covariance: np.ndarray, gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels share all of it."""
        return np.zeros_like(covariance), np.linalg.pinv(gram, hermitian=True)

    def noise_parts(self, s2: np.ndarray) -> PartsOfStar:
        """As `LearnedScatter.noise_parts`: photon noise is what is no more than the noise N, correlated the rest."""
        noise = np.where(np.isfinite(self.noise), self.noise, 0.0)
        scaled, variances = self._scaled
        basis = scaled / np.sqrt(np.where(variances > 0, variances, 1.0))
        beyond = (basis * np.maximum(variances - 1, 0.0)) @ basis.T * np.outer(noise, noise)
        photon = self.covariance - beyond
        last: list[DenseParts] = []

        def parts(used: np.ndarray, ivar: np.ndarray, of_theta: np.ndarray, h: float) -> NoiseParts:
            (scale,), (extra,) = self._star_noise(ivar[None], used)
            same = last and not extra.any() and np.array_equal(last[0].used, used)
            if not same:  # Stars that miss no pixel share one factor.
                at = np.ix_(used, used)
                own = photon[at] + np.diag(extra / scale)
                last[:] = [DenseParts(used, own, beyond[at], cho_factor(own + beyond[at]), 0.0, 1.0, 0.0)]
            out = replace(last[0], scale=scale, h=h, free=self.typical_square(len(used)))
            if extra.any():
                last.clear()
            return out

        return parts


@dataclass(frozen=True)
class DenseParts(NoiseParts):
    """A full covariance, ``photon + beyond``, times the scale of the star; errors of theta add h times it, unscaled."""

    used: np.ndarray
    photon: np.ndarray
    beyond: np.ndarray
    factor: tuple[np.ndarray, bool]
    free: float
    scale: float
    h: float

    def solved(self, right: np.ndarray) -> np.ndarray:
        """As `NoiseParts.solved`."""
        return cho_solve(self.factor, right) / (self.scale + self.h)

    def weights(self) -> tuple[np.ndarray, float]:
        """As `NoiseParts.weights`; no pixel's theta has errors of its own, so that the diagonal does not matter."""
        return np.zeros(len(self.photon)), self.free / (self.scale + self.h)

    def variances(self, gain: np.ndarray) -> np.ndarray:
        """As `NoiseParts.variances`."""
        photon, beyond = (np.einsum("kp,kp->k", gain @ part, gain) for part in (self.photon, self.beyond))
        own = self.scale * np.stack([photon, np.zeros_like(photon), beyond])
        return np.concatenate([own, self.h * (photon + beyond)[None]])


def log_density_across(residual: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Normal log density across the leading directions, of unit variance in each, shape (star,)."""
    n_others = basis.shape[0] - basis.shape[1]
    if not n_others:
        return np.zeros(len(residual))
    rest = np.sum(residual**2, axis=1) - np.sum((residual @ basis) ** 2, axis=1)
    return -0.5 * (rest + n_others * np.log(2 * np.pi))


def check_complete(ivar: np.ndarray, pixels: np.ndarray) -> None:
    """Raise ValueError, naming the first, if a star has no ivar, shape (star, pixel), at one of these pixels."""
    lost = ivar <= 0
    if lost.any():
        star, pixel = np.argwhere(lost)[0]
        raise ValueError(
            f"a full covariance is learned from complete spectra, but {lost.sum()} pixels of {lost.any(axis=1).sum()} "
            f"stars have no ivar, the first is pixel {pixels[pixel]} of star {star}: leave those stars or pixels out, "
            "or use scatter.LowRank"
        )
