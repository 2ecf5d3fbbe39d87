"""Labels of a store: those of the arrays in memory, whoever made them, and however often the run was broken off."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

import bayes_cannon as tc
from bayes_cannon.execution import RunFinished, SerialExecutor, ShardDone, ShardFailed
from bayes_cannon.execution.memory import PROCESS
from bayes_cannon.io import label_store as label_store_module
from bayes_cannon.io.label_store import LabelStore, open_labels
from bayes_cannon.labelling.fit import LabelFit
from bayes_cannon.model.any_model import tables_size
from bayes_cannon.model.label_plan import LabelPlan

SHARD, TOLERANCE = 64, 1e-10


@pytest.fixture(scope="module")
def spectra(training: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the training spectra in shards of 64, the last of 8, with names and Gaia ids of the stars."""
    folder = tmp_path_factory.mktemp("spectra")
    names = np.array([f"star {k}" for k in range(200)])
    gaia = np.arange(200) + 2**60
    one = tc.io.Spectra(
        training.flux,
        training.ivar,
        training.dispersion,
        names,
        labels={"SOURCE": gaia},
        units={"wavelength": "Angstrom"},
    )
    tc.io.write_spectra(folder / "stars.nc", one)
    tc.io.ingest(folder / "stars.nc", folder / "stars.zarr", shard_size=SHARD)
    return folder / "stars.zarr"


def all_arrays(labels: LabelStore) -> dict[str, np.ndarray]:
    parts = [labels.read(number) for number in range(labels.shards)]
    return {name: np.concatenate([part[name] for part in parts]) for name in labels.arrays}


def in_memory(model: tc.CannonModel, store: Path, **options: object) -> LabelFit:
    found = tc.io.read_spectra(store)
    return model.fit_labels(found.flux, found.ivar, **options)


def check_same(arrays: dict[str, np.ndarray], fit: LabelFit, but: tuple[str, ...] = ("formal_covariance",)) -> None:
    for field in fields(fit):
        if field.name not in but:
            expected = getattr(fit, field.name)
            np.testing.assert_allclose(
                arrays[field.name], expected, rtol=TOLERANCE, atol=TOLERANCE, err_msg=field.name
            )  # fmt: skip
    assert set(but) & set(arrays) == set()


def files(store: Path) -> dict[str, bytes]:
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in store.glob("*/c.*")}


def test_labels_are_those_in_memory(trained: tc.CannonModel, spectra: Path, tmp_path: Path) -> None:
    done, stars = [], []
    labelled = trained.label_store(spectra, tmp_path / "out.zarr", listen=done.append, progress=stars.append)
    labels = open_labels(tmp_path / "out.zarr")
    arrays = all_arrays(labels)
    check_same(arrays, in_memory(trained, spectra))
    assert arrays["star_id"].tolist() == [f"star {k}" for k in range(200)]
    assert arrays["SOURCE"].tolist() == [str(2**60 + k) for k in range(200)]
    assert (labelled.n_stars, labelled.n_new) == (200, 200)
    assert labels.missing() == []
    assert [event.shard for event in done[:-1]] == [0, 1, 2, 3]
    assert [event.size for event in done[:-1]] == stars == [64, 64, 64, 8]
    assert isinstance(done[-1], RunFinished)


def test_xarray_opens_the_store(trained: tc.CannonModel, spectra: Path, tmp_path: Path) -> None:
    import xarray as xr

    trained.label_store(spectra, tmp_path / "out.zarr")
    with xr.open_zarr(tmp_path / "out.zarr", consolidated=False) as found:
        teff = found["labels"].sel(label="TEFF").to_numpy()
    np.testing.assert_allclose(teff, in_memory(trained, spectra).labels[:, 0], rtol=TOLERANCE)


def test_nothing_is_done_twice_and_what_is_missing_is_seen(
    trained: tc.CannonModel, spectra: Path, tmp_path: Path
) -> None:  # fmt: skip
    out = tmp_path / "out.zarr"
    trained.label_store(spectra, out)
    before = files(out)
    assert trained.label_store(spectra, out).n_new == 0
    (out / "snr" / "c.1").unlink()
    (out / "labels" / "c.3.0").unlink()
    assert open_labels(out).missing() == [1, 3]
    events: list = []
    again = trained.label_store(spectra, out, listen=events.append)
    assert [event.shard for event in events if isinstance(event, ShardDone)] == [1, 3]
    assert again.n_new == 64 + 8
    assert files(out) == before


