"""The certified solver against brute force, on simulated and on real pixels, easy ones and ones with two minima."""

from dataclasses import fields, replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize_scalar

from bayes_cannon.core.status import PixelStatus
from bayes_cannon.core.terms import Terms
from bayes_cannon.training.certificate import certify
from bayes_cannon.training.problem import PixelProblem
from bayes_cannon.training.profile import solver as profile
from bayes_cannon.training.profile.block_solver import BlockSolver
from bayes_cannon.training.profile.settings import SETTINGS
from bayes_cannon.vectorizer import PolynomialVectorizer

LAMBDAS = (0.0, 30.0, 1000.0)
NAMES = ("TEFF", "LOGG", "FE_H")
QUADRATIC = PolynomialVectorizer(NAMES, 2)


def check_against(brute_force, problem, solution, pixels, tolerance=1e-8):
    best = np.array([brute_force(problem, j, n_grid=40)[0] for j in pixels])
    excess = (solution.objective[pixels] - best) / np.abs(best)
    assert excess.max() < tolerance
    assert excess.min() > -tolerance


def check_certificate(problem, solution):
    """The solver's own certificate holds, and is what the independent one finds at the returned point."""
    tolerances, interior = SETTINGS.tolerances, solution.s2 > 0
    promised = np.where(problem.regularization > 0, tolerances.gap, tolerances.unpenalized_gap)
    assert (solution.duality_gap <= promised).all()
    # The bracketed method may end with a bracket that rounding closed before the gradient was that small.
    assert np.abs(solution.profile_gradient[interior]).max(initial=0) < 10 * tolerances.profile_gradient
    assert (solution.profile_gradient[~interior] >= 0).all()
    objective, gap, gradient = certify(problem, solution.theta, solution.s2)
    assert_allclose(objective, solution.objective, rtol=1e-12)
    assert_allclose(gradient, solution.profile_gradient, atol=1e-8)
    assert gap.max() < 1e-9


@pytest.mark.parametrize("regularization", LAMBDAS)
def test_simulated_pixels(training, brute_force, regularization):
    problem = training.problem(regularization)
    solution = profile.solve(problem)
    check_against(brute_force, problem, solution, [0, int(np.argmin(training.s2))])
    check_certificate(problem, solution)


@pytest.mark.parametrize("regularization", LAMBDAS)
def test_noise_over_decades(training, brute_force, regularization):
    """Every star at its own noise, from a thousandth to a third: no single s2 suits them all."""
    rng = np.random.default_rng(1)
    problem = training.problem(regularization)
    sigma = 10 ** rng.uniform(-3, -0.5, problem.flux.shape)
    clean = problem.design @ training.theta.T
    flux = clean + np.hypot(sigma, np.sqrt(training.s2)) * rng.normal(size=sigma.shape)
    problem = replace(problem, flux=flux, ivar=1 / sigma**2)
    solution = profile.solve(problem)
    check_against(brute_force, problem, solution, [0, 1])
    check_certificate(problem, solution)


def test_few_stars_with_noise_over_decades(training, brute_force):
    """Many narrow minima; pixel 40 has one that a grid in steps of a factor of three steps over."""
    rng = np.random.default_rng(3)
    design, shape = training.problem().design, training.flux.shape
    n_stars = rng.integers(11, 200, shape[1])
    ivar = 10 ** rng.normal(4, rng.uniform(0.2, 2, shape[1]), shape)
    ivar[np.arange(shape[0])[:, None] >= n_stars] = 0
    s = 10 ** rng.uniform(-4, -1, shape[1])
    flux = design @ training.theta.T + rng.normal(size=shape) * np.sqrt(1 / np.where(ivar > 0, ivar, 1) + s**2)
    regularization = 10 ** rng.uniform(-1, 6, shape[1]) * (rng.random(shape[1]) > 0.3)
    problem = PixelProblem.unbounded(training.problem().terms, flux, ivar, regularization)
    solution = profile.solve(problem)
    check_against(brute_force, problem, solution, [40, 10, 25])
    assert solution.duality_gap.max() < 1e-8


@pytest.mark.parametrize("regularization", LAMBDAS)
def test_few_stars(training, brute_force, regularization):
    """Fourteen of the 200 stars, for ten terms; masking the others keeps the shape that is compiled."""
    ivar = np.where(np.arange(200)[:, None] < 14, training.ivar, 0.0)
    problem = replace(training.problem(regularization), ivar=ivar)
    solution = profile.solve(problem)
    check_against(brute_force, problem, solution, [0, 1])
    check_certificate(problem, solution)


