"""A Zarr store of inferred labels, filled shard by shard by any number of processes.

Every array over the stars has one chunk a shard, which is one file, ``NAME/c.NUMBER`` and a ``.0`` for each further
axis. A shard is done if all arrays have that file, and there is no other record of it. A file is written beside its
place and renamed, so that it is whole or not there; a shard that is written twice has the same bytes. The attributes of
the store say what it was made of, and its array ``model`` holds the bytes of the model file, so that whoever fills it
needs nothing else.
"""

import json
import os
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from bayes_cannon.core.arguments import file_path
from bayes_cannon.io.atomic import atomic_path, recover
from bayes_cannon.io.damage import reading
from bayes_cannon.io.spectra_variables import texts
from bayes_cannon.io.zarr_files import checked_bytes, checked_chunk, checked_codecs, read_json

_MODEL, _NAMES = "model", "label"
_ABOUT = "bayes_cannon_labels"
"""Attribute of the store with what is said about it."""
_AXES = {
    "covariance": ("label", "other_label"), "formal_covariance": ("label", "other_label"),
    "likelihood_covariance": ("label", "other_label"), "region_weights": ("region",),
    "error_budget": ("source", "label"),
}  # fmt: skip
"""Names of the axes after that of the stars, where there are others than ``label``."""
_PARTIAL, _LEFT_OVER_SECONDS = ".partial", 3600.0


