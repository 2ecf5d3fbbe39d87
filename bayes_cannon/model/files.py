"""A model as the one record that its file holds."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from bayes_cannon.core.records import check_dims
from bayes_cannon.core.warnings import warn_user
from bayes_cannon.io import model_file
from bayes_cannon.io.record_file import Groups, from_groups, to_groups
from bayes_cannon.model.result import TrainingResult
from bayes_cannon.model.settings import Settings, checked_theta_bounds
from bayes_cannon.model.stars import TrainingSet
from bayes_cannon.training.train import TrainingWarning


@dataclass(frozen=True, eq=False)
class StoredModel:
    """Everything that a model file holds, whether the model is trained or not.

    Attributes
    ----------
    stars
        The training set, with or without its spectra.
    settings
        What the user has set.
    result
        What was learned; None before training.
    provenance
        Where the model comes from, text by name.

    """

    stars: TrainingSet
    settings: Settings
    result: TrainingResult | None = None
    provenance: Mapping[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """Raise ValueError if two of its arrays contradict each other, naming both, or hold what no model can."""
        check_dims(self, {"term": (self.stars.vectorizer.n_terms, "the terms")})
        self.stars.check_values()
        checked_theta_bounds(self.settings.theta_bounds, self.stars.vectorizer)


def write_model(path: str | os.PathLike[str], model: StoredModel, *, overwrite: bool = False) -> None:
    """Write a model file. It appears whole or not at all.

    The provenance in the file is that of the model with the versions and the time of writing (UTC). Errors are those of
    `CannonModel.write`; ValueError if the model contradicts itself.
    """
    model.check()
    if model.result is None and model.stars.flux is None:
        warn_user(
            "the model is not trained and its training spectra are not written: the file can be used for nothing. "
            "Train first, or write with include_training_set_spectra=True",
            TrainingWarning,
        )
    complete = StoredModel(
        model.stars, model.settings, model.result, dict(model.provenance) | model_file.provenance_of_writing()
    )
    model_file.write(path, to_groups(complete), overwrite=overwrite)


def read_model(path: str | os.PathLike[str]) -> StoredModel:
    """Read a model file into memory and close it; equal to the model that was written, bit for bit.

    Errors are those of `CannonModel.read`.
    """
    return model_file.read(path, _model)


def _model(groups: Groups) -> StoredModel:
    if str(groups[""].attrs.get("kind", "")) == "StoredLocalModel":
        raise ValueError("it holds local models: read it with LocalCannonModel.read")
    model: StoredModel = from_groups(StoredModel, groups)
    model.check()
    return model
