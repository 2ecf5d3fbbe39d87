"""Shards worked on by processes of ``dask.distributed``: some on this computer, or those of a scheduler.

Only futures are used, no arrays and no graphs. Nothing of Dask is imported before an executor is made.
"""

import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from importlib import import_module
from importlib.metadata import version as version_of
from multiprocessing import current_process
from typing import Any, Self

from bayes_cannon.execution.shards import Outcome, Work, finished_shard

_ANSWER_SECONDS = 5.0
"""How long a scheduler, and then its first worker, may take to answer."""
_WITHOUT_WORKERS_SECONDS = 300.0
"""How long a run waits for workers when it has none: on a busy computer it takes a minute to replace one."""
_LOOK_SECONDS = 5.0
_NEVER_GIVEN_UP = {"distributed.deploy.lost-worker-timeout": "10000 days"}
"""Dask looks once, 15 s after a worker was lost, and ends for good what replaces it if that has not begun by then: a
process that takes longer to start, or was lost again. It reads the setting anew each time."""
_BELOW = 'A script that makes processes must do so below the line if __name__ == "__main__":'
_ONE_CORE = {"NPROC": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""What keeps XLA and BLAS of a process to one core."""
_THREADS = 2
"""Batches that a worker computes at a time on its one core, so that it does not idle while Python has one."""


class DaskExecutor:
    """Work in the processes of ``dask.distributed``.

    Parameters
    ----------
    workers
        Make so many processes on this computer, with one thread each. A script must do so below the line
        ``if __name__ == "__main__":``.
    address
        In place of that, the address of a scheduler that runs, such as ``"tcp://login:8786"``. Its workers should have
        one thread and one core each: ``NPROC=1 OPENBLAS_NUM_THREADS=1 dask worker ADDRESS --nthreads 1``.
    memory_limit
        Bytes that a process on this computer may have, or a text such as ``"2 GB"``. By default an equal part of the
        memory.

    Raises
    ------
    ConnectionError
        If no scheduler answers at the address, or it has no workers.
    ImportError
        If the extra ``bayes-cannon[cluster]`` is not installed.
    RuntimeError
        If the processes cannot be started, as by a script without that line.
    ValueError
        Unless one of ``workers`` and ``address`` is given.

    """

    reads_ahead = False

    def __init__(self, *, workers: int | None = None, address: str | None = None, memory_limit: int | str = "auto"):
        if (workers is None) == (address is None) or (workers is not None and workers < 1):
            raise ValueError(f"give either workers, 1 or more, or address; got {workers} and {address!r}")
        try:
            self._distributed: Any = import_module("distributed")
        except ImportError:
            raise ImportError("workers need the package distributed: install bayes-cannon[cluster]") from None
        self._settings = ExitStack()
        self._cluster: Any = None
        self._where = address or "this computer"
        self._submitted = 0
        self._running = dict[Any, tuple[Work, int, int]]()  # In the order of submission, and with their place.
        self._deaths = dict[str, int]()
        """How many had been submitted when the death of a worker was counted against a shard, by address."""
        try:
            if workers is not None:
                self._cluster = self._local(workers, memory_limit)
            self._client = self._connected(address)
        except BaseException:
            self._close_cluster()
            raise

    def _local(self, workers: int, memory_limit: int | str) -> Any:
        if getattr(current_process(), "_inheriting", False):  # Begun by one of Dask, which imports the script.
            raise RuntimeError(f"a process that was started on this computer cannot start others. {_BELOW}")
        dask: Any = import_module("dask")
        self._settings.enter_context(dask.config.set(_NEVER_GIVEN_UP))
        # A worker that dies is an error of the shard that it had, which the loop counts and tries again. Dask would set
        # MALLOC_TRIM_THRESHOLD_, with which each array of a batch is fetched anew from the system: twice the time.
        with dask.config.set(
            {"distributed.scheduler.allowed-failures": 0, "distributed.nanny.pre-spawn-environ": _ONE_CORE}
        ):
            try:
                return self._distributed.LocalCluster(
                    n_workers=workers, threads_per_worker=1, processes=True, memory_limit=memory_limit,
                    env=_ONE_CORE, silence_logs="CRITICAL",
                    scheduler_kwargs={"dashboard": False, "dashboard_address": ":0"},  # Any port that is free.
                )  # fmt: skip
            except RuntimeError as error:
                raise RuntimeError(f"processes could not be started on this computer: {error} {_BELOW}") from error

    def _connected(self, address: str | None) -> Any:
        try:
            client = self._distributed.Client(
                address or self._cluster, timeout=_ANSWER_SECONDS, set_as_default=False
            )  # fmt: skip
        except (OSError, TimeoutError) as error:
            raise ConnectionError(
                f"no Dask scheduler answers at {self._where} within {_ANSWER_SECONDS:g} s: start one with dask "
                "scheduler, or correct the address"
            ) from error
        try:
            client.wait_for_workers(1, timeout=_ANSWER_SECONDS if self._cluster is None else None)
        except TimeoutError:
            client.close()
            raise ConnectionError(
                f"the Dask scheduler at {self._where} has no workers: start them with dask worker {self._where}"
            ) from None
        return client

    @property
    def workers(self) -> Mapping[str, Mapping[str, Any]]:
        """What the scheduler knows of its workers, by address."""
        found: Mapping[str, Mapping[str, Any]] = self._client.scheduler_info(n_workers=-1)["workers"]
        return found

    @property
    def capacity(self) -> int:
        """Shards in progress: two a worker, so that it need not wait for the next, which takes tens of milliseconds."""
        return 2 * max(len(self._threads()), 1)

    @property
    def memory(self) -> float:
        """Bytes that the smallest worker may have before Dask lets it begin nothing more."""
        dask: Any = import_module("dask")
        share = dask.config.get("distributed.worker.memory.pause") or 1.0
        threads = {address: max(about["nthreads"], 1) for address, about in self.workers.items()}
        limits = [about["memory_limit"] / threads[address] for address, about in self.workers.items()]
        return min((share * limit for limit in limits if limit), default=math.inf)

    def check(self, files: Iterable[str], version: str) -> None:
        """Ask every worker for the version of the package and for the files.

        Raises
        ------
        FileNotFoundError
            If a worker does not see a file, naming both.
        ImportError
            If a worker has not the package, or another version, naming it and both versions.

        """
        # Functions of the standard library: a worker without the package can run them.
        for worker, found in self._client.run(version_of, "bayes-cannon", on_error="return").items():
            if isinstance(found, Exception) or found != version:
                has = f"has not the package bayes-cannon ({found})" if isinstance(found, Exception) else (
                    f"has bayes-cannon {found}"
                )  # fmt: skip
                raise ImportError(f"the worker {worker} {has}, and this process has {version}: install the same there")
        for file in files:
            for worker, seen in self._client.run(os.path.exists, file, on_error="return").items():
                if seen is not True:
                    raise FileNotFoundError(f"the worker {worker} does not see {file}: use a folder that all share")

    def submit(self, work: Work, number: int) -> None:
        """Give a shard to the scheduler."""
        with self._asking():
            # Without the timeout those that come soon after each other are worked on in any order.
            future = self._client.submit(_in_worker, work, number, pure=False, fifo_timeout="0 ms")
        self._running[future] = work, number, self._submitted
        self._submitted += 1

    def collect(self) -> Outcome:
        """Wait for any of the shards.

        Raises
        ------
        ConnectionError
            If the scheduler is lost, or for long all workers are, or have paused because their memory is full.

        """
        alone = time.monotonic()
        while True:
            future = next((future for future in self._running if future.done()), None)
            if future is not None and self._only_waited(future):
                work, number, _ = self._running.pop(future)
                self.submit(work, number)
                continue
            if future is not None:
                break
            try:
                with self._client.as_current():
                    self._distributed.wait(
                        list(self._running), timeout=_LOOK_SECONDS, return_when="FIRST_COMPLETED"
                    )  # fmt: skip
            except (TimeoutError, CancelledError):
                alone = self._still_there(alone)
        _, number, _ = self._running.pop(future)
        if future.status == "cancelled":
            self._still_there(alone)
            return Outcome(number, error=RuntimeError(f"the scheduler at {self._where} gave it up"))
        error = future.exception()
        if error is None:
            return Outcome(number, future.result())
        place = self._death(future)
        if place is not None:
            self._deaths[place] = self._submitted
            error = RuntimeError(f"the worker {place} died while it had shard {number}: out of memory, perhaps")
        return Outcome(number, error=error)

    def _only_waited(self, future: Any) -> bool:
        """Whether the death that a shard met was counted against another one, which its worker had first."""
        place, (*_, order) = self._death(future), self._running[future]
        return place is not None and order < self._deaths.get(place, 0)

    def _death(self, future: Any) -> str | None:
        """Address of the worker that died with a shard; None where none did."""
        error = future.exception() if future.status == "error" else None
        return error.last_worker.address if isinstance(error, self._distributed.KilledWorker) else None

    @property
    def _lost(self) -> ConnectionError:
        return ConnectionError(f"the Dask scheduler at {self._where} was lost")

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Make of what Dask raises where the scheduler cannot be asked the error that it was lost."""
        try:
            yield
        except (OSError, RuntimeError, CancelledError) as error:
            raise self._lost from error

    def _threads(self) -> Mapping[str, int]:
        """Threads of each worker by its address."""
        with self._asking():
            found: Mapping[str, int] = self._client.nthreads()
        return found

    def _still_there(self, alone: float) -> float:
        """Since when no worker has worked; ConnectionError if that is long ago, or the scheduler is lost."""
        if self._client.status != "running":
            raise self._lost
        full = self._full()
        if self._threads() and not full:
            return time.monotonic()
        if time.monotonic() - alone > _WITHOUT_WORKERS_SECONDS:
            raise ConnectionError(
                f"the workers of {self._where} have paused for want of memory, {full}: give each more"
                if full
                else f"the Dask scheduler at {self._where} has lost all its workers"
            )
        return alone

    def _full(self) -> str:
        """What the workers have in use, if Dask lets none of them begin anything because that is too much."""
        with self._asking():
            workers = self.workers
        used = list[str]()
        for address, about in workers.items():
            if about["status"] != "paused" or about["metrics"]["task_counts"].get("executing"):
                return ""
            used.append(
                f"{address} with {about['metrics']['memory'] / 1e9:.2g} of {about['memory_limit'] / 1e9:.2g} GB"
            )
        return ", ".join(used)

    def close(self) -> None:
        """Give up what is running, and end the processes that were made here; those of a scheduler stay."""
        if self._running and self._client.status == "running":
            self._client.cancel(list(self._running))
        self._running.clear()
        self._client.close()
        self._close_cluster()

    def _close_cluster(self) -> None:
        if self._cluster is not None:
            self._cluster.close()
        self._settings.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _in_worker(work: Work, number: int) -> Any:
    """Work on a shard in a worker, on one core."""
    from bayes_cannon.execution.threads import threads_limited_to  # With it comes JAX.

    worker = import_module("distributed").get_worker()
    with threads_limited_to(_THREADS):
        return finished_shard(work, number, lambda: work.read(number), worker.address)
