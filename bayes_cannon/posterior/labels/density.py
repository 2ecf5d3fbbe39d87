r"""The posterior density of the labels of one star, given its compressed spectrum.

With theta and s given, chi^2 of a star is one polynomial of its scaled labels (`labelling.compressed`), held here as a
quadratic form of the terms, :math:`\chi^2(x) = v(x)^T Q\, v(x)`. The likelihood is

.. math:: -2 \ln L = \chi^2(x) \qquad \text{or} \qquad (\nu + n) \ln\left(1 + \chi^2(x) / \nu\right)

with heavy tails of nu degrees of freedom over n pixels. Where the covariance depends on the labels another function
stands for chi^2 (`labelling.label_scale`). With theta integrated out chi^2 is the corrected one, m its
minimum, and it is read at ``m + T (x - m)``, which gives it the curvature of the inverse of the covariance of m
(`labelling.theta_errors`). Further modes then lie farther from m, as T makes it.

The coordinates z are whitened at the best mode, ``u = mean + root z``, and each label is a monotonic function of its u
that maps all real numbers into the bounds.

**The density is confined to the basin of the best mode.** Where there are other modes, the log density is lowered by
:math:`\tfrac12 \sum_m \max(n_m \cdot z - d_m, 0)^2 / h^2`, with n the direction of mode m, d the distance of the
barrier between the modes, and h = `BARRIER_WIDTH`.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import biject_to, constraints

from bayes_cannon.core.moments import MomentBasis
from bayes_cannon.core.typing import Array
from bayes_cannon.core.vectorizer import label_factors
from bayes_cannon.labelling.label_scale import LabelScale
from bayes_cannon.programs.evaluate import log_density
from bayes_cannon.programs.star import compressed_star

BARRIER_WIDTH = 0.2
"""Width of the Gaussian that truncates the density at the basin of another mode, in standard deviations."""

Potential = Callable[[Any, Array], Array]


class StarDensity(NamedTuple):
    """Data of the density of one star, or of many with the star as the leading axis.

    Attributes
    ----------
    form
        Q, shape (term, term).
    tails
        nu and n, or None for normal tails.
    widened
        m, shape (label,), and T, shape (label, label): the likelihood is that of ``m + T (x - m)``. None where theta is
        taken as known.
    prior
        NumPyro distribution of the scaled labels, or None for a flat one.
    low, high
        Bounds of the scaled labels, shape (label,).
    mean, root
        Whitening, shape (label,) and (label, label).
    barriers, barrier_distances
        Directions of other modes in z, unit vectors (mode, label), and distances of the barriers to them, (mode,).
    label_scale
        How the covariance depends on the labels, or None where it does not.

    """

    form: Array
    tails: tuple[Array, Array] | None
    widened: tuple[Array, Array] | None
    prior: Any
    low: Array
    high: Array
    mean: Array
    root: Array
    barriers: Array
    barrier_distances: Array
    label_scale: LabelScale | None = None


def forms(coefficients: np.ndarray, exponents: np.ndarray) -> np.ndarray:
    """Q of each star, shape (star, term, term), from coefficients over the moments (star, moment) of these terms."""
    basis = MomentBasis.from_terms(exponents)
    count = np.bincount(basis.pairs.ravel(), minlength=basis.n_moments)
    return (coefficients / count)[:, basis.pairs]


@lru_cache(maxsize=32)
def label_potential(exponents: tuple[tuple[int, ...], ...], kinds: tuple[str, ...]) -> Potential:
    """Minus the log density of z for terms with these powers and labels bounded so; the same object for the same."""
    terms = _terms(np.array(exponents))

    def potential(item: StarDensity, z: Array) -> Array:
        u = item.mean + item.root @ z
        x, log_jacobian = within(kinds, item.low, item.high, u)
        likelihood = lambda x: log_likelihood(item, terms(turned(item, x)), turned(item, x))  # noqa: E731
        density = log_density(compressed_star, {"x": x}, likelihood, len(kinds), prior=item.prior)
        beyond = jnp.maximum(item.barriers @ z - item.barrier_distances, 0.0) / BARRIER_WIDTH
        return 0.5 * jnp.sum(beyond**2) - density - log_jacobian

    return potential


def turned(item: StarDensity, x: Array) -> Array:
    """Where the likelihood of the scaled labels x, shape (label,), is to be read."""
    if item.widened is None:
        return x
    minimum, turn = item.widened
    return minimum + turn @ (x - minimum)


def log_likelihood(item: StarDensity, v: Array, x: Array | None = None) -> Array:
    """Logarithm of the likelihood of the terms v, shape (term,), up to a constant.

    The scaled labels x, shape (label,), matter where the covariance depends on them.
    """
    chi_squared = _quadratic(item.form, v)
    if item.label_scale is not None:
        assert x is not None
        chi_squared = item.label_scale.objective(chi_squared, item.label_scale.exponent(x))
    if item.tails is None:
        return -0.5 * chi_squared
    nu, count = item.tails
    return -0.5 * (nu + count) * jnp.log1p(chi_squared / nu)


@jax.custom_jvp
def _quadratic(form: Array, v: Array) -> Array:
    return v @ (form @ v)


@_quadratic.defjvp
def _quadratic_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    """The form is symmetric and never differentiated, which saves half of the products."""
    form, v = primals
    product = form @ v
    return v @ product, 2.0 * (product @ tangents[1])


def _terms(exponents: np.ndarray) -> Callable[[Array], Array]:
    """Terms of labels (label,), shape (term,), as products of vectors, each of which selects labels: no indices."""
    n_labels = exponents.shape[1]
    choices = [np.eye(n_labels + 1)[column].T for column in label_factors(exponents).T]

    def terms(x: Array) -> Array:
        padded = jnp.append(x, 1.0)
        out = padded @ choices[0]
        for choice in choices[1:]:
            out = out * (padded @ choice)
        return out

    return terms


def within(kinds: tuple[str, ...], low: Array, high: Array, u: Array) -> tuple[jax.Array, jax.Array]:
    """Scaled labels of unbounded coordinates u, shape (label,), and the logarithm of the determinant of dx / du."""
    x, log_jacobian = [], jnp.zeros(())
    for label, kind in enumerate(kinds):
        bijection = _bijection(kind, low[label], high[label])
        x.append(bijection(u[label]))
        if kind != "real":
            log_jacobian = log_jacobian + bijection.log_abs_det_jacobian(u[label], x[-1])
    return jnp.stack(x), log_jacobian


def unbounded(kinds: tuple[str, ...], low: Array, high: Array, x: Array) -> jax.Array:
    """Coordinates u of scaled labels within the bounds, shape (label,); the inverse of `within`."""
    return jnp.stack([_bijection(kind, low[k], high[k]).inv(x[k]) for k, kind in enumerate(kinds)])


def _bijection(kind: str, low: Array, high: Array) -> Any:
    supports = {
        "real": lambda: constraints.real,
        "low": lambda: constraints.greater_than(low),
        "high": lambda: constraints.less_than(high),
        "both": lambda: constraints.interval(low, high),
    }
    return biject_to(supports[kind]())