@pytest.mark.slow
@pytest.mark.parametrize("regularization", [0.0, 1000.0])
def test_many_terms(brute_force, regularization):
    """Ten labels, 66 terms, of which the truth has one in six: where terms are penalized the systems are smaller."""
    rng = np.random.default_rng(5)
    names = tuple(f"X{k}_H" for k in range(10))
    vectorizer = PolynomialVectorizer(names, 2)
    x = rng.normal(0, 0.3, (250, 10))
    design = vectorizer(x).T
    theta = rng.normal(0, 0.05, (8, 66)) * (rng.random((8, 66)) < 1 / 6)
    theta[:, 0] = 1
    sigma = rng.uniform(0.003, 0.015, (250, 8))
    flux = design @ theta.T + np.hypot(sigma, 0.005) * rng.normal(size=sigma.shape)
    problem = PixelProblem.unbounded(Terms(vectorizer.exponents, x), flux, 1 / sigma**2, regularization)
    solution = profile.solve(problem)
    check_certificate(problem, solution)
    check_against(brute_force, problem, solution, [0, 5])
    n_active = (solution.theta != 0).sum(axis=1)
    assert n_active.max() < 66 if regularization else n_active.min() == 66


def two_groups(training, quiet=0.002, noisy=0.2):
    """Pixels with two minima of the profile over s2 near the Lambda where the one ceases and the other begins to win.

    Thirty stars without noise to speak of ask for all terms and no scatter; Lambda, and 170 noisy stars that the labels
    say nothing about, for no terms and as much scatter as the thirty have.
    """
    rng = np.random.default_rng(4)
    problem = training.problem()
    sigma = np.where(np.arange(200) < 30, quiet, noisy)[:, None] * np.ones((200, 60))
    theta = np.where(np.arange(10) == 0, 1.0, 0.0) + np.where(np.arange(10) == 1, 0.05, 0.0)
    flux = (problem.design @ theta)[:, None] + sigma * rng.normal(size=sigma.shape)
    return replace(problem, flux=flux, ivar=1 / sigma**2, regularization=np.geomspace(1e2, 1e6, 60))


def test_lower_of_two_minima(training, brute_force):
    problem = two_groups(training)
    solution = profile.solve(problem)
    check_certificate(problem, solution)
    pixels = [18, 21, 24, 27]
    check_against(brute_force, problem, solution, pixels)
    # A descent from either end alone is wrong somewhere, so that the test can fail.
    for end in (1e-9, 0.1):
        excess = [descend(problem, j, end) - solution.objective[j] for j in pixels]
        assert min(excess) > -1e-9
        assert max(excess) > 1


def descend(problem, j, s2):
    """Training scalar where a descent from one s2 ends, that takes turns at theta (by coordinates) and s2."""
    design, flux, ivar = problem.design, problem.flux[:, j], problem.ivar[:, j]
    lam = problem.regularization[j] / 2 * (np.arange(10) > 0)
    theta = np.where(np.arange(10) == 0, 1.0, 0.0)

    def value(s2):
        w = 1 / (1 / ivar + s2)
        return np.sum(w * (flux - design @ theta) ** 2) - np.log(w).sum() + 2 * lam @ np.abs(theta)

    for _ in range(40):
        w = 1 / (1 / ivar + s2)
        gram, right = design.T @ (w[:, None] * design), design.T @ (w * flux)
        for d in np.tile(np.arange(10), 8):
            z = right[d] - gram[d] @ theta + gram[d, d] * theta[d]
            theta[d] = np.sign(z) * max(abs(z) - lam[d], 0) / gram[d, d]
        s2 = np.exp(minimize_scalar(lambda t: value(np.exp(t)), bounds=(-21, 0), method="bounded").x)
    return value(s2)


@pytest.mark.parametrize("regularization", LAMBDAS)
def test_scatter_of_exactly_zero(simulate, training, brute_force, regularization):
    quiet = simulate(scatter=(0.0, 0.0), seed=2)
    problem = replace(training.problem(regularization), flux=quiet.flux, ivar=quiet.ivar, terms=quiet.problem().terms)
    solution = profile.solve(problem)
    assert 5 < (solution.s2 == 0).sum() < 55 or regularization == 1000
    assert_array_equal(solution.status == PixelStatus.ZERO_SCATTER, solution.s2 == 0)
    zero = np.flatnonzero(solution.s2 == 0)[:1]
    check_against(brute_force, problem, solution, zero)
    check_certificate(problem, solution)


