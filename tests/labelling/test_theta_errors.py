"""Labels with theta integrated out: the variance it adds, the bias it takes away, and coverage of the errors."""

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import norm

import bayes_cannon as tc
from bayes_cannon.core.moments import MomentBasis
from bayes_cannon.core.scaling import LabelScaling
from bayes_cannon.core.status import StarStatus
from bayes_cannon.core.terms import Terms
from bayes_cannon.core.vectorizer import monomials
from bayes_cannon.labelling.compressed import compressed_batch
from bayes_cannon.labelling.fit import fit_labels
from bayes_cannon.labelling.marginalized import pilot_at
from bayes_cannon.labelling.theta_errors import LARGEST_SHARE, limited
from bayes_cannon.labelling.trained import TrainedModel
from bayes_cannon.posterior.labels.priors import LabelPrior
from bayes_cannon.posterior.labels.sample import sample_star_labels
from bayes_cannon.scatter import IndependentScatter, LowRankScatter

VECTORIZER = tc.vectorizer.PolynomialVectorizer(("TEFF", "LOGG"), 2)
SCALING = LabelScaling(np.zeros(2), np.ones(2))
N_TRAINING, N_PIXELS, N_STARS, NOISE = 60, 120, 100, 0.02


def simulation(seed, correlation=0.0, n_training=N_TRAINING):
    """Training set, theta by least squares with its covariances, and stars, all from one distribution."""
    rng = np.random.default_rng(seed)
    theta = np.random.default_rng(1234).normal(0, [1, 0.06, 0.05, 0.03, 0.02, 0.03], (N_PIXELS, 6))
    factors = np.random.default_rng(99).normal(0, correlation * NOISE, (N_PIXELS, 2))
    x, new = rng.uniform(-0.6, 0.6, (n_training, 2)), rng.uniform(-0.5, 0.5, (N_STARS, 2))
    design = monomials(x, VECTORIZER.exponents)

    def spectra(x):
        noise = NOISE * rng.normal(size=(len(x), N_PIXELS)) + rng.normal(size=(len(x), 2)) @ factors.T
        return monomials(x, VECTORIZER.exponents) @ theta.T + noise

    inverse = np.linalg.inv(design.T @ design)
    fitted = (inverse @ design.T @ spectra(x)).T
    total = NOISE**2 + np.sum(factors**2, axis=1)
    covariance = total[:, None, None] * inverse
    shared = LowRankScatter(factors) if correlation else IndependentScatter()
    return x, fitted, covariance, shared, new, spectra(new)


def trained(theta, x, scatter, covariance):
    return TrainedModel(theta, np.zeros(len(theta)), scatter, Terms(VECTORIZER.exponents, x), SCALING, covariance)


def pulls(seed, correlation, integrate):
    x, theta, covariance, shared, truth, flux = simulation(seed, correlation)
    model = trained(theta, x, shared, covariance if integrate else None)
    fit = fit_labels(model, flux, np.full(flux.shape, 1 / NOISE**2))
    return (fit.labels - truth) / np.sqrt(np.diagonal(fit.covariance, axis1=1, axis2=2))


def test_noise_of_theta_is_limited_along_each_direction():
    """What is left of Q is never less than 1 - c of it, and S is as it was where it is small."""
    rng = np.random.default_rng(2)
    forms, noise = (np.einsum("nij,nkj->nik", one, one) for one in rng.normal(size=(2, 30, 6, 6)))
    forms[:5, :, 3] = forms[:5, 3] = 0.0  # A term that no spectrum shows.
    noise *= 10.0 ** rng.uniform(-6, 2, 30)[:, None, None]
    noise[5] *= 1e-9
    with jax.enable_x64(True):
        kept = np.asarray(limited(noise, forms))
    inner = slice(1, None)
    q, s, k = (array[:, inner, inner] for array in (forms, noise, kept))
    scale = np.linalg.norm(q, axis=(1, 2)) + np.linalg.norm(s, axis=(1, 2))
    lowest = np.linalg.eigvalsh(LARGEST_SHARE * q - k)[:, 0]
    assert (lowest > -1e-9 * scale).all()
    assert (np.linalg.eigvalsh(kept)[:, 0] > -1e-9 * scale).all()
    assert (np.linalg.eigvalsh(s - k)[:, 0] > -1e-9 * scale).all()
    share = np.array([np.linalg.eigvals(np.linalg.solve(a, b)).real.max() for a, b in zip(q[5:], s[5:], strict=True)])
    small = np.flatnonzero(share < LARGEST_SHARE) + 5
    assert 5 <= len(small) < 25
    assert_allclose(kept[small], noise[small], rtol=1e-6, atol=1e-9 * scale[small].max())


