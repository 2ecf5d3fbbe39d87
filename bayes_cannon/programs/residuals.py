r"""The program of label residuals: errors of the labels of held-out stars, given their formal covariances.

.. math:: d_n \sim t_{\nu_n}(0, S_n), \qquad S_n = A_n C_n A_n + H_n F H_n + R_n, \qquad
          A_n = \mathrm{diag}(e^{\alpha_k + \beta_k q_n}), \qquad H_n = \mathrm{diag}(e^{\gamma_k h_n}), \qquad
          \nu_n = 2 + e^{\delta q_n} (\nu - 2)

with d the inferred minus the reference labels, C the formal covariance, R the covariance of the reference labels' own
errors, q the logarithm of the S/N over its median, and h that of the star's leverage (`labelling.leverage`) over its
median. All labels are in units of their robust scatter, so that the priors mean the same for each. The labels share
what they have in common:

.. math:: \alpha_k \sim N(\mu, \tau), \quad F = \mathrm{diag}(f)\, \Omega\, \mathrm{diag}(f), \quad
          f_k \sim \mathrm{HalfNormal}(1), \quad \Omega \sim \mathrm{LKJ}(2), \quad
          \nu - 2 \sim \mathrm{Gamma}(2, 0.1), \quad \delta \sim N(0, 1)

with :math:`\mu \sim N(0, 1)`, :math:`\ln\tau \sim N(\ln 0.5, 0.5)`, the same for :math:`\gamma`, and half of these
widths for :math:`\beta`. The prior of the degrees of freedom is that of Juarez & Steel (2010), shifted so that the
variance of d exists. Every prior is proper: where scale and floor cannot be told apart, as for stars of one S/N and one
covariance, they are still sampled.

The log scores of held-out stars justify the parameters. A floor that is the same for all stars ignores that polynomials
err most at the edge of the training set, and needs much heavier tails instead. All labels share the tails, because a
bad spectrum affects all of them; the tails depend on the S/N, because they differ between stars dominated by known
noise and stars dominated by the floor. A floor that depends on the S/N did not improve the scores.
"""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints
from numpyro.distributions.util import validate_sample

from bayes_cannon.core.typing import Array, PerStar, StarLabel, StarLabelLabel

LOG_SCALE_WIDTH = 1.0
"""Width of the prior on the mean of the log scales, and twice the median of their spread."""
SLOPE_WIDTH = 0.5
"""The same for the slopes in ln S/N."""
POWER_WIDTH = 1.0
"""The same for the powers of the leverage; also the width of the prior on delta."""
SPREAD_WIDTH = 0.5
"""Width of the priors on the logarithms of the spreads. A spread of zero is ruled out: NUTS could not follow it."""
FLOOR_WIDTH = 1.0
"""Width of the prior on the floor, in units of robust scatter."""
CONCENTRATION = 2.0
"""Concentration of the LKJ prior on the floor's correlations: weak, with zero density at a perfect correlation."""
TAILS = (2.0, 0.1)
"""Shape and rate of the gamma prior on nu - 2, whose mean is 20."""


def residuals(
    covariance: StarLabelLabel,
    log_snr: PerStar,
    log_leverage: PerStar,
    difference: StarLabel | None = None,
    *,
    reference_variance: StarLabel | float = 0.0,
) -> None:
    """Residuals of all stars.

    Sites: ``mean_log_scale``, ``spread_log_scale``, ``mean_slope``, ``spread_slope``, ``mean_power`` and
    ``spread_power``, scalars; ``log_scale``, ``slope`` and ``power``, alpha, beta and gamma, shape (label,); ``width``,
    the floor f, shape (label,); ``root``, the Cholesky factor of Omega, shape (label, label), absent for one label;
    ``tails``, nu - 2, and ``tail_power``, delta; ``difference``, in plate ``star``. Deterministic: ``floor``, F, shape
    (label, label).

    Parameters
    ----------
    covariance
        Formal covariance of the inferred labels, shape (star, label, label).
    log_snr, log_leverage
        Logarithm of the S/N and of the leverage, both over their median, shape (star,).
    difference
        Inferred minus reference labels, shape (star, label), or None to draw them.
    reference_variance
        Squared errors of the reference labels, shape (star, label) or broadcast to it.

    """
    n_stars, n_labels = covariance.shape[:2]
    log_scale = _of_labels("log_scale", n_labels, LOG_SCALE_WIDTH)
    slope = _of_labels("slope", n_labels, SLOPE_WIDTH)
    power = _of_labels("power", n_labels, POWER_WIDTH)
    floor = numpyro.deterministic("floor", _floor(n_labels))
    tails = numpyro.sample("tails", dist.Gamma(*TAILS))
    tail_power = numpyro.sample("tail_power", dist.Normal(0.0, POWER_WIDTH))

    noise = jnp.exp(log_scale + slope * jnp.asarray(log_snr)[:, None])
    reach = jnp.exp(power * jnp.asarray(log_leverage)[:, None])
    own = jnp.broadcast_to(jnp.asarray(reference_variance), noise.shape)
    total = noise[:, :, None] * jnp.asarray(covariance) * noise[:, None, :]
    total = total + reach[:, :, None] * floor * reach[:, None, :] + own[:, :, None] * jnp.eye(n_labels)
    nu = 2.0 + tails * jnp.exp(tail_power * jnp.asarray(log_snr))
    with numpyro.plate("star", n_stars):
        # The matrices are positive definite by construction; a check would put an eigendecomposition into each trace.
        numpyro.sample("difference", CorrelatedStudentT(nu, total, validate_args=False), obs=difference)


