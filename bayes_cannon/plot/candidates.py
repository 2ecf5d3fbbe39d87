"""Figure of the choice between kinds of scatter, or sets of terms."""

from typing import Any

import numpy as np

from bayes_cannon.core.arguments import check_kind
from bayes_cannon.plot._matplotlib import COLOURS, REFERENCE, new_figure
from bayes_cannon.scatter.held_out_path import HeldOutPath


def scatter_path(path: Any) -> Any:
    """Gain in log likelihood per held-out spectrum over the first candidate, with its standard error.

    The best candidate is filled; one that may not be chosen, because its degrees of freedom ended at their bound, is
    a cross.

    Parameters
    ----------
    path
        What `CannonModel.scatter_path` or `CannonModel.order_path` returns.

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
    figure = new_figure(4.8 + 0.08 * max(map(len, names)), 1.4 + 0.32 * len(table))
    axes = figure.subplots()
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
    return figure
