"""Spectra with the units that their file states."""

from typing import Any

from astropy import units as u

from bayes_cannon.io.spectra import Spectra


def with_units(spectra: Spectra) -> tuple[Any, Any, Any]:
    """Flux, ivar and wavelength as astropy's Quantities, so that a model keeps their units and converts others to them.

    Without a unit, or with one that astropy does not know, they are plain arrays; so are wavelengths that are None.

    Examples
    --------
    >>> from bayes_cannon.io.quantities import with_units
    >>> spectra = tc.io.Spectra(np.ones((1, 2)), np.ones((1, 2)), np.array([500.0, 501.0]), units={"wavelength": "nm"})
    >>> flux, ivar, wavelength = with_units(spectra)
    >>> wavelength.to("Angstrom").value, type(flux).__name__
    (array([5000., 5010.]), 'ndarray')

    """
    flux_unit, wavelength_unit = _known(spectra.units.get("flux")), _known(spectra.units.get("wavelength"))
    flux, ivar, wavelength = spectra.flux, spectra.ivar, spectra.wavelength
    if flux_unit is not None:
        flux, ivar = u.Quantity(flux, flux_unit, copy=False), u.Quantity(ivar, flux_unit**-2, copy=False)
    if wavelength is not None and wavelength_unit is not None:
        wavelength = u.Quantity(wavelength, wavelength_unit, copy=False)
    return flux, ivar, wavelength


def _known(text: str | None) -> u.UnitBase | None:
    unit = None if text is None else u.Unit(text, parse_strict="silent")
    return None if isinstance(unit, u.UnrecognizedUnit) else unit
