"""Training from a store: the same numbers as in memory, the plan, what a killed training leaves, and refusals."""

import errno
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

import bayes_cannon as tc
from bayes_cannon.io.pixel_blocks import PixelBlocks
from bayes_cannon.io.preparation import Preparation
from bayes_cannon.io.spectra import to_dataset
from bayes_cannon.io.spectra_store import SpectraStore, open_store
from bayes_cannon.io.zarr_files import checked_codecs, seal_store
from bayes_cannon.model import store_plan, store_training
from bayes_cannon.model.store_training import StoreTraining
from bayes_cannon.training.profile import solver

pytest.importorskip("zarr")
N_STARS, N_PIXELS = 200, 60
SHARD, DEEP, AT_ONCE = 64, 16, 8


def write_store(path: Path, flux, ivar, wavelength, wide: int = N_PIXELS, **more) -> SpectraStore:
    """A store in float32 with shards of `SHARD` stars and chunks of `DEEP` stars and so many pixels."""
    spectra = tc.io.Spectra(flux, ivar, wavelength, **more)
    dataset = to_dataset(spectra)
    packing = {"shards": (SHARD, flux.shape[1]), "chunks": (DEEP, wide), "compressors": checked_codecs()}
    for name in ("flux", "ivar"):
        dataset[name] = dataset[name].astype(np.float32)
    dataset.to_zarr(
        path, mode="w", consolidated=False, zarr_format=3, write_empty_chunks=True,
        encoding={"flux": packing, "ivar": packing},
    )  # fmt: skip
    seal_store(path)
    return open_store(path)


@pytest.fixture(scope="module")
def spectra(training):
    """Flux and ivar that float32 holds, with pixels that some stars, and one that all, lack."""
    flux, ivar = training.flux.astype(np.float32).astype(float), training.ivar.astype(np.float32).astype(float)
    missing = np.random.default_rng(3).random(flux.shape) < 0.03
    ivar[missing], flux[missing] = 0, np.nan
    ivar[:, 41] = 0
    return flux, ivar


@pytest.fixture
def store(tmp_path, training, spectra):
    return write_store(tmp_path / "s.zarr", *spectra, training.dispersion)


@pytest.fixture
def small(monkeypatch):
    """A process that takes no memory and a solver that works on few pixels at once, so that small problems have blocks.

    Limits are then those of their arrays.
    """
    monkeypatch.setattr(store_plan, "PROCESS", 0)
    for module in (store_plan, solver):
        monkeypatch.setattr(module, "block_size", lambda *_: AT_ONCE)


def memory_for(model, pixels: int, *, item: int = 4, of_row: int = store_plan.WINDOW_BYTES) -> int:
    """A limit under which two blocks of so many pixels fit, beside the solver and what is read."""
    terms = model._stars.terms
    shared, each = solver.working_memory(terms)
    return shared + AT_ONCE * each + DEEP * N_PIXELS * of_row + pixels * terms.n_stars * (2 * 2 * item + 1)


def model_of(training, **settings) -> tc.CannonModel:
    return tc.CannonModel(training.labels, None, None, training.vectorizer, dispersion=training.dispersion, **settings)


def check_same(model: tc.CannonModel, memory: tc.CannonModel) -> None:
    """What training learned is the same; theta and s2 to 1e-10, as rounding depends on which pixels share a block."""
    np.testing.assert_allclose(model.theta, memory.theta, rtol=0, atol=1e-10)
    np.testing.assert_allclose(model.s2, memory.s2, rtol=0, atol=1e-10)
    found, wanted = model.certificates, memory.certificates
    assert found.keys() == wanted.keys()
    for name in ("status", "n_minima"):
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)
    for name in ("objective", "duality_gap", "profile_gradient", "margin"):
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-10, atol=1e-10, err_msg=name)
    for name in ("snr", "reduced_chi_squared"):
        found, wanted = (getattr(one._result.goodness, name) for one in (model, memory))
        np.testing.assert_allclose(found, wanted, rtol=1e-10, err_msg=name)
    ours, theirs = ({**one._hashes(), "theta": "", "s2": ""} for one in (model, memory))
    assert ours == theirs
    assert model.provenance == memory.provenance
    assert model._result.changed_settings(model._settings) == []


