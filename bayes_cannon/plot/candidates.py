"""Figure of the choice between kinds of scatter."""

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from bayes_cannon.core.arguments import check_kind
from bayes_cannon.plot._matplotlib import COLOURS, REFERENCE, new_figure
from bayes_cannon.scatter.base import Scatter
from bayes_cannon.scatter.selection import ScatterPath


def scatter_path(path: Any) -> Any:
    """Gain in log likelihood per held-out spectrum over independent scatter, with its standard error.

    The best candidate is filled; one that may not be chosen, because its degrees of freedom ended at their bound, is
    a cross.

    Parameters
    ----------
    path
        A `scatter.selection.ScatterPath`, as `CannonModel.scatter_path` returns it.

    Returns
    -------
    figure
        A ``matplotlib.figure.Figure``.

    Raises
    ------
    ImportError
        If Matplotlib is not installed.

    """
    check_kind(path, ScatterPath, "path", "what CannonModel.scatter_path returns")
    table, best = path.table, path.candidates.index(path.best)
    names = [_name(candidate) for candidate in path.candidates]
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


def _name(candidate: Scatter | None) -> str:
    """The kind of scatter and whatever differs from its defaults, such as ``LowRank, rank 5, heavy tails``."""
    if candidate is None:
        return "independent"
    words = [type(candidate).__name__]
    described: tuple[Any, ...] = fields(candidate) if is_dataclass(candidate) else ()
    for one in described:
        value, name = getattr(candidate, one.name), one.name.replace("_", " ")
        if value is True:
            words.append(name)
        elif isinstance(value, int | float | str) and (one.name == "rank" or value != one.default):
            words.append(f"{name} {value}")
    return ", ".join(words)