def test_ivar_overstated_by_far_and_understated_by_far(training, brute_force):
    """Noise of nearly nothing, or of more than the flux varies."""
    for factor in (1e8, 1e-8):
        problem = replace(training.problem(), ivar=training.ivar * factor)
        solution = profile.solve(problem)
        check_against(brute_force, problem, solution, [0, 1])
        check_certificate(problem, solution)


def test_start_does_not_matter(training, assert_same):
    problem = training.problem(100.0)
    cold = profile.solve(problem)
    for start in (cold.theta, np.full((60, 10), 3.0), np.full((60, 10), np.nan)):
        assert_same(problem, profile.solve(problem, theta=start), cold)


def test_zeros_are_exact_and_those_of_brute_force(training, brute_force):
    problem = training.problem(1000.0)
    solution = profile.solve(problem)
    assert 0.2 < (solution.theta == 0).mean() < 0.9
    for j in range(2):
        assert_array_equal(solution.theta[j] == 0, brute_force(problem, j)[1] == 0)


def test_bounds_against_brute_force(training, brute_force):
    problem = training.problem()
    lower, upper = problem.lower.copy(), problem.upper.copy()
    lower[:, 1], upper[:, 2] = 0.01, -0.005
    lower[:, 3], upper[:, 3] = -0.001, 0.001
    lower[:, 5] = upper[:, 5] = 0.0
    problem = replace(problem, lower=lower, upper=upper)
    solution = profile.solve(problem)
    assert ((solution.theta >= lower) & (solution.theta <= upper)).all()
    assert (solution.theta == lower).any(axis=0)[[1, 3, 5]].all()
    check_against(brute_force, problem, solution, [0, 1])
    check_certificate(problem, solution)


def test_pixels_without_information(training):
    ivar = training.ivar.copy()
    ivar[:, 0] = 0
    ivar[9:, [1, 3]] = 0
    ivar[10:, 2] = 0
    flux = np.where(ivar > 0, training.flux, np.nan)
    finished = []
    problem = replace(training.problem(np.where(np.arange(60) == 3, 30.0, 0.0)), flux=flux, ivar=ivar)
    solution = profile.solve(problem, progress=finished.append)
    assert sum(finished) == 60
    assert solution.status[0] == PixelStatus.NO_INFORMATION
    assert solution.status[1] == PixelStatus.TOO_FEW_STARS
    assert np.isnan(solution.theta[:2]).all()
    assert np.isposinf(solution.s2[:2]).all()
    assert np.isnan(solution.objective[:2]).all()
    assert np.isfinite(solution.theta[2:]).all()
    # As many terms as stars: the fit is exact, the noise alone explains what is left, and that is a result.
    assert solution.s2[2] == 0
    assert np.abs(flux[:10, 2] - problem.design[:10] @ solution.theta[2]).max() < 1e-8
    # With a penalty fewer stars are enough.
    assert solution.status[3] in (PixelStatus.CONVERGED, PixelStatus.ZERO_SCATTER)


def test_dependent_terms_are_reported_and_still_minimized(training, brute_force):
    """Stars that share one FE_H in one pixel: its terms are dependent there, though not in the training set."""
    x = training.x
    same = np.abs(x[:, 2]) < np.sort(np.abs(x[:, 2]))[60]
    x = np.where((np.arange(3) == 2) & same[:, None], 0.125, x)
    ivar = training.ivar.copy()
    ivar[~same, 0] = 0
    problem = replace(training.problem(), terms=Terms(QUADRATIC.exponents, x), ivar=ivar)
    solution = profile.solve(problem)
    assert solution.status[0] == PixelStatus.DEGENERATE
    assert (solution.status[1:] != PixelStatus.DEGENERATE).all()
    assert np.isfinite(solution.theta).all()
    check_against(brute_force, problem, solution, [0])


@pytest.mark.shared
@pytest.mark.parametrize("regularization", LAMBDAS)
def test_real_pixels(training, shared, brute_force, regularization):
    """MILES: 200 real stars, 60 pixels across the library, noise by the library's own estimate a star."""
    with np.load(shared("data/miles.npz"), allow_pickle=False) as file:
        labels, flux, snr, wavelength = (file[name] for name in ("labels", "flux", "snr", "wavelength"))
    good = np.flatnonzero((labels[:, 0] > 4000) & (labels[:, 0] < 7000) & np.isfinite(labels).all(axis=1))[:200]
    pixels = np.linspace(500, len(wavelength) - 500, 60).astype(int)
    flux = flux[good].astype(float)
    flux = (flux / np.median(flux, axis=1, keepdims=True))[:, pixels]
    noise = np.clip(np.nan_to_num(snr[good].astype(float), nan=50.0), 10, 500)[:, None]
    low, median, high = np.percentile(labels[good], [2.5, 50, 97.5], axis=0)
    x = ((labels[good] - median) / (high - low))[:, :3]
    problem = PixelProblem.unbounded(Terms(QUADRATIC.exponents, x), flux, (noise / flux) ** 2, regularization)
    solution = profile.solve(problem)
    assert np.isin(solution.status, (PixelStatus.CONVERGED, PixelStatus.ZERO_SCATTER)).all()
    check_certificate(problem, solution)
    check_against(brute_force, problem, solution, [3, 37])


