r"""Training where the survey gives the covariance of the noise of each star.

The coordinates z of a spectrum along the leading directions of all residuals, in units of the usual quoted noise
(`scatter.conjugate_training.leading_directions`), have

.. math:: z_n \sim t_\nu\!\left(\Theta v_n,\; C_n\right), \qquad C_n = \kappa\, G_n + L

with the given covariance :math:`G_n` of the noise of this star, a factor kappa by which the survey's noise is off, and
a covariance L of the scatter that all stars share. Directions in which residuals have less than a given share of the
quoted noise take no part: there a misfit of the model would pass for information.

With the residuals :math:`r_n = z_n - \Theta v_n`, the weights :math:`u_n = (\nu + q) / (\nu + \chi^2_n)` and the mean
:math:`\bar P` of :math:`C_n^{-1}`, the likelihood rises with L along

.. math:: \Delta = \bar P^{-1} \left[ \frac1N \sum_n u_n C_n^{-1} r_n r_n^T C_n^{-1} - \bar P \right] \bar P^{-1}

which is the step of Fisher's scoring where all stars have the same noise. Its length, and the step of kappa, are those
of the information that all :math:`C_n` have on both; what of L becomes negative is zero. Theta is that of generalized
least squares with all :math:`C_n`, exact in each round, nu maximizes the likelihood, and squares of residuals are
multiplied by :math:`N / (N - D)` for the D terms. Without shrinkage a step that lowers the likelihood is halved.

What L has along a direction is too much where it is little, because it cannot be negative, and kappa too small then.
Hence a is taken from what it has along each direction, in units of the mean noise there, with the a of the highest
likelihood of held-out stars.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from scipy.linalg import cho_factor, cho_solve, eigh

from bayes_cannon.core.student_t import fitted_nu, log_density
from bayes_cannon.core.typing import PerStar
from bayes_cannon.scatter.conjugate_training import Directions, leading_directions
from bayes_cannon.scatter.full_training import N_FOLDS, SHRINKAGES, check_stars
from bayes_cannon.scatter.held_out_path import enough_folds
from bayes_cannon.training.problem import PixelProblem

MAX_ROUNDS, TOLERANCE = 100, 1e-4
"""Rounds at most, and the gain of the log likelihood a star at which they end."""
HELD_OUT_ROUNDS = 8
"""Rounds at most without the stars that are held out: they begin where all stars ended."""
HALVINGS, KAPPA_CHANGES = 8, (0.2, 5.0)
"""Times a step is halved that lowers the likelihood, and by how much kappa may change in one round."""
STARS_AT_ONCE = 128
"""Stars whose matrices are inverted together."""
QUIET = 0.25
"""Share of the directions that the noise alone makes, to begin with."""
SMALLEST = 1e-6
"""Variance of the noise along any direction, at least, over the usual quoted one: none is known exactly."""


class StarNoiseSettings(Protocol):
    """What `scatter.known_noise.Given` states where each star has a covariance."""

    @property
    def correlation(self) -> np.ndarray | None:
        """Of the noise of any star, shape (pixel, pixel); None where stars have covariances."""

    @property
    def heavy_tails(self) -> bool:
        """Whether the degrees of freedom are fitted."""

    @property
    def shrinkage(self) -> float | None:
        """The a, None to choose it."""

    @property
    def share(self) -> float:
        """Smallest variance along a direction, in units of the quoted noise, that is trusted."""


@dataclass(frozen=True)
class StarNoiseSolution:
    """Optimum of the pixels together.

    Attributes
    ----------
    directions
        Coordinates of the spectra.
    theta
        Shape (pixel, term); NaN at pixels that took no part.
    scatter, usual
        L, and the mean over the stars of kappa G, shape (direction, direction).
    noise_scale, nu
        Kappa, and the degrees of freedom.
    weight
        u of each star, shape (star,).
    shrinkage
        The a that was used.
    log_likelihood
        Of all stars after each round.
    converged
        Whether the last round gained less than the tolerance.

    """

    directions: Directions
    theta: np.ndarray
    scatter: np.ndarray
    usual: np.ndarray
    noise_scale: float
    nu: float
    weight: PerStar
    shrinkage: float
    log_likelihood: np.ndarray
    converged: bool


@dataclass(frozen=True)
class _Stars:
    """Terms (star, term), coordinates (star, direction) and the G of stars (star, direction, direction)."""

    design: np.ndarray
    z: np.ndarray
    noise: np.ndarray

    def of_stars(self, stars: np.ndarray) -> "_Stars":
        return _Stars(self.design[stars], self.z[stars], self.noise[stars])


@dataclass(frozen=True)
class _State:
    """Theta of the coordinates (term, direction), L, kappa, nu, and u of the stars."""

    theta: np.ndarray
    scatter: np.ndarray
    kappa: float
    nu: float
    weight: PerStar


def train_star_noise(
    problem: PixelProblem, settings: StarNoiseSettings, directions: Directions | None = None
) -> StarNoiseSolution:
    """Theta, and the covariance L beside the noise of each star.

    Parameters
    ----------
    problem
        The pixels, without penalty or bounds; with ``problem.covariance`` unless the settings have a correlation.
    settings
        What is asked for.
    directions
        Those that count; by default the leading ones of these stars.

    Raises
    ------
    ValueError
        If there are too few stars, a star misses a pixel that others have, or fewer than two pixels have a solution.

    """
    check_stars(*problem.design.shape)
    directions = leading_directions(problem, settings.share) if directions is None else directions
    projection = directions.basis / directions.noise[:, None]
    part = problem.at(directions.pixels)
    noise = projected_noise(projection, part.ivar, directions.pixels, settings.correlation, problem.covariance)
    stars = _Stars(problem.design, part.flux @ projection, noise)
    shrinkage = _shrinkage(stars, settings)
    state, history, converged = _rounds(stars, _start(stars), settings.heavy_tails, shrinkage, MAX_ROUNDS)
    theta = np.full((problem.n_pixels, problem.design.shape[1]), np.nan)
    theta[directions.pixels] = _of_pixels(part, state, directions)
    return StarNoiseSolution(
        directions, theta, state.scatter, state.kappa * noise.mean(axis=0), state.kappa, state.nu, state.weight,
        shrinkage, history, converged,
    )  # fmt: skip


def projected_noise(
    projection: np.ndarray, ivar: np.ndarray, pixels: np.ndarray, correlation: np.ndarray | None,
    covariance: np.ndarray | None,
) -> np.ndarray:  # fmt: skip
    """The G of each star along the directions, shape (star, direction, direction).

    Parameters
    ----------
    projection
        From flux to coordinates, shape (pixel, direction).
    ivar
        Shape (star, pixel); pixels without it have no part.
    pixels
        Index of these pixels among all.
    correlation
        Of the noise at all pixels, shape (all, all), for a covariance ``D R D`` with the quoted errors D of each star;
        or None.
    covariance
        Of each star, shape (star, all, all), where there is no correlation.

    """
    q = projection.shape[1]
    out = np.empty((len(ivar), q, q))
    if correlation is not None:
        correlation = correlation[np.ix_(pixels, pixels)]
    for first in range(0, len(ivar), STARS_AT_ONCE):
        some = slice(first, first + STARS_AT_ONCE)
        used = ivar[some] > 0
        if correlation is not None:
            error = np.where(used, 1 / np.sqrt(np.where(used, ivar[some], 1.0)), 0.0)
            scaled = error[:, :, None] * projection
            out[some] = scaled.swapaxes(1, 2) @ (correlation @ scaled)
        else:
            assert covariance is not None
            scaled = used[:, :, None] * projection
            own = np.asarray(covariance[some], float)[:, pixels][:, :, pixels]
            out[some] = scaled.swapaxes(1, 2) @ (own @ scaled)
    return out + SMALLEST * np.eye(q)


def _shrinkage(stars: _Stars, settings: StarNoiseSettings) -> float:
    """The one asked for, or that of the highest likelihood of stars that are held out."""
    if settings.shrinkage is not None:
        return settings.shrinkage
    fold = np.random.default_rng(0).permutation(len(stars.z)) % N_FOLDS
    parts = [(stars.of_stars(fold != out), stars.of_stars(fold == out)) for out in enough_folds(len(fold), N_FOLDS)]
    states = [_start(kept) for kept, _ in parts]
    best: tuple[float, float] | None = None
    for shrinkage in SHRINKAGES:
        score = 0.0
        for k, (kept, away) in enumerate(parts):
            states[k], *_ = _rounds(kept, states[k], settings.heavy_tails, shrinkage, HELD_OUT_ROUNDS)
            score += float(_likelihood(away, states[k]).sum())
        if best is not None and score < best[0]:
            break  # Beyond the maximum.
        best = score, shrinkage
    assert best is not None
    return best[1]


def _start(stars: _Stars) -> _State:
    """Least squares, and what residuals have beyond the mean noise, which alone makes the quieter directions."""
    theta = np.linalg.lstsq(stars.design, stars.z, rcond=None)[0]
    residual = stars.z - stars.design @ theta
    noise = stars.noise.mean(axis=0)
    values, vectors = eigh(residual.T @ residual / len(residual), noise)
    kappa = float(np.quantile(values, QUIET))
    back = noise @ vectors
    scatter = (back * np.maximum(values - kappa, 0.0)) @ back.T
    return _State(theta, scatter, kappa, np.inf, np.ones(len(residual)))


def _rounds(
    stars: _Stars, state: _State, heavy_tails: bool, shrinkage: float, most: int
) -> tuple[_State, np.ndarray, bool]:
    """Rounds until the likelihood settles: the state, the likelihood after each, and whether it did."""
    history: list[float] = []
    now = _evaluated(stars, replace(state, weight=np.ones(len(stars.z))), heavy_tails)
    for _ in range(most):
        new = _evaluated(stars, _step(stars, now, shrinkage), heavy_tails)
        for _ in range(HALVINGS if shrinkage == 0 else 0):
            if new.log_likelihood > now.log_likelihood - TOLERANCE * len(stars.z):
                break
            halfway = replace(
                new.state, scatter=0.5 * (now.state.scatter + new.state.scatter),
                kappa=0.5 * (now.state.kappa + new.state.kappa),
            )  # fmt: skip
            new = _evaluated(stars, halfway, heavy_tails)
        history.append(new.log_likelihood)
        settled, now = abs(new.log_likelihood - now.log_likelihood) < TOLERANCE * len(stars.z), new
        if settled:
            return now.state, np.array(history), True
    return now.state, np.array(history), False


@dataclass(frozen=True)
class _Evaluated:
    """The best theta, nu and weights at some L and kappa, ``C^-1`` of the stars, ``C^-1 r``, and the likelihood."""

    state: _State
    inverse: np.ndarray
    pulled: np.ndarray
    log_likelihood: float


def _evaluated(stars: _Stars, state: _State, heavy_tails: bool) -> _Evaluated:
    inverse, log_det = _inverses(stars, state)
    theta = _least_squares(stars, inverse, state.weight)
    residual = stars.z - stars.design @ theta
    pulled = (inverse @ residual[:, :, None])[:, :, 0]
    n_stars, q = residual.shape
    # Residuals are by a theta that fits them.
    chi_squared = n_stars / (n_stars - stars.design.shape[1]) * np.sum(pulled * residual, axis=1)
    count, nu, weight = np.full(n_stars, q), np.inf, np.ones(n_stars)
    if heavy_tails:
        nu = fitted_nu(chi_squared, log_det, count)
        weight = weight if np.isinf(nu) else (nu + q) / (nu + chi_squared)
    log_likelihood = float(log_density(chi_squared, log_det, count, nu).sum())
    return _Evaluated(replace(state, theta=theta, nu=nu, weight=weight), inverse, pulled, log_likelihood)


def _step(stars: _Stars, now: _Evaluated, shrinkage: float) -> _State:
    """The next L and kappa, by Fisher's scoring."""
    state, inverse, pulled = now.state, now.inverse, now.pulled
    n_stars = len(pulled)
    left = n_stars / (n_stars - stars.design.shape[1])
    mean = inverse.mean(axis=0)
    usual = np.linalg.inv(mean)
    gradient = left * (pulled.T * state.weight) @ pulled / n_stars - mean
    of_noise = np.sum(pulled * (stars.noise @ pulled[:, :, None])[:, :, 0], axis=1)
    by_kappa = left * float(state.weight @ of_noise) - float(np.einsum("nij,nji->", inverse, stars.noise))
    noise = state.kappa * stars.noise.mean(axis=0)
    values, vectors = eigh(state.scatter + usual @ gradient @ usual, noise)
    back = noise @ vectors
    change = (back * np.maximum(values - shrinkage, 0.0)) @ back.T - state.scatter
    relative, of_kappa, both = 0.0, 0.0, 0.0
    for first in range(0, n_stars, STARS_AT_ONCE):
        some = slice(first, first + STARS_AT_ONCE)
        one, other = inverse[some] @ change, inverse[some] @ stars.noise[some]
        relative += float(np.einsum("nij,nji->", one, one))
        of_kappa += float(np.einsum("nij,nji->", other, other))
        both += float(np.einsum("nij,nji->", one, other))
    # The information on the length of the change and on kappa.
    information = np.array([[relative, both], [both, of_kappa]])
    uphill = gradient - shrinkage * mean @ noise @ mean  # Zero where nothing is left to be taken.
    score = np.array([n_stars * float(np.sum(uphill * change)), by_kappa])
    length, of_scale = np.linalg.lstsq(information, score, rcond=None)[0]
    kappa = state.kappa * float(np.clip(1 + of_scale / state.kappa, *KAPPA_CHANGES))
    scatter = state.scatter + np.clip(length, 0.0, 1.0) * change
    return replace(state, scatter=scatter, kappa=kappa)


