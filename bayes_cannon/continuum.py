"""Public name of :mod:`bayes_cannon.core.continuum` and :mod:`bayes_cannon.core.running_continuum`."""

from bayes_cannon.core.continuum import normalize, sines_and_cosines
from bayes_cannon.core.running_continuum import normalize_by_mean, running_mean

__all__ = ["normalize", "normalize_by_mean", "running_mean", "sines_and_cosines"]
