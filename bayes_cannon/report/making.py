"""`report`: what is handed over becomes a page."""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from astropy.table import Table

from bayes_cannon.core.arguments import shown
from bayes_cannon.core.intake import real_numbers
from bayes_cannon.core.labels import label_array
from bayes_cannon.io.posterior_tree import read_posterior
from bayes_cannon.io.tables import read_table
from bayes_cannon.report.interactive import bokeh_plotting
from bayes_cannon.report.page import Report, make_page
from bayes_cannon.report.sections import makers
from bayes_cannon.report.subject import Subject, subject_of


def report(
    subject: Any,
    *,
    model: Any = None,
    labels: Any = None,
    reference: Any = None,
    spectra: Any = None,
    posterior: Any = None,
    path: Any = None,
    candidates: Any = None,
    lines: Any = None,
    title: str | None = None,
) -> Report:
    """Make a page about a model, a validation, or labelled stars: one HTML file that needs no network.

    The page tells all that is known of its subject, and of the rest why it is missing and how to get it. Jupyter shows
    it as it is; ``page.write("page.html")`` writes it.

    Parameters
    ----------
    subject
        A trained `CannonModel` or `LocalCannonModel`; a label table as ``bayes-cannon infer`` and ``train`` write it;
        what `CannonModel.fit_labels` returns; a `bayes_cannon.validate.CrossValidation`; a `Subject`; or the path of a
        model or table. Beside a model file NAME.model the table NAME-labels.ecsv is read too, and beside a table its
        model, if the table names the SHA-256 of that very file.
    model
        The model, or its path, of a table or fit.
    labels
        Labels of a model's held-out stars: a label table or its path, a fit, or a CrossValidation.
    reference
        Labels that a fit is compared with, shape (star, label).
    spectra
        Flux and ivar of the labelled stars, shape (star, pixel) each, as the model takes them.
    posterior
        Of theta: what `CannonModel.sample` returned, or the path of its store.
    path
        What `CannonModel.train_path` returned.
    candidates
        Labels of the stars that the training stars were chosen from, in any container of labels.
    lines
        Spectral lines to mark: a mapping of names to wavelengths, or a table, or its path, with the columns ``name``
        and ``wavelength``; in the unit of the model's wavelengths.
    title
        Of the page, by default the name of the recipe or file.

    Returns
    -------
    page
        A `bayes_cannon.report.Report`, whose ``sections`` say what is there and what is missing.

    Raises
    ------
    ImportError
        If bokeh or Matplotlib is not installed.
    TypeError, ValueError
        For what is no subject, a model that is not trained, and shapes or labels that do not go together.

    Examples
    --------
    >>> page = tc.report(model)
    >>> path = page.write("model.html")

    """
    bokeh_plotting()
    found = subject_of(subject, model, labels, reference)
    if found.model is not None and found.stars is not None and tuple(found.model.label_names) != found.stars.names:
        raise ValueError(
            f"the model has the labels {', '.join(found.model.label_names)}, and the labelled stars "
            f"{', '.join(found.stars.names)}: give the model that they were labelled with"
        )
    flux, ivar = _spectra(spectra, found)
    found = replace(
        found, title=found.title if title is None else str(title), flux=flux, ivar=ivar,
        posterior=read_posterior(posterior) if isinstance(posterior, str | os.PathLike) else posterior,
        path=path, candidates=None if candidates is None else label_array(candidates, found.names), lines=_lines(lines),
    )  # fmt: skip
    _check(found)
    sections = {name: make(found) for name, make in makers().items()}
    return make_page(found.title, _subtitle(found), sections)


def _subtitle(subject: Subject) -> str:
    if subject.model is not None and subject.model.provenance.get("description"):
        return str(subject.model.provenance["description"])
    return ", ".join(f"{what} {name}" for what, name in subject.sources.items()) or "made by bayes_cannon"


def _spectra(spectra: Any, subject: Subject) -> tuple[Any, Any]:
    """Flux and ivar of the labelled stars."""
    if spectra is None:
        return None, None
    if subject.stars is None or subject.model is None:
        raise ValueError("spectra are those of labelled stars, to be shown over a model: give labels and a model, too")
    pair = (spectra.flux, spectra.ivar) if hasattr(spectra, "flux") else spectra
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise ValueError(f"spectra must be a pair of flux and ivar, got {shown(spectra)}")
    flux, ivar = real_numbers(pair[0], "flux"), real_numbers(pair[1], "ivar")
    wanted = len(subject.stars.labels), subject.model.n_pixels
    if flux.shape != wanted or ivar.shape != wanted:
        raise ValueError(
            f"spectra must be those of the {wanted[0]} labelled stars at the model's {wanted[1]} pixels, shape "
            f"{wanted}; got {flux.shape} and {ivar.shape}"
        )
    return flux, ivar


def _lines(lines: Any) -> tuple[tuple[str, float], ...]:
    """Names and wavelengths of lines."""
    if lines is None:
        return ()
    if isinstance(lines, str | os.PathLike):
        lines = read_table(lines)
    if isinstance(lines, Table):
        missing = {"name", "wavelength"} - set(lines.colnames)
        if missing:
            raise ValueError(
                f"a table of lines needs the columns name and wavelength; this one has {', '.join(lines.colnames)}"
            )
        return tuple((str(row["name"]), float(row["wavelength"])) for row in lines)
    if not isinstance(lines, Mapping):
        raise ValueError(f"lines must map names to wavelengths, or be a table, got {shown(lines)}")
    return tuple(
        (str(name), float(one)) for name, at in lines.items() for one in np.atleast_1d(real_numbers(at, "lines"))
    )


def _check(subject: Subject) -> None:
    path, model, tree = subject.path, subject.model, subject.posterior
    if path is not None and not hasattr(path, "n_nonzero"):
        raise TypeError(f"path must be what CannonModel.train_path returns, got {shown(path)}")
    if path is not None and model is not None and path.theta.shape[1] != model.n_pixels:
        raise ValueError(f"path is of {path.theta.shape[1]} pixels, and the model has {model.n_pixels}")
    if tree is not None and "summary" not in getattr(tree, "children", ()):
        raise TypeError(f"posterior must be what CannonModel.sample returns, or its store, got {shown(tree)}")
    stars = subject.stars
    if stars is not None and stars.reference is not None and stars.reference.shape != stars.labels.shape:
        raise ValueError(
            f"reference must have the shape of the labels, {stars.labels.shape}, got {stars.reference.shape}"
        )
