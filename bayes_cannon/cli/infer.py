"""``bayes-cannon infer MODEL FILES...``."""

from pathlib import Path
from typing import Any

import click

from bayes_cannon.cli.reporting import command, overwrite_option, path_argument, quiet_option
from bayes_cannon.cli.survey_options import survey_options
from bayes_cannon.cli.worker_options import check_workers, worker_options


@click.command()
@path_argument("model")
@click.argument("files", nargs=-1, required=True)
@survey_options
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    help="Label table to write: .fits, .ecsv, .vot or .parquet; or, for a store of spectra, a .zarr store. By default "
    "FILE-labels.ecsv in the current folder, of several files MODEL-labels.ecsv.",
)
@click.option(
    "--posterior",
    type=click.Path(path_type=Path),
    help='Posterior of theta, from "bayes-cannon sample MODEL", to integrate theta out with.',
)
@click.option(
    "--prior",
    type=click.Choice(["population", "gaussian"]),
    help="Labels as posterior means under a prior learned from the training labels: a mixture of normal distributions, "
    "or one. Right where stars are chosen as the training stars were.",
)
@click.option(
    "--error-budget",
    is_flag=True,
    help="Add columns for the sources of each label's error. Two seconds per star of 3,000 pixels.",
)
@worker_options("fill a .zarr store of labels")
@overwrite_option
@quiet_option
@command
def infer(
    model: Path, files: tuple[str, ...], survey: str, grid: str | None, velocity: str, combined: str,
    mask_bits: str | None, output: Path | None, posterior: Path | None, prior: str | None, error_budget: bool,
    workers: int | None, scheduler: str | None, overwrite: bool, quiet: bool,
) -> None:  # fmt: skip
    """Infer the labels of the spectra in FILES with the trained MODEL, a file or the name of one that is shipped.

    FILES are .nc, .h5, .zarr or .npz files with flux and ivar, on the wavelengths of the training spectra; or files as
    surveys publish them, folders, patterns, or @LIST, a text file with one of these a line. A survey's spectra are put
    on the wavelengths of MODEL. What the recipe did to the training spectra (continuum, choice of pixels, logarithm)
    is done to them too.

    Errors are the formal ones, of noise and scatter with theta taken as known exactly. Theta is integrated out with
    --posterior, or if MODEL holds its posterior (from "bayes-cannon sample --write-model"). Errors are calibrated if
    MODEL comes from "bayes-cannon calibrate". The table names which they are under ERRORS.

    The table has a row a star: its names, labels, errors and their correlations, chi2, S/N and what to mind about the
    fit as a number and a text. It says which model and spectra it was made of, with their SHA-256, and how.

    With --prior the labels are posterior means, and the columns TEFF_LIKELIHOOD and so on keep those of highest
    likelihood, which the labels are without it. A MODEL of local models, "NAME-local.model" of "bayes-cannon train",
    always gives posterior means under the population of its training labels.

    With --error-budget each label has a column for each source of its error, such as TEFF_ERR_PHOTON, in the unit of
    the label: photon, scatter, correlated, theta, and for a calibrated model scale and floor. Their squares, each with
    the sign of its column, add up to the square of TEFF_ERR.

    With -o NAME.zarr the spectra of one store, from "bayes-cannon ingest", are labelled shard by shard into a store of
    labels, of which "bayes-cannon export" makes a table. Only what is missing in it is done: after a kill, or with a
    disk that was full, the same command goes on. --workers and --scheduler have other processes do the work.
    """
    from bayes_cannon.cli.pipeline import run_inference
    from bayes_cannon.cli.survey_options import file_settings

    if output is not None and output.suffix.lower() == ".zarr":
        _into_store(
            model, files, output, workers=workers, scheduler=scheduler, posterior=posterior, prior=prior,
            error_budget=error_budget, overwrite=overwrite, quiet=quiet,
        )  # fmt: skip
        return
    if check_workers(workers, scheduler):
        raise click.UsageError("--workers and --scheduler fill a store of labels: add -o NAME.zarr")
    stem = Path(files[0].removeprefix("@")).stem if len(files) == 1 else model.stem
    run_inference(
        model, files, output or Path(f"{stem}-labels.ecsv"),
        settings=file_settings(survey, grid, velocity, combined, mask_bits), posterior=posterior,
        error_budget=error_budget, prior=prior, overwrite=overwrite, quiet=quiet,
    )  # fmt: skip


def _into_store(model: Path, files: tuple[str, ...], output: Path, *, overwrite: bool, **options: Any) -> None:
    """Label one store of spectra into a store of labels."""
    from bayes_cannon.cli.store_run import run_store_inference

    if len(files) != 1 or Path(files[0]).suffix.lower() != ".zarr":
        raise click.UsageError(
            "-o NAME.zarr is for one .zarr store of spectra: write FILES into one by bayes-cannon ingest FILES STORE"
        )
    check_workers(options["workers"], options["scheduler"])
    if overwrite:
        raise click.UsageError("a store of labels is gone on with, not replaced: remove it, or choose another name")
    run_store_inference(model, files[0], output, **options)
