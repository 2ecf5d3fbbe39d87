r"""The whitened posterior densities of many pixels, from which chains and importance sampling draw.

The coordinates are (v, zeta) = mean + root z, such that the covariance of z is about the identity. s is the absolute
value of v, which is smooth where s is small against the noise; zeta is theta, or, for chains of penalized pixels, theta
in coordinates in which its Laplace prior has no kink (`laplace_coordinates`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from bayes_cannon.core.typing import Array
from bayes_cannon.core.vectorizer import monomials
from bayes_cannon.posterior.importance import WeightedDraws, draw_weighted
from bayes_cannon.posterior.settings import THETA_CHAINS, ChainSettings
from bayes_cannon.posterior.theta.chebyshev_likelihood import (
    MAX_INTERPOLATION_ERROR,
    N_NODES,
    N_NODES_RETRY,
    ChebyshevLikelihood,
    GaussianSites,
    PixelSpectra,
    interpolated_likelihood,
    log_likelihood,
)
from bayes_cannon.posterior.theta.expectation_propagation import NormalApproximation, laplace_posterior
from bayes_cannon.posterior.theta.laplace_coordinates import Stretch, stretch_of, stretched, unstretched
from bayes_cannon.posterior.theta.priors import ThetaPriors
from bayes_cannon.programs.evaluate import potential_energy
from bayes_cannon.programs.pixel import PixelPriors, compressed_pixel
from bayes_cannon.training.problem import PixelProblem

RESOLVED_S = 2.0
"""Where s is fewer standard deviations above zero than this, v is centred at zero."""
WHITENING_DRAWS, MIN_DRAWS_PER_COORDINATE = 1000, 5
"""Importance draws that whiten the chains, and the effective number of them required for each coordinate."""
METHODS = ("nuts", "hmc", "psis")


class PixelDensity(NamedTuple):
    """Data of the density of one pixel, or of many with the pixel as the leading axis.

    The Chebyshev coefficients of the likelihood, Lambda, the priors, and the whitening.

    The coordinates are ``(v, zeta) = mean + root z``; zeta is theta where ``stretch`` is None.
    """

    curves: ChebyshevLikelihood
    regularization: Array
    theta_0: Array
    theta_0_scale: Array
    s_scale: Array
    mean: Array
    root: Array
    stretch: Stretch | None = None


@dataclass(frozen=True)
class ThetaRun:
    """A sampling run: the training problem, where to start, the priors, and how to sample.

    Attributes
    ----------
    problem, priors, theta, s2
        The pixels, their priors, and the optimum to start from, s2 being the variance of the whole scatter.
    products, pairs
        Distinct products of terms of each star, shape (star, moment), and their index, (term, term).
    precision
        Scale tau of each star, shape (star,), or None.
    settings
        Of the chains.
    method
        One of `METHODS`.
    seed
        Integer or JAX key.
    several
        Pixels whose posterior has another mode that may be as probable, boolean, shape (pixel,); None: it is not known.
    first
        Number of the first pixel in the model, of which its key is made.

    """

    problem: PixelProblem
    priors: ThetaPriors
    theta: np.ndarray
    s2: np.ndarray
    products: np.ndarray
    pairs: np.ndarray
    precision: np.ndarray | None
    settings: ChainSettings
    method: str
    seed: Any
    several: np.ndarray | None = None
    first: int = 0

    def part(self, problem: PixelProblem, first: int) -> "ThetaRun":
        """The run of these pixels, the first of which has this number."""
        pixels = slice(first, first + problem.n_pixels)
        return replace(
            self, problem=problem, priors=self.priors.at(pixels), theta=self.theta[pixels], s2=self.s2[pixels],
            several=None if self.several is None else self.several[pixels], first=first,
        )  # fmt: skip

    @classmethod
    def from_problem(
        cls,
        problem: PixelProblem,
        *,
        theta: np.ndarray,
        s2: np.ndarray,
        priors: ThetaPriors,
        method: str = "nuts",
        settings: ChainSettings = THETA_CHAINS,
        precision: np.ndarray | None = None,
        key: Any = 0,
        several: np.ndarray | None = None,
    ) -> "ThetaRun":
        """Run from the optimum (theta, s2)."""
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
        terms = problem.terms
        kernel = method if method != "psis" else "nuts"
        return cls(
            problem, priors, theta, s2, monomials(terms.x, terms.moments.exponents), terms.moments.pairs, precision,
            replace(settings, kernel=kernel), method, key, several,
        )  # fmt: skip


@dataclass(frozen=True)
class PreparedPixels:
    """The densities of a full block of pixels, whitened and ready to be sampled.

    Attributes
    ----------
    pixels
        Which, shape (pixel,).
    densities
        Whitened by the normal approximation of theta for importance sampling, by the moments of importance draws for
        chains.
    weighted
        Importance draws, in coordinates whitened by the normal approximation.
    inexact
        Pixels whose interpolated likelihood is less accurate than `MAX_INTERPOLATION_ERROR`, boolean, shape (pixel,).

    """

    pixels: np.ndarray
    densities: PixelDensity
    weighted: WeightedDraws
    inexact: np.ndarray


def prepare(run: ThetaRun, pixels: np.ndarray) -> PreparedPixels:
    """Densities and whitening of pixels that share their free terms."""
    problem = run.problem.at(pixels)
    free = np.flatnonzero(problem.free[0])
    theta_star = run.theta[np.ix_(pixels, free)]
    part = replace(problem, terms=problem.terms.some(free))
    spectra = PixelSpectra.from_problem(part, run.products, run.pairs[np.ix_(free, free)], theta_star, run.precision)
    s2, scale = run.s2[pixels], run.priors.s_scale[pixels]
    rate = np.zeros(theta_star.shape)
    rate[:, 1:] = 0.5 * problem.regularization[:, None]
    _, linear, gram, _ = spectra.moments(s2[:, None]).at(0)
    first = _gaussian_approximation(run, pixels, theta_star, linear, gram, rate, None)
    site = _gaussian_sites(run, pixels, first, rate)
    curves, s, error = interpolated_likelihood(spectra, s2, site, scale, N_NODES)
    if (error > MAX_INTERPOLATION_ERROR).any():
        curves, s, error = interpolated_likelihood(spectra, s2, site, scale, N_NODES_RETRY)
    _, linear, gram, _ = spectra.moments(s[:, 1:]).at(0)
    approximation = _gaussian_approximation(run, pixels, theta_star, linear, gram, rate, first)
    priors = run.priors
    mean, root = _whitening(approximation, s)
    densities = PixelDensity(
        curves, problem.regularization, priors.theta_0[pixels], priors.theta_0_scale[pixels], scale, mean, root
    )  # fmt: skip
    settings = run.settings
    n_draws = settings.n_chains * settings.n_draws if run.method == "psis" else WHITENING_DRAWS
    mirrored = -mean[:, 0] / root[:, 0, 0]
    weighted = draw_weighted(density_of(run, pixels), densities, pixel_keys(run, pixels, 2), n_draws, mirrored)
    if run.method != "psis":
        stretched_densities = densities if not rate.any() else _without_kink(densities, approximation, rate)
        densities = _whitened_by_draws(stretched_densities, densities, weighted)
    return PreparedPixels(pixels, densities, weighted, error > MAX_INTERPOLATION_ERROR)


def _without_kink(linear: PixelDensity, approximation: NormalApproximation, rate: np.ndarray) -> PixelDensity:
    """The densities in coordinates zeta that are about standard normal, correlated as theta is."""
    stretch = stretch_of(approximation.cavity_mean, approximation.cavity, rate)
    sd = np.sqrt(np.diagonal(approximation.covariance, axis1=1, axis2=2))
    mean, root = np.array(linear.mean), np.array(linear.root)
    mean[:, 1:], root[:, 1:, 1:] = 0.0, root[:, 1:, 1:] / sd[:, :, None]
    return linear._replace(mean=mean, root=root, stretch=jax.tree.map(jnp.asarray, stretch))


def _whitened_by_draws(densities: PixelDensity, linear: PixelDensity, weighted: WeightedDraws) -> PixelDensity:
    """The densities whitened by the moments of importance draws, which are linear, where enough of these count."""
    u = np.array(coordinates(linear, jnp.asarray(weighted.z)[:, None]))[:, 0]
    if densities.stretch is not None:
        stretch = Stretch(*(np.asarray(array)[:, None] for array in densities.stretch))
        u[:, :, 1:] = unstretched(stretch, u[:, :, 1:])
    mean, root = np.array(densities.mean), np.array(densities.root)
    size = 1.0 / np.sum(weighted.weight**2, axis=1)
    for pixel in np.flatnonzero(size > MIN_DRAWS_PER_COORDINATE * mean.shape[1]):
        weight, points, first = weighted.weight[pixel], u[pixel], 0
        if mean[pixel, 0] == 0.0:
            points, first = points[:, 1:], 1  # v has both signs: it stays as it is.
        else:
            points[:, 0] = np.abs(points[:, 0])
        average = weight @ points
        away = points - average
        covariance, n = (away.T * weight) @ away, size[pixel]
        before = root[pixel, first:, first:]
        covariance = (n * covariance + len(before) * before @ before.T) / (n + len(before))
        if np.isfinite(covariance).all():
            mean[pixel, first:], root[pixel, first:, first:] = average, np.linalg.cholesky(covariance)
    return densities._replace(mean=mean, root=root)


def _gaussian_approximation(
    run: ThetaRun, pixels: np.ndarray, theta_star: np.ndarray, linear: np.ndarray, gram: np.ndarray, rate: np.ndarray,
    start: NormalApproximation | None,
) -> NormalApproximation:  # fmt: skip
    """Normal approximation of theta at one s, the prior of theta_0 being part of the Gram matrix."""
    weight = run.priors.theta_0_scale[pixels] ** -2.0
    total, pulled = gram.copy(), linear + np.einsum("pde,pe->pd", gram, theta_star)
    total[:, 0, 0] += weight
    pulled[:, 0] += weight * run.priors.theta_0[pixels]
    return laplace_posterior(total, pulled, rate, start)


def _gaussian_sites(
    run: ThetaRun, pixels: np.ndarray, approximation: NormalApproximation, rate: np.ndarray
) -> GaussianSites:
    """Gaussian sites that bound the Laplace priors from above and serve at any s (Park & Casella 2008)."""
    square = approximation.mean**2 + np.diagonal(approximation.covariance, axis1=1, axis2=2)
    precision, shift = rate / np.sqrt(square), np.zeros_like(approximation.mean)
    weight = run.priors.theta_0_scale[pixels] ** -2.0
    precision[:, 0] += weight
    shift[:, 0] += weight * run.priors.theta_0[pixels]
    return GaussianSites(precision, shift)


def _whitening(approximation: NormalApproximation, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and Cholesky factor of (v, theta); v is centred at zero where s is not resolved."""
    variance = np.maximum(s[:, 1] - s[:, 0] ** 2, 1e-12 * s[:, 1])
    resolved = s[:, 0] > RESOLVED_S * np.sqrt(variance)
    n_pixels, n_terms = approximation.mean.shape
    root = np.zeros((n_pixels, 1 + n_terms, 1 + n_terms))
    root[:, 0, 0] = np.sqrt(np.where(resolved, variance, s[:, 1]))
    root[:, 1:, 1:] = np.linalg.cholesky(approximation.covariance)
    return np.column_stack([np.where(resolved, s[:, 0], 0.0), approximation.mean]), root


