"""What users and surveys call the noise of a spectrum, and how each kind of it is kept: as ivar or as error."""

import numpy as np
from astropy import units

from bayes_cannon.io.readers.survey_spectra import NoiseKind

_STANDARD_DEVIATION = (
    "ERR", "ERROR", "ERRORS", "SIGMA", "STD", "STDDEV", "NOISE", "UNCERT", "UNCERTAINTY", "FLUX_ERR", "FLUX_ERROR",
    "ERR_FLUX", "E_FLUX", "FLUXERR",
)  # fmt: skip
KINDS = (
    dict.fromkeys(_STANDARD_DEVIATION, "std")
    | dict.fromkeys(("VAR", "VARIANCE", "FLUX_VAR"), "var")
    | dict.fromkeys(("IVAR", "INVVAR", "FLUX_IVAR", "INVERSE_VARIANCE"), "ivar")
)
"""Standard deviation (std), variance (var) or inverse variance (ivar) by the name in capitals of an HDU or a column."""

_POWER = {"std": 1, "var": 2, "ivar": -2}


def as_noise(values: np.ndarray, kind: str, unit: str | None, flux_unit: str | None) -> tuple[np.ndarray, NoiseKind]:
    """Noise in the unit of the flux, and what it then is: a variance becomes ivar, zero where it is not above zero.

    Raises
    ------
    ValueError
        If its unit does not go with that of the flux.

    """
    values = np.asarray(values, dtype=float)
    if unit and flux_unit:
        try:
            values = values * (1.0 * units.Unit(unit)).to_value(units.Unit(flux_unit) ** _POWER[kind])
        except units.UnitConversionError:
            raise ValueError(f"the unit of the noise, {unit}, does not go with that of the flux, {flux_unit}") from None
    if kind != "var":
        return values, "ivar" if kind == "ivar" else "error"
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(values > 0, 1 / values, 0.0), "ivar"
