"""Posteriors of labels against closed forms, quadrature and simulated stars."""

from dataclasses import replace

import arviz_base
import arviz_stats  # noqa: F401 - it adds the accessor that the uniformity test is called by
import numpy as np
import numpyro.distributions as dist
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bayes_cannon.core.scaling import LabelScaling
from bayes_cannon.core.status import PosteriorStatus
from bayes_cannon.core.terms import Terms
from bayes_cannon.core.vectorizer import PolynomialVectorizer
from bayes_cannon.labelling.trained import TrainedModel
from bayes_cannon.posterior.chains import ChainSettings
from bayes_cannon.posterior.labels.chains import LABEL_CHAINS
from bayes_cannon.posterior.labels.priors import LabelPrior
from bayes_cannon.posterior.labels.sample import sample_star_labels
from bayes_cannon.scatter import IndependentScatter, LowRankScatter

NAMES = ("TEFF", "LOGG")
SCALING = LabelScaling(np.array([4800.0, 2.5]), np.array([1000.0, 3.0]))
SIGMA, N_PIXELS = 0.02, 25
LONG = replace(LABEL_CHAINS, n_draws=2000)
"""Chains whose standard deviations have errors of 1 to 2 %."""


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

    def sample(self, flux, ivar, prior="flat", bounds=None, **keywords):
        label_prior = LabelPrior.of_labels(
            prior, bounds, label_names=self.names, scaling=self.scaling, training_labels=self.scaling.unscaled(self.x)
        )
        return sample_star_labels(
            flux, ivar, trained=self.trained, prior=label_prior, **{"key": 0, "settings": LONG} | keywords
        )


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


@pytest.mark.parametrize("prior", ["flat", "gaussian"])
def test_a_linear_model_has_a_normal_posterior(linear, prior):
    flux, ivar = linear.spectra(linear.x[:8], 4)
    posterior = linear.sample(flux, ivar, prior)
    slopes = linear.theta[:, 1:3]
    precision = slopes.T @ slopes / SIGMA**2
    pulled = (flux - linear.theta[:, 0]) @ slopes / SIGMA**2
    if prior == "gaussian":
        of_prior = np.linalg.inv(np.cov(linear.x.T))
        precision, pulled = precision + of_prior, pulled + of_prior @ linear.x.mean(axis=0)
    covariance = np.linalg.inv(precision)
    assert_moments(posterior, linear, pulled @ covariance, covariance)
    correlation = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
    found = posterior.covariance / linear.scaling.unscaled_covariance(np.ones((2, 2)))
    assert_allclose(
        found[:, 0, 1] / np.sqrt(found[:, 0, 0] * found[:, 1, 1]), np.full(8, correlation), atol=5 / np.sqrt(1000)
    )
    assert_array_equal(posterior.status, PosteriorStatus.CONVERGED)


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
    posterior = one_label.sample(flux, ivar)
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


def test_heavy_tails_against_quadrature(one_label):
    nu = 3.0
    stars = Stars(one_label.theta, one_label.x, one_label.names, nu)
    flux, ivar = stars.spectra(np.array([[0.5]]), 6)
    flux[0, :4] += [0.3, -0.2, 0.25, 0.1]
    grid = np.linspace(-1.2, 1.2, 40_001)
    density = (nu + N_PIXELS) * np.log1p(chi_squared(stars, flux[0], grid) / nu)
    side = np.sign(grid) == np.sign(grid[np.argmin(density)])
    grid, density = grid[side], density[side]
    posterior = stars.sample(flux, ivar)
    mean, covariance = by_quadrature(grid, density)
    assert_moments(posterior, stars, mean, covariance)
    _, normal = by_quadrature(grid, chi_squared(stars, flux[0], grid))
    assert np.sqrt(covariance / normal) > 1.5


def test_calibrated_on_stars_drawn_from_the_prior(quadratic):
    """Simulation-based calibration: 512 stars, the prior known, theta known."""
    rng = np.random.default_rng(11)
    x = rng.multivariate_normal(quadratic.x.mean(axis=0), np.cov(quadratic.x.T), 512)
    flux, ivar = quadratic.spectra(x, 12)
    settings = ChainSettings(n_chains=4, n_warmup=50, n_draws=150, target_accept=0.8, max_tree_depth=6)
    posterior = quadratic.sample(flux, ivar, "gaussian", settings=settings)
    draws = posterior.draws[:, ::3].reshape(-1, 512, 2)
    below = (draws < quadratic.scaling.unscaled(x)).sum(axis=0)
    rank = (below + rng.uniform(size=below.shape)) / (len(draws) + 1)
    tree = arviz_base.from_dict({"prior_sbc": {"rank": rank[None]}}, dims={"rank": ["label"]})
    dataset = tree["prior_sbc"].dataset
    p_value = dataset.azstats.uniformity_test(dim=["chain", "draw"], method="pot_c")[0]["rank"].values
    assert p_value.shape == (2,)
    assert (p_value > 0.01 / 2).all()
    inside = np.abs(rank - 0.5) < 0.34
    assert_allclose(inside.mean(axis=0), 0.68, atol=4 * np.sqrt(0.68 * 0.32 / 512))


