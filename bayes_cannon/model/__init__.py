"""The classes that users see: they hold data and call the verbs."""

from bayes_cannon.model.cannon import CannonModel, TrainingWarning, load_model
from bayes_cannon.model.data import NotTrainedError
from bayes_cannon.model.restricted import RestrictedCannonModel

__all__ = ["CannonModel", "NotTrainedError", "RestrictedCannonModel", "TrainingWarning", "load_model"]
