"""Calibrated errors of labels: what the training stars tell of them when they are held out."""

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from bayes_cannon.calibration.calibrated_errors import Calibration
from bayes_cannon.core.progress import ProgressOption, reporter
from bayes_cannon.core.typing import PerStar, StarLabel
from bayes_cannon.core.vectorizer import monomials
from bayes_cannon.io.model_state import ModelState
from bayes_cannon.labelling.error_budget import ErrorBudget, error_budget
from bayes_cannon.labelling.fit import LabelFit
from bayes_cannon.labelling.leverage import leverage, leverage_root
from bayes_cannon.model.sampling import LabelSampling
from bayes_cannon.validate import cross_validate


@dataclass(frozen=True)
class CalibratedFit(LabelFit):
    """Labels of N stars, as `LabelFit`, whose covariance is calibrated where the model has a calibration.

    Attributes
    ----------
    formal_covariance
        The covariance that the model of the spectra states by itself, in label units, shape (star, label, label).

    """

    formal_covariance: np.ndarray


class LabelErrors(LabelSampling):
    """The calibration of label errors, for `CannonModel`."""

    @property
    def calibration(self) -> Calibration | None:
        """What turns formal covariances of labels into calibrated ones; None before `calibrate`."""
        return self._calibration

    def leverage(self, labels: Any) -> PerStar:
        """How far labels lie from those of the training stars, whose mean is one (`labelling.leverage`), shape (star,).

        Parameters
        ----------
        labels
            In their units, shape (label,) or (star, label). NaN gives NaN.

        """
        x = self._scaling.scaled(self._vectorizer.label_rows(labels))
        return leverage(self._leverage_root, monomials(x, self._vectorizer.exponents))

    @cached_property
    def _leverage_root(self) -> np.ndarray:
        return leverage_root(self.design_matrix)

    def calibrate(
        self,
        *,
        n_folds: int = 5,
        seed: int = 0,
        reference_errors: StarLabel | None = None,
        key: Any = 0,
        progress: ProgressOption = None,
    ) -> Calibration:
        """Learn how large the errors of labels are, from training stars that are held out.

        The training stars are held out fold after fold and labelled by the others. What their labels are off by, beside
        what their covariances say, gives a factor and a floor for each label and the tails
        (`calibration.fit.calibrate`). From then on the covariance of every fit is the calibrated one, until the
        model is trained again, or the posterior of theta is another one; the labels themselves stay as they are. Where
        the model integrates theta out, so do those of the folds, with the posterior of their own theta by importance
        sampling.

        Parameters
        ----------
        n_folds, seed
            As in `validate.folds`. So many models are trained. Each has fewer stars than the model itself: with few
            folds the errors come out too large where more training stars still make labels better.
        reference_errors
            Errors of the training labels, in label units, shape (star, label); NaN where they are not known. What is
            given here is no part of the calibrated errors; errors of the reference that are not given are.
        key
            JAX key or an integer seed of the chains.
        progress
            True for a bar on the standard error, or a function that is called with the number of folds finished.

        Returns
        -------
        calibration
            Also kept as ``model.calibration``.

        Warns
        -----
        CalibrationWarning
            If the chains have not mixed.

        Raises
        ------
        NotTrainedError
            If the model is not trained.
        TypeError
            If it holds no training spectra.
        ValueError
            If there are too few stars, or reference errors of another shape than the training labels or negative ones.

        """
        from bayes_cannon.calibration.fit import calibrate  # NumPyro takes half a second to import.

        self._trained()
        problem = self._problem()
        if reference_errors is not None and np.shape(reference_errors) != self._labels.shape:
            raise ValueError(
                f"reference_errors must have the shape of the training labels, {self._labels.shape}; "
                f"got {np.shape(reference_errors)}"
            )
        fold_snr: list[np.ndarray] = []
        state = replace(
            self._state(with_spectra=True), theta=None, s2=None, factors=None, factor_noise=None, nu=None,
            calibration=None, training=None,
        )  # fmt: skip

        def fit(labels: np.ndarray, flux: np.ndarray, ivar: np.ndarray) -> Any:
            part = replace(state, training_set_labels=labels, training_set_flux=flux, training_set_ivar=ivar)
            return self._held_out(part, fold_snr, report)

        with reporter(progress, n_folds, "fold") as report:
            result = cross_validate(fit, self._labels, problem.flux, problem.ivar, k=n_folds, seed=seed)
        snr = np.full(len(self._labels), np.nan)
        for number, values in zip(np.unique(result.fold), fold_snr, strict=True):
            snr[result.fold == number] = values
        self._calibration = calibrate(
            result.inferred - result.reference, result.covariance, snr, leverage=self.leverage(result.inferred),
            reference_errors=reference_errors, key=key,
        )  # fmt: skip
        return self._calibration

    def error_budget(self, flux: Any, ivar: Any, fit: CalibratedFit | None = None) -> ErrorBudget:
        """Where the errors of the labels of these stars come from (`labelling.error_budget`).

        Parameters
        ----------
        flux, ivar
            Spectra, shape (star, pixel).
        fit
            Their fit by this model, if it is there already.

        Returns
        -------
        budget
            Variance of each label of each star by source, which add up to the diagonal of the fit's covariance.

        Raises
        ------
        NotTrainedError
            If the model is not trained.
        ValueError
            For spectra that do not fit the model, or a fit of other stars.

        """
        fit = self.fit_labels(flux, ivar) if fit is None else fit  # type: ignore[attr-defined]
        ivar = np.atleast_2d(np.asarray(ivar, dtype=float))
        if len(fit.labels) != len(ivar):
            raise ValueError(f"the fit has {len(fit.labels)} stars but ivar {len(ivar)}")
        budget = error_budget(self._label_model(), fit, ivar)  # type: ignore[attr-defined]
        parts = dict(budget.variance)
        if self._calibration is not None:
            floor = self._calibration.floor_covariance(fit.snr, self.leverage(fit.labels))
            parts["floor"] = np.diagonal(floor, axis1=1, axis2=2)
            whole = np.diagonal(fit.covariance, axis1=1, axis2=2)
            parts["scale"] = whole - parts["floor"] - budget.total**2
        return ErrorBudget(parts)

    def _held_out(self, state: ModelState, fold_snr: list[np.ndarray], report: Any) -> Any:
        """Train on the stars of the state; what labels other stars also notes their S/N."""
        model: Any = self._from_state(state)
        model.train()
        if self._posterior is not None and getattr(self, "integrate_theta", True):
            # Its errors are to be those of this model.
            model.sample(method="psis", keep_draws=False, pixels=np.isfinite(self._posterior.mean).all(axis=1))
        if report is not None:
            report(1)

        def infer(flux: np.ndarray, ivar: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            fit = model.fit_labels(flux, ivar)
            fold_snr.append(fit.snr)
            return fit.labels, fit.formal_covariance

        return infer

    def _calibrated(self, fit: LabelFit) -> CalibratedFit:
        """The fit with its calibrated covariance."""
        found = {field.name: getattr(fit, field.name) for field in fields(LabelFit)}
        if self._calibration is not None:
            reach = self.leverage(fit.labels)
            found["covariance"] = self._calibration.covariance(fit.covariance, fit.snr, reach)
        return CalibratedFit(**found, formal_covariance=fit.covariance)
