"""The program of whole spectra: the pixels' program without factors, and the closed form with them."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import multivariate_normal

from bayes_cannon.programs.pixel import pixel
from bayes_cannon.programs.spectrum import spectrum

N_STARS, N_PIXELS, N_TERMS, N_FACTORS = 12, 5, 3, 2
LAMBDA = np.array([3.0, 10.0, 1.0, 30.0, 5.0])


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(3)
    design = np.column_stack([np.ones(N_STARS), rng.normal(size=(N_STARS, 2))])
    flux, ivar = rng.normal(1, 0.2, (N_STARS, N_PIXELS)), rng.uniform(20, 60, (N_STARS, N_PIXELS))
    flux[2, 3], ivar[2, 3], ivar[5, :2] = np.nan, 0.0, 0.0
    return design, flux, ivar


@pytest.fixture(scope="module")
def sites():
    rng = np.random.default_rng(4)
    return {
        "theta_0": rng.normal(1, 0.1, N_PIXELS),
        "theta": rng.normal(0, 0.1, N_PIXELS * (N_TERMS - 1)),
        "s2": rng.uniform(0.01, 0.03, N_PIXELS),
        "factors": rng.normal(0, 0.2, (N_PIXELS, N_FACTORS)),
        "z": rng.normal(size=(N_STARS, N_FACTORS)),
        "tau": rng.uniform(0.5, 2, N_STARS),
    }


def test_without_factors_it_is_the_pixels_program(data, sites, density):
    design, flux, ivar = data
    free = np.ones((N_PIXELS, N_TERMS), dtype=bool)
    free[1, 2] = False
    some = {"theta_0": sites["theta_0"], "theta": sites["theta"][:-1], "s2": sites["s2"]}
    whole = density(spectrum, (design, ivar, flux), {"regularization": LAMBDA, "free": free}, some)
    parts, used = 0.0, 0
    for j in range(N_PIXELS):
        n = int(free[j, 1:].sum())
        one = {"theta_0": some["theta_0"][j], "theta": some["theta"][used : used + n], "s2": some["s2"][j]}
        used += n
        keywords = {"regularization": float(LAMBDA[j]), "free": free[j]}
        parts += density(pixel, (design, ivar[:, j], flux[:, j]), keywords, one)
    assert_allclose(whole, parts, rtol=1e-12)


@pytest.mark.parametrize("nu", [None, 4.0])
def test_integrated_over_the_factors_it_is_the_closed_form(data, sites, nu, density):
    """Ratio of joint density and posterior of the factors at one point: the density of each spectrum."""
    design, flux, ivar = data
    names = ["theta_0", "theta", "s2", "factors", "z"] + (["tau"] if nu else [])
    keywords = {"regularization": LAMBDA, "n_factors": N_FACTORS, "nu": nu}
    whole = density(spectrum, (design, ivar, flux), keywords, {name: sites[name] for name in names})
    prior = density(spectrum, (design, 0 * ivar, flux), keywords, {name: sites[name] for name in names})
    theta = np.column_stack([sites["theta_0"], sites["theta"].reshape(N_PIXELS, -1)])
    tau = sites["tau"] if nu else np.ones(N_STARS)
    expected = 0.0
    for n in range(N_STARS):
        known = ivar[n] > 0
        U, variance = sites["factors"][known], 1 / ivar[n, known] + sites["s2"][known]
        residual = flux[n, known] - theta[known] @ design[n]
        # p(y) = p(y | z) p(z) / p(z | y), at the z of the sites.
        S = np.linalg.inv(np.eye(N_FACTORS) + U.T @ (U / variance[:, None]))
        posterior = multivariate_normal(S @ U.T @ (residual / variance), S / tau[n])
        law = multivariate_normal(np.zeros(known.sum()), (np.diag(variance) + U @ U.T) / tau[n])
        start = multivariate_normal(np.zeros(N_FACTORS), np.eye(N_FACTORS) / tau[n])
        expected += law.logpdf(residual) + posterior.logpdf(sites["z"][n]) - start.logpdf(sites["z"][n])
    assert_allclose(whole - prior, expected, rtol=1e-10)


def test_bad_input(data, density):
    design, flux, ivar = data
    with pytest.raises(ValueError, match="positive at all pixels or zero at all"):
        density(spectrum, (design, ivar, flux), {"regularization": np.array([0, 1, 1, 1, 1.0])}, {})
    with pytest.raises(ValueError, match="n_factors must not be negative"):
        density(spectrum, (design, ivar, flux), {"n_factors": -1}, {})
    with pytest.raises(ValueError, match="constant terms"):
        density(spectrum, (design, ivar, flux), {"free": np.zeros((N_PIXELS, N_TERMS), bool)}, {})
