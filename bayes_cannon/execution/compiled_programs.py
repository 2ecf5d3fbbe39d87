"""Keep the number of compiled programs below Linux's limit on memory mappings, and how to keep programs on disk.

Each kernel that XLA compiles for a processor takes three memory mappings (code, constants, data:
https://github.com/llvm/llvm-project/issues/63236), so that a program of the solvers or a sampler takes hundreds. A
process may have 65,530 (``vm.max_map_count``), and one that exceeds them dies of a segmentation fault, without an
error: after about a hundred trainings of different shapes, if all their programs were kept.

**An exception to the rule of no global state.** `make_room` clears every JAX cache of the process, including programs
that the user compiled; they are compiled again when they are next called, and no result changes. It also registers a
listener for compilation events with JAX, when it is first called, and counts its own calls. Nothing else in the package
changes the state of the process for longer than a call, and importing it changes nothing.

**Compiling once for all processes.** The first training, labelling or sampling of a shape in a process compiles its
programs, which takes most of its time. JAX can keep compiled programs on disk, so that other processes load them. This
is for the user to switch on, before JAX is imported, and the package never does::

    export JAX_COMPILATION_CACHE_DIR=$HOME/.cache/jax
    export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0

The second line keeps small programs, too: by default only those that took more than a second to compile are kept.
"""

import math
from pathlib import Path
from threading import Lock

import jax
from jax import monitoring

from bayes_cannon.execution.jax_settings import refuse_forked_process

_COMPILATION = "/jax/core/compile/backend_compile_duration"
_MAPPINGS, _LIMIT = Path("/proc/self/maps"), Path("/proc/sys/vm/max_map_count")
_lock = Lock()
_listening, _compiled, _n_cleared = False, True, 0
_max_mappings: float | None = None


def _listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
    global _compiled
    _compiled |= event == _COMPILATION


def n_mappings() -> int:
    """Number of memory mappings of this process; zero where the system does not tell."""
    return _read(_MAPPINGS).count(b"\n")


def limit() -> float:
    """Largest number of memory mappings of a process; infinite where the system does not tell."""
    return float(_read(_LIMIT) or math.inf)


def _read(path: Path) -> bytes:
    """Contents of the file, or nothing if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def make_room() -> int:
    """Clear JAX's caches of compiled programs if these take half of the room for memory mappings.

    The room is the limit minus the mappings that were left when the caches were last cleared. Counting mappings takes a
    microsecond each, so that it is done only if something has been compiled since. Clearing affects the whole process
    (see the module's docstring).

    Returns
    -------
    n_cleared
        Number of times that this has been done in this process.

    Raises
    ------
    RuntimeError
        In a process that was forked after JAX had started.

    """
    global _listening, _compiled, _n_cleared, _max_mappings
    refuse_forked_process()  # Before any lock, which another thread may have held at the fork.
    with _lock:
        if not _listening:
            monitoring.register_event_duration_secs_listener(_listen)
            _listening = True
        if _max_mappings is None:
            _max_mappings = limit() / 2
        compiled, _compiled = _compiled, False
        if compiled and n_mappings() > _max_mappings:
            jax.clear_caches()
            _n_cleared += 1
            _max_mappings = (n_mappings() + limit()) / 2
        return _n_cleared
