"""The package's own warnings, one class for each thing that a person may want to silence or to turn into an error."""

import warnings
from pathlib import Path

import numpy as np

_PACKAGE = str(Path(__file__).parents[1])


class BayesCannonWarning(UserWarning):
    """Anything that this package warns of."""


class FluxNotFiniteWarning(BayesCannonWarning):
    """Some flux is NaN or infinite although its ivar is positive."""


class ContinuumWarning(BayesCannonWarning):
    """Some pixels could not be continuum-normalized."""


class PixelsOutsideRegionsWarning(ContinuumWarning):
    """Some pixels with positive ivar lie in no region, so that they have no continuum."""


class ContinuumNotDeterminedWarning(ContinuumWarning):
    """The continuum pixels of some stars do not determine their continuum."""


class ContinuumNotPositiveWarning(ContinuumWarning):
    """The continuum of some stars is zero or negative at some pixels."""


def warn_user(message: str, category: type[BayesCannonWarning]) -> None:
    """Warn, naming as the place the line outside this package that led here."""
    warnings.warn(message, category, skip_file_prefixes=(_PACKAGE,))


def stars_text(affected: np.ndarray, shown: int = 8) -> str:
    """Stars where the mask of shape (star,) is True, as text, e.g. ``3 of 100 stars (rows 0, 5, 7)``."""
    rows = np.flatnonzero(affected)
    listed = ", ".join(str(row) for row in rows[:shown]) + (", ..." if rows.size > shown else "")
    return f"{rows.size} of {len(affected)} stars (rows {listed})"
