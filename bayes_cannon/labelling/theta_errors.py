r"""Labels with theta integrated out.

Theta is known to within a normal law, mean :math:`\hat\theta_j` and covariance :math:`\Sigma_j`. It has two effects.

The variance of a pixel gains :math:`q_j(x) = v(x)^T \Sigma_j v(x)`, taken at a pilot x and iterated, so that chi^2
stays one polynomial of the labels.

And chi^2 has no longer its minimum, on average, at the true labels. Its coefficients hold
:math:`\sum_j w_j \hat\theta_j \hat\theta_j^T`, which exceeds that of the true theta by :math:`S = \sum_j w_j \Sigma_j`:
the errors of theta pass for response to the labels, the more the more pixels. The corrected score of errors in
variables (Nakamura 1990) takes that out, and is a polynomial of the same moments:

.. math:: \chi^2_c(x) = \sum_j w_j (y_j - v \cdot \hat\theta_j)^2 - \gamma\, v(x)^T S\, v(x)

With the apparent information :math:`F = \sum_j w_j\, \partial f_j\, \partial f_j^T`, of which
:math:`B = \partial v^T S\, \partial v` is none, the covariance of its minimum is :math:`F_c^{-1} F F_c^{-1}` with
:math:`F_c = F - \gamma B`. Normally :math:`\gamma = 1`; it is less for stars for which more than `MOST_NOISE` of the
apparent information in some direction is noise of theta, where the expansion ends.

The correction assumes that theta has a flat prior, or next to it; what a strong prior takes away already is small in S.

Against the exact mixture :math:`\prod_j \langle p(y_j \mid x, \theta_j) \rangle` over draws of theta, with a flat prior
of the labels (two labels, quadratic, 120 pixels): with 600 training stars, B being 2 % of F at most, means agree to
0.2 errors and errors to 3 %. With 60, B being 6 to 20 % of F, the mixture stays within 0.1 errors of the plug-in
labels, drawn up to 0.8 errors to the centre of the training set, because a flat prior of theta does not know that
slopes are overstated by their errors; and it is 1 to 13 % narrower than the errors quoted here, which are those that
cover. The dependence of the variance and of its determinant on the labels makes no more than that 0.1.

With correlated scatter the errors of theta are correlated between pixels as the residuals are that they come from: for
the same terms and weights at all pixels :math:`\mathrm{cov}(\theta_{jd}, \theta_{ke}) = C_{jk} A_{de}` with
:math:`A = (V^T V)^{-1}` of the training stars (Zellner 1962). The shared part of the covariance of a spectrum then
gains the factor 1 + h, ``h = v' A v``, and only the rest of each pixel's Sigma is its own.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayes_cannon.core.moments import MomentBasis
from bayes_cannon.core.typing import Array, PerStar, StarLabel, StarPixel, StarTerm
from bayes_cannon.core.vectorizer import monomials
from bayes_cannon.scatter.low_rank_labels import SharedScatter
from bayes_cannon.scatter.settings import Correlation

MOST_NOISE = 0.75
"""Largest share of the apparent information along a direction that is taken for noise of theta."""
ROUNDS = 4
"""Pilots: the labels change by less than a hundredth of their errors in the last one."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ThetaUncertainty:
    """Covariances of theta. Make it with `from_labels`.

    Attributes
    ----------
    own
        Sigma of each pixel without what pixels share, shape (pixel, pair): an entry on or below the diagonal each,
        those below doubled.
    common
        A, shape (term, term); zero where the scatter is independent.
    pairs
        Index of the moment that two terms multiply to, shape (term, term).

    """

    own: Array
    common: Array
    pairs: Array

    @classmethod
    def from_labels(
        cls, covariance: np.ndarray, exponents: np.ndarray, x: np.ndarray, correlation: Correlation | None = None
    ) -> "ThetaUncertainty":
        """As `from_arrays`, on the device, for powers (term, label) and scaled labels (star, label) of the training.

        Raises
        ------
        ValueError
            For a covariance of another shape than (pixel, term, term).

        """
        covariance, n_terms = np.asarray(covariance, float), len(exponents)
        if covariance.ndim != 3 or covariance.shape[1:] != (n_terms, n_terms):
            raise ValueError(f"theta_covariance must have shape (pixel, {n_terms}, {n_terms}), got {covariance.shape}")
        pairs = MomentBasis.from_terms(exponents).pairs
        with jax.enable_x64(True):
            return jax.device_put(cls.from_arrays(covariance, monomials(x, exponents), correlation, pairs))

    @classmethod
    def from_arrays(
        cls, covariance: np.ndarray, design: np.ndarray, correlation: Correlation | None, pairs: np.ndarray
    ) -> "ThetaUncertainty":
        """Uncertainty from the covariances of theta, shape (pixel, term, term).

        Parameters
        ----------
        covariance
            Of each pixel; pixels where it is not finite count as known exactly.
        design
            Terms of the training stars, shape (star, term).
        correlation
            Of the scatter between pixels.
        pairs
            Index of the moment that two terms multiply to (`core.moments`).

        """
        known = np.isfinite(covariance).all(axis=(1, 2))
        own = np.where(known[:, None, None], covariance, 0.0)
        n_terms = design.shape[1]
        common = np.zeros((n_terms, n_terms))
        if correlation is not None:
            gram = design.T @ design
            common = np.linalg.pinv(gram, hermitian=True)
            if correlation.noise is not None:
                own = np.zeros_like(own)
            else:
                total = np.einsum("pde,de->p", own, gram) / n_terms
                shared = np.sum(correlation.factors**2, axis=1) / np.where(total > 0, total, np.inf)
                own = own * (1.0 - np.minimum(shared, 1.0))[:, None, None]
        rows, columns = np.tril_indices(n_terms)
        return cls(own[:, rows, columns] * np.where(rows == columns, 1.0, 2.0), common, pairs)