def test_the_error_budget_is_kept(trained: tc.CannonModel, spectra: Path, tmp_path: Path) -> None:
    trained.label_store(spectra, tmp_path / "budget.zarr", error_budget=True)
    arrays = all_arrays(open_labels(tmp_path / "budget.zarr"))
    found = tc.io.read_spectra(spectra)
    budget = trained.error_budget(found.flux, found.ivar)
    for k, errors in enumerate(budget.errors().values()):
        np.testing.assert_allclose(arrays["error_budget"][:, k], errors, rtol=1e-8, atol=TOLERANCE)
    with pytest.raises(ValueError, match="labels of other options"):
        trained.label_store(spectra, tmp_path / "budget.zarr")
    with pytest.raises(ValueError, match="leave the prior out"):
        trained.label_store(spectra, tmp_path / "both.zarr", error_budget=True, prior="population")


@pytest.mark.slow
def test_posterior_means(trained: tc.CannonModel, spectra: Path, tmp_path: Path) -> None:
    trained.label_store(spectra, tmp_path / "prior.zarr", prior="population")
    fit = in_memory(trained, spectra, prior="population")
    check_same(all_arrays(open_labels(tmp_path / "prior.zarr")), fit)


@pytest.mark.slow
def test_local_models(training: object, spectra: Path, tmp_path: Path) -> None:
    local = tc.LocalCannonModel(
        training.labels, training.flux, training.ivar, ("TEFF", "LOGG", "FE_H"), partitions=[(1, 1)],
        dispersion=training.dispersion,
    )  # fmt: skip
    local.train()
    local.label_store(spectra, tmp_path / "local.zarr")
    check_same(all_arrays(open_labels(tmp_path / "local.zarr")), in_memory(local, spectra))
    with pytest.raises(ValueError, match="an error budget and a prior are of one model"):
        local.label_store(spectra, tmp_path / "other.zarr", error_budget=True)


def test_another_model_or_other_spectra_are_refused(
    trained: tc.CannonModel, training: object, spectra: Path, tmp_path: Path
) -> None:  # fmt: skip
    out = tmp_path / "out.zarr"
    trained.label_store(spectra, out)
    other = training.model(regularization=10.0)
    other.train()
    with pytest.raises(ValueError, match="labels of another model: its model_sha256 is"):
        other.label_store(spectra, out)
    found = tc.io.read_spectra(spectra)
    tc.io.write_spectra(tmp_path / "more.nc", replace(found, flux=found.flux * 1.01))
    tc.io.ingest(tmp_path / "more.nc", tmp_path / "more.zarr", shard_size=SHARD)
    with pytest.raises(ValueError, match="labels of other spectra: its spectra_sha256 is"):
        trained.label_store(tmp_path / "more.zarr", out)
    with pytest.raises(FileExistsError, match=r"stars\.zarr exists and is no store of labels"):
        trained.label_store(tmp_path / "more.zarr", spectra)


def test_a_model_that_was_read_goes_on(trained: tc.CannonModel, spectra: Path, tmp_path: Path) -> None:
    trained.label_store(spectra, tmp_path / "out.zarr")
    trained.write(tmp_path / "a.model")
    again = tc.CannonModel.read(tmp_path / "a.model")
    assert again.label_store(spectra, tmp_path / "out.zarr").n_new == 0


