"""Posteriors of theta and s: the density against the program, draws against quadrature, and what is refused."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpyro.infer.util import potential_energy
from scipy.stats import kstest

from bayes_cannon.core.status import PosteriorStatus
from bayes_cannon.core.terms import Terms
from bayes_cannon.posterior.settings import ChainSettings
from bayes_cannon.posterior.theta.density import (
    ThetaRun,
    density_of,
    flat_potential,
    penalized_potential,
    prepare,
)
from bayes_cannon.posterior.theta.laplace_coordinates import stretched
from bayes_cannon.posterior.theta.priors import ThetaPriors
from bayes_cannon.posterior.theta.sample import sample_pixels, unsampled
from bayes_cannon.programs.pixel import PixelPriors, pixel
from bayes_cannon.training.problem import PixelProblem
from bayes_cannon.training.profile.solver import solve

EXPONENTS = np.array([[0, 0], [1, 0], [0, 1]])
N_STARS, LAMBDA, S_SCALE, THETA_0 = 40, 100.0, 0.02, (1.0, 0.1)


def simulated(n_pixels, seed, regularization=LAMBDA, s=None):
    """Pixels whose theta and s are drawn from their priors, with noise that differs from star to star."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (N_STARS, 2))
    theta = np.column_stack([rng.normal(*THETA_0, n_pixels), rng.laplace(0, 2 / LAMBDA, (n_pixels, 2))])
    s = np.abs(rng.normal(0, S_SCALE, n_pixels)) if s is None else np.full(n_pixels, s)
    sigma = rng.uniform(0.01, 0.03, (N_STARS, n_pixels))
    design = np.column_stack([np.ones(N_STARS), x])
    flux = design @ theta.T + np.hypot(sigma, s) * rng.normal(size=sigma.shape)
    ivar = 1 / sigma**2
    ivar[rng.random(ivar.shape) < 0.05] = 0.0
    return (
        PixelProblem.unbounded(Terms(EXPONENTS, x), np.where(ivar > 0, flux, np.nan), ivar, regularization),
        x,
        theta,
        s,
    )


def run_of(problem, x, method="nuts", s_scale=S_SCALE, n_draws=1000):
    found = solve(problem)
    priors = ThetaPriors.weak(problem, THETA_0, s_scale)
    return ThetaRun.from_problem(
        problem,
        theta=found.theta,
        s2=found.s2,
        priors=priors,
        method=method,
        settings=ChainSettings(n_draws=n_draws),
    )


def collected(run, n_pixels=None):
    blocks = list(sample_pixels(run, np.arange(n_pixels or run.problem.n_pixels)))
    order = np.argsort(np.concatenate([block.pixels for block in blocks]))
    theta = np.concatenate([block.theta for block in blocks], axis=2)[:, :, order]
    s = np.concatenate([block.s for block in blocks], axis=2)[:, :, order]
    parts = [block.posterior for block in blocks]
    status = np.concatenate([part.status for part in parts])[order]
    ess = np.concatenate([part.ess_bulk for part in parts])[order]
    return theta, s, status, ess


