"""A recipe trained from a store of spectra that does not fit the memory."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from bayes_cannon.cli.building import build_model
from bayes_cannon.cli.training_stars import chosen_stars, complete_labels, fold_of_each, order_of_folds
from bayes_cannon.core.arguments import byte_count
from bayes_cannon.execution.shards import Executor
from bayes_cannon.io.preparation import Preparation
from bayes_cannon.io.quantities import with_units
from bayes_cannon.io.recipe import Recipe
from bayes_cannon.io.spectra import Spectra
from bayes_cannon.io.spectra_store import SpectraStore, open_store
from bayes_cannon.labelling.fit import LabelFit
from bayes_cannon.model import CannonModel
from bayes_cannon.model.store_plan import usable_memory

ROW = "row of the store"
"""Label by which the stars that are left know their place in the store."""
_STARS_AT_ONCE = 256
"""Held-out stars whose spectra are read at a time."""
_BYTES_IN_MEMORY = 64
"""For each number of flux and ivar while spectra are read, joined, prepared and trained in memory."""


def large_store(recipe: Recipe, memory: str | None) -> SpectraStore | None:
    """The store of a recipe if its spectra do not fit the memory; None if they do, or come from other files.

    Raises
    ------
    ValueError
        If they do not fit and the recipe asks for what needs all of them in memory, naming it.

    """
    limit = usable_memory() if memory is None else byte_count(memory, "--memory")
    if recipe.data.source != "file" or len(recipe.spectra) != 1 or recipe.spectra[0].suffix.lower() != ".zarr":
        return None
    store = open_store(recipe.spectra[0])
    needed = store.n_stars * store.n_pixels * _BYTES_IN_MEMORY
    if needed <= limit:
        return None
    asked = {"scatter": recipe.scatter, "local": recipe.local}
    sections = [f"[{name}]" for name, section in asked.items() if section is not None]
    if recipe.model.chooses:
        sections.append("a choice of the order or the regularization in [model]")
    if sections:
        raise ValueError(
            f"the spectra in {store.path} need {needed / 1e9:.3g} GB of memory, more than {limit / 1e9:.3g} GB, and so "
            f"are trained by blocks of pixels, which does not go with {', '.join(sections)}: leave it out of the "
            "recipe, or allow more with --memory"
        )
    return store


def stars_of(store: SpectraStore) -> Spectra:
    """What is known of the stars, and their rows."""
    stars = store.stars()
    return replace(stars, labels={**stars.labels, ROW: np.arange(store.n_stars, dtype=float)})


def first_star(store: SpectraStore, stars: Spectra, preparation: Preparation) -> tuple[Spectra, Preparation]:
    """The first of the stars, prepared, which knows the wavelengths; and the preparation that the store asks for."""
    first = next(store.parts(_rows(stars)[:1], size=1))
    preparation = preparation.after(first)
    return preparation.apply(first), preparation


def train_from_store(
    recipe: Recipe, store: SpectraStore, *, by_row: bool, memory: str | None, scratch: Path | None, quiet: bool,
    executor: Executor | None,
) -> tuple[Preparation, CannonModel, Spectra, np.ndarray, np.ndarray, LabelFit | None]:  # fmt: skip
    """Train a recipe from a store that does not fit the memory, and say how.

    Returns
    -------
    preparation, model, stars
        What is done to the spectra, the model, and the stars, which have no pixels.
    training, held_out
        Which of the stars were trained on and held out, boolean, shape (star,).
    fit
        Labels of those that were held out, if some were.

    """
    stars = complete_labels(chosen_stars(recipe, stars_of(store), by_row), recipe.model.label_names, quiet=quiet)
    first, preparation = first_star(store, stars, Preparation.of_recipe(recipe))
    options: dict[str, Any] = {
        "preparation": preparation, "op_method": recipe.model.op_method,
        "dof_correction": recipe.model.dof_correction, "memory": memory, "executor": executor,
    }  # fmt: skip

    def trained(some: np.ndarray, folder: Path | None) -> CannonModel:
        chosen = stars.at(some)
        model, asked = build_model(recipe, chosen, first), {"stars": _rows(chosen), **options}
        if not quiet:
            click.echo(f"the store is larger than the memory: {model.plan_store(store, **asked)}", err=True)
        model.train_store(store, scratch=folder, progress=not quiet, **asked)
        return model

    none = np.zeros(stars.n_stars, dtype=bool)
    if recipe.validation is None:
        return preparation, trained(~none, scratch), stars, ~none, none, None
    fold, wanted = fold_of_each(recipe, stars), recipe.validation.held_out
    if wanted != "all":
        model, held_out = trained(fold != wanted, scratch), fold == wanted
        fit = _labelled(model, store, preparation, stars.at(held_out)) if held_out.any() else None
        return preparation, model, stars, ~held_out, held_out, fit
    fits = []
    for number in np.unique(fold):
        # Each fold has blocks of its own.
        model = trained(fold != number, None if scratch is None else scratch / f"fold-{number}")
        fits.append(_labelled(model, store, preparation, stars.at(fold == number)))
    fit = type(fits[0]).concatenated(fits).at(order_of_folds(fold))
    return preparation, trained(~none, scratch), stars, ~none, ~none, fit


def _labelled(model: CannonModel, store: SpectraStore, preparation: Preparation, stars: Spectra) -> LabelFit:
    """Labels of stars of the store, some of which are in memory at a time."""
    parts = store.parts(_rows(stars), size=_STARS_AT_ONCE)
    pairs = (with_units(preparation.apply(part))[:2] for part in parts)
    fits = list(model.fit_label_stream(pairs))
    return type(fits[0]).concatenated(fits)


def _rows(stars: Spectra) -> np.ndarray:
    return np.asarray(stars.labels[ROW]).astype(int)
