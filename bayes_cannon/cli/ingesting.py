"""What the command ingest does: read a table and a recipe, fill the store, and tell what was left out."""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
from astropy.table import Table

from bayes_cannon.io.atomic import check_output_path
from bayes_cannon.io.ingestion import Ingested, ingest
from bayes_cannon.io.preparation import Preparation
from bayes_cannon.io.survey_files import FileSettings
from bayes_cannon.io.tables import read_table, write_table
from bayes_cannon.io.unfinished_store import SHARD

_SHOWN = 8
"""Reasons that are printed."""


def run_ingest(
    files: Sequence[str], store: Path, settings: FileSettings, *, labels: Path | None, id_column: str | None,
    continuum: str | None, workers: int | None, shard_size: int | None, overwrite: bool, quiet: bool,
) -> None:  # fmt: skip
    """Write the store and, if files were refused, the table of them."""
    check_output_path(store, overwrite=overwrite)
    preparation = Preparation()
    if continuum is not None:
        from bayes_cannon.io.recipe import read_recipe  # With it comes JAX.

        preparation = Preparation.of_recipe(read_recipe(continuum))
    done = ingest(
        files, store, settings=settings, preparation=preparation, labels=None if labels is None else read_table(labels),
        id_column=id_column, workers=workers or _cores(), shard_size=shard_size or SHARD, overwrite=overwrite,
        progress=None if quiet else True,
    )  # fmt: skip
    if done.refused:
        refused = store.with_name(f"{store.stem}-refused.ecsv")
        table = Table({"file": list(done.refused), "reason": list(done.refused.values())})
        write_table(refused, table, overwrite=True)
        click.echo(f"{len(done.refused)} of {done.n_files} files were left out:", err=True)
        click.echo(_summary(done.refused), err=True)
        click.echo(f"wrote {refused}")
    if not quiet:
        _print(done)
    click.echo(f"wrote {store}")


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _print(done: Ingested) -> None:
    click.echo(f"{done.n_stars} spectra of {done.n_files - len(done.refused)} files")
    if done.without_labels:
        click.echo(f"{done.without_labels} of them are of stars that the label table does not have")


def _summary(refused: Mapping[str, str]) -> str:
    """How many files for which reason, with numbers and the files' names left out, and one of them."""
    reasons, examples = Counter[str](), dict[str, str]()
    for file, said in refused.items():
        reason = re.sub(r"\d+(\.\d+)?", "N", said.replace(file, "it").replace(Path(file).name, "it"))
        reasons[reason] += 1
        examples.setdefault(reason, f"{Path(file).name}: {said.replace(file, 'it')}")
    lines = [f"  {count} such as {examples[reason][:200]}" for reason, count in reasons.most_common(_SHOWN)]
    return "\n".join([*lines, *(["  ..."] if len(reasons) > _SHOWN else [])])
