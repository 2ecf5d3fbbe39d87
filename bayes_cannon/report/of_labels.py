"""Sections of labelled stars: how far their labels are off, whether their errors are honest, how the fits ended."""

from types import SimpleNamespace
from typing import Any

import numpy as np
from scipy.special import ndtri, stdtrit

from bayes_cannon.core.field_names import field_name, label_text, unit_of_label
from bayes_cannon.core.status import PixelStatus, PosteriorStatus, StarStatus
from bayes_cannon.plot import honesty
from bayes_cannon.plot._matplotlib import svg
from bayes_cannon.plot.comparison import one_to_one
from bayes_cannon.report import interactive
from bayes_cannon.report.interactive import BLUE, INK, ORANGE
from bayes_cannon.report.markup import Markup, image, join, note, number, paragraph, place, table, tag
from bayes_cannon.report.page import Missing, Section
from bayes_cannon.report.subject import LabelledStars, Subject
from bayes_cannon.validate import summary_table

LEVELS = (0.68, 0.95)
SHOWN_LABELS = 6
"""Labels that get a panel of their own in a figure of many panels."""
_BINS = 12
_NO_REFERENCE = "no labels with a reference are known that the stars could be compared with"
_GET_REFERENCE = 'tc.report(model, labels="NAME-labels.ecsv")  # which "bayes-cannon train" writes for held-out stars'


def label_markup(name: str, unit: str | None = None) -> Markup:
    """Name of a label in the page, with its unit if one is given or usual."""
    shown = unit_of_label(name, unit)
    return Markup(field_name(name).html + (f" <small>({tag('span', shown)})</small>" if shown else ""))


def summary_of(subject: Subject) -> Any:
    """Table of the validation, or None where there is no reference."""
    stars = subject.stars
    if stars is None or stars.reference is None:
        return subject.summary
    return summary_table(
        stars.labels, stars.reference, stars.covariance, label_names=stars.names, units=dict(subject.units)
    )


def validation(subject: Subject) -> Section | Missing:
    """Inferred against reference labels: a table, one-to-one, and residuals against whatever may be their reason."""
    title, summary = "Labels against reference", summary_of(subject)
    if summary is None:
        return Missing(title, _NO_REFERENCE, _GET_REFERENCE)
    parts: list[str] = [_summary_markup(summary), note(
        "Bias: median of inferred minus reference. Robust scatter: 1.4826 times the median absolute deviation from it, "
        "a failed star counting as infinite. Pull: the difference over the quoted error of the star; its scatter is 1 "
        "where errors are honest, and larger where they are too small."
    )]  # fmt: skip
    if subject.stars is None or subject.stars.reference is None:
        parts.append(note("The file is a summary: stars themselves are in the table NAME-labels.ecsv beside it."))
        return Section(title, join(parts))
    figure, switches = _residuals(subject.stars, subject.units)
    parts += [
        switches,
        place("residuals", "Residuals of the labels of all stars, against a label or S/N that can be chosen"),
        note(
            "Points are stars. The line is the median of bins with as many stars each, the band their 16th to 84th "
            "percentile. Triangles stand for stars beyond the first view: zoom out to see them in place."
        ),
        tag("h3", "One to one"),
        image(_one_to_one(subject), "Inferred against reference label, and their difference, a column a label"),
    ]
    return Section(title, join(parts), {"residuals": figure})


def _summary_markup(summary: Any) -> Markup:
    columns = {
        "stars": "stars", "failed": "no result", "bias": "bias", "robust_scatter": "robust scatter",
        "plain_scatter": "plain scatter", "median_error": "median error", "robust_pull": "robust pull",
        "plain_pull": "plain pull",
    }  # fmt: skip
    there = [name for name in columns if name in summary.colnames]
    rows = [
        [label_markup(str(row["label"]), str(row["unit"])), *(_plain(row[name]) for name in there)] for row in summary
    ]
    return table(["label", *(columns[name] for name in there)], rows)


def _plain(value: Any) -> int | float:
    return int(value) if np.issubdtype(type(value), np.integer) else float(value)


def _one_to_one(subject: Subject) -> str:
    stars = subject.stars
    assert stars is not None
    first = slice(0, SHOWN_LABELS)
    names = stars.names[first]
    trained_on = None if subject.model is None else subject.model.training_set_labels[:, first]
    named = SimpleNamespace(
        vectorizer=SimpleNamespace(label_names=names), label_units=subject.units, training_set_labels=trained_on
    )
    assert stars.reference is not None
    figure = one_to_one(
        named, stars.labels[:, first], stars.covariance[:, first, first], reference=stars.reference[:, first],
        scatter_kwds={"rasterized": True}, errorbar_kwds={"rasterized": True},
    )  # fmt: skip
    return svg(figure, "one-to-one")