SETTINGS = [
    {},
    {"regularization": 100.0},
    {"regularization": np.linspace(0, 500, N_PIXELS), "censors": {"FE_H": np.arange(N_PIXELS) > 40}},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=["plain", "regularized", "censored"])
@pytest.mark.parametrize("transposes", [True, False])
def test_a_store_trains_as_memory_does(tmp_path, training, spectra, small, settings, transposes):
    store = write_store(tmp_path / "s.zarr", *spectra, training.dispersion, N_PIXELS if transposes else 4)
    memory = tc.CannonModel(training.labels, *spectra, training.vectorizer, dispersion=training.dispersion, **settings)
    memory.train()
    model = model_of(training, **settings)
    limit = memory_for(model, 16)
    plan = model.plan_store(store, memory=limit)
    assert (plan.transposes, plan.n_blocks, plan.block, plan.dtype) == (transposes, 4, 16, "float32")
    finished = []
    theta, s2, metadata = model.train_store(store, memory=limit, progress=finished.append)
    check_same(model, memory)
    assert theta is model.theta
    assert s2 is model.s2
    assert sum(finished) == N_PIXELS
    assert [record["status"] for record in metadata] == memory.certificates["status"].tolist()
    assert list(tmp_path.iterdir()) == [tmp_path / "s.zarr"]
    flux = np.nan_to_num(spectra[0][:5]), spectra[1][:5]
    np.testing.assert_allclose(model.test(*flux)[0], memory.test(*flux)[0], rtol=1e-8)
    model.write(tmp_path / "m.model")
    assert tc.load_model(tmp_path / "m.model") == model


def test_all_in_one_block(training, spectra, store):
    memory = tc.CannonModel(training.labels, *spectra, training.vectorizer, dispersion=training.dispersion)
    memory.train()
    model = tc.CannonModel(training.labels, None, None, training.vectorizer)
    plan = model.plan_store(store, memory="2 GB")
    whole = 2 * 4 * N_STARS * N_PIXELS
    assert (plan.n_blocks, plan.transposes, plan.bytes_read, plan.bytes_written) == (1, False, whole, 0)
    model.train_store(store)
    check_same(model, memory)
    np.testing.assert_array_equal(model.dispersion, training.dispersion)


def test_some_stars_bounds_and_the_correction_of_scatter(training, spectra, store, small):
    stars = np.flatnonzero(np.arange(N_STARS) % 3 > 0)
    bounds = {"theta_bounds": {"TEFF": (-0.01, None)}, "dispersion": training.dispersion}
    memory = tc.RestrictedCannonModel(
        training.labels[stars], *(array[stars] for array in spectra), training.vectorizer, **bounds
    )
    memory.train(dof_correction=True)
    model = tc.RestrictedCannonModel(training.labels[stars], None, None, training.vectorizer, **bounds)
    limit = memory_for(model, 20, item=8)
    assert model.plan_store(store, stars=stars, dof_correction=True, memory=limit).n_blocks > 1
    model.train_store(store, stars=stars, dof_correction=True, memory=limit)
    check_same(model, memory)


def test_another_training_starts_from_the_last(training, spectra, store, small):
    memory = tc.CannonModel(training.labels, *spectra, training.vectorizer, dispersion=training.dispersion)
    model = model_of(training)
    for regularization in (0.0, 10.0):
        memory.regularization = model.regularization = regularization
        memory.train()
        model.train_store(store, memory=memory_for(model_of(training), 30))
    check_same(model, memory)


def test_spectra_are_prepared(tmp_path, training, spectra, small):
    """Each divided by its median, some pixels chosen: what a store by stars can do, and one of blocks of pixels not."""
    steps = Preparation(divide_by_median=True, wavelength_range=tuple(training.dispersion[[5, 54]]))
    store = write_store(tmp_path / "s.zarr", *spectra, training.dispersion, units={"wavelength": "Angstrom"})
    prepared = steps.apply(tc.io.read_spectra(tmp_path / "s.zarr"))
    assert prepared.n_pixels == 50
    memory = tc.CannonModel(
        training.labels, prepared.flux, prepared.ivar, training.vectorizer, dispersion=prepared.wavelength
    )
    memory.train()
    model = tc.CannonModel(training.labels, None, None, training.vectorizer)
    limit = memory_for(model, 10, item=8, of_row=store_plan.PREPARED_BYTES)
    plan = model.plan_store(store, preparation=steps, memory=limit)
    assert (plan.transposes, plan.dtype, plan.n_pixels, plan.n_blocks > 2) == (True, "float64", 50, True)
    model.train_store(store, preparation=steps, memory=limit)
    check_same(model, memory)
    assert model.dispersion_unit == "Angstrom"


