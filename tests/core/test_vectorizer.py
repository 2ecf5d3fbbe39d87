"""The vectorizer: its terms and their order, values, derivatives, texts, and what it refuses."""

from math import comb, prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal

from bayes_cannon.core.vectorizer import BaseVectorizer, monomials
from bayes_cannon.vectorizer import PolynomialVectorizer

NAMES = ("TEFF", "LOGG", "FE_H")
QUADRATIC = PolynomialVectorizer(NAMES, 2)
CUBIC = PolynomialVectorizer(NAMES, 3)
values = arrays(float, (4, 3), elements=st.floats(-2, 2, allow_subnormal=False))


def test_terms_stand_in_the_documented_order():
    two = PolynomialVectorizer(("A", "B"), 2)
    assert two.human_readable_label_vector == "1 + A + B + A^2 + A*B + B^2"
    x = np.array([[2.0, 3.0]])
    assert_array_equal(two(x)[:, 0], [1, 2, 3, 4, 6, 9])
    assert_array_equal(two.exponents, [[0, 0], [1, 0], [0, 1], [2, 0], [1, 1], [0, 2]])


@pytest.mark.parametrize(("n_labels", "order"), [(1, 1), (1, 4), (3, 2), (3, 3), (5, 2), (17, 2)])
def test_number_of_terms(n_labels, order):
    vectorizer = PolynomialVectorizer([f"L{k}" for k in range(n_labels)], order)
    assert vectorizer.n_terms == comb(n_labels + order, order) == len(vectorizer.terms) + 1
    assert len({tuple(row) for row in vectorizer.exponents.tolist()}) == vectorizer.n_terms
    assert vectorizer.exponents.sum(axis=1).max() == order


@given(values)
def test_values_are_products_of_powers(x):
    expected = [[prod(float(x[n, k]) ** power for k, power in term) for n in range(4)] for term in CUBIC.terms]
    assert_allclose(CUBIC(x), [np.ones(4), *expected], rtol=1e-13, atol=1e-300)


@given(values)
def test_derivative_is_that_of_the_terms(x):
    step = 1e-30
    derivative = CUBIC.get_label_vector_derivative(x)
    assert derivative.shape == (4, CUBIC.n_terms, 3)
    for k in range(3):
        moved = monomials(x + 1j * step * np.eye(3)[k], CUBIC.exponents)
        assert_allclose(derivative[:, :, k], moved.imag / step, rtol=1e-12, atol=1e-12)


def test_derivative_of_one_star():
    x = np.array([0.1, -0.2, 0.0])
    assert_array_equal(QUADRATIC.get_label_vector_derivative(x), QUADRATIC.get_label_vector_derivative(x[None])[0])
    assert_array_equal(QUADRATIC.get_label_vector(x), QUADRATIC.get_label_vector(x[None]))


@settings(max_examples=10)
@given(values)
def test_jax_arrays_give_the_same_as_numpy(x):
    with jax.enable_x64(True):
        out = monomials(jnp.asarray(x), CUBIC.exponents)
        assert isinstance(out, jax.Array)
        assert_allclose(out, monomials(x, CUBIC.exponents), rtol=1e-15, atol=1e-300)


def test_texts():
    assert QUADRATIC.readable_terms == ["1", "TEFF", "LOGG", "FE_H", "TEFF^2", "LOGG*TEFF", "FE_H*TEFF", "LOGG^2",
                                        "FE_H*LOGG", "FE_H^2"]  # fmt: skip
    assert QUADRATIC.get_human_readable_label_term(5, mul=" x ", bracket=True) == "(LOGG x TEFF)"
    assert QUADRATIC.get_human_readable_label_term(4, ("T", "g", "Z"), pow="**") == "T**2"
    assert QUADRATIC.get_human_readable_label_vector(mul=".") == QUADRATIC.human_readable_label_vector.replace("*", ".")
    assert repr(QUADRATIC) == "<PolynomialVectorizer of 3 labels (TEFF, LOGG, FE_H) and 10 terms>"


def test_index_of_a_term():
    for d, text in enumerate(QUADRATIC.readable_terms):
        assert QUADRATIC.term_index(text) == d
    assert QUADRATIC.term_index("TEFF*LOGG") == QUADRATIC.term_index(" LOGG * TEFF ") == 5
    assert QUADRATIC.term_index("TEFF*TEFF") == QUADRATIC.term_index("TEFF^2") == 4
    with pytest.raises(ValueError, match=r"unknown term 'TEFF\^3'; the terms are 1, TEFF, LOGG"):
        QUADRATIC.term_index("TEFF^3")
    with pytest.raises(ValueError, match="unknown label 'TEF'"):
        QUADRATIC.term_index("TEF")


