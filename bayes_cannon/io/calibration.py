"""The calibration of label errors in the model file."""

from typing import Any

import numpy as np
import xarray as xr

from bayes_cannon.calibration.calibrated_errors import Calibration

_PREFIX = "calibration_"
_ARRAYS = {"log_scale": "label", "slope": "label", "floor": ("label", "other_label"), "power": "label"}
_NUMBERS = ("tails", "tail_power", "snr_median", "leverage_median", "r_hat")
_COUNTS = ("n_stars", "n_left_out", "divergences")


def calibration_variables(calibration: Calibration) -> dict[str, Any]:
    """Variables of a Dataset; the floor is in products of label units."""
    found = {f"{_PREFIX}{name}": (axes, np.asarray(getattr(calibration, name))) for name, axes in _ARRAYS.items()}
    spread = {
        f"{_PREFIX}spread_{name}": ("label" if np.ndim(values) else (), np.asarray(values))
        for name, values in calibration.spread.items()
    }
    return found | spread | {f"{_PREFIX}snr_range": ("end", np.asarray(calibration.snr_range))}


def calibration_attributes(calibration: Calibration) -> dict[str, Any]:
    """The numbers, as attributes."""
    numbers = {f"{_PREFIX}{name}": float(getattr(calibration, name)) for name in _NUMBERS}
    return numbers | {f"{_PREFIX}{name}": int(getattr(calibration, name)) for name in _COUNTS}


def read_calibration(dataset: xr.Dataset) -> Calibration | None:
    """The calibration that a Dataset holds, or None.

    A ``label_scatter``, which files of older versions may hold instead, is a floor that is the same for all stars.

    Raises
    ------
    KeyError
        If a part of it is missing.

    """
    if "label_scatter" in dataset.variables:
        return Calibration.from_floor(dataset["label_scatter"].to_numpy())
    if f"{_PREFIX}floor" not in dataset.variables:
        return None
    arrays: dict[str, Any] = {name: dataset[f"{_PREFIX}{name}"].to_numpy() for name in _ARRAYS}
    numbers: dict[str, Any] = {name: float(dataset.attrs[f"{_PREFIX}{name}"]) for name in _NUMBERS}
    counts: dict[str, Any] = {name: int(dataset.attrs[f"{_PREFIX}{name}"]) for name in _COUNTS}
    low, high = dataset[f"{_PREFIX}snr_range"].to_numpy().tolist()
    start = f"{_PREFIX}spread_"
    spread = {
        str(name).removeprefix(start): dataset[name].to_numpy()
        for name in dataset.variables
        if str(name).startswith(start)
    }
    return Calibration(**arrays, **numbers, **counts, snr_range=(low, high), spread=spread)
