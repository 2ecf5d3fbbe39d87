"""Public name of :mod:`bayes_cannon.core.scatter`."""

from bayes_cannon.core.scatter import Correlation, LowRank

__all__ = ["Correlation", "LowRank"]
