"""Local models as the one record that their file holds."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from bayes_cannon.core.records import check_dims
from bayes_cannon.io import model_file
from bayes_cannon.io.record_file import Groups, from_groups, to_groups
from bayes_cannon.model.local import LocalSettings
from bayes_cannon.model.local_parts import LocalResult
from bayes_cannon.model.stars import TrainingSet


@dataclass(frozen=True, eq=False)
class StoredLocalModel:
    """Everything that the file of local models holds.

    Attributes
    ----------
    stars
        The training set, without spectra.
    settings
        What the user has set.
    result
        What was learned.
    provenance
        Where the model comes from, text by name.

    """

    stars: TrainingSet
    settings: LocalSettings
    result: LocalResult
    provenance: Mapping[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """Raise ValueError if two of its arrays contradict each other, naming both."""
        check_dims(self)
        self.stars.check_values()
        if len(self.result.weights) != len(self.result.partitions):
            raise ValueError(
                f"result.weights has {len(self.result.weights)} numbers for {len(self.result.partitions)} partitions"
            )
        n_pixels = len(self.result.partitions[0].regions[0].s2)
        for partition in self.result.partitions:
            sizes = {"term": (partition.vectorizer.n_terms, "the terms"), "pixel": (n_pixels, "the first region")}
            for region in partition.regions:
                check_dims(region, dict(sizes))


def write_local_model(path: str | os.PathLike[str], model: StoredLocalModel, *, overwrite: bool = False) -> None:
    """Write a model file. It appears whole or not at all."""
    complete = replace(model, provenance=dict(model.provenance) | model_file.provenance_of_writing())
    complete.check()
    model_file.write(path, to_groups(complete), overwrite=overwrite)


def is_local_model(path: str | os.PathLike[str]) -> bool:
    """Whether a model file holds local models. Errors are those of `CannonModel.read`."""
    return model_file.read(path, _kind) == StoredLocalModel.__name__


def _kind(groups: Groups) -> str:
    return str(groups[""].attrs.get("kind", ""))


def read_local_model(path: str | os.PathLike[str]) -> StoredLocalModel:
    """Read a model file into memory and close it. Errors are those of `CannonModel.read`."""
    return model_file.read(path, _model)


def _model(groups: Groups) -> StoredLocalModel:
    if _kind(groups) != StoredLocalModel.__name__:
        raise ValueError("it holds one model, not local ones: read it with CannonModel.read or load_model")
    model: StoredLocalModel = from_groups(StoredLocalModel, groups)
    model.check()
    return model
