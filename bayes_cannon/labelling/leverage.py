r"""Leverage: how far a star lies from the stars that trained, in the terms of the model.

.. math:: h(x) = \frac{N}{D} v(x)^T (V^T V)^{-1} v(x)

with V the terms of the N training stars, whose mean h is one. It grows where a polynomial is determined by few stars,
at the edge of the training set and beyond, and does not depend on the scaling of the labels.
"""

import numpy as np

from bayes_cannon.core.typing import PerStar, StarTerm

RELATIVE_TOLERANCE = 1e-10
"""Directions of the terms whose singular value is below this part of the largest are not determined and left out."""


def leverage_root(training_design: StarTerm) -> np.ndarray:
    """R with ``h = |v R|^2``, from the terms of the training stars (training star, term), shape (term, direction)."""
    # LAPACK takes a hundred times as long for the singular values of the tall matrix as for those of its triangle.
    _, singular, directions = np.linalg.svd(np.linalg.qr(training_design, mode="r"), full_matrices=False)
    known = singular > RELATIVE_TOLERANCE * singular[0]
    return np.sqrt(len(training_design) / known.sum()) * directions[known].T / singular[known]


def leverage(root: np.ndarray, design: StarTerm) -> PerStar:
    """Leverage of the stars with these terms, dimensionless, shape (star,); NaN where a term is NaN.

    Parameters
    ----------
    root
        Of the training stars, from `leverage_root`.
    design
        Terms of the stars, shape (star, term).

    """
    return np.sum((design @ root) ** 2, axis=1)
