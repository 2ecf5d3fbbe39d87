"""One catalogue from all shards of a store of labels, written piece by piece: its memory is that of a piece."""

import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table

from bayes_cannon.core.progress import ProgressOption, reporter
from bayes_cannon.core.status import StarStatus
from bayes_cannon.io import table_formats as formats
from bayes_cannon.io.atomic import atomic_path, check_output_path
from bayes_cannon.io.label_store import LabelStore, open_labels
from bayes_cannon.io.label_tables import STAR_ID, label_table
from bayes_cannon.io.tables import careful
from bayes_cannon.validate import label_errors

Pieces = Iterator[Table]
_ROWS = 16_384
"""Rows of a piece at least, but for the last: to begin a table costs as much time as some thousand rows."""
_BLOCK = 2880
"""Bytes that the parts of a FITS file are multiples of."""


def export_labels(
    store: str | os.PathLike, path: str | os.PathLike, *, partial: bool = False, overwrite: bool = False,
    progress: ProgressOption = None,
) -> int:  # fmt: skip
    """Write the table of labels of a store as FITS (``.fits``), ECSV (``.ecsv``) or Parquet (``.parquet``).

    It has the columns, units and metadata of `label_table`. It is written some shards at a time, and takes the memory
    of these.

    Parameters
    ----------
    store
        That `CannonModel.label_store` wrote.
    path
        Table to write. It appears whole or not at all.
    partial
        Leave out the stars whose labels are missing, in place of refusing.
    overwrite
        Replace a file that exists.
    progress
        True shows a bar; a function is called with the number of stars that are written since its last call.

    Returns
    -------
    n_stars
        Rows of the table.

    Raises
    ------
    FileExistsError
        If the file exists and ``overwrite`` is False.
    ImportError
        For ``.parquet`` where the extra ``bayes-cannon[parquet]`` is not installed.
    ValueError
        If shards are missing, saying how many, and for another suffix.

    Examples
    --------
    >>> spectra = tc.io.Spectra(model.training_set_flux, model.training_set_ivar, model.dispersion)
    >>> tc.io.write_spectra("spectra.zarr", spectra)
    >>> labelled = model.label_store("spectra.zarr", "inferred.zarr")
    >>> tc.io.export_labels("inferred.zarr", "inferred.fits")
    200

    """
    path = Path(path)
    if path.suffix.lower() not in _WRITERS:
        raise ValueError(f"a store of labels is exported as {', '.join(_WRITERS)}; got {path}")
    if path.suffix.lower() == ".parquet":
        formats.pyarrow_parquet(path)
    check_output_path(path, overwrite=overwrite)
    labels = open_labels(store)
    missing = labels.missing()
    if missing and not partial:
        raise ValueError(
            f"{len(missing)} of {labels.shards} shards of {labels.path} are missing: label the rest first, by the same "
            "command, or pass partial=True to leave out their stars"
        )
    numbers = sorted({*range(labels.shards)} - {*missing})
    if not numbers:
        raise ValueError(f"no shard of {labels.path} is written yet")
    sizes = [labels.rows(number) for number in numbers]
    n_stars = sum(rows.stop - rows.start for rows in sizes)
    with (
        reporter(progress, n_stars, "star", "export") as report,
        atomic_path(path, overwrite=overwrite) as temporary,
        careful(),
    ):

        def pieces() -> Pieces:
            widths = _widths(labels, numbers) if path.suffix.lower() != ".ecsv" else {}
            for some in _grouped(labels, numbers):
                table = shards_table(labels, some)
                for name, width in widths.items():
                    if name in table.colnames:
                        table[name] = table[name].astype(f"U{width}")
                yield table
                report(len(table))

        try:
            _WRITERS[path.suffix.lower()](temporary, pieces(), n_stars)
        except formats.UnwritableError as error:
            raise ValueError(f"cannot write the table {path}: {error}") from error
    return n_stars


def _grouped(labels: LabelStore, numbers: Iterable[int]) -> Iterator[list[int]]:
    """Shards that are a piece together."""
    some, rows = list[int](), 0
    for number in numbers:
        some.append(number)
        rows += labels.rows(number).stop - labels.rows(number).start
        if rows >= _ROWS:
            yield some
            some, rows = [], 0
    if some:
        yield some


