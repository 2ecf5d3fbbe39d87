r"""Newton's method on theta and Halley's on s^2, together, with the exact gradient and the interpolated Gram matrix.

The first steps are on the interpolated problem of `gram_interpolation` and cost no pass. From there on the
residuals, and from them the gradients by theta and s^2, come from the data; the curvature by theta is the interpolated
Gram matrix, which is right to a thousandth, so every step gains about three digits, without another pass for a Gram
matrix. On the free terms A the step solves, with :math:`g = \sum w r v - \lambda\,\mathrm{sgn}\,\theta` and
:math:`c = \sum w^2 r v`,

.. math:: \begin{pmatrix} 2 G_{AA} & 2 c_A \\ 2 c_A^T & q'' \end{pmatrix}
          \begin{pmatrix} \delta\theta \\ \delta s^2 \end{pmatrix} = \begin{pmatrix} 2 g_A \\ -q' \end{pmatrix},
          \qquad q' = \sum w (1 - w r^2), \quad q'' = \sum w^2 (2 w r^2 - 1)

up to the first term that would change its sign; q' is that after the step in theta, to second order, and the step in
s^2 is bent by the third derivative (`halley`), without which most pixels would want another pass for s^2 alone.
A few sweeps of coordinate descent decide the active set, so that a step costs one factor; where terms are many there
are sweeps after the step, too, and a second factor.

The certificate belongs to the point that is returned, and is made of the exact g and the interpolated Gram matrix. No
interpolated weight is off by more than a known share (`Interpolated.bound`). Where terms are penalized, the most that
this share and rounding could change is counted into the gap (`certificate.relative_gap`). Where nothing is penalized,
the gap is :math:`g^T G^{-1} g` relative to chi^2; as the interpolated matrix lies between multiples of G, twice what it
gives is a bound. Where the share is large, a matrix nearly singular or a term bounded, it is computed with the exact G
(`certified`).
"""

from functools import partial
from operator import add, mul
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bayes_cannon.core.likelihood import weights
from bayes_cannon.core.typing import Array, Scalar
from bayes_cannon.training.certificate import active_terms, gap_scale, relative_gap, smallest_pivot, solve_masked
from bayes_cannon.training.lasso import SWEEPS, coordinate_descent, newton_move, symmetric_product
from bayes_cannon.training.profile.active_set import MANY_TERMS, solve_on_active
from bayes_cannon.training.profile.blocks import Pixels, Training, gram_matrix, known_flux
from bayes_cannon.training.profile.gram_interpolation import Interpolated, folded
from bayes_cannon.training.profile.halley import halley_s2


class Tolerances(NamedTuple):
    """When a pixel counts as converged.

    Attributes
    ----------
    free
        On the relative duality gap where nothing is penalized.
    excess, gap
        Where terms are penalized, on what theta at this s^2 is still expected to gain, in the units of the gap, and on
        the gap, which bounds it whatever the interpolation and rounding may hide.
    gradient
        On the derivative by s^2 over the sum of the weights.

    """

    free: Scalar
    excess: Scalar
    gap: Scalar
    gradient: Scalar


TOLERANCES = Tolerances(1e-13, 1e-16, 1e-10, 1e-8)
PATH_TOLERANCES = Tolerances(4e-10, 2e-10, 5e-9, 3e-5)
"""For a path, where every step counts. Theta and s^2 are right to a hundredth of their errors for up to 1e5 stars."""
INTERPOLATED_STEPS = 3
"""Steps on the interpolated problem, which cost no pass, before the first exact one: one at least, so many at most."""
SETTLED_SCATTER, SETTLED_THETA = 2e-3, 1e-4
"""No more of them where the last moved ln(c + s^2) and chi^2, relative, by less than this."""
TRUST, TRUSTED_ERROR, TRUSTED_PIVOT = 2.0, 0.1, 1e-2
"""Without penalties and bounds the gap with the exact Gram matrix is at most this factor times that with the
interpolated one, if no interpolated weight is off by more than this share, and no squared pivot of the scaled matrix,
whose sums are right to 1e-6 in float32, is smaller than this."""
ROUNDING = 2e-6
"""Of a sum in float32, relative to what it would be of absolute values: three times the largest that was seen."""
LONG, LONGEST = 0.05, 0.3
"""Of a step in ln(c + s^2): from where on a change of sign may mean that the search goes to and fro, and at most."""
MAX_STEPS = 16
"""Steps at most; what has not converged by then goes to `bracketed_newton`."""


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
        in `training.problem.PixelSolution`.
    chi_squared, score
        ``sum w r^2``, and ``sum w r v`` of each term.
    mismatch
        How far the interpolated chi^2 is from that.
    pivot
        Smallest squared pivot of the interpolated Gram matrix of the active terms; zero where the gap of a pixel
        without penalty wants the exact matrix.
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
    chi_squared: Array
    score: Array
    mismatch: Array
    pivot: Array
    steps: Array
    done: Array


