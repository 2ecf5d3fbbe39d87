"""What the commands train and infer do: a recipe becomes a model and its validation, spectra become labels."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
from astropy.table import Table

from bayes_cannon.cli.figures import FIGURES, write_figures
from bayes_cannon.core.censoring import create_inverse_mask, create_mask
from bayes_cannon.core.status import PixelStatus, StarStatus
from bayes_cannon.core.vectorizer import PolynomialVectorizer
from bayes_cannon.io.atomic import check_output_path
from bayes_cannon.io.gaia_xp import colour_outliers, read_gaia_xp
from bayes_cannon.io.preparation import Preparation
from bayes_cannon.io.quantities import with_units
from bayes_cannon.io.recipe import Recipe, read_recipe
from bayes_cannon.io.recipe_values import Limits
from bayes_cannon.io.spectra import Spectra, read_spectra
from bayes_cannon.io.tables import check_table_suffix, join_labels, label_table, read_table, write_table
from bayes_cannon.labelling.fit import LabelFit
from bayes_cannon.model import CannonModel, RestrictedCannonModel
from bayes_cannon.scatter import LowRank
from bayes_cannon.validate import folds, summary_table

_SHOWN_COLUMNS = ("label", "unit", "stars", "failed", "bias", "robust_scatter", "median_error", "robust_pull")


@dataclass(frozen=True)
class TrainingRun:
    """A model trained according to a recipe.

    Attributes
    ----------
    recipe, preparation, model
        The recipe, what was done to the spectra, and the trained model.
    spectra
        All stars that pass the cuts and have finite labels, prepared.
    training, held_out
        Masks of the training stars and of the held-out stars, shape (star,).
    fit
        Labels of the held-out stars, None if there are none.
    independent
        The same by the model with independent scatter, where the recipe asks for correlated scatter.

    """

    recipe: Recipe
    preparation: Preparation
    model: CannonModel
    spectra: Spectra
    training: np.ndarray
    held_out: np.ndarray
    fit: LabelFit | None
    independent: LabelFit | None = None

    @property
    def reference(self) -> np.ndarray:
        """Known labels of the held-out stars, shape (held-out star, label)."""
        return self.spectra.at(self.held_out).label_array(self.model.label_names)


def run_recipe(
    recipe: str | Path, folder: Path, *, with_spectra: bool = False, by_row: bool = False, overwrite: bool, quiet: bool
) -> None:  # fmt: skip
    """Train according to a recipe, write every file and print a summary.

    The training spectra are kept in the model file if ``with_spectra`` is set. Existing files are refused before any
    work is done.
    """
    parsed = read_recipe(recipe)
    outputs = _outputs(parsed, folder)
    folder.mkdir(parents=True, exist_ok=True)
    for path in outputs.values():
        check_output_path(path, overwrite=overwrite)
    run = train_recipe(parsed, by_row=by_row, quiet=quiet)
    summary = _write_run(run, outputs, with_spectra=with_spectra, overwrite=overwrite)
    if not quiet:
        _print_run(run, summary)
    for path in outputs.values():
        if path.exists():
            click.echo(f"wrote {path}")


def run_inference(
    model: Path, spectra: Path, output: Path, *, posterior: Path | None = None, error_budget: bool = False,
    overwrite: bool, quiet: bool,
) -> None:  # fmt: skip
    """Label the spectra of a file with the model of another, and write the label table.

    With a ``posterior`` of its theta, theta is integrated out. With ``error_budget`` the table has the sources of each
    label's error too.
    """
    check_output_path(check_table_suffix(output), overwrite=overwrite)
    trained = CannonModel.read(model)
    if posterior is not None:
        trained.integrate_theta = True
        trained.use_posterior(posterior)
    stars = read_spectra(spectra)
    if "preparation" in trained.provenance:
        stars = Preparation.from_text(trained.provenance["preparation"]).apply(stars)
    if stars.wavelength is None and trained.dispersion is not None:
        click.echo(f"Warning: {spectra} has no wavelengths: assuming those of the model", err=True)
    flux, ivar, wavelength = with_units(stars)
    fit = trained.fit_labels(flux, ivar, dispersion=wavelength, progress=None if quiet else True)
    sources: dict[str, dict[str, np.ndarray]] = {}
    if error_budget:
        columns = trained.error_budget(flux, ivar, fit).columns(trained.label_names)
        sources = _error_columns(columns, trained.label_names)
    write_table(output, _table(trained, fit, stars, model.name, sources), overwrite=overwrite)
    if not quiet:
        _print_statuses(fit)
        click.echo(f"errors of labels: {kind_of_errors(trained)}")
    click.echo(f"wrote {output}")


def kind_of_errors(model: CannonModel) -> str:
    """Which errors of labels a model gives, in words: formal, calibrated, theta integrated out or not."""
    calibrated = "formal" if model.calibration is None else "calibrated"
    integrated = model.posterior is not None and model.integrate_theta
    return f"{calibrated}, theta {'integrated out' if integrated else 'taken as known exactly'}"


def train_recipe(recipe: Recipe, *, by_row: bool = False, quiet: bool = True) -> TrainingRun:
    """Read, choose and prepare the spectra of a recipe, train, and label the stars that it holds out.

    Raises
    ------
    ValueError
        If the data do not fit the recipe, and for everything that `CannonModel` refuses.

    """
    progress = None if quiet else True
    raw = _complete_labels(_read_stars(recipe, by_row), recipe.model.label_names, quiet=quiet)
    preparation = Preparation.of_recipe(recipe)
    spectra = preparation.apply(raw)
    held_out = np.zeros(spectra.n_stars, dtype=bool)
    if recipe.validation is not None:
        section = recipe.validation
        fold = folds(spectra.n_stars, section.folds, recipe.seed, _groups(spectra, section.group))
        held_out = fold == section.held_out
    training = ~held_out
    if recipe.data.bad_rows is not None:
        threshold = recipe.data.bad_rows.threshold
        options = {} if threshold is None else {"threshold": threshold}
        training[training] = ~colour_outliers(spectra.at(training), **options)
    model = build_model(recipe, spectra.at(training))
    stars, fit, independent = spectra.at(held_out), None, None
    if recipe.scatter is not None and held_out.any():
        model.train(op_method=recipe.model.op_method, progress=progress)
        independent = model.fit_labels(stars.flux, stars.ivar, progress=progress)
    if recipe.scatter is not None:
        model.scatter = recipe.scatter.scatter
    model.train(op_method=recipe.model.op_method, dof_correction=recipe.model.dof_correction, progress=progress)
    if held_out.any():
        fit = model.fit_labels(stars.flux, stars.ivar, progress=progress)
    return TrainingRun(recipe, preparation, model, spectra, training, held_out, fit, independent)


def _groups(spectra: Spectra, column: str | None) -> np.ndarray:
    """What tells one star from another, shape (star,): a column of the data, or the names of the stars."""
    if column is None:
        return spectra.ids
    if column not in spectra.labels:
        known = ", ".join(spectra.labels) or "none"
        raise ValueError(f"[validation] group names {column!r}, which the data do not have; they have {known}")
    return spectra.labels[column]


def build_model(recipe: Recipe, stars: Spectra) -> CannonModel:
    """The model of a recipe, not trained, with these training stars."""
    section, (flux, ivar, wavelength) = recipe.model, with_units(stars)
    names = section.label_names
    if section.terms is None:
        vectorizer = PolynomialVectorizer(names, order=section.order)
    else:
        vectorizer = PolynomialVectorizer(names, terms=section.terms)
    options: dict[str, Any] = {} if section.scale_factor is None else {"scale_factor": section.scale_factor}
    kind: type[CannonModel] = CannonModel
    if recipe.theta_bounds:
        kind, options["theta_bounds"] = RestrictedCannonModel, recipe.theta_bounds
    units = {name: stars.units[name] for name in names if name in stars.units} | dict(section.label_units)
    options |= {"regularization": section.regularization, "censors": _censors(recipe, stars.wavelength)}
    return kind(
        stars.label_array(names), flux, ivar, vectorizer,
        dispersion=wavelength, label_units=units, dispersion_unit=stars.units.get("wavelength"), **options,
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


def _read_stars(recipe: Recipe, by_row: bool) -> Spectra:
    """The stars that pass the cuts, in linear flux."""
    data = recipe.data
    path = None if data.spectra is None else recipe.resolve(data.spectra)
    if data.source == "gaia-xp":
        limits = {} if data.wavelength_range is None else {"wavelength_range": data.wavelength_range}
        return read_gaia_xp(path, cuts=data.cuts, log_flux=False, **limits)
    spectra = read_spectra(path)  # type: ignore[arg-type]
    if data.labels is not None:
        spectra = join_labels(
            spectra, read_table(recipe.resolve(data.labels)), id_column=data.id_column, by_row=data.by_row or by_row,
            missing=data.missing,
        )  # fmt: skip
    return spectra.at(_pass(spectra, data.cuts))


def _pass(spectra: Spectra, cuts: Mapping[str, Limits]) -> np.ndarray:
    passed = np.ones(spectra.n_stars, dtype=bool)
    for name, limits in cuts.items():
        if name not in spectra.labels:
            near = get_close_matches(name, spectra.labels, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            known = ", ".join(spectra.labels) or "none"
            raise ValueError(f"[data.cuts] names {name!r}, which the data do not have; they have {known}{hint}")
        values = spectra.labels[name]
        passed &= (values > limits.get("above", -np.inf)) & (values < limits.get("below", np.inf))
    if not passed.any():
        raise ValueError(f"no star of {spectra.n_stars} passes [data.cuts]")
    return passed


def _complete_labels(spectra: Spectra, label_names: tuple[str, ...], *, quiet: bool) -> Spectra:
    finite = np.isfinite(spectra.label_array(label_names)).all(axis=1)
    if not finite.any():
        raise ValueError(f"no star of {spectra.n_stars} has finite values of all of {', '.join(label_names)}")
    if not finite.all() and not quiet:
        click.echo(f"left out {int((~finite).sum())} stars whose labels are not all finite", err=True)
    return spectra.at(finite)


def _outputs(recipe: Recipe, folder: Path) -> dict[str, Path]:
    """Every file that a run may write, by its content."""
    names = {"model": f"{recipe.name}.model"}
    if recipe.validation is not None:
        names |= {"labels": f"{recipe.name}-labels.ecsv", "validation": f"{recipe.name}-validation.ecsv"}
        names |= {figure: f"{recipe.name}-{figure}.png" for figure in FIGURES}
    return {what: folder / name for what, name in names.items()}


def _write_run(
    run: TrainingRun, outputs: Mapping[str, Path], *, with_spectra: bool, overwrite: bool
) -> Table | None:  # fmt: skip
    """Write the model and, if stars were held out, the rest; return the validation table."""
    run.model.provenance.update(
        recipe=run.recipe.name, description=run.recipe.description, preparation=run.preparation.to_text()
    )
    if "labels_joined" in run.spectra.attrs:
        run.model.provenance["labels_joined"] = str(run.spectra.attrs["labels_joined"])
    run.model.write(outputs["model"], include_training_set_spectra=with_spectra, overwrite=overwrite)
    if run.fit is None:
        return None
    model = run.model
    stars = run.spectra.at(run.held_out)
    reference = {name: {f"{name}_REFERENCE": run.reference[:, k]} for k, name in enumerate(model.label_names)}
    table = _table(model, run.fit, stars, outputs["model"].name, reference)
    write_table(outputs["labels"], table, overwrite=overwrite)
    summary = _summary(model, run.fit, run.reference)
    write_table(outputs["validation"], summary, overwrite=overwrite)
    write_figures(model, run.fit, run.reference, outputs, overwrite=overwrite)
    return summary


def _error_columns(
    columns: Mapping[str, np.ndarray], label_names: tuple[str, ...]
) -> dict[str, dict[str, np.ndarray]]:  # fmt: skip
    """Columns of an error budget by label, without its total, which the table has already."""
    sources: dict[str, dict[str, np.ndarray]] = {name: {} for name in label_names}
    for column, values in columns.items():
        name, source = column.rsplit("_ERR_", 1)
        if source != "TOTAL":
            sources[name][column] = values
    return sources


def _table(
    model: CannonModel,
    fit: LabelFit,
    stars: Spectra,
    model_name: str,
    of_labels: Mapping[str, Mapping[str, np.ndarray]],
) -> Table:
    """The label table; ``of_labels`` has further columns by label name and column name, in the unit of the label."""
    meta = {
        "MODEL": model_name,
        "PROGRAM": f"bayes_cannon {version('bayes-cannon')}",
        "CREATED": datetime.now(UTC).isoformat(timespec="seconds"),
        "ERRORS": kind_of_errors(model),
    }
    units = model.label_units
    extra = {column: values for columns in of_labels.values() for column, values in columns.items()}
    table = label_table(model.label_names, fit, star_id=stars.ids, label_units=units, extra=extra, meta=meta)
    for name, columns in of_labels.items():
        for column in columns:
            table[column].unit = table[name].unit
    return table


def _print_run(run: TrainingRun, summary: Table | None) -> None:
    left_out = int((~run.training & ~run.held_out).sum())
    rule = f", {left_out} bad rows left out" if left_out else ""
    n_pixels = run.spectra.n_pixels
    click.echo(f"{run.recipe.name}: trained on {int(run.training.sum())} stars x {n_pixels} pixels{rule}")
    certificates = run.model.certificates or {}
    for status, count in zip(*np.unique(certificates.get("status", []), return_counts=True), strict=True):
        click.echo(f"  {count} pixels: {PixelStatus(int(status)).message}")
    if run.fit is None or summary is None:
        return
    click.echo(f"{int(run.held_out.sum())} held-out stars, labelled")
    _print_statuses(run.fit)
    if run.independent is not None:
        click.echo("with independent scatter:")
        _print_summary(_summary(run.model, run.independent, run.reference))
        click.echo(_scatter_title(run.model))
    _print_summary(summary)


def _scatter_title(model: CannonModel) -> str:
    if model.factors is None or model.nu is None:
        return "selected: independent scatter:"
    kind = "latent factors" if isinstance(model.scatter, LowRank) else "directions of a full covariance"
    tails = "" if np.isinf(model.nu) else f", heavy tails with {model.nu:.1f} degrees of freedom"
    return f"with {model.factors.shape[1]} {kind}{tails}:"


def _print_summary(summary: Table) -> None:
    click.echo("\n".join(summary[[name for name in _SHOWN_COLUMNS if name in summary.colnames]].pformat(max_width=-1)))


def _summary(model: CannonModel, fit: LabelFit, reference: np.ndarray) -> Table:
    return summary_table(fit.labels, reference, fit.covariance, label_names=model.label_names, units=model.label_units)


def _print_statuses(fit: LabelFit) -> None:
    for status, count in zip(*np.unique(fit.status, return_counts=True), strict=True):
        click.echo(f"  {count} stars: {StarStatus(int(status)).message}")
