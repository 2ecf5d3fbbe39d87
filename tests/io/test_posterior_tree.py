"""The posterior as a labelled tree: ArviZ takes it, files keep it, and what is added on demand is right."""

from io import BytesIO

import arviz as az
import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

import bayes_cannon as tc
from bayes_cannon.core.status import PosteriorStatus
from bayes_cannon.io.posterior_tree import (
    MemoryPosterior,
    Subject,
    check_posterior,
    first_run,
    read_posterior,
    theta_posterior,
)
from bayes_cannon.model.posterior_groups import log_likelihood, log_prior, posterior_predictive
from bayes_cannon.model.stars import term_texts
from bayes_cannon.posterior.diagnostics import convergence
from bayes_cannon.posterior.theta.sample import ThetaBlock
from bayes_cannon.posterior.theta.summary import ThetaPosterior
from bayes_cannon.programs.pixel import PixelPriors, pixel

N_STARS, N_DRAWS, N_TERMS = 30, 100, 3
PIXELS = np.array([2, 3, 5, 8])
CENSORED = 1


@pytest.fixture(scope="module")
def model():
    """A model of ten pixels, whose label FE_H does not act at the pixel 3."""
    rng = np.random.default_rng(0)
    labels = np.column_stack([rng.uniform(4000, 5000, N_STARS), rng.normal(0, 0.3, N_STARS)])
    flux = 1 + 0.02 * rng.normal(size=(N_STARS, 10))
    ivar = rng.uniform(5e3, 2e4, flux.shape)
    ivar[4, 5], flux[4, 5] = 0, np.nan
    vectorizer = tc.vectorizer.PolynomialVectorizer(("TEFF", "FE_H"), 1)
    censors = {"FE_H": np.arange(10) == PIXELS[CENSORED]}
    model = tc.CannonModel(
        labels, flux, ivar, vectorizer, censors=censors, dispersion=5000.0 + np.arange(10), regularization=20.0
    )  # fmt: skip
    model.use_theta(np.tile([1.0, 0.0, 0.0], (10, 1)), np.full(10, 4e-4))
    return model


@pytest.fixture(scope="module")
def subject(model):
    problem = model._problem().at(PIXELS)
    per_pixel = {name: (("pixel",), values) for name, values in {
        "regularization": problem.regularization, "theta_0_mean": np.array([1.0, 0.9, 1.1, 1.0]),
        "theta_0_scale": np.full(4, 0.3), "s_scale": np.array([0.05, 0.06, 0.07, 0.08]),
    }.items()}  # fmt: skip
    constant = {
        "labels": (("star", "label"), model.training_set_labels), "design": (("star", "term"), problem.design),
        "free": (("pixel", "term"), problem.free), **per_pixel,
    }  # fmt: skip
    return Subject(
        PIXELS, term_texts(model.vectorizer), model.label_names, {"TEFF": "K"}, model.dispersion[PIXELS], problem.flux,
        problem.ivar,
        constant, {"method": "nuts", "n_chains": 4, "n_draws": N_DRAWS}, model._hashes(),
    )  # fmt: skip


def block(rows: np.ndarray) -> ThetaBlock:
    """Made-up chains of some of the pixels; the same pixels always have the same draws."""
    shape = 4, N_DRAWS, len(PIXELS)
    rng = np.random.default_rng(1)
    theta = np.array([1.0, 0.05, -0.03]) + 0.005 * rng.normal(size=(*shape, N_TERMS))
    theta[:, :, CENSORED, 2] = 0.0
    s = np.abs(0.02 + 0.002 * rng.normal(size=shape))
    posterior = ThetaPosterior.empty(len(PIXELS), N_TERMS, np.full(len(PIXELS), PosteriorStatus.CONVERGED))
    found = convergence(np.concatenate([s[..., None], theta], axis=-1))
    for name in ("r_hat", "ess_bulk", "ess_tail"):
        getattr(posterior, name)[:] = getattr(found, name)
    posterior.mean[:], posterior.s[:, 0] = theta.mean(axis=(0, 1)), s.mean(axis=(0, 1))
    posterior.status[2] = PosteriorStatus.NOT_MIXED
    stats = {"diverging": s > 0.024, "n_steps": np.full(shape, 7), "energy": rng.normal(size=shape)}
    part = {name: values[..., rows] for name, values in stats.items()}
    return ThetaBlock(PIXELS[rows], posterior.at(rows), theta[:, :, rows], s[..., rows], part)


