"""What a page is about: a model, labels of stars, and whatever else is known of either."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import file_digest
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from bayes_cannon.core.arguments import shown
from bayes_cannon.core.intake import real_numbers
from bayes_cannon.io.shipped import find_model
from bayes_cannon.io.tables import read_table
from bayes_cannon.labelling.fit import LabelFit
from bayes_cannon.model import CannonModel
from bayes_cannon.model.local import LocalCannonModel
from bayes_cannon.model.local_files import is_local_model
from bayes_cannon.validate import CrossValidation, label_errors, pulls

AnyModel = CannonModel | LocalCannonModel
_SOURCES = ("PHOTON", "SCATTER", "CORRELATED", "THETA", "SCALE", "FLOOR")
_SUMMARY_COLUMNS = {"label", "unit", "stars", "bias", "robust_scatter"}


@dataclass(frozen=True, eq=False)
class LabelledStars:
    """Labels of N stars, as a table, a fit or a cross-validation has them.

    Attributes
    ----------
    names, units
        Of the labels.
    ids
        Names of the stars, shape (star,).
    labels, covariance
        In label units, shape (star, label) and (star, label, label); of a table without covariances it is diagonal.
    reference
        Labels that they are compared with, shape (star, label), or None.
    snr, reduced_chi2, misfit, status
        Shape (star,), or None where they are not known.
    budget
        Signed errors by their source, in label units, shape (star, label) each.
    meta
        Where they come from, text by name.

    """

    names: tuple[str, ...]
    units: Mapping[str, str]
    ids: np.ndarray
    labels: np.ndarray
    covariance: np.ndarray
    reference: np.ndarray | None = None
    snr: np.ndarray | None = None
    reduced_chi2: np.ndarray | None = None
    misfit: np.ndarray | None = None
    status: np.ndarray | None = None
    budget: Mapping[str, np.ndarray] = field(default_factory=dict)
    meta: Mapping[str, str] = field(default_factory=dict)

    @property
    def errors(self) -> np.ndarray:
        """Quoted errors, shape (star, label)."""
        return label_errors(self.covariance)

    @property
    def difference(self) -> np.ndarray:
        """Inferred minus reference labels, shape (star, label)."""
        assert self.reference is not None
        return self.labels - self.reference

    @property
    def pulls(self) -> np.ndarray:
        """The same over the quoted errors, shape (star, label)."""
        assert self.reference is not None
        return np.asarray(pulls(self.labels, self.reference, self.covariance))

    @classmethod
    def from_table(cls, table: Table) -> "LabelledStars":
        """Those of a label table (`bayes_cannon.io.label_table`), with what it has beside the labels.

        Raises ValueError for a table that is none.
        """
        columns = table.colnames
        end = columns.index("chi2") if "chi2" in columns else 0
        names = tuple(name for name in columns[:end] if f"{name}_ERR" in columns)
        if not names:
            raise ValueError(
                f"this is no label table: it has the columns {', '.join(columns[:8])}. "
                'Give one that "bayes-cannon infer" or "bayes-cannon train" wrote'
            )

        def matrix(suffix: str) -> np.ndarray | None:
            if not all(f"{name}{suffix}" in columns for name in names):
                return None
            return np.column_stack([np.asarray(table[f"{name}{suffix}"], float) for name in names])

        def column(name: str) -> np.ndarray | None:
            return np.asarray(table[name]) if name in columns else None

        errors, budget = matrix("_ERR"), {what.lower(): matrix(f"_ERR_{what}") for what in _SOURCES}
        assert errors is not None
        diagonal = errors[:, :, None] ** 2 * np.eye(len(names))
        covariance = np.asarray(table["covariance"], float) if "covariance" in columns else diagonal
        return cls(
            names, {name: str(table[name].unit) for name in names if table[name].unit is not None},
            np.asarray(table["star_id"] if "star_id" in columns else np.arange(len(table))).astype(str),
            np.column_stack([np.asarray(table[name], float) for name in names]), covariance, matrix("_REFERENCE"),
            column("snr"), column("reduced_chi2"), column("misfit"), column("status"),
            {what: errors for what, errors in budget.items() if errors is not None},
            {str(name): str(value) for name, value in table.meta.items() if isinstance(value, str)},
        )  # fmt: skip

    @classmethod
    def from_fit(cls, fit: LabelFit | CrossValidation, model: AnyModel, reference: Any = None) -> "LabelledStars":
        """Those of a fit or a cross-validation, whose labels the model names."""
        if isinstance(fit, CrossValidation):
            return cls(
                model.label_names,
                model.label_units,
                _numbers(fit.inferred),
                fit.inferred,
                fit.covariance,
                fit.reference,
            )
        return cls(
            model.label_names, model.label_units, _numbers(fit.labels), fit.labels, fit.covariance,
            None if reference is None else real_numbers(reference, "reference"), fit.snr, fit.reduced_chi_squared,
            fit.misfit, fit.status,
        )  # fmt: skip


def _numbers(rows: np.ndarray) -> np.ndarray:
    return np.arange(len(rows)).astype(str)


@dataclass(frozen=True, eq=False)
class Subject:
    """All that a page may tell of; what is not there is None or empty.

    Attributes
    ----------
    title
        Of the page.
    model
        The model, trained.
    stars
        Labels of stars, held out or new.
    summary
        Table of a validation, where that is all there is.
    flux, ivar
        Spectra of these stars as the model takes them, shape (star, pixel).
    posterior
        Tree of a posterior of theta.
    path
        A `RegularizationPath`.
    candidates
        Labels of all stars that the training stars were chosen from, shape (star, label).
    lines
        Names and wavelengths of lines, in the unit of the model's wavelengths.
    sources
        Files that were read, by what they are.

    """

    title: str
    model: AnyModel | None = None
    stars: LabelledStars | None = None
    summary: Table | None = None
    flux: np.ndarray | None = None
    ivar: np.ndarray | None = None
    posterior: Any = None
    path: Any = None
    candidates: np.ndarray | None = None
    lines: tuple[tuple[str, float], ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the labels."""
        if self.stars is not None:
            return self.stars.names
        return () if self.model is None else tuple(self.model.label_names)

    @property
    def units(self) -> Mapping[str, str]:
        """Units of the labels, as far as they are known."""
        if self.stars is not None and self.stars.units:
            return self.stars.units
        return {} if self.model is None else self.model.label_units


