"""`RestrictedCannonModel`: bounds on the coefficients."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np

from bayes_cannon.core.vectorizer import PolynomialVectorizer
from bayes_cannon.io.model_state import ModelState
from bayes_cannon.model.cannon import CannonModel


class RestrictedCannonModel(CannonModel):
    """A `CannonModel` whose coefficients have bounds, so that labels act only in the sense that physics allows.

    Parameters
    ----------
    theta_bounds
        Lower and upper bound by the text of a term, as `vectorizer.human_readable_label_vector` shows it, None for no
        bound: ``{"FE_H": (None, 0), "TEFF^2": (-0.1, 0.1)}``. They hold at every pixel, in every solver exactly.
        Coefficients multiply scaled labels.
    **kwargs
        As for `CannonModel`.

    Raises
    ------
    ValueError
        For an unknown term, bounds that are no pair, NaN, or out of order.

    """

    def __init__(self, *args: Any, theta_bounds: Mapping[str, Sequence[float | None]] | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.theta_bounds = theta_bounds

    @property
    def theta_bounds(self) -> dict[str, tuple[float | None, float | None]]:
        """Bounds by the text of the term."""
        return dict(self._theta_bounds)

    @theta_bounds.setter
    def theta_bounds(self, theta_bounds: Mapping[str, Sequence[float | None]] | None) -> None:
        if theta_bounds is not None and not isinstance(theta_bounds, Mapping):
            raise TypeError(f"theta_bounds must map terms to pairs, got {type(theta_bounds).__name__}")
        checked: dict[str, tuple[float | None, float | None]] = {}
        for term, bounds in (theta_bounds or {}).items():
            self._polynomial.term_index(str(term))
            if len(bounds) != 2:
                raise ValueError(f"the bounds of {term!r} must be a pair (lower, upper), got {bounds!r}")
            low, high = (None if bound is None else float(bound) for bound in bounds)
            if any(bound is not None and np.isnan(bound) for bound in (low, high)):
                raise ValueError(f"the bounds of {term!r} must be numbers or None, got {bounds!r}")
            if low is not None and high is not None and low > high:
                raise ValueError(f"the bounds of {term!r} must be in the order (lower, upper), got {bounds!r}")
            checked[str(term)] = (low, high)
        self._theta_bounds = checked

    @property
    def _polynomial(self) -> PolynomialVectorizer:
        if not isinstance(self._vectorizer, PolynomialVectorizer):
            raise TypeError("theta_bounds need a PolynomialVectorizer, whose terms have texts")
        return self._vectorizer

    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        lower, upper = super()._bounds()
        free = lower < upper
        for term, (low, high) in self._theta_bounds.items():
            d = self._polynomial.term_index(term)
            lower[free[:, d], d] = -np.inf if low is None else low
            upper[free[:, d], d] = np.inf if high is None else high
        return lower, upper

    def _state(self, with_spectra: bool) -> ModelState:
        return replace(super()._state(with_spectra), theta_bounds=self._theta_bounds)

    @classmethod
    def _from_state(cls, state: ModelState) -> Self:
        model = super()._from_state(state)
        model.theta_bounds = state.theta_bounds
        return model