def test_the_plan_by_hand(tmp_path, training, spectra, small):
    """200 stars in chunks of 16 x 60 or 16 x 6, of 60 pixels, in 4 blocks of 16."""
    shared, each = solver.working_memory(training.model()._stars.terms)
    limit = memory_for(model_of(training), 16)
    plans = {
        wide: model_of(training).plan_store(
            write_store(tmp_path / f"{wide}.zarr", *spectra, training.dispersion, wide), memory=limit
        )
        for wide in (60, 6)
    }
    whole = N_STARS * N_PIXELS * 2 * 4
    # Once from the store, once from the scratch store, and twice from there for the hash: flux before ivar.
    assert plans[60].bytes_read == whole + whole + 2 * whole
    assert plans[60].bytes_written == whole
    # Of the blocks 0-16, 16-32, 32-48, 48-60 the chunks 0-18, 12-36, 30-48, 48-60, and twice all for the hash.
    assert plans[6].bytes_read == N_STARS * (18 + 24 + 18 + 12) * 2 * 4 + 2 * whole
    assert plans[6].bytes_written == 0
    for plan in plans.values():
        assert (plan.block, plan.batch, plan.window) == (16, SHARD, DEEP)
        assert plan.solver_memory == shared + AT_ONCE * each
        assert plan.peak_memory == limit == plan.memory
    assert "4 blocks of 16 pixels, through a scratch store" in str(plans[60])
    assert "decodes 0.384 MB, reading it once and writing and reading such blocks moves 0.288 MB" in plans[60].reason


def test_too_little_memory_is_refused_with_the_numbers(training, store):
    with pytest.raises(ValueError, match=r"100 MB is too small for 200 stars of 60 pixels: at least 9.* the process"):
        model_of(training).train_store(store, memory="100 MB")
    with pytest.raises(ValueError, match="memory must be bytes, such as"):
        model_of(training).train_store(store, memory="2 apples")


def test_what_does_not_fit_is_refused(tmp_path, training, spectra, store):
    with pytest.raises(ValueError, match="labels of 200 stars, and 199 of the 200 stars"):
        model_of(training).train_store(store, stars=slice(199))
    with pytest.raises(ValueError, match="ascending rows"):
        model_of(training).train_store(store, stars=np.arange(200)[::-1])
    with pytest.raises(ValueError, match=r"LowRank\(.* needs all pixels .* set scatter=None"):
        model_of(training, scatter=tc.scatter.LowRank(2)).train_store(store)
    with pytest.raises(ValueError, match="dispersion differs"):
        tc.CannonModel(
            training.labels, None, None, training.vectorizer, dispersion=training.dispersion + 1
        ).train_store(store)
    flux, ivar = spectra
    bad = ivar.copy()
    bad[130, 7] = -1
    with pytest.raises(ValueError, match=r"ivar in .*bad.zarr must be finite.*got -1.0 for its star 130 at pixel 7"):
        model_of(training).train_store(write_store(tmp_path / "bad.zarr", flux, bad, training.dispersion))
    with pytest.raises(TypeError, match=r"what bayes_cannon.io.open_store returns"):
        model_of(training).train_store(tmp_path / "s.zarr")


def test_a_damaged_shard_is_named(training, store, small):
    file = store.path / "flux/c/2/0"
    content = bytearray(file.read_bytes())
    content[50] ^= 255
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"shard 2 .*flux/c/2/0 is not as it was written"):
        model_of(training).train_store(store, memory=memory_for(model_of(training), 16))


class Elsewhere(tc.execution.SerialExecutor):
    """An executor whose work is pickled, as that of other processes is, and which says what memory there is."""

    memory = 1e9

    def submit(self, work, number):
        content = pickle.dumps(work)
        assert len(content) < 1000  # The name of a file, not the labels.
        there = pickle.loads(content)
        with patch.object(store_training, "work_file", None):  # Which is not written anew there.
            assert pickle.dumps(there) == content
        super().submit(there, number)


