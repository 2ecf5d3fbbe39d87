"""The parts of the error of a label add up to it, and each is what its source makes."""

import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose
from scipy.stats import norm

import bayes_cannon as tc
from bayes_cannon.model.label_groups import with_spectra

VECTORIZER = tc.vectorizer.PolynomialVectorizer(("TEFF", "LOGG"), 1)
SIGMA, SCATTER, SHARED = 0.01, 0.008, 0.012


@pytest.fixture(scope="module")
def stars():
    rng = np.random.default_rng(0)
    labels = np.column_stack([rng.uniform(4000, 6000, 300), rng.uniform(1, 4, 300)])
    x = (labels - [5000, 2.5]) / [2000, 3]
    theta, factor = rng.normal(0, 0.1, (40, 2)), SHARED * rng.normal(size=(40, 1))
    noise = np.hypot(SIGMA, SCATTER) * rng.normal(size=(300, 40)) + rng.normal(size=(300, 1)) @ factor.T
    return labels, 1 + x @ theta.T + noise, np.full(noise.shape, SIGMA**-2)


@pytest.mark.parametrize("scatter", [None, tc.scatter.LowRank(1), tc.scatter.Full(shrinkage=0.1, heavy_tails=True)])
def test_parts_add_up(stars, scatter):
    labels, flux, ivar = stars
    model = tc.CannonModel(labels[:200], flux[:200], ivar[:200], VECTORIZER, scatter=scatter)
    model.train()
    missing = ivar[200:].copy()
    missing[:5, ::4] = 0.0
    missing[5] = 0.0
    fit = model.fit_labels(flux[200:], missing)
    budget = model.error_budget(flux[200:], missing, fit)
    variance = np.diagonal(fit.covariance, axis1=1, axis2=2)
    assert_allclose(budget.total**2, variance, rtol=1e-6)
    assert np.isnan(budget.total[5]).all()
    assert (np.nan_to_num(budget.variance["theta"]) == 0).all()
    columns = budget.columns(("TEFF", "LOGG"))
    assert_allclose(columns["LOGG_ERR_TOTAL"], np.sqrt(variance[:, 1]), rtol=1e-6)
    if scatter is None:
        slopes, w = model.theta[:, 1:], 1 / (SIGMA**2 + model.s2)
        gain = np.linalg.solve((slopes.T * w) @ slopes, slopes.T * w) * model.scaling.scale[:, None]
        for name, part in (("photon", SIGMA**2), ("scatter", model.s2)):
            expected = np.sum(gain**2 * part, axis=1)
            assert_allclose(budget.variance[name][10:], np.broadcast_to(expected, (90, 2)), rtol=1e-6)
    else:
        assert (budget.variance["correlated"][10:] > 0).all()


@pytest.mark.parametrize("scatter", [None, tc.scatter.LowRank(1)])
def test_theta_and_calibration_take_part(stars, scatter):
    labels, flux, ivar = stars
    model = tc.CannonModel(labels[:200], flux[:200], ivar[:200], VECTORIZER, scatter=scatter)
    model.train()
    model.sample(method="psis", n_draws=250)
    fit = model.fit_labels(flux[200:], ivar[200:])
    budget = model.error_budget(flux[200:], ivar[200:])
    assert_allclose(budget.total**2, np.diagonal(fit.covariance, axis1=1, axis2=2), rtol=1e-6)
    assert (budget.variance["theta"] > 0).all()
    model.integrate_theta = False
    plain = model.error_budget(flux[200:], ivar[200:])
    assert (plain.total < budget.total).all()
    with pytest.raises(ValueError, match="the fit has 100 stars but ivar 3"):
        model.error_budget(flux[200:203], ivar[200:203], fit)


def test_sampled_labels_have_the_errors_of_the_fit_with_theta_integrated_out(stars):
    labels, flux, ivar = stars
    model = tc.CannonModel(labels[:16], flux[:16], ivar[:16], VECTORIZER)
    model.train()
    model.sample(method="psis", n_draws=250)
    sd = {}
    for model.integrate_theta in (False, True):
        fit = model.fit_labels(flux[200:208], ivar[200:208])
        sd[model.integrate_theta] = np.sqrt(np.diagonal(fit.covariance, axis1=1, axis2=2))
    assert (sd[True] > 1.15 * sd[False]).all()
    summary = model.sample_labels(flux[200:208], ivar[200:208], key=0, method="hmc")["summary"]
    found = np.sqrt(np.diagonal(summary["covariance"].to_numpy(), axis1=1, axis2=2))
    assert_allclose(found, sd[True], rtol=0.1)
    assert (np.abs(summary["mean"].to_numpy() - fit.labels) < 0.3 * sd[True]).all()


@pytest.mark.parametrize("scatter", [None, tc.scatter.LowRank(1), tc.scatter.Full(shrinkage=0.1)])
def test_spectra_join_a_posterior_of_labels(stars, scatter):
    labels, flux, ivar = stars
    model = tc.CannonModel(labels[:200], flux[:200], ivar[:200], VECTORIZER, scatter=scatter)
    model.train()
    flux, ivar = flux[200:203].copy(), ivar[200:203].copy()
    ivar[0, 7], flux[0, 7] = 0.0, np.nan
    rng = np.random.default_rng(0)
    draws = labels[200:203] + rng.normal(size=(2, 400, 3, 2)) * [20, 0.03]
    drawn = {"labels": (("chain", "draw", "star", "label_name"), draws)}
    tree = xr.DataTree.from_dict({"posterior": xr.Dataset(drawn, {
        "chain": [0, 1], "draw": np.arange(400), "star": np.arange(3), "label_name": ["TEFF", "LOGG"]})})  # fmt: skip
    part = with_spectra(model, tree, flux, ivar, stars=[0, 2], pixels=[3, 7, 11], key=1)
    assert part["log_likelihood/flux"].dims == ("chain", "draw", "star", "pixel")
    total = SIGMA**2 + model.s2[[3, 11]]
    if scatter is not None:
        correlation = model.correlation
        total = total + np.sum(correlation.factors[[3, 11]] ** 2, axis=1)
        if isinstance(scatter, tc.scatter.Full):
            total = np.diagonal(correlation.covariance)[[3, 11]]
    mean = np.stack([model(draws[1, 9, star]) for star in (0, 2)])[:, [3, 11]]
    found = part["log_likelihood/flux"].isel(chain=1, draw=9).sel(pixel=[3, 11]).to_numpy()
    assert_allclose(found, norm.logpdf(flux[[0, 2]][:, [3, 11]], mean, np.sqrt(total)), rtol=1e-9)
    assert np.isnan(part["observed_data/flux"].sel(star=0, pixel=7))
    assert (part["log_likelihood/flux"].sel(star=0, pixel=7) == 0).all()
    spread = part["posterior_predictive/flux"].sel(pixel=11).std(("chain", "draw")).to_numpy()
    of_labels = np.array([model(draws[:, :, star].reshape(-1, 2))[:, 11].var() for star in (0, 2)])
    assert_allclose(spread, np.sqrt(of_labels + total[1]), rtol=0.1)
    one = with_spectra(model, tree, flux, ivar, stars=2, pixels=[3, 7, 11], key=1)
    assert_allclose(one["posterior_predictive/flux"][:, :, 0], part["posterior_predictive/flux"][:, :, 1])
    with pytest.raises(ValueError, match="there is no star 3: they are numbered from 0 to 2"):
        with_spectra(model, tree, flux, ivar, stars=[3])
    with pytest.raises(ValueError, match="the posterior has 3 stars, the spectra 2"):
        with_spectra(model, tree, flux[:2], ivar[:2])
