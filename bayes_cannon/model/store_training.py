"""Training from a store of spectra that does not fit the memory, a block of pixels after the other.

Pixels are independent, so that the optimum of each is that of a training in memory. A finished block is a file in the
scratch folder, and so is what the blocks are read from where the plan transposes; what is not there is missing, and a
training that was broken off goes on with that. What training keeps besides, the fit of some stars that others are
compared with and the hash of the training set, comes from a second pass over the stars.
"""

import json
import logging
import pickle
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from bayes_cannon.core.progress import ProgressOption, reporter
from bayes_cannon.core.terms import Terms
from bayes_cannon.execution.events import Event
from bayes_cannon.execution.shards import Executor, SerialExecutor, Work, run_shards
from bayes_cannon.io.damage import UNREADABLE
from bayes_cannon.io.model_file import array_hash, hash_of_parts, training_set_hash
from bayes_cannon.io.npz import put_npz, read_npz
from bayes_cannon.io.pixel_blocks import PixelBlocks, StarRows
from bayes_cannon.labelling.goodness import GoodnessOfFit
from bayes_cannon.labelling.trained import TrainedModel
from bayes_cannon.labelling.training_fit import compared_stars, goodness_in_parts
from bayes_cannon.model.store_plan import TrainingPlan
from bayes_cannon.training.problem import PixelProblem, PixelSolution
from bayes_cannon.training.train import correct_scatter, train

