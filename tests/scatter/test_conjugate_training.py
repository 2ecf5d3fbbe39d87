"""Training in closed form on a part of the stars: against fits without a star, least squares and simulated spectra."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import chi2

from bayes_cannon.core.terms import Terms
from bayes_cannon.core.vectorizer import PolynomialVectorizer
from bayes_cannon.scatter import Full
from bayes_cannon.scatter.conjugate_training import Directions, leading_directions, left_out, train_part
from bayes_cannon.scatter.usable_pixels import completed
from bayes_cannon.training.problem import PixelProblem

EXPONENTS = PolynomialVectorizer(("A", "B"), 1).exponents
QUOTED = 0.01


class Case:
    """Spectra whose covariance is ``(0.4 + 0.6 g) T``, g being their quoted noise; T has no more than `n_factors`."""

    def __init__(self, n_stars: int, n_pixels: int = 8, *, nu=np.inf, spread=0.0, n_factors: int | None = None, seed=0):
        rng, fixed = np.random.default_rng(seed), np.random.default_rng(1)
        self.terms = Terms(EXPONENTS, rng.normal(size=(n_stars, 2)))
        self.theta = np.column_stack([np.ones(n_pixels), fixed.normal(0, 0.05, (n_pixels, 2))])
        root = QUOTED * fixed.normal(0, 1, (n_pixels, n_factors or n_pixels))
        self.covariance = root @ root.T + (0.5 * QUOTED) ** 2 * np.eye(n_pixels)
        level = np.exp(rng.normal(0, spread, n_stars))
        self.level = level / level.mean()
        tau = np.ones(n_stars) if np.isinf(nu) else rng.gamma(nu / 2, 2 / nu, n_stars)
        noise = rng.multivariate_normal(np.zeros(n_pixels), self.covariance, n_stars)
        self.c = 0.4 + 0.6 * self.level
        flux = self.terms.design @ self.theta.T + noise * np.sqrt(self.c / tau)[:, None]
        ivar = np.tile(1 / (QUOTED**2 * self.level[:, None]), n_pixels)
        self.problem = PixelProblem.unbounded(self.terms, flux, ivar)

    def part(self, scatter: Full, share: np.ndarray | None = None, problem: PixelProblem | None = None):
        problem = self.problem if problem is None else problem
        share = np.ones(len(problem.flux)) if share is None else share
        return train_part(problem, share, leading_directions(problem, scatter.share), scatter)

    def relative(self, covariance: np.ndarray) -> np.ndarray:
        """Eigenvalues in the metric of the truth, which are one where both are the same."""
        root = np.linalg.inv(np.linalg.cholesky(self.covariance))
        return np.linalg.eigvalsh(root @ covariance @ root.T)


PLAIN, HEAVY = Full(shrinkage=0.0, share=0.0), Full(shrinkage=0.0, share=0.0, heavy_tails=True)


def test_residual_of_a_star_is_that_by_all_others():
    case, rng = Case(30, spread=0.5), np.random.default_rng(2)
    weight, c = rng.uniform(0.1, 1, 30), rng.uniform(0.5, 2, 30)
    design, z = case.terms.design, case.problem.flux
    gain, inverse, residual = left_out(design, z, weight, c)
    whole = np.linalg.solve(design.T @ (weight[:, None] * design), design.T @ (weight[:, None] * z))
    assert_allclose(gain @ z, whole, rtol=1e-9)
    assert_allclose(inverse, np.linalg.inv(design.T @ (weight[:, None] * design)), rtol=1e-9, atol=1e-12)
    for star in range(30):
        others = np.arange(30) != star
        v, w = design[others], weight[others]
        a = np.linalg.inv(v.T @ (w[:, None] * v))
        theta = a @ (v.T @ (w[:, None] * z[others]))
        expected = (z[star] - design[star] @ theta) / np.sqrt(c[star] + design[star] @ a @ design[star])
        assert_allclose(residual[star], expected, rtol=1e-8)


def test_theta_and_its_covariance_are_those_of_weighted_least_squares():
    case, share = Case(150, spread=0.6), np.random.default_rng(3).uniform(0.1, 1, 150)
    part = case.part(PLAIN, share)
    learned = part.learned
    # The weights of the last round are those of the round before, within the change at which the rounds end.
    w = share / (learned.constant + learned.slope * case.level)
    design = case.terms.design
    inverse = np.linalg.inv(design.T @ (w[:, None] * design))
    assert_allclose(part.theta_covariance, inverse, rtol=0.02, atol=0.02 * inverse.max())
    theta = inverse @ design.T @ (w[:, None] * case.problem.flux)
    assert_allclose(part.theta, theta.T, rtol=0, atol=0.02 * QUOTED)


def test_theta_of_stars_with_heavy_tails_is_right():
    """The constant is a hundred times the noise: weights that do not belong together would show."""
    case = Case(400, nu=3.0)
    part = case.part(HEAVY)
    error = np.sqrt(np.outer(np.diagonal(case.covariance), np.diagonal(part.theta_covariance)))
    off = (part.theta - case.theta) / error
    assert 0.5 < np.sqrt(np.mean(off**2)) < 1.6  # Of 24 coefficients, which are correlated.


def test_covariance_of_normal_spectra_is_recovered():
    case = Case(2000)
    part = case.part(PLAIN)
    values = case.relative(part.learned.covariance)
    # Eigenvalues of a sample covariance of 8 directions and 2000 stars are within 2 sqrt(8 / 2000) of one.
    assert_allclose(values, 1.0, rtol=0, atol=2 * np.sqrt(8 / 2000) + 0.02)
    assert np.isinf(part.learned.nu)
    assert (part.learned.constant, part.learned.slope) == (1.0, 0.0)


def test_covariance_and_tails_of_student_t_spectra_are_recovered():
    case = Case(2000, nu=5.0)
    part = case.part(HEAVY)
    assert_allclose(part.learned.nu, 5.0, rtol=0.15)  # Its error is about five per cent.
    assert_allclose(case.relative(part.learned.covariance), 1.0, rtol=0, atol=0.2)


@pytest.mark.parametrize("scatter", [PLAIN, HEAVY], ids=["normal", "heavy"])
def test_growth_with_the_noise_is_recovered(scatter):
    case = Case(1500, spread=1.0, nu=6.0 if scatter.heavy_tails else np.inf)
    learned = case.part(scatter).learned
    share = learned.slope / (learned.constant + learned.slope)
    assert_allclose(share, 0.6, rtol=0, atol=0.1)
    grown = learned.constant + learned.slope * case.level
    assert_allclose(np.mean(1 / grown), 1.0, rtol=1e-6)
    scale = grown.mean() / case.c.mean()
    assert_allclose(case.relative(scale * learned.covariance), 1.0, rtol=0, atol=0.2)


@pytest.mark.parametrize("scatter", [PLAIN, HEAVY, Full(share=0.6)], ids=["normal", "heavy", "few directions"])
def test_bad_number_is_replaced_and_does_no_harm(scatter):
    case = Case(200, n_factors=3 if scatter.share else None, nu=5.0 if scatter.heavy_tails else np.inf)
    clean = case.part(scatter)
    flux, ivar = case.problem.flux.copy(), case.problem.ivar.copy()
    stars, pixels = np.arange(0, 200, 10), np.arange(20) % 8
    flux[stars, pixels] = 50.0
    ivar[stars, pixels] = 1e-10
    found = case.part(scatter, problem=PixelProblem.unbounded(case.terms, flux, ivar))
    assert np.linalg.matrix_rank(found.learned.factors) == np.linalg.matrix_rank(clean.learned.factors)
    error = np.sqrt(np.outer(np.diagonal(case.covariance), np.diagonal(clean.theta_covariance)))
    assert np.abs((found.theta - clean.theta) / error).max() < 0.7  # A tenth of the stars miss a number.
    ratio = np.diagonal(found.learned.covariance) / np.diagonal(clean.learned.covariance)
    assert_allclose(ratio, 1.0, rtol=0, atol=0.15)


def test_what_good_numbers_make_of_bad_ones_is_that_of_the_whole_covariance():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(40, 6)))[0]
    covariance = 5 * np.cov(rng.normal(size=(6, 50)))
    flux, model = rng.normal(size=(2, 20, 40))
    bad = rng.random(flux.shape) < 0.2
    bad[3], bad[5] = True, False
    whole = basis @ (np.linalg.inv(covariance) - np.eye(6)) @ basis.T + np.eye(40)
    residual, spread, _ = completed(flux - model, bad, whole)
    flux[bad] = np.nan
    found = Directions(np.arange(40), np.ones(40), basis, np.ones(6)).filled(flux, bad, model, covariance)
    assert_allclose(found[0], model + residual, rtol=0, atol=1e-12)
    assert_allclose(found[1], basis.T @ spread @ basis, rtol=0, atol=1e-12)


def test_fewer_stars_than_directions_work_by_shrinkage():
    case = Case(30, n_pixels=40)
    part = case.part(Full(share=0.0))
    values = np.linalg.eigvalsh(part.learned.covariance)
    assert values.min() > 0
    assert np.isfinite(part.theta).all()
    ratio = np.diagonal(part.learned.covariance) / np.diagonal(case.covariance)
    assert_allclose(np.median(ratio), 1.0, rtol=0, atol=0.5)


def test_shrinkage_of_few_stars_keeps_what_labels_are_read_from():
    """The variance of labels of other stars: of all of them by the true covariance, and by those of 80 stars."""
    case, others = Case(80, 60, n_factors=5), Case(4000, 60, n_factors=5, seed=5)
    slopes, residual = case.theta[:, 1:], others.problem.flux - others.terms.design @ case.theta.T

    def variance(covariance: np.ndarray) -> float:
        pulled = np.linalg.solve(covariance, slopes)
        errors = np.linalg.solve(slopes.T @ pulled, pulled.T @ residual.T)
        return np.sqrt(np.linalg.det(errors @ errors.T / len(residual)))

    chosen, none = (case.part(scatter).learned.covariance for scatter in (Full(share=0.0), PLAIN))
    assert variance(case.covariance) < variance(chosen) < 1.6 * variance(case.covariance)
    assert variance(chosen) < 0.5 * variance(none)


def test_variance_of_labels_by_a_covariance_of_few_stars_is_that_of_others():
    """By least squares with the covariance that was learned, of stars that had no part in it."""
    case, others = Case(90, 60, n_factors=3), Case(4000, 60, n_factors=3, seed=5)
    part = case.part(PLAIN)
    precision, slopes = np.linalg.inv(part.learned.covariance), part.theta[:, 1:]
    residual = others.problem.flux - others.terms.design @ part.theta.T
    gradient, information = residual @ precision @ slopes, slopes.T @ precision @ slopes
    h = np.sum((others.terms.design @ part.theta_covariance) * others.terms.design, axis=1)
    pull = np.sum(gradient @ np.linalg.inv(information) * gradient, axis=1) / (1 + h)
    expected = np.median(pull) / chi2.median(2)
    assert expected > 2
    # The median of 90 stars has an error of a sixth, and their spectra are used together.
    assert_allclose(part.learned.label_variance, expected, rtol=0.4)
    assert_allclose(Case(2000).part(PLAIN).learned.label_variance, 1.0, rtol=0, atol=0.1)


def test_half_a_star_twice_is_a_star():
    case = Case(60, seed=4)
    twice = np.arange(60) < 20
    share = np.where(twice, 1.0, 0.5)
    rows = np.concatenate([np.arange(60), np.flatnonzero(twice)])
    one = case.part(PLAIN, share)
    problem = PixelProblem.unbounded(Terms(EXPONENTS, case.terms.x[rows]), *(
        array[rows] for array in (case.problem.flux, case.problem.ivar)
    ))  # fmt: skip
    two = case.part(PLAIN, np.full(80, 0.5), problem)
    assert_allclose(two.theta, one.theta, rtol=1e-10)
    assert_allclose(two.theta_covariance, one.theta_covariance, rtol=1e-10, atol=1e-14)


def test_star_with_next_to_no_share_does_not_count():
    case = Case(80)
    share = np.where(np.arange(80) < 60, 1.0, 1e-9)
    few = PixelProblem.unbounded(case.terms.of_stars(share == 1), case.problem.flux[:60], case.problem.ivar[:60])
    assert_allclose(case.part(PLAIN, share).theta, case.part(PLAIN, problem=few).theta, rtol=1e-6)


def test_part_is_the_whole_where_all_stars_belong_to_it():
    case = Case(120)
    scatter = Full(heavy_tails=True, share=0.0)
    ground = scatter.common_ground(case.problem)
    part = scatter.fit_part(case.problem, np.full(120, 0.3), ground)
    whole = train_part(case.problem, np.ones(120), ground, scatter)
    assert_allclose(part.theta, whole.theta, rtol=1e-12)
    assert_allclose(part.learned.covariance, whole.learned.covariance, rtol=1e-12)


def test_directions_of_more_than_a_share_of_the_noise():
    case = Case(300, n_factors=3)
    ground = leading_directions(case.problem, 0.6)
    assert ground.basis.shape == (8, 3)
    assert_allclose(ground.basis.T @ ground.basis, np.eye(3), atol=1e-12)
    assert_allclose(ground.noise, QUOTED, rtol=1e-9)


def test_incomplete_spectra_are_named():
    case = Case(40)
    ivar = case.problem.ivar.copy()
    ivar[3, 2] = 0.0
    with pytest.raises(ValueError, match="pixel 2 of star 3"):
        leading_directions(PixelProblem.unbounded(case.terms, case.problem.flux, ivar), 0.05)


def test_what_replaces_bad_numbers_makes_no_directions():
    """Spectra that are sums of few functions, some numbers marked as bad: no direction more, the covariance right."""
    case = Case(600, 30, n_factors=4, seed=3)
    root = QUOTED * np.random.default_rng(1).normal(0, 1, (30, 4))
    flux = case.terms.design @ case.theta.T + np.random.default_rng(4).normal(size=(600, 4)) @ root.T
    ivar = np.full(flux.shape, QUOTED**-2.0)
    whole = PixelProblem.unbounded(case.terms, flux, ivar)
    marked = ivar.copy()
    marked[:120, 20:] = 1e-10
    bad = np.where(marked < 1, 5.0, flux)
    damaged = PixelProblem.unbounded(case.terms, bad, marked)
    scatter = Full(shrinkage=0.0, share=0.01)
    assert leading_directions(whole, scatter.share).basis.shape == (30, 4)
    assert leading_directions(damaged, scatter.share).basis.shape == (30, 4)
    one, other = (case.part(scatter, problem=problem) for problem in (whole, damaged))
    for part in (one, other):
        found = part.learned.factors @ part.learned.factors.T
        assert_allclose(found, root @ root.T, atol=0.2 * np.abs(root @ root.T).max())
    assert_allclose(other.theta, one.theta, atol=0.3 * QUOTED)