def test_an_executor_works_on_blocks_and_tells_of_them(tmp_path, training, spectra, store, small, monkeypatch):
    memory = tc.CannonModel(training.labels, *spectra, training.vectorizer, dispersion=training.dispersion)
    memory.train()
    solve, tried, events = StoreTraining.solve, [], []

    def failing_once(work, number, spectra):
        tried.append(number)
        if tried.count(number) == 1 and number == 2:
            raise RuntimeError("struck by lightning")
        return solve(work, number, spectra)

    monkeypatch.setattr(StoreTraining, "solve", failing_once)
    model, options = model_of(training), {"memory": memory_for(model_of(training), 16), "scratch": tmp_path / "scratch"}
    with Elsewhere() as executor:
        model.train_store(store, executor=executor, listen=events.append, **options)
    check_same(model, memory)
    ended = [(event.shards, event.size) for event in events if isinstance(event, tc.execution.RunFinished)]
    assert ended == [(4, N_STARS), (4, N_PIXELS)]  # Batches of stars into the scratch store, then blocks of pixels.
    failed = [event for event in events if isinstance(event, tc.execution.ShardFailed)]
    assert [(event.shard, event.attempt, event.is_last) for event in failed] == [(2, 1, False)]
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == ["pixels.zarr"]


def test_a_block_that_fails_is_named_and_the_rest_is_kept(tmp_path, training, store, small, monkeypatch):
    solve = StoreTraining.solve

    def failing(work, number, spectra):
        if number == 1:
            raise RuntimeError("struck by lightning")
        return solve(work, number, spectra)

    monkeypatch.setattr(StoreTraining, "solve", failing)
    options = {"memory": memory_for(model_of(training), 16), "scratch": tmp_path / "scratch"}
    with pytest.raises(
        ValueError, match=r"part 1 of the training from .*s\.zarr .* struck by lightning\. What is finis"
    ):
        model_of(training).train_store(store, **options)
    (folder,) = (tmp_path / "scratch").glob("solution-*")
    assert sorted(path.name for path in folder.glob("*.npz")) == ["000000.npz", "000002.npz", "000003.npz"]


def test_a_limit_above_that_of_the_workers_is_refused(training, store):
    with Elsewhere() as executor:
        assert model_of(training).plan_store(store, executor=executor).memory == 1e9
        with pytest.raises(ValueError, match=r"memory='2 GB' is more than the 1 GB that a worker has"):
            model_of(training).train_store(store, memory="2 GB", executor=executor)


@pytest.mark.parametrize("what", ["io.pixel_blocks.PixelBlocks.write", "model.store_training.put_npz"])
def test_a_full_disk_ends_it_with_its_error(tmp_path, training, store, small, monkeypatch, what):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(f"bayes_cannon.{what}", full)
    said = r"cannot write part \d of the training: No space left on device; what is finished stays.*s\.zarr\.training"
    with pytest.raises(OSError, match=said) as raised:
        model_of(training).train_store(store, memory=memory_for(model_of(training), 16))
    assert raised.value.errno == errno.ENOSPC


def test_a_store_that_is_removed_under_way_is_named(training, store, small, monkeypatch):
    copy = StoreTraining.copy

    def removing(work, batch, spectra):
        shutil.rmtree(store.path, ignore_errors=True)
        return copy(work, batch, spectra)

    monkeypatch.setattr(StoreTraining, "copy", removing)
    with pytest.raises(FileNotFoundError, match=r"s\.zarr"):
        model_of(training).train_store(store, memory=memory_for(model_of(training), 16))


