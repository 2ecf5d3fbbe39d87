r"""Where the error of each label comes from: its variance, split by the parts of the covariance of the spectrum.

Near the true labels the labels of a star are linear in the noise n of its spectrum, :math:`\delta x = G\,n` with
:math:`G = F_c^{-1} J^T C^{-1}`. The noise has independent parts, whose covariances add up to C, so that their shares
:math:`G\, C_i\, G^T` add up to the covariance of the labels, exactly:

- photon: the quoted noise :math:`\sigma_j^2`; of a full covariance what is no more than the quoted noise;
- scatter: :math:`s_j^2`;
- correlated: :math:`U U^T`; of a full covariance what its leading directions have beyond the quoted noise;
- theta: :math:`v^T \Sigma_j v`, and the growth by 1 + h of what the pixels share (`solvers.predictive`).
"""

import jax
import numpy as np
from scipy.linalg import cho_factor, cho_solve

from bayes_cannon.core.scatter import Correlation
from bayes_cannon.core.vectorizer import monomials
from bayes_cannon.solvers.predictive import ThetaUncertainty, correction, noise_matrix

PARTS = ("photon", "scatter", "correlated", "theta")
_STEP = 1e-5


def shares(
    x: np.ndarray,
    ivar: np.ndarray,
    *,
    theta: np.ndarray,
    s2: np.ndarray,
    exponents: np.ndarray,
    correlation: Correlation | None = None,
    uncertainty: ThetaUncertainty | None = None,
) -> np.ndarray:
    """Variance of each scaled label by each of `PARTS`, shape (star, part, label); NaN where there is no fit.

    Parameters
    ----------
    x
        Scaled labels of the stars, shape (star, label).
    ivar
        Of their spectra, shape (star, pixel).
    theta, s2
        Of the model, shape (pixel, term) and (pixel,); pixels where either is not finite take no part.
    exponents
        Powers of the terms, shape (term, label).
    correlation, uncertainty
        Of the scatter, and of theta.

    """
    n_labels = x.shape[1]
    out = np.full((len(x), len(PARTS), n_labels), np.nan)
    solved = np.isfinite(theta).all(axis=1) & np.isfinite(s2)
    for star in np.flatnonzero(np.isfinite(x).all(axis=1)):
        used = np.flatnonzero(solved & (ivar[star] > 0))
        if len(used) < n_labels:
            continue
        v = monomials(x[star : star + 1], exponents)[0]
        ahead, behind = (monomials(x[star] + step * np.eye(n_labels), exponents) for step in (_STEP, -_STEP))
        slopes = (ahead - behind) / (2 * _STEP)
        parts, h = _parts(used, v, ivar[star], s2, correlation, uncertainty)
        total = np.sum(parts, axis=0)
        factor = cho_factor(total)
        jacobian = theta[used] @ slopes.T
        pulled = cho_solve(factor, jacobian)
        information = jacobian.T @ pulled
        corrected = information
        if uncertainty is not None:
            precision = cho_solve(factor, np.eye(len(used)))
            full = correlation is not None and correlation.noise is not None
            shared = min(len(used), correlation.rank) / (1 + h) if full else np.sum(precision * parts[2])  # type: ignore[union-attr]
            corrected = information - _noise(np.diag(precision), shared, slopes, used, uncertainty, information)
        gain = np.linalg.solve(corrected, pulled.T)
        out[star] = [np.einsum("kp,pq,kq->k", gain, part, gain) for part in parts]
    return out


def _parts(
    used: np.ndarray,
    v: np.ndarray,
    ivar: np.ndarray,
    s2: np.ndarray,
    correlation: Correlation | None,
    uncertainty: ThetaUncertainty | None,
) -> tuple[list[np.ndarray], float]:
    """Covariances of the parts of the noise at the used pixels, and h."""
    n_pixels = len(used)
    own, h = np.zeros(n_pixels), 0.0
    if uncertainty is not None:
        rows, columns = np.tril_indices(len(v))
        own = np.asarray(uncertainty.own)[used] @ (v[rows] * v[columns])
        h = float(v @ np.asarray(uncertainty.common) @ v)
    if correlation is not None and correlation.noise is not None:
        photon, beyond = _full_parts(correlation, used)
        nothing = np.zeros_like(photon)
        return [photon, nothing, beyond, h * (photon + beyond)], h
    photon, scatter = np.diag(1.0 / ivar[used]), np.diag(s2[used])
    factors = np.zeros((n_pixels, 1)) if correlation is None else correlation.factors[used]
    shared = factors @ factors.T
    return [photon, scatter, shared, np.diag(own) + h * shared], h


def _full_parts(correlation: Correlation, used: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What of a full covariance is no more than the quoted noise, and the rest, at the used pixels."""
    noise = np.where(np.isfinite(correlation.noise), correlation.noise, 0.0)  # type: ignore[arg-type]
    scaled = correlation.factors / np.where(noise > 0, noise, 1.0)[:, None]
    variances = np.sum(scaled**2, axis=0)
    basis = scaled / np.sqrt(np.where(variances > 0, variances, 1.0))
    beyond = (basis * np.maximum(variances - 1, 0.0)) @ basis.T * np.outer(noise, noise)
    at = np.ix_(used, used)
    return correlation.covariance[at] - beyond[at], beyond[at]


def _noise(
    diagonal: np.ndarray,
    shared: float,
    slopes: np.ndarray,
    used: np.ndarray,
    uncertainty: ThetaUncertainty,
    information: np.ndarray,
) -> np.ndarray:
    """What of the apparent information is noise of theta, ``gamma B``, shape (label, label)."""
    whole = np.zeros((1, len(uncertainty.own)))  # Of all pixels, so that one shape is compiled.
    whole[0, used] = diagonal
    with jax.enable_x64(True):
        noise = noise_matrix(uncertainty, whole, np.array([shared]))
        gamma, b = correction(noise, slopes.T[None], information[None])
        return np.asarray(gamma[0] * b[0])
