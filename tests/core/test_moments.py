"""The distinct products of two terms: how many there are, and that the Gram matrix is made of them."""

from math import comb

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bayes_cannon.core.moments import MomentBasis, distinct_rows
from bayes_cannon.core.vectorizer import monomials
from bayes_cannon.vectorizer import PolynomialVectorizer


@pytest.mark.parametrize(("n_labels", "n_moments"), [(3, 35), (5, 126), (17, 5985)])
def test_number_of_moments(n_labels, n_moments):
    basis = MomentBasis.from_terms(PolynomialVectorizer([f"L{k}" for k in range(n_labels)], 2).exponents)
    assert basis.n_moments == n_moments == comb(n_labels + 4, 4)


@pytest.mark.parametrize(
    "vectorizer",
    [PolynomialVectorizer(tuple("ABC"), 3),
     PolynomialVectorizer(terms="A + B^3 + A*B^2 + C")],
)  # fmt: skip
def test_gram_matrix_is_a_product_with_the_moments(vectorizer):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(50, 3)), rng.random((4, 50))
    basis = MomentBasis.from_terms(vectorizer.exponents)
    design, moments = vectorizer(x).T, monomials(x, basis.exponents)
    gram = (w @ moments)[:, basis.pairs]
    assert_allclose(gram, np.einsum("pn,nd,ne->pde", w, design, design), rtol=1e-10, atol=1e-10)
    assert_array_equal(basis.pairs, basis.pairs.T)
    assert_allclose(moments[:, basis.terms], design, rtol=1e-13)


def test_a_basis_is_made_once_for_each_set_of_terms():
    exponents = PolynomialVectorizer(tuple("ABC"), 2).exponents
    basis = MomentBasis.from_terms(exponents)
    assert MomentBasis.from_terms(exponents.copy()) is basis
    assert MomentBasis.from_terms(exponents[:-1]) is not basis
    with pytest.raises(ValueError, match="read-only"):
        basis.pairs[0, 0] = 1


@pytest.mark.parametrize(("n_columns", "largest"), [(1, 5), (17, 4), (40, 3), (3, 2**40)])
def test_distinct_rows_are_those_of_numpy(n_columns, largest):
    rows = np.random.default_rng(1).integers(0, largest, (200, n_columns))
    rows = np.vstack([rows, rows[::-3]])
    distinct, index = distinct_rows(rows)
    assert_array_equal(distinct, np.unique(rows, axis=0))
    assert_array_equal(distinct[index], rows)
