"""Figures of the trained coefficients and of the scatter at every pixel."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bayes_cannon.core.arguments import texts, whole_numbers
from bayes_cannon.core.field_names import term_text
from bayes_cannon.core.intake import real_numbers
from bayes_cannon.core.terms import Terms
from bayes_cannon.plot._matplotlib import (
    COLOURS,
    REFERENCE,
    STYLES,
    Size,
    by_name,
    first_with,
    fit_text,
    given_panels,
    known_of,
    latex_names,
    limit_pixels,
    new_figure,
    one_panel,
    own_words,
    pixel_axis,
    visible,
    with_gaps,
)
from bayes_cannon.scatter.common_covariance import CommonCovariance
from bayes_cannon.training.problem import PixelProblem

_MOST_ROWS = 12
_TALLEST = 8.5
"""Inches of all rows together: the page of a journal."""


def theta(
    model: Any,
    indices: Sequence[int] | int | None = None,
    label_terms: Sequence[str] | None = None,
    show_label_terms: bool = True,
    normalize: bool = True,
    common_axis: bool = False,
    latex_label_names: Sequence[str] | None = None,
    xlim: Sequence[float | None] | None = None,
    *,
    dispersion: np.ndarray | None = None,
    plot_kwds: Mapping[str, Any] | None = None,
    axes: Any = None,
    size: Size = "page",
) -> Any:
    """Coefficients theta at every pixel, one panel per term.

    Several trainings are drawn over each other, so that a regularization or another optimizer can be compared.

    Parameters
    ----------
    model
        A trained model, an array theta of shape (pixel, term), or a mapping from names, for the legend, to these.
        Wavelengths and terms, which arrays lack, are taken from the first model in the mapping.
    indices
        Terms to show, by index, the constant being 0. By default all, or none if ``label_terms`` is given.
    label_terms
        Terms to show as well, as text such as ``"TEFF"`` or ``"TEFF*LOGG"``.
    show_label_terms
        Whether the term is written to the right of its panel.
    normalize
        Whether theta_d, d > 0, is divided by its largest absolute value, over the pixels shown and all trainings.
    common_axis
        Draw all terms into one panel, each in a colour of its own that the legend names; of a single training only.
    latex_label_names
        Name of each label in LaTeX, without dollar signs.
    xlim
        Limits of the horizontal axis, in its unit; an open end is None.
    dispersion
        Wavelength of each pixel, shape (pixel,), in any unit and order, by default the model's.
    plot_kwds
        For every line, as in ``matplotlib.axes.Axes.plot``.
    axes
        Matplotlib axes to draw into, one a term, or a single one for a common axis; by default those of a new figure.
    size
        Width of a new figure: ``"column"`` or ``"page"`` of a journal, 3.5 or 7.1 inches.

    Returns
    -------
    figure
        A ``matplotlib.figure.Figure``; its first axes are the panels from top to bottom.

    Raises
    ------
    ImportError
        If Matplotlib is not installed.
    ValueError
        If a model is not trained, trainings differ in shape, a term is not known, or several trainings are to share
        one panel.

    Examples
    --------
    >>> figure = tc.plot.theta(model, label_terms=["TEFF", "FE_H"])

    """
    trainings = by_name(model, _is_array)
    thetas = _thetas(trainings)
    n_pixels, n_terms = next(iter(thetas.values())).shape
    x, x_title = _pixel_axis(trainings, dispersion, n_pixels)
    vectorizer = first_with(trainings, "vectorizer")
    shown = _chosen_terms(indices, label_terms, n_terms, vectorizer)
    names = _term_names(shown, vectorizer, latex_label_names) if show_label_terms else [""] * len(shown)
    if common_axis:
        panels = lowest = [one_panel(axes, size, 3.4)]
        _all_terms(panels[0], x, thetas, shown, names, normalize, xlim, plot_kwds)
    else:
        panels, lowest = _panels(len(shown), axes, size)
        for panel, term, name in zip(panels, shown, names, strict=True):
            normalized = normalize and term > 0
            curves = {training: values[:, term] for training, values in thetas.items()}
            values, factor = _shown_values(curves, x, xlim, normalized)
            _draw(panel, x, curves, factor, plot_kwds)
            _dress_panel(panel, term, name, None if normalized else values)
            limit_pixels(panel, x, xlim)
            if normalized:
                largest = f"max {1 / factor:.2g}"
                box = {"facecolor": "white", "alpha": 0.7, "lw": 0, "pad": 0.5}
                panel.text(
                    0.995,
                    0.05,
                    largest,
                    transform=panel.transAxes,
                    ha="right",
                    va="bottom",
                    fontsize="x-small",
                    bbox=box,
                )
        panels[0].figure.align_ylabels(panels)
    _legend(panels[0], inside=axes is not None)
    for panel in lowest:
        panel.set_xlabel(x_title)
        limit_pixels(panel, x, xlim)
    return fit_text(panels[0].figure)


def _panels(n_terms: int, axes: Any, size: Size) -> tuple[list[Any], list[Any]]:
    """A panel a term, one below the other, in two columns where there are many; and the lowest ones."""
    given = given_panels(axes, n_terms, "one a term")
    if given is not None:
        return given, given[-1:]
    n_columns = 1 if n_terms <= _MOST_ROWS else 2
    n_rows = -(-n_terms // n_columns)
    figure = new_figure(size, max(2.4, 0.7 + min(0.85, _TALLEST / n_rows) * n_rows))
    grid = figure.add_gridspec(n_rows, n_columns)
    places = [grid[row, column] for column in range(n_columns) for row in range(n_rows)]
    n_unused = len(places) - n_terms  # At the top of the second column, so that both end at the axis.
    panels: list[Any] = []
    for place in places[:n_rows] + places[n_rows + n_unused :]:
        panels.append(figure.add_subplot(place, sharex=panels[0] if panels else None))
    lowest = [panels[n_rows - 1], panels[-1]][:n_columns]
    for panel in panels:
        panel.tick_params(labelbottom=panel in lowest)
    return panels, lowest


def scatter(
    model: Any,
    ax: Any = None,
    *,
    dispersion: np.ndarray | None = None,
    xlim: Sequence[float | None] | None = None,
    plot_kwds: Mapping[str, Any] | None = None,
    size: Size = "page",
) -> Any:
    """Intrinsic scatter s at every pixel, in the unit of the flux.

    Of a model whose scatter is correlated it is the whole of it, with what a pixel shares with others:
    ``(s^2 + |u|^2)^(1/2)`` with latent factors u.

    Parameters
    ----------
    model
        A trained model, an array of variances, such as s2, of shape (pixel,), or a mapping from names, for the
        legend, to these.
    ax
        Matplotlib axes to draw into, by default those of a new figure.
    size
        Width of a new figure: ``"column"`` or ``"page"`` of a journal, 3.5 or 7.1 inches.
    dispersion
        Wavelength of each pixel, shape (pixel,), in any unit and order, by default the model's.
    xlim
        Limits of the horizontal axis, in its unit; an open end is None.
    plot_kwds
        For every line, as in ``matplotlib.axes.Axes.plot``.

    Returns
    -------
    figure
        A ``matplotlib.figure.Figure``. Pixels without a solution, whose s2 is infinite, are left blank.

    Raises
    ------
    ImportError
        If Matplotlib is not installed.
    ValueError
        If a model is not trained or trainings differ in shape.

    Examples
    --------
    >>> figure = tc.plot.scatter(model)

    """
    trainings = by_name(model, _is_array)
    variances = {
        name: real_numbers(t, "model") if _is_array(t) else scatter_variance(t) for name, t in trainings.items()
    }
    _check_same_shape(variances, ("pixel",))
    n_pixels = next(iter(variances.values())).size
    x, x_title = _pixel_axis(trainings, dispersion, n_pixels)
    axes = one_panel(ax, size, 2.8)
    s = {name: np.sqrt(np.where(np.isfinite(s2), s2, np.nan)) for name, s2 in variances.items()}
    _draw(axes, x, s, 1.0, plot_kwds)
    limit_pixels(axes, x, xlim)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(x_title)
    axes.set_ylabel("Scatter $s$ (unit of flux)")
    _legend(axes, inside=True)
    return fit_text(axes.figure)


def scatter_variance(model: Any) -> np.ndarray:
    """Variance of the scatter at each pixel with what it shares with others, shape (pixel,); infinite as s2 is."""
    s2, learned = np.asarray(model.s2, dtype=float), getattr(model, "correlation", None)
    if learned is None:
        return s2
    if model.training_set_flux is None:
        return s2 if isinstance(learned, CommonCovariance) else learned.marginal_variance(None, s2)
    terms = Terms(model.vectorizer.exponents, model.scaling.scaled(model.training_set_labels))
    problem = PixelProblem.unbounded(terms, model.training_set_flux, model.training_set_ivar)
    return np.asarray(learned.marginal_variance(problem, s2))


def _pixel_axis(trainings: Mapping[str, Any], dispersion: Any, n_pixels: int) -> tuple[np.ndarray, str]:
    known = known_of(trainings, dispersion)
    return pixel_axis(first_with(trainings, "dispersion") if dispersion is None else dispersion, n_pixels, known)


def _is_array(training: Any) -> bool:
    return isinstance(training, np.ndarray | list | tuple)


def _thetas(trainings: Mapping[str, Any]) -> dict[str, np.ndarray]:
    thetas = {name: real_numbers(t if _is_array(t) else t.theta, "model") for name, t in trainings.items()}
    _check_same_shape(thetas, ("pixel", "term"))
    return thetas


def _check_same_shape(arrays: Mapping[str, np.ndarray], axes: tuple[str, ...]) -> None:
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != len(axes) for shape in shapes.values()):
        got = ", ".join(f"{name or 'the model'}: {shape}" for name, shape in shapes.items())
        raise ValueError(f"all trainings must have the same shape ({', '.join(axes)}), got {got}")


def _chosen_terms(
    indices: Sequence[int] | int | None, label_terms: Sequence[str] | None, n_terms: int, vectorizer: Any
) -> list[int]:
    """Indices of the terms to show, each once, in the order asked for."""
    if indices is None and label_terms is None:
        return list(range(n_terms))
    chosen = [] if indices is None else whole_numbers(indices, "indices")
    if label_terms is not None:
        if vectorizer is None:
            raise ValueError("label_terms needs a model, whose vectorizer knows the terms; give indices for an array")
        wanted = (label_terms,) if isinstance(label_terms, str) else texts(label_terms, "label_terms")
        chosen += [vectorizer.term_index(text) for text in wanted]
    for index in chosen:
        if not -n_terms <= index < n_terms:
            raise ValueError(f"there is no term {index}: the terms are 0 to {n_terms - 1}")
    if not chosen:
        raise ValueError("there is no term to show: indices and label_terms are empty")
    return list(dict.fromkeys(index % n_terms for index in chosen))


def _term_names(shown: Sequence[int], vectorizer: Any, latex_label_names: Sequence[str] | None) -> list[str]:
    if vectorizer is None:
        return [""] * len(shown)
    latex = latex_names(latex_label_names, vectorizer.label_names)
    if latex is None:
        return [term_text(vectorizer.readable_terms[term]) for term in shown]
    texts = (
        vectorizer.get_human_readable_label_term(term, label_names=latex, mul=r"\,\cdot\,", pow="^") for term in shown
    )
    return [f"${text}$" for text in texts]


def _shown_values(
    curves: Mapping[str, np.ndarray], x: np.ndarray, xlim: Sequence[float | None] | None, normalized: bool
) -> tuple[np.ndarray, float]:
    """The finite values within the limits, and the factor that normalizes them to one, if that is wanted."""
    values = np.concatenate([curve[visible(x, xlim)] for curve in curves.values()])
    values = values[np.isfinite(values)]
    largest = np.abs(values).max(initial=0.0)
    return values, 1 / largest if normalized and largest > 0 else 1.0


def _all_terms(
    axes: Any,
    x: np.ndarray,
    thetas: Mapping[str, np.ndarray],
    shown: Sequence[int],
    names: Sequence[str],
    normalize: bool,
    xlim: Sequence[float | None] | None,
    plot_kwds: Mapping[str, Any] | None,
) -> None:
    """All terms in one panel."""
    if len(thetas) > 1:
        raise ValueError(f"common_axis=True draws a single training, not {', '.join(thetas)}: leave one of both out")
    (values,) = thetas.values()
    curves = {}
    for term, name in zip(shown, names, strict=True):
        _, factor = _shown_values({"": values[:, term]}, x, xlim, normalize and term > 0)
        curves[name or rf"$\theta_{{{term}}}$"] = factor * values[:, term]
    _draw(axes, x, curves, 1.0, plot_kwds)
    axes.set_ylabel(r"$\theta_d / \max|\theta_d|$" if normalize else r"$\theta_d$")


def _draw(
    axes: Any, x: np.ndarray, curves: Mapping[str, np.ndarray], factor: float, plot_kwds: Mapping[str, Any] | None
) -> None:
    """Curves over x, shape (pixel,), multiplied by a factor, one colour per training."""
    for number, (name, curve) in enumerate(curves.items()):
        style = {
            "lw": 0.9,
            "color": COLOURS[number % len(COLOURS)],
            "label": name or None,
            "ls": STYLES[number % len(STYLES)],
        }
        axes.plot(*with_gaps(x, factor * curve), **style | own_words(plot_kwds, {}))


def _dress_panel(axes: Any, term: int, name: str, values: np.ndarray | None) -> None:
    """Limits and texts of the panel of a term; ``values`` are the curves, or None if these are normalized."""
    if values is None:
        axes.set_ylim(-1.25, 1.25)
        axes.set_yticks([-1, 0, 1])
        axes.axhline(0, color=REFERENCE, lw=0.5, zorder=0)
        text = rf"$\dfrac{{\theta_{{{term}}}}}{{\max|\theta_{{{term}}}|}}$"
    else:
        axes.locator_params(axis="y", nbins=4)
        text = rf"$\theta_{{{term}}}$"
        if values.size and np.ptp(values) > 0:
            margin = 0.1 * np.ptp(values)
            axes.set_ylim(values.min() - margin, values.max() + margin)
    axes.set_ylabel(text, rotation=0, ha="right", va="center")
    if name:
        axes.text(1.012, 0.5, name, transform=axes.transAxes, va="center", ha="left")


def _legend(axes: Any, *, inside: bool) -> None:
    handles, texts = axes.get_legend_handles_labels()
    if not texts:
        return
    if inside:
        axes.legend(frameon=False, fontsize="small", ncols=min(4, len(texts)))
    else:
        axes.figure.legend(handles, texts, loc="outside upper center", ncols=min(6, len(texts)), frameon=False)
