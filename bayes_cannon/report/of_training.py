"""Sections of a model's training: at a glance, what was trained on what, certificates, chains, label space."""

import json
from typing import Any

import numpy as np
from astropy.table import Table
from astropy.units import Unit

from bayes_cannon.core.field_names import field_name, unit_of_label
from bayes_cannon.core.status import PixelStatus, StarStatus
from bayes_cannon.io.model_file import provenance_of_writing
from bayes_cannon.model.local import LocalCannonModel
from bayes_cannon.plot._matplotlib import svg
from bayes_cannon.plot.label_space import label_space as draw_label_space
from bayes_cannon.plot.posterior import theta_posterior
from bayes_cannon.report.markup import (
    Markup,
    bullets,
    code,
    definitions,
    image,
    join,
    note,
    number,
    paragraph,
    table,
    tag,
    text,
)
from bayes_cannon.report.of_labels import LEVELS, SHOWN_LABELS, label_paragraph, status_table, summary_of
from bayes_cannon.report.page import Missing, Section
from bayes_cannon.report.subject import AnyModel, Subject

NO_MODEL = "no model was given, and none lies beside the table with the SHA-256 that it names"
GET_MODEL = "bayes-cannon report NAME-labels.ecsv --model NAME.model"
_PULL_BOUNDS = 0.8, 1.25
_COMMON_R_HAT, _LEAST_GAP = 1.01, 1e-6
_PROVENANCE = {
    "recipe": "recipe", "description": "description", "cuts": "cuts", "labels_joined": "labels joined",
    "wavelength_medium": "wavelengths in", "wavelength_frame": "frame of the wavelengths",
    "preparation": "spectra prepared", "training_set_sha256": "SHA-256 of the training set",
    "bayes_cannon": "bayes_cannon", "python": "Python", "numpy": "NumPy", "jax": "JAX", "created": "written",
}  # fmt: skip
_META = {
    "MODEL": "model file", "MODELSHA": "SHA-256 of the model file", "SPECTRA": "spectra",
    "SPECSHA": "SHA-256 of the spectra", "DATA": "data", "ERRORS": "errors", "PROGRAM": "program",
    "VERSIONS": "versions", "CREATED": "written",
}  # fmt: skip


def at_a_glance(subject: Subject) -> Section | Missing:
    """The numbers that matter, and what is to be minded."""
    model, stars, summary = subject.model, subject.stars, summary_of(subject)
    tiles = []
    if model is not None:
        tiles.append((f"{len(model.training_set_labels):,}".replace(",", " "), "training stars"))
        tiles.append((f"{model.n_pixels:,}".replace(",", " "), "pixels"))
    if stars is not None:
        compared = "stars compared" if stars.reference is not None else "stars labelled"
        tiles.append((f"{len(stars.labels):,}".replace(",", " "), compared))
    for row in () if summary is None else summary:
        name = str(row["label"])
        unit = unit_of_label(name, str(row["unit"]))
        tiles.append((f"{number(float(row['robust_scatter']))} {unit}", Markup(f"scatter of {field_name(name).html}")))
    minded = _minded(subject, summary)
    boxes = [tag("div", tag("b", big), tag("span", small), class_="tile") for big, small in tiles]
    verdict = (
        tag("div", tag("strong", "To be minded"), bullets(minded), class_="mind")
        if minded
        else tag("div", "Nothing stands out: all that is known here is as it should be.", class_="mind fine")
    )
    return Section("At a glance", join([tag("div", *boxes, class_="tiles"), verdict]))


def _minded(subject: Subject, summary: Any) -> list[Any]:
    """What is out of the ordinary, in sentences."""
    lines: list[Any] = []
    if summary is not None and "robust_pull" in summary.colnames:
        low, high = _PULL_BOUNDS
        for row in summary:
            pull = float(row["robust_pull"])
            if not low <= pull <= high:
                size = "too small" if pull > high else "too large" if pull < low else "not known, or stars failed"
                lines.append(
                    Markup(f"Errors of {field_name(str(row['label'])).html} are {size}: robust pull {pull:.2f}.")
                )
    certificates = getattr(subject.model, "certificates", None)
    if certificates is not None:
        fine = np.isin(certificates["status"], (PixelStatus.CONVERGED, PixelStatus.ZERO_SCATTER))
        if not fine.all():
            lines.append(f"{int((~fine).sum())} pixels did not converge, or have no solution: see how the fits ended.")
    if subject.stars is not None and subject.stars.status is not None:
        status = subject.stars.status
        for one in (StarStatus.UNLIKE_TRAINING_SPECTRA, StarStatus.OUTSIDE_TRAINING_SET, StarStatus.SEVERAL_MINIMA):
            share = np.mean(status == one)
            if share > 0.01:
                words = one.name.replace("_", " ").lower()
                lines.append(f"{100 * share:.1f} % of the stars: {words}.")
        lost = int(np.sum([status == one for one in StarStatus if not one.has_solution]))
        if lost:
            lines.append(f"{lost} stars have no labels: see how the fits ended.")
    if subject.model is not None and subject.model.calibration is None:
        lines.append(Markup(f"Errors are not calibrated. {code('bayes-cannon calibrate MODEL')}"))
    return lines


