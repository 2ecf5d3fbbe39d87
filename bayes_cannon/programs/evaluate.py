"""Evaluate NumPyro programs from several threads, one at a time.

NumPyro keeps the handlers that act on a program in one list of the process, so that two programs that run at the same
time, in two threads, see each other's sites. In compiled code a program runs only while JAX traces it; these functions
let the threads take turns for as long as that takes.
"""

from collections.abc import Callable, Mapping
from threading import RLock
from typing import Any

import jax
from numpyro import handlers
from numpyro.infer import util

_turn = RLock()


def log_density(program: Callable[..., None], values: Mapping[str, Any], /, *args: Any, **kwargs: Any) -> jax.Array:
    """Log joint density of the program at these values of its sample sites, with its observations, a scalar."""
    with _turn:
        density: jax.Array = util.log_density(program, args, kwargs, dict(values))[0]
    return density


def potential_energy(
    program: Callable[..., None], values: Mapping[str, Any], /, *args: Any, **kwargs: Any
) -> jax.Array:
    """Minus the log joint density at values in unconstrained coordinates, with the Jacobian of these, a scalar."""
    with _turn:
        energy: jax.Array = util.potential_energy(program, args, kwargs, dict(values))
    return energy


def constrained(
    program: Callable[..., None], values: Mapping[str, Any], /, *args: Any, **kwargs: Any
) -> dict[str, Any]:
    """Values of the sample and deterministic sites from those in unconstrained coordinates."""
    with _turn:
        sites: dict[str, Any] = util.constrain_fn(program, args, kwargs, dict(values), return_deterministic=True)
    return sites


def sites_of(program: Callable[..., None], *args: Any) -> dict[str, dict[str, Any]]:
    """The sites of one run of the program, drawn with a fixed key."""
    with _turn:
        found: dict[str, dict[str, Any]] = handlers.trace(handlers.seed(program, 0)).get_trace(*args)
    return found
