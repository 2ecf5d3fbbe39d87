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
from typing import Any, Self

import numpy as np
import xarray as xr

from bayes_cannon.core.arguments import check_kind, file_path, mapping
from bayes_cannon.core.arguments import texts as names_in
from bayes_cannon.core.intake import chosen_rows, flux_and_ivar, is_plain, real_numbers
from bayes_cannon.io.atomic import atomic_path, recover
from bayes_cannon.io.damage import check, reading
from bayes_cannon.io.npz import read_npz, write_npz
from bayes_cannon.io.record_file import write_groups
from bayes_cannon.io.spectra_variables import RESERVED, USED, beyond_float, from_arrays, from_dataset, texts
from bayes_cannon.io.zarr_files import check_store, checked_codecs, missing_chunks, refused_arrays, seal_store

OWN_SUFFIXES = (".nc", ".h5", ".hdf5", ".zarr", ".npz")
"""Of files of spectra of this package."""
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
        Integers that float64 does not hold, of more than 53 bits such as Gaia source ids, become ``identifiers``.
    identifiers
        Texts of each star by name, each of shape (star,): further names of it, the field, the telescope. Empty is not
        known.
    units
        Unit by name, of labels and of ``flux`` and ``wavelength``.
    attrs
        Texts and numbers about the whole set.
    numbered
        Whether ``star_id`` are row numbers, because no names were given.
    noise_correlation
        Correlation of the noise between pixels, mean over the stars, shape (pixel, other pixel); None is not known.

    Raises
    ------
    ValueError
        If a shape does not fit the others, or a label or identifier has the name of another variable.

    Examples
    --------
    >>> spectra = tc.io.Spectra(np.ones((3, 4)), np.full((3, 4), 1e4), labels={"TEFF": [4500, 5000, 5500]})
    >>> spectra.at(spectra.labels["TEFF"] > 4800).ids
    array(['1', '2'], dtype='<U1')

    """

    flux: np.ndarray
    ivar: np.ndarray
    wavelength: np.ndarray | None = None
    star_id: np.ndarray | None = None
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    attrs: Mapping[str, str | float | int] = field(default_factory=dict)
    numbered: bool = False
    identifiers: Mapping[str, np.ndarray] = field(default_factory=dict)
    noise_correlation: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name, wanted in (("labels", "names to numbers"), ("units", "names to units"), ("attrs", "names to texts")):
            _set(self, name, mapping(getattr(self, name), name, wanted))
            names_in(list(getattr(self, name)), f"the names in {name}")
        flux, ivar, unit = flux_and_ivar(self.flux, self.ivar, unit=self.units.get("flux"))
        if unit:
            _set(self, "units", {**self.units, "flux": unit})
        _set(self, "flux", self._pixels("flux", flux))
        if self.flux.ndim != 2:
            raise ValueError(f"flux must have shape (star, pixel), got shape {self.flux.shape}")
        n_stars, n_pixels = self.flux.shape
        _set(self, "ivar", _of_shape("ivar", self._pixels("ivar", ivar), (n_stars, n_pixels)))
        if self.wavelength is not None:
            _set(self, "wavelength", _of_shape("wavelength", _numbers("wavelength", self.wavelength), (n_pixels,)))
        if self.noise_correlation is not None:
            correlation = _numbers("noise_correlation", self.noise_correlation)
            _set(self, "noise_correlation", _of_shape("noise_correlation", correlation, (n_pixels, n_pixels)))
        _set(self, "numbered", self.numbered or self.star_id is None)
        ids = _row_numbers(n_stars) if self.star_id is None else texts(self.star_id)
        _set(self, "star_id", _of_shape("star_id", ids, (n_stars,)))
        long = {name: values for name, values in self.labels.items() if beyond_float(values)}
        numeric = {name: values for name, values in self.labels.items() if name not in long}
        identifiers = {name: texts(values) for name, values in {**self.identifiers, **long}.items()}
        for name in (*numeric, *identifiers):
            if name in RESERVED:
                raise ValueError(f"a label cannot be called {name!r}: the name stands for another variable")
            if name in numeric and name in identifiers:
                raise ValueError(f"{name!r} is a label and an identifier: give one of them another name")
        for name, values in identifiers.items():
            identifiers[name] = _of_shape(name, values, (n_stars,))
        labels = {name: _of_shape(name, _numbers(name, values), (n_stars,)) for name, values in numeric.items()}
        _set(self, "labels", labels)
        _set(self, "identifiers", identifiers)

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

    @staticmethod
    def _pixels(name: str, values: Any) -> np.ndarray:
        """Flux or ivar as it is kept."""
        return _numbers(name, values)

    def at(self, stars: np.ndarray | slice) -> Self:
        """Spectra of some of the stars, by mask, indices or slice."""
        stars = chosen_rows(stars, self.n_stars)
        return replace(
            self,
            flux=self.flux[stars],
            ivar=self.ivar[stars],
            star_id=self.ids[stars],
            labels={name: values[stars] for name, values in self.labels.items()},
            identifiers={name: values[stars] for name, values in self.identifiers.items()},
        )

    def label_array(self, label_names: list[str] | tuple[str, ...]) -> np.ndarray:
        """Labels of all stars, shape (star, label).

        Raises
        ------
        ValueError
            For a label that is not there, listing those that are.

        """
        label_names = names_in(label_names, "label_names")
        if not label_names:
            raise ValueError(f"label_names is empty; there are {', '.join(self.labels) or 'none'}")
        for name in label_names:
            if name not in self.labels:
                raise ValueError(f"there is no label {name!r}; there are {', '.join(self.labels) or 'none'}")
        return np.stack([self.labels[name] for name in label_names], axis=1)


class StoredSpectra(Spectra):
    """Spectra whose flux and ivar stay in float32 where a file holds them so: half of the memory, the same numbers."""

    @staticmethod
    def _pixels(name: str, values: Any) -> np.ndarray:
        if is_plain(values) and np.asarray(values).dtype == np.float32:
            return np.asarray(values)
        return _numbers(name, values)


def read_spectra_file(path: str | os.PathLike) -> Spectra:
    """Read one file of this package's own formats into memory; `bayes_cannon.io.read_spectra` reads any.

    Parameters
    ----------
    path
        A ``.nc``, ``.h5``, ``.hdf5`` or ``.zarr`` Dataset with variables ``flux`` and ``ivar`` over ``star`` and
        ``pixel``, coordinates ``wavelength`` and ``star``, a ``mask`` like flux that is True where ivar is to be zero,
        and any number of variables over ``star``: numbers are taken as labels, texts as identifiers. Or an ``.npz``, or
        an HDF5 file whose dimensions have no names, with arrays ``flux`` and ``ivar``, ``mask``, ``wavelength`` or
        ``dispersion``, ``star_id``, and either one array a label or ``labels`` of shape (star, label) with
        ``label_names``; texts of shape (star,) are identifiers. Others are ignored.

    Returns
    -------
    spectra
        Every array of numbers as float64. Numbers that are packed by the CF conventions are unpacked (`io.packing`).
        Where flux or ivar are missing by them ivar is 0; labels are NaN there. So it is where a Zarr store that others
        wrote, which has no checksums, lacks a chunk.

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
    suffix = known_suffix(path)
    path = recover(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path} with spectra")
    with reading(path, "spectra", _WANTED):
        if suffix == ".npz":
            return Spectra(**from_arrays(*read_npz(path)))
        with open_dataset(path, suffix) as dataset:
            return Spectra(**from_dataset(dataset, missing_chunks(path, dataset) if suffix == ".zarr" else {}))


