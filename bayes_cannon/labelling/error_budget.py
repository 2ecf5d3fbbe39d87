r"""Where the error of each label comes from: its variance, split by the parts of the covariance of the spectrum.

Near the true labels the labels of a star are linear in the noise n of its spectrum, :math:`\delta x = G\,n` with
:math:`G = F_c^{-1} J^T C^{-1}`. The noise has independent parts, whose covariances add up to C, so that their shares
:math:`G\, C_i\, G^T` add up to the covariance of the labels, exactly:

- photon: the quoted noise :math:`\sigma_j^2`; of a full covariance what is no more than the quoted noise;
- scatter: :math:`s_j^2`;
- correlated: :math:`U U^T`; of a full covariance what its leading directions have beyond the quoted noise;
- theta: :math:`v^T \Sigma_j v`, and the growth by 1 + h of what the pixels share (`labelling.theta_errors`).

The work is proportional to the number of pixels, but for a full covariance with missing pixels, which takes one dense
factorization for each set of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
from scipy.linalg import cho_factor, cho_solve

from bayes_cannon.core.vectorizer import monomials
from bayes_cannon.labelling.theta_errors import ThetaUncertainty, correction, noise_matrix
from bayes_cannon.scatter.settings import Correlation

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
    of_star = _parts_of_stars(s2, correlation, uncertainty)
    for star in np.flatnonzero(np.isfinite(x).all(axis=1)):
        used = np.flatnonzero(solved & (ivar[star] > 0))
        if len(used) < n_labels:
            continue
        v = monomials(x[star : star + 1], exponents)[0]
        ahead, behind = (monomials(x[star] + step * np.eye(n_labels), exponents) for step in (_STEP, -_STEP))
        slopes = (ahead - behind) / (2 * _STEP)
        noise = of_star(used, v, ivar[star])
        jacobian = theta[used] @ slopes.T
        pulled = noise.solved(jacobian)
        information = jacobian.T @ pulled
        corrected = information
        if uncertainty is not None:
            corrected = information - _noise(*noise.weights(), slopes, used, uncertainty, information)
        out[star] = noise.variances(np.linalg.solve(corrected, pulled.T))
    return out


@dataclass(frozen=True)
class _Shared:
    """Parts ``C_i = diag(d_i) + m_i F F'``, whose sum Woodbury's rule inverts.

    Attributes
    ----------
    diagonals, multiples
        d and m of each part, shape (part, pixel) and (part,).
    factors
        F, shape (pixel, factor); none for independent scatter.

    """

    diagonals: np.ndarray
    multiples: np.ndarray
    factors: np.ndarray

    @cached_property
    def _inverse(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        w = 1.0 / self.diagonals.sum(axis=0)
        weighted = w[:, None] * self.factors
        gram = self.factors.T @ weighted
        return w, weighted, gram, np.linalg.inv(np.eye(len(gram)) / self.multiples.sum() + gram)

    def solved(self, right: np.ndarray) -> np.ndarray:
        """The inverse of the whole covariance times these columns."""
        w, weighted, _, inner = self._inverse
        return w[:, None] * right - weighted @ (inner @ (weighted.T @ right))

    def weights(self) -> tuple[np.ndarray, float]:
        """Diagonal of the inverse, and its trace with F F'."""
        w, weighted, gram, inner = self._inverse
        diagonal = w - np.einsum("pr,rs,ps->p", weighted, inner, weighted, optimize=True)
        return diagonal, float(np.trace(gram) - np.sum(gram * (inner @ gram)))

    def variances(self, gain: np.ndarray) -> np.ndarray:
        """Diagonal of G C_i G' of each part, shape (part, label), for G of shape (label, pixel)."""
        shared = np.sum((gain @ self.factors) ** 2, axis=1)
        return self.diagonals @ (gain**2).T + self.multiples[:, None] * shared


@dataclass(frozen=True)
class _Dense:
    """A full covariance, ``photon + beyond``, which theta multiplies by 1 + h."""

    photon: np.ndarray
    beyond: np.ndarray
    factor: tuple[np.ndarray, bool]
    rank: int
    h: float

    def solved(self, right: np.ndarray) -> np.ndarray:
        """As `_Shared.solved`."""
        return cho_solve(self.factor, right) / (1.0 + self.h)

    def weights(self) -> tuple[np.ndarray, float]:
        """As `_Shared.weights`; no pixel's theta has errors of its own, so that the diagonal does not matter."""
        return np.zeros(len(self.photon)), min(len(self.photon), self.rank) / (1.0 + self.h)

    def variances(self, gain: np.ndarray) -> np.ndarray:
        """As `_Shared.variances`."""
        photon, beyond = (np.einsum("kp,kp->k", gain @ part, gain) for part in (self.photon, self.beyond))
        return np.stack([photon, np.zeros_like(photon), beyond, self.h * (photon + beyond)])


def _parts_of_stars(
    s2: np.ndarray, correlation: Correlation | None, uncertainty: ThetaUncertainty | None
) -> Callable[[np.ndarray, np.ndarray, np.ndarray], _Shared | _Dense]:
    """The parts of the noise of a star by its used pixels, its terms v and its ivar, shape (pixel,)."""
    own, common = (None, None) if uncertainty is None else map(np.asarray, (uncertainty.own, uncertainty.common))

    def growth(v: np.ndarray) -> float:
        return 0.0 if common is None else float(v @ common @ v)

    def shared(used: np.ndarray, v: np.ndarray, ivar: np.ndarray) -> _Shared:
        factors = np.zeros((len(s2), 0)) if correlation is None else correlation.factors
        rows, columns = np.tril_indices(len(v))
        of_theta = np.zeros(len(used)) if own is None else own[used] @ (v[rows] * v[columns])
        diagonals = np.stack([1.0 / ivar[used], s2[used], np.zeros(len(used)), of_theta])
        return _Shared(diagonals, np.array([0.0, 0.0, 1.0, growth(v)]), factors[used])

    if correlation is None or correlation.noise is None:
        return shared
    photon, beyond = _full_parts(correlation)
    last: list[tuple[np.ndarray, np.ndarray, np.ndarray, Any]] = []

    def dense(used: np.ndarray, v: np.ndarray, ivar: np.ndarray) -> _Dense:
        if not last or not np.array_equal(last[0][0], used):  # Stars that miss no pixel share one factor.
            at = np.ix_(used, used)
            last[:] = [(used, photon[at], beyond[at], cho_factor(photon[at] + beyond[at]))]
        return _Dense(*last[0][1:], correlation.rank, growth(v))

    return dense


def _full_parts(correlation: Correlation) -> tuple[np.ndarray, np.ndarray]:
    """What of a full covariance is no more than the quoted noise, and the rest, shape (pixel, pixel) each."""
    noise = np.where(np.isfinite(correlation.noise), correlation.noise, 0.0)  # type: ignore[arg-type]
    scaled = correlation.factors / np.where(noise > 0, noise, 1.0)[:, None]
    variances = np.sum(scaled**2, axis=0)
    basis = scaled / np.sqrt(np.where(variances > 0, variances, 1.0))
    beyond = (basis * np.maximum(variances - 1, 0.0)) @ basis.T * np.outer(noise, noise)
    return correlation.covariance - beyond, beyond


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
