"""What every kind of scatter can do: the one that is asked for, and the one that training learned.

A kind is made of two classes in a file of its own: a `Scatter`, which a user sets, and a `LearnedScatter`, which its
`Scatter.fit` returns. Both are frozen dataclasses of numbers and arrays, found again by the name of the class in
`FAMILIES` and `LEARNED`; the field of an array names its axes, ``field(metadata={"dims": ("pixel", "factor")})``, so
that model files can hold any kind. Nothing outside its file needs to know of a kind.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Protocol

import numpy as np

from bayes_cannon.core.status import PixelStatus
from bayes_cannon.core.student_t import SMALLEST_NU
from bayes_cannon.core.typing import Array, PerStar, StarLabel
from bayes_cannon.scatter.label_tables import LabelTables, Response
from bayes_cannon.scatter.star_scale import label_factor
from bayes_cannon.training.problem import PixelProblem, PixelSolution
from bayes_cannon.training.train import TrainingWarning, train

FAMILIES: "dict[str, type[Scatter]]" = {}
"""Every class of scatter that may be asked for, by its name."""
LEARNED: "dict[str, type[LearnedScatter]]" = {}
"""Every class of learned scatter, by its name."""


FEWEST_SHARE = 0.1
"""Share in a part of the stars from which on a star counts, where stars have no weights: parts overlap."""


class Coefficients(Protocol):
    """What has theta, shape (pixel, term), and s2, shape (pixel,): a solution or a trained model."""

    @property
    def theta(self) -> np.ndarray:
        """Coefficients; NaN at pixels without solution."""

    @property
    def s2(self) -> np.ndarray:
        """Variance of the scatter of each pixel by itself; infinite at pixels without solution."""


class NoiseParts(Protocol):
    """Noise of one star's spectrum as four independent parts: photon, scatter, correlated and theta."""

    def solved(self, right: np.ndarray) -> np.ndarray:
        """``C^-1 right`` with the sum C of the parts, for columns of shape (pixel, column)."""

    def weights(self) -> tuple[np.ndarray, float]:
        """What `LabelTables.theta_weights` gives: the diagonal, shape (pixel,), and the weight of the common part."""

    def variances(self, gain: np.ndarray) -> np.ndarray:
        """Diagonal of ``G C_i G'`` of each part, shape (part, label), for G of shape (label, pixel)."""


PartsOfStar = Callable[[np.ndarray, np.ndarray, np.ndarray, float], NoiseParts]
"""From used pixels (index), and ivar and ``v' Sigma_j v`` there, shape (pixel,), and h, to the parts of the noise."""


@dataclass(frozen=True)
class PartSolution:
    """Optimum of a part of the stars.

    Attributes
    ----------
    theta, s2
        Shape (pixel, term) and (pixel,); NaN and infinite at pixels that took no part.
    learned
        The scatter.
    theta_covariance
        A of theta's covariance, shape (term, term), where it is the same for all pixels but for that of the scatter
        (`scatter.conjugate_training`), and errors of theta have no part in the scatter; None elsewhere.

    """

    theta: np.ndarray
    s2: np.ndarray
    learned: "LearnedScatter"
    theta_covariance: np.ndarray | None


def independent_part(problem: PixelProblem, share: PerStar, learned: "LearnedScatter") -> PartSolution:
    """As `Scatter.fit_part`, for independent scatter."""
    solution = train(problem.of_stars(np.asarray(share) >= FEWEST_SHARE))
    return PartSolution(solution.theta, solution.s2, learned, None)


