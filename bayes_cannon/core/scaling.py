"""Labels without units: ``x_k = (label_k - fiducial_k) / (f scale_k)``.

The fiducial is the median of the training labels, the scale their 97.5 minus 2.5 percentile, and f the
``scale_factor``, 1 by default (Casey et al. 2016, section 2, use 2). Of a label that is the same for all but a few
stars, such as a rotation that is mostly zero, these percentiles are equal, and the scale is its whole range.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bayes_cannon.core.arguments import number
from bayes_cannon.core.records import dims


@dataclass(frozen=True)
class LabelScaling:
    """The affine map between labels in their units and scaled labels.

    Attributes
    ----------
    fiducial
        Zero point of each label, in its unit, shape (label,).
    scale
        Range of each label, in its unit, shape (label,), positive.
    factor
        The scale factor f, dimensionless.

    Examples
    --------
    >>> from bayes_cannon.core.scaling import LabelScaling
    >>> labels = np.column_stack([np.linspace(4000, 5000, 201), np.linspace(-1, 0.5, 201)])
    >>> scaling = LabelScaling.from_labels(labels, ("TEFF", "FE_H"))
    >>> scaling.fiducial.round(3), scaling.scale.round(3)
    (array([ 4.5e+03, -2.5e-01]), array([950.   ,   1.425]))
    >>> x = scaling.scaled([4975.0, 0.4625])
    >>> x.round(3), scaling.unscaled(x).round(4)
    (array([0.5, 0.5]), array([4.975e+03, 4.625e-01]))

    """

    fiducial: np.ndarray = field(metadata=dims("label", about="zero point of each label, in its unit"))
    scale: np.ndarray = field(metadata=dims("label", about="range of each label, in its unit"))
    factor: float = 1.0

    @classmethod
    def from_labels(cls, labels: np.ndarray, label_names: Sequence[str], factor: float = 1.0) -> "LabelScaling":
        """Scaling by the training labels, shape (star, label).

        Raises
        ------
        ValueError
            If a label is constant.

        """
        if not 0 < number(factor) < np.inf:
            raise ValueError(f"scale_factor must be positive and finite, got {factor!r}")
        low, median, high = np.percentile(labels, [2.5, 50, 97.5], axis=0)
        scale = np.where(high > low, high - low, np.ptp(labels, axis=0))
        for name, value, width in zip(label_names, median, scale, strict=True):
            if not width > 0:
                raise ValueError(
                    f"label {name!r} is constant: all its values are {value}. Nothing can be learned from it; leave it "
                    "out of label_names"
                )
        return cls(median, scale, float(factor))

    def scaled(self, labels: np.ndarray) -> np.ndarray:
        """Scaled labels, shape (..., label)."""
        return (np.asarray(labels, dtype=float) - self.fiducial) / (self.factor * self.scale)

    def unscaled(self, x: np.ndarray) -> np.ndarray:
        """Labels in their units, shape (..., label)."""
        return np.asarray(x) * (self.factor * self.scale) + self.fiducial

    def unscaled_covariance(self, covariance: np.ndarray) -> np.ndarray:
        """Covariance in label units, shape (..., label, label)."""
        unit = self.factor * self.scale
        return np.asarray(covariance) * np.outer(unit, unit)
