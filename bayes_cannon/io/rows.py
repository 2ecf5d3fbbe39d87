"""Spectra of several files as one: rows after rows, columns that not all have, units and texts that may differ.

`joined` makes `Spectra` of them, `Rows` what a store holds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from bayes_cannon.io.spectra import Spectra

_MOST = 12
"""Different texts of one attribute that are kept."""


def joined(parts: Sequence[Spectra]) -> Spectra:
    """Spectra on the same pixels, one after the other; nothing is merged.

    A column that a part lacks is NaN there, an identifier empty. A unit on which the parts do not agree is left out,
    and named in ``attrs["units_differ"]``. Attributes hold all different values. ``noise_correlation`` is a
    `MeanCorrelation`.
    """
    sizes = [part.n_stars for part in parts]
    units: Mapping[str, str] = {}
    attrs: Mapping[str, Sequence[str]] = {}
    correlation = MeanCorrelation()
    for part in parts:
        units, attrs = merged_units(units, part.units), merged_texts(attrs, part.attrs)
        correlation = correlation.with_more(part.noise_correlation, part.n_stars)
    more = about(units, attrs)
    return Spectra(
        flux=np.concatenate([part.flux for part in parts]),
        ivar=np.concatenate([part.ivar for part in parts]),
        wavelength=parts[0].wavelength,
        star_id=np.concatenate([part.ids for part in parts]),
        labels=union([part.labels for part in parts], sizes, np.nan),
        identifiers=union([part.identifiers for part in parts], sizes, ""),
        noise_correlation=correlation.mean,
        units=more["units"],
        attrs=more["attrs"] | correlation.said(sum(sizes)),
    )


@dataclass(frozen=True)
class MeanCorrelation:
    """Correlation of the noise between pixels, mean over the spectra that bring one.

    Attributes
    ----------
    total
        Sum over the spectra, shape (pixel, other pixel), or None.
    n_stars
        How many spectra these are.

    """

    total: np.ndarray | None = None
    n_stars: int = 0

    def with_more(self, correlation: np.ndarray | None, n_stars: int) -> Self:
        """With that of further spectra, of which it is the mean."""
        if correlation is None or not n_stars:
            return self
        total = n_stars * correlation if self.total is None else self.total + n_stars * correlation
        return type(self)(total, self.n_stars + n_stars)

    @property
    def mean(self) -> np.ndarray | None:
        """The mean, None if no spectrum brings one."""
        return None if self.total is None else self.total / self.n_stars

    def said(self, n_stars: int) -> dict[str, str]:
        """An attribute that tells of how many of all spectra it is, where not of all."""
        partial = 0 < self.n_stars < n_stars
        return {"noise_correlation_of": f"{self.n_stars} of {n_stars} spectra"} if partial else {}


@dataclass(frozen=True)
class Rows:
    """Spectra as a store holds them: ``flux`` and ``ivar`` in float32, ``labels`` in float64, ``identifiers`` texts."""

    flux: np.ndarray
    ivar: np.ndarray
    star_id: np.ndarray
    labels: Mapping[str, np.ndarray]
    identifiers: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.flux)

    @classmethod
    def of(cls, spectra: Spectra, scale: float) -> Self:
        """Spectra with flux over ``scale``; ValueError where float32 cannot hold them."""
        with np.errstate(over="ignore", under="ignore"):
            flux, ivar = (spectra.flux / scale).astype(np.float32), (spectra.ivar * scale**2).astype(np.float32)
        lost = ((spectra.ivar > 0) != (ivar > 0)) | np.isinf(ivar) | (np.isinf(flux) & (spectra.ivar > 0))
        if lost.any():
            row, pixel = (int(index) for index in np.argwhere(lost)[0])
            raise ValueError(
                f"flux {spectra.flux[row, pixel]:.3g} with ivar {spectra.ivar[row, pixel]:.3g} of spectrum {row} at "
                f"pixel {pixel} is beyond single precision in units of {scale:.3g}: bring it to the unit of the others"
            )
        return cls(flux, ivar, spectra.ids, spectra.labels, spectra.identifiers)

    def at(self, rows: slice) -> "Rows":
        """Some of them."""
        labels = {name: values[rows] for name, values in self.labels.items()}
        identifiers = {name: values[rows] for name, values in self.identifiers.items()}
        return Rows(self.flux[rows], self.ivar[rows], self.star_id[rows], labels, identifiers)

    @classmethod
    def none(cls, n_pixels: int) -> Self:
        """No rows."""
        nothing = np.empty((0, n_pixels), np.float32)
        return cls(nothing, nothing, np.empty(0, dtype=str), {}, {})

    @staticmethod
    def joined(parts: Sequence["Rows"]) -> "Rows":
        """One after the other."""
        sizes = [len(part) for part in parts]
        return Rows(
            np.concatenate([part.flux for part in parts]),
            np.concatenate([part.ivar for part in parts]),
            np.concatenate([part.star_id for part in parts]),
            union([part.labels for part in parts], sizes, np.nan),
            union([part.identifiers for part in parts], sizes, ""),
        )


def union(
    parts: Sequence[Mapping[str, np.ndarray]], sizes: Sequence[int], absent: float | str
) -> dict[str, np.ndarray]:
    """Columns by name over the rows of all parts, with a value for where a part lacks one."""
    names = dict.fromkeys(name for part in parts for name in part)
    rows = list(zip(parts, sizes, strict=True))
    return {name: np.concatenate([part.get(name, np.full(n, absent)) for part, n in rows]) for name in names}


def merged_units(units: Mapping[str, str], more: Mapping[str, str]) -> dict[str, str]:
    """Units by name; empty where the two do not agree."""
    agreed = {name: unit if units.get(name, unit) == unit else "" for name, unit in more.items()}
    return {**units, **agreed}


def merged_texts(texts: Mapping[str, Sequence[str]], more: Mapping[str, object]) -> dict[str, list[str]]:
    """The different texts by name, in order, up to `_MOST` and a last one that says that there are more."""
    merged = {name: list(values) for name, values in texts.items()}
    for name, value in more.items():
        values = merged.setdefault(name, [])
        if str(value) not in values and len(values) <= _MOST:
            values.append(str(value) if len(values) < _MOST else "...")
    return merged


def about(units: Mapping[str, str], attrs: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Fields ``units`` and ``attrs`` of `Spectra` from what was merged."""
    differ = [name for name, unit in units.items() if not unit]
    texts = {name: "; ".join(values) for name, values in attrs.items()}
    if differ:
        texts["units_differ"] = ", ".join(differ)
    return {"units": {name: unit for name, unit in units.items() if unit}, "attrs": texts}
