"""Model files of the original package, thecannon 0.2.x and 0.9.x, as they are; `model.original` makes a model of one.

A file is one pickle of a dict of plain values, whose names are those of `OriginalModel`. In it

- ``vectorizer`` is ``("PolynomialVectorizer", {"label_names", "terms", "metadata"})``; a term is a list of pairs (index
  of the label, power), the power may be a float, and the constant is not listed,
- ``censors`` is ``{"label_names", "num_pixels", "items"}``, and **True means that the label acts**,
- ``theta`` of a pixel without information is (1, 0, ...), and its ``s2`` infinite,
- ``training_set_flux`` and ``training_set_ivar`` are there where the writer asked for them,
- ``metadata`` states the version that wrote it. Before 0.2.0 it did not, and the layout was another one.

From 0.9.0 on ``_scales`` and ``_fiducials`` are stored, and ``theta_bounds`` of a restricted model; before, the first
two are made anew of the labels on reading, and the bounds are lost. Sources: ``CannonModel.write`` and ``read`` of both
versions, and files that 0.2.96 wrote.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bayes_cannon.core.records import check_dims, dims
from bayes_cannon.io.damage import reading
from bayes_cannon.io.plain_pickle import plain_values

WHAT = "a model of the original package"
REMEDY = "only what CannonModel.write of thecannon 0.2.0 and later has written can be read"
_PARTS = {
    "vectorizer", "censors", "regularization", "dispersion", "theta", "s2", "training_set_labels", "training_set_flux",
    "training_set_ivar", "metadata", "_scales", "_fiducials", "theta_bounds",
}  # fmt: skip
_HOLLOW = (
    "theta, s2 and the training labels are not in it: thecannon 0.2.x leaves them out on Python 3.11 and later. Train "
    "the model again and write it on Python 3.10, or train it with bayes_cannon"
)


@dataclass(frozen=True, eq=False)
class OriginalModel:
    """What a model file of the original package holds, nothing converted.

    Attributes
    ----------
    path
        The file.
    version, model_class, modified, training_set_hash
        What the file says of itself; empty where it does not.
    label_names
        Names of the labels.
    terms
        Every term but the constant, as pairs (index of the label, power).
    training_set_labels
        In their units and their own precision, shape (star, label).
    theta, s2
        Shape (pixel, term) and (pixel,); None where the model is not trained.
    training_set_flux, training_set_ivar
        Shape (star, pixel), or both None.
    dispersion
        Wavelength of each pixel, shape (pixel,), in any order, or None.
    regularization
        Lambda: None, one number, or one per pixel.
    acts
        Mask over pixels by label: **True where the label acts**. The other labels act everywhere.
    scales, fiducials
        What labels are divided by after what is subtracted, in their units, shape (label,); None before 0.9.0.
    theta_bounds
        Bounds by the text of the term; None where they are not in the file.
    unknown
        Names of other parts, which are not read.

    """

    path: Path
    version: str
    model_class: str
    modified: str
    training_set_hash: str
    label_names: tuple[str, ...]
    terms: tuple[tuple[tuple[int, float], ...], ...]
    training_set_labels: np.ndarray = field(metadata=dims("star", "label"))
    theta: np.ndarray | None = field(metadata=dims("pixel", "term"))
    s2: np.ndarray | None = field(metadata=dims("pixel"))
    training_set_flux: np.ndarray | None = field(metadata=dims("star", "pixel"))
    training_set_ivar: np.ndarray | None = field(metadata=dims("star", "pixel"))
    dispersion: np.ndarray | None = field(metadata=dims("pixel"))
    regularization: float | np.ndarray | None = field(metadata=dims("pixel"))
    acts: Mapping[str, np.ndarray] = field(metadata=dims("pixel"))
    scales: np.ndarray | None = field(metadata=dims("label"))
    fiducials: np.ndarray | None = field(metadata=dims("label"))
    theta_bounds: Mapping[str, tuple[Any, ...]] | None
    unknown: tuple[str, ...]


def read_original(path: str | os.PathLike[str]) -> OriginalModel:
    """Read a model file of the original package. It is not unpickled (`io.plain_pickle`).

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no such file, was written before 0.2.0, without theta, or by a vectorizer that is no polynomial, is
        damaged, holds anything but plain values, or contradicts itself.

    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no model file {path}")
    with reading(path, WHAT, REMEDY):
        with path.open("rb") as file:
            if file.read(8) == b"\x89HDF\r\n\x1a\n":
                raise ValueError("it is an HDF5 file, as models of this package are, which CannonModel.read reads")
        return _model(path, plain_values(path))


