"""What the commands train and infer do: a recipe becomes a model and its validation, spectra become labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import file_digest
from pathlib import Path
from typing import Any

import click
import numpy as np
from astropy.table import Table

from bayes_cannon.cli.building import chosen_model
from bayes_cannon.cli.figures import FIGURES, write_figures
from bayes_cannon.cli.local_run import train_local
from bayes_cannon.cli.printing import decided, label_summary, print_run, print_statuses
from bayes_cannon.cli.store_training import large_store, train_from_store
from bayes_cannon.cli.training_stars import complete_labels, fold_of_each, order_of_folds, read_stars, star_groups
from bayes_cannon.cli.worker_options import check_workers, executor_of
from bayes_cannon.core.grids import grid_of
from bayes_cannon.io.atomic import check_output_path
from bayes_cannon.io.file_lists import list_files
from bayes_cannon.io.gaia_xp import colour_outliers
from bayes_cannon.io.gridding import WAVELENGTHS
from bayes_cannon.io.label_export import likelihood_columns
from bayes_cannon.io.label_tables import label_table
from bayes_cannon.io.model_file import array_hash
from bayes_cannon.io.preparation import Preparation
from bayes_cannon.io.quantities import with_units
from bayes_cannon.io.recipe import Recipe, read_recipe
from bayes_cannon.io.recipe_checks import check_data
from bayes_cannon.io.shipped import find_model
from bayes_cannon.io.spectra import Spectra
from bayes_cannon.io.survey_files import FileSettings, has_own_format, read_spectra
from bayes_cannon.io.tables import check_table_suffix, write_table
from bayes_cannon.labelling.fit import LabelFit
from bayes_cannon.model import CannonModel
from bayes_cannon.model.any_model import AnyModel, kind_of_errors, read_any_model, table_meta
from bayes_cannon.model.calibrating import CalibratedFit
from bayes_cannon.model.local import LocalCannonModel
from bayes_cannon.model.order_selection import OrderPath
from bayes_cannon.model.posterior_fit import PosteriorFit


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
    local, local_fit
        Local models of the training stars, and the labels that they give to the held-out stars, where the recipe asks
        for them.
    path
        The polynomials that were tried, where the recipe asks for a choice.
    spectra_hash
        SHA-256 of the spectra where they are in a store, and ``spectra`` are without pixels.

    """

    recipe: Recipe
    preparation: Preparation
    model: CannonModel
    spectra: Spectra
    training: np.ndarray
    held_out: np.ndarray
    fit: LabelFit | None
    independent: LabelFit | None = None
    local: LocalCannonModel | None = None
    local_fit: LabelFit | None = None
    path: OrderPath | None = None
    spectra_hash: str | None = None

    @property
    def reference(self) -> np.ndarray:
        """Known labels of the held-out stars, shape (held-out star, label)."""
        return self.spectra.at(self.held_out).label_array(self.model.label_names)


def run_recipe(
    recipe: str | Path, folder: Path, files: Sequence[str] = (), *, labels: str | None = None,
    with_spectra: bool = False, by_row: bool = False, memory: str | None = None, scratch: Path | None = None,
    workers: int | None = None, scheduler: str | None = None, overwrite: bool, quiet: bool,
) -> None:  # fmt: skip
    """Train according to a recipe, write every file and print a summary.

    Spectra and the table of labels are those of the recipe unless they are given. The training spectra are kept in the
    model file if ``with_spectra`` is set. A store that does not fit ``memory`` is trained by blocks of pixels, with
    what is finished in the folder ``scratch``, by ``workers`` or those of a ``scheduler``. Existing files are refused
    before any work is done.
    """
    parsed = read_recipe(recipe).with_files(files, labels)
    check_data(parsed)
    outputs = _outputs(parsed, folder)
    folder.mkdir(parents=True, exist_ok=True)
    for path in outputs.values():
        check_output_path(path, overwrite=overwrite)
    store = large_store(parsed, memory)
    if store is None and check_workers(workers, scheduler):
        raise ValueError(
            "--workers and --scheduler train a store of spectra that does not fit the memory, and these spectra do: "
            "leave them out, as one process uses all cores, or allow less with --memory"
        )
    if store is None:
        run = train_recipe(parsed, by_row=by_row, quiet=quiet)
    elif with_spectra:
        raise ValueError("--with-spectra keeps all training spectra, which do not fit the memory: leave it out")
    else:
        options: dict[str, Any] = {"by_row": by_row, "memory": memory, "scratch": scratch, "quiet": quiet}
        with executor_of(workers, scheduler) as executor:
            found = train_from_store(parsed, store, executor=executor, **options)
        run = TrainingRun(parsed, *found, spectra_hash=store.sha256)
    summary = _write_run(run, outputs, with_spectra=with_spectra, overwrite=overwrite)
    if not quiet:
        print_run(run, summary)
    for path in outputs.values():
        if path.exists():
            click.echo(f"wrote {path}")


