"""Gaia spectra as the archive delivers them: sampled XP spectra and RVS spectra, in CSV, ECSV, FITS and VOTable.

A file of the structure RAW, or of the bulk download, has a row for each source with its whole spectrum; one of the
structures INDIVIDUAL and COMBINED has a row for each sample with its wavelength, and says the source in a column, in a
parameter of the table, or only in the name of the file. Where there are no wavelengths they are those of the product
in data release 3 [1]_: XP 336 to 1020 nm in steps of 2, RVS 846 to 870 nm in steps of 0.01; another number of samples
is an error, since a later release may have others.

XP spectra have flux in W / (m2 nm), and no velocity; at their resolution, 100 km/s are a tenth of a sample. RVS spectra
are combined, normalized and at rest. Wavelengths are in vacuum. There are no masks: samples that are not known are NaN.

References
----------
.. [1] Gaia Data Release 3, documentation, 20.12.1 rvs_mean_spectrum and 20.12.4 xp_sampled_mean_spectrum.

"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bayes_cannon.io.damage import reading
from bayes_cannon.io.readers.fits_file import opened
from bayes_cannon.io.readers.gaia_tables import GaiaTable, Look, gaia_spectra, look, read_tables
from bayes_cannon.io.readers.survey_spectra import Frame, Segment, SurveySpectra

_SAMPLES = {"flux", "flux_error"}
_RVS_ONLY = {"combined_transits", "combined_ccds", "deblended_ccds"}
_TO_ANGSTROM = {"nm": 10.0, "angstrom": 1.0, "um": 1e4}
_SOURCE = re.compile(r"(?<!\d)(\d{9,19})(?!\d)")


@dataclass(frozen=True)
class _Product:
    """A kind of spectrum in the archive, and its reader."""

    name: str
    description: str
    first: float
    step: float
    n_samples: int
    frame: Frame | None
    velocity: float
    flux_unit: str
    needs: str | None = None
    extra: str | None = None

    @property
    def wavelength(self) -> np.ndarray:
        """Wavelengths of the samples in data release 3, Angstrom."""
        return 10 * (self.first + self.step * np.arange(self.n_samples))

    def recognizes(self, path: Path) -> bool:
        """Whether the first bytes are those of a table of this product."""
        return _product(path) == self.name

    def read(self, path: Path) -> list[SurveySpectra]:
        """All sources of the file; one record for those that share their wavelengths.

        Raises
        ------
        ValueError
            If the file is not of this format, does not say its source, or has another number of samples than the
            product and no wavelengths.

        """
        wanted = f"expected {self.description}"
        tables = read_tables(path, wanted)
        with reading(path, "spectra", wanted):
            name = path.name if len(tables) == 1 else ""
            return _together([record for table in tables for record in self._spectra(table, name)])

    def _spectra(self, table: GaiaTable, name: str) -> Iterator[SurveySpectra]:
        missing = sorted(_SAMPLES - set(table.columns))
        if missing:
            raise ValueError(f"there is no column {missing[0]} in {', '.join(table.columns)}")
        if not len(table.columns["flux"]):
            raise ValueError("it has no rows")
        if "wavelength" in table.columns and table.columns["flux"].ndim == 1:
            yield from self._from_samples(table, name)
            return
        flux, error = (np.atleast_2d(table.columns[what]) for what in ("flux", "flux_error"))
        wavelength = self.wavelength
        if "wavelength" in table.columns:
            each = np.atleast_2d(table.columns["wavelength"])
            if (each != each[0]).any():
                raise ValueError("the sources do not share their wavelengths")
            wavelength = each[0] * _scale(table)
        elif flux.shape[1] != self.n_samples:
            raise ValueError(
                f"{flux.shape[1]} samples and no wavelengths: {self.name} of data release 3 has {self.n_samples}"
            )
        yield self._record(wavelength, flux, error, _source(table, name, len(flux), one=len(flux) == 1), _facts(table))

    def _from_samples(self, table: GaiaTable, name: str) -> Iterator[SurveySpectra]:
        """Rows of samples, those of a source one after the other; sources that share wavelengths become one record."""
        wavelength = table.columns["wavelength"] * _scale(table)
        source = _source(table, name, len(wavelength), one=True)
        starts = np.flatnonzero(np.concatenate([[True], source[1:] != source[:-1]]))
        ends = np.append(starts[1:], len(source))
        if len(np.unique(source[starts])) < len(starts):
            raise ValueError("the rows of a source do not stand together")
        grids: dict[bytes, list[slice]] = {}
        for start, end in zip(starts, ends, strict=True):
            grids.setdefault(wavelength[start:end].tobytes(), []).append(slice(start, end))
        for rows in grids.values():
            flux, error = (np.array([table.columns[what][row] for row in rows]) for what in ("flux", "flux_error"))
            firsts = [row.start for row in rows]
            columns = {column: values[firsts] for column, values in _facts(table).items()}
            yield self._record(wavelength[rows[0]], flux, error, source[firsts], columns)

    def _record(
        self,
        wavelength: np.ndarray,
        flux: np.ndarray,
        error: np.ndarray,
        source: np.ndarray,
        columns: dict[str, np.ndarray],
    ) -> SurveySpectra:
        return gaia_spectra(
            self.name, Segment(wavelength, flux, error), source, columns,
            velocity=self.velocity, frame=self.frame, flux_unit=self.flux_unit,
        )  # fmt: skip


XP_SAMPLED = _Product(
    name="gaia-xp-sampled",
    description="sampled Gaia XP spectra (CSV, ECSV, FITS, VOTable)",
    first=336.0,
    step=2.0,
    n_samples=343,
    frame=None,
    velocity=float("nan"),
    flux_unit="W / (m2 nm)",
)
RVS = _Product(
    name="gaia-rvs",
    description="Gaia RVS spectra (CSV, ECSV, FITS, VOTable)",
    first=846.0,
    step=0.01,
    n_samples=2401,
    frame="rest",
    velocity=0.0,
    flux_unit="",
)


def _product(path: Path) -> str | None:
    """Name of the product that the first bytes show; a row a sample is told by its first wavelength, in nm."""
    seen = look(path)
    columns = set(seen.columns)
    if not columns >= _SAMPLES:
        return None
    if columns & _RVS_ONLY:
        return RVS.name
    if "flux" in seen.arrays:
        return XP_SAMPLED.name if "source_id" in columns else None
    if "wavelength" not in columns or "wavelength" in seen.arrays:
        return None
    first = _first_wavelength(path, seen)
    return next((p.name for p in (XP_SAMPLED, RVS) if abs(first - p.first) < p.step / 2), None)


def _first_wavelength(path: Path, seen: Look) -> float:
    if seen.kind == "fits":
        with opened(path, "expected a table") as hdus:
            return float(hdus[1].data.field("wavelength")[0]) if len(hdus[1].data) else float("nan")
    try:
        return float(seen.first["wavelength"])
    except (KeyError, ValueError):
        if seen.kind != "votable":
            return float("nan")
    return float(read_tables(path, "expected a table")[0].columns["wavelength"][0])  # It is packed in binary form.


def _source(table: GaiaTable, name: str, n_rows: int, *, one: bool) -> np.ndarray:
    """Source of each row, from its column, or if there is ``one``, from a parameter or the name of the file."""
    if "source_id" in table.columns:
        return np.atleast_1d(table.columns["source_id"])
    said = table.parameters.get("source_id") or table.parameters.get("sourceid")
    found = _SOURCE.search(said or name)
    if not (one and found):
        raise ValueError("nothing in it says the source: neither a column source_id, a parameter nor its name")
    return np.full(n_rows, found[1])


def _scale(table: GaiaTable) -> float:
    """Angstrom in the unit of the wavelengths, which are in nm where it is not said."""
    unit = table.units.get("wavelength", "nm")
    if unit.lower() not in _TO_ANGSTROM:
        raise ValueError(f"wavelengths are in {unit!r}: expected {' or '.join(_TO_ANGSTROM)}")
    return _TO_ANGSTROM[unit.lower()]


def _facts(table: GaiaTable) -> dict[str, np.ndarray]:
    known = _SAMPLES | {"wavelength", "source_id"}
    return {name: values for name, values in table.columns.items() if name not in known and values.ndim == 1}


def _together(spectra: list[SurveySpectra]) -> list[SurveySpectra]:
    """One record for those of the same wavelengths and columns."""
    groups: dict[tuple, list[SurveySpectra]] = {}
    for record in spectra:
        key = (record.segments[0].wavelength.tobytes(), tuple(record.columns))
        groups.setdefault(key, []).append(record)
    return [_concatenated(group) if len(group) > 1 else group[0] for group in groups.values()]


def _concatenated(group: list[SurveySpectra]) -> SurveySpectra:
    first = group[0]
    flux, noise = (np.concatenate([getattr(r.segments[0], what) for r in group]) for what in ("flux", "noise"))
    return replace(
        first,
        segments=[replace(first.segments[0], flux=flux, noise=noise)],
        identifiers={"SOURCE_ID": np.concatenate([record.star_id for record in group])},
        velocity=np.concatenate([record.velocity for record in group]),
        which=np.concatenate([record.which for record in group]),
        columns={name: np.concatenate([record.columns[name] for record in group]) for name in first.columns},
    )
