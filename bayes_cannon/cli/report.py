"""``bayes-cannon report MODEL|LABELS|VALIDATION``."""

from pathlib import Path

import click

from bayes_cannon.cli.reporting import command, overwrite_option, path_argument, quiet_option


@click.command()
@path_argument("subject")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    help="HTML file to write. By default SUBJECT-report.html in the current folder.",
)
@click.option(
    "--model", type=click.Path(path_type=Path), help="Model of a table of labels, where it does not lie beside."
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    help="Label table of a model's held-out stars, where it is not NAME-labels.ecsv beside it.",
)
@click.option(
    "--spectra",
    multiple=True,
    metavar="FILES",
    help="Spectra that the table has the labels of, as for infer; may be repeated.",
)
@click.option("--posterior", type=click.Path(path_type=Path), help='Posterior of theta, from "bayes-cannon sample".')
@click.option("--lines", type=click.Path(path_type=Path), help="Table of lines with the columns name and wavelength.")
@click.option("--title", help="Title of the page.")
@overwrite_option
@quiet_option
@command
def report(
    subject: Path, output: Path | None, model: Path | None, labels: Path | None, spectra: tuple[str, ...],
    posterior: Path | None, lines: Path | None, title: str | None, overwrite: bool, quiet: bool,
) -> None:  # fmt: skip
    """Write a page about SUBJECT: one HTML file to send by e-mail, which needs no network.

    SUBJECT is a model file or the name of a model that is shipped, a label table as "bayes-cannon infer" or "train"
    writes it, or a validation table. Beside a model NAME.model its held-out labels, NAME-labels.ecsv, are read too, and
    beside a table its model, where the table names the SHA-256 of that very file.

    The page says what was trained on what, how good the labels are and whether their errors are honest, shows
    coefficients, scatter and the worst pixels and stars, and names what is missing with the command that gives it. It
    needs the extra bayes-cannon[report].
    """
    from bayes_cannon.cli.report_page import run_report

    run_report(
        subject, output or Path(f"{subject.stem}-report.html"), model=model, labels=labels, spectra=spectra,
        posterior=posterior, lines=lines, title=title, overwrite=overwrite, quiet=quiet,
    )  # fmt: skip
