"""From what a survey's file holds to flux, ivar and a Doppler factor: mask bits, errors and velocities, decoded."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from typing import Literal

import numpy as np
from astropy.nddata.bitmask import BitFlagNameMap, bitfield_to_boolean_mask, extend_bit_flag_map

from bayes_cannon.core.wavelengths import LIGHT
from bayes_cannon.io.readers.mask_bits import MASKS, TOO_COARSE_FOR_VELOCITIES, ZERO_FLUX_IS_NO_DATA, mask_of
from bayes_cannon.io.readers.survey_spectra import DecodedSegment, DecodedSpectra, Medium, Segment, SurveySpectra

NO_DATA_ERROR = 1e10
"""Errors as large as this say that there is no data; APOGEE writes just this number."""

BadBits = Sequence[str] | Mapping[str, Sequence[str]] | Literal["default"]


def decode(
    spectra: SurveySpectra,
    *,
    mask_bits: BadBits = "default",
    velocity: Literal["header", "none"] | np.ndarray = "header",
    medium: Medium | None = None,
) -> DecodedSpectra:
    """Flux and ivar in double precision, and the number that takes the wavelengths to rest.

    ::

        ivar    = 1 / error^2 = 1 / (relative error * flux)^2
        doppler = 1 + v / c

    ivar is zero where a bad bit of the mask is set, where ivar or error are not finite or not above zero, where the
    error is 1e10 or more, where the flux is not finite (it is then zero too), and where it is exactly zero in files
    of surveys that write this where they have no data. v / c is the redshift, the convention of the surveys'
    velocities.

    Parameters
    ----------
    spectra
        What a reader made, from `bayes_cannon.io.open_spectra`.
    mask_bits
        Names of the bits that make a pixel bad, in place of the default ones; none of them for an empty list. A
        mapping has them by the survey's name of the mask (``APOGEE_PIXMASK``, ``SPPIXMASK``, ``LAMOST``, ``DESI
        specmask``) and leaves the masks that it does not name as they are by default. A mask without names of bits is
        bad wherever it is not zero.
    velocity
        ``"header"`` takes that of the file; spectra whose frame is rest are left. ``"none"`` leaves the wavelengths as
        they are. Or that of each spectrum as it is in the file, km/s, positive when receding, shape (spectrum,).
    medium
        Of the wavelengths, where the file does not say.

    Returns
    -------
    decoded
        ``doppler`` is NaN for spectra whose velocity is not known. Such a spectrum has no wavelengths at rest: refuse
        it, give a velocity, or decode with ``velocity="none"``.

    Raises
    ------
    ValueError
        For a name of a bit or a mask that does not exist, with the nearest ones; for names of bits where the file has
        no mask; for velocities of another shape, not finite (but NaN) or at or below -c; for a medium other than the
        file's.

    Examples
    --------
    >>> arm = tc.io.Segment([5000.0, 5001.0, 5002.0], flux=[2.0, 0.0, np.nan], noise=[0.5, 0.5, 0.5])
    >>> sun, which = {"OBJECT": ["Sun"]}, ["combined"]
    >>> spectra = tc.io.SurveySpectra("wcs1d-fits", [arm], sun, "error", velocity=[30.0], which=which)
    >>> decoded = tc.io.decode(spectra)
    >>> decoded.segments[0].ivar
    array([[4., 4., 0.]])
    >>> decoded.doppler.round(6)
    array([1.0001])

    """
    if isinstance(mask_bits, Mapping):
        for name in mask_bits:
            if name not in MASKS:
                raise ValueError(f"there is no mask {name!r}; {_nearest(name, MASKS)}")
    elif isinstance(mask_bits, str) and mask_bits != "default":
        raise ValueError(f"mask_bits is {mask_bits!r}: expected 'default' or a list of names, such as [{mask_bits!r}]")
    if medium is not None and spectra.medium not in (None, medium):
        raise ValueError(f"{_whose(spectra)} has {spectra.medium} wavelengths: medium={medium!r} contradicts its file")
    doppler, said_of_velocity = _doppler(spectra, velocity)
    frame = spectra.frame if said_of_velocity.startswith("none") else "rest"
    segments, said_of_masks = [], []
    for segment in spectra.segments:
        masked, said = _masked(spectra, segment, mask_bits)
        segments.append(_decoded(spectra, segment, masked))
        said_of_masks.append(said)
    medium = medium or spectra.medium
    decisions = {
        "mask_bits": "; ".join(dict.fromkeys(said_of_masks)),
        "noise": f"ivar from {spectra.noise_kind}, 0 where there is none",
        "velocity": said_of_velocity,
        "medium": medium or "not known",
        "frame": frame or "not known",
    }
    return DecodedSpectra(spectra, tuple(segments), doppler, medium, decisions)


def _decoded(spectra: SurveySpectra, segment: Segment, masked: np.ndarray) -> DecodedSegment:
    flux, noise = np.asarray(segment.flux, dtype=float), np.asarray(segment.noise, dtype=float)
    error = noise * np.abs(flux) if spectra.noise_kind == "relative error" else noise
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        good = np.isfinite(error) & (error > 0)
        if spectra.noise_kind == "ivar":
            ivar = error
        else:
            good &= noise < NO_DATA_ERROR
            ivar = 1 / error**2
        good &= np.isfinite(ivar) & np.isfinite(flux) & ~masked
    if spectra.reader in ZERO_FLUX_IS_NO_DATA:
        good &= flux != 0
    covariance = None if segment.covariance is None else np.asarray(segment.covariance, dtype=float)
    flux = np.where(np.isfinite(flux), flux, 0.0)
    return DecodedSegment(
        segment.wavelength, flux, np.where(good, ivar, 0.0), segment.name, segment.log_linear, covariance
    )


def _masked(spectra: SurveySpectra, segment: Segment, wanted: BadBits) -> tuple[np.ndarray, str]:
    """Which pixels a mask calls bad, shape (spectrum, pixel), and that in words."""
    names = mask_of(spectra.reader, segment.name)
    chosen = wanted if not isinstance(wanted, Mapping) else wanted.get(names.name, "default") if names else "default"
    if segment.mask is None:
        if not isinstance(chosen, str) and len(chosen):
            raise ValueError(f"{_whose(spectra)} has no mask: leave out the mask bits {', '.join(chosen)}")
        return np.zeros(segment.flux.shape, dtype=bool), "no mask"
    mask = np.asarray(segment.mask)
    if names is None:
        if isinstance(chosen, str):
            return mask != 0, "bad wherever the mask is not 0"
        if len(chosen):
            raise ValueError(f"the bits of the mask of {_whose(spectra)} have no names: leave out {', '.join(chosen)}")
        return np.zeros(mask.shape, dtype=bool), "mask not used"
    bad = list(names.bad if isinstance(chosen, str) else chosen)
    for name in bad:
        if name not in names.bits:
            raise ValueError(f"{names.name} has no bit {name!r}; {_nearest(name, names.bits)}")
    if not bad:
        return np.zeros(mask.shape, dtype=bool), f"{names.name} not used"
    # Its list of flags is one to ignore, or, flipped, to look at.
    any_bit = bitfield_to_boolean_mask(mask, ignore_flags=bad, flip_bits=True, flag_name_map=_flags(names.name))
    return any_bit, f"{names.name}: {', '.join(bad)}"


@cache
def _flags(mask: str) -> type[BitFlagNameMap]:
    """The bits of a mask by their names, as Astropy takes them."""
    return extend_bit_flag_map("PixelMask", **{name: 1 << bit for name, bit in MASKS[mask].bits.items()})


def _doppler(spectra: SurveySpectra, velocity: str | np.ndarray) -> tuple[np.ndarray, str]:
    """Number by which the wavelengths are divided, shape (spectrum,), and where it comes from."""
    rest = np.ones(spectra.n_spectra)
    if isinstance(velocity, str):
        if velocity == "none":
            return rest, "none: wavelengths as in the file"
        if velocity != "header":
            raise ValueError(
                f"velocity is {velocity!r}: expected 'header', 'none' or a number for each spectrum in km/s"
            )
        if spectra.frame == "rest":
            return rest, "at rest in the file"
        if spectra.reader in TOO_COARSE_FOR_VELOCITIES:
            return rest, "none: a sample is as wide as a thousand km/s or more"
        values, said = spectra.velocity, "of the file"
    else:
        values, said = np.asarray(velocity, dtype=float), "given"
        if values.shape != rest.shape:
            raise ValueError(f"velocity has shape {values.shape}: expected {rest.shape}, one for each spectrum")
    doppler = 1 + values / LIGHT
    for k in np.flatnonzero((doppler <= 0) | np.isinf(doppler)):
        raise ValueError(f"the velocity of {_whose(spectra, int(k))} is {values[k]} km/s: expected a number above -c")
    return doppler, said


def _whose(spectra: SurveySpectra, k: int = 0) -> str:
    return f"{str(spectra.star_id[k])!r} ({spectra.reader}, {spectra.which[k]})"


def _nearest(name: str, known: Mapping[str, object]) -> str:
    close = get_close_matches(name.upper(), known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(known)}"
