"""``bayes-cannon infer MODEL SPECTRA``."""

from pathlib import Path

import click

from bayes_cannon.cli.reporting import command, overwrite_option, path_argument, quiet_option


@click.command()
@path_argument("model")
@path_argument("spectra")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Label table to write: .fits, .ecsv, .vot or .parquet. By default SPECTRA-labels.ecsv in the current folder.",
)
@click.option(
    "--posterior",
    type=click.Path(path_type=Path),
    help='Posterior of theta, from "bayes-cannon sample MODEL", to integrate theta out with.',
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
    model: Path, spectra: Path, output: Path | None, posterior: Path | None, error_budget: bool, overwrite: bool,
    quiet: bool,
) -> None:  # fmt: skip
    """Infer the labels of SPECTRA with the trained MODEL.

    SPECTRA is a .nc, .h5, .zarr or .npz file with flux and ivar, on the wavelengths of the training spectra. What the
    recipe did to these (continuum, choice of pixels, logarithm) is done to SPECTRA too.

    Errors are the formal ones, of noise and scatter with theta taken as known exactly. Theta is integrated out with
    --posterior, or if MODEL holds its posterior (from "bayes-cannon sample --write-model"). Errors are calibrated if
    MODEL comes from "bayes-cannon calibrate". The table names which they are under ERRORS.

    The table has a row a star: its names, labels, errors and their correlations, chi2, S/N and what to mind about the
    fit as a number and a text. It says which model and spectra it was made of, with their SHA-256, and how.

    With --error-budget each label has a column for each source of its error, such as TEFF_ERR_PHOTON, in the unit of
    the label: photon, scatter, correlated, theta, and for a calibrated model scale and floor. Their squares, each with
    the sign of its column, add up to the square of TEFF_ERR.
    """
    from bayes_cannon.cli.pipeline import run_inference

    output = output or Path(f"{spectra.stem}-labels.ecsv")
    run_inference(
        model, spectra, output, posterior=posterior, error_budget=error_budget, overwrite=overwrite, quiet=quiet
    )
