"""The sums that are interpolated along s^2, and what is concluded from them, against the same sums over the data."""

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize_scalar

from bayes_cannon.core.moments import MomentBasis
from bayes_cannon.training.profile.blocks import Pixels, Training
from bayes_cannon.training.profile.gram_interpolation import sums_at_nodes
from bayes_cannon.training.profile.joint_newton import Schedule, _damped, exact_certificate, joint_newton
from bayes_cannon.training.profile.residuals import interpolated_sums, residual_sums
from bayes_cannon.training.profile.scan import _lowest_point, scan, sums_on_grid
from bayes_cannon.training.profile.settings import SETTINGS, Tolerances
from bayes_cannon.vectorizer import PolynomialVectorizer

N_STARS, N_PIXELS, SCATTER = 320, 8, 0.01
QUADRATIC = PolynomialVectorizer(("TEFF", "LOGG", "FE_H"), 2)


BASIS = MomentBasis.from_terms(QUADRATIC.exponents)
X = np.random.default_rng(0).uniform(-1, 1, (N_STARS, 3))
MOMENTS = np.prod(X[:, None] ** BASIS.exponents, axis=2)


@pytest.fixture
def terms():
    """Terms and moments of the stars."""
    return Training(QUADRATIC(X).T, MOMENTS.astype(np.float32), BASIS.pairs)


def block_with_noise(terms, ratio):
    """Pixels whose noise variances spread evenly, in logarithm, over this ratio; some stars are missing."""
    rng = np.random.default_rng(1)
    variance = 1e-4 * ratio ** (rng.random((N_PIXELS, N_STARS)) - 0.5)
    theta = rng.normal(0, 0.05, (N_PIXELS, QUADRATIC.n_terms))
    flux = 1 + theta @ terms.design.T + rng.normal(size=variance.shape) * np.sqrt(variance + SCATTER**2)
    ivar = np.where(rng.random(variance.shape) < 0.1, 0.0, 1 / variance)
    infinite = np.full(theta.shape, np.inf)
    return Pixels(flux, ivar, np.zeros(N_PIXELS), -infinite, infinite)


@pytest.mark.parametrize(("ratio", "accuracy"), [(1, 3e-6), (4, 1e-5), (16, 3e-4), (256, 1e-2), (1e4, 0.1)])
def test_interpolated_sums_against_the_data(terms, ratio, accuracy):
    block = block_with_noise(terms, ratio)
    with jax.enable_x64(True):
        sums = sums_at_nodes(terms, block, SETTINGS.n_nodes)
        for s2 in np.append(np.geomspace(1e-8, 1, 25), 0.0):
            here = np.full(N_PIXELS, s2)
            w = block.ivar / (1 + block.ivar * s2)
            scale = np.sqrt(w.sum(axis=1) * (w @ MOMENTS**2).T)
            error = np.abs(sums.at(here)[0] - (w @ MOMENTS).T) / scale
            assert error.max() < accuracy
            # No star's weight is further off than the bound says, so that no mean of them is; float32 apart.
            assert (error[0] < sums.error_bound(here) + 3e-6).all()
            logarithms = np.log1p(block.ivar * s2).sum(axis=1)
            assert_allclose(sums.log_variances(here), logarithms, atol=10 * accuracy * N_STARS)


def test_bound_is_that_of_the_worst_star(terms):
    """The weight of a star alone, interpolated by hand from the nodes as the equations of the module say."""
    block = block_with_noise(terms, 16.0)
    with jax.enable_x64(True):
        sums = sums_at_nodes(terms, block, SETTINGS.n_nodes)
        centre, kinds = np.asarray(sums.noise_scale), np.asarray(sums.relative_noise)
        nodes = 0.5 + 0.5 * np.cos(np.pi * np.arange(5) / 4)
        for s2 in (1e-6, 1e-5, 1e-4, 1e-3):
            bound = np.asarray(sums.error_bound(np.full(N_PIXELS, s2)))
            for j in range(N_PIXELS):
                known = block.ivar[j] > 0
                e, t = 1 / (block.ivar[j, known] * centre[j]) - 1, centre[j] / (centre[j] + s2)
                share = [
                    np.prod([(t - nodes[i]) / (nodes[k] - nodes[i]) for i in range(5) if i != k])
                    * np.prod(1 + nodes[k] * kinds[:, j])
                    / np.prod(1 + t * kinds[:, j])
                    for k in range(5)
                ]
                value = sum(share[k] / (1 + nodes[k] * e) for k in range(5))
                assert_allclose(bound[j], np.abs(value * (1 + t * e) - 1).max(), rtol=1e-3, atol=1e-12)


