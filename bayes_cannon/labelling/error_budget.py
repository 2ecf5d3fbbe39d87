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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from bayes_cannon.core.typing import StarLabel, StarLabelLabel
from bayes_cannon.core.vectorizer import monomials
from bayes_cannon.execution.jax_settings import own_jax_settings
from bayes_cannon.labelling.fit import LabelFit
from bayes_cannon.labelling.label_scale import LabelScale
from bayes_cannon.labelling.theta_errors import ThetaErrors, noise_matrix, trusted
from bayes_cannon.labelling.trained import TrainedModel

PARTS = ("photon", "scatter", "correlated", "theta")
_STEP = 1e-5


@dataclass(frozen=True)
class ErrorBudget:
    """Variances of labels by their source, in squared label units, shape (star, label) each.

    Attributes
    ----------
    variance
        By name: ``photon``, the noise of the spectrum; ``scatter``, that of each pixel for itself; ``correlated``,
        that which pixels share; ``theta``, the uncertainty of the coefficients; and of a calibrated model ``scale``,
        what the calibration adds to or, if negative, takes from their sum, and ``floor``, what is there however good
        the spectrum. They add up to the square of the quoted error.

    """

    variance: Mapping[str, StarLabel]

    @property
    def total(self) -> StarLabel:
        """Quoted errors, the square root of the sum, in label units, shape (star, label)."""
        return np.sqrt(np.sum(list(self.variance.values()), axis=0))

    def errors(self) -> dict[str, StarLabel]:
        """Square roots of the parts, with the sign of the part, in label units, shape (star, label) each."""
        return {name: np.sign(part) * np.sqrt(np.abs(part)) for name, part in self.variance.items()}

    def columns(self, label_names: Sequence[str]) -> dict[str, np.ndarray]:
        """Columns for a label table, such as ``TEFF_ERR_PHOTON``, shape (star,) each."""
        named = self.errors() | {"total": self.total}
        names = [(k, label, what) for k, label in enumerate(label_names) for what in named]
        return {f"{label}_ERR_{what.upper()}": np.asarray(named[what])[:, k] for k, label, what in names}

    def calibrated(self, covariance: StarLabelLabel, floor: StarLabelLabel) -> "ErrorBudget":
        """The budget with the parts ``floor`` and ``scale``, from the calibrated covariance and its floor.

        Both have shape (star, label, label), in products of label units.
        """
        diagonal = np.diagonal(floor, axis1=1, axis2=2)
        scale = np.diagonal(covariance, axis1=1, axis2=2) - diagonal - sum(self.variance.values())
        return ErrorBudget({**self.variance, "floor": diagonal, "scale": scale})


def error_budget(trained: TrainedModel, fit: LabelFit, ivar: np.ndarray) -> ErrorBudget:
    """Variance of each label by each of `PARTS`, in squared label units; NaN where there is no fit.

    Parameters
    ----------
    trained
        The model.
    fit
        Labels of the stars by this model.
    ivar
        Of their spectra, shape (star, pixel).

    """
    x, unit = trained.scaling.scaled(fit.labels), trained.scaling.factor * trained.scaling.scale
    exponents, n_labels = trained.terms.exponents, trained.n_labels
    out = np.full((len(x), len(PARTS), n_labels), np.nan)
    errors, parts_of_star = trained.theta_errors, trained.scatter.noise_parts(trained.s2)
    own, common = (None, None) if errors is None else map(np.asarray, (errors.own, errors.common))
    rows, columns = np.tril_indices(len(exponents))
    for star in np.flatnonzero(np.isfinite(x).all(axis=1)):
        used = np.flatnonzero(trained.solved & (ivar[star] > 0))
        if len(used) < n_labels:
            continue
        v = monomials(x[star : star + 1], exponents)[0]
        ahead, behind = (monomials(x[star] + step * np.eye(n_labels), exponents) for step in (_STEP, -_STEP))
        gradients = (ahead - behind) / (2 * _STEP)
        of_theta = np.zeros(len(used)) if own is None else own[used] @ (v[rows] * v[columns])
        h = 0.0 if errors is None else (1 + float(v @ common @ v)) / float(errors.included) - 1
        c = float(trained.scatter.label_factor(x[star : star + 1])[0])
        h /= c  # All is over c, which multiplies the variances in the end.
        noise = parts_of_star(used, ivar[star, used], of_theta, h)
        jacobian = trained.theta[used] @ gradients.T
        pulled = noise.solved(jacobian)
        information = jacobian.T @ pulled
        corrected, left = information, np.zeros(n_labels)
        if errors is not None:
            response = trained.theta[used] * (np.arange(len(exponents)) > 0)
            form = response.T @ noise.solved(response)
            b, left = _noise(*noise.weights(), v, gradients, used, errors, form, information)
            corrected = information - b
        if np.linalg.cond(corrected) > 1 / np.finfo(float).eps:
            continue
        of_scale = c * _of_scale(trained, len(used), fit.scale[star])
        total = corrected + of_scale
        out[star] = c * noise.variances(np.linalg.solve(total, pulled.T))
        out[star, PARTS.index("theta")] += np.linalg.solve(total, left) ** 2
        # What the length of the spectrum tells has the errors of all the noise that it is made of.
        inverse = np.linalg.inv(total)
        out[star] *= 1 + c * np.diagonal(inverse @ of_scale @ inverse) / out[star].sum(axis=0)
    out *= fit.scale[:, None, None] * unit**2
    return ErrorBudget({name: out[:, k] for k, name in enumerate(PARTS)})


def _of_scale(trained: TrainedModel, n_used: int, star_scale: float) -> np.ndarray:
    """What the length of a spectrum tells of the labels, shape (label, label) (`labelling.label_scale`)."""
    beta = trained.scatter.label_scale
    if beta is None:
        return np.zeros((trained.n_labels, trained.n_labels))
    scale = LabelScale(beta, trained.scatter.nu, np.array([trained.scatter.typical_square(n_used)]))
    with own_jax_settings():
        return np.asarray(scale.information(np.array([star_scale])))[0]


def _noise(
    diagonal: np.ndarray,
    common: float,
    v: np.ndarray,
    gradients: np.ndarray,
    used: np.ndarray,
    errors: ThetaErrors,
    form: np.ndarray,
    information: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """B, the noise of theta in the apparent information, and the pull that is not corrected for; ``form`` is Q."""
    whole = np.zeros((1, len(errors.own)))  # Of all pixels, so that one shape is compiled.
    whole[0, used] = diagonal
    with own_jax_settings():
        noise = noise_matrix(errors, whole, np.array([common]))
        noise, b, part = map(np.asarray, trusted(noise, jnp.asarray(form[None]), gradients.T[None], information[None]))
    return part[0] * b[0], (1 - part[0]) * gradients @ noise[0] @ v
