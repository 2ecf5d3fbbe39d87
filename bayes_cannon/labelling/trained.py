"""A trained model as the test step uses it: what training learned, and all that is derived from it once."""

from dataclasses import dataclass, field, fields
from functools import cached_property

import jax
import numpy as np

from bayes_cannon.core.scaling import LabelScaling
from bayes_cannon.core.terms import Terms
from bayes_cannon.execution.jax_settings import own_jax_settings
from bayes_cannon.labelling.compressed import ModelTables
from bayes_cannon.labelling.goodness import GoodnessOfFit
from bayes_cannon.labelling.theta_errors import ThetaErrors
from bayes_cannon.scatter.base import LearnedScatter


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """What training learned. It must not be changed: what is derived from it is kept.

    Attributes
    ----------
    theta
        Coefficients, shape (pixel, term). Pixels where they or s2 are not finite are skipped.
    s2
        Variance of the scatter of each pixel by itself, in squared flux, shape (pixel,).
    scatter
        Learned scatter.
    terms
        Terms of the training stars: starting points, and the range outside of which labels are flagged.
    scaling
        From labels to scaled labels.
    theta_covariance
        Of theta, shape (pixel, term, term), to integrate theta out (`labelling.theta_errors`). None: theta is known.
    goodness
        Training stars that the fit of a spectrum is compared with.

    Raises
    ------
    ValueError
        For shapes that do not fit together, a negative s2, and training labels that are not finite.

    """

    theta: np.ndarray
    s2: np.ndarray
    scatter: LearnedScatter
    terms: Terms
    scaling: LabelScaling
    theta_covariance: np.ndarray | None = None
    goodness: GoodnessOfFit = field(default_factory=GoodnessOfFit.unknown)

    def __post_init__(self) -> None:
        n_terms, n_labels = self.terms.exponents.shape
        theta, s2 = np.asarray(self.theta, float), np.asarray(self.s2, float)
        object.__setattr__(self, "theta", theta)
        object.__setattr__(self, "s2", s2)
        if theta.ndim != 2 or theta.shape[1] != n_terms or s2.shape != theta.shape[:1]:
            raise ValueError(
                f"theta must have shape (pixel, {n_terms}) and s2 (pixel,); got {theta.shape} and {s2.shape}"
            )
        if (s2 < 0).any():
            pixel = int(np.argmax(s2 < 0))
            raise ValueError(f"s2 is {s2[pixel]} at pixel {pixel}: a variance cannot be negative; train again")
        x = self.terms.x
        if x.ndim != 2 or x.shape[1] != n_labels or not len(x):
            raise ValueError(f"the training labels must have shape (star, {n_labels}), got {x.shape}")
        if not np.isfinite(x).all():
            star, label = np.argwhere(~np.isfinite(x))[0]
            raise ValueError(f"label {label} of training star {star} is {x[star, label]}: leave the star out")
        self.scatter.check(len(theta))
        if self.theta_covariance is not None:
            covariance = np.asarray(self.theta_covariance, float)
            if covariance.shape != (len(theta), n_terms, n_terms):
                raise ValueError(
                    f"theta_covariance must have shape ({len(theta)}, {n_terms}, {n_terms}), got {covariance.shape}"
                )

    def __getstate__(self) -> dict[str, object]:
        """What is pickled: not what is derived, whose arrays JAX would bring back in single precision."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @property
    def n_pixels(self) -> int:
        """Number of pixels."""
        return len(self.s2)

    @property
    def n_labels(self) -> int:
        """Number of labels."""
        return self.terms.exponents.shape[1]

    @cached_property
    def solved(self) -> np.ndarray:
        """Which pixels have a solution, shape (pixel,)."""
        return np.isfinite(self.theta).all(axis=1) & np.isfinite(self.s2)

    @cached_property
    def tables(self) -> ModelTables:
        """Tables of the compiled test step, on the device."""
        with own_jax_settings():
            return jax.device_put(ModelTables.from_arrays(self.theta, self.s2, self.scatter, self.terms))

    @cached_property
    def theta_errors(self) -> ThetaErrors | None:
        """Covariance of theta as the test step uses it, on the device; None where theta is taken as known."""
        if self.theta_covariance is None:
            return None
        with own_jax_settings():
            errors = ThetaErrors.from_covariance(
                self.theta_covariance, self.scatter, self.terms, self.theta, self.solved
            )
            return jax.device_put(errors)
