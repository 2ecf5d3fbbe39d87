r"""Minima of many polynomials at once, by a safeguarded Newton iteration from several starting points.

A polynomial is held as its value and gradient at the origin and its Hessian, whose entries are polynomials themselves.
The Hessian is split by degree, :math:`H(x) = \sum_s H_s(x)` with :math:`H_s(t x) = t^s H_s(x)`, because Taylor's
formula with the remainder as an integral then gives gradient and value from the same numbers:

.. math:: g(x) = g(0) + \sum_s \frac{H_s(x)\, x}{s + 1}, \qquad
          p(x) = p(0) + g(0) \cdot x + \sum_s \frac{x^T H_s(x)\, x}{(s + 1)(s + 2)}

So one product of a matrix with the monomials of x gives all three: 26,163 numbers a star for chi^2 of a quadratic model
of 17 labels, where the polynomial itself has 5,985 coefficients.

The Newton step solves :math:`(H + \lambda D)\, \delta = -g` in the style of Levenberg and Marquardt. D is the largest
diagonal of the Hessian met so far, as in MINPACK (Moré 1978), so that the iterates do not depend on the units of x.
"""

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from bayes_cannon.core.moments import distinct_rows
from bayes_cannon.core.typing import Array

TOLERANCE = 1e-12
"""The iteration ends with the step that promises to lower p by less than this times ``1 + |p|``."""

MAX_ITERATIONS = 100

FIRST_DAMPING = 1e-4
"""Of the first step, relative to the curvature: the best of many starts is mostly close enough for a full step."""

