r"""Mean, covariance and evidence of the labels of each star under a prior, by importance sampling.

The likelihood of a compressed spectrum is a function of one polynomial of the labels, :math:`\chi^2(x)`
(`labelling.compressed`), so that thousands of points cost less than one pass over the pixels. With n coordinates,

.. math:: -2 \ln L(x) = n \ln k(x) + (\nu + n) \ln\left(1 + \frac{\chi^2(x)}{\nu k(x)}\right)
          \quad\text{or}\quad n \ln k(x) + \frac{\chi^2(x)}{k(x)}

with heavy or normal tails. :math:`k = e^{\beta \cdot x} + ((1 + h(x)) / b - 1) / c`, :math:`h = v^T A v`, is what the
labels (`scatter.star_scale`) and the errors of theta make of the covariance of a spectrum, c times that of all, where
the latter are integrated out in closed form (`scatter.conjugate_training`), b being what that covariance holds of them
already. Elsewhere k is one but for the labels, and where theta has a posterior chi^2 is the corrected one, read at
``m + T (x - m)``, where it has the right width (`labelling.theta_errors`).

Points are drawn in two steps. The first proposal is exact where chi^2 is quadratic: for each component of the prior,
its product with the normal approximation of the likelihood at its maximum, as a mixture of Student-t distributions. The
second is a Student-t with the mean and covariance that those points give, and a part of the first, so that a second
mode is not lost. All stars have the same quasi-random numbers (Owen 2013, chapters 9 and 15): results do not depend on
a seed. How many of the points count is reported.
"""

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import chdtri, gammaln, ndtri
from scipy.stats import qmc

from bayes_cannon.core.typing import Array, PerStar, StarLabel, StarMoment
from bayes_cannon.execution.devices import by_device
from bayes_cannon.labelling.label_scale import LabelScale, objectives
from bayes_cannon.labelling.polynomial import PolynomialTables

FIRST, SECOND = 128, 256
"""Points of both steps."""
TAILS = 5
"""Degrees of freedom of the proposals."""
WIDENED = 1.3
"""Variance of the proposals over that of what they follow."""
KEPT = 0.2
"""Share of the first proposal in the second."""
LEAST = 1e-6
"""Curvature of the likelihood along a direction, over the precision of the prior, that counts at least."""
LEAST_GROWTH = -0.5
"""What errors of theta that a covariance holds already may take from it, relative to it."""
STARS_IN_CACHE = 16
"""Stars whose points are looked at together on a CPU: their terms stay in its cache."""


class MixturePrior(NamedTuple):
    """A Gaussian mixture of the scaled labels: logarithm of weights (component,), means and covariances."""

    log_weights: Array
    means: Array
    covariances: Array


class LabelMoments(NamedTuple):
    """What is known of the labels of each star under the prior, in scaled labels.

    Attributes
    ----------
    mean, covariance
        Shape (star, label) and (star, label, label).
    log_evidence
        Logarithm of the mean of the likelihood over the prior, relative to a chi^2 of zero, shape (star,).
    efficiency
        Share of the points that count, shape (star,).

    """

    mean: StarLabel
    covariance: Array
    log_evidence: PerStar
    efficiency: PerStar


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StarLikelihood:
    """Likelihoods of a batch of stars.

    Attributes
    ----------
    coefficients
        Of chi^2 over the moments, shape (star, moment).
    maximum
        Scaled labels where it is largest, shape (star, label); where they are not finite the prior's mean stands.
    nu
        Degrees of freedom.
    count
        The n of each star, shape (star,).
    scale
        The c of each star, shape (star,).
    theta_covariance
        A, shape (term, term); zero where theta is known, or integrated out otherwise.
    included
        b; one where the covariance holds no errors of theta, or theta is not integrated out here.
    widened
        m, shape (star, label), and T, shape (star, label, label); None where chi^2 has its width.
    beta
        By which the covariance depends on the labels, shape (label,); None where it does not.

    """

    coefficients: StarMoment
    maximum: StarLabel
    nu: Array
    count: PerStar
    scale: PerStar
    theta_covariance: Array
    included: Array | float = 1.0
    widened: tuple[Array, Array] | None = None
    beta: Array | None = None

    @property
    def label_scale(self) -> LabelScale | None:
        """How the covariance depends on the labels."""
        return None if self.beta is None else LabelScale(self.beta, self.nu, self.count)

    def at(self, rows: Array) -> "StarLikelihood":
        """Some of the stars."""
        of_star = self.coefficients, self.maximum, self.count, self.scale, self.widened
        # NumPy's indexing takes a tenth of the time of JAX's.
        coefficients, maximum, count, scale, widened = jax.tree.map(lambda array: np.asarray(array)[rows], of_star)
        return StarLikelihood(
            coefficients, maximum, self.nu, count, scale, self.theta_covariance, self.included, widened, self.beta
        )


