"""Labels of spectra from a catalogue: rows are matched to spectra by name or in order, and nothing is lost unsaid."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from operator import methodcaller
from typing import Any, Literal

import numpy as np
from astropy.table import Column, MaskedColumn, Table

from bayes_cannon.core.arguments import check_kind, flag
from bayes_cannon.core.intake import real_numbers
from bayes_cannon.io.label_tables import STAR_ID
from bayes_cannon.io.spectra import Spectra
from bayes_cannon.io.spectra_variables import RESERVED, beyond_float, texts

Duplicates = Literal["refuse", "first", "best"]
Unmatched = Literal["refuse", "leave out"]
DUPLICATES: tuple[Duplicates, ...] = ("refuse", "first", "best")
UNMATCHED: tuple[Unmatched, ...] = ("refuse", "leave out")

_BLANK = "\ufeff \t\r\n\0"
"""What surveys fill names up with to one width."""
_INTEGER = re.compile("0|-?[1-9][0-9]{0,19}")
"""A name that is the text of an integer of up to 64 bits."""


def join_labels(
    spectra: Spectra,
    table: Table,
    *,
    id_column: str | None = None,
    by_row: bool = False,
    missing: Sequence[float] = (),
    columns: Mapping[str, str] | None = None,
    duplicates: Duplicates = "refuse",
    best_by: str | None = None,
    unmatched: Unmatched = "refuse",
) -> Spectra:
    """Spectra with the columns of a table: numbers as labels, texts as identifiers.

    Rows are matched by the names of the stars, or in order if that is asked for. A label that both have is taken from
    the table. True and False become 1 and 0. Columns of several numbers a row are left out but for those numbers that
    ``columns`` asks for, and so are texts with a name that `Spectra` has for something else, such as ``star_id``. How
    rows were matched, and how many of them were chosen or stars left out, is kept as ``attrs["labels_joined"]``.

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
    columns
        Further labels by name: the column that holds each, ``{"FE_H": "fe_h"}``, or one of its numbers in each row,
        ``{"TEFF": "FPARAM[0]"}``, ``{"TEFF_LOGG_COV": "FPARAM_COV[0,1]"}``, counted from 0.
    duplicates
        What to do where a star has several rows: ``"refuse"``, take the ``"first"``, or the ``"best"``, that with the
        largest value of ``best_by`` (the first of them if several have it; NaN is smallest).
    best_by
        Column of numbers, such as "SNR"; needed for ``"best"`` only.
    unmatched
        What to do with spectra of stars without a row: ``"refuse"``, or ``"leave out"``.

    Raises
    ------
    ValueError
        If a star is missing in the table or occurs twice there and that is to be refused, or all are missing; if no
        column or several hold the names, the spectra have none, a column that is named does not exist or holds no
        numbers, or the number of rows differs where they are matched in order.

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
    _check_rules(table, duplicates, best_by, unmatched)
    if id_column is not None:
        _column(table, id_column)
    column = None if flag(by_row, "by_row") else id_column or _id_column(spectra, table)
    if column is not None:
        rank = None if best_by is None or duplicates != "best" else _element(table, best_by)[0]
        rows, said = _matching_rows(spectra.ids, _names(table[column]), column, rank, duplicates, unmatched)
        said = f"by the column {column}{said.replace('BEST', str(best_by))}"
    elif len(table) == spectra.n_stars:
        rows, said = np.arange(spectra.n_stars), "by row"
    else:
        raise ValueError(
            f"the label table has {len(table)} rows and there are {spectra.n_stars} spectra: to be matched by row both "
            "need as many; give both the names of the stars"
        )
    found, rows = spectra.at(rows >= 0), rows[rows >= 0]
    labels, identifiers, units = _taken(table, rows, missing, columns or {}, leave_out=column)
    new = {*labels, *identifiers}
    return replace(
        found,
        labels={name: values for name, values in found.labels.items() if name not in new} | labels,
        identifiers={name: values for name, values in found.identifiers.items() if name not in new} | identifiers,
        units={name: unit for name, unit in found.units.items() if name not in new} | units,
        attrs={**found.attrs, "labels_joined": said},
    )


