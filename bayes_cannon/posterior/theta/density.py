r"""The densities of many pixels, whitened: what chains and importance sampling draw from.

The coordinates (v, zeta) = mean + root z have about the identity as their covariance. s is the absolute value of v,
which is smooth where s is small against the noise; zeta is theta where it is linear, and theta without the kink of its
Laplace prior (`laplace_coordinates`) for chains.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.infer.util import potential_energy

from bayes_cannon.core.typing import Array
from bayes_cannon.core.vectorizer import monomials
from bayes_cannon.posterior.chains import ChainSettings
from bayes_cannon.posterior.importance import Weighted, draw_weighted
from bayes_cannon.posterior.theta.chebyshev_likelihood import (
    LARGEST_ERROR,
    MORE_NODES,
    N_NODES,
    Curves,
    Site,
    Spectra,
    log_likelihood,
    moment_curves,
)
from bayes_cannon.posterior.theta.expectation_propagation import NormalApproximation, laplace_posterior
from bayes_cannon.posterior.theta.laplace_coordinates import Stretch, stretch_of, stretched, unstretched
from bayes_cannon.posterior.theta.priors import ThetaPriors
from bayes_cannon.programs.pixel import PixelPriors, compressed_pixel
from bayes_cannon.training.problem import PixelProblem

RESOLVED = 2.0
"""Below so many standard deviations from zero the coordinate v, of which s is the absolute value, is centred there."""
WHITENING_DRAWS, FEWEST_DRAWS = 1000, 5
"""Importance draws that chains are whitened by, and how many must count for each coordinate."""
METHODS = ("nuts", "hmc", "psis")


class Item(NamedTuple):
    """What the density of one pixel needs, pixel first: curves, Lambda, priors, and whitening.

    The coordinates are ``(v, zeta) = mean + root z``, and theta is zeta stretched (`laplace_coordinates`).
    """

    curves: Curves
    regularization: Array
    theta_0: Array
    theta_0_scale: Array
    s_scale: Array
    mean: Array
    root: Array
    stretch: Stretch


@dataclass(frozen=True)
class Setup:
    """What all pixels of a run share.

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

    @classmethod
    def from_problem(
        cls,
        problem: PixelProblem,
        *,
        theta: np.ndarray,
        s2: np.ndarray,
        priors: ThetaPriors,
        method: str = "nuts",
        settings: ChainSettings | None = None,
        precision: np.ndarray | None = None,
        key: Any = 0,
    ) -> "Setup":
        """Setup for the optimum (theta, s2)."""
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
        terms = problem.terms
        settings = settings or ChainSettings()
        kernel = method if method != "psis" else "nuts"
        return cls(
            problem, priors, theta, s2, monomials(terms.x, terms.moments.exponents), terms.moments.pairs, precision,
            replace(settings, kernel=kernel), method, key,
        )  # fmt: skip


@dataclass(frozen=True)
class Prepared:
    """A full block of pixels, before any chain.

    Attributes
    ----------
    pixels
        Which, shape (pixel,).
    linear
        Densities whitened by the normal law of theta, whose coordinates theta is linear in.
    weighted
        Importance draws in these coordinates.
    items
        Densities in coordinates without kinks, whitened by the moments of the importance draws.
    inexact
        Whose interpolation is not good enough, shape (pixel,).

    """

    pixels: np.ndarray
    linear: Item
    weighted: Weighted
    items: Item
    inexact: np.ndarray


