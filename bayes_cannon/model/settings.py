"""How a model is trained and used: the settings of `CannonModel`, and the training problem that they state."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bayes_cannon.core.arguments import listed, number
from bayes_cannon.core.censoring import Censors, design_matrix_mask
from bayes_cannon.core.checks import check_covariances
from bayes_cannon.core.records import dims, encoded, equal, one_of
from bayes_cannon.core.vectorizer import BaseVectorizer, PolynomialVectorizer
from bayes_cannon.model.stars import TrainingSet
from bayes_cannon.scatter.base import FAMILIES, LearnedScatter, Scatter
from bayes_cannon.scatter.star_noise import NoiseAndScatter
from bayes_cannon.training.problem import PixelProblem

Bound = tuple[float | None, float | None]


def _bounds_as_arrays(bounds: Mapping[str, Bound]) -> dict[str, np.ndarray]:
    return {term: np.array([np.nan if end is None else end for end in pair]) for term, pair in bounds.items()}


def _bounds_of_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, Bound]:
    """NaN stands for no bound."""
    return {
        term: (None if np.isnan(low) else float(low), None if np.isnan(high) else float(high))
        for term, (low, high) in arrays.items()
    }


@dataclass(frozen=True, eq=False)
class Settings:
    """What a user has set. Values are checked where they are set, by `CannonModel`.

    Attributes
    ----------
    regularization
        Lambda: None, one number, or one per pixel, shape (pixel,).
    censors
        Mask over pixels of each censored label, True where it is censored.
    theta_bounds
        Lower and upper bound by the text of the term; None is no bound.
    scatter
        The family of the scatter that is asked for; None is independent scatter, ``"auto"`` chooses.
    integrate_theta
        Whether labels are inferred with theta integrated out, once its posterior is known.

    """

    regularization: float | np.ndarray | None = field(metadata=dims("pixel", about="Lambda"), default=None)
    censors: Mapping[str, np.ndarray] = field(
        metadata=dims("pixel", about="True where a label may not act"), default_factory=dict
    )
    theta_bounds: Mapping[str, Bound] = field(
        metadata=encoded(_bounds_as_arrays, _bounds_of_arrays, Mapping[str, np.ndarray]) | dims("end"),
        default_factory=dict,
    )
    scatter: Scatter | str | None = field(metadata=one_of(lambda: FAMILIES), default=None)
    integrate_theta: bool = True

    def snapshot(self) -> "Settings":
        """What decides theta, with arrays of its own, which later changes in place do not reach."""
        regularization = self.regularization
        if isinstance(regularization, np.ndarray):
            regularization = regularization.copy()
        censors = {name: mask.copy() for name, mask in self.censors.items() if mask.any()}
        return replace(self, regularization=regularization, censors=censors, scatter=None, integrate_theta=True)

    def changed_since(self, trained_with: "Settings") -> list[str]:
        """Names of the settings that decide theta and are other than they were, by what `snapshot` kept."""
        now = self.snapshot()
        names = ("regularization", "censors", "theta_bounds")
        return [name for name in names if not equal(getattr(now, name), getattr(trained_with, name))]

    def bounds(self, stars: TrainingSet, n_pixels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bounds on theta, shape (pixel, term): both zero where a term is censored."""
        n_pixels, vectorizer = n_pixels or stars.n_pixels or 0, stars.vectorizer
        free = design_matrix_mask(Censors(vectorizer.label_names, n_pixels, self.censors), vectorizer)
        lower, upper = np.where(free, -np.inf, 0.0), np.where(free, np.inf, 0.0)
        for term, (low, high) in self.theta_bounds.items():
            d = polynomial(vectorizer).term_index(term)
            lower[free[:, d], d] = -np.inf if low is None else low
            upper[free[:, d], d] = np.inf if high is None else high
        return lower, upper

    def problem(self, stars: TrainingSet) -> PixelProblem:
        """The training problem of all pixels.

        Raises
        ------
        TypeError
            If the stars have no spectra.

        """
        if stars.flux is None or stars.ivar is None:
            raise TypeError(
                "the model holds no training spectra. They are kept in a file only by "
                "write(..., include_training_set_spectra=True)"
            )
        penalty = self.penalty(stars.flux.shape[1])
        return PixelProblem(
            stars.terms, stars.flux, stars.ivar, penalty, *self.bounds(stars), covariance=stars.covariance
        )

    def penalty(self, n_pixels: int) -> np.ndarray:
        """Lambda of every pixel, shape (pixel,)."""
        lam = 0.0 if self.regularization is None else self.regularization
        return np.broadcast_to(np.asarray(lam, dtype=float), (n_pixels,))


def checked_noise(covariance: Any, ivar: Any, learned: LearnedScatter) -> np.ndarray | None:
    """The covariances of the noise of spectra, shape (star, pixel, pixel), checked, or None.

    ValueError where they do not fit the spectra, or the scatter of the model has no place for them.
    """
    if covariance is None:
        return None
    if not isinstance(learned, NoiseAndScatter) or not learned.needs_covariance:
        raise ValueError(
            "covariance= is for models with scatter.Given() that were trained with the covariance of each star; the "
            f"scatter of this one is of another kind, {type(learned).__name__}"
        )
    return check_covariances(covariance, ivar)


def polynomial(vectorizer: BaseVectorizer) -> PolynomialVectorizer:
    """The vectorizer, whose terms have texts; TypeError if they have none."""
    if not isinstance(vectorizer, PolynomialVectorizer):
        raise TypeError("theta_bounds need a PolynomialVectorizer, whose terms have texts")
    return vectorizer


def checked_theta_bounds(
    theta_bounds: Mapping[str, Sequence[float | None]] | None, vectorizer: BaseVectorizer
) -> dict[str, Bound]:
    """Bounds by the text of the term, as pairs of floats or None.

    Raises
    ------
    TypeError
        If they are no mapping.
    ValueError
        For an unknown term, bounds that are no pair, NaN, or out of order.

    """
    if theta_bounds is not None and not isinstance(theta_bounds, Mapping):
        raise TypeError(f"theta_bounds must map terms to pairs, got {type(theta_bounds).__name__}")
    checked: dict[str, Bound] = {}
    for term, bounds in (theta_bounds or {}).items():
        polynomial(vectorizer).term_index(str(term))
        pair = listed(bounds)
        if pair is None or len(pair) != 2:
            raise ValueError(f"the bounds of {term!r} must be a pair (lower, upper), got {bounds!r}")
        low, high = (None if bound is None else number(bound) for bound in pair)
        if any(bound is not None and np.isnan(bound) for bound in (low, high)):
            raise ValueError(f"the bounds of {term!r} must be numbers or None, got {bounds!r}")
        if low is not None and high is not None and low > high:
            raise ValueError(f"the bounds of {term!r} must be in the order (lower, upper), got {bounds!r}")
        checked[str(term)] = (low, high)
    return checked
