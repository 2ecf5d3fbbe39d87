"""The table of inferred labels: what is known of each star in one row, with units, errors and where it comes from."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Protocol

import numpy as np
from astropy import units as u
from astropy.table import Table

from bayes_cannon.core.arguments import mapping, shown, texts, units
from bayes_cannon.core.intake import as_array, real_numbers
from bayes_cannon.core.status import StarStatus
from bayes_cannon.core.typing import PerStar, PerStarInt, StarLabel
from bayes_cannon.validate import label_errors

STAR_ID = "star_id"


class FittedLabels(Protocol):
    """What `label_table` needs of a fit of N stars; `LabelFit` has it."""

    @property
    def labels(self) -> StarLabel:
        """Labels in their units, shape (star, label)."""

    @property
    def covariance(self) -> np.ndarray:
        """Covariance in label units, shape (star, label, label)."""

    @property
    def chi_squared(self) -> PerStar:
        """Weighted sum of squared residuals, shape (star,)."""

    @property
    def reduced_chi_squared(self) -> PerStar:
        """The same over the degrees of freedom, shape (star,)."""

    @property
    def n_pixels(self) -> PerStarInt:
        """Number of pixels that were used, shape (star,)."""

    @property
    def snr(self) -> PerStar:
        """Signal-to-noise ratio a pixel, shape (star,)."""

    @property
    def status(self) -> PerStarInt:
        """`StarStatus` of each star, shape (star,)."""


def label_table(
    label_names: Sequence[str],
    fit: FittedLabels,
    *,
    star_id: np.ndarray | None = None,
    identifiers: Mapping[str, np.ndarray] | None = None,
    label_units: Mapping[str, str] | None = None,
    extra: Mapping[str, np.ndarray] | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Table:
    """Table of inferred labels, one row a star.

    Columns: ``star_id`` and further ``identifiers``, each label, its error ``NAME_ERR`` (the square root of the
    diagonal of the covariance), the correlation ``NAME_OTHER_CORR`` of the errors of each pair of labels (covariance
    over the product of both errors), ``covariance`` of shape (star, label, label) in the units of the labels, ``chi2``,
    ``reduced_chi2``, ``n_pixels``, ``snr``, ``misfit``, ``status`` and ``status_text``, then those of ``extra``. What
    is not known is NaN.

    Parameters
    ----------
    label_names
        Names of the K labels.
    fit
        The inferred labels.
    star_id
        Name of each star, shape (star,); row numbers by default.
    identifiers
        Further names or other texts of each star by name, each of shape (star,), as `Spectra.identifiers`. One that has
        the name of another column, in capitals or not, gets ``_ID`` after it.
    label_units
        Unit of each label as text; a label may be missing.
    extra
        More columns, each of shape (star,).
    meta
        Texts and numbers about the table. FITS keeps keys of up to eight capitals as they are.

    Raises
    ------
    ValueError
        If a shape does not fit, or a label has the name of another column.

    Examples
    --------
    >>> fit = model.fit_labels(model.training_set_flux, model.training_set_ivar)
    >>> table = tc.io.label_table(model.label_names, fit, label_units={"TEFF": "K"})
    >>> table.colnames[:5], str(table["TEFF_ERR"].unit)
    (['star_id', 'TEFF', 'TEFF_ERR', 'LOGG', 'LOGG_ERR'], 'K')

    """
    label_names = texts(label_names, "label_names")
    label_units = units(label_units, "label_units")
    if not all(hasattr(fit, name) for name in ("labels", "covariance", "status")):
        raise TypeError(f"fit must be what fit_labels returns, got {shown(fit)}")
    labels, covariance = real_numbers(fit.labels, "fit.labels"), real_numbers(fit.covariance, "fit.covariance")
    n_stars, n_labels = len(labels), len(label_names)
    if labels.shape != (n_stars, n_labels) or covariance.shape != (n_stars, n_labels, n_labels):
        raise ValueError(
            f"labels and covariance of {n_labels} labels must have shapes (star, {n_labels}) and "
            f"(star, {n_labels}, {n_labels}), got {labels.shape} and {covariance.shape}"
        )
    errors = label_errors(covariance)
    status = np.asarray(fit.status, dtype=int)
    columns: list[tuple[str, Any]] = []
    for k, name in enumerate(label_names):
        columns += [(name, labels[:, k]), (f"{name}_ERR", errors[:, k])]
    for (i, one), (j, other) in combinations(enumerate(label_names), 2):
        columns.append((f"{one}_{other}_CORR", _correlation(covariance, errors, i, j)))
    columns += [
        ("covariance", covariance),
        ("chi2", fit.chi_squared),
        ("reduced_chi2", fit.reduced_chi_squared),
        ("n_pixels", fit.n_pixels),
        ("snr", fit.snr),
        *([("misfit", fit.misfit)] if hasattr(fit, "misfit") else []),
        ("status", status),
        ("status_text", _messages(status)),
        *mapping(extra, "extra", "names to columns").items(),
    ]
    taken = {STAR_ID, *(name.lower() for name, _ in columns)}
    names: list[tuple[str, Any]] = [(STAR_ID, np.arange(n_stars).astype(str) if star_id is None else star_id)]
    for name, values in mapping(identifiers, "identifiers", "names to texts").items():
        names.append((f"{name}_ID" if name.lower() in taken else name, values))
    table = Table(meta=mapping(meta, "meta", "names to texts and numbers"))
    for name, given in names + columns:
        values = as_array(given, f"the column {name!r}")
        if name in table.colnames:
            raise ValueError(f"the column {name!r} would occur twice: give that label another name")
        if values.shape[:1] != (n_stars,):
            raise ValueError(f"the column {name!r} must have {n_stars} rows, one a star; got {shown(given)}")
        table[name] = values
    for name in label_names:
        if unit := label_units.get(name):
            table[name].unit = table[f"{name}_ERR"].unit = u.Unit(unit, parse_strict="silent")
    return table


def _messages(status: np.ndarray) -> np.ndarray:
    """Each status in words."""
    found, places = np.unique(status, return_inverse=True)
    return np.array([StarStatus(number).message for number in found], dtype=str)[places]


def _correlation(covariance: np.ndarray, errors: np.ndarray, i: int, j: int) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return covariance[:, i, j] / (errors[:, i] * errors[:, j])
