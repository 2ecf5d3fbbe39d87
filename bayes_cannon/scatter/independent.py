"""Scatter of each pixel by itself: the published model (Ness et al. 2015; Casey et al. 2016)."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from bayes_cannon.core.typing import Array, PerStar, StarPixel
from bayes_cannon.scatter.base import Coefficients, LearnedScatter, NoiseParts, PartsOfStar, Scatter
from bayes_cannon.scatter.label_tables import Chi2, LabelTables, Response, log_det_of_weights, row_products
from bayes_cannon.scatter.low_rank import DiagonalAndFactors, LowRankScatter
from bayes_cannon.training.problem import PixelProblem, PixelSolution


@dataclass(frozen=True)
class Independent(Scatter):
    """Scatter that is independent from pixel to pixel, ``diag(s^2)``.

    Examples
    --------
    >>> tc.scatter.Independent()
    Independent()

    """

    def fit(
        self, problem: PixelProblem, start: PixelSolution, previous: LearnedScatter | None = None
    ) -> tuple[PixelSolution, LearnedScatter]:
        """The start, which is the optimum already."""
        return start, IndependentScatter()

    def __str__(self) -> str:
        return "independent"


@dataclass(frozen=True)
class IndependentScatter(LearnedScatter):
    """Independent scatter: all of it is s2."""

    is_correlated: ClassVar[bool] = False

    def log_likelihood(self, problem: PixelProblem, solution: Coefficients) -> np.ndarray:
        """As `LearnedScatter.log_likelihood`."""
        return LowRankScatter(np.zeros((problem.n_pixels, 1))).log_likelihood(problem, solution)

    def marginal_variance(self, problem: PixelProblem, s2: np.ndarray) -> np.ndarray:
        """s2."""
        return s2

    def total_variance(self, s2: np.ndarray, ivar: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """``s2 + 1 / ivar``."""
        return s2[pixels] + 1.0 / ivar

    def label_tables(self, response: Response) -> "IndependentTables":
        """No table but the response."""
        return IndependentTables()

    def split_theta_covariance(self, covariance: np.ndarray, gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All of it is each pixel's own."""
        return covariance, np.zeros_like(gram)

    def noise_parts(self, s2: np.ndarray) -> PartsOfStar:
        """As `LearnedScatter.noise_parts`."""

        def parts(used: np.ndarray, ivar: np.ndarray, of_theta: np.ndarray, h: float) -> NoiseParts:
            return DiagonalAndFactors.of_star(1.0 / ivar, s2[used], of_theta, np.zeros((len(used), 0)), h)

        return parts


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class IndependentTables(LabelTables):
    """The covariance of a star is diagonal, ``W^-1``."""

    def chi_squared(self, response: Response, w: StarPixel, y: StarPixel, growth: PerStar) -> Chi2:
        """As `LabelTables.chi_squared`."""
        return Chi2(_chi_squared(response, w, y), None)

    def compare(self, root: None, w: StarPixel, residual: StarPixel) -> tuple[PerStar, StarPixel]:
        """As `LabelTables.compare`."""
        return _compare(w, residual)

    def log_det(self, root: None, w: StarPixel) -> PerStar:
        """As `LabelTables.log_det`."""
        return log_det_of_weights(w)

    def theta_weights(self, w: StarPixel, growth: PerStar, used: Array) -> tuple[StarPixel, PerStar]:
        """The weights, and nothing shared."""
        return w, jnp.zeros(len(w))


@jax.jit
def _chi_squared(response: Response, w: StarPixel, y: StarPixel) -> Array:
    return response.chi_squared(w, y)


@jax.jit
def _compare(w: StarPixel, residual: StarPixel) -> tuple[Array, Array]:
    weighted = jax.lax.optimization_barrier(w * residual)
    return row_products(weighted, residual), weighted
