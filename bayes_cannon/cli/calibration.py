"""What the command calibrate does: a model file becomes one whose label errors are calibrated."""

from collections.abc import Mapping
from pathlib import Path

import click
import numpy as np
from astropy.table import Table

from bayes_cannon.calibration.calibrated_errors import Calibration
from bayes_cannon.io.atomic import check_output_path
from bayes_cannon.model import CannonModel
from bayes_cannon.model.any_model import kind_of_errors


def run_calibration(
    model: Path, output: Path, *, folds: int, seed: int, reference_errors: Mapping[str, float], overwrite: bool,
    quiet: bool,
) -> None:  # fmt: skip
    """Calibrate the model of a file, write it with its training spectra, and print what was learned."""
    check_output_path(output, overwrite=overwrite)
    trained = CannonModel.read(model)
    calibration = trained.calibrate(
        n_folds=folds, seed=seed, key=seed, reference_errors=_reference_errors(trained, reference_errors),
        progress=None if quiet else True,
    )  # fmt: skip
    trained.write(output, include_training_set_spectra=True, overwrite=overwrite)
    if not quiet:
        left_out = f", {calibration.n_left_out} left out" if calibration.n_left_out else ""
        click.echo(f"{model}: calibrated with {calibration.n_stars} held-out stars{left_out}")
        _print_calibration(trained, calibration)
        click.echo(f"errors of labels are now: {kind_of_errors(trained)}")
    click.echo(f"wrote {output}")


def _reference_errors(model: CannonModel, by_label: Mapping[str, float]) -> np.ndarray | None:
    """The errors of all training stars, shape (star, label), NaN where none is given; None if none is at all."""
    if not by_label:
        return None
    unknown = [name for name in by_label if name not in model.label_names]
    if unknown:
        raise ValueError(f"there is no label {unknown[0]!r}; the labels are {', '.join(model.label_names)}")
    errors = [by_label.get(name, np.nan) for name in model.label_names]
    return np.broadcast_to(errors, model.training_set_labels.shape)


def _print_calibration(model: CannonModel, calibration: Calibration) -> None:
    table = Table({
        "label": list(model.label_names),
        "unit": [model.label_units.get(name, "") for name in model.label_names],
        "factor": np.exp(calibration.log_scale),
        "floor": np.sqrt(np.diag(calibration.floor)),
    })  # fmt: skip
    for name in ("factor", "floor"):
        table[name].format = ".4g"
    click.echo("\n".join(table.pformat(max_width=-1)))
    freedom = 2 + calibration.tails
    tails = "normal errors" if np.isinf(freedom) else f"Student-t errors with {freedom:.1f} degrees of freedom"
    click.echo(f"{tails}; R-hat of the chains {calibration.r_hat:.3f}, {calibration.divergences} divergences")
