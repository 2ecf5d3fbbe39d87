"""The terms of the model at the labels of given stars: the design matrix and its ingredients."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bayes_cannon.core.moments import MomentBasis
from bayes_cannon.core.vectorizer import monomials


@dataclass(frozen=True, eq=False)
class Terms:
    """Monomials of the scaled labels of N stars. Nothing is checked, and arrays are not copied.

    Attributes
    ----------
    exponents
        Power of each label in each term, shape (term, label); the first term is the constant.
    x
        Scaled labels, shape (star, label).

    """

    exponents: np.ndarray
    x: np.ndarray

    @classmethod
    def linear(cls, design: np.ndarray) -> "Terms":
        """Terms whose design matrix is the given one, shape (star, term), with ones in its first column."""
        n_labels = design.shape[1] - 1
        return cls(np.eye(n_labels + 1, n_labels, k=-1, dtype=int), np.asarray(design[:, 1:], float))

    @property
    def n_stars(self) -> int:
        """Number of stars N."""
        return len(self.x)

    @property
    def n_terms(self) -> int:
        """Number of terms D, the constant included."""
        return len(self.exponents)

    @cached_property
    def design(self) -> np.ndarray:
        """Design matrix, ``v_d(x_n)``, shape (star, term)."""
        return monomials(self.x, self.exponents)

    @cached_property
    def moments(self) -> MomentBasis:
        """The distinct products of two of the terms."""
        return MomentBasis.from_terms(self.exponents)

    def of_stars(self, stars: np.ndarray) -> "Terms":
        """The terms at some of the stars, by mask or index."""
        return Terms(self.exponents, self.x[stars])

    def some(self, terms: np.ndarray) -> "Terms":
        """Some of the terms, by mask or index."""
        return Terms(self.exponents[terms], self.x)
