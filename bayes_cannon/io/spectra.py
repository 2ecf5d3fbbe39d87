"""Spectra of many stars on one wavelength grid, with what is known of each star.

Three kinds of file hold them: netCDF-4 or HDF5 (``.nc``, ``.h5``, ``.hdf5``) and Zarr (``.zarr``), both with the
dimensions ``star`` and ``pixel``, and NumPy's ``.npz``. A masked pixel is one with ``ivar = 0``: bit masks must be
turned into that before.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from bayes_cannon.core.arguments import check_kind, file_path, mapping, texts
from bayes_cannon.core.intake import as_array, as_mask, chosen_rows, flux_and_ivar, is_plain, real_numbers
from bayes_cannon.core.typing import PerPixel, StarPixel
from bayes_cannon.io.atomic import atomic_path, recover
from bayes_cannon.io.damage import check, check_fits, reading
from bayes_cannon.io.npz import read_npz, write_npz
from bayes_cannon.io.packing import masked_flux, numbers, whole_numbers
from bayes_cannon.io.record_file import write_groups
from bayes_cannon.io.zarr_files import check_store, checked_codecs, missing_chunks, refused_arrays, seal_store

_HDF5_SUFFIXES = (".nc", ".h5", ".hdf5")
_RESERVED = ("flux", "ivar", "wavelength", "dispersion", "star", "star_id", "pixel", "labels", "label_names", "attrs")
_USED = ("flux", "ivar", "wavelength", "dispersion", "star", "star_id", "labels", "label_names", "label_errors")
_WANTED = "expected flux and ivar of shape (star, pixel), wavelength of shape (pixel,) and one value a star for a label"


@dataclass(frozen=True)
class Spectra:
    """Spectra of N stars in P pixels. Shapes are checked when it is made; values are not.

    Attributes
    ----------
    flux, ivar
        Flux and its inverse variance, shape (star, pixel).
    wavelength
        Wavelength of each pixel, shape (pixel,), or None.
    star_id
        Name of each star, shape (star,), texts. By default the row numbers.
    labels
        Numbers of each star by name, each of shape (star,): labels, their errors, magnitudes. NaN is not known.
    units
        Unit by name, of labels and of ``flux`` and ``wavelength``.
    attrs
        Texts and numbers about the whole set.
    numbered
        Whether ``star_id`` are row numbers, because no names were given.

    Raises
    ------
    ValueError
        If a shape does not fit the others, or a label has the name of another variable.

    Examples
    --------
    >>> spectra = tc.io.Spectra(np.ones((3, 4)), np.full((3, 4), 1e4), labels={"TEFF": [4500, 5000, 5500]})
    >>> spectra.at(spectra.labels["TEFF"] > 4800).ids
    array(['1', '2'], dtype='<U1')

    """

    flux: StarPixel
    ivar: StarPixel
    wavelength: PerPixel | None = None
    star_id: np.ndarray | None = None
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    attrs: Mapping[str, str | float | int] = field(default_factory=dict)
    numbered: bool = False

    def __post_init__(self) -> None:
        for name, wanted in (("labels", "names to numbers"), ("units", "names to units"), ("attrs", "names to texts")):
            _set(self, name, mapping(getattr(self, name), name, wanted))
            texts(list(getattr(self, name)), f"the names in {name}")
        flux, ivar, unit = flux_and_ivar(self.flux, self.ivar, unit=self.units.get("flux"))
        if unit:
            _set(self, "units", {**self.units, "flux": unit})
        _set(self, "flux", _numbers("flux", flux))
        if self.flux.ndim != 2:
            raise ValueError(f"flux must have shape (star, pixel), got shape {self.flux.shape}")
        n_stars, n_pixels = self.flux.shape
        _set(self, "ivar", _of_shape("ivar", _numbers("ivar", ivar), (n_stars, n_pixels)))
        if self.wavelength is not None:
            _set(self, "wavelength", _of_shape("wavelength", _numbers("wavelength", self.wavelength), (n_pixels,)))
        _set(self, "numbered", self.numbered or self.star_id is None)
        ids = _row_numbers(n_stars) if self.star_id is None else _texts(self.star_id)
        _set(self, "star_id", _of_shape("star_id", ids, (n_stars,)))
        taken = [name for name in self.labels if name in _RESERVED]
        if taken:
            raise ValueError(f"a label cannot be called {taken[0]!r}: the name stands for another variable")
        labels = {name: _of_shape(name, _numbers(name, values), (n_stars,)) for name, values in self.labels.items()}
        _set(self, "labels", labels)

    @property
    def n_stars(self) -> int:
        """Number of stars N."""
        return self.flux.shape[0]

    @property
    def n_pixels(self) -> int:
        """Number of pixels P."""
        return self.flux.shape[1]

    @property
    def ids(self) -> np.ndarray:
        """Name of each star, shape (star,), texts."""
        return np.asarray(self.star_id)

    @property
    def has_own_ids(self) -> bool:
        """Whether the names of the stars were given; without them they are row numbers."""
        return not self.numbered

    def at(self, stars: np.ndarray | slice) -> "Spectra":
        """Spectra of some of the stars, by mask, indices or slice."""
        stars = chosen_rows(stars, self.n_stars)
        return replace(
            self,
            flux=self.flux[stars],
            ivar=self.ivar[stars],
            star_id=self.ids[stars],
            labels={name: values[stars] for name, values in self.labels.items()},
        )

    def label_array(self, label_names: list[str] | tuple[str, ...]) -> np.ndarray:
        """Labels of all stars, shape (star, label).

        Raises
        ------
        ValueError
            For a label that is not there, listing those that are.

        """
        label_names = texts(label_names, "label_names")
        if not label_names:
            raise ValueError(f"label_names is empty; there are {', '.join(self.labels) or 'none'}")
        for name in label_names:
            if name not in self.labels:
                raise ValueError(f"there is no label {name!r}; there are {', '.join(self.labels) or 'none'}")
        return np.stack([self.labels[name] for name in label_names], axis=1)


def read_spectra(path: str | os.PathLike) -> Spectra:
    """Read spectra into memory.

    Parameters
    ----------
    path
        A ``.nc``, ``.h5``, ``.hdf5`` or ``.zarr`` Dataset with variables ``flux`` and ``ivar`` over ``star`` and
        ``pixel``, coordinates ``wavelength`` and ``star``, a ``mask`` like flux that is True where ivar is to be zero,
        and any number of numeric variables over ``star``, taken as labels. Or an ``.npz``, or an HDF5 file whose
        dimensions have no names, with arrays ``flux`` and ``ivar``, ``mask``, ``wavelength`` or ``dispersion``,
        ``star_id``, and either one array a label or ``labels`` of shape (star, label) with ``label_names``. Others are
        ignored.

    Returns
    -------
    spectra
        Every array as float64. Numbers that are packed by the CF conventions are unpacked (`io.packing`). Where flux
        or ivar are missing by them ivar is 0; labels are NaN there. So it is where a Zarr store that others wrote,
        which has no checksums, lacks a chunk.

    Warns
    -----
    MissingChunksWarning
        If such a store lacks chunks, naming the arrays: by Zarr's specification they hold nothing but the fill value,
        but one that was lost looks the same.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        For ``.zarr`` where the extra ``bayes-cannon[zarr]`` is not installed.
    ValueError
        For a file that cannot be read, is damaged, does not fit into memory or lacks something, such as a wavelength
        or a chunk of them or of the names, naming the file, the variable and what was expected.

    Examples
    --------
    >>> np.savez("spectra.npz", flux=np.ones((3, 4)), ivar=np.full((3, 4), 1e4), TEFF=np.array([4500, 5000, 5500]))
    >>> spectra = tc.io.read_spectra("spectra.npz")
    >>> spectra.n_stars, spectra.n_pixels, list(spectra.labels)
    (3, 4, ['TEFF'])

    """
    path = file_path(path)
    suffix = _known_suffix(path)
    path = recover(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path} with spectra")
    with reading(path, "spectra", _WANTED):
        if suffix == ".npz":
            return _from_arrays(*read_npz(path))
        with _open_dataset(path, suffix) as dataset:
            return _from_dataset(dataset, missing_chunks(path, dataset) if suffix == ".zarr" else {})


def write_spectra(path: str | os.PathLike, spectra: Spectra, *, overwrite: bool = False) -> None:
    """Write spectra so that `read_spectra` gives them back. The file appears whole or not at all.

    Parameters
    ----------
    path
        File to write; its suffix says the format, as for `read_spectra`.
    spectra
        What to write.
    overwrite
        Replace what exists.

    Raises
    ------
    FileExistsError
        If the file exists and ``overwrite`` is False.
    ImportError
        For ``.zarr`` where the extra ``bayes-cannon[zarr]`` is not installed.
    ValueError
        For a suffix that is not known.

    Examples
    --------
    >>> spectra = tc.io.Spectra(np.ones((3, 4)), np.full((3, 4), 1e4), wavelength=np.linspace(5000, 5003, 4))
    >>> tc.io.write_spectra("written.nc", spectra)
    >>> tc.io.read_spectra("written.nc").wavelength
    array([5000., 5001., 5002., 5003.])

    """
    check_kind(spectra, Spectra, "spectra", "a Spectra")
    suffix = _known_suffix(file_path(path))
    with atomic_path(path, overwrite=overwrite) as temporary:
        if suffix == ".npz":
            arrays: dict[str, Any] = {"flux": spectra.flux, "ivar": spectra.ivar, **spectra.labels}
            if spectra.has_own_ids:
                arrays["star_id"] = spectra.ids
            if spectra.wavelength is not None:
                arrays["wavelength"] = spectra.wavelength
            write_npz(temporary, arrays, {"units": dict(spectra.units), "attrs": dict(spectra.attrs)})
        elif suffix == ".zarr":
            dataset, packing = _to_dataset(spectra), {"compressors": checked_codecs()}
            packings = {
                name: packing | ({"_FillValue": None} if variable.dtype == float else {})
                for name, variable in dataset.variables.items()
            }
            dataset.to_zarr(
                temporary, mode="w", consolidated=False, zarr_format=3, write_empty_chunks=True, encoding=packings
            )
            seal_store(temporary)
        else:
            write_groups(temporary, {"": _to_dataset(spectra)})


def _known_suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    known = (*_HDF5_SUFFIXES, ".zarr", ".npz")
    if suffix not in known:
        raise ValueError(f"the suffix of {path} must be one of {', '.join(known)} to hold spectra, got {suffix!r}")
    if suffix == ".zarr" and find_spec("zarr") is None:
        raise ImportError(f"{path} needs the package zarr: install bayes-cannon[zarr]")
    return suffix


def _open_dataset(path: Path, suffix: str) -> xr.Dataset:
    """A dataset whose arrays are read when they are used, after it was looked at for damage."""
    plain: dict[str, Any] = {"mask_and_scale": False, "decode_times": False, "decode_timedelta": False}
    if suffix != ".zarr":
        check(path, hdf5=True)
        return xr.open_dataset(path, engine="h5netcdf", phony_dims="sort", **plain)
    check_store(path)
    refused = refused_arrays(path)
    for name in _USED:
        if name in refused:
            raise ValueError(f"{name!r} is not read: {refused[name]}")
    return xr.open_dataset(path, engine="zarr", consolidated=False, drop_variables=list(refused), **plain)


def _from_dataset(dataset: xr.Dataset, absent: Mapping[str, xr.Variable]) -> Spectra:
    for name in ("flux", "ivar"):
        if name not in dataset:
            raise ValueError(f"there is no variable {name!r} in it, but {', '.join(map(str, dataset.variables))}")
        check_fits(name, dataset[name].nbytes)
    if all(str(dim).startswith("phony_dim_") for dim in dataset["flux"].dims):
        return _from_arrays(*_arrays_without_dimensions(dataset))
    for name in ("flux", "ivar"):
        if set(dataset[name].dims) != {"star", "pixel"}:
            raise ValueError(f"the dimensions of {name!r} must be star and pixel, got {dataset[name].dims}")
    wavelength = next((dataset[name] for name in ("wavelength", "dispersion") if name in dataset.variables), None)
    if wavelength is not None and wavelength.dims != ("pixel",):
        raise ValueError(f"the dimension of {wavelength.name!r} must be pixel, got {wavelength.dims}")
    per_star = {
        str(name): variable
        for name, variable in dataset.variables.items()
        if variable.dims == ("star",) and variable.dtype.kind in "fiu" and name not in _RESERVED
    }
    ids = next((dataset[name].to_numpy() for name in ("star", "star_id") if name in dataset.variables), None)
    flux, ivar = masked_flux(*(dataset[name].variable.transpose("star", "pixel") for name in ("flux", "ivar")))
    for name in {"flux", "ivar"} & set(absent):
        ivar = np.where(absent[name].transpose("star", "pixel").to_numpy(), 0.0, ivar)
    if "mask" in dataset and set(dataset["mask"].dims) == {"star", "pixel"}:
        ivar = _unmasked(ivar, dataset["mask"].transpose("star", "pixel").to_numpy())
    return Spectra(
        flux=flux,
        ivar=ivar,
        wavelength=None if wavelength is None else whole_numbers(str(wavelength.name), wavelength.variable),
        star_id=ids,
        labels={
            name: np.where(absent[name].to_numpy(), np.nan, values) if name in absent else values
            for name, values in ((name, numbers(variable)[0]) for name, variable in per_star.items())
        },
        **_about(dataset),
    )


def _arrays_without_dimensions(dataset: xr.Dataset) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of an HDF5 file that says nothing about their axes, which `_from_arrays` tells by their shapes."""
    n_stars = len(dataset["flux"]) if dataset["flux"].ndim else 0
    arrays: dict[str, np.ndarray] = {}
    for name, variable in dataset.variables.items():
        if name in ("flux", "ivar") or not (name in _USED or variable.shape == (n_stars,)):
            continue
        is_wavelength = name in ("wavelength", "dispersion")
        arrays[str(name)] = whole_numbers(str(name), variable) if is_wavelength else numbers(variable)[0]
    arrays["flux"], arrays["ivar"] = masked_flux(dataset["flux"].variable, dataset["ivar"].variable)
    if "star" in arrays:
        arrays.setdefault("star_id", arrays.pop("star"))
    return arrays, _about(dataset)