class Residuals(NamedTuple):
    """Sums over the stars at one point (theta, s2).

    Attributes
    ----------
    chi_squared, weight
        ``sum w r^2`` and ``sum w``.
    gradient, cross
        ``sum w r v`` and ``sum w^2 r v``, shape (term,).
    slope, bend
        First and second derivative of the scalar by s2 at fixed theta.

    """

    chi_squared: Array
    weight: Array
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
    eighths = tuple(folded(add, terms) for terms in (wr * residual, w, wr * wr, wwr * wr, w * w))
    chi_squared, weight, square, cube, of_weights = map(jnp.sum, jax.lax.optimization_barrier(eighths))
    return Residuals(
        chi_squared=chi_squared,
        weight=weight,
        gradient=wr @ training.design,
        cross=wwr @ training.design,
        slope=weight - square,
        bend=2 * cube - of_weights,
    )


def interpolated_sums(training: Training, sums: Interpolated, theta: Array, s2: Array) -> Residuals:
    """The same for all pixels of a block, without a pass: right to what the interpolation is."""
    beyond, total = theta.T - sums.reference, sums.centre + s2
    moments, right, square = sums.derivatives(s2)
    right, weight = right.astype(theta.dtype), moments[0].astype(theta.dtype)
    gradient = right - symmetric_product(lambda e: moments[jnp.asarray(training.pairs)[e]], beyond)
    chi_squared = square - jnp.sum((right + gradient) * beyond[:, None], axis=0)
    # By ln(c + s2): the second derivative is that by s2, times (c + s2)^2, plus the first.
    return Residuals(
        chi_squared=chi_squared[0],
        weight=weight[0],
        gradient=gradient[:, 0].T,
        cross=-(gradient[:, 1] / total).T,
        slope=chi_squared[1] / total + weight[0],
        bend=(chi_squared[2] - chi_squared[1]) / total**2 + weight[1] / total,
    )


@jax.jit
def joint_newton(
    training: Training,
    block: Pixels,
    sums: Interpolated,
    theta: Array,
    s2: Array,
    tolerances: Tolerances,
    leave: int | Array,
    interpolated: int | Array,
) -> Point:
    """Joint optima of a block from (theta, s2), shape (pixel, term) and (pixel,).

    A step takes as long for one pixel as for all: so many as ``leave`` says may be left unfinished, not `Point.done`.
    The first steps, ``interpolated`` at most, are on the interpolated problem and cost no pass.
    """
    penalized = block.regularization > 0
    # Without penalties and bounds there is no active set to look for, and Newton's step is all.
    free = jnp.all((jnp.isneginf(block.lower) & jnp.isposinf(block.upper)) | (block.lower == block.upper), axis=1)
    sweeps = jnp.where(jnp.all(free & ~penalized), 0, SWEEPS)
    # A step looks for the active set three times then, as more passes over the data would cost more.
    many = len(training.pairs) >= MANY_TERMS

    def exact_sums(theta: Array, s2: Array) -> Residuals:
        return jax.vmap(partial(residual_sums, training))(block, theta, s2)

    def step(at: tuple[jax.Array, Point]) -> tuple[jax.Array, Point]:
        left, point = at
        s2, theta, exact = point.next_s2, point.next_theta, left == 0
        moments, *others = (array.astype(theta.dtype) for array in sums.at(s2))
        found = jax.lax.cond(exact, exact_sums, partial(interpolated_sums, training, sums), theta, s2)
        # Finished, before many others read them.
        found, gram = jax.lax.optimization_barrier((found, gram_matrix(training, moments.T)))
        turned = None if many else jax.lax.optimization_barrier(moments[training.pairs])
        before = jnp.log((sums.centre + s2) / (sums.centre + point.s2))
        new_s2, new_theta, whole, pivot, bent = _newton(gram, turned, found, block, theta, s2, sums, sweeps, before)
        known = gram, found, block, theta, whole, bent, sums.bound(s2), others, sums.reference.T
        gap, excess, mismatch = jax.lax.cond(exact, _checks, lambda *_: (infinite, infinite, 0 * s2), *known)
        small = excess <= tolerances.excess
        stationary = (jnp.abs(found.slope) <= tolerances.gradient * found.weight) | ((s2 == 0) & (found.slope >= 0))
        after = Point(
            s2=s2, theta=theta, next_s2=new_s2, next_theta=new_theta,
            objective=found.chi_squared + 2 * jnp.sum(block.lam * jnp.abs(theta), axis=1), gap=gap,
            gradient=found.slope / found.weight, chi_squared=found.chi_squared, score=found.gradient,
            mismatch=mismatch, pivot=pivot,
            steps=point.steps + exact,
            done=stationary & jnp.where(penalized, (gap <= tolerances.gap) & small, gap <= tolerances.free),
        )  # fmt: skip
        kept = (jnp.where(_along(point.done, new), old, new) for old, new in zip(point, after, strict=True))
        moved = jnp.abs(jnp.log((sums.centre + new_s2) / (sums.centre + s2)))
        unsettled = (moved > SETTLED_SCATTER) | (bent > SETTLED_THETA * found.chi_squared)
        return jnp.where(jnp.sum(unsettled) > leave, jnp.maximum(left - 1, 0), 0), Point(*kept)

    infinite, none = jnp.full_like(s2, jnp.inf), jnp.zeros(len(s2), int)
    first = Point(s2, theta, s2, theta, infinite, infinite, infinite, infinite, theta, 0 * s2, infinite, none, none > 0)
    _, last = jax.lax.while_loop(
        lambda at: jnp.sum(~at[1].done & (at[1].steps < MAX_STEPS)) > leave, step, (jnp.asarray(interpolated), first)
    )
    trusted = free & (sums.bound(last.s2) < TRUSTED_ERROR) & (last.pivot > TRUSTED_PIVOT)
    objective = last.objective + _log_ratios(block.ivar, last.s2, sums.centre) - sums.log_ivar
    return last._replace(objective=objective, pivot=jnp.where(trusted, last.pivot, 0.0))


