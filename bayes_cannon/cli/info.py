"""``bayes-cannon info FILE``."""

from pathlib import Path

import click

from bayes_cannon.cli.reporting import command, path_argument, quiet_option


@click.command()
@path_argument("file")
@click.option("--survey", default="auto", show_default=True, metavar="NAME", help="Reader of a survey's file.")
@quiet_option
@command
def info(file: Path, survey: str, quiet: bool) -> None:
    """Say what is in FILE.

    FILE is a file as a survey publishes it, a file or store of spectra of this package, or a model. Nothing is written.
    With --quiet nothing is said: the exit code tells whether FILE can be read.
    """
    from bayes_cannon.cli.describing import describe

    lines = describe(file, None if survey == "auto" else survey)
    if not quiet:
        for line in lines:
            click.echo(line)
