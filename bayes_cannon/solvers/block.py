"""A block of pixels on the device, and the training set that all blocks share."""

import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayes_cannon.core.typing import Array
from bayes_cannon.solvers.problem import PixelProblem

_ALIGNMENT = 64
"""Bytes."""
_AHEAD = 2
"""So many blocks a core are worked on, or wait to be taken."""


class Training(NamedTuple):
    """The training set.

    Attributes
    ----------
    design
        Terms of each star, shape (star, term).
    moments, single
        Distinct products of two terms, shape (star, moment), in float64 and in float32.
    pairs
        Index of the moment that two terms multiply to, shape (term, term).

    """

    design: Array
    moments: Array
    single: Array
    pairs: Array


class Pixels(NamedTuple):
    """A block of pixels; under vmap, one of them.

    Attributes
    ----------
    flux, ivar
        Shape (pixel, star), so that sums over stars run along memory; flux may be NaN where ivar is zero.
    regularization
        Lambda, shape (pixel,).
    lower, upper
        Bounds on theta, shape (pixel, term).

    """

    flux: Array
    ivar: Array
    regularization: Array
    lower: Array
    upper: Array

    @property
    def lam(self) -> Array:
        """Half of Lambda for every term but the constant: what a lasso on the Gram matrix needs."""
        penalized = jnp.arange(self.lower.shape[-1]) > 0
        return 0.5 * jnp.where(penalized, self.regularization[..., None], 0.0)


def padded_size(n: int) -> int:
    """A length for n stars or pixels, at most an eighth more, so that similar sets share a compiled program."""
    step = 2 ** max(3, n.bit_length() - 4)
    return -(-n // step) * step


def padded_stars(array: np.ndarray) -> np.ndarray:
    """Rows of zeros added up to `padded_size`: stars with ivar zero, which take no part."""
    return np.pad(array, ((0, padded_size(len(array)) - len(array)), (0, 0)))


def pixel_block(problem: PixelProblem, pixels: np.ndarray, size: int) -> Pixels:
    """The data of some pixels, repeated up to the fixed size so that no other shape is ever compiled."""
    contiguous = len(pixels) == size and bool((np.diff(pixels) == 1).all())
    index = slice(pixels[0], pixels[-1] + 1) if contiguous else np.resize(pixels, size)
    n_stars = len(problem.flux)
    flux, ivar = _aligned_zeros(2, size, padded_size(n_stars))
    flux[:, :n_stars] = problem.flux[:, index].T
    ivar[:, :n_stars] = problem.ivar[:, index].T
    return Pixels(flux, ivar, problem.regularization[index], problem.lower[index], problem.upper[index])


def _aligned_zeros(*shape: int) -> np.ndarray:
    """Zeros that begin where XLA wants an array to, so that a compiled program reads them in place."""
    n, each = math.prod(shape), np.dtype(float).itemsize
    room = np.zeros(n + _ALIGNMENT // each)
    first = -room.ctypes.data % _ALIGNMENT // each
    return room[first : first + n].reshape(shape)


def known_flux(pixel: Pixels) -> tuple[Array, Array]:
    """Which stars count, and their flux with zero for the others, shape (star,) each."""
    known = pixel.ivar > 0
    return known, jnp.where(known, pixel.flux, 0.0)


def gram_matrix(training: Training, moment_sums: Array) -> jax.Array:
    """Gram matrix (..., term, term) from weighted sums of the moments, shape (..., moment)."""
    # Indices of one axis, known to be right: the matrix is then made in half the time, in the layout that is read next.
    return jnp.take(moment_sums, training.pairs.ravel(), axis=-1, mode="clip").reshape(
        *moment_sums.shape[:-1], *training.pairs.shape
    )


def n_threads() -> int:
    """Blocks that are computed at a time: one more than cores, so that none idles while Python has a block."""
    return (os.cpu_count() or 1) + 1


def in_parallel[S, T](work: Callable[[S], T], blocks: Iterator[S]) -> Iterator[T]:
    """Results of the blocks, in order, on `n_threads`. JAX compiles a program once, whichever threads wait for it.

    Results that nobody has taken yet are few, so that what is large need not be held for all blocks at once.
    """
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(n_threads()) as pool:
        try:
            for block in blocks:
                waiting.append(pool.submit(work, block))
                if len(waiting) > _AHEAD * n_threads():
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
