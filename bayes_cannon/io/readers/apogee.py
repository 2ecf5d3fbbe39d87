"""APOGEE: apStar (combined spectra and visits of a star, at rest), aspcapStar (normalized, at rest) and apVisit.

The pages of the SDSS data model describe the files: HDU 1 flux, 2 error, 3 mask bits (APOGEE_PIXMASK) or, in
aspcapStar, the best fit. Vacuum wavelengths. What to know of them:

- apStar of a single visit has images of one dimension. Otherwise the rows are two combined spectra, of which the
  first weights pixel by pixel, and the visits. All are at rest; the mask of the first is the OR of the visits' masks,
  that of the second the AND.
- Gaps between the chips are exact zeros with an error of 1e10. In the second combined row some have the mask 0 and a
  small error.
- apVisit has a row for each chip, from red to blue, with falling wavelengths, as the telescope observed them:
  ``VRAD``, not ``VHELIO``, takes them to rest (``VHELIO = VRAD + BC``).

No aspcapStar file was at hand: its reader is written, and tested, by the data model of DR12 to DR17.
"""

from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from bayes_cannon.io.readers.fits_file import Layout, images, layout, opened
from bayes_cannon.io.readers.fits_values import (
    column,
    flux_unit,
    log10_wavelengths,
    number,
    present,
    scalar_columns,
    text,
)  # fmt: skip
from bayes_cannon.io.readers.survey_spectra import Segment, SurveySpectra

_UNITS = {"VHELIO": "km/s", "VERR": "km/s", "VSCATTER": "km/s", "VRAD": "km/s", "VRADERR": "km/s", "BC": "km/s"}
_OF_THE_STAR = ("NVISITS", "J", "H", "K", "RA", "DEC", "GLON", "GLAT")
_OF_EACH_ROW = {
    "SNR": "SNRVIS", "STARFLAG": "FLAG", "VHELIO": "VHELIO", "VERR": "VERR", "VRAD": "VRAD", "RVTEFF": "RVTEFF",
    "RVLOGG": "RVLOGG", "RVFEH": "RVFEH",
}  # fmt: skip
"""Card of the combined spectrum, and of a visit without its number."""
_OF_THE_COMBINED = ("ANDFLAG", "VSCATTER", "MEANFIB", "SIGFIB")
_OF_A_VISIT = ("JD", "HJD", "BC", "FIBER")
_VISIT_COLUMNS = (
    "SNR", "STARFLAG", "VRAD", "VRADERR", "VHELIO", "BC", "JD", "EXPTIME", "J", "H", "K", "RA", "DEC", "GLON", "GLAT",
    "RVTEFF", "RVLOGG", "RVFEH",
)  # fmt: skip


class ApStar:
    """Combined spectra and visits of a star."""

    name = "apogee-apstar"
    description = "APOGEE apStar: combined spectra and visits of a star, rest frame, vacuum"
    needs = None
    extra = None

    def recognizes(self, path: Path) -> bool:
        """Three images of one log-linear grid: flux, error and whole numbers, the mask."""
        found = layout(path)
        return _images(found, "Flux", 3) and found.headers[3]["BITPIX"] > 0

    def read(self, path: Path) -> list[SurveySpectra]:
        """Combined spectra and visits, which share their pixels."""
        with images(path, "expected an apStar file: flux, error and mask in the HDUs 1 to 3") as image:
            header, of_flux = layout(path).headers[:2]
            flux = np.atleast_2d(image(1))
            n_visits = int(header.get("NVISITS", max(len(flux) - 2, 1)))
            which = _rows(len(flux), n_visits)
            wavelength = log10_wavelengths(of_flux, flux.shape[1])
            return [
                SurveySpectra(
                    self.name,
                    [Segment(wavelength, flux, image(2), image(3), log_linear=True)],
                    _star_identifiers(header, path, which),
                    "error",
                    np.zeros(len(flux)),
                    np.array(which),
                    _star_columns(header, which),
                    _UNITS,
                    "vacuum",
                    "rest",
                    flux_unit(text(of_flux, "BUNIT")),
                )
            ]


class AspcapStar:
    """The combined spectrum divided by its pseudo-continuum, with the labels that ASPCAP found."""

    name = "apogee-aspcapstar"
    description = "APOGEE aspcapStar: combined spectrum divided by its pseudo-continuum, rest frame, vacuum"
    needs = None
    extra = None

    def recognizes(self, path: Path) -> bool:
        """Three images of one log-linear grid, the third a model, and a table of results."""
        found = layout(path)
        is_model = _images(found, "", 3) and found.headers[3]["BITPIX"] < 0 and len(found.headers) > 4
        return is_model and bool({"APOGEE_ID", "ASPCAPFLAG"} & set(found.columns(4)))

    def read(self, path: Path) -> list[SurveySpectra]:
        """The one spectrum; ASPCAP writes -9999 for what it did not find, in its labels as elsewhere."""
        wanted = (
            "expected an aspcapStar file: normalized flux and error in the HDUs 1 and 2, one row of results in HDU 4"
        )
        with opened(path, wanted) as hdus:
            flux, table, header = np.atleast_2d(hdus[1].data), hdus[4].data, hdus[0].header
            if len(flux) != 1 or len(table) != 1:
                raise ValueError(f"there are {len(flux)} spectra and {len(table)} rows of results, not one")
            names = {key: column(table, key) for key in ("APOGEE_ID", "FIELD", "TELESCOPE", "LOCATION_ID", "ASPCAP_ID")}
            identifiers: dict[str, Any] = {key: values for key, values in names.items() if values is not None}
            identifiers.setdefault("APOGEE_ID", [text(header, "OBJID")])
            first = {"APOGEE_ID": identifiers["APOGEE_ID"]}
            return [
                SurveySpectra(
                    self.name,
                    [Segment(log10_wavelengths(hdus[1].header, flux.shape[1]), flux, hdus[2].data, log_linear=True)],
                    present(first | identifiers | {"FILE": [path.name]}),
                    "error",
                    np.zeros(1),
                    np.array(["combined"]),
                    scalar_columns(table, without=identifiers),
                    medium="vacuum",
                    frame="rest",
                )
            ]