def by_quadrature(problem, j):
    """Mean and sd of (s, theta) on a grid; theta_0, whose prior is normal, is integrated in closed form."""
    known = problem.ivar[:, j] > 0
    y, v = problem.flux[known, j], problem.design[known]
    variance = 1 / problem.ivar[known, j]
    s = np.linspace(0.0, 0.08, 90)
    w = 1 / (variance + s[:, None] ** 2)
    best = np.linalg.lstsq(v, y, rcond=None)[0]
    reach = 7 * np.sqrt(np.diag(np.linalg.inv((v.T * w[0]) @ v)) * 3)
    one, two = (np.linspace(best[k] - reach[k], best[k] + reach[k], 241) for k in (1, 2))
    a, b = np.meshgrid(one, two, indexing="ij")
    log_density, mean_0, var_0 = [], [], []
    for weight, scale in zip(w, s, strict=True):
        # Sufficient statistics of the residuals beside theta_0.
        r = y - 1.0
        moments = {name: np.sum(weight * value) for name, value in {
            "w": 1.0, "r": r, "rr": r * r, "1": v[:, 1], "2": v[:, 2], "11": v[:, 1] ** 2, "22": v[:, 2] ** 2,
            "12": v[:, 1] * v[:, 2], "r1": r * v[:, 1], "r2": r * v[:, 2],
        }.items()}  # fmt: skip
        square = moments["rr"] - 2 * a * moments["r1"] - 2 * b * moments["r2"]
        square = square + a**2 * moments["11"] + 2 * a * b * moments["12"] + b**2 * moments["22"]
        pulled = moments["r"] - a * moments["1"] - b * moments["2"]
        precision = moments["w"] + THETA_0[1] ** -2
        prior = -LAMBDA / 2 * (np.abs(a) + np.abs(b)) - 0.5 * (scale / S_SCALE) ** 2
        fit = -0.5 * (square - pulled**2 / precision - np.log(weight).sum() + np.log(precision))
        log_density.append(fit + prior)
        mean_0.append(1.0 + pulled / precision)
        var_0.append(np.full_like(a, 1 / precision))
    p = np.exp(np.array(log_density) - np.max(log_density))
    # The trapezoidal rule: the density does not vanish at s = 0.
    p[0] /= 2
    p /= p.sum()
    values = [np.broadcast_to(value, p.shape) for value in (s[:, None, None], np.array(mean_0), a, b)]
    mean = np.array([np.sum(p * value) for value in values])
    square = np.array([np.sum(p * value**2) for value in values])
    square[1] += np.sum(p * np.array(var_0))
    return mean, np.sqrt(square - mean**2)


@pytest.mark.parametrize("method", [pytest.param("nuts", marks=pytest.mark.slow), "psis"])
def test_moments_are_those_of_quadrature(method):
    problem, x, _, _ = simulated(32, 5)
    theta, s, status, ess = collected(run_of(problem, x, method))
    assert np.isin(status, [PosteriorStatus.CONVERGED, PosteriorStatus.RETRIED]).mean() >= 0.99
    for j in range(0, 32, 8):
        mean, sd = by_quadrature(problem, j)
        draws = np.concatenate([s[:, :, j, None], theta[:, :, j]], axis=-1).reshape(-1, 4)
        size = np.where(np.isfinite(ess[j]), ess[j], 800)
        assert (np.abs(draws.mean(axis=0) - mean) < 4 * sd / np.sqrt(size)).all()
        assert_allclose(draws.std(axis=0), sd, rtol=0.07 if method == "psis" else 0.05)


@pytest.mark.slow
def test_pixels_that_fail_run_again():
    """With so few draws R-hat is seldom below its limit, but where draws are thinned."""
    problem, x, _, _ = simulated(128, 5)
    theta, s, status, _ = collected(run_of(problem, x, n_draws=240), 32)
    again = np.flatnonzero(status == PosteriorStatus.RETRIED)
    assert len(again) > 2
    assert (status == PosteriorStatus.NOT_MIXED).sum() < 2
    for j in again[:2]:
        mean, sd = by_quadrature(problem, j)
        draws = np.concatenate([s[:, :, j, None], theta[:, :, j]], axis=-1).reshape(-1, 4)
        assert (np.abs(draws.mean(axis=0) - mean) < 4 * sd / np.sqrt(400)).all()
        assert_allclose(draws.std(axis=0), sd, rtol=4 / np.sqrt(2 * 400))