def test_the_plan_by_hand(trained: tc.CannonModel, spectra: Path, tmp_path: Path) -> None:
    plan = trained.label_plan(spectra, tmp_path / "out.zarr")
    assert (plan.n_stars, plan.n_pixels, plan.shard_size) == (200, 60, 64)
    assert plan.bytes_read.tolist() == [64 * 60 * 8] * 3 + [8 * 60 * 8]  # Flux and ivar in float32.
    # 9 floats and 4 integers, labels twice, one covariance, two texts; K = 3.
    row = 8 * (7 + 4 + 2 * 3 + 9) + 2 * 16
    assert plan.bytes_written.tolist() == [64 * row] * 3 + [8 * row]
    assert plan.missing == (0, 1, 2, 3)
    assert plan.model_memory == tables_size(trained)
    assert plan.memory_per_star == 60 * (16 + 8) + 2 * row
    assert plan.fixed_memory == PROCESS + 2 * plan.model_memory + 8 * 10 * 3 * 500_000
    assert plan.memory == plan.fixed_memory + 64 * plan.memory_per_star
    assert trained.label_plan(spectra, reads_ahead=False).memory_per_star == 60 * 16 + 2 * row
    done = trained.label_store(spectra, tmp_path / "out.zarr").plan
    assert {field.name: str(getattr(done, field.name)) for field in fields(plan)} == {
        field.name: str(getattr(plan, field.name)) for field in fields(plan)
    }
    assert trained.label_plan(spectra, tmp_path / "out.zarr").missing == ()


def test_a_plan_that_does_not_fit_is_refused_with_what_would() -> None:
    plan = LabelPlan(
        n_stars=10_000, n_pixels=8575, shard_size=4000, bytes_read=np.zeros(3, int), bytes_written=np.zeros(3, int),
        missing=(), model_memory=0, fixed_memory=10**9, memory_per_star=10**6,
    )  # fmt: skip
    plan.check(5e9)
    with pytest.raises(ValueError, match=r"needs 5 GB for shards of 4000 .* has 3 GB; shards of up to 2000 spectra"):
        plan.check(3e9)
    with pytest.raises(ValueError, match=r"no shard would fit, as 1 GB are needed without one"):
        plan.check(0.5e9)


