r"""Labels with theta integrated out.

Theta is normal with mean :math:`\hat\theta_j` and covariance :math:`\Sigma_j`. This has two effects.

The variance of a pixel gains :math:`q_j(x) = v(x)^T \Sigma_j v(x)`, taken at a pilot x and iterated, so that chi^2
stays one polynomial of the labels.

And the minimum of chi^2 is biased. Its coefficients hold
:math:`\sum_j w_j \hat\theta_j \hat\theta_j^T`, which exceeds that of the true theta by :math:`S = \sum_j w_j \Sigma_j`:
the errors of theta look like response to the labels, more so with more pixels. The corrected score of errors in
variables (Nakamura 1990) subtracts that, and is a polynomial of the same moments:

.. math:: \chi^2_c(x) = \sum_j w_j (y_j - v \cdot \hat\theta_j)^2 - v(x)^T S'\, v(x)

With the apparent information :math:`F = \sum_j w_j\, \partial f_j\, \partial f_j^T`, of which
:math:`B = \partial v^T S'\, \partial v` is noise, the covariance of its minimum is :math:`F_c^{-1} F F_c^{-1}` with
:math:`F_c = F - B`.

Normally :math:`S' = S`. Two limits keep the correction from doing harm. Where a combination of terms is hardly in the
spectra, S may exceed :math:`Q = \sum_j w_j \hat\theta_j \hat\theta_j^T` along it: then :math:`Q - S` would be
indefinite, and :math:`\chi^2_c` without a lower bound. So the share of S in Q, along each of their common directions,
is limited to c = `LARGEST_SHARE`: with :math:`Q + S = L L^T` and the eigenvalues r of :math:`L^{-1} S L^{-T}`,
:math:`\min(r, c (1 - r))` takes the place of r, and :math:`Q - S' \succeq (1 - c)\, Q`. And where more than
b = `TRUSTED_SHARE` of the apparent information in some direction of the labels would be noise of theta, the expansion
ends: the correction, which makes the labels scatter more, is then less and less of S, by the square of b over that
share, so that the labels become those of chi^2 with the variance q alone. The bias that is left, :math:`F_c^{-1} l`
with :math:`l = \partial v^T (S' - S'')\, v` and the part S'' that is subtracted, counts as an error: the covariance is
:math:`F_c^{-1} (F + l l^T) F_c^{-1}`.

The correction assumes that theta has a nearly flat prior; the more a prior shrinks theta, the smaller S is.

Against the exact mixture :math:`\prod_j \langle p(y_j \mid x, \theta_j) \rangle` over draws of theta, with a flat prior
of the labels (two labels, quadratic, 120 pixels): with 600 training stars, B being 2 % of F at most, means agree to
0.2 errors and errors to 3 %. With 60, B being 6 to 20 % of F, the mixture stays within 0.1 errors of the plug-in
labels, biased by up to 0.8 errors towards the middle of the training set, because with a flat prior of theta
coefficients are overestimated by their errors; and it is 1 to 13 % narrower than the errors quoted here, which have
the right coverage. The dependence of the variance and of its determinant on the labels makes no more than that 0.1.

With correlated scatter the errors of theta are correlated between pixels like the residuals that they come from: with
the same terms and weights at all pixels :math:`\mathrm{cov}(\theta_{jd}, \theta_{ke}) = C_{jk} A_{de}` with
:math:`A = (V^T V)^{-1}` of the training stars (Zellner 1962). The shared part of the covariance of a spectrum then
gains the factor 1 + h, ``h = v' A v``, and only the rest of each pixel's Sigma is its own. A covariance whose scale is
that of stars that took no part in theta, as `scatter.Full` learns it, holds the mean 1 + h of those already: the factor
is then the ratio to it, so that errors of theta count once.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from bayes_cannon.core.moments import MomentBasis
from bayes_cannon.core.terms import Terms
from bayes_cannon.core.typing import Array, PerStar, StarLabel, StarPixel, StarTerm
from bayes_cannon.scatter.base import LearnedScatter
from bayes_cannon.scatter.label_tables import Response

LARGEST_SHARE = 0.9
"""Largest share of chi^2, along a combination of terms, that is taken for noise of theta."""
TRUSTED_SHARE = 0.25
"""Share of the apparent information along a direction of the labels up to which noise of theta is corrected for."""
RIDGE = 1e-12
"""Relative ridge that keeps the factor of Q + S finite where neither knows a term."""
ROUNDS = 4
"""Pilots: the labels change by less than a hundredth of their errors in the last one."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ThetaErrors:
    """Covariances of theta. Make it with `from_covariance`.

    Attributes
    ----------
    own
        Sigma of each pixel without what pixels share, shape (pixel, pair): one entry for each pair of terms on or below
        the diagonal; those below are doubled.
    common
        A, shape (term, term); zero where the scatter is independent.
    pairs
        Index of the moment that two terms multiply to, shape (term, term).
    included
        1 + h of the stars that the scatter was learned from, if errors of theta are part of it.
    response
        As `ModelTables.response`, but each pair of terms is a moment of its own: chi^2 as a form of the terms.

    """

    own: Array
    common: Array
    pairs: Array
    response: Response
    included: Array | float = 1.0

    @classmethod
    def from_covariance(
        cls, covariance: np.ndarray, scatter: LearnedScatter, terms: Terms, theta: np.ndarray, solved: np.ndarray
    ) -> "ThetaErrors":
        """As NumPy arrays.

        Parameters
        ----------
        covariance
            Of the theta of each pixel, shape (pixel, term, term); pixels where it is not finite count as known exactly.
        scatter
            Learned scatter.
        terms
            Of the training stars.
        theta, solved
            Coefficients, shape (pixel, term), and which pixels have a solution, shape (pixel,).

        """
        known = np.isfinite(covariance).all(axis=(1, 2))
        design, n_terms = terms.design, terms.n_terms
        own, common = scatter.split_theta_covariance(
            np.where(known[:, None, None], covariance, 0.0), design.T @ design
        )  # fmt: skip
        rows, columns = np.tril_indices(n_terms)
        each = np.zeros((n_terms, n_terms), int)
        each[rows, columns] = each[columns, rows] = np.arange(len(rows))
        response = Response.from_theta(theta, solved, MomentBasis(np.zeros((len(rows), 0), int), each))
        own = own[:, rows, columns] * np.where(rows == columns, 1.0, 2.0)
        return cls(own, common, terms.moments.pairs, response, scatter.theta_included)


