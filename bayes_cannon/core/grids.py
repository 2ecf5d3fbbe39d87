"""Wavelength grids: the pixels that spectra are resampled to, by name, by a rule or by their wavelengths.

Wavelengths are in Angstrom. A pixel reaches half-way to its neighbours: to the midpoint of the two wavelengths, which
is the convention of specutils and of the pixels of a linear grid, or to their geometric mean where pixels are of one
width in ln(wavelength). On APOGEE's grid the two differ by 2e-6 of a pixel, on LAMOST's by 3e-5. The outermost pixels
reach as far outwards as inwards.

Where a step is more than `GAP` times what is usual on either side of it there is a gap, such as one between two chips:
the pixels beside it are as wide as those next to them, and the gap belongs to none.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from bayes_cannon.core.intake import in_unit
from bayes_cannon.core.wavelengths import Medium

GAP = 1.5
"""Steps longer than the usual ones, the median of `REACH` on either side, by this factor are gaps."""
REACH = 5
MOST_PIXELS = 2_000_000
"""Of a grid; the longest echelle spectra have half a million."""

NAMED: dict[str, tuple[float, float, int, bool]] = {
    "apogee": (4.179, 6e-6, 8575, True),
    "boss": (3.5523, 1e-4, 4648, True),
    "desi": (3600.0, 0.8, 7781, False),
    "gaia-rvs": (8460.0, 0.1, 2401, False),
    "gaia-xp": (3360.0, 20.0, 343, False),
    "lamost": (3.5682, 1e-4, 3909, True),
}
"""Grids that surveys publish spectra on, all in vacuum: start and step in Angstrom or log10(Angstrom), pixels, whether
it is the logarithm. Of the files apStar, aspcapStar and mwmStar; mwmStar of BOSS; the arms of coadd together; RVS and
XP sampled mean spectra of Gaia DR3; LAMOST low resolution since DR6."""


@dataclass(frozen=True, eq=False)
class Cells:
    """Pixels without holes: their edges, with those of the gaps between them.

    Attributes
    ----------
    edges
        Rising, shape (cell + 1,).
    pixel
        Index of the pixel that each cell is, -1 for a gap, shape (cell,).

    """

    edges: np.ndarray
    pixel: np.ndarray

    @property
    def n_pixels(self) -> int:
        """Number of pixels."""
        return int(self.pixel[-1]) + 1

    @property
    def enclosed(self) -> np.ndarray:
        """The pixels by how many edges lie below, -1 outside of all, shape (cell + 2,)."""
        return np.concatenate([[-1], self.pixel, [-1]])


@dataclass(frozen=True, eq=False)
class Grid:
    """Pixels by their wavelengths and edges. Values are checked when it is made; `grid_of` makes it.

    Attributes
    ----------
    wavelength
        Centre of each pixel, Angstrom, strictly rising, shape (pixel,).
    edges
        Lower edge of each pixel and the upper one of the last, Angstrom, shape (pixel + 1,).
    name
        By which it is known, empty if by none.
    medium
        Of the wavelengths; None is not known.
    upper
        Upper edge of each pixel, Angstrom, shape (pixel,). It is the next pixel's lower one, but where there is a gap.

    Raises
    ------
    ValueError
        For wavelengths that do not rise, or are not within their edges, naming the first.

    """

    wavelength: np.ndarray
    edges: np.ndarray
    name: str = ""
    medium: Medium | None = None
    upper: np.ndarray = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        wavelength = checked_wavelength(self.wavelength)
        edges = np.array(self.edges, dtype=float)
        if edges.shape != (wavelength.size + 1,):
            raise ValueError(f"edges must have shape ({wavelength.size + 1},), one more than pixels; got {edges.shape}")
        upper = edges[1:] if self.upper is None else np.array(self.upper, dtype=float)
        inside = (edges[:-1] < wavelength) & (wavelength < upper) & (upper <= edges[1:])
        if upper.shape != wavelength.shape or not inside.all():
            pixel = int(np.flatnonzero(~inside)[0]) if upper.shape == wavelength.shape else 0
            raise ValueError(
                f"pixel {pixel} at {wavelength[pixel]} Angstrom is not within its edges, or they are not in order"
            )
        if self.medium not in (None, "vacuum", "air"):
            raise ValueError(f"medium must be 'vacuum', 'air' or None for not known, got {self.medium!r}")
        for name, array in (("wavelength", wavelength), ("edges", edges), ("upper", upper)):
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    @property
    def n_pixels(self) -> int:
        """Number of pixels P."""
        return self.wavelength.size

    @cached_property
    def width(self) -> np.ndarray:
        """Width of each pixel, Angstrom, shape (pixel,)."""
        return self.upper - self.edges[:-1]

    @cached_property
    def cells(self) -> Cells:
        """Pixels and gaps, one after the other."""
        return cells(self.edges[:-1], self.upper)

    def __repr__(self) -> str:
        first, last = self.wavelength[[0, -1]]
        name = f"{self.name!r}, " if self.name else ""
        return f"Grid({name}{self.n_pixels} pixels from {first:.3f} to {last:.3f} Angstrom, medium={self.medium!r})"


def grid_of(what: Any) -> Grid:
    """The grid that is meant.

    Parameters
    ----------
    what
        A name of `NAMED`, such as ``"apogee"``; ``(first, last, step)``, Angstrom; ``(first, last, step, "log")`` with
        the step in log10(Angstrom) and the ends in Angstrom; or the wavelengths themselves, an array, list or Quantity
        of shape (pixel,). A `Grid` is returned as it is. ``last`` belongs to the grid if steps lead to it.

    Raises
    ------
    ValueError
        For a name that is not known, a rule that gives fewer than two pixels or more than `MOST_PIXELS`, and
        wavelengths that do not rise throughout.

    Examples
    --------
    >>> from bayes_cannon.core.grids import grid_of
    >>> grid_of("apogee")
    Grid('apogee', 8575 pixels from 15100.802 to 16999.807 Angstrom, medium='vacuum')
    >>> grid_of((5000, 5003, 1)).edges
    array([4999.5, 5000.5, 5001.5, 5002.5, 5003.5])
    >>> grid_of((4000, 5000, 1e-4, "log")).n_pixels
    970

    """
    if isinstance(what, Grid):
        return what
    if isinstance(what, str):
        return _named(what)
    if isinstance(what, tuple):
        return _by_rule(what)
    wavelength = checked_wavelength(in_unit(what, "Angstrom", "the wavelengths of a grid")[0])
    return _with_edges(wavelength, log_linear=False)


def checked_wavelength(values: Any) -> np.ndarray:
    """Wavelengths that rise strictly, shape (pixel,), two pixels or more.

    Raises
    ------
    ValueError
        Naming the first pixel that is not as it must be.

    """
    try:
        wavelength = np.array(values, dtype=float)
    except (TypeError, ValueError):
        raise ValueError(f"wavelengths must be numbers, got {values!r:.60}") from None
    if wavelength.ndim != 1 or wavelength.size < 2:
        raise ValueError(f"wavelengths must have shape (pixel,) with two pixels or more, got {wavelength.shape}")
    if wavelength.size > MOST_PIXELS:
        raise ValueError(f"{wavelength.size} pixels are more than the {MOST_PIXELS} that a grid may have")
    bad = np.flatnonzero(~(np.isfinite(wavelength) & (wavelength > 0)))
    if bad.size:
        raise ValueError(f"wavelengths must be positive numbers; got {wavelength[bad[0]]} at pixel {bad[0]}")
    falls = np.flatnonzero(np.diff(wavelength) <= 0)
    if falls.size:
        pixel = falls[0]
        raise ValueError(
            f"wavelengths must rise throughout; after {wavelength[pixel]} at pixel {pixel} comes "
            f"{wavelength[pixel + 1]}. Sort them, and take overlapping orders one by one"
        )
    return wavelength


def pixel_bounds(wavelength: np.ndarray, *, log_linear: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper edge of each pixel, as `bayes_cannon.core.grids` says, each of shape (pixel,).

    Parameters
    ----------
    wavelength
        Centre of each pixel, strictly rising, shape (pixel,).
    log_linear
        Whether pixels are of one width in ln(wavelength).

    """
    x = np.log(wavelength) if log_linear else wavelength
    steps = np.diff(x)
    between = np.sqrt(wavelength[:-1] * wavelength[1:]) if log_linear else (wavelength[:-1] + wavelength[1:]) / 2
    gap, before, after = _gaps(steps)

    def wavelength_at(x: Any) -> Any:
        return np.exp(x) if log_linear else x

    first, last = (after[0] if gap[0] else steps[0]), (before[-1] if gap[-1] else steps[-1])
    above = np.where(gap, wavelength_at(x[1:] - after / 2), between)
    below = np.where(gap, wavelength_at(x[:-1] + before / 2), between)
    return np.append(wavelength_at(x[0] - first / 2), above), np.append(below, wavelength_at(x[-1] + last / 2))


