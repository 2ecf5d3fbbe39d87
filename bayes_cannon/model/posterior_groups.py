r"""Groups that are added to a posterior on demand, because they are large: one value a star, a pixel and a draw.

Each function takes some of the pixels, and returns the tree of these pixels with the group in it, so that the groups
fit each other and ArviZ can compare them. The arrays are filled pixel by pixel; the memory is that of the group alone.
"""

from typing import Any

import numpy as np
import xarray as xr

from bayes_cannon.core.vectorizer import monomials
from bayes_cannon.io.posterior_tree import check_model

_LOG_2PI = np.log(2 * np.pi)


def log_likelihood(tree: xr.DataTree, pixels: Any = None) -> xr.DataTree:
    r"""The tree of some pixels with the group ``log_likelihood``, whose ``flux`` is (chain, draw, star, pixel).

    .. math:: \ln \mathrm{Normal}\left(y_{jn} \mid v_n \cdot \theta_j, (\sigma_{jn}^2 + s_j^2) / \tau_n\right)

    with the weights tau of heavy tails, else 1. Each pixel by itself, also where the scatter is correlated between
    pixels. Stars with ``ivar = 0`` at any of these pixels are left out of the tree, because ArviZ does not support
    missing values: take pixels one by one to lose none.

    Parameters
    ----------
    tree
        What `CannonModel.sample` returns, with draws.
    pixels
        Numbers of the pixels, in the order wanted; all by default. Of 500 draws in 4 chains and 1,000 stars a pixel
        takes 16 MB.

    Raises
    ------
    ValueError
        If the tree has no draws, or not these pixels, or no star has information at all of them.

    """
    part = _part(tree, pixels)
    known = (part["constant_data/ivar"].to_numpy() > 0).all(axis=1)
    if not known.any():
        raise ValueError("no star has a positive ivar at all of these pixels: ask for fewer at a time")
    part = part.isel(star=np.flatnonzero(known))
    design, ivar = (part[f"constant_data/{name}"].to_numpy() for name in ("design", "ivar"))
    flux = part["observed_data/flux"].to_numpy()
    theta, s = _draws(part)
    tau = _precision(part, len(design))
    values = np.empty((*s.shape[:2], *flux.shape))
    for pixel in range(flux.shape[1]):
        variance = (1 / ivar[:, pixel] + s[:, :, pixel, None] ** 2) / tau
        away = flux[:, pixel] - theta[:, :, pixel] @ design.T
        values[..., pixel] = -0.5 * (away**2 / variance + np.log(variance) + _LOG_2PI)
    dims = ("chain", "draw", "star", "pixel")
    return _with(part, "log_likelihood", {"flux": (dims, values)}, part["observed_data"].to_dataset())


def log_prior(tree: xr.DataTree, pixels: Any = None) -> xr.DataTree:
    """The tree of some pixels with the group ``log_prior``: ``theta`` (chain, draw, pixel, term) and ``s``.

    Zero for censored terms, which are no parameters, and for terms with a flat prior.

    Parameters
    ----------
    tree, pixels
        As in `log_likelihood`.

    Raises
    ------
    ValueError
        If the tree has no draws, or not these pixels.

    """
    part = _part(tree, pixels)
    names = ("regularization", "free", "theta_0_mean", "theta_0_scale", "s_scale")
    lam, free, mean, scale, s_scale = (part[f"constant_data/{name}"].to_numpy() for name in names)
    theta, s = _draws(part)
    penalized = free & (lam > 0)[:, None]
    rate = np.where(penalized, 0.5 * lam[:, None], 1.0)
    values = np.where(penalized, np.log(rate / 2) - rate * np.abs(theta), 0.0)
    constant = theta[..., 0]
    values[..., 0] = -0.5 * (((constant - mean) / scale) ** 2 + _LOG_2PI) - np.log(scale)
    of_s = 0.5 * np.log(2 / np.pi) - np.log(s_scale) - 0.5 * (s / s_scale) ** 2
    variables = {"theta": (("chain", "draw", "pixel", "term"), values), "s": (("chain", "draw", "pixel"), of_s)}
    return _with(part, "log_prior", variables)


