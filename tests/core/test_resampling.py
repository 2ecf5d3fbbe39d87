import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayes_cannon.core.grids import grid_of, pixel_bounds
from bayes_cannon.core.resampling import GOOD_SHARE, INSIDE, cells, overlap_of, propagated, resample, resampled, weights
from bayes_cannon.core.wavelengths import LIGHT, air_to_vacuum, doppler_factor, vacuum_to_air


def by_double_loop(flux, ivar, bounds, new_bounds):
    """Flux and ivar by the formulas, one new pixel after the other: slow, and plain to see."""
    new_flux, new_ivar = [], []
    for low, high in zip(*new_bounds, strict=True):
        inside = covered = total = squares = 0.0
        for old_low, old_high, y, w in zip(*bounds, flux, ivar, strict=True):
            length = max(min(high, old_high) - max(low, old_low), 0.0)
            inside += length
            if w > 0:
                covered, total, squares = covered + length, total + length * y, squares + length**2 / w
        width = high - low
        usable = inside >= INSIDE * width and covered >= (GOOD_SHARE - 1e-9) * width
        new_flux.append(total / covered if usable else 0.0)
        new_ivar.append(covered**2 / squares if usable else 0.0)
    return np.array(new_flux), np.array(new_ivar)


def spectra(n_stars=3, n_pixels=80, seed=0, masked=0.1):
    rng = np.random.default_rng(seed)
    flux, ivar = rng.normal(1, 0.2, (n_stars, n_pixels)), rng.uniform(1, 100, (n_stars, n_pixels))
    bad = rng.random(flux.shape) < masked
    return np.where(bad, rng.choice([np.nan, np.inf, 1e30], flux.shape), flux), np.where(bad, 0.0, ivar)


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.floats(0.3, 7), st.floats(0, 0.3), st.booleans())
def test_formulas(seed, step, masked, log_linear):
    """Finer and coarser grids, with and without masked pixels, ends and a gap."""
    flux, ivar = spectra(2, 40, seed, masked)
    wavelength = 10 ** (3.7 + 1e-4 * np.arange(50))[np.r_[:25, 35:50]]
    grid = grid_of((5010, 5075, step))
    new = resample(flux, ivar, wavelength, grid, log_linear=log_linear)
    bounds, new_bounds = pixel_bounds(wavelength, log_linear=log_linear), (grid.edges[:-1], grid.upper)
    for n in range(len(flux)):
        expected = by_double_loop(flux[n], ivar[n], bounds, new_bounds)
        np.testing.assert_allclose(new[0][n], expected[0], rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(new[1][n], expected[1], rtol=1e-9)


@pytest.mark.parametrize("name", ["apogee", "lamost", "desi"])
def test_same_pixels_change_nothing(name):
    grid = grid_of(name)
    flux, ivar = spectra(2, grid.n_pixels)
    new_flux, new_ivar = resample(flux, ivar, grid.wavelength, grid, log_linear=name != "desi", medium="vacuum")
    np.testing.assert_array_equal(new_flux[ivar > 0], flux[ivar > 0])
    np.testing.assert_array_equal(new_flux[ivar == 0], 0)
    np.testing.assert_allclose(new_ivar, ivar, rtol=1e-15)


@given(st.floats(0.3, 9), st.floats(-200, 200))
def test_flux_is_conserved(step, velocity):
    """The sum of flux times width over whole new pixels is the integral of the old between their outer edges."""
    flux, ivar = spectra(masked=0)
    wavelength, grid = 5000.0 + np.arange(80), grid_of((5010, 5060, step))
    new, _ = resample(flux, ivar, wavelength, grid, velocity=velocity)
    edges = (wavelength[0] - 0.5 + np.arange(81)) / doppler_factor(velocity)
    cumulative = np.hstack([np.zeros((3, 1)), np.cumsum(flux, axis=1)]) / doppler_factor(velocity)
    for n in range(3):
        first, last = np.interp(grid.edges[[0, -1]], edges, cumulative[n])
        assert new[n] @ grid.width == pytest.approx(last - first, rel=1e-9)


def test_constant_and_line_are_kept():
    wavelength, ivar = 5000.0 + np.arange(80), np.full(80, 4.0)
    ivar[30] = 0
    grid = grid_of((5010, 5070, 0.7))
    flux, new_ivar = resample(np.full(80, 3.25), ivar, wavelength, grid)
    np.testing.assert_allclose(flux[new_ivar > 0], 3.25, rtol=1e-15)
    flux, _ = resample(2 * wavelength, np.ones(80), wavelength, grid_of((5010, 5070, 3)))
    np.testing.assert_allclose(flux, 2 * np.arange(5010, 5071, 3), rtol=1e-14)


@given(st.integers(0, 10**6), st.floats(0.2, 4))
def test_a_masked_pixel_never_matters(seed, step):
    flux, ivar = spectra(seed=seed)
    wavelength, grid = 5000.0 + np.arange(80), (5000, 5079, step)
    new = resample(flux, ivar, wavelength, grid)
    other = resample(np.where(ivar > 0, flux, -7.0), ivar, wavelength, grid)
    np.testing.assert_array_equal(new[0], other[0])
    np.testing.assert_array_equal(new[1], other[1])
    assert np.isfinite(new[0]).all()


@pytest.mark.parametrize(("width", "kept"), [(9.0, False), (10.0, True), (20.0, True)])
def test_good_share(width, kept):
    """A masked pixel in a new one of 9, 10 or 20: 0.89, 0.9 and 0.95 of it are good."""
    wavelength, ivar = 5000.0 + np.arange(200), np.full(200, 4.0)
    ivar[100] = 0
    flux = np.where(ivar > 0, wavelength - 5000, np.nan)
    middle = 5100 if width % 2 else 5100.5
    new_flux, new_ivar = resample(flux, ivar, wavelength, (middle, middle + width, width))
    assert (new_ivar[0] > 0) == kept
    assert new_ivar[1] == pytest.approx(4 * width)
    if kept:
        members = np.setdiff1d(wavelength[abs(wavelength - middle) < width / 2] - 5000, [100])
        assert new_flux[0] == pytest.approx(members.mean(), rel=1e-14)
        assert new_ivar[0] == pytest.approx(4 * (width - 1))


def test_ends_and_gaps_have_no_ivar():
    wavelength = np.concatenate([5000 + np.arange(20.0), 5030 + np.arange(20.0)])
    flux, ivar = resample(np.ones(40), np.ones(40), wavelength, (4998, 5052, 1))
    grid = np.arange(4998, 5053)
    np.testing.assert_array_equal(ivar > 0, np.isin(grid, wavelength))
    np.testing.assert_array_equal(flux, ivar > 0)
    _, ivar = resample(np.ones(40), np.ones(40), wavelength, (4998.5, 5052.5, 1))
    assert (ivar > 0).sum() == 38
    _, ivar = resample(np.ones(40), np.ones(40), wavelength, (6000, 6010, 1))
    assert not ivar.any()


def test_shift_is_one_interpolation():
    """A line drawn in the observed frame comes out at its wavelength at rest, with the noise of one resampling."""
    wavelength = 10 ** (4.179 + 6e-6 * np.arange(8575))
    velocity = np.array([-120.0, 0.0, 35.5, 300.0])
    line = 16000.0 * (1 + velocity[:, None] / LIGHT)
    flux = 1 - 0.5 * np.exp(-0.5 * ((wavelength - line) / 0.5) ** 2)
    flux, ivar = resample(flux, np.full(flux.shape, 25.0), wavelength, "apogee", velocity=velocity, log_linear=True)
    grid = grid_of("apogee").wavelength
    depth = np.where(ivar > 0, 1 - flux, 0)
    np.testing.assert_allclose(np.sum(depth * grid, axis=1) / np.sum(depth, axis=1), 16000, rtol=0, atol=1e-4)
    for n, v in enumerate(velocity):
        shift = np.log10(1 + v / LIGHT) / 6e-6 % 1
        np.testing.assert_allclose(ivar[n, 400:-400], 25 / (shift**2 + (1 - shift) ** 2), rtol=1e-5)


def test_order_of_stars_and_pixels():
    flux, ivar = spectra(130)
    velocity = np.random.default_rng(1).choice([-30.0, 0.0, 12.0], 130)
    wavelength, grid = 5000.0 + np.arange(80), (5005, 5070, 0.9)
    new = resample(flux, ivar, wavelength, grid, velocity=velocity)
    for n in (0, 1, 63, 64, 129):
        alone = resample(flux[n], ivar[n], wavelength[::-1][::-1], grid, velocity=velocity[n])
        assert alone[0].shape == (73,)
        np.testing.assert_array_equal(alone[0], new[0][n])
        np.testing.assert_array_equal(alone[1], new[1][n])
    turned = resample(flux[:, ::-1], ivar[:, ::-1], wavelength[::-1], grid, velocity=velocity)
    np.testing.assert_array_equal(turned[0], new[0])


def test_air_and_vacuum():
    wavelength = 5000 + 0.5 * np.arange(200)
    flux = 1 - 0.5 * np.exp(-0.5 * (wavelength - 5050) ** 2)
    in_vacuum = grid_of((5010, 5090, 0.5))
    in_vacuum = type(in_vacuum)(in_vacuum.wavelength, in_vacuum.edges, medium="vacuum")
    in_air = type(in_vacuum)(in_vacuum.wavelength, in_vacuum.edges, medium="air")
    for medium, grid, line in (
        ("air", in_vacuum, air_to_vacuum(5050.0)), ("vacuum", in_air, vacuum_to_air(5050.0)),
        ("air", in_air, 5050.0), (None, in_air, 5050.0), ("air", (5010, 5090, 0.5), 5050.0),
    ):  # fmt: skip
        new, _ = resample(flux, np.ones(200), wavelength, grid, medium=medium)
        middle = np.sum((1 - new) * in_air.wavelength) / np.sum(1 - new)
        assert middle == pytest.approx(line, abs=1e-3), (medium, grid)


@pytest.mark.parametrize("step", [0.4, 1.0, 2.7])
def test_covariance(step):
    """W diag(var) W' and W C W' against dense products, and against the spread of noise that is resampled."""
    flux, ivar = spectra(1, 60)
    wavelength, grid = 5000.0 + np.arange(60), grid_of((5004.3, 5050, step))
    overlap = overlap_of(cells(*pixel_bounds(wavelength)), grid)
    matrix = weights(overlap, ivar[0])
    new_flux, new_ivar = resample(flux, ivar, wavelength, grid)
    usable, used = new_ivar[0] > 0, ivar[0] > 0
    dense = matrix.toarray()
    np.testing.assert_allclose(dense.sum(axis=1), usable, rtol=1e-14)
    assert not dense[:, ~used].any()
    np.testing.assert_allclose(dense[:, used] @ flux[0, used], new_flux[0], rtol=1e-13)
    variance = np.where(used, 1 / np.where(used, ivar[0], 1), np.nan)
    covariance = propagated(matrix, variance)
    np.testing.assert_allclose(covariance.diagonal()[usable], 1 / new_ivar[0][usable], rtol=1e-12)
    far = abs(np.subtract.outer(np.arange(grid.n_pixels), np.arange(grid.n_pixels))) > 1 + 1 / step
    assert not covariance.toarray()[far].any()
    root = np.random.default_rng(3).normal(size=(60, 60))
    given = root @ root.T
    given[~used] = given[:, ~used] = np.nan
    expected = dense[:, used] @ given[np.ix_(used, used)] @ dense[:, used].T
    np.testing.assert_allclose(propagated(matrix, given), expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(propagated(matrix, np.diag(variance)), covariance.toarray(), rtol=1e-12, atol=1e-15)


def test_noise_has_that_covariance():
    rng = np.random.default_rng(0)
    wavelength, grid, ivar = 5000.0 + np.arange(30), grid_of((5004.3, 5020, 0.6)), rng.uniform(1, 9, 30)
    noise = rng.normal(size=(40_000, 30)) / np.sqrt(ivar)
    new, _ = resample(noise, np.broadcast_to(ivar, noise.shape), wavelength, grid)
    matrix = weights(overlap_of(cells(*pixel_bounds(wavelength)), grid), ivar)
    expected = propagated(matrix, 1 / ivar).toarray()
    error = np.sqrt((expected**2 + np.outer(expected.diagonal(), expected.diagonal())) / len(noise))
    assert (abs(np.cov(new.T) - expected) < 5 * error).all()


def test_tiny_and_huge_ivar():
    wavelength, grid = 5000.0 + np.arange(6), (5001.5, 5003.5, 1)
    for ivar in (1e-310, 1e-300, 1e-150, 1e150, 1e300):
        new_flux, new_ivar = resample(np.ones(6), np.full(6, ivar), wavelength, grid)
        assert np.isfinite(new_flux).all()
        assert np.isfinite(new_ivar).all()
        if ivar > 1e-308:
            np.testing.assert_allclose(new_ivar, 2 * ivar, rtol=1e-14)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wavelength": [5000.0, 5001.0]}, "wavelength has 2 pixels, flux 4"),
        ({"wavelength": [5000.0, 5002.0, 5001.0, 5003.0]}, "rise throughout.*orders one by one"),
        ({"ivar": [1.0, -1.0, 1.0, 1.0]}, "ivar must be finite and not negative"),
        ({"flux": [1.0, np.nan, 1.0, 1.0]}, "flux must be finite where ivar is positive"),
        ({"flux": [[1.0] * 4] * 2}, "same shape"),
        ({"velocity": np.nan}, "velocities must be finite"),
        ({"velocity": [1.0, 2.0]}, r"velocity has shape \(2,\): give one number, or one for each of 1"),
        ({"grid": "nonsense"}, "no grid 'nonsense'"),
        ({"medium": "water"}, "medium must be 'vacuum', 'air' or None"),
    ],
)
def test_refused(change, message):
    given = {
        "flux": np.ones(4),
        "ivar": np.ones(4),
        "wavelength": 5000.0 + np.arange(4),
        "grid": (5000, 5003, 1),
    } | change
    grid = given.pop("grid")
    with pytest.raises(ValueError, match=message):
        resample(given.pop("flux"), given.pop("ivar"), given.pop("wavelength"), grid, **given)


def test_no_spectra():
    flux, ivar = resampled(np.empty((0, 4)), np.empty((0, 4)), iter(()))
    assert flux.shape == ivar.shape == (0, 0)
