"""Independent pieces of work on all cores."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from bayes_cannon.execution.blas import single_threaded_blas
from bayes_cannon.execution.compiled_programs import make_room

_AHEAD = 2
"""Pieces per thread that are being worked on or whose results wait to be taken."""


def n_threads() -> int:
    """Blocks that are computed at a time: two more than cores, so that none idles while Python has a block."""
    return (os.cpu_count() or 1) + 2


def in_parallel[S, T](work: Callable[[S], T], blocks: Iterator[S]) -> Iterator[T]:
    """Results of the blocks, in order, on `n_threads`. JAX compiles a program once, whichever threads wait for it.

    Results that nobody has taken yet are few, so that what is large need not be held for all blocks at once.
    """
    make_room()
    waiting: deque[Future[T]] = deque()
    with single_threaded_blas(), ThreadPoolExecutor(n_threads()) as pool:
        try:
            for block in blocks:
                waiting.append(pool.submit(work, block))
                if len(waiting) > _AHEAD * n_threads():
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
