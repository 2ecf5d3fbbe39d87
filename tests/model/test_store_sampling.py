"""Draws of theta from a store of spectra: those of memory, gone on with, and of no other spectra."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import bayes_cannon as tc
from bayes_cannon.core.status import PosteriorStatus
from bayes_cannon.execution import DaskExecutor, SerialExecutor
from bayes_cannon.execution.memory import PROCESS
from bayes_cannon.model import store_plan, store_sampling
from bayes_cannon.model.store_training import StoreTraining
from bayes_cannon.posterior.theta import sample as posterior_pixels
from bayes_cannon.training.profile import solver

pytest.importorskip("zarr")
N_STARS, N_PIXELS, AT_ONCE = 60, 10, 4
ASKED = {"key": 5, "n_draws": 300}


@pytest.fixture
def case(tmp_path, monkeypatch):
    """A model that was trained in memory, one from a store, and what blocks of four pixels want."""
    for module in (posterior_pixels, store_sampling):
        monkeypatch.setattr(module, "PIXELS_AT_ONCE", AT_ONCE)
    for module in (store_plan, solver):
        monkeypatch.setattr(module, "block_size", lambda *_: 1)
    rng = np.random.default_rng(0)
    labels = np.column_stack([rng.uniform(4000, 5000, N_STARS), rng.normal(0, 0.3, N_STARS)])
    x = (labels - [4500, 0]) / [1000, 1.2]
    flux = 1 + x @ rng.normal(0, 0.05, (2, N_PIXELS)) + 0.02 * rng.normal(size=(N_STARS, N_PIXELS))
    ivar, wavelength = np.full(flux.shape, 1e4), np.linspace(5000, 5010, N_PIXELS)
    tc.io.write_spectra(tmp_path / "s.zarr", tc.io.Spectra(flux, ivar, wavelength))
    tc.io.write_spectra(tmp_path / "other.zarr", tc.io.Spectra(flux + 1, ivar, wavelength))
    vectorizer = tc.vectorizer.PolynomialVectorizer(("TEFF", "FE_H"), 1)
    memory, model = (
        tc.CannonModel(labels, *spectra, vectorizer, regularization=10.0, dispersion=wavelength)
        for spectra in ((flux, ivar), (None, None))
    )
    memory.train()
    plan = model.plan_store(tc.io.open_store(tmp_path / "s.zarr"), memory="2 GB")
    held = N_STARS * (4 * 8 + 1)  # Two blocks, and a byte a pixel.
    fixed = plan.peak_memory - N_PIXELS * N_STARS * (2 * 8 + 1) - PROCESS
    monkeypatch.setattr(store_plan, "PROCESS", 0)
    options = {"memory": fixed + AT_ONCE * held, "scratch": tmp_path / "scratch"}
    model.train_store(tc.io.open_store(tmp_path / "s.zarr"), **options)
    return memory, model, options


def test_draws_are_those_of_memory(case, tmp_path, monkeypatch):
    memory, model, options = case
    assert_allclose(model.theta, memory.theta, rtol=0, atol=1e-10)
    # Chains that start where others do but for rounding part from them: theta is to be the same to the last bit.
    model._result = replace(model._result, theta=memory.theta, s2=memory.s2)
    wanted = memory.sample(**ASKED)
    read, parts = StoreTraining.read_pixels, []
    monkeypatch.setattr(StoreTraining, "read_pixels", lambda work, of: parts.append(of) or read(work, of))
    store = tc.io.open_store(tmp_path / "s.zarr")
    tree = model.sample_store(store, out=tmp_path / "theta.zarr", **options, **ASKED)
    assert parts == 2 * [slice(0, 4), slice(4, 8), slice(8, 10)]  # For the priors, and to sample.
    for name in ("summary/status", "constant_data/theta_0_scale", "constant_data/s_scale"):
        assert_array_equal(tree[name].to_numpy(), wanted[name].to_numpy(), err_msg=name)
    # Second runs share blocks with other pixels than in memory, and differ by rounding, which chains make large.
    status = wanted["summary/status"].to_numpy()
    once = np.flatnonzero(status == PosteriorStatus.CONVERGED)
    assert len(once) > N_PIXELS // 2
    for name in ("posterior/theta", "posterior/s"):
        ours, theirs = (one[name].isel(pixel=once).to_numpy() for one in (tree, wanted))
        assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9, err_msg=name)
    spread = np.sqrt(np.diagonal(memory.posterior.covariance, axis1=1, axis2=2))
    assert (np.abs(model.posterior.mean - memory.posterior.mean) < 0.2 * spread).all()
    assert set(wanted.children) - set(tree.children) == {"observed_data"}
    assert "ivar" not in tree["constant_data"]
    parts.clear()
    again = model.sample_store(store, out=tmp_path / "theta.zarr", **options, **ASKED)
    assert len(parts) == 3  # All is there: only the priors, by which a run is known, are made again.
    assert again.identical(tree)


def test_other_spectra_are_refused(case, tmp_path):
    _, model, options = case
    with pytest.raises(ValueError, match=r"the spectra in .*other\.zarr, or the labels, are not those that the model"):
        model.sample_store(tc.io.open_store(tmp_path / "other.zarr"), memory=options["memory"], **ASKED)
    with pytest.raises(ValueError, match="pixels names pixel 10; the model has the pixels 0 to 9"):
        model.sample_store(tc.io.open_store(tmp_path / "s.zarr"), pixels=[10], **options, **ASKED)


def test_draws_by_an_executor_are_written_by_it(case, tmp_path):
    _, model, options = case
    store, events = tc.io.open_store(tmp_path / "s.zarr"), []
    wanted = model.sample_store(store, out=tmp_path / "one.zarr", **options, **ASKED)
    with pytest.raises(ValueError, match=r"processes write their draws into a store: say which with out="):
        model.sample_store(store, executor=SerialExecutor(), **options, **ASKED)
    with SerialExecutor() as executor:
        asked = {"executor": executor, "listen": events.append, "progress": None, **options, **ASKED}
        tree = model.sample_store(store, out=tmp_path / "two.zarr", **asked)
        assert [event.size for event in events[:-1]] == [4, 4, 2]
        for name in ("posterior/theta", "posterior/s", "summary/theta_mean", "summary/status", "constant_data/s_scale"):
            assert_array_equal(tree[name].to_numpy(), wanted[name].to_numpy(), err_msg=name)
        events.clear()
        model.sample_store(store, out=tmp_path / "two.zarr", **asked)
        assert len(events) == 0
    assert not list(options["scratch"].glob("sampling-*"))


def test_an_executor_goes_on_with_what_is_there(case, tmp_path):
    _, model, options = case
    store, counted = tc.io.open_store(tmp_path / "s.zarr"), []
    some = {**options, **ASKED, "pixels": [1, 2, 5, 9]}
    wanted = model.sample_store(store, out=tmp_path / "one.zarr", **some)

    class Ends(SerialExecutor):
        """It loses what runs after the first part."""

        def collect(self):
            if counted:
                raise ConnectionError("the scheduler was lost")
            counted.append(1)
            return super().collect()

    with pytest.raises(ConnectionError, match="was lost"), Ends() as executor:
        model.sample_store(store, out=tmp_path / "two.zarr", executor=executor, **some)
    sizes = []
    with SerialExecutor() as executor:
        tree = model.sample_store(store, out=tmp_path / "two.zarr", executor=executor, progress=sizes.append, **some)
    assert sizes == [1, 1]
    assert_array_equal(tree["posterior/theta"].to_numpy(), wanted["posterior/theta"].to_numpy())


@pytest.mark.slow
def test_draws_by_two_processes(case, tmp_path):
    pytest.importorskip("distributed")
    _, model, options = case
    store = tc.io.open_store(tmp_path / "s.zarr")
    here = model.sample_store(store, out=tmp_path / "one.zarr", **options, **ASKED)
    del options["memory"]
    with DaskExecutor(workers=2, memory_limit="2 GB") as executor:
        tree = model.sample_store(store, out=tmp_path / "two.zarr", executor=executor, **options, **ASKED)
    assert (tree["summary/finished"].to_numpy() == 1).all()
    assert np.isin(tree["summary/status"].to_numpy(), [PosteriorStatus.CONVERGED, PosteriorStatus.RETRIED]).all()
    spread = here["posterior/theta"].std(("chain", "draw")).to_numpy()
    mean = [one["posterior/theta"].mean(("chain", "draw")).to_numpy() for one in (here, tree)]
    assert (np.abs(mean[1] - mean[0]) < 0.3 * spread + 1e-12).all()
    assert not list(options["scratch"].glob("sampling-*"))
