r"""Wavelengths in air and in vacuum, and shifts by a radial velocity.

The refraction of air is that of Ciddor (1996, Applied Optics 35, 1566, for standard air), in the short form that SDSS
and APOGEE use. With the wavenumber in vacuum :math:`\sigma = 10^4 \mathrm{\AA} / \lambda_\mathrm{vac}`, in
1/micrometre,

.. math:: \frac{\lambda_\mathrm{vac}}{\lambda_\mathrm{air}} = n
          = 1 + \frac{0.05792105}{238.0185 - \sigma^2} + \frac{0.00167917}{57.362 - \sigma^2}

It agrees with Morton (1991) to 2e-8, which is 6 m/s. Below 2,000 Angstrom nobody gives wavelengths in air.

A velocity is :math:`c z`, so that wavelengths are stretched by :math:`1 + v / c`. This is the radial-velocity measure
of the IAU (resolution C1 of 2000; Lindegren & Dravins 2003) and what SDSS, APOGEE and LAMOST publish. A relativistic
velocity would differ by :math:`v^2 / 2c`, 0.15 km/s at 300 km/s.
"""

from typing import Any, Literal

import numpy as np

from bayes_cannon.core.intake import in_unit

Medium = Literal["vacuum", "air"]

LIGHT = 299792.458
"""Speed of light, km/s."""
SHORTEST_IN_AIR = 2000.0
"""Angstrom; a wavelength below it has no counterpart in air."""
_ROUNDS = 6
"""Each makes the error of the inverse at least 5,000 times smaller."""


def vacuum_to_air(wavelength: Any) -> np.ndarray:
    """Wavelengths in air of wavelengths in vacuum, by Ciddor (1996); see `bayes_cannon.core.wavelengths`.

    Parameters
    ----------
    wavelength
        In vacuum, Angstrom, of any shape; a Quantity is converted.

    Returns
    -------
    wavelength
        In air, Angstrom, of the same shape.

    Raises
    ------
    ValueError
        For wavelengths that are not finite or below 2,000 Angstrom, naming the first.

    Examples
    --------
    >>> tc.io.vacuum_to_air(np.array([5000.0, 16000.0])).round(4)
    array([ 4998.6055, 15995.6299])

    """
    vacuum = _checked(wavelength)
    return vacuum / _refraction(vacuum)


def air_to_vacuum(wavelength: Any) -> np.ndarray:
    """Wavelengths in vacuum of wavelengths in air: the inverse of `vacuum_to_air`, to rounding.

    Parameters
    ----------
    wavelength
        In air, Angstrom, of any shape; a Quantity is converted.

    Returns
    -------
    wavelength
        In vacuum, Angstrom, of the same shape.

    Raises
    ------
    ValueError
        As for `vacuum_to_air`.

    Examples
    --------
    >>> tc.io.air_to_vacuum(tc.io.vacuum_to_air(np.array([5000.0, 16000.0])))
    array([ 5000., 16000.])

    """
    air = vacuum = _checked(wavelength)
    for _ in range(_ROUNDS):
        vacuum = air * _refraction(vacuum)
    return vacuum


def doppler_factor(velocity: Any) -> np.ndarray:
    """1 + v / c: by what wavelengths at rest are multiplied to be those observed.

    Parameters
    ----------
    velocity
        Radial velocity, km/s, positive when receding, of any shape; a Quantity is converted.

    Raises
    ------
    ValueError
        For a velocity that is not finite, or as fast as light, naming the first.

    """
    speed = np.asarray(in_unit(velocity, "km/s", "velocity")[0], dtype=float)
    bad = ~(np.abs(speed) < LIGHT)
    if bad.any():
        raise ValueError(f"velocities must be finite, in km/s and below that of light; got {speed[bad][0]}{_at(bad)}")
    return 1 + speed / LIGHT


def to_rest_frame(wavelength: Any, velocity: Any) -> np.ndarray:
    """Wavelengths at rest, wavelength / (1 + v / c). Only the wavelengths change; nothing is interpolated.

    Parameters
    ----------
    wavelength
        Observed, shape (pixel,); a Quantity becomes Angstrom, other numbers keep their unit.
    velocity
        Radial velocity, km/s, positive when receding: one number, or one a star, shape (star,).

    Returns
    -------
    wavelength
        At rest, shape (pixel,) or (star, pixel).

    Raises
    ------
    ValueError
        For velocities that are not finite.

    Examples
    --------
    >>> tc.io.to_rest_frame(np.array([5000.0, 6000.0]), [0.0, 100.0]).round(3)
    array([[5000.   , 6000.   ],
           [4998.333, 5997.999]])

    """
    observed = np.asarray(in_unit(wavelength, "Angstrom", "wavelength")[0], dtype=float)
    return observed / doppler_factor(velocity)[..., None] if np.ndim(velocity) else observed / doppler_factor(velocity)


def _refraction(vacuum: np.ndarray) -> np.ndarray:
    wavenumber2 = (1e4 / vacuum) ** 2
    return 1 + 0.05792105 / (238.0185 - wavenumber2) + 0.00167917 / (57.362 - wavenumber2)


def _checked(wavelength: Any) -> np.ndarray:
    values = np.asarray(in_unit(wavelength, "Angstrom", "wavelength")[0], dtype=float)
    bad = ~((values >= SHORTEST_IN_AIR) & np.isfinite(values))
    if bad.any():
        raise ValueError(
            f"wavelengths must be finite, in Angstrom and at least {SHORTEST_IN_AIR:g}, below which none are given in "
            f"air; got {values[bad][0]}{_at(bad)}"
        )
    return values


def _at(bad: np.ndarray) -> str:
    """Where the first bad value stands, for a message."""
    return f" at index {', '.join(map(str, np.argwhere(bad)[0]))}" if bad.ndim else ""
