r"""Newton's method on theta and Halley's on s^2, together, with the exact gradient and the interpolated Gram matrix.

The first steps are on the interpolated problem of `gram_interpolation` and cost no pass over the data. After them the
residuals, and with them the gradients by theta and s^2, come from the data; the curvature by theta is that of the
interpolated Gram matrix, which is accurate to a thousandth, so that every step gains about three digits without another
pass for a Gram matrix. On the active terms A the step solves, with
:math:`g = \sum w r v - \lambda\,\mathrm{sgn}\,\theta` and :math:`c = \sum w^2 r v`,

.. math:: \begin{pmatrix} 2 G_{AA} & 2 c_A \\ 2 c_A^T & q'' \end{pmatrix}
          \begin{pmatrix} \delta\theta \\ \delta s^2 \end{pmatrix} = \begin{pmatrix} 2 g_A \\ -q' \end{pmatrix},
          \qquad q' = \sum w (1 - w r^2), \quad q'' = \sum w^2 (2 w r^2 - 1)

up to the first term that would change its sign; q' is that after the step in theta, to second order, and the step in
s^2 is corrected by the third derivative (`halley`), without which most pixels would need another pass for s^2 alone.
A few sweeps of coordinate descent find the active set, so that a step costs one factorization; with many terms there
are sweeps after the step, too, and a second factorization.

The certificate belongs to the point that is returned, and is made of the exact g and the interpolated Gram matrix. The
relative error of the interpolated weights is bounded (`Interpolated.error_bound`). Where terms are penalized, the
largest effect of this error and of rounding is included in the gap (`certificate.relative_gap`). Where nothing is
penalized, the gap is :math:`g^T G^{-1} g` relative to chi^2; as the interpolated matrix lies between multiples of G,
twice the interpolated gap is a bound. Where the error is large, a matrix nearly singular or a term bounded, the gap is
computed with the exact G (`exact_certificate`).
"""

from functools import partial
from operator import mul
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bayes_cannon.core.likelihood import weights
from bayes_cannon.core.typing import Array, PerPixel, PerPixels, PixelsTerm, PixelTerm, PixelTermTerm, StarMoment
from bayes_cannon.execution.finished import finished
from bayes_cannon.training.certificate import active_terms, gap_scale, relative_gap, smallest_pivot, solve_masked
from bayes_cannon.training.lasso import SWEEPS, coordinate_descent, newton_move
from bayes_cannon.training.profile.active_set import solve_on_active
from bayes_cannon.training.profile.blocks import Pixels, Training, gram_matrix
from bayes_cannon.training.profile.gram_interpolation import Interpolated, folded
from bayes_cannon.training.profile.halley import halley_s2
from bayes_cannon.training.profile.residuals import ResidualSums, interpolated_sums, residual_sums
from bayes_cannon.training.profile.results import PixelFit
from bayes_cannon.training.profile.settings import SETTINGS, Tolerances


class Schedule(NamedTuple):
    """When the iteration of a block ends, and what it begins with; arguments of the compiled programs.

    Attributes
    ----------
    tolerances
        When a pixel is done.
    max_unfinished
        The iteration of a block ends when no more of its pixels than this are unfinished, since a step takes as long
        for one pixel as for all.
    interpolated_steps
        Upper bound on the first steps, which are on the interpolated problem and cost no pass over the data.

    """

    tolerances: Tolerances
    max_unfinished: int | Array
    interpolated_steps: int | Array


class JointState(NamedTuple):
    """State of the joint iteration of a block; under vmap, of one pixel.

    Attributes
    ----------
    fit
        Where it stands. The objective is without its logarithms during the iteration. The pivot is that of the
        interpolated Gram matrix of the active terms, and zero at the end where the gap of a pixel without a penalty
        needs the exact matrix.
    next_theta, next_s2
        Where the next step goes, shape (pixel, term) and (pixel,).
    chi_squared, score
        ``sum w r^2``, shape (pixel,), and ``sum w r v``, shape (pixel, term).
    mismatch
        Difference between the interpolated chi^2 and the exact one, shape (pixel,).

    """

    fit: PixelFit
    next_theta: PixelsTerm
    next_s2: PerPixels
    chi_squared: PerPixels
    score: PixelsTerm
    mismatch: PerPixels