def test_bounds_end_the_posterior_and_an_excluded_mode_is_flagged(linear):
    x = np.array([[-0.1, 0.1], [0.6, 0.1], [-0.7, 0.0]])
    flux, ivar = linear.spectra(x, 7)
    low, high = linear.scaling.unscaled(np.array([[-0.2, 0.0], [0.1, 0.0]]))[:, 0]
    posterior = linear.sample(flux, ivar, bounds={"TEFF": (low, high)})
    draws = posterior.draws[..., 0]
    assert draws.min() > low
    assert draws.max() < high
    assert_array_equal(posterior.status == PosteriorStatus.MODE_EXCLUDED, [False, True, True])
    slopes = linear.theta[:, 1:3]
    precision = slopes.T @ slopes / SIGMA**2
    centre = (flux - linear.theta[:, 0]) @ slopes / SIGMA**2 @ np.linalg.inv(precision)
    sd = np.sqrt(np.linalg.inv(precision)[0, 0])
    grid = np.linspace(-0.2, 0.1, 20_001)
    for star in range(3):
        weight = np.exp(-0.5 * ((grid - centre[star, 0]) ** 2 - np.min((grid - centre[star, 0]) ** 2)) / sd**2)
        mean = weight @ grid / weight.sum()
        spread = np.sqrt(weight @ (grid - mean) ** 2 / weight.sum())
        error = linear.scaling.scale[0] * spread / np.sqrt(posterior.ess_bulk[star, 0])
        assert abs(posterior.mean[star, 0] - linear.scaling.unscaled(np.array([mean, 0]))[0]) < 4 * error


def test_a_distribution_of_the_user_equals_the_same_in_bounds(linear):
    flux, ivar = linear.spectra(np.array([[0.6, 0.1]]), 7)
    low, high = np.array([4600.0, 1.25]), np.array([4900.0, 4.0])  # Exact in single precision too.
    settings = replace(LABEL_CHAINS, kernel="hmc")  # It compiles in half of the time.
    posterior = linear.sample(flux, ivar, dist.Uniform(low, high).to_event(1), settings=settings)
    bounds = {name: ends for name, *ends in zip(NAMES, low, high, strict=True)}
    expected = linear.sample(flux, ivar, bounds=bounds, settings=settings)
    assert_allclose(posterior.draws, expected.draws, rtol=1e-6)
    assert_array_equal(posterior.status, PosteriorStatus.MODE_EXCLUDED)


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


def test_stars_without_a_posterior_are_flagged_and_nan(linear):
    flux, ivar = linear.spectra(linear.x[:8], 4)
    ivar[0], flux[0] = 0.0, np.nan
    ivar[1, 1:] = 0.0
    posterior = linear.sample(flux, ivar)
    assert_array_equal(posterior.status[:2], [PosteriorStatus.NO_INFORMATION, PosteriorStatus.IMPROPER])
    for array in (posterior.draws[:, :, :2], posterior.mean[:2], posterior.covariance[:2], posterior.r_hat[:2]):
        assert np.isnan(array).all()
    assert np.isnan(posterior.stats["lp"][..., :2]).all()
    assert_array_equal(posterior.status[2:], PosteriorStatus.CONVERGED)
    whole = linear.sample(*linear.spectra(linear.x[:8], 4))
    assert_allclose(posterior.draws[:, :, 2:], whole.draws[:, :, 2:], rtol=1e-7)
    proper = linear.sample(flux, ivar, "gaussian")
    assert_array_equal(proper.status[:2], [PosteriorStatus.NO_INFORMATION, PosteriorStatus.CONVERGED])


def test_a_label_without_influence_needs_a_prior(linear):
    theta = linear.theta.copy()
    theta[:, 2] = 0.0
    stars = Stars(theta, linear.x)
    flux, ivar = stars.spectra(linear.x[:8], 4)
    assert_array_equal(stars.sample(flux, ivar).status, PosteriorStatus.IMPROPER)
    posterior = stars.sample(flux, ivar, "gaussian")
    assert_array_equal(posterior.status, PosteriorStatus.CONVERGED)


def test_no_star_gives_an_empty_posterior(linear):
    posterior = linear.sample(np.zeros((0, N_PIXELS)), np.zeros((0, N_PIXELS)))
    assert posterior.draws.shape == (4, LONG.n_draws, 0, 2)
    assert posterior.n_stars == 0


def test_bad_input_is_refused(linear):
    flux, ivar = linear.spectra(linear.x[:8], 4)
    bad = ivar.copy()
    bad[3, 2] = -1.0
    with pytest.raises(ValueError, match=r"ivar is -1\.0 for star 3 at pixel 2"):
        linear.sample(flux, bad)
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
    assert dict(tree["posterior"]["labels"].sizes) == {"chain": 4, "draw": 500, "star": 8, "label": 3}
    assert tree["sample_stats"]["energy"].shape == (4, 500, 8)
    quantiles = summary["quantiles"].to_numpy()
    assert (quantiles[:, 0] < quantiles[:, -1]).all()
    assert_allclose(
        az.rhat(tree["posterior"].to_dataset())["labels"].to_numpy(), summary["r_hat"].to_numpy(), atol=1e-6
    )
    tree.to_netcdf(tmp_path / "labels.nc", engine="h5netcdf")
    with az.from_netcdf(tmp_path / "labels.nc") as back:
        assert_array_equal(back["summary"]["status"], summary["status"])
