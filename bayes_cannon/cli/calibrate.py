"""``bayes-cannon calibrate MODEL``."""

from collections.abc import Sequence
from pathlib import Path

import click

from bayes_cannon.cli.reporting import command, overwrite_option, path_argument, quiet_option


def _errors_by_label(_context: click.Context, _parameter: click.Parameter, texts: Sequence[str]) -> dict[str, float]:
    errors = {}
    for text in texts:
        label, _, error = text.partition("=")
        try:
            errors[label.strip()] = float(error)
        except ValueError:
            error = "nan"
        if not 0 <= float(error) < float("inf"):
            raise click.BadParameter(f"expected LABEL=ERROR, such as TEFF=50, got {text!r}")
    return errors


@click.command()
@path_argument("model")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Model file to write. By default MODEL-calibrated.model in the current folder.",
)
@click.option(
    "--folds",
    type=click.IntRange(min=2),
    default=5,
    show_default=True,
    help="Number of folds, each of which is held out once.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the folds and of the chains.")
@click.option(
    "--reference-error",
    "reference_errors",
    multiple=True,
    metavar="LABEL=ERROR",
    callback=_errors_by_label,
    help="Known error of a training label, in its unit; may be repeated. It is then left out of the calibrated errors.",
)
@overwrite_option
@quiet_option
@command
def calibrate(
    model: Path, output: Path | None, folds: int, seed: int, reference_errors: dict[str, float], overwrite: bool,
    quiet: bool,
) -> None:  # fmt: skip
    """Calibrate the label errors of MODEL with training stars that are held out.

    Every fold of the training stars is labelled by a model trained on the others. How far these labels are from the
    known ones gives a factor on the errors and a floor under them for each label, and how heavy the tails are. The
    model that is written does the same to the errors of all stars that "bayes-cannon infer" labels with it; the labels
    themselves do not change.

    MODEL must hold its training spectra: train it with "bayes-cannon train RECIPE --with-spectra". Where it holds a
    posterior of theta too (from "bayes-cannon sample --write-model"), the errors that are calibrated are those with
    theta integrated out; otherwise they are the formal ones.
    """
    from bayes_cannon.cli.calibration import run_calibration

    output = output or Path(f"{model.stem}-calibrated.model")
    run_calibration(
        model, output, folds=folds, seed=seed, reference_errors=reference_errors, overwrite=overwrite, quiet=quiet
    )
