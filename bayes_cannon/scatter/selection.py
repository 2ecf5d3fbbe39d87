"""Which scatter: labels and likelihood of spectra that took no part in the training, by family and rank."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from bayes_cannon.core.arguments import listed, shown
from bayes_cannon.core.progress import ProgressOption
from bayes_cannon.core.status import PixelStatus
from bayes_cannon.scatter.base import Scatter
from bayes_cannon.scatter.full import Full
from bayes_cannon.scatter.full_training import fewest_stars
from bayes_cannon.scatter.held_out_path import HeldOutPath, as_scatter, held_out_scores, held_out_stars
from bayes_cannon.scatter.low_rank import LowRank
from bayes_cannon.training.problem import PixelProblem

AUTO = "auto"
"""What asks for the kind of scatter, and its rank, with the highest likelihood of held-out spectra."""
RANKS = (2, 5, 10, 20, 40)
"""Ranks that are tried where nothing else is asked for."""
LARGEST_FULL = 5000
"""Pixels up to which a full covariance is tried where nothing else is asked for."""


@dataclass(frozen=True)
class ScatterPath(HeldOutPath):
    """Held-out log likelihood, and scores of labels, of kinds of scatter, of which the first is independent: None."""

    @property
    def best(self) -> Scatter | None:
        """The kind of scatter that is to be taken; None where nothing does better than independent scatter."""
        return self.candidates[self.best_index]

    @property
    def names(self) -> list[str]:
        """The kind of scatter and whatever differs from its defaults, such as ``LowRank, rank 5, heavy tails``."""
        return list(map(_name, self.candidates))

    def columns(self) -> dict[str, Any]:
        """The kind of scatter as its text."""
        return {"scatter": [str(as_scatter(candidate)) for candidate in self.candidates]}


def _name(candidate: Scatter | None) -> str:
    if candidate is None:
        return "independent"
    words = [type(candidate).__name__]
    described: tuple[Any, ...] = fields(candidate) if is_dataclass(candidate) else ()
    for one in described:
        value, name = getattr(candidate, one.name), one.name.replace("_", " ")
        if value is True:
            words.append(name)
        elif isinstance(value, int | float | str) and (one.name == "rank" or value != one.default):
            words.append(f"{name} {value}")
    return ", ".join(words)


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
    tried = (None, *(candidate for candidate in asked if candidate is not None))
    away = held_out_stars(problem.terms.x, n_folds=n_folds, held_out=held_out, seed=seed, groups=groups)
    return ScatterPath(tried, **held_out_scores([(problem, tried)], away, progress))
