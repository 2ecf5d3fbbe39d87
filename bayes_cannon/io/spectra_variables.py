"""The fields of `bayes_cannon.io.Spectra` from the variables of a file, whatever library opened it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from bayes_cannon.core.intake import as_array, as_mask
from bayes_cannon.io.damage import check_fits
from bayes_cannon.io.packing import PACKED, masked_flux, numbers, whole_numbers

RESERVED = (
    "flux", "ivar", "wavelength", "dispersion", "star", "star_id", "pixel", "labels", "label_names", "attrs",
    "noise_correlation",
)  # fmt: skip
USED = (
    "flux", "ivar", "wavelength", "dispersion", "star", "star_id", "labels", "label_names", "label_errors",
    "noise_correlation",
)  # fmt: skip
_LARGEST = 2**53
"""Up to here float64 holds every integer."""


def beyond_float(values: Any) -> bool:
    """Whether these are integers of which float64 does not hold every one."""
    values = np.asarray(values)
    if values.dtype.kind not in "iu" or not values.size:
        return False
    return bool(values.max() > _LARGEST or values.min() < -_LARGEST)


def texts(values: Any) -> np.ndarray:
    """Texts of a fixed width from texts, bytes or numbers of any kind."""
    given = as_array(values, "the names")
    found = [value.decode() if isinstance(value, bytes) else str(value) for value in given.ravel()]
    return np.array(found, dtype=str).reshape(given.shape)


def from_dataset(
    dataset: xr.Dataset, absent: Mapping[str, xr.Variable], *, as_stored: bool = False
) -> dict[str, Any]:  # fmt: skip
    """The fields of `Spectra` that a dataset holds.

    Parameters
    ----------
    dataset
        It, with numbers as they are stored.
    absent
        Where an array lacks its chunks, by its name.
    as_stored
        Whether flux and ivar in float32 stay so.

    """
    for name in ("flux", "ivar"):
        if name not in dataset:
            raise ValueError(f"there is no variable {name!r} in it, but {', '.join(map(str, dataset.variables))}")
        check_fits(name, dataset[name].nbytes)
    if all(str(dim).startswith("phony_dim_") for dim in dataset["flux"].dims):
        return from_arrays(*_arrays_without_dimensions(dataset))
    for name in ("flux", "ivar"):
        if set(dataset[name].dims) != {"star", "pixel"}:
            raise ValueError(f"the dimensions of {name!r} must be star and pixel, got {dataset[name].dims}")
    wavelength = next((dataset[name] for name in ("wavelength", "dispersion") if name in dataset.variables), None)
    if wavelength is not None and wavelength.dims != ("pixel",):
        raise ValueError(f"the dimension of {wavelength.name!r} must be pixel, got {wavelength.dims}")
    per_star = {
        str(name): _per_star(variable)
        for name, variable in dataset.variables.items()
        if variable.dims == ("star",) and name not in RESERVED
    }
    ids = next((dataset[name].to_numpy() for name in ("star", "star_id") if name in dataset.variables), None)
    of_pixels = [dataset[name].variable.transpose("star", "pixel") for name in ("flux", "ivar")]
    flux, ivar = masked_flux(*of_pixels, as_stored=as_stored)
    for name in {"flux", "ivar"} & set(absent):
        ivar = np.where(absent[name].transpose("star", "pixel").to_numpy(), ivar.dtype.type(0), ivar)
    if "mask" in dataset and set(dataset["mask"].dims) == {"star", "pixel"}:
        ivar = _unmasked(ivar, dataset["mask"].transpose("star", "pixel").to_numpy())
    correlation = dataset.get("noise_correlation")
    return dict(
        noise_correlation=None if correlation is None else numbers(correlation.variable)[0],
        flux=flux,
        ivar=ivar,
        wavelength=None if wavelength is None else whole_numbers(str(wavelength.name), wavelength.variable),
        star_id=ids,
        labels={
            name: np.where(absent[name].to_numpy(), np.nan, values) if name in absent else values
            for name, values in per_star.items()
            if values.dtype.kind == "f"
        },
        identifiers={name: texts(values) for name, values in per_star.items() if _are_texts(values)},
        **_about(dataset),
    )


def _arrays_without_dimensions(dataset: xr.Dataset) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of an HDF5 file that says nothing about their axes, which `from_arrays` tells by their shapes."""
    n_stars = len(dataset["flux"]) if dataset["flux"].ndim else 0
    arrays: dict[str, np.ndarray] = {}
    for name, variable in dataset.variables.items():
        if name in ("flux", "ivar") or not (name in USED or variable.shape == (n_stars,)):
            continue
        is_wavelength = name in ("wavelength", "dispersion")
        arrays[str(name)] = whole_numbers(str(name), variable) if is_wavelength else _per_star(variable)
    arrays["flux"], arrays["ivar"] = masked_flux(dataset["flux"].variable, dataset["ivar"].variable)
    if "star" in arrays:
        arrays.setdefault("star_id", arrays.pop("star"))
    return arrays, _about(dataset)


