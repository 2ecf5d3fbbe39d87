"""What a training has found, as one record that is replaced as a whole."""

from dataclasses import dataclass, field, fields, replace
from functools import cached_property

import numpy as np

from bayes_cannon.calibration.calibrated_errors import Calibration
from bayes_cannon.core.records import NOT_STORED, dims, encoded, one_of
from bayes_cannon.labelling.goodness import GoodnessOfFit
from bayes_cannon.labelling.trained import TrainedModel
from bayes_cannon.labelling.training_fit import training_goodness
from bayes_cannon.model.settings import Settings
from bayes_cannon.model.stars import TrainingSet
from bayes_cannon.posterior.theta.summary import ThetaPosterior
from bayes_cannon.scatter.base import LEARNED, LearnedScatter
from bayes_cannon.scatter.common_covariance import CommonCovariance
from bayes_cannon.scatter.independent import IndependentScatter
from bayes_cannon.training.problem import PixelSolution


@dataclass(frozen=True, eq=False)
class Certificates:
    """How each pixel's training ended, as in `training.problem.PixelSolution`, shape (pixel,) each.

    The number of minima and the margin are None where a file was written without them.
    """

    objective: np.ndarray = field(metadata=dims("pixel", about="training scalar"))
    duality_gap: np.ndarray = field(metadata=dims("pixel", about="relative duality gap"))
    profile_gradient: np.ndarray = field(
        metadata=dims("pixel", about="derivative of the profile by s2, over the sum of the weights")
    )
    iterations: np.ndarray = field(metadata=dims("pixel", about="iterations of the solver"))
    status: np.ndarray = field(metadata=dims("pixel", about="PixelStatus"))
    n_minima: np.ndarray | None = field(
        metadata=dims("pixel", about="local minima of the profile in s^2 that were seen"), default=None
    )
    margin: np.ndarray | None = field(
        metadata=dims("pixel", about="how far the second lowest minimum is above the training scalar"), default=None
    )

    @classmethod
    def of(cls, solution: PixelSolution) -> "Certificates":
        """Those of a solution."""
        return cls(*(getattr(solution, field.name) for field in fields(cls)))


@dataclass(frozen=True, eq=False)
class StoredPosterior:
    """What labels need of the posterior of theta, as a file keeps it (`ThetaPosterior.packed`)."""

    theta_mean: np.ndarray = field(metadata=dims("pixel", "term", about="posterior mean of theta"))
    theta_covariance: np.ndarray = field(
        metadata=dims("pixel", "pair", about="lower triangle of its covariance, row by row")
    )
    s2_mean: np.ndarray = field(metadata=dims("pixel", about="posterior mean of s^2"))
    status: np.ndarray = field(metadata=dims("pixel", about="PosteriorStatus"))

    @classmethod
    def of(cls, posterior: ThetaPosterior) -> "StoredPosterior":
        """That of a posterior."""
        return cls(**posterior.packed())

    def posterior(self) -> ThetaPosterior:
        """The posterior; what is not stored is NaN."""
        return ThetaPosterior.from_packed(vars(self))


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """Theta and everything that was learned after it. A new training makes a new result, without the rest.

    Attributes
    ----------
    stars
        The training set.
    theta, s2
        Coefficients (pixel, term), NaN where a pixel has no solution, and variance of the scatter (pixel,), infinite
        there.
    scatter
        What was learned of the scatter that pixels share.
    scatter_asked
        Text of the family of scatter that was asked for; empty for independent scatter.
    certificates
        None where theta was not trained here.
    trained_with
        The settings that decided theta.
    op_method
        Name of the optimizer that was asked for; None for the package's own.
    dof_correction
        Whether s2 is that of restricted maximum likelihood.
    posterior
        Of theta, once it was sampled.
    calibration
        Of the errors of labels, once it was learned.

    """

    stars: TrainingSet = field(metadata=NOT_STORED)
    theta: np.ndarray = field(metadata=dims("pixel", "term", about="coefficients of the terms"))
    s2: np.ndarray = field(metadata=dims("pixel", about="variance of the intrinsic scatter"))
    scatter: LearnedScatter = field(metadata=one_of(lambda: LEARNED))
    scatter_asked: str = ""
    certificates: Certificates | None = None
    trained_with: Settings | None = None
    op_method: str | None = None
    dof_correction: bool = False
    posterior: ThetaPosterior | None = field(
        metadata=encoded(StoredPosterior.of, StoredPosterior.posterior, StoredPosterior), default=None
    )
    calibration: Calibration | None = None
    goodness: GoodnessOfFit = field(default_factory=GoodnessOfFit.unknown)

    @classmethod
    def from_elsewhere(
        cls, stars: TrainingSet, theta: np.ndarray, s2: np.ndarray, settings: Settings
    ) -> "TrainingResult":
        """That of another program, with independent scatter and without certificates.

        Raises ValueError for shapes that do not fit, and a negative s2.
        """
        result = cls(stars, theta, s2, IndependentScatter(), trained_with=settings.snapshot())
        trained = result.plug_in  # Its checks.
        if stars.flux is None or stars.ivar is None:
            return result
        return replace(result, goodness=training_goodness(trained, stars))

    @cached_property
    def plug_in(self) -> TrainedModel:
        """The model that takes theta as known."""
        return TrainedModel(
            self.theta, self.s2, self.scatter, self.stars.terms, self.stars.scaling, None, self.goodness
        )

    @cached_property
    def integrated(self) -> TrainedModel:
        """The model that integrates theta out with its posterior, or takes it as known where there is none."""
        if self.posterior is None:
            return self.plug_in
        known = np.isfinite(self.posterior.mean).all(axis=1) & np.isfinite(self.theta).all(axis=1)
        theta = np.where(known[:, None], self.posterior.mean, self.theta)
        covariance = np.where(known[:, None, None], self.posterior.covariance, 0.0)
        # The posterior of s is that of a pixel by itself, with all of its scatter.
        s2 = self.s2 if self.scatter.is_correlated else np.where(known, self.posterior.s2, self.s2)
        return TrainedModel(theta, s2, self.scatter, self.stars.terms, self.stars.scaling, covariance, self.goodness)

    @cached_property
    def shared_theta_covariance(self) -> np.ndarray | None:
        """A of theta, shape (term, term), where its covariance is that of a spectrum times A; None where it is not.

        That is so where all pixels give the stars the same weights: with a full covariance, without penalty, bounds
        or censored pixels (`scatter.conjugate_training`).
        """
        asked = self.trained_with
        free = asked is not None and not (np.any(asked.regularization) or asked.theta_bounds or asked.censors)
        if not free or not isinstance(self.scatter, CommonCovariance):
            return None
        design = self.stars.terms.design
        return np.asarray(np.linalg.pinv(design.T @ design, hermitian=True))

    def changed_settings(self, settings: Settings) -> list[str]:
        """Names of the settings that decide theta and are other than they were when it was trained."""
        changed = [] if self.trained_with is None else settings.changed_since(self.trained_with)
        asked = "" if settings.scatter is None else repr(settings.scatter)
        return changed if asked == self.scatter_asked else [*changed, "scatter"]
