"""One spectrum in a FITS file of no survey: an image with a spectral axis, or a table of wavelength, flux and noise.

They are asked only where no other reader recognizes a file. Neither the velocity nor, mostly, the medium is in such
files; both can be given to `bayes_cannon.io.decoding.decode`.

Image: the first that has one axis, with the wavelengths of FITS (``CTYPE1`` WAVE, in vacuum, AWAV, in air, also with
-LOG, or a frequency or energy) or of IRAF (LINEAR, or log10 where ``DC-FLAG`` is 1 or ``CTYPE1`` LOG-LINEAR). The
unit is ``CUNIT1``; where it is missing, FITS has metres and IRAF Angstrom. The noise is an image of the same size
whose name says what it is: ERR, SIGMA, UNCERT, VAR, IVAR and others (`bayes_cannon.io.readers.noise_names.KINDS`).

Table: a row for each pixel, or one row of arrays, with columns such as WAVELENGTH, WAVE or LAMBDA, which must have a
unit, or LOGLAM, the log10 of it in Angstrom; FLUX; and one for the noise, called as above.
"""

import re
import warnings
from pathlib import Path

import numpy as np
from astropy import units
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning

from bayes_cannon.io.readers.fits_file import Layout, layout, opened
from bayes_cannon.io.readers.fits_values import column, flux_unit, number, present, text, whole_numbers
from bayes_cannon.io.readers.noise_names import KINDS, as_noise
from bayes_cannon.io.readers.survey_spectra import ANGSTROM, Frame, Medium, Segment, SurveySpectra

_FITS_AXIS = re.compile(r"(WAVE|AWAV|FREQ|ENER|WAVN)(-[A-Z0-9]{3})?")
_IRAF_AXES = ("LINEAR", "LAMBDA", "WAVELENGTH", "LOG-LINEAR")
_WAVELENGTH = ("WAVELENGTH", "WAVE", "LAMBDA", "LAM", "WL", "SPECTRAL_AXIS", "LOGLAM")
_MASK = ("MASK", "DQ", "QUAL")
_FRAMES: dict[str, Frame] = {
    "BARYCENT": "barycentric", "HELIOCEN": "heliocentric", "TOPOCENT": "observed", "SOURCE": "rest",
}  # fmt: skip
_COLUMNS = ("SNR", "RA", "DEC", "EXPTIME", "MJD-OBS", "AIRMASS")
_LONGEST = 1e8
"""Angstrom, 1 cm: no spectrum of a star has longer wavelengths, so that the unit must be another."""


class Wcs1d:
    """An image of one axis."""

    name = "wcs1d-fits"
    description = "FITS image of one spectrum with a linear or logarithmic wavelength axis"
    needs = None
    extra = None

    def recognizes(self, path: Path) -> bool:
        """Whether there is an image of one axis that is said to be spectral."""
        return _spectral_image(layout(path)) is not None

    def read(self, path: Path) -> list[SurveySpectra]:
        """The spectrum.

        Raises
        ------
        ValueError
            If there is no noise, or the wavelengths are no wavelengths.

        """
        with opened(
            path, "expected an image of one spectrum, and another of its noise called ERR, VAR or IVAR"
        ) as hdus:
            k = _spectral_image(layout(path))
            if k is None:
                raise ValueError("there is no image with one axis and its wavelengths")
            flux, header = np.ravel(hdus[k].data), hdus[k].header
            wavelength, is_log, medium = _axis(header, flux.size)
            noises, masks = [], []
            for hdu in hdus:
                if hdu is hdus[k] or not hdu.is_image or hdu.data is None or hdu.data.size != flux.size:
                    continue
                if kind := _kind_of_image(hdu):
                    noises.append((np.ravel(hdu.data), kind, text(hdu.header, "BUNIT")))
                elif hdu.name in _MASK:
                    masks.append(whole_numbers(np.ravel(hdu.data), hdu.name))
            arrays = (wavelength, flux, noises, masks, is_log)
            return [_record(self.name, path, _headers(hdus, k), arrays, text(header, "BUNIT"), medium)]


