"""The model file: one netCDF-4 (HDF5) file that says what is in it.

Dimensions are ``pixel``, ``term``, ``label`` and ``star``; their coordinates are the wavelengths where the model has
them, the texts of the terms and the names of the labels. Any HDF5 or netCDF tool reads it. Values are kept bit for
bit, NaN and infinity included. The attribute ``format`` is ``"bayes_cannon model"`` and ``format_version`` an integer
that grows whenever an older version could no longer read the file.
"""

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr

from bayes_cannon.core.status import PixelStatus
from bayes_cannon.io.atomic import atomic_path
from bayes_cannon.io.calibration import calibration_attributes, calibration_variables, read_calibration
from bayes_cannon.io.model_state import POSTERIOR_AXES, ModelState
from bayes_cannon.scatter import Full, Given, LowRank, Scatter
from bayes_cannon.scatter.selection import AUTO

__all__ = ["FORMAT", "FORMAT_VERSION", "ModelState", "read_model", "training_set_hash", "write_model"]

FORMAT = "bayes_cannon model"
FORMAT_VERSION = 3
"""Version 2 has correlated scatter and version 3 full covariances, which older programs would take for other things."""

_COMPRESSION = {"zlib": True, "complevel": 4, "shuffle": True}
_COMPRESSED_SIZE = 4096
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_KNOWN_SIGNATURES = {
    b"\x80": "a Python pickle, such as the original package writes. It is not opened, because unpickling runs whatever "
    "code the file holds: train the model again and save it with CannonModel.write",
    b"PK": "a zip archive, such as an .npz file",
    b"SIMPLE": "a FITS file",
    b"CDF": "a netCDF-3 file",
}
_PROVENANCE = "provenance_"
_TRAINING = "training_"
_SCATTER = "scatter_"
_POSTERIOR = "posterior_"


def write_model(path: str | os.PathLike, state: ModelState, *, overwrite: bool = False) -> None:
    """Write a model file. It appears whole or not at all.

    The provenance in the file is that of ``state`` with the versions, the time of writing (UTC) and, where the
    training spectra are in ``state``, their hash set anew.

    Parameters
    ----------
    path
        File to write; any suffix.
    state
        The model.
    overwrite
        Replace a file that exists.

    Raises
    ------
    FileExistsError
        If the file exists and ``overwrite`` is False.
    FileNotFoundError
        If the folder does not exist.

    """
    with atomic_path(path, overwrite=overwrite) as temporary:
        dataset = _dataset(state)
        encoding = {name: _encoding(dataset[name]) for name in dataset.variables}
        dataset.to_netcdf(temporary, engine="h5netcdf", encoding=encoding)


def read_model(path: str | os.PathLike) -> ModelState:
    """Read a model file into memory and close it.

    Parameters
    ----------
    path
        A file that `write_model` made.

    Returns
    -------
    state
        The model, equal to the one that was written bit for bit but for its provenance.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no model file, is truncated or damaged, is of a newer format, or contradicts itself. A pickle is
        recognized and never unpickled.

    """
    path = Path(path)
    _check_format(path)
    try:
        dataset = xr.load_dataset(
            path,
            engine="h5netcdf",
            phony_dims="sort",
            mask_and_scale=False,
            decode_times=False,
            decode_timedelta=False,
        )
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}. Restore it from a copy or train the model again") from error
    try:
        return _state(dataset)
    except KeyError as error:
        raise ValueError(f"{path} is no valid model file: {error.args[0]!r} is missing in it") from error
    except ValueError as error:
        raise ValueError(f"{path} is no valid model file: {error}") from error


def training_set_hash(labels: np.ndarray, flux: np.ndarray, ivar: np.ndarray) -> str:
    """SHA-256 of a training set, in hexadecimal: of the shapes and float64 values of labels, flux and ivar."""
    digest = sha256()
    for values in (labels, flux, ivar):
        plain = np.ascontiguousarray(values, dtype="<f8")
        digest.update(repr(plain.shape).encode())
        digest.update(plain)
    return digest.hexdigest()


