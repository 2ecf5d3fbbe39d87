"""The settings of JAX under which the package's own compiled work runs, whatever those of the host program are.

Every part of the package that makes arrays of JAX or calls a compiled program does so within `own_jax_settings`. JAX
keeps such settings for each thread, so that each thread enters it anew. Outside of it nothing changes.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import jax
import numpy as np
from jax._src.xla_bridge import backends_are_initialized  # JAX has no public name for it.

from bayes_cannon.core.arguments import shown

_inherited = False
"""Whether this process was forked from one in which JAX was running: the threads of JAX are not in it."""


def _remember_fork() -> None:
    global _inherited
    _inherited = backends_are_initialized()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_remember_fork)


def refuse_forked_process() -> None:
    """Raise RuntimeError in a process that was forked after JAX had started, where it would wait for ever.

    Raises
    ------
    RuntimeError
        Saying what to do instead.

    """
    if _inherited:
        raise RuntimeError(
            f"process {os.getpid()} was forked from one in which JAX was running already, and JAX does not work in it: "
            'start processes with multiprocessing.get_context("spawn") or joblib, or fork before anything is trained '
            "or labelled. One process uses all cores"
        )


def check_key(key: Any) -> Any:
    """The key as it is given; TypeError unless it is an integer of 64 bits, which is a seed, or a key of JAX."""
    is_seed = isinstance(key, int | np.integer) and not isinstance(key, bool) and abs(int(key)) < 2**63
    if not is_seed and not (isinstance(key, jax.Array | np.ndarray) and _is_key(key)):
        raise TypeError(f"key must be an integer or a JAX key, got {shown(key)}")
    return key


def _is_key(array: Any) -> bool:
    if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        return array.ndim == 0
    return array.ndim == 1 and array.dtype == np.uint32


@contextmanager
def own_jax_settings() -> Iterator[None]:
    """Double precision, and neither checks nor restrictions that the host program asks of its own JAX code.

    The compiled programs make NaN and infinity on purpose, for pixels and stars without information, and mix numbers of
    NumPy with arrays of any rank, which ``jax_debug_nans``, ``jax_debug_infs``, ``jax_numpy_rank_promotion``,
    ``jax_numpy_dtype_promotion`` and ``jax_transfer_guard`` may forbid.

    Raises
    ------
    RuntimeError
        In a process that was forked after JAX had started.

    """
    refuse_forked_process()
    with ExitStack() as settings:
        for setting in (
            jax.enable_x64(True), jax.debug_nans(False), jax.debug_infs(False), jax.numpy_rank_promotion("allow"),
            jax.numpy_dtype_promotion("standard"), jax.transfer_guard("allow"), jax.disable_jit(False),
            jax.debug_key_reuse(False), jax.legacy_prng_key("allow"),
        ):  # fmt: skip
            settings.enter_context(setting)
        yield