@pytest.mark.slow
def test_workers_of_dask_train_as_memory_does_though_one_is_killed(tmp_path, training, spectra, store, small):
    pytest.importorskip("distributed")
    memory = tc.CannonModel(training.labels, *spectra, training.vectorizer, dispersion=training.dispersion)
    memory.train()
    model, killed = model_of(training), []
    with tc.execution.DaskExecutor(workers=2, memory_limit="3 GB") as executor:

        def kill(event):
            if not killed and isinstance(event, tc.execution.ShardDone):
                killed.append(event.worker)
                os.kill(executor._client.run(os.getpid, workers=[event.worker])[event.worker], signal.SIGKILL)

        model.train_store(store, memory=memory_for(model_of(training), 16), executor=executor, listen=kill)
    assert killed
    # The same optimum. On one core sums have another order, which may end the iteration a step sooner or later.
    np.testing.assert_allclose(model.theta, memory.theta, rtol=0, atol=1e-8)
    np.testing.assert_allclose(model.certificates["objective"], memory.certificates["objective"], rtol=1e-10)
    np.testing.assert_array_equal(model.certificates["status"], memory.certificates["status"])
    assert model._hashes()["training_set"] == memory._hashes()["training_set"]


def test_the_scratch_store_is_kept_and_used_again(tmp_path, training, store, small, monkeypatch):
    options = {"memory": memory_for(model_of(training), 16), "scratch": tmp_path / "scratch"}
    model_of(training).train_store(store, **options)
    monkeypatch.setattr(PixelBlocks, "write", None)
    model_of(training, regularization=10.0).train_store(store, **options)
    fewer = tc.CannonModel(training.labels[:190], None, None, training.vectorizer, dispersion=training.dispersion)
    options["memory"] = memory_for(fewer, 16)
    with pytest.raises(ValueError, match=r"made for another training: .*stars is .* there and"):
        fewer.train_store(store, stars=slice(190), **options)


def test_only_what_is_missing_is_done(tmp_path, training, store, small, monkeypatch):
    options = {"memory": memory_for(model_of(training), 16), "scratch": tmp_path / "scratch"}
    solve, solved = StoreTraining.solve, []

    def broken(work, number, spectra):
        if len(solved) == 2:
            raise KeyboardInterrupt
        solved.append(number)
        return solve(work, number, spectra)

    monkeypatch.setattr(StoreTraining, "solve", broken)
    model = model_of(training)
    with pytest.raises(KeyboardInterrupt):
        model.train_store(store, **options)
    assert not model.is_trained
    (folder,) = (tmp_path / "scratch").glob("solution-*")
    half = folder / "000001.npz"
    half.write_bytes(half.read_bytes()[:-1000])  # As on a computer that lost its power.
    again = []
    monkeypatch.setattr(StoreTraining, "solve", lambda work, *of: again.append(of[0]) or solve(work, *of))
    model.train_store(store, **options)
    assert (solved, again) == ([0, 1], [1, 2, 3])


KILLED = """
import sys, time
import numpy as np
import bayes_cannon as tc
from bayes_cannon.model import store_plan
from bayes_cannon.model.store_training import StoreTraining
from bayes_cannon.training.profile import solver
store_plan.PROCESS, solver.block_size, store_plan.block_size = 0, lambda *_: 8, lambda *_: 8
solve = StoreTraining.solve
def slow(work, number, spectra):
    if number == 2:
        print("at block 2", flush=True)
        time.sleep(60)
    return solve(work, number, spectra)
StoreTraining.solve = slow
vectorizer = tc.vectorizer.PolynomialVectorizer(("TEFF", "LOGG", "FE_H"), 2)
model = tc.CannonModel(np.load("labels.npy"), None, None, vectorizer)
model.train_store(tc.io.open_store("s.zarr"), memory=int(sys.argv[1]))
"""


def test_a_killed_training_goes_on(tmp_path, training, spectra, store, small, monkeypatch):
    np.save(tmp_path / "labels.npy", training.labels)
    limit = memory_for(model_of(training), 16)
    environment = os.environ | {"PYTHONPATH": str(Path(tc.__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(limit)], cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at block 2\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    solve, solved = StoreTraining.solve, []
    monkeypatch.setattr(StoreTraining, "solve", lambda work, *of: solved.append(of[0]) or solve(work, *of))
    model = tc.CannonModel(training.labels, None, None, training.vectorizer)
    model.train_store(store, memory=limit)
    assert solved == [2, 3]
    memory = tc.CannonModel(training.labels, *spectra, training.vectorizer, dispersion=training.dispersion)
    memory.train()
    check_same(model, memory)
    assert not (tmp_path / "s.zarr.training").exists()
