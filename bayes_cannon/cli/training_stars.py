"""The training stars of a recipe: read, joined to their labels and chosen."""

from dataclasses import replace

import click
import numpy as np

from bayes_cannon.io.cuts import passing
from bayes_cannon.io.gaia_xp import read_gaia_xp
from bayes_cannon.io.joining import join_labels
from bayes_cannon.io.recipe import Recipe
from bayes_cannon.io.spectra import Spectra
from bayes_cannon.io.survey_files import read_spectra
from bayes_cannon.io.tables import read_table
from bayes_cannon.validate import folds


def read_stars(recipe: Recipe, by_row: bool) -> Spectra:
    """The stars that pass the cuts, in linear flux; ``attrs`` say what was left out."""
    data = recipe.data
    if data.source == "gaia-xp":
        limits = {} if data.wavelength_range is None else {"wavelength_range": data.wavelength_range}
        path = recipe.spectra[0] if recipe.spectra else None
        return read_gaia_xp(path, cuts=data.cuts, log_flux=False, **limits)
    return chosen_stars(recipe, read_spectra(recipe.spectra, **data.of_files), by_row)


def chosen_stars(recipe: Recipe, spectra: Spectra, by_row: bool) -> Spectra:
    """Spectra with their labels, of stars that pass the cuts."""
    data = recipe.data
    if data.labels is not None:
        spectra = join_labels(
            spectra, read_table(recipe.resolve(data.labels)), id_column=data.id_column, by_row=data.by_row or by_row,
            missing=data.missing, columns=data.columns, duplicates=data.duplicates, best_by=data.best_by,
            unmatched=data.unmatched,
        )  # fmt: skip
    passed, said = passing(spectra, data.cuts)
    return replace(spectra.at(passed), attrs={**spectra.attrs, "cuts": said}) if said else spectra


def star_groups(spectra: Spectra, column: str | None) -> np.ndarray:
    """What tells one star from another, shape (star,): a column of the data, or the names of the stars."""
    if column is None:
        return spectra.ids
    if column not in spectra.labels:
        known = ", ".join(spectra.labels) or "none"
        raise ValueError(f"[validation] group names {column!r}, which the data do not have; they have {known}")
    return spectra.labels[column]


def fold_of_each(recipe: Recipe, spectra: Spectra) -> np.ndarray:
    """The fold of each star by the section ``[validation]``, shape (star,)."""
    section = recipe.validation
    assert section is not None
    return folds(spectra.n_stars, section.folds, recipe.seed, star_groups(spectra, section.group))


def order_of_folds(fold: np.ndarray) -> np.ndarray:
    """Place of each star where the stars of all folds stand one fold after the other, shape (star,)."""
    return np.argsort(np.argsort(fold, kind="stable"), kind="stable")


def complete_labels(spectra: Spectra, label_names: tuple[str, ...], *, quiet: bool) -> Spectra:
    """The stars that have all labels."""
    finite = np.isfinite(spectra.label_array(label_names)).all(axis=1)
    if not finite.any():
        raise ValueError(f"no star of {spectra.n_stars} has finite values of all of {', '.join(label_names)}")
    if not finite.all() and not quiet:
        click.echo(f"left out {int((~finite).sum())} stars whose labels are not all finite", err=True)
    return spectra.at(finite)