def cells(lower: np.ndarray, upper: np.ndarray) -> Cells:
    """Pixels and the gaps between them, one after the other."""
    gaps = np.flatnonzero(upper[:-1] < lower[1:])
    edges = np.insert(np.append(lower, upper[-1]), gaps + 1, upper[gaps])
    return Cells(edges, np.insert(np.arange(lower.size), gaps + 1, -1))


def _gaps(steps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which steps are gaps, and the usual steps before and after each, all of shape (pixel - 1,)."""
    ratio = steps[1:] / steps[:-1]
    if (ratio < GAP).all() and (ratio * GAP > 1).all():
        return np.zeros(steps.shape, dtype=bool), steps, steps
    windows = sliding_window_view(np.pad(steps, REACH, mode="symmetric"), REACH)
    before, after = np.median(windows[: steps.size], axis=1), np.median(windows[REACH + 1 :], axis=1)
    return steps > GAP * np.maximum(before, after), before, after


def _with_edges(wavelength: np.ndarray, *, log_linear: bool, name: str = "", medium: Medium | None = None) -> Grid:
    lower, upper = pixel_bounds(wavelength, log_linear=log_linear)
    return Grid(wavelength, np.append(lower, upper[-1]), name, medium, upper)


@cache
def _named(name: str) -> Grid:
    if name not in NAMED:
        near = get_close_matches(name, NAMED, n=1)
        hint = f". Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"there is no grid {name!r}; there are {', '.join(NAMED)}{hint}")
    start, step, n_pixels, log = NAMED[name]
    numbers = start + step * np.arange(n_pixels)
    return _with_edges(10.0**numbers if log else numbers, log_linear=log, name=name, medium="vacuum")


def _by_rule(rule: tuple) -> Grid:
    log = len(rule) == 4 and rule[3] == "log"
    if not (len(rule) == 3 or log):
        raise ValueError(f'a grid is (first, last, step) or (first, last, step, "log"), got {rule!r:.80}')
    try:
        first, last, step = (float(number) for number in rule[:3])
    except (TypeError, ValueError):
        raise ValueError(f"first, last and step of a grid must be numbers, got {rule!r:.80}") from None
    if not (np.isfinite([first, last, step]).all() and 0 < first < last and step > 0):
        raise ValueError(f"a grid needs 0 < first < last and step > 0, in Angstrom; got {rule!r:.80}")
    start, end = (np.log10(first), np.log10(last)) if log else (first, last)
    steps = (end - start) / step + 1e-6  # Rounding must not cost the last pixel.
    if not 1 <= steps < MOST_PIXELS:
        pixels = f"{steps + 1:.0f} pixels" if steps >= 1 else "fewer than two"
        in_log = " The step is in log10(Angstrom)." if log else ""
        raise ValueError(f"the grid {rule!r} has {pixels}: it must have 2 to {MOST_PIXELS}.{in_log}")
    numbers = start + step * np.arange(int(steps) + 1)
    name = f"{first:g} to {last:g} Angstrom by {step:g}{' in log10' if log else ''}"
    return _with_edges(10.0**numbers if log else numbers, log_linear=log, name=name)
