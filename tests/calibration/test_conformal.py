"""Calibrated errors beside split-conformal intervals, which need no model of the errors (mapie)."""

import numpy as np
import pytest
from mapie.regression import SplitConformalRegressor
from sklearn.base import BaseEstimator, RegressorMixin

from bayes_cannon import validate
from bayes_cannon.calibration.fit import calibrate


class _Inferred(RegressorMixin, BaseEstimator):
    """Labels that were inferred before, as the regressor that mapie wraps: its one feature is the inferred label."""

    def fit(self, x, y):
        self.fitted_ = True
        return self

    def predict(self, x):
        return x[:, 0]


@pytest.mark.slow
def test_calibrated_intervals_cover_as_conformal_ones_and_are_as_narrow_or_narrower():
    """Stars of errors that differ by S/N, heavy tails, and formal errors that are too small by a half."""
    rng = np.random.default_rng(5)
    n, level = 3000, 0.9
    snr = np.exp(rng.normal(4, 0.5, n))
    formal = np.stack([100 / snr, 0.2 + 0 * snr], axis=1)
    covariance = formal[:, :, None] ** 2 * np.eye(2)
    truth = rng.normal(size=(n, 2)) * [500, 1]
    inferred = truth + 1.5 * formal * rng.standard_t(6, (n, 2))
    learned, other = np.arange(n) < 1000, np.arange(n) >= 1000
    found = calibrate((inferred - truth)[learned], covariance[learned], snr[learned])
    width = found.half_width(level, covariance[other], snr[other])
    inside = np.abs(inferred - truth)[other] < width
    for k in range(2):
        one = SplitConformalRegressor(_Inferred().fit(None, None), confidence_level=level, prefit=True)
        one.conformalize(inferred[learned][:, [k]], truth[learned, k])
        _, intervals = one.predict_interval(inferred[other][:, [k]])
        low, high = intervals[:, 0, 0], intervals[:, 1, 0]
        conformal = (truth[other, k] > low) & (truth[other, k] < high)
        error = np.sqrt(level * (1 - level) * (1 / other.sum() + 1 / learned.sum()))
        assert abs(conformal.mean() - level) < 4 * error
        assert abs(inside[:, k].mean() - level) < 4 * error
        # Conformal intervals are as wide for all stars; ours know the S/N, and where nothing depends on it, are alike.
        ratio = 2 * width[:, k].mean() / (high - low).mean()
        assert ratio < 0.97 if k == 0 else 0.9 < ratio < 1.1
    # Only ours are right at each S/N.
    assert validate.local_coverage(snr[other], inside, level, size=200).p_value.min() > 1e-3
