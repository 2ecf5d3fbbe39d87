"""Limit BLAS and LAPACK to one thread a call while the package's own threads keep all cores busy."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import Any

import scipy.linalg  # noqa: F401 - loads its BLAS, which JAX uses, too, so that threadpoolctl finds it
from threadpoolctl import ThreadpoolController

_lock = Lock()
_users = 0
_limit: Any = None


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Limit BLAS to one thread a call until the last of all overlapping uses has ended.

    The limit applies to the whole process, except for OpenBLAS built with OpenMP, which has one for each thread.
    OpenBLAS factors matrices of a hundred rows or more on all cores, one call after the other: two threads that factor
    matrices of 171 rows then take twice as long as with one core each.
    """
    global _users, _limit
    with _lock:
        if _users == 0:
            _limit = _libraries().limit(limits=1, user_api="blas")
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _limit.restore_original_limits()