@pytest.mark.slow
def test_posteriors_are_calibrated():
    """Simulation-based calibration (Talts et al. 2018): the pixels are the replicates."""
    problem, x, theta, s = simulated(128, 7)
    drawn, drawn_s, status, _ = collected(run_of(problem, x))
    assert (status <= PosteriorStatus.RETRIED).mean() >= 0.99
    truth = np.column_stack([s, theta])
    draws = np.concatenate([drawn_s[..., None], drawn], axis=-1)[:, ::10].reshape(-1, 128, 4)
    ties = np.random.default_rng(0).uniform(size=truth.shape)
    rank = ((draws < truth).sum(axis=0) + ties) / (len(draws) + 1)
    p_values = np.array([kstest(column, "uniform").pvalue for column in rank.T])
    assert (p_values > 0.01 / 4).all(), p_values


@pytest.mark.parametrize("regularization", [LAMBDA, 0.0], ids=["penalized", "flat"])
def test_density_is_that_of_the_program(regularization):
    """Value and gradient, with Laplace priors and without."""
    problem, x, _, _ = simulated(32, 5, regularization)
    run = run_of(problem, x)
    potential = density_of(run, np.arange(32))
    assert potential is (penalized_potential if regularization else flat_potential)
    priors = PixelPriors(dist.Normal(*THETA_0), S_SCALE)

    def program(density, spectrum, z):
        u, log_jacobian = density.mean + density.root @ z, 0.0
        theta = u[1:]
        if density.stretch is not None:
            of_zeta = lambda zeta: stretched(density.stretch, zeta)[0]  # noqa: E731
            theta, log_jacobian = of_zeta(theta), jnp.linalg.slogdet(jax.jacfwd(of_zeta)(theta))[1]
        values = {"v": u[0], "theta_0": theta[0], "theta": theta[1:]}
        keywords = {"regularization": regularization, "priors": priors}
        return potential_energy(pixel, (problem.design, *spectrum), keywords, values) - log_jacobian

    @jax.jit
    @partial(jax.vmap, in_axes=(None, None, 0))
    def both(density, spectrum, z):
        fast = jax.value_and_grad(potential, 1)(density, z)
        return fast, jax.value_and_grad(program, 2)(density, spectrum, z)

    with jax.enable_x64(True):
        densities = prepare(run, np.arange(32)).densities
        for j in (0, 11):
            density = jax.tree.map(lambda array, j=j: np.asarray(array[j]), densities)
            points = np.random.default_rng(j).normal(size=(4, 4))
            (value, gradient), (expected, by_program) = both(density, (problem.ivar[:, j], problem.flux[:, j]), points)
            assert_allclose(value - value[0], expected - expected[0], atol=1e-5)
            assert_allclose(gradient, by_program, rtol=1e-5, atol=1e-5)


def test_pixels_without_posterior_say_so():
    problem, x, _, _ = simulated(32, 5, regularization=0.0)
    ivar = problem.ivar.copy()
    ivar[:, 3], ivar[2:, 4] = 0.0, 0.0
    run = run_of(replace(problem, ivar=ivar), x, s_scale=1e-4)
    status = unsampled(run)
    assert (status[3], status[4]) == (PosteriorStatus.NO_INFORMATION, PosteriorStatus.IMPROPER)
    assert (np.delete(status, [3, 4]) == PosteriorStatus.CONVERGED).all()
    assert "regularization" in PosteriorStatus(status[4]).message
    (block,) = sample_pixels(run, np.array([3, 4]))
    assert_array_equal(block.posterior.status, status[3:5])
    assert np.isnan(block.theta).all()
    assert np.isnan(block.posterior.mean).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"s_scale": 0.0}, "s_scale must be positive"), ({"s_scale": np.ones(3)}, "one value a pixel")],
)
def test_priors_must_be_proper(options, message):
    problem, _, _, _ = simulated(32, 5)
    with pytest.raises(ValueError, match=message):
        ThetaPriors.weak(problem, **options)


def test_unknown_method_is_named():
    problem, x, _, _ = simulated(32, 5)
    with pytest.raises(ValueError, match="method must be one of nuts, hmc, psis; got 'gibbs'"):
        run_of(problem, x, "gibbs")
