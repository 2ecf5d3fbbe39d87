"""What a survey's file holds, and the same once decoded: the two records between a file and `bayes_cannon.io.Spectra`.

A reader makes `SurveySpectra` and changes nothing of what the file says. `bayes_cannon.io.decoding.decode` makes
`DecodedSpectra` of it, a pure step: mask bits and errors become ivar, the velocity becomes a Doppler factor.
`bayes_cannon.io.gridding.on_grid` then interpolates once, from the pixels of the file to those of a model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

NoiseKind = Literal["ivar", "error", "relative error"]
Medium = Literal["vacuum", "air"]
Frame = Literal["rest", "barycentric", "heliocentric", "observed"]

ANGSTROM = "Angstrom"


@dataclass(frozen=True)
class Segment:
    """Pixels of S spectra that a detector or an arm gave, on wavelengths that the spectra share.

    Attributes
    ----------
    wavelength
        Centre of each pixel, Angstrom, in the medium and frame of the file, strictly rising or falling, shape (pixel,).
    flux, noise
        As the file has them, shape (spectrum, pixel); what the noise is says `SurveySpectra.noise_kind`.
    mask
        Mask bits, whole numbers, of the same shape; None where the file has none.
    name
        Of the detector or arm, such as "b" or "CCD1"; empty where there is but one.
    log_linear
        Whether the pixels are of one width in ln(wavelength), as the edges between them need to know.
    covariance
        Covariance of the flux, shape (spectrum, pixel, pixel), where the file gives one.

    Raises
    ------
    ValueError
        For shapes that differ, and wavelengths that are no positive numbers or turn, naming the pixel.

    Examples
    --------
    >>> tc.io.Segment([5000.0, 5001.0], flux=[1.0, 0.9], noise=[0.1, 0.1]).flux
    array([[1. , 0.9]])

    """

    wavelength: np.ndarray
    flux: np.ndarray
    noise: np.ndarray
    mask: np.ndarray | None = None
    name: str = ""
    log_linear: bool = False
    covariance: np.ndarray | None = None

    def __post_init__(self) -> None:
        wavelength = np.asarray(self.wavelength, dtype=float)
        if wavelength.ndim != 1 or wavelength.size < 2:
            raise ValueError(f"wavelengths must have shape (pixel,) with two pixels or more, got {wavelength.shape}")
        bad = np.flatnonzero(~(np.isfinite(wavelength) & (wavelength > 0)))
        if bad.size:
            raise ValueError(f"the wavelength of pixel {bad[0]} is {wavelength[bad[0]]}: expected a positive number")
        steps = np.diff(wavelength)
        turned = np.flatnonzero(steps * steps[0] <= 0)
        if turned.size:
            raise ValueError(
                f"the wavelengths turn at pixel {turned[0]} ({wavelength[turned[0]]:.3f} then "
                f"{wavelength[turned[0] + 1]:.3f} Angstrom): they must rise or fall throughout"
            )
        object.__setattr__(self, "wavelength", wavelength)
        flux = np.atleast_2d(self.flux)
        for what in ("flux", "noise", "mask"):
            values = getattr(self, what)
            if values is None:
                continue
            values = np.atleast_2d(values)
            if values.shape != flux.shape or values.shape[1] != wavelength.size:
                raise ValueError(
                    f"{what} has shape {values.shape}: expected {len(flux)} spectra of {wavelength.size} pixels"
                )
            object.__setattr__(self, what, values)


@dataclass(frozen=True)
class SurveySpectra:
    """S spectra of one file as the survey publishes them.

    Attributes
    ----------
    reader
        Name of the reader, such as "apogee-apstar".
    segments
        One or more, in the order of the file.
    identifiers
        The survey's names of the star of each spectrum by the survey's word for them, each of shape (spectrum,), texts:
        ``APOGEE_ID``, ``SOURCE_ID``, ``OBSID``. The first is the name that the star goes by.
    noise_kind
        What `Segment.noise` is. Relative errors are errors over flux.
    velocity
        Radial velocity that takes the spectrum from ``frame`` to rest, km/s, positive when receding, shape
        (spectrum,); zero where ``frame`` is "rest", NaN where the file does not say.
    which
        What each spectrum is, shape (spectrum,), texts: "combined", "combined 2", "visit 1".
    columns
        Facts about each spectrum by the file's own name, each of shape (spectrum,): S/N, magnitudes, flags, MJD.
    units
        Units of columns, as texts.
    medium, frame, flux_unit
        None where the file does not say.

    Raises
    ------
    ValueError
        If there is no segment, nothing names the star, or something has another number of spectra, naming it.

    Examples
    --------
    >>> arm = tc.io.Segment([5000.0, 5001.0], flux=[[1.0, 0.9], [1.1, 1.0]], noise=np.full((2, 2), 0.1))
    >>> visits = ["visit 1", "visit 2"]
    >>> spectra = tc.io.SurveySpectra("mine", [arm], {"OBJECT": ["Sun", "Sun"]}, "error", [30.0, 31.0], visits)
    >>> spectra.n_spectra, spectra.star_id.tolist()
    (2, ['Sun', 'Sun'])

    """

    reader: str
    segments: Sequence[Segment]
    identifiers: Mapping[str, np.ndarray]
    noise_kind: NoiseKind
    velocity: np.ndarray
    which: np.ndarray
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    medium: Medium | None = None
    frame: Frame | None = None
    flux_unit: str | None = None

    def __post_init__(self) -> None:
        if not self.segments:
            raise ValueError("there is no spectrum in it")
        if not self.identifiers:
            raise ValueError("nothing in it names the star")
        object.__setattr__(self, "segments", tuple(self.segments))
        as_texts = {name: _texts(values) for name, values in self.identifiers.items()}
        object.__setattr__(self, "identifiers", as_texts)
        object.__setattr__(self, "which", _texts(self.which))
        velocity = np.atleast_1d(np.asarray(self.velocity, dtype=float))
        object.__setattr__(self, "velocity", velocity)
        object.__setattr__(self, "columns", {name: np.atleast_1d(values) for name, values in self.columns.items()})
        per_spectrum = {**self.identifiers, **self.columns, "velocity": self.velocity, "which": self.which}
        for name, values in per_spectrum.items():
            if len(values) != self.n_spectra:
                raise ValueError(f"{name} has {len(values)} values for {self.n_spectra} spectra")
        for segment in self.segments:
            if len(segment.flux) != self.n_spectra:
                raise ValueError(f"segment {segment.name!r} has {len(segment.flux)} spectra, not {self.n_spectra}")

    @property
    def n_spectra(self) -> int:
        """Number of spectra S."""
        return len(self.segments[0].flux)

    @property
    def star_id(self) -> np.ndarray:
        """Name of the star of each spectrum, shape (spectrum,), texts."""
        return next(iter(self.identifiers.values()))


@dataclass(frozen=True)
class DecodedSegment:
    """A `Segment` with float64 ``flux`` and ``ivar``, shape (spectrum, pixel); ivar is zero where nothing is known."""

    wavelength: np.ndarray
    flux: np.ndarray
    ivar: np.ndarray
    name: str = ""
    log_linear: bool = False
    covariance: np.ndarray | None = None


@dataclass(frozen=True)
class DecodedSpectra:
    """`SurveySpectra` whose mask, noise and velocity were read as what they are.

    Attributes
    ----------
    source
        What it was made of.
    segments
        As many as there.
    doppler
        Number by which the wavelengths of each spectrum are divided to be at rest, shape (spectrum,); one where they
        are or shall stay as they are; NaN for a spectrum whose velocity is not known, which has no place on a grid.
    medium
        Of the wavelengths; None is not known.
    decisions
        What was decided, in words, for the provenance: mask bits, velocities, medium.

    """

    source: SurveySpectra
    segments: tuple[DecodedSegment, ...]
    doppler: np.ndarray
    medium: Medium | None
    decisions: Mapping[str, str] = field(default_factory=dict)


def _texts(values: Any) -> np.ndarray:
    plain = np.atleast_1d(np.asarray(values))
    return np.array([v.decode().strip() if isinstance(v, bytes) else str(v).strip() for v in plain], dtype=str)
