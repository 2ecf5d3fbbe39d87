"""The vectorizer v(x): polynomial terms of the scaled labels.

A term is a product of powers of labels, and the model of a pixel is linear in the terms, ``flux = v(x) . theta``. The
constant term is always there and always first. With an order O the terms are all monomials of at most that degree,
ordered as ``itertools.combinations_with_replacement`` gives them: ``1, x1, x2, x1^2, x1 x2, x2^2``; there are
``D = C(K + O, O)`` of them. Any other list of terms may be given as text or as powers.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations_with_replacement
from math import comb
from typing import Any

import numpy as np

from bayes_cannon.core.arguments import check_kind, flag, listed, number, shown, texts, whole_number
from bayes_cannon.core.labels import label_rows
from bayes_cannon.core.typing import StarLabel

MOST_TERMS = 1_000_000
"""Terms up to which a vectorizer is made of an order: more are a slip of the pen, and would never be counted out."""

STARS_IN_CACHE = 64
"""Number of stars for which products of labels are made at a time."""

Term = tuple[tuple[int, int], ...]
"""One term: pairs (index of the label, its power), e.g. ``((0, 1), (2, 2))`` for ``x0 * x2^2``."""


class BaseVectorizer:
    """A map from K scaled labels to D terms, the first of which is the constant 1.

    Parameters
    ----------
    label_names
        Names of the K labels, in the order of the label axis everywhere else.
    terms
        Every term but the constant: pairs ``(label index, power)``.

    Examples
    --------
    >>> vectorizer = tc.vectorizer.BaseVectorizer(("TEFF", "LOGG"), [((0, 1),), ((0, 1), (1, 2))])
    >>> vectorizer.exponents
    array([[0, 0],
           [1, 0],
           [1, 2]])

    """

    def __init__(self, label_names: Sequence[str], terms: Sequence[Term]):
        self._label_names = texts(label_names, "label_names")
        repeated = [name for name, count in Counter(self._label_names).items() if count > 1]
        if repeated:
            raise ValueError(f"label_names must be distinct; {repeated[0]!r} occurs more than once in {label_names}")
        if not self._label_names:
            raise ValueError("label_names is empty: a model needs at least one label")
        self._terms = [_indexed(term, list(self._label_names)) for term in structured(terms, "terms")]

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the labels."""
        return self._label_names

    @property
    def terms(self) -> list[Term]:
        """Every term but the constant, as pairs ``(label index, power)``."""
        return self._terms

    @property
    def n_terms(self) -> int:
        """Number of terms D, the constant one included."""
        return 1 + len(self._terms)

    @property
    def exponents(self) -> np.ndarray:
        """Powers of the labels in each term, shape (term, label), integer; the first row is zero."""
        powers = np.zeros((self.n_terms, len(self._label_names)), dtype=int)
        for row, term in enumerate(self._terms, start=1):
            for k, power in term:
                powers[row, k] += power
        return powers

    def label_rows(self, labels: Any) -> np.ndarray:
        """Labels of one star (label,) or of several (star, label) as float rows, shape (star, label).

        Columns of a container that has names are found by name.

        Raises
        ------
        ValueError
            For any other shape.

        """
        return label_rows(labels, self.label_names)

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        """Return :meth:`get_label_vector`."""
        return self.get_label_vector(labels)

    def get_label_vector(self, labels: np.ndarray) -> np.ndarray:
        """Terms at the given scaled labels.

        Parameters
        ----------
        labels
            Scaled labels, shape (label,) or (star, label).

        Returns
        -------
        terms
            Shape (term, star), as the original package lays it out.

        """
        return monomials(self.label_rows(labels), self.exponents).T

    def get_label_vector_derivative(self, labels: np.ndarray) -> np.ndarray:
        """Derivative of every term by every scaled label, dv_d / dx_k.

        Parameters
        ----------
        labels
            Scaled labels of one star, shape (label,), or of many, shape (star, label).

        Returns
        -------
        derivative
            Shape (term, label), or (star, term, label) for many stars.

        """
        x = self.label_rows(labels)
        powers = self.exponents
        derivative = np.empty((len(x), *powers.shape))
        for k in range(powers.shape[1]):
            lowered = powers.copy()
            lowered[:, k] = np.maximum(powers[:, k] - 1, 0)
            derivative[:, :, k] = powers[:, k] * monomials(x, lowered)
        return derivative[0] if np.ndim(labels) == 1 else derivative

    def __repr__(self) -> str:
        names = ", ".join(self._label_names)
        return f"<{type(self).__name__} of {len(self._label_names)} labels ({names}) and {self.n_terms} terms>"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, BaseVectorizer)
            and self.label_names == other.label_names
            and self.exponents.tolist() == other.exponents.tolist()
        )

    def __hash__(self) -> int:
        return hash((self._label_names, tuple(self._terms)))


