"""The figures that the command train writes: inferred against reference labels, coefficients, scatter."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import click
import numpy as np

from bayes_cannon.io.atomic import atomic_path
from bayes_cannon.labelling.fit import LabelFit
from bayes_cannon.model import CannonModel
from bayes_cannon.plot.comparison import one_to_one
from bayes_cannon.plot.training import scatter, theta

FIGURES = ("one-to-one", "theta", "scatter")
_DPI = 150


def write_figures(
    model: CannonModel, fit: LabelFit, reference: np.ndarray, paths: Mapping[str, Path], *, overwrite: bool
) -> None:
    """Write each of `FIGURES` to its path; without Matplotlib print a message and write none."""
    if find_spec("matplotlib") is None:
        click.echo("no figures: they need Matplotlib, install bayes-cannon[plots]", err=True)
        return
    figures = {
        "one-to-one": one_to_one(model, fit.labels, fit.covariance, reference=reference),
        "theta": theta(model),
        "scatter": scatter(model),
    }
    for name, figure in figures.items():
        with atomic_path(paths[name], overwrite=overwrite) as temporary:
            figure.savefig(temporary, dpi=_DPI)
