"""Where the search for the labels of a star starts, and what else it needs of the model besides the polynomial."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from bayes_cannon.core.terms import Terms
from bayes_cannon.core.typing import Array
from bayes_cannon.core.vectorizer import monomials
from bayes_cannon.labelling.polynomial import PolynomialTables

RANGE_SLACK = 1e-9
"""Scaled labels beyond the training range by no more than this are roundoff, not extrapolation."""

MAX_ANCHORS = 512
"""Largest number of training stars that are tried as starting points."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LabelStarts:
    """What the search for the minimum needs of the model; pixels do not matter to it.

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

    def outside(self, x: Array) -> Array:
        """Whether scaled labels (star, label) are outside the range of the training labels, shape (star,)."""
        return ((x < self.low - RANGE_SLACK) | (x > self.high + RANGE_SLACK)).any(axis=1)

    @classmethod
    def from_terms(cls, terms: Terms) -> "LabelStarts":
        """From the terms of the training stars."""
        x, moments = terms.x, terms.moments.exponents
        # Evenly spread over the table: no seed is needed, and a sorted table gives a stratified choice.
        chosen = np.unique(np.linspace(0, len(x) - 1, min(len(x), MAX_ANCHORS)).round().astype(int))
        anchors = x[chosen]
        distance = np.linalg.norm(anchors[:, None] - anchors[None], axis=2)
        return cls(
            PolynomialTables.from_exponents(moments),
            PolynomialTables.from_exponents(terms.exponents),
            anchors,
            monomials(anchors, moments),
            distance > np.median(distance, axis=1, keepdims=True),
            x.min(axis=0),
            x.max(axis=0),
        )


def search_starts(starts: LabelStarts, coefficients: Array) -> Array:
    """The best anchor, the best of those far from it, and the fiducial labels; shape (star, start, label)."""
    single = jnp.float32  # Enough to choose a start, in half the time.
    chi_squared = coefficients.astype(single) @ starts.anchor_moments.T.astype(single)
    best = jnp.argmin(chi_squared, axis=1)
    second = jnp.argmin(jnp.where(starts.far[best], chi_squared, jnp.inf), axis=1)
    chosen = starts.anchors[jnp.stack([best, second], axis=1)]
    return jnp.concatenate([chosen, jnp.zeros_like(chosen[:, :1])], axis=1)