def in_blocks_of_eight(problem, strengths, *, max_unfinished=2, kind=BlockSolver):
    """A solver that leaves some of the slowest pixels of each block to the end."""
    return kind(problem, np.stack(strengths), size=8, max_unfinished=max_unfinished)


def nothing(_):
    """No report of the progress."""


def first_searches(blocks):
    """Results of the first search of all blocks."""
    n_pixels = blocks.problem.n_pixels
    return [blocks.first_search(np.arange(first, min(first + 8, n_pixels))) for first in range(0, n_pixels, 8)]


@pytest.mark.parametrize(("lambdas", "max_unfinished"), [((30.0,), 4), ((0.0, 30.0, 300.0), 2)])
def test_slow_pixels_of_all_blocks_come_last(training, assert_same, lambdas, max_unfinished):
    """Blocks of eight leave some of their slowest at each strength; the optima are those of one block."""
    problem = training.problem()
    strengths = [np.full(problem.n_pixels, value) for value in lambdas]
    blocks = in_blocks_of_eight(problem, strengths, max_unfinished=max_unfinished)
    unfinished = [result.unfinished for result in first_searches(blocks)]
    assert sum(len(starts.problems) for starts in unfinished) > 0
    assert max(len(starts.problems) for starts in unfinished) <= max_unfinished * len(lambdas)
    left = {int(j): n for starts in unfinished for j, n in zip(starts.problems, starts.iterations, strict=True)}

    tolerances, solutions = blocks.tolerances, blocks.solve(nothing)
    for k, (solution, strength) in enumerate(zip(solutions, strengths, strict=True)):
        here = replace(problem, regularization=strength)
        assert_same(here, solution, profile.solve(here))
        certified = tolerances.gap if strength.any() else tolerances.unpenalized_gap
        assert solution.duality_gap.max() <= certified
        assert np.abs(solution.profile_gradient[solution.s2 > 0]).max() <= tolerances.profile_gradient
        # Their search went on where it was.
        for j, iterations in left.items():
            if j // problem.n_pixels == k:
                assert solution.iterations[j % problem.n_pixels] > iterations


@pytest.mark.parametrize(("noise", "look"), [((0.002, 0.2), "needs_exact_gram"), ((0.006, 0.06), "second_minima")])
def test_pixels_of_several_strengths_share_a_block_in_their_second_searches(training, assert_same, noise, look):
    """Those with two minima, or noise that varies too much to interpolate, end where trainings at each strength end."""
    problem = two_groups(training, *noise)
    strengths = [factor * problem.regularization for factor in (0.5, 1.0, 2.0)]
    blocks = in_blocks_of_eight(problem, strengths)
    problems = np.concatenate([getattr(result, look).problems for result in first_searches(blocks)])
    pixels = problems % problem.n_pixels
    # Some pixel is twice among the eight of a block.
    assert any(
        len(np.unique(pixels[first : first + 8])) < len(pixels[first : first + 8]) for first in range(0, len(pixels), 8)
    )
    for solution, strength in zip(blocks.solve(nothing), strengths, strict=True):
        here = replace(problem, regularization=strength)
        assert_same(here, solution, profile.solve(here))


def test_certificate_of_pixels_that_come_last(training):
    problem = training.problem(30.0)
    (solution,) = in_blocks_of_eight(problem, [problem.regularization]).solve(nothing)
    check_certificate(problem, solution)
    assert solution.iterations.min() > 0


class WithoutFirstPixel(BlockSolver):
    """The interpolated sums of the first pixel of every block are NaN, from which no step recovers."""

    def sums(self, pixels):
        block, sums = super().sums(pixels)
        return block, sums._replace(moments=sums.moments.at[..., 0].set(np.nan))


def test_pixels_whose_search_was_lost_are_scanned_exactly(training, assert_same):
    problem = training.problem(30.0)
    blocks = in_blocks_of_eight(problem, [problem.regularization], kind=WithoutFirstPixel)
    for result in first_searches(blocks):
        assert_array_equal(result.needs_exact_gram.problems, result.problems[:1])
    (solution,) = blocks.solve(nothing)
    check_certificate(problem, solution)
    assert_same(problem, solution, profile.solve(problem))


