"""How a training from a store will go, decided before it starts: blocks, bytes, memory, and whether it transposes."""

import math
from dataclasses import dataclass

import numpy as np

from bayes_cannon.core.terms import Terms
from bayes_cannon.execution.memory import PROCESS, memory_limit
from bayes_cannon.io.spectra_store import SpectraStore
from bayes_cannon.training.profile.blocks import block_size
from bayes_cannon.training.profile.solver import working_memory

WINDOW_BYTES, PREPARED_BYTES = 64, 160
"""For each number of a window while it is read, and while it is prepared too."""
_SHARE_OF_WINDOW, _SHARE_OF_BATCH = 16, 8
"""One over the largest part of the memory that each may take."""
UNKNOWN_MEMORY = 4_000_000_000
"""Bytes that are used where the system does not say what there is."""


@dataclass(frozen=True)
class TrainingPlan:
    """How a training from a store goes.

    Attributes
    ----------
    n_stars, n_pixels
        Of the training set.
    block
        Pixels that are trained at a time; the last may have fewer.
    batch, window
        Stars that are written to the scratch store at a time, and rows of the store that are read at a time.
    dtype
        Type of the spectra of a block: float32 where that holds them exactly.
    transposes
        Whether all spectra are first written to a scratch store by blocks of pixels.
    reason
        Why, with the numbers.
    bytes_read, bytes_written
        Bytes of flux and ivar, as they are decoded, that are read from the store and from the scratch store, and that
        are written. Not counted are some stars that are read once more, whose fit others are compared with.
    solver_memory
        Bytes that the solver works with.
    peak_memory
        Bytes of the process at its largest, a projection.
    memory
        The limit, bytes.

    """

    n_stars: int
    n_pixels: int
    block: int
    batch: int
    window: int
    dtype: str
    transposes: bool
    reason: str
    bytes_read: int
    bytes_written: int
    solver_memory: int
    peak_memory: int
    memory: int

    @property
    def n_blocks(self) -> int:
        """Number of blocks of pixels."""
        return -(-self.n_pixels // self.block)

    def pixels(self, number: int) -> slice:
        """The pixels of a block."""
        return slice(number * self.block, min((number + 1) * self.block, self.n_pixels))

    def __str__(self) -> str:
        blocks = f"{self.n_blocks} blocks of {self.block} pixels" if self.n_blocks > 1 else "one block"
        how = "through a scratch store of blocks of pixels" if self.transposes else "without a scratch store"
        return (
            f"{self.n_stars} stars x {self.n_pixels} pixels in {blocks}, {how}: {self.reason}. It reads "
            f"{_size(self.bytes_read)} and writes {_size(self.bytes_written)}; memory {_size(self.peak_memory)} of "
            f"{_size(self.memory)}"
        )


def usable_memory() -> int:
    """Half of the bytes of memory that this process may use: that of the computer, or of its container."""
    limit = memory_limit()
    return int(limit) // 2 if math.isfinite(limit) else UNKNOWN_MEMORY


def plan_training(
    store: SpectraStore, stars: np.ndarray, terms: Terms, *, n_pixels: int, prepares: bool, single: bool, memory: int
) -> TrainingPlan:
    """Plan a training of so many pixels.

    Parameters
    ----------
    store
        The store.
    stars
        Its rows that train, ascending, shape (star,).
    terms
        Their terms.
    n_pixels
        Pixels after the preparation.
    prepares
        Whether spectra are prepared, for which all pixels of a star are needed.
    single
        Whether blocks are held in float32.
    memory
        Limit, bytes.

    Raises
    ------
    ValueError
        If the memory is too small, with the numbers.

    """
    n_stars, item = terms.n_stars, 4 if single else 8
    width, of_pixel = max(store.n_pixels, n_pixels), n_stars * 2 * item
    of_row = width * (PREPARED_BYTES if prepares else WINDOW_BYTES)
    window = _multiple(memory // _SHARE_OF_WINDOW // of_row, store.chunks[0], store.shard_size)
    shared, each = working_memory(terms)
    at_once = block_size(n_stars, terms.n_terms, n_pixels)  # Pixels that the solver works on, some of them repeated.
    inner = min(at_once, n_pixels)
    solver, mask = shared + at_once * each, n_stars  # Which stars have a pixel takes a byte for each.
    fixed = PROCESS + window * of_row + solver
    together = memory - fixed >= n_pixels * (of_pixel + mask)
    held = 1 if together else 2  # One is read while the other is trained.
    most = min((memory - fixed) // (held * of_pixel + mask), n_pixels)
    batch = _multiple(memory // _SHARE_OF_BATCH // (2 * width * item), window, max(window, store.shard_size))
    batch = min(batch, n_stars)
    copying = PROCESS + window * of_row + 2 * batch * 2 * width * item
    if most < inner or (copying > memory and not together):
        raise ValueError(
            f"a memory of {_size(memory)} is too small for {n_stars} stars of {width} pixels: at least "
            f"{_size(max(copying, fixed + inner * (held * of_pixel + mask)))} are needed, of which the process takes "
            f"{_size(PROCESS)}, the solver {_size(solver)}, {window} spectra that are read at once "
            f"{_size(window * of_row)} and {held} x {inner} pixels "
            f"{_size(held * inner * of_pixel)}. Allow more, or train on fewer stars"
        )
    block = most if together else _even(n_pixels, most, inner)
    whole, once = n_pixels * of_pixel, _bytes_by_pixels(store, stars, store.n_pixels, store.n_pixels)
    direct = once * -(-n_pixels // block) if prepares else _bytes_by_pixels(store, stars, n_pixels, block)
    transposes = not together and direct > once + 2 * whole
    hashing = 0 if together else 2 * whole if transposes else 2 * once
    reason = (
        f"reading blocks of pixels from the store decodes {_size(direct)}, reading it once and writing and reading "
        f"such blocks moves {_size(once + 2 * whole)}"
    )
    peak = fixed + block * (held * of_pixel + mask)
    return TrainingPlan(
        n_stars, n_pixels, block, batch, window, "float32" if single else "float64", transposes,
        "all of it fits the memory" if together else reason,
        (once + whole if transposes else direct) + hashing, whole if transposes else 0, solver,
        max(peak, copying) if transposes else peak, memory,
    )  # fmt: skip


def _even(n: int, most: int, step: int) -> int:
    """Size of blocks of about equal size: a multiple of the step, at most this."""
    size = -(-n // -(-n // (most // step * step)))
    return min(-(-size // step) * step, n)


def _multiple(wanted: int, step: int, most: int) -> int:
    """The largest multiple of a step up to what is wanted, at least one step, and at most this."""
    return min(max(wanted // step, 1) * step, most)


def _bytes_by_pixels(store: SpectraStore, stars: np.ndarray, n_pixels: int, block: int) -> int:
    """Bytes of flux and ivar that are decoded to read these pixels of some stars, a block after the other."""
    deep, wide = store.chunks
    chunks = np.unique(stars // deep)
    rows = np.minimum((chunks + 1) * deep, store.n_stars) - chunks * deep
    columns = sum(
        min(-(-min(first + block, n_pixels) // wide) * wide, store.n_pixels) - first // wide * wide
        for first in range(0, n_pixels, block)
    )
    return int(rows.sum()) * columns * 2 * (4 if store.single else 8)


def _size(n: float) -> str:
    """Bytes for people."""
    return f"{n / 1e9:.3g} GB" if n >= 1e9 else f"{n / 1e6:.3g} MB"