@pytest.mark.parametrize(
    "terms",
    [
        "TEFF + LOGG*TEFF + FE_H^3*TEFF^2",
        ["TEFF", "TEFF*LOGG", "TEFF*TEFF*FE_H^3"],
        [[("TEFF", 1)], [("LOGG", 1), ("TEFF", 1)], [("TEFF", 2), ("FE_H", 3)]],
        [[(0, 1)], [(1, 1), (0, 1)], [(2, 3), (0, 2)]],
        "1 + TEFF + LOGG*TEFF + FE_H^3*TEFF^2".removeprefix("1 + "),
    ],
)
def test_free_form_terms(terms):
    vectorizer = PolynomialVectorizer(NAMES, terms=terms)
    assert vectorizer.human_readable_label_vector == "1 + TEFF + LOGG*TEFF + FE_H^3*TEFF^2"
    assert_allclose(vectorizer(np.array([2.0, 3.0, 5.0]))[:, 0], [1, 2, 6, 500])


def test_names_are_taken_from_the_terms():
    assert PolynomialVectorizer(terms="LOGG + TEFF^2*LOGG + AGE").label_names == ("LOGG", "TEFF", "AGE")


def test_cross_term_order_leaves_mixed_terms_out():
    without = PolynomialVectorizer(("A", "B"), 3, cross_term_order=1)
    assert without.human_readable_label_vector == "1 + A + B + A^2 + A*B + B^2 + A^3 + B^3"
    assert PolynomialVectorizer(("A", "B"), 3, cross_term_order=2) == PolynomialVectorizer(("A", "B"), 3)


def test_equal_vectorizers_have_equal_hashes():
    assert PolynomialVectorizer(list(NAMES), 2) == QUADRATIC
    assert hash(QUADRATIC) == hash(PolynomialVectorizer(NAMES, 2))
    assert QUADRATIC != CUBIC
    assert PolynomialVectorizer(NAMES[::-1], 2) != QUADRATIC
    assert QUADRATIC != "TEFF"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label_names": NAMES}, "either order or terms"),
        ({"label_names": NAMES, "order": 2, "terms": "TEFF"}, "either order or terms"),
        ({"order": 2}, "label_names is needed"),
        ({"label_names": "TEFF", "order": 2}, "got the text 'TEFF': write a tuple"),
        ({"label_names": NAMES, "order": 0}, "order must be a positive integer, got 0"),
        ({"label_names": NAMES, "order": 2.0}, "order must be a positive integer, got 2.0"),
        ({"label_names": NAMES, "order": True}, "order must be a positive integer, got True"),
        ({"label_names": ("TEFF", "TEFF"), "order": 1}, "distinct; 'TEFF' occurs more than once"),
        ({"label_names": (), "terms": []}, "terms is empty"),
        ({"label_names": (), "order": 1}, "label_names is empty"),
        ({"label_names": NAMES, "terms": "TEFF + ALPHA"}, "unknown label 'ALPHA' in a term; the labels are TEFF, LOGG"),
        ({"label_names": NAMES, "terms": "TEFF^0.5"}, "power of TEFF must be a positive integer, got 0.5"),
        ({"label_names": NAMES, "terms": "TEFF^-1"}, "power of TEFF must be a positive integer, got -1"),
        ({"label_names": NAMES, "terms": "TEFF^two"}, r"the power in 'TEFF\^two' is not a number"),
        ({"label_names": NAMES, "terms": "TEFF*LOGG + LOGG*TEFF"}, r"term 'TEFF\*LOGG' occurs more than once"),
        ({"label_names": NAMES, "terms": [[(3, 1)]]}, "label index 3 in a term is outside 0 to 2"),
    ],
)
def test_errors_name_value_and_remedy(arguments, message):
    with pytest.raises(ValueError, match=message):
        PolynomialVectorizer(**arguments)


@pytest.mark.parametrize("shape", [(2,), (4, 2), (4, 3, 1)])
def test_labels_of_a_wrong_shape(shape):
    with pytest.raises(ValueError, match=r"shape \(star, 3\) for TEFF, LOGG, FE_H; got shape"):
        QUADRATIC(np.zeros(shape))


def test_base_vectorizer_takes_terms_as_pairs():
    assert BaseVectorizer(NAMES, CUBIC.terms) == CUBIC
    assert BaseVectorizer(["A"], [((0, 1),), ((0, 3),)]).exponents.tolist() == [[0], [1], [3]]
