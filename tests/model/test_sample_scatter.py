"""Posterior of theta where the scatter is correlated between pixels, and where its tails are heavy."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import bayes_cannon as tc
from bayes_cannon.model.posterior_groups import log_likelihood, posterior_predictive
from bayes_cannon.posterior.theta import sample as posterior_pixels
from bayes_cannon.posterior.theta.density import ThetaRun
from bayes_cannon.scatter.full_training import train_full
from bayes_cannon.scatter.known_noise import train_given
from bayes_cannon.scatter.low_rank_training import train_factors
from bayes_cannon.training.profile.solver import solve

N_STARS, N_PIXELS, SIGMA = 80, 4, 0.01
OUTLIERS = np.arange(0, N_STARS, 10)


@pytest.fixture(scope="module", autouse=True)
def _small_blocks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(posterior_pixels, "PIXELS_AT_ONCE", N_PIXELS)
        yield


def untrained(scatter, *, outliers=True):
    """Linear in one label, with one latent factor; every tenth star scatters ten times as much."""
    rng = np.random.default_rng(8)
    labels = rng.uniform(4000, 6000, (N_STARS, 1))
    width = np.ones((N_STARS, 1))
    width[OUTLIERS] = 10.0 if outliers else 1.0
    shared = 0.02 * rng.normal(size=(N_STARS, 1)) * np.array([1.0, -0.7, 0.5, 0.9])
    noise = shared + 0.015 * rng.normal(size=(N_STARS, N_PIXELS))
    flux = 1 + (labels - 5000) / 2000 * rng.normal(0, 0.05, N_PIXELS) + width * noise
    vectorizer = tc.vectorizer.PolynomialVectorizer(("TEFF",), 1)
    return tc.CannonModel(labels, flux, np.full(flux.shape, SIGMA**-2), vectorizer, scatter=scatter)


@pytest.fixture(scope="module")
def model():
    model = untrained(tc.scatter.LowRank(1, heavy_tails=True))
    model.train()
    assert model.nu < 10
    return model


@pytest.fixture(scope="module")
def tree(model):
    return model.sample(method="psis", n_draws=1000)


def by_quadrature(design, flux, tau, theta_0, scale, s_scale):
    """Mean and covariance of theta, and mean of s: theta is normal at each s, and s is on a grid."""
    grid = np.linspace(1e-4, 0.1, 1500)
    log_density, means, covariances = [], [], []
    for s in grid:
        w = tau / (SIGMA**2 + s**2)
        precision, pulled = (design.T * w) @ design, design.T @ (w * flux)
        precision[0, 0] += scale**-2
        pulled[0] += theta_0 / scale**2
        covariance = np.linalg.inv(precision)
        mean = covariance @ pulled
        square = w @ flux**2 - pulled @ mean
        density = np.log(w).sum() - square - np.linalg.slogdet(precision)[1] - (s / s_scale) ** 2
        log_density.append(0.5 * density)
        means.append(mean)
        covariances.append(covariance)
    p = np.exp(log_density - np.max(log_density))
    p /= p.sum()
    mean = p @ np.array(means)
    away = np.array(means) - mean
    return mean, np.einsum("s,sde->de", p, covariances) + np.einsum("s,sd,se->de", p, away, away), p @ grid


def test_posterior_is_that_of_weighted_stars(model, tree):
    design, constant = model.design_matrix, tree["constant_data"].to_dataset()
    tau = constant["precision"].to_numpy()
    inliers = np.setdiff1d(np.arange(N_STARS), OUTLIERS)
    assert np.median(tau[OUTLIERS]) < 0.1 * np.median(tau[inliers])
    priors = [constant[name].to_numpy() for name in ("theta_0_mean", "theta_0_scale", "s_scale")]
    flux = model.training_set_flux
    for j in range(N_PIXELS):
        mean, covariance, s = by_quadrature(design, flux[:, j], tau, *(prior[j] for prior in priors))
        sd = np.sqrt(np.diag(covariance))
        got = model.posterior.covariance[j]
        # 4,000 draws, with weights.
        assert_allclose(model.posterior.mean[j], mean, atol=4 / np.sqrt(2000) * sd.min())
        assert_allclose(np.sqrt(np.diag(got)), sd, rtol=0.06)
        assert_allclose(model.posterior.s[j, 0], s, rtol=0.02)
        _, unweighted, _ = by_quadrature(design, flux[:, j], np.ones(N_STARS), *(prior[j] for prior in priors))
        assert (np.sqrt(np.diag(unweighted)) > 1.5 * sd).all()


def test_groups_on_demand_know_the_weights(model, tree):
    tau = tree["constant_data/precision"].to_numpy()
    got = log_likelihood(tree, [1])["log_likelihood/flux"].to_numpy()[0, 7, :, 0]
    theta, s = (tree[f"posterior/{name}"].to_numpy()[0, 7, 1] for name in ("theta", "s"))
    variance = (SIGMA**2 + s**2) / tau
    away = model.training_set_flux[:, 1] - model.design_matrix @ theta
    assert_allclose(got, -0.5 * (away**2 / variance + np.log(2 * np.pi * variance)))
    again = posterior_predictive(model, tree)["posterior_predictive/flux"].to_numpy()
    spread = again.std(axis=(0, 1)) * np.sqrt(tau)[:, None]
    assert_allclose(spread, np.broadcast_to(np.sqrt(SIGMA**2 + model.posterior.s2), spread.shape), rtol=0.15)
    # Spectra of other stars have tails: those of nu = 4 have a kurtosis without bound, normal ones have 3.
    new = posterior_predictive(model, tree, [[5000.0]], pixels=[0])["posterior_predictive/flux"].to_numpy().ravel()
    new = new - new.mean()
    assert np.mean(new**4) / np.mean(new**2) ** 2 > 4


@pytest.mark.parametrize(
    "scatter",
    [
        tc.scatter.LowRank(1),
        tc.scatter.LowRank(1, heavy_tails=True),
        tc.scatter.Full(shrinkage=0.1),
        tc.scatter.Full(shrinkage=0.1, heavy_tails=True),
        tc.scatter.Given(SIGMA**2 * np.eye(N_PIXELS)),
        tc.scatter.Given(SIGMA**2 * np.eye(N_PIXELS), heavy_tails=True),
    ],
    ids=str,
)
def test_sampling_starts_from_the_whole_scatter(scatter, monkeypatch):
    model = untrained(scatter, outliers=scatter.heavy_tails)
    model.train()
    kept = []

    class KeptError(Exception):
        """Ends the run once its start is known."""

    def keep(_, **arguments):
        kept.append(arguments)
        raise KeptError

    monkeypatch.setattr(ThetaRun, "from_problem", keep)
    with pytest.raises(KeptError):
        model.sample()
    ((start),) = kept
    tau = start["precision"]
    assert (tau is None) == (not scatter.heavy_tails)
    tau = np.ones(N_STARS) if tau is None else tau
    assert_allclose(tau.mean(), 1, atol=0.3)
    # The variance of what the model leaves is that of the whole scatter and the noise.
    residual = model.training_set_flux - model.design_matrix @ model.theta.T
    assert_allclose(start["s2"] + SIGMA**2, np.mean(tau[:, None] * residual**2, axis=0), rtol=0.12)


def test_weights_are_those_of_the_training():
    """They are computed from the trained model, so that a model file needs none."""
    model = untrained(tc.scatter.LowRank(1, heavy_tails=True))
    problem = model._problem()
    start = solve(problem)
    low = train_factors(
        problem, start.theta, start.s2, rank=1, heavy_tails=True
    )  # fmt: skip
    learned = tc.scatter.LowRankScatter(low.factors, low.nu)
    assert_allclose(learned.star_precisions(problem, low), low.tau, rtol=1e-8)
    full = train_full(problem, start.theta, start.s2, tc.scatter.Full(shrinkage=0.1, heavy_tails=True))
    given = train_given(problem, start.theta, start.s2, tc.scatter.Given(SIGMA**2 * np.eye(N_PIXELS), heavy_tails=True))
    for found in (full, given):
        # Of a full covariance the scale is that of stars that are held out, which the mean takes out but for nu.
        weights = found.learned.star_precisions(problem, found)
        assert_allclose(weights, found.weight / found.weight.mean(), rtol=0.1)


def test_pixels_without_solution_have_no_scatter(model):
    problem = model._problem()
    s2 = np.where(np.arange(N_PIXELS) == 2, np.inf, model.s2)
    theta = np.where(np.isfinite(s2)[:, None], model.theta, np.nan)
    fewer = replace(model._result, theta=theta, s2=s2)
    assert_array_equal(np.isinf(model.correlation.marginal_variance(problem, s2)), np.isinf(s2))
    assert np.isfinite(model.correlation.star_precisions(problem, fewer)).all()
    independent = tc.scatter.IndependentScatter()
    assert_array_equal(independent.marginal_variance(problem, s2), s2)
    assert independent.star_precisions(problem, fewer) is None
