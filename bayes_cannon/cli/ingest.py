"""``bayes-cannon ingest FILES... STORE``."""

from pathlib import Path

import click

from bayes_cannon.cli.reporting import command, overwrite_option, path_argument, quiet_option
from bayes_cannon.cli.survey_options import survey_options


@click.command()
@click.argument("files", nargs=-1, required=True)
@path_argument("store")
@survey_options
@click.option("--labels", type=click.Path(path_type=Path), help="Table whose columns are joined to the spectra.")
@click.option("--id-column", metavar="NAME", help="Column of that table with the names of the stars.")
@click.option(
    "--continuum",
    metavar="RECIPE",
    help="Prepare the spectra as this recipe says: continuum, choice of pixels, logarithm. Training by it does not do "
    "so again.",
)
@click.option("--workers", type=click.IntRange(1), help="Processes that read. By default as many as there are cores.")
@click.option(
    "--shard-size", type=click.IntRange(1), help="Spectra of a shard, which labelling has in memory. By default 1024."
)
@overwrite_option
@quiet_option
@command
def ingest(
    files: tuple[str, ...], store: Path, survey: str, grid: str | None, velocity: str, combined: str,
    mask_bits: str | None, labels: Path | None, id_column: str | None, continuum: str | None, workers: int | None,
    shard_size: int | None, overwrite: bool, quiet: bool,
) -> None:  # fmt: skip
    """Write the spectra of many survey FILES into one STORE.

    FILES are files as surveys publish them, folders, patterns, or @LIST, a text file with one of these a line. STORE is
    a .zarr folder, or for few spectra a .nc or .npz file. All that the other commands read spectra from takes it.

    Files that cannot be read are left out and listed, with the reason, in STORE-refused.ecsv. If the command is killed
    or the disk is full, the same command goes on where it ended, and the store is the same as without that. With
    --overwrite it replaces a STORE that exists, and what a command with other options has left.

    Flux and ivar are stored in single precision. A star of which there are several spectra has several rows.
    """
    from bayes_cannon.cli.ingesting import run_ingest
    from bayes_cannon.cli.survey_options import file_settings

    settings = file_settings(survey, grid, velocity, combined, mask_bits)
    run_ingest(
        files, store, settings, labels=labels, id_column=id_column, continuum=continuum, workers=workers,
        shard_size=shard_size, overwrite=overwrite, quiet=quiet,
    )  # fmt: skip
