"""The program of label residuals against a closed form that knows nothing of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from bayes_cannon.programs.residuals import CorrelatedStudentT, residuals

N_STARS, N_LABELS = 30, 3


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(N_STARS, N_LABELS, 2 * N_LABELS))
    covariance = root @ root.swapaxes(1, 2) / 10
    return (
        covariance, rng.normal(0, 0.4, N_STARS), rng.normal(0, 0.5, N_STARS), rng.normal(0, 1.5, (N_STARS, N_LABELS)),
        rng.uniform(0, 0.3, (N_STARS, N_LABELS)),
    )  # fmt: skip


@pytest.fixture(scope="module")
def sites():
    correlation = np.array([[1, 0.4, -0.2], [0.4, 1, 0.3], [-0.2, 0.3, 1]])
    return {
        "mean_log_scale": 0.2, "spread_log_scale": 0.7, "log_scale": np.array([1.1, -0.6, 0.3]),
        "mean_slope": -0.1, "spread_slope": 0.2, "slope": np.array([0.2, -0.3, 0.5]),
        "mean_power": 0.5, "spread_power": 0.4, "power": np.array([0.9, 0.1, -0.4]),
        "width": np.array([0.3, 0.8, 0.5]), "root": np.linalg.cholesky(correlation), "tails": 2.5, "tail_power": -0.7,
    }  # fmt: skip


def test_density_is_the_closed_form(data, sites, density):
    covariance, log_snr, log_leverage, difference, variance = data
    found = density(residuals, (covariance, log_snr, log_leverage, difference), {"reference_variance": variance}, sites)
    expected = 0.0
    for n in range(N_STARS):
        A = np.diag(np.exp(sites["log_scale"] + sites["slope"] * log_snr[n]))
        width = sites["width"] * np.exp(sites["power"] * log_leverage[n])
        floor = np.diag(width) @ sites["root"] @ sites["root"].T @ np.diag(width)
        total = A @ covariance[n] @ A + floor + np.diag(variance[n])
        nu = 2 + 2.5 * np.exp(-0.7 * log_snr[n])
        expected += stats.multivariate_t(np.zeros(N_LABELS), total, df=nu).logpdf(difference[n])
    for name, width in (("log_scale", 1.0), ("slope", 0.5), ("power", 1.0)):
        mean, spread = sites[f"mean_{name}"], sites[f"spread_{name}"]
        expected += stats.norm(0, width).logpdf(mean) + stats.lognorm(0.5, scale=width / 2).logpdf(spread)
        expected += stats.norm(mean, spread).logpdf(sites[name]).sum()
    expected += stats.halfnorm.logpdf(sites["width"]).sum() + stats.gamma(2, scale=10).logpdf(2.5)
    expected += stats.norm.logpdf(-0.7)
    # LKJ(2) of the factor L of a 3 x 3 correlation matrix: L_22^3 L_33^2 over its integral.
    diagonal = np.diag(sites["root"])
    expected += 3 * np.log(diagonal[1]) + 2 * np.log(diagonal[2]) - _log_normalization()
    assert_allclose(found, expected, rtol=1e-10)


def _log_normalization():
    """The integral of L_22^3 L_33^2 over the factors of 3 x 3 correlation matrices, by the partial correlations.

    With r12, r13 and the partial correlation p of 2 and 3, L_22 = sqrt(1 - r12^2) and L_33^2 = (1 - r13^2)(1 - p^2);
    the volume element dr12 dL_31 dL_32 is sqrt(1 - r13^2) dr12 dr13 dp.
    """
    r, w = np.polynomial.legendre.leggauss(400)
    squares = 1 - r**2
    return np.log(np.sum(w * squares**1.5) * np.sum(w * squares**1.5) * np.sum(w * squares))


def test_derivatives_of_the_student_t_density_are_those_of_a_cholesky_factor(data):
    covariance, _, _, difference, _ = data

    def by_factor(matrix, value):
        root = jnp.linalg.cholesky(matrix)
        z = jax.scipy.linalg.solve_triangular(root, value[..., None], lower=True)[..., 0]
        log_det = 2 * jnp.log(jnp.einsum("nkk->nk", root)).sum(axis=1)
        constant = jax.lax.lgamma((5.0 + 3) / 2) - jax.lax.lgamma(5.0 / 2) - 1.5 * jnp.log(5.0 * jnp.pi)
        return jnp.sum(constant - log_det / 2 - 4 * jnp.log1p(jnp.sum(z**2, axis=1) / 5))

    def ours(matrix, value):
        return jnp.sum(CorrelatedStudentT(jnp.full(N_STARS, 5.0), matrix).log_prob(value))

    matrix = covariance + 0.1 * np.eye(N_LABELS)
    both = jax.jit(lambda *at: [jax.value_and_grad(density, (0, 1))(*at) for density in (ours, by_factor)])
    (value, (by_matrix, by_value)), (expected, (matrix_expected, value_expected)) = both(matrix, difference)
    assert_allclose(value, expected, rtol=1e-12)
    assert_allclose(by_value, value_expected, rtol=1e-9, atol=1e-12)
    symmetric = (matrix_expected + matrix_expected.swapaxes(1, 2)) / 2
    assert_allclose(by_matrix, symmetric, rtol=1e-8, atol=1e-10)


def test_draws_have_the_variance_of_the_distribution(data, sites, predictive):
    covariance, log_snr, log_leverage, _, variance = data
    fixed = {**sites, "tails": 8.0, "tail_power": 0.0}
    posterior = {name: np.broadcast_to(value, (4000, *np.shape(value))) for name, value in fixed.items()}
    draws = predictive(
        {"posterior_samples": posterior, "return_sites": ["difference"]}, residuals, covariance, log_snr, log_leverage,
        reference_variance=variance,
    )["difference"]  # fmt: skip
    A = np.exp(sites["log_scale"] + sites["slope"] * log_snr[:, None])
    width = sites["width"] * np.exp(sites["power"] * log_leverage[:, None])
    expected = 10 / 8 * (A**2 * np.einsum("nkk->nk", covariance) + width**2 + variance)
    # The kurtosis of a t law with 10 degrees of freedom is 4, so that a variance from n draws errs by sqrt(3 / n).
    assert_allclose(np.var(draws, axis=0), expected, rtol=5 * np.sqrt(3 / 4000))
    assert_allclose(np.mean(draws, axis=0), 0, atol=5 * np.sqrt(expected.max() / 4000))


def test_one_label_has_no_correlations(density):
    sites = dict.fromkeys(("mean_log_scale", "mean_slope", "mean_power", "tail_power"), 0.1)
    sites |= dict.fromkeys(("spread_log_scale", "spread_slope", "spread_power"), 0.5) | {"tails": 3.0}
    sites |= {name: np.array([0.2]) for name in ("log_scale", "slope", "power", "width")}
    one = np.ones((4, 1, 1)), np.zeros(4), np.zeros(4)
    d = np.array([[0.5], [-1.0], [2.0], [0.0]])
    with_data = density(residuals, (*one, d), {}, sites)
    without = density(residuals, (*one, np.zeros((4, 1))), {}, sites)
    law = stats.t(5, scale=np.sqrt(np.exp(0.4) + 0.04))
    assert_allclose(with_data - without, np.sum(law.logpdf(d[:, 0]) - law.logpdf(0)), rtol=1e-10)
