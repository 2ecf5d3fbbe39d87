"""The posterior of theta and s as a labelled tree, an ``xarray.DataTree`` as ArviZ takes it.

Groups: ``posterior`` with the draws of theta (chain, draw, pixel, term) and s (chain, draw, pixel), and
``sample_stats``, both only where draws are kept; ``summary``, of every pixel; ``observed_data`` with the flux (star,
pixel) and ``constant_data`` with what the flux is explained by and the priors. The pixels are those that were asked
for, by their number; terms and labels have their names, and wavelengths are a coordinate of the pixels. The attributes
of the tree say how it was sampled (``sampling_...``) and of which model (``model_...``, hashes).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from bayes_cannon.core.status import PosteriorStatus
from bayes_cannon.io.atomic import recover
from bayes_cannon.io.damage import UNREADABLE, check
from bayes_cannon.io.posterior_chunks import MARK, damaged_chunks
from bayes_cannon.io.posterior_variables import DRAWS, STATS, SUMMARY, Variable
from bayes_cannon.io.zarr_files import CHECKSUMS, check_store, refused_arrays, seal_of
from bayes_cannon.posterior.theta.summary import QUANTILES, ThetaPosterior

if TYPE_CHECKING:
    from bayes_cannon.posterior.theta.sample import ThetaBlock

SETTING, MODEL = "sampling_", "model_"
"""Prefixes of the attributes that say how a posterior was sampled, and of which model."""
_FORMAT = "bayes_cannon posterior"
_WHAT = {"theta": "coefficients", "s2": "variance of the scatter", "scaling": "label scaling"} | {
    "terms": "terms", "training_set": "training set", "regularization": "regularization", "censors": "censored terms",
}  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """What a posterior is of, and how it is sampled.

    Attributes
    ----------
    pixels
        Numbers of the pixels that are asked for, in order, shape (pixel,). All arrays below are of these pixels only.
    terms, label_names, label_units
        Texts of the terms, the constant being "1", and names and units of the labels.
    wavelength
        Shape (pixel,), or None.
    flux, ivar
        Shape (star, pixel); None where they are too large to be held.
    constant
        Further constant data by name, with their dimensions: labels, design, priors.
    settings, model
        How it is sampled, and hashes of the model (`model_hashes`): numbers and texts by name.
    wavelength_unit
        Of the wavelengths, None where it is not known.

    """

    pixels: np.ndarray
    terms: list[str]
    label_names: tuple[str, ...]
    label_units: Mapping[str, str]
    wavelength: np.ndarray | None
    flux: np.ndarray | None
    ivar: np.ndarray | None
    constant: Mapping[str, tuple[tuple[str, ...], np.ndarray]]
    settings: Mapping[str, str | int | float]
    model: Mapping[str, str]
    wavelength_unit: str | None = None

    def variables(self, keep_draws: bool) -> dict[str, dict[str, Variable]]:
        """What is filled pixel by pixel, by group."""
        return {"summary": SUMMARY} | ({"posterior": DRAWS, "sample_stats": STATS} if keep_draws else {})

    @property
    def sizes(self) -> dict[str, int]:
        """Length of every dimension of the filled arrays."""
        n_terms = len(self.terms)
        return {
            "chain": int(self.settings["n_chains"]), "draw": int(self.settings["n_draws"]), "pixel": len(self.pixels),
            "term": n_terms, "term_": n_terms, "parameter": 1 + n_terms, "quantile": len(QUANTILES),
        }  # fmt: skip

    def shape(self, variable: Variable) -> tuple[int, ...]:
        """Shape of a filled array."""
        return tuple(self.sizes[dim] for dim in variable.dims)

    @property
    def draws_size(self) -> int:
        """Bytes of all draws and their statistics."""
        filled = [*DRAWS.values(), *STATS.values()]
        return sum(int(np.prod(self.shape(one))) * np.dtype(one.dtype).itemsize for one in filled)


def model_hashes(**parts: Any) -> dict[str, str]:
    """A short hash of each part of a model, an array, a text, or a sequence of these; None is left out."""
    return {name: _hash(part) for name, part in parts.items() if part is not None}


def _hash(part: Any) -> str:
    if isinstance(part, np.ndarray):
        plain = np.ascontiguousarray(part, dtype="<f8")
        content = repr(plain.shape).encode() + plain.tobytes()
    elif isinstance(part, str):
        content = part.encode()
    else:
        content = "".join(_hash(one) for one in part).encode()
    return sha256(content).hexdigest()[:32]


def differences(attributes: Mapping[Any, Any], prefix: str, wanted: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Attributes with this prefix that are not as wanted: what is found and what is wanted, as texts."""
    found = {name: str(attributes.get(f"{prefix}{name}", "absent")) for name in wanted}
    return {name: (found[name], str(value)) for name, value in wanted.items() if found[name] != str(value)}


