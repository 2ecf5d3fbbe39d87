"""``bayes-cannon export STORE TABLE``."""

from pathlib import Path

import click

from bayes_cannon.cli.reporting import command, overwrite_option, path_argument, quiet_option


@click.command()
@path_argument("store")
@path_argument("table")
@click.option("--partial", is_flag=True, help="Leave out the stars whose labels are missing yet.")
@overwrite_option
@quiet_option
@command
def export(store: Path, table: Path, partial: bool, overwrite: bool, quiet: bool) -> None:
    """Join the labels in STORE, from "bayes-cannon infer MODEL SPECTRA.zarr -o STORE.zarr", to one TABLE.

    TABLE is a .fits, .ecsv or .parquet file with the columns that infer writes. It is written piece by piece, so that
    its size does not matter.
    """
    from bayes_cannon.cli.store_run import run_export

    run_export(store, table, partial=partial, overwrite=overwrite, quiet=quiet)
