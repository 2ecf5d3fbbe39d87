"""Workers of Dask: what is refused, and that work comes back from them, even if they die."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

from bayes_cannon.execution import DaskExecutor, ShardFailed, dask_executor
from bayes_cannon.execution.shards import run_shards

pytest.importorskip("distributed")
dask: Any = pytest.importorskip("dask")

_KEPT = list[bytes]()
_LOST = "distributed.deploy.lost-worker-timeout"


@dataclass(frozen=True)
class Work:
    """Work that leaves a file for each shard; a worker that gets a shard of ``deadly`` kills itself once.

    With each it keeps so many bytes more.
    """

    folder: str
    deadly: tuple[int, ...] = ()
    kept: int = 0

    def read(self, number: int) -> Any:
        return number

    def compute(self, number: int, given: Any) -> int:
        mark = Path(self.folder, f"died-{number}")
        if number in self.deadly and not mark.exists():
            mark.touch()
            time.sleep(0.5)  # The scheduler hears of the shard done before: one whose end was not told counts as begun.
            os.kill(os.getpid(), signal.SIGKILL)
        Path(self.folder, str(number)).touch()
        _KEPT.append(b"1" * self.kept)
        return 2


def test_a_scheduler_that_is_not_there_is_named() -> None:
    with pytest.raises(ConnectionError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:1 within 5 s"):
        DaskExecutor(address="tcp://127.0.0.1:1")


@pytest.mark.parametrize("given", [{}, {"workers": 2, "address": "tcp://127.0.0.1:1"}, {"workers": 0}])
def test_either_workers_or_an_address(given: dict) -> None:
    with pytest.raises(ValueError, match="either workers, 1 or more, or address"):
        DaskExecutor(**given)


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match=r"install bayes-cannon\[cluster\]"):
        DaskExecutor(workers=1)


@pytest.fixture(scope="module")
def findable() -> Iterator[None]:
    """Workers find this module by its name, as those of a cluster find the package; theirs is this process's path."""
    sys.path.insert(0, str(Path(__file__).parent))
    yield
    sys.path.remove(str(Path(__file__).parent))


@pytest.fixture(scope="module")
def executor(findable: None) -> Iterator[DaskExecutor]:
    before = dask.config.get(_LOST, None)
    with DaskExecutor(workers=2, memory_limit="2 GB") as executor:
        yield executor
    assert dask.config.get(_LOST, None) == before


def _work(folder: Path, **more: Any) -> Any:
    """The work as the workers import it."""
    return importlib.import_module("test_dask_executor").Work(str(folder), **more)


@pytest.mark.slow
def test_shards_are_done_by_workers(executor: DaskExecutor, tmp_path: Path) -> None:
    events: list = []
    finished = run_shards(_work(tmp_path), range(10), executor, listen=events.append)
    assert (finished.shards, finished.size) == (10, 20)
    assert {int(path.name) for path in tmp_path.iterdir()} == set(range(10))
    assert {event.worker for event in events[:-1]} <= set(executor.workers)
    assert executor.capacity == 4  # One that waits for each.
    # Dask's own setting makes every large array a new piece of memory.
    assert set(executor._client.run(os.environ.get, "MALLOC_TRIM_THRESHOLD_").values()) == {None}
    assert set(executor._client.run(os.environ.get, "NPROC").values()) == {"1"}
    assert executor.memory == pytest.approx(0.8 * 2e9)
    # With Dask's own 15 s, one that takes longer to start again, or dies again, is never replaced.
    assert dask.utils.parse_timedelta(dask.config.get(_LOST)) > 1e8


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_and_its_shard_done(executor: DaskExecutor, tmp_path: Path) -> None:
    events: list = []
    finished = run_shards(_work(tmp_path, deadly=(3,)), range(8), executor, listen=events.append)
    assert finished.shards == 8
    assert not finished.failed
    (died,) = [event for event in events if isinstance(event, ShardFailed)]
    assert died.shard == 3  # And no other counts as tried.
    assert "died while it had shard 3" in died.error


