"""Room for compiled programs: Linux bears a limited number of them.

Each kernel that XLA compiles for a processor is three memory mappings of its own (code, constants, data:
https://github.com/llvm/llvm-project/issues/63236), so that a program of the solvers or a sampler is hundreds. A process
may have 65,530 (``vm.max_map_count``), and one that wants more dies of a segmentation fault, without an error: after
about a hundred trainings of different shapes, if all their programs were kept.
"""

import math
from pathlib import Path
from threading import Lock

import jax
from jax import monitoring

_COMPILED = "/jax/core/compile/backend_compile_duration"
_MAPPINGS, _LIMIT = Path("/proc/self/maps"), Path("/proc/sys/vm/max_map_count")
_lock = Lock()
_listening, _new, _dropped = False, True, 0
_most: float | None = None


def _listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
    global _new
    _new |= event == _COMPILED


def n_mappings() -> int:
    """Memory mappings of this process; none where the system does not say."""
    return _read(_MAPPINGS).count(b"\n")


def limit() -> float:
    """Memory mappings that a process may have; infinite where the system does not say."""
    return float(_read(_LIMIT) or math.inf)


def _read(path: Path) -> bytes:
    """The file, or nothing where there is none, or none that may be read."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def make_room() -> int:
    """Drop every program that JAX keeps in this process, if they take half of the room; they are compiled anew on use.

    The room is what the process may have beside that which was left when they were last dropped. To count mappings
    takes a microsecond each, so that it is done only if something was compiled since.

    Returns
    -------
    dropped
        How often that has been done in this process.

    """
    global _listening, _new, _dropped, _most
    with _lock:
        if not _listening:
            monitoring.register_event_duration_secs_listener(_listen)
            _listening = True
        if _most is None:
            _most = limit() / 2
        new, _new = _new, False
        if new and n_mappings() > _most:
            jax.clear_caches()
            _dropped += 1
            _most = (n_mappings() + limit()) / 2
        return _dropped
