"""Many files into one store: what is in it, what was refused, and that a broken run goes on to the same store."""

import errno
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table

import bayes_cannon as tc
from bayes_cannon.io import file_rows, unfinished_store
from bayes_cannon.io.ingestion import ingest
from bayes_cannon.io.preparation import Preparation
from bayes_cannon.io.spectra import Spectra, write_spectra
from bayes_cannon.io.spectra_store import open_store, unfinished
from bayes_cannon.io.survey_files import FileSettings

pytest.importorskip("zarr")
GRID = (15102.0, 15110.0, 1.0)


@pytest.fixture
def files(tmp_path, write_apstar):
    """Seven files, the fourth of which is damaged."""
    folder = tmp_path / "files"
    folder.mkdir()
    for k in range(7):
        write_apstar(folder / f"{k}.fits", star=f"star {k % 3}", seed=k, **({"RVTEFF": 4000.0} if k == 5 else {}))
    (folder / "3.fits").write_bytes((folder / "3.fits").read_bytes()[:5000])
    return folder


def contents(store: Path) -> dict[str, bytes]:
    """Every file of a store."""
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def test_the_store_holds_what_the_files_do(tmp_path, files):
    done = ingest(files, tmp_path / "s.zarr", shard_size=4)
    assert (done.n_files, done.n_stars) == (7, 6)
    assert list(done.refused) == [str(files / "3.fits")]
    good = [files / f"{k}.fits" for k in (0, 1, 2, 4, 5, 6)]
    direct, stored = tc.io.read_spectra(good), tc.io.read_spectra(tmp_path / "s.zarr")
    np.testing.assert_array_equal(stored.flux, direct.flux.astype(np.float32))
    np.testing.assert_array_equal(stored.ivar, direct.ivar.astype(np.float32))
    np.testing.assert_array_equal(stored.wavelength, direct.wavelength)
    assert stored.ids.tolist() == [f"star {k % 3}" for k in (0, 1, 2, 4, 5, 6)]
    assert set(stored.labels) == set(direct.labels)
    for name, values in direct.labels.items():
        np.testing.assert_array_equal(stored.labels[name], values)
    for name, values in direct.identifiers.items():
        assert stored.identifiers[name].tolist() == values.tolist()
    assert dict(stored.units) == dict(direct.units)
    assert stored.attrs["survey"] == "apogee-apstar"
    assert stored.attrs["files_refused"] == 1
    assert not unfinished(tmp_path / "s.zarr").exists()


def test_shards_are_read_one_by_one(tmp_path, files):
    ingest(files, tmp_path / "s.zarr", shard_size=4)
    store = open_store(tmp_path / "s.zarr")
    assert (store.n_stars, store.n_pixels, store.shard_size, store.shards) == (6, 50, 4, 2)
    whole = tc.io.read_spectra(tmp_path / "s.zarr")
    for shard, rows in zip(store, (slice(0, 4), slice(4, 6)), strict=True):
        np.testing.assert_array_equal(shard.flux, whole.flux[rows])
        np.testing.assert_array_equal(shard.ivar, whole.ivar[rows])
        assert shard.ids.tolist() == whole.ids[rows].tolist()
        np.testing.assert_array_equal(shard.labels["RVTEFF"], whole.labels["RVTEFF"][rows])
    with pytest.raises(IndexError, match="has the shards 0 to 1, and no shard 2"):
        store.shard(2)


def test_flux_and_ivar_are_single_precision_in_shards(tmp_path, files):
    import zarr

    ingest(files, tmp_path / "s.zarr", shard_size=4)
    array = zarr.open_group(tmp_path / "s.zarr", mode="r")["flux"]
    assert array.dtype == np.float32
    assert array.shards == (4, 50)
    assert array.metadata.dimension_names == ("star", "pixel")
    assert sorted(path.name for path in (tmp_path / "s.zarr/flux/c").iterdir()) == ["0", "1"]


