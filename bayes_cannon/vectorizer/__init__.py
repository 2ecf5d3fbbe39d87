"""Public names of :mod:`bayes_cannon.core.vectorizer`, in the modules in which the original package has them."""

from bayes_cannon.vectorizer import base, polynomial
from bayes_cannon.vectorizer.base import BaseVectorizer
from bayes_cannon.vectorizer.polynomial import PolynomialVectorizer

__all__ = ["BaseVectorizer", "PolynomialVectorizer", "base", "polynomial"]
