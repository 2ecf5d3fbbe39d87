"""Polynomial terms as text and as structures, under the names of the original package.

A structured term is a list of pairs (label, power), in which a label is a name or, in those of a vectorizer, an index.
"""

from collections.abc import Sequence

from bayes_cannon.core.arguments import flag, texts, whole_number
from bayes_cannon.core.vectorizer import PolynomialVectorizer, label_powers, parse_terms, readable_term, structured

__all__ = [
    "PolynomialVectorizer", "get_label_names", "human_readable_label_term", "human_readable_label_vector",
    "parse_label_vector_description", "terminator",
]  # fmt: skip

Structured = Sequence[Sequence[tuple[str | int, float]]]
"""Terms without the constant."""


def terminator(label_names: Sequence[str], order: int, cross_term_order: int = -1) -> str:
    """Every term of up to this order as text, such as ``"A + B + A^2 + A*B + B^2"``, without the constant.

    Parameters
    ----------
    label_names, order
        As of `PolynomialVectorizer`.
    cross_term_order
        Highest power in a term of several labels, ``order - 1`` if it is negative.

    Examples
    --------
    >>> tc.vectorizer.polynomial.terminator(["A", "B"], 2)
    'A + B + A^2 + A*B + B^2'

    """
    highest = None if whole_number(cross_term_order, "cross_term_order") < 0 else cross_term_order
    vectorizer = PolynomialVectorizer(label_names, order, cross_term_order=highest)
    return " + ".join(vectorizer.readable_terms[1:])


def parse_label_vector_description(
    description: str | Sequence, label_names: Sequence[str] | None = None
) -> list[list[tuple[str | int, float]]]:
    """Structured terms from text, or from a list of texts; powers of one label in a term are added.

    Parameters
    ----------
    description
        Such as ``"TEFF^4 + LOGG*TEFF^3"``. Structured terms are returned as they are.
    label_names
        If given, labels are indices into these.

    Raises
    ------
    ValueError
        For an unknown label, a power that is no number, and if no term is left.

    Examples
    --------
    >>> tc.vectorizer.polynomial.parse_label_vector_description("A^4 + B*A^3 + C^0*A", ["A", "B", "C"])
    [[(0, 4.0)], [(1, 1), (0, 3.0)], [(0, 1)]]

    """
    terms = parse_terms(description)
    if not terms:
        raise ValueError(f"no term in {description!r}: write such as 'TEFF + LOGG + TEFF^2'")
    if label_names is None:
        return terms
    names = list(texts(label_names, "label_names"))
    unknown = [label for label in get_label_names(terms) if isinstance(label, str) and label not in names]
    if unknown:
        raise ValueError(f"unknown label {unknown[0]!r} in a term; the labels are {', '.join(names)}")
    return [[(names.index(label) if isinstance(label, str) else label, power) for label, power in term]
            for term in terms]  # fmt: skip


def get_label_names(label_vector: Structured) -> list[str | int]:
    """Labels that structured terms contain, each once, in order of appearance.

    Examples
    --------
    >>> tc.vectorizer.polynomial.get_label_names([[("A", 4)], [("B", 1), ("A", 3)]])
    ['A', 'B']

    """
    pairs = [pair for term in structured(label_vector, "label_vector") for pair in term]
    return list(dict.fromkeys(label for label, power in pairs if power != 0))


def human_readable_label_term(
    term: Sequence[tuple[str | int, float]],
    label_names: Sequence[str] | None = None,
    mul: str = "*",
    pow: str = "^",  # noqa: A002
    bracket: bool = False,
) -> str:
    """Text of a structured term; ``label_names`` are needed where its labels are indices.

    Examples
    --------
    >>> tc.vectorizer.polynomial.human_readable_label_term([(1, 1), (0, 3)], ["A", "B"], bracket=True)
    '(B*A^3)'

    """
    names = None if label_names is None else texts(label_names, "label_names")
    pairs = label_powers(term)
    outside = [k for k, _ in pairs if names is not None and not isinstance(k, str) and not 0 <= k < len(names)]
    if outside:
        raise ValueError(f"there is no label {outside[0]} in a term: label_names are {', '.join(names or ())}")
    named = [(label if isinstance(label, str) or names is None else names[label], power) for label, power in pairs]
    text = readable_term(named, mul, pow)
    return f"({text})" if flag(bracket, "bracket") and len(named) > 1 else text


def human_readable_label_vector(
    terms: Structured | str,
    label_names: Sequence[str] | None = None,
    mul: str = "*",
    pow: str = "^",  # noqa: A002
    bracket: bool = False,
) -> str:
    """Text of the constant and of all structured terms, joined by ``" + "``.

    Examples
    --------
    >>> tc.vectorizer.polynomial.human_readable_label_vector([[("A", 1)], [("B", 2)]])
    '1 + A + B^2'

    """
    listed_terms = structured(terms, "terms")
    texts_of = (human_readable_label_term(term, label_names, mul, pow, bracket) for term in listed_terms)
    return " + ".join(["1", *texts_of])