def test_a_damaged_shard_is_found_when_it_is_read(tmp_path, files):
    ingest(files, tmp_path / "s.zarr", shard_size=4)
    (tmp_path / "s.zarr/flux/c/1/0").unlink()
    store = open_store(tmp_path / "s.zarr")
    assert store.shard(0).n_stars == 4
    with pytest.raises(ValueError, match=r"shard 1.*flux/c/1/0 is lost"):
        store.shard(1)
    with pytest.raises(ValueError, match=r"flux/c/1/0 is lost"):
        tc.io.read_spectra(tmp_path / "s.zarr")


def test_files_with_several_spectra_are_broken_at_shards(tmp_path, files):
    ingest(files, tmp_path / "s.zarr", settings=FileSettings(combined="all"), shard_size=5)
    stored = tc.io.read_spectra(tmp_path / "s.zarr")
    assert stored.n_stars == 24
    assert stored.identifiers["which"].tolist() == ["combined", "combined 2", "visit 1", "visit 2"] * 6


def test_two_workers_give_the_same_store(tmp_path, files):
    one = ingest(files, tmp_path / "one.zarr", shard_size=4)
    two = ingest(files, tmp_path / "two.zarr", shard_size=4, workers=2)
    assert contents(one.store) == contents(two.store)
    assert one.refused == two.refused


class _KilledError(BaseException):
    pass


@pytest.mark.parametrize("after", range(6))
@pytest.mark.parametrize("combined", ["combined", "all"])
def test_a_broken_run_goes_on_to_the_same_store(tmp_path, files, monkeypatch, after, combined):
    """It is broken while a file is replaced: of the plan, of a shard, of the last one."""
    settings = FileSettings(combined=combined)
    ingest(files, tmp_path / "whole.zarr", settings=settings, shard_size=3)
    replaced, number = os.replace, iter(range(100))

    def breaking(*paths):
        if next(number) == after:
            raise _KilledError
        replaced(*paths)

    monkeypatch.setattr(os, "replace", breaking)
    try:
        ingest(files, tmp_path / "broken.zarr", settings=settings, shard_size=3)
    except _KilledError:
        assert not (tmp_path / "broken.zarr").exists()
    monkeypatch.undo()
    if not (tmp_path / "broken.zarr").exists():
        ingest(files, tmp_path / "broken.zarr", settings=settings, shard_size=3)
    assert contents(tmp_path / "broken.zarr") == contents(tmp_path / "whole.zarr")


@pytest.fixture
def correlated(tmp_path):
    """Three files of this package of 2, 3 and 1 spectra, the first two of which bring correlations; and their mean."""
    folder = tmp_path / "correlated"
    folder.mkdir()
    rng, correlations = np.random.default_rng(0), []
    for name, n_stars in (("a", 2), ("b", 3), ("c", 1)):
        correlations.append(np.corrcoef(rng.normal(size=(5, 20))))
        given = correlations[-1] if name != "c" else None
        flux, ids = rng.uniform(1, 2, (n_stars, 5)), [f"{name}{k}" for k in range(n_stars)]
        spectra = Spectra(flux, np.ones((n_stars, 5)), np.arange(5.0) + 5000, ids, noise_correlation=given)
        write_spectra(folder / f"{name}.nc", spectra)
    return folder, (2 * correlations[0] + 3 * correlations[1]) / 5


@pytest.mark.parametrize("suffix", [".zarr", ".nc"])
def test_correlations_of_the_noise_are_kept(tmp_path, correlated, suffix):
    folder, mean = correlated
    for found in (tc.io.read_spectra(folder), tc.io.read_spectra(ingest(folder, tmp_path / f"s{suffix}").store)):
        np.testing.assert_allclose(found.noise_correlation, mean, rtol=1e-14, atol=1e-15)
        np.testing.assert_array_equal(np.diag(found.noise_correlation), 1)
        assert found.attrs["noise_correlation_of"] == "5 of 6 spectra"
        assert tc.io.noise_covariance(found).shape == (5, 5)
    if suffix == ".zarr":
        whole = tc.io.read_spectra(tmp_path / "s.zarr")
        for shard in open_store(tmp_path / "s.zarr"):
            np.testing.assert_array_equal(shard.noise_correlation, whole.noise_correlation)


