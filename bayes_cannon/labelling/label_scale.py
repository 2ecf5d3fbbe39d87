r"""Labels where the covariance of a spectrum depends on them: its likelihood as a function of one polynomial still.

A covariance :math:`c(x)\, C` with :math:`c = e^{\beta \cdot x}` (`scatter.star_scale`) leaves chi^2 by C the polynomial
p of the labels that it is without. With n coordinates the likelihood of labels is

.. math:: -2 \ln L(x) = n \ln c(x) + (\nu + n) \ln\left(1 + \frac{p(x)}{\nu\, c(x)}\right)
          \quad\text{or}\quad n \ln c(x) + \frac{p(x)}{c(x)}

with heavy or normal tails, which in both cases is that of c = 1 with

.. math:: F(x) = \nu \left(e^{\kappa \beta \cdot x} - 1\right) + e^{-\gamma \beta \cdot x}\, p(x), \qquad
          \gamma = \frac{\nu}{\nu + n}, \quad \kappa = 1 - \gamma

in place of chi^2, the first term being :math:`n \beta \cdot x` with normal tails. So F is what the search minimizes and
what draws and integrals read; the pixels are still read once, and an evaluation costs one exponential more: labels of
1,862 Gaia XP spectra by a quadratic model took 1.4 times as long, their compilation included. The whole
covariance is scaled, across its leading directions too, and n is what chi^2 typically is, which counts those as far as
there are residuals in them (`scatter.covariance_tables`). A number with a huge error is scaled with the others.

The covariance of the labels has, beside the information of the spectrum over c, that of its length on c, which is
:math:`\beta \beta^T n \nu / (2 (\nu + n + 2))`, or :math:`\beta \beta^T n / 2`.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from bayes_cannon.core.typing import Array, PerStar, StarLabel, StarMoment
from bayes_cannon.labelling.polynomial import Point, Polynomials, PolynomialTables


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LabelScale:
    """The beta, shape (label,), and nu of a model, and the n of each star, shape (star,), or of one."""

    beta: Array
    nu: Array | float
    count: PerStar

    @property
    def kappa(self) -> Array:
        """Of the module's formula, shape (star,); zero with normal tails."""
        heavy = jnp.isfinite(self.nu)
        safe = jnp.where(heavy, self.nu, 1.0)
        return jnp.where(heavy, self.count / (safe + self.count), 0.0)

    def exponent(self, x: Array) -> jax.Array:
        """``beta . x`` of scaled labels, shape (..., label)."""
        return jnp.asarray(x @ self.beta)

    def rise(self, exponent: Array) -> tuple[jax.Array, jax.Array]:
        """The first term of F, and its derivative by ``beta . x``."""
        kappa = self.kappa
        flat = kappa <= 0
        growing = jnp.where(flat, exponent, jnp.expm1(kappa * exponent) / jnp.where(flat, 1.0, kappa))
        factor = jnp.asarray(self.count * (1 - kappa))
        return factor * growing, factor * jnp.exp(kappa * exponent)

    def objective(self, chi_squared: Array, exponent: Array) -> jax.Array:
        """F from p and ``beta . x``, of one shape that ends with the star."""
        return self.rise(exponent)[0] + jnp.asarray(chi_squared * jnp.exp(-(1 - self.kappa) * exponent))

    def chi_squared(self, objective: Array, exponent: Array) -> jax.Array:
        """``p / c`` from F, the inverse of `objective`."""
        return jnp.asarray((objective - self.rise(exponent)[0]) * jnp.exp(-self.kappa * exponent))

    def information(self, scale: PerStar) -> jax.Array:
        """What the length of a spectrum tells of the labels, shape (star, label, label).

        Over the inverse of the variance scale of the star, by which covariances are multiplied.
        """
        heavy = jnp.isfinite(self.nu)
        safe = jnp.where(heavy, self.nu, 1.0)
        share = jnp.where(heavy, safe / (safe + self.count + 2), 1.0)
        size = 0.5 * self.count * share * jnp.where(jnp.isfinite(scale), scale, 0.0)
        return jnp.asarray(size[:, None, None] * self.beta[:, None] * self.beta)

    def half_gradient(self, chi_squared: PerStar) -> StarLabel:
        """What c adds to half the gradient of p over c, shape (star, label), for this ``p / c``; zero at a minimum.

        The sum is the gradient of F over ``2 exp(kappa beta . x)``.
        """
        return 0.5 * ((1 - self.kappa) * (self.count - chi_squared))[:, None] * self.beta


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ScaledPolynomials:
    """The F of many stars, as `labelling.polynomial.Polynomials` has p."""

    polynomials: Polynomials
    scale: LabelScale

    def __call__(self, x: Array) -> Point:
        """Value, gradient and Hessian at several points of each star, shape (star, start, label)."""
        return self.at(x.transpose(2, 1, 0)).by_star()

    def at(self, x: Array) -> Point:
        """The same for points of shape (label, start, star)."""
        p, beta, gamma = self.polynomials.at(x), self.scale.beta[:, None, None], 1 - self.scale.kappa
        exponent = jnp.tensordot(self.scale.beta, x, 1)
        lift, slope = self.scale.rise(exponent)
        shrink = jnp.exp(-gamma * exponent)
        cross = p.gradient[:, None] * beta
        outer = (slope * (1 - gamma) + shrink * gamma**2 * p.value) * beta[:, None] * beta
        return Point(
            x,
            lift + shrink * p.value,
            slope * beta + shrink * (p.gradient - gamma * p.value * beta),
            outer + shrink * (p.hessian - gamma * (cross + cross.swapaxes(0, 1))),
            jnp.abs(lift) + shrink * p.magnitude,
        )


def objectives(
    tables: PolynomialTables, coefficients: StarMoment, scale: LabelScale | None
) -> Polynomials | ScaledPolynomials:
    """What the search for labels minimizes."""
    polynomials = Polynomials.from_coefficients(tables, coefficients)
    return polynomials if scale is None else ScaledPolynomials(polynomials, scale)


def scaled_points(
    scale: LabelScale, chi_squared: Point, weighted: Point, p: PerStar, star_scale: PerStar
) -> tuple[Point, Point]:
    """The points of p and of ``q . v`` at the labels of each star, over c and with what c tells of the labels.

    Parameters
    ----------
    scale
        Of the stars.
    chi_squared, weighted
        As `labelling.compressed.information_inverse` takes them, of one start.
    p, star_scale
        ``p / c`` and the variance scale of each star, shape (star,).

    """
    shrink = jnp.exp(-scale.exponent(chi_squared.x[:, 0]))[:, None]
    hessian = shrink[..., None, None] * chi_squared.hessian + 2 * scale.information(star_scale)[:, None]
    gradient = shrink[..., None] * weighted.gradient - scale.half_gradient(p)[:, None]
    return replace(chi_squared, hessian=hessian), replace(
        weighted, gradient=gradient, hessian=shrink[..., None, None] * weighted.hessian
    )
