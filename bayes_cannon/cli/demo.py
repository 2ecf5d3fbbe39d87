"""``bayes-cannon demo``."""

from pathlib import Path

import click

from bayes_cannon.cli.reporting import command, overwrite_option, quiet_option

RECIPE = "gaia-xp-giants"


@click.command()
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo"),
    show_default=True,
    help="Folder for the files, created if needed.",
)
@overwrite_option
@quiet_option
@command
def demo(output: Path, overwrite: bool, quiet: bool) -> None:
    """Train on real Gaia XP spectra of red giants, and label stars that were held out.

    The same as "bayes-cannon train gaia-xp-giants". It needs the extra bayes-cannon[demo].
    """
    from bayes_cannon.cli.pipeline import run_recipe

    run_recipe(RECIPE, output, overwrite=overwrite, quiet=quiet)