Listener = Callable[[Event], object] | None
_BLOCKS, _SHA = "pixels.zarr", "training_set_sha256"
_STARS_AT_ONCE = 48
"""Stars whose fit is compared: a multiple of `labelling.training_fit.STARS_AT_ONCE`, so that sums are the same."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class StoreTraining:
    """A training from a store: all that any of its tasks needs, so that another process can do one.

    Attributes
    ----------
    rows
        The training spectra.
    labels
        Of the stars, shape (star, label), for the hash of the training set.
    plan
        How it goes.
    scratch
        Folder of what is finished.
    terms, regularization, lower, upper
        As in `training.problem.PixelProblem`, of all pixels.
    op_method, op_kwds, dof_correction
        As for `CannonModel.train`.
    start
        Theta (pixel, term) and s2 (pixel,) to start from, or nothing.

    """

    rows: StarRows
    labels: np.ndarray
    plan: TrainingPlan
    scratch: Path
    terms: Terms
    regularization: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    op_method: str | None
    op_kwds: Mapping[str, Any] | None
    dof_correction: bool
    start: Mapping[str, np.ndarray]

    def run(
        self,
        executor: Executor | None = None,
        *,
        progress: ProgressOption = None,
        listen: Listener = None,
    ) -> tuple[PixelSolution, str]:
        """The solution of all pixels, and the hash of the training set.

        Raises ValueError if the scratch folder has what belongs to another training, or is too small, or for a block
        that stays undone, and the error of such a block if it is one of the spectra or of the disk.
        """
        _log.info("training from %s: %s", self.rows.store.path, self.plan)
        self.solutions.mkdir(parents=True, exist_ok=True)
        with SerialExecutor() if executor is None else nullcontext(executor) as where:
            try:
                where.check([str(self.rows.store.path), str(self.solutions)], version("bayes-cannon"))
            except Exception:
                with suppress(OSError):  # What was finished before stays.
                    self.solutions.rmdir()
                raise
            self.make_blocks(where, listen, progress=progress)
            unfinished = [number for number in range(self.plan.n_blocks) if not self._is_finished(number)]
            before = self.plan.n_pixels - sum(self._size(number) for number in unfinished)
            with reporter(progress, self.plan.n_pixels, "pixel", "train", before=before) as report:
                self.finish(_Blocks(self), unfinished, where, report, listen)
        found = [read_npz(self._path(number)) for number in range(self.plan.n_blocks)]
        names = [field.name for field in fields(PixelSolution)]
        solution = {name: np.concatenate([arrays[name] for arrays, _ in found]) for name in names}
        solution["messages"] = solution["messages"].astype(object)
        return PixelSolution(**solution), found[0][1]["training_set"].get(_SHA) or self.hash()

    def read(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Flux and ivar of a block of pixels."""
        return self.read_pixels(self.plan.pixels(number))

    def read_pixels(self, pixels: slice) -> tuple[np.ndarray, np.ndarray]:
        """Flux and ivar of some of the pixels."""
        if self.plan.transposes:
            return self._blocks.read(pixels)
        return self.rows.filled(slice(None), pixels, np.dtype(self.plan.dtype), checked=pixels.start == 0)

    def solve(self, number: int, spectra: tuple[np.ndarray, np.ndarray]) -> int:
        """Train a block of pixels and write its solution; returns how many they are."""
        pixels = self.plan.pixels(number)
        flux, ivar = spectra
        problem = PixelProblem(
            self.terms, flux, ivar, self.regularization[pixels], self.lower[pixels], self.upper[pixels]
        )
        started: dict[str, Any] = {name: values[pixels] for name, values in self.start.items()}
        solution = train(
            problem, op_method=self.op_method, op_kwds=self.op_kwds, max_memory=float(self.plan.solver_memory),
            part_of=self.plan.n_pixels if self.plan.n_blocks > 1 else 0,
            **started,
        )  # fmt: skip
        if self.dof_correction:
            solution = correct_scatter(problem, solution)
        arrays = {field.name: getattr(solution, field.name) for field in fields(solution)}
        arrays["messages"] = arrays["messages"].astype(str)
        of_all = {_SHA: training_set_hash(self.labels, flux, ivar)} if self.plan.n_blocks == 1 else {}
        put_npz(self._path(number), arrays, {"training_set": of_all})
        return self._size(number)

    def make_blocks(
        self, executor: Executor | None = None, listen: Listener = None, *, progress: ProgressOption = None
    ) -> None:
        """Write what is missing of the scratch store, if the plan has one."""
        if not self.plan.transposes:
            return
        missing = self._missing_batches()
        stars = [self._blocks.stars(batch) for batch in missing]
        left = sum(some.stop - some.start for some in stars)
        bar = progress is True  # A function of the caller's counts pixels.
        with (
            SerialExecutor() if executor is None else nullcontext(executor) as where,
            reporter(bar, left, "star", "put the pixels of all stars together") as report,
        ):
            self.finish(_Batches(self), missing, where, report, listen)

    def copy(self, batch: int, spectra: tuple[np.ndarray, np.ndarray]) -> int:
        """Write a batch of stars into the scratch store; returns how many they are."""
        self._blocks.write(batch, *spectra)
        return len(spectra[0])

    def read_batch(self, batch: int) -> tuple[np.ndarray, np.ndarray]:
        """Flux and ivar of a batch of stars."""
        return self.rows.filled(self._blocks.stars(batch), slice(None), np.dtype(self.plan.dtype))

    def goodness(self, trained: TrainedModel) -> GoodnessOfFit:
        """How well some of the training stars fit, as `labelling.training_fit.training_goodness` has it."""
        chosen = compared_stars(len(self.labels))
        some = (chosen[first : first + _STARS_AT_ONCE] for first in range(0, len(chosen), _STARS_AT_ONCE))
        pixels, dtype = slice(0, self.plan.n_pixels), np.dtype(float)
        parts = ((stars, *self.rows.filled(stars, pixels, dtype, checked=False)) for stars in some)
        return goodness_in_parts(trained, parts)

    def tidy(self, *, keep_blocks: bool) -> None:
        """Remove what is finished, and, unless it is to be kept, the scratch store with its folder."""
        shutil.rmtree(self.solutions)
        self.tidy_blocks(keep=keep_blocks)

    def tidy_blocks(self, *, keep: bool) -> None:
        """Remove the scratch store with its folder, unless it is to be kept."""
        if not keep:
            self._blocks.remove()
        with suppress(OSError):  # Something else is in it.
            self.scratch.rmdir()

    @property
    def _blocks(self) -> PixelBlocks:
        plan = self.plan
        return PixelBlocks(self.scratch / _BLOCKS, plan.n_stars, plan.n_pixels, plan.batch, plan.block, plan.dtype)

    @property
    def _made_of(self) -> dict[str, str]:
        """What the spectra of the blocks depend on."""
        store, preparation = self.rows.store, self.rows.preparation
        return {
            "store": str(store.path.resolve()),
            "files": store.sha256,
            "stars": array_hash(self.rows.stars),
            "preparation": "" if preparation is None else preparation.to_text(),
        }

    @cached_property
    def solutions(self) -> Path:
        """Folder of the finished blocks, with a name of what they depend on."""
        arrays = array_hash(
            self.terms.x, self.terms.exponents, self.regularization, self.lower, self.upper, *self.start.values()
        )
        options = [self.op_method, dict(self.op_kwds or {}), self.dof_correction, self.plan.block, self.plan.dtype]
        return self.scratch / f"solution-{_digest([self._made_of, arrays, list(self.start), repr(options)])}"

    def _path(self, number: int) -> Path:
        return self.solutions / f"{number:06d}.npz"

    def _size(self, number: int) -> int:
        pixels = self.plan.pixels(number)
        return pixels.stop - pixels.start

    def _is_finished(self, number: int) -> bool:
        """Whether the file of a block is there and whole."""
        try:
            read_npz(self._path(number))
        except UNREADABLE:
            return False
        return True

    def _missing_batches(self) -> list[int]:
        """What is missing of the scratch store, for which there is room."""
        blocks = self._blocks
        blocks.make(self._made_of)
        missing = blocks.missing()
        needed = self.plan.bytes_written * len(missing) // max(blocks.batches, 1)
        free = shutil.disk_usage(self.scratch).free
        if needed > free:
            raise ValueError(
                f"the scratch store {blocks.path} needs {needed / 1e9:.3g} GB more, and its disk has "
                f"{free / 1e9:.3g} GB: choose another folder with scratch=, or allow more memory"
            )
        return missing

    def finish(
        self, work: Work, numbers: Sequence[int], where: Executor, report: Callable[[int], object], listen: Listener,
        what: str = "training",
    ) -> None:  # fmt: skip
        """Do these, and raise the first error that stayed."""
        if not numbers:
            return
        for number, error in run_shards(work, numbers, where, listen=listen, report=report).failed.items():
            if isinstance(error, OSError) and error.errno and error.filename is None:  # Of writing, as on a full disk.
                raise OSError(
                    error.errno, f"cannot write part {number} of the {what}: {error.strerror}; what is finished "
                    "stays, and the same call goes on", str(self.scratch),
                ) from error  # fmt: skip
            if isinstance(error, OSError | ValueError | TypeError):
                raise error
            raise ValueError(
                f"part {number} of the {what} from {self.rows.store.path} could not be done: {error}. What is "
                f"finished stays in {self.scratch}; the same call tries the rest again"
            ) from error

    def hash(self) -> str:
        """SHA-256 of the training set, from passes over the stars: all flux stands before all ivar."""
        shape = self.plan.n_stars, self.plan.n_pixels

        def parts(name: str) -> Iterator[np.ndarray]:
            if self.plan.transposes:
                return (self._blocks.rows(name, self._blocks.stars(batch)) for batch in range(self._blocks.batches))
            return (part[name == "ivar"] for part in self.rows.parts(checked=False))

        return hash_of_parts([(self.labels.shape, [self.labels]), (shape, parts("flux")), (shape, parts("ivar"))])