def weak_second_order(seed=3):
    """Fifty stars for ten terms, of which those of second order are so weak that their estimates are mostly noise."""
    rng = np.random.default_rng(seed)
    vectorizer = tc.vectorizer.PolynomialVectorizer(("A", "B", "C"), 2)
    theta = np.column_stack([np.ones(60), rng.normal(0, 0.025, (60, 3)), rng.normal(0, 0.001, (60, 6))])
    x, new = rng.uniform(-0.6, 0.6, (50, 3)), rng.uniform(-0.5, 0.5, (64, 3))
    design = monomials(x, vectorizer.exponents)
    flux = design @ theta.T + 0.02 * rng.standard_normal((50, 60))
    inverse = np.linalg.inv(design.T @ design)
    covariance = np.broadcast_to(0.02**2 * inverse, (60, 10, 10))
    terms, scaling = Terms(vectorizer.exponents, x), LabelScaling(np.zeros(3), np.ones(3))
    fitted = (inverse @ design.T @ flux).T
    noise = np.repeat([0.3, 0.02], 32)[:, None]
    spectra = monomials(new, vectorizer.exponents) @ theta.T + noise * rng.standard_normal((64, 60))

    def model(covariance):
        return TrainedModel(fitted, np.zeros(60), IndependentScatter(), terms, scaling, covariance)

    return model(None), model(covariance), new, spectra, np.repeat(noise**-2, 60, axis=1)


def test_terms_that_are_mostly_noise_cost_no_labels():
    plug_in, integrated, truth, flux, ivar = weak_second_order()
    known, found = (fit_labels(model, flux, ivar) for model in (plug_in, integrated))
    assert np.isin(found.status, [0, 1, StarStatus.SEVERAL_MINIMA]).all()
    bright = slice(32, None)
    rms = [np.sqrt(np.mean((fit.labels - truth)[bright] ** 2, axis=0)) for fit in (known, found)]
    assert (rms[1] < 1.15 * rms[0]).all()
    errors = [np.sqrt(np.einsum("nkk->nk", fit.covariance)) for fit in (known, found)]
    assert (errors[1] > errors[0]).all()
    # The errors of theta are those of one training set, common to all stars, so that their pulls have few degrees of
    # freedom.
    pulls = [np.mean(((fit.labels - truth) / sd)[bright] ** 2) for fit, sd in zip((known, found), errors, strict=True)]
    assert 0.4 < pulls[1] < min(2.5, pulls[0])


def test_drawn_labels_do_not_run_away():
    _, integrated, _, flux, ivar = weak_second_order()
    some = np.r_[0:4, 32:36]
    x = integrated.terms.x
    prior = LabelPrior.of_labels("gaussian", label_names=("A", "B", "C"), scaling=integrated.scaling, training_labels=x)
    posterior = sample_star_labels(flux[some], ivar[some], trained=integrated, prior=prior, key=0)
    widths = np.sqrt(np.einsum("nkk->nk", posterior.covariance))
    assert (widths < 1.5 * x.std(axis=0)).all()
    assert (np.abs(posterior.draws) < 3).all()


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.0, 0.7])
def test_errors_cover_with_few_training_stars(correlation):
    plug_in, integrated = (
        np.abs(np.concatenate([pulls(seed, correlation, integrate) for seed in range(40)]))
        for integrate in (False, True)
    )
    assert (np.mean(plug_in < 1, axis=0) < 0.64).all()
    assert_allclose(np.mean(integrated < 1, axis=0), 0.6827, atol=0.03)
    assert_allclose(np.mean(integrated < norm.ppf(0.975), axis=0), 0.95, atol=0.02)


@pytest.mark.parametrize(
    ("correlation", "prior"), [(0.0, "flat"), pytest.param(0.7, "gaussian", marks=pytest.mark.slow)]
)
def test_sampled_labels_have_the_errors_of_the_corrected_score(correlation, prior):
    """Those of `test_errors_cover_with_few_training_stars`, times the prior where there is one."""
    x, theta, covariance, shared, _, flux = simulation(5, correlation)
    model = trained(theta, x, shared, covariance)
    flux, ivar = flux[:48], np.full((48, N_PIXELS), 1 / NOISE**2)
    fit = fit_labels(model, flux, ivar)
    of_labels = LabelPrior.of_labels(prior, label_names=("TEFF", "LOGG"), scaling=SCALING, training_labels=x)
    posterior = sample_star_labels(flux, ivar, trained=model, prior=of_labels, key=0)
    precision = np.linalg.inv(fit.covariance)
    pulled = np.einsum("nkl,nl->nk", precision, fit.labels)
    if prior == "gaussian":
        of_prior = np.linalg.inv(np.cov(x.T))
        precision, pulled = precision + of_prior, pulled + of_prior @ x.mean(axis=0)
    expected = np.linalg.inv(precision)
    sd, found = (np.sqrt(np.diagonal(array, axis1=1, axis2=2)) for array in (expected, posterior.covariance))
    # The model bends a little within the errors, and the draws are finite.
    assert_allclose(found / sd, 1, atol=0.25)
    assert_allclose(np.mean(found / sd), 1, atol=0.02)
    mean = np.einsum("nkl,nl->nk", expected, pulled)
    assert (np.abs(posterior.mean - mean) < 0.4 * sd).all()


