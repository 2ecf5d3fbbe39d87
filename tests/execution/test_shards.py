"""The loop over shards: tries, events, few shards at a time, and what ends it."""

import errno
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest

from bayes_cannon.execution import RunFinished, SerialExecutor, ShardDone, ShardFailed
from bayes_cannon.execution.shards import TRIES, run_shards


@dataclass
class Work:
    """Work that fails as it is told: ``faults[shard]`` are the errors of its tries, in order."""

    faults: dict[int, list[Exception]] = field(default_factory=dict)
    done: list[int] = field(default_factory=list)
    readers: set[str] = field(default_factory=set)

    def read(self, number: int) -> Any:
        self.readers.add(threading.current_thread().name)
        return number * 10

    def compute(self, number: int, given: Any) -> int:
        assert given == number * 10
        if self.faults.get(number):
            raise self.faults[number].pop(0)
        self.done.append(number)
        return number + 1


def _run(work: Work, numbers: range) -> tuple[RunFinished, list]:
    events: list = []
    with SerialExecutor() as executor:
        return run_shards(work, numbers, executor, listen=events.append), events


def test_every_shard_is_done_once_and_told_of() -> None:
    work = Work()
    finished, events = _run(work, range(5))
    assert work.done == [0, 1, 2, 3, 4]
    assert [(event.shard, event.size) for event in events[:-1]] == [(k, k + 1) for k in range(5)]
    assert all(isinstance(event, ShardDone) and event.memory > 1e6 and event.seconds >= 0 for event in events[:-1])
    assert events[-1] is finished
    assert (finished.shards, finished.size, dict(finished.failed)) == (5, 15, {})
    assert threading.current_thread().name not in work.readers


def test_a_shard_that_fails_is_tried_three_times_and_the_others_go_on() -> None:
    work = Work({1: [ValueError("once")], 2: [ValueError(f"try {k}") for k in range(TRIES)]})
    finished, events = _run(work, range(4))
    assert sorted(work.done) == [0, 1, 3]
    failures = [event for event in events if isinstance(event, ShardFailed)]
    assert ShardFailed(1, "ValueError: once", 1, is_last=False) in failures
    assert [(one.attempt, one.is_last) for one in failures if one.shard == 2] == [(1, False), (2, False), (3, True)]
    assert {number: str(error) for number, error in finished.failed.items()} == {2: "try 2"}


def test_a_full_disk_ends_the_run() -> None:
    full = [OSError(errno.ENOSPC, "No space left on device")] * TRIES
    work = Work({0: list(full), 1: list(full)})
    finished, _ = _run(work, range(100))
    assert isinstance(finished.failed[0], OSError)
    assert len(work.done) < 10


def test_few_shards_are_submitted_before_they_are_collected() -> None:
    class Counting(SerialExecutor):
        most = running = 0

        def submit(self, work: Any, number: int) -> None:
            self.running += 1
            self.most = max(self.most, self.running)
            super().submit(work, number)

        def collect(self) -> Any:
            self.running -= 1
            return super().collect()

    with Counting() as executor:
        run_shards(Work(), range(20), executor)
    assert executor.most == executor.capacity == 2


def test_the_next_shard_is_read_while_one_is_computed() -> None:
    reading = threading.Event()

    class Waiting(Work):
        def read(self, number: int) -> Any:
            if number == 1:
                reading.set()
            return super().read(number)

        def compute(self, number: int, given: Any) -> int:
            assert reading.wait(10)
            return super().compute(number, given)

    assert _run(Waiting(), range(2))[0].shards == 2


def test_an_interruption_is_not_swallowed() -> None:
    work = Work({0: [KeyboardInterrupt()]})  # type: ignore[list-item]
    with pytest.raises(KeyboardInterrupt):
        _run(work, range(2))


def test_nothing_of_dask_is_imported_unless_it_is_asked_for() -> None:
    code = (
        "import sys, bayes_cannon as tc, bayes_cannon.execution, bayes_cannon.model.store_labelling\n"
        "import bayes_cannon.cli.group, bayes_cannon.cli.store_run\n"
        "tc.execution.SerialExecutor().close()\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('dask', 'distributed', 'pandas_')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
