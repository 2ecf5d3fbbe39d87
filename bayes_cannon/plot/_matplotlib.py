"""Helpers of the figures. Matplotlib is an extra: it is imported when the first figure is made; pyplot never is.

Where the user has imported pyplot, it knows each figure, so that ``plt.show()`` shows it and ``plt.close()`` ends it.
No rcParams are changed. The colours can be distinguished by colour-blind readers.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from io import BytesIO, StringIO
from typing import Any, Literal

import numpy as np

from bayes_cannon.core.arguments import listed, mapping, number, shown, texts
from bayes_cannon.core.field_names import field_name, unit_of_label
from bayes_cannon.core.intake import real_numbers

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Colours of lines, in the order of use: those of Okabe & Ito, which colour-blind readers can tell apart."""

STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
"""Styles of lines, in the order of use, by which they differ in print and for those who see no colours."""

Size = Literal["column", "page"]

WIDTHS: dict[str, float] = {"column": 3.5, "page": 7.1}
"""Inches: one column of a page of a journal, and both."""

_TEXT = {"column": 0.8, "page": 1.0}
"""Size of the text over the usual one."""

_UNITS = {"å": "Å", "angstrom": "Å", "angstroms": "Å", "aa": "Å", "um": "µm", "micron": "µm"}

REFERENCE = "#8a8a8a"
"""Colour of lines that guide the eye."""

_GAP_IN_STEPS = 3.0
_CHIP_GAP_IN_STEPS = 10.0
_CHIP_GAP = 0.01
"""Of all wavelengths that are spanned: what two chips are apart at least."""
_SMALLEST_CHIP = 0.05
"""Of all pixels; what would leave fewer is not cut."""
_SHORTEST_RUN = 3
"""Pixels that an order has at least on average; what turns back more often is no list of orders."""


def new_figure(size: Size, height: float) -> Any:
    """An empty figure as wide as one column or a page and so many inches high.

    Notebooks display it, and pyplot where it has been imported.

    Raises
    ------
    ImportError
        If Matplotlib is not installed.
    ValueError
        For another size.

    """
    check_size(size)
    kind, pyplot = _figure_class(), sys.modules.get("matplotlib.pyplot")
    words = {"figsize": (WIDTHS[size], height), "layout": "constrained", "text_scale": _TEXT[size]}
    return kind(**words) if pyplot is None else pyplot.figure(FigureClass=kind, **words)


def check_size(size: Any) -> None:
    """Raise unless this is the name of a width."""
    if not isinstance(size, str) or size not in WIDTHS:
        raise ValueError(f"size must be one of {', '.join(map(repr, WIDTHS))}, got {shown(size)}")


def fit_text(figure: Any) -> Any:
    """The figure, if it is a new one with text that suits its width."""
    scale = getattr(figure, "text_scale", 1.0)
    if scale != 1.0:
        from matplotlib.text import Text

        for text in figure.findobj(Text):
            text.set_fontsize(scale * text.get_fontsize())
        for axes in figure.axes:  # Those of ticks that are yet to come.
            for axis in (axes.xaxis, axes.yaxis):
                labels = [*axis.get_ticklabels(), *axis.get_ticklabels(minor=True)]
                if labels:
                    axis.set_tick_params(which="both", labelsize=labels[0].get_fontsize())
        figure.text_scale = 1.0
    return figure


def one_panel(ax: Any, size: Size, height: float) -> Any:
    """The axes that are given, or those of a new figure."""
    given = given_panels(ax, 1, "a single one")
    return new_figure(size, height).subplots() if given is None else given[0]


def given_panels(axes: Any, n_panels: int, what: str) -> list[Any] | None:
    """Axes of the user's to draw into, or None where a new figure is wanted.

    Raises
    ------
    TypeError
        For what is no Matplotlib axes.
    ValueError
        If there are not as many as there are panels.

    """
    if axes is None:
        return None
    given = list(np.asarray(axes, dtype=object).ravel())
    for one in given:
        if not hasattr(one, "figure"):
            raise TypeError(f"ax and axes must be Matplotlib axes, got {shown(one)}")
    if len(given) != n_panels:
        raise ValueError(f"the figure has {n_panels} panels, {what}: give as many axes, not {len(given)}")
    return given


@cache
def _figure_class() -> type:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("figures need Matplotlib: install bayes-cannon[plots]") from None

    class NotebookFigure(Figure):
        """A figure that a notebook displays without pyplot, and that knows how large its text is to be."""

        def __init__(self, *args: Any, text_scale: float = 1.0, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.text_scale = text_scale

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


def pixel_axis(
    dispersion: np.ndarray | None, n_pixels: int, known: Mapping[str, Any] | None = None
) -> tuple[np.ndarray, str]:
    """Position of each pixel along the horizontal axis, shape (pixel,), and the title of that axis.

    ``known`` is what `known_of` gives: unit, medium and frame of the wavelengths are stated where they are known.
    """
    if dispersion is None:
        return np.arange(n_pixels, dtype=float), "Pixel"
    x = real_numbers(dispersion, "dispersion")
    if x.shape != (n_pixels,):
        raise ValueError(f"dispersion must have shape ({n_pixels},), one value a pixel, got {x.shape}")
    words = {name: str(value) for name, value in (known or {}).items() if value is not None}
    unit, medium = words.get("unit", ""), words.get("medium")
    title = "Rest wavelength" if words.get("frame") == "rest" else "Wavelength"
    title += f" in {medium}" if medium in ("vacuum", "air") else ""
    return x, f"{title} ({_UNITS.get(unit.lower(), unit)})" if unit else title


def known_of(trainings: Mapping[str, Any], dispersion: np.ndarray | None) -> dict[str, Any]:
    """What is known of the models' wavelengths: unit, and from their provenance medium and frame.

    Nothing is known of wavelengths that are given to the figure.
    """
    if dispersion is not None:
        return {}
    provenance = first_with(trainings, "provenance") or {}
    return {
        "unit": first_with(trainings, "dispersion_unit"), "medium": provenance.get("wavelength_medium"),
        "frame": provenance.get("wavelength_frame"),
    }  # fmt: skip


def chips(x: np.ndarray) -> list[np.ndarray]:
    """Pixels of each chip of a spectrograph, which wide gaps keep apart; all in one if there are none.

    A gap is wider than ten times the median step and than a hundredth of the range, and each chip has a twentieth of
    the pixels at least.
    """
    every, steps = np.arange(len(x)), np.diff(x)
    if len(x) < 2 or not ((steps > 0).all() or (steps < 0).all()):
        return [every]
    size = np.abs(steps)
    after = np.flatnonzero((size > _CHIP_GAP_IN_STEPS * np.median(size)) & (size > _CHIP_GAP * np.ptp(x))) + 1
    found = np.split(every, after)
    return found if min(map(len, found)) >= _SMALLEST_CHIP * len(x) else [every]


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