def test_too_little_memory_is_said_before_anything_is_written(
    trained: tc.CannonModel, spectra: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(SerialExecutor, "memory", 1e6)
    with pytest.raises(ValueError, match=r"needs .* GB for shards of 64 spectra of 60 pixels, and has 0\.001 GB"):
        trained.label_store(spectra, tmp_path / "out.zarr")
    assert not (tmp_path / "out.zarr").exists()


def test_a_full_disk_keeps_what_was_written(
    trained: tc.CannonModel, spectra: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    out, write = tmp_path / "out.zarr", Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if "c.2" in path.name and path.parent.name == "snr":
            write(path, content[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="cannot write shard 2: No space left on device; shards that are"):
            trained.label_store(spectra, out)
    assert 0 not in open_labels(out).missing()
    assert 2 in open_labels(out).missing()
    assert not list(out.rglob("*.partial"))
    trained.label_store(spectra, out)
    check_same(all_arrays(open_labels(out)), in_memory(trained, spectra))


def test_a_store_that_is_removed_meanwhile_is_named(trained: tc.CannonModel, spectra: Path, tmp_path: Path) -> None:
    copy, out = tmp_path / "copy.zarr", tmp_path / "out.zarr"
    shutil.copytree(spectra, copy)
    events: list = []

    def remove(event: object) -> None:
        events.append(event)
        shutil.rmtree(copy, ignore_errors=True)

    with pytest.raises(FileNotFoundError, match=r"copy\.zarr is not there any more"):
        trained.label_store(copy, out, listen=remove)
    assert 0 not in open_labels(out).missing()
    assert len([event for event in events if isinstance(event, ShardFailed)]) >= 3

    def remove_labels(event: object) -> None:
        shutil.rmtree(tmp_path / "gone.zarr", ignore_errors=True)

    with pytest.raises(FileNotFoundError, match=r"gone\.zarr was removed"):
        trained.label_store(spectra, tmp_path / "gone.zarr", listen=remove_labels)


def test_a_damaged_shard_is_named_and_the_others_are_done(
    trained: tc.CannonModel, spectra: Path, tmp_path: Path
) -> None:  # fmt: skip
    copy, out = tmp_path / "copy.zarr", tmp_path / "out.zarr"
    shutil.copytree(spectra, copy)
    damaged = copy / "flux/c/1/0"
    damaged.write_bytes(damaged.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"1 shards of .*copy\.zarr could not be labelled, 3 were\. Shard 1: .*/c/1/0"):
        trained.label_store(copy, out)
    assert open_labels(out).missing() == [1]


def test_a_store_of_other_pixels_is_refused(trained: tc.CannonModel, training: object, tmp_path: Path) -> None:
    tc.io.write_spectra(tmp_path / "few.zarr", tc.io.Spectra(training.flux[:, :50], training.ivar[:, :50]))
    with pytest.raises(ValueError, match="have 50 pixels, and the model 60"):
        trained.label_store(tmp_path / "few.zarr", tmp_path / "out.zarr")
    with pytest.raises(ValueError, match=r"written to a \.zarr store, got .*out\.fits"):
        trained.label_store(tmp_path / "few.zarr", tmp_path / "out.fits")


def test_a_store_of_other_wavelengths_is_refused_soon(
    trained: tc.CannonModel, training: object, tmp_path: Path
) -> None:  # fmt: skip
    one = tc.io.Spectra(training.flux, training.ivar, training.dispersion + 5)
    tc.io.write_spectra(tmp_path / "other.nc", one)
    tc.io.ingest(tmp_path / "other.nc", tmp_path / "other.zarr", shard_size=20)
    events: list = []
    with pytest.raises(ValueError, match=r"other\.zarr could not be labelled, 0 were\. Shard 0: .*dispersion"):
        trained.label_store(tmp_path / "other.zarr", tmp_path / "out.zarr", listen=events.append)
    assert len(events) <= 3 * 4 + 1


def test_stars_without_names_have_their_row(trained: tc.CannonModel, training: object, tmp_path: Path) -> None:
    store = tmp_path / "plain.zarr"
    tc.io.write_spectra(store, tc.io.Spectra(training.flux, training.ivar, training.dispersion))
    trained.label_store(store, tmp_path / "out.zarr")
    assert all_arrays(open_labels(tmp_path / "out.zarr"))["star_id"].tolist() == [str(k) for k in range(200)]


def test_what_killed_writers_left_goes_with_time(trained: tc.CannonModel, spectra: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    trained.label_store(spectra, out)
    old, new = out / "snr" / "c.0.abc.partial", out / "snr" / "c.1.def.partial"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 2 * label_store_module._LEFT_OVER_SECONDS,) * 2)
    trained.label_store(spectra, out)
    assert not old.exists()
    assert new.exists()
    assert open_labels(out).missing() == []


RUN = """
import sys, time
import bayes_cannon as tc
model = tc.CannonModel.read(sys.argv[1])
def slowly(event):
    print(event, flush=True)
    time.sleep(0.5)
if __name__ == "__main__":
    workers = int(sys.argv[4])
    if workers:
        with tc.execution.DaskExecutor(workers=workers) as executor:
            model.label_store(sys.argv[2], sys.argv[3], executor=executor, listen=slowly)
    else:
        model.label_store(sys.argv[2], sys.argv[3], listen=slowly)
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_is_killed_goes_on(trained: tc.CannonModel, spectra: Path, tmp_path: Path, workers: int) -> None:
    trained.write(tmp_path / "a.model")
    (tmp_path / "run.py").write_text(RUN)
    out, whole = tmp_path / "out.zarr", tmp_path / "whole.zarr"
    command = [sys.executable, tmp_path / "run.py", tmp_path / "a.model", spectra, out, str(workers)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert "ShardDone" in process.stdout.readline()
        os.killpg(process.pid, signal.SIGKILL)
    left = open_labels(out).missing()
    assert 0 < len(left) < 4
    model = tc.CannonModel.read(tmp_path / "a.model")
    events: list = []
    model.label_store(spectra, out, listen=events.append)
    assert [event.shard for event in events[:-1]] == left
    model.label_store(spectra, whole)
    check_same(all_arrays(open_labels(out)), in_memory(trained, spectra))
    assert set(files(out)) == set(files(whole))


@pytest.mark.slow
def test_two_workers_give_the_same_even_if_one_dies(trained: tc.CannonModel, spectra: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    killed: list = []
    with tc.execution.DaskExecutor(workers=2, memory_limit="3 GB") as executor:

        def kill(event: object) -> None:
            if isinstance(event, ShardDone) and not killed:
                killed.append(event.worker)
                process = executor._client.run(os.getpid, workers=[event.worker])[event.worker]
                os.kill(process, signal.SIGKILL)

        labelled = trained.label_store(spectra, out, executor=executor, listen=kill)
    assert killed
    assert (labelled.n_stars, labelled.n_new) == (200, 200)
    check_same(all_arrays(open_labels(out)), in_memory(trained, spectra))
