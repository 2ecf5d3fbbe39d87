"""How good inferred labels are, by definitions that are the same everywhere.

With the difference d = inferred - reference of one label over all stars:

- bias: the median of d;
- robust scatter: 1.4826 times the median of abs(d - bias), where a failed star counts as infinite;
- plain scatter: the standard deviation of d;
- pull: d divided by the error of the inferred label, whose robust and plain scatter are 1 where errors are honest.

A star has failed in a label where its inferred value is NaN. It has no d of either sign, so that the bias and the plain
figures are those of the other stars; the number of failed stars is given with them. Labels keep their units throughout.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bayes_cannon.core.arguments import check_function, shown, texts, whole_number
from bayes_cannon.core.arguments import units as unit_texts
from bayes_cannon.core.folds import folds, same_labels
from bayes_cannon.core.intake import as_array, real_numbers
from bayes_cannon.core.typing import PerLabel, StarLabel, StarPixel
from bayes_cannon.coverage import LocalCoverage, local_coverage

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = [
    "CrossValidation", "LocalCoverage", "bias", "cross_validate", "folds", "label_errors", "local_coverage",
    "log_scores", "plain_scatter", "pulls", "robust_scatter", "summary_table",
]  # fmt: skip

Infer = Callable[[np.ndarray, np.ndarray], tuple]
"""Flux and ivar (star, pixel) to labels (star, label), their covariance (star, label, label) or None, anything more."""

Fit = Callable[[np.ndarray, np.ndarray, np.ndarray], Infer]
"""Labels (star, label), flux and ivar (star, pixel) of training stars to the function that labels other stars."""

_NORMAL = 1.4826


@dataclass(frozen=True)
class CrossValidation:
    """Labels of every star, inferred by a model that was trained without its fold.

    Attributes
    ----------
    inferred, reference
        Labels in their units, shape (star, label); NaN where the fit failed.
    covariance
        In label units, shape (star, label, label); NaN where it is not known.
    fold
        Fold of each star, shape (star,), from 0.

    Examples
    --------
    >>> inferred, reference, covariance = np.array([[4510.0]]), np.array([[4500.0]]), np.array([[[25.0]]])
    >>> result = tc.validate.CrossValidation(inferred, reference, covariance, fold=np.array([0]))
    >>> tc.validate.pulls(result.inferred, result.reference, result.covariance)
    array([[2.]])

    """

    inferred: np.ndarray
    reference: np.ndarray
    covariance: np.ndarray
    fold: np.ndarray


def bias(inferred: StarLabel, reference: StarLabel | float = 0.0) -> PerLabel:
    """Median of inferred - reference over the stars that did not fail, shape (label,), in label units.

    Examples
    --------
    >>> inferred, reference = np.array([[4510.0], [4995.0], [np.nan]]), np.array([[4500.0], [5000.0], [5500.0]])
    >>> tc.validate.bias(inferred, reference)
    array([2.5])

    """
    difference = _difference(inferred, reference)
    return np.array([_median(column[np.isfinite(column)]) for column in difference.T])


def robust_scatter(inferred: StarLabel, reference: StarLabel | float = 0.0) -> PerLabel:
    """``1.4826 median(abs(d - bias))`` of d = inferred - reference, a failed star counting as infinite, shape (label,).

    With one argument it is the robust scatter of that array itself, for example of pulls.

    Examples
    --------
    >>> inferred = np.array([[-2.0], [-1.0], [0.0], [1.0], [1000.0]])
    >>> tc.validate.robust_scatter(inferred)
    array([1.4826])

    """
    deviation = np.abs(_difference(inferred, reference) - bias(inferred, reference))
    return _NORMAL * np.array([_median(column) for column in _failed_as_infinite(deviation).T])


def plain_scatter(inferred: StarLabel, reference: StarLabel | float = 0.0) -> PerLabel:
    """Standard deviation of inferred - reference over the stars that did not fail, shape (label,), in label units.

    Examples
    --------
    >>> tc.validate.plain_scatter(np.array([[4510.0], [4990.0], [np.nan]]), np.array([[4500.0], [5000.0], [5500.0]]))
    array([10.])

    """
    difference = _difference(inferred, reference)
    finite = (column[np.isfinite(column)] for column in difference.T)
    return np.array([column.std() if column.size else np.nan for column in finite])


def pulls(
    inferred: StarLabel,
    reference: StarLabel,
    covariance: np.ndarray,
    reference_error: StarLabel | float = 0.0,
) -> StarLabel:
    """``(inferred - reference) / error``, dimensionless, NaN for failed stars.

    Parameters
    ----------
    inferred, reference
        Labels, shape (star, label).
    covariance
        Of the inferred labels, shape (star, label, label); its diagonal is the squared error.
    reference_error
        Error of the reference labels, added in quadrature. Say so where the result is shown.

    Returns
    -------
    pulls
        Shape (star, label).

    Examples
    --------
    >>> inferred, reference, covariance = np.array([[4520.0]]), np.array([[4500.0]]), np.array([[[64.0]]])
    >>> tc.validate.pulls(inferred, reference, covariance)
    array([[2.5]])
    >>> tc.validate.pulls(inferred, reference, covariance, reference_error=6.0)
    array([[2.]])

    """
    difference, error = _difference(inferred, reference), label_errors(covariance)
    reference_error = real_numbers(reference_error, "reference_error")
    for name, array, shapes in (
        ("covariance", error, [difference.shape]), ("reference_error", reference_error, [(), difference.shape])
    ):  # fmt: skip
        if array.shape not in shapes:
            raise ValueError(f"{name} must be that of {difference.shape} labels of stars, got {array.shape}")
    with np.errstate(divide="ignore", invalid="ignore"):
        return difference / np.hypot(error, reference_error)


def label_errors(covariance: np.ndarray) -> np.ndarray:
    """Square root of the diagonal of (star, label, label), shape (star, label); NaN where that is negative or NaN.

    Examples
    --------
    >>> tc.validate.label_errors(np.array([[[2500.0, 1.0], [1.0, 0.01]]]))
    array([[50. ,  0.1]])

    """
    covariance = real_numbers(covariance, "covariance")
    if covariance.ndim != 3 or covariance.shape[1] != covariance.shape[2]:
        raise ValueError(f"covariance must have shape (star, label, label), got {covariance.shape}")
    variance = np.diagonal(covariance, axis1=1, axis2=2)
    return np.sqrt(np.where(variance >= 0, variance, np.nan))


def log_scores(inferred: StarLabel, reference: StarLabel, covariance: np.ndarray) -> np.ndarray:
    r"""Log density of the reference labels under each star's inferred ones, higher is better, shape (star,).

    .. math:: -\tfrac12 \left( d^T C^{-1} d + \ln\det C + K \ln 2\pi \right)

    with d the inferred minus the reference labels. It is proper: neither too small nor too large errors gain (Gneiting
    & Raftery 2007). Units are those of the labels; only differences of scores of the same stars mean something. NaN for
    failed stars.

    Parameters
    ----------
    inferred, reference
        Labels, shape (star, label).
    covariance
        Of the inferred labels, shape (star, label, label).

    Raises
    ------
    ValueError
        If shapes differ, or a covariance is not positive definite, naming the star.

    Examples
    --------
    >>> inferred, reference = np.array([[4520.0]]), np.array([[4500.0]])
    >>> for error in (5, 20, 80):
    ...     print(tc.validate.log_scores(inferred, reference, np.array([[[error**2]]])).round(3))
    [-10.528]
    [-4.415]
    [-5.332]

    """
    covariance = real_numbers(covariance, "covariance")
    difference, error = _difference(inferred, reference), label_errors(covariance)
    if error.shape != difference.shape:
        raise ValueError(f"covariance must be that of {difference.shape} labels of stars, got {covariance.shape}")
    n_labels = difference.shape[1]
    known = np.isfinite(difference).all(axis=1) & np.isfinite(covariance).all(axis=(1, 2)) & (error > 0).all(axis=1)
    scores = np.full(len(difference), np.nan)
    # In units of the errors, because those of the labels differ by orders of magnitude.
    scaled = difference[known] / error[known]
    correlation = covariance[known] / (error[known][:, :, None] * error[known][:, None, :])
    sign, log_det = np.linalg.slogdet(correlation)
    if not (sign > 0).all():
        star = int(np.flatnonzero(known)[np.argmin(sign > 0)])
        raise ValueError(f"covariance of star {star} is not positive definite: {shown(covariance[star])}")
    chi_squared = np.einsum("nk,nk->n", scaled, np.linalg.solve(correlation, scaled[:, :, None])[:, :, 0])
    log_det = log_det + 2 * np.log(error[known]).sum(axis=1)
    scores[known] = -0.5 * (chi_squared + log_det + n_labels * np.log(2 * np.pi))
    return scores


def cross_validate(
    fit: Fit,
    labels: StarLabel,
    flux: StarPixel,
    ivar: StarPixel,
    *,
    k: int = 5,
    seed: int = 0,
    groups: Any = None,
    reject: Callable[[np.ndarray], np.ndarray] | None = None,
) -> CrossValidation:
    """Label every star by a model trained on the other folds. No star is left out of the evaluation.

    Parameters
    ----------
    fit
        Trains: labels (star, label), flux and ivar (star, pixel) to a function of flux and ivar that returns at least
        labels and covariance, such as the method `CannonModel.test`. The covariance may be None.
    labels, flux, ivar
        All stars, shapes (star, label), (star, pixel) and (star, pixel).
    k, seed
        Number of folds and the seed of `folds`.
    groups
        Rows of one group, such as several visits of one star, are held out together, shape (star,), as in `folds`. By
        default those whose labels are all the same.
    reject
        Given the indices of the training stars of a fold, True for those that must not train, shape (training star,).

    Returns
    -------
    result
        See `CrossValidation`.

    Raises
    ------
    ValueError
        If the numbers of stars differ, groups have another shape, or ``fit`` returns labels of another shape than it
        was given.

    Examples
    --------
    >>> labels = np.linspace(-1, 1, 20)[:, None]
    >>> flux, ivar = 1 + 0.2 * labels, np.ones((20, 1))
    >>> def fit(labels, flux, ivar):
    ...     slope, offset = np.polyfit(flux[:, 0], labels[:, 0], 1)
    ...     return lambda flux, ivar: (slope * flux + offset, None)
    >>> result = tc.validate.cross_validate(fit, labels, flux, ivar, k=4)
    >>> bool(np.allclose(result.inferred, labels))
    True

    """
    check_function(fit, "fit", "a function of labels, flux and ivar that returns one of flux and ivar")
    if reject is not None:
        check_function(reject, "reject", "None or a function of indices of stars")
    labels, flux, ivar = real_numbers(labels, "labels"), real_numbers(flux, "flux"), real_numbers(ivar, "ivar")
    if not labels.ndim == flux.ndim == ivar.ndim == 2 or not len(labels) == len(flux) == len(ivar):
        raise ValueError(
            "labels, flux and ivar must be two-dimensional with one row a star, "
            f"got shapes {labels.shape}, {flux.shape} and {ivar.shape}"
        )
    fold = folds(len(labels), k, seed, same_labels(labels, whole_number(k, "k", 2)) if groups is None else groups)
    inferred = np.full(labels.shape, np.nan)
    covariance = np.full((*labels.shape, labels.shape[1]), np.nan)
    for number in range(k):
        training, held_out = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        if not held_out.size:
            continue
        if reject is not None:
            rejected = as_array(reject(training), "what reject returns")
            if rejected.shape != training.shape or rejected.dtype != bool:
                raise ValueError(f"reject must return a mask of shape {training.shape}, got {shown(rejected)}")
            training = training[~rejected]
        infer = fit(labels[training], flux[training], ivar[training])
        check_function(infer, "what fit returns", "a function of flux and ivar")
        answer = infer(flux[held_out], ivar[held_out])
        if not isinstance(answer, tuple | list) or len(answer) < 2:
            raise ValueError(f"the function that fit returns must return labels and covariance, got {shown(answer)}")
        found, found_covariance, *_ = answer
        if np.shape(found) != (held_out.size, labels.shape[1]):
            raise ValueError(
                f"inferred labels must have shape {(held_out.size, labels.shape[1])}, got {np.shape(found)}"
            )
        inferred[held_out] = found
        if found_covariance is not None:
            covariance[held_out] = found_covariance
    return CrossValidation(inferred, labels, covariance, fold)


def summary_table(
    inferred: StarLabel,
    reference: StarLabel,
    covariance: np.ndarray | None = None,
    *,
    label_names: Sequence[str],
    units: Mapping[str, str] | None = None,
    reference_error: StarLabel | float = 0.0,
) -> "Table":
    """One row a label: bias, scatters, median error, scatters of the pulls, and how many stars failed.

    Parameters
    ----------
    inferred, reference
        Labels, shape (star, label), NaN where the fit failed.
    covariance
        Of the inferred labels, shape (star, label, label). Without it the columns of errors and pulls are missing.
    label_names
        Names of the labels.
    units
        Units by label name, "" by default.
    reference_error
        Error of the reference labels, shape (star, label), that enters the pulls; the table's ``meta`` says whether.

    Returns
    -------
    table
        Columns label, unit, stars, failed, bias, robust_scatter, plain_scatter and, with a covariance, median_error,
        robust_pull and plain_pull.

    Examples
    --------
    >>> inferred, reference = np.array([[4510.0], [4995.0], [5530.0]]), np.array([[4500.0], [5000.0], [5500.0]])
    >>> table = tc.validate.summary_table(inferred, reference, label_names=("TEFF",), units={"TEFF": "K"})
    >>> print(table["label", "unit", "stars", "failed", "bias", "robust_scatter"])
    label unit stars failed bias robust_scatter
    ----- ---- ----- ------ ---- --------------
     TEFF    K     3      0   10          22.24

    """
    label_names, units = texts(label_names, "label_names"), unit_texts(units, "units")
    inferred, reference = real_numbers(inferred, "inferred"), real_numbers(reference, "reference")
    if inferred.shape != reference.shape or inferred.ndim != 2 or inferred.shape[1] != len(label_names):
        raise ValueError(
            f"inferred and reference must both have shape (star, {len(label_names)}) for {', '.join(label_names)}; "
            f"got {inferred.shape} and {reference.shape}"
        )
    columns: dict[str, object] = {
        "label": list(label_names),
        "unit": [units.get(name, "") for name in label_names],
        "stars": np.full(len(label_names), len(inferred)),
        "failed": (~np.isfinite(inferred)).sum(axis=0),
        "bias": bias(inferred, reference),
        "robust_scatter": robust_scatter(inferred, reference),
        "plain_scatter": plain_scatter(inferred, reference),
    }
    if covariance is not None:
        pull = pulls(inferred, reference, covariance, reference_error)
        columns |= {
            "median_error": np.median(_failed_as_infinite(label_errors(covariance)), axis=0),
            "robust_pull": robust_scatter(pull),
            "plain_pull": plain_scatter(pull),
        }
    from astropy.table import Table  # Half a second that training need not wait for.

    table = Table(columns)
    table.meta["pulls_include_reference_errors"] = bool(np.any(real_numbers(reference_error, "reference_error") != 0))
    for column in table.itercols():
        if column.dtype.kind == "f":
            column.format = ".4g"
    return table


def _difference(inferred: StarLabel, reference: StarLabel | float) -> np.ndarray:
    inferred, reference = real_numbers(inferred, "inferred"), real_numbers(reference, "reference")
    if inferred.ndim != 2 or reference.shape not in ((), inferred.shape):
        raise ValueError(
            f"inferred and reference must have the same shape (star, label), got {inferred.shape} and {reference.shape}"
        )
    return inferred - reference


def _failed_as_infinite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(values), np.inf, values)


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if values.size else np.nan
