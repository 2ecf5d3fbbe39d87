"""The program of a pixel against the training scalar, in value and gradient."""

import jax
import numpy as np
import numpyro.distributions as dist
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import log_density

from bayes_cannon.core.likelihood import masked, training_scalar
from bayes_cannon.core.terms import Terms
from bayes_cannon.programs.pixel import PixelPriors, log_normalization, pixel
from bayes_cannon.training.problem import PixelProblem

N_STARS, N_TERMS = 60, 6
CENSORED = np.array([True, True, False, True, True, False])


@pytest.fixture(scope="module")
def data():
    """Design, flux and ivar, with four stars whose flux is unknown."""
    rng = np.random.default_rng(2)
    x = rng.normal(0, 0.3, (N_STARS, 2))
    design = np.column_stack([np.ones(N_STARS), x, x[:, :1] * x, x[:, 1] ** 2])
    sigma = rng.uniform(0.003, 0.015, N_STARS)
    flux = design @ [1, 0.05, 0, -0.03, 0, 0.02] + np.hypot(sigma, 0.004) * rng.normal(size=N_STARS)
    ivar = 1 / sigma**2
    flux[[3, 8]], flux[[4, 5]], ivar[[3, 4, 5, 8]] = np.nan, 1e9, 0.0
    return design, flux, ivar


def minus_two_log_density(sites, data, **kwargs):
    design, flux, ivar = data

    @jax.jit
    def density(sites):
        return -2 * log_density(pixel, (design, ivar, flux), kwargs, sites)[0]

    return density(sites)


def scalar(sites, data, regularization, free):
    design, flux, ivar = data
    theta = jax.numpy.zeros(N_TERMS).at[np.flatnonzero(free)[1:]].set(sites["theta"]).at[0].set(sites["theta_0"])
    return training_scalar(
        theta, sites["s2"], design=design, flux=masked(flux, ivar), ivar=jax.numpy.asarray(ivar),
        regularization=regularization,
    )  # fmt: skip


def some_sites(free, s2=2e-5):
    rng = np.random.default_rng(4)
    theta = rng.normal(0, 0.05, free.sum() - 1)
    return {"theta_0": np.array(1.01), "theta": theta, "s2": np.array(s2)}


@pytest.mark.parametrize("free", [np.ones(N_TERMS, dtype=bool), CENSORED], ids=["all", "censored"])
@pytest.mark.parametrize("regularization", [0.0, 30.0, 1000.0])
def test_equals_the_training_scalar_in_value_and_gradient(data, regularization, free):
    constant = log_normalization((data[2] > 0).sum(), free.sum() - 1, regularization)

    @jax.jit
    def both(sites):
        program = jax.value_and_grad(minus_two_log_density)(sites, data, regularization=regularization, free=free)
        return program, jax.value_and_grad(scalar)(sites, data, regularization, free)

    for s2 in (0.0, 2e-5, 1.0):
        (density, by_program), (expected, by_scalar) = both(some_sites(free, s2))
        assert_allclose(density, expected + constant, rtol=1e-12)
        for name in by_program:
            assert np.isfinite(by_program[name]).all()
            assert_allclose(by_program[name], by_scalar[name], rtol=1e-9, err_msg=name)


def test_gradient_against_finite_differences(data):
    free = np.ones(N_TERMS, dtype=bool)
    sites = some_sites(free)
    density = jax.jit(lambda sites: minus_two_log_density(sites, data, regularization=30.0, free=free))
    gradient = jax.grad(density)(sites)
    step = {"theta_0": 1e-7, "theta": 1e-7, "s2": 1e-10}
    for name, value in sites.items():
        for index in np.ndindex(value.shape):
            up, down = value.copy(), value.copy()
            up[index] += step[name]
            down[index] -= step[name]
            ends = density({**sites, name: up}), density({**sites, name: down})
            assert_allclose((ends[0] - ends[1]) / (2 * step[name]), gradient[name][index], rtol=2e-5, err_msg=name)


def test_a_star_without_weight_is_a_star_left_out(data):
    design, flux, ivar = data
    kept = ivar > 0
    sites = some_sites(np.ones(N_TERMS, dtype=bool))
    assert_allclose(
        minus_two_log_density(sites, data, regularization=30.0),
        minus_two_log_density(sites, (design[kept], flux[kept], ivar[kept]), regularization=30.0),
        rtol=1e-13,
    )


