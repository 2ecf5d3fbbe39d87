r"""The steps of `scatter.low_rank` as compiled programs: over the stars, and over a block of pixels."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayes_cannon.core.likelihood import weights
from bayes_cannon.core.typing import Array
from bayes_cannon.training.lasso import coordinate_optimum, gram_lasso
from bayes_cannon.training.profile.blocks import Pixels, known_flux

LASSO_TOLERANCE = 1e-7
"""On the largest single-coordinate change, in units of the square root of the scalar."""
LASSO_ROUNDS = 20
"""Rounds of the lasso at most; the next iteration goes on where it ends."""


class Latent(NamedTuple):
    """Posterior of the stars' factors.

    Attributes
    ----------
    mean
        Posterior mean m, shape (star, factor).
    covariance
        Posterior covariance S, shape (star, factor, factor), for a weight u of one.
    weight
        u, the posterior mean of tau, shape (star,); zero for the padding.

    """

    mean: Array
    covariance: Array
    weight: Array


class StarSums(NamedTuple):
    """Sums over the pixels that the expectation needs.

    Attributes
    ----------
    square
        ``sum w r^2`` with r = y - Theta v, shape (star,).
    log_growth
        ``sum ln((sigma^2 + s2) / sigma^2)``, shape (star,).
    n_pixels
        Pixels with a positive ivar, shape (star,).
    cross
        ``U' W r``, shape (star, factor).
    gram
        ``U' W U``, shape (star, factor, factor).

    """

    square: Array
    log_growth: Array
    n_pixels: Array
    cross: Array
    gram: Array


class Maximized(NamedTuple):
    """Result of a pass over a block of pixels."""

    theta: Array
    factors: Array
    s2: Array
    gradient: Array
    sums: StarSums


@jax.jit
def star_sums(design: Array, block: Pixels, theta: Array, factors: Array, s2: Array, real: Array) -> StarSums:
    """Sums over a block of pixels; ``real`` says which of its rows are not padding, shape (pixel,)."""
    known, flux = known_flux(block)
    known &= real[:, None]
    w = jnp.where(known, weights(block.ivar, s2[:, None]), 0.0)
    residual = jnp.where(known, flux - theta @ design.T, 0.0)
    weighted = w * residual
    rows, columns = np.tril_indices(factors.shape[1])
    products = w.T @ (factors[:, rows] * factors[:, columns])
    return StarSums(
        square=jnp.sum(weighted * residual, axis=0),
        log_growth=jnp.sum(jnp.where(known, jnp.log1p(block.ivar * s2[:, None]), 0.0), axis=0),
        n_pixels=jnp.sum(known, axis=0),
        cross=weighted.T @ factors,
        gram=symmetric(products, factors.shape[1]),
    )


def symmetric(lower: Array, n: int) -> Array:
    """Symmetric matrices (..., n, n) from their lower triangles, row after row, shape (..., n (n + 1) / 2)."""
    rows, columns = np.tril_indices(n)
    place = np.zeros((n, n), dtype=int)
    place[rows, columns] = place[columns, rows] = np.arange(len(rows))
    return lower[..., place]


@jax.jit
def expectation(sums: StarSums) -> tuple[Latent, Array, Array]:
    """Posterior of the factors, ``r' C^-1 r`` and ``ln det C / prod sigma^2`` of each star; C is diagonal plus U U'."""
    n_factors = sums.cross.shape[1]
    factor = jnp.linalg.cholesky(sums.gram + jnp.eye(n_factors))
    inverse = jax.scipy.linalg.solve_triangular(factor, jnp.broadcast_to(jnp.eye(n_factors), factor.shape), lower=True)
    covariance = jnp.einsum("nki,nkj->nij", inverse, inverse)
    mean = jnp.einsum("nij,nj->ni", covariance, sums.cross)
    chi_squared = sums.square - jnp.sum(sums.cross * mean, axis=1)
    log_det = sums.log_growth + 2 * jnp.sum(jnp.log(jnp.diagonal(factor, axis1=1, axis2=2)), axis=1)
    return Latent(mean, covariance, jnp.ones(len(mean))), chi_squared, log_det


@jax.jit
def latent_columns(design: Array, moments: Array, latent: Latent) -> Array:
    """Columns whose weighted sums are the Gram matrix of (v, m): moments, v times m, and m m' with the covariance."""
    u, m = latent.weight[:, None], latent.mean
    rows, columns = np.tril_indices(m.shape[1])
    crossed = (design[:, :, None] * m[:, None, :]).reshape(len(m), -1)
    second = u * m[:, rows] * m[:, columns] + (u > 0) * latent.covariance[:, rows, columns]
    return jnp.concatenate([u * moments, u * crossed, second], axis=1)