def _inverses(stars: _Stars, state: _State) -> tuple[np.ndarray, np.ndarray]:
    """Inverse of the covariance of each star, shape (star, direction, direction), and ``ln det`` of that covariance."""
    inverse, log_det = np.empty_like(stars.noise), np.empty(len(stars.z))
    for first in range(0, len(log_det), STARS_AT_ONCE):
        some = slice(first, first + STARS_AT_ONCE)
        covariance = state.kappa * stars.noise[some] + state.scatter
        inverse[some] = np.linalg.inv(covariance)
        log_det[some] = np.linalg.slogdet(covariance)[1]
    return inverse, log_det


def _least_squares(stars: _Stars, inverse: np.ndarray, weight: PerStar) -> np.ndarray:
    """Theta (term, direction) that minimizes the chi^2 of all stars by their covariances and weights."""
    n_stars, n_terms = stars.design.shape
    q, weighted = inverse.shape[1], stars.design * weight[:, None]
    pairs = (weighted[:, :, None] * stars.design[:, None, :]).reshape(n_stars, -1)
    gram = (pairs.T @ inverse.reshape(n_stars, -1)).reshape(n_terms, n_terms, q, q)
    matrix = gram.transpose(0, 2, 1, 3).reshape(n_terms * q, n_terms * q)
    right = weighted.T @ (inverse @ stars.z[:, :, None])[:, :, 0]
    return np.asarray(cho_solve(cho_factor(0.5 * (matrix + matrix.T)), right.ravel()).reshape(n_terms, q))


def _likelihood(stars: _Stars, state: _State) -> PerStar:
    """Log density of each star, shape (star,)."""
    residual = stars.z - stars.design @ state.theta
    inverse, log_det = _inverses(stars, state)
    chi_squared = np.sum(residual * (inverse @ residual[:, :, None])[:, :, 0], axis=1)
    return np.asarray(log_density(chi_squared, log_det, np.full(len(residual), residual.shape[1]), state.nu))


def _of_pixels(part: PixelProblem, state: _State, directions: Directions) -> np.ndarray:
    """Theta of the pixels, shape (pixel, term): of least squares across the directions, along these the best."""
    root = np.sqrt(state.weight)[:, None]
    across = np.linalg.lstsq(root * part.design, root * part.flux / directions.noise, rcond=None)[0]
    scaled = across + (state.theta - across @ directions.basis) @ directions.basis.T
    return np.asarray(scaled.T * directions.noise[:, None])
