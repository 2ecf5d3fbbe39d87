"""The fits of one spectrum and of one pixel at given scatter, under the names of the original package.

``fit_pixel_fixed_scatter`` is not here: theta and the scatter are fitted together (`CannonModel.train`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bayes_cannon.core.arguments import check_kind, number, shown
from bayes_cannon.core.checks import check_spectra
from bayes_cannon.core.intake import real_numbers
from bayes_cannon.core.scaling import LabelScaling
from bayes_cannon.core.terms import Terms
from bayes_cannon.core.typing import Record
from bayes_cannon.core.vectorizer import BaseVectorizer
from bayes_cannon.labelling.fit import fit_labels
from bayes_cannon.labelling.trained import TrainedModel
from bayes_cannon.model.record import ModelFlux, star_records
from bayes_cannon.scatter.independent import IndependentScatter

__all__ = ["L1Norm_variation", "chi_sq", "fit_spectrum", "fit_theta_by_linalg"]


def fit_spectrum(
    flux: Any,
    ivar: Any,
    initial_labels: Any,
    vectorizer: BaseVectorizer,
    theta: Any,
    s2: Any,
    fiducials: Any,
    scales: Any,
    dispersion: Any = None,
    use_derivatives: Any = True,
    op_kwds: Mapping[str, Any] | None = None,
) -> tuple[np.ndarray, np.ndarray, Record]:
    """Labels of one spectrum with given coefficients and scatter, as `CannonModel.test` finds them.

    Parameters
    ----------
    flux, ivar
        Shape (pixel,).
    initial_labels
        Where to start, in label units, shape (label,) or (start, label).
    vectorizer
        The terms.
    theta, s2
        Coefficients at the scaled labels, shape (pixel, term), and variance of the scatter, shape (pixel,).
    fiducials, scales
        Zero point and range of each label, in its unit, shape (label,).
    dispersion, use_derivatives, op_kwds
        Without effect.

    Returns
    -------
    labels, covariance, metadata
        Shape (label,) and (label, label), in label units, and the record of the star.

    Raises
    ------
    ValueError
        For shapes that do not fit together.

    """
    check_kind(vectorizer, BaseVectorizer, "vectorizer", "a vectorizer.BaseVectorizer")
    flux, ivar = check_spectra(flux, ivar)
    if len(flux) != 1:
        raise ValueError(f"flux must be one spectrum, shape (pixel,), got {np.shape(flux)}: use CannonModel.test")
    theta, s2, fiducials, scales = (
        real_numbers(values, name)
        for name, values in (("theta", theta), ("s2", s2), ("fiducials", fiducials), ("scales", scales))
    )
    n_labels = len(vectorizer.label_names)
    for name, values in (("fiducials", fiducials), ("scales", scales)):
        if values.shape != (n_labels,) or not np.isfinite(values).all():
            raise ValueError(f"{name} must be {n_labels} finite numbers, one a label, got {shown(values)}")
    if not (scales > 0).all():
        raise ValueError(f"scales must be positive, got {shown(scales)}")
    scaling = LabelScaling(fiducials, scales)
    starts = vectorizer.label_rows(initial_labels)
    terms = Terms(vectorizer.exponents, scaling.scaled(starts))
    trained = TrainedModel(theta, s2, IndependentScatter(), terms, scaling)
    fit = fit_labels(trained, flux, ivar)
    predicted = ModelFlux(vectorizer.exponents, scaling, trained.theta)
    (record,) = star_records(fit, vectorizer.label_names, predicted, flux, ivar, trained.s2)
    return fit.labels[0], fit.covariance[0], record


def fit_theta_by_linalg(flux: Any, ivar: Any, s2: float, design_matrix: Any) -> tuple[np.ndarray, np.ndarray]:
    r"""Coefficients of one pixel at a given scatter, :math:`(V^T W V)^{-1} V^T W y` with :math:`w = 1/(\sigma^2+s^2)`.

    Parameters
    ----------
    flux, ivar
        Of a pixel, shape (star,). Stars with ivar = 0 are left out.
    s2
        Variance of the scatter.
    design_matrix
        Terms of the stars, shape (star, term).

    Returns
    -------
    theta, covariance
        Shape (term,) and (term, term).

    Raises
    ------
    ValueError
        For shapes that do not fit together, and where the stars do not determine all terms.

    """
    flux, ivar, design = _pixel(flux, ivar, design_matrix)
    if not 0 <= number(s2) < np.inf:
        raise ValueError(f"s2 must be finite and not negative, got {shown(s2)}")
    root = np.sqrt(ivar / (1 + ivar * s2))
    left = root[:, None] * design
    if np.linalg.matrix_rank(left) < design.shape[1]:
        raise ValueError(f"the {int((root > 0).sum())} stars with ivar > 0 do not determine {design.shape[1]} terms")
    theta = np.linalg.lstsq(left, root * flux, rcond=None)[0]
    return theta, np.linalg.inv(left.T @ left)


def chi_sq(theta: Any, design_matrix: Any, flux: Any, ivar: Any, axis: int | None = None, gradient: bool = True) -> Any:
    r"""Of one pixel, :math:`\sum_n w_n (v_n \cdot \theta - y_n)^2`, and its gradient by theta.

    Parameters
    ----------
    theta
        Shape (term,).
    design_matrix
        Terms of the stars, shape (star, term).
    flux, ivar
        Shape (star,).
    axis
        Without effect: a pixel has one axis, that of the stars.
    gradient
        Whether the gradient, shape (term,), is returned as well.

    """
    flux, weight, design = _pixel(flux, ivar, design_matrix)
    theta = real_numbers(theta, "theta")
    if theta.shape != design.shape[1:]:
        raise ValueError(f"theta must have shape {design.shape[1:]}, one number for each term, got {theta.shape}")
    residual = design @ theta - flux
    value = float(np.sum(weight * residual**2))
    return (value, 2 * design.T @ (weight * residual)) if gradient else value


def L1Norm_variation(theta: Any) -> tuple[float, np.ndarray]:  # noqa: N802 - the original's name
    """Sum of the absolute coefficients but the first, and its derivative, zero at a coefficient of zero.

    Parameters
    ----------
    theta
        Shape (term,).

    """
    theta = real_numbers(theta, "theta")
    if theta.ndim != 1 or not theta.size:
        raise ValueError(f"theta must have shape (term,), got {theta.shape}")
    return float(np.abs(theta[1:]).sum()), np.concatenate([[0.0], np.sign(theta[1:])])


def _pixel(flux: Any, ivar: Any, design_matrix: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Flux, zero where it is not used, ivar and terms of one pixel."""
    flux, ivar = check_spectra(flux, ivar)
    design = real_numbers(design_matrix, "design_matrix")
    if len(flux) != 1 or design.ndim != 2 or len(design) != flux.shape[1]:
        raise ValueError(
            f"flux and ivar must have shape (star,) and design_matrix (star, term), got {flux.shape} and {design.shape}"
        )
    return np.where(ivar[0] > 0, flux[0], 0.0), ivar[0], design


def __getattr__(name: str) -> Any:
    if name == "fit_pixel_fixed_scatter":
        raise AttributeError(
            "fitting.fit_pixel_fixed_scatter of the original package is not here, because theta and scatter are fitted "
            "together: use CannonModel.train, or fit_theta_by_linalg for theta at a given scatter"
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> Sequence[str]:
    return sorted(__all__)
