"""A store of a posterior: nothing that is lost is taken for whole, and runs do not mix."""

import os
import shutil
import socket
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from bayes_cannon.io.atomic import fcntl
from bayes_cannon.io.posterior_store import DamagedStoreWarning, StoredPosterior
from bayes_cannon.io.posterior_tree import MemoryPosterior, Subject, read_posterior
from bayes_cannon.io.zarr_files import CHECKSUMS
from bayes_cannon.posterior.theta.sample import ThetaBlock
from bayes_cannon.posterior.theta.summary import ThetaPosterior

N_PIXELS, N_TERMS, BLOCK = 10, 2, 4
FLUX = np.random.default_rng(0).normal(size=(5, N_PIXELS))
SUBJECT = Subject(
    np.arange(N_PIXELS), ["1", "A"], ("A",), {}, 5000.0 + np.arange(N_PIXELS), FLUX, FLUX**2, {},
    {"method": "nuts", "n_chains": 2, "n_draws": 6, "key": "0"}, {"theta": "x"},
)  # fmt: skip


def block(pixels: list[int], key: float = 1.0) -> ThetaBlock:
    """Draws that are known from the number of the pixel."""
    number = np.array(pixels)
    posterior = ThetaPosterior.empty(len(number), N_TERMS, np.zeros(len(number), dtype=int))
    posterior.mean[:] = key * (1 + number[:, None])
    posterior.s[:] = number[:, None]
    s = np.broadcast_to(number.astype(float), (2, 6, len(number)))
    return ThetaBlock(number, posterior, np.stack([s, key * s], axis=-1), s, {"energy": -s})


BLOCKS = [[0, 1, 2, 3], [4, 5, 7], [8, 9]]