def _about(dataset: xr.Dataset) -> dict[str, Any]:
    units = {str(name): str(v.attrs["units"]) for name, v in dataset.variables.items() if "units" in v.attrs}
    return {"units": units, "attrs": plain_attributes(dataset.attrs)}


def from_arrays(arrays: dict[str, np.ndarray], about: dict[str, Any]) -> dict[str, Any]:
    """The fields of `Spectra` that arrays without names of their dimensions hold, told by their shapes."""
    for name in ("flux", "ivar"):
        if name not in arrays:
            raise ValueError(
                f"there is no array {name!r} in it, but {', '.join(arrays) or 'nothing'}: save it with these names, "
                "ivar being 1 / error**2"
            )
    named: list[str] = [name for name in ("wavelength", "dispersion") if name in arrays]
    wavelengths = named or [name for name in arrays if name.startswith("wave")]
    n_stars = len(arrays["flux"]) if arrays["flux"].ndim else 0
    per_star = {
        name: values
        for name, values in arrays.items()
        if values.shape == (n_stars,) and name not in {*RESERVED, *wavelengths}
    }
    labels = {name: values for name, values in per_star.items() if values.dtype.kind in "fiu"}
    ivar = arrays["ivar"]
    if arrays.get("mask") is not None and arrays["mask"].shape == arrays["flux"].shape:
        ivar = _unmasked(ivar, arrays["mask"])
    return {
        "flux": arrays["flux"],
        "ivar": ivar,
        "wavelength": arrays[wavelengths[0]] if wavelengths else None,
        "star_id": arrays.get("star_id"),
        "noise_correlation": arrays.get("noise_correlation"),
        "labels": labels | _columns(arrays, "labels", "") | _columns(arrays, "label_errors", "_ERR"),
        "identifiers": {name: texts(values) for name, values in per_star.items() if _are_texts(values)},
        "units": about.get("units", {}),
        "attrs": about.get("attrs", {}),
    }


def _unmasked(ivar: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Ivar with zero where the mask of the same file is True."""
    masked = as_mask(mask, ivar.shape, "flux")
    return ivar if masked is None else np.where(masked, ivar.dtype.type(0), ivar)


def _columns(arrays: dict[str, np.ndarray], name: str, suffix: str) -> dict[str, np.ndarray]:
    """Columns of a (star, label) array under the names in ``label_names``, none where there is no such array."""
    if name not in arrays:
        return {}
    names = arrays.get("label_names")
    if names is None:
        raise ValueError(f"the array {name!r} needs an array 'label_names' in the same file")
    if arrays[name].ndim != 2 or names.shape != (arrays[name].shape[1],):
        raise ValueError(
            f"{name!r} must have shape (star, {names.size}) for the {names.size} label_names, "
            f"got shape {arrays[name].shape}"
        )
    return {f"{label}{suffix}": arrays[name][:, k] for k, label in enumerate(texts(names))}


def plain_attributes(attributes: Mapping[Any, Any]) -> dict[str, str | float | int]:
    """Those that are texts and numbers."""
    plain = {str(k): v.item() if isinstance(v, np.generic) else v for k, v in attributes.items()}
    return {name: value for name, value in plain.items() if isinstance(value, str | float | int)}


def _per_star(variable: xr.Variable) -> np.ndarray:
    """Numbers of a variable as float64; as texts, empty where missing, if float64 does not hold these integers."""
    unpacked, missing = numbers(variable)
    values = variable.to_numpy()
    if PACKED & {*variable.attrs} or not beyond_float(values[~missing]):
        return unpacked
    return np.where(missing, "", texts(values))


def _are_texts(values: np.ndarray) -> bool:
    return values.dtype.kind in "SUT" or (
        values.dtype.kind == "O" and all(isinstance(value, str | bytes) for value in values.ravel())
    )