def terms_and_gradients(term_labels: Array, x: StarLabel) -> tuple[StarTerm, Array]:
    """Terms v of scaled labels, shape (star, term), and their derivatives, shape (star, term, label)."""

    def terms(x: Array) -> Array:
        padded = jnp.concatenate([x, jnp.ones_like(x[:1])])
        return jnp.prod(padded[term_labels], axis=-1)

    return jax.vmap(terms)(x), jax.vmap(jax.jacfwd(terms))(x)


@jax.jit
def variances(errors: ThetaErrors, v: StarTerm) -> tuple[StarPixel, PerStar]:
    """The q of each pixel, shape (star, pixel), and the growth 1 + h, over that which is included, shape (star,)."""
    rows, columns = np.tril_indices(v.shape[1])
    own = (v[:, rows] * v[:, columns]) @ errors.own.T
    return own, (1.0 + jnp.einsum("nd,de,ne->n", v, errors.common, v)) / errors.included


@jax.jit
def noise_matrix(errors: ThetaErrors, diagonal: StarPixel, common: PerStar) -> Array:
    """S of each star, shape (star, term, term), from what `LabelTables.theta_weights` returns."""
    n_terms = errors.common.shape[0]
    rows, columns = np.tril_indices(n_terms)
    packed = (diagonal @ errors.own) * np.where(rows == columns, 1.0, 0.5)
    lower = jnp.zeros((len(diagonal), n_terms, n_terms)).at[:, rows, columns].set(packed)
    full = lower + jnp.where(jnp.eye(n_terms, dtype=bool), 0.0, lower.swapaxes(1, 2))
    return full + common[:, None, None] * errors.common


@jax.jit
def symmetric_form(packed: Array) -> Array:
    """Symmetric matrices, shape (..., term, term), whose form has these coefficients of pairs, shape (..., pair)."""
    n_terms = int(np.sqrt(2 * packed.shape[-1]))
    rows, columns = np.tril_indices(n_terms)
    packed = packed * np.where(rows == columns, 1.0, 0.5)
    form = jnp.zeros((*packed.shape[:-1], n_terms, n_terms))
    return form.at[..., rows, columns].set(packed).at[..., columns, rows].set(packed)


