"""Candidates for a model, judged by spectra that took no part in the training: kinds of scatter, sets of terms, both.

The likelihood of a spectrum judges all that a model says of it, most of which no label depends on. So labels decide,
by the density of the reference labels with the errors that the model gives; the likelihood decides between candidates
whose labels are as good, and of those that it cannot tell apart the one with the fewest terms is taken.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from bayes_cannon.core.arguments import whole_number, whole_numbers
from bayes_cannon.core.folds import folds, same_labels
from bayes_cannon.core.progress import ProgressOption, reporter
from bayes_cannon.core.status import PixelStatus
from bayes_cannon.scatter.base import LearnedScatter, Scatter
from bayes_cannon.scatter.held_out_labels import label_scores
from bayes_cannon.scatter.independent import Independent
from bayes_cannon.training.problem import PixelProblem, PixelSolution
from bayes_cannon.training.profile.solver import solve_path

if TYPE_CHECKING:
    from astropy.table import Table

ENOUGH = 300
"""Held-out stars that tell candidates apart by their labels."""
WORSE = 2.0
"""Labels are worse if they are by this number of standard errors."""
TIED = 1.0
"""Likelihoods are as good if they differ by no more than this number of standard errors."""

Trials = Sequence[tuple[PixelProblem, Sequence[Scatter | None]]]
"""What is trained: pixels with their terms and penalty, and the kinds of scatter that are tried with these."""


@dataclass(frozen=True)
class HeldOutPath:
    """Held-out log likelihood, and scores of labels, of each candidate.

    Attributes
    ----------
    candidates
        What was tried; gains in the likelihood are over the first.
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
    n_terms
        Coefficients other than zero of a pixel with independent scatter, the mean over pixels and folds, shape
        (candidate,). None: all candidates have as many.

    """

    candidates: tuple[Any, ...]
    log_likelihood: np.ndarray
    nu: np.ndarray
    valid: np.ndarray
    label_score: np.ndarray | None = None
    n_terms: np.ndarray | None = None

    @property
    def best_index(self) -> int:
        """Of the valid candidates whose labels are not worse than the best, the simplest of those of large likelihood.

        The medians of the scores are compared, because a few stars are off with any candidate; labels are worse if the
        median of the differences star by star is more than `WORSE` of its standard errors. A mean likelihood is large
        if it is no further than `TIED` standard errors of the difference below the largest. The simplest has the fewest
        terms, and among those with as many the largest likelihood. Labels that no spectrum determines are worse.
        """
        mean = np.nanmean(self.log_likelihood, axis=1)
        allowed = self.valid & np.isfinite(mean)
        if not allowed.any():
            return 0
        if self.label_score is not None:
            determined = allowed & np.isfinite(self.label_score).any(axis=1)
            allowed = self._labels_as_good(self.label_score, determined) if determined.any() else allowed
        if self.n_terms is not None:
            known = np.isfinite(self.log_likelihood[allowed]).all(axis=0)
            leader = int(np.argmax(np.where(allowed, mean, -np.inf)))
            behind = self.log_likelihood[leader, known] - self.log_likelihood[:, known]
            tied = behind.mean(axis=1) <= TIED * behind.std(axis=1) / np.sqrt(known.sum())
            tied[leader] = True
            fewest = self.n_terms[allowed & tied].min()
            allowed = allowed & tied & (self.n_terms == fewest)
        return int(np.argmax(np.where(allowed, mean, -np.inf)))

    @staticmethod
    def _labels_as_good(label_score: np.ndarray, allowed: np.ndarray) -> np.ndarray:
        """Which of the allowed candidates have labels that are not worse than those of the best, shape (candidate,)."""
        known = np.isfinite(label_score[allowed]).all(axis=0)
        if not known.any():
            return allowed
        score = np.where(allowed[:, None], label_score[:, known], 0.0)
        leader = int(np.argmax(np.where(allowed, np.median(score, axis=1), -np.inf)))
        behind = score[leader] - score
        middle = np.median(behind, axis=1, keepdims=True)
        # Of normal differences; their scatter is robust, too.
        spread = np.median(np.abs(behind - middle), axis=1)
        error = 1.4826 * 1.2533 * spread / np.sqrt(score.shape[1])
        return np.asarray(allowed & (middle[:, 0] <= WORSE * error))

    @property
    def best(self) -> Any:
        """The candidate that is to be taken (`best_index`)."""
        return self.candidates[self.best_index]

    @property
    def names(self) -> list[str]:
        """A short name of each candidate, for figures."""
        return [str(candidate) for candidate in self.candidates]

    def columns(self) -> dict[str, Any]:
        """What the candidates are, as the first columns of the table."""
        return {"candidate": self.names}

    @property
    def table(self) -> "Table":
        """Mean over the stars by candidate, its gain over the first, and the standard error of the gain.

        And the median of the scores of labels, where they were computed.
        """
        from astropy.table import Table  # Half a second that training need not wait for.

        known = np.isfinite(self.log_likelihood).all(axis=0)
        gain = self.log_likelihood[:, known] - self.log_likelihood[0, known]
        columns = self.columns() | {
            "log_likelihood": self.log_likelihood[:, known].mean(axis=1),
            "gain": gain.mean(axis=1),
            "gain_error": gain.std(axis=1) / np.sqrt(known.sum()),
            "nu": self.nu,
            "valid": self.valid,
        }
        if self.label_score is not None:
            finite = [row[np.isfinite(row)] for row in self.label_score[:, known]]
            columns["label_score"] = np.array([np.median(row) if row.size else np.nan for row in finite])
        return Table(columns)


def enough_folds(n_stars: int, n_folds: int = 5) -> range:
    """Folds that are to be held out, one after the other, so that `ENOUGH` stars are, or all."""
    return range(min(n_folds, int(np.ceil(ENOUGH * n_folds / max(n_stars, 1)))))


def as_scatter(scatter: Scatter | None) -> Scatter:
    """The kind of scatter, independent for None."""
    return Independent() if scatter is None else scatter


def held_out_stars(
    x: np.ndarray, *, n_folds: int = 5, held_out: Sequence[int] | None = None, seed: int = 0, groups: Any = None
) -> list[np.ndarray]:
    """Masks of the stars that are held out, one after the other, each of shape (star,).

    Parameters
    ----------
    x
        Scaled labels, shape (star, label).
    n_folds, seed
        Fold of each star, as in `validate.folds`.
    held_out
        Folds that are held out; by default `enough_folds`.
    groups
        Rows of one group, such as several visits of one star, are held out together, shape (star,). By default those
        whose labels are all the same.

    Raises
    ------
    ValueError
        If a fold does not exist, or has no star.

    """
    n_folds = whole_number(n_folds, "n_folds", 2)
    numbers = enough_folds(len(x), n_folds) if held_out is None else whole_numbers(held_out, "held_out")
    groups = same_labels(x, n_folds) if groups is None else groups
    fold = folds(len(x), n_folds, seed, groups)
    masks = [fold == out for out in numbers]
    for out, mask in zip(numbers, masks, strict=True):
        if held_out is not None and not mask.any():
            raise ValueError(f"there is no fold {out}: folds are from 0 to {n_folds - 1}")
    return [mask for mask in masks if mask.any()]


def held_out_scores(trials: Trials, held_out: Sequence[np.ndarray], progress: ProgressOption = None) -> dict[str, Any]:
    """Train every candidate without each of some sets of stars, and score these.

    Parameters
    ----------
    trials
        All with the same stars and pixels. A kind of scatter that continues the one before it starts from there.
    held_out
        Masks as `held_out_stars` returns them.
    progress
        True for a bar on the standard error, or a function that is called with one after each training.

    Returns
    -------
    scores
        The arrays of a `HeldOutPath` by name; candidates are the kinds of scatter of the first trial, then those of the
        next. In each fold only pixels count that have a solution with all of them, so that likelihoods compare.

    Raises
    ------
    ValueError
        As the kinds of scatter do: if a rank is too large, or spectra are incomplete where they have to be complete.

    """
    n_stars, shape = trials[0][0].n_stars, (sum(len(families) for _, families in trials),)
    scores, labels = (np.full((*shape, n_stars), np.nan) for _ in range(2))
    nu, valid, n_terms = np.full(shape, np.inf), np.ones(shape, bool), np.zeros(shape)
    with reporter(progress, len(held_out) * len(nu), "training", "compare on held-out stars") as report:
        for away in held_out:
            kept, others = _parts([problem for problem, _ in trials], away)
            k = 0
            for (_, families), part, other, independent in zip(trials, kept, others, _independent(kept), strict=True):
                solution: PixelSolution = independent
                learned: LearnedScatter | None = None
                for family in map(as_scatter, families):
                    if learned is None or not family.continues(learned):
                        solution, learned = independent, None
                    solution, learned = family.fit(part, solution, learned)
                    nu[k] = learned.nu
                    valid[k] &= not learned.hit_bound
                    n_terms[k] += _mean_count(independent) / len(held_out)
                    scores[k, away] = learned.log_likelihood(other, solution)
                    labels[k, away] = label_scores(other, solution, learned)
                    k += 1
                    report(1)
    return {"log_likelihood": scores, "nu": nu, "valid": valid, "label_score": labels, "n_terms": n_terms}


def _parts(problems: Sequence[PixelProblem], away: np.ndarray) -> tuple[list[PixelProblem], list[PixelProblem]]:
    """The problems of the stars that train and of those that are held out, with the pixels that all can solve."""
    first, both = problems[0], []
    for stars in (~away, away):
        flux, ivar = first.flux[stars], first.ivar[stars]
        covariance = None if first.covariance is None else first.covariance[stars]
        terms = {id(problem.terms): problem.terms.of_stars(stars) for problem in problems}
        spectra: dict[str, Any] = {"flux": flux, "ivar": ivar, "covariance": covariance}
        both.append([replace(one, terms=terms[id(one.terms)], **spectra) for one in problems])
    solvable = np.array([one.unsolvable() == PixelStatus.CONVERGED for one in both[0]])
    common = solvable.all(axis=0)
    if (solvable == common).all():
        return both[0], both[1]
    # Pixels are not taken out, because a kind of scatter may know them by their place.
    ivars = [np.where(common, part[0].ivar, 0.0) for part in both]
    kept, others = ([replace(one, ivar=ivar) for one in part] for part, ivar in zip(both, ivars, strict=True))
    return kept, others


def _independent(problems: Iterable[PixelProblem]) -> Iterator[PixelSolution]:
    """Optima with independent scatter; penalties on the same terms share the passes over the data."""
    for _, group in groupby(problems, key=lambda problem: id(problem.terms)):
        same = list(group)
        yield from solve_path(same[0], [problem.regularization for problem in same])


def _mean_count(solution: PixelSolution) -> float:
    """Coefficients other than zero of a pixel that has a solution."""
    solved = np.isfinite(solution.theta).all(axis=1)
    return float((solution.theta[solved] != 0).sum(axis=1).mean()) if solved.any() else 0.0
