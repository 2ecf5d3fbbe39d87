"""The figure of one star's spectrum with the model over it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bayes_cannon.core.intake import real_numbers
from bayes_cannon.plot._matplotlib import (
    COLOURS,
    REFERENCE,
    check_model,
    label_symbol,
    latex_names,
    limit_pixels,
    new_figure,
    pixel_axis,
    unit_of,
    visible,
    with_gaps,
)
from bayes_cannon.plot.training import scatter_variance
from bayes_cannon.validate import label_errors

_CHARACTERS = 92
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
) -> Any:
    """Model over data of one star, with the noise ``ivar^(-1/2)`` and the scatter s of the model as bands.

    The lower panel shows flux - model with the bands of the noise and of ``(1 / ivar + s^2)^(1/2)``. Where the scatter
    is correlated, s is all of it, with what a pixel shares with others; of a model with a covariance of the whole noise
    (``scatter.Full``, ``scatter.Given``) the second band is the root of that covariance's diagonal. Pixels with
    ivar = 0, and pixels that are not trained, are left blank.

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

    Returns
    -------
    figure
        A ``matplotlib.figure.Figure`` with one panel, or two where there is a flux.

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
    x, x_title = pixel_axis(model.dispersion, n_pixels, unit_of({"": model}, None))
    s2 = scatter_variance(model)
    s2 = np.where(np.isfinite(s2), s2, np.nan)
    title = _title(model, values, cov, latex_label_names) if title is None else str(title)
    figure = new_figure(9.0, (3.6 if flux is None else 5.0) + 0.17 * title.count("\n"))
    if flux is None:
        axes = bottom = figure.subplots()
    else:
        observed, noise = _data(flux, ivar, n_pixels)
        axes, bottom = figure.subplots(2, sharex=True, height_ratios=[2.2, 1])
        _draw_data(axes, x, observed, noise)
        total = np.sqrt(_total_variance(model, noise, s2, values))
        _draw_residuals(bottom, x, observed - predicted, noise, total, visible(x, xlim))
    _band(axes, x, predicted, np.sqrt(s2), COLOURS[1], 0.3, "scatter $s$")
    axes.plot(*with_gaps(x, predicted), color=COLOURS[1], lw=1.0, label="model")
    shown = visible(x, xlim)
    curves = [predicted[shown]] if flux is None else [predicted[shown], observed[shown]]
    axes.set_ylim(*_limits(np.concatenate(curves)))
    axes.set_ylabel("Flux")
    axes.legend(frameon=False, fontsize="small", ncols=4)
    bottom.set_xlabel(x_title)
    limit_pixels(bottom, x, xlim)
    axes.set_title(title, fontsize="medium")
    return figure


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
    axes: Any, x: np.ndarray, residual: np.ndarray, noise: np.ndarray, total: np.ndarray, shown: np.ndarray
) -> None:
    _band(axes, x, np.zeros_like(x), total, COLOURS[1], 0.3, "noise and scatter")
    if np.isfinite(noise).any():
        _band(axes, x, np.zeros_like(x), noise, "black", 0.25, "noise")
    axes.axhline(0, color=REFERENCE, lw=0.8)
    axes.plot(*with_gaps(x, residual), color="black", lw=0.8)
    sizes = np.abs(np.concatenate([residual[shown], 2 * total[shown]]))
    sizes = sizes[np.isfinite(sizes)]
    half = 1.1 * np.percentile(sizes, 99.5) if sizes.size else 1.0
    axes.set_ylim(-half or -1.0, half or 1.0)
    axes.set_ylabel("Flux $-$ model")
    axes.legend(frameon=False, fontsize="small", ncols=2, loc="upper right")


def _band(axes: Any, x: np.ndarray, middle: np.ndarray, half: np.ndarray, colour: str, alpha: float, name: str) -> None:
    position, low, high = with_gaps(x, middle - half, middle + half)
    axes.fill_between(position, low, high, color=colour, alpha=alpha, lw=0, label=name)


def _limits(values: np.ndarray) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    margin = 0.08 * (high - low) or 0.1
    return float(low - margin), float(high + 2 * margin)


def _title(model: Any, values: np.ndarray, cov: np.ndarray | None, latex_label_names: Sequence[str] | None) -> str:
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
        if k and width > _CHARACTERS:
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