@jax.jit
def limited(noise: Array, form: Array) -> Array:
    """S' of each star, shape (star, term, term), from S and Q of the same shape.

    Of Q, chi^2 as a form of the terms, only the part counts that is quadratic in the terms other than the constant.
    """
    s, q = noise[:, 1:, 1:], form[:, 1:, 1:]
    diagonal = jnp.diagonal(q + s, axis1=1, axis2=2)
    unit = jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1.0))
    s, q = (array / (unit[:, :, None] * unit[:, None, :]) for array in (s, q))
    root = jnp.linalg.cholesky(q + s + RIDGE * jnp.eye(s.shape[1]))
    half = jax.scipy.linalg.solve_triangular(root, s, lower=True)
    share = jax.scipy.linalg.solve_triangular(root, half.swapaxes(1, 2), lower=True)
    finite = jnp.isfinite(share).all(axis=(1, 2), keepdims=True)
    values, vectors = jnp.linalg.eigh(jnp.where(finite, 0.5 * (share + share.swapaxes(1, 2)), 0.0))
    values = jnp.clip(values, 0.0, 1.0)
    kept = jnp.minimum(values, LARGEST_SHARE * (1 - values))
    scale = jnp.sqrt(kept / jnp.where(values > 0, values, 1.0))
    # Theta's errors along each direction are made smaller, so that those of the constant term go with them.
    left = unit[:, :, None] * (root @ vectors) * scale[:, None, :]
    right = jax.scipy.linalg.solve_triangular(root, jnp.eye(s.shape[1]) / unit[:, None, :], lower=True)
    turn = jnp.where(finite, left @ vectors.swapaxes(1, 2) @ right, 0.0)
    whole = jnp.zeros_like(noise).at[:, 0, 0].set(1.0).at[:, 1:, 1:].set(turn)
    return whole @ noise @ whole.swapaxes(1, 2)


@jax.jit
def trusted(noise: Array, form: Array, gradients: Array, information: Array) -> tuple[Array, Array, PerStar]:
    """S' and its B of each star, shape (star, term, term) and (star, label, label), and the part of both that counts.

    Parameters
    ----------
    noise, form
        S and Q, shape (star, term, term).
    gradients
        Derivatives of the terms, shape (star, term, label).
    information
        F, shape (star, label, label).

    """
    noise = limited(noise, form)
    b = jnp.einsum("ndk,nde,nel->nkl", gradients, noise, gradients)
    usable = jnp.isfinite(information).all(axis=(1, 2)) & (jnp.diagonal(information, axis1=1, axis2=2) > 0).all(axis=1)
    safe = jnp.where(usable[:, None, None], information, jnp.eye(information.shape[1]))
    root = jnp.linalg.cholesky(safe)
    half = jax.scipy.linalg.solve_triangular(root, b, lower=True)
    share = jax.scipy.linalg.solve_triangular(root, half.swapaxes(1, 2), lower=True)
    largest = jnp.linalg.eigvalsh(jnp.where(jnp.isfinite(share), share, 0.0))[:, -1]
    part = jnp.minimum(1.0, (TRUSTED_SHARE / jnp.maximum(largest, 1e-12)) ** 2)
    return noise, b, jnp.where(usable, part, 0.0)


@jax.jit
def sandwich(information: Array, b: Array, left: StarLabel) -> Array:
    """``Fc^-1 (F + l l') Fc^-1``, shape (star, label, label); NaN where F is singular.

    ``left`` is l, the part of ``dv' S' v`` that is not corrected for, shape (star, label).
    """
    inverse = jnp.linalg.inv(information - b)
    covariance = inverse @ (information + left[:, :, None] * left[:, None, :]) @ inverse
    return 0.5 * (covariance + covariance.swapaxes(1, 2))


@jax.jit
def curvature_root(information: Array, b: Array, left: StarLabel) -> Array:
    r"""The matrices T, shape (star, label, label), that give a log likelihood its right width.

    The curvature of half the corrected chi^2 at its minimum m is :math:`F_c`, while the inverse of the covariance of
    m is :math:`H = F_c (F + l l^T)^{-1} F_c`. The density of :math:`m + T (x - m)` in place of x has the curvature
    :math:`T^T F_c T = H` (Ribatet, Cooley & Davison 2012). Where H is not positive definite T is the identity.
    """
    corrected = information - b
    wanted = corrected @ jnp.linalg.solve(information + left[:, :, None] * left[:, None, :], corrected)
    root = jnp.linalg.cholesky(0.5 * (wanted + wanted.swapaxes(1, 2)))
    turn = jax.scipy.linalg.solve_triangular(jnp.linalg.cholesky(corrected), root.swapaxes(1, 2), trans=1, lower=True)
    good = jnp.isfinite(turn).all(axis=(1, 2), keepdims=True)
    return jnp.where(good, turn, jnp.eye(turn.shape[1]))


@partial(jax.jit, static_argnames="n_moments")
def corrected_coefficients(form: Array, noise: Array, pairs: Array, n_moments: int) -> Array:
    """Coefficients of the corrected chi^2, shape (star, moment), from the forms Q and S'."""
    flat = (form - noise).reshape(len(noise), -1)
    return jnp.zeros((len(noise), n_moments)).at[:, pairs.reshape(-1)].add(flat)