@pytest.mark.parametrize("after", range(1, 4))
def test_correlations_of_a_broken_run(tmp_path, correlated, monkeypatch, after):
    """Shards of two spectra end within a file, of which the next run must not count the correlation again."""
    folder, _ = correlated
    ingest(folder, tmp_path / "whole.zarr", shard_size=2)
    _broken(folder, tmp_path / "s.zarr", monkeypatch, shards=after, shard_size=2)
    ingest(folder, tmp_path / "s.zarr", shard_size=2)
    assert contents(tmp_path / "s.zarr") == contents(tmp_path / "whole.zarr")


def _broken(files, store, monkeypatch, *, shards=1, **options):
    """Leave a store with some shards."""
    write, number = unfinished_store.UnfinishedStore.write, iter(range(1, 100))

    def some(self, *arguments):
        write(self, *arguments)
        if next(number) == shards:
            raise _KilledError

    monkeypatch.setattr(unfinished_store.UnfinishedStore, "write", some)
    with pytest.raises(_KilledError):
        ingest(files, store, **{"shard_size": 3} | options)
    monkeypatch.undo()


def test_a_run_that_goes_on_reads_only_the_rest(tmp_path, files, monkeypatch):
    _broken(files, tmp_path / "s.zarr", monkeypatch)
    seen = []
    read = file_rows.spectra_of_files
    monkeypatch.setattr(
        file_rows, "spectra_of_files", lambda group, settings: seen.append(group[0].name) or read(group, settings)
    )
    with pytest.raises(FileNotFoundError, match=r"it is unfinished, in .*s.zarr.unfinished"):
        open_store(tmp_path / "s.zarr")
    counts = []
    ingest(files, tmp_path / "s.zarr", shard_size=3, progress=counts.append)
    assert seen == ["3.fits", "4.fits", "5.fits", "6.fits"]
    assert sum(counts) == 7


@pytest.mark.parametrize("what", ["flux/c/0/0", "000000.npz", "ivar/c/0/0"])
def test_damaged_shards_of_a_broken_run_are_made_anew(tmp_path, files, monkeypatch, what):
    ingest(files, tmp_path / "whole.zarr", shard_size=3)
    _broken(files, tmp_path / "s.zarr", monkeypatch)
    folder = unfinished(tmp_path / "s.zarr")
    damaged = folder / what if what.endswith("npz") else folder / "store.zarr" / what
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    ingest(files, tmp_path / "s.zarr", shard_size=3)
    assert contents(tmp_path / "s.zarr") == contents(tmp_path / "whole.zarr")


def test_other_settings_do_not_go_on_and_are_named(tmp_path, files, monkeypatch):
    _broken(files, tmp_path / "s.zarr", monkeypatch)
    other = FileSettings(combined="all")
    with pytest.raises(ValueError, match=r"other settings: combined is combined there and all here.*overwrite=True"):
        ingest(files, tmp_path / "s.zarr", settings=other, shard_size=3)
    monkeypatch.setattr("bayes_cannon.io.ingestion.version", lambda _: "9")
    with pytest.raises(ValueError, match=r"other settings: version is .* there and 9 here"):
        ingest(files, tmp_path / "s.zarr", shard_size=3)
    monkeypatch.undo()
    assert ingest(files, tmp_path / "s.zarr", settings=other, shard_size=3, overwrite=True).n_stars == 24


def test_files_that_vanish_or_come_between_two_runs(tmp_path, files, monkeypatch, write_apstar):
    _broken(files, tmp_path / "s.zarr", monkeypatch)
    (files / "5.fits").unlink()
    write_apstar(files / "55.fits")
    done = ingest(files, tmp_path / "s.zarr", shard_size=3)
    assert done.n_files == 7
    assert done.n_stars == 5
    assert "there is no file" in done.refused[str(files / "5.fits")]


def test_a_full_disk_is_said_and_what_was_written_stays(tmp_path, files, monkeypatch):
    ingest(files, tmp_path / "whole.zarr", shard_size=3)
    write = unfinished_store.put_npz

    def full(path, *arguments):
        if path.name == "000001.npz":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, *arguments)

    monkeypatch.setattr(unfinished_store, "put_npz", full)
    with pytest.raises(OSError, match="No space left on device; its first 3 spectra stay in") as raised:
        ingest(files, tmp_path / "s.zarr", shard_size=3)
    assert raised.value.errno == errno.ENOSPC
    monkeypatch.undo()
    ingest(files, tmp_path / "s.zarr", shard_size=3)
    assert contents(tmp_path / "s.zarr") == contents(tmp_path / "whole.zarr")


