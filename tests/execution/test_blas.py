"""BLAS has one thread while somebody wants that, and what it had before when the last of them has left."""

from contextlib import ExitStack

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from bayes_cannon.execution.blas import single_threaded_blas
from bayes_cannon.execution.threads import in_parallel


def n_threads():
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


pytestmark = pytest.mark.skipif(not n_threads(), reason="threadpoolctl knows no BLAS of this process")


@pytest.fixture(autouse=True)
def two_threads():
    with threadpool_limits(2, user_api="blas"):
        yield


def test_the_last_to_leave_restores_whatever_the_order():
    first, second = ExitStack(), ExitStack()
    first.enter_context(single_threaded_blas())
    second.enter_context(single_threaded_blas())
    assert n_threads() == {1}
    first.close()
    assert n_threads() == {1}
    second.close()
    assert n_threads() == {2}


def test_an_error_restores():
    with pytest.raises(RuntimeError), single_threaded_blas():
        raise RuntimeError
    assert n_threads() == {2}


def test_blocks_in_parallel_have_one_each():
    assert list(in_parallel(lambda _: n_threads(), iter(range(8)))) == [{1}] * 8
    assert n_threads() == {2}


def test_an_abandoned_run_restores():
    results = in_parallel(lambda block: block, iter(range(100)))
    next(results)
    assert n_threads() == {1}
    results.close()
    assert n_threads() == {2}
