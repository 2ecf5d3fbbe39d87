"""Posterior draws of theta and s of a model: in memory, in a store, broken off and gone on with."""

import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose, assert_array_equal

import bayes_cannon as tc
from bayes_cannon.core.status import PosteriorStatus
from bayes_cannon.io.posterior_tree import read_posterior
from bayes_cannon.model import NotTrainedError
from bayes_cannon.model.theta_sampling import SamplingWarning
from bayes_cannon.posterior.theta import sample as posterior_pixels

N_STARS, N_PIXELS, N_DRAWS = 60, 6, 300
SMALL = {"n_draws": N_DRAWS}


@pytest.fixture(scope="module", autouse=True)
def _small_blocks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(posterior_pixels, "PIXELS_AT_ONCE", 4)
        yield


def untrained(**options) -> tc.CannonModel:
    """Linear in two labels, with scatter twice the noise."""
    rng = np.random.default_rng(0)
    labels = np.column_stack([rng.uniform(4000, 5000, N_STARS), rng.normal(0, 0.3, N_STARS)])
    x = (labels - [4500, 0]) / [1000, 1.2]
    flux = 1 + x @ rng.normal(0, 0.05, (2, N_PIXELS)) + 0.02 * rng.normal(size=(N_STARS, N_PIXELS))
    ivar = np.full(flux.shape, 1e4)
    vectorizer = tc.vectorizer.PolynomialVectorizer(("TEFF", "FE_H"), 1)
    kind = tc.RestrictedCannonModel if "theta_bounds" in options else tc.CannonModel
    options = {"regularization": 10.0, "dispersion": np.linspace(5000, 5010, N_PIXELS)} | options
    return kind(labels, flux, ivar, vectorizer, label_units={"TEFF": "K"}, **options)


@pytest.fixture(scope="module")
def model():
    model = untrained()
    model.train()
    return model


@pytest.fixture(scope="module")
def tree(model):
    return model.sample(**SMALL)


class BrokenOffError(Exception):
    """Stands for a kill."""