def test_a_store_that_exists_is_replaced_only_when_asked(tmp_path, files):
    ingest(files, tmp_path / "s.zarr", shard_size=4)
    before = contents(tmp_path / "s.zarr")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        ingest(files, tmp_path / "s.zarr", shard_size=3)
    assert contents(tmp_path / "s.zarr") == before
    ingest(files, tmp_path / "s.zarr", shard_size=3, overwrite=True)
    assert open_store(tmp_path / "s.zarr").shards == 2
    assert not unfinished(tmp_path / "s.zarr").exists()


def test_something_else_in_the_way_is_left_alone(tmp_path, files):
    unfinished(tmp_path / "s.zarr").mkdir()
    (unfinished(tmp_path / "s.zarr") / "mine.txt").write_text("")
    with pytest.raises(FileExistsError, match="is in the way"):
        ingest(files, tmp_path / "s.zarr")
    assert (unfinished(tmp_path / "s.zarr") / "mine.txt").exists()


def test_no_file_can_be_read(tmp_path):
    (tmp_path / "note.txt").write_text("no spectrum")
    with pytest.raises(ValueError, match=r"none of 1 files could be read: .*note.txt: no reader recognizes"):
        ingest(tmp_path / "note.txt", tmp_path / "s.zarr")
    assert not unfinished(tmp_path / "s.zarr").exists()
    with pytest.raises(ValueError, match="suffix"):
        ingest(tmp_path, tmp_path / "s.fits")


def test_other_pixels_are_refused_without_a_grid(tmp_path, files, write_apstar):
    write_apstar(files / "9.fits", pixels=40)
    done = ingest(files, tmp_path / "s.zarr")
    assert "has other pixels (40 from" in done.refused[str(files / "9.fits")]
    grid = tc.io.read_spectra(files / "9.fits", grid=GRID).wavelength
    done = ingest(files, tmp_path / "t.zarr", settings=FileSettings(grid=tc.core.grids.grid_of(GRID)))
    assert str(files / "9.fits") not in done.refused
    np.testing.assert_array_equal(open_store(tmp_path / "t.zarr").shard(0).wavelength, grid)


def test_netcdf_for_few(tmp_path, files):
    ingest(files, tmp_path / "s.nc")
    ingest(files, tmp_path / "s.zarr")
    one, other = tc.io.read_spectra(tmp_path / "s.nc"), tc.io.read_spectra(tmp_path / "s.zarr")
    np.testing.assert_array_equal(one.flux, other.flux)
    assert one.ids.tolist() == other.ids.tolist()


def test_labels_are_joined_and_velocities_taken_from_the_table(tmp_path, files):
    table = Table({"NAME": ["star 0", "star 2"], "TEFF": [4000.0, 4500.0], "RV": [0.0, 30.0]}, units={"TEFF": "K"})
    done = ingest(files, tmp_path / "s.zarr", labels=table, id_column="NAME")
    stored = tc.io.read_spectra(tmp_path / "s.zarr")
    expected = {"star 0": 4000.0, "star 1": np.nan, "star 2": 4500.0}
    np.testing.assert_array_equal(stored.labels["TEFF"], [expected[star] for star in stored.ids])
    assert stored.units["TEFF"] == "K"
    assert done.without_labels == 2
    assert np.isfinite(stored.labels["SNR"]).all()

    settings = FileSettings(grid=tc.core.grids.grid_of(GRID), velocity="RV")
    with pytest.raises(ValueError, match="id_column"):
        ingest(files, tmp_path / "t.zarr", settings=settings, labels=table)
    done = ingest(files, tmp_path / "t.zarr", settings=settings, labels=table, id_column="NAME")
    assert "no velocity of the star 'star 1'" in done.refused[str(files / "1.fits")]
    direct = tc.io.read_spectra(files / "2.fits", grid=GRID, velocity="none")
    moved = tc.io.read_spectra(tmp_path / "t.zarr")
    assert moved.labels["velocity_used"].tolist() == pytest.approx([0.0, 30.0, 30.0, 0.0])
    assert not np.allclose(moved.flux[1], direct.flux[0])