def _check_format(path: Path) -> None:
    """Raise unless the file is a whole HDF5 file of a format that this version reads."""
    remedy = "Give the path of a file that CannonModel.write made"
    if not path.exists():
        raise FileNotFoundError(f"there is no model file {path}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder, and a model is one file. {remedy}")
    with path.open("rb") as file:
        start = file.read(len(_HDF5_SIGNATURE))
    if not start:
        raise ValueError(f"{path} is empty. {remedy}")
    if start != _HDF5_SIGNATURE:
        kind = next((text for mark, text in _KNOWN_SIGNATURES.items() if start.startswith(mark)), "no HDF5 file")
        raise ValueError(f"{path} is no model file but {kind}. {remedy}")
    try:
        with h5py.File(path) as file:
            attributes = {name: file.attrs[name] for name in ("format", "format_version") if name in file.attrs}
            written_by = file.attrs.get(f"{_PROVENANCE}bayes_cannon", "an unknown version")
    except (OSError, RuntimeError, KeyError) as error:
        raise ValueError(
            f"{path} is truncated or damaged: {error}. Restore it from a copy or train the model again"
        ) from error
    if attributes.get("format") != FORMAT:
        found = attributes.get("format", "absent")
        raise ValueError(f"{path} is no model file: its attribute 'format' is {found!r}, not {FORMAT!r}. {remedy}")
    found = np.ravel(attributes.get("format_version", 0))
    if found.dtype.kind not in "iu" or found.size != 1 or found[0] < 1:
        raise ValueError(f"{path} is no valid model file: its attribute 'format_version' is {found.tolist()}")
    number = int(found[0])
    if number > FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {number}, written by bayes_cannon {written_by}; this is bayes_cannon "
            f"{version('bayes-cannon')}, which reads up to version {FORMAT_VERSION}. Upgrade bayes_cannon"
        )


def _dataset(state: ModelState) -> xr.Dataset:
    """The state as a Dataset with named dimensions."""
    vectorizer = state.vectorizer
    units = [state.label_units.get(name, "") for name in state.label_names]
    variables: dict[str, Any] = {
        "exponents": (("term", "label"), vectorizer.exponents, {"long_name": "power of each label in each term"}),
        "label_unit": ("label", np.array(units, dtype=object)),
        "fiducial": ("label", state.fiducial, {"long_name": "zero point of each label", "units": "see label_unit"}),
        "scale": ("label", state.scale, {"long_name": "range of each label", "units": "see label_unit"}),
        "training_set_labels": (("star", "label"), state.training_set_labels, {"units": "see label_unit"}),
    }
    optional = {
        "training_set_flux": (("star", "pixel"), state.training_set_flux, {"units": "1"}),
        "training_set_ivar": (("star", "pixel"), state.training_set_ivar, {"units": "1"}),
        "theta": (("pixel", "term"), state.theta, {"long_name": "coefficients of the terms", "units": "1"}),
        "s2": ("pixel", state.s2, {"long_name": "variance of the intrinsic scatter", "units": "1"}),
        "factors": (
            ("pixel", "factor"),
            state.factors,
            {"long_name": "factors of the correlated scatter", "units": "1"},
        ),
        "factor_noise": (
            "pixel",
            state.factor_noise,
            {"long_name": "scatter across the factors of a full covariance", "units": "1"},
        ),
    }
    if isinstance(state.scatter, Given):
        variables["given_covariance"] = (("pixel", "other_pixel"), state.scatter.covariance, {"units": "1"})
    if state.calibration is not None:
        variables |= calibration_variables(state.calibration)
    variables |= {name: variable for name, variable in optional.items() if variable[1] is not None}
    if state.regularization is not None:
        lam = np.asarray(state.regularization)
        variables["regularization"] = (("pixel",) * lam.ndim, lam, {"units": "1"})
    if state.censors:
        masks = np.array([np.asarray(mask, dtype=bool) for mask in state.censors.values()])
        variables["censored"] = (("censored_label", "pixel"), masks, {"long_name": "True where a label may not act"})
    if state.theta_bounds:
        limits = np.array([[np.nan if x is None else x for x in bound] for bound in state.theta_bounds.values()], float)
        variables["theta_bounds"] = (("bounded_term", "end"), limits, {"long_name": "NaN is no bound"})
    for name, values in (state.posterior or {}).items():
        variables[f"{_POSTERIOR}{name}"] = (POSTERIOR_AXES[name], values)
    for name, values in (state.training or {}).items():
        variables[f"{_TRAINING}{name}"] = _training_variable(name, values)
    coords: dict[str, Any] = {
        "label": np.array(state.label_names, dtype=object),
        "term": np.array(vectorizer.readable_terms, dtype=object),
    }
    if state.dispersion is not None:
        coords["wavelength"] = ("pixel", state.dispersion)
    if state.censors:
        coords["censored_label"] = np.array(list(state.censors), dtype=object)
    if state.theta_bounds:
        coords["bounded_term"] = np.array(list(state.theta_bounds), dtype=object)
    return xr.Dataset(variables, coords, _attributes(state))