def _model(path: Path, values: Any) -> OriginalModel:
    metadata = values.get("metadata") if isinstance(values, dict) else None
    metadata = metadata if isinstance(metadata, dict) else {}
    version = _text(metadata, "version")
    number = re.match(r"(\d+)\.(\d+)", version)
    if number is None or (int(number[1]), int(number[2])) < (0, 2):
        said = f"version {version}" if number else "no version"
        raise ValueError(f"it states {said}, and before 0.2.0 thecannon wrote another layout")
    if values["training_set_labels"] is None:
        raise ValueError(_HOLLOW)
    label_names, terms, unknown = _vectorizer(values["vectorizer"])
    model = OriginalModel(
        path=path,
        version=version,
        model_class=_text(metadata, "model_class"),
        modified=_text(metadata, "modified"),
        training_set_hash=_text(metadata, "training_set_hash"),
        label_names=label_names,
        terms=terms,
        training_set_labels=_numbers(values, "training_set_labels"),
        theta=_numbers(values, "theta"),
        s2=_numbers(values, "s2"),
        training_set_flux=_numbers(values, "training_set_flux", optional=True),
        training_set_ivar=_numbers(values, "training_set_ivar", optional=True),
        dispersion=_numbers(values, "dispersion", optional=True),
        regularization=_lambda(values),
        acts=_masks(values["censors"]),
        scales=_numbers(values, "_scales", optional=True),
        fiducials=_numbers(values, "_fiducials", optional=True),
        theta_bounds=_bounds(values.get("theta_bounds")),
        unknown=tuple(sorted(set(values) - _PARTS)) + unknown,
    )
    for one, other in (("theta", "s2"), ("training_set_flux", "training_set_ivar"), ("scales", "fiducials")):
        if (getattr(model, one) is None) != (getattr(model, other) is None):
            raise ValueError(f"of {one} and {other} it holds only one")
    check_dims(model, {"label": (len(label_names), "the label names"), "term": (1 + len(terms), "the terms")})
    return model


def _text(metadata: dict[str, Any], name: str) -> str:
    found = metadata.get(name)
    return found if isinstance(found, str) else ""


def _numbers(values: dict[str, Any], name: str, *, optional: bool = False) -> Any:
    """An array of numbers; None stands for one that is not there."""
    found = values.get(name) if optional else values[name]
    if found is not None and not (
        isinstance(found, np.ndarray) and found.dtype.kind in "iuf" and found.size and found.ndim
    ):
        raise ValueError(f"{name} is {_kind(found)}, and no array of numbers")
    return found


def _lambda(values: dict[str, Any]) -> Any:
    found = values["regularization"]
    return found if type(found) in (float, int) else _numbers(values, "regularization")


def _vectorizer(found: Any) -> tuple[tuple[str, ...], tuple[tuple[tuple[int, float], ...], ...], tuple[str, ...]]:
    """Names of the labels, terms, and what of the vectorizer is not read."""
    match found:
        case ("PolynomialVectorizer", {"label_names": list() | tuple() as names, "terms": list() | tuple() as terms}):
            pass
        case (str() as name, dict()) if name != "PolynomialVectorizer":
            raise ValueError(f"its vectorizer is a {name:.60}, and only the terms of a PolynomialVectorizer are known")
        case _:
            raise ValueError(
                f"its vectorizer is {_kind(found)}, and no pair of its class and its label names and terms"
            )
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError("its label names are not all texts")
    unknown = ("vectorizer.metadata",) if found[1].get("metadata") else ()
    return tuple(names), tuple(_term(term, len(names)) for term in terms), unknown


def _term(term: Any, n_labels: int) -> tuple[tuple[int, float], ...]:
    pairs = []
    for factor in term if isinstance(term, list | tuple) else [term]:
        match factor:
            case [int() as label, int() | float() as power] if 0 <= label < n_labels:
                pairs.append((label, power))
            case _:
                wanted = f"no pair (index of the label from 0 to {n_labels - 1}, power)"
                raise ValueError(f"a term has the factor {factor!r:.60}, and {wanted}")
    return tuple(pairs)


def _masks(censors: Any) -> dict[str, np.ndarray]:
    if censors is None:
        return {}
    masks = censors.get("items") if isinstance(censors, dict) else None
    if not isinstance(masks, dict):
        raise ValueError(f"its censors are {_kind(censors)}, and no dict with masks as items")
    for name, mask in masks.items():
        if not (isinstance(mask, np.ndarray) and mask.dtype == bool):
            raise ValueError(f"the censoring mask of {name!r:.60} is {_kind(mask)}, and no boolean array")
    return masks


def _bounds(bounds: Any) -> dict[str, tuple[Any, ...]] | None:
    if bounds is None:
        return None
    if not isinstance(bounds, dict):
        raise ValueError(f"its theta_bounds are {_kind(bounds)}, and no dict of pairs")
    for term, pair in bounds.items():
        match pair:
            case [None | int() | float(), None | int() | float()]:
                pass
            case _:
                raise ValueError(f"its theta_bounds of {term!r:.60} are no pair of numbers")
    return {term: tuple(pair) for term, pair in bounds.items()}


def _kind(value: Any) -> str:
    return "None" if value is None else f"of the type {type(value).__name__}"