class PolynomialVectorizer(BaseVectorizer):
    r"""Polynomial terms :math:`v_d(x) = \prod_k x_k^{e_{dk}}` of the scaled labels.

    Parameters
    ----------
    label_names
        Names of the K labels. May be left out when ``terms`` is text: the names are then taken from it, in order of
        appearance.
    order
        Highest total degree of a term. Give this or ``terms``.
    terms
        Free-form terms without the constant: text such as ``"TEFF + LOGG + TEFF^2*LOGG"``, or a list of such texts, or
        a list of lists of pairs ``(label index or name, power)``. Powers are positive integers.
    cross_term_order
        Highest power of a label in a term that mixes labels, ``order - 1`` by default, which leaves no term out.

    Raises
    ------
    ValueError
        If both or neither of ``order`` and ``terms`` are given, for an unknown label in a term, a power that is not a
        positive integer, a term that occurs twice, or repeated label names.

    Examples
    --------
    >>> vectorizer = tc.vectorizer.PolynomialVectorizer(("TEFF", "LOGG"), 2)
    >>> vectorizer.human_readable_label_vector
    '1 + TEFF + LOGG + TEFF^2 + LOGG*TEFF + LOGG^2'
    >>> vectorizer.get_label_vector([0.5, 2.0]).ravel()
    array([1.  , 0.5 , 2.  , 0.25, 1.  , 4.  ])
    >>> tc.vectorizer.PolynomialVectorizer(terms="TEFF + LOGG + TEFF^2*LOGG")
    <PolynomialVectorizer of 2 labels (TEFF, LOGG) and 4 terms>

    """

    def __init__(
        self,
        label_names: Sequence[str] | None = None,
        order: int | None = None,
        terms: str | Sequence | None = None,
        *,
        cross_term_order: int | None = None,
    ):
        if (terms is None) == (order is None):
            raise ValueError(f"give either order or terms, not both or neither; got order={order!r}, terms={terms!r}")
        if label_names is not None:
            label_names = texts(label_names, "label_names")
        if terms is None:
            if label_names is None:
                raise ValueError("label_names is needed together with order")
            parsed = _all_monomials(len(label_names), order, cross_term_order)
        else:
            named = parse_terms(terms)
            if label_names is None:
                label_names = list(dict.fromkeys(name for term in named for name, _ in term if isinstance(name, str)))
            parsed = [_indexed(term, list(label_names)) for term in named]
            repeated = [term for term, count in Counter(parsed).items() if count > 1]
            if repeated:
                raise ValueError(f"the term {_readable(repeated[0], label_names, '*', '^')!r} occurs more than once")
            if not parsed:
                raise ValueError("terms is empty: give at least one term besides the constant")
        super().__init__(label_names, parsed)

    @property
    def human_readable_label_vector(self) -> str:
        """All terms as text, e.g. ``1 + TEFF + LOGG + TEFF^2 + LOGG*TEFF + LOGG^2``."""
        return self.get_human_readable_label_vector()

    def get_human_readable_label_vector(self, mul: str = "*", pow: str = "^", bracket: bool = False) -> str:  # noqa: A002
        """All terms as text, joined by ``" + "``."""
        return " + ".join(
            self.get_human_readable_label_term(d, mul=mul, pow=pow, bracket=bracket) for d in range(self.n_terms)
        )

    def get_human_readable_label_term(
        self,
        term_index: int,
        label_names: Sequence[str] | None = None,
        *,
        mul: str = "*",
        pow: str = "^",  # noqa: A002
        bracket: bool = False,
    ) -> str:
        """One term as text; ``label_names`` may give other names, such as LaTeX. The constant term is ``1``.

        Labels within a term stand in alphabetical order of their own names, whatever names are shown.
        """
        if not 0 <= whole_number(term_index, "term_index") < self.n_terms:
            raise ValueError(f"term_index must be from 0 to {self.n_terms - 1}, got {term_index}")
        names = texts(self.label_names if label_names is None else label_names, "label_names")
        if len(names) != len(self.label_names):
            raise ValueError(f"label_names must be {len(self.label_names)} texts, one a label, got {names}")
        if term_index == 0:
            return "1"
        term = sorted(self.terms[term_index - 1], key=lambda factor: self.label_names[factor[0]])
        text = _readable(tuple(term), names, mul, pow)
        return f"({text})" if flag(bracket, "bracket") and len(term) > 1 else text

    @property
    def readable_terms(self) -> list[str]:
        """Text of each of the D terms, the constant first."""
        return [self.get_human_readable_label_term(d) for d in range(self.n_terms)]

    def term_index(self, text: str) -> int:
        """Index of a term given as text, its labels in any order; ``"1"`` is the constant."""
        check_kind(text, str, "a term", "a text such as 'TEFF*LOGG'")
        if text.strip() == "1":
            return 0
        (named,) = parse_terms([text])
        term = _indexed(named, list(self.label_names))
        ordered = [tuple(sorted(t)) for t in self.terms]
        if term not in ordered:
            raise ValueError(f"unknown term {text!r}; the terms are {', '.join(self.readable_terms)}")
        return 1 + ordered.index(term)


