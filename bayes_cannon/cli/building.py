"""From a recipe and its training stars to a model that is ready to be trained."""

from typing import Any

import numpy as np

from bayes_cannon.cli.local_run import label_options
from bayes_cannon.core.censoring import create_inverse_mask, create_mask
from bayes_cannon.core.vectorizer import PolynomialVectorizer
from bayes_cannon.io.quantities import with_units
from bayes_cannon.io.recipe import Recipe
from bayes_cannon.io.spectra import Spectra
from bayes_cannon.model import CannonModel, RestrictedCannonModel
from bayes_cannon.model.order_selection import OrderPath, degree


def chosen_model(
    recipe: Recipe, stars: Spectra, groups: np.ndarray, progress: Any
) -> tuple[CannonModel, OrderPath | None]:  # fmt: skip
    """The model of a recipe, not trained, with independent scatter; and what was tried, where its terms are chosen.

    They are chosen with the scatter of the recipe. Spectra of one group are held out together, shape (star,).
    """
    section, model = recipe.model, build_model(recipe, stars)
    if not section.chooses:
        return model, None
    if recipe.scatter is not None:
        model.scatter = recipe.scatter.scatter
    path = model.order_path(
        None if isinstance(section.order, str) else [section.order],
        section.regularization if isinstance(section.regularization, tuple) else None,
        seed=recipe.seed, groups=groups, progress=progress,
    )  # fmt: skip
    model = model.with_terms(path.best)
    model.scatter = None
    return model, path


def build_model(recipe: Recipe, stars: Spectra) -> CannonModel:
    """The model of a recipe, not trained, with these training stars; where the terms are to be chosen, with some."""
    section, (flux, ivar, wavelength) = recipe.model, with_units(stars)
    names = section.label_names
    if section.terms is None:
        order = max([1, *map(degree, recipe.theta_bounds)]) if isinstance(section.order, str) else section.order
        vectorizer = PolynomialVectorizer(names, order=order)
    else:
        vectorizer = PolynomialVectorizer(names, terms=section.terms)
    options = label_options(section, stars)
    kind: type[CannonModel] = CannonModel
    if recipe.theta_bounds:
        kind, options["theta_bounds"] = RestrictedCannonModel, recipe.theta_bounds
    lam = None if isinstance(section.regularization, tuple) else section.regularization
    options |= {"regularization": lam, "censors": _censors(recipe, stars.wavelength)}
    return kind(
        stars.label_array(names), flux, ivar, vectorizer,
        dispersion=wavelength, **options,
    )  # fmt: skip


def _censors(recipe: Recipe, wavelength: Any) -> dict[str, np.ndarray]:
    if recipe.censors and wavelength is None:
        raise ValueError("[censors] needs the wavelengths of the pixels, and the spectra have none")
    masks = {}
    for name, censor in recipe.censors.items():
        if censor.censored is not None:
            masks[name] = create_mask(wavelength, censor.censored)
        elif censor.kept is not None:
            masks[name] = create_inverse_mask(wavelength, censor.kept)
    return masks
