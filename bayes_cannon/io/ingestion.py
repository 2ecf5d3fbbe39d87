"""From the files of a survey to one store: in bounded memory, on all cores, and going on where it was killed.

Worker processes read batches of files, decode them, put them on the grid and prepare them; this process puts their
spectra in the order of the files and writes them shard by shard (`io.unfinished_store`). A file that cannot be read is
refused, with the reason, and the others go on. Every file is prepared on its own, so that its numbers do not depend on
which others were read beside it.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from threadpoolctl import threadpool_limits

from bayes_cannon.core.progress import ProgressOption, reporter
from bayes_cannon.io.alike import First
from bayes_cannon.io.atomic import check_output_path, locked
from bayes_cannon.io.file_lists import Paths, list_files
from bayes_cannon.io.file_rows import Work, in_order
from bayes_cannon.io.joining import join_labels
from bayes_cannon.io.preparation import PREPARED, Preparation
from bayes_cannon.io.rows import Rows, merged_texts, merged_units
from bayes_cannon.io.spectra import Spectra, known_suffix
from bayes_cannon.io.spectra_store import unfinished
from bayes_cannon.io.spectra_variables import texts
from bayes_cannon.io.survey_files import FileSettings, grouped, spectra_of_files
from bayes_cannon.io.unfinished_store import SHARD, Plan, UnfinishedStore

_LOW, _HIGH = 1e-6, 1e12
"""Between these the median flux is stored as it is; ivar then fits float32 too."""
_ROW = "row of the store"


@dataclass(frozen=True)
class Ingested:
    """What became of the files.

    Attributes
    ----------
    store
        The store that was written.
    n_files, n_stars
        How many files there were, and how many spectra are in the store.
    refused
        Reason by file of each that is not in it.
    without_labels
        Spectra of stars that the table of labels does not have.

    """

    store: Path
    n_files: int
    n_stars: int
    refused: Mapping[str, str]
    without_labels: int = 0


def ingest(
    paths: Paths,
    store: str | os.PathLike,
    *,
    settings: FileSettings | None = None,
    preparation: Preparation | None = None,
    labels: Table | None = None,
    id_column: str | None = None,
    shard_size: int = SHARD,
    workers: int = 1,
    overwrite: bool = False,
    progress: ProgressOption = None,
) -> Ingested:
    """Write the spectra of many files into one store.

    If a run with the same settings was killed, this one goes on with what it left, and the store is the same, bit by
    bit, as without the interruption. The files are then those that the killed run listed.

    Parameters
    ----------
    paths
        As for `bayes_cannon.io.read_spectra`. The spectra are in the order of the files. Of files that are one row
        together, none is in the store if one cannot be read.
    store
        Zarr store to write (``.zarr``), or for few spectra another file that `bayes_cannon.io.write_spectra` writes.
        Flux and ivar are stored in float32, which keeps 7 digits.
    settings
        How files become spectra; without a grid all must be of one survey and share their pixels, those of the first
        file that can be read.
    preparation
        Done to the spectra of each file; the store says so, and models that ask for the same do not do it again.
    labels
        Table whose columns are joined to the spectra by the names of the stars, as `bayes_cannon.io.join_labels` does;
        NaN and empty for stars that it does not have. If it has a column ``settings.velocity`` this takes the spectra
        to rest, km/s; ``id_column`` must then be given.
    id_column
        Its column with the names of the stars, which are otherwise looked for.
    shard_size
        Spectra of a shard.
    workers
        Processes that read. With more than one, a script that calls this must begin with
        ``if __name__ == "__main__":``.
    overwrite
        Replace a store that exists, and what a killed run with other settings left.
    progress
        True shows a bar; a function is called with the number of files that are done.

    Returns
    -------
    ingested
        Counts, and which files were refused and why.

    Raises
    ------
    FileExistsError
        If the store exists and ``overwrite`` is False.
    OSError
        If the store cannot be written, as on a full disk. What was written stays for the next call.
    ValueError
        If no file can be read, naming the first reasons, or a killed run with other settings left its store.

    Examples
    --------
    >>> wavelength = np.linspace(5000, 5003, 4)
    >>> for name in ("one", "two"):
    ...     spectra = tc.io.Spectra(np.ones((2, 4)), np.ones((2, 4)), wavelength, [f"{name} a", f"{name} b"])
    ...     tc.io.write_spectra(f"{name}.nc", spectra)
    >>> tc.io.ingest(["one.nc", "two.nc"], "night.zarr", shard_size=2).n_stars
    4
    >>> [part.ids.tolist() for part in tc.io.open_store("night.zarr")]
    [['one a', 'one b'], ['two a', 'two b']]

    """
    path, preparation = Path(store), preparation or Preparation()
    settings = _with_velocities(settings or FileSettings(), labels, id_column)
    known_suffix(path)
    if shard_size < 1 or workers < 1:
        raise ValueError(f"shard_size and workers must be 1 or more, got {shard_size} and {workers}")
    check_output_path(path, overwrite=overwrite)
    folder = unfinished(path)
    folder.mkdir(exist_ok=True)
    try:
        with locked(folder), threadpool_limits(1):
            check_output_path(path, overwrite=overwrite)  # Another run may have finished it meanwhile.
            texts = _as_texts(paths, settings, preparation, shard_size)
            begun = UnfinishedStore.take_up(path, texts, overwrite=overwrite)
            if begun is None:
                files = list_files(paths)
                begun = UnfinishedStore.begin(path, _plan(files, Work(settings, preparation), texts, shard_size))
            _fill(begun, Work(settings, preparation), workers, progress)
            stars = begun.stars()
            stars = replace(stars, attrs=_attributes(begun, stars, preparation))
            stars, without = (stars, 0) if labels is None else _with_labels(stars, labels, id_column)
            begun.finish(stars, overwrite=overwrite)
    finally:
        with suppress(OSError):  # If nothing was written into it.
            folder.rmdir()
    return Ingested(path, len(begun.plan.files), begun.n_stars, dict(begun.progress.refused), without)


def _as_texts(paths: Paths, settings: FileSettings, preparation: Preparation, shard_size: int) -> dict[str, str]:
    """The settings of a run, to compare with those of another."""
    named = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    places = [os.fspath(one) if os.fspath(one).startswith("@") else os.path.abspath(one) for one in named]
    grid, table = settings.grid, settings.velocities
    digest = lambda content: sha256(content).hexdigest()[:12]  # noqa: E731
    velocities = "" if table is None else f" of a table, {digest(repr(sorted(table.items())).encode())}"
    return {
        "version": version("bayes-cannon"),
        "files": places[0] if len(places) == 1 else f"{len(places)} named, {digest(repr(places).encode())}",
        "survey": str(settings.survey),
        "grid": "None" if grid is None else f"{grid.wavelength.size} pixels, {digest(grid.wavelength.tobytes())}",
        "velocity": settings.velocity + velocities,
        "mask_bits": str(settings.mask_bits),
        "combined": settings.combined,
        "covariance": str(settings.covariance),
        "preparation": preparation.to_text(),
        "shard_size": str(shard_size),
    }


def _with_velocities(settings: FileSettings, labels: Table | None, id_column: str | None) -> FileSettings:
    """The settings with the velocities of the table, if they name a column of it."""
    if labels is None or settings.velocity not in labels.colnames:
        return settings
    if id_column is None:
        raise ValueError(
            f"to take the velocities {settings.velocity!r} from the table, say its id_column (--id-column)"
        )
    if id_column not in labels.colnames:
        raise ValueError(f"the label table has no column {id_column!r}; it has {', '.join(labels.colnames)}")
    values = np.asarray(labels[settings.velocity], dtype=float)
    names = [str(name).strip() for name in texts(labels[id_column])]
    return replace(settings, velocities=dict(zip(names, values.tolist(), strict=True)))


def _with_labels(stars: Spectra, labels: Table, id_column: str | None) -> tuple[Spectra, int]:
    """All stars, with the columns of the table where it has them, and how many it has not."""
    numbered = replace(stars, labels={**stars.labels, _ROW: np.arange(stars.n_stars)})
    found = join_labels(numbered, labels, id_column=id_column, unmatched="leave out")
    rows = found.labels[_ROW].astype(int)

    def of_all(columns: Mapping[str, np.ndarray], absent: float | str) -> dict[str, np.ndarray]:
        spread = {}
        for name, values in columns.items():
            spread[name] = np.full(stars.n_stars, absent, dtype=values.dtype)
            spread[name][rows] = values
        return spread

    new = {name: values for name, values in found.labels.items() if name in labels.colnames}
    names = {name: values for name, values in found.identifiers.items() if name in labels.colnames}
    everything = replace(
        stars,
        labels={**stars.labels, **of_all(new, np.nan)},
        identifiers={**stars.identifiers, **of_all(names, "")},
        units=found.units,
        attrs=found.attrs,
    )
    return everything, stars.n_stars - len(rows)


def _plan(files: Sequence[Path], work: Work, texts: Mapping[str, str], shard_size: int) -> Plan:
    """What the first file that can be read decides for all."""
    refused: dict[str, str] = {}
    groups = grouped(files, work.settings)
    for path, group in ((group[0], group) for group in groups):
        try:
            given = spectra_of_files(group, work.settings)
            found = work.preparation.apply(given)
        except Exception as error:  # noqa: BLE001 - whatever a reader raises, the other files go on
            refused |= {str(one): str(error) for one in group}
            continue
        if given.wavelength is None or found.wavelength is None:
            raise ValueError(f"{path} has no wavelengths, and a store needs them")
        known = (found.ivar > 0) & np.isfinite(found.flux)
        median = float(np.median(np.abs(found.flux[known]))) if known.any() else 0.0
        scale = 1.0 if _LOW < median < _HIGH or not median else 2.0 ** round(np.log2(median))
        first = First.of(given, path) if work.settings.grid is None else None
        return Plan(texts, [str(one) for group in groups for one in group], found.wavelength, scale, shard_size, first)
    named = "; ".join(f"{file}: {said}" for file, said in islice(refused.items(), 3))
    raise ValueError(f"none of {len(files)} files could be read: {named}{', ...' if len(refused) > 3 else ''}")


def _fill(begun: UnfinishedStore, work: Work, workers: int, progress: ProgressOption) -> None:
    """Write all shards that are not there yet."""
    plan, done = begun.plan, begun.progress
    if done.complete:
        return
    work = replace(work, first=plan.first, scale=plan.scale)
    place, skipped, refused = done.file, done.row, dict(done.refused)
    groups = grouped([Path(file) for file in plan.files[place:]], work.settings)
    pieces = list[Rows]()
    with reporter(progress, len(plan.files), "file", "ingest", before=place) as report:
        for group, found in in_order(groups, work, workers):
            if isinstance(found, str):
                refused |= {str(path): found for path in group}
            else:
                units, attrs = merged_units(done.units, found.units), merged_texts(done.attrs, found.attrs)
                # What came before a break within the group tells of all its spectra.
                n_new = 0 if skipped else len(found.rows)
                correlation = done.correlation.with_more(found.noise_correlation, n_new)
                done = replace(done, units=units, attrs=attrs, correlation=correlation)
                pieces.append(found.rows.at(slice(skipped, None)))
            while (rest := sum(map(len, pieces)) - plan.shard_size) >= 0:
                # Only the last group can be broken: the others came after a shard that was full.
                row = len(found.rows) - rest if rest and not isinstance(found, str) else 0
                done = replace(done, file=place if rest else place + len(group), row=row, refused=dict(refused))
                whole = Rows.joined(pieces)
                begun.write(whole.at(slice(plan.shard_size)), done)
                pieces = [whole.at(slice(plan.shard_size, None))] if rest else []
            place, skipped = place + len(group), 0
            report(len(group))
    pieces = pieces or [Rows.none(plan.wavelength.size)]
    begun.write(Rows.joined(pieces), replace(done, file=len(plan.files), row=0, refused=refused, complete=True))


def _attributes(begun: UnfinishedStore, stars: Spectra, preparation: Preparation) -> dict[str, Any]:
    """Of the store: what its files say, and what was done to them."""
    given = {name: text for name, text in begun.plan.settings.items() if name not in ("preparation", "version")}
    attrs = {**{f"ingest_{name}": text for name, text in given.items()}, **stars.attrs}
    attrs |= begun.progress.correlation.said(stars.n_stars)
    if preparation != Preparation():
        attrs[PREPARED] = preparation.to_text()
    return attrs | {"program": f"bayes_cannon {version('bayes-cannon')}", "files_refused": len(begun.progress.refused)}