def write_spectra(path: str | os.PathLike, spectra: Spectra, *, overwrite: bool = False) -> None:
    """Write spectra so that `read_spectra_file` gives them back. The file appears whole or not at all.

    Parameters
    ----------
    path
        File to write; its suffix says the format, as for `read_spectra_file`.
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
    suffix = known_suffix(file_path(path))
    with atomic_path(path, overwrite=overwrite) as temporary:
        if suffix == ".npz":
            arrays: dict[str, Any] = {"flux": spectra.flux, "ivar": spectra.ivar}
            arrays |= {**spectra.labels, **spectra.identifiers}
            if spectra.has_own_ids:
                arrays["star_id"] = spectra.ids
            for name in ("wavelength", "noise_correlation"):
                if getattr(spectra, name) is not None:
                    arrays[name] = getattr(spectra, name)
            write_npz(temporary, arrays, {"units": dict(spectra.units), "attrs": dict(spectra.attrs)})
        elif suffix == ".zarr":
            dataset, packing = to_dataset(spectra), {"compressors": checked_codecs()}
            packings = {
                name: packing | ({"_FillValue": None} if variable.dtype == float else {})
                for name, variable in dataset.variables.items()
            }
            dataset.to_zarr(
                temporary, mode="w", consolidated=False, zarr_format=3, write_empty_chunks=True, encoding=packings
            )
            seal_store(temporary)
        else:
            write_groups(temporary, {"": to_dataset(spectra)})


def known_suffix(path: Path) -> str:
    """Suffix of a file of spectra of this package; ValueError for another, ImportError where it needs an extra."""
    suffix = path.suffix.lower()
    if suffix not in OWN_SUFFIXES:
        raise ValueError(
            f"the suffix of {path} must be one of {', '.join(OWN_SUFFIXES)} to hold spectra, got {suffix!r}"
        )
    if suffix == ".zarr" and find_spec("zarr") is None:
        raise ImportError(f"{path} needs the package zarr: install bayes-cannon[zarr]")
    return suffix


def open_dataset(path: Path, suffix: str, *, checked: bool = True, cache: bool = True) -> xr.Dataset:
    """A dataset whose arrays are read when they are used, and kept if ``cache``; ``checked`` for damage before."""
    plain: dict[str, Any] = {
        "mask_and_scale": False, "decode_times": False, "decode_timedelta": False, "cache": cache,
    }  # fmt: skip
    if suffix != ".zarr":
        check(path, hdf5=True)
        return xr.open_dataset(path, engine="h5netcdf", phony_dims="sort", **plain)
    if checked:
        check_store(path)
    refused = refused_arrays(path)
    for name in USED:
        if name in refused:
            raise ValueError(f"{name!r} is not read: {refused[name]}")
    return xr.open_dataset(
        path, engine="zarr", consolidated=False, drop_variables=list(refused), create_default_indexes=False, **plain
    )  # An index would read the names of all stars.


def to_dataset(spectra: Spectra) -> xr.Dataset:
    """The Dataset that is written."""
    variables: dict[str, Any] = {"flux": (("star", "pixel"), spectra.flux), "ivar": (("star", "pixel"), spectra.ivar)}
    variables |= {name: ("star", values) for name, values in spectra.labels.items()}
    variables |= {name: ("star", values.astype(object)) for name, values in spectra.identifiers.items()}
    if spectra.noise_correlation is not None:
        variables["noise_correlation"] = ("pixel", "other_pixel"), spectra.noise_correlation
    coords: dict[str, Any] = {"star": spectra.ids.astype(object)} if spectra.has_own_ids else {}
    if spectra.wavelength is not None:
        coords["wavelength"] = ("pixel", spectra.wavelength)
    dataset = xr.Dataset(variables, coords, dict(spectra.attrs))
    for name, unit in spectra.units.items():
        if name in dataset.variables:
            dataset[name].attrs["units"] = unit
    return dataset


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