def training(subject: Subject) -> Section | Missing:
    """What was trained on what, and what labelled what."""
    title, model, stars = "What was trained on what", subject.model, subject.stars
    known: dict[str, Any] = {f"file of the {what}": name for what, name in subject.sources.items()}
    parts: list[str] = []
    if model is not None:
        known |= _of_model(model)
        known |= {_PROVENANCE.get(name, name): _said(value) for name, value in model.provenance.items()}
        known.setdefault("cuts", "none is recorded in the model")
    parts.append(definitions({name: value for name, value in known.items() if value != ""}))
    if stars is not None:
        parts += [tag("h3", "Labelled stars"), label_paragraph(stars)]
        parts.append(definitions({_META[name]: _said(stars.meta[name]) for name in _META if stars.meta.get(name)}))
    parts.append(note(f"This page was made by bayes_cannon {provenance_of_writing()['bayes_cannon']}, "
                      f"{provenance_of_writing()['created']}."))  # fmt: skip
    if model is None and stars is None:
        return Missing(title, NO_MODEL, GET_MODEL)
    return Section(title, join(parts))


def _of_model(model: AnyModel) -> dict[str, Any]:
    labels = model.training_set_labels
    said: dict[str, Any] = {
        "kind": type(model).__name__,
        "labels": Markup(", ".join(
            f"{field_name(name).html} {number(labels[:, k].min())} to {number(labels[:, k].max())} "
            f"{text(unit_of_label(name, model.label_units.get(name)))}" for k, name in enumerate(model.label_names)
        )),
        "training stars": len(labels),
    }  # fmt: skip
    x = model.dispersion
    unit = f" {model.dispersion_unit}" if model.dispersion_unit else ""
    said["pixels"] = f"{model.n_pixels}" + ("" if x is None else f", from {np.min(x):.1f} to {np.max(x):.1f}{unit}")
    if isinstance(model, LocalCannonModel):
        shapes = zip(model.partitions, model.partition_weights, strict=True)
        said["regions"] = "; ".join(f"{n} of order {order}, weight {weight:.2f}" for (n, order), weight in shapes)
    else:
        said["terms"] = f"{model.vectorizer.n_terms}"
        lam = model.regularization
        said["regularization Λ"] = "none" if lam is None or not np.any(lam) else f"{np.min(lam):g} to {np.max(lam):g}"
        said["censored"] = "; ".join(f"{name} at {int(mask.sum())} pixels" for name, mask in model.censors.items())
        if model.nu is not None and np.isfinite(model.nu):
            said["heavy tails"] = f"{model.nu:.1f} degrees of freedom"
    said["scatter"] = "independent between pixels" if model.scatter is None else repr(model.scatter)
    said["errors"] = "formal" if model.calibration is None else "calibrated with held-out stars"
    return said


def _said(value: str) -> Any:
    """A text, and what is JSON in words: names and values."""
    try:
        found = json.loads(value)
    except ValueError:
        return value
    if not isinstance(found, dict):
        return value
    there = {name.replace("_", " "): one for name, one in found.items() if one not in (None, False, {}, [])}
    return "; ".join(f"{name}: {'yes' if one is True else _flat(one)}" for name, one in there.items())


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_flat(one)}" for name, one in value.items())
    return " to ".join(map(str, value)) if isinstance(value, list) and len(value) == 2 else str(value)


def certificates(subject: Subject) -> Section | Missing:
    """How far theta and s2 are from their optimum, certified."""
    title = "Certificates"
    if subject.model is None:
        return Missing(title, NO_MODEL, GET_MODEL)
    if isinstance(subject.model, LocalCannonModel):
        return Missing(
            title, "local models keep none for their regions", 'tc.report("NAME.model")  # of the one model beside them'
        )
    found = subject.model.certificates
    if found is None:
        return Missing(title, "theta comes from elsewhere, and its optimum was not certified", "model.train()")
    solved = np.isin(found["status"], [one for one in PixelStatus if one.has_solution])
    gap, gradient = (np.abs(found[name][solved]) for name in ("duality_gap", "profile_gradient"))
    both = {"relative duality gap of theta": gap, "gradient of the profile in s²": gradient}
    rows = [_spread(name, values) for name, values in both.items() if np.isfinite(values).any()]
    parts = [
        paragraph(
            "Training is an optimization, and each pixel states how far it is from its optimum. The duality gap bounds "
            "the part of the training scalar that another theta could gain; the gradient is that by s² at the end."
        ),
        table(["", "median", "99 %", "largest"], rows),
        paragraph(f"{int((gap < _LEAST_GAP).sum())} of {len(gap)} pixels have a gap below ", _LEAST_GAP, "."),
        status_table(found["status"], PixelStatus, "pixels"),
    ]
    if "n_minima" in found:
        several = int((found["n_minima"] > 1).sum())
        parts.append(note(f"{several} pixels have more than one minimum in s²; the lowest that was seen is taken."))
    return Section(title, join(parts))


