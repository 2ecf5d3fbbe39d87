"""Solve the systems of the active terms of a block of pixels, in matrices no larger than these need."""

from functools import partial

import jax
import jax.numpy as jnp

from bayes_cannon.core.typing import Array, PerPixel, PixelTermMask, PixelTermRight, PixelTermTerm
from bayes_cannon.training.certificate import solution_and_pivot
from bayes_cannon.training.profile.settings import SETTINGS


def solve_on_active(
    gram: PixelTermTerm, right: PixelTermRight, active: PixelTermMask
) -> tuple[PixelTermRight, PerPixel]:
    """`certificate.solution_and_pivot` of every pixel.

    If terms are many, the active ones of each pixel are gathered, in their order, into the smallest of a few matrix
    sizes that holds those of every pixel; others fill it up. The solution is the same, but factoring a matrix of 65
    terms takes a tenth of the time of 171.

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
            # Checking the indices would take as long as reading the array.
            return jnp.asarray(array).at[terms].get(mode="promise_in_bounds")

        def one(gram: Array, right: Array, active: Array, terms: Array) -> tuple[Array, Array]:
            square = part(part(gram, terms).T, terms)
            solution, pivot = solution_and_pivot(square, part(right, terms), part(active, terms))
            return jnp.zeros_like(right).at[terms].set(solution, mode="promise_in_bounds", unique_indices=True), pivot

        return jax.vmap(one)(gram, right, active, terms)

    n_terms = active.shape[1]
    whole = partial(jax.vmap(solution_and_pivot), gram, right, active)
    if n_terms < SETTINGS.many_terms:
        return whole()
    sizes = [-(-n_terms * part // 8) for part in SETTINGS.active_eighths]
    which = jnp.searchsorted(jnp.asarray(sizes), jnp.max(jnp.sum(active, axis=1)))
    solution, pivot = jax.lax.switch(which, [*(partial(of_size, size) for size in sizes), whole])
    return solution, pivot
