"""Public name of the model with bounds on its coefficients."""

from bayes_cannon.model import RestrictedCannonModel

__all__ = ["RestrictedCannonModel"]
