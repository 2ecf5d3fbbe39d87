"""A block of pixels on the device, and the training set that all blocks share."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bayes_cannon.core.typing import Array, PerPixels, PixelsStar, PixelsTerm, StarMoment, StarTerm, TermTermInt
from bayes_cannon.core.vectorizer import monomials
from bayes_cannon.execution.devices import NUMBERS_ON_GPU, by_device, is_cpu
from bayes_cannon.training.problem import PixelProblem
from bayes_cannon.training.profile.settings import SETTINGS

_ALIGNMENT = 64
"""Bytes."""
_STARS_AT_A_TIME = 4096
"""Number of stars whose monomials are computed at once, in float64 whatever the final dtype."""


class Training(NamedTuple):
    """The training set.

    Attributes
    ----------
    design
        Terms of each star, shape (star, term).
    single
        Distinct products of two terms in float32, shape (star, moment). Few pixels need those in float64, which for
        many terms take most of the memory: they are a separate argument.
    pairs
        Index of the moment that two terms multiply to, shape (term, term).

    """

    design: StarTerm
    single: StarMoment
    pairs: TermTermInt


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

    flux: PixelsStar
    ivar: PixelsStar
    regularization: PerPixels
    lower: PixelsTerm
    upper: PixelsTerm

    @property
    def lam(self) -> Array:
        """Half of Lambda for every term except the constant, as the lasso on the Gram matrix takes it."""
        penalized = jnp.arange(self.lower.shape[-1]) > 0
        return 0.5 * jnp.where(penalized, self.regularization[..., None], 0.0)


def padded_size(n: int) -> int:
    """A length for n stars or pixels, at most an eighth more, so that similar sets share a compiled program."""
    step = 1 << max(3, n.bit_length() - 4)
    return -(-n // step) * step


def block_size(n_stars: int, n_terms: int, n_pixels: int) -> int:
    """Number of pixels in a block for which the programs run fast."""
    rows = padded_size(n_stars)
    # On a GPU the Gram matrices are to fit, too.
    fast = by_device(SETTINGS.numbers_per_block // rows, NUMBERS_ON_GPU // max(rows, n_terms**2))
    return min(max(fast, SETTINGS.smallest_block), padded_size(n_pixels))


def padded_monomials(x: np.ndarray, exponents: np.ndarray, dtype: type[np.floating] = np.float64) -> Array:
    """Monomials of each star, shape (star, monomial), on the device.

    Rows of zeros up to `padded_size` are stars with ivar zero, which take no part.
    """
    values = _aligned_zeros(padded_size(len(x)), len(exponents), dtype=dtype)
    for first in range(0, len(x), _STARS_AT_A_TIME):
        some = x[first : first + _STARS_AT_A_TIME]
        values[first : first + len(some)] = monomials(some, exponents)
    placed: Array = jax.device_put(values)
    return placed


def pixel_block(problem: PixelProblem, pixels: np.ndarray, size: int) -> Pixels:
    """The data of some pixels, repeated up to the given size, so that all blocks share the compiled programs."""
    contiguous = len(pixels) == size and bool((np.diff(pixels) == 1).all())
    index = slice(pixels[0], pixels[-1] + 1) if contiguous else np.resize(pixels, size)
    rows = padded_size(len(problem.flux))
    turned = _turned if is_cpu() else _turned_on_device
    flux, ivar = turned(problem.flux[:, index], problem.ivar[:, index], rows)
    return Pixels(flux, ivar, problem.regularization[index], problem.lower[index], problem.upper[index])


def _turned(flux: np.ndarray, ivar: np.ndarray, rows: int) -> np.ndarray:
    """Both (star, pixel) as float64 of shape (2, pixel, rows), with zeros for the stars that there are not.

    In one array, because two of half the size take four times as long to fill.
    """
    out = _aligned_zeros(2, flux.shape[1], rows)
    out[0, :, : len(flux)], out[1, :, : len(ivar)] = flux.T, ivar.T
    return out


@partial(jax.jit, static_argnames="rows")
def _turned_on_device(flux: Array, ivar: Array, rows: int) -> list[Array]:
    """As `_turned`, by a device that does it faster than they come, in the precision in which they are kept."""
    return [jnp.pad(a.T.astype(jnp.float64), [(0, 0), (0, rows - len(a))]) for a in (flux, ivar)]


def _aligned_zeros(*shape: int, dtype: type[np.floating] = np.float64) -> np.ndarray:
    """Zeros, aligned in memory so that XLA reads them in place."""
    n, each = math.prod(shape), np.dtype(dtype).itemsize
    room = np.zeros(n + _ALIGNMENT // each, dtype)
    first = -room.ctypes.data % _ALIGNMENT // each
    return room[first : first + n].reshape(shape)


def known_flux(pixel: Pixels) -> tuple[Array, Array]:
    """Which stars count, and their flux with zero for the others, shape (star,) each."""
    known = pixel.ivar > 0
    return known, jnp.where(known, pixel.flux, 0.0)


def gram_matrix(training: Training, moment_sums: Array) -> jax.Array:
    """Gram matrix (..., term, term) from weighted sums of the moments, shape (..., moment)."""
    # Unchecked indices of a single axis take half the time, and give the layout that is read next.
    return jnp.take(moment_sums, training.pairs.ravel(), axis=-1, mode="clip").reshape(
        *moment_sums.shape[:-1], *training.pairs.shape
    )