def test_training_is_a_pure_function_of_its_data(training):
    """However often arrays are trained in a process, the result has the same bits."""
    problem = training.problem(30.0)
    first = profile.solve(problem)
    for _ in range(33):
        again = profile.solve(problem)
    for field in fields(first):
        assert_array_equal(getattr(again, field.name), getattr(first, field.name), err_msg=field.name)


def least_squares_profile(problem, s2):
    """The profile of all pixels without a penalty at each s2, by QR, shape (s2, pixel)."""
    variance = 1 / problem.ivar + s2[:, None, None]
    values = np.log(variance).sum(axis=1)
    for k, root in enumerate(1 / np.sqrt(variance)):
        q = np.linalg.qr(root.T[:, :, None] * problem.design)[0]
        y = (problem.flux * root).T
        rest = y - np.einsum("pnd,pd->pn", q, np.einsum("pnd,pn->pd", q, y))
        values[k] += (rest**2).sum(axis=1)
    return values


@pytest.mark.parametrize("n_stars", [7, 12, 24])
def test_few_stars_of_very_different_noise_end_at_the_lowest_minimum(n_stars):
    """Noise over four decades, where the profile has narrow minima; against 800 values of s2."""
    rng = np.random.default_rng(n_stars)
    vectorizer = PolynomialVectorizer(("A", "B"), 2)
    terms = Terms(vectorizer.exponents, rng.uniform(-0.5, 0.5, (n_stars, 2)))
    theta = np.column_stack([np.ones(200), rng.normal(0, 0.05, (200, 5))])
    sigma = 10 ** rng.uniform(-4, 0, (n_stars, 200))
    scatter = rng.choice([0, 0.005, 0.03], 200)
    flux = terms.design @ theta.T + np.hypot(sigma, scatter) * rng.normal(size=sigma.shape)
    problem = PixelProblem.unbounded(terms, flux, 1 / sigma**2)
    solution = profile.solve(problem)
    small, big = sigma.min(axis=0).min() ** 2, 4 * np.ptp(flux) ** 2
    values = least_squares_profile(problem, small * np.expm1(np.linspace(0, np.log1p(big / small), 800)))
    # Stars whose weights differ by eight decades may determine the terms no better than rounding.
    assert np.isin(solution.status, [0, 1, 5]).all()
    assert (solution.objective - values.min(axis=0)).max() < 1e-6
    # The certificate says how many minima there are, and the grid sees as many but for those in its gaps.
    padded = np.pad(values, [(1, 1), (0, 0)], constant_values=np.inf)
    lower = (values <= padded[:-2]) & (values <= padded[2:])
    assert np.mean(lower.sum(axis=0) == solution.n_minima) > 0.95
    two = (solution.n_minima == 2) & (lower.sum(axis=0) == 2)
    assert two.any()
    second = np.sort(np.where(lower, values, np.inf), axis=0)[1]
    assert_allclose(solution.margin[two], (second - solution.objective)[two], atol=0.02)
    assert np.isposinf(solution.margin[solution.n_minima == 1]).all()


def test_near_ties_of_two_minima_are_decided(brute_force):
    """Lambda from below to above the tie of two minima, whose depths differ by at most 0.15 N."""
    rng = np.random.default_rng(9)
    vectorizer = PolynomialVectorizer(("A", "B", "C"), 2)
    terms = Terms(vectorizer.exponents, rng.uniform(-0.6, 0.6, (100, 3)))
    sigma, scatter = 3e-3 * np.exp(rng.normal(0, 0.7, 100)), 10 ** rng.uniform(-3, -2)
    theta = np.zeros(10)
    theta[0], some = 0.9, rng.choice(9, rng.integers(1, 6), replace=False) + 1
    theta[some] = 10 ** rng.uniform(-2.2, -0.3, len(some)) * rng.choice([-1, 1], len(some))
    flux = terms.design @ theta + np.sqrt(sigma**2 + scatter**2) * rng.standard_normal(100)
    strengths = np.linspace(2075.0, 2182.0, 24)
    columns = (np.repeat(array[:, None], 24, axis=1) for array in (flux, 1 / sigma**2))
    problem = PixelProblem.unbounded(terms, *columns, strengths)
    solution = profile.solve(problem)
    check_certificate(problem, solution)
    check_against(brute_force, problem, solution, [4, 9, 11, 13, 17])
    # The margin falls to zero at the tie and grows on both sides of it.
    assert (solution.n_minima >= 2).all()
    assert solution.margin.min() < 1
    assert solution.margin[[0, -1]].min() > 5