def prepare(setup: Setup, pixels: np.ndarray) -> Prepared:
    """Densities and whitening of pixels that share their free terms."""
    problem = setup.problem.at(pixels)
    free = np.flatnonzero(problem.free[0])
    centre = setup.theta[np.ix_(pixels, free)]
    part = replace(problem, terms=problem.terms.some(free))
    spectra = Spectra.from_problem(part, setup.products, setup.pairs[np.ix_(free, free)], centre, setup.precision)
    s2, scale = setup.s2[pixels], setup.priors.s_scale[pixels]
    rate = np.zeros(centre.shape)
    rate[:, 1:] = 0.5 * problem.regularization[:, None]
    _, linear, gram, _ = spectra.moments(s2[:, None]).at(0)
    first = _normal_law(setup, pixels, centre, linear, gram, rate, None)
    site = _site(setup, pixels, first, rate)
    curves, s, error = moment_curves(spectra, s2, site, scale, N_NODES)
    if (error > LARGEST_ERROR).any():
        curves, s, error = moment_curves(spectra, s2, site, scale, MORE_NODES)
    _, linear, gram, _ = spectra.moments(s[:, 1:]).at(0)
    law = _normal_law(setup, pixels, centre, linear, gram, rate, first)
    priors = setup.priors
    sd = np.sqrt(np.diagonal(law.covariance, axis1=1, axis2=2))
    normal = jax.tree.map(jnp.asarray, Item(
        curves, problem.regularization, priors.theta_0[pixels], priors.theta_0_scale[pixels], scale,
        *_whitening(law.covariance / (sd[:, :, None] * sd[:, None, :]), s),
        stretch_of(law.mean, sd**2, np.zeros_like(rate)),
    ))  # fmt: skip
    settings = setup.settings
    n_draws = settings.n_chains * settings.n_draws if setup.method == "psis" else WHITENING_DRAWS
    mirrored = -normal.mean[:, 0] / normal.root[:, 0, 0]
    weighted = draw_weighted(density_of(setup, pixels), normal, pixel_keys(setup, pixels, 2), n_draws, mirrored)
    smooth = normal
    if setup.method != "psis":
        stretch = stretch_of(law.cavity_mean, law.cavity, rate)
        mean, root = _smooth_whitening(normal, weighted, stretch)
        smooth = normal._replace(mean=mean, root=root, stretch=jax.tree.map(jnp.asarray, stretch))
    return Prepared(pixels, normal, weighted, smooth, error > LARGEST_ERROR)


def _smooth_whitening(normal: Item, weighted: Weighted, stretch: Stretch) -> tuple[jax.Array, jax.Array]:
    """Mean and Cholesky factor of (v, zeta) by importance draws; as they were where few of these count."""
    u = np.array(coordinates(normal, jnp.asarray(weighted.z)[:, None]))
    theta = np.asarray(theta_of(normal, jnp.asarray(u)))[:, 0]
    u, mean, root = u[:, 0], np.array(normal.mean), np.array(normal.root)
    size = 1.0 / np.sum(weighted.weight**2, axis=1)
    for pixel in np.flatnonzero(size > FEWEST_DRAWS * mean.shape[1]):
        weight = weighted.weight[pixel]
        zeta = unstretched(Stretch(*(array[pixel] for array in stretch)), theta[pixel])
        if mean[pixel, 0] == 0.0:
            points, first = zeta, 1  # v has both signs: it stays as it is.
        else:
            points, first = np.column_stack([np.abs(u[pixel, :, 0]), zeta]), 0
        centre = weight @ points
        away = points - centre
        covariance, n = (away.T * weight) @ away, size[pixel]
        before = root[pixel, first:, first:]
        covariance = (n * covariance + len(before) * before @ before.T) / (n + len(before))
        if np.isfinite(covariance).all():
            mean[pixel, first:], root[pixel, first:, first:] = centre, np.linalg.cholesky(covariance)
    return jnp.asarray(mean), jnp.asarray(root)


def _normal_law(
    setup: Setup, pixels: np.ndarray, centre: np.ndarray, linear: np.ndarray, gram: np.ndarray, rate: np.ndarray,
    start: NormalApproximation | None,
) -> NormalApproximation:  # fmt: skip
    """Normal law of theta at one s, the prior of theta_0 being part of the Gram matrix."""
    weight = setup.priors.theta_0_scale[pixels] ** -2.0
    total, pulled = gram.copy(), linear + np.einsum("pde,pe->pd", gram, centre)
    total[:, 0, 0] += weight
    pulled[:, 0] += weight * setup.priors.theta_0[pixels]
    return laplace_posterior(total, pulled, rate, start)


