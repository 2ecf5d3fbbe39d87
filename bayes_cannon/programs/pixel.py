r"""The program of one pixel: from the terms of the training stars to their flux.

.. math:: \theta_d \sim \mathrm{Laplace}(0, 2 / \Lambda) \ (d \ge 1), \qquad
          y_n \sim \mathrm{Normal}\left(v_n \cdot \theta, \sqrt{\sigma_n^2 + s^2}\right)

With the default priors, flat in theta_0 and s^2, minus twice its log density is the training scalar of Casey et al.
(2016, equation 2), `bayes_cannon.core.likelihood.training_scalar`, plus `log_normalization`. With proper ones it is
what one samples from.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints

from bayes_cannon.core.typing import Array, PerStar, PerTerm, PerTermMask, Scalar, StarTerm


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PixelPriors:
    """Priors on what the regularization leaves open; None is a flat, improper prior.

    Attributes
    ----------
    theta_0
        NumPyro distribution of the constant coefficient.
    s_scale
        Scale of a half-normal prior on s, in units of flux. Then v ~ Normal(0, s_scale) is sampled with s = abs(v),
        which is smooth where s is small against the noise. None is flat in s^2 >= 0, and the site is s2 itself.

    """

    theta_0: dist.Distribution | None = None
    s_scale: float | Array | None = None


FLAT = PixelPriors()
"""Priors with which the program equals the training scalar."""


def pixel(
    design: StarTerm,
    ivar: PerStar,
    flux: PerStar | None = None,
    *,
    regularization: Scalar = 0.0,
    free: PerTermMask | None = None,
    priors: PixelPriors = FLAT,
    precision: PerStar | None = None,
) -> None:
    """Flux of all stars at one pixel.

    Sites: ``theta_0``; ``theta``, the free terms d >= 1, shape (free term,), absent if there are none; ``s2``, or ``v``
    with a proper prior on s; ``flux``, in plate ``star``. Deterministic sites: ``coefficients``, all terms with zeros
    where they are not free, shape (term,); ``s``; and ``s2`` where it is not sampled itself.

    Parameters
    ----------
    design
        Terms of each star, shape (star, term); the first column is 1.
    ivar
        Inverse variance of the flux, shape (star,). A star with zero takes no part in the density.
    flux
        Shape (star,), or None to draw it. What is drawn for a star with ``ivar = 0`` means nothing.
    regularization
        Lambda, a scalar. At zero the prior of theta is flat. A traced value must be positive, because which of the two
        priors holds is part of the program.
    free
        Which terms are parameters, shape (term,), a NumPy array; the others (censored ones) are exactly zero. All by
        default.
    priors
        Priors on theta_0 and s.
    precision
        Scale tau of each star, shape (star,), by which its variances are divided; one by default.

    Raises
    ------
    ValueError
        If ``free`` has another shape or leaves out the constant term, or Lambda is negative.

    """
    n_stars, n_terms = design.shape
    coefficients, s2 = _parameters(n_terms, regularization, free, priors)
    known = jnp.asarray(ivar) > 0
    variance = (1.0 / jnp.where(known, ivar, 1.0) + s2) / (1.0 if precision is None else precision)
    with numpyro.plate("star", n_stars), numpyro.handlers.mask(mask=known):
        observed = None if flux is None else jnp.where(known, flux, 0.0)
        numpyro.sample("flux", dist.Normal(jnp.asarray(design) @ coefficients, jnp.sqrt(variance)), obs=observed)


def compressed_pixel(
    log_likelihood: Callable[[PerTerm, Scalar], Scalar],
    n_terms: int,
    *,
    regularization: Scalar = 0.0,
    free: PerTermMask | None = None,
    priors: PixelPriors = FLAT,
) -> None:
    """The same as `pixel`, with the likelihood of the spectra given as a function of the parameters.

    Sites: those of `pixel`, but for ``flux``, in whose place stands the factor ``log_likelihood``.

    Parameters
    ----------
    log_likelihood
        Of all coefficients, shape (term,), and s2, up to a constant
        (`posterior.theta.chebyshev_likelihood.log_likelihood`).
    n_terms
        Number of terms.
    regularization, free, priors
        As in `pixel`.

    Raises
    ------
    ValueError
        As `pixel`.

    """
    coefficients, s2 = _parameters(n_terms, regularization, free, priors)
    numpyro.factor("log_likelihood", log_likelihood(coefficients, s2))


def log_normalization(n_stars: int, n_penalized: int, regularization: float) -> float:
    r"""Minus twice the log density of `pixel` with flat priors, minus the training scalar.

    .. math:: N \ln 2\pi + 2 F \ln(4 / \Lambda)

    Parameters
    ----------
    n_stars
        Number of stars with a positive ivar, N.
    n_penalized
        Number of free terms d >= 1, F.
    regularization
        Lambda; at zero the prior is flat and the second term absent.

    """
    prior = 2 * n_penalized * np.log(4 / regularization) if regularization > 0 else 0.0
    return float(n_stars * np.log(2 * np.pi) + prior)


def _parameters(
    n_terms: int, regularization: Scalar, free: PerTermMask | None, priors: PixelPriors
) -> tuple[PerTerm, Scalar]:
    """All coefficients, shape (term,), and s2, from their priors."""
    free = np.ones(n_terms, dtype=bool) if free is None else np.asarray(free, dtype=bool)
    if free.shape != (n_terms,) or not free[0]:
        raise ValueError(f"free must have shape ({n_terms},) and be True for the constant term; got {free}")
    return numpyro.deterministic("coefficients", _coefficients(free, regularization, priors)), _scatter(priors)


def _coefficients(free: np.ndarray, regularization: Scalar, priors: PixelPriors) -> PerTerm:
    flat_0 = dist.ImproperUniform(constraints.real, (), ())
    theta_0 = numpyro.sample("theta_0", flat_0 if priors.theta_0 is None else priors.theta_0)
    coefficients = jnp.zeros(len(free), dtype=jnp.result_type(theta_0)).at[0].set(theta_0)
    terms = np.flatnonzero(free)[1:]
    if len(terms) == 0:
        return coefficients
    prior = _prior_of_terms(len(terms), regularization)
    return coefficients.at[terms].set(numpyro.sample("theta", prior, infer={"event_dims": ["free_term"]}))


def _prior_of_terms(n_terms: int, regularization: Scalar) -> dist.Distribution:
    if not isinstance(regularization, jax.core.Tracer):
        if regularization < 0:
            raise ValueError(f"regularization must not be negative, got {regularization}")
        if regularization == 0:
            return dist.ImproperUniform(constraints.real_vector, (), (n_terms,))
    return dist.Laplace(0.0, 2.0 / regularization).expand([n_terms]).to_event(1)


def _scatter(priors: PixelPriors) -> Scalar:
    if priors.s_scale is None:
        s2 = numpyro.sample("s2", dist.ImproperUniform(constraints.nonnegative, (), ()))
        numpyro.deterministic("s", jnp.sqrt(s2))
        return s2
    v = numpyro.sample("v", dist.Normal(0.0, priors.s_scale))
    numpyro.deterministic("s", jnp.abs(v))
    return numpyro.deterministic("s2", v**2)
