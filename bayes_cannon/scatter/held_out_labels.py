r"""What a covariance is worth for labels, from training stars that had no part in it.

Near its true labels the label errors of a star are linear in its residual r (`labelling.error_budget`),

.. math:: \delta x = F^{-1} J^T C^{-1} r, \qquad F = J^T C^{-1} J,

with the derivatives J of the model by the labels, so that labels need not be inferred to know by how much they are off:
:math:`m = \delta x^T F\, \delta x` is a chi^2 of K labels if C is right. With :math:`\nu` degrees of freedom and q
coordinates, m over the variance scale of the star (`labelling.compressed.tail_scale`) is K times a variable of Fisher's
F distribution with K and :math:`\nu + q - K` degrees of freedom, over its mean. Medians are compared, because a few
stars are off whatever the covariance, and a caution that their errors need would be wrong for all others.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
from scipy.special import chdtri, fdtri

from bayes_cannon.core.terms import Terms
from bayes_cannon.core.vectorizer import monomials
from bayes_cannon.scatter.base import Coefficients, LearnedScatter
from bayes_cannon.training.problem import PixelProblem

SINGULAR = 1e-12
"""Information on a direction of the labels below this, relative to the largest, is none."""
MAX_ROUNDS, TOLERANCE = 100, 1e-6


@dataclass(frozen=True)
class HeldOutLabels:
    """Stars, each seen by a covariance of others; all have shape (star,).

    Attributes
    ----------
    square
        The m of the labels.
    log_information
        ``ln det F``.
    n_labels
        Labels that the spectrum tells something of.
    chi_squared, n_leading, nu
        Squared length of the leading coordinates, their number, and the degrees of freedom.
    across
        Variance across the leading directions, in units of the noise; one where there are none.

    """

    square: np.ndarray
    log_information: np.ndarray
    n_labels: np.ndarray
    chi_squared: np.ndarray
    n_leading: np.ndarray
    nu: np.ndarray
    across: np.ndarray

    @classmethod
    def of_fit(
        cls, residual: np.ndarray, growth: np.ndarray, terms: Terms, theta: np.ndarray, basis: np.ndarray,
        variances: np.ndarray, nu: float,
    ) -> "HeldOutLabels":  # fmt: skip
        """Stars with these residuals, shape (star, pixel), all in units of the noise.

        Parameters
        ----------
        residual, growth
            Flux beyond the model, and what the covariance of each star is multiplied by, shape (star,).
        terms
            Of the stars.
        theta
            Shape (pixel, term).
        basis, variances, nu
            Leading directions, variances along them, and degrees of freedom.

        """
        n_stars, n_pixels, q = *residual.shape, len(variances)
        along = residual @ basis
        rest = np.sum(residual**2, axis=1) - np.sum(along**2, axis=1)
        across = np.maximum(rest, 0.0) / growth / (n_pixels - q) if n_pixels > q else np.ones(n_stars)
        gradients = term_gradients(terms)
        of_basis, gram = basis.T @ theta, theta.T @ theta
        level = max(1.0, float(np.median(across)))
        inner = of_basis.T @ (of_basis / variances[:, None]) + (gram - of_basis.T @ of_basis) / level
        pulled = (along / variances) @ of_basis + (residual @ theta - along @ of_basis) / level
        information = gradients @ inner @ gradients.swapaxes(1, 2) / growth[:, None, None]
        score = np.einsum("nkd,nd->nk", gradients, pulled) / growth[:, None]
        values, vectors = np.linalg.eigh(information)
        known = values > SINGULAR * np.maximum(values[:, -1:], np.finfo(float).tiny)
        safe = np.where(known, values, 1.0)
        square = np.sum(np.where(known, np.einsum("nkm,nk->nm", vectors, score) ** 2 / safe, 0.0), axis=1)
        chi_squared = np.sum(along**2 / variances, axis=1) / growth
        return cls(
            square, np.log(safe).sum(axis=1), known.sum(axis=1), chi_squared, np.full(n_stars, float(q)),
            np.full(n_stars, float(nu)), across,
        )  # fmt: skip

    @classmethod
    def concatenated(cls, parts: Iterable["HeldOutLabels"]) -> "HeldOutLabels":
        """All the stars in at least one part."""
        parts = list(parts)
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    @property
    def level(self) -> float:
        """Variance across the leading directions that labels should count with: no less than the noise."""
        return max(1.0, float(np.median(self.across)))

    @property
    def floor(self) -> float:
        """What the stars have of that level."""
        return float(np.median(self.across)) / self.level

    def typical(self, nu: float) -> float:
        """Squares along a leading direction over their variance, one where the covariance is that of the stars."""
        return float(np.median(self.chi_squared / (self.n_leading * _median_square(self.n_leading, nu))))

    def scale(self, nu: float) -> float:
        """What the covariance is to be multiplied by, so that its errors of labels are right.

        Where the labels make no difference to the spectra it is the one that makes the spectra right.
        """
        known, typical = self.n_labels > 0, self.typical(nu)
        if not known.any():
            return typical
        scale, count = typical, self.n_labels[known]
        for _ in range(MAX_ROUNDS):
            n = typical / scale * self.n_leading[known]
            star, freedom = np.ones(len(n)), np.full(len(n), np.inf)
            if np.isfinite(nu):
                freedom = np.maximum(nu + n - count, 3.0)
                left = np.maximum(self.chi_squared[known] - self.square[known], 0.0)
                star = (nu + left / scale) / (freedom - 2)
            median = count * _median_square(count, freedom)
            if np.isfinite(nu):
                median *= (freedom - 2) / freedom
            new = float(np.median(self.square[known] / star / median))
            if not new > 0 or abs(new / scale - 1) < TOLERANCE:
                break
            scale = new
        return scale

    @property
    def score(self) -> float:
        """Minus the logarithm of the volume of the errors, once they are scaled to be right; the mean of the stars."""
        nu = float(np.median(self.nu))
        scale, star = self.scale(nu), np.zeros(len(self.square))
        if np.isfinite(nu):
            star = np.log((nu + self.chi_squared / scale) / (nu + self.typical(nu) / scale * self.n_leading))
        return float(np.mean(0.5 * self.log_information - 0.5 * self.n_labels * (np.log(scale) + star)))


def _median_square(n: np.ndarray, freedom: np.ndarray | float) -> np.ndarray:
    """Median of chi^2 over its degrees of freedom, or of Fisher's F where those of its scale are finite."""
    normal = chdtri(n, 0.5) / n
    heavy = np.isfinite(freedom)
    return np.where(heavy, fdtri(n, np.where(heavy, freedom, 1.0), 0.5), normal)