def _log_ratios(ivar: Array, s2: Array, centre: Array) -> Array:
    """``sum_n ln(1 + ivar_n s2)`` of every pixel; the logarithms are of products of eight, in units of their mean."""
    unit = 1 + s2 / centre
    products = folded(mul, jnp.asarray((1 + ivar * s2[:, None]) / unit[:, None]))
    return jnp.sum(jnp.log(products), axis=1) + ivar.shape[1] * jnp.log(unit)


def _along(mask: Array, array: Array) -> Array:
    """The mask of pixels, shaped to go with an array of theirs."""
    return mask.reshape(-1, *[1] * (array.ndim - 1))


def _checks(
    gram: Array,
    at: Residuals,
    block: Pixels,
    theta: Array,
    delta: Array,
    bent: Array,
    by_weights: Array,
    others: list[Array],
    reference: Array,
) -> tuple[Array, Array, Array]:
    """The bound on the gap of every pixel, the gap that is likely, and by how much chi^2 is not what is interpolated.

    To the optimum of a quadratic the objective falls by ``bent``, half of its own slope along the way.
    """
    gap = jax.vmap(_gap)(gram, at, block, theta, delta, by_weights)
    excess = bent / jax.vmap(gap_scale)(gram, at.gradient, at.chi_squared, theta, block.lam)
    (right, square), beyond = others, theta - reference
    interpolated = square - jnp.sum((2 * right.T - jnp.einsum("pde,pe->pd", gram, beyond)) * beyond, axis=1)
    return gap, excess, jnp.abs(interpolated - at.chi_squared)


def _gap(gram: Array, at: Residuals, pixel: Pixels, theta: Array, delta: Array, by_weights: Array) -> Array:
    """A bound on the relative duality gap of a pixel.

    ``delta`` solves the normal equations on the active terms; ``by_weights`` is the relative error of the weights.
    """
    lam, penalized = pixel.lam, pixel.regularization > 0
    # Of penalized pixels the constant alone has a conjugate that wants an exact zero.
    projected = active_terms(theta, lam, pixel.lower, pixel.upper) & (lam == 0)
    constant = jnp.arange(len(theta)) == 0
    errors = jnp.where(penalized, jnp.minimum(by_weights, 0.5), 0.0), jnp.where(penalized, ROUNDING, 0.0)

    rest = jnp.where(constant, 0.0, delta)
    wanted = (at.gradient[0] - jnp.dot(gram[0], rest)) / gram[0, 0]
    bound = relative_gap(
        gram, at.gradient, at.chi_squared, theta, lam, pixel.lower, pixel.upper, projected=projected,
        delta=jnp.where(penalized, rest + jnp.where(constant & projected, wanted, 0.0), delta), errors=errors,
    )  # fmt: skip
    return jnp.where(penalized, 1.0, TRUST) * bound


