"""Tables of the Gaia archive in the formats that it delivers: CSV, ECSV, FITS and VOTable, plain or compressed.

Arrays in a row of a CSV file are texts, ``"(1.0, 2.0)"`` or ``"[1.0, 2.0]"``, missing numbers in them ``null`` or
``NaN``. Texts are read a column at a time, so that thousands of spectra take seconds.
"""

import codecs
import csv
import gzip
import io
import math
import re
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from astropy.io import fits, votable

from bayes_cannon.io.damage import reading
from bayes_cannon.io.readers.fits_file import layout, opened
from bayes_cannon.io.readers.fits_values import native
from bayes_cannon.io.readers.survey_spectra import Frame, Segment, SurveySpectra

_START = 1 << 16
"""Bytes by which a file is told, unpacked."""
_VOTABLE_FIELD = re.compile(r"<FIELD\b[^>]*>", re.DOTALL)
_ATTRIBUTE = re.compile(r"\b(name|arraysize)\s*=\s*[\"']([^\"']*)[\"']")
_UNITS = {"ra": "deg", "dec": "deg"}
_MISSING = ("", "null", "NULL", "nan", "NaN", '""')


@dataclass(frozen=True)
class Look:
    """What the first bytes say: format, columns in small letters, what parts them, which hold arrays, a first row."""

    kind: str = ""
    columns: tuple[str, ...] = ()
    delimiter: str = ","
    arrays: frozenset[str] = frozenset()
    first: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class GaiaTable:
    """One table: columns by name in small letters, of shape (row,) or (row, sample), and what is said of all rows."""

    columns: Mapping[str, np.ndarray]
    parameters: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)


def look(path: Path) -> Look:
    """What the first bytes say; nothing for files of other kinds."""
    stat = path.stat()
    return _look(path, stat.st_mtime_ns, stat.st_size)


def read_tables(path: Path, wanted: str) -> list[GaiaTable]:
    """All tables of a file.

    Parameters
    ----------
    path
        The file.
    wanted
        What to say was expected if it cannot be read.

    Raises
    ------
    ValueError
        If it cannot be read, or arrays in a column are not of one length.

    """
    kind = look(path).kind
    if kind == "fits":
        with opened(path, wanted) as hdus:
            return [_from_fits(hdu) for hdu in hdus if isinstance(hdu, fits.BinTableHDU)]
    with reading(path, "spectra", wanted):
        if kind == "votable":
            with _unpacked(path) as file:
                return [_from_votable(table) for table in votable.parse(file, verify="ignore").iter_tables()]
        if kind in ("csv", "ecsv"):
            return [_from_text(path)]
        raise ValueError("it is neither CSV, ECSV, FITS nor VOTable")


def gaia_spectra(
    reader: str, segment: Segment, source: np.ndarray, columns: Mapping[str, np.ndarray], *, flux_unit: str,
    velocity: float = math.nan, frame: Frame | None = None,
) -> SurveySpectra:  # fmt: skip
    """The record of combined spectra in vacuum, with those of the columns that hold one value a row."""
    n_spectra = len(segment.flux)
    facts = {name: values for name, values in columns.items() if values.ndim == 1}
    return SurveySpectra(
        reader=reader,
        segments=[segment],
        identifiers={"SOURCE_ID": source},
        noise_kind="error",
        velocity=np.full(n_spectra, velocity),
        which=np.full(n_spectra, "combined"),
        columns=facts,
        units={name: unit for name, unit in _UNITS.items() if name in facts},
        medium="vacuum",
        frame=frame,
        flux_unit=flux_unit,
    )


def stacked(values: np.ndarray, what: str) -> np.ndarray:
    """Arrays of each row as one array, shape (row, sample), NaN in rows that have none.

    Raises
    ------
    ValueError
        If they are not of one length.

    """
    if values.dtype != object:
        return values
    sizes = np.array([0 if row is None else np.size(row) for row in values])
    size = sizes.max(initial=0)
    odd = np.flatnonzero((sizes != size) & (sizes > 0))
    if odd.size:
        raise ValueError(f"{what} has {sizes[odd[0]]} numbers in row {odd[0]} and {size} in another")
    whole = np.full((len(values), size), np.nan)
    for row, array in enumerate(values):
        if sizes[row]:
            whole[row] = np.ma.filled(np.ma.asarray(array, dtype=float), np.nan)
    return whole


@lru_cache(maxsize=4)
def _look(path: Path, changed: int, size: int) -> Look:
    del changed, size  # They tell a file from one that was written in its place.
    found = layout(path)
    if found.headers:
        columns = tuple(name.lower() for name in found.columns(1))
        forms = (str(found.headers[1].get(f"TFORM{k + 1}", "")) for k in range(len(columns)))
        return Look(
            "fits", columns, arrays=frozenset(n for n, f in zip(columns, forms, strict=True) if _holds_array(f))
        )
    with _unpacked(path) as file:
        try:
            text = codecs.getincrementaldecoder("utf-8")().decode(file.read(_START))  # The last letter may be cut.
        except (UnicodeDecodeError, OSError, EOFError, zlib.error):
            return Look()
    if "<VOTABLE" in text[:2000]:
        return _look_at_votable(text)
    return _look_at_text(text)


def _holds_array(form: str) -> bool:
    found = re.match(r"(\d*)([A-Z])", form)
    if not found:
        return False
    count, kind = found.groups()
    return kind in "PQ" or (kind != "A" and int(count or 1) > 1)


