"""The search for the optima of a block of pixels, at one regularization strength after the other, in one program.

At each strength the scan says where the lowest minimum of the profile is, and the joint iteration goes there from it.
To call both from Python for each strength would cost a third of the time again.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bayes_cannon.core.typing import Array
from bayes_cannon.training.profile.blocks import Pixels, Training
from bayes_cannon.training.profile.gram_interpolation import Interpolated
from bayes_cannon.training.profile.joint_newton import MAX_STEPS, Point, Tolerances, joint_newton
from bayes_cannon.training.profile.scan import MARGIN, Grid, Minima, scan

INTERPOLATION_ERROR = 0.02
"""Relative error of the interpolated weights above which a pixel is scanned with exact ones."""


class Begin(NamedTuple):
    """Where a search begins.

    Attributes
    ----------
    theta, s2
        Shape (pixel, term) and (pixel,).
    scanned
        Whether the profile is scanned first, which makes of theta the start of the scan only, and of s2 nothing.

    """

    theta: Array
    s2: Array
    scanned: bool | Array


class Found(NamedTuple):
    """What a search returns; each array has one more axis at its front, of the regularization strengths.

    Attributes
    ----------
    end
        Where it ended.
    rival_theta, rival_s2, is_rival
        The second minimum of the scan, and whether it might be the lower one, shape (pixel, term), (pixel,), (pixel,).
    hard
        Whether the interpolation or the iteration was lost, so that exact matrices are wanted, shape (pixel,).

    """

    end: Point
    rival_theta: Array
    rival_s2: Array
    is_rival: Array
    hard: Array


@jax.jit
def search(
    training: Training,
    block: Pixels,
    sums: Interpolated,
    grid: Grid,
    begin: Begin,
    strengths: Array,
    n_strengths: int | Array,
    tolerances: Tolerances,
    leave: int | Array,
    interpolated: int | Array,
) -> Found:
    """Optima at each strength, shape (strength, pixel), from those at the one before.

    Parameters
    ----------
    training, block, sums, grid, begin
        The pixels; the block's own regularization does not matter.
    strengths, n_strengths
        Lambda, and how many rows of it are wanted; of others nothing is said.
    tolerances, leave, interpolated
        As for `training.profile.joint_newton.joint_newton`.

    """

    def at(theta: Array, thetas: Array, lam: Array) -> tuple[Found, Array]:
        here = block._replace(regularization=lam)
        low, thetas = jax.lax.cond(
            begin.scanned,
            lambda theta, thetas: scan(training, here, sums, grid, theta, thetas),
            lambda theta, thetas: (_only(theta, begin.s2), thetas),
            *(theta, thetas),
        )
        start = low.theta[:, 0], low.s2[:, 0]
        end = joint_newton(training, here, sums, *start, tolerances, leave, interpolated)
        ahead = jnp.isfinite(end.next_s2) & jnp.isfinite(end.next_theta).all(axis=1)
        lost = ~end.done & ((end.steps == MAX_STEPS) | ~ahead)
        hard = lost | (end.mismatch > MARGIN * sums.n_stars) | (sums.error > INTERPOLATION_ERROR)
        return Found(end, low.theta[:, 1], low.s2[:, 1], jnp.isfinite(low.objective[:, 1]) & ~hard, hard), thetas

    def step(carry: tuple[Found, Array, Array], point: tuple[Array, Array]) -> tuple[tuple, Found]:
        (last, thetas, before), (number, lam) = carry, point
        stays = (number >= n_strengths) | ((number > 0) & _stays(last, before, lam))
        # What was lost at one strength may be found at the next.
        theta = _known(jnp.where(number == 0, begin.theta, last.end.theta))
        found, thetas = jax.lax.cond(stays, lambda *_: (last, thetas), at, theta, _known(thetas), lam)
        return (found, thetas, lam), found

    thetas = jnp.zeros((len(grid.s2), *begin.theta.T.shape), grid.square.dtype)
    shapes, _ = jax.eval_shape(at, begin.theta, thetas, strengths[0])
    nothing = jax.tree.map(lambda array: jnp.zeros(array.shape, array.dtype), shapes)
    return jax.lax.scan(step, (nothing, thetas, strengths[0]), (jnp.arange(len(strengths)), strengths))[1]


def _known(array: Array) -> jax.Array:
    """Zero in place of what is not finite."""
    return jnp.where(jnp.isfinite(array), array, 0.0)


def _only(theta: Array, s2: Array) -> Minima:
    """The given place as the only minimum there is."""
    twice = jnp.stack([theta, theta], axis=1), jnp.stack([s2, s2], axis=1)
    return Minima(twice[1], jnp.stack([jnp.zeros_like(s2), jnp.full_like(s2, jnp.inf)], axis=1), twice[0])


def _stays(last: Found, before: Array, lam: Array) -> jax.Array:
    """Whether the optima stay those of a stronger penalty, because every penalized term is zero already.

    The profile at a stronger penalty is nowhere lower, and where these terms are zero it is the same; the gap there can
    only shrink.
    """
    settled = jnp.all(last.end.done & ~last.is_rival & ~last.hard)
    return settled & jnp.all((before > 0) & (lam >= before)) & ~jnp.any(last.end.theta[:, 1:])