class Points(NamedTuple):
    """Numbers that all stars share: a uniform one that chooses the component, and t-distributed ones (label, point)."""

    u: Array
    t: Array


@lru_cache(maxsize=16)
def points(n_labels: int, first: int, second: int) -> tuple[Points, Points]:
    """Quasi-random points of both steps, of a Student-t distribution of `TAILS` degrees of freedom and unit scale."""
    out = []
    for seed, n in enumerate((first, second)):
        cube = np.clip(qmc.Sobol(n_labels + 2, seed=seed).random(n), 1e-9, 1 - 1e-9)
        radius = np.sqrt(TAILS / chdtri(TAILS, cube[:, 1]))
        out.append(Points(cube[:, 0], (ndtri(cube[:, 2:]) * radius[:, None]).T))
    return out[0], out[1]


def _inverse(root: Array) -> jax.Array:
    """Inverse of lower triangular matrices, shape (..., label, label)."""
    unit = jnp.broadcast_to(jnp.eye(root.shape[-1]), root.shape)
    return jnp.asarray(jax.scipy.linalg.solve_triangular(root, unit, lower=True))


def log_normalization(n_labels: int) -> float:
    """The constant that `Proposal.density` leaves out."""
    return float(gammaln((TAILS + n_labels) / 2) - gammaln(TAILS / 2) - 0.5 * n_labels * np.log(TAILS * np.pi))


@partial(jax.jit, static_argnames="log_prior")
def label_moments(
    tables: PolynomialTables, stars: StarLikelihood, proposal: MixturePrior, space: "LabelSpace",
    numbers: tuple[Points, Points], log_prior: Any = None,
) -> LabelMoments:  # fmt: skip
    """Moments of each star. Must be called with float64 enabled.

    Parameters
    ----------
    tables
        Of the polynomials over the moments.
    stars
        Likelihoods.
    proposal
        The prior, or, with ``log_prior``, something of about its place and width.
    space
        Terms, moments and bounds.
    numbers
        What `points` returns.
    log_prior
        Function of one set of scaled labels, where the prior is no Gaussian mixture.

    """
    x, information = _normal_likelihood(tables, stars, proposal)
    prior = partial(_log_mixture, proposal) if log_prior is None else jax.vmap(log_prior, in_axes=1)

    def of_star(star: tuple[Any, ...]) -> LabelMoments:
        form, count, scale, x, information, widened = star

        def density(x: Array) -> jax.Array:
            inside = jnp.all((x > space.low[:, None]) & (x < space.high[:, None]), axis=0)
            likelihood = _log_likelihood(space, stars, form, count, scale, widened, x)
            return jnp.where(inside, likelihood + prior(x), -jnp.inf)

        return _two_steps(density, _first_proposal(proposal, x, information), numbers)

    each = _forms(stars, space), stars.count, stars.scale, x, information, stars.widened
    return jax.lax.map(of_star, each, batch_size=by_device(STARS_IN_CACHE, len(x)))


@jax.jit
def rough_log_evidence(
    tables: PolynomialTables, stars: StarLikelihood, prior: MixturePrior, space: "LabelSpace"
) -> PerStar:
    """The log evidence of `label_moments` by Laplace's method, at the maximum where the likelihood is normal.

    One for each component of the prior, without bounds. Right to about one where much of the likelihood is left.
    """
    x, information = _normal_likelihood(tables, stars, prior)

    def of_star(star: tuple[Any, ...]) -> jax.Array:
        form, count, scale, x, information, widened = star
        means, _, log_shares = _products(prior, x, information)
        away = x - means
        fall = 0.5 * jnp.einsum("ki,ij,kj->k", away, information, away)
        likelihood = _log_likelihood(space, stars, form, count, scale, widened, means.T)
        return jax.scipy.special.logsumexp(log_shares + fall + likelihood)

    each = _forms(stars, space), stars.count, stars.scale, x, information, stars.widened
    return jax.vmap(of_star)(each)


