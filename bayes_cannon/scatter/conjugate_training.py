r"""Training in closed form on a part of the stars: theta integrated out, and residuals of stars that are left out.

Where all pixels give the stars the same weights w, theta is normal about least squares whatever the covariance T of a
spectrum, and with a flat prior the spectrum of another star with terms v is

.. math:: y \sim t_\nu\!\left(\Theta v,\; (c + h)\, T\right), \qquad h = v^T A\, v, \qquad A = (V^T W V)^{-1}

(Zellner 1971, chapter 8), c being what its quoted noise and its labels make of T (`scatter.star_scale`). The residual
of training star n by all others is :math:`e_n / (1 - w_n h_n)`, of covariance
:math:`(c_n + h_n / (1 - w_n h_n))\, T`, so that T is learned from stars that had no part in their
own theta, without training again. Its shrinkage, its scale, nu and c are those of the highest likelihood of stars that
had no part in T either. It is shrunk towards a T whose pixels have the same variances and no correlations: with few
stars the directions of little variance have too little, and those are what labels are read from. Where stars are fewer
than twice the directions the shrinkage is the one with the smallest errors of labels, if that is a stronger one.

A T that is learned from few stars, n for q directions, is the more certain of labels the less it should be: it weights
pixels for the stars that it was learned from, so that labels of others scatter by up to :math:`n / (n - q)` times the
variance that even a T of the right scale says (Rao 1965, Biometrika 52, 447), and more because they leave
the directions too. By how much is looked up in stars that had no part in either, as the median of :math:`g' F^{-1} g`
with the gradient g and the information F of the labels.

A star counts in theta and in T by its share in the part. Densities of a spectrum by several parts compare only in the
same coordinates: those along the leading directions of the residuals of *all* stars, in units of their usual noise
(`leading_directions`), in which alone a part's T differs from the quoted noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh, solve_triangular
from scipy.stats import chi2
from scipy.stats import f as f_law

from bayes_cannon.core.terms import Terms
from bayes_cannon.core.typing import PerStar, StarLabel
from bayes_cannon.scatter.base import PartSolution
from bayes_cannon.scatter.common_covariance import CommonCovariance, check_complete
from bayes_cannon.scatter.full_training import N_FOLDS, SHRINKAGES, FullSettings, leading
from bayes_cannon.scatter.held_out_labels import term_gradients
from bayes_cannon.scatter.pca_start import with_positive_peaks
from bayes_cannon.scatter.star_scale import ScaleFit, StarScale, Unseen, fitted_scale
from bayes_cannon.scatter.usable_pixels import noise_levels, solved_pixels, usual_noise
from bayes_cannon.training.problem import PixelProblem

ROUNDS = 8
"""Rounds of weights at most: the scale of a star changes by less than a per cent in the last one."""
CHOOSING = 2
"""Rounds that choose the shrinkage: in the first one, outliers still count in full, and correlations look spurious."""
SETTLED = 1e-2
"""Change of the stars' weights, and of what replaces bad numbers in units of the noise, at which the rounds end."""
COMPLETE = 4
"""Stars without bad numbers, over the number of terms, that are enough to tell what spectra look like."""
LABEL_FOLDS, MANY = 20, 10
"""Parts of the stars that are left out in turn to look at their labels: few at a time, because the number matters. And
stars over the number of directions, from which on a part of them makes no difference to the directions."""
FEW = 2
"""Stars over the number of directions up to which the shrinkage is chosen by labels: likelihood wants less of it."""
LARGEST_LEVERAGE = 0.9
"""Leverage beyond which a star's own residual says nothing of it: more is not made of it."""


