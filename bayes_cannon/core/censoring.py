"""Which labels may act at which pixels.

A censor is a mask over pixels for one label. **True means censored**: there every term that contains the label is
exactly zero, so that the label cannot change the flux.

The original package documents its masks so, too, but its code does the reverse: there a label acts where its mask is
True. Invert (``~mask``) the masks of scripts that were written to work with that code.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from bayes_cannon.core.arguments import check_kind, listed, mapping, texts, whole_number
from bayes_cannon.core.intake import as_array, in_unit, wavelength_bound
from bayes_cannon.core.vectorizer import BaseVectorizer


def create_mask(dispersion: np.ndarray, censored_regions: Sequence) -> np.ndarray:
    """Mask that is True (censored) inside the regions, both ends included.

    Parameters
    ----------
    dispersion
        Wavelength of each pixel, shape (pixel,), in any unit and order.
    censored_regions
        One pair ``(start, end)`` or a list of pairs, in the unit of ``dispersion``; Quantities are converted to it.
        None is an open end.

    Returns
    -------
    mask
        Boolean, shape (pixel,).

    Raises
    ------
    ValueError
        If there is no region, a region is not a pair, its start lies after its end, an end is NaN, a region holds no
        pixel, or has a unit where ``dispersion`` has none.

    Examples
    --------
    >>> tc.censoring.create_mask([4990, 5000, 5010, 5020], [(None, 4995), (5015, None)])
    array([ True, False, False,  True])

    """
    array, unit = in_unit(dispersion, None, "dispersion")
    wavelength = np.asarray(array, dtype=float)
    if wavelength.ndim != 1 or not wavelength.size:
        raise ValueError(f"dispersion must have shape (pixel,), got shape {wavelength.shape}")
    mask = np.zeros(wavelength.size, dtype=bool)
    for start, end in _pairs(censored_regions, unit):
        inside = (wavelength >= start) & (wavelength <= end)
        if not inside.any():
            raise ValueError(
                f"the region from {start} to {end} holds no pixel: the wavelengths go from {wavelength.min()} to "
                f"{wavelength.max()}{_other_unit(wavelength, start, end)}"
            )
        mask |= inside
    return mask


def _other_unit(wavelength: np.ndarray, start: float, end: float) -> str:
    """A hint where the region would hold pixels if it were in another unit."""
    for factor in (10.0, 1e4, 1e3, 1e10, 1e8):
        for scale in (factor, 1 / factor):
            if ((wavelength >= scale * start) & (wavelength <= scale * end)).any():
                return f". Times {scale:g} it would hold some: is it in another unit?"
    return ""


def create_inverse_mask(dispersion: np.ndarray, kept_regions: Sequence) -> np.ndarray:
    """Mask that is True (censored) everywhere *but* inside the regions: the label is kept only there.

    Parameters and errors are those of `create_mask`.

    Examples
    --------
    >>> tc.censoring.create_inverse_mask([4990, 5000, 5010, 5020], (4995, 5015))
    array([ True, False, False,  True])

    """
    return ~create_mask(dispersion, kept_regions)


def _pairs(regions: Sequence, unit: str | None) -> list[tuple[float, float]]:
    found = listed(regions)
    if not found:
        raise ValueError("no region given: write a pair (start, end), or a list of pairs; None is an open end")
    # One pair of numbers, or of Quantities, or None is one region.
    sections = [found] if listed(found[0]) is None else found
    pairs = []
    for region in sections:
        ends = listed(region)
        if ends is None or len(ends) != 2:
            raise ValueError(f"a region must be a pair (start, end), got {region!r}")
        start, end = ends
        low, high = wavelength_bound(start, -np.inf, unit), wavelength_bound(end, np.inf, unit)
        if not low <= high:
            raise ValueError(f"a region must start before it ends, got {region!r}")
        pairs.append((low, high))
    return pairs


class Censors(dict[str, np.ndarray]):
    """A mask over pixels for each censored label; True means censored. Empty by default.

    Parameters
    ----------
    label_names
        Labels of the model.
    num_pixels
        Length of every mask.
    items
        Masks to start with, by label name.

    Raises
    ------
    ValueError
        For a name that is no label of the model, or a mask that is not boolean (or 0 and 1) of the right length.

    Examples
    --------
    >>> censors = tc.censoring.Censors(("TEFF", "FE_H"), 4)
    >>> censors["FE_H"] = [True, False, False, True]
    >>> censors
    {'FE_H': array([ True, False, False,  True])}

    """

    def __init__(self, label_names: Sequence[str], num_pixels: int, items: Mapping[str, Any] | None = None):
        super().__init__()
        self._label_names = texts(label_names, "label_names")
        self._num_pixels = whole_number(num_pixels, "num_pixels", 0)
        self.update(mapping(items, "items", "label names to masks"))

    @property
    def label_names(self) -> tuple[str, ...]:
        """Labels of the model."""
        return self._label_names

    @property
    def num_pixels(self) -> int:
        """Length of every mask."""
        return self._num_pixels

    def __setitem__(self, label_name: str, mask: Any) -> None:
        if label_name not in self._label_names:
            raise ValueError(
                f"unknown label {label_name!r} for censoring; the labels are {', '.join(self._label_names)}"
            )
        values = as_array(mask, f"the censoring mask of {label_name!r}")
        if values.shape != (self._num_pixels,):
            raise ValueError(
                f"the censoring mask of {label_name!r} must have shape ({self._num_pixels},), got {values.shape}"
            )
        if values.dtype != bool and (values.dtype.kind not in "iuf" or not np.isin(values, (0, 1)).all()):
            raise ValueError(f"the censoring mask of {label_name!r} must be boolean, got {values.dtype}")
        super().__setitem__(label_name, values.astype(bool))

    def __eq__(self, other: object) -> bool:
        """Whether the same labels are censored at the same pixels; masks may also be given in a plain mapping."""
        if not isinstance(other, Mapping):
            return NotImplemented
        return self.keys() == other.keys() and all(np.array_equal(mask, other[name]) for name, mask in self.items())

    def __ne__(self, other: object) -> bool:
        equal = self.__eq__(other)
        return equal if equal is NotImplemented else not equal

    __hash__ = None  # It can be changed.

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set several masks, each checked."""
        for name, mask in dict(*args, **kwargs).items():
            self[name] = mask

    def __ior__(self, other: Any, /) -> Self:  # type: ignore[override, misc]
        self.update(other)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # A dict is unpickled item by item before its attributes are there, which the checks need.
        return type(self), (self._label_names, self._num_pixels, dict(self))

    def setdefault(self, label_name: str, mask: Any = None) -> np.ndarray:
        """Mask of a label, set to ``mask`` first if it has none."""
        if label_name not in self:
            self[label_name] = mask
        return self[label_name]


def design_matrix_mask(censors: Censors, vectorizer: BaseVectorizer) -> np.ndarray:
    """Which terms are free at which pixel, shape (pixel, term): False where a label of the term is censored.

    The constant term is always free.

    Examples
    --------
    >>> vectorizer = tc.vectorizer.PolynomialVectorizer(("TEFF", "FE_H"), 1)
    >>> censors = tc.censoring.Censors(("TEFF", "FE_H"), 2, {"FE_H": [True, False]})
    >>> tc.censoring.design_matrix_mask(censors, vectorizer)
    array([[ True,  True, False],
           [ True,  True,  True]])

    """
    check_kind(censors, Censors, "censors", "a censoring.Censors")
    check_kind(vectorizer, BaseVectorizer, "vectorizer", "a vectorizer.BaseVectorizer")
    free = np.ones((censors.num_pixels, vectorizer.n_terms), dtype=bool)
    contains = vectorizer.exponents > 0
    for label_name, mask in censors.items():
        free[np.ix_(mask, contains[:, vectorizer.label_names.index(label_name)])] = False
    return free
