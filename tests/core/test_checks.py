"""Checks at the boundary: what passes, and that an error names the value, its place and the remedy."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from bayes_cannon.core.checks import (
    CorrelatedLabelsWarning,
    check_correlation,
    check_dispersion,
    check_regularization,
    check_same_dispersion,
    check_spectra,
)


def test_spectra_pass_and_one_spectrum_becomes_one_star():
    flux, ivar = check_spectra([1.0, np.nan, 0.9], [1, 0, 2])
    assert flux.shape == ivar.shape == (1, 3)
    assert flux.dtype == ivar.dtype == float


@pytest.mark.parametrize(
    ("flux", "ivar", "message"),
    [
        (None, np.ones((2, 3)), "x_flux and x_ivar must both be given"),
        (np.ones((2, 3)), None, "x_flux and x_ivar must both be given"),
        (np.ones((2, 3)), np.ones((3, 2)), r"same shape, got \(2, 3\) and \(3, 2\)"),
        (np.ones((2, 3, 1)), np.ones((2, 3, 1)), r"x_flux must have shape \(star, pixel\), got \(2, 3, 1\)"),
        ([[1.0, 1], [1, 1]], [[1.0, 1], [-2, 1]], r"x_ivar .*not negative; got -2\.0 for star 1 at pixel 0.*Set ivar"),
        ([[1.0, 1], [1, 1]], [[1.0, np.nan], [np.nan, 1]], r"got nan for star 0 at pixel 1 \(2 in all\)"),
        ([[1.0, 1]], [[1.0, np.inf]], "got inf for star 0 at pixel 1"),
        ([[1.0, np.nan]], [[1.0, 1.0]], "x_flux must be finite.*got nan for star 0 at pixel 1.*Set ivar to 0 there"),
        ([[1.0, -np.inf]], [[1.0, 1.0]], "got -inf for star 0 at pixel 1"),
    ],
)
def test_spectra_errors(flux, ivar, message):
    with pytest.raises(ValueError, match=message):
        check_spectra(flux, ivar, "x_")


def test_dispersion_passes_in_either_direction():
    assert check_dispersion(None, 3) is None
    assert_array_equal(check_dispersion([1, 2, 3], 3), [1, 2, 3])
    assert_array_equal(check_dispersion([3, 2, 1], 3), [3, 2, 1])
    assert_array_equal(check_dispersion([5], 1), [5])
    assert_array_equal(check_dispersion([3, 1, 3, 2], 4), [3, 1, 3, 2])


@pytest.mark.parametrize(
    ("dispersion", "message"),
    [
        ([1, 2], r"shape \(3,\), one value a pixel; got shape \(2,\)"),
        ([1, np.nan, 2], "dispersion must be finite; got nan at pixel 1"),
        (["a", "b", "c"], "dispersion must be real numbers"),
    ],
)
def test_dispersion_errors(dispersion, message):
    with pytest.raises(ValueError, match=message):
        check_dispersion(dispersion, 3)


def test_same_dispersion():
    grid = np.linspace(15000, 17000, 5)
    check_same_dispersion(None, grid)
    check_same_dispersion(grid, None)
    check_same_dispersion(grid * (1 + 1e-9), grid)
    with pytest.raises(
        ValueError, match=r"differs from the model's at 1 pixels, first at pixel 3: 16501\.0 is not 16500"
    ):
        check_same_dispersion(grid + np.array([0, 0, 0, 1, 0]), grid)
    with pytest.raises(ValueError, match=r"shape \(4,\) but the model's has \(5,\): resample"):
        check_same_dispersion(grid[1:], grid)


def test_regularization_passes():
    assert check_regularization(None, 3) is None
    assert check_regularization(30, 3) == 30.0
    assert check_regularization([30], None) == 30.0
    assert_array_equal(check_regularization([0, 1, 2], 3), [0, 1, 2])


@pytest.mark.parametrize(
    ("regularization", "message"),
    [
        (-1, "finite and not negative; got -1.0$"),
        (np.nan, "got nan$"),
        ([0, 1, -2], "got -2.0 at pixel 2"),
        ([0, np.inf, 1], "got inf at pixel 1"),
        ([0, 1], r"None, a number or one per pixel, shape \(3,\); got shape \(2,\)"),
    ],
)
def test_regularization_errors(regularization, message):
    with pytest.raises(ValueError, match=message):
        check_regularization(regularization, 3)


def test_correlated_labels():
    rng = np.random.default_rng(0)
    a, b, c = rng.normal(size=(3, 200))
    names = ("A", "B", "C")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_correlation(np.column_stack([a, b, c]), names)
        check_correlation(a[:, None], ("A",))
    with pytest.raises(ValueError, match=r"labels 'A' and 'C' are perfectly correlated \(rho = -1\.0+\): leave one"):
        check_correlation(np.column_stack([a, b, 3 - 2 * a]), names)
    with pytest.raises(ValueError, match="labels A, B, C are linearly dependent on each other: leave one of them out"):
        check_correlation(np.column_stack([a, b, a + b]), names)
    with pytest.warns(CorrelatedLabelsWarning, match=r"'A' and 'B' are highly correlated \(rho = \+0\.9"):
        check_correlation(np.column_stack([a, a + 0.2 * b, c]), names)