def _spread(name: str, values: np.ndarray) -> list[Any]:
    known = values[np.isfinite(values)]
    spread = [float(np.quantile(known, q)) for q in (0.5, 0.99, 1.0)] if known.size else [np.nan] * 3
    return [name, *(Markup(number(one)) for one in spread)]


def chains(subject: Subject) -> Section | Missing:
    """R-hat and effective sample sizes of the posterior of theta."""
    title, tree = "Chains", subject.posterior
    posterior = getattr(subject.model, "posterior", None)
    if tree is None and (posterior is None or not np.isfinite(posterior.r_hat).any()):
        why = (
            "no posterior of theta was sampled" if posterior is None else "a model file keeps no diagnostics of chains"
        )
        return Missing(title, why, "bayes-cannon sample MODEL, then bayes-cannon report MODEL --posterior STORE")
    if tree is not None:
        summary = tree["summary"]
        r_hat, ess, k_hat = (np.asarray(summary[name]) for name in ("r_hat", "ess_bulk", "k_hat"))
    else:
        assert posterior is not None
        r_hat, ess, k_hat = posterior.r_hat, posterior.ess_bulk, posterior.k_hat
    rows = []
    for name, values, worst, good in (
        ("largest R-hat of a pixel", r_hat, np.max, lambda one: one <= _COMMON_R_HAT),
        ("smallest bulk ESS of a pixel", ess, np.min, lambda one: one >= 400),
        ("Pareto k-hat of a pixel", k_hat[:, None], np.max, lambda one: one <= 0.7),
    ):
        each = np.array([worst(row[np.isfinite(row)]) for row in values if np.isfinite(row).any()])
        if each.size:
            rows.append(
                [name, len(each), float(np.median(each)), float(worst(each)), f"{100 * np.mean(good(each)):.1f} %"]
            )
    parts = [
        table(["", "pixels", "median", "worst", "good"], rows),
        note("Good is R-hat up to 1.01, a bulk effective sample size of at least 400, and k-hat up to 0.7."),
    ]
    if tree is not None:
        figure = theta_posterior(tree)
        for axes in figure.axes:
            axes.set_rasterization_zorder(3)
        parts.append(image(svg(figure, "chains"), "Diagnostics of the chains, and bands of s and of some coefficients"))
    return Section(title, join(parts))


def label_space(subject: Subject) -> Section | Missing:
    """Training labels, and those that they were chosen from."""
    title, model = "Label space", subject.model
    if model is None:
        return Missing(title, NO_MODEL, GET_MODEL)
    names = tuple(model.label_names)[:SHOWN_LABELS]
    chosen = model.training_set_labels[:, : len(names)]
    parts: list[str] = []
    if subject.candidates is None:
        labels, rows, what = chosen, None, "the training stars"
        parts.append(note(
            "How the stars were chosen is not shown, because the others are not in the model: ",
            code("tc.report(model, candidates=labels_before_choice)"),
        ))  # fmt: skip
    else:
        labels = np.concatenate([subject.candidates[:, : len(names)], chosen])
        rows = np.arange(len(subject.candidates), len(labels))
        what = "all stars before the choice in grey, and the training stars as points"
    if len(names) > 1:
        named = Table(dict(zip(names, labels.T, strict=True)))
        for name in names:
            if unit := model.label_units.get(name):
                named[name].unit = Unit(unit, parse_strict="silent")
        figure = draw_label_space(named, rows)
        parts.insert(0, image(svg(figure, "label-space"), f"Pairs of labels of {what}"))
    parts.insert(1, note(f"Every pair of labels: {what}. Darker is denser."))
    levels = [0, (1 - LEVELS[1]) / 2, 0.5, (1 + LEVELS[1]) / 2, 1]
    body = [
        [Markup(field_name(name).html), *map(float, np.quantile(model.training_set_labels[:, k], levels))]
        for k, name in enumerate(model.label_names)
    ]
    parts.append(table(["label", "lowest", "2.5 %", "median", "97.5 %", "highest"], body, "Training labels"))
    return Section(title, join(parts))
