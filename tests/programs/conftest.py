"""What tests of the programs share: double precision, and densities and draws that are compiled as a whole.

Evaluated eagerly, each operation of NumPyro would be a compiled program of its own.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import pytest
from numpyro.infer import Predictive
from numpyro.infer.util import log_density


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def density() -> Callable[..., Any]:
    """Log density of a program with the given arguments at the given sites."""

    def evaluated(program: Any, arguments: tuple, keywords: dict[str, Any], sites: dict[str, Any]) -> jax.Array:
        return jax.jit(partial(_log_density, program, arguments, keywords))(sites)

    return evaluated


@pytest.fixture(scope="session")
def predictive() -> Callable[..., Any]:
    """Draws of NumPyro's `Predictive` with the given settings and arguments of the program."""

    def drawn(settings: dict[str, Any], program: Any, *arguments: Any, **keywords: Any) -> dict[str, jax.Array]:
        return jax.jit(lambda key: Predictive(program, **settings)(key, *arguments, **keywords))(jax.random.key(0))

    return drawn


def _log_density(program: Any, arguments: tuple, keywords: dict[str, Any], sites: dict[str, Any]) -> jax.Array:
    return log_density(program, arguments, keywords, sites)[0]