class TableOfPixels:
    """A table with a wavelength, a flux and a noise for each pixel."""

    name = "table-fits"
    description = "FITS table of one spectrum: columns of wavelength, flux and noise"
    needs = None
    extra = None

    def recognizes(self, path: Path) -> bool:
        """Whether a table has columns of wavelength and flux."""
        return _table(layout(path)) is not None

    def read(self, path: Path) -> list[SurveySpectra]:
        """The spectrum.

        Raises
        ------
        ValueError
            If there is no noise, the wavelengths have no unit, or there are several spectra.

        """
        with opened(
            path, "expected columns of wavelength, with a unit, flux, and its noise called err, var or ivar"
        ) as hdus:
            k = _table(layout(path))
            if k is None:
                raise ValueError("there is no table with wavelength and flux")
            table, columns = hdus[k].data, hdus[k].columns
            names = {name.upper(): name for name in columns.names}
            for name in names.values():
                if np.ndim(table[name]) > 1 and len(table) > 1:
                    raise ValueError(f"{name} has arrays in {len(table)} rows: expected one spectrum")
            axis = next(names[name] for name in _WAVELENGTH if name in names)
            wavelength = _with_unit(np.ravel(table[axis]), axis, columns[axis].unit)
            noises = [
                (np.ravel(table[names[name]]), kind, columns[names[name]].unit)
                for name, kind in KINDS.items()
                if name in names
            ]
            found = [column(table, name) for name in _MASK]
            masks = [whole_numbers(np.ravel(mask).astype(float), "mask") for mask in found if mask is not None]
            said = columns[names["FLUX"]].unit or ""
            arrays = (wavelength, np.ravel(table[names["FLUX"]]), noises, masks, axis.upper() == "LOGLAM")
            return [_record(self.name, path, _headers(hdus, k), arrays, said, None)]


WCS1D, TABLE = Wcs1d(), TableOfPixels()


def _record(
    reader: str, path: Path, headers: list[fits.Header], arrays: tuple, said_unit: str, medium: Medium | None
) -> SurveySpectra:
    wavelength, flux, noises, masks, is_log = arrays
    if len(noises) != 1:
        lacking = "no noise in it: add" if not noises else f"noise of {len(noises)} kinds in it: leave only one,"
        raise ValueError(f"there is {lacking} the error, variance or ivar of each pixel")
    unit = flux_unit(said_unit)
    values, said_kind, unit_of_noise = noises[0]
    noise, kind = as_noise(values, said_kind, unit_of_noise, unit)
    frame = _FRAMES.get(_first(headers, "SPECSYS").upper())
    for header in headers:
        if medium is None and isinstance(header.get("VACUUM"), bool):
            medium = "vacuum" if header["VACUUM"] else "air"
    columns = {name: [value for header in headers if not np.isnan(value := number(header, name))] for name in _COLUMNS}
    return SurveySpectra(
        reader,
        [Segment(wavelength, flux, noise, masks[0] if masks else None, log_linear=is_log)],
        present({"OBJECT": [_first(headers, "OBJECT")], "FILE": [path.name]}),
        kind,
        np.array([0.0 if frame == "rest" else np.nan]),
        np.array(["combined"]),
        {name: np.array(values[:1]) for name, values in columns.items() if values},
        medium=medium,
        frame=frame,
        flux_unit=unit,
    )


def _headers(hdus: fits.HDUList, k: int) -> list[fits.Header]:
    return [hdus[k].header, hdus[0].header]


def _first(headers: list[fits.Header], key: str) -> str:
    return next(filter(None, (text(header, key) for header in headers)), "")