def as_model(model: Any) -> tuple[AnyModel, Path | None]:
    """A model, read where it is a path or the name of one that is shipped, and its file.

    Raises TypeError for what is no model, and ValueError for one that is not trained.
    """
    path = None
    if isinstance(model, str | os.PathLike):
        path = find_model(model)
        model = LocalCannonModel.read(path) if is_local_model(path) else CannonModel.read(path)
    if not isinstance(model, AnyModel):
        raise TypeError(f"model must be a CannonModel, a LocalCannonModel or the path of one, got {shown(model)}")
    if not model.is_trained:
        raise ValueError("the model is not trained: call train() first")
    return model, path


def subject_of(what: Any, model: Any, labels: Any, reference: Any) -> Subject:
    """The subject with the model and labels that are given, or lie beside the file that is given.

    A file beside is taken only where the SHA-256 of the model in the label table is that of the model's file.
    """
    if isinstance(what, Subject):
        if not (model is None and labels is None and reference is None):
            raise ValueError("a Subject has its model, labels and references: leave the others out")
        return what
    if isinstance(what, AnyModel) or _is_model_file(what):
        if model is not None:
            raise ValueError("model= goes with a table or a fit of labels; the first argument is a model already")
        found, path = as_model(what)
        title = str(found.provenance.get("recipe") or ("Model" if path is None else path.stem))
        sources = {} if path is None else {"model": path.name}
        beside = None if path is None else path.with_name(f"{path.stem}-labels.ecsv")
        if path is not None and labels is None and beside is not None and beside.is_file():
            of_model = LabelledStars.from_table(read_table(beside))
            if of_model.meta.get("MODELSHA") == _sha256(path):
                return Subject(title, found, of_model, sources=sources | {"labels": beside.name})
        stars = None if labels is None else _as_stars(labels, found, reference)
        return Subject(title, found, stars, sources=sources)
    if labels is not None:
        raise ValueError("labels= goes with a model; the first argument holds labels already")
    given = None if model is None else as_model(model)[0]
    of_labels = _of_labels(what, given, reference)
    return of_labels if given is None else replace(of_labels, model=given)


def _is_model_file(what: Any) -> bool:
    return isinstance(what, str | os.PathLike) and find_model(what).suffix == ".model"


def _of_labels(what: Any, model: AnyModel | None, reference: Any) -> Subject:
    if not isinstance(what, str | os.PathLike):
        if isinstance(what, Table) and set(what.colnames) >= _SUMMARY_COLUMNS:
            return Subject("Validation", summary=what)
        return Subject("Labels of stars", stars=_as_stars(what, model, reference))
    path = Path(what)
    table, sources = read_table(path), {"labels": path.name}
    if set(table.colnames) >= _SUMMARY_COLUMNS:
        beside = path.with_name(f"{path.stem.removesuffix('-validation')}-labels.ecsv")
        if beside == path or not beside.is_file():
            return Subject(path.stem, summary=table, sources={"validation": path.name})
        path, table, sources = beside, read_table(beside), {"validation": path.name, "labels": beside.name}
    stars = LabelledStars.from_table(table)
    of_model = path.with_name(Path(stars.meta.get("MODEL", "")).name)
    if model is None and of_model.is_file() and _sha256(of_model) == stars.meta.get("MODELSHA"):
        model, sources["model"] = as_model(of_model)[0], of_model.name
    return Subject(path.stem, model, stars, sources=sources)


def _as_stars(labels: Any, model: AnyModel | None, reference: Any) -> LabelledStars:
    if isinstance(labels, LabelledStars):
        return labels
    if isinstance(labels, str | os.PathLike):
        labels = read_table(labels)
    if isinstance(labels, Table):
        return LabelledStars.from_table(labels)
    if isinstance(labels, LabelFit | CrossValidation):
        if model is None:
            raise ValueError("a fit of labels does not name them: give the model, too, as model=")
        return LabelledStars.from_fit(labels, model, reference)
    raise TypeError(
        "a page is of a trained model, a label table, a fit of labels or a CrossValidation, or the path of a model or "
        f"table; got {shown(labels)}"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
