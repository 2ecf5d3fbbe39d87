"""Figure of correlated scatter: the latent factors over wavelength, and how they correlate with the labels."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bayes_cannon.core.arguments import whole_numbers
from bayes_cannon.plot._matplotlib import (
    COLOURS,
    REFERENCE,
    Size,
    fit_text,
    given_panels,
    known_of,
    label_symbol,
    limit_pixels,
    new_figure,
    pixel_axis,
    with_gaps,
)

_SHOWN = 6
"""Factors that are drawn if none is asked for."""


def factors(
    model: Any, indices: Sequence[int] | None = None, *, dispersion: np.ndarray | None = None, axes: Any = None,
    size: Size = "page",
) -> Any:  # fmt: skip
    """Factors U of the scatter at every pixel, one panel a factor, in the unit of the flux.

    Each panel says which share of the scatter's variance, summed over the pixels, the factor carries. Where the model
    holds its training spectra, a last panel shows the correlation of the stars' factors with their labels and S/N. It
    should be weak: scatter that correlates with a label belongs in theta.

    Parameters
    ----------
    model
        A trained model with correlated scatter.
    indices
        Which factors, from 0, as the model numbers them, in the order to draw them; by default the six strongest, the
        strongest first.
    dispersion
        Wavelength of each pixel, shape (pixel,), in any unit and order, by default the model's.
    axes
        Matplotlib axes to draw into, one a factor, and one of the correlations where the model holds its spectra; by
        default those of a new figure.
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
    ValueError
        If the model has no factors, or not those that are asked for.

    """
    if not hasattr(model, "factors"):
        raise TypeError(f"model must be a CannonModel, got {type(model).__name__}")
    if model.factors is None:
        raise ValueError("the model has no latent factors: set scatter=LowRank(rank) and train")
    n_pixels, rank = model.factors.shape
    share = model.correlation.variance_shares(model.s2)
    strongest = np.argsort(-share, kind="stable")[:_SHOWN].tolist()
    shown = strongest if indices is None else whole_numbers(indices, "indices")
    for index in shown:
        if not 0 <= index < rank:
            raise ValueError(f"there is no factor {index}: the model has {rank}, from 0 to {rank - 1}")
    known = known_of({"": model}, dispersion)
    x, x_title = pixel_axis(model.dispersion if dispersion is None else dispersion, n_pixels, known)
    holds_spectra = model.training_set_flux is not None
    panels = _panels(len(shown), holds_spectra, axes, size)
    for panel, index in zip(panels, shown, strict=False):
        panel.axhline(0, color=REFERENCE, linewidth=0.6)
        panel.plot(*with_gaps(x, model.factors[:, index]), color=COLOURS[0], linewidth=0.9)
        limit_pixels(panel, x)
        panel.tick_params(labelbottom=index == shown[-1])
        panel.locator_params(axis="y", nbins=4)
        panel.set_ylabel(f"$U_{{{index}}}$", rotation=0, ha="right", va="center")
        panel.set_title(f"{100 * share[index]:.1f} % of the scatter", fontsize="x-small", loc="right", pad=2)
    panels[len(shown) - 1].set_xlabel(x_title)
    if holds_spectra:
        _draw_correlations(panels[-1], model, shown)
    panels[0].figure.align_ylabels(panels[: len(shown)])
    return fit_text(panels[0].figure)


def _panels(n_factors: int, holds_spectra: bool, axes: Any, size: Size) -> list[Any]:
    ratios = [1.0] * n_factors + [1.6] * holds_spectra
    given = given_panels(axes, len(ratios), "one a factor" + ", then one of their correlations" * holds_spectra)
    if given is not None:
        return given
    figure = new_figure(size, 1.2 + 0.9 * n_factors + 1.8 * holds_spectra)
    return list(figure.subplots(len(ratios), squeeze=False, gridspec_kw={"height_ratios": ratios})[:, 0])


def _draw_correlations(axes: Any, model: Any, shown: list[int]) -> None:
    flux, ivar, labels = model.training_set_flux, model.training_set_ivar, model.training_set_labels
    z = model.latent_factors(flux, ivar, labels)[:, shown]
    signal = np.where(ivar > 0, flux * np.sqrt(ivar), np.nan)
    columns = np.column_stack([labels, np.nanmedian(signal, axis=1)])
    with np.errstate(invalid="ignore"):
        correlation = np.corrcoef(z.T, columns.T)[: len(shown), len(shown) :]
    image = axes.imshow(correlation, vmin=-1, vmax=1, cmap="RdBu_r", aspect="auto")
    axes.set_xticks(range(columns.shape[1]), [*map(label_symbol, model.label_names), "S/N"])
    axes.set_yticks(range(len(shown)), [f"$U_{{{index}}}$" for index in shown])
    axes.figure.colorbar(image, ax=axes, label="Correlation")
