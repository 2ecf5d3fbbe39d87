r"""The multivariate Student-t distribution, of which the normal one is the limit of infinite degrees of freedom."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import gammaln

from bayes_cannon.core.typing import Array

SMALLEST_NU, LARGEST_NU = 0.5, 1e6
"""Range of fitted degrees of freedom; beyond the larger the distribution counts as normal."""


def log_density(chi_squared: Array, log_det: Array | float, count: np.ndarray | float, nu: np.ndarray | float) -> Array:
    r"""Natural logarithm of the multivariate Student-t density, or of the normal one where nu is infinite.

    .. math:: \ln \frac{\Gamma((\nu + P)/2)}{\Gamma(\nu/2)} - \frac P2 \ln(\nu \pi) - \frac12 \ln\det C
              - \frac{\nu + P}{2} \ln\left(1 + \frac{\chi^2}{\nu}\right)

    Parameters
    ----------
    chi_squared
        ``r' C^-1 r`` of each point, a NumPy or (traced) JAX array of any shape.
    log_det
        ``ln det C``, of that shape or the same for all.
    count
        Number of dimensions P, of that shape or the same for all.
    nu
        Degrees of freedom, of that shape or the same for all.

    Returns
    -------
    density
        Of the shape of ``chi_squared``.

    """
    xp = jnp if isinstance(chi_squared, jax.Array) else np
    heavy = np.isfinite(nu)
    finite = np.where(heavy, nu, 1.0)
    constant = gammaln(0.5 * (finite + count)) - gammaln(0.5 * finite) - 0.5 * count * np.log(finite * np.pi)
    student = constant - 0.5 * (finite + count) * xp.log1p(chi_squared / finite)
    normal = -0.5 * (chi_squared + count * np.log(2 * np.pi))
    return xp.where(heavy, student, normal) - 0.5 * log_det


def fitted_nu(chi_squared: np.ndarray, log_det: np.ndarray, count: np.ndarray) -> float:
    """Degrees of freedom that maximize the likelihood of all points; infinite beyond `LARGEST_NU`.

    Parameters as for `log_density`, shape (star,) each.
    """

    def loss(log_nu: float) -> float:
        return -float(np.sum(log_density(chi_squared, log_det, count, np.exp(log_nu))))

    best = minimize_scalar(
        loss, bounds=(np.log(SMALLEST_NU), np.log(LARGEST_NU)), method="bounded", options={"xatol": 1e-8}
    )
    normal = -float(np.sum(log_density(chi_squared, log_det, count, np.inf)))
    return np.inf if normal <= best.fun else float(np.exp(best.x))