def _newton(
    gram: Array,
    turned: Array | None,
    at: Residuals,
    block: Pixels,
    theta: Array,
    s2: Array,
    sums: Interpolated,
    sweeps: Array,
    before: Array,
) -> tuple[Array, Array, Array, Array, Array]:
    """Next s2 and theta, the Newton step from theta at fixed s2, ``G^-1 (g - lam sgn theta)`` on the active terms, the
    smallest pivot of G there, and ``sum w (v . move)^2`` of the move to the optimum at this s2.

    ``turned`` is the matrix with its pixels last, where terms are few: sweeps over it take a third of the time.
    Three right-hand sides are solved for: what is left after the sweeps, what a change of s2 adds, and the step itself,
    which changes in length with the weights. ``before`` is what the last step added to ln(c + s2).
    """
    lam, bounds, centre = block.lam, (block.lower, block.upper), sums.centre

    def swept_from(theta: Array, gradient: Array, lam: Array) -> tuple[Array, Array]:
        rows = gradient, lam, *bounds, theta
        if turned is None:
            return jax.vmap(partial(coordinate_descent, sweeps=sweeps))(gram, *rows)
        theta, gradient = coordinate_descent(turned, *(array.T for array in rows), sweeps=sweeps)
        return theta.T, gradient.T

    def product(vector: Array) -> Array:
        return jnp.einsum("pde,pe->pd", gram, vector)

    move = jax.vmap(newton_move)
    swept, gradient = swept_from(theta, at.gradient, lam)
    if turned is None:
        active = active_terms(swept, lam, *bounds)
        first, _ = solve_on_active(gram, (gradient - lam * jnp.sign(swept))[:, :, None], active)
        moved = move(gram, gradient, swept, first[:, :, 0], active, lam, *bounds)
        swept, gradient = swept_from(moved, at.gradient - product(moved - theta), lam)
    active = active_terms(swept, lam, *bounds)
    pull = lam * jnp.sign(swept)
    right = jnp.stack([gradient - pull, at.cross, at.gradient - pull], axis=2)
    solution, pivot = solve_on_active(gram, right, active)
    shift, drift, whole = jnp.moveaxis(solution, 2, 0)

    # Of second order in the move, sum w^2 (v . move)^2, with the same w for all stars.
    move_by_sweeps, squares, cubes = swept - theta, *sums.powers(s2)
    bent = jnp.sum(move_by_sweeps * (at.gradient - gradient) + shift * (2 * at.gradient - gradient - pull), axis=1)
    slope = at.slope + 2 * jnp.sum(at.cross * (move_by_sweeps + shift), axis=1)
    slope -= squares / at.weight * bent
    bend = at.bend - 2 * jnp.sum(at.cross * drift, axis=1)
    new_s2 = _damped(halley_s2(s2, slope, bend, at.bend, squares, cubes, centre), s2, centre, before)

    # All weights change by about this factor, exactly for equal noise; the new objective is divided by it.
    change, more = ((centre + s2) / (centre + new_s2))[:, None], (new_s2 - s2)[:, None]
    step = shift + (1 / change - 1) * whole - more * drift
    ahead, lam = at.gradient / change - more * at.cross, lam / change
    new_theta: Array = move(gram, ahead - product(swept - theta), swept, step, active, lam, *bounds)
    if turned is None:
        new_theta, _ = swept_from(new_theta, ahead - product(new_theta - theta), lam)
    return new_s2, new_theta, whole, pivot, bent


def _damped(new_s2: Array, s2: Array, centre: Array, before: Array) -> Array:
    """The new s2, no further than the next value of the scan is, and of a long way back half at most.

    Beyond, the scan knows better: where terms come and go the curvature at one s2 says little of that at another.
    """
    ahead = jnp.log((centre + new_s2) / (centre + s2))
    back = (ahead * before < 0) & (jnp.abs(ahead) > LONG)
    most = jnp.where(back, jnp.minimum(0.5 * jnp.abs(before), LONGEST), LONGEST)
    there = jnp.maximum((centre + s2) * jnp.exp(jnp.clip(ahead, -most, most)) - centre, 0.0)
    return jnp.where(jnp.abs(ahead) > most, there, new_s2)


@jax.jit
def certified(training: Training, moments: Array, block: Pixels, point: Point) -> tuple[Array, Array]:
    """Duality gap of unpenalized pixels with the exact Gram matrix, and its smallest pivot over terms that may move.

    Where nothing is penalized the gap is the normal equations' residual in the metric of the whole Gram matrix, which
    the joint iteration knows only by interpolation. Both have shape (pixel,). The moments are those in float64.
    """

    def one(gram: Array, pixel: Pixels, point: Point) -> tuple[Array, Array]:
        bounds = pixel.lower, pixel.upper
        active = active_terms(point.theta, pixel.lam, *bounds)
        delta = solve_masked(gram, point.score, active)
        gap = relative_gap(
            gram, point.score, point.chi_squared, point.theta, pixel.lam, *bounds, projected=active, delta=delta
        )
        return gap, smallest_pivot(gram, pixel.lower < pixel.upper)

    gram = gram_matrix(training, weights(block.ivar, point.s2[:, None]) @ moments)
    return jax.vmap(one)(jax.lax.optimization_barrier(gram), block, point)
