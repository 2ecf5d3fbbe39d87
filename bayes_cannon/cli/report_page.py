"""What the command report does: files become a page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from bayes_cannon.cli.pipeline import spectra_for
from bayes_cannon.io.atomic import check_output_path
from bayes_cannon.io.model_file import array_hash
from bayes_cannon.io.survey_files import FileSettings
from bayes_cannon.report import report
from bayes_cannon.report.page import Missing
from bayes_cannon.report.subject import Subject, subject_of


def run_report(
    subject: Path, output: Path, *, model: Path | None, labels: Path | None, spectra: Sequence[str],
    posterior: Path | None, lines: Path | None, title: str | None, overwrite: bool, quiet: bool,
) -> None:  # fmt: skip
    """Write the page, and print what is missing on it."""
    check_output_path(output, overwrite=overwrite)
    found = subject_of(subject, model, labels, None)
    page = report(
        found, spectra=_spectra(found, spectra) if spectra else None, posterior=posterior, lines=lines, title=title
    )
    page.write(output, overwrite=overwrite)
    if not quiet:
        for one in page.sections.values():
            if isinstance(one, Missing):
                click.echo(f"not on the page: {one.title}: {one.reason}. {one.how_to_get_it}")
    click.echo(f"wrote {output}")


def _spectra(found: Subject, spectra: Sequence[str]) -> Any:
    """Spectra as the model takes them, which must be the very ones that were labelled."""
    if found.model is None or found.stars is None:
        raise ValueError("--spectra are those of a label table, shown over a model: give the table and --model")
    stars = spectra_for(found.model, spectra, FileSettings())
    wanted = found.stars.meta.get("SPECSHA")
    if wanted and array_hash(stars.flux, stars.ivar) != wanted:
        raise ValueError(
            f"the spectra of {', '.join(spectra)} are not those that the table has the labels of (their SHA-256 "
            "differs): give the same files as to infer"
        )
    return stars.flux, stars.ivar
