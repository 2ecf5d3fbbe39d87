r"""Labels with a covariance that is the same for all stars, but for its scale: the pixel side of the test step.

Chi^2 stays one polynomial of the labels. With the Cholesky factor :math:`C = L L^T`, h = L^-1 y and H = L^-1 Theta,

.. math:: (y - \Theta v)^T C^{-1} (y - \Theta v) = |h - H v|^2

H is the same for every complete spectrum, so that such a star costs one product of its flux with L^-1. Pixels b that
are missing, or have a variance E of their own beside the covariance, are taken out of that again,

.. math:: (C + E)^{-1} = C^{-1} - C^{-1}_{\cdot b} \left( C^{-1}_{bb} + E_b^{-1} \right)^{-1} C^{-1}_{b \cdot}

where :math:`E_b^{-1}` of a missing one is zero, and its flux that of the model. Where they are many the covariance of
the others is factored instead, their rows and columns being those of the identity, so that shapes stay fixed. Both are
exact.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import cholesky, solve_triangular

from bayes_cannon.core.typing import Array, PerStar, StarMoment, StarPixel
from bayes_cannon.scatter.label_tables import Chi2, LabelTables, Response, with_square
from bayes_cannon.scatter.usable_pixels import largest_variance, noise_levels

MASKED_TOGETHER = 8
"""Number of spectra with missing pixels that run in one program, whose shapes stay fixed."""
MANY = 4
"""All pixels over those that a star misses, up to which the covariance of the others is factored."""
solve_lower, cho_solve = jax.scipy.linalg.solve_triangular, jax.scipy.linalg.cho_solve


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StarNoise:
    """How the covariance of a star depends on its quoted noise: the fields of `CommonCovariance` of these names."""

    quoted: Array
    own: Array
    constant: Array | float
    slope: Array | float

    @classmethod
    def none(cls, n_pixels: int) -> "StarNoise":
        """It does not."""
        return cls(np.full(n_pixels, np.inf), np.zeros(n_pixels), 1.0, 0.0)


class Grown(NamedTuple):
    """Root of a batch: what the covariance of each star is multiplied by, (star,), and what is added, (star, pixel)."""

    scale: PerStar
    factor: PerStar
    extra: StarPixel


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CovarianceTables(LabelTables):
    """Tables of the covariance. Make it with `from_covariance`.

    Attributes
    ----------
    covariance
        C, shape (pixel, pixel); that of the identity at pixels without solution.
    whitening
        ``L^-1``, shape (pixel, pixel).
    whitened
        ``L^-1`` times the coefficients, with zero for the constant, shape (pixel, term).
    precision, pulled
        ``C^-1``, shape (pixel, pixel), and that times these coefficients, shape (pixel, term).
    solved
        Whether a pixel has a solution, shape (pixel,).
    n_leading, typical, floor
        Number of leading directions; squares along one, and across them, in units of their variances.
    leading_log_det
        ``ln det C`` along the leading directions, in units of the usual noise.
    noise
        How the quoted noise of a star enters.

    """

    covariance: Array
    whitening: Array
    whitened: Array
    precision: Array
    pulled: Array
    solved: Array
    n_leading: Array | int
    typical: Array | float
    floor: Array | float
    leading_log_det: Array | float
    noise: StarNoise

    @classmethod
    def from_covariance(
        cls, covariance: np.ndarray, response: Response, n_leading: int, *, typical: float, floor: float,
        leading_log_det: float, noise: StarNoise,
    ) -> "CovarianceTables":  # fmt: skip
        """Tables of C, shape (pixel, pixel).

        Raises ValueError if C is not positive definite at the pixels with a solution.
        """
        solved = np.asarray(response.solved)
        known = np.where(np.outer(solved, solved), covariance, np.eye(len(solved)))
        try:
            root = cholesky(known, lower=True)
        except np.linalg.LinAlgError as error:
            raise ValueError(
                "the covariance of the scatter is not positive definite: train again, with a larger shrinkage"
            ) from error
        whitening = solve_triangular(root, np.eye(len(solved)), lower=True)
        whitened = whitening @ np.asarray(response.theta)
        precision, pulled = whitening.T @ whitening, whitening.T @ whitened
        return cls(
            known, whitening, whitened, precision, pulled, solved, n_leading, typical, floor, leading_log_det, noise
        )  # fmt: skip

    def chi_squared(self, response: Response, w: StarPixel, y: StarPixel, growth: PerStar) -> Chi2:
        """As `LabelTables.chi_squared`; of the weights counts what `StarNoise` says, and which are zero."""
        used = np.asarray(w) > 0
        scale, extra = (np.asarray(array) for array in _star_noise(self.noise, w))
        out = np.array(_complete_chi_squared(self, response, y))
        for rows, taken in self._special(used, extra):
            if taken is None:
                out[rows] = _masked_chi_squared(self, response, used[rows], extra[rows], np.asarray(y)[rows])
            else:
                out[rows] -= _surplus(self, response, taken, np.asarray(y)[rows])
        factor = scale + np.asarray(growth) - 1
        return Chi2(out / factor[:, None], Grown(scale, factor, extra))

    def grown(self, response: Response, before: Chi2, w: StarPixel, y: StarPixel, growth: PerStar) -> Chi2:
        """The covariance grows as a whole, so that nothing is factored again."""
        scale, old, extra = before.root
        factor = scale + growth - 1
        return Chi2(before.coefficients * (old / factor)[:, None], Grown(scale, factor, extra))

    def compare(self, root: Grown, w: StarPixel, residual: StarPixel) -> tuple[PerStar, StarPixel]:
        """As `LabelTables.compare`, over the pixels with a weight."""
        used, extra = np.asarray(w) > 0, np.asarray(root.extra)
        residual = np.where(used, residual, 0.0)
        weighted = np.array(_complete_solution(self, residual))
        for rows, taken in self._special(used, extra):
            if taken is None:
                weighted[rows] = _masked_solution(self, used[rows], extra[rows], residual[rows])
            else:
                weighted[rows] = np.where(used[rows], _reduced_solution(self, taken, weighted[rows]), 0.0)
        weighted /= np.asarray(root.factor)[:, None]
        return np.einsum("np,np->n", weighted, residual), weighted

    def n_tail(self, used: Array) -> Array:
        """What chi^2 typically is: the leading directions count, all others as far as residuals fill their noise."""
        return expected_square(used, self.n_leading, self.typical, self.floor)

    def log_det(self, root: Grown, w: StarPixel) -> PerStar:
        """As `LabelTables.log_det`: along the leading directions; across them the noise is that of all parts.

        Pixels that a star misses make the same difference to all parts, nearly, and do not count.
        """
        return self.leading_log_det + self.n_leading * jnp.log(root.scale)

    def star_scale(self, root: Grown, w: StarPixel) -> PerStar:
        """As `LabelTables.star_scale`."""
        return root.scale

    def theta_weights(self, w: StarPixel, growth: PerStar, used: Array) -> tuple[StarPixel, PerStar]:
        """As `LabelTables.theta_weights`: all of it is shared, and S is C."""
        scale, _ = _star_noise(self.noise, w)
        return jnp.zeros_like(w), self.n_tail(used) / (scale + growth - 1)

    def _special(self, used: np.ndarray, extra: np.ndarray) -> Iterator[tuple[np.ndarray, "Taken | None"]]:
        """Stars with a covariance of their own, a fixed number at a time, the last repeated, and what is taken out.

        They miss some pixels, but not all, or have numbers with a huge error. None where these are many.
        """
        special = (used != np.asarray(self.solved)) | (extra > 0)
        count = np.where(used.any(axis=1), special.sum(axis=1), 0)
        stars = np.argsort(count, kind="stable")[np.sum(count == 0) :]
        for first in range(0, len(stars), MASKED_TOGETHER):
            part = stars[first : first + MASKED_TOGETHER]
            rows = np.pad(part, (0, MASKED_TOGETHER - len(part)), mode="edge")
            most = int(count[part[-1]])
            yield rows, None if most * MANY > used.shape[1] else Taken.of(special[rows], used[rows], extra[rows], most)


class Taken(NamedTuple):
    """Index of the pixels that are taken out of complete spectra, (star, some), and one over their own variance.

    The index is beyond the last pixel, and the other one, where a star has fewer.
    """

    at: np.ndarray
    inverse: np.ndarray

    @classmethod
    def of(cls, special: np.ndarray, used: np.ndarray, extra: np.ndarray, most: int) -> "Taken":
        """Of some stars, whose special pixels are at most so many; by powers of two, so that few programs are made."""
        at = np.argsort(~special, axis=1, kind="stable")[:, : 1 << max(most - 1, 7).bit_length()]
        here, known = (np.take_along_axis(array, at, axis=1) for array in (special, used))
        own = np.take_along_axis(extra, at, axis=1)
        inverse = np.where(known & here, 1 / np.where(own > 0, own, 1.0), 0.0)
        return cls(np.where(here, at, special.shape[1]), np.where(here, inverse, 1.0))


def expected_square(used: Array | int, n_leading: Array | int, typical: Array | float, floor: Array | float) -> Array:
    """Typical chi^2 of this number of pixels, from squares along and across the leading directions."""
    along = (jnp if isinstance(used, jax.Array) else np).minimum(used, n_leading)
    return typical * along + floor * (used - along)


@jax.jit
def _star_noise(noise: StarNoise, w: StarPixel) -> tuple[PerStar, StarPixel]:
    """Scale of each star, and the variance beyond the usual of each number over it, from the weights."""
    known = w > 0
    # Weights are 1 / (1 / ivar + own).
    ivar = jnp.where(known, w / jnp.maximum(1 - w * noise.own, 1e-12), 0.0)
    quoted = jnp.where(jnp.isfinite(noise.quoted), noise.quoted, 1.0)
    levels = noise_levels(ivar, quoted)
    scale = noise.constant + noise.slope * levels
    beyond = 1 / jnp.where(known, ivar, 1.0) - largest_variance(levels, quoted)
    extra = jnp.where(known & jnp.isfinite(noise.quoted), jnp.maximum(beyond, 0.0), 0.0)
    return scale, extra / scale[:, None]


@jax.jit
def _complete_chi_squared(tables: CovarianceTables, response: Response, y: StarPixel) -> StarMoment:
    h = y @ tables.whitening.T
    squares = jnp.broadcast_to(tables.whitened.T @ tables.whitened, (len(y), *response.pairs.shape))
    zero = jnp.zeros((len(y), len(response.products)))
    return with_square(zero, response, jnp.einsum("np,np->n", h, h), h @ tables.whitened, squares)


@jax.jit
def _masked_chi_squared(
    tables: CovarianceTables, response: Response, used: Array, extra: StarPixel, y: StarPixel
) -> StarMoment:
    def one(star: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        used, extra, y = star
        right = jnp.column_stack([y, jnp.where(used[:, None], response.theta, 0.0)])
        return _products(solve_lower(_masked_root(tables, used, extra), right, lower=True))

    zero = jnp.zeros((len(y), len(response.products)))
    return with_square(zero, response, *jax.lax.map(one, (used, extra, y)))


@jax.jit
def _surplus(tables: CovarianceTables, response: Response, taken: Taken, y: StarPixel) -> StarMoment:
    """What the pixels that are taken out have of `_complete_chi_squared`."""

    def one(star: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        at, inverse, pulled = star
        right = jnp.column_stack([_at(pulled, at), _at(tables.pulled, at)])
        return _products(solve_lower(_taken_root(tables, at, inverse), right, lower=True))

    zero = jnp.zeros((len(y), len(response.products)))
    return with_square(zero, response, *jax.lax.map(one, (*taken, y @ tables.precision)))


@jax.jit
def _reduced_solution(tables: CovarianceTables, taken: Taken, weighted: StarPixel) -> Array:
    """``C^-1 r`` of complete spectra without the pixels that are taken out."""

    def one(star: tuple[Array, Array, Array]) -> jax.Array:
        at, inverse, weighted = star
        inner = cho_solve((_taken_root(tables, at, inverse), True), _at(weighted, at))
        return jnp.asarray(weighted - inner @ _at(tables.precision, at))

    return jax.lax.map(one, (*taken, weighted))


def _products(half: Array) -> tuple[Array, Array, Array]:
    """``|h|^2``, ``H'h`` and ``H'H`` from h and H side by side, shape (pixel, 1 + term)."""
    h, of_terms = half[:, 0], half[:, 1:]
    return h @ h, h @ of_terms, of_terms.T @ of_terms


def _taken_root(tables: CovarianceTables, at: Array, inverse: Array) -> jax.Array:
    inner = jnp.asarray(tables.precision).at[at[:, None], at].get(mode="fill", fill_value=0.0)
    return jnp.linalg.cholesky(inner + jnp.diag(inverse))


def _at(array: Array, at: Array) -> jax.Array:
    """Rows of the array, zero beyond the last."""
    return jnp.asarray(array).at[at].get(mode="fill", fill_value=0.0)


@jax.jit
def _complete_solution(tables: CovarianceTables, residual: StarPixel) -> Array:
    return residual @ tables.whitening.T @ tables.whitening


@jax.jit
def _masked_solution(tables: CovarianceTables, used: Array, extra: StarPixel, residual: StarPixel) -> Array:
    def one(star: tuple[Array, Array, Array]) -> jax.Array:
        return jnp.asarray(cho_solve((_masked_root(tables, *star[:2]), True), star[2]))

    return jax.lax.map(one, (used, extra, residual))


def _masked_root(tables: CovarianceTables, used: Array, extra: Array) -> jax.Array:
    """Cholesky factor for one star, of the covariance of its used pixels with their own noise, else the identity."""
    both = used[:, None] & used[None, :]
    return jnp.linalg.cholesky(jnp.where(both, tables.covariance + jnp.diag(extra), jnp.eye(len(used))))
