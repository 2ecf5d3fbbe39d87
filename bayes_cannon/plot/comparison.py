"""The figure of inferred against reference labels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bayes_cannon.core.arguments import mapping, number, shown
from bayes_cannon.core.intake import real_numbers
from bayes_cannon.plot._matplotlib import (
    COLOURS,
    REFERENCE,
    WIDTHS,
    Size,
    fit_text,
    given_panels,
    label_title,
    latex_names,
    new_figure,
    own_words,
)
from bayes_cannon.validate import bias, label_errors, robust_scatter

_COLUMNS = {"column": 2, "page": 4}
_SLACK = 1e-9
"""Of the range of the training labels: beyond it by less is roundoff."""
_RESIDUAL_RANGE = 5.0
_MARGIN = 0.06
_POINT_WORDS = {"s": "ms", "linewidths": "mew", "edgecolors": "mec", "edgecolor": "mec", "facecolors": "mfc",
                "facecolor": "mfc"}  # fmt: skip
_BAR_WORDS = {"ecolor": "color", "colors": "color", "elinewidth": "lw", "linewidths": "lw", "linestyles": "ls",
              "fmt": "", "capsize": "", "capthick": ""}  # fmt: skip


def one_to_one(
    model: Any,
    test_labels: np.ndarray,
    cov: np.ndarray | None = None,
    latex_label_names: Sequence[str] | None = None,
    show_statistics: bool = True,
    *,
    reference: np.ndarray | None = None,
    label_units: Mapping[str, str] | None = None,
    scatter_kwds: Mapping[str, Any] | None = None,
    errorbar_kwds: Mapping[str, Any] | None = None,
    axes: Any = None,
    size: Size = "page",
) -> Any:
    """Inferred against reference labels, with the differences beneath, one column per label.

    Stars beyond the limits of a panel are drawn as triangles at its edge, so that none is hidden. Extrapolations are
    circles: stars of which an inferred label lies outside the range of the model's training labels. Stars without a
    result are counted in the text.

    Parameters
    ----------
    model
        A model, which names the labels.
    test_labels
        Inferred labels in their units, shape (star, label); NaN where the fit failed.
    cov
        Their covariance, shape (star, label, label), drawn as error bars of one standard deviation.
    latex_label_names
        Name of each label in LaTeX, without dollar signs.
    show_statistics
        Whether bias and robust scatter (`bayes_cannon.validate`) are written in each panel.
    reference
        Reference labels of the same stars, shape (star, label), by default the model's training labels.
    label_units
        Unit by label name, by default the model's.
    scatter_kwds, errorbar_kwds
        For the points and the error bars, as in ``matplotlib.axes.Axes.plot`` and ``vlines``, or as in ``scatter``,
        with one size and colour, and ``errorbar``.
    axes
        Matplotlib axes to draw into, the K of the labels, then the K of the differences; by default of a new figure.
    size
        Width of a new figure: ``"column"`` or ``"page"`` of a journal, 3.5 or 7.1 inches.

    Returns
    -------
    figure
        A ``matplotlib.figure.Figure``; its axes are the K one-to-one panels, then the K panels of differences.

    Raises
    ------
    ImportError
        If Matplotlib is not installed.
    ValueError
        If the shapes of labels, reference and covariance do not agree.

    Examples
    --------
    >>> fit = model.fit_labels(model.training_set_flux, model.training_set_ivar)
    >>> figure = tc.plot.one_to_one(model, fit.labels, fit.covariance)
    >>> figure.savefig("one-to-one.png")

    """
    if not hasattr(model, "vectorizer"):
        raise TypeError(f"model must be a CannonModel, which names the labels, got {shown(model)}")
    names = tuple(model.vectorizer.label_names)
    inferred = real_numbers(test_labels, "test_labels")
    truth = real_numbers(model.training_set_labels if reference is None else reference, "reference")
    cov = None if cov is None else real_numbers(cov, "cov")
    _check_shapes(inferred, truth, cov, names, default=reference is None)
    errors = None if cov is None else label_errors(cov)
    latex = latex_names(latex_label_names, names)
    units = mapping(
        getattr(model, "label_units", {}) if label_units is None else label_units, "label_units", "names to units"
    )
    panels, residual_panels = _panels(len(names), axes, size)
    outside = _extrapolated(model, inferred)
    kwds = _point_words(scatter_kwds), own_words(errorbar_kwds, _BAR_WORDS)
    for k, name in enumerate(names):
        unit, error = units.get(name, ""), None if errors is None else errors[:, k]
        statistics = _draw_label((panels[k], residual_panels[k]), truth[:, k], inferred[:, k], error, outside, kwds)
        panels[k].set_title(label_title(name, unit, None if latex is None else latex[k]))
        if show_statistics:
            _write_statistics(panels[k], *statistics, unit)
    panels[0].set_ylabel("Inferred")
    residual_panels[0].set_ylabel("Inferred\n$-$ reference")
    return fit_text(panels[0].figure)


def _extrapolated(model: Any, inferred: np.ndarray) -> np.ndarray:
    """Whether a label of a star lies outside the range of the training labels, shape (star,)."""
    known = getattr(model, "training_set_labels", None)
    if known is None or np.shape(known)[1:] != inferred.shape[1:]:
        return np.zeros(len(inferred), dtype=bool)
    low, high = np.nanmin(known, axis=0), np.nanmax(known, axis=0)
    slack = _SLACK * (high - low)
    return np.asarray(((inferred < low - slack) | (inferred > high + slack)).any(axis=1))


def _point_words(scatter_kwds: Mapping[str, Any] | None) -> dict[str, Any]:
    """Keywords of ``scatter`` as those of ``plot``, which draws thousands of stars faster."""
    scatter_kwds = mapping(scatter_kwds, "scatter_kwds", "names to values, as Matplotlib has them")
    area: Any = scatter_kwds.get("s")
    if (area is not None and not number(area) >= 0) or "cmap" in scatter_kwds:
        raise ValueError("scatter_kwds must give all stars one size and colour: leave out s with many values, and cmap")
    words = own_words(scatter_kwds, _POINT_WORDS)
    return words if area is None else words | {"ms": float(np.sqrt(area))}


def _check_shapes(
    inferred: np.ndarray, truth: np.ndarray, cov: np.ndarray | None, names: Sequence[str], *, default: bool
) -> None:
    if inferred.ndim != 2 or inferred.shape[1] != len(names):
        raise ValueError(
            f"test_labels must have shape (star, {len(names)}) for {', '.join(names)}, got {inferred.shape}"
        )
    if truth.shape != inferred.shape:
        what = "the training labels of the model" if default else "reference"
        remedy = "; for other stars than the training set give reference=" if default else ""
        raise ValueError(f"{what} must have the shape of test_labels, {inferred.shape}, got {truth.shape}{remedy}")
    if cov is not None and np.shape(cov) != (*inferred.shape, len(names)):
        raise ValueError(f"cov must have shape {(*inferred.shape, len(names))}, got {cov.shape}")


def _panels(n_labels: int, axes: Any, size: Size) -> tuple[list[Any], list[Any]]:
    """K pairs of panels: those that are given, or of a new figure, some side by side."""
    given = given_panels(axes, 2 * n_labels, "one a label, then one of the differences a label")
    upper, lower = _new_panels(n_labels, size) if given is None else (given[:n_labels], given[n_labels:])
    for one in upper:
        one.tick_params(labelbottom=False)
        one.locator_params(nbins=5)
    for one in lower:
        one.locator_params(axis="x", nbins=5)
        one.locator_params(axis="y", nbins=4)
    return upper, lower


def _new_panels(n_labels: int, size: Size) -> tuple[list[Any], list[Any]]:
    figure = new_figure(size, 1.0)
    n_columns = min(n_labels, _COLUMNS[size])
    n_rows = -(-n_labels // n_columns)
    figure.set_figheight(0.3 + 1.35 * WIDTHS[size] / max(n_columns, 2) * n_rows)
    grid = figure.add_gridspec(2 * n_rows, n_columns, height_ratios=[3, 1.2] * n_rows)
    places = [divmod(k, n_columns) for k in range(n_labels)]
    upper = [figure.add_subplot(grid[2 * row, column]) for row, column in places]
    lower = [
        figure.add_subplot(grid[2 * row + 1, column], sharex=axes)
        for axes, (row, column) in zip(upper, places, strict=True)
    ]
    return upper, lower


def _draw_label(
    panels: tuple[Any, Any],
    truth: np.ndarray,
    inferred: np.ndarray,
    error: np.ndarray | None,
    outside: np.ndarray,
    kwds: tuple[dict[str, Any], dict[str, Any]],
) -> tuple[float, float, dict[str, int]]:
    """One label in both of its panels; returns bias, robust scatter, and numbers of stars by what they are."""
    axes, residual_axes = panels
    pair = inferred[:, None], truth[:, None]
    shift, scatter = float(bias(*pair)[0]), float(robust_scatter(*pair)[0])
    limits, residual_limits = _shared_limits(truth, inferred), _residual_limits(shift, scatter)
    _points(axes, truth, inferred, error, limits, outside, kwds)
    axes.plot(limits, limits, color=REFERENCE, lw=0.9, zorder=3)
    axes.set(xlim=limits, ylim=limits)
    _points(residual_axes, truth, inferred - truth, error, residual_limits, outside, kwds)
    residual_axes.axhline(0, color=REFERENCE, lw=0.9, zorder=3)
    residual_axes.set(xlim=limits, ylim=residual_limits, xlabel="Reference")
    counts = {"stars": len(inferred), "extrapolated": outside.sum(), "without result": (~np.isfinite(inferred)).sum()}
    return shift, scatter, {what: int(count) for what, count in counts.items() if count or what == "stars"}


def _shared_limits(truth: np.ndarray, inferred: np.ndarray) -> tuple[float, float]:
    """Limits of both axes: all reference labels and the middle 99 % of the inferred ones."""
    known, found = truth[np.isfinite(truth)], inferred[np.isfinite(inferred)]
    ends = [
        *(np.percentile(found, [0.5, 99.5]) if found.size else ()),
        *((known.min(), known.max()) if known.size else ()),
    ]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    margin = _MARGIN * (high - low) or 1.0
    return float(low - margin), float(high + margin)


def _residual_limits(shift: float, scatter: float) -> tuple[float, float]:
    """Limits about zero that include five times the robust scatter."""
    half = _RESIDUAL_RANGE * scatter + abs(shift)
    half = half if np.isfinite(half) and half > 0 else 1.0
    return -half, half


def _points(
    axes: Any,
    x: np.ndarray,
    y: np.ndarray,
    error: np.ndarray | None,
    limits: tuple[float, float],
    extrapolated: np.ndarray,
    kwds: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    """Points with error bars; extrapolated ones as circles, those beyond the limits as triangles at the edge."""
    low, high = limits
    inside = (y >= low) & (y <= high)
    many = len(y) > 1000
    style = {
        "ls": "",
        "marker": ".",
        "ms": 3 if many else 4.5,
        "mew": 0,
        "alpha": 0.5 if many else 0.7,
        "color": COLOURS[0],
    }
    style["rasterized"] = len(y) > 3000
    if error is not None:
        bars = {"color": COLOURS[0], "lw": 0.5, "alpha": 0.25 if many else 0.5} | kwds[1]
        barred = inside & np.isfinite(error)
        axes.vlines(x[barred], (y - error)[barred], (y + error)[barred], **bars)
    usual = inside & ~extrapolated
    axes.plot(x[usual], y[usual], **style | kwds[0])
    if (inside & extrapolated).any():
        circles = {"marker": "o", "ms": 3 if many else 4, "mfc": "none", "mew": 0.6, "alpha": 1.0, "color": COLOURS[1]}
        axes.plot(x[inside & extrapolated], y[inside & extrapolated], **style | circles)
    edge = 0.02 * (high - low)
    for outside, place, marker in ((y > high, high - edge, "^"), (y < low, low + edge, "v")):
        axes.plot(x[outside], np.full(outside.sum(), place), ls="", marker=marker, ms=4, mew=0, color=COLOURS[1])


def _write_statistics(axes: Any, shift: float, scatter: float, counts: Mapping[str, int], unit: str) -> None:
    after = f" {unit}" if unit else ""
    lines = [f"bias {_number(shift, '+')}{after}", f"scatter {_number(scatter)}{after}"]
    lines += [f"{count} {what}" for what, count in counts.items()]
    box = {"facecolor": "white", "alpha": 0.7, "lw": 0, "pad": 1.5}
    axes.text(0.04, 0.96, "\n".join(lines), transform=axes.transAxes, va="top", fontsize="x-small", zorder=4, bbox=box)


def _number(value: float, sign: str = "") -> str:
    """Two or three digits without an exponent in the usual range."""
    if not np.isfinite(value):
        return str(value)
    decimals = max(0, 1 - int(np.floor(np.log10(abs(value))))) if value else 0
    return f"{value:{sign}.{min(decimals, 6)}f}".replace("-", "\N{MINUS SIGN}")
