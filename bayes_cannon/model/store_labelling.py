"""Labels of a store of spectra, shard by shard into a store of labels: in this process, or in many."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from bayes_cannon.core.progress import ProgressOption, reporter
from bayes_cannon.execution.events import Event
from bayes_cannon.execution.shards import Executor, SerialExecutor, run_shards
from bayes_cannon.io.label_store import LabelStore, check_label_path, make_label_store, open_labels
from bayes_cannon.io.label_tables import STAR_ID
from bayes_cannon.io.preparation import PREPARED, Preparation
from bayes_cannon.io.quantities import with_units
from bayes_cannon.io.spectra import Spectra
from bayes_cannon.io.spectra_store import SpectraStore, open_store
from bayes_cannon.io.spectra_variables import texts
from bayes_cannon.labelling.error_budget import PARTS
from bayes_cannon.labelling.fit import LabelFit
from bayes_cannon.model.any_model import AnyModel, model_hash, read_any_model, table_meta
from bayes_cannon.model.calibrating import CalibratedFit
from bayes_cannon.model.cannon import CannonModel
from bayes_cannon.model.label_plan import LabelPlan, label_plan

_lock = Lock()
_kept: dict[str, AnyModel] = {}
"""The model that this process has read last, by the SHA-256 of its file."""


@dataclass(frozen=True)
class Labelled:
    """What became of a store of spectra.

    Attributes
    ----------
    store
        The store of labels.
    n_stars, n_new
        How many stars it has, and how many of them were labelled by this call.
    seconds
        How long that took.
    memory
        Largest peak memory of a process, in bytes.
    plan
        What was to be done.

    """

    store: Path
    n_stars: int
    n_new: int
    seconds: float
    memory: int
    plan: LabelPlan


@dataclass(frozen=True)
class _LabelShards:
    """The work on a shard: read and prepare its spectra, label them, and write their labels."""

    spectra: SpectraStore
    labels: LabelStore
    prepares: bool

    def read(self, number: int) -> Spectra:
        """Prepared spectra of a shard; those that need no preparation stay in the precision of the store."""
        return _preparation(self._model()).apply(self.spectra.shard(number, as_stored=not self.prepares))

    def compute(self, number: int, given: Spectra) -> int:
        """Label them."""
        options, model = self.labels.about["options"], self._model()
        flux, ivar, wavelength = with_units(given)
        keywords = {} if options["prior"] is None else {"prior": options["prior"]}
        fit = model.fit_labels(flux, ivar, dispersion=wavelength, **keywords)
        arrays = _arrays(model, fit, flux, ivar, options)
        first = self.labels.rows(number).start
        names = given.ids if given.has_own_ids else np.arange(first, first + given.n_stars).astype(str)
        arrays |= {STAR_ID: names}
        for name, array in self.labels.about["identifiers"].items():
            arrays[array] = _identifier(given, name)
        self.labels.write(number, arrays)
        return given.n_stars

    def _model(self) -> AnyModel:
        """The model, read once in a process."""
        key = self.labels.about["file_sha256"]
        with _lock:
            if key not in _kept:
                _kept.clear()
                with tempfile.TemporaryDirectory() as folder:
                    path = Path(folder) / "labels.model"
                    path.write_bytes(self.labels.model_file())
                    _kept[key] = read_any_model(path)
            return _kept[key]


def label_store(
    model: AnyModel, store: str | os.PathLike, out: str | os.PathLike, *, executor: Executor | None = None,
    error_budget: bool = False, prior: str | None = None, progress: ProgressOption = None,
    listen: Callable[[Event], object] | None = None, model_file: Path | None = None, model_file_hash: str = "",
) -> Labelled:  # fmt: skip
    """Label the spectra of a store; what is there in the store of labels already is not done again.

    Parameters
    ----------
    model, store, out, executor, error_budget, prior, progress
        As for `CannonModel.label_store`.
    listen
        Called with every event of the run.
    model_file, model_file_hash
        The file that the model was read from, and its SHA-256, for the metadata.

    Raises
    ------
    FileNotFoundError, FileExistsError, ImportError, OSError, ValueError
        As for `CannonModel.label_store`.

    """
    out = check_label_path(out)
    asked = _Asked.of(model, store, error_budget, prior)
    own = SerialExecutor() if executor is None else None
    where: Executor = executor or own  # type: ignore[assignment]  # One of them is there.
    try:
        plan = asked.plan(model, [], where.reads_ahead)
        plan.check(where.memory)
        labels = make_label_store(
            out, n_stars=plan.n_stars, shard_size=plan.shard_size, empty=asked.empty,
            about=asked.about(model, "" if model_file is None else model_file.name, model_file_hash),
            model=_written(model),
        )  # fmt: skip
        plan = replace(plan, missing=tuple(labels.missing()))
        return _run(_LabelShards(asked.spectra, labels, asked.prepares), plan, where, progress, listen)
    finally:
        if own is not None:
            own.close()


def plan_labels(
    model: AnyModel, store: str | os.PathLike, out: str | os.PathLike | None = None, *, error_budget: bool = False,
    prior: str | None = None, reads_ahead: bool = True,
) -> LabelPlan:  # fmt: skip
    """What it takes to label a store of spectra, from shapes alone, and which shards a store of labels lacks.

    Parameters
    ----------
    model, store, out, error_budget, prior
        As for `CannonModel.label_store`. Without ``out``, or where there is none yet, all shards are missing.
    reads_ahead
        Whether a process reads one shard while it computes another, as `SerialExecutor` does, and those of Dask do not.

    """
    asked = _Asked.of(model, store, error_budget, prior)
    missing = list(range(asked.spectra.shards))
    if out is not None and Path(out).exists():
        missing = open_labels(out).missing()
    return asked.plan(model, missing, reads_ahead)


@dataclass(frozen=True)
class _Asked:
    """What is to be done: the spectra, and what is written of them."""

    spectra: SpectraStore
    attrs: dict[str, Any]
    prepares: bool
    options: dict[str, Any]
    empty: dict[str, np.ndarray]
    identifiers: dict[str, str]

    @classmethod
    def of(cls, model: AnyModel, store: str | os.PathLike, error_budget: bool, prior: str | None) -> "_Asked":
        """Checked."""
        if not isinstance(model, CannonModel) and (error_budget or prior is not None):
            raise ValueError("an error budget and a prior are of one model, not of local models, which have a prior")
        if error_budget and prior is not None:
            raise ValueError("an error budget is of the labels of highest likelihood: leave the prior out")
        spectra = open_store(store)
        spectra = replace(spectra, path=spectra.path.absolute())
        attrs, prepares = _checked(model, spectra)
        options = {"error_budget": bool(error_budget), "prior": prior}
        empty, identifiers = _empty(model, spectra, options)
        return cls(spectra, attrs, prepares, options, empty, identifiers)

    def plan(self, model: AnyModel, missing: list[int], reads_ahead: bool) -> LabelPlan:
        """The plan."""
        return label_plan(
            model, self.spectra.n_stars, self.spectra.shard_size, pixel_bytes=self.spectra.pixel_bytes,
            missing=missing, empty=self.empty, reads_ahead=reads_ahead, prepares=self.prepares,
            single=self.spectra.single,
        )  # fmt: skip

    def about(self, model: AnyModel, model_name: str, file_hash: str) -> dict[str, Any]:
        """What the store of labels says of itself."""
        digest, spectra_hash = model_hash(model), self.spectra.sha256
        meta = table_meta(
            model, model_name, file_hash or digest, self.spectra.path.name, spectra_hash, self.attrs,
            self.options["prior"],
        )  # fmt: skip
        return {
            "label_names": list(model.label_names), "label_units": model.label_units, "model_sha256": digest,
            "spectra_sha256": spectra_hash, "options": self.options, "identifiers": self.identifiers,
            "error_sources": _sources(model), "meta": meta,
        }  # fmt: skip


def _run(
    work: _LabelShards, plan: LabelPlan, executor: Executor, progress: ProgressOption,
    listen: Callable[[Event], object] | None,
) -> Labelled:  # fmt: skip
    """Work on what is missing, and raise the first error that stayed."""
    left = sum(work.labels.rows(number).stop - work.labels.rows(number).start for number in plan.missing)
    if plan.missing:
        executor.check([str(work.spectra.path), str(work.labels.path)], version("bayes-cannon"))
    with reporter(progress, left, "star", "label") as report:
        finished = run_shards(work, plan.missing, executor, listen=listen, report=report)
    for number, error in finished.failed.items():
        if isinstance(error, OSError):
            raise error
        raise ValueError(
            f"{len(finished.failed)} shards of {work.spectra.path} could not be labelled, {finished.shards} were. "
            f"Shard {number}: {error}. What is written stays in {work.labels.path}; the same call tries the rest again"
        ) from error
    return Labelled(
        work.labels.path, plan.n_stars, finished.size, finished.seconds, finished.memory, plan,
    )  # fmt: skip


def _preparation(model: AnyModel) -> Preparation:
    given = model.provenance.get("preparation")
    return Preparation() if given is None else Preparation.from_text(given)


def _checked(model: AnyModel, spectra: SpectraStore) -> tuple[dict[str, Any], bool]:
    """Attributes of the store, and whether its spectra are to be prepared; an error where they cannot be labelled."""
    attrs = spectra.attributes()
    preparation = _preparation(model)
    prepares = PREPARED not in attrs and preparation != Preparation()
    pixels = model.n_pixels
    if spectra.n_pixels != pixels and not (prepares and preparation.wavelength_range is not None):
        raise ValueError(
            f"the spectra of {spectra.path} have {spectra.n_pixels} pixels, and the model {pixels}: write the store "
            "anew on the wavelengths of the model"
        )
    return attrs, prepares


def _arrays(model: AnyModel, fit: LabelFit, flux: Any, ivar: Any, options: dict[str, Any]) -> dict[str, np.ndarray]:
    """What is written of a fit. The formal covariance is left out where it is the covariance."""
    arrays = {field.name: np.asarray(getattr(fit, field.name)) for field in fields(fit)}
    if model.calibration is None or options["prior"] is not None:
        del arrays["formal_covariance"]
    if options["error_budget"] and isinstance(model, CannonModel) and isinstance(fit, CalibratedFit):
        errors = model.error_budget(flux, ivar, fit).errors()
        arrays["error_budget"] = np.stack([np.asarray(errors[name]) for name in _sources(model)], axis=1)
    return arrays


def _sources(model: AnyModel) -> list[str]:
    """Sources of an error budget, in order."""
    return [*PARTS, *(() if model.calibration is None else ("floor", "scale"))]


def _empty(
    model: AnyModel, spectra: SpectraStore, options: dict[str, Any]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:  # fmt: skip
    """The arrays of no stars by name, and the array of each identifier."""
    nothing = np.zeros((0, int(model.n_pixels or 0)))
    keywords = {} if options["prior"] is None else {"prior": options["prior"]}
    arrays = _arrays(model, model.fit_labels(nothing, nothing, **keywords), nothing, nothing, options)
    arrays[STAR_ID] = np.empty(0, dtype=str)
    taken = {*arrays, "label", "model"}
    identifiers = {name: f"{name}_ID" if name in taken else name for name in spectra.identifiers}
    return arrays | {name: np.empty(0, dtype=str) for name in identifiers.values()}, identifiers


def _identifier(spectra: Spectra, name: str) -> np.ndarray:
    """Texts of each star; integers that float64 holds are among its labels."""
    if name in spectra.identifiers:
        return np.asarray(spectra.identifiers[name])
    values = np.asarray(spectra.labels[name])
    known = np.isfinite(values)
    return np.where(known, texts(np.where(known, values, 0).astype(np.int64)), "")


def _written(model: AnyModel) -> bytes:
    """Contents of a model file, without training spectra."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "labels.model"
        model.write(path)
        return path.read_bytes()
