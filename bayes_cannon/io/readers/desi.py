"""DESI coadded spectra, ``coadd-*.fits``: three arms, whose wavelengths overlap, for all fibres of a part of the sky.

For each arm, B, R and Z, there are HDUs of wavelength, flux, inverse variance and mask; for each fibre a row of
FIBERMAP and of SCORES. Fibres on the sky, and those that were on nothing, are in the file as well: they are kept, and
the column NOT_A_TARGET, which is no column of the file, is 1 for those whose OBJTYPE is not TGT or whose TARGETID is
negative. Wavelengths are in vacuum and barycentric; velocities are in another file. The resolution matrices are left
alone.
"""

from pathlib import Path

import numpy as np
from astropy.io import fits

from bayes_cannon.io.readers.fits_file import layout, opened
from bayes_cannon.io.readers.fits_values import native
from bayes_cannon.io.readers.survey_spectra import Segment, SurveySpectra

_WAVELENGTH = "_WAVELENGTH"


class _Coadd:
    """Coadded spectra of all fibres."""

    name = "desi-coadd"
    description = "DESI coadded spectra (coadd-*.fits)"
    needs: str | None = None
    extra: str | None = None

    def recognizes(self, path: Path) -> bool:
        """Whether there is a table FIBERMAP of coadded targets, and an arm with its wavelengths."""
        found = layout(path)
        if "FIBERMAP" not in found.names or not any(name.endswith(_WAVELENGTH) for name in found.names):
            return False
        return {"TARGETID", "COADD_FIBERSTATUS"} <= set(found.columns(found.names.index("FIBERMAP")))

    def read(self, path: Path) -> list[SurveySpectra]:
        """All fibres, in the order of the file.

        Raises
        ------
        ValueError
            If the file is not of this format, or its tables do not belong to the same fibres.

        """
        with opened(path, "expected coadded DESI spectra") as hdus:
            names = [hdu.name.upper() for hdu in hdus]
            arms = [name.removesuffix(_WAVELENGTH) for name in names if name.endswith(_WAVELENGTH)]
            fibres = hdus["FIBERMAP"].data
            target = native(fibres["TARGETID"])
            columns, units = _columns(hdus["FIBERMAP"])
            if "SCORES" in names:
                if not np.array_equal(hdus["SCORES"].data["TARGETID"], target):
                    raise ValueError("the tables FIBERMAP and SCORES do not name the same fibres")
                more, their_units = _columns(hdus["SCORES"])
                columns, units = more | columns, their_units | units
            if "OBJTYPE" in columns:
                columns["NOT_A_TARGET"] = ((np.char.strip(columns["OBJTYPE"]) != "TGT") | (target < 0)).astype(int)
            return [
                SurveySpectra(
                    reader=self.name,
                    segments=[_segment(hdus, names, arm) for arm in arms],
                    identifiers={"TARGETID": target.astype(str)},
                    noise_kind="ivar",
                    velocity=np.full(len(target), np.nan),
                    which=np.full(len(target), "combined"),
                    columns=columns,
                    units=units,
                    medium="vacuum",
                    frame="barycentric",
                    flux_unit=hdus[f"{arms[0]}_FLUX"].header.get("BUNIT"),
                )
            ]


COADD = _Coadd()


def _segment(hdus: fits.HDUList, names: list[str], arm: str) -> Segment:
    return Segment(
        native(hdus[arm + _WAVELENGTH].data),
        native(hdus[f"{arm}_FLUX"].data),
        native(hdus[f"{arm}_IVAR"].data),
        native(hdus[f"{arm}_MASK"].data) if f"{arm}_MASK" in names else None,
        name=arm,
    )


def _columns(hdu: fits.BinTableHDU) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Every column of one value a fibre, and the units that the table has."""
    described = [column for column in hdu.columns if column.name != "TARGETID" and hdu.data[column.name].ndim == 1]
    columns = {column.name: native(hdu.data[column.name]) for column in described}
    return columns, {column.name: column.unit for column in described if column.unit}
