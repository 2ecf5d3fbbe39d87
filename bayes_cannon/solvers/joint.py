r"""Newton's method on (theta, s^2) together, with the exact gradient and the interpolated Gram matrix.

At each step the residuals, and from them the gradients by theta and s^2, come from the data. The curvature by theta is
the Gram matrix of `solvers.scan`, which is right to a percent, so every step gains about two digits, without another
pass for a Gram matrix. On the free terms A the step solves, with :math:`g = \sum w r v - \lambda\,\mathrm{sgn}\,\theta`
and :math:`c = \sum w^2 r v`,

.. math:: \begin{pmatrix} 2 G_{AA} & 2 c_A \\ 2 c_A^T & q'' \end{pmatrix}
          \begin{pmatrix} \delta\theta \\ \delta s^2 \end{pmatrix} = \begin{pmatrix} 2 g_A \\ -q' \end{pmatrix},
          \qquad q' = \sum w (1 - w r^2), \quad q'' = \sum w^2 (2 w r^2 - 1)

in the variable :math:`\ln(c_0 + s^2)`, up to the first term that would change its sign. A few sweeps of coordinate
descent before and after it decide the active set, so that a step costs one factor, or two where terms are many. The
certificate belongs to the point that is returned and uses nothing interpolated (`certified`).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bayes_cannon.core.likelihood import log_variance, weights
from bayes_cannon.core.typing import Array, Scalar
from bayes_cannon.solvers.block import Pixels, Training, gram_matrix, known_flux
from bayes_cannon.solvers.certificate import active_terms, relative_gap, smallest_pivot, solve_masked
from bayes_cannon.solvers.lasso import SWEEPS, coordinate_descent, newton_move
from bayes_cannon.solvers.scan import Interpolated

GAP_TOLERANCE = 1e-13
"""On the relative duality gap."""
GRADIENT_TOLERANCE = 1e-8
"""On the derivative by s^2 over the sum of the weights."""
PATH_TOLERANCES = 1e-9, 1e-6
"""The same two for a path, where every step counts: theta is right to a thousandth of its error, s^2 to a millionth."""
MANY_TERMS = 64
"""From so many terms on a step looks for the active set twice, as more passes over the data would cost more."""
MAX_STEPS = 16
"""Steps at most; what has not converged by then goes to `solvers.refine`."""


class Point(NamedTuple):
    """A point of the search, and what is known there.

    Attributes
    ----------
    s2, theta
        The point.
    next_s2, next_theta
        Where the next step goes.
    objective, gap, gradient
        Training scalar (without its logarithms while the search runs), relative duality gap and profile gradient, as
        in `solvers.problem.PixelSolution`.
    steps, done
        Steps so far, and whether both tolerances are met.

    """

    s2: Array
    theta: Array
    next_s2: Array
    next_theta: Array
    objective: Array
    gap: Array
    gradient: Array
    steps: Array
    done: Array


class Residuals(NamedTuple):
    """Sums over the stars at one point (theta, s2), all exact.

    Attributes
    ----------
    chi_squared, weight
        ``sum w r^2`` and ``sum w``.
    terms
        ``sum w v``, the first column of the Gram matrix, shape (term,).
    gradient, cross
        ``sum w r v`` and ``sum w^2 r v``, shape (term,).
    slope, bend
        First and second derivative of the scalar by s2 at fixed theta.

    """

    chi_squared: Array
    weight: Array
    terms: Array
    gradient: Array
    cross: Array
    slope: Array
    bend: Array


def residual_sums(training: Training, pixel: Pixels, theta: Array, s2: Array) -> Residuals:
    """One pass over the data of a pixel; three products with the terms."""
    known, flux = known_flux(pixel)
    w = weights(pixel.ivar, s2)
    residual = jnp.where(known, flux - training.design @ theta, 0.0)
    # Finished once, because each sum that reads them would compute them anew.
    w, residual, wr = jax.lax.optimization_barrier((w, residual, w * residual))
    wwr = jax.lax.optimization_barrier(w * wr)
    weight, square = jnp.sum(w), jnp.dot(wr, wr)
    return Residuals(
        chi_squared=jnp.dot(wr, residual),
        weight=weight,
        terms=w @ training.design,
        gradient=wr @ training.design,
        cross=wwr @ training.design,
        slope=weight - square,
        bend=2 * jnp.dot(wwr, wr) - jnp.dot(w, w),
    )


@jax.jit
def joint_newton(
    training: Training,
    block: Pixels,
    sums: Interpolated,
    theta: Array,
    s2: Array,
    tolerances: tuple[Scalar, Scalar] = (GAP_TOLERANCE, GRADIENT_TOLERANCE),
) -> Point:
    """Joint optimum of every pixel of a block from (theta, s2), shape (pixel, term) and (pixel,)."""
    solve = partial(_joint_newton, training, tolerances)
    return jax.vmap(solve, in_axes=(0, -1, 0, 0))(block, sums, theta, s2)


def _joint_newton(
    training: Training, tolerances: tuple[Scalar, Scalar], pixel: Pixels, sums: Interpolated, theta: Array, s2: Array
) -> Point:
    lam, (gap_tolerance, gradient_tolerance) = pixel.lam, tolerances

    def step(point: Point) -> Point:
        theta, s2 = point.next_theta, point.next_s2
        gram = gram_matrix(training, sums.at(s2)[0].astype(theta.dtype))
        # As above: finished, before many others read them.
        at, gram = jax.lax.optimization_barrier((residual_sums(training, pixel, theta, s2), gram))
        new_s2, new_theta, delta = _newton(gram, at, pixel, theta, s2, sums.centre)

        # Penalized pixels are projected on the constant alone, whose column is exact; others on all active terms.
        projected = active_terms(theta, lam, pixel.lower, pixel.upper) & (lam == 0)
        constant = jnp.zeros_like(theta).at[0].set(jnp.where(projected[0], at.gradient[0] / at.terms[0], 0.0))
        gap = relative_gap(
            gram, at.gradient, at.chi_squared, theta, lam, pixel.lower, pixel.upper,
            projected=projected, delta=jnp.where(pixel.regularization > 0, constant, delta), first=at.terms,
        )  # fmt: skip
        stationary = (jnp.abs(at.slope) <= gradient_tolerance * at.weight) | ((s2 == 0) & (at.slope >= 0))
        return Point(
            s2=s2, theta=theta, next_s2=new_s2, next_theta=new_theta,
            objective=at.chi_squared + 2 * jnp.sum(lam * jnp.abs(theta)), gap=gap,
            gradient=at.slope / at.weight, steps=point.steps + 1, done=stationary & (gap <= gap_tolerance),
        )  # fmt: skip

    infinite = jnp.full_like(s2, jnp.inf)
    first = Point(s2, theta, s2, theta, infinite, infinite, infinite, jnp.asarray(0), jnp.asarray(False))
    last = jax.lax.while_loop(lambda point: ~point.done & (point.steps < MAX_STEPS), step, first)
    return last._replace(objective=last.objective + jnp.sum(log_variance(pixel.ivar, last.s2)))


def _newton(
    gram: Array, at: Residuals, pixel: Pixels, theta: Array, s2: Array, centre: Array
) -> tuple[Array, Array, Array]:
    """Next s2 and theta, and the Newton step from theta at fixed s2, ``G^-1 (g - lam sgn theta)`` on the active terms.

    Three right-hand sides are solved for: what is left after the sweeps, what a change of s2 adds, and the step itself,
    which changes in length with the weights.
    """
    lam, bounds = pixel.lam, (pixel.lower, pixel.upper)
    swept, gradient = coordinate_descent(gram, at.gradient, lam, *bounds, theta, sweeps=SWEEPS)
    if len(theta) >= MANY_TERMS:
        active = active_terms(swept, lam, *bounds)
        first = solve_masked(gram, gradient - lam * jnp.sign(swept), active)
        moved = newton_move(gram, gradient, swept, first, active, lam, *bounds)
        left = at.gradient - gram @ (moved - theta)
        swept, gradient = coordinate_descent(gram, left, lam, *bounds, moved, sweeps=SWEEPS)
    active = active_terms(swept, lam, *bounds)
    pull = lam * jnp.sign(swept)
    right = jnp.stack([gradient - pull, at.cross, at.gradient - pull], axis=1)
    shift, drift, whole = solve_masked(gram, right, active).T

    slope = at.slope + 2 * jnp.dot(at.cross, swept + shift - theta)
    bend = at.bend - 2 * jnp.dot(at.cross, drift)
    new_s2 = newton_s2(s2, slope, bend, centre)

    # All weights change by about this factor, exactly for equal noise; the new objective is divided by it.
    change = (centre + s2) / (centre + new_s2)
    step = shift + (1 / change - 1) * whole - (new_s2 - s2) * drift
    ahead, lam = at.gradient / change - (new_s2 - s2) * at.cross, lam / change
    new_theta = newton_move(gram, ahead - gram @ (swept - theta), swept, step, active, lam, *bounds)
    behind = ahead - gram @ (new_theta - theta)
    new_theta, _ = coordinate_descent(gram, behind, lam, *bounds, new_theta, sweeps=SWEEPS)
    return new_s2, new_theta, whole


def newton_s2(s2: Array, slope: Array, bend: Array, centre: Array) -> Array:
    """Newton step in ``ln(centre + s2)`` of at most a factor e^2; downhill where the curvature is not positive."""
    total = centre + s2
    slope, bend = total * slope, total**2 * bend + total * slope
    step = jnp.where(bend > 0, -slope / jnp.where(bend > 0, bend, 1.0), -jnp.sign(slope))
    return jnp.maximum(total * jnp.exp(jnp.clip(step, -2.0, 2.0)) - centre, 0.0)


@jax.jit
def certified(training: Training, block: Pixels, theta: Array, s2: Array) -> tuple[Array, Array]:
    """Duality gap with the exact Gram matrix, and its smallest pivot over the terms that are not fixed.

    Where nothing is penalized the gap is the normal equations' residual in the metric of the whole Gram matrix, which
    the joint iteration knows only by interpolation. Both have shape (pixel,).
    """

    def one(pixel: Pixels, theta: Array, s2: Array) -> tuple[Array, Array]:
        gram = gram_matrix(training, weights(pixel.ivar, s2) @ training.moments)
        at = residual_sums(training, pixel, theta, s2)
        gap = relative_gap(gram, at.gradient, at.chi_squared, theta, pixel.lam, pixel.lower, pixel.upper)
        return gap, smallest_pivot(gram, pixel.lower < pixel.upper)

    return jax.vmap(one)(block, theta, s2)
