"""Scatter beside a noise whose covariance the survey gives for each star, as training learned it."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from scipy.linalg import cho_factor, cho_solve, eigh

from bayes_cannon.core.student_t import log_density
from bayes_cannon.scatter.base import Coefficients, LearnedScatter, NoiseParts, PartsOfStar
from bayes_cannon.scatter.common_covariance import DenseParts, check_complete, log_density_across
from bayes_cannon.scatter.label_tables import Response
from bayes_cannon.scatter.pca_start import with_positive_peaks
from bayes_cannon.scatter.star_noise_tables import NO_COVARIANCE, StarNoiseTables
from bayes_cannon.scatter.star_noise_training import SMALLEST, StarNoiseSolution, projected_noise
from bayes_cannon.training.problem import PixelProblem


@dataclass(frozen=True, eq=False)
class NoiseAndScatter(LearnedScatter):
    r"""Covariance :math:`\kappa\, G_n + L` of a star along some directions, which alone count.

    :math:`G_n` is what the survey says of the star: :math:`D_n R D_n` with the correlation R and the errors
    :math:`D_n = \mathrm{ivar}^{-1/2}` of its pixels, or a covariance of its own (`scatter.star_noise_training`).

    Attributes
    ----------
    basis
        Orthonormal directions in units of the quoted noise, shape (pixel, direction); zero at pixels without solution.
    quoted
        Usual quoted noise, shape (pixel,); NaN at pixels without solution.
    scatter
        L, shape (direction, direction).
    usual
        Mean of kappa G over the training stars, shape (direction, direction).
    noise_scale
        kappa.
    nu
        Degrees of freedom of the Student-t distribution along the directions; infinite where it is normal.
    correlation
        R, shape (pixel, other pixel); None where each star has a covariance of its own.

    """

    basis: np.ndarray = field(metadata={"dims": ("pixel", "direction")})
    quoted: np.ndarray = field(metadata={"dims": ("pixel",)})
    scatter: np.ndarray = field(metadata={"dims": ("direction", "other_direction")})
    usual: np.ndarray = field(metadata={"dims": ("direction", "other_direction")})
    noise_scale: float = 1.0
    nu: float = np.inf
    correlation: np.ndarray | None = field(default=None, metadata={"dims": ("pixel", "other_pixel")})

    @classmethod
    def of(cls, found: StarNoiseSolution, correlation: np.ndarray | None, n_pixels: int) -> "NoiseAndScatter":
        """What training found, of all pixels."""
        at = found.directions
        basis, quoted = np.zeros((n_pixels, at.basis.shape[1])), np.full(n_pixels, np.nan)
        basis[at.pixels], quoted[at.pixels] = at.basis, at.noise
        return cls(basis, quoted, found.scatter, found.usual, found.noise_scale, found.nu, correlation)

    @property
    def needs_covariance(self) -> bool:
        """Whether each star has to bring a covariance of its own."""
        return self.correlation is None

    @cached_property
    def factors(self) -> np.ndarray:  # type: ignore[override]  # Made of what is stored.
        """The scatter's own directions in flux, of the length of their scatter, shape (pixel, factor)."""
        variances, rotation = (array[..., ::-1] for array in eigh(self.scatter))
        kept = variances > 1e-12 * max(variances[0], np.finfo(float).tiny)
        scaled = with_positive_peaks(self.basis @ rotation[:, kept]) * np.sqrt(variances[kept])
        return np.asarray(np.nan_to_num(self.quoted)[:, None] * scaled)

    @property
    def _projection(self) -> np.ndarray:
        """From flux to coordinates, shape (pixel, direction)."""
        return self.basis / np.where(np.isfinite(self.quoted), self.quoted, 1.0)[:, None]

    def check(self, n_pixels: int) -> None:
        """Raise ValueError unless it is the covariance of this number of pixels."""
        if len(self.quoted) != n_pixels:
            raise ValueError(f"the scatter has directions of {len(self.quoted)} pixels, theta has {n_pixels}")

    def scatter_variance(self) -> np.ndarray:
        """Of each pixel, shape (pixel,): the diagonal of L in flux; infinite at pixels without solution."""
        variance = np.einsum("pi,ij,pj->p", self.basis, self.scatter, self.basis) * np.nan_to_num(self.quoted) ** 2
        return np.where(np.isfinite(self.quoted), variance, np.inf)

    def _along(
        self, problem: PixelProblem, solution: Coefficients
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Residuals r at the solved pixels over the usual noise, ``C^-1 z``, chi^2, and ``ln det C`` of each star."""
        at = np.flatnonzero(np.isfinite(self.quoted))
        ivar = problem.ivar[:, at]
        check_complete(ivar, at)
        if self.needs_covariance and problem.covariance is None:
            raise ValueError(NO_COVARIANCE)
        residual = (problem.flux[:, at] - problem.design @ solution.theta[at].T) / self.quoted[at]
        noise = projected_noise(self._projection[at], ivar, at, self.correlation, problem.covariance)
        z, covariance = residual @ self.basis[at], self.noise_scale * noise + self.scatter
        pulled = np.linalg.solve(covariance, z[..., None])[..., 0]
        return residual, pulled, np.sum(z * pulled, axis=1), np.linalg.slogdet(covariance)[1]

    def log_likelihood(self, problem: PixelProblem, solution: Coefficients) -> np.ndarray:
        """As `LearnedScatter.log_likelihood`: across the directions the noise is the usual quoted one.

        ValueError if a star misses a pixel that has a solution.
        """
        residual, pulled, chi_squared, log_det = self._along(problem, solution)
        at = np.isfinite(self.quoted)
        along = log_density(chi_squared, log_det, pulled.shape[1], self.nu)
        return np.asarray(along + log_density_across(residual, self.basis[at]) - np.log(self.quoted[at]).sum())

    def star_precisions(self, problem: PixelProblem, solution: Coefficients) -> np.ndarray | None:
        """``(nu + q) / (nu + chi^2)``, over the mean of the stars."""
        if not np.isfinite(self.nu):
            return None
        _, pulled, chi_squared, _ = self._along(problem, solution)
        weight = (self.nu + pulled.shape[1]) / (self.nu + chi_squared)
        return np.asarray(weight / weight.mean())

    def latent_factors(self, problem: PixelProblem, solution: Coefficients) -> np.ndarray:
        """Coordinates of the scatter along its factors, each of unit variance: ``U' C^-1 r``."""
        return np.asarray(self._along(problem, solution)[1] @ (self._projection.T @ self.factors))

    def typical_square(self, n_pixels: int) -> float:
        """As `LearnedScatter.typical_square`: coordinates count, not pixels."""
        return float(min(n_pixels, self.basis.shape[1]))

    def marginal_variance(self, problem: PixelProblem, s2: np.ndarray) -> np.ndarray:
        """s2, which is what each pixel has of the scatter."""
        return s2

    def total_variance(self, s2: np.ndarray, ivar: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """``s2 + kappa / ivar``."""
        return np.asarray(s2[pixels] + self.noise_scale / ivar)

    def variance_shares(self, s2: np.ndarray) -> np.ndarray:
        """As `LearnedScatter.variance_shares`, of scatter and usual noise together."""
        noise = np.nansum(self.quoted**2) * self.noise_scale
        return np.sum(self.factors**2, axis=0) / (np.where(np.isfinite(s2), s2, 0.0).sum() + noise)

    def label_tables(self, response: Response) -> StarNoiseTables:
        """As `LearnedScatter.label_tables`."""
        known = np.isfinite(self.quoted)
        own = np.where(known, self.scatter_variance(), 0.0)
        correlation = None
        if self.correlation is not None:
            correlation = np.where(np.outer(known, known), self.correlation, 0.0)
        projection = self._projection
        theta = np.asarray(response.theta)
        return StarNoiseTables(
            projection, self.basis, theta, own, self.scatter, self.usual + self.scatter, self.noise_scale, correlation
        )

    def split_theta_covariance(self, covariance: np.ndarray, gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels share all of it."""
        return np.zeros_like(covariance), np.linalg.pinv(gram, hermitian=True)

    def noise_parts(self, s2: np.ndarray) -> PartsOfStar:
        """As `LearnedScatter.noise_parts`; ValueError where each star has a covariance of its own."""
        if self.correlation is None:
            raise ValueError(
                "the parts of the errors are not known where each star brings the covariance of its noise: they need a "
                "correlation that stars have in common, scatter.Given(correlation=R)"
            )
        scaled = self.basis * np.nan_to_num(self.quoted)[:, None]
        beyond, correlation, projection = scaled @ self.scatter @ scaled.T, self.correlation, self._projection

        def parts(used: np.ndarray, ivar: np.ndarray, of_theta: np.ndarray, h: float) -> NoiseParts:
            error, seen = 1 / np.sqrt(ivar), self.basis[used].T @ self.basis[used]
            photon = self.noise_scale * correlation[np.ix_(used, used)] * np.outer(error, error)
            inner = projection[used].T @ photon @ projection[used] + seen @ self.scatter @ seen
            inner[np.diag_indices_from(inner)] += self.noise_scale * SMALLEST
            return ProjectedParts(
                used, photon, beyond[np.ix_(used, used)], cho_factor(inner), self.typical_square(len(used)), 1.0, h,
                projection[used],
            )  # fmt: skip

        return parts


@dataclass(frozen=True)
class ProjectedParts(DenseParts):
    """Noise of one star of which some directions count; ``factor`` is of the covariance along these."""

    projection: np.ndarray

    def solved(self, right: np.ndarray) -> np.ndarray:
        """As `NoiseParts.solved`: ``B C^-1 B' right``."""
        return self.projection @ cho_solve(self.factor, self.projection.T @ right) / (self.scale + self.h)