class ApVisit:
    """One visit as the telescope observed it, a segment for each chip."""

    name = "apogee-apvisit"
    description = "APOGEE apVisit: one visit, three chips, as observed, vacuum"
    needs = None
    extra = None

    def recognizes(self, path: Path) -> bool:
        """Flux and wavelengths as images of one shape."""
        headers = layout(path).headers
        return (
            len(headers) > 4
            and text(headers[1], "BUNIT").startswith("Flux")
            and text(headers[4], "BUNIT").startswith("Wave")
            and all(headers[k].get("NAXIS") == 2 and _shape(headers[k]) == _shape(headers[1]) for k in (1, 2, 3, 4))
        )

    def read(self, path: Path) -> list[SurveySpectra]:
        """The visit; its velocity is the Doppler shift, which is NaN where the file lacks it."""
        with images(path, "expected an apVisit file: flux, error, mask and wavelengths in the HDUs 1 to 4") as image:
            header, of_flux = layout(path).headers[:2]
            flux, error, mask, wavelength = (image(k) for k in (1, 2, 3, 4))
            chips = "abc" if len(flux) == 3 else [str(k + 1) for k in range(len(flux))]
            segments = [Segment(wavelength[k], flux[k], error[k], mask[k], chip) for k, chip in enumerate(chips)]
            identifiers = {
                "APOGEE_ID": [text(header, "OBJID")],
                "TELESCOPE": [text(header, "TELESCOP")],
                "FIELD": [text(header, "FIELD")],
                "LOCATION_ID": [text(header, "LOCID")],
                "PLATE": [text(header, "PLATE")],
                "MJD": [text(header, "MJD5")],
                "FIBERID": [text(header, "FIBERID")],
                "FILE": [path.name],
            }
            return [
                SurveySpectra(
                    self.name,
                    segments,
                    present(identifiers),
                    "error",
                    np.array([number(header, "VRAD")]),
                    np.array(["visit 1"]),
                    {key: np.array([number(header, key)]) for key in _VISIT_COLUMNS if key in header},
                    _UNITS,
                    "vacuum",
                    "observed",
                    flux_unit(text(of_flux, "BUNIT")),
                )
            ]


APSTAR, ASPCAPSTAR, APVISIT = ApStar(), AspcapStar(), ApVisit()


def _images(found: Layout, first_unit: str, n_images: int) -> bool:
    """Whether the HDUs after the first are images of one shape, on a log-linear grid, the first of a certain unit."""
    headers = found.headers
    if len(headers) <= n_images or not text(headers[1], "BUNIT").startswith(first_unit):
        return False
    images = headers[1 : n_images + 1]
    return (
        all(image.get("XTENSION", "").strip() == "IMAGE" and _shape(image) == _shape(images[0]) for image in images)
        and images[0]["NAXIS"] in (1, 2)
        and text(images[0], "CTYPE1").upper() == "LOG-LINEAR"
        and {"CRVAL1", "CDELT1"} <= set(images[0])
    )


def _shape(header: fits.Header) -> tuple[int, ...]:
    return tuple(header.get(f"NAXIS{k}", 0) for k in range(1, header.get("NAXIS", 0) + 1))


def _rows(n_rows: int, n_visits: int) -> list[str]:
    if n_rows == 1:
        return ["combined"]
    if n_rows != n_visits + 2:
        raise ValueError(f"there are {n_rows} spectra for {n_visits} visits: expected two more than visits, or one")
    return ["combined", "combined 2", *(f"visit {k}" for k in range(1, n_visits + 1))]


def _star_identifiers(header: fits.Header, path: Path, which: list[str]) -> dict[str, np.ndarray]:
    of_star = {
        "APOGEE_ID": "OBJID",
        "SDSS_ID": "SDSS_ID",
        "FIELD": "FIELD",
        "TELESCOPE": "TELESCOP",
        "LOCATION_ID": "LOCID",
    }
    identifiers = {name: [text(header, key)] * len(which) for name, key in of_star.items()}
    files = [text(header, f"SFILE{k}") if (k := _visit(row)) else path.name for row in which]
    return present(identifiers | {"FILE": files})


def _star_columns(header: fits.Header, which: list[str]) -> dict[str, np.ndarray]:
    visits = [_visit(row) for row in which]
    columns = {key: [number(header, key)] * len(which) for key in _OF_THE_STAR}
    for key, of_visit in _OF_EACH_ROW.items():
        columns[key] = [number(header, f"{of_visit}{k}" if k else key) for k in visits]
    for key in _OF_THE_COMBINED:
        columns[key] = [np.nan if k else number(header, key) for k in visits]
    for key in _OF_A_VISIT:
        columns[key] = [number(header, f"{key}{k}") if k else np.nan for k in visits]
    arrays = {key: np.array(values) for key, values in columns.items()}
    return {key: values for key, values in arrays.items() if not np.isnan(values).all()}


def _visit(row: str) -> int:
    """Number of a visit, 0 for a combined spectrum."""
    return int(row.removeprefix("visit ")) if row.startswith("visit") else 0
