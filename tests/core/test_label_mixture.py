"""The population of labels: against scikit-learn, brute force, and simulated populations with known errors."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture

from bayes_cannon.core.label_mixture import LabelMixture, fit_mixture, population
from bayes_cannon.core.records import check_dims
from bayes_cannon.core.scaling import LabelScaling

TRUTH = LabelMixture(
    np.array([0.6, 0.4]),
    np.array([[4600.0, 2.3], [5700.0, 4.3]]),
    np.array([[[250.0**2, 100.0], [100.0, 0.5**2]], [[300.0**2, -30.0], [-30.0, 0.2**2]]]),
)


def drawn(mixture, n_stars, seed):
    rng = np.random.default_rng(seed)
    component = rng.choice(mixture.n_components, n_stars, p=mixture.weights)
    roots = np.linalg.cholesky(mixture.covariances)
    noise = rng.normal(size=(n_stars, mixture.means.shape[1]))
    return mixture.means[component] + np.einsum("nab,nb->na", roots[component], noise)


def ordered(mixture):
    order = np.argsort(mixture.means[:, 0])
    return mixture.weights[order], mixture.means[order], mixture.covariances[order]


@pytest.fixture(scope="module")
def labels():
    return drawn(TRUTH, 600, 0)


def test_density_shares_and_moments_are_those_of_the_formulas(labels):
    parts = [w * multivariate_normal(m, v).pdf(labels) for w, m, v in zip(*ordered(TRUTH), strict=True)]
    assert_allclose(TRUTH.log_density(labels), np.log(np.sum(parts, axis=0)), rtol=1e-12)
    assert_allclose(TRUTH.shares(labels), np.transpose(parts / np.sum(parts, axis=0)), rtol=1e-9, atol=1e-12)
    many = drawn(TRUTH, 200_000, 1)
    sd = np.sqrt(np.diag(TRUTH.covariance))
    assert_allclose((many.mean(axis=0) - TRUTH.mean) / sd, 0, atol=4 / np.sqrt(200_000))
    assert_allclose((np.cov(many.T) - TRUTH.covariance) / np.outer(sd, sd), 0, atol=0.01)
    check_dims(TRUTH)


def test_the_density_integrates_to_one():
    teff, logg = np.linspace(3000, 7500, 451), np.linspace(-1.5, 6.5, 401)
    grid = np.stack(np.meshgrid(teff, logg, indexing="ij"), axis=-1).reshape(-1, 2)
    cell = (teff[1] - teff[0]) * (logg[1] - logg[0])
    assert_allclose(np.exp(TRUTH.log_density(grid)).sum() * cell, 1, atol=1e-5)


def test_scaled_labels_have_the_density_with_the_jacobian(labels):
    scaling = LabelScaling(np.array([4800.0, 2.5]), np.array([1000.0, 3.0]), 2.0)
    scaled = TRUTH.scaled(scaling)
    jacobian = np.sum(np.log(scaling.factor * scaling.scale))
    assert_allclose(scaled.log_density(scaling.scaled(labels)), TRUTH.log_density(labels) + jacobian, rtol=1e-12)
    assert_allclose(scaled.shares(scaling.scaled(labels)), TRUTH.shares(labels), rtol=1e-9, atol=1e-12)
    assert_allclose(scaling.unscaled(scaled.mean), TRUTH.mean)
    assert_allclose(scaling.unscaled_covariance(scaled.covariance), TRUTH.covariance)


def test_without_errors_it_is_as_likely_as_scikit_learn_makes_it(labels):
    found = fit_mixture(labels, 2)
    frame = labels.mean(axis=0), labels.std(axis=0)
    theirs = GaussianMixture(2, tol=1e-9, max_iter=1000, reg_covar=0, random_state=0, n_init=3)
    theirs.fit((labels - frame[0]) / frame[1])
    expected = theirs.score((labels - frame[0]) / frame[1]) - np.log(frame[1]).sum()
    assert_allclose(found.log_density(labels).mean(), expected, atol=3e-5)
    order = np.argsort(theirs.means_[:, 0])
    weights, means, covariances = ordered(found)
    assert_allclose(weights, theirs.weights_[order], atol=2e-3)
    assert_allclose((means - frame[0]) / frame[1], theirs.means_[order], atol=5e-3)
    assert_allclose(covariances / np.outer(frame[1], frame[1]), theirs.covariances_[order], atol=5e-3)


def test_one_component_without_errors_has_the_moments_of_the_stars(labels):
    weights = np.random.default_rng(0).uniform(size=len(labels))
    found = fit_mixture(labels, 1, weights=weights)
    assert_allclose(found.mean, np.average(labels, axis=0, weights=weights), rtol=1e-12)
    assert_allclose(found.covariance, np.cov(labels.T, aweights=weights, ddof=0), rtol=1e-9)


@pytest.mark.parametrize("kind", ["standard deviations", "covariances"])
def test_deconvolved_widths_are_right_where_plain_ones_are_too_wide(kind):
    n_stars, rng = 4000, np.random.default_rng(3)
    true = drawn(TRUTH, n_stars, 2)
    errors = np.array([250.0, 0.3]) * rng.uniform(0.5, 1.5, (n_stars, 1))
    correlation = 0.0 if kind == "standard deviations" else -0.8
    noise = rng.multivariate_normal(np.zeros(2), [[1, correlation], [correlation, 1]], n_stars)
    given = errors
    if kind == "covariances":
        given = errors[:, :, None] * errors[:, None] * np.array([[1, correlation], [correlation, 1]])
    observed = true + errors * noise
    weights, means, covariances = ordered(fit_mixture(observed, 2, errors=given))
    plain = ordered(fit_mixture(observed, 2))[2]
    assert_allclose(weights, TRUTH.weights, atol=0.03)
    sd = np.sqrt(np.diagonal(TRUTH.covariances, axis1=1, axis2=2))
    assert_allclose((means - TRUTH.means) / sd, 0, atol=0.1)
    assert_allclose((covariances - TRUTH.covariances) / (sd[:, :, None] * sd[:, None]), 0, atol=0.15)
    assert (np.diagonal(plain, axis1=1, axis2=2) / sd**2 > 1.3).all()


def test_the_deconvolved_likelihood_is_at_a_maximum():
    rng = np.random.default_rng(4)
    errors = rng.uniform(0.5, 1.5, (300, 1))
    labels = rng.normal(10, 1, (300, 1)) + errors * rng.normal(size=(300, 1))

    def log_likelihood(mean, variance):
        return -0.5 * np.mean((labels - mean) ** 2 / (variance + errors**2) + np.log(variance + errors**2))

    found = fit_mixture(labels, 1, errors=errors)
    mean, variance = found.mean[0], found.covariance[0, 0]
    grid = [log_likelihood(m, v) for m in np.linspace(9.5, 10.5, 101) for v in np.linspace(0.3, 2, 171)]
    assert log_likelihood(mean, variance) > max(grid) - 1e-4


def test_errors_that_are_not_known_are_none(labels):
    errors = np.tile([100.0, 0.1], (len(labels), 1))
    errors[::3, 0], errors[1::4, 1] = np.nan, np.nan
    known = np.nan_to_num(errors)
    covariances = errors[:, :, None] * errors[:, None] * np.eye(2)
    expected = fit_mixture(labels, 2, errors=known)
    for given in (errors, covariances):
        found = fit_mixture(labels, 2, errors=given)
        assert_allclose(found.covariances, expected.covariances, rtol=1e-9)
    plain = fit_mixture(labels, 2)
    assert_array_equal(fit_mixture(labels, 2, errors=np.full(labels.shape, np.nan)).covariances, plain.covariances)


def test_weights_are_repeated_stars(labels):
    times = np.random.default_rng(5).integers(0, 4, len(labels))
    errors = np.tile([200.0, 0.3], (len(labels), 1)) * np.random.default_rng(6).uniform(size=labels.shape)
    found = fit_mixture(labels, 2, errors=errors, weights=0.3 * times)
    repeated = fit_mixture(np.repeat(labels, times, axis=0), 2, errors=np.repeat(errors, times, axis=0))
    sd = np.sqrt(np.diag(TRUTH.covariance))
    one, other = ordered(found), ordered(repeated)
    assert_allclose(one[0], other[0], atol=2e-3)
    assert_allclose((one[1] - other[1]) / sd, 0, atol=5e-3)
    assert_allclose((one[2] - other[2]) / np.outer(sd, sd), 0, atol=5e-3)


def test_units_do_not_matter_and_a_seed_gives_one_answer(labels):
    found = fit_mixture(labels, 3, seed=1)
    again, other = fit_mixture(labels, 3, seed=1), fit_mixture(labels * [1e-3, 1e3], 3, seed=1)
    assert_array_equal(found.covariances, again.covariances)
    assert_allclose(other.means, found.means * [1e-3, 1e3], rtol=1e-6)


def test_no_component_collapses_on_a_star(labels):
    for floor in (1e-3, 1e-2):
        found = fit_mixture(labels[:40], 12, floor=floor)
        assert_allclose(found.weights.sum(), 1)
        total = np.linalg.inv(np.linalg.cholesky(np.cov(labels[:40].T, ddof=0)))
        smallest = np.linalg.eigvalsh(total @ found.covariances @ total.T)[:, 0]
        assert smallest.min() > 0.999 * floor


def test_held_out_stars_choose_the_number_of_components(labels):
    normal = np.random.default_rng(7).normal([5000, 2], [300, 0.5], (300, 2))
    errors = np.tile([150.0, 0.3], (300, 1))
    noise = errors * np.random.default_rng(8).normal(size=(300, 2))
    assert population(normal).n_components == 1
    assert population(normal + noise, errors=errors).n_components == 1
    assert population(labels).n_components == 2
    assert population(labels[:300] + noise, errors=errors).n_components >= 2
    assert population(labels, most=1).n_components == 1
    assert population(labels[:39]).n_components == 1  # Too few for two.


def test_what_is_no_population_is_refused(labels):
    def refused(match, labels=labels, **options):
        for fit in (lambda: fit_mixture(labels, 2, **options), lambda: population(labels, **options)):
            with pytest.raises(ValueError, match=match):
                fit()

    bad = labels.copy()
    bad[7, 1] = np.nan
    refused(r"nan in column 1, in 1 of 600 stars \(rows 7\): leave these stars out", bad)
    refused(r"shape \(star, label\)", labels[:, 0])
    refused("at least 4 stars of positive weight, got 3", labels[:3])
    refused("at least 4 stars of positive weight, got 0", labels[:0])
    refused("column 0 of labels is 4500.0 for all stars", np.column_stack([np.full(600, 4500.0), labels[:, 1]]))
    refused("column 0 of labels is", np.tile(labels[:1], (10, 1)))
    plane = np.column_stack([labels, np.random.default_rng(0).normal(size=600), labels @ [1e-3, 2] + 1])
    refused("columns 0, 1, 3 determine each other", plane)
    refused("weights must be finite and not negative, got -1.0", weights=np.where(np.arange(600) == 3, -1.0, 1.0))
    refused("weights are zero for all stars", weights=np.zeros(600))
    refused("at least 4 stars of positive weight, got 3", weights=(np.arange(600) < 3).astype(float))
    refused(r"weights must have shape \(600,\)", weights=np.ones(3))
    refused("errors must have shape", errors=np.ones((600, 3)))
    refused(r"negative or infinite, as in 600 of 600", errors=np.full((600, 2), -1.0))
    refused(r"negative or infinite, as in 600 of 600", errors=np.full((600, 2), np.inf))
    refused("no covariances", errors=np.tile([[1.0, 0.0], [2.0, 1.0]], (600, 1, 1)))
    refused("no covariances", errors=np.tile([[1.0, 2.0], [2.0, 1.0]], (600, 1, 1)))
    with pytest.raises(ValueError, match="n_components"):
        fit_mixture(labels, 0)
    with pytest.raises(ValueError, match="floor must be between 0 and 1"):
        fit_mixture(labels, 1, floor=0)
