"""Posterior moments of labels: against closed forms where chi^2 is quadratic, and against fine grids elsewhere."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from bayes_cannon.core.terms import Terms
from bayes_cannon.core.vectorizer import PolynomialVectorizer, label_factors, monomials
from bayes_cannon.execution.jax_settings import own_jax_settings
from bayes_cannon.labelling.polynomial import PolynomialTables
from bayes_cannon.posterior.labels.moments import (
    FIRST,
    SECOND,
    LabelSpace,
    MixturePrior,
    StarLikelihood,
    label_moments,
    points,
    rough_log_evidence,
)
from bayes_cannon.scatter.label_tables import Response

N_STARS, N_PIXELS = 40, 8
UNBOUNDED = np.full(2, np.inf)


class Spectra:
    """Spectra of two labels, of given order, with unit weights: ``y = Theta v(x) + noise``."""

    def __init__(self, order: int, slopes: float, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.exponents = PolynomialVectorizer(("A", "B"), order).exponents
        self.terms = Terms(self.exponents, rng.normal(size=(N_STARS, 2)))
        # Products of two labels matter a third as much as the labels themselves.
        sizes = slopes * np.where(self.exponents.sum(axis=1) > 1, 0.3, 1.0)
        self.theta = rng.normal(0, 1, (N_PIXELS, len(sizes))) * sizes
        self.truth = rng.normal(0, 1, (N_STARS, 2))
        self.flux = monomials(self.truth, self.exponents) @ self.theta.T + rng.normal(size=(N_STARS, N_PIXELS))

    def chi_squared(self, x: np.ndarray, star: int) -> np.ndarray:
        """By the pixels, at labels (point, label)."""
        return np.sum((self.flux[star] - monomials(x, self.exponents) @ self.theta.T) ** 2, axis=1)

    def likelihood(self, maximum: np.ndarray, nu: float = np.inf, theta_covariance: np.ndarray | None = None, **more):
        """Likelihoods of all stars."""
        response = Response.from_theta(self.theta, np.ones(N_PIXELS, bool), self.terms.moments)
        with own_jax_settings():
            coefficients = np.asarray(response.chi_squared(np.ones_like(self.flux), self.flux - self.theta[:, 0]))
        inside = np.zeros((self.terms.n_terms,) * 2) if theta_covariance is None else theta_covariance
        scale = more.pop("scale", np.ones(N_STARS))
        return StarLikelihood(
            coefficients, maximum, np.array(nu), np.full(N_STARS, float(N_PIXELS)), scale, inside, **more
        )

    def rough_log_evidence(self, stars: StarLikelihood, prior: MixturePrior) -> np.ndarray:
        """By Laplace's method."""
        moments = self.terms.moments
        space = LabelSpace(label_factors(self.exponents), moments.pairs, -UNBOUNDED, UNBOUNDED)
        with own_jax_settings():
            return np.asarray(
                rough_log_evidence(PolynomialTables.from_exponents(moments.exponents), stars, prior, space)
            )

    def moments(self, stars: StarLikelihood, prior: MixturePrior, low=-UNBOUNDED, high=UNBOUNDED, log_prior=None):
        """What the package finds."""
        moments = self.terms.moments.exponents
        space = LabelSpace(label_factors(self.exponents), self.terms.moments.pairs, low, high)
        with own_jax_settings():
            tables = PolynomialTables.from_exponents(moments)
            out = label_moments(tables, stars, prior, space, points(2, FIRST, SECOND), log_prior)
            return type(out)(*map(np.asarray, out))

    def linear_maximum(self) -> np.ndarray:
        """Labels of highest likelihood of a linear model."""
        return np.linalg.lstsq(self.theta[:, 1:], (self.flux - self.theta[:, 0]).T, rcond=None)[0].T


def one_normal(width: float = 1.5) -> MixturePrior:
    return MixturePrior(np.zeros(1), np.array([[0.2, -0.1]]), width**2 * np.array([[[1.0, 0.3], [0.3, 0.8]]]))


def two_normals() -> MixturePrior:
    covariances = np.array([[[0.3, 0.1], [0.1, 0.2]], [[1.0, -0.2], [-0.2, 0.7]]])
    return MixturePrior(np.log([0.6, 0.4]), np.array([[-0.8, 0.5], [0.9, -0.4]]), covariances)