@jax.jit
def maximize(
    design: Array, pairs: Array, columns: Array, latent: Latent, block: Pixels, theta: Array, factors: Array,
    s2: Array, real: Array,
) -> Maximized:  # fmt: skip
    """Conditional maximization of a block: (theta, U) at the given s2, then s2; and the sums at the new point."""
    known, flux = known_flux(block)
    n_pixels, n_terms, n_factors = len(flux), design.shape[1], factors.shape[1]
    w = weights(block.ivar, s2[:, None])
    sums = w @ columns
    n_moments = columns.shape[1] - n_terms * n_factors - n_factors * (n_factors + 1) // 2
    terms, crossed, second = jnp.split(sums, [n_moments, n_moments + n_terms * n_factors], axis=1)
    crossed = crossed.reshape(n_pixels, n_terms, n_factors)
    gram = jnp.concatenate([
        jnp.concatenate([terms[:, pairs], crossed], axis=2),
        jnp.concatenate([crossed.swapaxes(1, 2), symmetric(second, n_factors)], axis=2),
    ], axis=1)  # fmt: skip
    both = jnp.concatenate([design, latent.mean], axis=1)
    right = (w * latent.weight * flux) @ both

    def free(array: Array, value: float) -> Array:
        return jnp.pad(array, ((0, 0), (0, n_factors)), constant_values=value)

    lam, lower, upper = free(block.lam, 0.0), free(block.lower, -jnp.inf), free(block.upper, jnp.inf)
    start = jnp.concatenate([theta, factors], axis=1)
    curvature = jnp.diagonal(gram, axis1=1, axis2=2)
    curvature = jnp.where(curvature > 0, curvature, 1.0)
    half_gradient = right - jnp.einsum("pde,pe->pd", gram, start)
    change = coordinate_optimum(start, half_gradient, curvature, lam, lower, upper) - start
    gradient = jnp.max(jnp.abs(change) * jnp.sqrt(curvature), axis=1)

    def solve(*problem: Array) -> Array:
        return gram_lasso(*problem, tolerance=LASSO_TOLERANCE, max_rounds=LASSO_ROUNDS).theta

    solution = jax.vmap(solve)(gram, right, lam, lower, upper, start)
    theta, factors = solution[:, :n_terms], solution[:, n_terms:]

    rows, under = np.tril_indices(n_factors)
    twice = jnp.where(rows == under, 1.0, 2.0) * factors[:, rows] * factors[:, under]
    residual = jnp.where(known, flux - solution @ both.T, 0.0)
    square = latent.weight * residual**2 + jnp.where(known, twice @ latent.covariance[:, rows, under].T, 0.0)
    s2 = _scatter_step(block.ivar, square, s2)
    return Maximized(theta, factors, s2, gradient, star_sums(design, block, theta, factors, s2, real))


def _scatter_step(ivar: Array, square: Array, s2: Array) -> Array:
    """One step in s2 of ``sum ln(sigma^2 + s2) + square / (sigma^2 + s2)``, which never raises it."""
    w = weights(ivar, s2[:, None])
    gradient, curvature = jnp.sum(w - w**2 * square, axis=1), jnp.sum(w**2, axis=1)
    newton = jnp.maximum(s2 - gradient / curvature, 0.0)
    safe = jnp.maximum(s2 - s2**2 * gradient / jnp.sum(ivar > 0, axis=1), 0.0)
    # ln(sigma^2 + s2) grows by ln(1 + w (newton - s2)): one logarithm a flux instead of four.
    growth = jnp.log1p(w * (newton - s2)[:, None]) + (weights(ivar, newton[:, None]) - w) * square
    return jnp.where(jnp.sum(growth, axis=1) <= 0, newton, safe)


@jax.jit
def factor_moments(design: Array, latent: Latent, n_stars: int) -> tuple[Array, Array]:
    """Regression of the factors on the terms (factor, term), and a root of the covariance about it."""
    tau = latent.weight
    weighted = tau[:, None] * design
    gram, right = weighted.T @ design, weighted.T @ latent.mean
    scale = jnp.sqrt(jnp.diagonal(gram))
    scale = jnp.where(scale > 0, scale, 1.0)
    ridge = 1e-12 * jnp.eye(len(gram))
    shift = jnp.linalg.solve(gram / (scale[:, None] * scale) + ridge, right / scale[:, None]) / scale[:, None]
    rest = latent.mean - design @ shift
    spread = jnp.where((tau > 0)[:, None, None], latent.covariance, 0.0)
    covariance = ((tau[:, None] * rest).T @ rest + jnp.sum(spread, axis=0)) / n_stars
    return shift.T, jnp.linalg.cholesky(covariance)


@jax.jit
def transformed(sums: StarSums, shift: Array, root: Array) -> StarSums:
    """The sums when U shift_n is added to the model of each star, shape (star, factor), and U becomes U root."""
    pulled = jnp.einsum("nij,nj->ni", sums.gram, shift)
    square = sums.square - 2 * jnp.sum(shift * sums.cross, axis=1) + jnp.sum(shift * pulled, axis=1)
    gram = jnp.einsum("ki,nkl,lj->nij", root, sums.gram, root)
    return sums._replace(square=square, cross=(sums.cross - pulled) @ root, gram=gram)