def terms_and_slopes(term_labels: Array, x: StarLabel) -> tuple[StarTerm, Array]:
    """Terms v of scaled labels, shape (star, term), and their derivatives, shape (star, term, label)."""

    def terms(x: Array) -> Array:
        padded = jnp.concatenate([x, jnp.ones_like(x[:1])])
        return jnp.prod(padded[term_labels], axis=-1)

    return jax.vmap(terms)(x), jax.vmap(jax.jacfwd(terms))(x)


@jax.jit
def variances(uncertainty: ThetaUncertainty, v: StarTerm) -> tuple[StarPixel, PerStar]:
    """The q of each pixel, shape (star, pixel), and h, shape (star,)."""
    rows, columns = np.tril_indices(v.shape[1])
    own = (v[:, rows] * v[:, columns]) @ uncertainty.own.T
    return own, jnp.einsum("nd,de,ne->n", v, uncertainty.common, v)


@jax.jit
def noise_matrix(uncertainty: ThetaUncertainty, diagonal: StarPixel, shared: PerStar) -> Array:
    """S of each star, shape (star, term, term), from the diagonal of C^-1 and the weight of the shared part."""
    n_terms = uncertainty.common.shape[0]
    rows, columns = np.tril_indices(n_terms)
    packed = (diagonal @ uncertainty.own) * np.where(rows == columns, 1.0, 0.5)
    lower = jnp.zeros((len(diagonal), n_terms, n_terms)).at[:, rows, columns].set(packed)
    full = lower + jnp.where(jnp.eye(n_terms, dtype=bool), 0.0, lower.swapaxes(1, 2))
    return full + shared[:, None, None] * uncertainty.common


