"""Figure of a posterior of theta and s: diagnostics of its chains, and intervals of its parameters."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bayes_cannon.core.arguments import texts
from bayes_cannon.core.field_names import term_text
from bayes_cannon.plot._matplotlib import (
    COLOURS,
    REFERENCE,
    Size,
    fit_text,
    given_panels,
    limit_pixels,
    new_figure,
    pixel_axis,
    with_gaps,
)

_TERMS_SHOWN = 3
_MIDDLE = [0.16, 0.5, 0.84]
_N_BINS = 20


def theta_posterior(tree: Any, terms: Sequence[str] | None = None, *, axes: Any = None, size: Size = "page") -> Any:
    """One page: R-hat and ESS of all pixels, s and some coefficients over wavelength, and ranks of the worst pixel.

    The R-hat of a pixel is the largest, its bulk effective sample size the smallest, of all its parameters. Bands are
    68 % intervals. The ranks of s at the pixel with the largest R-hat are drawn where the tree holds draws; they are
    flat for each chain where chains agree.

    Parameters
    ----------
    tree
        What `CannonModel.sample` returns, or `io.posterior_tree.read_posterior`.
    terms
        Texts of the coefficients to show; by default those of the first three terms after the constant.
    axes
        Matplotlib axes to draw into, those of R-hat, ESS, ranks and s, then one a term; by default those of a new
        figure.
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
        For a term that is not there.

    Examples
    --------
    With the ``tree`` that ``model.sample()`` returned:

    >>> figure = tc.plot.theta_posterior(tree, terms=["TEFF", "FE_H"])

    """
    if "summary" not in getattr(tree, "children", ()):
        raise TypeError(f"tree must be what CannonModel.sample returns, got {type(tree).__name__}")
    summary = tree["summary"].to_dataset()
    names = [str(name) for name in summary["term"].to_numpy()]
    shown = names[1 : 1 + _TERMS_SHOWN] if terms is None else list(texts(terms, "terms"))
    for name in shown:
        if name not in names:
            raise ValueError(f"there is no term {name!r}; there are {', '.join(names)}")
    panels = _panels(len(shown), axes, size)
    r_hat, ess = (summary[name].to_numpy() for name in ("r_hat", "ess_bulk"))
    _distribution(panels[0], _extreme(r_hat, 1), 1.01, "Largest $\\hat{R}$\nof a pixel")
    wanted = 100.0 * float(tree.attrs["sampling_n_chains"])
    _distribution(panels[1], _extreme(ess, -1), wanted, "Smallest bulk ESS\nof a pixel")
    _last_panel(panels[2], tree, _extreme(r_hat, 1))
    wavelength = summary["wavelength"].to_numpy() if "wavelength" in summary.coords else None
    known = {} if wavelength is None else summary["wavelength"].attrs
    unit = known.get("units")
    x, x_title = pixel_axis(wavelength, summary.sizes["pixel"], {"unit": unit})
    if wavelength is None:
        x = summary["pixel"].to_numpy().astype(float)
    s_axes = panels[3]
    _band(s_axes, x, summary["s_quantiles"].sel(quantile=_MIDDLE, method="nearest").to_numpy(), "s", COLOURS[1])
    flagged = ~np.isin(summary["status"].to_numpy(), (0, 1)) & np.isfinite(summary["s_mean"].to_numpy())
    s_axes.plot(x[flagged], summary["s_mean"].to_numpy()[flagged], "x", color=COLOURS[3], label="flagged")
    if flagged.any():
        s_axes.legend(frameon=False, fontsize="small")
    for panel, name in zip(panels[4:], shown, strict=True):
        quantiles = summary["theta_quantiles"].isel(term=names.index(name)).sel(quantile=_MIDDLE, method="nearest")
        _band(panel, x, quantiles.to_numpy(), term_text(name), COLOURS[0])
        limits = panel.get_ylim()
        panel.axhline(0, color=REFERENCE, linewidth=0.6)
        panel.set_ylim(limits)
    for panel in panels[3:]:
        panel.locator_params(axis="y", nbins=4)
        panel.tick_params(labelbottom=panel is panels[-1])
    panels[-1].set_xlabel(x_title)
    panels[0].figure.align_ylabels(panels[3:])
    return fit_text(panels[0].figure)


def _panels(n_terms: int, axes: Any, size: Size) -> list[Any]:
    given = given_panels(axes, 4 + n_terms, "those of R-hat, ESS, ranks and s, then one a term")
    if given is not None:
        return given
    figure = new_figure(size, 4.4 + 1.1 * n_terms)
    heights = [1.6, 1.2, *[1.0] * n_terms]
    if size == "column":  # The third of the panels at the top does not fit beside the others.
        figure.set_figheight(figure.get_figheight() + 1.6)
        grid = figure.add_gridspec(3 + n_terms, 2, height_ratios=[1.6, *heights])
        places = [grid[0, 0], grid[0, 1], *(grid[row, :] for row in range(1, 3 + n_terms))]
    else:
        grid = figure.add_gridspec(2 + n_terms, 3, height_ratios=heights)
        places = [*(grid[0, column] for column in range(3)), *(grid[row, :] for row in range(1, 2 + n_terms))]
    panels = [figure.add_subplot(place) for place in places[:4]]
    return panels + [figure.add_subplot(place, sharex=panels[3]) for place in places[4:]]


def _extreme(values: np.ndarray, sign: int) -> np.ndarray:
    """Largest, or with sign -1 smallest, finite value of each pixel; NaN where it has none."""
    known = np.isfinite(values)
    found = sign * np.where(known, sign * values, -np.inf).max(axis=1)
    return np.where(known.any(axis=1), found, np.nan)


def _distribution(axes: Any, values: np.ndarray, limit: float, title: str) -> None:
    values = np.sort(values[np.isfinite(values)])
    axes.set_xlabel(title)
    if len(values) == 0:
        _write(axes, "no chains")
        return
    axes.step(values, np.arange(1, len(values) + 1) / len(values), where="post", color=COLOURS[0])
    axes.axvline(limit, color=REFERENCE, linestyle="--", linewidth=0.8)
    axes.set_ylabel("Share of the pixels")
    axes.set_ylim(0, 1.02)
    axes.locator_params(axis="x", nbins=3)


def _last_panel(axes: Any, tree: Any, r_hat: np.ndarray) -> None:
    """Ranks of s of each chain at the worst pixel, or k-hat where there are no chains."""
    k_hat = tree["summary/k_hat"].to_numpy()
    if not np.isfinite(r_hat).any() and np.isfinite(k_hat).any():
        _distribution(axes, k_hat, 0.7, r"Pareto $\hat{k}$ of a pixel")
        return
    if "posterior" not in tree.children or not np.isfinite(r_hat).any():
        _write(axes, "no draws")
        return
    worst = int(np.nanargmax(r_hat))
    draws = tree["posterior/s"].isel(pixel=worst).to_numpy()
    ranks = draws.ravel().argsort().argsort().reshape(draws.shape)
    for chain, row in enumerate(ranks):
        counts, edges = np.histogram(row, _N_BINS, range=(0, draws.size))
        axes.stairs(counts, edges, color=COLOURS[chain % len(COLOURS)], linewidth=0.9)
    axes.axhline(draws.shape[1] / _N_BINS, color=REFERENCE, linestyle="--", linewidth=0.8)
    pixel = int(tree["summary/pixel"].to_numpy()[worst])
    axes.set_xlabel(rf"Rank of $s$ at pixel {pixel}," + "\n" + rf"$\hat{{R}}$ = {r_hat[worst]:.3f}")
    axes.locator_params(axis="x", nbins=3)
    axes.set_ylabel("Draws of a chain")
    axes.set_ylim(0, None)


def _band(axes: Any, x: np.ndarray, quantiles: np.ndarray, name: str, colour: str) -> None:
    """Median and 68 % interval over the pixels, of quantiles (pixel, 3)."""
    position, low, middle, high = with_gaps(x, *quantiles.T) if len(x) > 1 else (x, *quantiles.T)
    axes.fill_between(position, low, high, color=colour, alpha=0.3, linewidth=0)
    axes.plot(position, middle, color=colour, linewidth=0.9, marker="." if len(x) < 30 else None)
    axes.set_ylabel(name)
    limit_pixels(axes, x)


def _write(axes: Any, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)
    axes.set_xticks([])
    axes.set_yticks([])
