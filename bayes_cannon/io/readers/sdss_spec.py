"""SDSS, SEGUE, BOSS and SDSS-V: spec files, "lite" with the co-added spectrum alone, full ones with each exposure too.

The SDSS data model describes them: HDU 1 is a table of flux, log10 of the wavelength, ivar and the masks (SPPIXMASK)
of the co-added spectrum, HDU 2 has one row about the object. Vacuum wavelengths in the heliocentric frame. What to
know of them:

- ``loglam`` holds for the pixels; ``COEFF0`` of the primary header can be pixels off it.
- The velocity is c Z of the row about the object; ``HELIO_RV`` is what was already corrected for.
- In the and-mask a bit says that the pixel was so in every exposure; it is the one that is read.
- Exposures are HDUs of one camera each, such as B1-00104927-... and R1-00104927-...: those of one number are a visit
  here.
"""

from collections import defaultdict
from pathlib import Path

import numpy as np
from astropy.constants import c
from astropy.io import fits

from bayes_cannon.io.readers.fits_file import layout, opened
from bayes_cannon.io.readers.fits_values import column, flux_unit, number, present, scalar_columns, text
from bayes_cannon.io.readers.survey_spectra import Segment, SurveySpectra

_NAMES = ("SDSS_ID", "SPECOBJID", "CATALOGID", "BESTOBJID", "THING_ID")
_PLACES = {"PLATE": "PLATEID", "MJD": "MJD", "FIBERID": "FIBERID"}
"""Where the spectrum was taken: column, and card of the primary header."""


class Spec:
    """The co-added spectrum of an object, and its exposures."""

    name = "sdss-spec"
    description = "SDSS, SEGUE, BOSS spec files, lite or full: co-added spectrum and exposures, heliocentric, vacuum"
    needs = None
    extra = None

    def recognizes(self, path: Path) -> bool:
        """A table of flux, loglam, ivar and masks in HDU 1."""
        return {"FLUX", "LOGLAM", "IVAR", "AND_MASK"} <= set(layout(path).columns(1))

    def read(self, path: Path) -> list[SurveySpectra]:
        """The co-added spectrum, then one record for each exposure."""
        with opened(path, "expected a spec file: flux, loglam, ivar and and_mask in the table of HDU 1") as hdus:
            about = _about(hdus)
            spectra = [self._record(path, hdus, [_segment(hdus[1].data, "and_mask")], "combined", about)]
            exposures = defaultdict(list)
            for hdu in hdus[2:]:
                if isinstance(hdu, fits.BinTableHDU) and {"FLUX", "LOGLAM", "IVAR", "MASK"} <= _capitals(
                    hdu.data.names
                ):
                    camera, _, exposure = hdu.name.partition("-")
                    exposures[exposure].append(_segment(hdu.data, "mask", camera.lower()))
            for k, segments in enumerate(exposures.values(), start=1):
                spectra.append(self._record(path, hdus, segments, f"visit {k}", about))
            return spectra

    def _record(
        self, path: Path, hdus: fits.HDUList, segments: list[Segment], which: str, about: fits.FITS_rec | None
    ) -> SurveySpectra:
        header = hdus[0].header
        in_row = {name: column(about, name) for name in (*_NAMES, *_PLACES)} if about is not None else {}
        known = {name: [values[0]] for name, values in in_row.items() if values is not None and values.ndim == 1}
        names = {name: known[name] for name in _NAMES if name in known}
        places = {name: known.get(name, [text(header, card)]) for name, card in _PLACES.items()}
        redshift = column(about, "Z") if about is not None else None
        # What was measured in the co-added spectrum is not said of a single exposure.
        of_combined = scalar_columns(about, without=known) if about is not None and which == "combined" else {}
        return SurveySpectra(
            self.name,
            segments,
            present(names | {"FILE": [path.name]} | places),
            "ivar",
            np.array([np.nan if redshift is None else c.to_value("km/s") * float(redshift[0])]),
            np.array([which]),
            {"RA": _first_number(header, "PLUG_RA"), "DEC": _first_number(header, "PLUG_DEC")} | of_combined,
            {"RA": "deg", "DEC": "deg"},
            "air" if header.get("VACUUM") is False else "vacuum",
            "heliocentric",
            flux_unit(text(header, "BUNIT")),
        )


SPEC = Spec()


def _about(hdus: fits.HDUList) -> fits.FITS_rec | None:
    """The row about the object, in HDU 2."""
    if len(hdus) < 3 or not isinstance(hdus[2], fits.BinTableHDU) or hdus[2].data is None:
        return None
    if len(hdus[2].data) != 1:
        raise ValueError(f"HDU 2 has {len(hdus[2].data)} rows: expected one, about the object")
    return hdus[2].data


def _segment(table: fits.FITS_rec, mask: str, name: str = "") -> Segment:
    wavelength = 10 ** np.asarray(table["loglam"], dtype=float)
    return Segment(wavelength, table["flux"], table["ivar"], table[mask], name, log_linear=not name)


def _first_number(header: fits.Header, key: str) -> np.ndarray:
    return np.array([number(header, key)])


def _capitals(names: list[str]) -> set[str]:
    return {name.upper() for name in names}