@pytest.fixture(scope="module")
def tree(subject):
    filled = MemoryPosterior(subject, keep_draws=True)
    for rows in ([3, 1], [0, 2]):
        filled.write(block(np.array(rows)))
    return filled.tree()


def test_everything_has_its_place(tree):
    whole = block(np.arange(4))
    assert tree["posterior/theta"].dims == ("chain", "draw", "pixel", "term")
    assert_array_equal(tree["posterior/theta"], whole.theta)
    assert_array_equal(tree["posterior/s"], whole.s)
    assert_array_equal(tree["sample_stats/diverging"], whole.stats["diverging"])
    assert tree["sample_stats/diverging"].dtype == bool
    assert tree["posterior/term"].values.tolist() == ["1", "TEFF", "FE_H"]
    assert tree["summary/parameter"].values.tolist() == ["s", "1", "TEFF", "FE_H"]
    assert tree["constant_data/label"].values.tolist() == ["TEFF", "FE_H"]
    assert tree["constant_data/label_unit"].values.tolist() == ["K", ""]
    assert tree["posterior/wavelength"].values.tolist() == (5000.0 + PIXELS).tolist()
    status = tree["summary/status"]
    assert "not_mixed" in status.attrs["flag_meanings"]
    assert status.attrs["message_not_mixed"] == PosteriorStatus.NOT_MIXED.message
    one = tree.sel(pixel=5)
    assert float(one["summary/s_mean"]) == whole.posterior.s[2, 0]


def test_summary_comes_back_for_all_pixels(tree):
    back, whole = theta_posterior(tree, 10), block(np.arange(4)).posterior
    for name in ("mean", "s", "r_hat", "ess_bulk", "ess_tail", "status"):
        assert_array_equal(getattr(back.at(PIXELS), name), getattr(whole, name))
    others = np.setdiff1d(np.arange(10), PIXELS)
    assert np.isnan(back.mean[others]).all()
    assert (back.status[others] == PosteriorStatus.NO_INFORMATION).all()


def test_unfinished_pixels_are_told_from_finished_ones(subject):
    filled = MemoryPosterior(subject, keep_draws=False)
    filled.write(block(np.array([0, 2])))
    tree = filled.tree()
    assert "posterior" not in tree.children
    assert tree["summary/finished"].values.tolist() == [True, False, True, False]
    assert np.isnan(theta_posterior(tree, 10).mean[PIXELS[1]]).all()
    with pytest.raises(ValueError, match="holds no draws, only the summary: sample with keep_draws=True"):
        log_prior(tree)


def test_second_run_is_made_again_as_long_as_a_pixel_is_missing():
    kinds = PosteriorStatus
    status = np.array([kinds.CONVERGED, kinds.RETRIED, kinds.NOT_MIXED, kinds.IMPROPER, kinds.NO_INFORMATION])
    finished = np.array([True, True, True, True, False])
    assert first_run(finished, status).tolist() == [True, False, False, True, False]
    assert first_run(np.ones(5, dtype=bool), status).all()


@pytest.mark.parametrize("kind", ["netcdf", "zarr"])
def test_files_keep_everything(tree, kind, tmp_path):
    path = tmp_path / "posterior"
    if kind == "netcdf":
        tree.to_netcdf(path, engine="h5netcdf")
    else:
        tree.to_zarr(path, consolidated=False)
    with read_posterior(path) as back:
        xr.testing.assert_identical(back.load(), tree)
        assert back["sample_stats/diverging"].dtype == bool
        assert back["summary/status"].dtype.kind == "i"


