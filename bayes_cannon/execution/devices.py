"""How much work is given to the device at a time: what fits a processor's cache, or what keeps a GPU busy.

A compiled program is a few hundred operations one after the other. A GPU takes some microseconds for each however small
it is, so that it wants all pixels or stars at once; a processor wants as many as stay in its cache. The programs and
their results are the same.
"""

import jax

NUMBERS_ON_GPU = 2**24
"""Numbers in one array of a block of work: 128 MiB in float64. A program holds about ten such arrays at a time."""

BLOCKS_ON_GPU = 3
"""Blocks in progress: one is computed, one is on its way to the GPU, and one on its way back."""


def is_cpu() -> bool:
    """Whether JAX computes on the processor."""
    return jax.default_backend() == "cpu"


def by_device(cpu: int, gpu: int) -> int:
    """The first number where JAX computes on the processor, the second where it does so on anything else."""
    return cpu if is_cpu() else gpu
