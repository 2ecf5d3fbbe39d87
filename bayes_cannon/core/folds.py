"""Folds for cross-validation."""

import numpy as np


def folds(n_stars: int, k: int = 5, seed: int = 0) -> np.ndarray:
    """Fold of each star, ``numpy.random.default_rng(seed).integers(0, k, n_stars)``, shape (star,).

    Examples
    --------
    >>> tc.validate.folds(8, k=3)
    array([2, 1, 1, 0, 0, 0, 0, 0])

    """
    if not 2 <= k <= n_stars:
        raise ValueError(f"the number of folds must be from 2 to the number of stars, {n_stars}; got {k}")
    return np.random.default_rng(seed).integers(0, k, n_stars)