@pytest.mark.slow
def test_a_spectrum_without_a_minimum_is_drawn_from_its_prior():
    x, theta, covariance, independent, _, flux = simulation(5)
    ivar = np.full((8, N_PIXELS), 1 / NOISE**2)
    ivar[0, 1:] = 0  # One pixel for two labels.
    prior = LabelPrior.of_labels("gaussian", label_names=("TEFF", "LOGG"), scaling=SCALING, training_labels=x)
    model = trained(theta, x, independent, covariance)
    posterior = sample_star_labels(flux[:8], ivar, trained=model, prior=prior, key=0)
    widths = np.sqrt(np.diagonal(posterior.covariance, axis1=1, axis2=2)) / x.std(axis=0)
    assert np.isfinite(posterior.mean).all()
    # The direction that the pixel says nothing of has the width of the prior.
    assert widths[0].max() > 0.5
    assert (widths[1:] < 0.5 * widths[0].max()).all()


@pytest.fixture(scope="module")
def pilot():
    """A pilot with its ingredients, for low rank."""
    x, theta, covariance, shared, truth, flux = simulation(3, 0.7)
    model = trained(theta, x, shared, covariance)
    with jax.enable_x64(True):
        found = compressed_batch(model.tables, flux[:8], np.full((8, N_PIXELS), 1 / NOISE**2))
        out = pilot_at(model.tables, model.theta_errors, found, truth[:8])
        out = jax.tree.map(np.asarray, vars(out))
    return x, theta, covariance, shared, truth[:8], flux[:8], out


def test_quantities_are_those_of_the_dense_covariance(pilot):
    x, theta, covariance, shared, truth, flux, found = pilot
    design = monomials(x, VECTORIZER.exponents)
    inverse = np.linalg.inv(design.T @ design)
    share = np.sum(shared.factors**2, axis=1) / (NOISE**2 + np.sum(shared.factors**2, axis=1))
    basis = MomentBasis.from_terms(VECTORIZER.exponents)
    for star in range(len(truth)):
        v = monomials(truth[star : star + 1], VECTORIZER.exponents)[0]
        h = v @ inverse @ v
        own = (1 - share) * np.einsum("pde,d,e->p", covariance, v, v)
        dense = np.diag(NOISE**2 + own) + (1 + h) * shared.factors @ shared.factors.T
        precision = np.linalg.inv(dense)
        ahead, behind = (monomials(truth[star] + e * np.eye(2), VECTORIZER.exponents) for e in (1e-6, -1e-6))
        slopes = (ahead - behind) / 2e-6
        residual = flux[star] - theta @ v
        assert_allclose(found["chi_squared"][star], residual @ precision @ residual, rtol=1e-9)
        jacobian = theta @ slopes.T
        assert_allclose(found["information"][star], jacobian.T @ precision @ jacobian, rtol=1e-6)
        own_covariance = (1 - share)[:, None, None] * covariance
        noise = np.einsum("p,pde->de", np.diag(precision), own_covariance)
        noise = noise + np.trace(shared.factors.T @ precision @ shared.factors) * inverse
        assert_allclose(found["b"][star], slopes @ noise @ slopes.T, rtol=1e-6)
        # The corrected chi^2 as a polynomial, at another point.
        other = monomials(truth[star : star + 1] + 0.05, VECTORIZER.exponents)[0]
        away = flux[star] - theta @ other
        expected = away @ precision @ away - other @ noise @ other
        got = found["coefficients"][star] @ monomials(truth[star : star + 1] + 0.05, basis.exponents)[0]
        assert_allclose(got, expected, rtol=1e-8)


