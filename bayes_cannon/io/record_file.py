"""Records as groups of a netCDF-4 (HDF5) file, written and read from what their fields declare (`core.records`).

A record is a group: its arrays are variables, its numbers and texts are attributes, and each record, mapping or tuple
of records in it is a group of its own. What is None is left out. Values are kept bit for bit, with NaN and infinity.
"""

import os
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from io import BytesIO
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints
from urllib.parse import quote, unquote

import h5netcdf
import h5py
import numpy as np
import xarray as xr
from xarray.conventions import encode_cf_variable, encode_dataset_coordinates

from bayes_cannon.core.records import stored_fields
from bayes_cannon.io.damage import seal

KIND = "kind"
"""Attribute of a group that names the class of its record."""
LENGTH = "length"
"""Attribute of a group that holds a tuple of records, as groups 0, 1 and so on: how many there are."""
_COMPRESSION = {"compression": "gzip", "compression_opts": 4, "shuffle": True}
_COMPRESSED_SIZE = 4096
_SAFE = " .,;:+-*^()[]_"
"""Characters that stay as they are in the name of a variable or attribute made from a key."""

Groups = dict[str, xr.Dataset]
"""Datasets by the path of their group, ``""`` being the root."""


def to_groups(record: Any, path: str = "") -> Groups:
    """A record as datasets by group.

    Raises
    ------
    TypeError
        For an array whose field declares no dimensions, and for a value of a type that cannot be stored, naming it.

    """
    variables: dict[str, Any] = {}
    attributes: dict[str, Any] = {KIND: type(record).__name__}
    groups: Groups = {}
    for field in stored_fields(record):
        value, name = getattr(record, field.name), f"{path}/{field.name}"
        if value is None:
            continue
        if "encode" in field.metadata:
            value = field.metadata["encode"](value)
        axes, about = field.metadata.get("dims"), field.metadata.get("about", "")
        if is_dataclass(value):
            groups |= to_groups(value, name)
        elif isinstance(value, tuple) and value and all(map(is_dataclass, value)):
            groups |= {name: xr.Dataset(attrs={LENGTH: len(value)})}
            for number, item in enumerate(value):
                groups |= to_groups(item, f"{name}/{number}")
        elif isinstance(value, Mapping):
            groups |= _mapping_groups(value, name, axes)
        elif axes is not None and np.ndim(value):
            variables[field.name] = axes, _writable(value), {"long_name": about} if about else {}
        else:
            attributes[field.name] = _attribute(value, name)
    return {path: xr.Dataset(variables, attrs=attributes), **groups}


def from_groups(kind: type, groups: Groups, path: str = "", **given: Any) -> Any:
    """The record that a group holds.

    Parameters
    ----------
    kind
        Its class.
    groups
        All groups of the file.
    path
        Its group.
    given
        Values of fields that are not stored, of this record or of those in it. Fields of a record are given to the
        records that follow in it.

    Raises
    ------
    KeyError
        If a part is missing, naming it.
    ValueError
        If a record is of an unknown class.

    """
    dataset, hints, values = groups[path], get_type_hints(kind), dict[str, Any]()
    for field in stored_fields(kind):
        name, hint = f"{path}/{field.name}", hints[field.name]
        stored_as = field.metadata.get("stored_as", hint)
        if field.name in dataset.variables:
            value = _read(dataset[field.name].to_numpy(), stored_as)
        elif name in groups:
            value = _nested(field, stored_as, groups, name, given | values)
        elif field.name in dataset.attrs:
            value = _read(dataset.attrs[field.name], stored_as)
        elif NoneType in _members(hint):
            value = None
        elif field.default is not MISSING:
            value = field.default
        elif field.default_factory is not MISSING:
            value = field.default_factory()
        else:
            raise KeyError(name.removeprefix("/"))
        if value is not None and "decode" in field.metadata:
            value = field.metadata["decode"](value)
        values[field.name] = value
    return kind(**values, **{name: given[name] for name in {field.name for field in fields(kind)} - set(values)})


def write_groups(path: str | os.PathLike, groups: Groups) -> None:
    """Write all groups to one new file, with checksums of every array and of the whole (`io.damage`).

    HDF5 makes the file in memory, because it can end the process where a disk is full.
    """
    memory = BytesIO()
    with h5netcdf.File(memory, "w") as file:
        for name, dataset in groups.items():
            _fill(file.create_group(name) if name else file, dataset)
    with open(path, "wb") as disk:
        disk.write(memory.getbuffer())
    seal(path)


def read_groups(path: str | os.PathLike) -> Groups:
    """All groups of a file that `io.damage.check` has passed, read into memory; errors are those of HDF5 and xarray."""
    names = [""]
    with h5py.File(path) as file:
        file.visititems(lambda name, item: names.append(f"/{name}") if isinstance(item, h5py.Group) else None)
    return {
        name: xr.load_dataset(
            path, group=name or None, engine="h5netcdf", phony_dims="sort", mask_and_scale=False, decode_times=False,
            decode_timedelta=False,
        )
        for name in names
    }  # fmt: skip


