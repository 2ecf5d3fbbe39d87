"""GALAH spectra: a file for each of the four CCDs of a star, and the fitted spectra of data release 4.

The files of a star are called by its ``sobject_id``, 15 digits, and the number of the CCD, as 2101150001010011.fits;
the header of release 4 does not say the ``sobject_id``. HDUs of one dimension hold, by their names, the flux in
counted electrons (primary), its **relative** error (``relative_error``, or ``input_sigma`` in release 3) and the flux
divided by a continuum (``normalized``), whose grid may begin later. What is divided out for sky, tellurics and
cross-talk is left alone, and so is the resolution profile. Wavelengths are in air, linear, and barycentric; the
velocity of the star, RVCOM for all CCDs or RV for this one, is not taken out. There is no mask.

A fitted spectrum is a table with the columns wave, sob, uob, smod and mob: all CCDs at rest, one after the other, the
observed flux divided by a continuum fitted together with the model, its error, the model, and whether the pixel was
used in the fit. The mask has one bit, NOT_FITTED.
"""

import re
from pathlib import Path

import numpy as np
from astropy.io import fits

from bayes_cannon.io.readers.fits_file import layout, opened
from bayes_cannon.io.readers.fits_values import facts, native, number, spectrum_column
from bayes_cannon.io.readers.survey_spectra import Segment, SurveySpectra

MASK_BITS = {"NOT_FITTED": 0}
"""Bits of the mask of fitted spectra."""
DEFAULT_BAD = ()
"""None is bad: pixels were left out of the fit because the model does not reproduce them."""

_RELATIVE_ERROR = ("RELATIVE_ERROR", "INPUT_SIGMA")
_NORMALIZED = ("NORMALIZED", "NORMALISED", "NORMALIZED_SPECTRUM", "NORMALISED_SPECTRUM", "NORMALISED SPECTRA")
_CAMERAS = {"BL": "1", "GR": "2", "RD": "3", "RE": "3", "IR": "4"}
_CCD_NAME = re.compile(r"(\d{15})([1-4])(?!\d)")
_FIT_NAME = re.compile(r"(\d{15})_.*fit_spectrum")
_FACTS = (
    "RA_ICRS", "DEC_ICRS", "RA_OBS", "DEC_OBS", "SNR", "SNR_AA", "RES", "UTMJD", "EXPOSED", "MAG", "E_B-V", "SLITMASK",
    "FIBRE", "PLATE", "PIVOT", "NCOMBINE", "BARYEFF", "RV", "E_RV", "RV_OK", "RVCOM", "E_RVCOM", "RVCOM_OK", "TEFF_R",
    "LOGG_R", "FE_H_R", "PAR_OK", "WAV_OK", "CROSS_OK", "PIPE_VER",
)  # fmt: skip
_UNITS = {
    "RA_ICRS": "deg", "DEC_ICRS": "deg", "RA_OBS": "deg", "DEC_OBS": "deg", "RES": "Angstrom", "EXPOSED": "s",
    "BARYEFF": "km/s", "RV": "km/s", "E_RV": "km/s", "RVCOM": "km/s", "E_RVCOM": "km/s", "TEFF_R": "K",
}  # fmt: skip
_FIT_COLUMNS = {"WAVE", "SOB", "UOB"}
_CCD_ENDS = np.array([5500.0, 6200.0, 7200.0])
"""Wavelengths between the four CCDs, Angstrom; each covers some 250 of them."""


class _Ccd:
    """One CCD of a star: as counted, called "combined", and divided by the continuum, "combined normalized"."""

    name = "galah"
    description = "GALAH spectra, one file a CCD (data releases 3 and 4)"
    needs: str | None = None
    extra: str | None = None

    def recognizes(self, path: Path) -> bool:
        """Whether the primary HDU is a spectrum and another is called as GALAH calls its relative errors."""
        found = layout(path)
        return bool(found.headers) and "CRVAL1" in found.headers[0] and bool(set(_RELATIVE_ERROR) & set(found.names))

    def group(self, path: Path) -> tuple[str, str] | None:
        """The name of the file without the number of the CCD."""
        found = _CCD_NAME.match(path.name)
        rest = path.name[found.end() :] if found else ""
        return (found[1], rest) if found and ".fit" in rest.lower() else None

    def read(self, path: Path) -> list[SurveySpectra]:
        """The spectrum and, if the file has it, the same divided by the continuum.

        Raises
        ------
        ValueError
            If the file is not of this format, is called otherwise than GALAH calls it and does not say its CCD or star,
            or has a normalized spectrum on other pixels.

        """
        with opened(path, "expected a CCD of a GALAH star") as hdus:
            header = hdus[0].header
            by_name = {hdu.name.strip().upper(): hdu for hdu in hdus[1:]}
            wavelength = _wavelength(hdus[0])
            relative = native(_first(by_name, _RELATIVE_ERROR).data)
            ccd, identifiers = _whose(path, header)
            segments = {"combined": Segment(wavelength, native(hdus[0].data), relative, name=ccd)}
            normalized = _normalized(hdus, by_name)
            if normalized is not None:
                shorter = _wavelength(normalized)
                noise = relative[_same_pixels(wavelength, shorter)]
                segments["combined normalized"] = Segment(shorter, native(normalized.data), noise, name=ccd)
            columns = facts(header, _FACTS)
            return [
                SurveySpectra(
                    reader=self.name,
                    segments=[segment],
                    identifiers=identifiers,
                    noise_kind="relative error",
                    velocity=np.array([_velocity(header)]),
                    which=np.array([which]),
                    columns=columns,
                    units={name: unit for name, unit in _UNITS.items() if name in columns},
                    medium="air",
                    frame="barycentric",
                    flux_unit=header.get("BUNIT") if which == "combined" else "",
                )
                for which, segment in segments.items()
            ]


