"""Which scatter: labels and likelihood of spectra that took no part in the training, by family and rank.

The likelihood of a spectrum judges all that the scatter says of it, most of which no label depends on. So labels
decide, by the density of the reference labels with the errors that the scatter gives; the likelihood decides between
kinds of scatter whose labels are as good.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bayes_cannon.core.arguments import listed, shown, whole_number, whole_numbers
from bayes_cannon.core.folds import folds, same_labels
from bayes_cannon.core.progress import ProgressOption, reporter
from bayes_cannon.core.status import PixelStatus
from bayes_cannon.scatter.base import LearnedScatter, Scatter
from bayes_cannon.scatter.full import Full
from bayes_cannon.scatter.full_training import fewest_stars
from bayes_cannon.scatter.held_out_labels import label_scores
from bayes_cannon.scatter.independent import Independent
from bayes_cannon.scatter.low_rank import LowRank
from bayes_cannon.training.problem import PixelProblem
from bayes_cannon.training.train import train

if TYPE_CHECKING:
    from astropy.table import Table

AUTO = "auto"
"""What asks for the kind of scatter, and its rank, with the highest likelihood of held-out spectra."""
RANKS = (2, 5, 10, 20, 40)
"""Ranks that are tried where nothing else is asked for."""
LARGEST_FULL = 5000
"""Pixels up to which a full covariance is tried where nothing else is asked for."""
ENOUGH = 300
"""Held-out stars that tell kinds of scatter apart by their labels."""
WORSE = 2.0
"""Labels are worse if they are by this number of standard errors."""


@dataclass(frozen=True)
class ScatterPath:
    """Held-out log likelihood, and scores of labels, of each candidate.

    Attributes
    ----------
    candidates
        None, the independent scatter, is the first.
    log_likelihood
        Natural logarithm of the density of each held-out spectrum given its labels, shape (candidate, star); NaN for
        stars that were not held out.
    nu
        Degrees of freedom of the tails in the last fold, shape (candidate,); infinite for normal ones.
    valid
        Whether a candidate may be chosen, shape (candidate,): not where the degrees of freedom ended at their bound,
        because then the scale of the noise is wrong and not its tails.
    label_score
        How good the labels of each held-out star are (`scatter.held_out_labels.label_scores`), shape (candidate, star);
        NaN for stars that were not held out. None: the likelihood decides alone.

    """

    candidates: tuple[Scatter | None, ...]
    log_likelihood: np.ndarray
    nu: np.ndarray
    valid: np.ndarray
    label_score: np.ndarray | None = None

    @property
    def best(self) -> Scatter | None:
        """Of the valid candidates whose labels are not worse than the best, the one of the largest mean likelihood.

        None where nothing does better than independent scatter. The medians of the scores are compared, because a few
        stars are off with any scatter; labels are worse if the median of the differences star by star is more than
        `WORSE` of its standard errors.
        """
        mean = np.nanmean(self.log_likelihood, axis=1)
        allowed = self.valid & np.isfinite(mean)
        if self.label_score is not None and allowed.any():
            score = self.label_score[:, np.isfinite(self.label_score).all(axis=0)]
            leader = int(np.argmax(np.where(allowed, np.median(score, axis=1), -np.inf))) if score.size else 0
            behind = score[leader] - score
            middle = np.median(behind, axis=1, keepdims=True) if score.size else np.zeros((len(mean), 1))
            # Of normal differences; their scatter is robust, too.
            spread = np.median(np.abs(behind - middle), axis=1) if score.size else np.zeros(len(mean))
            error = 1.4826 * 1.2533 * spread / np.sqrt(max(score.shape[1], 1))
            allowed = allowed & (middle[:, 0] <= WORSE * error)
        return self.candidates[int(np.argmax(np.where(allowed, mean, -np.inf)))]

    @property
    def table(self) -> "Table":
        """Mean over the stars by candidate, its gain over independent scatter, and the standard error of the gain.

        And the median of the scores of labels, where they were computed.
        """
        from astropy.table import Table  # Half a second that training need not wait for.

        known = np.isfinite(self.log_likelihood).all(axis=0)
        gain = self.log_likelihood[:, known] - self.log_likelihood[0, known]
        columns = {
            "scatter": [str(as_scatter(candidate)) for candidate in self.candidates],
            "log_likelihood": self.log_likelihood[:, known].mean(axis=1),
            "gain": gain.mean(axis=1),
            "gain_error": gain.std(axis=1) / np.sqrt(known.sum()),
            "nu": self.nu,
            "valid": self.valid,
        }
        if self.label_score is not None:
            columns["label_score"] = np.nanmedian(self.label_score[:, known], axis=1)
        return Table(columns)


def enough_folds(n_stars: int, n_folds: int = 5) -> range:
    """Folds that are to be held out, one after the other, so that `ENOUGH` stars are, or all."""
    return range(min(n_folds, int(np.ceil(ENOUGH * n_folds / max(n_stars, 1)))))


def as_scatter(scatter: Scatter | None) -> Scatter:
    """The kind of scatter, independent for None."""
    return Independent() if scatter is None else scatter


def default_candidates(problem: PixelProblem) -> list[Scatter | None]:
    """Families and ranks that the numbers of stars and pixels allow, those that share work side by side."""
    solved = problem.unsolvable() == PixelStatus.CONVERGED
    n_stars, n_pixels = len(problem.flux), int(solved.sum())
    most = min(n_stars // 2, n_pixels - 1)
    candidates: list[Scatter | None] = [None, *(LowRank(rank) for rank in RANKS if rank <= most)]
    enough = 4 * n_stars // 5 >= fewest_stars(problem.design.shape[1])
    if enough and 2 <= n_pixels <= LARGEST_FULL and (problem.ivar[:, solved] > 0).all():
        candidates += [Full(), Full(heavy_tails=True), Full(heavy_tails=True, label_scale=True)]
    return candidates


def scatter_path(
    problem: PixelProblem,
    candidates: Sequence[Scatter | None] | None = None,
    *,
    n_folds: int = 5,
    held_out: Sequence[int] = (0,),
    seed: int = 0,
    groups: Any = None,
    progress: ProgressOption = None,
) -> ScatterPath:
    """Train each candidate and score the spectra that were held out.

    Parameters
    ----------
    problem
        The pixels.
    candidates
        What to try, by default `default_candidates`. Independent scatter, None, is always tried. Low rank starts from
        the factors of the candidate before it where those are fewer.
    n_folds, seed
        Fold of each star, as in `validate.folds`.
    groups
        Rows of one group, such as several visits of one star, are held out together, shape (star,). By default those
        whose labels are all the same.
    held_out
        Folds that are held out, one after the other; `enough_folds` are those that training with ``"auto"`` takes.
    progress
        True for a bar on the standard error, or a function that is called with one after each training.

    Returns
    -------
    path
        Choose ``path.best``. Stars on which that choice is judged later must not be in the problem.

    Raises
    ------
    ValueError
        If a rank is too large, a fold does not exist, or a full covariance is tried with incomplete spectra.

    """
    asked = default_candidates(problem) if candidates is None else listed(candidates)
    if asked is None or not all(candidate is None or isinstance(candidate, Scatter) for candidate in asked):
        raise ValueError(f"candidates must be a list of kinds of scatter, or None among them, got {shown(candidates)}")
    held_out, n_folds = whole_numbers(held_out, "held_out"), whole_number(n_folds, "n_folds", 2)
    tried = (None, *(candidate for candidate in asked if candidate is not None))
    groups = same_labels(problem.terms.x, n_folds) if groups is None else groups
    fold = folds(len(problem.design), n_folds, seed, groups)
    scores, labels = (np.full((len(tried), len(fold)), np.nan) for _ in range(2))
    nu, valid = np.full(len(tried), np.inf), np.ones(len(tried), bool)
    with reporter(progress, len(held_out) * len(tried), "training") as report:
        for out in held_out:
            away = fold == out
            if not away.any():
                raise ValueError(f"there is no fold {out}: folds are from 0 to {n_folds - 1}")
            kept, other = problem.of_stars(~away), problem.of_stars(away)
            independent = solution = train(kept)
            learned: LearnedScatter | None = None
            for k, candidate in enumerate(map(as_scatter, tried)):
                if learned is None or not candidate.continues(learned):
                    solution, learned = independent, None
                solution, learned = candidate.fit(kept, solution, learned)
                nu[k] = learned.nu
                valid[k] &= not learned.hit_bound
                scores[k, away] = learned.log_likelihood(other, solution)
                labels[k, away] = label_scores(other, solution, learned)
                if report is not None:
                    report(1)
    return ScatterPath(tried, scores, nu, valid, labels)
