r"""Training with the full covariance of the scatter, for spectra of few pixels or many stars.

The residuals of all stars share one covariance, in units of the usual quoted noise :math:`\bar\sigma_j` of each pixel

.. math:: T = (1 - a)\, S + a\, \mathrm{diag}(S), \qquad
          S = \frac{N}{N - D}\, \frac{\sum_n u_n e_n e_n^T / c_n}{\sum_n u_n}, \quad
          e_n = (y_n - \Theta v_n) / \bar\sigma, \quad c_n = b_0 + b_1 g_n

with the shrinkage a. The noise :math:`g_n` of a star's spectrum relative to the usual one (`scatter.usable_pixels`)
scales its covariance as far as that is noise: how far is fitted, and normalized so that :math:`1 / c_n` is one on
average. Where it is asked for, its labels scale it, too (`scatter.star_scale`).

Spectra sampled from fewer numbers than pixels, as Gaia's XP spectra are, have directions in which the residuals are
much smaller than the quoted noise, and so have fewer stars than pixels, for want of stars. There a misfit of
the model would pass for information, so that only the leading directions of S, before it is shrunk, those with more
than a given share of the quoted noise, have the variance of T along them; all others get the quoted noise, or what
held-out stars have there if that is more. With heavy tails the q leading coordinates of a star follow a multivariate
Student-t distribution together, with :math:`u_n = (\nu + q) / (\nu + \chi_n^2)`; one common scale, nu and b maximize
its likelihood in each round, which is the parameter expansion of Liu, Rubin & Wu (1998). Each star's chi^2 is by the
covariance without it, :math:`\chi^2 / (1 - k) / (1 - h)` with its share k of the covariance along its own residual and
its leverage h: where stars are as few as directions, that with it is the same for all stars and says nothing of them.

All pixels have the same weights, so that without a penalty the best theta is that of least squares with the weights
:math:`u / c`, whatever the covariance. With a penalty or bounds each pixel is a lasso of its own with its variance.

What matters in the end are labels. With few stars the covariance is wrong most where it is small, which is where the
information is, so that labels are off by more than spectra. Hence its scale is the one that gives labels of training
stars that are held out in turn their scatter, by the medians, and the shrinkage the one with the smallest errors then
(`scatter.held_out_labels`).
"""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from scipy.linalg import eigh

from bayes_cannon.core.arguments import number
from bayes_cannon.scatter.common_covariance import CommonCovariance, check_complete
from bayes_cannon.scatter.common_design import is_free, largest_gain, shared_weight_theta
from bayes_cannon.scatter.held_out_labels import HeldOutLabels
from bayes_cannon.scatter.pca_start import with_positive_peaks
from bayes_cannon.scatter.star_scale import StarScale, Unseen, fitted_scale, varied
from bayes_cannon.scatter.usable_pixels import completed, noise_levels, solved_pixels, usual_noise
from bayes_cannon.training.problem import PixelProblem

SHRINKAGES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 0.9, 0.95)
"""Strengths of shrinkage that are tried where none is given."""
N_FOLDS = 5
"""Parts of the training stars that are held out in turn."""
MAX_ROUNDS, TOLERANCE = 100, 1e-3
"""Rounds at most, and the change of the stars' weights, and of variances that theta depends on, at which they end."""


class FullSettings(Protocol):
    """What `scatter.full.Full` states; its attributes are documented there."""

    @property
    def shrinkage(self) -> float | None:
        """The a of ``(1 - a) S + a diag(S)``, or None to choose it."""

    @property
    def heavy_tails(self) -> bool:
        """Whether the degrees of freedom are fitted."""

    @property
    def share(self) -> float:
        """Smallest variance along a direction, in units of the quoted noise, that is trusted."""

    @property
    def label_scale(self) -> bool:
        """Whether the scale of a star's covariance depends on its labels."""


@dataclass(frozen=True)
class FullSolution:
    """Optimum of P pixels together.

    Attributes
    ----------
    theta, s2
        Shape (pixel, term) and (pixel,): NaN and infinite at pixels that took no part. s2 is what the variance of a
        pixel has beyond the usual quoted noise, at least zero.
    learned
        The covariance, for stars other than those it was learned from.
    gradient
        Largest change that one coefficient of theta alone would make at the final weights and variances, in units of
        the square root of the training scalar, shape (pixel,).
    weight
        Scale u of each star, shape (star,), one on average: small for stars that do not fit.
    shrinkage
        The a that was used.
    scale
        What the covariance of the training stars was multiplied by.
    rounds, converged
        Rounds, and whether the weights settled.

    """

    theta: np.ndarray
    s2: np.ndarray
    learned: CommonCovariance
    gradient: np.ndarray
    weight: np.ndarray
    shrinkage: float
    scale: float
    rounds: int
    converged: bool


