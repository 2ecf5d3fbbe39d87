"""Figure of correlated scatter: the latent factors over wavelength, and how they correlate with the labels."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bayes_cannon.core.arguments import whole_numbers
from bayes_cannon.plot._matplotlib import (
    COLOURS,
    REFERENCE,
    limit_pixels,
    new_figure,
    pixel_axis,
    unit_of,
    with_gaps,
)


def factors(model: Any, indices: Sequence[int] | None = None, *, dispersion: np.ndarray | None = None) -> Any:
    """Factors U of the scatter at every pixel, one panel a factor, in the unit of the flux.

    Each panel says which share of the scatter's variance, summed over the pixels, the factor carries. Where the model
    holds its training spectra, a last panel shows the correlation of the stars' factors with their labels and S/N. It
    should be weak: scatter that correlates with a label belongs in theta.

    Parameters
    ----------
    model
        A trained model with correlated scatter.
    indices
        Which factors, from 0, the strongest; by default the first six.
    dispersion
        Wavelength of each pixel, shape (pixel,), in any unit and order, by default the model's.

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
    shown = list(range(min(rank, 6))) if indices is None else whole_numbers(indices, "indices")
    for index in shown:
        if not 0 <= index < rank:
            raise ValueError(f"there is no factor {index}: the model has {rank}, from 0 to {rank - 1}")
    unit = unit_of({"": model}, dispersion)
    x, x_title = pixel_axis(model.dispersion if dispersion is None else dispersion, n_pixels, unit)
    known = model.training_set_flux is not None
    figure = new_figure(8.0, 1.2 + 1.0 * len(shown) + (2.0 if known else 0.0))
    ratios = [1.0] * len(shown) + [1.6] * known
    panels = figure.subplots(len(ratios), squeeze=False, gridspec_kw={"height_ratios": ratios})[:, 0]
    share = model.correlation.variance_shares(model.s2)
    for axes, index in zip(panels, shown, strict=False):
        axes.axhline(0, color=REFERENCE, linewidth=0.6)
        axes.plot(*with_gaps(x, model.factors[:, index]), color=COLOURS[0], linewidth=0.9)
        limit_pixels(axes, x)
        axes.set_ylabel(f"U{index}", rotation=0, ha="right")
        axes.set_title(f"{100 * share[index]:.1f} % of the scatter", fontsize=8, loc="right", pad=2)
    panels[len(shown) - 1].set_xlabel(x_title)
    if known:
        _draw_correlations(figure, panels[-1], model, shown)
    return figure


def _draw_correlations(figure: Any, axes: Any, model: Any, shown: list[int]) -> None:
    flux, ivar, labels = model.training_set_flux, model.training_set_ivar, model.training_set_labels
    z = model.latent_factors(flux, ivar, labels)[:, shown]
    signal = np.where(ivar > 0, flux * np.sqrt(ivar), np.nan)
    columns = np.column_stack([labels, np.nanmedian(signal, axis=1)])
    with np.errstate(invalid="ignore"):
        correlation = np.corrcoef(z.T, columns.T)[: len(shown), len(shown) :]
    image = axes.imshow(correlation, vmin=-1, vmax=1, cmap="RdBu_r", aspect="auto")
    axes.set_xticks(range(columns.shape[1]), [*model.label_names, "S/N"])
    axes.set_yticks(range(len(shown)), [f"U{index}" for index in shown])
    figure.colorbar(image, ax=axes, label="correlation")