def break_after(blocks: int):
    left = [blocks]

    def progress(_: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise BrokenOffError

    return progress


def test_posterior_is_that_of_the_draws(model, tree):
    model.use_posterior(tree)
    posterior, draws = model.posterior, tree["posterior"].to_dataset()
    assert (draws.sizes["chain"], draws.sizes["draw"]) == (4, N_DRAWS)
    assert_allclose(posterior.mean, draws["theta"].mean(("chain", "draw")))
    assert_allclose(posterior.s[:, 0], draws["s"].mean(("chain", "draw")))
    assert_allclose(posterior.s2, (draws["s"] ** 2).mean(("chain", "draw")))
    flat = draws["theta"].to_numpy().reshape(-1, N_PIXELS, 3)
    for pixel in range(N_PIXELS):
        assert_allclose(posterior.covariance[pixel], np.cov(flat[:, pixel].T), rtol=1e-8)
    # The data say more than the priors: the mean is at the optimum, within the spread of the posterior.
    away = (posterior.mean - model.theta) / np.sqrt(np.diagonal(posterior.covariance, axis1=1, axis2=2))
    assert (np.abs(away) < 1).all()
    assert_array_equal(posterior.status <= PosteriorStatus.RETRIED, True)


def test_some_pixels_by_index_or_mask(model):
    seen = []
    some = model.sample(pixels=[4, 1], method="psis", progress=seen.append, **SMALL)
    assert some["posterior/pixel"].values.tolist() == [1, 4]
    assert some["posterior/wavelength"].values.tolist() == [5002.0, 5008.0]
    assert some["observed_data/flux"].shape == (N_STARS, 2)
    assert sum(seen) == 2
    assert np.isfinite(model.posterior.mean[[1, 4]]).all()
    assert np.isnan(model.posterior.mean[[0, 2, 3, 5]]).all()
    assert (model.posterior.status[[0, 2, 3, 5]] == PosteriorStatus.NO_INFORMATION).all()
    assert (model.posterior.k_hat[[1, 4]] < 0.7).all()
    mask = np.isin(np.arange(N_PIXELS), [1, 4])
    again = model.sample(pixels=mask, method="laplace", **SMALL)
    xr.testing.assert_identical(some, again)


def test_importance_sampling_agrees_with_chains(model, tree):
    fast = model.sample(method="psis", **SMALL)["posterior"].to_dataset()
    for name, slow in tree["posterior"].to_dataset().items():
        spread = slow.std(("chain", "draw"))
        away = (fast[name].mean(("chain", "draw")) - slow.mean(("chain", "draw"))) / spread
        # Five standard errors for at least 400 independent draws on either side.
        assert float(np.abs(away).max()) < 5 * np.sqrt(2 / 400)


def test_key_decides_the_draws(model, tree):
    import jax

    other = model.sample(key=jax.random.key(1), **SMALL)
    same = model.sample(key=1, **SMALL)
    assert_array_equal(other["posterior/theta"], same["posterior/theta"])
    assert not np.array_equal(other["posterior/theta"], tree["posterior/theta"])


@pytest.mark.parametrize("blocks", [1, 2])
def test_broken_run_goes_on_with_the_same_draws(model, tree, tmp_path, blocks):
    store = tmp_path / "posterior.zarr"
    with pytest.raises(BrokenOffError):
        model.sample(store=store, progress=break_after(blocks), **SMALL)
    part = read_posterior(store)["summary"].to_dataset().load()
    finished = part["finished"].values
    assert 0 < finished.sum() < N_PIXELS
    assert_array_equal(np.isfinite(part["s_mean"]), finished)
    seen = []
    whole = model.sample(store=store, progress=seen.append, **SMALL)
    assert sum(seen) == N_PIXELS - (finished & (part["status"].values == 0)).sum()
    xr.testing.assert_identical(whole.load(), tree)
    # Nothing is left to do, and nothing is done.
    xr.testing.assert_identical(model.sample(store=store, progress=break_after(1), **SMALL).load(), tree)
    assert_allclose(model.posterior.mean, tree["summary/theta_mean"])


def test_store_of_another_run_is_refused(model, tmp_path):
    store, options = tmp_path / "posterior.zarr", {"method": "psis"} | SMALL
    model.sample(store=store, **options)
    with pytest.raises(ValueError, match=r"other settings: key is 0 there and 7 here.*overwrite=True"):
        model.sample(store=store, key=7, **options)
    with pytest.raises(ValueError, match="n_warmup is 150 there and 151 here"):
        model.sample(store=store, n_warmup=151, **options)
    with pytest.raises(ValueError, match=r"priors is .* there"):
        model.sample(store=store, s_scale=0.5, **options)
    with pytest.raises(ValueError, match=r"pixels is .* there"):
        model.sample(store=store, pixels=[0, 1], **options)
    with pytest.raises(ValueError, match="keep_draws=True, not False"):
        model.sample(store=store, keep_draws=False, **options)
    other = untrained(regularization=20.0)
    other.train()
    with pytest.raises(ValueError, match=r"another model: it differs in coeff.*regularization.*overwrite=True"):
        other.sample(store=store, **options)
    other.sample(store=store, overwrite=True, keep_draws=False, **options)
    there = read_posterior(store)
    assert "posterior" not in there.children
    assert not there["summary/theta_mean"].isnull().any()
    (tmp_path / "thesis").mkdir()
    with pytest.raises(ValueError, match="is no posterior"):
        other.sample(store=tmp_path / "thesis", **options)


def test_posterior_of_another_model_is_refused(model, tree, tmp_path):
    other = untrained(censors={"FE_H": np.arange(N_PIXELS) > 2})
    with pytest.raises(NotTrainedError, match="call train"):
        other.use_posterior(tree)
    other.train()
    with pytest.raises(ValueError, match="it differs in coefficients, variance of the scatter, censored terms"):
        other.use_posterior(tree)
    assert other.posterior is None
    with pytest.raises(ValueError, match="is no posterior of theta"):
        other.use_posterior(xr.DataTree())
    with pytest.raises(FileNotFoundError, match="there is no posterior"):
        other.use_posterior(tmp_path / "none.zarr")


def test_posterior_is_kept_in_the_model_file_and_forgotten_by_training(model, tree, tmp_path):
    model.use_posterior(tree)
    model.write(tmp_path / "a.model")
    back = tc.CannonModel.read(tmp_path / "a.model")
    for name in ("mean", "covariance", "s2", "status"):
        assert_array_equal(getattr(back.posterior, name), getattr(model.posterior, name))
    assert np.isnan(back.posterior.r_hat).all()
    # The file has no spectra, but their hash.
    tree.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    back.use_posterior(tmp_path / "a.nc")
    assert_array_equal(back.posterior.r_hat, model.posterior.r_hat)
    with pytest.raises(TypeError, match=r"holds no training spectra.*include_training_set_spectra=True"):
        back.sample()
    back.reset()
    assert back.posterior is None
    again = untrained()
    again.train()
    again.use_posterior(tree)
    again.train()
    assert again.posterior is None


def test_pixels_without_posterior_are_flagged_and_told_once(tmp_path):
    model = untrained(regularization=np.array([0.0, *[10.0] * 5]))
    model.training_set_ivar[2:, 0] = 0
    model.training_set_ivar[:, 1] = 0
    with pytest.warns(tc.model.TrainingWarning):
        model.train()
    with pytest.warns(SamplingWarning) as warned:
        tree = model.sample(pixels=[0, 1, 2], method="psis", store=tmp_path / "p.zarr", **SMALL)
    (text,) = [str(one.message) for one in warned]
    assert "1 of 3 pixels, the first is pixel 1: no positive ivar" in text
    assert "1 of 3 pixels, the first is pixel 0: the data do not determine every parameter" in text
    assert "set a regularization" in text
    assert model.posterior.status.tolist()[:3] == [
        PosteriorStatus.IMPROPER, PosteriorStatus.NO_INFORMATION, PosteriorStatus.CONVERGED,
    ]  # fmt: skip
    assert tree["summary/finished"].values.all()
    assert np.isnan(tree["posterior/theta"].values[:, :, :2]).all()


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"method": "gibbs"}, ValueError, "method must be one of nuts, hmc, psis; got 'gibbs'"),
        ({"pixels": [0, 6]}, ValueError, "pixels names pixel 6; the model has the pixels 0 to 5"),
        ({"pixels": [-1]}, ValueError, "pixels names pixel -1"),
        ({"pixels": [2, 2]}, ValueError, "pixel 2 more than once"),
        ({"pixels": []}, ValueError, "pixels names no pixel"),
        ({"pixels": [True] * 5}, ValueError, r"must have shape \(6,\), got \(5,\)"),
        ({"pixels": [0.5]}, ValueError, r"must be indices or a mask .* got \[0.5\]"),
        ({"n_draws": 3}, ValueError, "n_draws must be an integer of at least 4, got 3"),
        ({"n_chains": 0}, ValueError, "n_chains must be an integer of at least 1, got 0"),
        ({"n_warmup": 1.5}, ValueError, "n_warmup must be an integer of at least 0, got 1.5"),
        ({"s_scale": -1.0}, ValueError, "s_scale must be positive and finite; it is -1.0 at pixel 0"),
        ({"s_scale": np.ones(4)}, ValueError, r"s_scale must be a number or have shape \(6,\)"),
        ({"theta_0": (1.0, 0.0)}, ValueError, "scale of theta_0 must be positive"),
        ({"key": "seed"}, TypeError, "key must be an integer or a JAX key, got 'seed'"),
    ],
)
def test_bad_input(model, options, error, said):
    with pytest.raises(error, match=said):
        model.sample(**options)


def test_models_that_cannot_be_sampled(tmp_path, model, monkeypatch):
    with pytest.raises(NotTrainedError, match="call train"):
        untrained().sample()
    bounded = untrained(theta_bounds={"TEFF": (None, 0.3)})
    bounded.train()
    with pytest.raises(
        ValueError, match=r"does not support bounds on theta, and the term TEFF has the bounds \(-inf, 0.3\)"
    ):
        bounded.sample()
    monkeypatch.setattr("bayes_cannon.io.posterior_tree.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"bayes-cannon\[zarr\]"):
        model.sample(store=tmp_path / "p.zarr")
