r"""Spectra added to a posterior of labels on demand, because they are large: one value a star, a pixel and a draw."""

from typing import Any

import numpy as np
import xarray as xr

from bayes_cannon.core.vectorizer import monomials
from bayes_cannon.labelling.batches import check_batch

_LOG_2PI = np.log(2 * np.pi)
_DIMS = ("chain", "draw", "star", "pixel")


def with_spectra(
    model: Any, tree: xr.DataTree, flux: Any, ivar: Any, *, stars: Any = None, pixels: Any = None, key: int = 0
) -> xr.DataTree:
    r"""The tree of some stars with four more groups, as ArviZ takes them.

    ``observed_data`` and ``constant_data`` hold ``flux`` and ``ivar`` (star, pixel); ``log_likelihood`` and
    ``posterior_predictive`` hold ``flux`` (chain, draw, star, pixel),

    .. math:: \ln \mathrm{Normal}\left(y_j \mid v(x) \cdot \theta_j, V_j\right) \qquad \text{and} \qquad
              \tilde y_j \sim \mathrm{Normal}\left(v(x) \cdot \theta_j, V_j\right)

    for each draw x of the labels. :math:`V_j` is the whole variance of the pixel: the noise, the scatter, what it
    shares with other pixels, and, where theta is integrated out, :math:`v^T \Sigma_j v`. Each pixel is taken by itself,
    so that with correlated scatter the sum over pixels is not the likelihood of the spectrum. With heavy tails it holds
    for a star of the weight one.

    Parameters
    ----------
    model
        The `CannonModel` that was sampled.
    tree
        What `CannonModel.sample_labels` returned.
    flux, ivar
        The spectra that it was given, shape (star, pixel). Where ivar is zero the observed flux is NaN, the logarithm
        of the likelihood zero, and what is drawn has no noise but the scatter.
    stars, pixels
        Numbers of the stars and pixels that are wanted; all by default. Of 500 draws in 4 chains a star with 1,000
        pixels takes 32 MB.
    key
        Seed of what is drawn.

    Raises
    ------
    ValueError
        For spectra of another shape, and stars or pixels that are not there.

    """
    flux, ivar = (np.asarray(array, dtype=float) for array in model._spectra(flux, ivar))
    check_batch(flux, ivar, len(model.theta))
    n_stars = tree["posterior"].sizes["star"]
    if len(flux) != n_stars:
        raise ValueError(f"the posterior has {n_stars} stars, the spectra {len(flux)}: give those that were sampled")
    stars, pixels = _chosen("star", stars, n_stars), _chosen("pixel", pixels, len(model.theta))
    part, trained = tree.isel(star=stars), model._label_model()
    theta, covariance = trained.theta[pixels], trained.theta_covariance
    flux, ivar = flux[np.ix_(stars, pixels)], ivar[np.ix_(stars, pixels)]
    known = (ivar > 0) & np.isfinite(theta).all(axis=1)
    noise = trained.scatter.total_variance(trained.s2, np.where(known, ivar, np.inf), pixels)
    labels = part["posterior/labels"].to_numpy()
    likelihood = np.empty((*labels.shape[:2], *flux.shape))
    predictive = np.empty_like(likelihood)
    for k, star in enumerate(stars):
        rows = labels[:, :, k].reshape(-1, labels.shape[-1])
        v = monomials(model.scaling.scaled(rows), model.vectorizer.exponents)
        mean = v @ theta.T
        variance = noise[k] * trained.scatter.label_factor(model.scaling.scaled(rows))[:, None]
        if covariance is not None:
            variance = variance + np.einsum("nd,pde,ne->np", v, covariance[pixels], v, optimize=True)
        value = -0.5 * ((np.where(known[k], flux[k], 0.0) - mean) ** 2 / variance + np.log(variance) + _LOG_2PI)
        likelihood[:, :, k] = np.where(known[k], value, 0.0).reshape(likelihood[:, :, k].shape)
        # A star's draws do not depend on which others are asked for.
        drawn = mean + np.sqrt(variance) * np.random.default_rng([key, int(star)]).standard_normal(mean.shape)
        predictive[:, :, k] = drawn.reshape(predictive[:, :, k].shape)
    return _joined(part, _coordinates(model, pixels), np.where(ivar > 0, flux, np.nan), ivar, likelihood, predictive)


def _chosen(what: str, numbers: Any, total: int) -> np.ndarray:
    """Numbers of stars or pixels, all of them for None."""
    if numbers is None:
        return np.arange(total)
    chosen = np.atleast_1d(np.asarray(numbers, dtype=int))
    outside = chosen[(chosen < 0) | (chosen >= total)]
    if outside.size:
        raise ValueError(f"there is no {what} {outside[0]}: they are numbered from 0 to {total - 1}")
    return chosen


def _coordinates(model: Any, pixels: np.ndarray) -> dict[str, Any]:
    wavelength = {} if model.dispersion is None else {"wavelength": ("pixel", np.asarray(model.dispersion)[pixels])}
    return {"pixel": pixels} | wavelength


def _joined(
    part: xr.DataTree, coordinates: dict[str, Any], flux: np.ndarray, ivar: np.ndarray, likelihood: np.ndarray,
    predictive: np.ndarray,
) -> xr.DataTree:  # fmt: skip
    """The tree with the groups."""
    own = {"star": part["posterior/star"].to_numpy()} | coordinates
    every = {name: part[f"posterior/{name}"].to_numpy() for name in ("chain", "draw")} | own
    for name, variable, values in (
        ("observed_data", "flux", flux), ("constant_data", "ivar", ivar), ("log_likelihood", "flux", likelihood),
        ("posterior_predictive", "flux", predictive),
    ):  # fmt: skip
        dims, coords = (_DIMS, every) if values.ndim == len(_DIMS) else (_DIMS[2:], own)
        part[name] = xr.DataTree(xr.Dataset({variable: (dims, values)}, coords))
    return part
