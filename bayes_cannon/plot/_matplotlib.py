"""Helpers of the figures. Matplotlib is an extra: it is imported when the first figure is made; pyplot never is.

Figures are made without pyplot's global state, and no rcParams are changed. The colours can be distinguished by
colour-blind readers.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np

COLOURS = ("#2b5c8a", "#d1662a", "#3d8f6f", "#8c5aa8", "#b8a12d", "#7a7a7a")
"""Colours of lines, in the order of use."""

REFERENCE = "#8a8a8a"
"""Colour of lines that guide the eye."""

_GAP_IN_STEPS = 3.0


def new_figure(width: float, height: float) -> Any:
    """An empty figure of this size in inches, which notebooks display.

    Raises
    ------
    ImportError
        If Matplotlib is not installed.

    """
    return _figure_class()(figsize=(width, height), layout="constrained")


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


def pixel_axis(dispersion: np.ndarray | None, n_pixels: int) -> tuple[np.ndarray, str]:
    """Position of each pixel along the horizontal axis, shape (pixel,), and the title of that axis."""
    if dispersion is None:
        return np.arange(n_pixels, dtype=float), "Pixel"
    x = np.asarray(dispersion, dtype=float)
    if x.shape != (n_pixels,):
        raise ValueError(f"dispersion must have shape ({n_pixels},), one value a pixel, got {x.shape}")
    return x, "Wavelength (Å)"


def with_gaps(x: np.ndarray, *curves: np.ndarray) -> tuple[np.ndarray, ...]:
    """Positions and curves over them, shape (pixel,), with a NaN in each gap so that no line crosses it.

    A gap is a step of more than three times the median step.
    """
    steps = np.abs(np.diff(x))
    after = np.flatnonzero(steps > _GAP_IN_STEPS * np.median(steps)) + 1 if steps.size else np.array([], dtype=int)
    middle = (x[after] + x[after - 1]) / 2
    return np.insert(x, after, middle), *(np.insert(np.asarray(y, dtype=float), after, np.nan) for y in curves)


def label_title(name: str, unit: str = "", latex: str | None = None) -> str:
    """Name of a label with its unit, such as ``TEFF (K)``; LaTeX without dollar signs takes the name's place."""
    shown = name if latex is None else f"${latex.strip('$')}$"
    return f"{shown} ({unit})" if unit else shown


def latex_names(latex_label_names: Sequence[str] | None, label_names: Sequence[str]) -> list[str] | None:
    """The LaTeX names, one a label, or None."""
    if latex_label_names is None:
        return None
    names = [str(name) for name in latex_label_names]
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


def sorted_limits(limits: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Lower and upper limit in this order; an axis may run backwards."""
    low, high = limits
    return (high, low) if low is not None and high is not None and low > high else (low, high)