def _site(setup: Setup, pixels: np.ndarray, law: NormalApproximation, rate: np.ndarray) -> Site:
    """Normal factors above the Laplace priors, which are good for any s (Park & Casella 2008)."""
    square = law.mean**2 + np.diagonal(law.covariance, axis1=1, axis2=2)
    precision, shift = rate / np.sqrt(square), np.zeros_like(law.mean)
    weight = setup.priors.theta_0_scale[pixels] ** -2.0
    precision[:, 0] += weight
    shift[:, 0] += weight * setup.priors.theta_0[pixels]
    return Site(precision, shift)


def _whitening(correlation: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and Cholesky factor of (v, zeta); v is centred at zero where s is not resolved."""
    variance = np.maximum(s[:, 1] - s[:, 0] ** 2, 1e-12 * s[:, 1])
    resolved = s[:, 0] > RESOLVED * np.sqrt(variance)
    n_pixels, n_terms, _ = correlation.shape
    root, mean = np.zeros((n_pixels, 1 + n_terms, 1 + n_terms)), np.zeros((n_pixels, 1 + n_terms))
    root[:, 0, 0] = np.sqrt(np.where(resolved, variance, s[:, 1]))
    root[:, 1:, 1:] = np.linalg.cholesky(correlation)
    mean[:, 0] = np.where(resolved, s[:, 0], 0.0)
    return mean, root


def penalized_potential(item: Item, z: Array) -> jax.Array:
    """Minus the log density of the program at ``u = mean + root z``, with Laplace priors."""
    return _potential(item, z, item.regularization)


def flat_potential(item: Item, z: Array) -> jax.Array:
    """The same with flat priors of theta, Lambda being zero."""
    return _potential(item, z, 0.0)


def _potential(item: Item, z: Array, regularization: Any) -> jax.Array:
    u = item.mean + item.root @ z
    theta, log_slope = stretched(item.stretch, u[1:])
    values = {"v": u[0], "theta_0": theta[0]} | ({"theta": theta[1:]} if len(u) > 2 else {})
    priors = PixelPriors(dist.Normal(item.theta_0, item.theta_0_scale), item.s_scale)
    likelihood: Callable = partial(log_likelihood, item.curves)
    keywords = {"regularization": regularization, "priors": priors}
    energy: jax.Array = potential_energy(compressed_pixel, (likelihood, len(u) - 1), keywords, values)
    return energy - jnp.sum(log_slope)


@jax.jit
def coordinates(items: Item, z: Array) -> jax.Array:
    """(v, zeta) of draws z, shape (pixel, chain, draw, coordinate)."""
    return jnp.asarray(items.mean)[:, None, None] + jnp.einsum("pij,pcdj->pcdi", items.root, z)


@jax.jit
def theta_of(items: Item, u: Array) -> jax.Array:
    """Theta of draws of (v, zeta), shape (pixel, chain, draw, term)."""
    one = lambda item, u: stretched(item.stretch, u[..., 1:])[0]  # noqa: E731
    return jax.vmap(one)(items, u)


def density_of(setup: Setup, pixels: np.ndarray) -> Callable[[Item, Array], Array]:
    """The potential of pixels that are either all penalized or none."""
    return penalized_potential if setup.problem.regularization[pixels[0]] > 0 else flat_potential


def pixel_keys(setup: Setup, pixels: np.ndarray, run: int) -> jax.Array:
    """A key for each pixel, which depends on its number, and on what it is used for."""
    base = jax.random.key(setup.seed) if isinstance(setup.seed, int | np.integer) else setup.seed
    return jax.vmap(lambda pixel: jax.random.fold_in(jax.random.fold_in(base, pixel), run))(pixels)