def _training_variable(name: str, values: np.ndarray) -> tuple[str, np.ndarray, dict[str, Any]]:
    attributes: dict[str, Any] = {}
    if name == "status":
        attributes = {
            "flag_values": np.array([int(status) for status in PixelStatus]),
            "flag_meanings": " ".join(status.name.lower() for status in PixelStatus),
        }
    return "pixel", _as_written(np.asarray(values)), attributes


def _attributes(state: ModelState) -> dict[str, Any]:
    provenance = dict(state.provenance)
    if state.training_set_flux is not None and state.training_set_ivar is not None:
        provenance["training_set_sha256"] = training_set_hash(
            state.training_set_labels, state.training_set_flux, state.training_set_ivar
        )
    provenance |= {
        "bayes_cannon": version("bayes-cannon"),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "jax": version("jax"),
    }
    attributes: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "model_class": state.model_class,
        "scale_factor": float(state.scale_factor),
    }
    if state.op_method is not None:
        attributes["op_method"] = state.op_method
    if state.nu is not None:
        attributes |= {"nu": float(state.nu), "floor": float(state.floor)}
    if state.calibration is not None:
        attributes |= calibration_attributes(state.calibration)
    if state.scatter is not None:
        attributes |= _scatter_attributes(state.scatter)
    if state.training is not None:
        # Tells a training without certificates from none.
        attributes["training"] = ",".join(state.training)
    return attributes | {_PROVENANCE + name: str(text) for name, text in provenance.items()}


def _encoding(variable: xr.DataArray) -> dict[str, Any]:
    """Large arrays are compressed; no fill value is invented, so that NaN stays the NaN that it was."""
    if variable.dtype == object:
        return {}
    plain: dict[str, Any] = {"_FillValue": None}
    return plain | _COMPRESSION if variable.ndim and variable.size >= _COMPRESSED_SIZE else plain


