"""The classes that users see: they hold data and call the verbs."""

from bayes_cannon.model.cannon import CannonModel, load_model
from bayes_cannon.model.data import NotTrainedError
from bayes_cannon.model.restricted import RestrictedCannonModel
from bayes_cannon.training.train import TrainingWarning

__all__ = ["CannonModel", "NotTrainedError", "RestrictedCannonModel", "TrainingWarning", "load_model"]
