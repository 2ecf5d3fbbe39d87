"""Posteriors of labels: chains, modes, statuses and refused input. The densities are tested in `test_density`."""

from dataclasses import replace

import jax
import numpy as np
import numpyro.distributions as dist
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import kstest

from bayes_cannon.core.scaling import LabelScaling
from bayes_cannon.core.status import PosteriorStatus
from bayes_cannon.core.terms import Terms
from bayes_cannon.core.vectorizer import PolynomialVectorizer
from bayes_cannon.labelling.trained import TrainedModel
from bayes_cannon.posterior.labels.priors import LabelPrior
from bayes_cannon.posterior.labels.sample import _status_without_chains, sample_star_labels
from bayes_cannon.posterior.settings import LABEL_CHAINS, ChainSettings
from bayes_cannon.scatter import IndependentScatter, LowRankScatter

NAMES = ("TEFF", "LOGG")
SCALING = LabelScaling(np.array([4800.0, 2.5]), np.array([1000.0, 3.0]))
SIGMA, N_PIXELS = 0.02, 25
LONG = replace(LABEL_CHAINS, n_draws=2000)
"""Chains whose standard deviations have errors of 1 to 2 %."""
QUICK = replace(LABEL_CHAINS, kernel="hmc")
"""Where the sampler does not matter: HMC compiles in half the time."""


class Stars:
    """A model with known theta, and what it needs to sample."""

    def __init__(self, theta, training_x, names=NAMES, nu=np.inf):
        self.names, self.theta, self.x = names, theta, training_x
        self.vectorizer = PolynomialVectorizer(names, 2)
        self.scaling = LabelScaling(SCALING.fiducial[: len(names)], SCALING.scale[: len(names)])
        scatter = IndependentScatter() if np.isinf(nu) else LowRankScatter(np.zeros((len(theta), 1)), nu)
        terms = Terms(self.vectorizer.exponents, training_x)
        self.trained = TrainedModel(theta, np.zeros(len(theta)), scatter, terms, self.scaling)

    def spectra(self, x, seed):
        flux = self.vectorizer(x).T @ self.theta.T
        flux += SIGMA * np.random.default_rng(seed).normal(size=flux.shape)
        return flux, np.full(flux.shape, SIGMA**-2)

    def prior(self, prior, bounds=None):
        return LabelPrior.of_labels(
            prior, bounds, label_names=self.names, scaling=self.scaling, training_labels=self.scaling.unscaled(self.x)
        )

    def sample(self, flux, ivar, prior="flat", bounds=None, **keywords):
        return sample_star_labels(
            flux, ivar, trained=self.trained, prior=self.prior(prior, bounds),
            **{"key": 0, "settings": QUICK} | keywords,
        )  # fmt: skip


def training_x(n_labels=2):
    return np.random.default_rng(3).multivariate_normal(np.zeros(n_labels), 0.05 * np.eye(n_labels) + 0.02, 300)


@pytest.fixture(scope="module")
def linear():
    """Two labels whose quadratic terms are zero, and the same program as the quadratic ones."""
    theta = np.zeros((N_PIXELS, 6))
    theta[:, :3] = np.random.default_rng(1).normal([1, 0, 0], [0.1, 0.03, 0.03], (N_PIXELS, 3))
    return Stars(theta, training_x())


@pytest.fixture(scope="module")
def quadratic(linear):
    theta = linear.theta.copy()
    theta[:, 3:] = np.random.default_rng(2).normal(0, 0.03, (N_PIXELS, 3))
    return Stars(theta, linear.x)


@pytest.fixture(scope="module")
def one_label():
    """Flux that hardly depends on the sign of the only label."""
    slopes = np.random.default_rng(9).normal(0, 0.015, N_PIXELS)
    theta = np.column_stack([np.ones(N_PIXELS), slopes, np.full(N_PIXELS, 0.3)])
    return Stars(theta, training_x(1), NAMES[:1])


def assert_moments(posterior, stars, mean, covariance):
    """Means within four Monte-Carlo errors, standard deviations within 5 %."""
    sd = stars.scaling.scale * np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1))
    size = posterior.ess_bulk
    assert (size > 400).all()
    assert (np.abs(posterior.mean - stars.scaling.unscaled(mean)) < 4 * sd / np.sqrt(size)).all()
    found = np.sqrt(np.diagonal(posterior.covariance, axis1=1, axis2=2))
    assert_allclose(found, np.broadcast_to(sd, found.shape), rtol=0.05)