def _residuals(stars: LabelledStars, units: Any) -> tuple[Any, Markup]:
    """Residuals and pulls of every label against every label and S/N."""
    assert stars.reference is not None
    y_axes = [
        ("Inferred − reference", name, stars.difference[:, k], f"Δ {label_text(name, units.get(name))}")
        for k, name in enumerate(stars.names)
    ] + [
        ("Pull", name, stars.pulls[:, k], f"pull of {field_name(name).text}") for k, name in enumerate(stars.names)
    ]  # fmt: skip
    x_axes = [
        (f"reference {label_text(name, units.get(name))}", stars.reference[:, k]) for k, name in enumerate(stars.names)
    ]
    if stars.snr is not None:
        x_axes.append(("S/N", stars.snr))
    if stars.misfit is not None:
        x_axes.append(("misfit (standard deviations)", stars.misfit))
    columns = {f"x{i}": values for i, (_, values) in enumerate(x_axes)}
    columns |= {f"y{j}": one[2] for j, one in enumerate(y_axes)}
    limits_y = [_y_limits(one[2]) for one in y_axes]
    edges = {f"e{j}": _at_edge(one[2], limits) for j, (one, limits) in enumerate(zip(y_axes, limits_y, strict=True))}
    points = interactive.source({**columns, **edges, "star": stars.ids}, "residuals-points")
    bins = interactive.source(_binned(x_axes, y_axes), "residuals-bins")
    figure = interactive.figure("residuals", x_axes[0][0], y_axes[0][3], height=380)
    _draw_residuals(figure, points, bins)
    interactive.set_range(figure.x_range, *interactive.limits_of(x_axes[0][1], robust=0.001))
    interactive.set_range(figure.y_range, *limits_y[0])
    choices_y = [
        (str(j), f"{field_name(name).text}", group,
         [*interactive.range_changes("residuals-y", limits_y[j]), ("residuals-yaxis", "axis_label", text)])
        for j, (group, name, _, text) in enumerate(y_axes)
    ]  # fmt: skip
    choices_x = [
        (str(i), text, "", [*interactive.range_changes("residuals-x", interactive.limits_of(values, robust=0.001)),
                            ("residuals-xaxis", "axis_label", text)])
        for i, (text, values) in enumerate(x_axes)
    ]  # fmt: skip
    templates = [
        ("residuals-dots", "x", {"field": "x{x}"}), ("residuals-dots", "y", {"field": "y{y}"}),
        ("residuals-edge", "x", {"field": "x{x}"}), ("residuals-edge", "y", {"field": "e{y}"}),
        ("residuals-median", "x", {"field": "x{x}"}), ("residuals-median", "y", {"field": "m{x}_{y}"}),
        ("residuals-band", "x", {"field": "x{x}"}), ("residuals-band", "y1", {"field": "l{x}_{y}"}),
        ("residuals-band", "y2", {"field": "h{x}_{y}"}),
    ]  # fmt: skip
    return figure, interactive.switches([("Show", "y", choices_y), ("against", "x", choices_x)], templates)


def _draw_residuals(figure: Any, points: Any, bins: Any) -> None:
    from bokeh.models import HoverTool, Span

    figure.add_layout(Span(location=0, dimension="width", line_color=INK, line_width=1))
    band = figure.varea("x0", "l0_0", "h0_0", source=bins, fill_color=ORANGE, fill_alpha=0.25)
    dots = figure.scatter("x0", "y0", source=points, size=4, line_color=None, fill_color=BLUE, fill_alpha=0.5)
    edge = figure.scatter(
        "x0", "e0", source=points, size=7, marker="triangle", line_color=None, fill_color=BLUE, fill_alpha=0.7
    )  # fmt: skip
    median = figure.line("x0", "m0_0", source=bins, line_color=ORANGE, line_width=2)
    for name, one in (("band", band), ("dots", dots), ("edge", edge), ("median", median)):
        one.glyph.name = f"residuals-{name}"
    figure.add_tools(HoverTool(renderers=[dots, edge], tooltips=[("star", "@star")]))


