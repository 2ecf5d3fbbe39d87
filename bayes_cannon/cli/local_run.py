"""Local models on the command line: trained by a recipe, and read in place of one model."""

from typing import Any

from bayes_cannon.io.quantities import with_units
from bayes_cannon.io.recipe import ModelSection, Recipe
from bayes_cannon.io.spectra import Spectra
from bayes_cannon.model.local import LocalCannonModel
from bayes_cannon.scatter.base import Scatter


def label_options(section: ModelSection, stars: Spectra) -> dict[str, Any]:
    """Scaling and units of the labels, and the unit of the wavelengths, as keywords of a model of either kind."""
    units = {name: stars.units[name] for name in section.label_names if name in stars.units}
    options = {"label_units": units | dict(section.label_units), "dispersion_unit": stars.units.get("wavelength")}
    return options if section.scale_factor is None else options | {"scale_factor": section.scale_factor}


def train_local(recipe: Recipe, stars: Spectra, scatter: Scatter | str | None, progress: Any) -> LocalCannonModel:
    """Local models of the training stars of a recipe, with the family of scatter that the one model has."""
    assert recipe.local is not None
    section, (flux, ivar, wavelength) = recipe.model, with_units(stars)
    names, lam = section.label_names, section.regularization
    assert not isinstance(lam, tuple)
    local = LocalCannonModel(
        stars.label_array(names), flux, ivar, names, partitions=recipe.local.partitions, dispersion=wavelength,
        scatter=scatter if isinstance(scatter, Scatter) else None, regularization=lam or None,
        seed=recipe.seed, **label_options(section, stars),
    )  # fmt: skip
    local.train(progress=progress)
    if recipe.local.calibrate:
        local.calibrate(progress=progress)
    return local
