"""Decoded spectra of a survey on the pixels of a model: at rest, in one medium, arms joined, by one interpolation.

Each arm is resampled by itself (`core.resampling`), with its own edges, from its own medium and frame; where arms
overlap, the new pixels are averaged by their ivar. Between chips ivar is 0.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
from astropy.units import Unit
from scipy.sparse import csr_array, diags_array

from bayes_cannon.core.checks import unusable
from bayes_cannon.core.grids import NAMED, Cells, Grid, cells, grid_of, pixel_bounds
from bayes_cannon.core.resampling import (
    GOOD_SHARE,
    Overlap,
    overlaps_at_rest,
    propagated,
    resampled,
    rising,
    weights,
)  # fmt: skip
from bayes_cannon.core.wavelengths import LIGHT, Medium
from bayes_cannon.io import model_file
from bayes_cannon.io.damage import check_fits, reading
from bayes_cannon.io.readers.survey_spectra import ANGSTROM, DecodedSegment, DecodedSpectra
from bayes_cannon.io.spectra import Spectra, read_spectra_file
from bayes_cannon.io.spectra_variables import RESERVED

MEDIUM = "wavelength_medium"
"""Attribute of spectra that says "vacuum" or "air"."""
FRAME = "wavelength_frame"
"""Attribute of spectra that says in which frame their wavelengths are, such as "rest", where it is known."""
WAVELENGTHS = (MEDIUM, FRAME)
"""What a model keeps of these, in its provenance."""
VELOCITY = "velocity_used"
"""Label with the radial velocity by which a spectrum was brought to rest, km/s."""
_HDF5 = b"\x89HDF\r\n\x1a\n"


def on_grid(decoded: DecodedSpectra, grid: Grid, *, covariance: bool = False) -> Spectra:
    r"""Spectra on a grid, at rest.

    Arms a with flux :math:`y_a` and inverse variance :math:`w_a` on the new pixels make
    :math:`y = \sum_a w_a y_a / \sum_a w_a` and :math:`w = \sum_a w_a`.

    Parameters
    ----------
    decoded
        What `io.decoding.decode` made of a file.
    grid
        The pixels wanted. If its medium and that of the spectra are known and differ, wavelengths are converted.
    covariance
        Whether to give ``noise_correlation``, shape (pixel, pixel): how the noise of pixels is correlated by
        resampling, and by the covariance of the file where there is one. It is the mean over the spectra, in which
        pixels with ivar = 0 count as uncorrelated. `noise_covariance` makes of it what `scatter.Given` takes.

    Returns
    -------
    spectra
        As many as there were, also those without a usable pixel. Columns of numbers became labels, with the velocity
        used in km/s as ``velocity_used``; columns of texts identifiers. ``attrs`` say what was decided.

    Raises
    ------
    ValueError
        For a velocity that is not known, flux that is not finite where ivar is positive, and a covariance that does
        not fit into memory, naming the spectrum.

    Examples
    --------
    >>> arm = tc.io.Segment([5000.0, 5001.0, 5002.0, 5003.0], flux=[1.0, 3.0, 5.0, 7.0], noise=np.full(4, 0.5))
    >>> spectra = tc.io.SurveySpectra("mine", [arm], {"OBJECT": ["Sun"]}, "error", [0.0], ["combined"])
    >>> tc.io.on_grid(tc.io.decode(spectra), tc.io.find_grid((5000.5, 5002.5, 2))).flux
    array([[2., 6.]])

    """
    n_stars = decoded.source.n_spectra
    doppler = np.asarray(decoded.doppler, dtype=float)
    for k in map(int, np.flatnonzero(~(np.isfinite(doppler) & (doppler > 0)))):
        raise ValueError(
            f"the velocity of {_whose(decoded, int(k))} is not known (its Doppler factor is {doppler[k]}): leave the "
            'spectrum out, give its velocity, or leave the wavelengths as they are with velocity="none"'
        )
    arms = [_Arm.of(decoded, segment) for segment in decoded.segments]
    flux, ivar = np.zeros((n_stars, grid.n_pixels)), np.zeros((n_stars, grid.n_pixels))
    arm_ivars = []
    for arm in arms:
        new_flux, new_ivar = resampled(arm.flux, arm.ivar, overlaps_at_rest(arm.cells, doppler, grid, decoded.medium))
        if arm.covariance is not None:
            for n, noise in _covariances(arm, overlaps_at_rest(arm.cells, doppler, grid, decoded.medium)):
                variance = noise.diagonal()
                new_ivar[n] = np.divide(1.0, variance, out=np.zeros(variance.shape), where=variance > 0)
        arm_ivars.append(np.asarray(new_ivar))
        ivar += new_ivar
        # A running mean: where one arm alone contributes its flux stays as it is, bit for bit.
        flux += np.divide(new_ivar, ivar, out=np.zeros(ivar.shape), where=ivar > 0) * (new_flux - flux)
    correlation = None
    if covariance:
        check_fits("the correlation of the noise between pixels", 8 * grid.n_pixels**2)
        noises = [_covariances(arm, overlaps_at_rest(arm.cells, doppler, grid, decoded.medium)) for arm in arms]
        correlation = _mean_correlation(noises, arm_ivars, ivar)
    return _as_spectra(decoded, grid, flux, ivar, correlation)


@dataclass(frozen=True)
class _Arm:
    """A segment with rising wavelengths: its pixels, flux and ivar, and the covariance of its flux or None."""

    cells: Cells
    flux: np.ndarray
    ivar: np.ndarray
    covariance: np.ndarray | None

    @classmethod
    def of(cls, decoded: DecodedSpectra, segment: DecodedSegment) -> Self:
        wavelength, turned = rising(segment.wavelength)
        _check(decoded, segment)
        order = slice(None, None, -1) if turned else slice(None)
        return cls(
            _cells(wavelength.tobytes(), segment.log_linear),
            segment.flux[:, order],
            segment.ivar[:, order],
            None if segment.covariance is None else segment.covariance[:, order, order],
        )


@lru_cache(maxsize=8)
def _cells(wavelength: bytes, log_linear: bool) -> Cells:
    """Of the same pixels in every file of a survey."""
    return cells(*pixel_bounds(np.frombuffer(wavelength), log_linear=log_linear))


def _check(decoded: DecodedSpectra, segment: DecodedSegment) -> None:
    """Raise for the first ivar, or flux with ivar, that is no number that can be used."""
    for name, bad in zip(("flux", "ivar"), reversed(unusable(segment.flux, segment.ivar)), strict=True):
        for k, pixel in np.argwhere(bad)[:1]:
            arm = f" of {segment.name!r}" if segment.name else ""
            raise ValueError(
                f"{name}{arm} is {getattr(segment, name)[k, pixel]} at pixel {pixel} "
                f"({segment.wavelength[pixel]:.3f} Angstrom) of {_whose(decoded, k)}: ivar must be finite and not "
                "negative, and flux finite where ivar is positive"
            )


def _covariances(arm: _Arm, overlaps: Iterator[tuple[np.ndarray, Overlap]]) -> Iterator[tuple[int, Any]]:
    """Index of each spectrum, and the covariance of its resampled flux, shape (new pixel, new pixel)."""
    for stars, overlap in overlaps:
        for n in stars:
            ivar = arm.ivar[n]
            variance = np.divide(1.0, ivar, out=np.zeros(ivar.shape), where=ivar > 0)
            yield n, propagated(weights(overlap, ivar), variance if arm.covariance is None else arm.covariance[n])


def _mean_correlation(
    noises: Sequence[Iterator[tuple[int, Any]]], arm_ivars: Sequence[np.ndarray], ivar: np.ndarray
) -> np.ndarray:
    """The sum over arms of sqrt(var) (w_a / w) C_a (w_a / w) sqrt(var), with var = 1 / w, mean over the spectra."""
    total: Any = csr_array((ivar.shape[1], ivar.shape[1]))
    root = np.sqrt(ivar)
    for arm_noises, arm_ivar in zip(noises, arm_ivars, strict=True):
        for n, noise in arm_noises:
            scale = diags_array(np.divide(arm_ivar[n], root[n], out=np.zeros(root[n].shape), where=root[n] > 0))
            total = total + scale @ noise @ scale
    dense: np.ndarray = (total.toarray() if hasattr(total, "toarray") else np.array(total)) / len(ivar)
    np.fill_diagonal(dense, 1.0)
    return dense


def _as_spectra(
    decoded: DecodedSpectra, grid: Grid, flux: np.ndarray, ivar: np.ndarray, correlation: np.ndarray | None
) -> Spectra:
    """With what the file says of each spectrum, and what was decided."""
    source = decoded.source
    identifiers: dict[str, Any] = {**source.identifiers, "which": source.which}
    labels, left = {}, []
    for name, column in source.columns.items():
        values = np.asarray(column)
        if isinstance(column, np.ma.MaskedArray) and values.dtype.kind in "fiub":
            values = np.ma.filled(column.astype(float), np.nan)
        if name in RESERVED or values.ndim != 1 or values.dtype.kind not in "fiubSUO":
            left.append(name)
        elif values.dtype.kind in "SUO":
            identifiers.setdefault(name, values)
        elif name not in identifiers:
            labels[name] = values.astype(float) if values.dtype.kind == "b" else values
    labels[VELOCITY] = LIGHT * (np.asarray(decoded.doppler, dtype=float) - 1)
    units = {name: str(unit) for name, unit in source.units.items() if name in labels and unit is not None}
    units |= {"wavelength": ANGSTROM, VELOCITY: "km/s"}
    if source.flux_unit is not None:
        units["flux"] = source.flux_unit
    medium, said = _medium(decoded.medium, grid.medium)
    attrs: dict[str, str | float | int] = {
        **decoded.decisions,
        "reader": source.reader,
        "grid": grid.name or repr(grid),
        "medium_of_grid": said,
        "resampling": f"flux conserving; ivar 0 where less than {GOOD_SHARE:.0%} of a pixel is covered by good ones",
    }
    if medium is not None:
        attrs[MEDIUM] = medium
    if attrs.get("frame", "not known") != "not known":
        attrs[FRAME] = attrs["frame"]
    if left:
        attrs["columns_left_out"] = ", ".join(left)
    return Spectra(
        flux, ivar, grid.wavelength, source.star_id, labels, units, attrs,
        identifiers=identifiers, noise_correlation=correlation,
    )  # fmt: skip


def _medium(of_spectra: Medium | None, of_grid: Medium | None) -> tuple[Medium | None, str]:
    """Medium of the wavelengths of the result, None where it is not sure, and what was decided, in words."""
    if of_grid is None:
        return of_spectra, f"not known: taken as that of the spectra, {of_spectra or 'not known either'}"
    if of_spectra is None:
        return None, f"{of_grid}; that of the spectra is not known: nothing was converted"
    if of_spectra == of_grid:
        return of_grid, f"{of_grid}, as that of the spectra"
    return of_grid, f"{of_grid}; wavelengths were converted from {of_spectra} (Ciddor 1996)"


def noise_covariance(spectra: Spectra) -> np.ndarray:
    """Covariance of the noise of all spectra, as `scatter.Given` takes it, shape (pixel, pixel).

    It is ``noise_correlation`` times the usual errors of both pixels, the square roots of the median variance over the
    spectra that have ivar > 0. It can be made after spectra were divided by their continuum, which changes errors but
    no correlation. A pixel that no spectrum has gets the median variance of the others; it takes no part in training.

    Parameters
    ----------
    spectra
        From `bayes_cannon.io.read_spectra` or `on_grid` with ``covariance=True``.

    Raises
    ------
    ValueError
        If they bring no correlation, or no pixel has ivar > 0.

    Examples
    --------
    >>> spectra = tc.io.Spectra(np.ones((2, 3)), np.full((2, 3), 4.0), noise_correlation=np.eye(3))
    >>> tc.scatter.Given(tc.io.noise_covariance(spectra)).covariance.diagonal()
    array([0.25, 0.25, 0.25])

    """
    if spectra.noise_correlation is None:
        raise ValueError(
            "the spectra bring no noise_correlation: read them with covariance=True, or make them by "
            "io.gridding.on_grid(..., covariance=True)"
        )
    variance = np.full(spectra.n_pixels, np.nan)
    for pixel, ivar in enumerate(np.asarray(spectra.ivar).T):
        if (ivar > 0).any():
            variance[pixel] = np.median(1 / ivar[ivar > 0])
    if np.isnan(variance).all():
        raise ValueError("no spectrum has a pixel with ivar > 0")
    error = np.sqrt(np.where(np.isnan(variance), np.nanmedian(variance), variance))
    return spectra.noise_correlation * np.outer(error, error)


def find_grid(what: Any) -> Grid:
    """The grid that is meant, also where it is that of a file.

    Parameters
    ----------
    what
        Whatever `core.grids.grid_of` takes, or a path: of a model, of spectra of this package, or of a text file with
        one wavelength a line (or in the first column), Angstrom. Wavelengths of a file in another unit are converted;
        those without a unit are taken to be Angstrom. The medium is known from spectra that `on_grid` made.

    Raises
    ------
    FileNotFoundError
        If it is the path of no file.
    ValueError
        As `core.grids.grid_of`; for a file that cannot be read or holds no wavelengths, naming it.

    Examples
    --------
    >>> tc.io.find_grid("apogee").n_pixels
    8575
    >>> np.savetxt("pixels.txt", [5000.0, 5001.0, 5002.0])
    >>> tc.io.find_grid("pixels.txt").edges
    array([4999.5, 5000.5, 5001.5, 5002.5])

    """
    if not isinstance(what, os.PathLike) and (not isinstance(what, str) or what in NAMED):
        return grid_of(what)
    path = Path(what)
    if not path.exists():
        if isinstance(what, str) and not path.suffix:
            return grid_of(what)
        raise FileNotFoundError(f"there is no file {path} with the wavelengths of a grid")
    wavelength, unit, medium = _wavelength_of(path)
    if wavelength is None:
        raise ValueError(f"{path} holds no wavelengths: a grid needs them")
    with reading(path, "the wavelengths of a grid", "give them in Angstrom, one a line, rising"):
        grid = grid_of(np.asarray(wavelength, dtype=float) * (Unit(unit).to(ANGSTROM) if unit else 1.0))
    return replace(grid, name=path.name, medium=medium)


def _wavelength_of(path: Path) -> tuple[Any, str | None, Medium | None]:
    """Wavelengths of a file, their unit and medium where they are known."""
    if path.suffix.lower() == ".zarr" or path.suffix.lower() == ".npz":
        return _of_spectra(path)
    with open(path, "rb") as file:
        start = file.read(len(_HDF5))
    if start == _HDF5:
        with reading(path, "the wavelengths of a grid", "is it damaged?"), h5py.File(path) as opened:
            is_model = opened.attrs.get("format") == model_file.FORMAT
        if not is_model:
            return _of_spectra(path)
        stars = model_file.read(path, lambda groups: groups["/stars"])
        return (
            (stars["dispersion"].to_numpy() if "dispersion" in stars else None),
            stars.attrs.get("dispersion_unit"),
            None,
        )
    with reading(path, "the wavelengths of a grid", "give them in Angstrom, one a line"):
        return (
            np.loadtxt(path, usecols=0, ndmin=1, delimiter="," if path.suffix.lower() == ".csv" else None),
            None,
            None,
        )


def _of_spectra(path: Path) -> tuple[Any, str | None, Medium | None]:
    spectra = read_spectra_file(path)
    known: dict[Any, Medium] = {"vacuum": "vacuum", "air": "air"}
    return spectra.wavelength, spectra.units.get("wavelength"), known.get(spectra.attrs.get(MEDIUM))


def _whose(decoded: DecodedSpectra, k: int) -> str:
    source = decoded.source
    return f"{str(source.star_id[k])!r} ({source.reader}, {source.which[k]})"