def _fill(group: h5netcdf.Group, dataset: xr.Dataset) -> None:
    """Write a dataset into an empty group."""
    variables, attributes = encode_dataset_coordinates(dataset)
    for name, size in dataset.sizes.items():
        group.dimensions[name] = size
    for name, values in attributes.items():
        group.attrs[name] = values
    for name, plain in variables.items():
        # No fill value is invented, so that NaN stays the NaN that it was.
        values = encode_cf_variable(plain.copy(deep=False)._replace(encoding={"_FillValue": None}), name=name)
        texts = values.dtype == object
        dtype = h5py.string_dtype() if texts else values.dtype
        variable = group.create_variable(name, values.dims, dtype, data=values.to_numpy(), **_filters(values))
        for key, value in values.attrs.items():
            variable.attrs[key] = value


def _mapping_groups(values: Mapping[str, Any], path: str, axes: tuple[str, ...] | None) -> Groups:
    variables, attributes = {}, {}
    for key, value in values.items():
        name = quote(str(key), safe=_SAFE)
        if axes is not None and np.ndim(value):
            variables[name] = axes, _writable(value)
        else:
            attributes[name] = _attribute(value, f"{path}/{key}")
    return {path: xr.Dataset(variables, attrs=attributes)}


def _nested(field: Field[Any], hint: Any, groups: Groups, path: str, given: dict[str, Any]) -> Any:
    """The record or mapping in the group of a field."""
    if get_origin(hint) is tuple:
        numbers = range(int(groups[path].attrs[LENGTH]))
        return tuple(from_groups(get_args(hint)[0], groups, f"{path}/{number}", **given) for number in numbers)
    if any(get_origin(member) in (dict, Mapping) for member in _members(hint)):
        dataset = groups[path]
        arrays = {unquote(str(name)): _read(values.to_numpy(), Any) for name, values in dataset.variables.items()}
        return arrays | {unquote(str(name)): _plain(value) for name, value in dataset.attrs.items()}
    name = str(groups[path].attrs.get(KIND, ""))
    known = field.metadata["kinds"]() if "kinds" in field.metadata else {}
    known = known or {member.__name__: member for member in _members(hint) if isinstance(member, type)}
    if name not in known:
        raise ValueError(
            f"{path.removeprefix('/')} is of the class {name!r}, not one of {', '.join(known)}. If that is a class of "
            "yours, import the module that defines it before reading"
        )
    return from_groups(known[name], groups, path, **given)


def _members(hint: Any) -> tuple[Any, ...]:
    """Types of a union, or the one type."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _read(value: Any, hint: Any) -> Any:
    """A value as the type of its field, which netCDF may have changed: bool to integer, tuple to array."""
    members = _members(hint)
    if isinstance(value, np.ndarray) and value.dtype.kind in "OUST":
        value = np.array([_text(item) for item in value.ravel()], dtype=object).reshape(value.shape)
    for member in members:
        if member is tuple or get_origin(member) is tuple:
            return tuple(value.tolist() if isinstance(value, np.ndarray) else value)
    if isinstance(value, np.ndarray) and value.ndim:
        return value
    plain = _plain(value)
    if bool in members and not isinstance(plain, str):
        return bool(plain)
    if float in members and int not in members and isinstance(plain, int):
        return float(plain)
    return plain


def _plain(value: Any) -> Any:
    """An attribute as a Python number or text."""
    if isinstance(value, h5py.Empty):  # How HDF5 keeps an empty text.
        return ""
    if isinstance(value, bytes | str):
        return _text(value)
    array = np.asarray(value)
    return array.item() if array.size == 1 else array


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _writable(values: Any) -> np.ndarray:
    """The array; texts as objects, which netCDF keeps at their own lengths."""
    array = np.asarray(values)
    return array.astype(object) if array.dtype.kind in "US" else array


def _attribute(value: Any, name: str) -> Any:
    if isinstance(value, bool | np.bool_):  # netCDF has no booleans.
        return np.int8(value)
    if isinstance(value, str):
        return value
    array = np.asarray(value)
    if array.dtype.kind not in "iuf" or array.ndim > 1:
        raise TypeError(f"{name} cannot be stored: it is {type(value).__name__} {value!r:.60}")
    if array.ndim and not isinstance(value, tuple):
        raise TypeError(f"{name} cannot be stored: it is an array, and its field declares no dimensions")
    return array if array.ndim else array[()]


def _filters(variable: xr.Variable) -> dict[str, Any]:
    """Every array of numbers has a checksum (fletcher32), and large ones are compressed."""
    if variable.dtype == object or not variable.size or not variable.ndim:
        return {}
    return {"fletcher32": True} | (_COMPRESSION if variable.size >= _COMPRESSED_SIZE else {})
