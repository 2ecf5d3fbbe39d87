"""Helpers of the figures. Matplotlib is an extra: it is imported when the first figure is made; pyplot never is.

Where the user has imported pyplot, it knows each figure, so that ``plt.show()`` shows it and ``plt.close()`` ends it.
No rcParams are changed. The colours can be distinguished by colour-blind readers.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from io import BytesIO, StringIO
from typing import Any

import numpy as np

from bayes_cannon.core.arguments import listed, mapping, number, shown, texts
from bayes_cannon.core.field_names import field_name, unit_of_label
from bayes_cannon.core.intake import real_numbers

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Colours of lines, in the order of use: those of Okabe & Ito, which colour-blind readers can tell apart."""

STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
"""Styles of lines, in the order of use, by which they differ in print and for those who see no colours."""

_ANGSTROM = ("å", "angstrom", "angstroms", "aa")

REFERENCE = "#8a8a8a"
"""Colour of lines that guide the eye."""

_GAP_IN_STEPS = 3.0
_SHORTEST_RUN = 3
"""Pixels that an order has at least on average; what turns back more often is no list of orders."""


def new_figure(width: float, height: float) -> Any:
    """An empty figure of this size in inches, which notebooks display, and pyplot where it has been imported.

    Raises
    ------
    ImportError
        If Matplotlib is not installed.

    """
    kind, pyplot = _figure_class(), sys.modules.get("matplotlib.pyplot")
    if pyplot is None:
        return kind(figsize=(width, height), layout="constrained")
    return pyplot.figure(FigureClass=kind, figsize=(width, height), layout="constrained")


@cache
def _figure_class() -> type:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("figures need Matplotlib: install bayes-cannon[plots]") from None

    class NotebookFigure(Figure):
        """A figure that a notebook displays without pyplot."""

        def _repr_png_(self) -> bytes:
            buffer = BytesIO()
            self.savefig(buffer, format="png", dpi=110)
            return buffer.getvalue()

    return NotebookFigure


def svg(figure: Any, salt: str) -> str:
    """A figure as SVG to put into a page: on no ground, its text as text, and names of its parts that begin alike.

    The same figure and salt give the same text; different salts keep the names in one page apart.
    """
    import matplotlib as mpl

    buffer = StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", transparent=True, dpi=150, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def pixel_axis(dispersion: np.ndarray | None, n_pixels: int, unit: object = None) -> tuple[np.ndarray, str]:
    """Position of each pixel along the horizontal axis, shape (pixel,), and the title of that axis.

    The unit of the wavelengths is stated where it is known.
    """
    if dispersion is None:
        return np.arange(n_pixels, dtype=float), "Pixel"
    x = real_numbers(dispersion, "dispersion")
    if x.shape != (n_pixels,):
        raise ValueError(f"dispersion must have shape ({n_pixels},), one value a pixel, got {x.shape}")
    known = "Å" if str(unit).lower() in _ANGSTROM else str(unit or "")
    return x, f"Wavelength ({known})" if known else "Wavelength"


def unit_of(trainings: Mapping[str, Any], dispersion: np.ndarray | None) -> str | None:
    """Unit of the models' wavelengths; None where it is not known, as of wavelengths that are given to the figure."""
    return None if dispersion is not None else first_with(trainings, "dispersion_unit")


def limit_pixels(axes: Any, x: np.ndarray, xlim: Sequence[float | None] | None = None) -> None:
    """Limits of the horizontal axis: those asked for, or all pixels."""
    if xlim is not None:
        axes.set_xlim(*ends_of(xlim))
    elif x.size and x.min() < x.max():
        axes.set_xlim(x.min(), x.max())


def own_words(kwds: Mapping[str, Any] | None, aliases: Mapping[str, str]) -> dict[str, Any]:
    """Keywords of a line by their short names, so that those of the user take the place of the figure's own.

    ``aliases`` are names that another function of Matplotlib has for them; an empty text leaves a keyword out.
    """
    short = {"c": "color", "linewidth": "lw", "linestyle": "ls", "markersize": "ms", "markeredgewidth": "mew"} | dict(
        aliases
    )
    given = mapping(kwds, "the keywords of a line", "names to values, as Matplotlib has them")
    named = ((short.get(name, name), value) for name, value in given.items())
    return {name: value for name, value in named if name}