def _normal_likelihood(
    tables: PolynomialTables, stars: StarLikelihood, proposal: MixturePrior
) -> tuple[StarLabel, Array]:
    """Where the likelihood of each star is largest, the prior's mean if that is not known, and its curvature there."""
    middle = jnp.exp(proposal.log_weights) @ proposal.means
    known = jnp.isfinite(stars.maximum).all(axis=1)
    x = jnp.where(known[:, None], stars.maximum, middle)
    at = objectives(tables, stars.coefficients, stars.label_scale)(x[:, None])
    value, heavy = at.value[:, 0], jnp.isfinite(stars.nu)
    value = value if stars.label_scale is not None else jnp.maximum(value, 0.0)
    steep = jnp.where(heavy, (stars.nu + stars.count) / (jnp.where(heavy, stars.nu, 1.0) + value), 1.0)
    values, vectors = jnp.linalg.eigh(0.5 * steep[:, None, None] * at.hessian[:, 0])
    good = jnp.isfinite(values).all(axis=1, keepdims=True) & known[:, None]
    values = jnp.where(good, jnp.maximum(values, LEAST), LEAST)
    vectors = jnp.where(good[..., None], vectors, jnp.eye(x.shape[1]))
    information = jnp.einsum("nik,nk,njk->nij", vectors, values, vectors)
    if stars.widened is not None:
        information = jnp.einsum("nji,njk,nkl->nil", stars.widened[1], information, stars.widened[1])
    return x, information


def _forms(stars: StarLikelihood, space: "LabelSpace") -> Array:
    """chi^2 of each star as a quadratic form of the terms, and below it A, shape (star, 2 term, term)."""
    shared = jnp.zeros(stars.coefficients.shape[1]).at[space.pairs].add(1.0)
    forms = (stars.coefficients / shared)[:, space.pairs]
    return jnp.concatenate([forms, jnp.broadcast_to(stars.theta_covariance, forms.shape)], axis=1)


class LabelSpace(NamedTuple):
    """Labels whose product is a term, (term, degree), the moment that two terms make, (term, term), and bounds."""

    terms: Array
    pairs: Array
    low: Array
    high: Array


class Proposal(NamedTuple):
    """Mixture of Student-t distributions: weights (component,), means, and roots of their scale matrices.

    Points have the shape (label, point) in what follows: arithmetic on long rows takes a fifth of the time.
    """

    weights: Array
    means: Array
    roots: Array

    def density(self, x: Array) -> jax.Array:
        """At points (label, point), over the constant of `log_normalization`, shape (point,).

        Student-t densities are whole powers of one over a root, which take less than logarithms.
        """
        inverse = _inverse(self.roots)
        reciprocal = jax.lax.rsqrt(1 + _squares(inverse, self.means, x) / TAILS)
        height = self.weights * jnp.abs(jnp.prod(jnp.diagonal(inverse, axis1=1, axis2=2), axis=1))
        return jnp.asarray(height @ jax.lax.integer_pow(reciprocal, TAILS + len(x)))

    def draws(self, u: Array, t: Array) -> jax.Array:
        """Points of this distribution, shape (label, point), from uniform numbers and t-distributed ones."""
        ends = jnp.cumsum(self.weights).at[-1].set(jnp.inf)
        chosen = (u < ends[:, None]) & (u >= jnp.pad(ends[:-1], (1, 0))[:, None])
        every = self.means[..., None] + self.roots @ t
        return jnp.sum(jnp.where(chosen[:, None], every, 0.0), axis=0)


def _squares(inverse: Array, means: Array, x: Array) -> jax.Array:
    """Squared lengths from means (component, label), shape (component, point), by the inverses of roots."""
    z = inverse @ (x - means[..., None])
    return jnp.sum(z**2, axis=1)


def _terms(x: Array, factors: Array) -> jax.Array:
    """Terms of points (label, point), shape (term, point)."""
    padded = jnp.concatenate([x, jnp.ones_like(x[:1])])
    return jnp.prod(padded.at[factors.T].get(mode="promise_in_bounds"), axis=0)


