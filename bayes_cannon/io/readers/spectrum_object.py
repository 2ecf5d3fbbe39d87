"""Spectra that are objects in memory: what looks like the ``Spectrum`` of specutils is read, without specutils."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from astropy import units

from bayes_cannon.io.readers.noise_names import as_noise
from bayes_cannon.io.readers.survey_spectra import ANGSTROM, Segment, SurveySpectra

READER = "spectrum object"
_NAMES = ("OBJECT", "object", "name", "id")


def are_objects(given: Any) -> bool:
    """Whether this is an object with ``flux``, or a list that begins with one."""
    first = given[0] if isinstance(given, Sequence) and len(given) and not isinstance(given, str) else given
    return hasattr(first, "flux")


def survey_spectra_of(spectra: Any) -> list[SurveySpectra]:
    """Records of objects that look like ``specutils.Spectrum``, or of a list of them.

    Parameters
    ----------
    spectra
        Objects with ``flux`` (a Quantity of shape (pixel,) or (spectrum, pixel)), ``spectral_axis`` (a Quantity:
        wavelength, frequency or energy), ``uncertainty`` (Astropy's, of standard deviation, variance or inverse
        variance) and, if they like, ``mask`` (True is bad), ``radial_velocity`` (a Quantity) and ``meta``.

    Returns
    -------
    records
        One for each object, in their order, and in it a spectrum for each row of its flux. The star is called as
        ``meta`` or its ``header`` says under OBJECT, object, name or id, otherwise by its number in the list. The
        velocity is ``radial_velocity``, NaN without one
        and where it is zero, which is what specutils has if nobody set it. Of the medium specutils says nothing.

    Raises
    ------
    ValueError
        If an attribute is missing, there is no uncertainty, or units do not fit, with the number of the object.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> from astropy import units as u
    >>> from astropy.nddata import StdDevUncertainty
    >>> spectrum = SimpleNamespace(
    ...     flux=[1.0, 0.9] * u.one, spectral_axis=[500, 501] * u.nm, uncertainty=StdDevUncertainty([0.1, 0.1])
    ... )
    >>> tc.io.survey_spectra_of(spectrum)[0].segments[0].wavelength
    array([5000., 5010.])

    """
    listed = spectra if isinstance(spectra, Iterable) and not hasattr(spectra, "flux") else [spectra]
    records = []
    for k, spectrum in enumerate(listed):
        try:
            records.append(_record(spectrum, k))
        except (AttributeError, TypeError, units.UnitsError, ValueError) as error:
            raise ValueError(f"cannot read spectrum {k}, a {type(spectrum).__name__}: {error}") from error
    return records


def _record(spectrum: Any, k: int) -> SurveySpectra:
    flux = np.atleast_2d(spectrum.flux.value)
    wavelength = np.asarray(spectrum.spectral_axis.to_value(ANGSTROM, units.spectral()), dtype=float)
    uncertainty = spectrum.uncertainty
    if uncertainty is None:
        raise ValueError("it has no uncertainty: give it one, such as astropy.nddata.StdDevUncertainty")
    kind = uncertainty.uncertainty_type
    if kind not in ("std", "var", "ivar"):
        raise ValueError(f"its uncertainty is of type {kind!r}: expected std, var or ivar")
    unit = None if uncertainty.unit is None else str(uncertainty.unit)
    noise, noise_kind = as_noise(np.atleast_2d(uncertainty.array), kind, unit, str(spectrum.flux.unit))
    mask = getattr(spectrum, "mask", None)
    velocity = getattr(spectrum, "radial_velocity", None)
    v = np.asarray(np.nan if velocity is None else velocity.to_value("km/s"), dtype=float)
    name = _name(getattr(spectrum, "meta", None) or {})
    numbers = {"number": np.full(len(flux), str(k))}
    if len(flux) > 1:
        numbers["row"] = np.arange(len(flux)).astype(str)
    return SurveySpectra(
        READER,
        [Segment(wavelength, flux, noise, None if mask is None else np.atleast_2d(mask).astype(np.uint8))],
        {"OBJECT": np.full(len(flux), name), **numbers} if name else numbers,
        noise_kind,
        np.where(v == 0, np.nan, v) * np.ones(len(flux)),
        np.full(len(flux), "combined"),
        flux_unit=str(spectrum.flux.unit) or None,
    )


def _name(meta: Mapping[str, Any]) -> str:
    for place in (meta, meta.get("header") or {}):
        for key in _NAMES:
            if str(place.get(key) or "").strip():
                return str(place[key]).strip()
    return ""