def log_mixture(prior: MixturePrior, x: np.ndarray) -> np.ndarray:
    parts = [
        weight + multivariate_normal(mean, covariance).logpdf(x)
        for weight, mean, covariance in zip(*prior, strict=True)
    ]
    return logsumexp(parts, axis=0)


def on_a_grid(log_density, low=-7.0, high=7.0, n=281):
    """Mean, covariance and log integral of a density of two labels."""
    axis = np.linspace(low, high, n)
    x = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    value = log_density(x)
    total = logsumexp(value)
    weight = np.exp(value - total)
    mean = weight @ x
    return mean, ((x - mean) * weight[:, None]).T @ (x - mean), total + 2 * np.log(axis[1] - axis[0])


def assert_moments(found, star: int, expected, *, sigma: float, width: float, evidence: float):
    """Means to a share of their errors, covariances to a share, and the log evidence to a number."""
    mean, covariance, log_evidence = expected
    error = np.sqrt(np.diagonal(covariance))
    assert_allclose(found.mean[star] / error, mean / error, rtol=0, atol=sigma)
    whitened = np.linalg.solve(np.linalg.cholesky(covariance), found.covariance[star])
    whitened = np.linalg.solve(np.linalg.cholesky(covariance), whitened.T)
    assert_allclose(whitened, np.eye(2), rtol=0, atol=width)
    assert_allclose(found.log_evidence[star], log_evidence, rtol=0, atol=evidence)


@pytest.fixture(scope="module")
def linear():
    return Spectra(1, 0.6)


@pytest.mark.parametrize("prior", [one_normal(), two_normals()], ids=["normal", "mixture"])
def test_linear_model_has_its_closed_form(linear, prior):
    stars = linear.likelihood(linear.linear_maximum())
    found, rough = linear.moments(stars, prior), linear.rough_log_evidence(stars, prior)
    slopes, constant = linear.theta[:, 1:], linear.theta[:, 0]
    for star in range(N_STARS):
        parts = []
        for log_weight, mean, covariance in zip(*prior, strict=True):
            predicted = np.eye(N_PIXELS) + slopes @ covariance @ slopes.T
            gain = covariance @ slopes.T @ np.linalg.inv(predicted)
            centre = mean + gain @ (linear.flux[star] - constant - slopes @ mean)
            density = multivariate_normal(constant + slopes @ mean, predicted).logpdf(linear.flux[star])
            parts.append((log_weight + density, centre, covariance - gain @ slopes @ covariance))
        weights = np.exp([part[0] for part in parts] - logsumexp([part[0] for part in parts]))
        mean = sum(w * part[1] for w, part in zip(weights, parts, strict=True))
        covariance = sum(
            w * (part[2] + np.outer(part[1] - mean, part[1] - mean)) for w, part in zip(weights, parts, strict=True)
        )
        evidence = logsumexp([part[0] for part in parts]) + 0.5 * N_PIXELS * np.log(2 * np.pi)
        assert_moments(found, star, (mean, covariance, evidence), sigma=0.07, width=0.15, evidence=0.05)
        assert_allclose(rough[star], evidence, rtol=0, atol=1e-6)
    assert found.efficiency.min() > 0.5


def with_errors_of_theta(spectra: Spectra, star: int, x: np.ndarray, nu: float, inside, scale: float, included: float):
    """The log likelihood of the module's formula, relative to ``chi^2 = 0``, from the pixels."""
    v = monomials(x, spectra.exponents)
    k = 1 + ((1 + np.einsum("pd,de,pe->p", v, inside, v)) / included - 1) / scale
    value = spectra.chi_squared(x, star)
    if np.isinf(nu):
        return -0.5 * (N_PIXELS * np.log(k) + value / k)
    return -0.5 * (N_PIXELS * np.log(k) + (nu + N_PIXELS) * np.log1p(value / (nu * k)))


@pytest.mark.parametrize("nu", [3.0, np.inf], ids=["heavy", "normal"])
@pytest.mark.parametrize(("scale", "included"), [(1.0, 1.0), (1.4, 1.1)])
def test_errors_of_theta_and_heavy_tails_are_those_of_the_formula(linear, nu, scale, included):
    inside, prior = np.diag([0.05, 0.1, 0.2]), one_normal()
    stars = linear.likelihood(
        linear.linear_maximum(), nu, inside, scale=np.full(N_STARS, scale), included=np.array(included)
    )
    found = linear.moments(stars, prior)
    for star in range(0, N_STARS, 8):
        expected = on_a_grid(
            lambda x, star=star: (
                with_errors_of_theta(linear, star, x, nu, inside, scale, included) + log_mixture(prior, x)
            )
        )
        assert_moments(found, star, expected, sigma=0.05, width=0.15, evidence=0.05)