def test_no_posterior_is_refused_by_name(tmp_path):
    (tmp_path / "text").write_text("theta = 1")
    with pytest.raises(ValueError, match="text is no posterior"):
        read_posterior(tmp_path / "text")
    xr.DataTree(xr.Dataset({"theta": 1})).to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match=r"other\.nc is no posterior of theta: its attribute 'format' is 'absent'"):
        read_posterior(tmp_path / "other.nc")
    with pytest.raises(ValueError, match="the tree is no posterior"):
        check_posterior(xr.DataTree(), "the tree")


def test_arviz_agrees(tree):
    free = tree.isel(pixel=np.delete(np.arange(4), CENSORED))
    draws, stored = free["posterior"].to_dataset(), free["summary"].to_dataset()
    r_hat, ess = az.rhat(draws), az.ess(draws)
    for name, columns in (("s", 0), ("theta", slice(1, None))):
        assert_allclose(stored["r_hat"].values[:, columns], r_hat[name], rtol=1e-6)
        # NumPyro ends the sum over lags a little differently.
        assert_allclose(stored["ess_bulk"].values[:, columns], ess[name], rtol=0.1)
    frame = az.summary(free, var_names=["s", "theta"], round_to="none")
    assert len(frame) == 3 * (1 + N_TERMS)
    assert_allclose(frame.loc["theta[5, FE_H]", "mean"], stored["theta_mean"].sel(pixel=5, term="FE_H"))


def test_log_likelihood_is_that_of_the_model_and_goes_into_loo(tree):
    some = log_likelihood(tree, [8, 2])
    values = some["log_likelihood/flux"]
    assert values.dims == ("chain", "draw", "star", "pixel")
    assert values["pixel"].values.tolist() == [8, 2]
    draws, data = some["posterior"].to_dataset(), some["constant_data"].to_dataset()
    mean = (draws["theta"] * data["design"]).sum("term").transpose(*values.dims)
    sd = np.sqrt(1 / data["ivar"] + draws["s"] ** 2).transpose(*values.dims)
    assert_allclose(values, stats.norm.logpdf(some["observed_data/flux"].values, mean, sd))
    both = az.loo(some, pointwise=True)
    alone = az.loo(log_likelihood(tree, [2]), pointwise=True)
    assert_allclose(both.elpd_i.sel(pixel=2), alone.elpd_i.sel(pixel=2), rtol=0.01)
    assert both.elpd == pytest.approx(float(both.elpd_i.sum()))


def test_stars_without_information_are_left_out(tree):
    assert log_likelihood(tree, [5])["log_likelihood"].sizes["star"] == N_STARS - 1
    some = log_likelihood(tree, [2, 5])
    assert 4 not in some["log_likelihood/star"].values
    assert some["observed_data"].sizes["star"] == N_STARS - 1
    assert np.isfinite(some["log_likelihood/flux"]).all()
    none = tree.copy(deep=True)
    none["constant_data/ivar"][:] = 0
    with pytest.raises(ValueError, match="no star has a positive ivar at all of these pixels"):
        log_likelihood(none, [2])


def test_prior_and_likelihood_are_the_program(model, tree):
    """Log prior and log likelihood together are the log density of the NumPyro program."""
    import jax
    import numpyro.distributions as dist
    from numpyro.infer.util import log_density

    some = log_prior(log_likelihood(tree, [2]))
    data = some["constant_data"].to_dataset().isel(pixel=0)
    priors = PixelPriors(
        dist.Normal(float(data["theta_0_mean"]), float(data["theta_0_scale"])), float(data["s_scale"])
    )  # fmt: skip
    arguments = data["design"].to_numpy(), data["ivar"].to_numpy(), some["observed_data/flux"].to_numpy()[:, 0]
    for chain, draw in ((0, 0), (3, 50)):
        at = {"chain": chain, "draw": draw, "pixel": 0}
        theta, s = some["posterior/theta"].isel(at).to_numpy(), float(some["posterior/s"].isel(at))
        with jax.enable_x64(True):
            options = {"regularization": float(data["regularization"]), "priors": priors}
            values = {"theta_0": theta[0], "theta": theta[1:], "v": s}
            wanted = float(log_density(pixel, arguments, options, values)[0])
        found = sum(float(some[f"log_prior/{name}"].isel(at).sum()) for name in ("theta", "s"))
        found += float(some["log_likelihood/flux"].isel(at).sum())
        # The program's v has both signs, s one: its density is twice as high.
        assert found == pytest.approx(wanted + np.log(2), rel=1e-10)