@dataclass(frozen=True)
class _Blocks:
    """The work on blocks of pixels, one of which is what `execution.shards` calls a shard.

    Another process gets the name of a file with the training, which it reads once.
    """

    training: StoreTraining
    read_from: Path | None = None

    @cached_property
    def file(self) -> Path:
        """The file, beside the solutions. Where this came from it, it is not written again."""
        return self.read_from or work_file(self.training.solutions, "training", self.training)

    def read(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Flux and ivar of a block."""
        return self.training.read(number)

    def compute(self, number: int, given: tuple[np.ndarray, np.ndarray]) -> int:
        """Train it."""
        return self.training.solve(number, given)

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened, (type(self), self.file)


class _Batches(_Blocks):
    """The work on batches of stars that are written to the scratch store."""

    def read(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Flux and ivar of a batch."""
        return self.training.read_batch(number)

    def compute(self, number: int, given: tuple[np.ndarray, np.ndarray]) -> int:
        """Write it."""
        return self.training.copy(number, given)


def _opened(kind: type[_Blocks], file: Path) -> _Blocks:
    return kind(read_work(file), file)


def work_file(folder: Path, name: str, content: object) -> Path:
    """A file with what other processes need of some work, which is known by its content."""
    written = pickle.dumps(content)
    path = folder / f"{name}-{sha256(written).hexdigest()[:16]}.pickle"
    partial = path.with_suffix(".partial")
    partial.write_bytes(written)
    partial.replace(path)
    return path


@lru_cache(maxsize=1)
def read_work(file: Path) -> Any:
    """What `work_file` wrote, read once in a process."""
    return pickle.loads(file.read_bytes())  # noqa: S301 - the process that sent the work wrote it


def _digest(content: object) -> str:
    return sha256(json.dumps(content, sort_keys=True, default=dict).encode()).hexdigest()[:16]
