"""Run independent pieces of work on all cores."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar

from bayes_cannon.execution.blas import single_threaded_blas
from bayes_cannon.execution.compiled_programs import make_room
from bayes_cannon.execution.devices import BLOCKS_ON_GPU, by_device

_MAX_PENDING = 2
"""Blocks for each thread that are in progress or whose results have not been taken."""
_limit: ContextVar[float] = ContextVar("threads", default=float("inf"))


@contextmanager
def threads_limited_to(n: int) -> Iterator[None]:
    """Let work that this thread begins meanwhile run on at most so many threads, as where others have the cores."""
    token = _limit.set(n)
    try:
        yield
    finally:
        _limit.reset(token)


def at_most(n: int) -> int:
    """The number, or the limit of `threads_limited_to` if that is lower."""
    return int(min(n, _limit.get()))


def n_threads() -> int:
    """Number of blocks computed at a time: two more than cores, so that none is idle while Python prepares a block."""
    return at_most((os.cpu_count() or 1) + 2)


def n_blocks() -> int:
    """Number of blocks computed at a time where the device does nearly all of the work: `n_threads` without a GPU."""
    return by_device(n_threads(), BLOCKS_ON_GPU)


def in_parallel[S, T](work: Callable[[S], T], blocks: Iterator[S], together: int | None = None) -> Iterator[T]:
    """Results of the blocks, in order, computed on ``together`` threads, by default `n_threads`.

    JAX compiles a program once, however many threads need it. Few results are computed before they are taken, so that
    those of all blocks need not fit into memory.
    """
    make_room()
    together = together or n_threads()
    waiting: deque[Future[T]] = deque()
    with single_threaded_blas(), ThreadPoolExecutor(together) as pool:
        try:
            for block in blocks:
                waiting.append(pool.submit(work, block))
                if len(waiting) > _MAX_PENDING * together:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
