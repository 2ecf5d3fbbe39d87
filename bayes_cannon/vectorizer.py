"""Public name of :mod:`bayes_cannon.core.vectorizer`."""

from bayes_cannon.core.vectorizer import BaseVectorizer, PolynomialVectorizer

__all__ = ["BaseVectorizer", "PolynomialVectorizer"]