def test_interpolated_residuals_against_a_pass(terms):
    """Sums and derivatives that a step needs, away from the optimum."""
    block = block_with_noise(terms, 4.0)
    rng = np.random.default_rng(2)
    theta, s2 = rng.normal(0, 0.05, (N_PIXELS, QUADRATIC.n_terms)), np.geomspace(1e-6, 1e-3, N_PIXELS)
    with jax.enable_x64(True):
        found = interpolated_sums(terms, sums_at_nodes(terms, block, SETTINGS.n_nodes), theta, s2)
        exact = jax.vmap(lambda pixel, theta, s2: residual_sums(terms, pixel, theta, s2))(block, theta, s2)
    for name, ours, theirs in zip(exact._fields, found, exact, strict=True):
        assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3 * np.abs(theirs).max(), err_msg=name)


def test_gap_is_a_bound_on_that_with_the_exact_matrix(terms):
    """Before convergence, where the gap is far above rounding, and in pixels that the interpolation is trusted for."""
    block = block_with_noise(terms, 16.0)
    with jax.enable_x64(True):
        sums = sums_at_nodes(terms, block, SETTINGS.n_nodes)
        minima, _ = scan(terms, block, sums, sums_on_grid(block, sums), np.zeros((N_PIXELS, QUADRATIC.n_terms)))
        anywhere = Tolerances(*[np.inf] * 4)
        point = joint_newton(terms, block, sums, minima.theta[:, 0], minima.s2[:, 0], Schedule(anywhere, 0, 0))
        gap, pivot = map(np.asarray, exact_certificate(terms, MOMENTS, block, point))
        fit = point.fit.at(slice(None))
    assert (fit.iterations == 1).all()
    assert (gap > 1e-12).all()
    assert (fit.pivot > SETTINGS.trusted_pivot).all()
    assert_allclose(fit.pivot, pivot, rtol=0.01)
    assert (fit.duality_gap >= gap).all()
    # The factor that makes it a bound, and the error of the interpolated matrix.
    assert (fit.duality_gap <= 1.1 * SETTINGS.gap_factor * gap).all()


def test_gap_is_exact_where_the_noise_defies_interpolation(terms):
    block = block_with_noise(terms, 1e8)
    with jax.enable_x64(True):
        sums = sums_at_nodes(terms, block, SETTINGS.n_nodes)
        minima, _ = scan(terms, block, sums, sums_on_grid(block, sums), np.zeros((N_PIXELS, QUADRATIC.n_terms)))
        tolerances = Tolerances(1e-13, 1e-13, 1e-13, 1e-8)
        point = joint_newton(terms, block, sums, minima.theta[:, 0], minima.s2[:, 0], Schedule(tolerances, 0, 2))
        trusted = sums.error_bound(point.fit.s2) < SETTINGS.trusted_error
    assert not trusted.all()
    assert (np.asarray(point.fit.pivot)[~trusted] == 0).all()


@pytest.mark.parametrize("place", range(SETTINGS.polynomial_points))
def test_minimum_between_the_places(place):
    """That of a polynomial of the same degree, near each of the places; none beyond the first and the last."""
    rng = np.random.default_rng(place)
    lowest = place + rng.uniform(-0.4, 0.4, 6)
    curves = [lambda x, m=m: (x - m) ** 2 * (1 + 0.05 * (x - m) + 0.02 * (x - m) ** 2) for m in lowest]
    values = np.array([[curve(x) for curve in curves] for x in range(SETTINGS.polynomial_points)])
    with jax.enable_x64(True):
        offset = np.asarray(_lowest_point(values - values[place], np.full(6, place)))
    assert_allclose(offset, np.clip(lowest, 0, SETTINGS.polynomial_points - 1) - place, atol=1e-5)