INDEFINITE_DAMPING = 1.0
"""At least this where the damped Hessian is not positive definite: to feel one's way up from less costs more steps."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PolynomialTables:
    """Where the coefficients of a polynomial appear in its value, gradient and Hessian. Made once for a set of powers.

    The tables are data, not constants of the compiled program: polynomials of the same shape share it.

    Attributes
    ----------
    low
        Index of the coefficient of 1 and of each label, shape (1 + label,); the number of coefficients for those that
        there are not.
    sources, factors
        Coefficient and factor with which a monomial appears in an entry of the Hessian, shape (pair, monomial). A pair
        is an entry on or above the diagonal. The monomials are sorted by degree.
    monomials
        For each degree s, the labels whose product is the monomial, shape (monomial, s).
    pairs
        Index of the pair of each entry of the Hessian, shape (label, label).

    """

    low: Array
    sources: Array
    factors: Array
    monomials: tuple[Array, ...]
    pairs: Array

    @classmethod
    def from_exponents(cls, exponents: np.ndarray) -> "PolynomialTables":
        """Tables for coefficients of the monomials with these distinct powers, shape (coefficient, label)."""
        n_coefficients, n_labels = exponents.shape
        unit = np.eye(n_labels, dtype=int)
        position = {tuple(row): index for index, row in enumerate(exponents.tolist())}
        low = [position.get(tuple(row), n_coefficients) for row in np.vstack([0 * unit[:1], unit]).tolist()]
        rows, columns = np.triu_indices(n_labels)
        pairs = np.zeros((n_labels, n_labels), dtype=int)
        pairs[rows, columns] = pairs[columns, rows] = np.arange(len(rows))

        factor = exponents[:, rows] * (exponents[:, columns] - (rows == columns))
        source, pair = np.nonzero(factor)
        lowered = (exponents[source] - unit[rows[pair]] - unit[columns[pair]]).reshape(-1, n_labels)
        keys = np.column_stack([lowered.sum(axis=1), lowered])
        inner, place = distinct_rows(keys)
        sources = np.full((len(rows), len(inner)), n_coefficients)
        factors = np.zeros((len(rows), len(inner)))
        sources[pair, place], factors[pair, place] = source, factor[source, pair]

        labels = [np.repeat(np.arange(n_labels), powers) for powers in inner[:, 1:]]
        of_degree = [[row for row in labels if len(row) == s] for s in np.unique(inner[:, 0])]
        return cls(np.array(low), sources, factors, tuple(np.array(some, dtype=int) for some in of_degree), pairs)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Polynomials:
    """Polynomials of many stars.

    Attributes
    ----------
    tables
        Of their powers.
    low
        Value and gradient at 0, shape (1 + label, star).
    curvature
        Coefficients of each entry of the Hessian for each degree, shape (star, monomial, pair). Split here, because
        a part of an array would be copied in each iteration; pairs last, because a product with few rows takes half as
        long as one with few columns.

    """

    tables: PolynomialTables
    low: Array
    curvature: tuple[Array, ...]

    @classmethod
    def from_coefficients(cls, tables: PolynomialTables, coefficients: Array) -> "Polynomials":
        """Polynomials with these coefficients, shape (star, coefficient)."""
        padded = jnp.concatenate([coefficients, jnp.zeros_like(coefficients[:, :1])], axis=1)
        ends = list(accumulate((labels.shape[0] for labels in tables.monomials), initial=0))
        # The checks of the indices would take as long as the reading.
        parts = (
            padded.at[:, tables.sources[:, a:b].T].get(mode="promise_in_bounds") * tables.factors[:, a:b].T
            for a, b in pairwise(ends)
        )
        return cls(tables, padded[:, tables.low].T, tuple(parts))

    def __call__(self, x: Array) -> "Point":
        """Value, gradient and Hessian at several points of each star, shape (star, start, label)."""
        return self.at(x.transpose(2, 1, 0)).by_star()

    def at(self, x: Array) -> "Point":
        """The same for points of shape (label, start, star)."""
        constant, gradient = self.low[0], self.low[1:, None]
        hessian = once = twice = jnp.zeros((self.tables.sources.shape[0], *x.shape[1:]), x.dtype)
        for labels, curvature in zip(self.tables.monomials, self.curvature, strict=True):
            degree = labels.shape[1]
            part = jnp.einsum("nmp,nsm->nsp", curvature, jnp.prod(x[labels], axis=1).transpose(2, 1, 0))
            part = part.transpose(2, 1, 0)
            hessian, once = hessian + part, once + part / (degree + 1)
            twice = twice + part / ((degree + 1) * (degree + 2))
        hessian, once, twice = (pairs[self.tables.pairs] for pairs in (hessian, once, twice))
        linear = jnp.sum(gradient * x, axis=0)
        quadratic = jnp.sum(_applied(twice, x) * x, axis=0)
        return Point(
            x,
            constant + linear + quadratic,
            gradient + _applied(once, x),
            hessian,
            jnp.abs(constant) + jnp.abs(linear) + jnp.abs(quadratic),
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Point:
    """Points x (star, start, label) with value, gradient and Hessian there, and the size of the terms of the value.

    While the iteration runs all axes stand in the opposite order: the arithmetic on the small matrices of many stars
    is then arithmetic on long vectors, which takes a fifth of the time of a factorization for each of them.
    """

    x: Array
    value: Array
    gradient: Array
    hessian: Array
    magnitude: Array

    def by_star(self) -> "Point":
        """The point with all axes in the opposite order; the Hessian is symmetric."""
        return jax.tree.map(jnp.transpose, self)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Minima:
    """What the iteration found from each start.

    Attributes
    ----------
    point
        The last point of each start, `Point`.
    iterations
        Steps tried, shape (star, start).
    converged
        Whether the last step was negligible, shape (star, start). That is so at a saddle point too: look at the
        Hessian.

    """

    point: Point
    iterations: Array
    converged: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _State:
    """The last point taken, and the next to try with the decrement that it promises."""

    point: Point
    trial: Array
    decrement: Array
    promised: Array
    scale: Array
    damping: Array
    iterations: Array
    converged: Array
    stopped: Array


class Functions(Protocol):
    """Functions of the labels of many stars, such as `Polynomials`."""

    def at(self, x: Array) -> Point:
        """Value, gradient and Hessian at points of shape (label, start, star)."""


def minimize(polynomials: Functions, starts: Array) -> Minima:
    """Local minimum that a damped Newton iteration reaches from each starting point, shape (star, start, label).

    The polynomials, or other functions, must be bounded below, as every chi^2 is: a minimum at infinity is not noticed.
    A step is taken only if it lowers the polynomial. All stars and starts advance together until the last one ends;
    those that ended before stay as they are, so that a result does not depend on its neighbours.
    """
    trial = starts.transpose(2, 1, 0)
    n_labels, *shape = trial.shape
    infinite = jnp.full(shape, jnp.inf, trial.dtype)
    state = _State(
        # The starting points are the first trials, and better than this nowhere.
        point=Point(
            trial, infinite, jnp.zeros_like(trial), jnp.zeros((n_labels, n_labels, *shape), trial.dtype), 0 * trial[0]
        ),
        trial=trial,
        decrement=infinite,
        promised=infinite,
        scale=jnp.zeros_like(trial),
        damping=jnp.full(shape, FIRST_DAMPING, trial.dtype),
        iterations=jnp.full(shape, -1),
        converged=jnp.zeros(shape, bool),
        stopped=jnp.zeros(shape, bool),
    )

    def unfinished(state: _State) -> Array:
        return jnp.any(~(state.converged | state.stopped))

    state = jax.lax.while_loop(unfinished, lambda state: _advance(polynomials, state), state)
    return Minima(state.point.by_star(), state.iterations.T, state.converged.T)


def _advance(polynomials: Functions, state: _State) -> _State:
    old, new = state.point, polynomials.at(state.trial)
    running = ~(state.converged | state.stopped)
    rounding = 8 * jnp.finfo(new.x.dtype).eps * jnp.maximum(old.magnitude, new.magnitude)
    negligible = state.decrement < TOLERANCE * (1 + jnp.abs(new.value)) + rounding
    gained = old.value - new.value
    taken = running & ((gained > 0) | (negligible & (gained >= -rounding)))
    point = jax.tree.map(lambda a, b: jnp.where(taken, a, b), new, old)

    ratio = gained / jnp.where(state.promised > 0, state.promised, 1.0)
    change = jnp.where(ratio > 0.75, 0.03, jnp.where(ratio > 0.25, 1.0, 4.0))
    least = jnp.where(jnp.isinf(state.promised), INDEFINITE_DAMPING, 1e-3)
    damping = jnp.where(taken, jnp.maximum(state.damping * change, 1e-13), jnp.maximum(10 * state.damping, least))
    damping = jnp.where(running & (state.iterations >= 0), damping, state.damping)
    scale = jnp.maximum(state.scale, _diagonal(point.hessian))
    step, decrement, promised = _newton(point, jnp.sqrt(scale), damping)

    iterations = state.iterations + running
    given_up = (iterations >= MAX_ITERATIONS) | (damping > 1e12) | ~jnp.isfinite(point.value)
    converged = state.converged | (running & negligible)
    return _State(
        point, point.x + step, decrement, promised, scale, damping, iterations, converged,
        state.stopped | (running & given_up & ~negligible),
    )  # fmt: skip


def _diagonal(hessian: Array) -> Array:
    """Size of the curvature in each label; a label without influence has none, and any positive number will do."""
    labels = jnp.arange(len(hessian))
    diagonal = jnp.abs(hessian[labels, labels])
    largest = jnp.max(diagonal, axis=0)
    return jnp.maximum(diagonal, jnp.where(largest > 0, 1e-10 * largest, 1.0))


def _newton(point: Point, root: Array, damping: Array) -> tuple[Array, Array, Array]:
    """Damped step, ``g^T (H + lambda D)^-1 g / 2``, and what the step gains if p is quadratic.

    Where the damped Hessian is not positive definite the step is zero, which gains nothing and so raises the damping,
    and the other two are infinite.
    """
    labels = jnp.arange(len(root))
    scaled = jnp.asarray(point.hessian / (root[:, None] * root)).at[labels, labels].add(damping)
    gradient = point.gradient / root
    step, solvable = _solved(scaled, -gradient)
    decrement = -0.5 * jnp.sum(gradient * step, axis=0)
    promised = decrement + 0.5 * damping * jnp.sum(step**2, axis=0)
    return (
        jnp.where(solvable, step / root, 0.0),
        jnp.where(solvable, decrement, jnp.inf),
        jnp.where(solvable, promised, jnp.inf),
    )


def is_minimum(hessian: Array) -> Array:
    """Whether the Hessians, shape (..., label, label), are positive definite beyond rounding."""
    scaled, _ = normalized(hessian)
    return jnp.isfinite(jnp.linalg.cholesky(scaled + 1e-9 * jnp.eye(hessian.shape[-1]))).all(axis=(-2, -1))


def normalized(matrix: Array) -> tuple[Array, Array]:
    """The matrix with a diagonal of ones, so that units do not matter, and the square root of its diagonal."""
    diagonal = jnp.diagonal(matrix, axis1=-2, axis2=-1)
    root = jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1.0))
    return matrix / (root[..., :, None] * root[..., None, :]), root


def _solved(matrix: Array, right: Array) -> tuple[Array, Array]:
    """Solution of many symmetric systems, and whether their matrices are positive definite, by their pivots.

    Elimination after Gauss, without pivoting, on matrices (label, label, ...) and right sides (label, ...). It is
    unrolled, on ever smaller arrays: a loop over the labels takes three times as long with 17 of them.
    """
    rows = jnp.concatenate([matrix, right[:, None]], axis=1)
    positive = jnp.ones(right.shape[1:], bool)
    solved = []
    for _ in range(len(right)):
        pivot = rows[0, 0]
        positive &= (pivot > 0) & (pivot < jnp.inf)
        solved.append(rows[0, 1:] / pivot)
        # Without the barrier each step would be computed again for every later one that needs it.
        rows = jax.lax.optimization_barrier(rows[1:, 1:] - rows[1:, :1] * solved[-1])
    x: list[Array] = []
    for row in reversed(solved):
        x.insert(0, row[-1] - sum((a * b for a, b in zip(row, x, strict=False)), jnp.zeros_like(row[-1])))
    return jnp.stack(x), positive & jnp.isfinite(jnp.stack(x)).all(axis=0)


def _applied(matrix: Array, x: Array) -> Array:
    """Products of matrices (label, label, ...) with vectors (label, ...), on long vectors too."""
    return sum((matrix[:, k] * x[k] for k in range(1, len(x))), matrix[:, 0] * x[0])
