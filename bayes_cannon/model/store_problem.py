"""What is trained from a store of spectra: what the user asks for, checked, as a `StoreTraining`."""

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from bayes_cannon.core.arguments import byte_count, check_kind, file_path, flag
from bayes_cannon.core.checks import check_regularization, check_same_dispersion
from bayes_cannon.core.intake import chosen_rows, flux_and_ivar
from bayes_cannon.execution.shards import Executor
from bayes_cannon.io.pixel_blocks import StarRows
from bayes_cannon.io.preparation import Preparation
from bayes_cannon.io.quantities import with_units
from bayes_cannon.io.spectra_store import SpectraStore
from bayes_cannon.model.result import TrainingResult
from bayes_cannon.model.settings import Settings
from bayes_cannon.model.stars import TrainingSet
from bayes_cannon.model.store_plan import plan_training, usable_memory
from bayes_cannon.model.store_training import StoreTraining
from bayes_cannon.scatter.independent import Independent
from bayes_cannon.training.train import OP_METHODS, check_op_method


def store_training(
    training_set: TrainingSet, settings: Settings, before: TrainingResult | None, store: SpectraStore, stars: Any,
    preparation: Preparation | None, memory: float | str | None, scratch: str | os.PathLike[str] | None,
    executor: Executor | None, *, op_method: str | None = None, op_kwds: Mapping[str, Any] | None = None,
    dof_correction: bool,
) -> tuple[StoreTraining, TrainingSet]:  # fmt: skip
    """A training from a store, and its training set without spectra but with the wavelengths and the unit of the flux.

    The parameters and errors are those of `CannonModel.train_store`.
    """
    certified = check_op_method(op_method) == OP_METHODS[0]
    _check_family(settings, dof_correction)
    check_kind(store, SpectraStore, "store", "what bayes_cannon.io.open_store returns")
    store = replace(store, path=store.path.absolute())  # Workers have another current folder.
    rows = _rows_of(store, stars, len(training_set.labels))
    raw = next(store.parts(rows[:1], size=1))
    steps = (preparation or Preparation()).after(raw)
    first = steps.apply(raw)
    flux, ivar, wavelength = with_units(first)
    flux, _, unit = flux_and_ivar(flux, ivar)
    if training_set.dispersion is None:
        training_set = training_set.without_spectra().with_dispersion(wavelength)
    check_same_dispersion(wavelength, training_set.dispersion, training_set.dispersion_unit)
    training_set = replace(training_set.without_spectra(), flux_unit=unit)
    if training_set.n_pixels not in (None, first.n_pixels):
        raise ValueError(
            f"the spectra in {store.path} have {first.n_pixels} pixels, and the model {training_set.n_pixels}"
        )
    prepares = first is not raw
    single = store.single and not prepares and certified and not dof_correction
    single = single and np.array_equal(flux, raw.flux, equal_nan=True)  # Its unit may ask for a factor.
    available = math.inf if executor is None else executor.memory
    limit = int(min(usable_memory(), available)) if memory is None else byte_count(memory, "memory")
    if limit > available:
        raise ValueError(
            f"memory={memory!r} is more than the {available / 1e9:.3g} GB that a worker has: ask for less, or give the "
            "workers more"
        )
    plan = plan_training(
        store, rows, training_set.terms, n_pixels=first.n_pixels, prepares=prepares, single=single, memory=limit
    )
    folder = (
        store.path.with_name(f"{store.path.name}.training")
        if scratch is None
        else file_path(scratch, "scratch").absolute()
    )
    start = {} if before is None else {"theta": before.theta, "s2": before.s2}
    if before is not None and len(before.theta) != plan.n_pixels:
        raise ValueError(f"the model has theta of {len(before.theta)} pixels, and the store {plan.n_pixels}")
    lower, upper = settings.bounds(training_set, plan.n_pixels)
    check_regularization(settings.regularization, plan.n_pixels)
    work = StoreTraining(
        StarRows(store, rows, steps if prepares else None, plan.window), training_set.labels, plan, folder,
        training_set.terms, settings.penalty(plan.n_pixels), lower, upper, op_method, op_kwds, dof_correction, start,
    )  # fmt: skip
    return work, training_set


def _check_family(settings: Settings, dof_correction: bool) -> None:
    if flag(dof_correction, "dof_correction") and settings.scatter is not None:
        raise ValueError("dof_correction is for independent scatter; set scatter=None or leave it out")
    if settings.scatter is not None and not isinstance(settings.scatter, Independent):
        raise ValueError(
            f"scatter={settings.scatter!r} is correlated between pixels and needs all pixels of all training stars in "
            "memory at once, and a store is trained a block of pixels after the other: set scatter=None, or read fewer "
            "stars or pixels with bayes_cannon.io.read_spectra and call train"
        )


def _rows_of(store: SpectraStore, stars: Any, n_labels: int) -> np.ndarray:
    """Rows of the store, checked."""
    every = np.arange(store.n_stars)
    rows = every if stars is None else every[chosen_rows(stars, store.n_stars)]
    if (np.diff(rows) <= 0).any():
        raise ValueError("stars must be ascending rows of the store, each once: sort them, and the labels with them")
    if len(rows) != n_labels:
        raise ValueError(
            f"the model has labels of {n_labels} stars, and {len(rows)} of the {store.n_stars} stars in {store.path} "
            "are to train: both need one row a star, in the same order; choose with stars="
        )
    return rows
