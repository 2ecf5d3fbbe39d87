"""What the command train prints of a run."""

from typing import TYPE_CHECKING

import click
import numpy as np
from astropy.table import Table

from bayes_cannon.core.status import PixelStatus, StarStatus
from bayes_cannon.io.spectra import Spectra
from bayes_cannon.labelling.fit import LabelFit
from bayes_cannon.model import CannonModel
from bayes_cannon.model.local import LocalCannonModel
from bayes_cannon.model.order_selection import OrderPath
from bayes_cannon.scatter import LowRank
from bayes_cannon.validate import summary_table

if TYPE_CHECKING:
    from bayes_cannon.cli.pipeline import TrainingRun

_SHOWN_COLUMNS = ("label", "unit", "stars", "failed", "bias", "robust_scatter", "median_error", "robust_pull")


def decided(spectra: Spectra) -> dict[str, str]:
    """How labels were joined and which stars were cut, in words."""
    return {name: str(spectra.attrs[name]) for name in ("labels_joined", "cuts") if name in spectra.attrs}


def print_run(run: "TrainingRun", summary: Table | None) -> None:
    """Stars, certificates and the validation of each model of a run."""
    left_out = int((~run.training & ~run.held_out).sum())
    rule = f", {left_out} bad rows left out" if left_out else ""
    n_pixels = run.spectra.n_pixels
    for what, said in decided(run.spectra).items():
        click.echo(f"{what.replace('_', ' ')}: {said}")
    click.echo(f"{run.recipe.name}: trained on {int(run.training.sum())} stars x {n_pixels} pixels{rule}")
    if run.path is not None:
        _print_choice(run.path)
    certificates = run.model.certificates or {}
    for status, count in zip(*np.unique(certificates.get("status", []), return_counts=True), strict=True):
        click.echo(f"  {count} pixels: {PixelStatus(int(status)).message}")
    if run.fit is None or summary is None:
        return
    click.echo(f"{int(run.held_out.sum())} held-out stars, labelled")
    print_statuses(run.fit)
    if run.independent is not None:
        click.echo("with independent scatter:")
        _print_summary(label_summary(run.model, run.independent, run.reference))
        click.echo(_scatter_title(run.model))
    _print_summary(summary)
    if run.local is not None and run.local_fit is not None:
        click.echo(_local_title(run.local))
        _print_summary(label_summary(run.model, run.local_fit, run.reference))


def _print_choice(path: OrderPath) -> None:
    """The polynomials that were tried, their scores, those that were not tried and why, and the choice."""
    table = path.table[["order", "regularization", "n_terms", "gain", "gain_error", "label_score"]]
    for column in table.itercols():
        column.format = ".4g" if column.dtype.kind == "f" else None
    click.echo("\n".join(table.pformat(max_width=-1)))
    for candidate, reason in path.left_out.items():
        click.echo(f"not tried: {candidate}: {reason}")
    click.echo(f"chosen by held-out training spectra: {path.best}")


def _local_title(local: LocalCannonModel) -> str:
    regions = ", ".join(f"{n} (order {order})" for n, order in local.partitions)
    return f"local models with the population of the training labels as a prior, in regions {regions}:"


def _scatter_title(model: CannonModel) -> str:
    if model.factors is None or model.nu is None:
        return "selected: independent scatter:"
    kind = "latent factors" if isinstance(model.scatter, LowRank) else "directions of a full covariance"
    tails = "" if np.isinf(model.nu) else f", heavy tails with {model.nu:.1f} degrees of freedom"
    return f"with {model.factors.shape[1]} {kind}{tails}:"


def _print_summary(summary: Table) -> None:
    click.echo("\n".join(summary[[name for name in _SHOWN_COLUMNS if name in summary.colnames]].pformat(max_width=-1)))


def label_summary(model: CannonModel, fit: LabelFit, reference: np.ndarray) -> Table:
    """Scatters and pulls of inferred labels."""
    return summary_table(fit.labels, reference, fit.covariance, label_names=model.label_names, units=model.label_units)


def print_statuses(fit: LabelFit) -> None:
    """How many stars ended how."""
    for status, count in zip(*np.unique(fit.status, return_counts=True), strict=True):
        click.echo(f"  {count} stars: {StarStatus(int(status)).message}")