class _Fit:
    """A fitted spectrum of data release 4, `*_fit_spectrum.fits`."""

    name = "galah-fit"
    description = "GALAH fitted spectra of data release 4 (*_fit_spectrum.fits)"
    needs: str | None = None
    extra: str | None = None

    def recognizes(self, path: Path) -> bool:
        """Whether HDU 1 is a table with the columns of a fitted spectrum."""
        return set(layout(path).columns(1)) >= _FIT_COLUMNS

    def read(self, path: Path) -> list[SurveySpectra]:
        """The spectrum at rest, a segment for each CCD.

        Raises
        ------
        ValueError
            If the file is not of this format, or its name does not begin with the ``sobject_id``.

        """
        with opened(path, "expected a fitted GALAH spectrum") as hdus:
            found = _FIT_NAME.match(path.name)
            if not found:
                raise ValueError("its name does not say the star: call it SOBJECT_ID_allstar_fit_spectrum.fits again")
            table = hdus[1].data
            wavelength, flux, error = (spectrum_column(table, name) for name in ("WAVE", "SOB", "UOB"))
            used = next((name for name in ("MOB", "MASK") if name in {n.upper() for n in table.names}), None)
            mask = None if used is None else (~spectrum_column(table, used).astype(bool)).astype(np.uint8)
            ccds = np.searchsorted(_CCD_ENDS, wavelength)
            segments = [
                Segment(wavelength[on], flux[on], error[on], None if mask is None else mask[on], name=f"CCD{ccd + 1}")
                for ccd in np.unique(ccds)
                for on in [ccds == ccd]
            ]
            return [
                SurveySpectra(
                    reader=self.name,
                    segments=segments,
                    identifiers={"SOBJECT_ID": np.array([found[1]])},
                    noise_kind="error",
                    velocity=np.zeros(1),
                    which=np.array(["combined"]),
                    medium="air",
                    frame="rest",
                    flux_unit="",
                )
            ]


CCD, FIT = _Ccd(), _Fit()


def _first(by_name: dict[str, fits.ImageHDU], names: tuple[str, ...]) -> fits.ImageHDU:
    found = next((by_name[name] for name in names if name in by_name), None)
    if found is None:
        raise ValueError(f"none of its HDUs is called {' or '.join(names)}")
    return found


def _normalized(hdus: fits.HDUList, by_name: dict[str, fits.ImageHDU]) -> fits.ImageHDU | None:
    """The normalized spectrum, which release 3 keeps in HDU 4."""
    found = next((by_name[name] for name in _NORMALIZED if name in by_name), None)
    if found is None and "INPUT_SIGMA" in by_name and len(hdus) > 4:
        found = hdus[4]
    return None if found is None or found.data is None or found.data.size < 2 else found


def _wavelength(hdu: fits.ImageHDU) -> np.ndarray:
    header = hdu.header
    first, step = number(header, "CRVAL1"), number(header, "CDELT1", "CD1_1")
    if hdu.data is None or hdu.data.ndim != 1 or not np.isfinite([first, step]).all():
        raise ValueError(f"HDU {hdu.name or 'PRIMARY'} is no spectrum with CRVAL1 and CDELT1")
    reference = number(header, "CRPIX1")
    if not reference > 0:  # Missing or 0 means the first pixel, as in the survey's own examples.
        reference = 1.0
    return first + step * (np.arange(hdu.data.size) + 1 - reference)


def _same_pixels(wavelength: np.ndarray, shorter: np.ndarray) -> slice:
    """Which of the pixels the shorter grid consists of."""
    step = wavelength[1] - wavelength[0]
    start = round((shorter[0] - wavelength[0]) / step)
    pixels = slice(start, start + shorter.size)
    same = start >= 0 and wavelength[pixels].size == shorter.size
    if not same or np.abs(wavelength[pixels] - shorter).max() > 0.1 * step:
        raise ValueError(
            f"the normalized spectrum, {shorter[0]:.3f} to {shorter[-1]:.3f} Angstrom, is not on pixels of the other, "
            f"{wavelength[0]:.3f} to {wavelength[-1]:.3f}, so that its errors are not known"
        )
    return pixels


def _whose(path: Path, header: fits.Header) -> tuple[str, dict[str, np.ndarray]]:
    """The CCD and the names of the star, from the name of the file and the header."""
    found = _CCD_NAME.match(path.name)
    ccd = found[2] if found else _CAMERAS.get(str(header.get("SPECTID", "")).strip().upper())
    identifiers = {"SOBJECT_ID": np.array([found[1]])} if found else {}
    identifiers |= facts(header, ("GALAH_ID", "GAIA_ID", "2MASS_ID"))
    if ccd is None or not identifiers:
        raise ValueError("neither its name nor its header say which CCD and star: call it SOBJECT_ID, CCD, .fits again")
    return f"CCD{ccd}", identifiers


def _velocity(header: fits.Header) -> float:
    """Of all CCDs, NaN where that failed; of this one in headers that do not have the other, km/s."""
    keyword = next((keyword for keyword in ("RVCOM", "RV", "VRAD") if keyword in header), None)
    return number(header, keyword) if keyword and header.get(f"{keyword}_OK", 1) else float("nan")