def _spectral_image(found: Layout) -> int | None:
    for k, header in enumerate(found.headers):
        axes = [header.get(f"NAXIS{axis}", 0) for axis in range(1, header.get("NAXIS", 0) + 1)]
        is_image = header.get("XTENSION", "IMAGE").strip() == "IMAGE" and axes and axes[0] > 1 and set(axes[1:]) <= {1}
        has_axis = "CRVAL1" in header and ("CDELT1" in header or "CD1_1" in header)
        kind = text(header, "CTYPE1").upper()
        if is_image and has_axis and (_FITS_AXIS.fullmatch(kind) or kind in _IRAF_AXES or _is_spectral(header)):
            return k
    return None


def _is_spectral(header: fits.Header) -> bool:
    """Whether an axis without a known type has the unit of a wavelength."""
    try:
        return _unit(text(header, "CUNIT1")).is_equivalent(ANGSTROM)
    except ValueError:
        return False


def _axis(header: fits.Header, n_pixels: int) -> tuple[np.ndarray, bool, Medium | None]:
    """Wavelengths, whether they are equal steps in their logarithm, and their medium."""
    kind, is_log10 = text(header, "CTYPE1").upper(), header.get("DC-FLAG") == 1
    medium: Medium | None = None
    if fits_axis := _FITS_AXIS.fullmatch(kind):
        medium = "air" if kind.startswith("AWAV") else "vacuum"
    if fits_axis and not is_log10:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FITSFixedWarning)  # It changes dates and spellings of units.
            wcs = WCS(header, naxis=1)
        values = wcs.wcs_pix2world(np.arange(n_pixels), 0)[0]
        unit = wcs.wcs.cunit[0]
    else:
        step = float(header["CDELT1"] if "CDELT1" in header else header["CD1_1"])
        values = float(header["CRVAL1"]) + step * (np.arange(1, n_pixels + 1) - float(header.get("CRPIX1", 1)))
        is_log10 = is_log10 or kind == "LOG-LINEAR"
        with np.errstate(over="ignore"):
            values = 10**values if is_log10 else values
        iraf = re.search(r"units=(\w+)", text(header, "WAT1_001"))
        unit = _unit(text(header, "CUNIT1") or (iraf[1] if iraf else ANGSTROM))
    wavelength = _in_angstrom(values, unit, "CUNIT1")
    return wavelength, is_log10 or kind.endswith("-LOG"), medium


def _table(found: Layout) -> int | None:
    for k in range(len(found.headers)):
        columns = set(found.columns(k))
        if "FLUX" in columns and columns & set(_WAVELENGTH):
            return k
    return None


def _with_unit(values: np.ndarray, name: str, unit: str | None) -> np.ndarray:
    if name.upper() == "LOGLAM":
        return 10 ** np.asarray(values, dtype=float)
    if not unit:
        raise ValueError(f"the column {name} has no unit: set its TUNIT, to Angstrom or nm")
    return _in_angstrom(np.asarray(values, dtype=float), _unit(unit), f"the unit of {name}")


def _in_angstrom(values: np.ndarray, unit: units.UnitBase, where: str) -> np.ndarray:
    try:
        wavelength = (values * unit).to_value(ANGSTROM, units.spectral())
    except units.UnitConversionError:
        raise ValueError(f"{where} is {unit}: expected that of a wavelength, such as Angstrom or nm") from None
    if np.isfinite(wavelength).all() and wavelength.max() > _LONGEST:
        raise ValueError(f"the wavelengths reach {wavelength.max():.3g} Angstrom: set {where}, which is now {unit}")
    return wavelength


def _unit(said: str) -> units.UnitBase:
    if said in ("A", "angstroms", "Angstroms", "ANGSTROMS", "ANGSTROM"):  # A is the ampere.
        said = ANGSTROM
    return units.Unit(said)


def _kind_of_image(hdu: fits.ImageHDU) -> str | None:
    """Whether an image is a std, var or ivar; Astropy's own say it in UTYPE beside their name UNCERT."""
    of_astropy = {"StdDevUncertainty": "std", "VarianceUncertainty": "var", "InverseVariance": "ivar"}
    return of_astropy.get(text(hdu.header, "UTYPE")) or KINDS.get(hdu.name)
