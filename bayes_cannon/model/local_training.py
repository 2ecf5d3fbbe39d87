"""Training of local models: regions by a mixture of the training labels, a model of each, and weights of partitions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import softmax

from bayes_cannon.core.folds import folds, same_labels
from bayes_cannon.core.label_mixture import LabelMixture, fit_mixture
from bayes_cannon.core.vectorizer import BaseVectorizer, PolynomialVectorizer
from bayes_cannon.labelling.fit import signal_to_noise
from bayes_cannon.labelling.goodness import GoodnessOfFit
from bayes_cannon.labelling.trained import TrainedModel
from bayes_cannon.labelling.training_fit import training_goodness
from bayes_cannon.model.local_parts import LocalResult, Partition, Region
from bayes_cannon.model.settings import Settings
from bayes_cannon.model.stars import TrainingSet
from bayes_cannon.posterior.labels.label_posterior import (
    LabelPosteriorMoments,
    label_posterior,
    mixture_moments,
)
from bayes_cannon.scatter.base import FEWEST_SHARE, Scatter, independent_part
from bayes_cannon.scatter.independent import IndependentScatter
from bayes_cannon.validate import log_scores

PARTITION_FLOOR = 1e-2
"""Smallest variance of a region along a direction of label space, relative to that of all stars."""
COMPONENTS = 8
"""Components of the population of all stars, which the regions of a partition share."""
STARS_PER_PARAMETER = 40
"""Stars of a region for each component and label of its population."""
STARS_PER_TERM = 4.0
"""Stars of a region, at least, for each term of its model."""
CANDIDATES = ((1, 2), (1, 3), (3, 2), (5, 2), (3, 3))
"""Partitions that are tried, as number of regions and order of the polynomial."""
STACKING_ROUNDS = 500
LEAST_WEIGHT = 0.02
"""A partition of a smaller weight is left out."""

Shape = tuple[int, int]
"""Number of regions of a partition, and order of its polynomials."""


def possible_partitions(n_stars: int, label_names: Sequence[str]) -> list[Shape]:
    """Those of `CANDIDATES` whose regions have enough stars; the simplest if none has."""
    enough = [
        (n, order)
        for n, order in CANDIDATES
        if n_stars / n >= STARS_PER_TERM * PolynomialVectorizer(label_names, order).n_terms
    ]
    return enough or [CANDIDATES[0]]


def train_partition(
    stars: TrainingSet, settings: Settings, shape: Shape, seed: int, label_errors: np.ndarray | None
) -> Partition:
    """A model of each region.

    Raises
    ------
    ValueError
        If a region has fewer stars than its model needs.

    """
    n_regions, order = shape
    vectorizer = PolynomialVectorizer(stars.label_names, order)
    own = replace(stars, vectorizer=vectorizer)
    problem = settings.problem(own)
    family = settings.scatter
    assert family is None or isinstance(family, Scatter)
    shares = _shares(stars.labels, n_regions, seed, label_errors)
    _check_regions(shares, vectorizer, shape)
    ground = None if family is None else family.common_ground(problem)
    regions = []
    for share in shares.T:
        if family is None:
            part = independent_part(problem, share, IndependentScatter())
        else:
            part = family.fit_part(problem, share, ground)
        counted = np.flatnonzero(share >= min(FEWEST_SHARE, share.max()))
        population = _population(stars, share, n_regions, seed, label_errors)
        region = Region(
            part.theta, part.s2, part.learned, counted, float(share.mean()), population, part.theta_covariance
        )
        regions.append(replace(region, goodness=_goodness(region.trained(stars, vectorizer), stars, counted)))
    return Partition(vectorizer, tuple(regions))


def _goodness(trained: TrainedModel, stars: TrainingSet, counted: np.ndarray) -> GoodnessOfFit:
    own = replace(trained, terms=trained.terms.of_stars(np.arange(len(counted))))
    return training_goodness(own, stars.of_stars(counted))


def _shares(labels: np.ndarray, n_regions: int, seed: int, errors: np.ndarray | None) -> np.ndarray:
    """Share of each star in each region, shape (star, region)."""
    if n_regions == 1:
        return np.ones((len(labels), 1))
    return fit_mixture(labels, n_regions, errors=errors, seed=seed, floor=PARTITION_FLOOR).shares(labels)


def trainable(
    stars: TrainingSet, shapes: Sequence[Shape], seed: int, errors: np.ndarray | None, n_folds: int
) -> list[Shape]:
    """The partitions whose regions have enough stars, with all stars and without each fold; the first has one region.

    Labels may crowd in one region, so that the number of stars does not tell.
    """
    fold = _folds(stars, n_folds, seed, None)
    parts = [np.ones(len(fold), bool), *(fold != out for out in np.unique(fold))]

    def enough(shape: Shape) -> bool:
        needed = PolynomialVectorizer(stars.label_names, shape[1]).n_terms + 1
        for rows in parts:
            shares = _shares(stars.labels[rows], shape[0], seed, None if errors is None else errors[rows])
            if _fewest(shares) < needed:
                return False
        return True

    return [shape for number, shape in enumerate(shapes) if number == 0 or enough(shape)]


def _folds(stars: TrainingSet, n_folds: int, seed: int, groups: object) -> np.ndarray:
    """Fold of each star; stars whose labels are all the same are held out together where no groups are given."""
    groups = same_labels(stars.labels, n_folds) if groups is None else groups
    return folds(len(stars.labels), n_folds, seed, groups)


def _fewest(shares: np.ndarray) -> int:
    return int(np.min(np.sum(shares >= FEWEST_SHARE, axis=0)))


def _check_regions(shares: np.ndarray, vectorizer: BaseVectorizer, shape: Shape) -> None:
    """Raise ValueError if a region has too few stars."""
    fewest = _fewest(shares)
    if fewest < vectorizer.n_terms + 1:
        raise ValueError(
            f"a region of {shape[0]} has {fewest} stars, and a polynomial of order {shape[1]} has "
            f"{vectorizer.n_terms} terms: ask for fewer regions or a lower order, or leave partitions out to have "
            "them chosen"
        )


def _population(
    stars: TrainingSet, share: np.ndarray, n_regions: int, seed: int, errors: np.ndarray | None
) -> LabelMixture:
    """Labels of the stars of a region."""
    most = int(share.sum() // (STARS_PER_PARAMETER * stars.labels.shape[1]))
    n_components = max(1, min(max(2, COMPONENTS // n_regions), most))
    return fit_mixture(stars.labels, n_components, errors=errors, weights=share, seed=seed)


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Training stars, labelled by models that did not see them.

    Attributes
    ----------
    labels, covariance
        By each partition, shape (partition, star, label) and (partition, star, label, label).
    snr
        Shape (star,).
    leverage
        By the stars that trained, shape (star,).

    """

    labels: np.ndarray
    covariance: np.ndarray
    snr: np.ndarray
    leverage: np.ndarray

    def mixed(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Labels (star, label) and covariance of the average with these weights, shape (partition,)."""
        every = np.broadcast_to(weights[:, None], self.labels.shape[:2])
        return mixture_moments(every, self.labels, self.covariance)

    def stacking_weights(self, reference: np.ndarray) -> np.ndarray:
        r"""Weights of the partitions, shape (partition,), that maximize the held-out log score of the labels.

        .. math:: \sum_n \ln \sum_p w_p N(l_n; m_{pn}, C_{pn})

        which is concave in w; EM finds its maximum (Yao et al. 2018, Bayesian Analysis 13, 917). Partitions of small
        weight are left out.
        """
        pairs = zip(self.labels, self.covariance, strict=True)
        scores = np.array([log_scores(labels, reference, covariance) for labels, covariance in pairs])
        known = np.isfinite(scores).all(axis=0)
        weights = np.full(len(scores), 1 / len(scores))
        if not known.any():
            return weights
        for _ in range(STACKING_ROUNDS):
            weights = softmax(np.log(np.maximum(weights, 1e-300))[:, None] + scores[:, known], axis=0).mean(axis=1)
        weights = np.where(weights < LEAST_WEIGHT, 0.0, weights)
        return np.asarray(weights / weights.sum())


def held_out_labels(
    stars: TrainingSet, train_fold: Callable[[TrainingSet, np.ndarray], LocalResult], *, n_folds: int, seed: int,
    groups: object,
) -> HeldOut:  # fmt: skip
    """Label each training star by models that were trained without its fold."""
    assert stars.flux is not None
    assert stars.ivar is not None
    fold = _folds(stars, n_folds, seed, groups)
    found: list[np.ndarray] = []
    covariances: list[np.ndarray] = []
    snr, leverage = np.full((2, len(fold)), np.nan)
    for out in np.unique(fold):
        away = fold == out
        result = train_fold(stars.of_stars(~away), ~away)
        noise = None if stars.covariance is None else stars.covariance[away]
        parts = [
            label_posterior(models, stars.flux[away], stars.ivar[away], covariance=noise) for models in result.models
        ]
        if not found:
            found = [np.full(stars.labels.shape, np.nan) for _ in parts]
            covariances = [np.full((*stars.labels.shape, stars.labels.shape[1]), np.nan) for _ in parts]
        for part, labels, covariance in zip(parts, found, covariances, strict=True):
            labels[away], covariance[away] = part.labels, part.covariance
        middle = np.mean([part.labels for part in parts], axis=0)
        leverage[away] = stars.of_stars(~away).leverage(middle) * len(fold) / (~away).sum()
        solved = np.isfinite(result.partitions[0].regions[0].theta).all(axis=1)
        snr[away] = signal_to_noise(stars.ivar[away], solved)
    return HeldOut(np.array(found), np.array(covariances), snr, leverage)


def averaged(parts: Sequence[LabelPosteriorMoments], weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels (star, label) and covariance of the average over the partitions."""
    every = np.broadcast_to(weights[:, None], (len(parts), len(parts[0].labels)))
    labels, covariance = (np.array([getattr(part, name) for part in parts]) for name in ("labels", "covariance"))
    return mixture_moments(every, labels, covariance)
