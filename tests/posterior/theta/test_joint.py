"""The posterior of theta pixel by pixel against that of whole spectra, whose scatter is correlated between pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from numpy.testing import assert_allclose
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.infer import MCMC, NUTS

import bayes_cannon as tc
from bayes_cannon.posterior.theta import sample as posterior_pixels
from bayes_cannon.posterior.theta.priors import ThetaPriors
from bayes_cannon.programs.spectrum import spectrum

N_STARS, N_PIXELS, SIGMA = 50, 6, 0.01


@pytest.fixture(scope="module", autouse=True)
def _small_blocks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(posterior_pixels, "PIXELS_AT_ONCE", N_PIXELS)
        yield


def trained(regularization):
    """A straight line in one label, with one latent factor that makes up most of the scatter."""
    rng = np.random.default_rng(0)
    labels = rng.uniform(4000, 6000, (N_STARS, 1))
    slopes = rng.normal(0, 0.05, N_PIXELS)
    factor = 0.03 * np.array([1.0, 0.8, -0.6, 0.9, 0.5, -1.0])
    noise = rng.normal(size=(N_STARS, 1)) * factor + np.hypot(0.02, SIGMA) * rng.normal(size=(N_STARS, N_PIXELS))
    flux = 1 + (labels - 5000) / 2000 * slopes + noise
    model = tc.CannonModel(
        labels, flux, np.full(flux.shape, SIGMA**-2), tc.vectorizer.PolynomialVectorizer(("TEFF",), 1),
        scatter=tc.scatter.LowRank(1, tolerance=1e-4), regularization=regularization,
    )  # fmt: skip
    model.train()
    return model


def spectrum_with_priors(design, ivar, flux, priors, regularization):
    r"""`programs.spectrum` with the priors of `sample`: half-normal in the whole scatter :math:`\sqrt{s^2 + u^2}`.

    Flat priors of s^2 and u are :math:`\sqrt t\,dt` in its square t, a flat one of its root is :math:`dt / \sqrt t`.
    """
    with numpyro.handlers.trace() as sites:
        spectrum(design, ivar, flux, n_factors=1, regularization=regularization)
    whole = sites["s2"]["value"] + sites["factors"]["value"][:, 0] ** 2
    away = (sites["theta_0"]["value"] - priors.theta_0) / priors.theta_0_scale
    numpyro.factor("priors", -jnp.sum(jnp.log(whole) + 0.5 * whole / priors.s_scale**2 + 0.5 * away**2))


def drawn_together(model):
    """Draws of theta, shape (chain, draw, pixel, term), and of the whole scatter, from the joint posterior."""
    with jax.enable_x64(True):
        kernel = NUTS(
            spectrum_with_priors, dense_mass=[("theta_0", "theta", "factors")], regularize_mass_matrix=False
        )  # fmt: skip
        chains = MCMC(
            kernel, num_warmup=300, num_samples=800, num_chains=4, chain_method="vectorized", progress_bar=False
        )  # fmt: skip
        spectra = model.training_set_ivar, model.training_set_flux
        chains.run(
            jax.random.key(1), model.design_matrix, *spectra, ThetaPriors.weak(model._problem()),
            0.0 if model.regularization is None else model.regularization, extra_fields=("diverging",),
        )  # fmt: skip
        assert np.mean(chains.get_extra_fields()["diverging"]) < 0.005
        draws = {name: np.asarray(array) for name, array in chains.get_samples(group_by_chain=True).items()}
    return draws["coefficients"], np.sqrt(draws["s2"] + draws["factors"][..., 0] ** 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("regularization", "of_mean", "of_sd", "of_correlation", "of_covariance"),
    [(None, 0.0, 0.1, 0.15, (0.85, 1.15)), (20.0, 0.3, 0.15, 0.25, (0.6, 0.9))],
    ids=["flat", "penalized"],
)
def test_pixels_alone_and_together(regularization, of_mean, of_sd, of_correlation, of_covariance):
    """Without penalty both are the same to the Monte-Carlo error; with it as the module's docstring says."""
    model = trained(regularization)
    theta, s = drawn_together(model)
    size = effective_sample_size(theta)
    assert split_gelman_rubin(theta).max() < 1.02
    assert size.min() > 150
    model.sample(method="psis", n_draws=2000)
    flat = theta.reshape(-1, N_PIXELS, 2)
    mean, sd = flat.mean(axis=0), flat.std(axis=0)
    got_sd = np.sqrt(np.diagonal(model.posterior.covariance, axis1=1, axis2=2))
    error = np.sqrt(1 / size + 1 / 2000)
    assert (np.abs(model.posterior.mean - mean) < (4 * error + of_mean) * sd).all()
    assert_allclose(got_sd, sd, rtol=of_sd)
    assert_allclose(model.posterior.s[:, 0], s.mean(axis=(0, 1)), rtol=0.05)

    # cov(theta_jd, theta_ke) = C_jk A_de: across pixels what the factors share.
    gram = model.design_matrix.T @ model.design_matrix
    _, common = model.correlation.split_theta_covariance(model.posterior.covariance, gram)
    expected = np.einsum("jk,de->jkde", model.factors @ model.factors.T, common)
    across = np.einsum("njd,nke->jkde", flat - mean, flat - mean) / len(flat)
    units = np.einsum("jd,ke->jkde", sd, sd)
    others = ~np.eye(N_PIXELS, dtype=bool)
    assert np.abs((across - expected) / units)[others].max() < of_correlation
    ratio = np.sum((across * expected)[others]) / np.sum(expected[others] ** 2)
    assert of_covariance[0] < ratio < of_covariance[1]