def chi_squared(stars, flux, grid):
    """Of one star with one label at the points of a grid."""
    model = stars.vectorizer(grid[:, None]).T @ stars.theta.T
    return ((flux - model) ** 2).sum(axis=1) / SIGMA**2


def by_quadrature(grid, minus_two_log_density):
    weight = np.exp(-0.5 * (minus_two_log_density - minus_two_log_density.min()))
    weight /= weight.sum()
    mean = weight @ grid
    return np.array([mean]), np.array([[weight @ (grid - mean) ** 2]])


def test_the_second_mode_is_reported_and_not_averaged_over(one_label):
    flux, ivar = one_label.spectra(np.array([[0.25]]), 5)
    posterior = one_label.sample(flux, ivar, settings=LONG)
    grid = np.linspace(-0.8, 0.8, 20_001)
    density = chi_squared(one_label, flux[0], grid)
    best = np.argmin(density)
    side = np.sign(grid) == np.sign(grid[best])
    other = density[~side].min() - density.min()
    assert 0.5 < other < 9
    assert_allclose(posterior.mode_excess[0, 1], other, rtol=1e-4)
    assert_allclose(one_label.scaling.scaled(posterior.mode_labels[0, 0]), grid[best], atol=1e-4)
    assert_allclose(
        one_label.scaling.scaled(posterior.mode_labels[0, 1]), grid[~side][np.argmin(density[~side])], atol=1e-4
    )
    assert np.isnan(posterior.mode_excess[0, 2:]).all()
    assert posterior.status[0] == PosteriorStatus.SEVERAL_MODES
    assert_moments(posterior, one_label, *by_quadrature(grid[side], density[side]))


@pytest.mark.slow
def test_calibrated_on_stars_drawn_from_the_prior(quadratic):
    """Simulation-based calibration with 128 stars: a normal prior within bounds, and noise with heavy tails."""
    nu, n_stars, low, high = 5.0, 128, -0.2, 0.3
    stars, rng = Stars(quadratic.theta, quadratic.x, nu=nu), np.random.default_rng(11)
    x = rng.multivariate_normal(stars.x.mean(axis=0), np.cov(stars.x.T), 8 * n_stars)
    x = x[(x[:, 0] > low) & (x[:, 0] < high)][:n_stars]
    flux, ivar = stars.spectra(x, 12)
    exact = stars.vectorizer(x).T @ stars.theta.T
    flux = exact + (flux - exact) / np.sqrt(rng.gamma(nu / 2, 2 / nu, (n_stars, 1)))
    ends = stars.scaling.unscaled(np.array([[low, 0.0], [high, 0.0]]))[:, 0]
    settings = ChainSettings(n_chains=4, n_warmup=50, n_draws=150, target_accept=0.8, max_tree_depth=6)
    posterior = stars.sample(flux, ivar, "gaussian", {"TEFF": tuple(ends)}, settings=settings)
    draws = posterior.draws[:, ::3].reshape(-1, n_stars, 2)
    below = (draws < stars.scaling.unscaled(x)).sum(axis=0)
    rank = (below + rng.uniform(size=below.shape)) / (len(draws) + 1)
    assert all(kstest(column, "uniform").pvalue > 0.01 / 2 for column in rank.T)
    inside = np.abs(rank - 0.5) < 0.34
    assert_allclose(inside.mean(axis=0), 0.68, atol=4 * np.sqrt(0.68 * 0.32 / n_stars))


