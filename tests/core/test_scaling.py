"""Label scaling: the formula, the way back, the covariance, and labels that cannot be scaled."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose

from bayes_cannon.core.scaling import LabelScaling

NAMES = ("TEFF", "LOGG")


def labels(n_stars=500, seed=0):
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.normal(5000, 500, n_stars), rng.gamma(2.0, 1.0, n_stars)])


def test_formula():
    sample = labels()
    scaling = LabelScaling.from_labels(sample, NAMES, 2)
    for k in range(2):
        ordered = np.sort(sample[:, k])
        low, high = (np.interp(q * 499, np.arange(500), ordered) for q in (0.025, 0.975))
        assert_allclose(scaling.fiducial[k], 0.5 * (ordered[249] + ordered[250]))
        assert_allclose(scaling.scale[k], high - low)
        assert_allclose(scaling.scaled(sample)[:, k], (sample[:, k] - scaling.fiducial[k]) / (2 * (high - low)))


@given(arrays(float, (5, 2), elements=st.floats(-1e4, 1e4)), st.floats(0.1, 10))
def test_the_way_back(points, factor):
    scaling = LabelScaling.from_labels(labels(), NAMES, factor)
    assert_allclose(scaling.unscaled(scaling.scaled(points)), points, rtol=1e-12, atol=1e-8)


@given(st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))
def test_units_do_not_matter(unit, zero):
    sample = labels()
    x = LabelScaling.from_labels(sample, NAMES).scaled(sample)
    other = unit * sample + zero
    assert_allclose(LabelScaling.from_labels(other, NAMES).scaled(other), x, rtol=1e-6, atol=1e-9)


def test_covariance_goes_to_label_units():
    scaling = LabelScaling.from_labels(labels(), NAMES, 2)
    draws = np.random.default_rng(1).multivariate_normal([0, 0], [[1, 0.3], [0.3, 0.5]], 1000)
    assert_allclose(scaling.unscaled_covariance(np.cov(draws.T)), np.cov(scaling.unscaled(draws).T), rtol=1e-9)


def test_a_label_that_is_nearly_always_the_same_has_its_whole_range_as_scale():
    rotation = np.zeros(100)
    rotation[[3, 40]] = 7.0, 50.0
    scaling = LabelScaling.from_labels(np.column_stack([np.arange(100.0), rotation]), NAMES)
    assert_allclose(scaling.scale, [np.ptp(np.percentile(np.arange(100), [2.5, 97.5])), 50.0])
    assert_allclose(scaling.fiducial[1], 0.0)


def test_constant_label_is_refused_by_name():
    sample = np.column_stack([np.arange(100.0), np.full(100, 4.5)])
    with pytest.raises(ValueError, match=r"label 'LOGG' is constant.*4\.5.*leave it out of label_names"):
        LabelScaling.from_labels(sample, NAMES)


@pytest.mark.parametrize("factor", [0, -1, np.nan, np.inf])
def test_scale_factor_must_be_positive(factor):
    with pytest.raises(ValueError, match=f"scale_factor must be positive and finite, got {factor}"):
        LabelScaling.from_labels(labels(), NAMES, factor)