def check_model(attributes: Mapping[Any, Any], model: Mapping[str, str], where: str) -> None:
    """Raise ValueError that says in what the model of a posterior differs from this one."""
    other = differences(attributes, MODEL, model)
    if other:
        named = ", ".join(_WHAT.get(name, name) for name in other)
        raise ValueError(
            f"{where} is of another model: it differs in {named}. Sample again, or read the model that it is of"
        )


def frame(subject: Subject, keep_draws: bool) -> xr.DataTree:
    """The tree without what is filled pixel by pixel: coordinates, data and attributes."""
    groups = {"constant_data": _dataset(subject, subject.constant)}
    if subject.flux is not None and subject.ivar is not None:
        groups = {
            "observed_data": _dataset(subject, {"flux": (("star", "pixel"), subject.flux)}),
            "constant_data": _dataset(subject, {"ivar": (("star", "pixel"), subject.ivar), **subject.constant}),
        }
    for group, variables in subject.variables(keep_draws).items():
        dims = {dim for variable in variables.values() for dim in variable.dims}
        groups[group] = xr.Dataset(coords=_coordinates(subject, dims))
    tree = xr.DataTree.from_dict({f"/{name}": dataset for name, dataset in groups.items()})
    tree.attrs = {"format": _FORMAT, "bayes_cannon": version("bayes-cannon"), "inference_library": "numpyro"}
    units = [subject.label_units.get(name, "") for name in subject.label_names]
    tree.attrs |= {"label_names": ", ".join(subject.label_names), "label_units": ", ".join(units)}
    tree.attrs |= {f"{SETTING}{name}": value for name, value in subject.settings.items()}
    tree.attrs |= {f"{MODEL}{name}": value for name, value in subject.model.items()}
    return tree


def _dataset(subject: Subject, variables: Mapping[str, tuple[tuple[str, ...], np.ndarray]]) -> xr.Dataset:
    dims = {dim for axes, _ in variables.values() for dim in axes}
    return xr.Dataset(variables, _coordinates(subject, dims))


def _coordinates(subject: Subject, dims: set[str]) -> dict[str, Any]:
    terms = np.array(subject.terms, dtype=object)
    of_stars = subject.constant["labels"][1] if subject.flux is None and "star" in dims else subject.flux
    known = {
        "chain": np.arange(subject.sizes["chain"]), "draw": np.arange(subject.sizes["draw"]), "pixel": subject.pixels,
        "term": terms, "term_": terms, "parameter": np.array(["s", *subject.terms], dtype=object),
        "quantile": np.array(QUANTILES), "star": np.arange(0 if of_stars is None else len(of_stars)),
        "label": np.array(subject.label_names, dtype=object),
    }  # fmt: skip
    coordinates: dict[str, Any] = {dim: known[dim] for dim in known if dim in dims}
    if subject.wavelength is not None and "pixel" in dims:
        unit = {} if subject.wavelength_unit is None else {"units": subject.wavelength_unit}
        coordinates["wavelength"] = ("pixel", subject.wavelength, unit)
    if "label" in dims:
        units = [subject.label_units.get(name, "") for name in subject.label_names]
        coordinates["label_unit"] = ("label", np.array(units, dtype=object))
    return coordinates