def test_integrated_theta_is_the_marginal_of_theta(linear):
    """With theta normal about its mean of covariance A for each pixel of unit noise, by draws of theta."""
    rng, inside, prior = np.random.default_rng(3), np.diag([0.05, 0.1, 0.2]), one_normal()
    found = linear.moments(linear.likelihood(linear.linear_maximum(), np.inf, inside), prior)
    drawn = linear.theta + rng.normal(size=(20_000, N_PIXELS, 3)) * np.sqrt(np.diagonal(inside))
    x = rng.multivariate_normal(prior.means[0], prior.covariances[0], len(drawn))
    model = np.einsum("spd,sd->sp", drawn, np.column_stack([np.ones(len(x)), x]))
    weight = np.exp(-0.5 * np.sum((linear.flux[0] - model) ** 2, axis=1))
    mean = weight @ x / weight.sum()
    count = weight.sum() ** 2 / np.sum(weight**2)
    error = np.sqrt(np.diagonal(found.covariance[0]) / count)
    assert_allclose(found.mean[0], mean, rtol=0, atol=4 * error.max())
    assert_allclose(found.log_evidence[0], np.log(weight.mean()), rtol=0, atol=4 / np.sqrt(count))


def quadratic_maximum(spectra: Spectra, star: int) -> np.ndarray:
    axis = np.linspace(-4, 4, 161)
    x = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    return x[np.argmin(spectra.chi_squared(x, star))]


@pytest.mark.parametrize("nu", [4.0, np.inf], ids=["heavy", "normal"])
def test_curved_likelihood_is_that_of_a_grid(nu):
    curved, prior = Spectra(2, 0.5, seed=2), two_normals()
    maximum = np.array([quadratic_maximum(curved, star) for star in range(N_STARS)])
    found = curved.moments(curved.likelihood(maximum, nu), prior)
    zero = np.zeros((curved.terms.n_terms,) * 2)
    for star in range(0, N_STARS, 8):
        expected = on_a_grid(
            lambda x, star=star: with_errors_of_theta(curved, star, x, nu, zero, 1.0, 1.0) + log_mixture(prior, x)
        )
        assert_moments(found, star, expected, sigma=0.2, width=0.35, evidence=0.15)


def bimodal() -> Spectra:
    """The flux responds to the square of the first label alone: its sign is what the prior says."""
    spectra = Spectra(2, 0.5)
    spectra.theta[:] = 0.0
    squares = np.argmax((spectra.exponents == [2, 0]).all(axis=1)), np.argmax((spectra.exponents == [0, 1]).all(axis=1))
    spectra.theta[:4, squares[0]], spectra.theta[4:, squares[1]] = 0.5, 1.0
    spectra.flux[:] = spectra.flux * 0 + np.repeat([0.5, 0.3], 4)
    return spectra


def test_second_mode_is_found_by_a_prior_of_two_parts():
    spectra = bimodal()
    prior = MixturePrior(np.log([0.5, 0.5]), np.array([[-1.0, 0.0], [1.0, 0.0]]), np.array([np.eye(2)] * 2) * 0.3)
    maximum = np.tile([1.0, 0.3], (N_STARS, 1))  # That of the one mode; the other is its mirror image.
    found = spectra.moments(spectra.likelihood(maximum), prior)
    expected = on_a_grid(lambda x: -0.5 * spectra.chi_squared(x, 0) + log_mixture(prior, x))
    assert_allclose(expected[0][0], 0.0, rtol=0, atol=1e-9)
    # The modes are four of their widths apart; of modes that are further apart one is easily lost.
    assert_moments(found, 0, expected, sigma=0.15, width=0.3, evidence=0.15)


def test_widened_likelihood_is_read_at_its_turned_labels(linear):
    prior, maximum = one_normal(), linear.linear_maximum()
    turn = np.tile([[0.7, 0.1], [-0.1, 0.8]], (N_STARS, 1, 1))
    found = linear.moments(linear.likelihood(maximum, widened=(maximum, turn)), prior)
    for star in (0, 7):
        expected = on_a_grid(
            lambda x, star=star: (
                -0.5 * linear.chi_squared(maximum[star] + (x - maximum[star]) @ turn[star].T, star)
                + log_mixture(prior, x)
            )
        )
        assert_moments(found, star, expected, sigma=0.05, width=0.1, evidence=0.03)


