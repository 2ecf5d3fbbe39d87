"""Local models as records: regions of label space, partitions of it into regions, and what was learned of all."""

from dataclasses import dataclass, field, fields, replace
from functools import cached_property

import numpy as np

from bayes_cannon.calibration.calibrated_errors import Calibration
from bayes_cannon.core.label_mixture import LabelMixture
from bayes_cannon.core.records import NOT_STORED, dims, encoded, one_of
from bayes_cannon.core.terms import Terms
from bayes_cannon.core.vectorizer import BaseVectorizer
from bayes_cannon.labelling.goodness import GoodnessOfFit
from bayes_cannon.labelling.starts import MAX_ANCHORS
from bayes_cannon.labelling.trained import TrainedModel
from bayes_cannon.model.stars import StoredTerms, TrainingSet
from bayes_cannon.posterior.labels.label_posterior import RegionModel, mixture_prior
from bayes_cannon.scatter.base import LEARNED, LearnedScatter


@dataclass(frozen=True, eq=False)
class Region:
    """A model of a part of the stars.

    Attributes
    ----------
    theta, s2
        Coefficients (pixel, term), NaN where a pixel has no solution, and variance of the scatter (pixel,).
    scatter
        What was learned of the scatter that pixels share.
    theta_covariance
        A of theta, shape (term, other_term), which is integrated out; None where theta is taken as known.
    counted
        Which training stars count, by index, shape (region_star,).
    share
        Of all stars.
    population
        Labels of its stars.
    goodness
        Training stars that the fit of a spectrum is compared with.

    """

    theta: np.ndarray = field(metadata=dims("pixel", "term", about="coefficients of the terms"))
    s2: np.ndarray = field(metadata=dims("pixel", about="variance of the intrinsic scatter"))
    scatter: LearnedScatter = field(metadata=one_of(lambda: LEARNED))
    counted: np.ndarray = field(metadata=dims("region_star", about="training stars that count"))
    share: float
    population: LabelMixture
    theta_covariance: np.ndarray | None = field(
        default=None, metadata=dims("term", "other_term", about="covariance of theta over that of a spectrum")
    )
    goodness: GoodnessOfFit = field(default_factory=GoodnessOfFit.unknown)

    def trained(self, stars: TrainingSet, vectorizer: BaseVectorizer) -> TrainedModel:
        """The model, with theta taken as known.

        Stars of small regions are repeated, so that the tables of all regions have one shape, and share programs.
        """
        counted = np.resize(self.counted, max(len(self.counted), MAX_ANCHORS))
        terms = Terms(vectorizer.exponents, stars.scaling.scaled(stars.labels[counted]))
        return TrainedModel(self.theta, self.s2, self.scatter, terms, stars.scaling, None, self.goodness)


@dataclass(frozen=True, eq=False)
class Partition:
    """Regions that share the stars among them.

    Attributes
    ----------
    vectorizer
        Terms of the models of all regions.
    regions
        At least one.

    """

    vectorizer: BaseVectorizer = field(metadata=encoded(StoredTerms.of, StoredTerms.vectorizer, StoredTerms))
    regions: tuple[Region, ...]

    def models(self, stars: TrainingSet) -> list[RegionModel]:
        """Regions as the posterior of labels takes them."""
        out = []
        for region in self.regions:
            prior = mixture_prior(region.population, stars.scaling)
            trained = region.trained(stars, self.vectorizer)
            out.append(RegionModel(trained, prior, region.theta_covariance, float(np.log(region.share))))
        return out


@dataclass(frozen=True, eq=False)
class LocalResult:
    """What was learned.

    Attributes
    ----------
    stars
        The training set.
    partitions
        At least one.
    weights
        Of the partitions, shape (partition,), which add up to one.
    calibration
        Of the errors of labels, once it was learned.

    """

    stars: TrainingSet = field(metadata=NOT_STORED)
    partitions: tuple[Partition, ...]
    weights: np.ndarray = field(metadata=dims("partition", about="weights of the partitions"))
    calibration: Calibration | None = None

    def __getstate__(self) -> dict[str, object]:
        """What is pickled: not what is derived, whose arrays JAX would bring back in single precision."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @cached_property
    def models(self) -> list[list[RegionModel]]:
        """Regions of each partition."""
        return [partition.models(self.stars) for partition in self.partitions]

    def with_calibration(self, calibration: Calibration | None) -> "LocalResult":
        """The same with another calibration."""
        return replace(self, calibration=calibration)