def label_factors(exponents: np.ndarray) -> np.ndarray:
    """The labels that each term multiplies, shape (term, degree), from its powers (term, label).

    A term of a lower degree than the highest is filled up with the number of labels, which stands for the factor one.
    """
    n_labels, degree = exponents.shape[1], exponents.sum(axis=1)
    factors = np.full((len(exponents), degree.max()), n_labels)
    for row, powers in zip(factors, exponents, strict=True):
        row[: powers.sum()] = np.repeat(np.arange(n_labels), powers)
    return factors


def monomials(x: StarLabel, exponents: np.ndarray) -> np.ndarray:
    """Values of monomials, ``prod_k x_k ** e_dk``.

    Works on NumPy and on JAX arrays, whose own kind it returns. Costs one gather and one product a degree.

    Parameters
    ----------
    x
        Scaled labels, shape (..., label).
    exponents
        Powers, shape (monomial, label), non-negative integers.

    Returns
    -------
    values
        Shape (..., monomial).

    """
    xp = x.__array_namespace__()
    degree = int(exponents.sum(axis=1).max(initial=0))
    factors = np.full((len(exponents), degree), exponents.shape[1])
    for row, powers in enumerate(exponents):
        factors[row, : powers.sum()] = np.repeat(np.arange(len(powers)), powers)
    padded = xp.concat([x, xp.ones_like(x[..., :1])], axis=-1)
    if isinstance(padded, np.ndarray):
        return _numpy_products(padded, factors)
    values = xp.ones((*x.shape[:-1], len(exponents)), dtype=x.dtype)
    for column in factors.T:
        values = values * padded[..., column]
    return values


