"""Full covariance of the scatter, learned from the residuals of complete spectra."""

from dataclasses import dataclass

import numpy as np

from bayes_cannon.core.typing import PerStar
from bayes_cannon.scatter.base import LearnedScatter, PartSolution, Scatter, joint_solution
from bayes_cannon.scatter.common_design import is_free
from bayes_cannon.scatter.conjugate_training import Directions, leading_directions, train_part
from bayes_cannon.scatter.full_training import check_shrinkage_and_share, check_stars, train_full
from bayes_cannon.training.problem import PixelProblem, PixelSolution

LEAST_WEIGHT = 0.02
"""Weight of a star in a part of the stars below which it does not count."""


@dataclass(frozen=True)
class Full(Scatter):
    r"""Full covariance of the scatter, the same for all stars, for spectra of up to a few thousand pixels.

    It is meant for pixels that are correlated by construction, such as sampled Gaia XP spectra, and for spectra
    without quoted noise. The quoted noise of a star scales its covariance, as far as training stars of different noise
    show that it does; with heavy tails its chi^2 does so, too. Numbers whose quoted noise is several times what is
    usual at that pixel and for that star are as good as missing. Otherwise training spectra must be complete; spectra
    to be labelled need not be. The scale of the covariance is the one that gives labels of held-out training stars
    their scatter. See `scatter.full_training`.

    Attributes
    ----------
    shrinkage
        a in :math:`(1 - a) S + a\, \mathrm{diag}(S)`, from 0 to 1; None to choose it by the labels of held-out
        training stars.
    heavy_tails
        Whether spectra follow a multivariate Student-t distribution, whose degrees of freedom are fitted.
    share
        Directions in which residuals have less than this share of the quoted noise variance get the quoted noise.
    label_scale
        Whether the covariance of a star has a factor :math:`e^{\beta \cdot x}` that depends on its scaled labels x,
        such as a model that fits cool stars worse than hot ones needs. Beta is zero unless it gains more likelihood
        of stars that had no part in the covariance than it has parameters (`scatter.star_scale`).

    Raises
    ------
    ValueError
        If the shrinkage is not from 0 to 1, or the share negative or not finite.

    Examples
    --------
    >>> tc.scatter.Full(heavy_tails=True)
    Full(shrinkage=None, heavy_tails=True, share=0.05)

    """

    shrinkage: float | None = None
    heavy_tails: bool = False
    share: float = 0.05
    label_scale: bool = False

    def __repr__(self) -> str:
        """As a dataclass has it, without ``label_scale`` where that is off, as files know it."""
        label_scale = ", label_scale=True" if self.label_scale else ""
        return f"Full(shrinkage={self.shrinkage}, heavy_tails={self.heavy_tails}, share={self.share}{label_scale})"

    def __post_init__(self) -> None:
        check_shrinkage_and_share(self.shrinkage, self.share)

    def check(self, problem: PixelProblem) -> None:
        """Raise ValueError if there are too few stars."""
        check_stars(*problem.design.shape)

    def fit(
        self, problem: PixelProblem, start: PixelSolution, previous: LearnedScatter | None = None
    ) -> tuple[PixelSolution, LearnedScatter]:
        """As `Scatter.fit`; nothing is taken from ``previous``."""
        fit = train_full(problem, start.theta, start.s2, self)
        solution = joint_solution(
            start, fit.theta, fit.s2, gain=fit.gradient, rounds=fit.rounds, converged=fit.converged
        )  # fmt: skip
        return solution, fit.learned

    def common_ground(self, problem: PixelProblem) -> Directions:
        """Directions in which the residuals of all stars have more than the share of the quoted noise."""
        return leading_directions(problem, self.share)

    def fit_part(self, problem: PixelProblem, share: PerStar, ground: Directions) -> PartSolution:
        """As `Scatter.fit_part`: without penalty and bounds in closed form, stars weighted by the root of their share.

        The root lets parts overlap more than the share itself does, so that each knows what is beyond its border.
        """
        if not is_free(problem):
            return super().fit_part(problem, share, ground)
        weight = np.sqrt(share / share.max())
        counts = weight > LEAST_WEIGHT
        return train_part(problem.of_stars(counts), weight[counts], ground, self)