def penalized_potential(item: PixelDensity, z: Array) -> jax.Array:
    """Minus the log density of the program at ``u = mean + root z``, with Laplace priors."""
    return _potential(item, z, item.regularization)


def flat_potential(item: PixelDensity, z: Array) -> jax.Array:
    """The same with flat priors of theta, Lambda being zero."""
    return _potential(item, z, 0.0)


def _potential(item: PixelDensity, z: Array, regularization: Any) -> jax.Array:
    u = item.mean + item.root @ z
    theta, log_jacobian = (u[1:], 0.0) if item.stretch is None else stretched(item.stretch, u[1:])
    values = {"v": u[0], "theta_0": theta[0]} | ({"theta": theta[1:]} if len(u) > 2 else {})
    priors = PixelPriors(dist.Normal(item.theta_0, item.theta_0_scale), item.s_scale)
    likelihood: Callable = partial(log_likelihood, item.curves)
    energy = potential_energy(
        compressed_pixel, values, likelihood, len(u) - 1, regularization=regularization, priors=priors
    )  # fmt: skip
    return energy - jnp.sum(jnp.asarray(log_jacobian))


@jax.jit
def coordinates(densities: PixelDensity, z: Array) -> jax.Array:
    """(v, zeta) of draws z, shape (pixel, chain, draw, coordinate)."""
    return jnp.asarray(densities.mean)[:, None, None] + jnp.einsum("pij,pcdj->pcdi", densities.root, z)


@jax.jit
def theta_of(densities: PixelDensity, u: Array) -> jax.Array:
    """Theta of draws of (v, zeta), shape (pixel, chain, draw, term)."""
    if densities.stretch is None:
        return jnp.asarray(u[..., 1:])
    return jax.vmap(lambda stretch, zeta: stretched(stretch, zeta)[0])(densities.stretch, u[..., 1:])


def density_of(run: ThetaRun, pixels: np.ndarray) -> Callable[[PixelDensity, Array], Array]:
    """The potential of pixels that are either all penalized or none."""
    return penalized_potential if run.problem.regularization[pixels[0]] > 0 else flat_potential


def pixel_keys(run: ThetaRun, pixels: np.ndarray, attempt: int) -> jax.Array:
    """A key for each pixel, which depends on its number, and on what it is used for."""
    base = jax.random.key(run.seed) if isinstance(run.seed, int | np.integer) else run.seed
    return jax.vmap(lambda pixel: jax.random.fold_in(jax.random.fold_in(base, pixel), attempt))(pixels + run.first)
