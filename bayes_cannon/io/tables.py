"""Tables in files: catalogues of labels as surveys publish them, read, and label tables, written with their units.

FITS, ECSV, VOTable and Parquet keep units and metadata; CSV, which is read only, does not.
"""

import gzip
import io
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from astropy.io.votable.exceptions import VOWarning
from astropy.table import Column, MaskedColumn, Table
from astropy.utils.exceptions import AstropyUserWarning

from bayes_cannon.core.arguments import check_kind, file_path
from bayes_cannon.io import table_formats as formats
from bayes_cannon.io.atomic import atomic_path
from bayes_cannon.io.spectra_variables import beyond_float, texts

_READERS = {
    ".fits": formats.read_fits, ".fit": formats.read_fits, ".ecsv": formats.read_ecsv, ".csv": formats.read_csv,
    ".vot": formats.read_votable, ".votable": formats.read_votable, ".xml": formats.read_votable,
    ".parquet": formats.read_parquet,
}  # fmt: skip
_WRITERS = {
    ".fits": formats.write_fits, ".ecsv": formats.write_ecsv, ".vot": formats.write_votable,
    ".parquet": formats.write_parquet,
}  # fmt: skip
_AROUND_NAMES = '\ufeff"\t '
"""What may stand around the name of a column: a file of a spreadsheet begins with a byte order mark."""


def write_table(path: str | os.PathLike, table: Table, *, overwrite: bool = False) -> None:
    """Write a table as FITS (``.fits``), ECSV (``.ecsv``), VOTable (``.vot``) or Parquet (``.parquet``).

    Units and metadata are included, and `read_table` gives back the same numbers, texts and units; but blanks at the
    end of a text are lost in FITS, and around one in ECSV. The file appears whole or not at all. A unit that the
    standard of FITS or VOTable does not know, such as dex, is written as its text, as surveys do. Parquet has no arrays
    of several dimensions: the column ``covariance`` of a label table is left out there, whose errors and correlations
    say the same.

    Raises
    ------
    FileExistsError
        If the file exists and ``overwrite`` is False.
    ImportError
        For ``.parquet`` where the extra ``bayes-cannon[parquet]`` is not installed.
    ValueError
        For another suffix, or a column that the format cannot hold, naming it.

    Examples
    --------
    >>> from astropy.table import Table
    >>> tc.io.write_table("labels.fits", Table({"TEFF": [4500.0, 5000.0]}, units={"TEFF": "K"}))
    >>> tc.io.read_table("labels.fits")["TEFF"].unit
    Unit("K")

    """
    check_kind(table, Table, "table", "an astropy Table")
    path = check_table_suffix(path)
    with atomic_path(path, overwrite=overwrite) as temporary, careful():
        try:
            _WRITERS[path.suffix.lower()](temporary, table)
        except formats.UnwritableError as error:
            raise ValueError(f"cannot write the table {path}: {error}") from error


def check_table_suffix(path: str | os.PathLike) -> Path:
    """Refuse a suffix that `write_table` does not write, or lacks a package for, before any work is done for it."""
    path = file_path(path)
    suffix = path.suffix.lower()
    if suffix not in _WRITERS:
        *others, last = _WRITERS
        raise ValueError(f"a label table is written as {', '.join(others)} or {last}; got {path}")
    if suffix == ".parquet":
        formats.pyarrow_parquet(path)
    return path


