"""The stars whose spectra fit the model worst, with the model over the data."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from bayes_cannon.core.field_names import field_name
from bayes_cannon.model import CannonModel
from bayes_cannon.model.local import LocalCannonModel
from bayes_cannon.plot._matplotlib import with_gaps
from bayes_cannon.plot.star import with_error
from bayes_cannon.plot.training import scatter_variance
from bayes_cannon.report import interactive
from bayes_cannon.report.interactive import BLUE, INK, ORANGE
from bayes_cannon.report.markup import Markup, join, note, paragraph, place, table
from bayes_cannon.report.of_pixels import axis_of, shared_range
from bayes_cannon.report.of_training import GET_MODEL, NO_MODEL
from bayes_cannon.report.page import Missing, Section
from bayes_cannon.report.subject import LabelledStars, Subject

_SHOWN = 5
_LISTED = 12


@dataclass(frozen=True, eq=False)
class _Spectra:
    """Stars with their spectra, and how badly they fit, shape (star,)."""

    ids: np.ndarray
    labels: np.ndarray
    flux: np.ndarray
    ivar: np.ndarray
    badness: np.ndarray
    what: str


def worst_stars(subject: Subject, ranges: dict[int, Any]) -> Section | Missing:
    """Spectra over the model, of the stars that fit worst; and stars whose labels are furthest off."""
    title, model, stars = "The worst stars", subject.model, subject.stars
    parts: list[str] = [] if stars is None else _furthest_off(stars)
    spectra = _spectra(subject)
    if model is None or spectra is None:
        if parts:
            how = "give them as spectra=... or --spectra FILES"
            if isinstance(model, LocalCannonModel):
                how = "they are drawn over one model, and these are local ones"
            parts.append(note(f"Their spectra are not shown: {how}."))
            return Section(title, join(parts))
        if model is None:
            return Missing(title, NO_MODEL, GET_MODEL)
        if isinstance(model, LocalCannonModel):
            return Missing(title, "spectra are drawn over one model, not over local ones", 'tc.report("NAME.model")')
        return Missing(
            title, "neither the model nor the labels come with spectra",
            "bayes-cannon train RECIPE --with-spectra, or report(..., spectra=(flux, ivar))",
        )  # fmt: skip
    assert isinstance(model, CannonModel)
    known = np.isfinite(spectra.badness)
    order = np.argsort(-np.where(known, spectra.badness, -np.inf), kind="stable")[: min(_SHOWN, int(known.sum()))]
    figures, switches = _draw(model, spectra, order, ranges)
    described = "Spectrum of a star that can be chosen, with the model over it"
    parts = [
        paragraph(f"{spectra.what} whose spectra fit worst, with the model at their labels."),
        switches,
        place("spectrum", described),
        place("residual", "Difference of data and model over the total error, pixel by pixel"),
        note("Below: data minus model over the root of noise and scatter, mostly within ±2 where the model holds."),
        *parts,
    ]
    return Section(title, join(parts), figures)


def _spectra(subject: Subject) -> _Spectra | None:
    """Those of the labelled stars, or otherwise of the training set at its known labels."""
    model, stars = subject.model, subject.stars
    if not isinstance(model, CannonModel):
        return None
    if stars is not None and subject.flux is not None and subject.ivar is not None:
        badness = _badness(model, stars.labels, subject.flux, subject.ivar)
        return _Spectra(stars.ids, stars.labels, subject.flux, subject.ivar, badness, "Labelled stars")
    flux, ivar = model.training_set_flux, model.training_set_ivar
    if flux is None or ivar is None:
        return None
    labels = model.training_set_labels
    ids = np.array([f"training star {n}" for n in range(len(labels))])
    return _Spectra(ids, labels, flux, ivar, _badness(model, labels, flux, ivar), "Training stars")


def _badness(model: CannonModel, labels: np.ndarray, flux: np.ndarray, ivar: np.ndarray) -> np.ndarray:
    """Mean square of data minus model over the total error, shape (star,)."""
    s2 = np.asarray(scatter_variance(model))
    out = np.full(len(flux), np.nan)
    for n in np.flatnonzero(np.isfinite(labels).all(axis=1)):
        scaled = _residual(np.asarray(model(labels[n])), flux[n], ivar[n], s2)
        if np.isfinite(scaled).any():
            out[n] = np.nanmean(scaled**2)
    return out


def _residual(predicted: np.ndarray, flux: np.ndarray, ivar: np.ndarray, s2: np.ndarray) -> np.ndarray:
    """Data minus model over the root of noise and scatter, NaN at pixels that are not used."""
    used = (ivar > 0) & np.isfinite(s2) & np.isfinite(predicted)
    total = np.sqrt(1 / np.where(used, ivar, 1.0) + np.where(used, s2, 0.0))
    return np.where(used, (flux - predicted) / total, np.nan)


def _draw(
    model: CannonModel, spectra: _Spectra, order: np.ndarray, ranges: dict[int, Any]
) -> tuple[dict[str, Any], Markup]:
    x, x_title = axis_of(model)
    s2 = np.asarray(scatter_variance(model))
    columns: dict[str, np.ndarray] = {}
    choices, ends = [], []
    for k, star in enumerate(order):
        predicted, flux, ivar = np.asarray(model(spectra.labels[star])), spectra.flux[star], spectra.ivar[star]
        data, residual = np.where(ivar > 0, flux, np.nan), _residual(predicted, flux, ivar, s2)
        columns |= {f"d{k}": data, f"m{k}": predicted, f"r{k}": residual}
        low, high = interactive.limits_of(residual, robust=0.0005)
        half = max(4.0, abs(low), abs(high))
        ends.append((interactive.limits_of(np.concatenate([data, predicted]), robust=0.0005), (-half, half)))
        changes = [(f"spectrum-{what}", "y", {"field": f"{what[0]}{k}"}) for what in ("data", "model", "residual")]
        changes += interactive.range_changes("spectrum-y", ends[-1][0])
        changes += interactive.range_changes("residual-y", ends[-1][1])
        said = ", ".join(
            f"{field_name(name).text} {with_error(value, np.nan)}"
            for name, value in zip(model.label_names, spectra.labels[star], strict=True)
        )
        choices.append((str(k), f"{spectra.ids[star]} (mean square {spectra.badness[star]:.2f}; {said})", "", changes))
    position, *values = with_gaps(x, *columns.values())
    curves = interactive.source({"x": position, **dict(zip(columns, values, strict=True))}, "spectrum-curves")
    x_range = shared_range(model, ranges)
    upper = interactive.figure("spectrum", "", "flux", height=300, x_range=x_range)
    lower = interactive.figure("residual", x_title, "(data − model) / error", height=200, x_range=x_range)
    for figure, what, colour, width in (
        (upper, "data", INK, 1.0), (upper, "model", ORANGE, 1.3), (lower, "residual", BLUE, 1.0),
    ):  # fmt: skip
        words = {} if figure is lower else {"legend_label": what}
        line = figure.line("x", f"{what[0]}0", source=curves, line_color=colour, line_width=width, **words)
        line.glyph.name = f"spectrum-{what}"
    interactive.legend_above(upper)
    interactive.set_range(upper.y_range, *ends[0][0])
    interactive.set_range(lower.y_range, *ends[0][1])
    return {"spectrum": upper, "residual": lower}, interactive.switches([("Star", "star", choices)])


def _furthest_off(stars: LabelledStars) -> list[str]:
    """Tables of the labelled stars that are furthest from their reference, or else fit worst."""
    names, misfit = [field_name(name).text for name in stars.names], stars.misfit
    if stars.reference is not None:
        size = np.max(np.where(np.isfinite(stars.pulls), np.abs(stars.pulls), 0.0), axis=1)
        caption = "Stars whose labels are furthest from their reference, which is in brackets"
        head = ["star", *names, "largest pull"]
    elif misfit is not None and np.isfinite(misfit).any():
        size, caption, head = np.nan_to_num(misfit, nan=-np.inf), "Stars whose spectra fit worst", ["star", *names]
    else:
        return []
    rows = []
    for n in np.argsort(-size, kind="stable")[:_LISTED]:
        row: list[Any] = [str(stars.ids[n])]
        for k in range(len(names)):
            value = with_error(stars.labels[n, k], stars.errors[n, k])
            known = "" if stars.reference is None else f" ({with_error(stars.reference[n, k], np.nan)})"
            row.append(value + known)
        if stars.reference is not None:
            row.append(float(size[n]))
        rows.append(row if misfit is None else [*row, float(misfit[n])])
    return [table(head if misfit is None else [*head, "misfit"], rows, caption)]