def _numpy_products(padded: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Products of columns, some stars at a time and side by side in memory: several times as fast as all at once."""
    flat = padded.reshape(-1, padded.shape[-1])
    values = np.empty((len(flat), len(factors)), padded.dtype)
    for first in range(0, len(flat), STARS_IN_CACHE):
        rows = slice(first, first + STARS_IN_CACHE)
        columns = np.ascontiguousarray(flat[rows].T)
        products = np.ones((len(factors), columns.shape[1]), padded.dtype)
        for column in factors.T:
            products *= columns[column]
        values[rows] = products.T
    return values.reshape(*padded.shape[:-1], len(factors))


def _all_monomials(n_labels: int, order: int | None, cross_term_order: int | None) -> list[Term]:
    if isinstance(order, bool) or not isinstance(order, int | np.integer) or order < 1:
        raise ValueError(f"order must be a positive integer, got {order!r}")
    highest = order - 1 if cross_term_order is None else whole_number(cross_term_order, "cross_term_order")
    most = max(order, 1 + highest)
    if most > MOST_TERMS or comb(n_labels + most, most) > MOST_TERMS:
        raise ValueError(
            f"order {order} with cross_term_order {highest} has more than {MOST_TERMS:,} terms of {n_labels} labels: "
            "lower it, or name the terms"
        )
    terms = [
        tuple(sorted(Counter(combination).items()))
        for degree in range(1, most + 1)
        for combination in combinations_with_replacement(range(n_labels), degree)
    ]
    return [
        term
        for term in terms
        if (len(term) == 1 and term[0][1] <= order) or (len(term) > 1 and max(power for _, power in term) <= highest)
    ]


def parse_terms(terms: str | Iterable) -> list[list[tuple[str | int, float]]]:
    """Pairs of label and power from text or from pairs; a power of zero drops out, and repeated labels add up."""
    listed_terms = terms.split("+") if isinstance(terms, str) else listed(terms)
    if listed_terms is None:
        raise ValueError(
            "terms must be a text such as 'TEFF + LOGG^2', or a list of such texts or of lists of pairs "
            f"(label, power); got {shown(terms)}"
        )
    parsed = []
    for term in listed_terms:
        if isinstance(term, str):
            factors: list[tuple[str | int, float]] = []
            for factor in term.split("*"):
                name, _, power = factor.partition("^")
                try:
                    factors.append((name.strip(), float(power) if power else 1))
                except ValueError:
                    raise ValueError(f"the power in {factor.strip()!r} is not a number") from None
        else:
            factors = label_powers(term)
        total: dict[str | int, float] = {}
        for label, exponent in factors:
            total[label] = total.get(label, 0) + exponent
        parsed.append([(label, exponent) for label, exponent in total.items() if exponent != 0])
    return [term for term in parsed if term]


def label_powers(term: Any) -> list[tuple[str | int, float]]:
    """A structured term as pairs of label and power; ValueError for what is none."""
    found: list[tuple[Any, Any]] = []
    pairs = listed(term)
    for pair in [None] if pairs is None else pairs:
        both = listed(pair) or ()
        label, power = both if len(both) == 2 else (None, np.nan)
        if not isinstance(label, str | int | np.integer) or not np.isfinite(number(power)):
            raise ValueError(f"a term must be a list of pairs (label, power), got {shown(term)}")
        found.append((label if isinstance(label, str) else int(label), power))
    return found


def structured(terms: Any, what: str) -> list[list[tuple[str | int, float]]]:
    """Structured terms as pairs of label and power; TypeError for what is no list."""
    found = listed(terms)
    if found is None:
        raise TypeError(f"{what} must be a list of lists of pairs (label, power), got {shown(terms)}")
    return [label_powers(term) for term in found]


def _indexed(term: Sequence[tuple[str | int, float]], label_names: list[str]) -> Term:
    indexed = []
    for name, power in term:
        if isinstance(name, str) and name not in label_names:
            raise ValueError(f"unknown label {name!r} in a term; the labels are {', '.join(label_names)}")
        k = label_names.index(name) if isinstance(name, str) else int(name)
        if not 0 <= k < len(label_names):
            raise ValueError(f"label index {k} in a term is outside 0 to {len(label_names) - 1}")
        if not (np.isfinite(power) and power == int(power) and power >= 1):
            raise ValueError(f"the power of {label_names[k]} must be a positive integer, got {power}")
        indexed.append((k, int(power)))
    return tuple(sorted(indexed))


def readable_term(term: Iterable[tuple[object, float]], mul: str, pow: str) -> str:  # noqa: A002
    """Text of a term of pairs (name, power)."""
    for name, sign in (("mul", mul), ("pow", pow)):
        check_kind(sign, str, name, "a text")
    return mul.join(f"{name}{pow}{power:g}" if power > 1 else f"{name}" for name, power in term)


def _readable(term: Term, label_names: Sequence[str], mul: str, pow: str) -> str:  # noqa: A002
    return readable_term(((label_names[k], power) for k, power in term), mul, pow)
