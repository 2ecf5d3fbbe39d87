"""The scale of a star's covariance by its noise and its labels: simulated from the family itself, and chosen or not."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import check_grad

from bayes_cannon.core.terms import Terms
from bayes_cannon.core.vectorizer import PolynomialVectorizer
from bayes_cannon.scatter import Full
from bayes_cannon.scatter.conjugate_training import leading_directions, train_part
from bayes_cannon.scatter.full_training import train_full
from bayes_cannon.scatter.selection import default_candidates, scatter_path
from bayes_cannon.scatter.star_scale import StarScale, Unseen, _loss, fitted_scale
from bayes_cannon.training.problem import PixelProblem

EXPONENTS = PolynomialVectorizer(("A", "B"), 1).exponents
BETA = np.array([0.8, -0.4])
QUOTED, N_PIXELS, NU = 0.01, 8, 6.0
TRUE = {"nu": NU, "share": 0.6, "beta": BETA}


def problem_of(n_stars: int, beta: np.ndarray, seed: int = 0, spread: float = 0.7, nu: float = NU) -> PixelProblem:
    """Spectra of 8 pixels with the covariance ``exp(beta . x) (0.4 + 0.6 g) T`` and heavy tails."""
    rng, fixed = np.random.default_rng(seed), np.random.default_rng(1)
    terms = Terms(EXPONENTS, rng.normal(0, 0.6, (n_stars, 2)))
    theta = np.column_stack([np.ones(N_PIXELS), fixed.normal(0, 0.05, (N_PIXELS, 2))])
    root = QUOTED * fixed.normal(0, 1, (N_PIXELS, N_PIXELS))
    covariance = root @ root.T + (0.5 * QUOTED) ** 2 * np.eye(N_PIXELS)
    level = np.exp(rng.normal(0, spread, n_stars))
    level /= level.mean()
    tau = np.ones(n_stars) if np.isinf(nu) else rng.gamma(nu / 2, 2 / nu, n_stars)
    noise = rng.multivariate_normal(np.zeros(N_PIXELS), covariance, n_stars)
    c = np.exp(terms.x @ beta) * (0.4 + 0.6 * level)
    flux = terms.design @ theta.T + noise * np.sqrt(c / tau)[:, None]
    return PixelProblem.unbounded(terms, flux, np.tile(1 / (QUOTED**2 * level[:, None]), N_PIXELS))


def learned_of(problem: PixelProblem, scatter: Full, closed_form: bool):
    if closed_form:
        return train_part(
            problem, np.ones(len(problem.flux)), leading_directions(problem, scatter.share), scatter
        ).learned
    start = np.linalg.lstsq(problem.design, problem.flux, rcond=None)[0].T
    return train_full(problem, start, np.zeros(N_PIXELS), scatter).learned


def unseen(n_stars: int, beta: np.ndarray, seed: int = 0) -> Unseen:
    rng = np.random.default_rng(seed)
    x, levels = rng.normal(size=(n_stars, 2)), np.exp(rng.normal(size=n_stars))
    c = np.exp(x @ beta) * (0.4 + 0.6 * levels)
    chi_squared = 1.7 * c * rng.chisquare(N_PIXELS, n_stars) / rng.gamma(NU / 2, 2 / NU, n_stars)
    return Unseen(chi_squared, rng.normal(size=n_stars), rng.uniform(0.1, 1, n_stars), levels, x, N_PIXELS)


@pytest.mark.parametrize("heavy_tails", [False, True])
def test_gradient_is_that_of_the_likelihood(heavy_tails):
    stars, at = unseen(200, BETA), np.array([0.3, 1.2, 0.5, 0.2, -0.3])
    assert check_grad(lambda x: _loss(x, stars, heavy_tails)[0], lambda x: _loss(x, stars, heavy_tails)[1], at) < 1e-5


def test_scale_of_unseen_stars_is_recovered():
    stars = unseen(4000, BETA)
    fit = fitted_scale(stars, heavy_tails=True, label_scale=True)
    growth = fit.growth
    # A star tells ln c to about the root of 2 (nu + n + 2) / (n nu), which is 0.8.
    assert_allclose(growth.beta, BETA, atol=0.06)
    assert_allclose(growth.slope / (growth.constant + growth.slope), 0.6, atol=0.06)
    assert_allclose(fit.nu, NU, rtol=0.15)
    assert_allclose(np.average(1 / growth.of(stars.levels, stars.x), weights=stars.share), 1.0, rtol=1e-12)
    assert fit.wants_labels
    assert fit.gain > 100


def test_labels_are_not_wanted_where_they_make_no_difference():
    wanted = [
        fitted_scale(unseen(500, 0 * BETA, k), heavy_tails=True, label_scale=True).wants_labels for k in range(40)
    ]
    # Twice the gain is a chi^2 of two: more than eight once in 55 times.
    assert np.sum(wanted) <= 3


def test_scale_without_labels_is_that_of_the_noise():
    assert_allclose(StarScale(0.4, 0.6).of(np.array([1.0, 2.0]), np.zeros((2, 3))), [1.0, 1.6])


@pytest.mark.parametrize("closed_form", [False, True], ids=["full", "closed form"])
@pytest.mark.parametrize("heavy_tails", [False, True], ids=["normal", "heavy"])
def test_training_recovers_the_family(closed_form, heavy_tails):
    problem = problem_of(1500, BETA, nu=NU if heavy_tails else np.inf)
    scatter = Full(shrinkage=0.0, heavy_tails=heavy_tails, share=0.0, label_scale=True)
    learned = learned_of(problem, scatter, closed_form)
    # The scatter of x is 0.6, and that of ln c of a star at most 0.8.
    assert_allclose(learned.label_scale, BETA, atol=4 * 0.8 / 0.6 / np.sqrt(1500))
    assert_allclose(learned.slope / (learned.constant + learned.slope), 0.6, atol=0.1)
    if heavy_tails:
        assert_allclose(learned.nu, NU, rtol=0.2)


@pytest.mark.parametrize("closed_form", [False, True], ids=["full", "closed form"])
def test_scale_that_is_not_wanted_is_not_there(closed_form):
    problem = problem_of(600, 0 * BETA, seed=4)
    on, off = (learned_of(problem, Full(0.0, True, 0.0, label_scale), closed_form) for label_scale in (True, False))
    assert on.label_scale is None
    assert_allclose(on.factors, off.factors)
    assert (on.nu, on.constant, on.slope) == (off.nu, off.constant, off.slope)


@pytest.mark.slow
@pytest.mark.parametrize("beta", [BETA, 0 * BETA], ids=["labels count", "labels do not"])
def test_held_out_stars_choose(beta):
    problem = problem_of(1000, beta, seed=2)
    path = scatter_path(problem, default_candidates(problem)[-2:])
    assert path.candidates[-1].label_scale
    gain = np.nansum(path.log_likelihood[-1] - path.log_likelihood[-2])
    if beta.any():
        assert path.best == path.candidates[-1]
        assert gain > 20
    else:
        assert path.best == path.candidates[-2]
        assert gain > -3


def test_text_is_that_of_files_where_it_is_off():
    assert repr(Full(heavy_tails=True)) == "Full(shrinkage=None, heavy_tails=True, share=0.05)"
    assert repr(Full(label_scale=True)) == "Full(shrinkage=None, heavy_tails=False, share=0.05, label_scale=True)"
