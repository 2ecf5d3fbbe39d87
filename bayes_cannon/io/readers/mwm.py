"""SDSS-V: mwmStar (combined spectra of a star) and mwmVisit (its visits), which Astra makes of BOSS and APOGEE spectra.

No file was at hand: the reader is written, and tested, by the published data model of Astra, versions 0.5 to 0.8.
HDUs 1 to 4 are tables named BOSS/APO, BOSS/LCO, APOGEE/APO and APOGEE/LCO, without rows where there is no such
spectrum; a row is a spectrum. Wavelengths, in vacuum, are a column, or ``10^(CRVAL + CDELT (p - CRPIX))`` for pixels
p = 1, ..., ``NPIXELS``. What to know of them:

- Combined spectra, and visits that went into them (``in_stack``), are at rest. The other visits were resampled
  without a shift: those of BOSS are in the heliocentric frame, with ``xcsao_v_rad``, those of APOGEE as observed,
  with ``v_rel``. They are a record of their own.
- Mask bits are those of APOGEE_PIXMASK or, for BOSS, of SPPIXMASK, both kept as floating-point numbers.
"""

from pathlib import Path
from typing import Literal

import numpy as np
from astropy.io import fits

from bayes_cannon.io.readers.fits_file import layout, opened
from bayes_cannon.io.readers.fits_values import (
    column,
    log10_wavelengths,
    number,
    present,
    scalar_columns,
    text,
    whole_numbers,
)  # fmt: skip
from bayes_cannon.io.readers.survey_spectra import Frame, Segment, SurveySpectra

_NEEDED = {"FLUX", "IVAR", "PIXEL_FLAGS", "SDSS_ID"}
_MJD: dict[str, str] = {"mwmStar": "MIN_MJD", "mwmVisit": "MJD"}
"""Column that tells the two kinds of file apart."""
_NAMES = (
    "sdss_id",
    "obj",
    "catalogid",
    "healpix",
    "fieldid",
    "field",
    "plate",
    "mjd",
    "fiber",
    "telescope",
    "run2d",
    "apred",
)
_FROM_HEADER = {
    "sdss4_apogee_id": ("SDSS4_APOGEE_ID", "APOGEEID"), "gaia_dr3_source_id": ("GAIA_DR3_SOURCE_ID", "GAIA3_ID"),
}  # fmt: skip
_UNSTACKED: dict[str, tuple[Frame, str]] = {"BOSS": ("heliocentric", "xcsao_v_rad"), "APOGEE": ("observed", "v_rel")}
"""Frame of visits that are not at rest, and the column with their velocity in it."""


class Mwm:
    """Spectra of a star from both instruments and observatories."""

    needs = None
    extra = None

    def __init__(self, kind: Literal["mwmStar", "mwmVisit"]) -> None:
        self.kind = kind
        self.name = f"sdss-{kind.lower()}"
        what = "combined spectra" if kind == "mwmStar" else "visits"
        self.description = f"SDSS-V {kind}: {what} of a star by BOSS and APOGEE, rest frame, vacuum"

    def recognizes(self, path: Path) -> bool:
        """Tables called after instrument and observatory, with spectra and no models."""
        found = layout(path)
        tables = [set(found.columns(k)) for k, name in enumerate(found.names) if _instrument(name)]
        return bool(tables) and all(
            {*_NEEDED, _MJD[self.kind]} <= columns and "MODEL_FLUX" not in columns for columns in tables
        )

    def read(self, path: Path) -> list[SurveySpectra]:
        """One record for each table with rows, two where some of its visits are not at rest."""
        wanted = f"expected an {self.kind} file: flux, ivar, pixel_flags and sdss_id in tables such as APOGEE/APO"
        with opened(path, wanted) as hdus:
            spectra = []
            for hdu in hdus[1:]:
                if _instrument(hdu.name) and hdu.data is not None and len(hdu.data):
                    spectra += self._records(path, hdus[0].header, hdu)
            if not spectra:
                raise ValueError("none of its tables has a row")
            return spectra

    def _records(self, path: Path, primary: fits.Header, hdu: fits.BinTableHDU) -> list[SurveySpectra]:
        rows = np.arange(len(hdu.data))
        in_stack = column(hdu.data, "in_stack")
        at_rest = np.ones(len(rows), dtype=bool) if in_stack is None else np.asarray(in_stack, dtype=bool)
        parts = [rows[at_rest], rows[~at_rest]]
        return [self._record(path, primary, hdu, part, bool(at_rest[part[0]])) for part in parts if len(part)]

    def _record(
        self, path: Path, primary: fits.Header, hdu: fits.BinTableHDU, rows: np.ndarray, at_rest: bool
    ) -> SurveySpectra:
        instrument, table = _instrument(hdu.name), hdu.data[rows]
        wavelength = _wavelengths(hdu)
        mask = whole_numbers(table["pixel_flags"], f"pixel_flags of {hdu.name}")
        named = {name: column(table, name) for name in _NAMES}
        names = {name: values for name, values in named.items() if values is not None}
        for name, cards in _FROM_HEADER.items():
            names[name] = [next(filter(None, (text(primary, card) for card in cards)), "")] * len(rows)
        frame, in_column = ("rest", "") if at_rest else _UNSTACKED[instrument]
        velocity = np.zeros(len(rows)) if at_rest else column(table, in_column)
        is_star = self.kind == "mwmStar"
        return SurveySpectra(
            self.name,
            [Segment(wavelength, table["flux"], table["ivar"], mask, instrument, log_linear=True)],
            present(names | {"FILE": [path.name] * len(rows)}),
            "ivar",
            np.full(len(rows), np.nan) if velocity is None else velocity,
            np.array(
                ["combined" if is_star and k == 0 else f"{'combined' if is_star else 'visit'} {k + 1}" for k in rows]
            ),
            scalar_columns(table, without=(*_NAMES, "wavelength")),
            medium="vacuum",
            frame=frame,
        )


MWMSTAR, MWMVISIT = Mwm("mwmStar"), Mwm("mwmVisit")


def _instrument(hdu_name: str) -> str:
    """BOSS or APOGEE for the table of one of them, otherwise empty."""
    instrument, slash, _ = hdu_name.upper().partition("/")
    return instrument if slash and instrument in _UNSTACKED else ""


def _wavelengths(hdu: fits.BinTableHDU) -> np.ndarray:
    of_rows = column(hdu.data, "wavelength")
    if of_rows is not None:
        different = np.flatnonzero((of_rows != of_rows[0]).any(axis=1))
        if different.size:
            raise ValueError(f"row {different[0]} of {hdu.name} has other wavelengths than row 0")
        return np.asarray(of_rows[0], dtype=float)
    n_pixels = number(hdu.header, "NPIXELS")
    n_pixels = hdu.data["flux"].shape[1] if np.isnan(n_pixels) else int(n_pixels)
    return log10_wavelengths(hdu.header, n_pixels, axis="")
