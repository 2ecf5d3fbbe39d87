"""Label space before and after a training set was chosen."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bayes_cannon.core.field_names import field_name
from bayes_cannon.core.intake import as_array
from bayes_cannon.core.labels import all_label_names, label_array, label_units
from bayes_cannon.plot._matplotlib import (
    COLOURS,
    WIDTHS,
    Size,
    check_size,
    fit_text,
    given_panels,
    label_title,
    latex_names,
    new_figure,
)

_BINS = 48


def label_space(
    labels: Any,
    chosen: np.ndarray | None = None,
    label_names: Sequence[str] | None = None,
    *,
    latex_label_names: Sequence[str] | None = None,
    axes: Any = None,
    size: Size = "page",
) -> Any:
    """Every pair of labels in a panel: all stars in grey (darker is denser, logarithmic), chosen ones as points.

    The panels on the diagonal are histograms, each with an area of one. Temperature and gravity run as in a
    Kiel diagram.

    Parameters
    ----------
    labels
        Labels of all stars, in any container that `bayes_cannon.core.labels.label_array` takes. Units of an astropy
        Table are shown.
    chosen
        Row numbers of the chosen stars, as `bayes_cannon.training_set.balance` returns them, or a boolean mask of
        shape (star,). By default no star is marked.
    label_names
        Labels to show, by default all columns.
    latex_label_names
        Name of each label in LaTeX, without dollar signs.
    axes
        Matplotlib axes to draw into, row by row, those on and below the diagonal; by default those of a new figure.
    size
        Width of a new figure: ``"column"`` or ``"page"`` of a journal, 3.5 or 7.1 inches.

    Returns
    -------
    figure
        A ``matplotlib.figure.Figure``; its axes are the panels row by row, those on and below the diagonal.

    Raises
    ------
    ImportError
        If Matplotlib is not installed.
    ValueError
        For bad labels, and chosen rows that do not exist.

    Examples
    --------
    >>> labels = model.training_set_labels
    >>> chosen = tc.training_set.balance(labels, 50, seed=0)
    >>> figure = tc.plot.label_space(labels, chosen, label_names=model.label_names)

    """
    names = all_label_names(labels) if label_names is None else label_names
    values = label_array(labels, names)
    rows = _rows(chosen, len(values))
    units = label_units(labels, names)
    latex = latex_names(latex_label_names, names)
    titles = [label_title(name, units.get(name, ""), latex[k] if latex else None) for k, name in enumerate(names)]
    edges = [_edges(column) for column in values.T]
    places = [(row, column) for row in range(len(names)) for column in range(row + 1)]
    panels = given_panels(axes, len(places), "row by row, those on and below the diagonal")
    if panels is None:
        check_size(size)
        figure = new_figure(size, WIDTHS[size] * (1.0 if len(names) > 1 else 0.7))
        grid = figure.add_gridspec(len(names), len(names))
        panels = [figure.add_subplot(grid[place]) for place in places]
    for panel, (row, column) in zip(panels, places, strict=True):
        if column == row:
            _draw_histogram(panel, values[:, row], rows, edges[row])
        else:
            _draw_pair(panel, values[:, [column, row]], rows, edges[column], edges[row])
        _label_axes(panel, titles, row, column)
        if field_name(names[column]).text == "Teff":  # As in a Kiel diagram: hot stars left, giants above.
            panel.invert_xaxis()
        if column < row and field_name(names[row]).text == "log g":
            panel.invert_yaxis()
    if axes is None:
        handles = panels[0].get_legend_handles_labels()
        panels[0].figure.legend(*handles, loc="upper right", frameon=False)
    else:
        panels[0].legend(frameon=False, fontsize="small")
    return fit_text(panels[0].figure)


def _rows(chosen: np.ndarray | None, n_stars: int) -> np.ndarray:
    rows = as_array([] if chosen is None else chosen, "chosen")
    if rows.dtype == bool:
        if rows.shape != (n_stars,):
            raise ValueError(f"the mask chosen must have shape ({n_stars},), one value a star; got shape {rows.shape}")
        return np.flatnonzero(rows)
    if rows.size == 0:
        return np.empty(0, dtype=int)
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise ValueError(f"chosen must be row numbers or a boolean mask, got shape {rows.shape} of type {rows.dtype}")
    if rows.min() < 0 or rows.max() >= n_stars:
        wrong = rows[(rows < 0) | (rows >= n_stars)][0]
        raise ValueError(f"chosen must be row numbers from 0 to {n_stars - 1}, got {wrong}")
    return rows


def _edges(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    margin = 0.03 * (high - low) or max(abs(low), 1.0) * 1e-3
    return np.linspace(low - margin, high + margin, _BINS + 1)


def _draw_histogram(panel: Any, values: np.ndarray, rows: np.ndarray, edges: np.ndarray) -> None:
    panel.hist(values, edges, density=True, color="0.8", label=f"all {len(values)} stars")
    if rows.size:
        panel.hist(
            values[rows], edges, density=True, histtype="step", color=COLOURS[0], lw=1.3, label=f"{rows.size} chosen"
        )
    panel.set_xlim(edges[0], edges[-1])


def _draw_pair(panel: Any, pair: np.ndarray, rows: np.ndarray, x_edges: np.ndarray, y_edges: np.ndarray) -> None:
    counts, _, _ = np.histogram2d(pair[:, 0], pair[:, 1], bins=(x_edges, y_edges))
    shade = np.where(counts > 0, np.log1p(counts), np.nan).T
    panel.pcolormesh(x_edges, y_edges, shade, cmap="Greys", vmin=-1.0, vmax=1.6 * np.nanmax(shade), rasterized=True)
    panel.plot(*pair[rows].T, "o", color=COLOURS[0], ms=3.5, mec="white", mew=0.5, rasterized=len(rows) > 3000)


def _label_axes(panel: Any, titles: Sequence[str], row: int, column: int) -> None:
    last = row == len(titles) - 1
    panel.set_xlabel(titles[column] if last else "")
    panel.tick_params(labelbottom=last, labelleft=column == 0 and row > 0, labelsize="small")
    panel.tick_params(axis="x", labelrotation=45)
    if row == column:
        panel.set_yticks([])
    if column == 0 and row > 0:
        panel.set_ylabel(titles[row])