def test_spectra_are_prepared_once(tmp_path, files):
    preparation = Preparation({"every": 5, "order": 1, "L": 1000.0}, (15101.0, 15107.0))
    ingest(files, tmp_path / "s.zarr", preparation=preparation)
    direct = preparation.apply(tc.io.read_spectra(files / "0.fits"))
    stored = tc.io.read_spectra(tmp_path / "s.zarr")
    np.testing.assert_array_equal(stored.flux[0], direct.flux[0].astype(np.float32))
    np.testing.assert_array_equal(stored.wavelength, direct.wavelength)
    assert preparation.apply(stored) is stored
    assert Preparation().after(stored).to_text() == preparation.to_text()
    with pytest.raises(ValueError, match="were prepared before they were written"):
        Preparation(log_flux=True).apply(stored)


def test_tiny_units_are_scaled_and_come_back(tmp_path):
    flux = np.array([[1e-17, 2e-17, 3e-17]])
    write_spectra(tmp_path / "a.npz", Spectra(flux, np.full((1, 3), 1e40), np.arange(1.0, 4.0), ["a"]))
    ingest(tmp_path / "a.npz", tmp_path / "s.zarr")
    stored = tc.io.read_spectra(tmp_path / "s.zarr")
    np.testing.assert_allclose(stored.flux, flux, rtol=1e-7)
    np.testing.assert_allclose(stored.ivar, 1e40, rtol=1e-7)
    big = Spectra(flux * 1e60, np.full((1, 3), 1e-30), np.arange(1.0, 4.0), ["b"])
    write_spectra(tmp_path / "b.npz", big)
    done = ingest([tmp_path / "a.npz", tmp_path / "b.npz"], tmp_path / "t.zarr")
    assert "beyond single precision" in done.refused[str(tmp_path / "b.npz")]


class _DyingPool:
    """A pool in this process that breaks when it is given a certain file."""

    def __init__(self, work, workers):
        file_rows._start(work)

    def submit(self, function, batch):
        future = Future()
        if any(path.name == "2.fits" for (path,) in batch):
            future.set_exception(BrokenProcessPool())
        else:
            future.set_result(function(batch))
        return future

    def shutdown(self, **_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_a_file_that_kills_its_reader_is_refused_and_the_others_are_read(files, monkeypatch):
    monkeypatch.setattr(file_rows, "_pool", _DyingPool)
    monkeypatch.setattr(file_rows, "_BATCH", 3)
    paths = sorted(files.iterdir())
    groups = [(path,) for path in paths]
    found = {
        path: rows for (path,), rows in file_rows.in_order(groups, file_rows.Work(FileSettings(), Preparation()), 2)
    }
    assert list(found) == paths
    assert found[files / "2.fits"] == "the process that read it died"
    assert all(not isinstance(found[files / f"{k}.fits"], str) for k in (0, 1, 4, 5, 6))


@pytest.mark.slow
def test_killed_at_random_it_goes_on_to_the_same_store(tmp_path, write_apstar):
    """Three runs of the command line, ended by force at random; `benchmarks/ingest.py` has more."""
    folder = tmp_path / "files"
    folder.mkdir()
    for k in range(300):
        write_apstar(folder / f"{k:03d}.fits", pixels=500, seed=k)
    program = "import sys; from bayes_cannon.io.ingestion import ingest; ingest(*sys.argv[1:3], shard_size=32)"
    command = [sys.executable, "-c", program, str(folder)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    start = time.perf_counter()
    subprocess.run([*command, str(tmp_path / "whole.zarr")], check=True, env=environment)
    longest, rng = time.perf_counter() - start, np.random.default_rng(0)
    for _ in range(3):
        process = subprocess.Popen([*command, str(tmp_path / "s.zarr")], env=environment)
        time.sleep(rng.uniform(0.3, 0.9) * longest)
        process.send_signal(signal.SIGKILL)
        process.wait()
    if not (tmp_path / "s.zarr").exists():
        subprocess.run([*command, str(tmp_path / "s.zarr")], check=True, env=environment)
    assert contents(tmp_path / "s.zarr") == contents(tmp_path / "whole.zarr")