def _look_at_votable(text: str) -> Look:
    header = text.partition("<DATA")[0]
    fields = [dict(_ATTRIBUTE.findall(tag)) for tag in _VOTABLE_FIELD.findall(header)]
    arrays = frozenset(f["name"].lower() for f in fields if f.get("arraysize", "1") != "1" and "name" in f)
    columns = tuple(f.get("name", "").lower() for f in fields)
    cells = re.findall(r"<TD[^>]*>([^<]*)</TD>", text.partition("<TR>")[2].partition("</TR>")[0])
    return Look("votable", columns, arrays=arrays, first=dict(zip(columns, cells, strict=False)))


def _look_at_text(text: str) -> Look:
    kind = "ecsv" if text.startswith("# %ECSV") else "csv"
    delimiter = _delimiter(text)
    lines = [line for line in text.splitlines() if line and not line.startswith("#")][:2]
    if not lines or delimiter not in lines[0] or not lines[0].isprintable():
        return Look()
    columns = tuple(name.strip().lower() for name in next(csv.reader(lines[:1], delimiter=delimiter)))
    # The first row may be longer than what was read, so that a cell of it may be cut.
    try:
        cells = next(csv.reader(lines[1:], delimiter=delimiter), [])
    except csv.Error:
        cells = []
    first = dict(zip(columns, (cell.strip() for cell in cells), strict=False))
    arrays = frozenset(name for name, cell in first.items() if cell.startswith(("(", "[")))
    return Look(kind, columns, delimiter, arrays, first)


def _delimiter(text: str) -> str:
    if not text.startswith("# %ECSV"):
        return ","
    said = re.search(r"^# delimiter:\s*['\"]?(.)['\"]?\s*$", text, re.MULTILINE)
    return said[1] if said else " "


@contextmanager
def _unpacked(path: Path) -> Iterator[BinaryIO]:
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    with gzip.open(path) if packed else open(path, "rb") as unpacked:
        yield cast(BinaryIO, unpacked)


def _from_text(path: Path) -> GaiaTable:
    seen = look(path)
    with _unpacked(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8")
        lines = [line for line in text if line.strip() and not line.startswith("#")][1:]
    if lines and not seen.arrays:
        try:
            return _numbers(lines, seen)
        except ValueError:  # There is a text among them, or a missing number: each cell is looked at.
            pass
    cells = list(csv.reader(lines, delimiter=seen.delimiter))
    odd = next((k for k, row in enumerate(cells) if len(row) != len(seen.columns)), None)
    if odd is not None:
        raise ValueError(f"row {odd} has {len(cells[odd])} values for {len(seen.columns)} columns")
    columns = list(zip(*cells, strict=True)) or [()] * len(seen.columns)
    return GaiaTable({name: _column(cells, name) for name, cells in zip(seen.columns, columns, strict=True)})


def _numbers(lines: list[str], seen: Look) -> GaiaTable:
    form = np.dtype([(name, np.int64 if name.endswith("_id") else float) for name in seen.columns])
    rows = np.loadtxt(lines, form, delimiter=seen.delimiter, quotechar='"', comments=None, ndmin=1)
    return GaiaTable({name: rows[name] for name in seen.columns})


def _column(cells: Sequence[str], name: str) -> np.ndarray:
    """Arrays with shape (row, sample); whole numbers and numbers, exactly; texts if they are none."""
    cells = [cell.strip() for cell in cells]
    first = next((cell for cell in cells if cell not in _MISSING), "")
    if first.startswith(("(", "[")):
        return _arrays(cells, name)
    try:
        if all(cell.lstrip("-").isdigit() for cell in cells):
            return np.array([int(cell) for cell in cells])
        return np.array([np.nan if cell in _MISSING else float(cell) for cell in cells])
    except ValueError:
        return np.array(cells)


def _arrays(cells: Sequence[str], name: str) -> np.ndarray:
    rows = np.empty(len(cells), dtype=object)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # A text that is no number.
        for k, cell in enumerate(cells):
            if cell not in _MISSING:
                try:
                    rows[k] = np.fromstring(cell[1:-1].replace("null", "nan"), sep=",")
                except (ValueError, DeprecationWarning) as error:
                    raise ValueError(f"{name} in row {k} is no list of numbers: {cell[:40]}...") from error
    return stacked(rows, name)


def _from_fits(hdu: fits.BinTableHDU) -> GaiaTable:
    columns = {}
    for name in hdu.columns.names:
        columns[name.lower()] = stacked(_plain(hdu.data[name]), name)
    parameters = {str(key).lower(): str(value) for key, value in hdu.header.items() if key}
    units = {column.name.lower(): str(column.unit) for column in hdu.columns if column.unit}
    return GaiaTable(columns, parameters, units)


def _plain(values: np.ndarray) -> np.ndarray:
    array = np.asarray(values)
    return array if array.dtype == object else native(array)


def _from_votable(table: votable.tree.TableElement) -> GaiaTable:
    columns, units = {}, {}
    for described in table.fields:
        lower = described.name.lower()
        values = table.array[described.ID]
        if lower.endswith("_id") or (values.dtype == object and described.datatype in ("char", "unicodeChar")):
            columns[lower] = np.asarray(values).astype(str)
        else:
            missing = values.dtype != object and np.ma.is_masked(values)
            plain = np.ma.filled(values.astype(float), np.nan) if missing else np.asarray(values)
            columns[lower] = stacked(plain, lower)
        if described.unit is not None:
            units[lower] = str(described.unit)
    parameters = {str(p.name).lower(): str(p.value) for p in (*table.params, *table.infos)}
    return GaiaTable(columns, parameters, units)
