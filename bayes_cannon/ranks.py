"""How many latent factors: the likelihood of spectra that took no part in the training, rank by rank."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from astropy.table import Table

from bayes_cannon.core.scatter import Correlation, LowRank
from bayes_cannon.solvers.factors import log_likelihoods
from bayes_cannon.solvers.problem import PixelProblem, Progress
from bayes_cannon.train import train, train_scatter
from bayes_cannon.validate import folds


@dataclass(frozen=True)
class RankPath:
    """Held-out log likelihood at each rank.

    Attributes
    ----------
    ranks
        In ascending order, beginning with 0, the independent scatter.
    log_likelihood
        Natural logarithm of the density of each held-out spectrum given its labels, shape (rank, star); NaN for stars
        that were not held out.
    nu
        Degrees of freedom of the tails in the last fold, shape (rank,); infinite for normal ones.

    """

    ranks: np.ndarray
    log_likelihood: np.ndarray
    nu: np.ndarray

    @property
    def best(self) -> int:
        """The rank of the largest mean; 0 where no factors do better than none."""
        return int(self.ranks[np.argmax(np.nanmean(self.log_likelihood, axis=1))])

    @property
    def table(self) -> Table:
        """Mean over the stars by rank, its gain over independent scatter, and the standard error of the gain."""
        known = np.isfinite(self.log_likelihood).all(axis=0)
        gain = self.log_likelihood[:, known] - self.log_likelihood[0, known]
        error = gain.std(axis=1) / np.sqrt(known.sum())
        columns = [self.ranks, self.log_likelihood[:, known].mean(axis=1), gain.mean(axis=1), error, self.nu]
        return Table(columns, names=("rank", "log_likelihood", "gain", "gain_error", "nu"))


def rank_path(
    problem: PixelProblem,
    ranks: Sequence[int],
    *,
    exponents: np.ndarray,
    x: np.ndarray,
    heavy_tails: bool = False,
    tolerance: float = 1e-2,
    n_folds: int = 5,
    held_out: Sequence[int] = (0,),
    seed: int = 0,
    progress: Progress | None = None,
) -> RankPath:
    """Train at several ranks, each from the one before, and score the spectra that were held out.

    Parameters
    ----------
    problem
        The pixels.
    ranks
        Ranks to try; 0, the independent scatter, is always tried.
    exponents, x
        Powers of the terms, shape (term, label), and scaled labels, shape (star, label).
    heavy_tails, tolerance
        As in `core.scatter.LowRank`.
    n_folds, seed
        Fold of each star, as in `validate.folds`.
    held_out
        Folds that are held out, one after the other; one is mostly enough.
    progress
        Called with one after each training.

    Returns
    -------
    path
        Choose ``path.best``. Stars on which that choice is judged later must not be in the problem.

    Raises
    ------
    ValueError
        If a rank is negative or too large, or a fold does not exist.

    """
    tried = np.unique([0, *ranks])
    if tried[0] < 0:
        raise ValueError(f"ranks must not be negative, got {tried[0]}")
    fold = folds(len(problem.design), n_folds, seed)
    scores, nu = np.full((len(tried), len(fold)), np.nan), np.full(len(tried), np.inf)
    for out in held_out:
        away = fold == out
        if not away.any():
            raise ValueError(f"there is no fold {out}: folds are from 0 to {n_folds - 1}")
        parts = (
            replace(problem, **{name: getattr(problem, name)[rows] for name in ("design", "flux", "ivar")})
            for rows in (~away, away)
        )
        kept, other = parts
        keywords = {"exponents": exponents, "x": x[~away]}
        solution, correlation = train(kept, **keywords), None
        for k, rank in enumerate(tried):
            if rank > 0:
                asked = LowRank(int(rank), heavy_tails, tolerance)
                solution, correlation = train_scatter(kept, solution, asked, correlation=correlation, **keywords)
            used = correlation or Correlation(np.zeros((problem.n_pixels, 1)))
            nu[k] = used.nu
            scores[k, away] = log_likelihoods(
                other.design, other.flux, other.ivar, theta=solution.theta, s2=solution.s2, factors=used.factors,
                nu=used.nu,
            )  # fmt: skip
            if progress is not None:
                progress(1)
    return RankPath(tried, scores, nu)
