"""Tables of labels: read to train with, joined to spectra by name or by row, and written with units and errors."""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.table import MaskedColumn, Table

from bayes_cannon.core.arguments import check_kind, file_path, flag, mapping, shown, texts, units
from bayes_cannon.core.intake import as_array, real_numbers
from bayes_cannon.core.status import StarStatus
from bayes_cannon.core.typing import PerStar, PerStarInt, StarLabel
from bayes_cannon.io.atomic import atomic_path
from bayes_cannon.io.spectra import Spectra
from bayes_cannon.validate import label_errors

_READERS = {".fits": "fits", ".fit": "fits", ".ecsv": "ascii.ecsv", ".csv": "ascii.csv"}
_WRITTEN = (".fits", ".ecsv")
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
    label_units: Mapping[str, str] | None = None,
    extra: Mapping[str, np.ndarray] | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Table:
    """Table of inferred labels, one row a star.

    Columns: ``star_id``, each label, its error ``NAME_ERR`` (the square root of the diagonal of the covariance),
    ``covariance`` of shape (star, label, label) in the units of the labels, ``chi2``, ``reduced_chi2``, ``n_pixels``,
    ``snr``, ``misfit``,
    ``status`` and ``status_text``, then those of ``extra``. What is not known is NaN.

    Parameters
    ----------
    label_names
        Names of the K labels.
    fit
        The inferred labels.
    star_id
        Name of each star, shape (star,); row numbers by default.
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
    columns: list[tuple[str, Any]] = [(STAR_ID, np.arange(n_stars).astype(str) if star_id is None else star_id)]
    for k, name in enumerate(label_names):
        columns += [(name, labels[:, k]), (f"{name}_ERR", errors[:, k])]
    columns += [
        ("covariance", covariance),
        ("chi2", fit.chi_squared),
        ("reduced_chi2", fit.reduced_chi_squared),
        ("n_pixels", fit.n_pixels),
        ("snr", fit.snr),
        *([("misfit", fit.misfit)] if hasattr(fit, "misfit") else []),
        ("status", status),
        ("status_text", np.array([StarStatus(number).message for number in status], dtype=str)),
        *mapping(extra, "extra", "names to columns").items(),
    ]
    table = Table(meta=mapping(meta, "meta", "names to texts and numbers"))
    for name, given in columns:
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


def write_table(path: str | os.PathLike, table: Table, *, overwrite: bool = False) -> None:
    """Write a table as FITS (``.fits``) or ECSV (``.ecsv``), units included. It appears whole or not at all.

    A unit that the FITS standard does not know, such as dex, is written as its text, as surveys do.

    Raises
    ------
    FileExistsError
        If the file exists and ``overwrite`` is False.
    ValueError
        For another suffix.

    Examples
    --------
    >>> from astropy.table import Table
    >>> tc.io.write_table("labels.fits", Table({"TEFF": [4500.0, 5000.0]}, units={"TEFF": "K"}))
    >>> tc.io.read_table("labels.fits")["TEFF"].unit
    Unit("K")

    """
    check_kind(table, Table, "table", "an astropy Table")
    path = check_table_suffix(path)
    with atomic_path(path, overwrite=overwrite) as temporary:
        if path.suffix.lower() == ".fits":
            _fits_table(table).writeto(temporary)
        else:
            table.write(temporary, format="ascii.ecsv")


def check_table_suffix(path: str | os.PathLike) -> Path:
    """Refuse a suffix that `write_table` does not write, before any work is done for it."""
    path = file_path(path)
    if path.suffix.lower() not in _WRITTEN:
        raise ValueError(f"a label table is written as {' or '.join(_WRITTEN)}; got {path}")
    return path


def read_table(path: str | os.PathLike) -> Table:
    r"""Read a FITS, ECSV or CSV table; what is missing in it is NaN in columns of real numbers.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        For another suffix or a file that cannot be read, naming it.

    Examples
    --------
    >>> with open("labels.csv", "w") as file:
    ...     print("star_id,TEFF", "a,4500", "b,", sep="\n", file=file)
    >>> tc.io.read_table("labels.csv")["TEFF"].tolist()
    [4500.0, nan]

    """
    path = file_path(path)
    suffix = Path(path.stem).suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()
    if suffix not in _READERS:
        raise ValueError(f"a table must be one of {', '.join(_READERS)}, got {path}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no table {path}")
    options = {"mask_invalid": False} if _READERS[suffix] == "fits" else {}
    with warnings.catch_warnings():
        # Surveys write units such as dex, which FITS does not define; their text is all that is used of them.
        warnings.simplefilter("ignore", u.UnitsWarning)
        try:
            table = Table.read(path, format=_READERS[suffix], **options)
            for name in table.colnames:  # A file of a spreadsheet may begin with a byte order mark.
                if name != name.strip('\ufeff"\t '):
                    table.rename_column(name, name.strip('\ufeff"\t '))
        except Exception as error:
            # The readers raise whatever the parser at hand does.
            raise ValueError(f"cannot read the table {path}: {error}") from error
    for name in table.colnames:
        if isinstance(table[name], MaskedColumn) and table[name].dtype.kind in "fiu":
            unit, values = table[name].unit, np.ma.filled(table[name].astype(float), np.nan)
            table[name] = np.asarray(values)
            table[name].unit = unit
    return table


def join_labels(
    spectra: Spectra,
    table: Table,
    *,
    id_column: str | None = None,
    by_row: bool = False,
    missing: Sequence[float] = (),
) -> Spectra:
    """Spectra with the numeric columns of a table as labels.

    Rows are matched by the names of the stars, or in order if that is asked for. A label that both have is taken from
    the table. How rows were matched is kept as ``attrs["labels_joined"]``.

    Parameters
    ----------
    spectra
        The spectra.
    table
        One row a star; more, in any order, when matched by name.
    id_column
        Column with the names of the stars. By default the one that holds the names of all spectra, whatever it is
        called.
    by_row
        Match row after row, where one side has no names.
    missing
        Values that stand for a label that is not known, such as -9999; they become NaN.

    Raises
    ------
    ValueError
        If a star is missing in the table or occurs twice there, no column or several hold the names, the
        spectra have none, ``id_column`` does not exist, or the number of rows differs where they are matched in order.

    Examples
    --------
    >>> from astropy.table import Table
    >>> spectra = tc.io.Spectra(np.ones((2, 4)), np.ones((2, 4)), star_id=["b", "a"])
    >>> table = Table({"star_id": ["a", "b", "c"], "TEFF": [4500.0, 5000.0, 5500.0]})
    >>> tc.io.join_labels(spectra, table).labels["TEFF"]
    array([5000., 4500.])

    """
    check_kind(spectra, Spectra, "spectra", "a Spectra, as read_spectra returns it")
    check_kind(table, Table, "table", "an astropy Table, as read_table returns it")
    if id_column is not None and (not isinstance(id_column, str) or id_column not in table.colnames):
        raise ValueError(f"the label table has no column {id_column!r}; it has {', '.join(table.colnames)}")
    column = None if flag(by_row, "by_row") else id_column or _id_column(spectra, table)
    if column is not None:
        rows = _matching_rows(spectra.ids, _names(table[column]), column)
    elif len(table) == spectra.n_stars:
        rows = np.arange(spectra.n_stars)
    else:
        raise ValueError(
            f"the label table has {len(table)} rows and there are {spectra.n_stars} spectra: to be matched by row both "
            "need as many; give both the names of the stars"
        )
    labels = {n: _label(table[n], missing)[rows] for n in table.colnames if _is_label(table[n]) and n != column}
    found = {name: str(table[name].unit) for name in labels if table[name].unit}
    kept = {name: unit for name, unit in spectra.units.items() if name not in labels}
    joined = {"labels_joined": "by row" if column is None else f"by the column {column}"}
    return replace(
        spectra, labels={**spectra.labels, **labels}, units=kept | found, attrs={**spectra.attrs, **joined}
    )  # fmt: skip


def _id_column(spectra: Spectra, table: Table) -> str:
    """The column that holds the names of all spectra."""
    if not spectra.has_own_ids:
        raise ValueError(
            "the spectra have no names to find their labels by: write star_id with them, or match the rows in order "
            "with by_row=True (--by-row, or by_row = true in a recipe)"
        )
    wanted = set(spectra.ids.tolist())
    shares = {
        name: len(wanted & set(_names(table[name]).tolist())) for name in table.colnames if _may_be_id(table[name])
    }
    whole = [name for name, found in shares.items() if found == len(wanted)]
    named = [name for name in whole if name.lower() == STAR_ID] or [n for n in whole if table[n].dtype.kind in "SUO"]
    chosen = named if len(named) == 1 else whole
    if len(chosen) == 1:
        return chosen[0]
    if chosen:
        raise ValueError(f"the columns {', '.join(chosen)} all hold the names of the spectra: say which with id_column")
    best = max(shares, key=lambda name: shares[name], default=None)
    if best is None or not shares[best]:
        raise ValueError(
            f"no column of the label table holds the names of the spectra, such as {str(spectra.ids[0])!r}: say which "
            "with id_column, or match the rows in order with by_row=True (--by-row, or by_row = true in a recipe)"
        )
    return best


def _may_be_id(column: Any) -> bool:
    return column.ndim == 1 and column.dtype.kind in "iuSUO"


def _names(column: Any) -> np.ndarray:
    """Names of the stars as texts without blanks around them."""
    return np.asarray([_text(value) for value in column], dtype=str)


def _label(column: Any, missing: Sequence[float]) -> np.ndarray:
    """Numbers of a column, NaN where they stand for a missing one."""
    values = np.asarray(column, dtype=float)
    for value in real_numbers(missing, "missing").ravel():
        values = np.where(np.isclose(values, value, rtol=1e-6, atol=0), np.nan, values)
    return values


def _fits_table(table: Table) -> fits.BinTableHDU:
    plain, foreign = table.copy(), {}
    for name in table.colnames:
        if table[name].unit is None:
            continue
        try:
            table[name].unit.to_string(format="fits")
        except ValueError:
            foreign[name], plain[name].unit = str(table[name].unit), None
    hdu = fits.table_to_hdu(plain)
    for name, unit in foreign.items():
        hdu.columns[name].unit = unit
    return hdu


def _is_label(column: Any) -> bool:
    return column.ndim == 1 and column.dtype.kind in "fiu"


def _text(value: Any) -> str:
    return (value.decode() if isinstance(value, bytes) else str(value)).strip("\ufeff \t\r\n\0")


def _matching_rows(wanted: np.ndarray, given: np.ndarray, column: str) -> np.ndarray:
    """Row of ``given`` that holds each of ``wanted``, shape (star,)."""
    values, counts = np.unique(given, return_counts=True)
    repeated = [str(name) for name in values[counts > 1] if name in wanted]
    if repeated:
        raise ValueError(
            f"the star {repeated[0]!r} occurs more than once in the column {column!r} of the label table "
            f"({len(repeated)} such stars in all): which row is meant cannot be told; leave the others out"
        )
    row = {str(name): index for index, name in enumerate(given)}
    missing = [str(name) for name in wanted if str(name) not in row]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(wanted)} stars are not in the column {column!r} of the label table; "
            f"the first is {missing[0]!r}"
        )
    return np.array([row[str(name)] for name in wanted], dtype=int)
