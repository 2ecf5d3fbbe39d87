"""The classes that users see: they hold data and call the verbs."""

from bayes_cannon.model.cannon import (
    CannonModel,
    NotTrainedError,
    RestrictedCannonModel,
    StaleCalibrationWarning,
    StaleResultWarning,
    load_model,
)
from bayes_cannon.training.train import TrainingWarning

__all__ = [
    "CannonModel",
    "NotTrainedError",
    "RestrictedCannonModel",
    "StaleCalibrationWarning",
    "StaleResultWarning",
    "TrainingWarning",
    "load_model",
]
