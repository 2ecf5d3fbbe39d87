"""Public name of :mod:`bayes_cannon.core.continuum`."""

from bayes_cannon.core.continuum import normalize, sines_and_cosines

__all__ = ["normalize", "sines_and_cosines"]