def _check_rules(table: Table, duplicates: str, best_by: str | None, unmatched: str) -> None:
    for name, given, known in (("duplicates", duplicates, DUPLICATES), ("unmatched", unmatched, UNMATCHED)):
        if given not in known:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}; got {given!r}")
    if (duplicates == "best") != (best_by is not None):
        raise ValueError("duplicates = 'best' and best_by, the column whose largest value is best, need each other")
    if best_by is not None:
        _element(table, best_by)


def _taken(
    table: Table, rows: np.ndarray, missing: Sequence[float], columns: Mapping[str, str], *, leave_out: str | None
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, str]]:
    """Labels, identifiers and units from some rows of the table."""
    labels: dict[str, np.ndarray] = {}
    identifiers: dict[str, np.ndarray] = {}
    units = {}
    for name in table.colnames:
        column = table[name]
        if name == leave_out or not isinstance(column, Column) or column.ndim != 1:
            continue
        if column.dtype.kind in "fiub" and not beyond_float(_known(column)):
            labels[name] = _label(column[rows], missing)
        elif column.dtype.kind in "iuSU" and name not in RESERVED:
            identifiers[name] = _names(column[rows])
        if name in labels and column.unit:
            units[name] = str(column.unit)
    for name, place in columns.items():
        values, unit = _element(table, place)
        labels[name] = _label(values[rows], missing)
        units.pop(name, None)
        if unit:
            units[name] = str(unit)
    return labels, {name: values for name, values in identifiers.items() if name not in labels}, units


def _element(table: Table, place: str) -> tuple[Any, Any]:
    """One number a row, from a column or from a place in each of its arrays; and the unit."""
    found = None if place in table.colnames else re.fullmatch(r"(.+)\[(\d+(?:\s*,\s*\d+)*)\]", place)
    column = _column(table, found[1] if found else place)
    index = tuple(int(number) for number in found[2].split(",")) if found else ()
    shape = getattr(column, "shape", (0,))[1:]
    if len(index) != len(shape) or any(number >= size for number, size in zip(index, shape, strict=True)):
        wanted = f"{found[1] if found else place}[{','.join(str(size - 1) for size in shape)}]"
        has = f"arrays of shape {shape}: its last number is {wanted}" if shape else "one number a row"
        raise ValueError(f"the label table has no {place!r}: the column has {has}")
    if not isinstance(column, Column) or column.dtype.kind not in "fiub":
        raise ValueError(f"the column {place!r} of the label table holds no numbers: name one that does")
    return column[(slice(None), *index)], column.unit


def _column(table: Table, name: str) -> Any:
    if not isinstance(name, str) or name not in table.colnames:
        lower = {known.lower(): known for known in table.colnames}
        near = get_close_matches(str(name).lower(), lower, n=1)
        hint = f"; did you mean {lower[near[0]]!r}?" if near else ""
        raise ValueError(f"the label table has no column {name!r}; it has {', '.join(table.colnames)}{hint}")
    return table[name]


def _id_column(spectra: Spectra, table: Table) -> str:
    """The column that holds the names of all spectra."""
    if not spectra.has_own_ids:
        raise ValueError(
            "the spectra have no names to find their labels by: write star_id with them, or match the rows in order "
            "with by_row=True (--by-row, or by_row = true in a recipe)"
        )
    wanted = set(spectra.ids.tolist())
    shares = {name: _n_found(wanted, table[name]) for name in table.colnames if _may_be_id(table[name])}
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
    return isinstance(column, Column) and column.ndim == 1 and column.dtype.kind in "iuSUO"


