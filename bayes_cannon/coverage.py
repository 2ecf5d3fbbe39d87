"""Coverage of intervals, at each place in label space: an average over all stars hides where errors are wrong."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import chdtrc

from bayes_cannon.core.arguments import real_number, whole_number
from bayes_cannon.core.intake import real_numbers

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["LocalCoverage", "local_coverage"]


@dataclass(frozen=True, eq=False)
class LocalCoverage:
    r"""Coverage in cells of about the same number of stars.

    Attributes
    ----------
    level
        What it should be.
    n_stars
        Of each cell, shape (cell,).
    low, high
        Range of the stars of each cell along each coordinate, shape (cell, coordinate).
    covered
        Share of the stars of a cell whose intervals hold the truth, shape (cell, label).

    Examples
    --------
    >>> place = np.arange(4.0)
    >>> found = tc.validate.local_coverage(place, np.array([True, False, True, True]), 0.5, size=2)
    >>> print(found.table(["TEFF"], ["SNR"]))
    stars SNR_LOW SNR_HIGH TEFF_COVERAGE
    ----- ------- -------- -------------
        2     0.0      1.0           0.5
        2     2.0      3.0           1.0

    """

    level: float
    n_stars: np.ndarray
    low: np.ndarray
    high: np.ndarray
    covered: np.ndarray

    @property
    def deviation(self) -> np.ndarray:
        r"""Coverage less what it should be over what chance makes of it,
        :math:`\sqrt{p (1 - p) / n}`, shape (cell, label).
        """
        p = self.level
        return np.asarray((self.covered - p) / np.sqrt(p * (1 - p) / self.n_stars)[:, None])

    @property
    def p_value(self) -> np.ndarray:
        r"""Probability of cells that differ as much where the coverage is right everywhere, shape (label,).

        The sum of the squares of `deviation` is a :math:`\chi^2` of as many degrees of freedom as there are cells.
        """
        return np.asarray(chdtrc(len(self.n_stars), np.sum(self.deviation**2, axis=0)))

    def table(self, label_names: Any, coordinates: Any = None) -> "Table":
        """A row a cell: its stars, its ranges and the coverage of each label.

        Parameters
        ----------
        label_names
            One a label.
        coordinates
            Names of the coordinates; those of the labels by default.

        """
        from astropy.table import Table  # Half a second that nothing else needs.

        names = list(label_names)
        coordinates = names if coordinates is None else list(coordinates)
        if (len(names), len(coordinates)) != (self.covered.shape[1], self.low.shape[1]):
            raise ValueError(
                f"there are {self.covered.shape[1]} labels and {self.low.shape[1]} coordinates, but {len(names)} names "
                f"of labels and {len(coordinates)} of coordinates"
            )
        columns = {"stars": self.n_stars}
        for k, name in enumerate(coordinates):
            columns |= {f"{name}_LOW": self.low[:, k], f"{name}_HIGH": self.high[:, k]}
        return Table(columns | {f"{name}_COVERAGE": self.covered[:, k] for k, name in enumerate(names)})


def local_coverage(place: Any, inside: Any, level: float, *, size: int = 150) -> LocalCoverage:
    """Coverage of intervals in cells of a space, such as that of the labels.

    Cells are halved at the median of the coordinate that is widest in units of its scatter over all stars, until they
    have fewer than ``2 size`` stars (the k-d tree of Bentley 1975, Communications of the ACM 18, 509). One coordinate
    gives bins, two a map.

    Parameters
    ----------
    place
        Coordinates of the stars, shape (star, coordinate) or (star,). Cells of *reference* labels show where in truth
        errors are wrong, but also that of two stars with the same spectrum the one with the rarer labels is off by
        more, which no honest error can know; cells of inferred labels, or of the S/N, do not.
    inside
        Whether the interval of a label holds the truth, shape (star, label) or (star,).
    level
        The coverage that is promised, between 0 and 1.
    size
        Stars of a cell, at least, if there are as many.

    Raises
    ------
    ValueError
        For shapes that do not fit, coordinates that are not finite, no stars, or a level that is none.

    Examples
    --------
    >>> place = np.arange(1000.0)
    >>> inside = np.arange(1000) % 10 < np.where(place < 500, 7, 5)  # 70 and 50 per cent.
    >>> found = tc.validate.local_coverage(place, inside, 0.7, size=250)
    >>> found.covered[:, 0], found.deviation[:, 0].round(1), found.p_value < 1e-9
    (array([0.7, 0.7, 0.5, 0.5]), array([ 0. ,  0. , -6.9, -6.9]), array([ True]))

    """
    level = real_number(level, "level")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, such as 0.68; got {level}")
    size = whole_number(size, "size", 1)
    place, inside = real_numbers(place, "place"), np.asarray(inside)
    if inside.dtype != bool:
        raise ValueError(f"inside must be true or false for each star and label, got numbers of type {inside.dtype}")
    place, inside = (array[:, None] if array.ndim == 1 else array for array in (place, inside))
    if place.ndim != 2 or inside.ndim != 2 or len(place) != len(inside) or 0 in (*place.shape, *inside.shape):
        raise ValueError(
            f"place must have shape (star, coordinate) and inside (star, label), got {place.shape} and {inside.shape}"
        )
    if not np.isfinite(place).all():
        star, k = np.argwhere(~np.isfinite(place))[0]
        raise ValueError(f"place has {place[star, k]} for star {star}: leave out stars whose place is not known")
    unit = place.std(axis=0)
    cells = _halved(np.arange(len(place)), place / np.where(unit > 0, unit, 1.0), size)
    return LocalCoverage(
        level, np.array([len(rows) for rows in cells]),
        np.array([place[rows].min(axis=0) for rows in cells]), np.array([place[rows].max(axis=0) for rows in cells]),
        np.array([inside[rows].mean(axis=0) for rows in cells]),
    )  # fmt: skip


def _halved(rows: np.ndarray, place: np.ndarray, size: int) -> list[np.ndarray]:
    """Rows of each cell; ``place`` in units of its scatter."""
    if len(rows) < 2 * size:
        return [rows]
    widest = int(np.argmax(np.ptp(place[rows], axis=0)))
    order = rows[np.argsort(place[rows, widest], kind="stable")]
    middle = len(rows) // 2
    return [*_halved(order[:middle], place, size), *_halved(order[middle:], place, size)]