@dataclass(frozen=True)
class LabelStore:
    """A Zarr store of labels.

    Attributes
    ----------
    path
        Its folder.
    n_stars, shard_size
        How many stars it has when it is complete, and how many a shard; the last may have fewer.
    arrays
        Names of the arrays with one row a star.
    about
        What it was made of: ``label_names``, ``label_units``, ``model_sha256``, ``spectra_sha256``, ``identifiers``,
        ``options``, and ``meta``, the metadata of the table of labels.

    """

    path: Path
    n_stars: int
    shard_size: int
    arrays: tuple[str, ...]
    about: Mapping[str, Any]

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.n_stars // self.shard_size)

    def rows(self, number: int) -> slice:
        """The stars of a shard."""
        return slice(number * self.shard_size, min((number + 1) * self.shard_size, self.n_stars))

    def missing(self) -> list[int]:
        """Numbers of the shards that are not written."""
        done = set(range(self.shards))
        for name in self.arrays:
            with os.scandir(self.path / name) as entries:
                found = [entry.name.split(".") for entry in entries]
            done &= {int(parts[1]) for parts in found if parts[0] == "c" and len(parts) > 1 and parts[-1].isdecimal()}
        return [number for number in range(self.shards) if number not in done]

    def write(self, number: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Write a shard.

        Parameters
        ----------
        number
            Of the shard.
        arrays
            All arrays by name, with a row for each of its stars.

        Raises
        ------
        OSError
            If it cannot be written, as on a full disk, or after the store was removed. What was written stays.

        """
        try:
            for name in self.arrays:
                chunk, content = _encoded(arrays[name], self.shard_size, number)
                partial = self.path / name / f"{chunk}.{uuid.uuid4().hex}{_PARTIAL}"
                try:
                    partial.write_bytes(content)
                    os.replace(partial, self.path / name / chunk)
                finally:
                    partial.unlink(missing_ok=True)
        except OSError as error:
            if not self.path.exists():
                raise FileNotFoundError(f"the store of labels {self.path} was removed while it was filled") from error
            raise OSError(
                error.errno, f"cannot write shard {number}: {error.strerror or error}; shards that are written stay, "
                "and the same call goes on with the others", str(self.path),
            ) from error  # fmt: skip

    def read(self, number: int, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        """Arrays of a shard by name, by default all; texts have the width of the longest.

        Raises
        ------
        ValueError
            If a file of it is lost or damaged.

        """
        remedy = (
            f"remove the files c.{number}* of all its arrays and label the spectra again, which writes what is missing"
        )
        with reading(self.path, f"shard {number} of the labels", remedy):
            found = {name: self._decoded(name, number) for name in names or self.arrays}
        return {name: texts(values) if values.dtype.kind in "OT" else values for name, values in found.items()}

    def _decoded(self, name: str, number: int) -> np.ndarray:
        """A shard of an array as Zarr gives it, which takes each array through its event loop."""
        about = read_json(self.path / name / "zarr.json")
        kind, (_, *more) = about["data_type"], about["shape"]
        (rows, *sizes), n_rows = about["chunk_grid"]["configuration"]["chunk_shape"], self.rows(number)
        content = (self.path / name / _chunk_name(number, len(sizes))).read_bytes()
        values = checked_chunk(content, np.dtype(object if kind == "string" else kind)).reshape(rows, *sizes)
        return values[: n_rows.stop - n_rows.start, *(slice(size) for size in more)].copy()

    def model_file(self) -> bytes:
        """Contents of the file of the model that gave the labels."""
        import zarr  # An extra.

        with reading(self.path, "the model of the labels", "label the spectra into another store"):
            content = np.asarray(zarr.open_group(self.path, mode="r")[_MODEL][:]).tobytes()
            if sha256(content).hexdigest() != self.about["file_sha256"]:
                raise ValueError("it is damaged: its SHA-256 differs")
        return content

    def tidy(self) -> None:
        """Remove what writers that were killed have left of files, long ago."""
        for file in self.path.glob(f"*/*{_PARTIAL}"):
            try:
                if time.time() - file.stat().st_mtime > _LEFT_OVER_SECONDS:
                    file.unlink()
            except FileNotFoundError:  # Another process was faster.
                continue


def open_labels(path: str | os.PathLike) -> LabelStore:
    """Open a Zarr store of labels, complete or not.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ImportError
        If the extra ``bayes-cannon[zarr]`` is not installed.
    ValueError
        If it is no store of labels, or damaged.

    Examples
    --------
    >>> spectra = tc.io.Spectra(model.training_set_flux, model.training_set_ivar, model.dispersion)
    >>> tc.io.write_spectra("stars.zarr", spectra)
    >>> model.label_store("stars.zarr", "labels.zarr").n_stars
    200
    >>> labels = tc.io.open_labels("labels.zarr")
    >>> labels.missing(), labels.read(0)["labels"].shape[1]
    ([], 3)

    """
    path = recover(file_path(path))
    if not path.exists():
        raise FileNotFoundError(f"there is no store of labels {path}")
    _need_zarr(path)
    with reading(path, "the store of labels", "expected one that label_store or bayes-cannon infer wrote"):
        about = (read_json(path / "zarr.json").get("attributes") or {}).get(_ABOUT)
        if not isinstance(about, dict):
            raise ValueError("it is no store of labels")
        return LabelStore(path, about["n_stars"], about["shard_size"], tuple(about["arrays"]), about)


def make_label_store(
    path: str | os.PathLike, *, n_stars: int, shard_size: int, empty: Mapping[str, np.ndarray],
    about: Mapping[str, Any], model: bytes,
) -> LabelStore:  # fmt: skip
    """Make an empty store, or open the one that is there if it was made of the same.

    Parameters
    ----------
    path
        Its folder, ``.zarr``.
    n_stars, shard_size
        How many stars, and how many a shard.
    empty
        Arrays without stars by name, which say the types and further shapes.
    about
        As in `LabelStore`.
    model
        Contents of the model file.

    Raises
    ------
    FileExistsError
        If something else is there.
    ValueError
        If the store there is of another model, other spectra or other options, naming what differs.

    """
    path = check_label_path(path)
    sizes = {"n_stars": n_stars, "shard_size": shard_size, "arrays": list(empty)}
    about = {**about, **sizes, "file_sha256": sha256(model).hexdigest()}
    if path.exists():
        return _taken_up(path, about)
    with atomic_path(path) as temporary:
        _make(temporary, n_stars, shard_size, empty, about, model)
    return open_labels(path)


def check_label_path(path: str | os.PathLike) -> Path:
    """Refuse a path that is none of a store of labels, before any work is done for it."""
    path = file_path(path).absolute()
    if path.suffix.lower() != ".zarr":
        raise ValueError(f"labels of a store are written to a .zarr store, got {path}")
    _need_zarr(path)
    return path


def _taken_up(path: Path, about: Mapping[str, Any]) -> LabelStore:
    """The store that is there."""
    if not (path / "zarr.json").is_file() or _ABOUT not in (read_json(path / "zarr.json").get("attributes") or {}):
        raise FileExistsError(f"{path} exists and is no store of labels: choose another name or remove it")
    store = open_labels(path)
    named = {
        "model_sha256": "another model", "spectra_sha256": "other spectra", "n_stars": "other spectra",
        "shard_size": "spectra in other shards", "options": "other options", "arrays": "other columns",
    }  # fmt: skip
    for name, what in named.items():
        here, there = json.loads(json.dumps(about[name])), store.about.get(name)
        if here != there:
            raise ValueError(
                f"the store {path} holds labels of {what}: its {name} is {there}, and here it is {here}. Use the same, "
                "or write to another store"
            )
    store.tidy()
    return store


def _make(
    folder: Path, n_stars: int, shard_size: int, empty: Mapping[str, np.ndarray], about: Mapping[str, Any], model: bytes
) -> None:
    import zarr  # An extra.

    root = zarr.open_group(folder, mode="w", zarr_format=3, attributes={_ABOUT: dict(about)})
    units = about.get("label_units", {})
    for name, values in empty.items():
        _make_array(root, name, values, n_stars, shard_size)
    names = np.array(about["label_names"], dtype=object)
    array = root.create_array(_NAMES, shape=names.shape, dtype="string", dimension_names=("label",))
    array[:] = names
    array.attrs["unit"] = [units.get(name, "") for name in about["label_names"]]
    content = np.frombuffer(model, dtype=np.uint8)
    root.create_array(_MODEL, data=content, dimension_names=("byte",), compressors=checked_codecs())


def _make_array(root: Any, name: str, like: np.ndarray, n_stars: int, shard_size: int) -> Any:
    """An array over the stars, with a file a shard."""
    import zarr  # An extra.

    is_text, more = like.dtype.kind in "OUT", like.shape[1:]
    axes = _AXES.get(name, ("label",))[: len(more)]
    with zarr.config.set({"array.write_empty_chunks": True}):
        return root.create_array(
            name, shape=(n_stars, *more), chunks=(shard_size, *(max(size, 1) for size in more)),
            dtype="string" if is_text else like.dtype, fill_value=_fill_value(like.dtype), compressors=checked_codecs(),
            dimension_names=("star", *axes), chunk_key_encoding={"name": "default", "separator": "."},
        )  # fmt: skip


def _encoded(values: np.ndarray, shard_size: int, number: int) -> tuple[str, bytes]:
    """Name of the file of a shard of an array of `_make_array`, and its bytes: those that Zarr would write."""
    dtype = np.dtype(object) if values.dtype.kind in "OUT" else values.dtype
    chunk = np.full((shard_size, *(max(size, 1) for size in values.shape[1:])), _fill_value(values.dtype), dtype)
    chunk[: len(values), *(slice(size) for size in values.shape[1:])] = values
    return _chunk_name(number, values.ndim - 1), checked_bytes(chunk)


def _chunk_name(number: int, more_axes: int) -> str:
    return f"c.{number}{'.0' * more_axes}"


def _fill_value(dtype: np.dtype) -> Any:
    return "" if dtype.kind in "OUT" else np.nan if dtype.kind == "f" else -1


def _need_zarr(path: Path) -> None:
    try:
        import zarr  # noqa: F401 - an extra
    except ImportError:
        raise ImportError(f"{path} needs the package zarr: install bayes-cannon[zarr]") from None