@dataclass(frozen=True)
class _Data:
    """Training stars: complete spectra, the usual noise, shape (pixel,), what is not trusted, (star, pixel), and g."""

    problem: PixelProblem
    noise: np.ndarray
    bad: np.ndarray
    levels: np.ndarray

    @classmethod
    def of(cls, problem: PixelProblem) -> "_Data":
        noise, bad = usual_noise(problem.ivar)
        levels = np.asarray(noise_levels(np.where(bad, 0.0, problem.ivar), noise))
        return cls(problem, noise, bad, levels)

    def of_stars(self, stars: np.ndarray) -> "_Data":
        return _Data(self.problem.of_stars(stars), self.noise, self.bad[stars], self.levels[stars])

    @property
    def x(self) -> np.ndarray:
        """Scaled labels, shape (star, label)."""
        return self.problem.terms.x


@dataclass(frozen=True)
class _Fit:
    """State of the iteration on some stars, in units of the usual quoted noise.

    Attributes
    ----------
    theta, noise
        Theta in flux, shape (pixel, term), and the quoted noise, shape (pixel,).
    basis, variances
        The leading directions, shape (pixel, q), and the variances along them, shape (q,).
    diagonal
        Variance of each pixel, shape (pixel,).
    nu, weight, rounds, converged
        As in `FullSolution`.
    growth
        The c of stars.
    wants_labels
        Whether beta gains more likelihood than it has parameters.

    """

    theta: np.ndarray
    noise: np.ndarray
    basis: np.ndarray
    variances: np.ndarray
    diagonal: np.ndarray
    nu: float
    weight: np.ndarray
    growth: StarScale
    rounds: int
    converged: bool
    wants_labels: bool = False

    def completed(self, data: _Data) -> tuple[np.ndarray, np.ndarray | None]:
        """Flux beyond the model, shape (star, pixel), bad numbers replaced, and the spread of those if there are any.

        The spread is what `completed` returns.
        """
        residual = (data.problem.flux - data.problem.design @ self.theta.T) / self.noise
        if not data.bad.any():
            return residual, None
        precision = (self.basis * (1 / self.variances - 1)) @ self.basis.T
        precision[np.diag_indices_from(precision)] += 1
        filled, spread, _ = completed(residual, data.bad, precision)
        return filled, spread

    def stars(self, data: _Data) -> np.ndarray:
        """The c of stars, shape (star,)."""
        return np.asarray(self.growth.of(data.levels, data.x))


def train_full(problem: PixelProblem, theta: np.ndarray, s2: np.ndarray, scatter: FullSettings) -> FullSolution:
    """Theta and the full covariance.

    Parameters
    ----------
    problem
        The pixels. Those without a finite ``theta`` take no part.
    theta, s2
        Optimum of the independent model, shape (pixel, term) and (pixel,).
    scatter
        What is asked for.

    Returns
    -------
    solution
        In canonical form: factors orthogonal in the metric of the quoted noise, the strongest first.

    Raises
    ------
    ValueError
        If fewer than two pixels have a solution, a star misses a pixel that others have, there are too few stars, the
        noise exceeds all residuals, or the shrinkage is zero with fewer stars than pixels.

    """
    solved = solved_pixels(problem, theta, s2)
    part = problem.at(solved)
    check_complete(part.ivar, solved)
    data, start = _Data.of(part), theta[solved]
    held_out, shrinkage = _best_held_out(data, start, scatter)
    fit = _fit(data, start, scatter, shrinkage)
    scale = held_out.scale(fit.nu)
    flux = part.flux + data.bad * (fit.completed(data)[0] * fit.noise + part.design @ fit.theta.T - part.flux)
    weight = fit.weight / fit.stars(data)
    gain = largest_gain(replace(part, flux=flux), fit.theta, weight, fit.diagonal * fit.noise**2)
    theta, s2, noise, quoted, own, gradient = (np.full_like(array, np.nan) for array in (theta, *[s2] * 5))
    factors = np.zeros((len(s2), len(fit.variances)))
    theta[solved], quoted[solved], gradient[solved] = fit.theta, fit.noise, gain
    noise[solved] = fit.noise * np.sqrt(scale * held_out.level)
    factors[solved] = fit.noise[:, None] * with_positive_peaks(fit.basis) * np.sqrt(scale * fit.variances)
    across = noise[solved] ** 2 * (1 - np.sum(fit.basis**2, axis=1))
    own[solved] = np.maximum(np.sum(factors[solved] ** 2, axis=1) + across - fit.noise**2, 0.0)
    s2 = np.where(np.isfinite(own), own, np.inf)
    n_stars, n_terms = problem.design.shape
    learned = CommonCovariance(
        factors, noise, fit.nu, held_out.floor / scale, held_out.typical(fit.nu) / scale, quoted, own,
        fit.growth.constant, fit.growth.slope, theta_included=1 + n_terms / (n_stars * (1 - 1 / N_FOLDS)),
        label_scale=fit.growth.beta,
    )  # fmt: skip
    return FullSolution(theta, s2, learned, gradient, fit.weight, shrinkage, scale, fit.rounds, fit.converged)


