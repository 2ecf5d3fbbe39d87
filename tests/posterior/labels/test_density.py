"""The density that label chains sample against the NumPyro program of a star, in value and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpy.testing import assert_allclose
from numpyro.infer.util import log_density

from bayes_cannon.core.scaling import LabelScaling
from bayes_cannon.core.vectorizer import PolynomialVectorizer
from bayes_cannon.posterior.labels.density import (
    BARRIER_WIDTH,
    StarDensity,
    label_potential,
    unbounded,
    within,
)
from bayes_cannon.posterior.labels.priors import LabelPrior
from bayes_cannon.programs.star import star

NAMES = ("TEFF", "LOGG", "FE_H")
SCALING = LabelScaling(np.array([4800.0, 2.5, -0.3]), np.array([1000.0, 3.0, 1.0]))
N_PIXELS, SIGMA, NU = 25, 0.02, 4.0
KINDS = ("real", "low", "high", "both")


def simulated(n_labels):
    """Terms, theta, ivar and flux of one star, with one pixel without weight."""
    rng = np.random.default_rng(n_labels)
    vectorizer = PolynomialVectorizer(NAMES[:n_labels], 2)
    theta = rng.normal(0, 0.05, (N_PIXELS, vectorizer.n_terms))
    theta[:, 0] = 1
    flux = theta @ vectorizer(np.full(n_labels, 0.1))[:, 0] + SIGMA * rng.normal(size=N_PIXELS)
    ivar = np.full(N_PIXELS, SIGMA**-2)
    flux[3], ivar[3] = np.nan, 0.0
    return vectorizer.exponents, theta, ivar, flux


def prior_of(prior, bounds, n_labels):
    names = NAMES[:n_labels]
    scaling = LabelScaling(SCALING.fiducial[:n_labels], SCALING.scale[:n_labels])
    labels = scaling.unscaled(np.random.default_rng(0).normal(0, 0.3, (100, n_labels)))
    return LabelPrior.of_labels(prior, bounds, label_names=names, scaling=scaling, training_labels=labels)


def density_and_program(n_labels, prior, tails=False, widened=None):
    """Functions of z: minus the log density that is sampled, and that of the program at the same labels."""
    exponents, theta, ivar, flux = simulated(n_labels)
    # chi^2 as a quadratic form of the terms, of which the first is one.
    away = np.where(ivar[:, None] > 0, np.nan_to_num(flux)[:, None] * np.eye(len(exponents))[0] - theta, 0.0)
    root = np.random.default_rng(1).normal(0, 0.2, (n_labels, n_labels)) + 0.3 * np.eye(n_labels)
    item = StarDensity(
        (away.T * ivar) @ away, (np.array(NU), np.array(N_PIXELS - 1.0)) if tails else None, widened,
        prior.distribution, prior.low, prior.high, mean=np.full(n_labels, 0.1), root=root,
        barriers=np.zeros((1, n_labels)), barrier_distances=np.full(1, 1e30),
    )  # fmt: skip
    fast = label_potential(tuple(map(tuple, exponents.tolist())), prior.kinds)

    def program(z):
        u = item.mean + item.root @ z
        x = within(prior.kinds, item.low, item.high, u)[0]
        jacobian = jax.jacfwd(lambda u: within(prior.kinds, item.low, item.high, u)[0])(u)
        at = x if widened is None else widened[0] + widened[1] @ (x - widened[0])
        spectrum = theta, np.zeros(N_PIXELS), ivar, flux
        log_likelihood = log_density(star, spectrum, {"exponents": exponents}, {"x": at})[0]
        if tails:
            chi_squared = -2 * log_likelihood - (N_PIXELS - 1) * np.log(2 * np.pi * SIGMA**2)
            log_likelihood = -0.5 * (NU + N_PIXELS - 1) * jnp.log1p(chi_squared / NU)
        log_prior = 0.0 if prior.distribution is None else prior.distribution.log_prob(x)
        return -log_likelihood - log_prior - jnp.linalg.slogdet(jacobian)[1]

    return lambda z: fast(item, z), program


USERS = dist.Normal(np.array([4700.0, 2.0]), np.array([200.0, 0.5])).to_event(1)
BOUNDS = {"TEFF": (4300.0, 5400.0), "LOGG": (0.5, None), "FE_H": (None, 0.4)}
WIDENED = np.array([0.1, 0.05]), np.array([[0.8, 0.1], [0.0, 0.7]])
CASES = {
    "one label": (1, "flat", None, {}),
    "flat": (2, "flat", None, {}),
    "gaussian": (2, "gaussian", None, {}),
    "user's": (2, USERS, None, {}),
    "bounds": (3, "flat", BOUNDS, {}),
    "tails": (2, "flat", None, {"tails": True}),
    "widened": (2, "flat", None, {"widened": WIDENED}),
    "all": (2, "gaussian", {"TEFF": (4300.0, 5400.0)}, {"tails": True, "widened": WIDENED}),
}


@pytest.mark.parametrize(("n_labels", "prior", "bounds", "options"), CASES.values(), ids=CASES)
def test_value_and_gradient_are_those_of_the_program(n_labels, prior, bounds, options):
    points = np.random.default_rng(2).normal(size=(4, n_labels))
    with jax.enable_x64(True):
        functions = density_and_program(n_labels, prior_of(prior, bounds, n_labels), **options)
        both = jax.jit(jax.vmap(lambda z: [jax.value_and_grad(function)(z) for function in functions]))
        (value, gradient), (expected, by_program) = both(points)
    # The program's constants are not part of the density.
    assert_allclose(value - value[0], expected - expected[0], rtol=1e-9, atol=1e-7)
    assert_allclose(gradient, by_program, rtol=1e-8, atol=1e-7)


def test_a_uniform_prior_is_bounds():
    low, high = np.array([4600.0, 1.25]), np.array([4900.0, 4.0])
    points = np.random.default_rng(2).normal(size=(4, 2))
    bounds = dict(zip(NAMES[:2], zip(low, high, strict=True), strict=True))
    with jax.enable_x64(True):
        uniform, bounded = prior_of(dist.Uniform(low, high).to_event(1), None, 2), prior_of("flat", bounds, 2)
        assert uniform.kinds == bounded.kinds == ("both", "both")
        assert not (uniform.improper & bounded.improper).any()
        functions = [density_and_program(2, prior)[0] for prior in (uniform, bounded)]
        one, other = jax.jit(jax.vmap(lambda z: [function(z) for function in functions]))(points)
    assert_allclose(one - one[0], other - other[0], rtol=1e-6)


def test_the_barrier_ends_the_basin():
    exponents = ((0,), (1,))
    item = StarDensity(
        np.zeros((2, 2)), None, None, None, np.full(1, -np.inf), np.full(1, np.inf), np.zeros(1), np.eye(1),
        barriers=np.array([[1.0], [0.0]]), barrier_distances=np.array([1.5, 1e30]),
    )  # fmt: skip
    with jax.enable_x64(True):
        values = jax.vmap(lambda z: label_potential(exponents, ("real",))(item, z))(np.array([[-9.0], [1.5], [1.9]]))
    assert_allclose(values, [0, 0, 0.5 * (0.4 / BARRIER_WIDTH) ** 2], atol=1e-12)


def test_bounded_coordinates_and_their_inverse():
    low, high = np.array([-np.inf, -0.5, -np.inf, -0.2]), np.array([np.inf, np.inf, 0.3, 0.7])
    u = np.random.default_rng(3).normal(0, 2, (10, 4))
    with jax.enable_x64(True):

        @jax.jit
        @jax.vmap
        def there_and_back(u):
            x, log_jacobian = within(KINDS, low, high, u)
            slopes = jax.jacfwd(lambda u: within(KINDS, low, high, u)[0])(u)
            return x, log_jacobian, jnp.linalg.slogdet(slopes)[1], unbounded(KINDS, low, high, x)

        x, log_jacobian, expected, back = map(np.asarray, there_and_back(u))
    assert ((x > low) & (x < high)).all()
    assert_allclose(back, u, rtol=1e-6, atol=1e-9)
    assert_allclose(log_jacobian, expected, rtol=1e-9, atol=1e-12)