def read_table(path: str | os.PathLike) -> Table:
    r"""Read a table of any of the formats FITS, ECSV, CSV, VOTable and Parquet.

    Parameters
    ----------
    path
        Its suffix says the format: ``.fits``, ``.fit``, ``.ecsv``, ``.csv``, ``.vot``, ``.votable``, ``.xml`` or
        ``.parquet``; all but the last may be gzipped (``.fits.gz``). Of a file with several tables the first with rows
        is read, or the one in brackets after the name: ``"allStar.fits[2]"`` by the number of its HDU, counted from 0,
        ``"allStar.fits[PARAMS]"`` by its name; tables of a VOTable are counted from 0 and named likewise.

    Returns
    -------
    table
        Columns of native byte order; texts instead of bytes. What is missing is NaN in numbers and an empty text in
        texts. Integers with missing ones become float64, but for those that float64 does not hold, which stay masked.
        Units as the file has them; one that Astropy does not know keeps its text.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        For ``.parquet`` where the extra ``bayes-cannon[parquet]`` is not installed.
    ValueError
        For another suffix, and a file that cannot be read, is empty or truncated, or has no such table or no rows,
        naming it.

    Examples
    --------
    >>> with open("labels.csv", "w") as file:
    ...     print("star_id,TEFF", "a,4500", "b,", sep="\n", file=file)
    >>> tc.io.read_table("labels.csv")["TEFF"].tolist()
    [4500.0, nan]

    """
    path, which = _split(file_path(path))
    suffix = Path(path.stem).suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()
    if suffix not in _READERS:
        raise ValueError(f"a table must be one of {', '.join(_READERS)}, got {path}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no table {path}")
    if suffix == ".parquet":
        formats.pyarrow_parquet(path)
    with careful():
        try:
            table = _READERS[suffix](_unpacked(path), which)
            for name in table.colnames:
                table[name] = _plain(table[name])
                if name != name.strip(_AROUND_NAMES):
                    table.rename_column(name, name.strip(_AROUND_NAMES))
        except Exception as error:
            # The readers raise whatever the parser at hand does.
            said = str(error) or type(error).__name__
            raise ValueError(
                f"cannot read the table {path}: {said}; is it whole, and of the format that its suffix says?"
            ) from error
    if not len(table):
        raise ValueError(f"the table {path} has no rows: give one with a row a star")
    return table


@contextmanager
def careful() -> Iterator[None]:
    """Quiet about units that FITS and VOTable do not define, whose text is kept; a truncated file is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", u.UnitsWarning)
        warnings.simplefilter("ignore", VOWarning)
        warnings.filterwarnings("ignore", "The unit .* could not be saved in native FITS format", AstropyUserWarning)
        warnings.filterwarnings("error", ".*truncated", AstropyUserWarning)
        yield


def _split(path: Path) -> tuple[Path, str | None]:
    """Path of the file, and what stands in brackets after its name."""
    found = re.fullmatch(r"(.+)\[([^\[\]]+)\]", path.name)
    if found is None or path.exists():
        return path, None
    return path.with_name(found[1]), found[2].strip()


def _unpacked(path: Path) -> Path | io.BytesIO:
    """The file, or what is in it if it is gzipped."""
    with path.open("rb") as file:
        if file.read(2) != b"\x1f\x8b":
            return path
    with gzip.open(path) as unpacked:
        return io.BytesIO(unpacked.read())


def _plain(column: Any) -> Any:
    """A column as `read_table` promises it; columns of other classes, such as times, as they are."""
    if isinstance(column, u.Quantity):
        column = Column(column.value, unit=column.unit)
    if not isinstance(column, Column):
        return column
    missing = np.broadcast_to(getattr(column, "mask", False), column.shape)
    values: Any = np.ma.getdata(column)
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.dtype.kind == "O" and all(isinstance(value, str | bytes | None) for value in values.ravel()):
        values = texts(np.where(missing | (values == None), "", values))  # noqa: E711
    elif values.dtype.kind in "SU":
        values = np.where(missing, "", _decoded(values))
    elif values.dtype.kind == "f" or (
        values.dtype.kind in "iub" and missing.any() and not beyond_float(values[~missing])
    ):
        values = np.where(missing, np.nan, values)
    elif missing.any():
        return MaskedColumn(values, mask=missing, unit=_unit(column.unit), description=column.description)
    return Column(values, unit=_unit(column.unit), description=column.description)


def _decoded(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "U":
        return values
    try:
        return np.char.decode(values, "utf-8")
    except UnicodeDecodeError:
        return np.char.decode(values, "latin-1")


def _unit(unit: Any) -> u.UnitBase | None:
    """A unit by its text alone: in a VOTable dex is a unit of its own, which equals no other."""
    text = "" if unit is None else str(unit).strip().strip("'\"").strip()
    return u.Unit(text, parse_strict="silent") if text else None