def test_bounds_end_the_posterior_and_an_excluded_mode_is_flagged(linear):
    x = np.array([[-0.1, 0.1], [0.6, 0.1], [-0.7, 0.0]])
    flux, ivar = linear.spectra(x, 7)
    low, high = linear.scaling.unscaled(np.array([[-0.2, 0.0], [0.1, 0.0]]))[:, 0]
    posterior = linear.sample(flux, ivar, bounds={"TEFF": (low, high)})
    draws = posterior.draws[..., 0]
    assert draws.min() > low
    assert draws.max() < high
    assert_array_equal(posterior.status == PosteriorStatus.MODE_EXCLUDED, [False, True, True])
    gradient = linear.theta[:, 1:3]
    precision = gradient.T @ gradient / SIGMA**2
    best = (flux - linear.theta[:, 0]) @ gradient / SIGMA**2 @ np.linalg.inv(precision)
    sd = np.sqrt(np.linalg.inv(precision)[0, 0])
    grid = np.linspace(-0.2, 0.1, 20_001)
    for star in range(3):
        weight = np.exp(-0.5 * ((grid - best[star, 0]) ** 2 - np.min((grid - best[star, 0]) ** 2)) / sd**2)
        mean = weight @ grid / weight.sum()
        spread = np.sqrt(weight @ (grid - mean) ** 2 / weight.sum())
        error = linear.scaling.scale[0] * spread / np.sqrt(posterior.ess_bulk[star, 0])
        assert abs(posterior.mean[star, 0] - linear.scaling.unscaled(np.array([mean, 0]))[0]) < 4 * error


def test_a_mixture_is_learned_from_the_training_labels():
    rng = np.random.default_rng(8)
    x = np.concatenate([rng.normal([-0.3, 0.2], 0.05, (200, 2)), rng.normal([0.3, -0.1], 0.1, (100, 2))])
    prior = LabelPrior.of_labels(
        "mixture", label_names=NAMES, scaling=SCALING, training_labels=SCALING.unscaled(x)
    ).distribution
    order = np.argsort(np.asarray(prior.component_distribution.loc)[:, 0])
    assert_allclose(np.asarray(prior.component_distribution.loc)[order], [[-0.3, 0.2], [0.3, -0.1]], atol=0.04)
    assert_allclose(np.asarray(prior.mixing_distribution.probs)[order], [2 / 3, 1 / 3], atol=0.02)


def test_a_star_has_the_same_draws_in_any_batch(linear):
    flux, ivar = linear.spectra(linear.x[:16], 4)
    together = linear.sample(flux, ivar, batch_size=8)
    part = linear.sample(flux[5:13], ivar[5:13], first_star=5, batch_size=8)
    assert_allclose(part.draws, together.draws[:, :, 5:13], rtol=1e-7)
    other = linear.sample(flux[5:13], ivar[5:13], first_star=5, batch_size=8, key=1)
    assert np.abs(other.draws - part.draws).max() > 1


@pytest.mark.slow
def test_draws_are_those_of_the_sizes_for_a_gpu(linear, monkeypatch):
    flux, ivar = linear.spectra(linear.x[:24], 4)
    here = linear.sample(flux, ivar)
    monkeypatch.setattr("bayes_cannon.execution.devices.is_cpu", lambda: False)
    jax.clear_caches()
    there = linear.sample(flux, ivar)
    jax.clear_caches()
    assert_allclose(there.draws, here.draws, rtol=1e-7)
    assert_array_equal(there.status, here.status)


def test_stars_without_a_posterior_are_flagged_and_nan(linear):
    flux, ivar = linear.spectra(linear.x[:8], 4)
    ivar[0], flux[0] = 0.0, np.nan
    ivar[1, 1:] = 0.0
    posterior = linear.sample(flux, ivar)
    assert_array_equal(posterior.status[:2], [PosteriorStatus.NO_INFORMATION, PosteriorStatus.IMPROPER])
    for array in (posterior.draws[:, :, :2], posterior.mean[:2], posterior.covariance[:2], posterior.r_hat[:2]):
        assert np.isnan(array).all()
    assert np.isnan(posterior.stats["lp"][..., :2]).all()
    assert np.isin(posterior.status[2:], [PosteriorStatus.CONVERGED, PosteriorStatus.RETRIED]).all()
    whole = linear.sample(*linear.spectra(linear.x[:8], 4))
    assert_allclose(posterior.draws[:, :, 2:], whole.draws[:, :, 2:], rtol=1e-7)


def test_a_label_without_influence_needs_a_prior(linear):
    theta = linear.theta.copy()
    theta[:, 2] = 0.0
    stars = Stars(theta, linear.x)
    flux, ivar = stars.spectra(linear.x[:8], 4)
    assert_array_equal(stars.sample(flux, ivar).status, PosteriorStatus.IMPROPER)


