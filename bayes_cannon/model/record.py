"""What `CannonModel.test` reports of one star."""

from collections.abc import Callable
from typing import Any

import numpy as np

from bayes_cannon.core.status import StarStatus
from bayes_cannon.labelling.fit import LabelFit


class StarRecord(dict[str, Any]):
    """What the test step reports of one star; ``model_flux``, shape (pixel,), is computed when it is asked for."""

    def __init__(
        self, model: Callable[[np.ndarray], np.ndarray], label_names: tuple[str, ...], fit: LabelFit, star: int
    ):
        status = StarStatus(fit.status[star])
        super().__init__(
            status=status,
            message=status.message,
            chi_sq=float(fit.chi_squared[star]),
            r_chi_sq=float(fit.reduced_chi_squared[star]),
            n_pixels=int(fit.n_pixels[star]),
            snr=float(fit.snr[star]),
            n_iterations=int(fit.iterations[star]),
            best_result_index=int(fit.start[star]),
            misfit=float(fit.misfit[star]),
            method="newton",
            label_names=label_names,
        )
        if np.isfinite(fit.second_excess[star]):
            self |= {"second_labels": fit.second_labels[star], "second_excess": float(fit.second_excess[star])}
        if not status.has_solution:
            self["fail_message"] = status.message
        self._model, self._labels = model, fit.labels[star]

    def __missing__(self, key: str) -> np.ndarray:
        if key != "model_flux":
            raise KeyError(key)
        return self.setdefault(key, self._model(self._labels))
