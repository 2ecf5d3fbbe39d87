"""Folds for cross-validation."""

from typing import Any

import numpy as np

from bayes_cannon.core.arguments import generator, shown, whole_number


def folds(n_stars: int, k: int = 5, seed: int = 0, groups: Any = None) -> np.ndarray:
    """Fold of each star, ``numpy.random.default_rng(seed).integers(0, k, n_stars)``, shape (star,).

    Parameters
    ----------
    n_stars, k, seed
        Number of stars, number of folds, and seed of the random numbers.
    groups
        What tells one star from another, shape (star,), such as identifiers, where several rows are visits of one star:
        those of a group are in one fold. The folds of groups are drawn in the order in which these first appear, so
        that groups of one leave the folds as they are without. None: every row is a star of its own.

    Raises
    ------
    ValueError
        For fewer folds than two or more than groups, and groups of another shape.

    Examples
    --------
    >>> tc.validate.folds(8, k=3)
    array([2, 1, 1, 0, 0, 0, 0, 0])
    >>> tc.validate.folds(8, k=3, groups=["a", "b", "a", "b", "a", "c", "d", "e"])
    array([2, 1, 2, 1, 2, 1, 0, 0])

    """
    rng = generator(seed)
    k = whole_number(k, "the number of folds")
    group = _numbered(groups, whole_number(n_stars, "n_stars", 0))
    n_groups = int(group.max(initial=-1)) + 1
    if not 2 <= k <= n_groups:
        kind = "stars" if groups is None else "groups"
        raise ValueError(f"the number of folds must be from 2 to the number of {kind}, {n_groups}; got {k}")
    fold: np.ndarray = rng.integers(0, k, n_groups)[group]
    return fold


def same_labels(labels: np.ndarray, k: int) -> np.ndarray | None:
    """Groups of stars that have all labels in common, shape (star,): several visits of one star, as a rule.

    None, no groups, where there are fewer of them than k folds. A star with a label that is not finite is a group of
    its own.
    """
    labels = np.asarray(labels, float)
    _, group = np.unique(labels, axis=0, return_inverse=True)
    alone = ~np.isfinite(labels).all(axis=1)
    group = np.where(alone, len(labels) + np.arange(len(labels)), group.ravel())
    return group if len(np.unique(group)) >= k else None


def _numbered(groups: Any, n_stars: int) -> np.ndarray:
    """Number of the group of each star, counted in the order in which groups first appear."""
    if groups is None:
        return np.arange(n_stars)
    try:
        groups = np.asarray(groups)
    except ValueError:
        raise ValueError(f"groups must have shape ({n_stars},), one value a star; got {shown(groups)}") from None
    if groups.shape != (n_stars,):
        raise ValueError(f"groups must have shape ({n_stars},), one value a star; got {groups.shape}")
    if groups.dtype == object:  # Such as names with None among them, which cannot be sorted.
        groups = np.array([str(group) for group in groups])
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]
