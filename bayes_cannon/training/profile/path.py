"""Optima of a block of pixels at one regularization strength after the other, in one compiled program.

At each strength the scan locates the lowest minimum of the profile, and the joint iteration solves for it. Calling both
from Python at each strength would take a third longer.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bayes_cannon.core.typing import Array, PerPixel, PixelTerm, StrengthPixel
from bayes_cannon.training.profile.blocks import Pixels, Training
from bayes_cannon.training.profile.gram_interpolation import Interpolated
from bayes_cannon.training.profile.joint_newton import JointState, Schedule, joint_newton
from bayes_cannon.training.profile.scan import Grid, Minima, scan
from bayes_cannon.training.profile.settings import SETTINGS


class SearchResult(NamedTuple):
    """Result of a search; every array has one more axis in front, the regularization strength.

    Attributes
    ----------
    end
        Where it ended.
    second, third
        The second and third minimum of the scan, shape (pixel,) and (pixel, term); the objective is finite where it may
        be the lowest one.
    needs_exact_gram
        Whether the interpolation or the iteration failed, shape (pixel,).

    """

    end: JointState
    second: Minima
    third: Minima
    needs_exact_gram: Array


type _Carry = tuple[SearchResult, jax.Array, jax.Array]
"""The last result, theta on the grid of its scan, and its strength."""


@jax.jit
def search(
    training: Training,
    block: Pixels,
    sums: Interpolated,
    grid: Grid,
    theta: PixelTerm,
    s2: PerPixel,
    strengths: StrengthPixel,
    schedule: Schedule,
) -> SearchResult:
    """Optima at each strength, starting from those at the one before.

    Parameters
    ----------
    training, block, sums, grid
        The pixels; the block's own regularization does not matter.
    theta, s2
        Where to start, shape (pixel, term) and (pixel,). If s2 is NaN, the profile is scanned first at each strength,
        and theta is only the start of the scan.
    strengths
        Lambda, shape (strength, pixel). Rows of NaN at the end are not searched, so that paths of similar lengths share
        a program; their results mean nothing.
    schedule
        As for `training.profile.joint_newton.joint_newton`.

    """
    least = jnp.min(jnp.where(block.ivar > 0, block.ivar, jnp.inf), axis=1)
    uneven = jnp.max(block.ivar, axis=1) > SETTINGS.even_noise * least
    few = uneven & (sums.n_stars <= SETTINGS.few_stars)

    def scanned(here: Pixels, theta: Array, warm: Array) -> tuple[Minima, Array]:
        return scan(training, here, sums, grid, theta, warm)

    def given(_: Pixels, theta: Array, warm: Array) -> tuple[Minima, Array]:
        thrice = jnp.stack([s2] * 3, axis=1), jnp.stack([theta] * 3, axis=1)
        infinite, none = jnp.full_like(s2, jnp.inf), jnp.zeros(len(s2), int)
        minima = Minima(thrice[0], jnp.stack([jnp.zeros_like(s2), infinite, infinite], 1), thrice[1], none, infinite)
        return minima, warm

    def at(theta: Array, warm: Array, lam: Array) -> tuple[SearchResult, jax.Array]:
        here = block._replace(regularization=lam)
        minima, thetas = jax.lax.cond(jnp.isnan(s2).all(), scanned, given, here, theta, warm)
        lowest, second, third = (minima.rank(k) for k in range(3))
        end = joint_newton(training, here, sums, lowest.theta, lowest.s2, schedule)
        ahead = jnp.isfinite(end.next_s2) & jnp.isfinite(end.next_theta).all(axis=1)
        failed = ~end.fit.done & ((end.fit.iterations == SETTINGS.max_steps) | ~ahead)
        misled = end.mismatch > SETTINGS.largest_mismatch * sums.n_stars
        needs_exact_gram = failed | misled | few | (sums.error > SETTINGS.max_interpolation_error)
        second, third = (
            one._replace(objective=jnp.where(needs_exact_gram, jnp.inf, one.objective)) for one in (second, third)
        )
        return SearchResult(end, second, third, needs_exact_gram), jnp.asarray(thetas)

    def step(carry: _Carry, lam: jax.Array) -> tuple[_Carry, SearchResult]:
        last, thetas, before = carry
        # A pixel that failed at one strength may succeed at the next, so that NaN must not propagate.
        start, warm = (jnp.where(jnp.isfinite(array), array, 0.0) for array in (last.end.fit.theta, thetas))
        same = jnp.isnan(lam).any() | _is_same(last, before, lam)
        result, thetas = jax.lax.cond(same, lambda *_: (last, thetas), at, start, warm, lam)
        return (result, thetas, lam), result

    thetas = jnp.zeros((len(grid.s2), *theta.T.shape), grid.square.dtype)
    shapes, _ = jax.eval_shape(at, theta, thetas, strengths[0])
    nothing = jax.tree.map(lambda array: jnp.zeros(array.shape, array.dtype), shapes)
    first = nothing._replace(end=nothing.end._replace(fit=nothing.end.fit._replace(theta=theta)))
    none = jnp.full_like(strengths[0], jnp.nan)
    return jax.lax.scan(step, (first, thetas, none), jnp.asarray(strengths))[1]


def _is_same(last: SearchResult, before: Array, lam: Array) -> jax.Array:
    """Whether the optima stay those of the strength before, because every penalized term is zero there.

    The profile at a stronger penalty is nowhere lower, and where these terms are zero it is the same; the gap there can
    only shrink.
    """
    settled = jnp.all(last.end.fit.done & ~jnp.isfinite(last.second.objective) & ~last.needs_exact_gram)
    return settled & jnp.all((before > 0) & (lam >= before)) & ~jnp.any(last.end.fit.theta[:, 1:])