def run_inference(
    model: Path, spectra: Sequence[str | Path], output: Path, *, settings: FileSettings | None = None,
    posterior: Path | None = None, error_budget: bool = False, prior: str | None = None, overwrite: bool, quiet: bool,
) -> None:  # fmt: skip
    """Label the spectra of files with a model, and write the label table.

    With a ``posterior`` of its theta, theta is integrated out. With ``error_budget`` the table has the sources of each
    label's error too. With a ``prior`` labels are posterior means, and the table has those of highest likelihood too.
    """
    check_output_path(check_table_suffix(output), overwrite=overwrite)
    model = find_model(model)
    trained = read_any_model(model)
    if isinstance(trained, LocalCannonModel):
        _check_local(model, posterior=posterior, error_budget=error_budget, prior=prior)
    elif error_budget and prior is not None:
        raise ValueError("--error-budget is of the labels of highest likelihood: leave --prior out")
    elif posterior is not None:
        trained.integrate_theta = True
        trained.use_posterior(posterior)
    stars, named = spectra_for(trained, spectra, settings or FileSettings()), ", ".join(Path(s).name for s in spectra)
    if stars.wavelength is None and trained.dispersion is not None:
        click.echo(f"Warning: {named} has no wavelengths: assuming those of the model", err=True)
    flux, ivar, wavelength = with_units(stars)
    keywords: dict[str, Any] = {"dispersion": wavelength, "progress": None if quiet else True}
    if prior is not None:
        keywords["prior"] = prior
    fit = trained.fit_labels(flux, ivar, **keywords)
    sources: dict[str, Any] = likelihood_columns(vars(fit), trained.label_names)
    if error_budget and isinstance(trained, CannonModel) and isinstance(fit, CalibratedFit):
        columns = trained.error_budget(flux, ivar, fit).columns(trained.label_names)
        sources = _error_columns(columns, trained.label_names)
    write_table(output, _table(trained, fit, stars, model, named, sources, prior), overwrite=overwrite)
    if not quiet:
        print_statuses(fit)
        click.echo(f"errors of labels: {kind_of_errors(trained, prior)}")
    click.echo(f"wrote {output}")


def _check_local(model: Path, **options: Any) -> None:
    """Raise ValueError for options that are of one model."""
    for name, value in options.items():
        if value:
            raise ValueError(f"--{name.replace('_', '-')} does not go with local models, which {model} holds")


def spectra_for(model: AnyModel, spectra: Sequence[str | Path], settings: FileSettings) -> Spectra:
    """Spectra as a model wants them: survey files on its own wavelengths unless others are given, and prepared."""
    given = model.provenance.get("preparation")
    preparation = Preparation() if given is None else Preparation.from_text(given)
    if settings.grid is None and model.dispersion is not None and not all(map(has_own_format, list_files(spectra))):
        if preparation.continuum is not None and preparation.wavelength_range is not None:
            raise ValueError(
                "the model was trained on a part of the wavelengths that its continuum was fitted to: say with --grid "
                "on which the spectra were"
            )
        # A median is one of all pixels.
        if not (preparation.divide_by_median and preparation.wavelength_range is not None):
            settings = replace(settings, grid=grid_of(model.dispersion))
    return preparation.apply(read_spectra(spectra, **settings.keywords))


def train_recipe(recipe: Recipe, *, by_row: bool = False, quiet: bool = True) -> TrainingRun:
    """Read, choose and prepare the spectra of a recipe, train, and label the stars that it holds out.

    Raises
    ------
    ValueError
        If the data do not fit the recipe, and for everything that `CannonModel` refuses.

    """
    progress = None if quiet else True
    raw = complete_labels(read_stars(recipe, by_row), recipe.model.label_names, quiet=quiet)
    preparation = Preparation.of_recipe(recipe).after(raw)
    spectra = preparation.apply(raw)
    none = np.zeros(spectra.n_stars, dtype=bool)
    if recipe.validation is None:
        return _trained(recipe, preparation, spectra, none, progress)
    fold = fold_of_each(recipe, spectra)
    if recipe.validation.held_out != "all":
        return _trained(recipe, preparation, spectra, fold == recipe.validation.held_out, progress)
    parts = [_trained(recipe, preparation, spectra, fold == number, progress) for number in np.unique(fold)]
    order = order_of_folds(fold)
    names = ("fit", "independent", "local_fit")
    fits = {name: _concatenated([getattr(part, name) for part in parts], order) for name in names}
    whole = _trained(recipe, preparation, spectra, none, progress)
    return replace(whole, held_out=~none, fit=fits["fit"], independent=fits["independent"], local_fit=fits["local_fit"])


