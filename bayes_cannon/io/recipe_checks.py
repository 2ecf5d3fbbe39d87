"""Whether the keys of a recipe go together."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bayes_cannon.scatter.selection import AUTO

if TYPE_CHECKING:
    from bayes_cannon.io.recipe import Recipe, ScatterSection

_OF_LABELS = ("id_column", "missing", "columns", "duplicates", "best_by", "unmatched")


def check_consistent(recipe: "Recipe", given: Mapping[str, Any]) -> None:
    """Raise for keys that contradict each other."""
    model, data, labels = recipe.model, recipe.data, ", ".join(recipe.model.label_names)
    if "order" in given["model"] and model.terms is not None:
        raise ValueError("[model] has both order and terms; give one of them")
    if recipe.scatter is not None and model.dof_correction:
        raise ValueError("[model] dof_correction is for independent scatter; leave it or the section [scatter] out")
    if recipe.scatter is not None:
        _check_scatter(recipe.scatter)
    if recipe.local is not None and (recipe.censors or recipe.theta_bounds or model.terms is not None):
        raise ValueError("[local] goes neither with [censors], [theta_bounds] nor terms in [model]: leave it out")
    if isinstance(model.regularization, tuple) and (recipe.local is not None or model.terms is not None):
        raise ValueError(
            "[model] regularization has several values, which are tried with an order, and goes neither with [local] "
            "nor with terms: give one number"
        )
    for where, used in (("censors", recipe.censors), ("model.label_units", model.label_units)):
        for name in used:
            if name not in model.label_names:
                raise ValueError(f"[{where}] names {name!r}, which is no label of the model; the labels are {labels}")
    for name, censor in recipe.censors.items():
        if (censor.censored is None) == (censor.kept is None):
            raise ValueError(f"[censors.{name}] needs either censored or kept, not both or neither")
    _check_continuum(recipe)
    if data.source == "gaia-xp" or data.spectra is not None:
        check_data(recipe)
    if (data.duplicates == "best") != (data.best_by is not None):
        raise ValueError("[data] duplicates = 'best' and best_by, the column whose largest value is best, go together")
    if data.source != "gaia-xp" and data.bad_rows is not None:
        raise ValueError("[data.bad_rows] needs source = 'gaia-xp', whose photometry the rule looks at")
    validation = recipe.validation
    if validation is not None and isinstance(validation.held_out, int) and validation.held_out >= validation.folds:
        raise ValueError(f"[validation] held_out = {validation.held_out} must be below folds = {validation.folds}")


def check_data(recipe: "Recipe") -> None:
    """Raise unless a recipe says where its spectra and their labels are."""
    data = recipe.data
    if data.source == "gaia-xp" and (data.labels is not None or len(recipe.spectra) > 1):
        raise ValueError("[data] with source = 'gaia-xp' takes no 'labels' and one file at most: the library holds all")
    if data.source == "file" and data.spectra is None:
        raise ValueError(
            "the recipe names no spectra: give the files, as in bayes-cannon train RECIPE FILES..., or the key "
            "'spectra' in [data]"
        )
    default = type(data)()
    asked = [name for name in _OF_LABELS if getattr(data, name) != getattr(default, name)]
    if asked and data.labels is None:
        raise ValueError(
            f"[data] {asked[0]} is about a table of labels: give its path as 'labels', or as "
            "bayes-cannon train RECIPE FILES... --labels TABLE"
        )


def _check_continuum(recipe: "Recipe") -> None:
    """Raise unless the continuum is defined in one way."""
    section = recipe.continuum
    if section is None:
        return
    ways = [name for name in ("pixels", "every", "running_mean") if getattr(section, name) is not None]
    if len(ways) != 1:
        raise ValueError(f"[continuum] needs one of pixels, every and running_mean, got {' and '.join(ways) or 'none'}")
    for name in ("L", "order", "regions"):
        if ways == ["running_mean"] and getattr(section, name) is not None:
            raise ValueError(f"[continuum] with running_mean takes no {name!r}: leave it out")
    if recipe.data.divide_by_median:
        raise ValueError("[data] divide_by_median and [continuum] do the same work: leave one of them out")


def _check_scatter(section: "ScatterSection") -> None:
    """Raise for keys that the family does not have, or lacks."""
    known = {"low-rank": ("rank", "heavy_tails"), "full": ("heavy_tails", "shrinkage"), AUTO: ()}[section.family]
    for key in ("rank", "heavy_tails", "shrinkage"):
        if getattr(section, key) is not None and key not in known:
            raise ValueError(f"[scatter] with family = {section.family!r} takes no {key!r}; leave it out")
    if section.family == "low-rank" and section.rank is None:
        raise ValueError("[scatter] with family = 'low-rank' needs the key 'rank', the number of latent factors")
    try:
        _ = section.scatter
    except ValueError as error:
        raise ValueError(f"[scatter]: {error}") from error
