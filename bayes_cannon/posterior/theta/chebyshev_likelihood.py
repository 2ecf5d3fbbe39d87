r"""The likelihood of a pixel as a function of theta and s, from weighted moments interpolated in s.

With :math:`w_n(s) = \tau_n / (\sigma_n^2 + s^2)` and :math:`\delta = \theta - \theta^*`,

.. math:: -2 \ln L = a(s) - 2 b(s) \cdot \delta + \delta^T G(s)\, \delta + l(s), \quad
          a = \sum w r^{*2}, \ b = \sum w r^* v, \ G = \sum w v v^T, \ l = -\sum \ln w

up to a constant. All four are analytic in :math:`z = \ln(s^2 + c)` with c the smallest :math:`\sigma_n^2`: the nearest
singularities lie :math:`\pi` away from the real axis, so that Chebyshev interpolants of low order converge
geometrically (Trefethen 2013, theorem 8.2). The cost of a draw no longer depends on the number of stars.

The interpolants cover the range of s where the logarithm of the likelihood, with theta marginalized, is within
`LOG_LIKELIHOOD_DROP` of its maximum, and their error is checked between the nodes. Outside this range, where the
posterior mass is negligible, all stars are treated as if they had the noise c: a and G fall as 1 / (s^2 + c), and l
grows as ln(s^2 + c).
"""

from dataclasses import dataclass, fields
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayes_cannon.core.typing import Array
from bayes_cannon.training.problem import PixelProblem

LOG_LIKELIHOOD_DROP = 30.0
"""Decrease of the log likelihood, relative to its maximum, at which the interpolation range ends."""
N_NODES, N_NODES_RETRY = 16, 48
"""Chebyshev nodes, and those used where the interpolation error is too large."""
MAX_INTERPOLATION_ERROR = 1e-6
"""Largest accepted error of the log likelihood between the nodes."""
MAX_WEIGHT_BYTES = 2**27
"""Memory of the weights that are computed at a time."""
_REACH = 2.0 ** np.arange(10)
_CHECKS = np.array([-0.97, -0.31, 0.27, 0.83])


class ChebyshevLikelihood(NamedTuple):
    """Chebyshev coefficients in z of a, b, G and l; under vmap, those of one pixel.

    Attributes
    ----------
    theta_star
        theta*, shape (pixel, term).
    offset, low, high
        c, and the range of z, shape (pixel,).
    n_known
        Number of stars with a positive ivar, shape (pixel,).
    constant, log_det
        Of a and l, shape (pixel, node).
    linear
        Of b, shape (pixel, node, term).
    gram
        Of G, shape (pixel, node, term, term).

    """

    theta_star: Array
    offset: Array
    low: Array
    high: Array
    n_known: Array
    constant: Array
    log_det: Array
    linear: Array
    gram: Array