def shards_table(labels: LabelStore, numbers: Sequence[int]) -> Table:
    """The table of the labels of some shards."""
    parts, about = [labels.read(number) for number in numbers], labels.about
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in labels.arrays}
    names = tuple(about["label_names"])
    of_labels = {name: {**likelihood, **_budget(labels, arrays, k, name)}
                 for k, (name, likelihood) in enumerate(likelihood_columns(arrays, names).items())}  # fmt: skip
    identifiers = {name: arrays[array] for name, array in about["identifiers"].items()}
    table = label_table(
        names, SimpleNamespace(**arrays), star_id=arrays[STAR_ID], identifiers=identifiers,
        label_units=about["label_units"],
        extra={column: values for columns in of_labels.values() for column, values in columns.items()},
        meta=dict(about["meta"]),
    )  # fmt: skip
    for name, columns in of_labels.items():
        for column in columns:
            table[column].unit = table[name].unit
    return table


def likelihood_columns(
    arrays: Mapping[str, np.ndarray], label_names: tuple[str, ...]
) -> dict[str, dict[str, np.ndarray]]:  # fmt: skip
    """Labels of highest likelihood, by label and column name, of a fit whose labels are posterior means."""
    if "likelihood_labels" not in arrays:
        return {name: {} for name in label_names}
    errors = label_errors(arrays["likelihood_covariance"])
    return {
        name: {f"{name}_LIKELIHOOD": arrays["likelihood_labels"][:, k], f"{name}_LIKELIHOOD_ERR": errors[:, k]}
        for k, name in enumerate(label_names)
    }


def _budget(labels: LabelStore, arrays: Mapping[str, np.ndarray], k: int, name: str) -> dict[str, np.ndarray]:
    """Columns of the error budget of a label."""
    if "error_budget" not in arrays:
        return {}
    sources = labels.about["error_sources"]
    return {f"{name}_ERR_{source.upper()}": arrays["error_budget"][:, i, k] for i, source in enumerate(sources)}


def _widths(labels: LabelStore, numbers: list[int]) -> dict[str, int]:
    """The longest text of each column of texts in all shards: a FITS table has one width a column."""
    widths = {"status_text": max(len(status.message) for status in StarStatus)}
    columns = {STAR_ID: STAR_ID, **labels.about["identifiers"]}
    for number in numbers:
        found = labels.read(number, columns.values())
        for name, array in columns.items():
            for column in (name, f"{name}_ID"):  # That of an identifier with the name of another column.
                widths[column] = max(widths.get(column, 1), found[array].dtype.itemsize // 4)
    return widths


def _write_fits(path: Path, pieces: Pieces, n_stars: int) -> None:
    """Header of the first piece with the number of all rows, then the rows of each."""
    first: tuple[int, int] | None = None
    with path.open("wb") as file:
        for piece in pieces:
            memory = io.BytesIO()
            formats.fits_table(piece).writeto(memory)
            content = memory.getvalue()
            with fits.open(io.BytesIO(content)) as hdus:
                place, layout = hdus[1].fileinfo()["datLoc"], [*hdus[1].columns.formats, *hdus[1].columns.names]
                if first is None:
                    primary, header, known = hdus[0].header, hdus[1].header, layout
                    header["NAXIS2"] = n_stars
                    file.write((primary.tostring() + header.tostring()).encode("ascii"))
                    first = file.tell(), int(header["NAXIS1"])
                elif layout != known:
                    raise formats.UnwritableError("its shards have different columns")
            file.write(content[place : place + first[1] * len(piece)])
        assert first is not None
        file.write(bytes(-(file.tell() - first[0]) % _BLOCK))


def _write_ecsv(path: Path, pieces: Pieces, n_stars: int) -> None:
    """The lines of each piece, with the header of the first."""
    with path.open("w", encoding="utf-8", newline="") as file:
        for number, piece in enumerate(pieces):
            memory = io.StringIO(newline="")
            piece.write(memory, format="ascii.ecsv")
            memory.seek(0)
            if number:
                while memory.readline().startswith("#"):  # Up to the line of the column names.
                    pass
            file.write(memory.read())


def _write_parquet(path: Path, pieces: Pieces, n_stars: int) -> None:
    """A group of rows for each piece."""
    parquet, writer = formats.pyarrow_parquet(path), None
    scratch = path.with_name(f"piece-{path.name}")
    try:
        for piece in pieces:
            formats.write_parquet(scratch, piece)
            content = parquet.read_table(scratch)
            scratch.unlink()
            if writer is None:
                writer = parquet.ParquetWriter(path, content.schema)
            writer.write_table(content.cast(writer.schema))
    finally:
        if writer is not None:
            writer.close()
        scratch.unlink(missing_ok=True)


_WRITERS: dict[str, Callable[[Path, Pieces, int], Any]] = {
    ".fits": _write_fits, ".ecsv": _write_ecsv, ".parquet": _write_parquet,
}  # fmt: skip
