"""Which polynomial: labels and likelihood of spectra that took no part in the training, by order and penalty."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import comb
from typing import Any

import numpy as np

from bayes_cannon.core.arguments import listed, shown, whole_numbers
from bayes_cannon.core.checks import check_regularization
from bayes_cannon.core.progress import ProgressOption
from bayes_cannon.core.vectorizer import PolynomialVectorizer, parse_terms
from bayes_cannon.execution.memory import physical_memory
from bayes_cannon.model.settings import Settings
from bayes_cannon.model.stars import TrainingSet
from bayes_cannon.scatter.base import Scatter
from bayes_cannon.scatter.held_out_path import HeldOutPath, held_out_scores, held_out_stars
from bayes_cannon.training.problem import PixelProblem

ORDERS = (1, 2, 3, 4)
"""Orders that are tried where nothing else is asked for."""
LARGEST_SHARE = 0.5
"""Of the memory of this computer, that a candidate may need."""

Lambda = float | np.ndarray | None


@dataclass(frozen=True, eq=False)
class Polynomial:
    """A polynomial that may be chosen: all terms up to an order, and the penalty that may make some of them zero.

    Attributes
    ----------
    order
        Highest degree of a term.
    regularization
        Lambda: None, a number, or one a pixel, shape (pixel,).

    """

    order: int
    regularization: Lambda = None

    @property
    def penalty(self) -> float:
        """Lambda as one number, zero for None, and the median of those of the pixels."""
        return 0.0 if self.regularization is None else float(np.median(self.regularization))

    def __str__(self) -> str:
        return f"order {self.order}" + (f", Lambda {self.penalty:g}" if self.penalty else "")


@dataclass(frozen=True)
class OrderPath(HeldOutPath):
    """Held-out log likelihood, and scores of labels, of polynomials, each a `Polynomial`.

    Attributes
    ----------
    left_out
        Why a candidate that would have been tried was not, by its text.

    """

    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def best(self) -> Polynomial:
        """The polynomial that is to be taken: give it to `CannonModel.with_terms`."""
        found: Polynomial = self.candidates[self.best_index]
        return found

    def columns(self) -> dict[str, Any]:
        """Order, Lambda, and the mean number of terms of a pixel that are not zero."""
        return {
            "order": [candidate.order for candidate in self.candidates],
            "regularization": [candidate.penalty for candidate in self.candidates],
            "n_terms": self.n_terms,
        }


def order_path(
    stars: TrainingSet,
    settings: Settings,
    orders: Sequence[int] | None = None,
    regularizations: Sequence[float] | Mapping[int, Sequence[float]] | None = None,
    *,
    n_folds: int = 5,
    held_out: Sequence[int] | None = None,
    seed: int = 0,
    groups: Any = None,
    progress: ProgressOption = None,
) -> OrderPath:
    """Train polynomials of several orders and penalties, and score the spectra that were held out.

    Parameters
    ----------
    stars, settings
        Of a model; its own terms do not matter. Bounds and censors hold for every candidate; a scatter of ``"auto"``
        counts as independent.
    orders, regularizations
        As for `CannonModel.order_path`.
    n_folds, held_out, seed, groups
        As for `scatter.held_out_path.held_out_stars`.
    progress
        True for a bar on the standard error, or a function that is called with one after each training.

    Raises
    ------
    ValueError
        If an order that is asked for has too many terms for the stars or the memory, or none is left; for no order,
        and a negative penalty.

    """
    settings.problem(stars)  # Its check for spectra.
    away = held_out_stars(stars.terms.x, n_folds=n_folds, held_out=held_out, seed=seed, groups=groups)
    candidates: list[Polynomial] = []
    trials: list[tuple[PixelProblem, list[Scatter | None]]] = []
    left_out: dict[str, str] = {}
    family = settings.scatter if isinstance(settings.scatter, Scatter) else None
    for order, strengths in _asked(orders, regularizations, settings.regularization, stars.n_pixels).items():
        own: TrainingSet | None = None
        for candidate in (Polynomial(order, lam) for lam in strengths):
            try:
                if own is None:  # Penalties on the same terms share what is computed of these.
                    _check_memory(stars, order)
                    own, _ = with_terms(stars, settings, candidate)
                problem = _problem(own, settings, candidate, away, family)
            except ValueError as error:
                if orders is not None:
                    raise ValueError(f"{candidate}: {error}") from None
                left_out[str(candidate)] = str(error)
                continue
            candidates.append(candidate)
            trials.append((problem, [family]))
    if not trials:
        raise ValueError("no order can be tried. " + ". ".join(f"{name}: {why}" for name, why in left_out.items()))
    return OrderPath(tuple(candidates), **held_out_scores(trials, away, progress), left_out=left_out)


def with_terms(stars: TrainingSet, settings: Settings, choice: Polynomial) -> tuple[TrainingSet, Settings]:
    """The same with the terms and the penalty of a polynomial; bounds on terms that it does not have are dropped.

    Raises
    ------
    ValueError
        If a bound keeps a term that it does not have from being zero.

    """
    vectorizer, bounds = PolynomialVectorizer(stars.label_names, choice.order), dict(settings.theta_bounds)
    for term, (low, high) in settings.theta_bounds.items():
        if choice.order >= degree(term):
            continue
        if (low or 0.0) > 0 or (high or 0.0) < 0:
            raise ValueError(f"theta_bounds keep {term!r} from zero, and the polynomial does not have this term")
        del bounds[term]
    settings = replace(settings, regularization=choice.regularization, theta_bounds=bounds)
    return replace(stars, vectorizer=vectorizer), settings


def degree(term: str) -> int:
    """Degree of a term given as text; that of the constant is zero."""
    return int(sum(power for named in parse_terms(term) for _, power in named)) if term.strip() != "1" else 0


def _asked(orders: Any, regularizations: Any, own: Lambda, n_pixels: int | None) -> dict[int, list[Lambda]]:
    """Penalties by order, both ascending."""
    numbers = sorted(set(whole_numbers(ORDERS if orders is None else orders, "orders")))
    if not numbers or numbers[0] < 1:
        raise ValueError(f"orders must be integers of at least 1, such as (1, 2, 3); got {shown(orders)}")
    by_order = regularizations if isinstance(regularizations, Mapping) else dict.fromkeys(numbers, regularizations)
    for order in by_order:
        if order not in numbers:
            raise ValueError(f"regularizations has penalties of order {shown(order)}, and the orders are {numbers}")
    found: dict[int, list[Lambda]] = {}
    for order in numbers:
        given = by_order.get(order)
        strengths = [own] if given is None else listed(given)
        if not strengths:
            raise ValueError(
                "regularizations must be a list of numbers, or a mapping of orders to lists of numbers; got "
                f"{shown(regularizations)}"
            )
        checked = [check_regularization(lam, n_pixels) for lam in strengths]
        found[order] = sorted(checked, key=lambda lam: Polynomial(1, lam).penalty)
    return found


def _check_memory(stars: TrainingSet, order: int) -> None:
    """Raise ValueError unless the terms up to this order fit into the memory."""
    n_stars, n_labels, n_pixels = *stars.labels.shape, stars.n_pixels or 0
    needed, memory = bytes_needed(n_stars, n_labels, n_pixels, order), physical_memory()
    if needed > LARGEST_SHARE * memory:
        raise ValueError(
            f"{comb(n_labels + order, order):,} terms of {n_labels} labels need {needed / 1e9:,.3g} GB with "
            f"{n_stars:,} stars and {n_pixels:,} pixels, and at most {LARGEST_SHARE * memory / 1e9:,.3g} GB may be used"
        )


def bytes_needed(n_stars: int, n_labels: int, n_pixels: int, order: int) -> int:
    """Memory for all terms up to an order: their products, those of the stars (`core.moments`), theta and bounds."""
    n_terms, n_moments = comb(n_labels + order, order), comb(n_labels + 2 * order, 2 * order)
    return 8 * (n_terms**2 * (n_labels + 2) + n_stars * (n_terms + 2 * n_moments) + 5 * n_pixels * n_terms)


def _problem(
    stars: TrainingSet, settings: Settings, candidate: Polynomial, away: Sequence[np.ndarray], family: Scatter | None
) -> PixelProblem:
    """The training problem of a candidate whose terms the stars have; ValueError if a fold leaves too few of them."""
    smallest = min((~mask for mask in away), key=np.sum)
    n_terms, n_stars = stars.vectorizer.n_terms, int(smallest.sum())
    if n_stars <= n_terms and not candidate.penalty > 0:
        raise ValueError(
            f"{n_terms} terms without a penalty need more than {n_terms} stars, and where a fold of the "
            f"{len(smallest)} is held out {n_stars} are left"
        )
    problem = with_terms(stars, settings, candidate)[1].problem(stars)
    if family is not None:
        family.check(problem.of_stars(smallest))
    return problem
