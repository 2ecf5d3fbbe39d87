import astropy.units as u
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bayes_cannon.core.grids import MOST_PIXELS, NAMED, Grid, cells, grid_of, pixel_bounds

ENDS = {
    "apogee": (15100.8019, 16999.8075), "boss": (3567.0, 10399.0), "desi": (3600.0, 9824.0),
    "gaia-rvs": (8460.0, 8700.0), "gaia-xp": (3360.0, 10200.0), "lamost": (3699.986, 9099.1),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMED)
def test_named(name):
    grid = grid_of(name)
    np.testing.assert_allclose(grid.wavelength[[0, -1]], ENDS[name], rtol=1e-4)
    assert (grid.medium, grid.name, grid.n_pixels) == ("vacuum", name, NAMED[name][2])
    assert grid_of(name) is grid
    assert grid_of(grid) is grid


def test_apogee():
    grid = grid_of("apogee")
    np.testing.assert_allclose(np.log10(grid.wavelength), 4.179 + 6e-6 * np.arange(8575), rtol=0, atol=1e-14)
    np.testing.assert_allclose(np.log10(grid.edges), 4.179 + 6e-6 * (np.arange(8576) - 0.5), rtol=0, atol=1e-14)
    assert repr(grid) == "Grid('apogee', 8575 pixels from 15100.802 to 16999.807 Angstrom, medium='vacuum')"


def test_rules():
    grid = grid_of((5000, 5001, 0.1))
    np.testing.assert_allclose(grid.wavelength, np.linspace(5000, 5001, 11), rtol=1e-15)
    np.testing.assert_allclose(grid.edges, np.linspace(4999.95, 5001.05, 12), rtol=1e-15)
    assert grid.medium is None
    assert grid_of((5000, 5000.95, 0.1)).n_pixels == 10
    log = grid_of((4000, 9000, 1e-4, "log"))
    np.testing.assert_allclose(np.diff(np.log10(log.edges)), 1e-4, rtol=1e-9)
    assert log.wavelength[0] == pytest.approx(4000, rel=1e-15)
    assert log.wavelength[-1] <= 9000 < log.wavelength[-1] * 10**1e-4
    np.testing.assert_allclose(grid_of(np.array([500, 501, 502.0]) * u.nm).edges, [4995, 5005, 5015, 5025], rtol=1e-15)


@given(st.floats(1000, 2e4), st.integers(1, 3000), st.floats(0.01, 5))
def test_last_is_reached_whatever_the_rounding(first, n, step):
    assert grid_of((first, first + n * step, step)).n_pixels == n + 1


def test_edges_of_an_uneven_grid():
    """Midpoints, as specutils has them, where the width of pixels changes slowly."""
    wavelength = 5000 + np.cumsum(np.geomspace(1, 1.4, 12))
    edges = grid_of(wavelength).edges
    np.testing.assert_allclose(edges[1:-1], (wavelength[1:] + wavelength[:-1]) / 2, rtol=1e-15)
    np.testing.assert_allclose(edges[0], wavelength[0] - np.diff(wavelength)[0] / 2, rtol=1e-15)
    np.testing.assert_allclose(edges[-1], wavelength[-1] + np.diff(wavelength)[-1] / 2, rtol=1e-15)


@pytest.mark.parametrize("log_linear", [False, True])
@pytest.mark.parametrize("missing", [[20], [10, 20], [20, 21, 22], [1], [58], list(range(5, 30))])
def test_a_gap_belongs_to_no_pixel(log_linear, missing):
    whole = 10 ** (3.7 + 1e-4 * np.arange(60)) if log_linear else 5000 + 0.5 * np.arange(60)
    kept = np.setdiff1d(np.arange(60), missing)
    every = np.stack(pixel_bounds(whole, log_linear=log_linear))
    np.testing.assert_allclose(np.stack(pixel_bounds(whole[kept], log_linear=log_linear)), every[:, kept], rtol=1e-12)


def test_chips_of_different_pixels():
    """Beside a gap pixels are as wide as those of their own chip; where only the step changes there is no gap."""
    wavelength = np.concatenate([5000 + 0.1 * np.arange(20), 5100 + 0.3 * np.arange(20)])
    lower, upper = pixel_bounds(wavelength)
    np.testing.assert_allclose(upper - lower, np.repeat([0.1, 0.3], 20), rtol=1e-9)
    joined = np.concatenate([5000 + 0.1 * np.arange(20), 5001.9 + 0.3 * np.arange(1, 20)])
    lower, upper = pixel_bounds(joined)
    np.testing.assert_array_equal(lower[1:], upper[:-1])
    grid = grid_of(wavelength)
    assert grid.edges.shape == (41,)
    assert cells(grid.edges[:-1], grid.upper).pixel.tolist() == [*range(20), -1, *range(20, 40)]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("apogge", "no grid 'apogge'.*Did you mean 'apogee'"),
        ("zzz", "there are apogee, boss"),
        ((5000, 4000, 1), "first < last"),
        ((5000, 6000, 0), "step > 0"),
        ((5000, 6000, -1), "step > 0"),
        ((-5000, 6000, 1), "0 < first"),
        ((5000, np.nan, 1), "first < last"),
        ((5000, 6000, 2000), "fewer than two"),
        ((5000, 6000, 1, "log"), "fewer than two.*log10"),
        ((5000, 6000, 1e-9), f"1000000000001 pixels: it must have 2 to {MOST_PIXELS}"),
        ((5000, 6000), "first, last, step"),
        ((5000, 6000, 1, "ln"), "first, last, step"),
        ((5000, "x", 1), "must be numbers"),
        ([], "two pixels or more"),
        ([5000.0], "two pixels or more"),
        (np.ones((2, 2)), "two pixels or more"),
        (None, "two pixels or more"),
        ([5000.0, 5001.0, 5001.0], "after 5001.0 at pixel 1 comes 5001.0"),
        ([5002.0, 5001.0], "rise throughout"),
        ([5000.0, np.nan], "got nan at pixel 1"),
        ([0.0, 1.0], "got 0.0 at pixel 0"),
        (["a", "b"], "numbers"),
    ],
)
def test_refused(what, message):
    with pytest.raises(ValueError, match=message):
        grid_of(what)


def test_refused_by_hand():
    with pytest.raises(ValueError, match=r"edges must have shape \(4,\)"):
        Grid([1.0, 2, 3], [0.5, 1.5, 2.5])
    with pytest.raises(ValueError, match=r"pixel 1 at 2\.0 Angstrom"):
        Grid([1.0, 2, 3], [0.5, 1.5, 1.9, 3.5])
    with pytest.raises(ValueError, match="medium"):
        Grid([1.0, 2, 3], [0.5, 1.5, 2.5, 3.5], medium="water")
    with pytest.raises(ValueError, match="read-only"):
        grid_of("lamost").wavelength[0] = 1
