"""Figure of the choice between kinds of scatter, or sets of terms."""

from typing import Any

import numpy as np

from bayes_cannon.core.arguments import check_kind
from bayes_cannon.plot._matplotlib import COLOURS, REFERENCE, Size, fit_text, one_panel
from bayes_cannon.scatter.held_out_path import HeldOutPath


def scatter_path(path: Any, *, ax: Any = None, size: Size = "page") -> Any:
    """Gain in log likelihood per held-out spectrum over the first candidate, with its standard error.

    The best candidate is filled; one that may not be chosen, because its degrees of freedom ended at their bound, is
    a cross.

    Parameters
    ----------
    path
        What `CannonModel.scatter_path` or `CannonModel.order_path` returns.
    ax
        Matplotlib axes to draw into, by default those of a new figure.
    size
        Width of a new figure: ``"column"`` or ``"page"`` of a journal, 3.5 or 7.1 inches.

    Returns
    -------
    figure
        A ``matplotlib.figure.Figure``.

    Raises
    ------
    ImportError
        If Matplotlib is not installed.

    """
    check_kind(path, HeldOutPath, "path", "what CannonModel.scatter_path or order_path returns")
    table, best, names = path.table, path.best_index, path.names
    axes = one_panel(ax, size, 1.2 + 0.3 * len(table))
    places = np.arange(len(table))
    axes.axvline(0, color=REFERENCE, linewidth=0.6)
    gain, error, valid = (np.asarray(table[name]) for name in ("gain", "gain_error", "valid"))
    for place in places:
        marker = "o" if valid[place] else "x"
        fill = COLOURS[1] if place == best or not valid[place] else "white"
        axes.errorbar(
            gain[place], place, xerr=error[place], fmt=marker, color=COLOURS[1], markerfacecolor=fill, capsize=2
        )  # fmt: skip
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlabel("Gain in ln likelihood\nof a held-out spectrum")
    return fit_text(axes.figure)