class Scatter(ABC):
    """A kind of scatter and its settings, as asked for: a frozen dataclass, whose text describes it in tables."""

    def __init_subclass__(cls) -> None:
        FAMILIES[cls.__name__] = cls

    def check(self, problem: PixelProblem) -> None:  # noqa: B027 - most kinds have nothing to check
        """Raise ValueError, before anything is trained, if this kind cannot be learned from these spectra."""

    @abstractmethod
    def fit(
        self, problem: PixelProblem, start: PixelSolution, previous: "LearnedScatter | None" = None
    ) -> "tuple[PixelSolution, LearnedScatter]":
        """Maximum likelihood of theta, s2 and the scatter together.

        Parameters
        ----------
        problem
            The pixels.
        start
            Optimum of the independent model (`training.train`), or, with ``previous``, the solution that it belongs to.
        previous
            Learned scatter to start from; ignored where `continues` is False.

        Returns
        -------
        solution
            The joint optimum. Its certificates are those of the joint likelihood: ``duality_gap`` is the square of the
            largest gain that a change of one coefficient would bring, in units of the training scalar; ``objective``
            and ``profile_gradient`` are not defined for one pixel, and are NaN.
        learned
            The scatter.

        Raises
        ------
        ValueError
            If there are too few stars or pixels, or spectra are incomplete where they have to be complete.

        """

    def common_ground(self, problem: PixelProblem) -> Any:
        """What parts of the stars need of all of them, so that densities of a spectrum by several parts compare.

        None, as a rule: densities are of the same pixels.
        """
        return None

    def fit_part(self, problem: PixelProblem, share: PerStar, ground: Any) -> "PartSolution":
        """Theta, s2 and the scatter of a part of the stars.

        Parameters
        ----------
        problem
            All stars.
        share
            By how much each belongs to the part, from 0 to 1, shape (star,). Stars with at least `FEWEST_SHARE` count,
            all alike, unless this kind can weight them.
        ground
            What `common_ground` returned.

        """
        part = problem.of_stars(np.asarray(share) >= FEWEST_SHARE)
        self.check(part)
        solution, learned = self.fit(part, train(part))
        return PartSolution(solution.theta, solution.s2, learned, None)

    def continues(self, previous: "LearnedScatter") -> bool:
        """Whether `fit` saves work if it starts from this scatter."""
        return False