def attributes_of(name: str, variable: Variable) -> dict[str, Any]:
    """Attributes of a filled array."""
    attributes: dict[str, Any] = {"long_name": variable.about} if variable.about else {}
    if name == "status":
        attributes["flag_values"] = [int(status) for status in PosteriorStatus]
        attributes["flag_meanings"] = " ".join(status.name.lower() for status in PosteriorStatus)
        attributes |= {f"message_{status.name.lower()}": status.message for status in PosteriorStatus}
    return attributes


def block_arrays(block: "ThetaBlock", keep_draws: bool) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of finished pixels by group, but for ``finished``; statistics that were not made are left out."""
    one = block.posterior
    summary = {
        "theta_mean": one.mean, "theta_covariance": one.covariance, "theta_quantiles": one.theta_quantiles,
        "s_mean": one.s[:, 0], "s_sd": one.s[:, 1], "s2_mean": one.s[:, 2], "s_quantiles": one.s_quantiles,
    }  # fmt: skip
    same = ("r_hat", "ess_bulk", "ess_tail", "k_hat", "divergent", "deep", "n_steps", "status")
    groups = {"summary": summary | {name: getattr(one, name) for name in same}}
    if keep_draws:
        groups |= {"posterior": {"theta": block.theta, "s": block.s}, "sample_stats": dict(block.stats)}
    return groups


def at_pixels(variable: Variable, rows: Any) -> tuple[Any, ...]:
    """Index of some pixels in a filled array."""
    axis = variable.dims.index("pixel")
    return (*(slice(None),) * axis, rows)


def first_run(finished: np.ndarray, status: np.ndarray) -> np.ndarray:
    """Finished pixels that a run which goes on may leave out, shape (pixel,).

    While any is missing those of the second run are made again: which of them share a block, and with it their last
    digits, depends on all that failed the first.
    """
    if finished.all():
        return finished
    again = ~np.isin(status, [PosteriorStatus.CONVERGED, PosteriorStatus.NO_INFORMATION, PosteriorStatus.IMPROPER])
    return finished & ~again


class MemoryPosterior:
    """A tree that is filled in memory."""

    def __init__(self, subject: Subject, keep_draws: bool):
        self._subject, self._keep_draws = subject, keep_draws
        self._arrays = {
            group: {name: np.full(subject.shape(one), one.fill, dtype=one.dtype) for name, one in variables.items()}
            for group, variables in subject.variables(keep_draws).items()
        }

    @property
    def resumable(self) -> np.ndarray:
        """Which of the pixels need not be sampled, shape (pixel,)."""
        return self._arrays["summary"]["finished"].copy()

    def write(self, block: "ThetaBlock") -> None:
        """Put finished pixels in their place."""
        rows = np.searchsorted(self._subject.pixels, block.pixels)
        variables = self._subject.variables(self._keep_draws)
        for group, arrays in block_arrays(block, self._keep_draws).items():
            for name, values in arrays.items():
                self._arrays[group][name][at_pixels(variables[group][name], rows)] = values
        self._arrays["summary"]["finished"][rows] = True

    def tree(self) -> xr.DataTree:
        """The tree with all that was written."""
        tree = frame(self._subject, self._keep_draws)
        for group, variables in self._subject.variables(self._keep_draws).items():
            filled = {
                name: (one.dims, self._arrays[group][name], attributes_of(name, one)) for name, one in variables.items()
            }
            tree[group].dataset = tree[group].to_dataset().assign(filled)
        return tree


def theta_posterior(tree: xr.DataTree, n_pixels: int) -> ThetaPosterior:
    """The summary of all pixels of the model; ``NO_INFORMATION`` where none was sampled."""
    summary = tree["summary"].to_dataset()
    values = {name: summary[name].to_numpy() for name in SUMMARY}
    part = ThetaPosterior(
        mean=values["theta_mean"], covariance=values["theta_covariance"],
        s=np.column_stack([values[name] for name in ("s_mean", "s_sd", "s2_mean")]),
        theta_quantiles=values["theta_quantiles"], s_quantiles=values["s_quantiles"], r_hat=values["r_hat"],
        ess_bulk=values["ess_bulk"], ess_tail=values["ess_tail"], k_hat=values["k_hat"],
        divergent=values["divergent"], deep=values["deep"], n_steps=values["n_steps"], status=values["status"],
    )  # fmt: skip
    status = np.full(n_pixels, PosteriorStatus.NO_INFORMATION, dtype=int)
    whole = ThetaPosterior.empty(n_pixels, part.mean.shape[1], status)
    finished = values["finished"].astype(bool)
    whole.place(summary["pixel"].to_numpy()[finished], part.at(finished))
    return whole


def read_posterior(path: str | os.PathLike) -> xr.DataTree:
    """Open a posterior, a Zarr store or a netCDF file; arrays are read when they are used.

    Raises
    ------
    FileNotFoundError
        If nothing is there.
    ImportError
        For a Zarr store where the extra ``bayes-cannon[zarr]`` is not installed.
    ValueError
        If it is no posterior of this package, or it is damaged, naming what was lost.

    """
    path = recover(path)
    tree = open_posterior(path)
    if path.is_dir() and seal_of(path) is not None:
        lost = list(damaged_chunks(path))
        if lost:
            tree.close()
            raise ValueError(
                f"{path} is damaged: {len(lost)} of its chunks are lost or not as they were written, such as {lost[0]}."
                " Sample again with the same store, which makes them anew"
            )
    return tree


def open_posterior(path: Path) -> xr.DataTree:
    """The tree in a store or file, as by `read_posterior`, which of a store may lack chunks."""
    if not path.exists():
        raise FileNotFoundError(f"there is no posterior {path}")
    remedy = "Give a store that CannonModel.sample or bayes-cannon sample made, or a tree that was saved with to_netcdf"
    if path.is_dir():
        need_zarr(path)
    try:
        tree = _open_store(path) if path.is_dir() else _open_file(path)
        check_posterior(tree, f"{path}")
    except UNREADABLE as error:
        if str(path) in str(error) and type(error) is ValueError:
            raise
        raise ValueError(f"{path} is no posterior: {str(error) or type(error).__name__}. {remedy}") from error
    return tree


def _open_store(path: Path) -> xr.DataTree:
    if seal_of(path) is None and (path / MARK).is_file():
        raise ValueError(f"it is damaged: its group {CHECKSUMS} is lost")
    check_store(path)
    for name, reason in refused_arrays(path).items():
        raise ValueError(f"its array {name} is not read: {reason}")
    tree = xr.open_datatree(path, engine="zarr", consolidated=False)
    if CHECKSUMS in tree.children:
        del tree[CHECKSUMS]
    return tree


def _open_file(path: Path) -> xr.DataTree:
    check(path, hdf5=True)
    return xr.open_datatree(path, engine="h5netcdf")


def check_posterior(tree: xr.DataTree, where: str) -> None:
    """Raise ValueError unless the tree is a posterior of theta."""
    if tree.attrs.get("format") != _FORMAT or "summary" not in tree.children:
        found = tree.attrs.get("format", "absent")
        raise ValueError(f"{where} is no posterior of theta: its attribute 'format' is {found!r}, not {_FORMAT!r}")
    summary = tree["summary"].to_dataset()
    for name, variable in SUMMARY.items():
        found = summary[name].dims if name in summary else "absent"
        if found != variable.dims or summary[name].dtype.kind not in "fiub":
            raise ValueError(
                f"{where} is no valid posterior: summary/{name} must be numbers over {variable.dims}, it is {found}"
            )
    if "pixel" not in summary.variables or summary["pixel"].dtype.kind not in "iu":
        raise ValueError(f"{where} is no valid posterior: summary/pixel must be the numbers of the pixels")


def need_zarr(path: Path) -> None:
    """Raise ImportError that names the extra where zarr is not installed."""
    if find_spec("zarr") is None:
        raise ImportError(f"{path} needs the package zarr: install bayes-cannon[zarr]")