def _about(dataset: xr.Dataset) -> dict[str, Any]:
    units = {str(name): str(v.attrs["units"]) for name, v in dataset.variables.items() if "units" in v.attrs}
    return {"units": units, "attrs": _plain_attributes(dataset.attrs)}


def _to_dataset(spectra: Spectra) -> xr.Dataset:
    variables: dict[str, Any] = {"flux": (("star", "pixel"), spectra.flux), "ivar": (("star", "pixel"), spectra.ivar)}
    variables |= {name: ("star", values) for name, values in spectra.labels.items()}
    coords: dict[str, Any] = {"star": spectra.ids.astype(object)} if spectra.has_own_ids else {}
    if spectra.wavelength is not None:
        coords["wavelength"] = ("pixel", spectra.wavelength)
    dataset = xr.Dataset(variables, coords, dict(spectra.attrs))
    for name, unit in spectra.units.items():
        if name in dataset.variables:
            dataset[name].attrs["units"] = unit
    return dataset


def _from_arrays(arrays: dict[str, np.ndarray], about: dict[str, Any]) -> Spectra:
    for name in ("flux", "ivar"):
        if name not in arrays:
            raise ValueError(f"there is no array {name!r} in it, but {', '.join(arrays) or 'nothing'}")
    named: list[str] = [name for name in ("wavelength", "dispersion") if name in arrays]
    wavelengths = named or [name for name in arrays if name.startswith("wave")]
    n_stars = len(arrays["flux"]) if arrays["flux"].ndim else 0
    labels = {
        name: values
        for name, values in arrays.items()
        if values.shape == (n_stars,) and values.dtype.kind in "fiu" and name not in {*_RESERVED, *wavelengths}
    }
    ivar = arrays["ivar"]
    if arrays.get("mask") is not None and arrays["mask"].shape == arrays["flux"].shape:
        ivar = _unmasked(ivar, arrays["mask"])
    return Spectra(
        flux=arrays["flux"],
        ivar=ivar,
        wavelength=arrays[wavelengths[0]] if wavelengths else None,
        star_id=arrays.get("star_id"),
        labels=labels | _columns(arrays, "labels", "") | _columns(arrays, "label_errors", "_ERR"),
        units=about.get("units", {}),
        attrs=about.get("attrs", {}),
    )


