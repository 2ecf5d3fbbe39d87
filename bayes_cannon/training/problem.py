r"""The training problem, and its solution: the input and the output of every solver.

For each pixel j, minimize over theta_j and s_j^2 >= 0 (Casey et al. 2016, equation 2)

.. math:: \sum_n w_n (y_n - v_n \cdot \theta)^2 - \sum_n \ln w_n + \Lambda \sum_{d \ge 1} |\theta_d|, \qquad
          w_n = \frac{\mathrm{ivar}_n}{1 + \mathrm{ivar}_n\, s^2}

with ``lower <= theta <= upper``. A censored term has both bounds zero. Stars with ``ivar = 0`` are ignored.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np

from bayes_cannon.core.status import PixelStatus
from bayes_cannon.core.terms import Terms

Progress = Callable[[int], object]
"""Called with the number of pixels or stars finished since the last call."""


@dataclass(frozen=True)
class PixelProblem:
    """The training problem of P pixels.

    Attributes
    ----------
    terms
        Terms at the scaled labels of the training stars; the first is the constant.
    flux, ivar
        Shape (star, pixel). Flux is finite wherever ivar is positive.
    regularization
        Lambda of each pixel, shape (pixel,).
    lower, upper
        Bounds on theta, shape (pixel, term), infinite where there are none.
    covariance
        Of the noise of each star, shape (star, pixel, pixel), whose diagonal is one over ivar; None where the survey
        gives none. Only scatter that is made for it looks at it (`scatter.Given`).

    """

    terms: Terms
    flux: np.ndarray
    ivar: np.ndarray
    regularization: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    covariance: np.ndarray | None = None

    @classmethod
    def unbounded(
        cls, terms: Terms, flux: np.ndarray, ivar: np.ndarray, regularization: np.ndarray | float = 0.0
    ) -> "PixelProblem":
        """The problem without bounds or censoring."""
        n_pixels, n_terms = flux.shape[1], terms.n_terms
        limit = np.full((n_pixels, n_terms), np.inf)
        lam = np.broadcast_to(np.asarray(regularization, dtype=float), (n_pixels,))
        return cls(terms, np.asarray(flux, float), np.asarray(ivar, float), lam, -limit, limit)

    @property
    def design(self) -> np.ndarray:
        """Design matrix, shape (star, term)."""
        return self.terms.design

    @property
    def n_stars(self) -> int:
        """Number of stars N."""
        return len(self.flux)

    @property
    def n_pixels(self) -> int:
        """Number of pixels P."""
        return int(self.flux.shape[1])

    @property
    def free(self) -> np.ndarray:
        """Whether a term may vary, shape (pixel, term)."""
        return self.lower < self.upper

    def at(self, pixels: slice | np.ndarray) -> "PixelProblem":
        """The problem of some of the pixels, without covariances, which are of all."""
        return replace(
            self,
            flux=self.flux[:, pixels],
            ivar=self.ivar[:, pixels],
            regularization=self.regularization[pixels],
            lower=self.lower[pixels],
            upper=self.upper[pixels],
            covariance=None,
        )

    def of_stars(self, stars: np.ndarray) -> "PixelProblem":
        """The problem with some of the stars."""
        covariance = None if self.covariance is None else self.covariance[stars]
        terms, flux, ivar = self.terms.of_stars(stars), self.flux[stars], self.ivar[stars]
        return replace(self, terms=terms, flux=flux, ivar=ivar, covariance=covariance)

    def unsolvable(self, regularization: np.ndarray | None = None) -> np.ndarray:
        """Status of pixels that have no solution, and ``CONVERGED`` for the others, shape (pixel,).

        With ``regularization``, of shape (..., pixel), for those strengths in place of its own, in that shape.
        """
        regularization = self.regularization if regularization is None else regularization
        n_stars = (self.ivar > 0).sum(axis=0)
        n_free = self.free.sum(axis=1)
        status = np.full(regularization.shape, PixelStatus.CONVERGED, dtype=int)
        status[(n_stars < n_free) & (regularization == 0)] = PixelStatus.TOO_FEW_STARS
        status[..., n_stars == 0] = PixelStatus.NO_INFORMATION
        return status


@dataclass(frozen=True)
class PixelSolution:
    """The optimum of P pixels and its certificate.

    Attributes
    ----------
    theta
        Coefficients, shape (pixel, term); NaN where the status says that there is no solution.
    s2
        Variance of the intrinsic scatter, shape (pixel,), flux squared; infinite where there is no solution.
    objective
        The training scalar at (theta, s2), shape (pixel,).
    duality_gap
        Upper bound on how far the scalar at this s2 is above its minimum over theta, relative to
        ``sum w r^2 + Lambda |theta|_1``, shape (pixel,).
    profile_gradient
        Derivative of the scalar by s2 over the sum of the weights, ``sum w (1 - w r^2) / sum w``, dimensionless,
        shape (pixel,). Zero at an interior optimum, not negative at s2 = 0.
    iterations
        Number of iterations of the algorithm, shape (pixel,).
    n_minima
        Number of local minima of the profile in s2 that the solver saw, shape (pixel,); 0 where it does not look for
        them.
    margin
        How far the second lowest minimum is above the objective, shape (pixel,): infinite where there is none, NaN
        where it was not looked for. A small one means that the data hardly decide between the two.
    status
        `PixelStatus` of each pixel, shape (pixel,).
    messages
        Message of the optimizer for each pixel, shape (pixel,), or empty texts.

    """

    theta: np.ndarray
    s2: np.ndarray
    objective: np.ndarray
    duality_gap: np.ndarray
    profile_gradient: np.ndarray
    iterations: np.ndarray
    n_minima: np.ndarray
    margin: np.ndarray
    status: np.ndarray
    messages: np.ndarray

    @classmethod
    def empty(cls, n_pixels: int, n_terms: int) -> "PixelSolution":
        """No solution for any pixel."""
        nan = np.full(n_pixels, np.nan)
        return cls(
            theta=np.full((n_pixels, n_terms), np.nan),
            s2=np.full(n_pixels, np.inf),
            objective=nan.copy(),
            duality_gap=nan.copy(),
            profile_gradient=nan.copy(),
            iterations=np.zeros(n_pixels, dtype=int),
            n_minima=np.zeros(n_pixels, dtype=int),
            margin=nan.copy(),
            status=np.full(n_pixels, PixelStatus.NO_INFORMATION, dtype=int),
            messages=np.full(n_pixels, "", dtype=object),
        )

    def part(self, pixels: slice) -> "PixelSolution":
        """The solution of some pixels; its arrays are views of these."""
        return PixelSolution(*(getattr(self, field.name)[pixels] for field in fields(self)))
