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
    help="Folder for the files, created if needed. By default the current one.",
)
@click.option(
    "--checked", type=int, default=20, show_default=True, help="Number of unflagged pixels that ArviZ checks as well."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of their selection.")
@overwrite_option
@quiet_option
@command
def diagnose(posterior: Path, output: Path, checked: int, seed: int, overwrite: bool, quiet: bool) -> None:
    """Check whether the chains of POSTERIOR can be trusted.

    All pixels are screened with the stored R-hat, effective sample sizes, divergences, tree depths and k-hat. If draws
    are stored, ArviZ recomputes R-hat and effective sample sizes of the flagged pixels and of some others. The command
    writes a table of the pixels, ArviZ's summary, and a page of figures.
    """
    from bayes_cannon.cli.posteriors import run_diagnosis

    run_diagnosis(posterior, output, checked=checked, seed=seed, overwrite=overwrite, quiet=quiet)
