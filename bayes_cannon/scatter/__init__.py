"""Public name of :mod:`bayes_cannon.scatter.settings`."""

from bayes_cannon.scatter.settings import Correlation, Full, Given, LowRank, Scatter

__all__ = ["Correlation", "Full", "Given", "LowRank", "Scatter"]
