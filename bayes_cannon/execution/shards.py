"""Work on numbered shards: one loop with retries, and the executor that works in the calling process.

A piece of work reads a shard by its number, computes, and writes what it found by itself, so that nothing large travels
between processes, and doing it twice changes nothing. The loop knows neither what the work is nor where it runs.
"""

import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol, Self

from bayes_cannon.execution.events import Event, RunFinished, ShardDone, ShardFailed
from bayes_cannon.execution.memory import available_memory, peak_memory

TRIES = 3
"""How often a shard is tried."""

logger = logging.getLogger(__name__)


class Work(Protocol):
    """What is done with each shard. It must be pickleable."""

    def read(self, number: int) -> Any:
        """What `compute` needs of the shard; it may be called from another thread."""

    def compute(self, number: int, given: Any) -> int:
        """Compute and write the shard, and return its size."""


@dataclass(frozen=True)
class Outcome:
    """What became of a shard: a `ShardDone`, or an error."""

    shard: int
    done: ShardDone | None = None
    error: Exception | None = None


class Executor(Protocol):
    """Where shards are worked on."""

    @property
    def capacity(self) -> int:
        """Shards that may be submitted and not yet collected."""

    @property
    def reads_ahead(self) -> bool:
        """Whether a process reads one shard while it computes another."""

    @property
    def memory(self) -> float:
        """Bytes that a process may have; infinite where nothing is known."""

    def check(self, files: Iterable[str], version: str) -> None:
        """Raise unless every worker sees these files and has this version of the package."""

    def submit(self, work: Work, number: int) -> None:
        """Begin with a shard."""

    def collect(self) -> Outcome:
        """Wait for one of those that were submitted."""

    def close(self) -> None:
        """Give back what it holds; what is not collected is given up."""


def run_shards(
    work: Work, numbers: Iterable[int], executor: Executor, *, listen: Callable[[Event], object] | None = None,
    report: Callable[[int], object] | None = None,
) -> RunFinished:  # fmt: skip
    """Work on shards, each until it is done or was tried `TRIES` times.

    After an `OSError` that stays, such as that of a full disk, no other shard is begun: it would end likewise. After
    any other error the rest goes on, unless `TRIES` shards have failed and none is done.

    Parameters
    ----------
    work
        What is done with each.
    numbers
        Which ones.
    executor
        Where. Few shards are given to it at a time.
    listen
        Called with every event.
    report
        Called with the size of each shard that is done.

    """
    start, tried, failed = perf_counter(), Counter[int](), dict[int, Exception]()
    waiting, running, done = deque(numbers), 0, list[ShardDone]()

    def tell(event: Event) -> None:
        level = logging.WARNING if isinstance(event, ShardFailed) else logging.INFO
        logger.log(level, "%s", event)
        if listen is not None:
            listen(event)

    while waiting or running:
        while waiting and running < executor.capacity:
            executor.submit(work, waiting.popleft())
            running += 1
        outcome = executor.collect()
        running -= 1
        number = outcome.shard
        if outcome.done is not None:
            done.append(outcome.done)
            tell(outcome.done)
            if report is not None:
                report(outcome.done.size)
        elif outcome.error is not None:
            tried[number] += 1
            is_last = tried[number] == TRIES
            if is_last:
                failed[number] = outcome.error
                if isinstance(outcome.error, OSError) or (len(failed) == TRIES and not done):
                    waiting.clear()
            else:
                waiting.appendleft(number)  # Soon, so that a run that cannot go on ends.
            said = f"{type(outcome.error).__name__}: {outcome.error}"
            tell(ShardFailed(number, said, tried[number], is_last))
    size, memory = sum(one.size for one in done), max((one.memory for one in done), default=0)
    finished = RunFinished(len(done), size, perf_counter() - start, memory, failed)
    tell(finished)
    return finished


def finished_shard(work: Work, number: int, given: Callable[[], Any], worker: str) -> ShardDone:
    """Work on one shard in this process."""
    start = perf_counter()
    size = work.compute(number, given())
    return ShardDone(number, size, perf_counter() - start, peak_memory(), worker)


class SerialExecutor:
    """Work in the calling process, with one thread that reads the next shard while this one is computed.

    Examples
    --------
    >>> with tc.execution.SerialExecutor() as executor:
    ...     executor.capacity
    2

    """

    capacity, reads_ahead = 2, True

    def __init__(self) -> None:
        self._reader = ThreadPoolExecutor(1)
        self._waiting = deque[tuple[Work, int, Future[Any]]]()

    @property
    def memory(self) -> float:
        """Bytes that this process may have."""
        return available_memory()

    def check(self, files: Iterable[str], version: str) -> None:
        """Nothing: this process sees what it sees."""

    def submit(self, work: Work, number: int) -> None:
        """Let the thread read a shard."""
        self._waiting.append((work, number, self._reader.submit(work.read, number)))

    def collect(self) -> Outcome:
        """Compute the shard that was submitted first."""
        work, number, reading = self._waiting.popleft()
        try:
            return Outcome(number, finished_shard(work, number, reading.result, f"process {os.getpid()}"))
        except Exception as error:  # noqa: BLE001 - the loop decides what becomes of it
            return Outcome(number, error=error)

    def close(self) -> None:
        """End the thread."""
        self._reader.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
