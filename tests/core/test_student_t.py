import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose
from scipy.stats import multivariate_normal, multivariate_t

from bayes_cannon.core.student_t import fitted_nu, log_density


def test_density_is_that_of_scipy_with_one_nu_a_point_and_in_jax() -> None:
    rng = np.random.default_rng(0)
    root = rng.normal(size=(4, 4))
    covariance, points = root @ root.T, rng.normal(size=(3, 4))
    chi_squared = np.einsum("nk,nk->n", points, np.linalg.solve(covariance, points.T).T)
    log_det, nu = np.linalg.slogdet(covariance)[1], np.array([0.7, 30.0, np.inf])
    expected = [multivariate_t(shape=covariance, df=df).logpdf(x) for x, df in zip(points[:2], nu[:2], strict=True)]
    expected.append(multivariate_normal(cov=covariance).logpdf(points[2]))
    assert_allclose(log_density(chi_squared, log_det, 4, nu), expected, rtol=1e-12)
    with jax.enable_x64(True):
        traced = jax.jit(lambda square: log_density(square, log_det, 4, nu))(jnp.asarray(chi_squared))
    assert_allclose(traced, expected, rtol=1e-12)


def test_fitted_degrees_of_freedom_are_infinite_for_normal_points_with_light_tails() -> None:
    # Points that are all equally far have lighter tails than any Student-t distribution.
    assert fitted_nu(np.full(50, 4.0), np.zeros(50), np.full(50, 4)) == np.inf