@pytest.mark.parametrize("regularization", [0.0, 1000.0])
def test_brute_force_optimum_is_a_maximum_of_the_density(data, regularization, brute_force):
    design, flux, ivar = data
    problem = PixelProblem.unbounded(Terms.linear(design), flux[:, None], ivar[:, None], regularization)
    _, theta, s2 = brute_force(problem, 0)
    rng = np.random.default_rng(0)
    size = 10.0 ** rng.uniform(-6, -1, 300)
    directions = rng.normal(size=(300, N_TERMS + 1))
    sites = {
        "theta_0": theta[0] + 0.1 * size * directions[:, 0],
        "theta": theta[1:] + 0.1 * size[:, None] * directions[:, 1:-1],
        "s2": s2 * np.exp(size * directions[:, -1]),
    }
    density = jax.jit(jax.vmap(lambda sites: minus_two_log_density(sites, data, regularization=regularization)))
    optimum = {"theta_0": theta[:1], "theta": theta[None, 1:], "s2": np.array([s2])}
    values = density(jax.tree.map(lambda *ends: np.concatenate(ends), optimum, sites))
    assert (values[1:] >= values[0] - 1e-9).all()


def test_a_half_normal_prior_on_s_is_a_normal_one_on_v(data):
    free = np.ones(N_TERMS, dtype=bool)
    sites = some_sites(free)
    flat = minus_two_log_density(sites, data, regularization=30.0)
    priors = PixelPriors(theta_0=dist.Normal(1.0, 0.5), s_scale=0.05)
    v = np.sqrt(sites.pop("s2"))
    density = jax.jit(lambda sites: minus_two_log_density(sites, data, regularization=30.0, priors=priors))
    proper = [density({**sites, "v": sign * v}) for sign in (1, -1)]
    added = dist.Normal(1.0, 0.5).log_prob(sites["theta_0"]) + dist.Normal(0.0, 0.05).log_prob(v)
    assert_allclose(proper, flat - 2 * added, rtol=1e-12)


def test_prior_predictive_has_the_moments_of_the_priors(data, predictive):
    design, _, ivar = data
    priors = PixelPriors(theta_0=dist.Normal(1.0, 0.5), s_scale=0.05)
    draws = predictive({"num_samples": 2000}, pixel, design, ivar, regularization=30.0, free=CENSORED, priors=priors)
    assert draws["flux"].shape == (2000, N_STARS)
    assert draws["coefficients"].shape == (2000, N_TERMS)
    assert (draws["coefficients"][:, ~CENSORED] == 0).all()
    assert_array_equal(draws["coefficients"][:, [1, 3, 4]], draws["theta"])
    assert_allclose(draws["s"], np.abs(draws["v"]))
    # The variance of Laplace(0, b) is 2 b^2; its estimate from n draws has a relative error of sqrt(5 / n).
    assert_allclose(draws["theta"].var(axis=0), 2 * (2 / 30.0) ** 2, rtol=4 * np.sqrt(5 / 2000))
    known = ivar > 0
    expected = 0.5**2 + 2 * (2 / 30.0) ** 2 * (design[:, [1, 3, 4]] ** 2).sum(axis=1) + 0.05**2 + 1 / ivar.clip(1)
    assert_allclose(draws["flux"].var(axis=0)[known], expected[known], rtol=5 * np.sqrt(5 / 2000))


@pytest.mark.slow
def test_nuts_draws_around_the_optimum(data):
    design, flux, ivar = data
    priors = PixelPriors(theta_0=dist.Normal(1.0, 0.5), s_scale=0.05)
    kernel = NUTS(pixel, max_tree_depth=7, regularize_mass_matrix=False)
    mcmc = MCMC(kernel, num_warmup=50, num_samples=50, progress_bar=False)
    mcmc.run(jax.random.key(1), design, ivar, flux, regularization=30.0, free=CENSORED, priors=priors)
    draws = mcmc.get_samples()
    assert draws["theta"].shape == (50, 3)
    assert (draws["coefficients"][:, ~CENSORED] == 0).all()
    spread = draws["coefficients"].std(axis=0)[CENSORED]
    off = np.abs(draws["coefficients"].mean(axis=0) - np.array([1, 0.05, 0, -0.03, 0, 0.02]))[CENSORED]
    assert (spread > 0).all()
    # Censoring the last term biases the constant by about the mean of what it leaves out.
    assert (off[1:] < 6 * spread[1:] + 0.01).all()
    assert off[0] < 0.02


def test_bad_arguments_are_named(data):
    sites = some_sites(np.ones(N_TERMS, dtype=bool))
    with pytest.raises(ValueError, match=r"free must have shape \(6,\) and be True for the constant"):
        minus_two_log_density(sites, data, free=np.arange(N_TERMS) > 0)
    with pytest.raises(ValueError, match="regularization must not be negative, got -1"):
        minus_two_log_density(sites, data, regularization=-1.0)


def test_only_the_constant_is_free(data):
    free = np.arange(N_TERMS) == 0
    sites = {"theta_0": np.array(1.0), "s2": np.array(1e-5)}
    design, flux, ivar = data
    expected = training_scalar(
        np.array([1.0, 0, 0, 0, 0, 0]),
        np.array(1e-5),
        design=design,
        flux=masked(flux, ivar),
        ivar=ivar,
        regularization=30.0,
    )
    constant = log_normalization((ivar > 0).sum(), 0, 30.0)
    assert_allclose(minus_two_log_density(sites, data, regularization=30.0, free=free), expected + constant, rtol=1e-12)
