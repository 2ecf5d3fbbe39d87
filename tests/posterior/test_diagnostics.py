"""R-hat and effective sample sizes against ArviZ, one parameter at a time."""

import numpy as np
import pytest
from arviz_stats.base import array_stats
from numpy.testing import assert_allclose

from bayes_cannon.posterior.diagnostics import convergence


def chains(correlation, n_draws=500, shift=0.0, seed=0):
    """Autoregressive chains of five parameters, with heavy tails in the last ones, and one chain elsewhere."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(4, n_draws, 5))
    draws = np.empty_like(noise)
    draws[:, 0] = noise[:, 0]
    for n in range(1, n_draws):
        draws[:, n] = correlation * draws[:, n - 1] + np.sqrt(1 - correlation**2) * noise[:, n]
    draws[0] += shift
    draws[..., 3:] = np.sinh(3 * draws[..., 3:])
    return draws


@pytest.mark.parametrize("correlation", [0.0, 0.6, -0.5, 0.95])
def test_they_are_those_of_arviz(correlation):
    draws = chains(correlation)
    found = convergence(draws)
    for k in range(5):
        assert_allclose(found.r_hat[k], array_stats.rhat(draws[..., k], chain_axis=0, draw_axis=1), rtol=1e-6)
        for name, prob in (("bulk", None), ("tail", (0.05, 0.95))):
            expected = array_stats.ess(draws[..., k], chain_axis=0, draw_axis=1, method=name, prob=prob)
            # NumPyro ends the sum over lags a little elsewhere; far below the error of a sample size.
            assert_allclose(getattr(found, f"ess_{name}")[k], expected, rtol=0.03)


def test_chains_that_differ_have_not_mixed():
    assert convergence(chains(0.3)).mixed(4).all()
    apart = convergence(chains(0.3, shift=1.0))
    assert (apart.r_hat > 1.05).all()
    assert not apart.mixed(4).any()


def test_chains_that_differ_in_width_have_not_mixed():
    draws = chains(0.0)
    draws[0, :, :3] *= 3
    assert (convergence(draws).r_hat[:3] > 1.05).all()


def test_a_parameter_that_never_moves_has_not_mixed():
    draws = chains(0.0)
    draws[..., 2] = 1.5
    found = convergence(draws)
    assert np.isnan(found.r_hat[2])
    assert np.isnan(found.ess_bulk[2])
    assert list(found.mixed(4)) == [True, True, False, True, True]


def test_shapes_are_those_of_the_parameters():
    found = convergence(chains(0.0)[..., :4].reshape(4, 500, 2, 2))
    assert found.r_hat.shape == found.ess_bulk.shape == found.ess_tail.shape == (2, 2)
    with pytest.raises(ValueError, match="at least 4 draws a chain, got 3"):
        convergence(np.zeros((4, 3, 1)))
