"""Figures of how honest the errors of labels are: pulls, coverage in label space, and where errors come from."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri

from bayes_cannon.core.arguments import texts
from bayes_cannon.core.field_names import label_text
from bayes_cannon.core.intake import real_numbers
from bayes_cannon.core.typing import StarLabel
from bayes_cannon.plot._matplotlib import COLOURS, REFERENCE, new_figure

_COLUMNS = 3
_FAR = 5.0
"""Pulls beyond it are counted in the last bin."""
FEWEST = 8
"""Stars of a bin whose coverage is shown."""
_BINS = 5


def pulls(pull: StarLabel, label_names: Sequence[str]) -> Any:
    """Distribution of the pulls of each label, with the normal distribution of honest errors.

    Parameters
    ----------
    pull
        Inferred minus reference label over the error, shape (star, label), as `bayes_cannon.validate.pulls` gives
        them. NaN is left out, and what is beyond five is counted in the outermost bins.
    label_names
        Names of the labels.

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
    figure, panels = _grid(len(names), 2.2)
    edges = np.linspace(-_FAR, _FAR, 41)
    fine = np.linspace(-_FAR, _FAR, 201)
    for axes, name, column in zip(panels, names, pull.T, strict=True):
        known = column[np.isfinite(column)]
        counts, _ = np.histogram(np.clip(known, -_FAR, _FAR), edges)
        axes.stairs(counts, edges, fill=True, color=COLOURS[0], alpha=0.55, lw=0)
        expected = len(known) * (edges[1] - edges[0]) * np.exp(-(fine**2) / 2) / np.sqrt(2 * np.pi)
        axes.plot(fine, expected, color=COLOURS[1], lw=1.4)
        axes.set(xlim=(-_FAR, _FAR), xlabel=f"pull of {label_text(name).split(' (')[0]}")
    panels[0].set_ylabel("stars")
    return figure


def coverage(
    pull: StarLabel, position: np.ndarray, label_names: Sequence[str], position_names: Sequence[str],
    *, level: float = 0.68, width: np.ndarray | float | None = None,
) -> Any:  # fmt: skip
    """Share of the stars whose interval holds the reference label, in bins of label space, a panel a label.

    Bins hold about as many stars each along both axes; of those with fewer than eight nothing is shown. White is as
    it should be: orange holds too few stars (errors too small), blue too many. A dot marks what chance makes of honest
    errors in less than one of a hundred bins.

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
    figure, panels = _grid(len(names), 2.6)
    edges = [_edges(column) for column in position.T]
    image = None
    for axes, name, column in zip(panels, names, inside.T, strict=True):
        image = _draw_map(axes, column, position, edges, level)
        axes.set_title(label_text(name).split(" (")[0], fontsize="medium")
        axes.set_xlabel(label_text(position_names[0]))
        axes.locator_params(axis="x", nbins=5)
    panels[0].set_ylabel(label_text(position_names[1]))
    figure.colorbar(image, ax=panels, label=f"coverage of {100 * level:.0f} % intervals", fraction=0.04)
    return figure


def _draw_map(
    axes: Any, inside: np.ndarray, position: np.ndarray, edges: Sequence[np.ndarray], level: float
) -> Any:  # fmt: skip
    from matplotlib.colors import LinearSegmentedColormap, TwoSlopeNorm

    known = np.isfinite(inside) & np.isfinite(position).all(axis=1)
    places, bins = (position[known, 0], position[known, 1]), list(edges)
    counts = np.histogram2d(*places, bins=bins)[0]
    held = np.histogram2d(*places, bins=bins, weights=inside[known])[0]
    share = np.where(counts >= FEWEST, held / np.maximum(counts, 1), np.nan)
    colours = LinearSegmentedColormap.from_list("coverage", [COLOURS[1], "#ffffff", COLOURS[0]])
    norm = TwoSlopeNorm(level, vmin=max(0.0, level - 0.4), vmax=1.0)
    image = axes.pcolormesh(*edges, share.T, cmap=colours, norm=norm, edgecolors="#8886", lw=0.4)
    error = np.sqrt(level * (1 - level) / np.maximum(counts, 1))
    unlikely = (2 * ndtr(-np.abs(share - level) / error) < 0.01) & np.isfinite(share)
    middles = [(one[1:] + one[:-1]) / 2 for one in edges]
    for i, j in np.argwhere(np.isfinite(share)):
        mark = "\N{BULLET}" if unlikely[i, j] else ""
        axes.text(
            middles[0][i], middles[1][j], f"{100 * share[i, j]:.0f}{mark}", ha="center", va="center", fontsize=7,
            color="black",
        )  # fmt: skip
    return image


def _edges(values: np.ndarray) -> np.ndarray:
    """Ends of bins with about as many stars each."""
    known = values[np.isfinite(values)]
    edges = np.unique(np.quantile(known, np.linspace(0, 1, _BINS + 1))) if known.size else np.zeros(1)
    return edges if len(edges) > 1 else edges[0] + np.array([-0.5, 0.5])


def error_sources(errors: Mapping[str, StarLabel], label_names: Sequence[str]) -> Any:
    """Share of each source in the variance of each label, of all stars together.

    Parameters
    ----------
    errors
        Signed errors by the name of their source, shape (star, label) each, as `ErrorBudget.errors` gives them.
    label_names
        Names of the labels.

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
    figure = new_figure(7.2, 1.0 + 0.42 * len(names))
    axes = figure.subplots()
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
    axes.set_yticks(range(len(names)), [label_text(name).split(" (")[0] for name in names])
    axes.invert_yaxis()
    axes.axvline(0, color=REFERENCE, lw=0.8)
    axes.set_xlabel("% of the variance, median star")
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize="small")
    return figure


def _grid(n_panels: int, height: float) -> tuple[Any, list[Any]]:
    """A figure with so many panels, up to three side by side."""
    n_columns = min(n_panels, _COLUMNS)
    n_rows = -(-n_panels // n_columns)
    figure = new_figure(max(3.4, 2.6 * n_columns), height * n_rows)
    panels = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for unused in panels[n_panels:]:
        unused.remove()
    return figure, list(panels[:n_panels])
