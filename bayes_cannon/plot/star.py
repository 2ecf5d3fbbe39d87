"""The figure of one star's spectrum with the model over it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bayes_cannon.core.intake import real_numbers
from bayes_cannon.plot._matplotlib import (
    COLOURS,
    REFERENCE,
    Size,
    check_model,
    check_size,
    chips,
    ends_of,
    fit_text,
    given_panels,
    known_of,
    label_symbol,
    latex_names,
    limit_pixels,
    new_figure,
    pixel_axis,
    sorted_limits,
    visible,
    with_gaps,
)
from bayes_cannon.plot.training import scatter_variance
from bayes_cannon.validate import label_errors

_CHARACTERS = {"column": 46, "page": 72}
"""Of a line above the figure."""


def spectrum(
    model: Any,
    labels: np.ndarray,
    flux: np.ndarray | None = None,
    ivar: np.ndarray | None = None,
    *,
    cov: np.ndarray | None = None,
    xlim: Sequence[float | None] | None = None,
    latex_label_names: Sequence[str] | None = None,
    title: str | None = None,
    axes: Any = None,
    size: Size = "page",
) -> Any:
    """Model over data of one star, with the noise ``ivar^(-1/2)`` and the scatter s of the model as bands.

    The lower panel shows flux - model with the bands of the noise and of ``(1 / ivar + s^2)^(1/2)``. Where the scatter
    is correlated, s is all of it, with what a pixel shares with others; of a model with a covariance of the whole noise
    (``scatter.Full``, ``scatter.Given``) the second band is the root of that covariance's diagonal. Pixels with
    ivar = 0, and pixels that are not trained, are left blank. Where wide gaps keep the chips of a spectrograph apart,
    each has its own panels, one below the other.

    Parameters
    ----------
    model
        A trained model.
    labels
        Labels of the star, in their units, shape (label,).
    flux, ivar
        Its spectrum, shape (pixel,). Without a flux the model alone is drawn; without an ivar all finite flux is used
        and no noise is shown.
    cov
        Covariance of the labels, shape (label, label), whose errors are then given in the title.
    xlim
        Limits of the horizontal axis, in its unit; an open end is None.
    latex_label_names
        Name of each label in LaTeX, without dollar signs.
    title
        Text above the figure, by default the labels.
    axes
        Matplotlib axes to draw into, one a chip, or two where there is a flux: the spectrum, and beneath it what is
        left; by default those of a new figure.
    size
        Width of a new figure: ``"column"`` or ``"page"`` of a journal, 3.5 or 7.1 inches.

    Returns
    -------
    figure
        A ``matplotlib.figure.Figure`` with one panel a chip, or two where there is a flux.

    Raises
    ------
    ImportError
        If Matplotlib is not installed.
    ValueError
        If the model is not trained, or a shape does not fit it.

    Examples
    --------
    >>> labels, flux, ivar = model.training_set_labels[0], model.training_set_flux[0], model.training_set_ivar[0]
    >>> figure = tc.plot.spectrum(model, labels, flux, ivar)

    """
    check_model(model)
    names = tuple(model.vectorizer.label_names)
    values = _of_shape("labels", labels, (len(names),), f"one value for each of {', '.join(names)}")
    predicted = np.asarray(model(values), dtype=float).ravel()
    n_pixels = predicted.size
    x, x_title = pixel_axis(model.dispersion, n_pixels, known_of({"": model}, None))
    s2 = scatter_variance(model)
    s2 = np.where(np.isfinite(s2), s2, np.nan)
    check_size(size)
    title = _title(model, values, cov, latex_label_names, _CHARACTERS[size]) if title is None else str(title)
    parts = [part for part in chips(x) if visible(x[part], xlim).any()] or [np.arange(n_pixels)]
    panels = _panels(len(parts), flux is not None, axes, size, title.count("\n"))
    shown = visible(x, xlim)
    curves = [predicted[shown]]
    if flux is not None:
        observed, noise = _data(flux, ivar, n_pixels)
        total, residual = np.sqrt(_total_variance(model, noise, s2, values)), observed - predicted
        curves.append(observed[shown])
    limits = _limits(np.concatenate(curves))
    for part, (panel, *below) in zip(parts, panels, strict=True):
        if flux is not None:
            _draw_data(panel, x[part], observed[part], noise[part])
            _draw_residuals(below[0], x[part], residual[part], noise[part], total[part])
            below[0].set_ylim(*_residual_limits(residual[shown], total[shown]))
        _band(panel, x[part], predicted[part], np.sqrt(s2[part]), COLOURS[1], 0.3, "scatter $s$")
        panel.plot(*with_gaps(x[part], predicted[part]), color=COLOURS[1], lw=1.0, label="model")
        panel.set_ylim(*limits)
        panel.set_ylabel("Flux")
        for one in (panel, *below):
            limit_pixels(one, x[part], xlim if len(parts) == 1 else _within(x[part], xlim))
    for one in panels[0]:
        one.legend(
            fontsize="x-small", ncols={"column": 2, "page": 4}[size], loc="upper right", framealpha=0.8,
            edgecolor="none", borderpad=0.1,
        )  # fmt: skip
    panels[-1][-1].set_xlabel(x_title)
    panels[0][0].set_title(title, fontsize="medium")
    return fit_text(panels[0][0].figure)


def _within(x: np.ndarray, xlim: Sequence[float | None] | None) -> tuple[float, float]:
    """Ends of the pixels within the limits, in the direction of these."""
    inside = x[visible(x, xlim)]
    ends = float(inside.min()), float(inside.max())
    backwards = xlim is not None and None not in xlim and ends_of(xlim) != sorted_limits(xlim)
    return ends[::-1] if backwards else ends


def _panels(n_chips: int, with_flux: bool, axes: Any, size: Size, more_lines: int) -> list[list[Any]]:
    """The one or two panels of each chip."""
    n_each = 2 if with_flux else 1
    what = "one of the spectrum and one of what is left, a chip" if with_flux else "one a chip"
    given = given_panels(axes, n_chips * n_each, what)
    if given is None:
        heights = [2.2, 1.0] if with_flux else [1.0]
        each = (3.8 if with_flux else 2.8) if n_chips == 1 else (2.6 if with_flux else 1.6)
        figure = new_figure(size, 0.4 + each * n_chips + 0.17 * more_lines)
        given = list(figure.subplots(n_chips * n_each, squeeze=False, height_ratios=heights * n_chips)[:, 0])
        for number in range(0, len(given), n_each):
            if with_flux:
                given[number].sharex(given[number + 1])
                given[number].tick_params(labelbottom=False)
        figure.align_ylabels(given)
    return [given[number : number + n_each] for number in range(0, len(given), n_each)]


def _data(flux: np.ndarray, ivar: np.ndarray | None, n_pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Flux, NaN where ivar is zero, and its noise, NaN where that is unknown; shapes (pixel,)."""
    observed = _of_shape("flux", flux, (n_pixels,), "one value a pixel of the model")
    if ivar is None:
        return observed, np.full(n_pixels, np.nan)
    weight = _of_shape("ivar", ivar, (n_pixels,), "one value a pixel of the model")
    used = weight > 0
    noise = np.full(n_pixels, np.nan)
    noise[used] = weight[used] ** -0.5
    return np.where(used, observed, np.nan), noise