class CorrelatedStudentT(dist.Distribution):
    r"""Multivariate Student-t distribution about zero, with a scale matrix S for each star.

    .. math:: \ln p(d) = \ln\Gamma\frac{\nu + K}{2} - \ln\Gamma\frac\nu2 - \frac K2 \ln(\nu\pi)
              - \frac12 \ln\det S - \frac{\nu + K}{2} \ln\left(1 + \frac{d^T S^{-1} d}{\nu}\right)

    NumPyro's own factors one small matrix after the other; this one eliminates a label of all stars at a time, which is
    several times faster.

    Parameters
    ----------
    df
        Degrees of freedom nu, shape (star,).
    matrix
        Scale matrices, symmetric and positive definite, shape (star, label, label).

    """

    arg_constraints = {"df": constraints.positive, "matrix": constraints.positive_definite}  # noqa: RUF012
    support = constraints.real_vector

    def __init__(self, df: Array, matrix: Array, *, validate_args: bool | None = None):
        self.df, self.matrix = df, matrix
        super().__init__(matrix.shape[:1], matrix.shape[1:2], validate_args=validate_args)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draws, shape sample_shape + (star, label)."""
        one, other = jax.random.split(key)
        normal = jax.random.normal(one, self.shape(sample_shape))
        correlated = jnp.einsum("nkl,...nl->...nk", jnp.linalg.cholesky(self.matrix), normal)
        chi_squared = 2 * jax.random.gamma(other, self.df / 2, sample_shape + self.batch_shape)
        return correlated * jnp.sqrt(self.df / chi_squared)[..., None]

    @validate_sample
    def log_prob(self, value: Array) -> Array:
        """Log density of values (star, label), shape (star,)."""
        n_labels = self.event_shape[0]
        log_det, squared = _log_det_and_distance(self.matrix, value)
        constant = (
            jax.lax.lgamma((self.df + n_labels) / 2)
            - jax.lax.lgamma(self.df / 2)
            - n_labels / 2 * jnp.log(self.df * jnp.pi)
        )
        return constant - log_det / 2 - (self.df + n_labels) / 2 * jnp.log1p(squared / self.df)


@jax.custom_vjp
def _log_det_and_distance(matrix: Array, value: Array) -> tuple[Array, Array]:
    """Ln det S and d^T S^-1 d of each star, shape (star,), with derivatives that are written down.

    The inverse gives both derivatives, so that no step of the elimination is differentiated, which takes several times
    as long to compile and to run. They exist in reverse only: a Hessian comes from differences of gradients.
    """
    return _forward(matrix, value)[0]


def _forward(matrix: Array, value: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Both, and what their derivatives need: S^-1 and S^-1 d, the star axis last.

    Gauss-Jordan elimination without pivots, for which positive definite matrices need none.
    """
    rest, d = jnp.moveaxis(matrix, 0, -1), value.T
    log_det = jnp.zeros(len(value))
    labels = jnp.arange(len(d))
    for k in range(len(d)):
        pivot, this = rest[k, k], (labels == k)[:, None]
        log_det += jnp.log(pivot)
        row, column = rest[k] / pivot, jnp.where(this, 0.0, rest[:, k])
        rest = jnp.where(this[:, None], row, rest - column[:, None] * row)
        rest = jnp.where(this[None], jnp.where(this, 1.0, -column)[:, None] / pivot, rest)
    pulled = jnp.sum(rest * d, axis=1)
    return (log_det, jnp.sum(pulled * d, axis=0)), (rest, pulled)


def _backward(kept: tuple[Array, Array], by: tuple[Array, Array]) -> tuple[Array, Array]:
    (inverse, pulled), (by_log_det, by_distance) = kept, by
    by_matrix = by_log_det * inverse - by_distance * pulled[:, None] * pulled
    return jnp.moveaxis(by_matrix, -1, 0), (2 * by_distance * pulled).T


_log_det_and_distance.defvjp(_forward, _backward)


def _of_labels(name: str, n_labels: int, width: float) -> Array:
    """One value a label, drawn around a common mean, centred: a thousand stars know each value far better than that."""
    mean = numpyro.sample(f"mean_{name}", dist.Normal(0.0, width))
    spread = numpyro.sample(f"spread_{name}", dist.LogNormal(jnp.log(width / 2), SPREAD_WIDTH))
    return numpyro.sample(name, dist.Normal(mean, spread).expand([n_labels]).to_event(1))


def _floor(n_labels: int) -> Array:
    width = numpyro.sample("width", dist.HalfNormal(FLOOR_WIDTH).expand([n_labels]).to_event(1))
    if n_labels == 1:
        return width[:, None] ** 2
    root = width[:, None] * numpyro.sample("root", dist.LKJCholesky(n_labels, CONCENTRATION))
    return root @ root.T