def _state(dataset: xr.Dataset) -> ModelState:
    """The state that a Dataset holds; KeyError names what is missing in it."""
    attributes = dict(dataset.attrs)
    label_names = _texts(dataset["label"])
    units = dict(zip(label_names, _texts(dataset["label_unit"]), strict=True))
    exponents = dataset["exponents"].to_numpy()
    regularization = _optional(dataset, "regularization")
    training = None
    if "training" in attributes:
        names = [name for name in attributes["training"].split(",") if name]
        training = {name: _as_written(dataset[f"{_TRAINING}{name}"].to_numpy()) for name in names}
    return ModelState(
        model_class=attributes["model_class"],
        label_names=label_names,
        terms=[tuple((int(k), int(row[k])) for k in np.flatnonzero(row)) for row in exponents[1:]],
        fiducial=dataset["fiducial"].to_numpy(),
        scale=dataset["scale"].to_numpy(),
        training_set_labels=dataset["training_set_labels"].to_numpy(),
        scale_factor=float(attributes["scale_factor"]),
        label_units={name: unit for name, unit in units.items() if unit},
        dispersion=_optional(dataset, "wavelength"),
        regularization=regularization if regularization is None or regularization.ndim else float(regularization),
        censors=_rows(dataset, "censored"),
        training_set_flux=_optional(dataset, "training_set_flux"),
        training_set_ivar=_optional(dataset, "training_set_ivar"),
        theta=_optional(dataset, "theta"),
        s2=_optional(dataset, "s2"),
        factors=_optional(dataset, "factors"),
        factor_noise=_optional(dataset, "factor_noise"),
        calibration=read_calibration(dataset),
        posterior=_posterior(dataset),
        nu=float(attributes["nu"]) if "nu" in attributes else None,
        floor=float(attributes.get("floor", 1.0)),
        scatter=_scatter(attributes, _optional(dataset, "given_covariance")),
        training=training,
        op_method=attributes.get("op_method"),
        theta_bounds={
            term: (None if np.isnan(low) else float(low), None if np.isnan(high) else float(high))
            for term, (low, high) in _rows(dataset, "theta_bounds").items()
        },
        provenance={
            name.removeprefix(_PROVENANCE): text for name, text in attributes.items() if name.startswith(_PROVENANCE)
        },
    )


def _scatter_attributes(asked: Scatter | str) -> dict[str, Any]:
    """The family and its settings; those that are None are left out."""
    if isinstance(asked, str):
        return {f"{_SCATTER}family": asked}
    settings = {name: value for name, value in asdict(asked).items() if np.ndim(value) == 0 and value is not None}
    # netCDF has no booleans.
    plain = {f"{_SCATTER}{name}": int(value) if isinstance(value, bool) else value for name, value in settings.items()}
    return {f"{_SCATTER}family": type(asked).__name__} | plain


def _scatter(attributes: Mapping[str, Any], given_covariance: np.ndarray | None) -> Scatter | str | None:
    """What was asked for; up to format version 2 there was low rank alone, without its name."""
    given = {name.removeprefix(_SCATTER): value for name, value in attributes.items() if name.startswith(_SCATTER)}
    if not given:
        return None
    family = str(given.pop("family", LowRank.__name__))
    if family == AUTO:
        return AUTO
    known = [kind.__name__ for kind in (LowRank, Full, Given)]
    if family not in known:
        raise ValueError(f"the family of its scatter is {family!r}, not one of {', '.join(known)}")
    tails = bool(given["heavy_tails"])
    if family == Given.__name__:
        if given_covariance is None:
            raise KeyError("given_covariance")
        return Given(given_covariance, tails)
    if family == Full.__name__:
        shrinkage = float(given["shrinkage"]) if "shrinkage" in given else None
        return Full(shrinkage, tails, float(given["share"]))
    return LowRank(int(given["rank"]), tails, float(given["tolerance"]))


def _texts(variable: xr.DataArray) -> tuple[str, ...]:
    return tuple(str(text) for text in variable.to_numpy())


def _as_written(values: np.ndarray) -> np.ndarray:
    """Texts as objects, whatever fixed width the reader gave them."""
    return values.astype(object) if values.dtype.kind == "U" else values


def _optional(dataset: xr.Dataset, name: str) -> np.ndarray | None:
    return dataset[name].to_numpy() if name in dataset.variables else None


def _posterior(dataset: xr.Dataset) -> dict[str, np.ndarray] | None:
    if not any(f"{_POSTERIOR}{name}" in dataset.variables for name in POSTERIOR_AXES):
        return None
    return {name: dataset[f"{_POSTERIOR}{name}"].to_numpy() for name in POSTERIOR_AXES}


def _rows(dataset: xr.Dataset, name: str) -> Mapping[str, np.ndarray]:
    """Rows of a two-dimensional variable by the text of their coordinate, none where the variable is absent."""
    if name not in dataset.variables:
        return {}
    variable = dataset[name]
    return dict(zip(_texts(variable[str(variable.dims[0])]), variable.to_numpy(), strict=True))
