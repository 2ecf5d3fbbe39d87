"""LAMOST spectra of low and of medium resolution, all data releases.

Low resolution has three layouts. In releases 1 to 5 and 6 to 7 the primary HDU is an image whose rows are named in the
keyword EXTEN0: flux, inverse variance, a normalized flux *or* the wavelength, and-mask, or-mask. From release 8 on, a
binary table holds the columns FLUX, IVAR, WAVELENGTH, ANDMASK, ORMASK and NORMALIZATION, all pixels in one row; that
layout is read by the published data model. The grid is log10(wavelength) = COEFF0 + COEFF1 i, whatever CTYPE1 says.

Medium resolution has a table for each arm of the combined spectrum, COADD_B and COADD_R, and for each arm and exposure,
such as B-84420148 with the local modified Julian minute; red exposures run to shorter wavelengths.

Wavelengths are in vacuum and heliocentric: HELIO_RV is the correction that was applied, not the velocity of the star,
which is c times the redshift Z, where the header has one. Read is the and-mask, of pixels that are bad in every
exposure; the or-mask and the normalized flux, which has no errors, are left alone.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from bayes_cannon.core.wavelengths import LIGHT
from bayes_cannon.io.readers.fits_file import Layout, layout, opened
from bayes_cannon.io.readers.fits_values import facts, native, number, spectrum_column, whole_numbers
from bayes_cannon.io.readers.survey_spectra import Segment, SurveySpectra

_IDENTIFIERS = ("OBSID", "DESIG", "UID", "GP_ID", "OBJNAME")
_FACTS = (
    "RA", "DEC", "CLASS", "SUBCLASS", "Z", "Z_ERR",
    "SNRU", "SNRG", "SNRR", "SNRI", "SNRZ", "SN_U", "SN_G", "SN_R", "SN_I", "SN_Z",
    "MAGTYPE", "MAG1", "MAG2", "MAG3", "MAG4", "MAG5", "MAG6", "MAG7",
    "MJD", "LMJD", "PLANID", "SPID", "FIBERID", "FIBERMAS", "OBJTYPE", "SEEING", "NEXP", "EXPTIME", "HELIO_RV",
    "DATA_V", "VERSPIPE",
)  # fmt: skip
_UNITS = {"RA": "deg", "DEC": "deg", "HELIO_RV": "km/s", "EXPTIME": "s", "SEEING": "arcsec"}
_ARM = re.compile(r"COADD_(?P<coadd>[BR])|(?P<arm>[BR])-(?P<minute>\d+)")
_ROWS = {"flux": "flux", "inverse": "ivar", "wavelength": "wavelength", "andmask": "mask"}
_NEEDED_ROWS = ("flux", "ivar", "mask")
_LOW_COLUMNS = {"FLUX", "IVAR", "WAVELENGTH", "ANDMASK"}
_AGREEING_PIXELS = 0.1


class _Low:
    """Low resolution, `spec-*.fits` and `spec-*.fits.gz`: one combined spectrum a file."""

    name = "lamost-low"
    description = "LAMOST low-resolution spectra, all data releases"
    needs: str | None = None
    extra: str | None = None

    def recognizes(self, path: Path) -> bool:
        """Whether LAMOST made it and it has named rows or a table with wavelengths."""
        found = layout(path)
        if not _by_lamost(found) or _has_arms(found):
            return False
        in_rows = set(_NEEDED_ROWS) <= set(_row_names(found.headers[0]))
        return in_rows or set(found.columns(1)) >= _LOW_COLUMNS

    def read(self, path: Path) -> list[SurveySpectra]:
        """The combined spectrum.

        Raises
        ------
        ValueError
            If the file is not of this format, or has neither identifier.

        """
        with opened(path, "expected a LAMOST spectrum of low resolution") as hdus:
            header = hdus[0].header
            pixels = _table_pixels(hdus[1].data) if len(hdus) > 1 else _image_pixels(hdus[0])
            wavelength, log_linear = _wavelength(header, pixels.pop("wavelength", None), pixels["flux"].size)
            segment = Segment(
                wavelength,
                pixels["flux"],
                pixels["ivar"],
                whole_numbers(pixels["mask"], "the mask"),
                log_linear=log_linear,
            )
            return [_spectra(self.name, [segment], header, "combined", facts(header, _FACTS))]


class _Medium:
    """Medium resolution, `med-*.fits.gz`: the combined spectrum and one of each exposure, in two arms."""

    name = "lamost-medium"
    description = "LAMOST medium-resolution spectra, combined and single exposures"
    needs: str | None = None
    extra: str | None = None

    def recognizes(self, path: Path) -> bool:
        """Whether LAMOST made it and its HDUs bear the names of arms."""
        found = layout(path)
        return _by_lamost(found) and _has_arms(found)

    def read(self, path: Path) -> list[SurveySpectra]:
        """The combined spectrum, if there is one, then the exposures as visits in the order of time.

        Raises
        ------
        ValueError
            If the file is not of this format.

        """
        with opened(path, "expected LAMOST spectra of medium resolution") as hdus:
            header = hdus[0].header
            exposures: dict[int, list[tuple[str, fits.BinTableHDU]]] = {}  # by minute, -1 is the combined spectrum
            for hdu in hdus[1:]:
                found = _ARM.fullmatch(hdu.name.strip())
                if found and hdu.data is not None and len(hdu.data):
                    exposures.setdefault(int(found["minute"] or -1), []).append((found["coadd"] or found["arm"], hdu))
            spectra = []
            for visit, (minute, arms) in enumerate(sorted(exposures.items()), start=-1 not in exposures):
                columns = facts(header, _FACTS)
                for arm, hdu in arms:
                    columns |= facts(hdu.header, ("SNR",), suffix=f"_{arm}") | facts(hdu.header, ("EXPTIME",))
                columns |= {} if minute < 0 else {"LMJM": np.array([minute])}
                segments = [_arm_segment(hdu.data, arm) for arm, hdu in arms]
                which = "combined" if minute < 0 else f"visit {visit}"
                headers = (header, *(hdu.header for _, hdu in arms))
                spectra.append(_spectra(self.name, segments, header, which, columns, velocities=headers))
            if not spectra:
                raise ValueError("it has no table with a spectrum")
            return spectra


LOW, MEDIUM = _Low(), _Medium()


def _by_lamost(found: Layout) -> bool:
    if not found.headers:
        return False
    said = (str(found.headers[0].get(keyword, "")).upper() for keyword in ("TELESCOP", "ORIGIN", "AUTHOR"))
    return any("LAMOST" in text for text in said)


def _has_arms(found: Layout) -> bool:
    return any(_ARM.fullmatch(name) for name in found.names)


def _row_names(header: fits.Header) -> list[str]:
    """What each row of the image is, empty for what is not read; no row if the header names none."""
    words = re.split(r"[,\s]+", str(header.get("EXTEN0", "")).strip().lower())
    if len(words) < 2:  # Some releases name each row by a keyword of its own.
        keywords = next((k for k in ("EXTEN", "ROW") if f"{k}1" in header), None)
        words = [str(header[f"{keywords}{k}"]).strip().lower() for k in range(9) if f"{keywords}{k}" in header]
    if header.get("NAXIS") != 2 or len(words) != header.get("NAXIS2"):
        return []
    return [_ROWS.get(word, "") for word in words]


def _image_pixels(hdu: fits.PrimaryHDU) -> dict[str, np.ndarray]:
    names = _row_names(hdu.header)
    missing = [name for name in _NEEDED_ROWS if name not in names]
    if missing:
        raise ValueError(
            f"EXTEN0 = {hdu.header.get('EXTEN0')!r} does not name the rows: {', '.join(missing)} is missing"
        )
    return {name: native(row) for name, row in zip(names, hdu.data, strict=True) if name}


def _table_pixels(table: Any) -> dict[str, np.ndarray]:
    wanted = {"flux": "FLUX", "ivar": "IVAR", "wavelength": "WAVELENGTH", "mask": "ANDMASK"}
    return {name: spectrum_column(table, column) for name, column in wanted.items()}


def _wavelength(header: fits.Header, row: np.ndarray | None, n_pixels: int) -> tuple[np.ndarray, bool]:
    """The grid of COEFF0 and COEFF1, which is exact; the single-precision row where the two are not the same."""
    first, step = number(header, "COEFF0"), number(header, "COEFF1")
    if math.isnan(first) or math.isnan(step):
        if row is None:
            raise ValueError("it has no wavelengths: the keywords COEFF0 and COEFF1 are missing")
        return row, False
    log10 = first + step * np.arange(n_pixels)
    if row is not None and not (np.abs(np.log10(row) - log10) <= _AGREEING_PIXELS * abs(step)).all():
        return row, False
    return 10**log10, True


def _arm_segment(table: fits.FITS_rec, arm: str) -> Segment:
    names = {name.upper() for name in table.names}
    if "LOGLAM" in names:
        log10 = spectrum_column(table, "LOGLAM").astype(float)
        rounding = 2 * np.spacing(np.float32(np.abs(log10).max()))
        log_linear = bool(np.ptp(np.diff(log10)) <= 2 * rounding)
        wavelength = 10**log10
    else:
        wavelength, log_linear = spectrum_column(table, "WAVELENGTH"), False
    mask = next((name for name in ("ANDMASK", "PIXMASK") if name in names), None)
    return Segment(
        wavelength,
        spectrum_column(table, "FLUX"),
        spectrum_column(table, "IVAR"),
        None if mask is None else whole_numbers(spectrum_column(table, mask), "the mask"),
        name=arm,
        log_linear=log_linear,
    )


def _spectra(
    reader: str,
    segments: Sequence[Segment],
    header: fits.Header,
    which: str,
    columns: dict[str, np.ndarray],
    *,
    velocities: Sequence[fits.Header] = (),
) -> SurveySpectra:
    z = next((z for z in (number(h, "Z") for h in (*velocities, header)) if not math.isnan(z)), math.nan)
    heliocentric, vacuum = header.get("HELIO"), header.get("VACUUM")
    return SurveySpectra(
        reader=reader,
        segments=segments,
        identifiers=facts(header, _IDENTIFIERS),
        noise_kind="ivar",
        velocity=np.array([LIGHT * z if z > -1 else math.nan]),  # -9999 stands for no redshift.
        which=np.array([which]),
        columns=columns,
        units={name: unit for name, unit in _UNITS.items() if name in columns},
        medium=None if vacuum is None else "vacuum" if vacuum else "air",
        frame=None if heliocentric is None else "heliocentric" if heliocentric else "observed",
    )