def posterior_predictive(
    model: Any, tree: xr.DataTree, labels: Any = None, ivar: Any = None, *, key: int = 0, pixels: Any = None
) -> xr.DataTree:
    r"""The tree of some pixels with the group ``posterior_predictive``: ``flux`` (chain, draw, star, pixel).

    One spectrum is drawn for each star and each draw of theta and s,
    :math:`\mathrm{Normal}(v(x_n) \cdot \theta_j, (s_j^2 + \sigma_{jn}^2) / \tau_n)`, each pixel by itself, also where
    the scatter is correlated between pixels. With heavy tails the training stars have the weights tau of the training,
    and spectra of given labels draw theirs, :math:`\tau \sim \mathrm{Gamma}(\nu / 2, \nu / 2)`, one a star and draw.

    Parameters
    ----------
    model
        The `CannonModel` that was sampled.
    tree, pixels
        As in `log_likelihood`.
    labels
        In their units, shape (star, label); by default the training stars, with their ivar.
    ivar
        Inverse variance of the noise, shape (star, pixel) with the pixels that are asked for; where it is zero the
        flux is NaN. By default there is no noise in spectra of given labels.
    key
        Seed.

    Raises
    ------
    ValueError
        If the tree has no draws, not these pixels, or is of another model, and for shapes that do not fit.

    """
    check_model(tree.attrs, model._hashes(), "the posterior")
    part = _part(tree, pixels)
    theta, s = _draws(part)
    n_pixels = s.shape[2]
    given = None if ivar is None else np.asarray(ivar, dtype=float)
    if labels is None:
        design = part["constant_data/design"].to_numpy()
        given = part["constant_data/ivar"].to_numpy() if given is None else given
        tau = _precision(part, len(design))
    else:
        rows = model._stars.rows(labels)
        design = monomials(model.scaling.scaled(rows), model.vectorizer.exponents)
        tau = np.ones((*s.shape[:2], len(design)))
        if model.nu is not None and np.isfinite(model.nu):
            tau = np.random.default_rng(key).gamma(model.nu / 2, 2 / model.nu, tau.shape)
    shape = len(design), n_pixels
    noise = np.zeros(shape)
    if given is not None:
        if given.shape != shape:
            raise ValueError(f"ivar must have shape {shape}, (star, pixel) of the pixels asked for; got {given.shape}")
        # Without information the flux may be anything.
        noise = 1.0 / np.where(given > 0, given, np.nan)
    values = np.empty((*s.shape[:2], *shape))
    numbers = part["posterior/pixel"].to_numpy()
    for pixel in range(n_pixels):
        # A pixel's draws do not depend on which others are asked for.
        rng = np.random.default_rng([key, int(numbers[pixel])])
        sd = np.sqrt((s[:, :, pixel, None] ** 2 + noise[:, pixel]) / tau)
        values[..., pixel] = theta[:, :, pixel] @ design.T + sd * rng.standard_normal(sd.shape)
    dims = ("chain", "draw", "star", "pixel")
    stars = xr.Dataset(coords={"star": np.arange(len(design))})
    return _with(part, "posterior_predictive", {"flux": (dims, values)}, stars)


def _part(tree: xr.DataTree, pixels: Any) -> xr.DataTree:
    """The tree of some pixels."""
    if "posterior" not in tree.children:
        raise ValueError("the tree holds no draws, only the summary: sample with keep_draws=True")
    if pixels is None:
        return tree.copy()
    wanted = np.atleast_1d(np.asarray(pixels, dtype=int))
    there = tree["posterior/pixel"].to_numpy()
    missing = wanted[~np.isin(wanted, there)]
    if missing.size:
        raise ValueError(
            f"the posterior has no pixel {missing[0]}; it has {len(there)}, from {there.min()} to {there.max()}"
        )
    return tree.sel(pixel=wanted)


def _draws(tree: xr.DataTree) -> tuple[np.ndarray, np.ndarray]:
    return tree["posterior/theta"].to_numpy(), tree["posterior/s"].to_numpy()


def _precision(tree: xr.DataTree, n_stars: int) -> np.ndarray:
    """Weights tau of the training stars, shape (star,)."""
    constant = tree["constant_data"]
    return constant["precision"].to_numpy() if "precision" in constant.data_vars else np.ones(n_stars)


def _with(tree: xr.DataTree, name: str, variables: Any, more: xr.Dataset | None = None) -> xr.DataTree:
    """The tree with one more group, whose coordinates are those of the draws and of ``more``."""
    dims = {dim for axes, _ in variables.values() for dim in axes}
    coordinates: dict[Any, Any] = {}
    for source in (tree["posterior"].to_dataset(), *([] if more is None else [more])):
        coordinates |= {key: one for key, one in source.coords.items() if set(one.dims) <= dims}
    tree[name] = xr.DataTree(xr.Dataset(variables, coordinates))
    return tree
