"""What the search for the labels of a star needs to know of the model, beside the polynomial: no pixels."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from bayes_cannon.core.moments import MomentBasis
from bayes_cannon.core.typing import Array
from bayes_cannon.core.vectorizer import monomials
from bayes_cannon.labelling.polynomial import PolynomialTables

MAX_ANCHORS = 512
"""At most so many training stars are tried as starting points."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LabelSpace:
    """What the search for the minimum needs: it knows no pixels.

    Attributes
    ----------
    moment_tables, term_tables
        Tables of the polynomials over the moments and over the terms.
    anchors, anchor_moments
        Scaled labels (anchor, label) of the training stars that are tried as starts, and their moments.
    far
        Whether two anchors are further apart than half of all are from the first, shape (anchor, anchor).
    low, high
        Range of the scaled training labels, shape (label,).

    """

    moment_tables: PolynomialTables
    term_tables: PolynomialTables
    anchors: Array
    anchor_moments: Array
    far: Array
    low: Array
    high: Array

    @classmethod
    def from_training(cls, exponents: np.ndarray, x: np.ndarray) -> "LabelSpace":
        """Label space of terms with these powers (term, label) and scaled training labels x (star, label)."""
        basis = MomentBasis.from_terms(exponents)
        # Evenly spread over the table: no seed is needed, and a sorted table gives a stratified choice.
        chosen = np.unique(np.linspace(0, len(x) - 1, min(len(x), MAX_ANCHORS)).round().astype(int))
        anchors = x[chosen]
        distance = np.linalg.norm(anchors[:, None] - anchors[None], axis=2)
        return cls(
            PolynomialTables.from_exponents(basis.exponents),
            PolynomialTables.from_exponents(exponents),
            anchors,
            monomials(anchors, basis.exponents),
            distance > np.median(distance, axis=1, keepdims=True),
            x.min(axis=0),
            x.max(axis=0),
        )


def search_starts(space: LabelSpace, coefficients: Array) -> Array:
    """The best anchor, the best of those far from it, and the fiducial labels; shape (star, start, label)."""
    single = jnp.float32  # Enough to choose a start, in half the time.
    chi_squared = coefficients.astype(single) @ space.anchor_moments.T.astype(single)
    best = jnp.argmin(chi_squared, axis=1)
    second = jnp.argmin(jnp.where(space.far[best], chi_squared, jnp.inf), axis=1)
    chosen = space.anchors[jnp.stack([best, second], axis=1)]
    return jnp.concatenate([chosen, jnp.zeros_like(chosen[:, :1])], axis=1)
