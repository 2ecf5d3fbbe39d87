"""``bayes-cannon convert OLD NEW``."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bayes_cannon.cli.reporting import command, overwrite_option, path_argument, quiet_option

if TYPE_CHECKING:
    from bayes_cannon.io.original import OriginalModel
    from bayes_cannon.model import CannonModel


@click.command()
@path_argument("old")
@path_argument("new")
@overwrite_option
@quiet_option
@command
def convert(old: Path, new: Path, overwrite: bool, quiet: bool) -> None:
    """Convert OLD, a model of the original package, into the model file NEW.

    OLD is what thecannon 0.2.x or 0.9.x wrote, a pickle. It is not unpickled: nothing in it is run. NEW predicts the
    same flux and infers the same labels. Training spectra are taken over where OLD holds them. Whatever is not in OLD,
    or left out, is printed.
    """
    from bayes_cannon.io.atomic import check_output_path
    from bayes_cannon.io.original import read_original
    from bayes_cannon.model.original import converted

    check_output_path(new, overwrite=overwrite)
    original = read_original(old)
    model = converted(original)
    model.write(new, include_training_set_spectra=True, overwrite=overwrite)
    if not quiet:
        click.echo(f"{old}: {original.model_class or 'model'} of thecannon {original.version}, {original.modified}")
        for title, lines in (("taken over", _taken_over(original, model)), ("not in it", _missing(original))):
            click.echo(f"{title}:")
            for line in lines:
                click.echo(f"  {line}")
        click.echo(f"wrote {new}")


def _taken_over(original: "OriginalModel", model: "CannonModel") -> Iterator[str]:
    import numpy as np

    yield f"{len(model.label_names)} labels {', '.join(model.label_names)}, and {model.vectorizer.n_terms} terms"
    if model.theta is not None:
        unknown = int(np.isnan(model.theta[:, 0]).sum())
        yield f"theta and s2 of {len(model.theta)} pixels; {unknown} of them have no solution"
    labels, scaling = original.training_set_labels, "made anew from them" if original.scales is None else "as stored"
    yield f"labels of {len(labels)} training stars ({labels.dtype}), their scaling {scaling}"
    if model.training_set_flux is not None:
        yield "training spectra"
    if model.dispersion is not None:
        yield f"wavelengths from {model.dispersion.min():g} to {model.dispersion.max():g}"
    if model.regularization is not None:
        lam = np.unique(model.regularization)
        yield f"regularization {lam[0]:g}" if len(lam) == 1 else f"regularization {lam[0]:g} to {lam[-1]:g}"
    for name, mask in model.censors.items():
        yield f"censoring of {name} at {int(mask.sum())} pixels (its mask inverted: True is now censored)"
    for term, (low, high) in model.theta_bounds.items():
        yield f"bounds on the coefficient of {term}: {low} to {high}"


def _missing(original: "OriginalModel") -> Iterator[str]:
    if original.training_set_flux is None:
        yield "training spectra: labels can be inferred, but nothing trained again, theta sampled or errors calibrated"
    if original.dispersion is None:
        yield "wavelengths: those of new spectra cannot be compared with them"
    yield "units of labels and wavelengths"
    yield "certificates: how well theta and s2 are optimized is not known"