def with_gaps(x: np.ndarray, *curves: np.ndarray) -> tuple[np.ndarray, ...]:
    """Positions and curves over them, shape (pixel,), with a NaN in each gap so that no line crosses it.

    A gap is a step of more than three times the median step, or one that turns back, as from an order of an echelle
    spectrograph to the next. Pixels without any such order are drawn by wavelength.
    """
    after = _breaks(x)
    if len(x) < _SHORTEST_RUN * (len(after) + 1) and len(after):
        order = np.argsort(x, kind="stable")
        x, curves = x[order], tuple(np.asarray(y)[order] for y in curves)
        after = _breaks(x)
    middle = (x[after] + x[after - 1]) / 2
    return np.insert(x, after, middle), *(np.insert(np.asarray(y, dtype=float), after, np.nan) for y in curves)


def _breaks(x: np.ndarray) -> np.ndarray:
    """Pixels before which the line is broken."""
    steps = np.diff(x)
    moving = np.flatnonzero(steps)
    if not moving.size:
        return np.array([], dtype=int)
    size, direction = np.abs(steps[moving]), np.sign(steps[moving])
    leaps = size > _GAP_IN_STEPS * np.median(size)
    return moving[leaps | (direction != (np.sign(direction.sum()) or 1.0))] + 1


def check_model(model: Any) -> None:
    """Raise unless this is a model, and it is trained."""
    if not hasattr(model, "vectorizer"):
        raise TypeError(f"model must be a CannonModel, got {shown(model)}")
    if getattr(model, "theta", None) is None:
        raise ValueError("the model is not trained: call train() first")


def label_title(name: str, unit: str = "", latex: str | None = None) -> str:
    """Name of a label as the field writes it, with its unit; LaTeX without dollar signs takes the name's place.

    Names and usual units are those of `bayes_cannon.core.field_names`.
    """
    unit = unit_of_label(name, unit)
    return f"{label_symbol(name, latex)} ({unit})" if unit else label_symbol(name, latex)


def label_symbol(name: str, latex: str | None = None) -> str:
    """Name of a label as the field writes it, or in the LaTeX that is given."""
    if latex is None:
        latex = field_name(name).latex if field_name(name).text != name else None
    return name if latex is None else f"${latex.strip('$')}$"


def latex_names(latex_label_names: Sequence[str] | None, label_names: Sequence[str]) -> list[str] | None:
    """The LaTeX names, one a label, or None."""
    if latex_label_names is None:
        return None
    names = list(texts(latex_label_names, "latex_label_names"))
    if len(names) != len(label_names):
        raise ValueError(
            f"latex_label_names must have one name for each of {', '.join(label_names)}; got {len(names)}: {names}"
        )
    return [name.strip("$") for name in names]


def by_name(trainings: Any, is_array: Callable[[Any], bool]) -> dict[str, Any]:
    """One or several trainings by the name that the legend shows; a single one has the name ""."""
    named = dict(trainings) if isinstance(trainings, Mapping) else {"": trainings}
    if not named:
        raise ValueError("there is nothing to plot: the mapping of names to models is empty")
    for name, training in named.items():
        if not is_array(training) and getattr(training, "theta", None) is None:
            what = f"the model {name!r}" if name else "the model"
            if not hasattr(training, "theta"):
                raise TypeError(f"{what} must be a CannonModel, an array, or a mapping of these, got {shown(training)}")
            raise ValueError(f"{what} is not trained: call train() first")
    return {str(name): training for name, training in named.items()}


def first_with(trainings: Mapping[str, Any], attribute: str) -> Any:
    """The attribute of the first training that has one that is not None, otherwise None."""
    found = (getattr(training, attribute, None) for training in trainings.values())
    return next((value for value in found if value is not None), None)


def visible(x: np.ndarray, xlim: Sequence[float | None] | None) -> np.ndarray:
    """Whether each position lies within the limits, an open end being None, shape (pixel,)."""
    low, high = (None, None) if xlim is None else sorted_limits(xlim)
    return (x >= (-np.inf if low is None else low)) & (x <= (np.inf if high is None else high))


def ends_of(limits: Any) -> tuple[float | None, float | None]:
    """Both limits of an axis; ValueError for what is no pair of numbers or None."""
    ends = listed(limits)
    if ends is None or len(ends) != 2 or not all(end is None or np.isfinite(number(end)) for end in ends):
        raise ValueError(f"xlim must be a pair (start, end), with None for an open end, got {shown(limits)}")
    return ends[0], ends[1]


def sorted_limits(limits: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Lower and upper limit in this order; an axis may run backwards."""
    low, high = ends_of(limits)
    return (high, low) if low is not None and high is not None and low > high else (low, high)
