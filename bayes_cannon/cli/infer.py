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
    help="Label table to write, .fits or .ecsv. By default SPECTRA-labels.ecsv in the current folder.",
)
@overwrite_option
@quiet_option
@command
def infer(model: Path, spectra: Path, output: Path | None, overwrite: bool, quiet: bool) -> None:
    """Infer the labels of SPECTRA with the trained MODEL.

    SPECTRA is a .nc, .h5, .zarr or .npz file with flux and ivar, on the wavelengths of the training spectra. What the
    recipe did to these (continuum, choice of pixels, logarithm) is done to SPECTRA too.
    """
    from bayes_cannon.cli.pipeline import run_inference

    run_inference(model, spectra, output or Path(f"{spectra.stem}-labels.ecsv"), overwrite=overwrite, quiet=quiet)
