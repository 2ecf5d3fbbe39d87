"""The program of a star's labels against the test scalar, in value and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpy.testing import assert_allclose
from numpyro.infer.util import log_density

from bayes_cannon.core.scaling import LabelScaling
from bayes_cannon.core.terms import Terms
from bayes_cannon.core.vectorizer import PolynomialVectorizer, monomials
from bayes_cannon.labelling.compressed import ModelTables, compressed_batch
from bayes_cannon.posterior.labels.density import StarDensity, forms, log_likelihood
from bayes_cannon.programs.star import compressed_star, star
from bayes_cannon.scatter import IndependentScatter

VECTORIZER = PolynomialVectorizer(("TEFF", "LOGG"), 2)
N_PIXELS = 40


@pytest.fixture(scope="module")
def spectrum():
    """Theta, s2, ivar and flux; one pixel untrained, one without a scatter, two without weight."""
    rng = np.random.default_rng(5)
    theta = rng.normal(0, 0.1, (N_PIXELS, VECTORIZER.n_terms))
    theta[:, 0] = 1
    s2 = rng.uniform(0, 4e-5, N_PIXELS)
    sigma = rng.uniform(0.003, 0.015, N_PIXELS)
    flux = theta @ VECTORIZER(np.array([0.2, -0.3]))[:, 0] + np.hypot(sigma, np.sqrt(s2)) * rng.normal(size=N_PIXELS)
    ivar = 1 / sigma**2
    theta[3], s2[3], s2[7] = np.nan, np.inf, np.inf
    flux[10], ivar[[10, 11]] = np.nan, 0.0
    return theta, s2, ivar, flux


@jax.jit
def minus_two_log_density(x, spectrum, **kwargs):
    return -2 * log_density(star, spectrum, {"exponents": VECTORIZER.exponents, **kwargs}, {"x": x})[0]


def chi_squared(x, spectrum):
    used = np.setdiff1d(np.arange(N_PIXELS), [3, 7, 10, 11])
    theta, s2, ivar, flux = (array[used] for array in spectrum)
    residual = flux - jnp.asarray(theta) @ monomials(x[None], VECTORIZER.exponents)[0]
    constant = jnp.log(2 * np.pi * (1 / ivar + s2)).sum()
    return jnp.sum(residual**2 / (1 / ivar + s2)) + constant


def test_equals_the_test_scalar_in_value_and_gradient(spectrum):
    program = jax.jit(jax.value_and_grad(lambda x: minus_two_log_density(x, spectrum)))
    closed_form = jax.jit(jax.value_and_grad(chi_squared))
    for x in np.array([[0.0, 0.0], [0.2, -0.3], [-1.5, 2.0]]):
        value, gradient = program(x)
        expected, by_x = closed_form(x, spectrum)
        assert_allclose(value, expected, rtol=1e-12)
        assert_allclose(gradient, by_x, rtol=1e-10)


def test_a_prior_adds_its_density(spectrum):
    prior = dist.Normal(jnp.array([0.1, 0.0]), 0.3).to_event(1)
    x = jnp.array([0.2, -0.3])
    assert_allclose(
        minus_two_log_density(x, spectrum, prior=prior),
        minus_two_log_density(x, spectrum) - 2 * prior.log_prob(x),
        rtol=1e-13,
    )


def test_a_prior_of_the_wrong_shape_is_refused(spectrum):
    with pytest.raises(ValueError, match=r"event shape \(2,\).*to_event"):
        minus_two_log_density(jnp.zeros(2), spectrum, prior=dist.Normal(jnp.zeros(2), 1.0))


def test_prior_predictive_gives_labels_in_their_units(spectrum, predictive):
    theta, s2, ivar, _ = spectrum
    scaling = LabelScaling(np.array([4500.0, 2.0]), np.array([1000.0, 3.0]), 2.0)
    prior = dist.Normal(jnp.zeros(2), 0.1).to_event(1)
    draws = predictive(
        {"num_samples": 2000}, star, theta, s2, ivar, exponents=VECTORIZER.exponents, prior=prior, scaling=scaling
    )
    assert_allclose(draws["labels"], scaling.unscaled(draws["x"]), rtol=1e-12)
    used = np.setdiff1d(np.arange(N_PIXELS), [3, 7, 10, 11])
    residual = draws["flux"][:, used] - VECTORIZER(draws["x"]).T @ theta[used].T
    # The relative error of a standard deviation from n draws is sqrt(1 / 2n).
    assert_allclose(residual.std(axis=0), np.sqrt(1 / ivar[used] + s2[used]), rtol=5 * np.sqrt(1 / 4000))


@pytest.mark.parametrize("proper", [False, True], ids=["flat", "normal"])
def test_compressed_it_has_the_same_density_up_to_a_constant(spectrum, proper):
    theta, s2, ivar, flux = spectrum
    terms = Terms(VECTORIZER.exponents, np.zeros((2, 2)))
    tables = ModelTables.from_arrays(theta, s2, IndependentScatter(), terms)
    coefficients = compressed_batch(tables, flux[None], ivar[None]).coefficients
    n_labels, one = 2, jnp.ones(())
    form = forms(np.asarray(coefficients), VECTORIZER.exponents)[0]
    item = StarDensity(
        form, tails=None, widened=None, prior=None,
        low=one, high=one, mean=one, root=one, barriers=one, barrier_distances=one,
    )  # fmt: skip
    prior = dist.Normal(jnp.array([0.1, 0.0]), 0.3).to_event(1) if proper else None

    def likelihood(x):
        return log_likelihood(item, monomials(x[None], VECTORIZER.exponents)[0])

    @jax.jit
    @jax.value_and_grad
    def compressed(x):
        return -2 * log_density(compressed_star, (likelihood, n_labels), {"prior": prior}, {"x": x})[0]

    program = jax.jit(jax.value_and_grad(lambda x: minus_two_log_density(x, spectrum, prior=prior)))
    points = np.array([[0.0, 0.0], [0.2, -0.3], [-1.5, 2.0]])
    (first, _), (expected, _) = compressed(points[0]), program(points[0])
    for x in points:
        (value, gradient), (by_pixels, by_x) = compressed(x), program(x)
        assert_allclose(value - first, by_pixels - expected, rtol=1e-9, atol=1e-8)
        assert_allclose(gradient, by_x, rtol=1e-9, atol=1e-8)


def test_compressed_a_prior_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"event shape \(2,\).*to_event"):
        log_density(compressed_star, (jnp.sum, 2), {"prior": dist.Normal(jnp.zeros(2), 1.0)}, {"x": jnp.zeros(2)})