class _Step(NamedTuple):
    """A Newton step: where it goes, and what the certificate needs of it.

    ``newton`` is the step of theta at fixed s2, ``G^-1 (g - lam sgn theta)`` on the active terms; ``decrement`` is
    ``sum w (v . move)^2`` of the move to the optimum at this s2.
    """

    theta: Array
    s2: Array
    newton: Array
    decrement: Array
    pivot: Array


@jax.jit
def joint_newton(
    training: Training, block: Pixels, sums: Interpolated, theta: PixelTerm, s2: PerPixel, schedule: Schedule
) -> JointState:
    """Joint optima of a block, starting from theta, shape (pixel, term), and s2, shape (pixel,)."""
    tolerances, max_unfinished, interpolated_steps = schedule
    penalized = block.regularization > 0
    # Without penalties and bounds there is no active set to look for, and Newton's step suffices.
    free = jnp.all((jnp.isneginf(block.lower) & jnp.isposinf(block.upper)) | (block.lower == block.upper), axis=1)
    sweeps = jnp.where(jnp.all(free & ~penalized), 0, SWEEPS)
    # With many terms a step looks for the active set three times, because more passes over the data would cost more.
    many = len(training.pairs) >= SETTINGS.many_terms

    def exact_sums(theta: Array, s2: Array) -> ResidualSums:
        return jax.vmap(partial(residual_sums, training))(block, theta, s2)

    def step(carry: tuple[jax.Array, JointState]) -> tuple[jax.Array, JointState]:
        steps_left, before = carry
        s2, theta, exact = before.next_s2, before.next_theta, steps_left == 0
        moments, *others = (array.astype(theta.dtype) for array in sums.at(s2))
        at = jax.lax.cond(exact, exact_sums, partial(interpolated_sums, training, sums), theta, s2)
        at, gram = finished((at, gram_matrix(training, moments.T)))
        gram_last = None if many else finished(moments[training.pairs])
        last_step = jnp.log((sums.noise_scale + s2) / (sums.noise_scale + before.fit.s2))
        ahead = _newton(gram, gram_last, at, block, theta, s2, sums, sweeps, last_step)
        known = gram, at, block, theta, ahead, sums.error_bound(s2), others, sums.reference.T
        gap, expected_gap, mismatch = jax.lax.cond(exact, _checks, lambda *_: (infinite, infinite, 0 * s2), *known)
        certain = (gap <= tolerances.gap) & (expected_gap <= tolerances.expected_gap)
        stationary = jnp.abs(at.s2_gradient) <= tolerances.profile_gradient * at.weight
        stationary |= (s2 == 0) & (at.s2_gradient >= 0)
        fit = PixelFit(
            theta=theta, s2=s2, objective=at.chi_squared + 2 * jnp.sum(block.lam * jnp.abs(theta), axis=1),
            duality_gap=gap, profile_gradient=at.s2_gradient / at.weight, iterations=before.fit.iterations + exact,
            pivot=ahead.pivot, done=stationary & jnp.where(penalized, certain, gap <= tolerances.unpenalized_gap),
        )  # fmt: skip
        after = JointState(fit, ahead.theta, ahead.s2, at.chi_squared, at.gradient, mismatch)
        after = jax.tree.map(lambda old, new: jnp.where(_along(before.fit.done, new), old, new), before, after)
        moved = jnp.abs(jnp.log((sums.noise_scale + ahead.s2) / (sums.noise_scale + s2)))
        unsettled = moved > SETTINGS.settled_scatter
        unsettled |= ahead.decrement > SETTINGS.settled_theta * at.chi_squared
        return jnp.where(jnp.sum(unsettled) > max_unfinished, jnp.maximum(steps_left - 1, 0), 0), after

    def goes_on(carry: tuple[jax.Array, JointState]) -> Array:
        fit = carry[1].fit
        return jnp.sum(~fit.done & (fit.iterations < SETTINGS.max_steps)) > max_unfinished

    infinite, none = jnp.full_like(s2, jnp.inf), jnp.zeros(len(s2), int)
    start = PixelFit(theta, s2, infinite, infinite, infinite, none, infinite, none > 0)
    first = JointState(start, theta, s2, infinite, theta, 0 * s2)
    _, last = jax.lax.while_loop(goes_on, step, (jnp.asarray(interpolated_steps), first))
    fit = last.fit
    trusted = free & (sums.error_bound(fit.s2) < SETTINGS.trusted_error) & (fit.pivot > SETTINGS.trusted_pivot)
    objective = fit.objective + _log_ratios(block.ivar, fit.s2, sums.noise_scale) - sums.log_ivar
    return last._replace(fit=fit._replace(objective=objective, pivot=jnp.where(trusted, fit.pivot, 0.0)))