def _trained(
    recipe: Recipe, preparation: Preparation, spectra: Spectra, held_out: np.ndarray, progress: Any
) -> TrainingRun:  # fmt: skip
    """A model of the stars that are not held out, and the labels of those that are."""
    training = ~held_out
    if recipe.data.bad_rows is not None:
        threshold = recipe.data.bad_rows.threshold
        options = {} if threshold is None else {"threshold": threshold}
        training[training] = ~colour_outliers(spectra.at(training), **options)
    group = None if recipe.validation is None else recipe.validation.group
    model, path = chosen_model(recipe, spectra.at(training), star_groups(spectra, group)[training], progress)
    stars, fit, independent = spectra.at(held_out), None, None
    if recipe.scatter is not None and held_out.any():
        model.train(op_method=recipe.model.op_method, progress=progress)
        independent = model.fit_labels(stars.flux, stars.ivar, progress=progress)
    if recipe.scatter is not None:
        model.scatter = recipe.scatter.scatter
    model.train(op_method=recipe.model.op_method, dof_correction=recipe.model.dof_correction, progress=progress)
    if held_out.any():
        fit = model.fit_labels(stars.flux, stars.ivar, progress=progress)
    run = TrainingRun(recipe, preparation, model, spectra, training, held_out, fit, independent, path=path)
    if recipe.local is None:
        return run
    local = train_local(recipe, spectra.at(training), model.scatter, progress)
    of_local = local.fit_labels(stars.flux, stars.ivar, progress=progress) if held_out.any() else None
    return replace(run, local=local, local_fit=of_local)


def _concatenated(fits: Sequence[LabelFit | None], order: np.ndarray) -> LabelFit | None:
    """Fits of parts of the stars as one, in this order."""
    known = [fit for fit in fits if fit is not None]
    if not known:
        return None
    known = [  # Folds may have other regions.
        replace(fit, region_weights=np.zeros((len(fit.labels), 0))) if isinstance(fit, PosteriorFit) else fit
        for fit in known
    ]
    return type(known[0]).concatenated(known).at(order)


def _outputs(recipe: Recipe, folder: Path) -> dict[str, Path]:
    """Every file that a run may write, by its content."""
    names = {"model": f"{recipe.name}.model"}
    if recipe.local is not None:
        names["local"] = f"{recipe.name}-local.model"
    if recipe.validation is not None:
        names |= {"labels": f"{recipe.name}-labels.ecsv", "validation": f"{recipe.name}-validation.ecsv"}
        if recipe.local is not None:
            names["local_labels"] = f"{recipe.name}-local-labels.ecsv"
        names |= {figure: f"{recipe.name}-{figure}.png" for figure in FIGURES}
    return {what: folder / name for what, name in names.items()}


def _write_run(
    run: TrainingRun, outputs: Mapping[str, Path], *, with_spectra: bool, overwrite: bool
) -> Table | None:  # fmt: skip
    """Write the model and, if stars were held out, the rest; return the validation table."""
    run.model.provenance.update(
        recipe=run.recipe.name, description=run.recipe.description, preparation=run.preparation.to_text()
    )
    run.model.provenance.update(decided(run.spectra))
    run.model.provenance.update({name: str(given) for name, given in run.spectra.attrs.items() if name in WAVELENGTHS})
    run.model.write(outputs["model"], include_training_set_spectra=with_spectra, overwrite=overwrite)
    if run.local is not None:
        run.local.provenance.update(run.model.provenance)
        run.local.write(outputs["local"], overwrite=overwrite)
    if run.fit is None:
        return None
    model = run.model
    stars = run.spectra.at(run.held_out)
    reference = {name: {f"{name}_REFERENCE": run.reference[:, k]} for k, name in enumerate(model.label_names)}
    source = ", ".join(path.name for path in run.recipe.spectra) or run.recipe.data.source
    table = _table(model, run.fit, stars, outputs["model"], source, reference, spectra_hash=run.spectra_hash)
    write_table(outputs["labels"], table, overwrite=overwrite)
    if run.local is not None and run.local_fit is not None:
        both = {
            name: {**reference[name], **columns}
            for name, columns in likelihood_columns(vars(run.local_fit), model.label_names).items()
        }
        table = _table(run.local, run.local_fit, stars, outputs["local"], source, both)
        write_table(outputs["local_labels"], table, overwrite=overwrite)
    summary = label_summary(model, run.fit, run.reference)
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
    model: AnyModel,
    fit: LabelFit,
    stars: Spectra,
    model_file: Path,
    source: str,
    of_labels: Mapping[str, Mapping[str, np.ndarray]],
    prior: str | None = None,
    spectra_hash: str | None = None,
) -> Table:
    """The label table; ``of_labels`` has further columns by label name and column name, in the unit of the label."""
    with model_file.open("rb") as file:
        model_hash = file_digest(file, "sha256").hexdigest()
    spectra_hash = spectra_hash or array_hash(np.asarray(stars.flux), np.asarray(stars.ivar))
    meta = table_meta(model, model_file.name, model_hash, source, spectra_hash, stars.attrs, prior)
    units = model.label_units
    extra = {column: values for columns in of_labels.values() for column, values in columns.items()}
    table = label_table(
        model.label_names, fit, star_id=stars.ids, identifiers=stars.identifiers, label_units=units, extra=extra,
        meta=meta,
    )  # fmt: skip
    for name, columns in of_labels.items():
        for column in columns:
            table[column].unit = table[name].unit
    return table
