"""Figures of how honest the errors of labels are: pulls, coverage in label space, and where errors come from."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri

from bayes_cannon.core.arguments import texts
from bayes_cannon.core.field_names import field_name, label_text
from bayes_cannon.core.intake import real_numbers
from bayes_cannon.core.typing import StarLabel
from bayes_cannon.coverage import local_coverage
from bayes_cannon.plot._matplotlib import COLOURS, REFERENCE, Size, fit_text, given_panels, new_figure, one_panel

_COLUMNS = {"column": 2, "page": 3}
_FAR = 5.0
"""Pulls beyond it are counted in the last bin."""
FEWEST = 8
"""Stars of a cell whose coverage is shown, at least."""
_MOST_CELLS = 40
_UNLIKELY = 0.01
_ROOM = (0.1, 0.06)
"""Sides over those of the panel of a cell that a number fits into."""


def pulls(pull: StarLabel, label_names: Sequence[str], *, axes: Any = None, size: Size = "page") -> Any:
    """Distribution of the pulls of each label, with the normal distribution of honest errors.

    Parameters
    ----------
    pull
        Inferred minus reference label over the error, shape (star, label), as `bayes_cannon.validate.pulls` gives
        them. NaN is left out, and what is beyond five is counted in the outermost bins.
    label_names
        Names of the labels.
    axes
        Matplotlib axes to draw into, one a label, by default those of a new figure.
    size
        Width of a new figure: ``"column"`` or ``"page"`` of a journal, 3.5 or 7.1 inches.

    Returns
    -------
    figure
        A ``matplotlib.figure.Figure`` with a panel a label.

    Raises
    ------
    ImportError
        If Matplotlib is not installed.
    ValueError
        If the shapes do not fit.

    Examples
    --------
    >>> fit = model.fit_labels(model.training_set_flux, model.training_set_ivar)
    >>> pull = tc.validate.pulls(fit.labels, model.training_set_labels, fit.covariance)
    >>> figure = tc.plot.pulls(pull, model.label_names)

    """
    names, pull = texts(label_names, "label_names"), real_numbers(pull, "pull")
    if pull.ndim != 2 or pull.shape[1] != len(names):
        raise ValueError(f"pull must have shape (star, {len(names)}) for {', '.join(names)}, got {pull.shape}")
    panels = _panels(len(names), axes, size, 2.0)
    edges = np.linspace(-_FAR, _FAR, 41)
    fine = np.linspace(-_FAR, _FAR, 201)
    for panel, name, column in zip(panels, names, pull.T, strict=True):
        known = column[np.isfinite(column)]
        counts, _ = np.histogram(np.clip(known, -_FAR, _FAR), edges)
        panel.stairs(counts, edges, fill=True, color=COLOURS[0], alpha=0.55, lw=0)
        expected = len(known) * (edges[1] - edges[0]) * np.exp(-(fine**2) / 2) / np.sqrt(2 * np.pi)
        panel.plot(fine, expected, color=COLOURS[1], lw=1.4)
        panel.set(xlim=(-_FAR, _FAR), xticks=[-4, -2, 0, 2, 4], xlabel=f"Pull of {field_name(name).text}")
    panels[0].set_ylabel("Stars")
    return fit_text(panels[0].figure)


def coverage(
    pull: StarLabel, position: np.ndarray, label_names: Sequence[str], position_names: Sequence[str],
    *, level: float = 0.68, width: np.ndarray | float | None = None, axes: Any = None,
    size: Size = "page",
) -> Any:  # fmt: skip
    """Share of the stars whose interval holds the reference label, in cells of label space, a panel a label.

    The cells are those of `bayes_cannon.validate.local_coverage`, of about as many stars each, eight at least, drawn as
    far as their stars reach; the numbers are per cent. White is as it should be: orange holds too few stars (errors too
    small), blue too many. A dot marks what chance makes of honest errors in less than one of a hundred cells.

    Parameters
    ----------
    pull
        Inferred minus reference label over the error, shape (star, label).
    position
        Two labels or other properties of the stars, shape (star, 2).
    label_names, position_names
        Names of the labels and of the two properties.
    level
        Probability that the intervals are to hold.
    width
        Half of the width of the intervals over the error, a number or shape (star, 1); by default that of a normal
        distribution.
    axes
        Matplotlib axes to draw into, one a label, by default those of a new figure.
    size
        Width of a new figure: ``"column"`` or ``"page"`` of a journal, 3.5 or 7.1 inches.

    Returns
    -------
    figure
        A ``matplotlib.figure.Figure`` with a panel a label.

    Raises
    ------
    ImportError
        If Matplotlib is not installed.
    ValueError
        If the shapes do not fit.

    Examples
    --------
    >>> fit = model.fit_labels(model.training_set_flux, model.training_set_ivar)
    >>> pull = tc.validate.pulls(fit.labels, model.training_set_labels, fit.covariance)
    >>> first_two = model.training_set_labels[:, :2]
    >>> figure = tc.plot.coverage(pull, first_two, model.label_names, model.label_names[:2])

    """
    names, pull = texts(label_names, "label_names"), real_numbers(pull, "pull")
    position = real_numbers(position, "position")
    if pull.ndim != 2 or pull.shape[1] != len(names) or position.shape != (len(pull), 2):
        raise ValueError(
            f"pull must have shape (star, {len(names)}) and position (star, 2), got {pull.shape} and {position.shape}"
        )
    half = ndtri((1 + level) / 2) if width is None else np.broadcast_to(width, pull.shape)
    inside = np.where(np.isfinite(pull), np.abs(pull) <= half, np.nan)
    panels = _panels(len(names), axes, size, 2.4)
    image = None
    for panel, name, column in zip(panels, names, inside.T, strict=True):
        image = _draw_map(panel, column, position, level)
        panel.set_title(field_name(name).text, fontsize="medium")
        panel.set_xlabel(label_text(position_names[0]))
        panel.locator_params(axis="x", nbins=3)
        if field_name(position_names[0]).text == "Teff":  # As in a Kiel diagram: hot stars left, giants above.
            panel.invert_xaxis()
        if field_name(position_names[1]).text == "log g":
            panel.invert_yaxis()
    panels[0].set_ylabel(label_text(position_names[1]))
    figure = panels[0].figure
    figure.colorbar(image, ax=panels, label=f"Coverage of {100 * level:.0f} % intervals", fraction=0.04)
    return fit_text(figure)


def _draw_map(axes: Any, inside: np.ndarray, position: np.ndarray, level: float) -> Any:
    from matplotlib.collections import PatchCollection
    from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm
    from matplotlib.patches import Rectangle

    known = np.isfinite(inside) & np.isfinite(position).all(axis=1)
    colours = LinearSegmentedColormap.from_list("coverage", [COLOURS[1], "#ffffff", COLOURS[0]])
    norm = TwoSlopeNorm(level, vmin=max(0.0, level - 0.4), vmax=1.0)
    patches, shares = [], np.zeros(0)
    if known.sum() >= FEWEST:
        size = max(FEWEST, int(known.sum()) // _MOST_CELLS)
        cells = local_coverage(position[known], inside[known] > 0, level, size=size)
        shares = cells.covered[:, 0]
        extent, span = cells.high - cells.low, np.ptp(position[known], axis=0)
        patches = [Rectangle(low, *sides) for low, sides in zip(cells.low, extent, strict=True)]
        unlikely = 2 * ndtr(-np.abs(cells.deviation[:, 0])) < _UNLIKELY
        roomy = (extent > np.multiply(_ROOM, span)).all(axis=1)
        for low, sides, share, mark, room in zip(cells.low, extent, shares, unlikely, roomy, strict=True):
            text = (f"{100 * share:.0f}" if room else "") + ("\N{BULLET}" if mark else "")
            axes.text(*(low + sides / 2), text, ha="center", va="center", fontsize="xx-small", color="black")
    image = PatchCollection(patches, cmap=colours, norm=norm, edgecolors="#888888", lw=0.4)
    image.set_array(shares)
    axes.add_collection(image)
    axes.autoscale_view()
    return image


def error_sources(
    errors: Mapping[str, StarLabel], label_names: Sequence[str], *, ax: Any = None, size: Size = "page"
) -> Any:
    """Share of each source in the variance of each label, of all stars together.

    Parameters
    ----------
    errors
        Signed errors by the name of their source, shape (star, label) each, as `ErrorBudget.errors` gives them.
    label_names
        Names of the labels.
    ax
        Matplotlib axes to draw into, by default those of a new figure.
    size
        Width of a new figure: ``"column"`` or ``"page"`` of a journal, 3.5 or 7.1 inches.

    Returns
    -------
    figure
        A ``matplotlib.figure.Figure``. A source that takes variance away, as a calibration may, goes to the left.

    Raises
    ------
    ImportError
        If Matplotlib is not installed.
    ValueError
        If there is no source.

    Examples
    --------
    >>> budget = model.error_budget(model.training_set_flux[:5], model.training_set_ivar[:5])
    >>> figure = tc.plot.error_sources(budget.errors(), model.label_names)

    """
    names = texts(label_names, "label_names")
    if not errors:
        raise ValueError("there is no source of errors: give ErrorBudget.errors()")
    variance = {
        name: np.nanmedian(np.sign(one) * np.asarray(one) ** 2, axis=0) for name, one in errors.items()
    }  # fmt: skip
    total = np.sum(list(variance.values()), axis=0)
    axes = one_panel(ax, size, 1.1 + 0.4 * len(names))
    ahead, behind = np.zeros(len(names)), np.zeros(len(names))
    hatches = ("", "//", "", "..", "", "xx")
    for number, (name, part) in enumerate(variance.items()):
        share = 100 * part / total
        start = np.where(share >= 0, ahead, behind)
        axes.barh(
            np.arange(len(names)), share, left=start, height=0.66, color=COLOURS[number % len(COLOURS)], label=name,
            hatch=hatches[number % len(hatches)], edgecolor="white", lw=0.5,
        )  # fmt: skip
        ahead, behind = ahead + np.maximum(share, 0), behind + np.minimum(share, 0)
    axes.set_yticks(range(len(names)), [field_name(name).text for name in names])
    axes.invert_yaxis()
    axes.axvline(0, color=REFERENCE, lw=0.8)
    axes.set_xlabel("% of the variance, median star")
    if ax is None:
        columns = {"column": 2, "page": 3}[size]
        axes.figure.legend(loc="outside upper center", ncols=columns, frameon=False, fontsize="small")
    else:
        axes.legend(frameon=False, fontsize="small")
    return fit_text(axes.figure)


def _panels(n_panels: int, axes: Any, size: Size, height: float) -> list[Any]:
    """So many panels: those that are given, or of a new figure, some side by side."""
    given = given_panels(axes, n_panels, "one a label")
    if given is not None:
        return given
    figure = new_figure(size, height)
    n_columns = min(n_panels, _COLUMNS[size])
    n_rows = -(-n_panels // n_columns)
    figure.set_figheight(height * n_rows)
    panels = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for unused in panels[n_panels:]:
        unused.remove()
    return list(panels[:n_panels])
