"""Where the error of each label of each star comes from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bayes_cannon.core.typing import StarLabel


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
