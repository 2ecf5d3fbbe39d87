"""Compiled programs are dropped before a process reaches Linux's limit on memory mappings, and not much earlier."""

from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from numpy.testing import assert_array_equal

from bayes_cannon.execution import compiled_programs as compilation
from bayes_cannon.execution.compiled_programs import limit, make_room, n_mappings

pytestmark = pytest.mark.skipif(n_mappings() == 0, reason="the system does not say how many mappings a process has")


@pytest.fixture
def room(monkeypatch):
    """Leaves room for a given number of further mappings."""

    def room_for(more):
        monkeypatch.setattr(compilation, "_max_mappings", n_mappings() + more)

    return room_for


def compiled(n):
    """A function compiled for one shape, and the mappings that this took."""
    function = jax.jit(lambda x: jax.numpy.linalg.eigh(x + x.T)[0])
    before = n_mappings()
    function(np.eye(n)).block_until_ready()
    return function, n_mappings() - before


def test_programs_stay_while_there_is_room(room):
    room(10_000)
    function, _ = compiled(3)
    before = make_room()
    assert make_room() == before
    assert function._cache_size() == 1


def test_programs_are_dropped_where_there_is_none_and_compiled_anew(room):
    function, taken = compiled(4)
    assert taken > 0
    expected = function(np.diag([1.0, 2, 3, 4]))
    with_programs, before = n_mappings(), make_room()
    room(-taken)
    compiled(5)
    assert make_room() == before + 1
    assert n_mappings() < with_programs
    assert function._cache_size() == 0
    assert_array_equal(function(np.diag([1.0, 2, 3, 4])), expected)


def test_nothing_is_counted_where_nothing_was_compiled(room, monkeypatch):
    room(10_000)
    compiled(6)
    make_room()
    monkeypatch.setattr(compilation, "n_mappings", lambda: pytest.fail("counted"))
    make_room()


def test_mappings_of_something_else_do_not_drop_programs_again_and_again(room, monkeypatch):
    room(-50)
    compiled(9)
    before = make_room()
    others = n_mappings()
    monkeypatch.setattr(compilation, "limit", lambda: others + 200)
    room(-50)
    compiled(10)
    assert make_room() == before + 1
    function, taken = compiled(11)
    assert make_room() == before + 1
    assert 0 < taken < 100
    assert function._cache_size() == 1


def test_a_system_without_limit_drops_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(compilation, "_LIMIT", tmp_path / "none")
    monkeypatch.setattr(compilation, "_max_mappings", None)
    before = make_room()
    compiled(7)
    assert limit() == np.inf
    assert make_room() == before


@pytest.fixture
def no_cache_on_disk():
    """What is loaded takes fewer mappings than what is compiled."""
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()


@pytest.mark.slow
@pytest.mark.usefixtures("no_cache_on_disk")
def test_trained_and_used_models_make_room_and_are_the_same_without_their_programs(simulate, room):
    def used(n_stars):
        room(100)
        simulation = simulate(n_stars, 9)
        model = simulation.model()
        theta, _, _ = model.train()
        labels, _, _ = model.test(simulation.flux[:3], simulation.ivar[:3])
        return theta, labels

    before = make_room()
    first = used(40)
    assert make_room() > before
    used(48)
    dropped = make_room()
    for again, expected in zip(used(40), first, strict=True):
        assert_array_equal(again, expected)
    assert make_room() > dropped


def test_programs_may_be_dropped_while_threads_use_them():
    """A person's own threads may train while another one makes room."""
    function, _ = compiled(8)
    matrices = np.random.default_rng(0).normal(size=(40, 8, 8))
    expected = [function(matrix) for matrix in matrices]

    def dropped(index):
        if index % 4 == 0:
            jax.clear_caches()
        return function(matrices[index])

    with ThreadPoolExecutor(4) as pool:
        assert_array_equal(list(pool.map(dropped, range(len(matrices)))), expected)
