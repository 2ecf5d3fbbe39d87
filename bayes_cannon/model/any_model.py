"""Models of either kind: read from a file, told from others by their contents, and what tables say about them."""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import jax
import numpy as np

from bayes_cannon.io.model_file import provenance_of_writing
from bayes_cannon.io.record_file import to_groups
from bayes_cannon.labelling.trained import TrainedModel
from bayes_cannon.model.cannon import CannonModel
from bayes_cannon.model.files import StoredModel
from bayes_cannon.model.local import LocalCannonModel
from bayes_cannon.model.local_files import StoredLocalModel, is_local_model

AnyModel = CannonModel | LocalCannonModel


def read_any_model(path: Path) -> AnyModel:
    """A model of either kind. Errors are those of `CannonModel.read`."""
    return LocalCannonModel.read(path) if is_local_model(path) else CannonModel.read(path)


def kind_of_errors(model: AnyModel, prior: str | None = None) -> str:
    """Which errors of labels a model gives, in words: formal, calibrated, theta integrated out or not."""
    calibrated = "formal" if model.calibration is None or prior is not None else "calibrated"
    if isinstance(model, LocalCannonModel):
        return f"{calibrated}, of the posterior under the population of the training labels, over regions"
    integrated = model.posterior is not None and model.integrate_theta
    under = "" if prior is None else f", of the posterior under the prior {prior}"
    return f"{calibrated}, theta {'integrated out' if integrated else 'taken as known exactly'}{under}"


def table_meta(
    model: AnyModel, model_name: str, model_hash: str, spectra: str, spectra_hash: str,
    attrs: Mapping[str, str | float | int], prior: str | None,
) -> dict[str, str]:  # fmt: skip
    """Metadata of a table of labels: which model and spectra it was made of, and how."""
    versions = provenance_of_writing()
    return {  # FITS keeps names of up to eight capitals and texts of ASCII, as JSON is.
        "MODEL": model_name,
        "MODELSHA": model_hash,
        "TRAINING": json.dumps(model.provenance),
        "SPECTRA": spectra,
        "SPECSHA": spectra_hash,
        "DATA": json.dumps(dict(attrs)),
        "PROGRAM": f"bayes_cannon {versions['bayes_cannon']}",
        "VERSIONS": ", ".join(f"{name} {versions[name]}" for name in ("python", "numpy", "jax")),
        "CREATED": versions["created"],
        "ERRORS": kind_of_errors(model, prior),
    }


def model_hash(model: AnyModel) -> str:
    """SHA-256 of what decides the labels that a model gives: all but its training spectra and its provenance."""
    stars = model._stars.without_spectra()
    if isinstance(model, LocalCannonModel):
        groups = to_groups(StoredLocalModel(stars, model._settings, model._trained()))
    else:
        groups = to_groups(StoredModel(stars, model._settings, model._trained()))
    digest = sha256(str(model.provenance.get("preparation")).encode())
    for path in sorted(groups):
        digest.update(repr((path, sorted((name, repr(value)) for name, value in groups[path].attrs.items()))).encode())
        for name in sorted(map(str, groups[path].variables)):
            values = groups[path][name].to_numpy()
            digest.update(repr((name, values.shape, str(values.dtype))).encode())
            digest.update(repr(values.tolist()).encode() if values.dtype.kind in "OUT" else values.tobytes())
    return digest.hexdigest()


def trained_models(model: AnyModel) -> list[TrainedModel]:
    """What the test step uses: one, or one for each region of each partition."""
    if isinstance(model, CannonModel):
        return [model._label_model()]
    return [region.trained for regions in model._trained().models for region in regions]


def tables_size(model: AnyModel) -> int:
    """Bytes of the tables that labelling makes of the model and keeps."""
    leaves = [leaf for one in trained_models(model) for leaf in jax.tree.leaves((one.tables, one.theta_errors))]
    return sum(int(np.asarray(leaf).nbytes) for leaf in leaves)
