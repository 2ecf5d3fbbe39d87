"""A store of spectra that is filled shard by shard, so that a killed run can go on.

It lies beside its place in a folder ``NAME.unfinished``: the store with flux and ivar, ``plan.npz`` with the settings
and the files that it is made of, and for every shard that is whole a file ``000000.npz`` with the rest of what is known
of its stars, the checksums of its files, and the place in the list of files where the next one begins. That file is
written last. A run that goes on takes the shards as whole up to the first that lacks it or has other checksums, so that
it gives the same store, bit by bit, as one that was not broken off.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Self

import numpy as np

from bayes_cannon.io.alike import First
from bayes_cannon.io.atomic import check_output_path, put_in_place
from bayes_cannon.io.damage import UNREADABLE, reading
from bayes_cannon.io.npz import put_npz, read_npz
from bayes_cannon.io.readers.survey_spectra import ANGSTROM
from bayes_cannon.io.rows import MeanCorrelation, Rows, about, union
from bayes_cannon.io.spectra import Spectra, read_spectra_file, to_dataset, write_spectra
from bayes_cannon.io.spectra_store import unfinished
from bayes_cannon.io.zarr_files import checked_codecs, crc32, seal_store, spectra_codecs

SHARD = 1024
"""Spectra of a shard."""
_CHUNK_NUMBERS = 600_000
"""Numbers that are compressed together within a shard: more are read no faster, and of fewer there are many."""
_STARS = 16_384
"""Stars, or as many as whole shards make, whose names and labels are in one file: those of a shard are read with it."""
_ARRAYS = ("flux", "ivar")
_PLAN, _LABEL, _TEXT, _CORRELATION = "plan.npz", "label ", "text ", "noise_correlation"


@dataclass(frozen=True)
class Plan:
    """What is decided before the first shard is written.

    Attributes
    ----------
    settings
        Of the run, as texts: a run with others does not go on with the store.
    files
        All files, in the order of their spectra.
    wavelength
        Of the pixels, shape (pixel,).
    scale
        Flux over the number that is stored.
    shard_size
        Spectra of a shard.
    first
        What all files must be like, or None.

    """

    settings: Mapping[str, str]
    files: Sequence[str]
    wavelength: np.ndarray
    scale: float
    shard_size: int
    first: First | None

    def write(self, path: Path) -> None:
        """Write it as an .npz."""
        # Texts in NumPy have the width of the longest.
        files = np.frombuffer("\0".join(self.files).encode("utf-8", "surrogateescape"), dtype=np.uint8)
        arrays, more = (
            {"files": files, "wavelength": self.wavelength},
            {"scale": self.scale, "shard_size": self.shard_size},
        )
        first = {}
        if self.first is not None and self.first.wavelength is not None:
            arrays["first"] = self.first.wavelength
            first = {"name": str(self.first.name), "reader": self.first.reader}
        put_npz(path, arrays, {"settings": self.settings, "more": more, "first": first})

    @classmethod
    def read(cls, path: Path) -> Self:
        """What `write` wrote."""
        arrays, texts = read_npz(path)
        files = arrays["files"].tobytes().decode("utf-8", "surrogateescape").split("\0")
        about = texts["first"]
        first = First(about["name"], arrays["first"], about["reader"]) if about else None
        return cls(texts["settings"], files, arrays["wavelength"], **texts["more"], first=first)


@dataclass(frozen=True)
class Progress:
    """How far an unfinished store is: what is known of the spectra up to some place in the list of files.

    Attributes
    ----------
    file, row
        The next spectrum: place of its file in the list, and its row among those of the file.
    units
        Unit by name; empty where files contradict each other.
    attrs
        The different texts of the files by name, in order.
    correlation
        That of the noise of their spectra.
    refused
        Reason by file of each that is not in the store.
    complete
        Whether the last file is done.

    """

    file: int = 0
    row: int = 0
    units: Mapping[str, str] = field(default_factory=dict)
    attrs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    correlation: MeanCorrelation = field(default_factory=MeanCorrelation)
    refused: Mapping[str, str] = field(default_factory=dict)
    complete: bool = False


class UnfinishedStore:
    """A store that is being filled.

    Attributes
    ----------
    plan
        What was decided.
    progress
        How far it is.
    n_stars
        How many spectra are written.

    """

    def __init__(self, path: Path, plan: Plan, *, to_fill: bool = True):
        self.plan, self.progress, self.n_stars = plan, Progress(), 0
        self._path, self._folder, self._store = path, unfinished(path), unfinished(path) / "store.zarr"
        self._n_records, self._checksums = 0, dict[str, str]()
        while self._take_up_record():
            pass
        if not to_fill:
            return
        import zarr  # An extra.

        self._drop_the_rest()
        self._root = zarr.open_group(self._store, mode="a", zarr_format=3)
        for name in _ARRAYS:
            self._make_array(name)

    @classmethod
    def look_at(cls, path: Path) -> Self:
        """What is there of a store that is unfinished, unchanged."""
        plan = unfinished(path) / _PLAN
        if not plan.is_file():
            raise FileNotFoundError(f"{unfinished(path)} holds no {_PLAN}: nothing of the store {path} is written yet")
        with reading(plan, "the plan of an unfinished store", "begin the store anew"):
            return cls(path, Plan.read(plan), to_fill=False)

    @classmethod
    def begin(cls, path: Path, plan: Plan) -> Self:
        """A new one."""
        unfinished(path).mkdir(exist_ok=True)
        plan.write(unfinished(path) / _PLAN)
        return cls(path, plan)

    @classmethod
    def take_up(cls, path: Path, settings: Mapping[str, str], *, overwrite: bool) -> Self | None:
        """The one that a killed run left; None if there is none.

        Raises
        ------
        FileExistsError
            If something else is in its place.
        ValueError
            If it was begun with other settings, naming them; with ``overwrite`` it is removed. If it is damaged.

        """
        folder = unfinished(path)
        if path.exists() and (folder / _PLAN).is_file() and not (folder / "store.zarr").exists():
            shutil.rmtree(folder)  # Of a run that was killed after all was done.
        if not (folder / _PLAN).is_file():
            if folder.exists() and any(part.name != f"partial-{_PLAN}" for part in folder.iterdir()):
                raise FileExistsError(f"{folder} is in the way, and is no unfinished store: remove it")
            return None
        with reading(folder / _PLAN, "the plan of an unfinished store", f"remove the folder {folder} to begin anew"):
            plan = Plan.read(folder / _PLAN)
        found = plan.settings
        other = [name for name in settings if found.get(name) != settings[name]]
        if not other:
            return cls(path, plan)
        if overwrite:
            shutil.rmtree(folder)
            return None
        named = "; ".join(f"{name} is {found.get(name, 'absent')} there and {settings[name]} here" for name in other)
        raise ValueError(
            f"the unfinished store {folder} was begun with other settings: {named}. Use the same, or pass "
            "overwrite=True to begin anew, or choose another store"
        )

    def write(self, rows: Rows, progress: Progress) -> None:
        """Write one shard, and how far the store is with it.

        Raises
        ------
        OSError
            If it cannot be written, as on a full disk. What was written before stays.

        """
        try:
            checksums = self._write_arrays(rows) if len(rows) else {}
            known = {"star_id": rows.star_id}
            known |= {f"{_LABEL}{name}": values for name, values in rows.labels.items()}
            known |= {f"{_TEXT}{name}": values for name, values in rows.identifiers.items()}
            new = {file: said for file, said in progress.refused.items() if file not in self.progress.refused}
            place = {"file": progress.file, "row": progress.row, "complete": progress.complete}
            correlation = progress.correlation
            if correlation.total is not None:
                known |= {_CORRELATION: correlation.total, f"{_CORRELATION} of": np.array(correlation.n_stars)}
            texts = {"units": progress.units, "attrs": progress.attrs}
            put_npz(self._record(self._n_records), known, {"crc32": checksums, "place": place, "refused": new, **texts})
        except OSError as error:
            raise OSError(
                error.errno, f"cannot write it: {error.strerror or error}; its first {self.n_stars} spectra stay in "
                f"{self._folder}, and the same command goes on from there", str(self._path),
            ) from error  # fmt: skip
        self._n_records += 1
        self._checksums |= checksums
        self.n_stars += len(rows)
        self.progress = progress

    def stars(self) -> Spectra:
        """All but flux and ivar: spectra without pixels."""
        records = [read_npz(self._record(number))[0] for number in range(self._n_records)]
        sizes = [len(record["star_id"]) for record in records]

        def kind(mark: str) -> list[dict[str, np.ndarray]]:
            return [{key.removeprefix(mark): one[key] for key in one if key.startswith(mark)} for one in records]

        nothing = np.empty((self.n_stars, 0))
        return Spectra(
            nothing, nothing, star_id=np.concatenate([record["star_id"] for record in records]),
            labels=union(kind(_LABEL), sizes, np.nan), identifiers=union(kind(_TEXT), sizes, ""),
            **about(self.progress.units, self.progress.attrs),
        )  # fmt: skip

    def finish(self, stars: Spectra, *, overwrite: bool) -> None:
        """Add what is known of the stars, and put the store in its place.

        Parameters
        ----------
        stars
            Spectra without pixels, with the attributes of the store.
        overwrite
            Replace a store that exists.

        """
        for part in self._store.iterdir():  # Of a run that was killed here.
            if part.is_dir() and part.name not in _ARRAYS:
                shutil.rmtree(part)
        dataset = to_dataset(stars).drop_vars(_ARRAYS).assign_coords(wavelength=("pixel", self.plan.wavelength))
        dataset["wavelength"].attrs["units"] = ANGSTROM
        if (correlation := self.progress.correlation.mean) is not None:
            dataset["noise_correlation"] = ("pixel", "other_pixel"), correlation
        rows = self.plan.shard_size * -(-_STARS // self.plan.shard_size)
        for variable in dataset.variables.values():
            no_fill = {"_FillValue": None} if variable.dtype == float else {}
            by_shards = {"chunks": (rows, *variable.shape[1:])} if variable.dims[:1] == ("star",) else {}
            variable.encoding = {"compressors": checked_codecs(), **no_fill, **by_shards}
        dataset.to_zarr(self._store, mode="a", consolidated=False, zarr_format=3, write_empty_chunks=True)
        for name in _ARRAYS:
            if unit := stars.units.get(name):
                self._root[name].attrs["units"] = unit
        seal_store(self._store, known=self._checksums)
        if self._path.suffix.lower() == ".zarr":
            put_in_place(self._store, check_output_path(self._path, overwrite=overwrite), self._folder / "old")
        else:
            write_spectra(self._path, read_spectra_file(self._store), overwrite=overwrite)
        (self._folder / _PLAN).unlink()
        shutil.rmtree(self._folder)

    def _record(self, number: int) -> Path:
        return self._folder / f"{number:06d}.npz"

    def _take_up_record(self) -> bool:
        """Count the next shard as written if it is whole."""
        try:
            arrays, found = read_npz(self._record(self._n_records))
        except UNREADABLE:  # There is none, or it was being written when the computer stopped.
            return False
        checksums = found["crc32"]
        if any(
            not (self._store / file).is_file() or crc32(self._store / file) != checksums[file] for file in checksums
        ):
            return False
        refused = {**self.progress.refused, **found["refused"]}
        correlation = MeanCorrelation()
        if _CORRELATION in arrays:
            correlation = MeanCorrelation(arrays[_CORRELATION], int(arrays[f"{_CORRELATION} of"]))
        self.progress = Progress(
            **found["place"], units=found["units"], attrs=found["attrs"], correlation=correlation, refused=refused
        )
        self._checksums |= checksums
        self._n_records += 1
        self.n_stars += len(arrays["star_id"])
        return True

    def _drop_the_rest(self) -> None:
        """Remove what the next shards will write anew, and what was being written."""
        for number in count(self._n_records):
            if not self._record(number).is_file():
                break
            self._record(number).unlink()
        for file in [*self._folder.glob("partial-*"), *self._store.rglob("*")]:
            name = file.relative_to(self._store).as_posix() if file.is_relative_to(self._store) else ""
            if file.is_file() and name not in self._checksums:
                file.unlink()

    def _make_array(self, name: str) -> None:
        """An array of as many spectra as are written."""
        n_pixels, size = self.plan.wavelength.size, self.plan.shard_size
        scale = self.plan.scale if name == "flux" else self.plan.scale**-2
        attributes = {} if scale == 1 else {"scale_factor": scale}
        self._root.create_array(
            name, shape=(self.n_stars, n_pixels), chunks=(_chunk(size, n_pixels), n_pixels), shards=(size, n_pixels),
            dtype="float32", fill_value=0.0, dimension_names=("star", "pixel"), compressors=spectra_codecs(),
            attributes=attributes,
        )  # fmt: skip

    def _write_arrays(self, rows: Rows) -> dict[str, str]:
        """Checksums of the files of a shard."""
        import zarr  # An extra.

        checksums, end = {}, self.n_stars + len(rows)
        for name in _ARRAYS:
            with zarr.config.set({"array.write_empty_chunks": True}):
                array = self._root[name]
                array.resize((end, self.plan.wavelength.size))
                array[self.n_stars :] = getattr(rows, name)
            file = f"{name}/c/{self.n_stars // self.plan.shard_size}/0"
            checksums[file] = crc32(self._store / file)
        return checksums


def _chunk(shard_size: int, n_pixels: int) -> int:
    """Spectra that are compressed together: the largest divisor of a shard that keeps to `_CHUNK_NUMBERS`."""
    most = min(max(_CHUNK_NUMBERS // n_pixels, 1), shard_size)
    return next(size for size in range(most, 0, -1) if shard_size % size == 0)