def _y_limits(values: np.ndarray) -> tuple[float, float]:
    low, high = interactive.limits_of(values, robust=0.005, margin=0.15)
    half = max(abs(low), abs(high))
    return -half, half


def _at_edge(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """The edge of the view for values beyond it, NaN for all others."""
    low, high = limits
    room = 0.025 * (high - low)
    return np.where(values > high, high - room, np.where(values < low, low + room, np.nan))


def _binned(x_axes: Any, y_axes: Any) -> dict[str, np.ndarray]:
    """Median and percentiles of every residual in bins along every axis, at the median of x in the bin."""
    columns = {}
    for i, (_, x) in enumerate(x_axes):
        known = np.flatnonzero(np.isfinite(x))
        groups = [rows for rows in np.array_split(known[np.argsort(x[known], kind="stable")], _BINS) if rows.size]
        columns[f"x{i}"] = _filled([np.median(x[rows]) for rows in groups])
        for j, (_, _, y, _) in enumerate(y_axes):
            found = [y[rows][np.isfinite(y[rows])] for rows in groups]
            for what, level in (("l", 0.16), ("m", 0.5), ("h", 0.84)):
                columns[f"{what}{i}_{j}"] = _filled([np.quantile(one, level) if one.size else np.nan for one in found])
    return columns


def _filled(values: list[float]) -> np.ndarray:
    """As many values as there are bins, NaN at the end where stars were few: columns of a source are equally long."""
    return np.pad(np.asarray(values, float), (0, _BINS - len(values)), constant_values=np.nan)


def pulls(subject: Subject) -> Section | Missing:
    """Distribution of pulls, and average coverage."""
    title, stars = "Pulls and coverage", subject.stars
    if stars is None or stars.reference is None:
        return Missing(title, _NO_REFERENCE, _GET_REFERENCE)
    rows = []
    for k, name in enumerate(stars.names):
        pull = stars.pulls[:, k]
        known = np.isfinite(pull)
        row: list[Any] = [Markup(field_name(name).html), int(known.sum())]
        for level in LEVELS:
            held = np.abs(pull[known]) <= np.broadcast_to(_width(subject, level), (len(pull), 1))[known, 0]
            error = np.sqrt(level * (1 - level) / max(held.size, 1))
            share = held.mean() if held.size else np.nan
            row += [f"{100 * share:.1f} ± {100 * error:.1f} %"]
        rows.append([*row, f"{100 * np.mean(np.abs(pull[known]) > 3):.1f} %"])
    shown = slice(0, SHOWN_LABELS)
    figure = honesty.pulls(stars.pulls[:, shown], stars.names[shown])
    parts = [
        image(svg(figure, "pulls"), "Histograms of the pulls of each label with the normal distribution over them"),
        note("The line is the normal distribution that honest errors give. Pulls beyond 5 are in the last bins."),
        table(["label", "stars", "in 68 % intervals", "in 95 % intervals", "off by more than 3 errors"], rows,
              "Share of stars whose interval holds the reference label; ± is chance alone"),
        note(
            _interval_words(subject),
            " The errors of the reference labels are not added: where they matter, pulls are larger for them.",
        ),
    ]  # fmt: skip
    return Section(title, join(parts))


def _width(subject: Subject, level: float) -> Any:
    """Half the width of an interval over the quoted error: normal, or Student's where the calibration has tails."""
    stars = subject.stars
    if not _has_tails(subject):
        return ndtri((1 + level) / 2)
    assert stars is not None and subject.model is not None and subject.model.calibration is not None  # noqa: PT018
    assert stars.snr is not None
    nu = subject.model.calibration.nu(stars.snr)
    known = np.where(np.isfinite(nu), nu, 3.0)
    of_tails = stdtrit(known, (1 + level) / 2) * np.sqrt((known - 2) / known)
    return np.where(np.isfinite(nu), of_tails, ndtri((1 + level) / 2))[:, None]


def _has_tails(subject: Subject) -> bool:
    stars, model = subject.stars, subject.model
    calibrated = model is not None and model.calibration is not None
    return calibrated and stars is not None and stars.snr is not None and "formal" not in stars.meta.get("ERRORS", "")


def _interval_words(subject: Subject) -> str:
    return (
        "Intervals are those of Student's distribution of the calibration."
        if _has_tails(subject)
        else "Intervals are those of a normal distribution with the quoted error: 0.99 and 1.96 errors to either side."
    )


def coverage(subject: Subject) -> Section | Missing:
    """Coverage in bins of label space."""
    title, stars = "Coverage in label space", subject.stars
    if stars is None or stars.reference is None:
        return Missing(title, _NO_REFERENCE, _GET_REFERENCE)
    names, shown = stars.names, slice(0, SHOWN_LABELS)
    second = (stars.reference[:, 1], names[1]) if len(names) > 1 else (stars.snr, "SNR")
    if second[0] is None:
        return Missing(title, "one label without S/N spans no map", "label with fit_labels, whose result has the S/N")
    position = np.column_stack([stars.reference[:, 0], second[0]])
    parts: list[str] = []
    for level in LEVELS:
        figure = honesty.coverage(
            stars.pulls[:, shown], position, names[shown], (names[0], second[1]), level=level,
            width=_width(subject, level),
        )  # fmt: skip
        described = f"Maps of the coverage of {100 * level:.0f} % intervals over {names[0]} and {second[1]}"
        parts.append(image(svg(figure, f"coverage-{level}"), described))
    parts.append(note(
        "Per cent of the stars in each cell whose interval holds the reference label. Orange: too few, errors are too "
        "small there; blue: too many. A dot marks a cell that honest errors would give by chance in less than one of a "
        "hundred. Errors can be right on average and wrong for one kind of star; cells hold about as many stars each, "
        f"{honesty.FEWEST} at least."
    ))  # fmt: skip
    return Section(title, join(parts))


def error_sources(subject: Subject) -> Section | Missing:
    """The error budget."""
    title, stars = "Where errors come from", subject.stars
    if stars is None or not stars.budget:
        return Missing(
            title, "the label table has no columns for the sources of the errors",
            "bayes-cannon infer MODEL FILES --error-budget",
        )  # fmt: skip
    rows = [
        [Markup(field_name(name).html), *(float(np.nanmedian(one[:, k])) for one in stars.budget.values()),
         float(np.nanmedian(stars.errors[:, k])), unit_of_label(name, subject.units.get(name))]
        for k, name in enumerate(stars.names)
    ]  # fmt: skip
    figure = honesty.error_sources(stars.budget, stars.names)
    parts = [
        image(svg(figure, "budget"), "Share of each source in the variance of each label"),
        table(["label", *stars.budget, "quoted", "unit"], rows, "Median error of the stars by source"),
        note(
            "photon: noise of the spectra. scatter: that of each pixel for itself. correlated: scatter that pixels "
            "share. theta: what is not known of the coefficients. scale and floor: what the calibration adds, or takes "
            "away where negative. Squares add up, for each star, to the square of its quoted error."
        ),
    ]
    return Section(title, join(parts))


def statuses(subject: Subject) -> Section | Missing:
    """How fits ended, counted, with what to do."""
    title = "How the fits ended"
    parts: list[str] = []
    stars, model = subject.stars, subject.model
    if stars is not None and stars.status is not None:
        parts += [tag("h3", "Stars"), status_table(stars.status, StarStatus, "stars")]
    certificates = getattr(model, "certificates", None)
    if certificates is not None:
        parts += [tag("h3", "Pixels, in training"), status_table(certificates["status"], PixelStatus, "pixels")]
    posterior = getattr(model, "posterior", None)
    if posterior is not None:
        parts += [tag("h3", "Pixels, posterior of theta"), status_table(posterior.status, PosteriorStatus, "pixels")]
    if not parts:
        return Missing(title, "neither certificates of the pixels nor fits of stars are known", _GET_REFERENCE)
    return Section(title, join(parts))


def status_table(status: np.ndarray, kind: Any, what: str) -> Markup:
    """Counts of each status with its meaning and remedy, the most frequent first."""
    numbers, counts = np.unique(np.asarray(status).astype(int), return_counts=True)
    rows = []
    for k in np.argsort(-counts, kind="stable"):
        one = kind(int(numbers[k]))
        share = f"{100 * counts[k] / counts.sum():.1f}\N{NO-BREAK SPACE}%"
        rows.append([int(counts[k]), share, one.name.replace("_", " ").lower(), one.message])
    return table([what, "share", "status", "meaning and remedy"], rows)


def label_paragraph(stars: LabelledStars) -> Markup:
    """What the stars are, in a sentence."""
    snr = "" if stars.snr is None else f", S/N a pixel {number(float(np.nanmedian(stars.snr)))} in the median"
    return paragraph(f"{len(stars.labels)} stars{snr}; errors: {stars.meta.get('ERRORS', 'as the fit has them')}.")
