"""``bayes-cannon info FILE``."""

from pathlib import Path

import click

from bayes_cannon.cli.reporting import command, path_argument


@click.command()
@path_argument("file")
@click.option("--survey", default="auto", show_default=True, metavar="NAME", help="Reader of a survey's file.")
@command
def info(file: Path, survey: str) -> None:
    """Say what is in FILE.

    FILE is a file as a survey publishes it, a file or store of spectra of this package, or a model. Nothing is written.
    """
    from bayes_cannon.cli.describing import describe

    for line in describe(file, None if survey == "auto" else survey):
        click.echo(line)
