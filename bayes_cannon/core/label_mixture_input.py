"""What is handed over to learn a population of labels from, checked: labels, their errors, and weights of stars."""

from typing import Any

import numpy as np

from bayes_cannon.core.intake import real_numbers
from bayes_cannon.core.warnings import stars_text


def population_stars(labels: Any, errors: Any, weights: Any) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Labels and covariances of their errors, if any, of the stars of positive weight, and weights that add up to one.

    Raises
    ------
    ValueError
        As `core.label_mixture.fit_mixture` says, but for labels without width.

    """
    labels = _checked_labels(labels)
    weights, covariances = _checked_weights(weights, labels), _checked_errors(errors, labels)
    kept = weights > 0
    n_stars, least = int(kept.sum()), labels.shape[1] + 2
    if n_stars < least:
        raise ValueError(
            f"{labels.shape[1]} labels need at least {least} stars of positive weight, got {n_stars}: give more stars "
            "or fewer labels"
        )
    weights = weights[kept] / weights.max()  # So that the sum is finite.
    return labels[kept], None if covariances is None else covariances[kept], weights / weights.sum()


def _checked_labels(labels: Any) -> np.ndarray:
    found = real_numbers(labels, "labels")
    if found.ndim != 2 or found.shape[1] == 0:
        raise ValueError(f"labels must have shape (star, label), got {found.shape}")
    bad = ~np.isfinite(found)
    if bad.any():
        star, label = np.argwhere(bad)[0]
        raise ValueError(
            f"labels must be finite, got {found[star, label]} in column {label}, in {stars_text(bad.any(axis=1))}: "
            "leave these stars out"
        )
    return found


def _checked_weights(weights: Any, labels: np.ndarray) -> np.ndarray:
    found = np.ones(len(labels)) if weights is None else real_numbers(weights, "weights")
    if found.shape != (len(labels),):
        raise ValueError(f"weights must have shape ({len(labels)},), one a star; got {found.shape}")
    bad = ~(np.isfinite(found) & (found >= 0))
    if bad.any():
        raise ValueError(
            f"weights must be finite and not negative, got {found[np.argmax(bad)]}, in {stars_text(bad)}: "
            "set them to 0 to leave these stars out"
        )
    if len(found) and not found.any():
        raise ValueError("weights are zero for all stars: at least some must be positive")
    return found


def _checked_errors(errors: Any, labels: np.ndarray) -> np.ndarray | None:
    """Covariances of the errors, shape (star, label, label), or None where all are zero or not known."""
    if errors is None:
        return None
    found, n_labels = real_numbers(errors, "errors"), labels.shape[1]
    if found.shape not in (labels.shape, (*labels.shape, n_labels)):
        raise ValueError(
            f"errors must have shape {labels.shape}, standard deviations, or {(*labels.shape, n_labels)}, covariances; "
            f"got {found.shape}"
        )
    variances = found if found.ndim == 2 else np.diagonal(found, axis1=1, axis2=2)
    bad = (np.isinf(found).reshape(len(found), -1)).any(axis=1) | (variances < 0).any(axis=1)
    if bad.any():
        raise ValueError(
            f"errors must not be negative or infinite, as in {stars_text(bad)}: NaN is an error that is not known"
        )
    unknown = np.isnan(variances)
    if found.ndim == 2:
        covariances = np.where(unknown, 0, found)[:, :, None] ** 2 * np.eye(n_labels)
    else:
        covariances = np.where(unknown[:, :, None] | unknown[:, None] | np.isnan(found), 0, found)
        _check_covariances(covariances)
    return covariances if covariances.any() else None


def _check_covariances(covariances: np.ndarray) -> None:
    sd = np.sqrt(np.diagonal(covariances, axis1=1, axis2=2))
    unit = np.where(sd > 0, sd, 1)
    correlation = covariances / (unit[:, :, None] * unit[:, None])
    skew = np.abs(correlation - correlation.transpose(0, 2, 1)).max(axis=(1, 2)) > 1e-6
    bad = skew | (np.linalg.eigvalsh(correlation)[:, 0] < -1e-6)
    if bad.any():
        raise ValueError(
            f"errors are no covariances in {stars_text(bad)}: they must be symmetric, with no negative eigenvalue"
        )
