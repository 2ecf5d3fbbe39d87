"""Solutions on the active terms of the pixels of a block, of systems that are no larger than these want."""

from functools import partial

import jax
import jax.numpy as jnp

from bayes_cannon.core.typing import Array, PerPixel, PixelTermMask, PixelTermRight, PixelTermTerm
from bayes_cannon.training.certificate import solution_and_pivot

MANY_TERMS = 64
"""From so many terms on, a smaller system spares more than it costs to gather it."""
EIGHTHS = 2, 3, 5
"""Of all terms: the sizes that are compiled, beside that of all; each takes a tenth of a second to compile."""


def solve_on_active(
    gram: PixelTermTerm, right: PixelTermRight, active: PixelTermMask
) -> tuple[PixelTermRight, PerPixel]:
    """`certificate.solution_and_pivot` of every pixel.

    Where terms are many, the active ones are gathered, in their order, into the smallest of a few sizes that holds
    those of every pixel, filled up with others. The solution is the same, but to factor the matrix of 65 terms takes a
    tenth of the time of 171.

    Parameters
    ----------
    gram, right, active
        Shape (pixel, term, term), (pixel, term, right-hand side) and (pixel, term).

    Returns
    -------
    solution, pivot
        Shape (pixel, term, right-hand side) and (pixel,).

    """

    def of_size(size: int) -> tuple[Array, Array]:
        terms = jnp.argsort(~active, axis=1, stable=True)[:, :size]

        def part(array: Array, terms: Array) -> Array:
            # The checks of the indices would take as long as the reading.
            return jnp.asarray(array).at[terms].get(mode="promise_in_bounds")

        def one(gram: Array, right: Array, active: Array, terms: Array) -> tuple[Array, Array]:
            square = part(part(gram, terms).T, terms)
            solution, pivot = solution_and_pivot(square, part(right, terms), part(active, terms))
            return jnp.zeros_like(right).at[terms].set(solution, mode="promise_in_bounds", unique_indices=True), pivot

        return jax.vmap(one)(gram, right, active, terms)

    n_terms = active.shape[1]
    whole = partial(jax.vmap(solution_and_pivot), gram, right, active)
    if n_terms < MANY_TERMS:
        return whole()
    sizes = [-(-n_terms * part // 8) for part in EIGHTHS]
    which = jnp.searchsorted(jnp.asarray(sizes), jnp.max(jnp.sum(active, axis=1)))
    solution, pivot = jax.lax.switch(which, [*(partial(of_size, size) for size in sizes), whole])
    return solution, pivot
