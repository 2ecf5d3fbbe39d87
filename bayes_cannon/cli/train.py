"""``bayes-cannon train RECIPE [FILES...]``."""

from pathlib import Path

import click

from bayes_cannon.cli.reporting import command, overwrite_option, quiet_option
from bayes_cannon.cli.worker_options import worker_options


@click.command()
@click.argument("recipe")
@click.argument("files", nargs=-1)
@click.option(
    "--labels",
    metavar="TABLE",
    help="Table with the labels of the stars, joined by their names: FITS, ECSV, CSV, VOTable or Parquet.",
)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Folder for the files, created if needed. By default the current one.",
)
@click.option(
    "--with-spectra", is_flag=True, help="Keep the training spectra in the model file, for sample and calibrate."
)
@click.option(
    "--by-row", is_flag=True, help="Match a table of labels to the spectra row by row, where they have no names."
)
@click.option(
    "--memory",
    metavar="SIZE",
    help="Memory that may be used, such as 2GB: a larger store is trained by blocks of pixels. By default half of what "
    "the computer has.",
)
@click.option(
    "--scratch",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for what is finished of such a training, and for its blocks of pixels. By default beside the store.",
)
@worker_options("train such a store")
@overwrite_option
@quiet_option
@command
def train(
    recipe: str, files: tuple[str, ...], labels: str | None, output: Path, with_spectra: bool, by_row: bool,
    memory: str | None, scratch: Path | None, workers: int | None, scheduler: str | None, overwrite: bool, quiet: bool,
) -> None:  # fmt: skip
    """Train the model that RECIPE describes.

    RECIPE is a TOML file, a folder with a recipe.toml, or the name of a recipe that the package ships. The command
    writes NAME.model and, if the recipe holds stars out, their labels, a validation table and figures.

    FILES are the spectra, and TABLE has their labels, in place of those that the recipe names: files as surveys
    publish them, folders, patterns, or @LIST, a text file with one of these a line. A recipe that names none needs
    them, such as that for LAMOST: bayes-cannon train lamost plate/*.fits --labels catalogue.fits
    """
    from bayes_cannon.cli.pipeline import run_recipe

    run_recipe(
        recipe, output, files, labels=labels, with_spectra=with_spectra, by_row=by_row, memory=memory, scratch=scratch,
        workers=workers, scheduler=scheduler, overwrite=overwrite, quiet=quiet,
    )  # fmt: skip