def test_scan_finds_the_minimum_of_the_profile_within_a_thousandth(terms):
    """Of the exact profile, minimized by SciPy; grid values alone are a factor of 1.5 apart."""
    block = block_with_noise(terms, 4.0)
    with jax.enable_x64(True):
        sums = sums_at_nodes(terms, block, SETTINGS.n_nodes)
        minima, _ = scan(terms, block, sums, sums_on_grid(block, sums), np.zeros((N_PIXELS, QUADRATIC.n_terms)))
    for j in range(N_PIXELS):
        known = block.ivar[j] > 0
        design, flux, ivar = terms.design[known], block.flux[j, known], block.ivar[j, known]

        def profile(log_s2, design=design, flux=flux, ivar=ivar):
            w = ivar / (1 + ivar * np.exp(log_s2))
            theta = np.linalg.lstsq(np.sqrt(w)[:, None] * design, np.sqrt(w) * flux, rcond=None)[0]
            return np.sum(w * (flux - design @ theta) ** 2) - np.log(w).sum()

        best = minimize_scalar(profile, bounds=np.log([1e-6, 1e-2]), method="bounded", options={"xatol": 1e-8}).x
        assert_allclose(minima.s2[j, 0], np.exp(best), rtol=1e-3)


@pytest.mark.parametrize("regularization", [0.0, 300.0])
def test_scan_from_that_of_another_penalty_finds_the_same(terms, regularization):
    block = block_with_noise(terms, 4.0)
    with jax.enable_x64(True):
        sums = sums_at_nodes(terms, block, SETTINGS.n_nodes)
        grid, zero = sums_on_grid(block, sums), np.zeros((N_PIXELS, QUADRATIC.n_terms))
        _, before = scan(terms, block._replace(regularization=np.full(N_PIXELS, 200.0)), sums, grid, zero)
        here = block._replace(regularization=np.full(N_PIXELS, regularization))
        (alone, thetas), (again, others) = (scan(terms, here, sums, grid, zero, start) for start in (None, before))
    assert_allclose(again.s2[:, 0], alone.s2[:, 0], rtol=2e-3)
    assert_allclose(again.objective[:, 0], alone.objective[:, 0], atol=0.05)
    assert np.abs(others - thetas).mean() < 2e-3


def test_step_in_s2_knows_of_the_step_in_theta(terms):
    """For equal noise: theta away from its optimum, whose own gain in chi^2 lowers the s2 that explains the rest."""
    block = block_with_noise(terms, 1.0)
    anywhere = Tolerances(*[np.inf] * 4)
    with jax.enable_x64(True):
        sums = sums_at_nodes(terms, block, SETTINGS.n_nodes)
        minima, _ = scan(terms, block, sums, sums_on_grid(block, sums), np.zeros((N_PIXELS, QUADRATIC.n_terms)))
        end = joint_newton(terms, block, sums, minima.theta[:, 0], minima.s2[:, 0], Schedule(SETTINGS.tolerances, 0, 2))
        moved = end.fit.theta + 3e-3 * np.random.default_rng(4).normal(size=end.fit.theta.shape)
        point = joint_newton(terms, block, sums, moved, end.fit.s2, Schedule(anywhere, 0, 0))
        gain = np.asarray(point.chi_squared / end.chi_squared - 1)
    # To first order s2 + sigma^2 would be too large by the gain.
    assert gain.min() > 1e-2
    assert_allclose(point.next_s2, end.fit.s2, rtol=0.02 * gain.max())


def test_steps_in_s2_are_no_longer_than_the_spacing_of_the_scan_and_do_not_oscillate():
    small, noise_scale, s2 = SETTINGS.oscillation_step, np.ones(6), np.full(6, 3.0)
    last_step = np.array([0.0, 0.2, 0.2, 0.2, -0.2, 0.5 * small])
    step = np.array([-2.0, 0.2, -0.08, -0.2, 0.2, -0.4 * small])
    damped = _damped(4 * np.exp(step) - 1, s2, noise_scale, last_step)
    assert_allclose(np.log((1 + damped) / 4), [-SETTINGS.max_step, 0.2, -0.08, -0.1, 0.1, -0.4 * small], rtol=1e-5)
