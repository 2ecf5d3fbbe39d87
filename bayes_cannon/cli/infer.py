"""``bayes-cannon infer MODEL FILES...``."""

from pathlib import Path

import click

from bayes_cannon.cli.reporting import command, overwrite_option, path_argument, quiet_option
from bayes_cannon.cli.survey_options import survey_options


@click.command()
@path_argument("model")
@click.argument("files", nargs=-1, required=True)
@survey_options
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Label table to write: .fits, .ecsv, .vot or .parquet. By default FILE-labels.ecsv in the current folder, "
    "of several files MODEL-labels.ecsv.",
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
@overwrite_option
@quiet_option
@command
def infer(
    model: Path, files: tuple[str, ...], survey: str, grid: str | None, velocity: str, combined: str,
    mask_bits: str | None, output: Path | None, posterior: Path | None, prior: str | None, error_budget: bool,
    overwrite: bool, quiet: bool,
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
    """
    from bayes_cannon.cli.pipeline import run_inference
    from bayes_cannon.cli.survey_options import file_settings

    stem = Path(files[0].removeprefix("@")).stem if len(files) == 1 else model.stem
    run_inference(
        model, files, output or Path(f"{stem}-labels.ecsv"),
        settings=file_settings(survey, grid, velocity, combined, mask_bits), posterior=posterior,
        error_budget=error_budget, prior=prior, overwrite=overwrite, quiet=quiet,
    )  # fmt: skip