@pytest.mark.slow
def test_a_script_that_its_processes_would_run_again_is_told(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("from bayes_cannon.execution import DaskExecutor\nDaskExecutor(workers=1)\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("RuntimeError: processes could not be started on this")
    assert 'below the line if __name__ == "__main__":' in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_workers_without_memory_end_the_run(findable: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_executor, "_WITHOUT_WORKERS_SECONDS", 12)
    work = _work(tmp_path, kept=900_000_000)
    with (
        DaskExecutor(workers=1, memory_limit="1.3 GB") as executor,
        pytest.raises(ConnectionError, match=r"paused for want of memory, tcp://.* with 1\.\d+ of 1\.3 GB: give"),
    ):
        run_shards(work, range(4), executor)
    assert len(list(tmp_path.iterdir())) == 1  # That is done, and stays.


class _Future:
    """A shard's future which a test ends."""

    status = "pending"

    def done(self) -> bool:
        return self.status != "pending"

    def dies_with(self, worker: str) -> None:
        self.status, self.worker = "error", worker

    def exception(self) -> Exception:
        from distributed.scheduler import KilledWorker, WorkerState

        state = WorkerState(address=self.worker, status=None, pid=1, name="w", memory_limit=0, nthreads=1,
                            local_directory="", nanny="", server_id="w")  # fmt: skip
        return KilledWorker("task", state, 0)


def test_a_death_counts_against_one_shard_in_any_order_of_its_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    import distributed

    class Client:
        def __init__(self) -> None:
            self.given = list[_Future]()

        def submit(self, *_: Any, **__: Any) -> _Future:
            self.given.append(_Future())
            return self.given[-1]

    client, executor = Client(), object.__new__(DaskExecutor)  # Without its processes: their order is chance.
    for name, value in {
        "_client": client, "_distributed": distributed, "_running": {}, "_deaths": {}, "_submitted": 0,
    }.items():  # fmt: skip
        monkeypatch.setattr(executor, name, value, raising=False)

    def submit(number: int) -> _Future:
        executor.submit(Work("folder"), number)
        return client.given[-1]

    first, other, second = submit(0), submit(1), submit(2)
    first.dies_with("tcp://a:1")
    assert "died while it had shard 0" in str(executor.collect().error)
    again = submit(0)
    second.dies_with("tcp://a:1")  # Told only after the first one was collected; it is given to a worker anew.
    other.dies_with("tcp://b:1")
    assert executor.collect().shard == 1
    again.dies_with("tcp://a:1")  # A worker that was begun again at its address, and dies again.
    assert executor.collect().shard == 0
    client.given[-1].dies_with("tcp://a:1")  # It waited for this worker too.
    submit(3).dies_with("tcp://a:1")
    assert executor.collect().shard == 3
    assert [number for _, number, _ in executor._running.values()] == [2]


@pytest.mark.slow
def test_workers_are_asked_for_their_version_and_files(executor: DaskExecutor, tmp_path: Path) -> None:
    executor.check([str(tmp_path)], version("bayes-cannon"))
    address = next(iter(executor.workers))
    here = version("bayes-cannon")
    with pytest.raises(ImportError, match=rf"the worker tcp://.* has bayes-cannon {here}, and this process has 9\.9"):
        executor.check([], "9.9")
    with pytest.raises(FileNotFoundError, match=r"the worker tcp://.* does not see /nowhere"):
        executor.check(["/nowhere"], version("bayes-cannon"))
    assert address.startswith("tcp://")


def test_a_worker_without_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Client:
        def run(self, function: Any, *_: Any, on_error: str) -> dict[str, Any]:
            return {"tcp://node:1": PackageNotFoundError("bayes-cannon")}

    executor = object.__new__(DaskExecutor)  # Without its processes, which have the package.
    monkeypatch.setattr(executor, "_client", Client(), raising=False)
    with pytest.raises(
        ImportError, match=r"the worker tcp://node:1 has not the package bayes-cannon .* install the sa"
    ):
        executor.check([], "1.0")


@pytest.mark.slow
def test_a_scheduler_elsewhere_and_its_loss(findable: None, tmp_path: Path) -> None:
    file, path = tmp_path / "scheduler.json", os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path}
    python = (sys.executable, "-m")
    told = ("--scheduler-file", str(file), "--no-dashboard")
    command = [*python, "distributed.cli.dask_scheduler", "--port", "0", "--host", "127.0.0.1", *told]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as scheduler:
        try:
            start = time.monotonic()
            while not file.exists() and time.monotonic() - start < 60:
                time.sleep(0.1)
            address = json.loads(file.read_text())["address"]
            with pytest.raises(ConnectionError, match="has no workers: start them with dask worker"):
                DaskExecutor(address=address)
            command = [*python, "distributed.cli.dask_worker", *told, "--nthreads", "1", "--memory-limit", "1GB"]
            with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as worker:
                try:
                    _until_it_is_lost(address, scheduler, tmp_path)
                finally:
                    worker.kill()
        finally:
            scheduler.kill()


def _until_it_is_lost(address: str, scheduler: subprocess.Popen, folder: Path) -> None:
    """Work with a scheduler, then end it."""
    for left in range(20, -1, -1):  # Its worker takes some seconds to start.
        try:
            executor = DaskExecutor(address=address)
            break
        except ConnectionError:
            if not left:
                raise
    with executor:
        assert run_shards(_work(folder), range(5), executor).shards == 5
        scheduler.kill()
        with pytest.raises(ConnectionError, match=f"the Dask scheduler at {address} was lost"):
            run_shards(_work(folder), range(5), executor)
