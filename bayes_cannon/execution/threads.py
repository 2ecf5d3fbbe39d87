"""Run independent pieces of work on all cores."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from bayes_cannon.execution.blas import single_threaded_blas
from bayes_cannon.execution.compiled_programs import make_room

_MAX_PENDING = 2
"""Blocks for each thread that are in progress or whose results have not been taken."""


def n_threads() -> int:
    """Number of blocks computed at a time: two more than cores, so that none is idle while Python prepares a block."""
    return (os.cpu_count() or 1) + 2


def in_parallel[S, T](work: Callable[[S], T], blocks: Iterator[S]) -> Iterator[T]:
    """Results of the blocks, in order, computed on `n_threads` threads.

    JAX compiles a program once, however many threads need it. Few results are computed before they are taken, so that
    those of all blocks need not fit into memory.
    """
    make_room()
    waiting: deque[Future[T]] = deque()
    with single_threaded_blas(), ThreadPoolExecutor(n_threads()) as pool:
        try:
            for block in blocks:
                waiting.append(pool.submit(work, block))
                if len(waiting) > _MAX_PENDING * n_threads():
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
