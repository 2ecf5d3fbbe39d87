"""Errors of labels beyond those that the model of the spectra knows."""

from dataclasses import replace
from typing import Any

import numpy as np

from bayes_cannon.core.progress import ProgressOption, reporter
from bayes_cannon.infer import LabelFit
from bayes_cannon.model.sampling import LabelSampling
from bayes_cannon.solvers.label_scatter import label_scatter
from bayes_cannon.validate import cross_validate


class LabelErrors(LabelSampling):
    """What the training stars tell of the errors of labels, for `CannonModel`."""

    @property
    def label_scatter(self) -> np.ndarray | None:
        """Covariance that is added to that of every star's labels, in label units, shape (label, label), or None."""
        return self._label_scatter

    def learn_label_scatter(self, *, n_folds: int = 5, seed: int = 0, progress: ProgressOption = None) -> np.ndarray:
        """Learn the scatter of labels around the reference that the spectra's noise and scatter do not explain.

        The training stars are held out fold after fold and labelled by the others. What their labels are off by more
        than their covariances say, a maximum-likelihood covariance of all stars (`solvers.label_scatter`), is from then
        on added to the covariance of every fit, until the model is trained again. It holds errors of the reference
        labels too. The labels themselves stay as they are.

        Parameters
        ----------
        n_folds, seed
            As in `validate.folds`. So many models are trained.
        progress
            True for a bar on the standard error, or a function that is called with the number of folds finished.

        Returns
        -------
        label_scatter
            In label units, shape (label, label).

        Raises
        ------
        NotTrainedError
            If the model is not trained.
        TypeError
            If it holds no training spectra.
        ValueError
            If there are too few stars.

        """
        self._trained()
        problem = self._problem()
        state = replace(
            self._state(with_spectra=True), theta=None, s2=None, factors=None, factor_noise=None, nu=None,
            label_scatter=None, training=None,
        )  # fmt: skip

        def fit(labels: np.ndarray, flux: np.ndarray, ivar: np.ndarray) -> Any:
            model: Any = self._from_state(
                replace(state, training_set_labels=labels, training_set_flux=flux, training_set_ivar=ivar)
            )
            model.train()
            if report is not None:
                report(1)
            return model.test

        with reporter(progress, n_folds, "fold") as report:
            result = cross_validate(fit, self._labels, problem.flux, problem.ivar, k=n_folds, seed=seed)
        self._label_scatter = label_scatter(result.inferred - result.reference, result.covariance)
        return self._label_scatter

    def _with_label_scatter(self, fit: LabelFit) -> LabelFit:
        """The fit with the scatter of labels in its covariance."""
        if self._label_scatter is None:
            return fit
        return replace(fit, covariance=fit.covariance + self._label_scatter)