def _total_variance(model: Any, noise: np.ndarray, s2: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Variance of the flux about the model, shape (pixel,); that of the scatter alone where the noise is not known."""
    learned, known = getattr(model, "correlation", None), np.isfinite(noise) & np.isfinite(s2)
    total = s2.copy()
    if learned is None:
        total[known] += noise[known] ** 2
    else:
        ivar, pixels = noise[None, known] ** -2.0, np.flatnonzero(known)
        total[known] = learned.total_variance(np.asarray(model.s2), ivar, pixels)[0]
        total[known] *= learned.label_factor(model.scaling.scaled(labels[None]))[0]
    return total


def _draw_data(axes: Any, x: np.ndarray, observed: np.ndarray, noise: np.ndarray) -> None:
    if np.isfinite(noise).any():
        _band(axes, x, observed, noise, "black", 0.2, "noise")
    axes.plot(*with_gaps(x, observed), color="black", lw=0.9, label="data")


def _draw_residuals(
    axes: Any, x: np.ndarray, residual: np.ndarray, noise: np.ndarray, total: np.ndarray
) -> None:  # fmt: skip
    _band(axes, x, np.zeros_like(x), total, COLOURS[1], 0.3, "noise and scatter")
    if np.isfinite(noise).any():
        _band(axes, x, np.zeros_like(x), noise, "black", 0.25, "noise")
    axes.axhline(0, color=REFERENCE, lw=0.8)
    axes.plot(*with_gaps(x, residual), color="black", lw=0.8)
    axes.set_ylabel("Flux\n$-$ model")


def _residual_limits(residual: np.ndarray, total: np.ndarray) -> tuple[float, float]:
    sizes = np.abs(np.concatenate([residual, 2 * total]))
    sizes = sizes[np.isfinite(sizes)]
    half = float(1.1 * np.percentile(sizes, 99.5)) if sizes.size else 1.0
    return -half or -1.0, half or 1.0


def _band(axes: Any, x: np.ndarray, middle: np.ndarray, half: np.ndarray, colour: str, alpha: float, name: str) -> None:
    position, low, high = with_gaps(x, middle - half, middle + half)
    axes.fill_between(position, low, high, color=colour, alpha=alpha, lw=0, label=name)


def _limits(values: np.ndarray) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    margin = 0.08 * (high - low) or 0.1
    return float(low - margin), float(high + 2 * margin)


def _title(
    model: Any, values: np.ndarray, cov: np.ndarray | None, latex_label_names: Sequence[str] | None, characters: int
) -> str:
    """The labels with their errors, in lines that fit the figure."""
    names = tuple(model.vectorizer.label_names)
    latex = latex_names(latex_label_names, names)
    units = getattr(model, "label_units", {})
    errors = np.full(len(names), np.nan)
    if cov is not None:
        errors = label_errors(_of_shape("cov", cov, (len(names),) * 2, "a covariance")[None])[0]
    lines, width = [""], 0
    for k, name in enumerate(names):
        value = with_error(values[k], errors[k])
        after = f"{value} {units.get(name, '')}".rstrip()
        width += len(name) + len(after) + 5
        if k and width > characters:
            lines.append("")
            width = len(name) + len(after) + 5
        part = f"{label_symbol(name, None if latex is None else latex[k])} = {after}"
        lines[-1] = f"{lines[-1]}, {part}" if lines[-1] else part
    return ",\n".join(lines)


def with_error(value: float, error: float) -> str:
    """A value and its error to two digits of the error, or, where that is not known, the value to four."""
    if np.isfinite(error) and error > 0:
        decimals = _decimals(error, 2)
        return f"{value:.{decimals}f} ± {error:.{decimals}f}".replace("-", "\N{MINUS SIGN}")
    decimals = _decimals(value, 4) if np.isfinite(value) and value else 2
    return f"{value:.{min(decimals, 2) if abs(value) >= 0.01 else decimals}f}".replace("-", "\N{MINUS SIGN}")


def _decimals(number: float, digits: int) -> int:
    """Decimals that show so many digits of a number, none at least."""
    return max(0, digits - 1 - int(np.floor(np.log10(abs(float(f"{number:.{digits - 1}e}"))))))


def _of_shape(name: str, values: Any, shape: tuple[int, ...], what: str) -> np.ndarray:
    """The values as floats; a single star may be a row of shape (1, ...)."""
    array = real_numbers(values, name)
    if array.shape == (1, *shape):
        array = array[0]
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, {what}, got {array.shape}")
    return array
