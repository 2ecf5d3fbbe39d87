import jax
import numpy as np
import pytest
from scipy.optimize import minimize as scipy_minimize

from bayes_cannon.core.moments import MomentBasis
from bayes_cannon.core.vectorizer import PolynomialVectorizer, monomials
from bayes_cannon.labelling.polynomial import Minima, Point, Polynomials, PolynomialTables, minimize

EXPONENTS = {
    "one label, order 2": MomentBasis.from_terms(PolynomialVectorizer(["a"], 2).exponents).exponents,
    "two labels, order 3": MomentBasis.from_terms(PolynomialVectorizer(["a", "b"], 3).exponents).exponents,
    "linear": PolynomialVectorizer(["a", "b", "c"], 1).exponents,
    "free form": PolynomialVectorizer(terms="a^3*b + b^2").exponents,
}


@jax.jit
def evaluate(tables: PolynomialTables, coefficients: jax.Array, x: jax.Array) -> Point:
    return Polynomials.from_coefficients(tables, coefficients)(x)


@jax.jit
def descend(tables: PolynomialTables, coefficients: jax.Array, starts: jax.Array) -> Minima:
    return minimize(Polynomials.from_coefficients(tables, coefficients), starts)


def evaluated(exponents: np.ndarray, coefficients: np.ndarray, x: np.ndarray) -> Point:
    with jax.enable_x64(True):
        return jax.tree.map(np.array, evaluate(PolynomialTables.from_exponents(exponents), coefficients, x))


def minima(exponents: np.ndarray, coefficients: np.ndarray, starts: np.ndarray) -> Minima:
    with jax.enable_x64(True):
        return jax.tree.map(np.array, descend(PolynomialTables.from_exponents(exponents), coefficients, starts))


def derivative(exponents: np.ndarray, coefficients: np.ndarray, by: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Powers and coefficients of the derivative by one label after the other."""
    for k in by:
        coefficients = coefficients * exponents[:, k]
        exponents = np.maximum(exponents - np.eye(exponents.shape[1], dtype=int)[k], 0)
    return exponents, coefficients


@pytest.mark.parametrize("exponents", EXPONENTS.values(), ids=EXPONENTS)
def test_value_and_derivatives_are_those_of_the_monomials(exponents: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    labels = range(exponents.shape[1])
    coefficients, x = rng.normal(size=(3, len(exponents))), rng.normal(size=(3, 2, len(labels)))
    point = evaluated(exponents, coefficients, x)

    def wanted(*by: int) -> np.ndarray:
        powers, derived = derivative(exponents, coefficients, list(by))
        return np.einsum("nsm,nm->ns", np.prod(x[:, :, None, :] ** powers, axis=-1), derived)

    np.testing.assert_allclose(point.value, wanted(), rtol=1e-12, atol=1e-12)
    for k in labels:
        np.testing.assert_allclose(point.gradient[..., k], wanted(k), rtol=1e-12, atol=1e-12)
        for m in labels:
            np.testing.assert_allclose(point.hessian[..., k, m], wanted(k, m), rtol=1e-12, atol=1e-12)


def test_finds_the_minimum_that_scipy_finds() -> None:
    rng = np.random.default_rng(1)
    exponents = EXPONENTS["two labels, order 3"]
    # A sum of squares of cubic polynomials has a minimum and is bounded.
    vectorizer = PolynomialVectorizer(["a", "b"], 3)
    basis = MomentBasis.from_terms(vectorizer.exponents)
    root = rng.normal(size=(4, 12, vectorizer.n_terms))
    coefficients = np.zeros((4, len(exponents)))
    for n in range(4):
        np.add.at(coefficients[n], basis.pairs, root[n].T @ root[n])
    starts = rng.normal(size=(4, 3, 2))
    found = minima(exponents, coefficients, starts)
    assert found.converged.all()
    assert (np.linalg.eigvalsh(found.point.hessian) > 0).all()
    assert np.abs(found.point.gradient).max() < 1e-6
    for n in range(4):
        best = min(
            scipy_minimize(lambda x, n=n: float(monomials(x, exponents) @ coefficients[n]), start, tol=1e-12).fun
            for start in starts[n]
        )
        assert found.point.value[n].min() <= best * (1 + 1e-9)


def test_never_ends_above_the_start_and_ignores_its_neighbours() -> None:
    rng = np.random.default_rng(2)
    exponents = EXPONENTS["one label, order 2"]
    coefficients = np.column_stack([rng.normal(size=(50, 4)), rng.uniform(0.1, 2, 50)])
    starts = rng.normal(0, 3, size=(50, 2, 1))
    found = minima(exponents, coefficients, starts)
    assert (found.point.value <= evaluated(exponents, coefficients, starts).value).all()
    backwards = minima(exponents, coefficients[::-1], starts[::-1])
    np.testing.assert_allclose(backwards.point.x[::-1], found.point.x, rtol=0, atol=1e-12)
    for n in range(50):
        roots = np.roots(np.polynomial.Polynomial(coefficients[n]).deriv().coef[::-1])
        stationary = roots[np.abs(roots.imag) < 1e-9].real
        for x in found.point.x[n, :, 0]:
            assert np.abs(stationary - x).min() < 1e-6


def test_a_start_on_a_saddle_is_not_mistaken_for_a_minimum_of_positive_curvature() -> None:
    # p = (x^2 - 1)^2 has its maximum at 0, where the gradient vanishes, and minima at -1 and 1.
    found = minima(np.arange(5)[:, None], np.array([[1.0, 0, -2, 0, 1]]), np.array([[[0.0], [0.1], [-0.1]]]))
    np.testing.assert_allclose(found.point.x[0, :, 0], [0, 1, -1], atol=1e-8)
    assert found.point.hessian[0, 0, 0, 0] < 0


def test_a_label_without_influence_stays_where_it_was() -> None:
    exponents = np.array([[0, 0], [1, 0], [2, 0]])
    found = minima(exponents, np.array([[4.0, -4.0, 1.0]]), np.array([[[0.0, 0.7]]]))
    np.testing.assert_allclose(found.point.x[0, 0], [2, 0.7], atol=1e-9)
    assert found.converged.all()