def test_a_proper_prior_needs_no_information_but_some_pixel(linear):
    hessian, used = np.zeros((3, 2, 2)), np.array([0, 1, 25])
    hessian[2] = np.eye(2)
    priors = {name: linear.prior(name) for name in ("flat", "gaussian")}
    status = {name: _status_without_chains(prior, hessian, used).tolist() for name, prior in priors.items()}
    none, improper, good = PosteriorStatus.NO_INFORMATION, PosteriorStatus.IMPROPER, PosteriorStatus.CONVERGED
    assert status == {"flat": [none, improper, good], "gaussian": [none, good, good]}


def test_no_star_gives_an_empty_posterior(linear):
    posterior = linear.sample(np.zeros((0, N_PIXELS)), np.zeros((0, N_PIXELS)))
    assert posterior.draws.shape == (4, QUICK.n_draws, 0, 2)
    assert posterior.n_stars == 0


def test_bad_input_is_refused(linear):
    flux, ivar = linear.spectra(linear.x[:8], 4)
    bad = ivar.copy()
    bad[3, 2] = -1.0
    posterior = linear.sample(flux, bad)
    assert np.flatnonzero(posterior.status == PosteriorStatus.BAD_SPECTRUM).tolist() == [3]
    assert np.isnan(posterior.draws[:, :, 3]).all()
    assert np.isfinite(np.delete(posterior.draws, 3, 2)).all()
    with pytest.raises(ValueError, match="must have shape"):
        linear.sample(flux[:, 1:], ivar[:, 1:])
    for prior in ("normal", 3):
        with pytest.raises(ValueError, match="flat, gaussian, mixture or a NumPyro distribution"):
            linear.sample(flux, ivar, prior)
    with pytest.raises(ValueError, match=r"event shape \(2,\).*to_event"):
        linear.sample(flux, ivar, dist.Normal(np.zeros(2), 1.0))
    with pytest.raises(ValueError, match="support of prior"):
        linear.sample(flux, ivar, dist.Dirichlet(np.ones(2)))
    with pytest.raises(ValueError, match="unknown labels FE_H"):
        linear.sample(flux, ivar, bounds={"FE_H": (0, 1)})
    with pytest.raises(ValueError, match="bounds of TEFF"):
        linear.sample(flux, ivar, bounds={"TEFF": (5000, 4000)})
    with pytest.raises(ValueError, match="leave nothing of LOGG"):
        linear.sample(flux, ivar, dist.Uniform(np.array([4000.0, 1.0]), np.array([5000.0, 2.0])).to_event(1),
                      bounds={"LOGG": (3, None)})  # fmt: skip
    with pytest.raises(ValueError, match="n_draws must be an integer of at least 4"):
        linear.sample(flux, ivar, settings=replace(LABEL_CHAINS, n_draws=3))
    with pytest.raises(ValueError, match="method must be one of"):
        linear.sample(flux, ivar, settings=replace(LABEL_CHAINS, kernel="gibbs"))


def test_the_model_samples_what_it_fits(trained, training, tmp_path):
    import arviz as az  # Where warnings are errors it must come after NumPyro.

    fit = trained.fit_labels(training.flux[:8], training.ivar[:8])
    seen = []
    tree = trained.sample_labels(training.flux[:8], training.ivar[:8], key=3, method="hmc", progress=seen.append)
    assert sum(seen) == 8
    sd = np.sqrt(np.diagonal(fit.covariance, axis1=1, axis2=2))
    summary = tree["summary"]
    assert (np.abs(summary["mean"].to_numpy() - fit.labels) < 0.3 * sd).all()
    assert (np.abs(summary["mode_labels"].to_numpy()[:, 0] - fit.labels) < 1e-3 * sd).all()
    assert dict(tree["posterior"]["labels"].sizes) == {"chain": 4, "draw": 500, "star": 8, "label_name": 3}
    assert tree["sample_stats"]["energy"].shape == (4, 500, 8)
    quantiles = summary["quantiles"].to_numpy()
    assert (quantiles[:, 0] < quantiles[:, -1]).all()
    assert_allclose(
        az.rhat(tree["posterior"].to_dataset())["labels"].to_numpy(), summary["r_hat"].to_numpy(), atol=1e-6
    )
    tree.to_netcdf(tmp_path / "labels.nc", engine="h5netcdf")
    with az.from_netcdf(tmp_path / "labels.nc") as back:
        assert_array_equal(back["summary"]["status"], summary["status"])
