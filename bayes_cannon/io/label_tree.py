"""The posterior of labels as an ``xarray.DataTree``, the form that every function of ArviZ takes."""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from bayes_cannon.core.status import PosteriorStatus
from bayes_cannon.posterior.labels.summary import LabelPosterior
from bayes_cannon.posterior.theta.summary import QUANTILES

_AXES = {
    "mean": ("star", "label_name"),
    "covariance": ("star", "label_name", "other_label"),
    "quantiles": ("star", "quantile", "label_name"),
    "r_hat": ("star", "label_name"),
    "ess_bulk": ("star", "label_name"),
    "ess_tail": ("star", "label_name"),
    "mode_labels": ("star", "mode", "label_name"),
    "mode_excess": ("star", "mode"),
    "n_pixels": ("star",),
    "status": ("star",),
}


def label_tree(
    posterior: LabelPosterior,
    label_names: Sequence[str],
    label_units: Mapping[str, str] | None = None,
    calibrated: np.ndarray | None = None,
) -> xr.DataTree:
    """Groups ``posterior`` with ``labels`` (chain, draw, star, label_name), ``sample_stats``, and ``summary``.

    The dimension is not called ``label``, because ArviZ stacks the parameters of its summaries along one of that name.

    Parameters
    ----------
    posterior
        Of the labels, in their units.
    label_names, label_units
        Names, in order, and units by name, which are kept with the coordinate ``label_name``.
    calibrated
        Calibrated covariance of the labels, shape (star, label, label), where the model has one.

    Returns
    -------
    tree
        The summary has one variable for each field of `posterior.labels.summary.LabelPosterior`; the meaning of the
        numbers in ``status`` is among its attributes. Draws, covariance and quantiles have formal errors, and say so;
        the calibrated ones, if there are any, are ``calibrated_covariance``. ``reached_max_tree_depth`` is about the
        depth that second runs may have; trees of first runs are never as deep.

    """
    names = list(label_names)
    n_chains, n_draws, n_stars, _ = posterior.draws.shape
    label = xr.Variable("label_name", names, {f"unit_{name}": unit for name, unit in (label_units or {}).items()})
    coordinates = {"star": np.arange(n_stars), "label_name": label}
    chains = {"chain": np.arange(n_chains), "draw": np.arange(n_draws)}
    draws = {"labels": (("chain", "draw", "star", "label_name"), posterior.draws)}
    stats = {name: (("chain", "draw", "star"), values) for name, values in posterior.stats.items()}
    summary = {name: (axes, getattr(posterior, name)) for name, axes in _AXES.items()}
    if calibrated is not None:
        summary["calibrated_covariance"] = _AXES["covariance"], calibrated
    kept = xr.Dataset(summary, coords=coordinates | {"other_label": names, "quantile": list(QUANTILES)})
    kept["status"].attrs = {"flag_values": [int(status) for status in PosteriorStatus]} | {
        f"status_{status.value}": status.message for status in PosteriorStatus
    }
    for name in ("covariance", "quantiles"):
        kept[name].attrs["errors"] = "formal"
    groups = {
        "posterior": xr.Dataset(draws, coords=chains | coordinates, attrs={"errors": "formal"}),
        "sample_stats": xr.Dataset(stats, coords=chains | {"star": coordinates["star"]}),
        "summary": kept,
    }
    return xr.DataTree.from_dict(groups)
