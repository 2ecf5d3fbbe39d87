"""``bayes-cannon diagnose POSTERIOR``."""

from pathlib import Path

import click

from bayes_cannon.cli.reporting import command, overwrite_option, path_argument, quiet_option


@click.command()
@path_argument("posterior")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Folder for the files; made if need be. By default the current one.",
)
@click.option("--checked", type=int, default=20, show_default=True, help="Pixels without a flag that ArviZ checks too.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the choice of these.")
@overwrite_option
@quiet_option
@command
def diagnose(posterior: Path, output: Path, checked: int, seed: int, overwrite: bool, quiet: bool) -> None:
    """Say whether the chains of POSTERIOR can be trusted.

    All pixels are screened by the R-hat, sample sizes, divergences, tree depths and k-hat that were stored. Where
    draws are stored ArviZ computes R-hat and sample sizes anew, of flagged pixels and of some others. Written are
    a table of the pixels, ArviZ's summary, and a page of figures.
    """
    from bayes_cannon.cli.posteriors import run_diagnosis

    run_diagnosis(posterior, output, checked=checked, seed=seed, overwrite=overwrite, quiet=quiet)