class LearnedScatter(ABC):
    """Scatter as training learned it: a frozen dataclass.

    Attributes
    ----------
    nu
        Degrees of freedom of the Student-t distribution of a spectrum; infinite where it is normal.
    factors
        Factors in flux, shape (pixel, factor), the strongest first; None where there are none.
    theta_included
        1 + h of the stars that it was learned from: what errors of theta added to their scatter, where they had no
        part in theta. One where it holds no errors of theta.
    label_variance
        Variance of the labels of stars that had no part in it, over what their likelihood says.
    label_scale
        The beta, shape (label,), of the factor ``exp(beta . x)`` by which the covariance of a spectrum depends on the
        scaled labels; None where it does not. The methods that know no labels leave the factor out.

    """

    nu: float = np.inf
    factors: np.ndarray | None = None
    theta_included: float = 1.0
    label_variance: float = 1.0
    label_scale: np.ndarray | None = None
    is_correlated: ClassVar[bool] = True
    """Whether pixels share anything; where they do not, s2 is all the scatter of a pixel."""

    def __init_subclass__(cls) -> None:
        LEARNED[cls.__name__] = cls

    @property
    def hit_bound(self) -> bool:
        """Whether the degrees of freedom ended at their lower bound."""
        return self.nu <= 1.01 * SMALLEST_NU

    def check(self, n_pixels: int) -> None:  # noqa: B027 - independent scatter has nothing to check
        """Raise ValueError unless it is the scatter of this number of pixels."""

    def label_factor(self, x: StarLabel) -> PerStar:
        """What the covariance of spectra is multiplied by at these scaled labels, shape (star,)."""
        return label_factor(self.label_scale, x)

    # Training spectra.

    @abstractmethod
    def log_likelihood(self, problem: PixelProblem, solution: Coefficients) -> np.ndarray:
        """Log density of each star's spectrum given its labels, shape (star,).

        The same pixels count for every kind of scatter, so that densities compare.
        """

    def star_precisions(self, problem: PixelProblem, solution: Coefficients) -> np.ndarray | None:
        """Posterior mean of tau, by which heavy tails, and labels, divide a star's variances, shape (star,).

        None if nothing does.
        """
        return None

    def cautions(self, problem: PixelProblem, solution: Coefficients) -> list[str]:
        """What a user should know of this scatter after training, one text each; see `warn_of_scatter`."""
        if not self.hit_bound:
            return []
        text = (
            f"the degrees of freedom ended at their lower bound, {SMALLEST_NU}: the noise differs from star to star by "
            "more than heavy tails explain. Scale ivar, raise the rank or leave heavy_tails out"
        )
        return [text]

    def latent_factors(self, problem: PixelProblem, solution: Coefficients) -> np.ndarray:
        """Posterior mean of each star's coordinates along the factors, dimensionless, shape (star, factor).

        Raises ValueError where there are no factors.
        """
        raise ValueError("the model has no latent factors: set scatter=LowRank(rank) and train")

    def typical_square(self, n_pixels: int) -> float:
        """Chi^2 that a spectrum of this number of pixels typically has where the model holds."""
        return float(n_pixels)

    # One pixel at a time.

    @abstractmethod
    def marginal_variance(self, problem: PixelProblem, s2: np.ndarray) -> np.ndarray:
        """Variance of a pixel's scatter, including what it shares with others, without the quoted noise of the training
        spectra, shape (pixel,); infinite where s2 is.
        """

    @abstractmethod
    def total_variance(self, s2: np.ndarray, ivar: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """Variance of the flux about the model, noise included, shape (star, chosen pixel).

        Parameters
        ----------
        s2
            Of all pixels, shape (pixel,).
        ivar
            Of the chosen pixels, shape (star, chosen pixel).
        pixels
            Indices of the chosen pixels.

        """

    def variance_shares(self, s2: np.ndarray) -> np.ndarray:
        """Share of each factor in the variance of the scatter, summed over the pixels, shape (factor,)."""
        return np.zeros(0)

    # Labels.

    @abstractmethod
    def label_tables(self, response: Response) -> LabelTables:
        """What the compiled test step needs of the scatter, a JAX pytree of NumPy arrays."""

    @abstractmethod
    def split_theta_covariance(self, covariance: np.ndarray, gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        r"""Theta's covariance as :math:`\delta_{jk} \Sigma_j + C_{jk} A`, see `labelling.theta_errors`.

        Parameters
        ----------
        covariance
            Of each pixel's theta, shape (pixel, term, term); zero where it is known.
        gram
            ``V' V`` of the training stars, shape (term, term).

        Returns
        -------
        own, common
            Sigma, shape (pixel, term, term), and A, shape (term, term).

        """

    @abstractmethod
    def noise_parts(self, s2: np.ndarray) -> PartsOfStar:
        """The parts of the noise of any star, for the error budget; s2 of all pixels, shape (pixel,)."""


def array_dims(record: Any) -> dict[str, tuple[str, ...]]:
    """Axes of each array of a dataclass, or its class, by the name of the field; all other fields are scalars."""
    return {field.name: tuple(field.metadata["dims"]) for field in fields(record) if "dims" in field.metadata}


def joint_solution(
    start: PixelSolution, theta: np.ndarray, s2: np.ndarray, *, gain: np.ndarray, rounds: int, converged: bool
) -> PixelSolution:
    """The solution with theta and s2 that all pixels gave together.

    ``gain`` is the largest change that one coefficient alone would make, in units of the root of the training scalar,
    shape (pixel,).
    """
    undefined, solved = np.full(len(s2), np.nan), np.isfinite(s2)
    status = np.where(solved & (not converged), PixelStatus.MAX_ITERATIONS, start.status)
    return replace(
        start, theta=theta, s2=s2, objective=undefined, duality_gap=gain**2, profile_gradient=undefined.copy(),
        iterations=np.where(solved, rounds, 0), n_minima=np.zeros(len(s2), int), margin=undefined.copy(), status=status,
    )  # fmt: skip


def warn_of_scatter(problem: PixelProblem, solution: Coefficients, learned: LearnedScatter) -> None:
    """Emit the `LearnedScatter.cautions` as warnings."""
    for text in learned.cautions(problem, solution):
        warnings.warn(text, TrainingWarning, stacklevel=3)


def mean_quoted_variance(ivar: Array) -> np.ndarray:
    """Mean of 1 / ivar over the stars that have a pixel, shape (pixel,); zero for pixels that none has."""
    known = ivar > 0
    return np.where(known, 1.0 / np.where(known, ivar, 1.0), 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