def _log_ratios(ivar: Array, s2: Array, noise_scale: Array) -> Array:
    """``sum_n ln(1 + ivar_n s2)`` of every pixel, from the logarithms of products of eight, scaled by their mean."""
    unit = 1 + s2 / noise_scale
    products = folded(mul, (1 + ivar * s2[:, None]) / unit[:, None])
    return jnp.sum(jnp.log(products), axis=1) + ivar.shape[1] * jnp.log(unit)


def _along(mask: Array, array: Array) -> Array:
    """The mask of pixels, shaped to broadcast against an array whose first axis is the pixel."""
    return mask.reshape(-1, *[1] * (array.ndim - 1))


def _checks(
    gram: Array,
    at: ResidualSums,
    block: Pixels,
    theta: Array,
    step: _Step,
    weight_error: Array,
    others: list[Array],
    reference: Array,
) -> tuple[Array, Array, Array]:
    """Bound on the gap of every pixel, its expected gap, and the difference of the interpolated chi^2 from the exact.

    The objective of a quadratic falls by the Newton decrement, which is half of its directional derivative.
    """
    gap = jax.vmap(_gap)(gram, at, block, theta, step.newton, weight_error)
    expected_gap = step.decrement / jax.vmap(gap_scale)(gram, at.gradient, at.chi_squared, theta, block.lam)
    (right, square), delta = others, theta - reference
    interpolated = square - jnp.sum((2 * right.T - jnp.einsum("pde,pe->pd", gram, delta)) * delta, axis=1)
    return gap, expected_gap, jnp.abs(interpolated - at.chi_squared)


def _gap(gram: Array, at: ResidualSums, pixel: Pixels, theta: Array, newton: Array, weight_error: Array) -> Array:
    """Bound on the relative duality gap of a pixel, from its Newton step and the relative error of the weights."""
    lam, penalized = pixel.lam, pixel.regularization > 0
    # Of the terms of penalized pixels only the constant has a conjugate that requires an exact zero.
    projected = active_terms(theta, lam, pixel.lower, pixel.upper) & (lam == 0)
    constant = jnp.arange(len(theta)) == 0
    rounding = SETTINGS.float32_rounding
    errors = jnp.where(penalized, jnp.minimum(weight_error, 0.5), 0.0), jnp.where(penalized, rounding, 0.0)

    rest = jnp.where(constant, 0.0, newton)
    optimum = (at.gradient[0] - jnp.dot(gram[0], rest)) / gram[0, 0]
    bound = relative_gap(
        gram, at.gradient, at.chi_squared, theta, lam, pixel.lower, pixel.upper, projected=projected,
        delta=jnp.where(penalized, rest + jnp.where(constant & projected, optimum, 0.0), newton), errors=errors,
    )  # fmt: skip
    return jnp.where(penalized, 1.0, SETTINGS.gap_factor) * bound


