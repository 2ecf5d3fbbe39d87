"""Public name of :mod:`bayes_cannon.core.scatter`."""

from bayes_cannon.core.scatter import Correlation, Full, Given, LowRank, Scatter

__all__ = ["Correlation", "Full", "Given", "LowRank", "Scatter"]