def opened(path: Path, subject: Subject = SUBJECT, **options: bool) -> StoredPosterior:
    return StoredPosterior.open(path, subject, keep_draws=True, block=BLOCK, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The store of a run that lacks the pixel 6."""
    path = tmp_path_factory.mktemp("whole") / "p.zarr"
    store = opened(path)
    for pixels in BLOCKS:
        store.write(block(pixels))
    return path


@pytest.fixture(scope="module")
def wanted() -> xr.DataTree:
    memory = MemoryPosterior(SUBJECT, keep_draws=True)
    for pixels in [*BLOCKS, [6]]:
        memory.write(block(pixels))
    return memory.tree()


@pytest.fixture
def store(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "p.zarr"))


def test_an_unfinished_store_is_read_and_goes_on(store, wanted):
    assert np.isnan(read_posterior(store)["summary/s_mean"]).values.tolist() == [k == 6 for k in range(N_PIXELS)]
    again = opened(store)
    assert again.resumable.tolist() == [k != 6 for k in range(N_PIXELS)]
    again.write(block([6]))
    xr.testing.assert_identical(read_posterior(store).load(), wanted)


LOST = {  # The pixels of a chunk.
    "summary/theta_mean/c/0/0": [0, 1, 2, 3], "summary/s2_mean/c/1": [4, 5, 6, 7], "summary/status/c/2": [8, 9],
    "posterior/theta/c/0/0/1/0": [4, 5, 6, 7], "sample_stats/energy/c/0/0/2": [8, 9],
    # Nothing was written there but what stands for nothing.
    "sample_stats/tree_depth/c/0/0/0": [0, 1, 2, 3], "summary/k_hat/c/0": [0, 1, 2, 3],
    "summary/finished/c/0": list(range(N_PIXELS)),
}  # fmt: skip


@pytest.mark.parametrize("how", ["lost", "empty", "flipped", "cut"])
@pytest.mark.parametrize("chunk", LOST)
def test_a_lost_or_damaged_chunk_is_named_and_its_pixels_are_made_anew(chunk, how, store, wanted):
    data = bytearray((store / chunk).read_bytes())
    if how == "lost":
        (store / chunk).unlink()
    else:
        data[len(data) // 2] ^= 8
        (store / chunk).write_bytes({"empty": b"", "flipped": data, "cut": data[: len(data) // 2]}[how])
    with pytest.raises(ValueError, match=rf"p\.zarr is damaged: 1 of its chunks .* such as {chunk}"):
        read_posterior(store)
    with pytest.warns(DamagedStoreWarning, match=f"1 files of the store .* made anew.*{chunk}"):
        again = opened(store)
    assert np.flatnonzero(~again.resumable).tolist() == sorted({6, *LOST[chunk]})
    again.write(block(np.flatnonzero(~again.resumable).tolist()))
    xr.testing.assert_identical(read_posterior(store).load(), wanted)


@pytest.mark.parametrize("name", ["observed_data/flux/c/0/0", "summary/term/c/0", "posterior/s/zarr.json", "zarr.json"])
def test_what_is_no_draw_is_mended_too(name, store, wanted):
    data = bytearray((store / name).read_bytes())
    data[len(data) // 2] ^= 1
    (store / name).write_bytes(data)
    with pytest.raises(ValueError, match=rf"p\.zarr is no posterior: it is damaged: its file {name}"):
        read_posterior(store)
    with pytest.warns(DamagedStoreWarning, match=name):
        again = opened(store)
    again.write(block([6]))
    xr.testing.assert_identical(read_posterior(store).load(), wanted)


def test_damage_that_another_run_cannot_mend_is_refused(store):
    (store / "observed_data/flux/c/0/0").unlink()
    with pytest.raises(ValueError, match=r"its file observed_data/flux/c/0/0 is lost; pass overwrite=True"):
        opened(store, replace(SUBJECT, flux=2 * FLUX))
    shutil.rmtree(store / CHECKSUMS)
    for open_it in (opened, read_posterior):
        with pytest.raises(ValueError, match=f"it is damaged: its group {CHECKSUMS} is lost"):
            open_it(store)


def test_a_copy_by_xarray_is_read(store, wanted, tmp_path):
    opened(store).write(block([6]))
    for name, save in (("a.zarr", "to_zarr"), ("a.nc", "to_netcdf")):
        options = {"consolidated": False} if name == "a.zarr" else {"engine": "h5netcdf"}
        getattr(read_posterior(store), save)(tmp_path / name, **options)
        xr.testing.assert_equal(read_posterior(tmp_path / name).load(), wanted)


def test_a_run_is_told_that_its_store_was_replaced(tmp_path):
    path, other = tmp_path / "p.zarr", replace(SUBJECT, settings={**SUBJECT.settings, "key": "2"})
    first = opened(path)
    first.write(block(BLOCKS[0]))
    second = opened(path, other, overwrite=True)
    second.write(block(BLOCKS[1], 2.0))
    with pytest.raises(RuntimeError, match=r"p\.zarr was removed or replaced by another run"):
        first.write(block(BLOCKS[0]))
    assert second.resumable.tolist() == [k in BLOCKS[1] for k in range(N_PIXELS)]
    # The same settings make no difference.
    third = opened(path, other, overwrite=True)
    with pytest.raises(RuntimeError, match="replaced"):
        second.write(block(BLOCKS[0], 2.0))
    shutil.rmtree(path)
    with pytest.raises(RuntimeError, match="removed"):
        third.write(block(BLOCKS[0], 2.0))
    assert not os.listdir(tmp_path)


def test_two_runs_of_the_same_settings_share_a_store(tmp_path):
    first, second = opened(tmp_path / "p.zarr"), opened(tmp_path / "p.zarr")
    first.write(block([0, 1]))
    second.write(block([2, 3]))
    assert first.resumable.tolist() == [k < 4 for k in range(N_PIXELS)]
    assert read_posterior(tmp_path / "p.zarr")["summary/s_mean"].values[:4].tolist() == [0, 1, 2, 3]


def test_objects_of_strangers_are_not_decoded(store):
    (store / "summary" / "x").mkdir()
    (store / "summary" / "x" / ".zarray").write_text('{"zarr_format": 2, "dtype": "|O", "filters": [{"id": "pickle"}]}')
    with pytest.raises(ValueError, match=r"its array summary/x is not read: its codec 'pickle'"):
        read_posterior(store)


def test_a_tree_without_its_variables_is_refused_by_name(wanted, tmp_path):
    wanted.copy().drop_nodes("observed_data").to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    read_posterior(tmp_path / "a.nc").close()
    bad = wanted.copy()
    bad["summary"].dataset = bad["summary"].to_dataset().drop_vars("s2_mean")
    bad.to_netcdf(tmp_path / "b.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match=r"b\.nc is no valid posterior: summary/s2_mean must be numbers"):
        read_posterior(tmp_path / "b.nc")


def remains(folder: Path) -> Path:
    """What a writer leaves in a folder when it is killed: its lock, which nobody holds any more, and a file."""
    rest = folder / ".bayes_cannon-0123456789ab"
    rest.mkdir()
    (rest / "lock").write_text(socket.gethostname())
    (rest / "half").write_text("half")
    return rest


@pytest.mark.skipif(sys.platform == "win32", reason="locks are other ones")
def test_a_run_that_goes_on_removes_what_killed_writers_left(store, wanted):
    dead = remains(store.parent), remains(store / "summary" / "s_mean")
    (store.parent / "living").mkdir()
    alive = remains(store.parent / "living").rename(store.parent / ".bayes_cannon-living")
    with (alive / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        again = opened(store)
        assert not any(rest.exists() for rest in dead)
        assert alive.is_dir()
    again.write(block([6]))
    xr.testing.assert_identical(read_posterior(store)["posterior"].to_dataset(), wanted["posterior"].to_dataset())
