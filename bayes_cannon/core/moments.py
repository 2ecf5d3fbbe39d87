"""Products of two terms, each distinct one once.

The Gram matrix of a pixel, ``G_de = sum_n w_n v_d(x_n) v_e(x_n)``, holds products of two monomials, which are monomials
again. For K labels and order O there are only ``C(K + 2 O, 2 O)`` distinct ones: 126 for five labels and order two,
where G has 21 * 21 entries. So the Gram matrices of all pixels are *one* matrix product, of the weights (pixel, star)
with the moments (star, moment), and chi^2 of a star is one polynomial in these moments of its labels.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class MomentBasis:
    """The distinct products of two terms of a vectorizer.

    Attributes
    ----------
    exponents
        Powers of the labels in each moment, shape (moment, label).
    pairs
        Index of the moment that terms d and e multiply to, shape (term, term), symmetric.

    """

    exponents: np.ndarray
    pairs: np.ndarray

    @classmethod
    def from_terms(cls, exponents: np.ndarray) -> "MomentBasis":
        """All products of two of the terms with these powers, shape (term, label)."""
        n_terms, n_labels = exponents.shape
        products = (exponents[:, None, :] + exponents[None, :, :]).reshape(-1, n_labels)
        distinct, index = np.unique(products, axis=0, return_inverse=True)
        return cls(distinct, index.reshape(n_terms, n_terms))

    @property
    def terms(self) -> np.ndarray:
        """Index of the moment that equals each term, shape (term,); terms are products with the constant."""
        return self.pairs[0]

    @property
    def n_moments(self) -> int:
        """Number of distinct products."""
        return len(self.exponents)
