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
        distinct, index = distinct_rows(products)
        return cls(distinct, index.reshape(n_terms, n_terms))

    @property
    def terms(self) -> np.ndarray:
        """Index of the moment that equals each term, shape (term,); terms are products with the constant."""
        return self.pairs[0]

    @property
    def n_moments(self) -> int:
        """Number of distinct products."""
        return len(self.exponents)


def distinct_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct rows of non-negative integers in lexicographic order, and the index of each row among them.

    The same as ``np.unique`` along the first axis, in a tenth of the time for 17 labels: each row is one integer, its
    entries being digits, for as many entries as an integer holds; the numbers of the distinct ones so far are the first
    digit of the next.
    """
    index = np.zeros(len(rows), dtype=np.int64)
    base = int(rows.max(initial=0)) + 1
    largest = np.iinfo(np.int64).max // base
    room = max(len(rows), 1)
    for column in rows.T:
        if room > largest:
            _, index = np.unique(index, return_inverse=True)
            room = max(len(rows), 1)
        index = index * base + column
        room *= base
    _, first, index = np.unique(index, return_index=True, return_inverse=True)
    return rows[first], index
