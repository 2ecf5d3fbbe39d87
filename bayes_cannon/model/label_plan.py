"""What it takes to label a store of spectra, from shapes alone: said before anything runs."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bayes_cannon.execution.memory import PROCESS
from bayes_cannon.labelling.fit import ELEMENTS_PER_BATCH, TABLE_PER_BATCH
from bayes_cannon.model.any_model import AnyModel, tables_size, trained_models

READING, HELD, PREPARING = 44, 16, 32
"""Bytes a pixel and star: while a shard is read (what is stored, float64, and the copies that unpacking makes), of the
flux and ivar of one that was read, and more while the spectra of one are prepared."""
READING_SINGLE, HELD_SINGLE = 16, 8
"""The same of spectra that stay in the float32 of their store."""
BATCH_ARRAYS, BATCHES = 10, 3
"""Arrays of the size of a batch that labelling holds, and batches at a time."""
TEXT = 16
"""Bytes that a text is counted with."""


@dataclass(frozen=True)
class LabelPlan:
    """The shards of a store of spectra, and what each needs.

    Attributes
    ----------
    n_stars, n_pixels, shard_size
        Of the spectra.
    bytes_read, bytes_written
        Of each shard, before compression, shape (shard,).
    missing
        Numbers of the shards whose labels are not written yet.
    model_memory
        Bytes of the tables of the model.
    fixed_memory
        Bytes of a worker that do not depend on the shards: the process, the model and the batches.
    memory_per_star
        Bytes of a worker for each star of a shard.

    """

    n_stars: int
    n_pixels: int
    shard_size: int
    bytes_read: np.ndarray
    bytes_written: np.ndarray
    missing: tuple[int, ...]
    model_memory: int
    fixed_memory: int
    memory_per_star: int

    @property
    def memory(self) -> int:
        """Projected peak memory of a worker in bytes."""
        return self.fixed_memory + self.memory_per_star * min(self.shard_size, self.n_stars)

    def largest_shard(self, available: float) -> int:
        """Stars of a shard that would fit; 0 if none do."""
        return max(int((available - self.fixed_memory) // self.memory_per_star), 0)

    def check(self, available: float) -> None:
        """Raise ValueError, with what is needed, available, and would fit, if a worker has too little memory."""
        if self.memory <= available:
            return
        fitting = self.largest_shard(available)
        remedy = (
            f"shards of up to {fitting} spectra would fit: write the store anew with --shard-size {fitting} "
            f"(ingest(..., shard_size={fitting})), or give workers more memory"
            if fitting
            else f"no shard would fit, as {self.fixed_memory / 1e9:.3g} GB are needed without one: give workers more"
        )
        raise ValueError(
            f"a worker needs {self.memory / 1e9:.3g} GB for shards of {self.shard_size} spectra of {self.n_pixels} "
            f"pixels, and has {available / 1e9:.3g} GB; {remedy}"
        )


def label_plan(
    model: AnyModel, n_stars: int, shard_size: int, *, pixel_bytes: int, missing: list[int],
    empty: Mapping[str, np.ndarray], reads_ahead: bool, prepares: bool, single: bool,
) -> LabelPlan:  # fmt: skip
    """The plan for a store of spectra.

    Parameters
    ----------
    model
        A trained model.
    n_stars, shard_size, pixel_bytes
        Of the store.
    missing
        Numbers of the shards that are to be done.
    empty
        Arrays that are written, without stars, by name.
    reads_ahead
        Whether a process reads one shard while it computes another.
    prepares
        Whether the spectra are prepared before they are labelled.
    single
        Whether the store holds them in float32, in which they stay unless they are prepared.

    """
    models = trained_models(model)
    n_pixels, tables = models[0].n_pixels, tables_size(model)
    sizes = np.minimum(shard_size, n_stars - shard_size * np.arange(-(-n_stars // shard_size)))
    elements = max(ELEMENTS_PER_BATCH, *(one.terms.moments.n_moments * n_pixels // TABLE_PER_BATCH for one in models))
    row = sum(TEXT if one.dtype.kind in "OUT" else one.itemsize * int(np.prod(one.shape[1:])) for one in empty.values())
    reading, held = (READING_SINGLE, HELD_SINGLE) if single and not prepares else (READING, HELD)
    computing = held + (PREPARING if prepares else 0)
    pixel = reading + computing if reads_ahead else max(reading, computing)
    return LabelPlan(
        n_stars=n_stars, n_pixels=n_pixels, shard_size=shard_size, bytes_read=sizes * n_pixels * pixel_bytes,
        bytes_written=sizes * row, missing=tuple(missing), model_memory=tables,
        fixed_memory=PROCESS + 2 * tables + 8 * BATCH_ARRAYS * BATCHES * elements,
        memory_per_star=n_pixels * pixel + 2 * row,
    )  # fmt: skip
