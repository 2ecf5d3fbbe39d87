"""What spectra of several files must have in common to be put together as they are."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from bayes_cannon.io.spectra import Spectra

_SAME = 1e-9
"""Relative difference up to which two wavelengths are the same."""


@dataclass(frozen=True)
class First:
    """What the files must have in common where no grid is given: that of the first of them."""

    name: Path | str
    wavelength: np.ndarray | None
    reader: str

    @classmethod
    def of(cls, spectra: Spectra, name: Path | str) -> Self:
        """Of the first file."""
        return cls(name, spectra.wavelength, _reader(spectra))


def check_alike(spectra: Spectra, name: Path | str, first: First) -> None:
    """Raise unless a file is of the same survey as the first and shares its pixels."""
    reader = _reader(spectra)
    if reader != first.reader:
        raise ValueError(
            f"{name} is of the format {reader} and {first.name} of {first.reader}: read them apart, or say with grid= "
            "where both shall go"
        )
    if not same_pixels(spectra.wavelength, first.wavelength):
        raise ValueError(
            f"{name} has other pixels ({_range(spectra.wavelength)}) than {first.name} ({_range(first.wavelength)}): "
            "say with grid= where all shall go"
        )


def _reader(spectra: Spectra) -> str:
    return str(spectra.attrs.get("survey", "bayes-cannon"))


def same_pixels(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    """Whether these are the same wavelengths."""
    if one is None or other is None:
        return one is other
    return np.shape(one) == np.shape(other) and bool(np.allclose(one, other, rtol=_SAME, atol=0))


def _range(wavelength: np.ndarray | None) -> str:
    if wavelength is None:
        return "no wavelengths"
    return f"{wavelength.size} from {wavelength[0]:.3f} to {wavelength[-1]:.3f} Angstrom"
