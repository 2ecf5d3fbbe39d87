"""Calibrated errors of labels: learned from training stars that are held out, and applied to fits."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np

from bayes_cannon.calibration.calibrated_errors import Calibration
from bayes_cannon.core.arguments import whole_number
from bayes_cannon.core.folds import folds, same_labels
from bayes_cannon.core.intake import real_numbers
from bayes_cannon.core.typing import StarLabel
from bayes_cannon.execution.jax_settings import check_key
from bayes_cannon.labelling.fit import LabelFit
from bayes_cannon.model.stars import TrainingSet


@dataclass(frozen=True)
class CalibratedFit(LabelFit):
    """Labels of N stars, as `LabelFit`, whose covariance is calibrated where the model has a calibration.

    Attributes
    ----------
    formal_covariance
        The covariance that the model of the spectra states by itself, in label units, shape (star, label, label).

    """

    formal_covariance: np.ndarray


class FoldModel(Protocol):
    """A model trained without a fold."""

    def fit_labels(self, flux: Any, ivar: Any, *, covariance: Any = None) -> CalibratedFit:
        """Labels of other stars."""


def calibrated_fit(fit: LabelFit, calibration: Calibration | None, stars: TrainingSet) -> CalibratedFit:
    """The fit with its calibrated covariance, or with the formal one where there is no calibration."""
    found = {field.name: getattr(fit, field.name) for field in fields(LabelFit)}
    if calibration is not None:
        found["covariance"] = calibration.covariance(fit.covariance, fit.snr, stars.leverage(fit.labels))
    return CalibratedFit(**found, formal_covariance=fit.covariance)


def learn_calibration(
    stars: TrainingSet,
    train_fold: Callable[[np.ndarray], FoldModel],
    *,
    n_folds: int,
    seed: int,
    groups: Any,
    reference_errors: StarLabel | None,
    key: Any,
    progress: Callable[[int], object] | None,
) -> Calibration:
    """Label each training star by a model that was trained without its fold, and calibrate by what that is off by.

    The model of a fold has fewer stars than the one whose errors are wanted, and errs more. So the leverage of a star
    is that by the very stars that trained the model that labelled it, ``N / D v' (V'V)^-1 v`` with V their terms and N
    the number of all: the errors of theta grow with it, whether the star is far out or the stars are few.

    Parameters
    ----------
    stars
        The training set, with spectra.
    train_fold
        From a mask of training stars, shape (star,), to the model that is trained on them.
    n_folds, seed, groups, reference_errors, key
        As for `CannonModel.calibrate`.
    progress
        Called with one after each fold.

    Raises
    ------
    ValueError
        For reference errors of another shape than the labels, and as `calibration.fit.calibrate`.

    """
    from bayes_cannon.calibration.fit import calibrate  # NumPyro takes half a second to import.

    check_key(key)
    errors = None if reference_errors is None else real_numbers(reference_errors, "reference_errors")
    if errors is not None and errors.shape != stars.labels.shape:
        raise ValueError(
            f"reference_errors must have the shape of the training labels, {stars.labels.shape}; got {errors.shape}"
        )
    if errors is not None and (errors < 0).any():
        star, label = np.argwhere(errors < 0)[0]
        raise ValueError(f"reference_errors has {errors[star, label]} for label {label} of star {star}: give NaN or 0")
    flux, ivar = np.asarray(stars.flux), np.asarray(stars.ivar)
    groups = same_labels(stars.labels, whole_number(n_folds, "n_folds", 2)) if groups is None else groups
    fold = folds(len(stars.labels), n_folds, seed, groups)
    inferred = np.full(stars.labels.shape, np.nan)
    snr, leverage = np.full((2, len(fold)), np.nan)
    covariance = np.full((*inferred.shape, inferred.shape[1]), np.nan)
    for out in np.unique(fold):
        away = fold == out
        own = {} if stars.covariance is None else {"covariance": stars.covariance[away]}
        fit = train_fold(~away).fit_labels(flux[away], ivar[away], **own)
        inferred[away], covariance[away], snr[away] = fit.labels, fit.formal_covariance, fit.snr
        # A leverage is relative to the mean of the stars that trained; fewer of them determine a model less well.
        leverage[away] = stars.of_stars(~away).leverage(fit.labels) * len(fold) / (~away).sum()
        if progress is not None:
            progress(1)
    return calibrate(
        inferred - stars.labels, covariance, snr, leverage=leverage, reference_errors=errors, key=key,
    )  # fmt: skip