def _log_likelihood(
    space: LabelSpace, stars: StarLikelihood, forms: Array, count: Array, scale: Array,
    widened: tuple[Array, Array] | None, x: Array,
) -> jax.Array:  # fmt: skip
    """Of one star with these `_forms` at points (label, point), shape (point,)."""
    if widened is not None:
        x = widened[0][:, None] + widened[1] @ (x - widened[0][:, None])
    v = _terms(x, space.terms)
    chi_squared, h = jnp.sum((forms @ v).reshape(2, *v.shape) * v, axis=1)
    chi_squared, growth = jnp.maximum(chi_squared, 0.0), 1 + h
    lift = jnp.ones(x.shape[1]) if stars.beta is None else jnp.exp(stars.beta @ x)
    k = lift + jnp.maximum(jnp.asarray(growth / stars.included - 1) / scale, LEAST_GROWTH * lift)
    heavy = jnp.isfinite(stars.nu)
    nu = jnp.where(heavy, stars.nu, 1.0)
    student = (nu + count) * jnp.log1p(chi_squared / (nu * k))
    return jnp.asarray(-0.5 * (count * jnp.log(k) + jnp.where(heavy, student, chi_squared / k)))


def _log_mixture(prior: MixturePrior, x: Array) -> jax.Array:
    """Log density of the mixture at points (label, point), shape (point,)."""
    inverse = _inverse(jnp.linalg.cholesky(prior.covariances))
    height = prior.log_weights + jnp.sum(jnp.log(jnp.diagonal(inverse, axis1=1, axis2=2)), axis=1)
    parts = height[:, None] - 0.5 * _squares(inverse, prior.means, x)
    return jax.scipy.special.logsumexp(parts, axis=0) - 0.5 * len(x) * float(np.log(2 * np.pi))


def _products(prior: MixturePrior, x: Array, information: Array) -> tuple[Array, Array, Array]:
    """Products of the components of the prior with the normal likelihood: means, covariances, logarithms of shares."""
    precisions = jnp.linalg.inv(prior.covariances)
    root = jnp.linalg.cholesky(precisions + information)
    inverse = _inverse(root)
    covariances = inverse.swapaxes(1, 2) @ inverse
    pulled = information @ x + jnp.einsum("kij,kj->ki", precisions, prior.means)
    means = jnp.einsum("kij,kj->ki", covariances, pulled)
    log_det = jnp.linalg.slogdet(precisions)[1] - 2 * jnp.sum(jnp.log(jnp.diagonal(root, axis1=1, axis2=2)), axis=1)
    away, off = x - means, prior.means - means
    loss = jnp.einsum("ki,ij,kj->k", away, information, away) + jnp.einsum("ki,kij,kj->k", off, precisions, off)
    return means, covariances, prior.log_weights + 0.5 * (log_det - loss)


def _first_proposal(prior: MixturePrior, x: Array, information: Array) -> Proposal:
    means, covariances, log_shares = _products(prior, x, information)
    weights = 0.95 * jax.nn.softmax(log_shares) + 0.05 / len(log_shares)
    return Proposal(weights, means, jnp.linalg.cholesky(WIDENED * covariances))


def _two_steps(density: Any, first: Proposal, numbers: tuple[Points, Points]) -> LabelMoments:
    x = first.draws(*numbers[0])
    weight = jax.nn.softmax(_finite(density(x) - jnp.log(first.density(x))))
    mean, covariance = _moments(weight, x)
    broad = jnp.einsum("k,kij,klj->il", first.weights, first.roots, first.roots)
    covariance = covariance + broad * jnp.sum(weight**2)
    own = Proposal(jnp.ones(1), mean[None], jnp.linalg.cholesky(WIDENED * covariance)[None])
    u, t = numbers[1]
    x = jnp.where(u < KEPT, first.draws(u / KEPT, t), mean[:, None] + own.roots[0] @ t)
    log_weight = _finite(density(x) - jnp.log((1 - KEPT) * own.density(x) + KEPT * first.density(x)))
    weight = jax.nn.softmax(log_weight)
    mean, own_covariance = _moments(weight, x)
    one_over_count = jnp.sum(weight**2)
    log_evidence = jax.scipy.special.logsumexp(log_weight) - float(np.log(len(u))) - log_normalization(len(x))
    # A mean of few points has an error of its own; of one point nothing else is known.
    return LabelMoments(mean, own_covariance + covariance * one_over_count, log_evidence, 1 / one_over_count / len(u))


def _finite(log_weight: Array) -> jax.Array:
    return jnp.where(jnp.isnan(log_weight), -jnp.inf, log_weight)


def _moments(weight: Array, x: Array) -> tuple[Array, Array]:
    """Mean and covariance of points (label, point)."""
    mean = x @ weight
    away = x - mean[:, None]
    return mean, (away * weight) @ away.T