def test_one_label_against_mixing_over_draws_of_theta():
    """With the straight line y = theta_0 + theta_1 x and well determined theta both are the same."""
    rng = np.random.default_rng(0)
    vectorizer = tc.vectorizer.PolynomialVectorizer(("TEFF",), 1)
    x = rng.uniform(-0.5, 0.5, (400, 1))
    theta = np.column_stack([np.ones(3), [0.5, -0.3, 0.8]])
    design = monomials(x, vectorizer.exponents)
    covariance = np.broadcast_to(0.05**2 * np.linalg.inv(design.T @ design), (3, 2, 2))
    flux = (theta @ [1, 0.4])[None] + 0.05 * rng.normal(size=(1, 3))
    scaling = LabelScaling(np.zeros(1), np.ones(1))
    terms = Terms(vectorizer.exponents, x)
    model = TrainedModel(theta, np.zeros(3), IndependentScatter(), terms, scaling, covariance)
    fit = fit_labels(model, flux, np.full(flux.shape, 1 / 0.05**2))
    grid = np.linspace(-0.6, 1.4, 4001)
    draws = theta + np.einsum("pij,npj->npi", np.linalg.cholesky(covariance), rng.normal(size=(4000, 3, 2)))
    density = np.zeros_like(grid)
    for one in draws:
        residual = flux[0] - one[:, 0] - one[:, 1] * grid[:, None]
        density += np.exp(-0.5 * np.sum(residual**2, axis=1) / 0.05**2)
    density /= density.sum()
    mean = density @ grid
    sd = np.sqrt(density @ (grid - mean) ** 2)
    assert abs(fit.labels[0, 0] - mean) < 0.05 * sd
    assert_allclose(np.sqrt(fit.covariance[0, 0, 0]), sd, rtol=0.03)


def mixed_over_draws(label, root, theta, covariance, flux, rng):
    """Mean and covariance of z under the exact posterior of the labels ``label + root z`` with a flat prior.

    Independent posteriors of theta make it a product over pixels, each the mean over draws of that pixel's theta.
    """
    axis = np.linspace(-5.5, 5.5, 31)
    z = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    v = monomials(label + z @ root.T, VECTORIZER.exponents)
    log_density = np.zeros(len(z))
    for mean, spread, one in zip(theta, covariance, flux, strict=True):
        draws = rng.multivariate_normal(mean, spread, 400)
        log_density += np.log(np.mean(norm.pdf(one, draws @ v.T, NOISE), axis=0))
    p = np.exp(log_density - log_density.max())
    p /= p.sum()
    mean = p @ z
    return mean, np.einsum("g,gi,gj->ij", p, z - mean, z - mean)


def noise_share(label, theta, covariance):
    """Largest eigenvalue of ``F^-1 B`` at these labels."""
    ahead, here, behind = (
        monomials(label + e * np.vstack([np.zeros(2), np.eye(2)]), VECTORIZER.exponents) for e in (1e-6, 0, -1e-6)
    )
    slopes, v = (ahead - behind)[1:] / 2e-6, here[0]
    w = 1 / (NOISE**2 + np.einsum("pde,d,e->p", covariance, v, v))
    jacobian = theta @ slopes.T
    noise = np.einsum("p,kd,pde,le->kl", w, slopes, covariance, slopes)
    return np.linalg.eigvals(np.linalg.solve((jacobian.T * w) @ jacobian, noise)).real.max()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n_training", "largest_share", "of_mean", "of_sd"), [(600, 0.03, 0.2, 0.05), (60, 0.25, 0.8, 0.15)]
)
def test_two_labels_against_mixing_over_draws_of_theta(n_training, largest_share, of_mean, of_sd):
    """In units of the quoted errors: what differs is the attenuation, which the exact posterior shares with plug-in."""
    n_stars, rng = 6, np.random.default_rng(1)
    x, theta, covariance, independent, _, flux = simulation(5, n_training=n_training)
    flux = flux[:n_stars]
    integrated, plug_in = (
        fit_labels(trained(theta, x, independent, one), flux, np.full(flux.shape, 1 / NOISE**2))
        for one in (covariance, None)
    )
    for star in range(n_stars):
        label, root = integrated.labels[star], np.linalg.cholesky(integrated.covariance[star])
        assert 0 < noise_share(label, theta, covariance) < largest_share
        mean, spread = mixed_over_draws(label, root, theta, covariance, flux[star], rng)
        assert (np.abs(mean) < of_mean).all()
        uncorrected = np.linalg.solve(root, plug_in.labels[star] - label)
        assert_allclose(mean, uncorrected, atol=0.15)
        sd = np.sqrt(np.diag(spread))
        assert_allclose(sd, 1, atol=of_sd)
        # Between plug-in, which is too narrow, and the fast form, but for the Monte-Carlo error of the mixture.
        narrow = np.linalg.solve(root, np.linalg.cholesky(plug_in.covariance[star]))
        assert (sd > np.linalg.norm(narrow, axis=1) - 0.03).all()


def test_wrong_shape_is_named():
    x, theta, covariance, independent, _, _ = simulation(0)
    with pytest.raises(ValueError, match=r"theta_covariance must have shape \(120, 6, 6\)"):
        trained(theta, x, independent, covariance[:, :3])
