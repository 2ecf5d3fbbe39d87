"""The programs of a block, compiled to run fast, or, for little work, compiled in little time.

To optimize them takes most of a first training, and saves a training of few pixels some hundredths of a second. So
such a training has them as they are, until it has been repeated so often that to optimize them would have paid.
"""

from collections import Counter
from collections.abc import Callable
from inspect import unwrap
from typing import NamedTuple

import jax

from bayes_cannon.core.compilation import make_room
from bayes_cannon.solvers.interpolation import sums_at_nodes
from bayes_cannon.solvers.joint import certified
from bayes_cannon.solvers.refine import refine
from bayes_cannon.solvers.scan import exact_scan, sums_on_grid
from bayes_cannon.solvers.search import search

LITTLE = 2**18
"""Numbers in the arrays (pixel, star) and (pixel, term, term): without optimization it costs up to 0.1 s more."""
PATIENCE = 32
"""Trainings of one shape before its programs are optimized."""
_UNOPTIMIZED = {"xla_backend_optimization_level": 0}


class Programs(NamedTuple):
    """Each is what the function of its name is."""

    sums_at_nodes: Callable
    sums_on_grid: Callable
    search: Callable
    certified: Callable
    exact_scan: Callable
    refine: Callable


FAST = Programs(sums_at_nodes, sums_on_grid, search, certified, exact_scan, refine)
QUICK = Programs(
    jax.jit(unwrap(sums_at_nodes), static_argnames="n_nodes", compiler_options=_UNOPTIMIZED),
    *(jax.jit(unwrap(program), compiler_options=_UNOPTIMIZED) for program in FAST[1:]),
)
_trainings: Counter[tuple[int, ...]] = Counter()
_wanted: set[tuple[int, bool, tuple[int, ...]]] = set()


def programs(shapes: tuple[int, ...], numbers: int) -> tuple[Programs, bool]:
    """Those for blocks of these shapes, and whether they are wanted for the first time, or since all were dropped."""
    # Other devices than the processor have compilers of their own, and work that pays for them.
    little = numbers <= LITTLE and jax.default_backend() == "cpu"
    _trainings[shapes] += little
    quick = little and _trainings[shapes] <= PATIENCE
    wanted = make_room(), quick, shapes
    new = wanted not in _wanted
    _wanted.add(wanted)
    return QUICK if quick else FAST, new