def check_shrinkage_and_share(shrinkage: float | None, share: float) -> None:
    """Raise ValueError where one is out of its range."""
    if shrinkage is not None and not 0 <= number(shrinkage) <= 1:
        raise ValueError(f"shrinkage must be from 0 to 1, or None to choose it; got {shrinkage!r}")
    if not 0 <= number(share) < np.inf:
        raise ValueError(f"share must be finite and not negative, got {share!r}")


def fewest_stars(n_terms: int) -> int:
    """Training stars that a full covariance needs at least, so that each part that is held out leaves enough."""
    return 3 * n_terms + N_FOLDS


def check_stars(n_stars: int, n_terms: int) -> None:
    """Raise ValueError if there are too few training stars."""
    if n_stars < fewest_stars(n_terms):
        raise ValueError(
            f"a full covariance needs at least {fewest_stars(n_terms)} stars with {n_terms} terms, there are {n_stars}"
        )


def _best_held_out(data: _Data, theta: np.ndarray, scatter: FullSettings) -> tuple[HeldOutLabels, float]:
    """Held-out stars with the given shrinkage, or with that of the smallest errors of labels, and the shrinkage."""
    n_stars, n_terms = data.problem.design.shape
    n_pixels = data.problem.n_pixels
    check_stars(n_stars, n_terms)
    too_few = n_stars * (N_FOLDS - 1) // N_FOLDS - n_terms <= n_pixels
    if scatter.shrinkage == 0 and too_few:
        raise ValueError(
            f"shrinkage 0 needs a quarter more stars than pixels and terms: there are {n_stars} stars, "
            f"{n_pixels} pixels and {n_terms} terms; give a larger one, or leave it out to have it chosen"
        )
    if scatter.shrinkage is not None:
        return _held_out(data, theta, scatter, scatter.shrinkage), scatter.shrinkage
    tried = SHRINKAGES[1:] if too_few else SHRINKAGES
    best = _held_out(data, theta, scatter, tried[0]), tried[0]
    for shrinkage in tried[1:]:
        other = _held_out(data, theta, scatter, shrinkage)
        if other.score < best[0].score:
            break  # Beyond the maximum.
        best = other, shrinkage
    return best


def _held_out(data: _Data, theta: np.ndarray, scatter: FullSettings, shrinkage: float) -> HeldOutLabels:
    """Each part of the stars, seen by a covariance of the others."""
    fold = np.random.default_rng(0).permutation(len(data.levels)) % N_FOLDS
    parts = []
    for part in range(N_FOLDS):
        others, out = data.of_stars(fold != part), data.of_stars(fold == part)
        fit = _fit(others, theta, scatter, shrinkage)
        growth = fit.stars(out)
        scaled = fit.theta / fit.noise[:, None], fit.basis, fit.variances
        parts.append(HeldOutLabels.of_fit(fit.completed(out)[0], growth, out.problem.terms, *scaled, fit.nu))
    return HeldOutLabels.concatenated(parts)


def _fit(data: _Data, theta: np.ndarray, scatter: FullSettings, shrinkage: float) -> _Fit:
    """The rounds with labels, if they are asked for and wanted, or without."""
    fit = _rounds(data, theta, scatter, shrinkage, scatter.label_scale)
    if scatter.label_scale and not fit.wants_labels:
        return _rounds(data, theta, scatter, shrinkage, False)
    return fit


