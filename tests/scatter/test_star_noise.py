"""Noise whose covariance the survey gives for each star, against SciPy's densities and simulations with known truth."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize
from scipy.stats import multivariate_normal, multivariate_t

import bayes_cannon as tc
from bayes_cannon.core.vectorizer import monomials
from bayes_cannon.scatter.star_noise import NoiseAndScatter
from bayes_cannon.scatter.star_noise_training import train_star_noise

N_PIXELS, NAMES, KAPPA = 24, ("TEFF", "LOGG"), 1.44
VECTORIZER = tc.vectorizer.PolynomialVectorizer(NAMES, 2)
PLACES = np.arange(N_PIXELS)
CORRELATION = 0.6 * np.exp(-0.5 * (np.subtract.outer(PLACES, PLACES) / 2.0) ** 2) + 0.4 * np.eye(N_PIXELS)


def stars(n: int, seed: int, nu: float = np.inf, kappa: float = KAPPA):
    """Labels, flux, ivar and the covariance of the noise that the survey states; kappa times that is the truth."""
    fixed, rng = np.random.default_rng(7), np.random.default_rng(seed)
    x = rng.uniform(-0.5, 0.5, (n, 2))
    theta = fixed.normal(0, 0.05, (N_PIXELS, VECTORIZER.n_terms))
    theta[:, 0] = 1.0
    factors = fixed.normal(0, 0.02, (N_PIXELS, 2))
    error = rng.uniform(0.004, 0.016, (n, 1)) * rng.uniform(0.7, 1.4, (n, N_PIXELS))
    tau = np.ones((n, 1)) if np.isinf(nu) else rng.gamma(nu / 2, 2 / nu, (n, 1))
    noise = np.sqrt(kappa) * error * (rng.normal(size=error.shape) @ np.linalg.cholesky(CORRELATION).T)
    flux = monomials(x, VECTORIZER.exponents) @ theta.T + (noise + rng.normal(size=(n, 2)) @ factors.T) / np.sqrt(tau)
    covariance = error[:, :, None] * CORRELATION * error[:, None, :]
    return np.array([5000.0, 2.5]) + [2000.0, 3.0] * x, flux, error**-2.0, covariance, factors @ factors.T


def model_of(scatter, n: int = 400, nu: float = np.inf, *, own: bool = False) -> tc.CannonModel:
    labels, flux, ivar, covariance, _ = stars(n, 0, nu)
    given = {"covariance": covariance} if own else {}
    model = tc.CannonModel(labels, flux, ivar, VECTORIZER, scatter=scatter, **given)
    model.train()
    return model


@pytest.fixture(scope="module")
def trained() -> tc.CannonModel:
    return model_of(tc.scatter.Given(correlation=CORRELATION, shrinkage=0.0, share=0.0))


def covariances(model: tc.CannonModel, covariance: np.ndarray) -> np.ndarray:
    """What the model says of the flux of stars, shape (star, pixel, pixel)."""
    learned = model.correlation
    scaled = learned.basis * learned.quoted[:, None]
    return learned.noise_scale * (covariance + 1e-6 * scaled @ scaled.T) + scaled @ learned.scatter @ scaled.T


def test_likelihood_is_that_of_scipy_and_none_is_higher(trained):
    covariance = stars(400, 0)[3]
    problem = trained._problem()
    residual = problem.flux - problem.design @ trained.theta.T
    ours = trained.correlation.log_likelihood(problem, trained._trained())
    found = [
        multivariate_normal(cov=one).logpdf(r)
        for one, r in zip(covariances(trained, covariance), residual, strict=True)
    ]
    assert_allclose(ours, found, rtol=1e-9)
    truth = np.array(
        [multivariate_normal(cov=KAPPA * one).logpdf(r) for one, r in zip(covariance, residual, strict=True)]
    )
    assert np.mean(ours) > truth.mean()
    # Neither kappa nor the scatter along any of its directions may gain, but for what N / (N - D) is worth.
    learned, n, d = trained.correlation, *problem.design.shape
    scaled = learned.basis * learned.quoted[:, None]
    variances, rotation = np.linalg.eigh(learned.scatter)

    def loss(logs):
        inner = (rotation * variances * np.exp(logs[1:])) @ rotation.T
        total = np.exp(logs[0]) * learned.noise_scale * covariance + scaled @ inner @ scaled.T
        pulled = np.linalg.solve(total, residual[:, :, None])[:, :, 0]
        return 0.5 * np.mean(n / (n - d) * np.sum(pulled * residual, axis=1) + np.linalg.slogdet(total)[1])

    best = minimize(loss, np.zeros(1 + len(variances)), method="L-BFGS-B", options={"maxiter": 15})
    assert loss(np.zeros(1 + len(variances))) - best.fun < 5e-3
    assert abs(best.x[0]) < 0.02


def test_parameters_are_those_of_the_simulation():
    *_, truth = stars(1, 0)
    model = model_of(tc.scatter.Given(correlation=CORRELATION, heavy_tails=True), 1500, nu=6.0)
    learned = model.correlation
    assert_allclose(learned.noise_scale, KAPPA, rtol=0.06)
    assert 4.5 < learned.nu < 8
    assert_allclose(np.linalg.norm(learned.factors @ learned.factors.T - truth) / np.linalg.norm(truth), 0, atol=0.12)
    assert_allclose(model.s2, np.diag(truth), atol=0.15 * np.diag(truth).max())
    few = model._problem().of_stars(np.arange(8))
    residual = few.flux - few.design @ model.theta.T
    covariance = covariances(model, stars(1500, 0, 6.0)[3][:8])
    ours = learned.log_likelihood(few, model._trained())
    if learned.basis.shape[1] == N_PIXELS:
        found = [
            multivariate_t(shape=one, df=learned.nu).logpdf(r) for one, r in zip(covariance, residual, strict=True)
        ]
        assert_allclose(ours, found, rtol=1e-8)


def chi_squared(x, flux, theta, inverse):
    residual = flux - theta @ monomials(x[None], VECTORIZER.exponents)[0]
    return float(residual @ inverse @ residual)


def test_labels_are_those_of_generalized_least_squares(trained):
    _, flux, ivar, covariance, _ = stars(30, 3)
    ivar[::2, 5:9] = 0  # Some miss pixels.
    flux[ivar == 0] = np.nan
    fit = trained.fit_labels(flux, ivar)
    total, scaling = covariances(trained, covariance), trained.scaling
    for star in range(8):
        used = ivar[star] > 0
        given = flux[star, used], trained.theta[used], np.linalg.inv(total[star][np.ix_(used, used)])
        x = np.ravel(scaling.scaled(fit.labels[star]))
        assert_allclose(fit.chi_squared[star], chi_squared(x, *given), rtol=1e-4)
        best = minimize(chi_squared, x, given, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12})
        error = np.sqrt(np.diag(fit.covariance[star]))
        assert_allclose((np.ravel(scaling.unscaled(best.x)) - fit.labels[star]) / error, 0, atol=1e-3)


def test_errors_of_labels_are_right_whatever_the_noise_of_the_star(trained):
    labels, flux, ivar, _, _ = stars(3000, 1)
    fit = trained.fit_labels(flux, ivar)
    pulls = tc.validate.pulls(fit.labels, labels, fit.covariance)
    quiet = fit.snr > np.median(fit.snr)
    for some in (quiet, ~quiet):
        assert_allclose(pulls[some].std(axis=0), 1, atol=0.08)
    lost = np.where(np.random.default_rng(2).random(ivar.shape) < 0.3, 0.0, ivar)
    fewer = trained.fit_labels(flux, lost)
    assert_allclose(tc.validate.pulls(fewer.labels, labels, fewer.covariance).std(axis=0), 1, atol=0.08)
    assert (np.einsum("nkk->nk", fewer.covariance) > np.einsum("nkk->nk", fit.covariance)).mean() > 0.99
    # A covariance in common is off for quiet and noisy stars alike.
    common = model_of(tc.scatter.Full(heavy_tails=True)).fit_labels(flux, ivar)
    ratio = (np.abs(fit.labels - labels).mean(axis=0) / np.abs(common.labels - labels).mean(axis=0)).max()
    assert ratio < 1


def test_covariances_of_stars_are_their_correlation_and_errors(trained, tmp_path):
    _, flux, ivar, covariance, _ = stars(50, 4)
    own = model_of(tc.scatter.Given(shrinkage=0.0, share=0.0), own=True)
    assert_allclose(own.theta, trained.theta, rtol=1e-7, atol=1e-9)
    expected, fit = trained.fit_labels(flux, ivar), own.fit_labels(flux, ivar, covariance=covariance)
    assert_allclose(fit.labels, expected.labels, rtol=1e-7)
    assert_allclose(fit.covariance, expected.covariance, rtol=1e-6)
    single = own.fit_labels(flux.astype("f4"), ivar.astype("f4"), covariance=covariance.astype("f4"))
    assert_allclose(single.labels, expected.labels, rtol=1e-4, atol=1e-2)
    inferred = own.test(flux[3], ivar[3], covariance=covariance[3:4])[0]
    assert_allclose(inferred, expected.labels[3:4], rtol=1e-7)
    for spectra in (False, True):
        own.write(tmp_path / "a.model", include_training_set_spectra=spectra, overwrite=True)
        back = tc.load_model(tmp_path / "a.model")
        assert_array_equal(back.fit_labels(flux, ivar, covariance=covariance).labels, fit.labels)
    back.train()
    assert_allclose(back.theta, own.theta, rtol=1e-5, atol=1e-7)
    broken = covariance.copy()
    broken[2] = np.nan
    bad = own.fit_labels(flux, ivar, covariance=broken)
    assert np.isnan(bad.labels[2]).all()
    assert bad.status[2] == tc.StarStatus.BAD_SPECTRUM
    assert_array_equal(np.delete(bad.labels, 2, axis=0), np.delete(fit.labels, 2, axis=0))


@pytest.mark.slow
def test_covariances_of_stars_under_a_prior_and_calibrated(trained):
    _, flux, ivar, covariance, _ = stars(50, 4)
    own = model_of(tc.scatter.Given(shrinkage=0.0, share=0.0), own=True)
    fit = own.fit_labels(flux, ivar, covariance=covariance)
    posterior = own.fit_labels(flux, ivar, covariance=covariance, prior="population")
    assert_allclose(posterior.labels, trained.fit_labels(flux, ivar, prior="population").labels, rtol=1e-6)
    own.calibrate()
    assert own.fit_labels(flux, ivar, covariance=covariance).covariance[0, 0, 0] != fit.covariance[0, 0, 0]


@pytest.mark.slow
def test_it_is_chosen_where_it_is_true_and_in_local_models():
    labels, flux, ivar, _, _ = stars(500, 0)
    given = tc.scatter.Given(correlation=CORRELATION, shrinkage=0.0)
    path = tc.CannonModel(labels, flux, ivar, VECTORIZER).scatter_path([tc.scatter.Full(), given])
    assert path.best is given
    local = tc.LocalCannonModel(labels, flux, ivar, NAMES, partitions=[(2, 2)], scatter=given)
    local.train()
    others, spectra, weights, _, _ = stars(600, 1)
    fit = local.fit_labels(spectra, weights)
    assert_allclose(tc.validate.pulls(fit.labels, others, fit.covariance).std(axis=0), 1, atol=0.12)
    covariance = stars(500, 0)[3]
    own = tc.LocalCannonModel(
        labels, flux, ivar, NAMES, partitions=[(2, 2)], scatter=tc.scatter.Given(shrinkage=0.0), covariance=covariance
    )
    own.train()
    same = own.fit_labels(spectra[:64], weights[:64], covariance=stars(600, 1)[3][:64])
    assert_allclose(same.labels, fit.labels[:64], rtol=1e-6)


def test_the_error_budget_adds_up(trained):
    _, flux, ivar, _, _ = stars(20, 5)
    ivar[3, 5:9] = 0
    fit = trained.fit_labels(flux, ivar)
    budget = trained.error_budget(flux, ivar, fit)
    assert_allclose(budget.total, np.sqrt(np.einsum("nkk->nk", fit.covariance)), rtol=0.05)
    assert (budget.variance["photon"] > 0).all()
    assert (budget.variance["correlated"] > 0).all()


def test_bad_input(trained):
    labels, flux, ivar, covariance, _ = stars(60, 0)
    own = tc.scatter.Given()
    with pytest.raises(ValueError, match="training set, which has none: make the model with covariance="):
        tc.CannonModel(labels, flux, ivar, VECTORIZER, scatter=own).train()
    with pytest.raises(
        ValueError, match=r"must have shape \(star, pixel, pixel\), here \(60, 24, 24\); got \(59, 24, 24\)"
    ):
        tc.CannonModel(labels, flux, ivar, VECTORIZER, scatter=own, covariance=covariance[1:])
    with pytest.raises(ValueError, match=r"covariance of star 0 has the variance .* at pixel 0, and ivar"):
        tc.CannonModel(labels, flux, ivar, VECTORIZER, scatter=own, covariance=2 * covariance)
    odd = covariance.copy()
    odd[7, 2, 3] += covariance[7, 2, 2]
    with pytest.raises(ValueError, match="covariance of star 7 is not symmetric"):
        tc.CannonModel(labels, flux, ivar, VECTORIZER, scatter=own, covariance=odd)
    odd[7] = np.nan
    with pytest.raises(ValueError, match="covariance is nan at pixels 0 and 0 of star 7: leave the star out"):
        tc.CannonModel(labels, flux, ivar, VECTORIZER, scatter=own, covariance=odd)
    with pytest.raises(ValueError, match="no regularization, censoring or bounds"):
        tc.CannonModel(labels, flux, ivar, VECTORIZER, regularization=1.0, scatter=own, covariance=covariance).train()
    with pytest.raises(ValueError, match=r"covariance= is for models with scatter.Given\(\)"):
        trained.fit_labels(flux, ivar, covariance=covariance)
    model = model_of(tc.scatter.Given(shrinkage=0.0), own=True)
    for verb in (model.test, model.fit_labels):
        with pytest.raises(ValueError, match="needs that of these, too: give covariance="):
            verb(flux, ivar)
    with pytest.raises(ValueError, match="correlation that stars have in common"):
        model.error_budget(flux, ivar, model.fit_labels(flux, ivar, covariance=covariance))
    with pytest.raises(ValueError, match="either a covariance, the same for all stars, or a correlation"):
        tc.scatter.Given(CORRELATION, correlation=CORRELATION)
    with pytest.raises(ValueError, match=r"correlation is 0\.01 of pixel 0 with itself, where it must be one"):
        tc.scatter.Given(correlation=0.01 * CORRELATION)
    with pytest.raises(ValueError, match=r"that of each star goes with its spectrum"):
        tc.scatter.Given(covariance)
    gaps = ivar.copy()
    gaps[4, 5] = 0
    with pytest.raises(ValueError, match="the first is pixel 5 of star 4"):
        tc.CannonModel(labels, flux, gaps, VECTORIZER, scatter=tc.scatter.Given(correlation=CORRELATION)).train()
    with pytest.raises(ValueError, match="of 24 pixels, the spectra have 23"):
        tc.CannonModel(
            labels, flux[:, 1:], ivar[:, 1:], VECTORIZER, scatter=tc.scatter.Given(correlation=CORRELATION)
        ).train()
    assert isinstance(trained.correlation, NoiseAndScatter)
    with pytest.raises(ValueError, match="at least 23 stars with 6 terms, there are 20"):
        train_star_noise(model._problem().of_stars(np.arange(20)), own)
