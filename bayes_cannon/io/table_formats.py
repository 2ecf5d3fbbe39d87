"""How a table is read from and written to each format. `bayes_cannon.io.tables` chooses among them."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits, votable
from astropy.io.votable.tree import Param
from astropy.table import Column, MaskedColumn, Table
from astropy.table.meta import get_header_from_yaml

Source = Path | BytesIO

_ASTROPY, _VOPARQUET = b"table_meta_yaml", b"IVOA.VOTable-Parquet.content"
"""Where Astropy, and the IVOA's convention for Parquet, keep units."""


class UnwritableError(ValueError):
    """A table that a format cannot hold: it says which column, and what to do."""


def read_fits(source: Source, which: str | None) -> Table:
    """The first table with rows, or that of an HDU by number or name."""
    with fits.open(source, memmap=False) as hdus:
        tables = {str(k): hdu for k, hdu in enumerate(hdus) if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)}
        names = {number: hdu.name for number, hdu in tables.items()}
        chosen = tables[_chosen(names, {k: hdu.header["NAXIS2"] for k, hdu in tables.items()}, which, "HDU")]
        # With mask_invalid a text that is empty would be missing.
        return Table.read(chosen, format="fits", mask_invalid=False)


def write_fits(path: Path, table: Table) -> None:
    """A binary table, in HDU 1."""
    fits_table(table).writeto(path)


def fits_table(table: Table) -> fits.BinTableHDU:
    """The binary table of a table, with units that FITS does not know as their texts."""
    plain, foreign = table.copy(), {}
    seen: dict[str, str] = {}
    for name in table.colnames:
        if name.lower() in seen:
            raise UnwritableError(
                f"FITS does not tell the columns {seen[name.lower()]!r} and {name!r} apart: rename one, or write .ecsv"
            )
        seen[name.lower()] = name
        if table[name].dtype.kind == "U" and not _is_ascii(np.asarray(table[name])):
            raise UnwritableError(
                f"FITS holds ASCII only, and the column {name!r} has other letters: write .ecsv or .vot"
            )
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


def _is_ascii(texts: np.ndarray) -> bool:
    """Whether texts of a fixed width have ASCII letters only."""
    return texts.size == 0 or texts.dtype.itemsize == 0 or bool(np.ascontiguousarray(texts).view("u4").max() < 128)


def read_ecsv(source: Source, which: str | None) -> Table:
    """Columns with types and units, as text."""
    _refuse(which)
    return Table.read(source, format="ascii.ecsv")


def write_ecsv(path: Path, table: Table) -> None:
    """Numbers with as many digits as tell them from their neighbours."""
    table.write(path, format="ascii.ecsv")


def read_csv(source: Source, which: str | None) -> Table:
    """Columns whose types are guessed, without units."""
    _refuse(which)
    return Table.read(source, format="ascii.csv")


def read_votable(source: Source, which: str | None) -> Table:
    """The first table with rows, or one by number or name; its PARAMs become the metadata."""
    tables = {str(k): one for k, one in enumerate(votable.parse(source, verify="ignore").iter_tables())}
    names = {number: str(one.name or one.ID or "") for number, one in tables.items()}
    chosen = tables[_chosen(names, {k: len(one.array) for k, one in tables.items()}, which, "table")]
    table = chosen.to_table(use_names_over_ids=True)
    table.meta |= {param.name: _python(param.value) for param in chosen.params}
    return table


def write_votable(path: Path, table: Table) -> None:
    """Binary numbers, of which no bit is lost; metadata as PARAMs of the table."""
    tree = votable.from_table(table)
    element = tree.get_first_table()
    for name, value in table.meta.items():
        kinds = ((bool, "boolean"), (int, "long"), (float, "double"))
        kind = next((kind for python, kind in kinds if isinstance(value, python)), "unicodeChar")
        size = {"arraysize": "*"} if kind == "unicodeChar" else {}
        element.params.append(Param(tree, name=name, datatype=kind, value=value if not size else str(value), **size))
    tree.to_xml(str(path), tabledata_format="binary2")


def pyarrow_parquet(path: Path) -> Any:
    """The module ``pyarrow.parquet``, or an ImportError that names the extra."""
    try:
        import pyarrow.parquet  # An extra.
    except ImportError:
        raise ImportError(f"{path} needs the package pyarrow: install bayes-cannon[parquet]") from None
    return pyarrow.parquet


def read_parquet(source: Source, which: str | None) -> Table:
    """Columns of any writer. Astropy's reader makes floats of integers and a text "None" where a value is missing."""
    _refuse(which)
    content = pyarrow_parquet(Path("Parquet")).ParquetFile(source).read()
    table = Table()
    for name, column in zip(content.column_names, content.columns, strict=True):
        table[name] = _from_arrow(column)
    about, units = content.schema.metadata or {}, {}
    for name in content.column_names:
        units[name] = (content.schema.field(name).metadata or {}).get(b"unit", b"").decode()
    if _ASTROPY in about:
        header = get_header_from_yaml(about[_ASTROPY].decode().split("\n"))
        table.meta |= header.get("meta", {})
        units |= {column["name"]: column["unit"] for column in header["datatype"] if "unit" in column}
    elif _VOPARQUET in about:
        described = votable.parse_single_table(BytesIO(about[_VOPARQUET]), verify="ignore")
        units |= {field.name: field.unit for field in described.fields if field.unit}
    for name, unit in units.items():
        if unit and name in table.colnames:
            table[name].unit = unit
    return table


def write_parquet(path: Path, table: Table) -> None:
    """As Astropy writes it, which keeps units; without the column ``covariance``."""
    pyarrow_parquet(path)
    plain = table.copy()
    for name in table.colnames:
        if name == "covariance":
            del plain[name]
        elif table[name].ndim > 1:
            raise UnwritableError(f"Parquet has no column like {name!r}, of several dimensions: write .fits or .ecsv")
    plain.write(path, format="parquet")


def _from_arrow(column: Any) -> Column:
    import pyarrow as pa  # An extra.

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    missing = column.is_null().to_numpy()
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type):
        values = column.fill_null(False if pa.types.is_boolean(column.type) else 0).to_numpy()
    elif pa.types.is_nested(column.type):
        values = _regular(column.to_pylist())
    else:
        values = np.array(["" if value is None else _python(value) for value in column.to_pylist()], dtype=str)
    return MaskedColumn(values, mask=missing) if missing.any() and values.ndim == 1 else Column(values)


def _regular(rows: Sequence[Any]) -> np.ndarray:
    """Lists as an array of numbers if they are of one shape, else as objects."""
    try:
        return np.array(rows, dtype=float)
    except (TypeError, ValueError):
        values = np.empty(len(rows), dtype=object)
        values[:] = rows
        return values


def _chosen(names: dict[str, str], rows: dict[str, int], which: str | None, what: str) -> str:
    """Number of the table that was asked for, or of the first that has rows."""
    listed = ", ".join(f"{number} {name}".strip() for number, name in names.items()) or "none"
    if which is None:
        found = [number for number in names if rows[number]] or list(names)
    else:
        found = [number for number, name in names.items() if which in (number, name) or which.upper() == name.upper()]
    if not found:
        raise ValueError(f"it has no table{'' if which is None else f' in {what} {which!r}'}; it has {listed}")
    return found[0]


def _refuse(which: str | None) -> None:
    if which is not None:
        raise ValueError(f"this format holds one table: leave [{which}] out")


def _python(value: Any) -> Any:
    plain = value.item() if isinstance(value, np.generic) else value
    return plain.decode() if isinstance(plain, bytes) else plain
