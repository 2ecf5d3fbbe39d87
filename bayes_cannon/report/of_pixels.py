"""Sections over wavelength: theta and the scatter, the worst pixels, factors, and the path of regularizations."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import median_filter

from bayes_cannon.core.field_names import field_name, term_text
from bayes_cannon.core.status import PixelStatus
from bayes_cannon.model.local import LocalCannonModel
from bayes_cannon.model.stars import term_texts
from bayes_cannon.plot._matplotlib import known_of, pixel_axis, with_gaps
from bayes_cannon.plot.training import scatter_variance
from bayes_cannon.report import interactive
from bayes_cannon.report.interactive import BLUE, GREEN, INK, ORANGE, Change, Choice
from bayes_cannon.report.markup import Markup, bullets, join, note, number, paragraph, place, table
from bayes_cannon.report.of_training import GET_MODEL, NO_MODEL
from bayes_cannon.report.page import Missing, Section
from bayes_cannon.report.subject import AnyModel, Subject

_CURVE_BYTES = 1_100_000
"""Of all curves of theta, as they stand in the file."""
_BYTES = 4 * 4 / 3
"""Of a number in the file: single precision in base64."""
_NEIGHBOURS = 101
_WORST = 12


@dataclass(frozen=True)
class Curve:
    """Theta of one term, over pixels, with a band of one standard deviation where a posterior is known."""

    name: str
    group: str
    labels: tuple[str, ...]
    values: np.ndarray
    error: np.ndarray | None = None


def curves(model: AnyModel) -> list[Curve]:
    """Coefficients of all terms; of local models those of the regions of the main partition."""
    if isinstance(model, LocalCannonModel):
        partition = model.main_partition
        names, exponents = term_texts(partition.vectorizer), np.asarray(partition.vectorizer.exponents)
        several = len(partition.regions) > 1
        parts = [(f"region {k + 1}" if several else "", one.theta, None) for k, one in enumerate(partition.regions)]
    else:
        names, exponents = term_texts(model.vectorizer), np.asarray(model.vectorizer.exponents)
        posterior = model.posterior
        error = None if posterior is None else np.sqrt(np.einsum("pdd->pd", posterior.covariance))
        parts = [("", np.asarray(model.theta), error)]
    out = []
    for group, theta, error in parts:
        for term, (name, powers) in enumerate(zip(names, exponents, strict=True)):
            labels = tuple(label for label, power in zip(model.label_names, powers, strict=True) if power)
            shown = term_text(name) if powers.any() else "constant"
            out.append(Curve(shown, group, labels, theta[:, term], None if error is None else error[:, term]))
    return out


def scatter_of(model: AnyModel) -> dict[str, np.ndarray]:
    """Scatter s at each pixel by name: all of it, and that of a pixel on its own where pixels share some."""
    if isinstance(model, LocalCannonModel):
        return {f"region {k + 1}": _root(one.s2) for k, one in enumerate(model.main_partition.regions)}
    own, whole = _root(np.asarray(model.s2)), _root(scatter_variance(model))
    return (
        {"all of it": whole} if np.allclose(own, whole, rtol=0.01, equal_nan=True) else {"all of it": whole, "own": own}
    )


def _root(variance: np.ndarray) -> np.ndarray:
    return np.sqrt(np.where(np.isfinite(variance), variance, np.nan))


def axis_of(model: AnyModel) -> tuple[np.ndarray, str]:
    """Position of each pixel, and what it is."""
    assert model.n_pixels is not None
    return pixel_axis(model.dispersion, model.n_pixels, known_of({"": model}, None))


def shared_range(model: AnyModel, ranges: dict[int, Any]) -> Any:
    """The range of wavelengths that all figures of a model share, so that they zoom together."""
    from bokeh.models import Range1d

    if id(model) not in ranges:
        x, _ = axis_of(model)
        low, high = float(np.min(x)), float(np.max(x))
        room = 0.01 * (high - low) or 0.5
        ranges[id(model)] = Range1d(name="wavelengths")
        interactive.set_range(ranges[id(model)], low - room, high + room)
    return ranges[id(model)]


def wavelengths(subject: Subject, ranges: dict[int, Any]) -> Section | Missing:
    """Theta and scatter, linked."""
    title, model = "Coefficients and scatter", subject.model
    if model is None:
        return Missing(title, NO_MODEL, GET_MODEL)
    every = curves(model)
    shown = _that_fit(every)
    x, x_title = axis_of(model)
    s = scatter_of(model)
    names = [f"c{k}" for k in range(len(shown))]
    bands = [k for k, one in enumerate(shown) if one.error is not None and np.isfinite(one.error).any()]
    columns = {name: one.values for name, one in zip(names, shown, strict=True)}
    for k in bands:
        columns |= {f"l{k}": shown[k].values - shown[k].error, f"h{k}": shown[k].values + shown[k].error}
    columns |= {f"s{k}": values for k, values in enumerate(s.values())}
    position, *values = with_gaps(x, *columns.values())
    data = interactive.source({"x": position, **dict(zip(columns, values, strict=True))}, "theta-curves")
    x_range = shared_range(model, ranges)
    first = _first_choice(shown)
    theta = interactive.figure("theta", "", "θ (flux)", height=300, x_range=x_range)
    _draw_theta(theta, data, model, x, first, bool(bands))
    scatter = interactive.figure("scatter", x_title, "scatter s (flux)", height=230, x_range=x_range)
    for k, (name, colour) in enumerate(
        zip(s, (ORANGE, GREEN, BLUE, INK, "#cc79a7", "#e69f00", "#56b4e9"), strict=False)
    ):
        words = {"legend_label": name} if len(s) > 1 else {}
        scatter.line("x", f"s{k}", source=data, line_color=colour, line_width=1.2, **words)
    interactive.legend_above(scatter)
    all_s = np.concatenate(list(s.values()))
    interactive.set_range(scatter.y_range, 0, interactive.limits_of(all_s, robust=0.0005)[1])
    interactive.set_range(theta.y_range, *interactive.limits_of(shown[first].values, robust=0.0005))
    for one in (theta, scatter):
        _draw_lines(one, subject.lines, x, named=one is theta)
    choices = _choices(shown, model, bands, first)
    parts = [
        interactive.switches([("Term", "term", choices)]),
        place("theta", "Coefficient of a term that can be chosen, over wavelength"),
        place("scatter", "Scatter of each pixel over wavelength"),
        note(_words(model, bool(bands), len(shown), len(every))),
    ]
    if not subject.lines:
        parts.append(
            note("Lines can be marked: a table with the columns name and wavelength, as lines=... or --lines.")
        )
    return Section(title, join(parts), {"theta": theta, "scatter": scatter})


def _words(model: AnyModel, bands: bool, shown: int, every: int) -> str:
    said = [
        (
            "Zoom with the box or the wheel; both figures, and those below, move together, and the circular arrow goes "
            "back. The constant is the flux at the median labels, other coefficients how it changes with scaled labels."
        )
    ]
    if bands:
        said.append("The band is one standard deviation of the posterior.")
    elif not isinstance(model, LocalCannonModel):
        said.append("No band, because no posterior of theta was sampled (bayes-cannon sample).")
    if not isinstance(model, LocalCannonModel) and model.censors:
        said.append("Grey regions: a label of the term is censored.")
    if shown < every:
        said.append(
            f"{shown} of {every} terms are on the page, which stays small for it: the constant, those of single "
            "labels, and the strongest others. tc.plot.theta(model) draws all."
        )
    return " ".join(said)


def _that_fit(every: list[Curve]) -> list[Curve]:
    """All curves, or as many as the page has room for: constants, single labels, then the strongest."""
    each = _BYTES * len(every[0].values) * (1 if every[0].error is None else 3)
    room = max(3, int(_CURVE_BYTES / each))
    if len(every) <= room:
        return every
    strength = [float(np.sqrt(np.nanmean(one.values**2))) if np.isfinite(one.values).any() else 0.0 for one in every]
    simple = [len(one.labels) == 0 or ("·" not in one.name and one.name[-1] not in "⁰¹²³⁴⁵⁶⁷⁸⁹") for one in every]
    order = sorted(range(len(every)), key=lambda k: (not simple[k], -strength[k]))[:room]
    return [every[k] for k in sorted(order)]


def _first_choice(shown: list[Curve]) -> int:
    """The constant is the mean spectrum, which everybody knows how to read."""
    return next((k for k, one in enumerate(shown) if not one.labels), 0)


def _choices(shown: list[Curve], model: AnyModel, bands: list[int], first: int) -> list[Choice]:
    censors = {} if isinstance(model, LocalCannonModel) else model.censors
    out = []
    for k in [first, *(k for k in range(len(shown)) if k != first)]:
        one = shown[k]
        changes: list[Change] = [("theta-line", "y", {"field": f"c{k}"})]
        changes += interactive.range_changes("theta-y", interactive.limits_of(one.values, robust=0.0005))
        if k in bands:
            changes += [("theta-band", "y1", {"field": f"l{k}"}), ("theta-band", "y2", {"field": f"h{k}"})]
        changes += [(f"censored-{name}", "visible", name in one.labels) for name in censors]
        out.append((str(k), one.name, one.group, changes))
    return out


def _draw_theta(figure: Any, data: Any, model: AnyModel, x: np.ndarray, first: int, bands: bool) -> None:
    from bokeh.models import Span

    censors = {} if isinstance(model, LocalCannonModel) else model.censors
    for name, mask in censors.items():
        starts, ends = _runs(x, np.asarray(mask))
        strips = figure.vstrip(x0=starts, x1=ends, fill_color=INK, fill_alpha=0.18, line_color=None)
        strips.name, strips.visible = f"censored-{name}", False
    figure.add_layout(Span(location=0, dimension="width", line_color=INK, line_width=0.6))
    if bands:
        band = figure.varea("x", f"l{first}", f"h{first}", source=data, fill_color=BLUE, fill_alpha=0.3)
        band.glyph.name = "theta-band"
    figure.line("x", f"c{first}", source=data, line_color=BLUE, line_width=1.2).glyph.name = "theta-line"


def _runs(x: np.ndarray, mask: np.ndarray) -> tuple[list[float], list[float]]:
    """Ends of the regions of wavelength where the mask is True."""
    order = np.argsort(x, kind="stable")
    x, inside = x[order], mask[order].astype(int)
    steps = np.diff(np.concatenate([[0], inside, [0]]))
    return x[np.flatnonzero(steps == 1)].tolist(), x[np.flatnonzero(steps == -1) - 1].tolist()


def _draw_lines(figure: Any, lines: tuple[tuple[str, float], ...], x: np.ndarray, *, named: bool) -> None:
    """Lines that the user named, where the model has pixels."""
    inside = [(name, at) for name, at in lines if np.min(x) <= at <= np.max(x)]
    if not inside:
        return
    from bokeh.models import ColumnDataSource, HoverTool, Label

    data = ColumnDataSource({"x": [at for _, at in inside], "name": [name for name, _ in inside]})
    marks = figure.vspan(x="x", source=data, line_color=ORANGE, line_dash="dotted", line_width=1.2)
    figure.add_tools(HoverTool(renderers=[marks], tooltips=[("line", "@name"), ("at", "@x{0.00}")]))
    shown: list[tuple[str, float]] = []
    for name, at in sorted(inside, key=lambda line: line[1]) if named else ():
        if any(name == other and at - before < 0.02 * np.ptp(x) for other, before in shown):
            continue
        shown.append((name, at))
        figure.add_layout(
            Label(x=at, y=4, y_units="screen", text=name, angle=np.pi / 2, text_font_size="11px", text_color=ORANGE)
        )


def worst_pixels(subject: Subject) -> Section | Missing:
    """Pixels that scatter far more than their neighbours, or did not converge."""
    title, model = "The worst pixels", subject.model
    if model is None:
        return Missing(title, NO_MODEL, GET_MODEL)
    x, x_title = axis_of(model)
    s = next(iter(scatter_of(model).values()))
    certificates = getattr(model, "certificates", None) or {}
    usual = median_filter(np.nan_to_num(s, nan=float(np.nanmedian(s))), size=min(_NEIGHBOURS, len(s)), mode="nearest")
    ratio = s / np.where(usual > 0, usual, np.nan)
    order = np.argsort(-np.nan_to_num(ratio, nan=-1.0), kind="stable")[:_WORST]
    status = certificates.get("status")
    rows = []
    for pixel in order:
        row: list[Any] = [int(pixel), f"{x[pixel]:.2f}", float(s[pixel]), float(ratio[pixel])]
        if status is not None:
            row += [Markup(number(float(certificates["duality_gap"][pixel]))),
                    PixelStatus(int(status[pixel])).name.replace("_", " ").lower()]  # fmt: skip
        rows.append(row)
    head = ["pixel", x_title, "s", "s over its neighbours'"] + (["duality gap", "status"] if status is not None else [])
    parts = [
        paragraph("Where the scatter is far above that of the pixels around, the labels do not explain the flux."),
        table(head, rows),
        note(f"Neighbours: the median of {_NEIGHBOURS} pixels."),
    ]
    if status is not None:
        bad = np.flatnonzero(~np.isin(status, (PixelStatus.CONVERGED, PixelStatus.ZERO_SCATTER)))
        if bad.size:
            parts.append(paragraph(f"{bad.size} pixels did not converge or have no solution:"))
            parts.append(bullets(f"pixel {pixel}, {x[pixel]:.2f}: {PixelStatus(int(status[pixel])).message}"
                                 for pixel in bad[:_WORST]))  # fmt: skip
    return Section(title, join(parts))


def factors(subject: Subject, ranges: dict[int, Any]) -> Section | Missing:
    """What the scatter looks like that pixels share."""
    title, model = "Factors of the scatter", subject.model
    if model is None:
        return Missing(title, NO_MODEL, GET_MODEL)
    if isinstance(model, LocalCannonModel) or model.factors is None:
        return Missing(
            title,
            "each region has its own" if isinstance(model, LocalCannonModel) else "the scatter is independent",
            "model.scatter = tc.scatter.LowRank(rank=5); model.train()",
        )
    count = min(model.factors.shape[1], 6)
    assert model.correlation is not None
    assert model.s2 is not None
    share = model.correlation.variance_shares(model.s2)
    x, x_title = axis_of(model)
    position, *values = with_gaps(x, *model.factors.T[:count])
    data = interactive.source({"x": position, **{f"u{k}": one for k, one in enumerate(values)}}, "factor-curves")
    figure = interactive.figure("factors", x_title, "factor (flux)", height=260, x_range=shared_range(model, ranges))
    figure.line("x", "u0", source=data, line_color=BLUE, line_width=1.2).glyph.name = "factor-line"
    limits: Mapping[int, tuple[float, float]] = {
        k: interactive.limits_of(model.factors[:, k], robust=0.0005) for k in range(count)
    }
    interactive.set_range(figure.y_range, *limits[0])
    choices = [
        (str(k), f"{k}: {100 * share[k]:.1f} % of the scatter", "",
         [("factor-line", "y", {"field": f"u{k}"}), *interactive.range_changes("factors-y", limits[k])])
        for k in range(count)
    ]  # fmt: skip
    known = 100 * float(np.sum(share))
    parts = [
        paragraph(
            f"{model.factors.shape[1]} factors carry {known:.0f} % of the variance of the scatter; the strongest come "
            "first. A factor that looks like the lines of an element stands for a label that the model lacks."
        ),
        interactive.switches([("Factor", "factor", choices)]),
        place("factors", "A factor of the scatter over wavelength"),
    ]
    return Section(title, join(parts), {"factors": figure})


def lambda_path(subject: Subject) -> Section | Missing:
    """How many terms remain at each strength of the regularization."""
    title, path = "Sparsity", subject.path
    model = subject.model
    if path is None:
        return Missing(
            title, "no path over the regularization was given",
            "tc.report(model, path=model.train_path([0, 1, 10, 100, 1000]))",
        )  # fmt: skip
    total = path.theta.shape[2] - 1
    nonzero = path.n_nonzero
    s = np.sqrt(np.where(np.isfinite(path.s2), path.s2, np.nan))
    lam = np.asarray(path.lambdas, float)
    figure = interactive.figure("path", "Λ", "nonzero terms of a pixel", height=280)
    place_of = np.arange(len(lam), dtype=float)
    low, middle, high = np.quantile(nonzero, [0.16, 0.5, 0.84], axis=1)
    data = interactive.source({"x": place_of, "l": low, "m": middle, "h": high}, "path-points")
    figure.varea("x", "l", "h", source=data, fill_color=BLUE, fill_alpha=0.25)
    figure.line("x", "m", source=data, line_color=BLUE, line_width=2)
    figure.scatter("x", "m", source=data, size=7, fill_color=BLUE, line_color=None)
    figure.xaxis.ticker = place_of.tolist()
    figure.xaxis.major_label_overrides = {int(k): f"{one:g}" for k, one in enumerate(lam)}
    interactive.set_range(figure.x_range, -0.3, len(lam) - 0.7)
    interactive.set_range(figure.y_range, 0, 1.05 * total)
    rows = [
        [f"{one:g}", f"{nonzero[k].mean():.1f}", f"{100 * (1 - nonzero[k].mean() / max(total, 1)):.0f} %",
         float(np.nanmedian(s[k])), Markup(number(float(np.nanmax(path.duality_gap[k]))))]
        for k, one in enumerate(lam)
    ]  # fmt: skip
    parts = [
        place("path", "Number of nonzero terms over the strength of the regularization"),
        note(f"Of {total} penalized terms; line: median pixel, band: 16th to 84th percentile of the pixels."),
        table(["Λ", "nonzero terms", "zero", "median s", "largest duality gap"], rows),
    ]
    if model is not None:
        parts.append(
            paragraph(
                "Labels of the model: ", Markup(", ".join(field_name(one).html for one in model.label_names)), "."
            )
        )
    return Section(title, join(parts), {"path": figure})
