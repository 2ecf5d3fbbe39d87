"""Where the original package has the base class of vectorizers."""

from bayes_cannon.core.vectorizer import BaseVectorizer

__all__ = ["BaseVectorizer"]