def term_gradients(terms: Terms) -> np.ndarray:
    """Derivatives of the terms by the scaled labels at the stars, shape (star, label, term)."""
    exponents = np.asarray(terms.exponents)
    out = np.zeros((len(terms.x), exponents.shape[1], len(exponents)))
    for label in range(exponents.shape[1]):
        less = exponents.copy()
        less[:, label] = np.maximum(less[:, label] - 1, 0)
        out[:, label] = exponents[:, label] * monomials(terms.x, less)
    return out


def label_scores(problem: PixelProblem, solution: Coefficients, learned: LearnedScatter) -> np.ndarray:
    r"""How good the labels of stars are by the errors that a learned scatter gives to labels of their spectra.

    .. math:: -\frac{K}{2 k}\, \delta x^T V^{-1} \delta x - \tfrac12 \ln\det V, \qquad V = t F^{-1}

    with the variance scale t of the star, which is one where the scatter is normal, and the median k of chi^2 of K
    labels: a log density, up to a constant, but that the *median* of the stars is largest where the errors are right.

    Parameters
    ----------
    problem
        Stars that the scatter was not learned from.
    solution, learned
        Coefficients and scatter.

    Returns
    -------
    score
        Shape (star,); NaN where the spectrum does not determine all labels.

    """
    theta, s2 = solution.theta, solution.s2
    solved = np.isfinite(theta).all(axis=1) & np.isfinite(s2)
    factor = learned.label_factor(problem.terms.x)
    gradients, parts = term_gradients(problem.terms), learned.noise_parts(s2)
    score = np.full(len(gradients), np.nan)
    for star, gradient in enumerate(gradients):
        used = np.flatnonzero(solved & (problem.ivar[star] > 0))
        n_labels = len(gradient)
        if len(used) <= n_labels:
            continue
        residual = problem.flux[star, used] - theta[used] @ problem.design[star]
        jacobian = theta[used] @ gradient.T
        noise = parts(used, problem.ivar[star, used], np.zeros(len(used)), 0.0)
        pulled = noise.solved(np.column_stack([jacobian, residual])) / factor[star]
        information, right = jacobian.T @ pulled[:, :-1], jacobian.T @ pulled[:, -1]
        values, vectors = np.linalg.eigh(information)
        if not values[0] > SINGULAR * values[-1]:
            continue
        square, scale = np.sum((vectors.T @ right) ** 2 / values), 1.0
        if np.isfinite(learned.nu):
            left = float(residual @ pulled[:, -1]) - square
            freedom = learned.nu + learned.typical_square(len(used)) - n_labels - 2
            scale = (learned.nu + left) / max(freedom, 1.0)
        square /= scale * _median_square(np.array(n_labels), np.inf)
        score[star] = 0.5 * (np.log(values).sum() - n_labels * np.log(scale) - square)
    return score
