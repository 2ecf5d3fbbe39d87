"""A recipe trained from a store of spectra that does not fit the memory."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from bayes_cannon.cli.building import build_model
from bayes_cannon.cli.training_stars import chosen_stars, complete_labels
from bayes_cannon.core.arguments import byte_count
from bayes_cannon.execution.shards import Executor
from bayes_cannon.io.preparation import Preparation
from bayes_cannon.io.recipe import Recipe
from bayes_cannon.io.spectra import Spectra
from bayes_cannon.io.spectra_store import SpectraStore, open_store
from bayes_cannon.model import CannonModel
from bayes_cannon.model.store_plan import usable_memory

ROW = "row of the store"
"""Label by which the stars that are left know their place in the store."""
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
    asked = {"scatter": recipe.scatter, "local": recipe.local, "validation": recipe.validation}
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
) -> tuple[Preparation, CannonModel, Spectra]:  # fmt: skip
    """Train a recipe from a store that does not fit the memory, and say how; the stars have no pixels."""
    stars = complete_labels(chosen_stars(recipe, stars_of(store), by_row), recipe.model.label_names, quiet=quiet)
    first, preparation = first_star(store, stars, Preparation.of_recipe(recipe))
    model = build_model(recipe, stars, first)
    options: dict[str, Any] = {
        "stars": _rows(stars), "preparation": preparation, "op_method": recipe.model.op_method,
        "dof_correction": recipe.model.dof_correction, "memory": memory,
        "executor": executor,
    }  # fmt: skip
    if not quiet:
        click.echo(f"the store is larger than the memory: {model.plan_store(store, **options)}", err=True)
    model.train_store(store, scratch=scratch, progress=not quiet, **options)
    return preparation, model, stars


def _rows(stars: Spectra) -> np.ndarray:
    return np.asarray(stars.labels[ROW]).astype(int)