@dataclass(frozen=True)
class Directions:
    """Coordinates in which parts of the stars are compared.

    Attributes
    ----------
    pixels
        Index of the pixels that take part, shape (chosen,).
    noise
        Usual quoted noise of these, shape (chosen,).
    basis
        Orthonormal directions in units of that noise, shape (chosen, direction).
    variances
        Of the residuals of all stars along these, shape (direction,).

    """

    pixels: np.ndarray
    noise: np.ndarray
    basis: np.ndarray
    variances: np.ndarray

    def filled(
        self, flux: np.ndarray, bad: np.ndarray, model: np.ndarray, covariance: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        r"""Flux over the noise with what the good numbers of a star make of its bad ones.

        As `scatter.usable_pixels.completed`, for the covariance :math:`I + B (S - I) B'`: with
        :math:`M = S^{-1} - I`, the rows :math:`B_b` of the bad numbers and :math:`G = B_b' B_b`, what is filled in has
        the mean :math:`-B_b (I + M G)^{-1} M B_o' r_o` and along the directions the covariance
        :math:`G (I + M G)^{-1}`.

        Parameters
        ----------
        flux, bad, model
            Shape (star, pixel).
        covariance
            S, along the directions, shape (direction, direction).

        Returns
        -------
        flux
            Completed, shape (star, pixel).
        spread
            Covariance of what was filled in, along the directions, summed over the stars, (direction, direction).

        """
        unit = np.eye(len(covariance))
        metric = np.linalg.inv(covariance) - unit
        flux, spread = np.where(bad, model, flux), np.zeros_like(unit)
        along = (flux - model) @ self.basis @ metric
        for star in np.flatnonzero(bad.any(axis=1)):
            rows = self.basis[bad[star]]
            gram = rows.T @ rows
            inverse = np.linalg.inv(unit + metric @ gram)
            flux[star, bad[star]] -= rows @ (inverse @ along[star])
            spread += gram @ inverse
        return flux, spread


def leading_directions(problem: PixelProblem, share: float) -> Directions:
    """Directions in which the residuals of all stars about least squares have more than this share of the quoted noise.

    Stars with bad numbers take no part if there are enough others: what replaces a number is not what the spectrum was,
    and makes directions that spectra do not have, such as of Gaia XP ones, which are sums of a few smooth functions.

    Raises
    ------
    ValueError
        If fewer than two pixels have a solution, a star misses a pixel that others have, or the noise exceeds all
        residuals.

    """
    unseen = np.where((problem.ivar > 0).any(axis=0), 0.0, np.nan)
    pixels = solved_pixels(problem, unseen[:, None], unseen)
    part = problem.at(pixels)
    check_complete(part.ivar, pixels)
    noise, bad = usual_noise(part.ivar)
    flux, design, complete = part.flux / noise, part.design, ~bad.any(axis=1)
    if complete.sum() < max(COMPLETE * design.shape[1], len(design) / 2):
        flux, complete = _with_means(flux, bad), np.ones(len(bad), bool)
    flux, design = flux[complete], design[complete]
    residual = np.where(bad[complete], 0.0, flux - design @ np.linalg.lstsq(design, flux, rcond=None)[0])
    root = residual / np.sqrt(max(len(residual) - design.shape[1], 1))
    basis = leading(root, share)
    return Directions(pixels, noise, basis, np.sum((root @ basis) ** 2, axis=0))


@dataclass(frozen=True)
class _State:
    """What a round has found.

    ``gain`` times the flux is theta, shape (term, star), and ``inverse`` A, both for the same weights of the stars;
    ``weight`` is the u that the next round takes; ``rounds`` counts those that were done.
    """

    gain: np.ndarray
    inverse: np.ndarray
    covariance: np.ndarray
    scale: float
    shrinkage: float
    nu: float
    growth: StarScale
    weight: PerStar
    wants_labels: bool
    rounds: int


def train_part(problem: PixelProblem, share: PerStar, directions: Directions, scatter: FullSettings) -> PartSolution:
    """Theta and covariance of a part of the stars.

    Parameters
    ----------
    problem
        All stars that may count, without penalty or bounds.
    share
        By how much each star counts, from 0 to 1, shape (star,).
    directions
        Of all stars.
    scatter
        What is asked for.

    Returns
    -------
    solution
        Of the part.

    """
    chosen = problem.at(directions.pixels)
    part, wanted = _settled(chosen, problem, share, directions, scatter, scatter.label_scale)
    if scatter.label_scale and not wanted:
        part, _ = _settled(chosen, problem, share, directions, scatter, False)
    return part


def _settled(
    chosen: PixelProblem, problem: PixelProblem, share: PerStar, directions: Directions, scatter: FullSettings,
    label_scale: bool,
) -> tuple[PartSolution, bool]:  # fmt: skip
    """The part after all rounds, and whether the labels gain more likelihood than their scale has parameters."""
    noise, basis, design, x = directions.noise, directions.basis, problem.design, problem.terms.x
    bad = usual_noise(chosen.ivar)[1]
    levels = np.asarray(noise_levels(np.where(bad, 0.0, chosen.ivar), noise))
    flux = chosen.flux / noise
    before: np.ndarray = np.ones(len(levels))
    state: _State | None = None
    spread: np.ndarray | None = None
    for _ in range(ROUNDS):
        change = 0.0
        if bad.any():
            filled, spread = _filled(flux, design, directions, bad, share, state)
            change, flux = np.abs(filled - flux).max(), filled
        state = _round(design, flux @ basis, share, (levels, x), scatter, label_scale, state, spread, basis)
        after = np.asarray(state.weight / state.growth.of(levels, x))
        change, before = max(change, np.abs(after - before).max()), after
        if change < SETTLED:
            break
    assert state is not None
    c = state.growth.of(levels, x)
    held_out = partial(held_out_shrinkages, problem.terms, flux, share, basis=basis, least=scatter.share)
    if scatter.shrinkage is None and len(share) < FEW * basis.shape[1]:
        tried = [shrinkage for shrinkage in SHRINKAGES if shrinkage >= state.shrinkage]
        best = tried[int(np.argmax(held_out(c, state, tried=tried).score))]
        state = replace(state, shrinkage=best, rounds=max(state.rounds, CHOOSING))
        state = _round(design, flux @ basis, share, (levels, x), scatter, label_scale, state, spread, basis)
        c = state.growth.of(levels, x)
    variance = max(1.0, float(held_out(c, state, tried=[state.shrinkage]).variance[0]))
    return _solution(problem, directions, state, share, flux, c, variance), state.wants_labels


def _filled(
    scaled: np.ndarray, design: np.ndarray, directions: Directions, bad: np.ndarray, share: PerStar,
    state: _State | None,
) -> tuple[np.ndarray, np.ndarray | None]:  # fmt: skip
    """Flux over the noise with bad numbers replaced by what the others make of them, and the spread of those."""
    if state is not None:
        filled, spread = directions.filled(scaled, bad, design @ (state.gain @ scaled), state.covariance)
        return filled, spread
    weight = np.where(bad.any(axis=1), 0.0, share)
    if weight.sum() < COMPLETE * design.shape[1]:
        return _with_means(scaled, bad), None
    root = np.sqrt(weight)[:, None]
    theta = np.linalg.pinv(root * design) @ (root * scaled)
    return directions.filled(scaled, bad, design @ theta, np.diag(directions.variances))[0], None


def _with_means(flux: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """Flux (star, pixel) with the mean of the other stars in place of bad numbers."""
    means = np.where(bad, 0.0, flux).sum(axis=0) / np.maximum((~bad).sum(axis=0), 1)
    return np.where(bad, means, flux)


def _round(
    design: np.ndarray, z: np.ndarray, share: PerStar, stars: tuple[PerStar, StarLabel], scatter: FullSettings,
    label_scale: bool, before: _State | None, spread: np.ndarray | None, basis: np.ndarray,
) -> _State:  # fmt: skip
    """One round: theta, residuals of left-out stars, their covariance and its tails, and the weights of stars.

    ``stars`` are their g and scaled labels.
    """
    one = np.ones(len(z))
    weight, c = (one, one) if before is None else (before.weight, before.growth.of(*stars))
    counts = share * weight
    gain, inverse, residual = left_out(design, z, counts / c, c)
    fold = np.random.default_rng(0).permutation(len(z)) % N_FOLDS
    rounds = 0 if before is None else before.rounds
    if scatter.shrinkage is not None:
        tried = [scatter.shrinkage]
    elif before is not None and rounds >= CHOOSING:
        tried = [before.shrinkage]
    else:  # With few stars the covariance of the others has no inverse.
        few = counts.sum() * (N_FOLDS - 1) / N_FOLDS - len(inverse) <= z.shape[1]
        tried = list(SHRINKAGES[1:] if few else SHRINKAGES)
    others = [_Covariance.of(residual[fold != part], counts[fold != part], basis) for part in range(N_FOLDS)]
    best: tuple[ScaleFit, PerStar, float] | None = None
    for shrinkage in tried:
        chi_squared, log_det = _held_out(residual, fold, others, shrinkage)
        unseen = Unseen(chi_squared * c, log_det, share, *stars, z.shape[1])
        tails = fitted_scale(unseen, heavy_tails=scatter.heavy_tails, label_scale=label_scale)
        if best is not None and tails.score < best[0].score:
            break  # Beyond the maximum.
        best = tails, chi_squared, shrinkage
    assert best is not None
    tails, chi_squared, shrinkage = best
    covariance = tails.scale * _Covariance.of(residual, counts, basis).shrunk(shrinkage)
    if spread is not None:
        covariance += spread / counts.sum()
    chi_squared = chi_squared * c / tails.scale / tails.growth.of(*stars)
    new = (tails.nu + z.shape[1]) / (tails.nu + chi_squared) if np.isfinite(tails.nu) else np.ones(len(z))
    return _State(
        gain, inverse, covariance, tails.scale, shrinkage, tails.nu, tails.growth, new, tails.wants_labels, rounds + 1
    )


def left_out(
    design: np.ndarray, z: np.ndarray, weight: PerStar, c: PerStar
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weighted least squares, and the residual of each star by the theta of all others, whose covariance is T.

    Parameters
    ----------
    design
        Terms V, shape (star, term).
    z
        Coordinates of the spectra, shape (star, direction).
    weight, c
        The w and c of each star, shape (star,).

    Returns
    -------
    gain
        ``A V' W``, which times z is theta, shape (term, star).
    inverse
        A, shape (term, term).
    residual
        Shape (star, direction), over the root of ``c + h / (1 - w h)``.

    """
    weighted = (design * weight[:, None]).T
    inverse = np.linalg.pinv(weighted @ design, hermitian=True)
    gain = inverse @ weighted
    left, variance = _of_left_out(design, inverse, weight, c)
    residual = (z - design @ (gain @ z)) / left[:, None] / np.sqrt(variance)[:, None]
    return gain, inverse, residual


def _of_left_out(design: np.ndarray, inverse: np.ndarray, weight: PerStar, c: PerStar) -> tuple[PerStar, PerStar]:
    """``1 - w h`` and ``c + h / (1 - w h)`` of each star."""
    h = np.sum((design @ inverse) * design, axis=1)
    left = 1 - np.minimum(weight * h, LARGEST_LEVERAGE)
    return left, c + h / left


class HeldOutShrinkages(NamedTuple):
    """Labels of stars that had no part in T, for each of some shrinkages.

    ``variance`` is that of labels over what their likelihood says, and ``score`` minus the logarithm of the volume of
    their errors with that variance, the mean of the stars; both have shape (shrinkage,).
    """

    variance: np.ndarray
    score: np.ndarray


def held_out_shrinkages(
    terms: Terms, flux: np.ndarray, share: PerStar, c: PerStar, state: "_State", basis: np.ndarray, least: float,
    tried: Sequence[float],
) -> HeldOutShrinkages:  # fmt: skip
    """What labels of stars that had no part in T are by each of the shrinkages.

    Takes flux over the usual noise, shape (star, pixel), the stars' shares and c, what the rounds found, the leading
    directions, shape (pixel, direction), and the share of the noise that these have more of: where stars are few they
    are looked for without those that are left out, because directions of few stars are not those of others.
    """
    share, design = np.asarray(share), terms.design
    counts = share * state.weight
    gain, inverse, residual = left_out(design, flux, counts / c, c)
    root = np.sqrt(_of_left_out(design, inverse, counts / c, c)[1])
    slopes = term_gradients(terms) @ (gain @ flux) / root[:, None, None]
    n_stars, n_labels, _ = slopes.shape
    spread = flux - design @ np.linalg.lstsq(design, flux, rcond=None)[0]
    fold = np.random.default_rng(1).permutation(n_stars) % LABEL_FOLDS
    pull, volume = np.zeros((2, len(tried), n_stars))
    few = n_stars < MANY * basis.shape[1]
    for part in np.unique(fold):
        out = fold == part
        if few:
            basis = leading(spread[~out] / np.sqrt(max((~out).sum() - design.shape[1], 1)), least)
        z = residual @ basis
        rest, n_across = np.sum(residual**2, axis=1) - np.sum(z**2, axis=1), basis.shape[0] - basis.shape[1]
        level = max(1.0, _weighted_median(rest[~out], share[~out]) / max(n_across, 1))
        covariance = _Covariance.of(z[~out], counts[~out], basis)
        right = np.concatenate([residual[out][:, None], slopes[out]], axis=1)
        along = right @ basis
        across = (right @ right.swapaxes(1, 2) - along @ along.swapaxes(1, 2)) / level
        for number, shrinkage in enumerate(tried):
            metric = np.linalg.inv(state.scale * covariance.shrunk(shrinkage))
            products = along @ metric @ along.swapaxes(1, 2) + across
            gradient, information = products[:, 1:, 0], products[:, 1:, 1:]
            square = np.einsum("nk,nkl,nl->n", gradient, np.linalg.pinv(information, hermitian=True), gradient)
            tails = np.ones(len(square))
            if np.isfinite(state.nu):
                tails = (state.nu + products[:, 0, 0] - square) / (state.nu + basis.shape[1] - n_labels)
            pull[number, out] = square / tails
            volume[number, out] = 0.5 * (np.linalg.slogdet(information)[1] - n_labels * np.log(tails))
    freedom = state.nu + basis.shape[1] - n_labels
    expected = n_labels * f_law.median(n_labels, freedom) if np.isfinite(freedom) else chi2.median(n_labels)
    variance = np.array([_weighted_median(row, share) for row in pull]) / expected
    score = volume @ share / share.sum() - 0.5 * n_labels * np.log(np.maximum(variance, np.finfo(float).tiny))
    return HeldOutShrinkages(variance, score)


class _Covariance(NamedTuple):
    """Along the directions: that of stars, and what pixels of the same variances would have without correlations."""

    found: np.ndarray
    uncorrelated: np.ndarray

    @classmethod
    def of(cls, residual: np.ndarray, counts: PerStar, basis: np.ndarray) -> "_Covariance":
        """From residuals along the directions, shape (star, direction)."""
        found = (residual * counts[:, None]).T @ residual / counts.sum()
        variance = 1 + np.sum((basis @ found - basis) * basis, axis=1)
        return cls(found, basis.T @ (variance[:, None] * basis))

    def shrunk(self, shrinkage: float) -> np.ndarray:
        return (1 - shrinkage) * self.found + shrinkage * self.uncorrelated


def _held_out(
    residual: np.ndarray, fold: np.ndarray, parts: Sequence[_Covariance], shrinkage: float
) -> tuple[PerStar, PerStar]:
    """Squared length of each star by the covariance of the other folds, and that covariance's ``ln det``."""
    chi_squared, log_det = np.zeros(len(residual)), np.zeros(len(residual))
    for number, part in enumerate(parts):
        out, root = fold == number, np.linalg.cholesky(part.shrunk(shrinkage))
        chi_squared[out] = np.sum(solve_triangular(root, residual[out].T, lower=True) ** 2, axis=0)
        log_det[out] = 2 * np.log(np.diag(root)).sum()
    return chi_squared, log_det


def _solution(
    problem: PixelProblem, directions: Directions, state: _State, share: PerStar, flux: np.ndarray, c: PerStar,
    label_variance: float,
) -> PartSolution:  # fmt: skip
    """The solution in terms of pixels; ``flux`` is the completed one of the chosen pixels over their noise."""
    pixels, unit, basis = directions.pixels, directions.noise, directions.basis
    variances, rotation = (array[..., ::-1] for array in eigh(state.covariance))
    scaled = state.gain @ flux
    residual = flux - problem.design @ scaled
    rest = np.sum(residual**2, axis=1) - np.sum((residual @ basis) ** 2, axis=1)
    n_across = basis.shape[0] - basis.shape[1]
    across = _weighted_median(np.maximum(rest, 0.0) / c, np.asarray(share)) / n_across if n_across else 1.0
    level = max(1.0, across)
    shape = problem.n_pixels, len(variances)
    theta = np.full((problem.n_pixels, problem.design.shape[1]), np.nan)
    factors, noise, quoted, own = np.zeros(shape), *np.full((3, problem.n_pixels), np.nan)
    theta[pixels] = scaled.T * unit[:, None]
    factors[pixels] = unit[:, None] * with_positive_peaks(basis @ rotation) * np.sqrt(variances)
    noise[pixels], quoted[pixels] = unit * np.sqrt(level), unit
    outside = noise[pixels] ** 2 * (1 - np.sum(basis**2, axis=1))
    own[pixels] = np.maximum(np.sum(factors[pixels] ** 2, axis=1) + outside - unit**2, 0.0)
    learned = CommonCovariance(
        factors, noise, state.nu, across / level, 1.0, quoted, own, state.growth.constant, state.growth.slope,
        label_variance=label_variance,
        label_scale=state.growth.beta,
    )  # fmt: skip
    return PartSolution(theta, np.where(np.isfinite(own), own, np.inf), learned, state.inverse)


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, total[-1] / 2)])