def _newton(
    gram: PixelTermTerm,
    gram_last: Array | None,
    at: ResidualSums,
    block: Pixels,
    theta: PixelTerm,
    s2: PerPixel,
    sums: Interpolated,
    sweeps: Array,
    last_step: PerPixel,
) -> _Step:
    """The next step.

    ``gram_last`` is the matrix with its pixels last, which makes sweeps three times as fast; None if terms are many.
    Three right-hand sides are solved for: what the sweeps leave, the effect of a change of s2, and the step itself,
    whose length changes with the weights. ``last_step`` is the last change of ln(c + s2).
    """
    lam, bounds, noise_scale = block.lam, (block.lower, block.upper), sums.noise_scale

    def swept_from(theta: Array, gradient: Array, lam: Array) -> tuple[Array, Array]:
        rows = gradient, lam, *bounds, theta
        if gram_last is None:
            return jax.vmap(partial(coordinate_descent, sweeps=sweeps))(gram, *rows)
        theta, gradient = coordinate_descent(gram_last, *(array.T for array in rows), sweeps=sweeps)
        return theta.T, gradient.T

    def product(vector: Array) -> Array:
        return jnp.einsum("pde,pe->pd", gram, vector)

    move = jax.vmap(newton_move)
    swept, gradient = swept_from(theta, at.gradient, lam)
    if gram_last is None:
        active = active_terms(swept, lam, *bounds)
        first, _ = solve_on_active(gram, (gradient - lam * jnp.sign(swept))[:, :, None], active)
        moved = move(gram, gradient, swept, first[:, :, 0], active, lam, *bounds)
        swept, gradient = swept_from(moved, at.gradient - product(moved - theta), lam)
    active = active_terms(swept, lam, *bounds)
    penalty = lam * jnp.sign(swept)
    right = jnp.stack([gradient - penalty, at.cross, at.gradient - penalty], axis=2)
    solution, pivot = solve_on_active(gram, right, active)
    shift, drift, newton = jnp.moveaxis(solution, 2, 0)

    # To second order in the move: sum w^2 (v . move)^2, with w taken equal for all stars.
    by_sweeps, sum_w2, sum_w3 = swept - theta, *sums.powers(s2)
    decrement = jnp.sum(by_sweeps * (at.gradient - gradient) + shift * (2 * at.gradient - gradient - penalty), axis=1)
    s2_gradient = at.s2_gradient + 2 * jnp.sum(at.cross * (by_sweeps + shift), axis=1)
    s2_gradient -= sum_w2 / at.weight * decrement
    curvature = at.s2_curvature - 2 * jnp.sum(at.cross * drift, axis=1)
    proposal = halley_s2(s2, s2_gradient, curvature, at.s2_curvature, sum_w2, sum_w3, noise_scale)
    new_s2 = _damped(proposal, s2, noise_scale, last_step)

    # All weights change by about this factor, exactly for equal noise; the new objective is divided by it.
    change, more = ((noise_scale + s2) / (noise_scale + new_s2))[:, None], (new_s2 - s2)[:, None]
    step = shift + (1 / change - 1) * newton - more * drift
    ahead, lam = at.gradient / change - more * at.cross, lam / change
    new_theta: Array = move(gram, ahead - product(swept - theta), swept, step, active, lam, *bounds)
    if gram_last is None:
        new_theta, _ = swept_from(new_theta, ahead - product(new_theta - theta), lam)
    return _Step(new_theta, new_s2, newton, decrement, pivot)


def _damped(new_s2: Array, s2: Array, noise_scale: Array, last_step: Array) -> Array:
    """The new s2, within `max_step` in ln(c + s2); a long step back is at most half of the last step.

    The longest step is the spacing of the scan, which knows better beyond. Where terms enter and leave, the curvature
    at one s2 says little of that at another, and Newton's steps may oscillate.
    """
    step, max_step = jnp.log((noise_scale + new_s2) / (noise_scale + s2)), SETTINGS.max_step
    back = (step * last_step < 0) & (jnp.abs(step) > SETTINGS.oscillation_step)
    longest = jnp.where(back, jnp.minimum(0.5 * jnp.abs(last_step), max_step), max_step)
    shorter = jnp.maximum((noise_scale + s2) * jnp.exp(jnp.clip(step, -longest, longest)) - noise_scale, 0.0)
    return jnp.where(jnp.abs(step) > longest, shorter, new_s2)


@jax.jit
def exact_certificate(
    training: Training, moments: StarMoment, block: Pixels, state: JointState
) -> tuple[PerPixel, PerPixel]:
    """Duality gap of unpenalized pixels with the exact Gram matrix, and its smallest pivot over terms that may move.

    Where nothing is penalized the gap is the residual of the normal equations in the metric of the whole Gram matrix,
    which the joint iteration knows by interpolation only. Both have shape (pixel,). The moments are in float64.
    """

    def one(gram: Array, pixel: Pixels, state: JointState) -> tuple[Array, Array]:
        bounds, theta = (pixel.lower, pixel.upper), state.fit.theta
        active = active_terms(theta, pixel.lam, *bounds)
        delta = solve_masked(gram, state.score, active)
        gap = relative_gap(
            gram, state.score, state.chi_squared, theta, pixel.lam, *bounds, projected=active, delta=delta
        )
        return gap, smallest_pivot(gram, pixel.lower < pixel.upper)

    gram = gram_matrix(training, weights(block.ivar, state.fit.s2[:, None]) @ moments)
    return jax.vmap(one)(finished(gram), block, state)