@dataclass(frozen=True)
class WeightedMoments:
    """a, b, G and l at some s of each pixel, shape (pixel, node, ...)."""

    constant: np.ndarray
    linear: np.ndarray
    gram: np.ndarray
    log_det: np.ndarray

    def combined(self, matrix: np.ndarray) -> "WeightedMoments":
        """Linear combinations of the nodes, by a matrix (new, node)."""
        return WeightedMoments(*(np.einsum("mn,pn...->pm...", matrix, getattr(self, f.name)) for f in fields(self)))

    def at(self, node: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """a, b, G and l at one node."""
        return self.constant[:, node], self.linear[:, node], self.gram[:, node], self.log_det[:, node]


@dataclass(frozen=True)
class PixelSpectra:
    """Training spectra of some pixels, star last, so that sums over stars run along memory.

    Attributes
    ----------
    design
        Terms, shape (star, term).
    products, pairs
        Distinct products of two terms, shape (star, moment), and the index of each in (term, term).
    residual
        ``y - v . theta*``, shape (pixel, star), zero where ivar is.
    variance, known
        sigma^2 of the stars with a positive ivar, shape (pixel, star), and which these are.
    precision
        tau of each star, shape (star,).
    theta_star
        theta*, shape (pixel, term).

    """

    design: np.ndarray
    products: np.ndarray
    pairs: np.ndarray
    residual: np.ndarray
    variance: np.ndarray
    known: np.ndarray
    precision: np.ndarray
    theta_star: np.ndarray

    @classmethod
    def from_problem(
        cls,
        problem: PixelProblem,
        products: np.ndarray,
        pairs: np.ndarray,
        theta_star: np.ndarray,
        precision: np.ndarray | None = None,
    ) -> "PixelSpectra":
        """Spectra of the problem's pixels, residuals being those of ``theta_star``, shape (pixel, term)."""
        known = problem.ivar.T > 0
        variance = 1.0 / np.where(known, problem.ivar.T, 1.0)
        residual = np.where(known, np.where(known, problem.flux.T, 0.0) - theta_star @ problem.design.T, 0.0)
        tau = np.ones(len(problem.design)) if precision is None else np.asarray(precision, dtype=float)
        return cls(problem.design, products, pairs, residual, variance, known, tau, theta_star)

    @property
    def offset(self) -> np.ndarray:
        """The c of each pixel, shape (pixel,)."""
        return np.where(self.known, self.variance, np.inf).min(axis=1)

    def moments(self, s2: np.ndarray) -> WeightedMoments:
        """Moments at s2, shape (pixel, node)."""
        n_pixels, n_nodes = s2.shape
        parts = []
        step = max(1, MAX_WEIGHT_BYTES // (8 * n_nodes * self.known.shape[1]))
        for first in range(0, n_pixels, step):
            some = slice(first, first + step)
            variance = (self.variance[some, None] + s2[some, :, None]) / self.precision
            w = np.where(self.known[some, None], 1.0 / variance, 0.0)
            log_det = np.where(self.known[some, None], np.log(variance), 0.0).sum(axis=-1)
            weighted = w * self.residual[some, None]
            gram = (w @ self.products)[..., self.pairs]
            constant = np.einsum("pmn,pn->pm", weighted, self.residual[some])
            parts.append((constant, weighted @ self.design, gram, log_det))
        return WeightedMoments(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


class GaussianSites(NamedTuple):
    """Gaussian sites ``exp(h theta - pi theta^2 / 2)`` in place of the priors: pi and h, shape (pixel, term) each."""

    precision: np.ndarray
    shift: np.ndarray


def log_marginals(moments: WeightedMoments, theta_star: np.ndarray, site: GaussianSites) -> np.ndarray:
    r"""Logarithm of the likelihood of s with theta marginalized, shape (pixel, node), up to a constant.

    .. math:: -\tfrac12 \left[ a + l - g^T H^{-1} g + \ln\det H \right], \quad H = G + \Pi,\ g = b + h - \Pi\theta^*
    """
    hessian = moments.gram + site.precision[:, None, :, None] * np.eye(theta_star.shape[1])
    gradient = moments.linear + (site.shift - site.precision * theta_star)[:, None]
    solved = np.linalg.solve(hessian, gradient[..., None])[..., 0]
    log_det = np.linalg.slogdet(hessian)[1]
    return -0.5 * (moments.constant + moments.log_det - np.sum(gradient * solved, axis=-1) + log_det)


def interpolated_likelihood(
    spectra: PixelSpectra, s2: np.ndarray, site: GaussianSites, s_scale: np.ndarray, n_nodes: int = N_NODES
) -> tuple[ChebyshevLikelihood, np.ndarray, np.ndarray]:
    """Chebyshev coefficients of each pixel, posterior moments of s, and the interpolation error.

    Parameters
    ----------
    spectra
        Of the pixels.
    s2
        Variance of the scatter near the maximum of the likelihood, shape (pixel,); the trained one.
    site
        Gaussian sites in place of the prior of theta.
    s_scale
        Scale of the half-normal prior of s, shape (pixel,).
    n_nodes
        Number of nodes.

    Returns
    -------
    curves
        Of all pixels.
    s
        Posterior mean of s and of s^2, shape (pixel, 2).
    error
        Largest error of the logarithm of the likelihood between the nodes, shape (pixel,).

    """
    offset = spectra.offset
    low, high = _range(spectra, s2, site, s_scale)
    angles = np.pi * (np.arange(n_nodes) + 0.5) / n_nodes
    transform = np.cos(np.outer(np.arange(n_nodes), angles)) * 2 / n_nodes
    transform[0] /= 2
    place = lambda t: 0.5 * (high + low)[:, None] + 0.5 * (high - low)[:, None] * t  # noqa: E731
    at = lambda t: np.maximum(np.exp(place(t)) - offset[:, None], 0.0)  # noqa: E731
    moments = spectra.moments(at(np.cos(angles)))
    coefficients = moments.combined(transform)

    between = np.cos(np.outer(np.arccos(_CHECKS), np.arange(n_nodes)))
    exact, read = spectra.moments(at(_CHECKS)), coefficients.combined(between)
    error = np.abs(log_marginals(exact, spectra.theta_star, site) - log_marginals(read, spectra.theta_star, site)).max(
        axis=1
    )

    fine = np.linspace(-1, 1, 401)
    log_density = log_marginals(moments, spectra.theta_star, site) @ transform.T
    log_density = log_density @ np.cos(np.outer(np.arange(n_nodes), np.arccos(fine)))
    s = np.sqrt(at(fine))
    log_density = log_density - 0.5 * (s / s_scale[:, None]) ** 2
    mass = np.exp(log_density - log_density.max(axis=1, keepdims=True)) * np.gradient(s, axis=1)
    mass /= mass.sum(axis=1, keepdims=True)
    known = spectra.known.sum(axis=1).astype(float)
    curves = ChebyshevLikelihood(
        spectra.theta_star, offset, low, high, known, coefficients.constant, coefficients.log_det, coefficients.linear,
        coefficients.gram,
    )  # fmt: skip
    return curves, np.column_stack([(mass * s).sum(axis=1), (mass * s**2).sum(axis=1)]), error


def _range(
    spectra: PixelSpectra, s2: np.ndarray, site: GaussianSites, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Range of z where the likelihood of s counts, shape (pixel,) each."""
    offset = spectra.offset
    share = np.where(spectra.known, (s2 + offset)[:, None] / (spectra.variance + s2[:, None]), 0.0)
    width = np.sqrt(2.0 / np.sum(share**2, axis=1))
    least = np.log(offset)
    reach = np.concatenate([-_REACH[::-1], [0.0], _REACH])
    z = np.maximum(np.log(s2 + offset)[:, None] + width[:, None] * reach, least[:, None])
    z = np.minimum(z, (np.log(s2 + offset) + 60.0)[:, None])
    variance = np.maximum(np.exp(z) - offset[:, None], 0.0)
    log_density = log_marginals(spectra.moments(variance), spectra.theta_star, site)
    log_density = log_density - 0.5 * variance / scale[:, None] ** 2
    low, high = np.empty_like(least), np.empty_like(least)
    for pixel, (place, value) in enumerate(zip(z, log_density, strict=True)):
        top = int(np.argmax(value))
        root = np.sqrt(np.maximum(value[top] - value, 0.0) / LOG_LIKELIHOOD_DROP)
        low[pixel] = _first_fall(place[top::-1], root[top::-1])
        high[pixel] = _first_fall(place[top:], root[top:])
    # Nor does the half-normal prior leave anything further out.
    furthest = np.log(offset + 2 * LOG_LIKELIHOOD_DROP * scale**2)
    return np.minimum(low, least + 0.5 * (furthest - least)), np.minimum(np.maximum(high, low + 1e-3), furthest)


def _first_fall(place: np.ndarray, root: np.ndarray) -> float:
    """First place, going outwards, where the square root of the decrease exceeds one, by linear interpolation."""
    beyond = np.flatnonzero(root > 1)
    if not len(beyond):
        return float(place[-1])
    k = beyond[0]
    share = (1.0 - root[k - 1]) / (root[k] - root[k - 1])
    return float(place[k - 1] + share * (place[k] - place[k - 1]))


def log_likelihood(curves: ChebyshevLikelihood, coefficients: Array, s2: Array) -> jax.Array:
    """Logarithm of the likelihood of one pixel's theta, shape (term,), and s2, a scalar, up to a constant."""
    z = jnp.log(s2 + curves.offset)
    inside = jnp.clip(z, curves.low, curves.high)
    beyond = z - inside
    t = (2 * inside - curves.low - curves.high) / (curves.high - curves.low)
    basis = _chebyshev(t, curves.constant.shape[-1])
    chi_squared = _interpolated(curves.constant, curves.linear, curves.gram, basis, coefficients - curves.theta_star)
    return -0.5 * (chi_squared * jnp.exp(-beyond) + jnp.dot(basis, curves.log_det) + curves.n_known * beyond)


def _chebyshev(t: Array, n: int) -> jax.Array:
    """The first n Chebyshev polynomials at t, shape (n,)."""
    values: list[Array] = [jnp.ones_like(t), jnp.asarray(t)]
    for _ in range(2, n):
        values.append(2 * t * values[-1] - values[-2])
    return jnp.stack(values)


@jax.custom_vjp
def _interpolated(constant: Array, linear: Array, gram: Array, basis: Array, delta: Array) -> jax.Array:
    """``sum_m T_m (a_m - 2 b_m . delta + delta' G_m delta)``; its derivatives need no second product with G."""
    return _forward(constant, linear, gram, basis, delta)[0]


def _forward(constant: Array, linear: Array, gram: Array, basis: Array, delta: Array) -> tuple:
    pulled = jnp.einsum("mde,e->md", gram, delta)
    parts = constant + jnp.einsum("md,d->m", pulled - 2 * linear, delta)
    slope = 2 * jnp.einsum("m,md->d", basis, pulled - linear)
    return jnp.dot(basis, parts), (parts, slope, constant, linear, gram)


def _backward(saved: tuple, tangent: Array) -> tuple:
    parts, slope, constant, linear, gram = saved
    nothing = (jnp.zeros_like(array) for array in (constant, linear, gram))  # They are data.
    return (*nothing, tangent * parts, tangent * slope)


_interpolated.defvjp(_forward, _backward)