def test_bounds_cut_the_prior(linear):
    low, high = np.array([0.0, -np.inf]), np.array([np.inf, 0.5])
    prior = one_normal()
    found = linear.moments(linear.likelihood(linear.linear_maximum()), prior, low, high)
    for star in np.flatnonzero((linear.truth[:, 0] > 0) & (linear.truth[:, 1] < 0.5))[:4]:

        def cut(x, star=star):
            inside = (x > low).all(axis=1) & (x < high).all(axis=1)
            return np.where(inside, -0.5 * linear.chi_squared(x, star) + log_mixture(prior, x), -np.inf)

        assert_moments(found, star, on_a_grid(cut, n=701), sigma=0.15, width=0.3, evidence=0.15)


def _flat(x):
    return 0.0 * x[0]


def test_flat_prior_gives_the_likelihood(linear):
    proposal = MixturePrior(np.zeros(1), np.zeros((1, 2)), 4 * np.eye(2)[None])
    found = linear.moments(linear.likelihood(linear.linear_maximum()), proposal, log_prior=_flat)
    covariance = np.linalg.inv(linear.theta[:, 1:].T @ linear.theta[:, 1:])
    maximum = linear.linear_maximum()
    for star in range(N_STARS):
        lowest = linear.chi_squared(maximum[star][None], star)[0]
        evidence = -0.5 * lowest + np.log(2 * np.pi) + 0.5 * np.linalg.slogdet(covariance)[1]
        assert_moments(found, star, (maximum[star], covariance, evidence), sigma=0.1, width=0.15, evidence=0.05)


def test_integral_of_few_points_says_so():
    """A ring: the likelihood is far from a normal distribution about its maximum."""
    spectra = bimodal()
    squares = [np.argmax((spectra.exponents == power).all(axis=1)) for power in ([2, 0], [0, 2])]
    spectra.theta[:] = 0.0
    spectra.theta[:, squares] = 30.0
    spectra.flux[:] = 30.0 * 4.0
    proposal = one_normal(3.0)
    ring = spectra.moments(spectra.likelihood(np.tile([2.0, 0.0], (N_STARS, 1))), proposal)
    assert ring.efficiency.max() < 0.1


def test_covariance_of_one_point_that_counts_has_an_inverse():
    """The points are far from where the likelihood is, which is narrow: the nearest has all of the weight."""
    narrow = Spectra(1, 300.0)
    found = narrow.moments(narrow.likelihood(narrow.linear_maximum() + 1.0), one_normal())
    assert (found.efficiency < 2 / SECOND).any()
    error = np.sqrt(np.diagonal(found.covariance, axis1=1, axis2=2))
    correlation = found.covariance / (error[:, :, None] * error[:, None])
    assert np.linalg.eigvalsh(correlation)[:, 0].min() > 1e-6


def test_rough_evidence_of_curved_likelihoods_is_right_to_about_one():
    curved, prior = Spectra(2, 0.5, seed=2), two_normals()
    stars = curved.likelihood(np.array([quadratic_maximum(curved, star) for star in range(N_STARS)]), 4.0)
    exact, rough = curved.moments(stars, prior).log_evidence, curved.rough_log_evidence(stars, prior)
    assert np.abs(rough - exact).max() < 3
    assert np.median(np.abs(rough - exact)) < 1


def test_the_same_numbers_come_out_again_whatever_the_other_stars(linear):
    stars = linear.likelihood(linear.linear_maximum(), 5.0)
    found, again = (linear.moments(stars, two_normals()) for _ in range(2))
    turned = linear.moments(stars.at(np.arange(N_STARS)[::-1]), two_normals())
    for one, other, third in zip(found, again, turned, strict=True):
        assert np.array_equal(one, other)
        assert_allclose(third[::-1], one, rtol=1e-9, atol=1e-12)


def test_star_without_a_maximum_starts_at_the_prior(linear):
    maximum = linear.linear_maximum()
    maximum[3] = np.nan
    found = linear.moments(linear.likelihood(maximum), one_normal())
    known = linear.moments(linear.likelihood(linear.linear_maximum()), one_normal())
    assert_allclose(found.mean[:3], known.mean[:3], rtol=1e-9)
    error = np.sqrt(np.diagonal(known.covariance[3]))
    assert_allclose(found.mean[3] / error, known.mean[3] / error, rtol=0, atol=0.3)