def _n_found(wanted: set[str], column: Any) -> int:
    """How many of the names are among the `_names` of a column, of whose numbers no texts are made."""
    if column.dtype.kind == "O":
        return len(wanted.intersection(_names(column).tolist()))
    known = _known(column)
    if known.dtype.kind in "SU":
        distinct = set(known.tolist())
        given = distinct if known.dtype.kind == "U" else [name.decode() for name in distinct]
        return len(wanted.intersection(map(methodcaller("strip", _BLANK), given)))
    least, most = np.iinfo(known.dtype).min, np.iinfo(known.dtype).max
    numbers = sorted(int(name) for name in wanted if _INTEGER.fullmatch(name) and least <= int(name) <= most)
    if not numbers:
        return 0
    asked = np.array(numbers, dtype=known.dtype)
    place = np.searchsorted(asked, known).clip(max=len(asked) - 1)
    return len(set(place[asked[place] == known].tolist()))


def _names(column: Any) -> np.ndarray:
    """Texts of a column without blanks around them, empty where they are missing."""
    known = np.asarray(np.ma.getdata(column))
    if known.dtype.kind == "f" and not (known % 1 > 0).any():  # Integers of which some are missing.
        return np.array(["" if np.isnan(number) else str(int(number)) for number in known], dtype=str)
    found = np.char.strip(known if known.dtype.kind == "U" else texts(known), _BLANK)
    return np.where(np.ma.getmaskarray(column), "", found) if isinstance(column, MaskedColumn) else found


def _known(column: Any) -> np.ndarray:
    """What is not missing in a column."""
    return column.compressed() if isinstance(column, MaskedColumn) else np.asarray(column)


def _label(column: Any, missing: Sequence[float]) -> np.ndarray:
    """Numbers of a column, NaN where they are missing or stand for a missing one."""
    values = np.where(np.ma.getmaskarray(column), np.nan, np.ma.getdata(column).astype(float))
    for value in real_numbers(missing, "missing").ravel():
        values[np.isclose(values, value, rtol=1e-6, atol=0)] = np.nan
    return values


def _matching_rows(
    wanted: np.ndarray, given: np.ndarray, column: str, rank: Any, duplicates: Duplicates, unmatched: Unmatched
) -> tuple[np.ndarray, str]:
    """Row of ``given`` that holds each of ``wanted``, -1 if none does, shape (star,); and what was decided."""
    asked, said = {*wanted.tolist()} - {""}, ""  # NumPy would sort all texts to find them.
    rows = np.array([row for row, name in enumerate(given.tolist()) if name in asked], dtype=int)
    if rank is not None:
        values = _label(rank[rows], ())
        rows = rows[np.argsort(-np.where(np.isnan(values), -np.inf, values), kind="stable")]
    row: dict[str, int] = {}
    repeated = dict.fromkeys(
        name for index in rows.tolist() if row.setdefault(name := str(given[index]), index) != index
    )
    if repeated and duplicates == "refuse":
        raise ValueError(
            f"the star {next(iter(repeated))!r} occurs more than once in the column {column!r} of the label table "
            f"({len(repeated)} such stars in all): which row is meant cannot be told; leave the others out, or say so "
            "with duplicates = 'first' or 'best'"
        )
    if repeated:
        which = "the first" if rank is None else "that with the largest BEST"
        said += f"; of the rows of {len(repeated)} stars with several {which} was taken"
    found = np.array([row.get(str(name), -1) for name in wanted], dtype=int)
    lost = int((found < 0).sum())
    if lost and (unmatched == "refuse" or lost == len(wanted)):
        remedy = "" if lost == len(wanted) else "; leave such spectra out with unmatched = 'leave out'"
        raise ValueError(
            f"{lost} of {len(wanted)} stars are not in the column {column!r} of the label table; "
            f"the first is {str(wanted[np.argmax(found < 0)])!r}{remedy}"
        )
    if lost:
        said += f"; {lost} of {len(wanted)} spectra have no row and were left out"
    return found, said