def test_prior_of_censored_and_flat_terms_is_nothing(tree):
    assert (log_prior(tree)["log_prior/theta"].isel(pixel=CENSORED, term=2) == 0).all()
    flat = tree.copy(deep=True)
    flat["constant_data/regularization"][:] = 0
    assert (log_prior(flat)["log_prior/theta"].isel(term=slice(1, None)) == 0).all()


def test_predictive_spectra_have_the_moments_of_theta_scatter_and_noise(model, tree):
    labels = np.array([[4300.0, 0.2], [4800.0, -0.4]])
    clean = posterior_predictive(model, tree, labels, pixels=[2, 8])["posterior_predictive/flux"]
    assert clean.dims == ("chain", "draw", "star", "pixel")
    ivar = np.full((2, 2), 1e4)
    noisy = posterior_predictive(model, tree, labels, ivar, pixels=[2, 8])["posterior_predictive/flux"]
    x = model.scaling.scaled(labels)
    theta = tree["posterior/theta"].sel(pixel=[2, 8]).to_numpy()
    mean = theta @ np.column_stack([np.ones(2), x]).T
    n = 4 * N_DRAWS
    for flux, noise in ((clean, 0.0), (noisy, 1e-4)):
        spread = np.sqrt(mean.var(axis=(0, 1)).T + 0.02**2 + noise)
        away = flux.mean(("chain", "draw")) - mean.mean(axis=(0, 1)).T
        assert (np.abs(away) < 4 * spread / np.sqrt(n)).all()
        assert_allclose(flux.std(("chain", "draw")), spread, rtol=4 / np.sqrt(2 * n))
    alone = posterior_predictive(model, tree, labels, pixels=[8])["posterior_predictive/flux"]
    assert_array_equal(alone[..., 0], clean[..., 1])


def test_predictive_spectra_of_the_training_stars(model, tree):
    flux = posterior_predictive(model, tree, key=3, pixels=[5])["posterior_predictive/flux"]
    assert flux.shape == (4, N_DRAWS, N_STARS, 1)
    assert_array_equal(np.isnan(flux).any(("chain", "draw"))[:, 0], np.arange(N_STARS) == 4)
    with pytest.raises(ValueError, match=r"ivar must have shape \(30, 1\)"):
        posterior_predictive(model, tree, ivar=np.ones(30), pixels=[5])
    with pytest.raises(ValueError, match="the posterior has no pixel 4; it has 4, from 2 to 8"):
        posterior_predictive(model, tree, pixels=[4])
    other = tc.CannonModel(
        model.training_set_labels, model.training_set_flux, model.training_set_ivar, model.vectorizer
    )  # fmt: skip
    other.use_theta(2 * model.theta, model.s2)
    with pytest.raises(ValueError, match="another model: it differs in coefficients"):
        posterior_predictive(other, tree)


def test_figure_shows_what_there_is(tree, subject):
    figure = tc.plot.theta_posterior(tree)
    texts = [axes.get_xlabel() for axes in figure.axes]
    assert any("at pixel" in text for text in texts)
    assert [axes.get_ylabel() for axes in figure.axes[-2:]] == ["Teff", "[Fe/H]"]
    figure.savefig(BytesIO(), format="png")
    without = MemoryPosterior(subject, keep_draws=False)
    assert len(tc.plot.theta_posterior(without.tree(), ["TEFF"]).axes) == 5
    with pytest.raises(ValueError, match="there is no term 'MG_H'; there are 1, TEFF, FE_H"):
        tc.plot.theta_posterior(tree, ["MG_H"])
