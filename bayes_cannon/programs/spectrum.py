r"""The program of whole spectra: pixels that share latent factors.

.. math:: \theta_{jd} \sim \mathrm{Laplace}(0, 2 / \Lambda_j) \ (d \ge 1), \quad
          z_n \sim \mathrm{Normal}(0, I_r / \tau_n), \quad
          y_{jn} \sim \mathrm{Normal}\left(v_n \cdot \theta_j + u_j \cdot z_n,
          \sqrt{(\sigma_{jn}^2 + s_j^2) / \tau_n}\right)

with :math:`\tau_n = 1`, or :math:`\tau_n \sim \mathrm{Gamma}(\nu / 2, \nu / 2)` where the tails are heavy. Without
factors and tails it is the program of one pixel, `programs.pixel`, for every pixel. The factors u are flat a priori,
and only :math:`U U^T` is determined: any rotation of U and z has the same density.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints

from bayes_cannon.core.typing import Array, PerPixel, PixelTermMask, StarPixel, StarTerm


def spectrum(
    design: StarTerm,
    ivar: StarPixel,
    flux: StarPixel | None = None,
    *,
    n_factors: int = 0,
    regularization: PerPixel | float = 0.0,
    free: PixelTermMask | None = None,
    nu: float | None = None,
) -> None:
    """Flux of all stars at all pixels.

    Sites: ``theta_0``, shape (pixel,); ``theta``, the free terms d >= 1 of all pixels, one after the other, shape (free
    term,), absent if there are none; ``s2``, shape (pixel,); with factors ``factors``, shape (pixel, factor), and
    ``z``, shape (star, factor); ``tau``, shape (star,), where nu is given; ``flux``, shape (star, pixel).
    Deterministic: ``coefficients``, all terms with zeros where they are not free, shape (pixel, term).

    Parameters
    ----------
    design
        Terms of each star, shape (star, term); the first column is 1.
    ivar
        Inverse variance of the flux, shape (star, pixel). A flux with zero takes no part in the density.
    flux
        Shape (star, pixel), or None to draw it.
    n_factors
        Number of latent factors r; none by default.
    regularization
        Lambda, one for all pixels or one each, shape (pixel,). Either all are positive, or all are zero: then the prior
        of theta is flat.
    free
        Which terms are parameters, shape (pixel, term), a NumPy array; the others are exactly zero. All by default.
    nu
        Degrees of freedom of the tails; None for normal ones.

    Raises
    ------
    ValueError
        If ``free`` has another shape or leaves out a constant term, if Lambda is negative or positive at some pixels
        only, or if the number of factors is negative.

    """
    n_terms, n_pixels = design.shape[1], ivar.shape[1]
    free = np.ones((n_pixels, n_terms), dtype=bool) if free is None else np.asarray(free, dtype=bool)
    if free.shape != (n_pixels, n_terms) or not free[:, 0].all():
        raise ValueError(f"free must have shape ({n_pixels}, {n_terms}) and be True for the constant terms")
    if n_factors < 0:
        raise ValueError(f"n_factors must not be negative, got {n_factors}")
    coefficients = numpyro.deterministic("coefficients", _coefficients(free, regularization))
    s2 = numpyro.sample("s2", dist.ImproperUniform(constraints.nonnegative, (n_pixels,), ()).to_event(1))
    model = jnp.asarray(design) @ coefficients.T
    precision = jnp.ones(len(design))
    if nu is not None:
        precision = numpyro.sample("tau", dist.Gamma(nu / 2, nu / 2).expand([len(design)]).to_event(1))
    if n_factors:
        flat = dist.ImproperUniform(constraints.real, (n_pixels, n_factors), ())
        factors = numpyro.sample("factors", flat.to_event(2))
        width = jnp.broadcast_to(1 / jnp.sqrt(precision)[:, None], (len(design), n_factors))
        model += numpyro.sample("z", dist.Normal(0.0, width).to_event(2)) @ factors.T

    known = jnp.asarray(ivar) > 0
    variance = (1.0 / jnp.where(known, ivar, 1.0) + s2) / precision[:, None]
    with numpyro.plate("pixel", n_pixels), numpyro.plate("star", len(design)), numpyro.handlers.mask(mask=known):
        observed = None if flux is None else jnp.where(known, flux, 0.0)
        numpyro.sample("flux", dist.Normal(model, jnp.sqrt(variance)), obs=observed)


def _coefficients(free: np.ndarray, regularization: PerPixel | float) -> Array:
    lam = np.broadcast_to(np.asarray(regularization, dtype=float), len(free))
    if (lam < 0).any() or (lam > 0).any() != (lam > 0).all():
        raise ValueError(f"regularization must be positive at all pixels or zero at all, got {regularization}")
    theta_0 = numpyro.sample("theta_0", dist.ImproperUniform(constraints.real, (len(free),), ()).to_event(1))
    coefficients = jnp.zeros(free.shape, dtype=jnp.result_type(theta_0)).at[:, 0].set(theta_0)
    pixels, terms = np.nonzero(free & (np.arange(free.shape[1]) > 0))
    if len(pixels) == 0:
        return coefficients
    if lam[0] == 0:
        prior = dist.ImproperUniform(constraints.real_vector, (), (len(pixels),))
    else:
        prior = dist.Laplace(0.0, 2.0 / lam[pixels]).to_event(1)
    return coefficients.at[pixels, terms].set(numpyro.sample("theta", prior))
