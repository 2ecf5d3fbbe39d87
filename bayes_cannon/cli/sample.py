"""``bayes-cannon sample MODEL``."""

from pathlib import Path
from typing import Any

import click

from bayes_cannon.cli.reporting import command, path_argument, quiet_option


@click.command()
@path_argument("model")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, file_okay=False),
    help="Zarr store to write. By default MODEL-posterior.zarr in the current folder.",
)
@click.option(
    "--write-model",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Model file to write too: MODEL with this posterior in it, so that infer integrates theta out.",
)
@click.option(
    "--method",
    type=click.Choice(["nuts", "hmc", "psis"]),
    default="nuts",
    show_default=True,
    help="psis is importance sampling, with chains where it fails.",
)
@click.option("--chains", "n_chains", type=int, help="Chains of each pixel.")
@click.option("--warmup", "n_warmup", type=int, help="Draws of each chain that are discarded.")
@click.option("--draws", "n_draws", type=int, help="Draws of each chain.")
@click.option("--pixels", nargs=2, type=int, metavar="FIRST LAST", help="Only these pixels and those between them.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the draws.")
@click.option("--keep-draws/--summary-only", default=None, help="By default draws are kept up to 200 MB.")
@click.option("--overwrite/--resume", help="Replace files that exist, or (the default) go on with an existing store.")
@quiet_option
@command
def sample(model: Path, output: Path | None, **options: Any) -> None:
    """Draw theta and s of every pixel of MODEL from their posterior.

    MODEL must hold its training spectra: train it with "bayes-cannon train RECIPE --with-spectra". A run that was
    killed goes on when the same command is given again, and ends with the same draws.

    With this posterior labels have theta integrated out, and their errors include what is not known of theta: label
    with "bayes-cannon infer MODEL SPECTRA --posterior STORE", or with the model that --write-model writes, which
    "bayes-cannon calibrate" takes too. With a finished store --write-model samples nothing anew.
    """
    from bayes_cannon.cli.posteriors import run_sampling

    run_sampling(model, output or Path(f"{model.stem}-posterior.zarr"), **options)