def _unmasked(ivar: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Ivar with zero where the mask of the same file is True."""
    masked = as_mask(mask, ivar.shape, "flux")
    return ivar if masked is None else np.where(masked, 0.0, ivar)


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
    return {f"{label}{suffix}": arrays[name][:, k] for k, label in enumerate(_texts(names))}


def _plain_attributes(attributes: Mapping[Any, Any]) -> dict[str, str | float | int]:
    plain = {str(k): v.item() if isinstance(v, np.generic) else v for k, v in attributes.items()}
    return {name: value for name, value in plain.items() if isinstance(value, str | float | int)}


def _texts(values: Any) -> np.ndarray:
    """Texts of a fixed width from texts, bytes or numbers of any kind."""
    given = as_array(values, "star_id")
    texts = [value.decode() if isinstance(value, bytes) else str(value) for value in given.ravel()]
    return np.array(texts, dtype=str).reshape(given.shape)


def _row_numbers(n_stars: int) -> np.ndarray:
    return np.arange(n_stars).astype(str)


def _numbers(name: str, values: Any) -> np.ndarray:
    # What has neither mask nor unit is not copied: it may be large.
    return np.asarray(values, dtype=float) if is_plain(values) else real_numbers(values, name)


def _of_shape(name: str, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if values.shape != shape:
        raise ValueError(f"{name} must have shape {shape} to match the flux, got shape {values.shape}")
    return values


def _set(spectra: Spectra, name: str, value: Any) -> None:
    object.__setattr__(spectra, name, value)