@jax.jit
def correction(noise: Array, slopes: Array, information: Array) -> tuple[PerStar, Array]:
    """Gamma of each star, shape (star,), and the matrix B, shape (star, label, label)."""
    b = jnp.einsum("ndk,nde,nel->nkl", slopes, noise, slopes)
    usable = jnp.isfinite(information).all(axis=(1, 2)) & (jnp.diagonal(information, axis1=1, axis2=2) > 0).all(axis=1)
    safe = jnp.where(usable[:, None, None], information, jnp.eye(information.shape[1]))
    root = jnp.linalg.cholesky(safe)
    half = jax.scipy.linalg.solve_triangular(root, b, lower=True)
    share = jax.scipy.linalg.solve_triangular(root, half.swapaxes(1, 2), lower=True)
    largest = jnp.linalg.eigvalsh(jnp.where(jnp.isfinite(share), share, 0.0))[:, -1]
    gamma = jnp.minimum(1.0, MOST_NOISE / jnp.maximum(largest, 1e-12))
    return jnp.where(usable, gamma, 0.0), b


@jax.jit
def sandwich(information: Array, b: Array, gamma: PerStar) -> Array:
    """``Fc^-1 F Fc^-1``, shape (star, label, label); NaN where F is singular."""
    corrected = information - gamma[:, None, None] * b
    inverse = jnp.linalg.inv(corrected)
    covariance = inverse @ information @ inverse
    return 0.5 * (covariance + covariance.swapaxes(1, 2))


@jax.jit
def curvature_root(information: Array, b: Array, gamma: PerStar) -> Array:
    r"""The matrices T, shape (star, label, label), that give a log likelihood its right width.

    The curvature of half the corrected chi^2 at its minimum m is :math:`F_c`, while the inverse of the covariance of
    m is :math:`H = F_c F^{-1} F_c`. The density of :math:`m + T (x - m)` in place of x has the curvature
    :math:`T^T F_c T = H` (Ribatet, Cooley & Davison 2012). Where H is not positive definite T is the identity.
    """
    corrected = information - gamma[:, None, None] * b
    wanted = corrected @ jnp.linalg.solve(information, corrected)
    root = jnp.linalg.cholesky(0.5 * (wanted + wanted.swapaxes(1, 2)))
    turn = jax.scipy.linalg.solve_triangular(jnp.linalg.cholesky(corrected), root.swapaxes(1, 2), trans=1, lower=True)
    good = jnp.isfinite(turn).all(axis=(1, 2), keepdims=True)
    return jnp.where(good, turn, jnp.eye(turn.shape[1]))


@jax.jit
def corrected_coefficients(coefficients: Array, noise: Array, gamma: PerStar, pairs: Array) -> Array:
    """Coefficients of the corrected chi^2, from those of chi^2, shape (star, moment)."""
    taken = (gamma[:, None, None] * noise).reshape(len(gamma), -1)
    return jnp.asarray(coefficients).at[:, pairs.reshape(-1)].add(-taken)


def shared_weights(pixels: Any, w: StarPixel, h: PerStar, used: PerStar) -> tuple[Array, Array]:
    """Diagonal of C^-1, shape (star, pixel), and the weight of the shared part of theta's errors, shape (star,)."""
    if pixels.shared is None:
        return w, jnp.zeros(len(w))
    if not isinstance(pixels.shared, SharedScatter):  # A full covariance: all of it is shared.
        return jnp.zeros_like(w), pixels.shared.n_tail(used) / (1.0 + h)
    return _low_rank_weights(pixels.shared.factors, w, h)


@jax.jit
def _low_rank_weights(factors: Array, w: StarPixel, h: PerStar) -> tuple[Array, Array]:
    n_factors = factors.shape[1]
    gram = jnp.einsum("np,pr,ps->nrs", w, factors, factors)
    inner = gram + jnp.eye(n_factors) / (1.0 + h)[:, None, None]
    root = jnp.linalg.cholesky(inner)
    pulled = w[:, None, :] * factors.T
    half = jax.scipy.linalg.solve_triangular(root, pulled, lower=True)
    diagonal = w - jnp.sum(half**2, axis=1)
    solved = jax.scipy.linalg.cho_solve((root, True), gram)
    return diagonal, jnp.einsum("nrr->n", gram) - jnp.einsum("nrs,nsr->n", gram, solved)