def _rounds(data: _Data, theta: np.ndarray, scatter: FullSettings, shrinkage: float, label_scale: bool) -> _Fit:
    """Rounds of theta, covariance, tails and weights until the weights settle."""
    problem, noise, n_stars = data.problem, data.noise, len(data.levels)
    n_terms, differ = problem.design.shape[1], varied(data.levels) or label_scale
    diagonal = np.mean(((problem.flux - problem.design @ theta.T) / noise) ** 2 * ~data.bad, axis=0)
    empty = np.zeros((problem.n_pixels, 0)), np.zeros(0)
    fit = _Fit(theta, noise, *empty, diagonal, np.inf, np.ones(n_stars), StarScale(), 0, False)
    filled, spread = fit.completed(data)
    end = None
    for rounds in range(1, MAX_ROUNDS + 1):
        flux = np.where(data.bad, problem.design @ fit.theta.T + filled * noise, problem.flux)
        growth = fit.stars(data)
        weight = fit.weight / growth
        theta = shared_weight_theta(replace(problem, flux=flux), fit.theta, weight, fit.diagonal * noise**2)
        unit = n_stars / (n_stars - n_terms) / fit.weight.sum()
        white = (flux - problem.design @ theta.T) / noise / np.sqrt(growth)[:, None]
        basis = fit.basis
        if rounds <= 1 + differ:  # Later the direction of a bad star would come and go with its weight.
            basis = leading(white * np.sqrt(unit * fit.weight)[:, None], scatter.share)
        along = white @ basis
        diagonal = unit * (fit.weight @ white**2)
        covariance = unit * (along * fit.weight[:, None]).T @ along
        if spread is not None:
            diagonal += unit * np.diag(spread)
            covariance += unit * basis.T @ spread @ basis
        covariance = (1 - shrinkage) * covariance + shrinkage * basis.T @ (diagonal[:, None] * basis)
        variances, rotation = (array[..., ::-1] for array in eigh(covariance))
        variances, basis = np.maximum(variances, scatter.share), basis @ rotation
        own = (1 - shrinkage) * unit * fit.weight, _leverage(problem.design, weight)
        chi_squared = _without_itself(np.sum((along @ rotation) ** 2 / variances, axis=1), *own) * growth
        new = replace(fit, theta=theta, basis=basis, variances=variances, diagonal=diagonal, rounds=rounds)
        if scatter.heavy_tails or differ:
            new, end = _with_tails(new, chi_squared, data, end, scatter.heavy_tails, label_scale)
        before, (filled, spread) = filled, new.completed(data)
        change = max(
            np.abs(new.weight - fit.weight).max(), np.abs(new.stars(data) / growth - 1).max(),
            np.abs(np.where(data.bad, filled - before, 0.0)).max(),
        )  # fmt: skip
        if not is_free(problem):  # Only then does theta depend on the variances.
            change = max(change, np.abs(new.diagonal / fit.diagonal - 1).max())
        fit = new
        if change < TOLERANCE and rounds > differ:
            return replace(fit, converged=True)
    return fit


def leading(root: np.ndarray, share: float) -> np.ndarray:
    """Directions in which ``root' root`` has more than the share of the noise, shape (pixel, direction)."""
    few = len(root) < root.shape[1]
    variances, vectors = eigh(root @ root.T if few else root.T @ root)
    # Rounding leaves something in directions that no star has.
    leading = (variances > share) & (variances > 1e-12 * variances[-1])
    if not leading.any():
        raise ValueError(f"no direction of the residuals has {share} of the quoted noise: scale ivar, it is too small")
    return (root.T @ vectors[:, leading]) / np.sqrt(variances[leading]) if few else vectors[:, leading]


def _leverage(design: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """How much of each star's residual theta takes, shape (star,)."""
    return np.sum(np.linalg.qr(np.sqrt(weight)[:, None] * design)[0] ** 2, axis=1)


def _without_itself(chi_squared: np.ndarray, share: np.ndarray, leverage: np.ndarray) -> np.ndarray:
    """Squared length of each star by the covariance of the others, shape (star,)."""
    return chi_squared / np.maximum(1 - share * chi_squared, 1e-3) / np.maximum(1 - leverage, 1e-3)


def _with_tails(
    fit: _Fit, chi_squared: np.ndarray, data: _Data, start: np.ndarray | None, heavy_tails: bool, label_scale: bool
) -> tuple[_Fit, np.ndarray]:
    """The fit with the scale, degrees of freedom and c of the highest likelihood, and their search's end.

    Without heavy tails the scale stays.
    """
    one = np.ones(len(chi_squared))
    unseen = Unseen(chi_squared, 0 * one, one, data.levels, data.x, len(fit.variances))
    found = fitted_scale(unseen, heavy_tails=heavy_tails, label_scale=label_scale, start=start)
    fit = replace(fit, growth=found.growth, wants_labels=found.wants_labels)
    if not heavy_tails:
        return fit, found.end
    weight = (found.nu + unseen.n_leading) / (found.nu + chi_squared / found.scale / fit.stars(data))
    variances, diagonal = found.scale * fit.variances, found.scale * fit.diagonal
    return replace(fit, variances=variances, diagonal=diagonal, nu=found.nu, weight=weight / weight.mean()), found.end
