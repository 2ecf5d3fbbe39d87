"""Labels as posterior means under a prior, beside those of highest likelihood."""

from dataclasses import dataclass, fields

import numpy as np

from bayes_cannon.calibration.calibrated_errors import Calibration
from bayes_cannon.core.status import StarStatus
from bayes_cannon.labelling.fit import LabelFit
from bayes_cannon.model.calibrating import CalibratedFit
from bayes_cannon.model.stars import TrainingSet

LEAST_EFFICIENCY = 0.02
"""Share of the points of the integration that have to count; of 256 that is five."""
FARTHEST = 5.0
"""Errors of the likelihood by which a prior may move the labels before it is said."""


@dataclass(frozen=True)
class PosteriorFit(CalibratedFit):
    """Labels of N stars as posterior means, with their covariance.

    What `LabelFit` has besides is that of the labels of highest likelihood, in the region of largest weight where there
    are several.

    Attributes
    ----------
    likelihood_labels, likelihood_covariance
        The published estimate (Casey et al. 2016, equation 3), shape (star, label) and (star, label, label).
    log_evidence
        Logarithm of the probability of the spectrum under the prior, shape (star,), in units of the model.
    efficiency
        Share of the points of the integration that count, shape (star,).
    region_weights
        Probability of each region of label space, shape (star, region); of all partitions, one after the other, with
        the weights of the partitions.

    """

    likelihood_labels: np.ndarray
    likelihood_covariance: np.ndarray
    log_evidence: np.ndarray
    efficiency: np.ndarray
    region_weights: np.ndarray


def posterior_fit(
    published: LabelFit, labels: np.ndarray, covariance: np.ndarray, *, log_evidence: np.ndarray,
    efficiency: np.ndarray, region_weights: np.ndarray, calibration: Calibration | None, stars: TrainingSet,
) -> PosteriorFit:  # fmt: skip
    """The fit whose labels are posterior means.

    Parameters
    ----------
    published
        That of highest likelihood.
    labels, covariance
        Of the posterior, shape (star, label) and (star, label, label).
    log_evidence, efficiency, region_weights
        As in `PosteriorFit`.
    calibration
        Of the errors of posterior means; None where there is none.
    stars
        Training set, for the leverage of the labels.

    """
    found = {field.name: getattr(published, field.name) for field in fields(LabelFit)}
    status = _judged(published, labels, efficiency, stars)
    known = np.isin(status, [one for one in StarStatus if one.has_solution])
    labels = np.where(known[:, None], labels, np.nan)
    covariance = np.asarray(np.where(known[:, None, None], covariance, np.nan))
    calibrated: np.ndarray = covariance
    if calibration is not None:
        calibrated = np.asarray(calibration.covariance(covariance, published.snr, stars.leverage(labels)))
    own = {"labels": labels, "covariance": calibrated, "status": status}
    return PosteriorFit(
        **found | own, formal_covariance=covariance, likelihood_labels=published.labels,
        likelihood_covariance=published.covariance, log_evidence=np.where(known, log_evidence, np.nan),
        efficiency=np.where(known, efficiency, np.nan), region_weights=region_weights,
    )  # fmt: skip


def _judged(published: LabelFit, labels: np.ndarray, efficiency: np.ndarray, stars: TrainingSet) -> np.ndarray:
    """Status of the posterior means: what was said of the labels of highest likelihood where it is not about these."""
    replaced = (StarStatus.CONVERGED, StarStatus.OUTSIDE_TRAINING_SET, StarStatus.SINGULAR, StarStatus.SEVERAL_MINIMA)
    own = np.isin(published.status, replaced)
    nowhere = ~np.isfinite(labels).all(axis=1)  # No point of the integration is where the prior allows labels.
    low, high = stars.labels.min(axis=0), stars.labels.max(axis=0)
    outside = ((labels < low) | (labels > high)).any(axis=1)
    status = np.select(
        [~own, nowhere | _against(published, labels), efficiency < LEAST_EFFICIENCY, outside],
        [published.status, StarStatus.AGAINST_PRIOR, StarStatus.ROUGH_INTEGRAL, StarStatus.OUTSIDE_TRAINING_SET],
        StarStatus.CONVERGED,
    )
    return np.asarray(status)


def _against(published: LabelFit, labels: np.ndarray) -> np.ndarray:
    """Whether the labels are further from those of highest likelihood than its errors reach, (star,)."""
    away = labels - published.labels
    against = np.zeros(len(away), bool)
    known = np.isfinite(away).all(axis=1) & np.isfinite(published.covariance).all(axis=(1, 2))
    rows = np.flatnonzero(known)
    unit = np.sqrt(np.maximum(np.einsum("nkk->nk", published.covariance[rows]), 1e-300))
    matrix = published.covariance[rows] / (unit[:, :, None] * unit[:, None, :])
    scaled = away[rows] / unit
    against[rows] = np.einsum("nk,nk->n", scaled, np.linalg.solve(matrix, scaled[..., None])[..., 0]) > FARTHEST**2
    return against


def with_rows(fits: list[tuple[np.ndarray, LabelFit]], n_stars: int) -> LabelFit:
    """One fit of all stars from fits of some of them, by index."""
    whole = LabelFit.concatenated([fit for _, fit in fits])
    order = np.argsort(np.concatenate([rows for rows, _ in fits]), kind="stable")
    assert len(order) == n_stars
    return whole.at(order)
