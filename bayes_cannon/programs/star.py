r"""The program of one star: from its labels to its spectrum.

.. math:: y_j \sim \mathrm{Normal}\left(v(x) \cdot \theta_j, \sqrt{\sigma_j^2 + s_j^2}\right)

with theta and s of every pixel given and x the scaled labels. With the default flat prior, minus twice its log density
is the test scalar of Casey et al. (2016, equation 3) plus :math:`\sum_j \ln 2\pi(\sigma_j^2 + s_j^2)`, which does not
depend on the labels.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints

from bayes_cannon.core.scaling import LabelScaling
from bayes_cannon.core.typing import PerLabel, PerPixel, PixelTerm, Scalar
from bayes_cannon.core.vectorizer import monomials


def star(
    theta: PixelTerm,
    s2: PerPixel,
    ivar: PerPixel,
    flux: PerPixel | None = None,
    *,
    exponents: np.ndarray,
    prior: dist.Distribution | None = None,
    scaling: LabelScaling | None = None,
) -> None:
    """Spectrum of one star.

    Sites: ``x``, the scaled labels, shape (label,); ``flux``, in plate ``pixel``. Deterministic site, if a scaling is
    given: ``labels``, in their units, shape (label,).

    Parameters
    ----------
    theta, s2
        Trained coefficients, shape (pixel, term), and variances of the scatter, shape (pixel,). A pixel that is not
        finite in both (an untrained one) takes no part in the density.
    ivar
        Inverse variance of the flux, shape (pixel,). A pixel with zero takes no part.
    flux
        Shape (pixel,), or None to draw it. What is drawn for a pixel that takes no part means nothing.
    exponents
        Powers of the labels in each term, shape (term, label), as `BaseVectorizer.exponents` gives them.
    prior
        NumPyro distribution of the scaled labels with event shape (label,). None is flat and improper.
    scaling
        From scaled labels to labels.

    Raises
    ------
    ValueError
        If the prior is not one of K labels.

    """
    x = _labels(exponents.shape[1], prior, scaling)
    known = (jnp.asarray(ivar) > 0) & jnp.isfinite(s2) & jnp.isfinite(theta).all(axis=1)
    mean = jnp.where(known[:, None], theta, 0.0) @ monomials(x[None], exponents)[0]
    variance = 1.0 / jnp.where(known, ivar, 1.0) + jnp.where(known, s2, 0.0)
    with numpyro.plate("pixel", theta.shape[0]), numpyro.handlers.mask(mask=known):
        observed = None if flux is None else jnp.where(known, flux, 0.0)
        numpyro.sample("flux", dist.Normal(mean, jnp.sqrt(variance)), obs=observed)


def compressed_star(
    log_likelihood: Callable[[PerLabel], Scalar],
    n_labels: int,
    *,
    prior: dist.Distribution | None = None,
    scaling: LabelScaling | None = None,
) -> None:
    """The same as `star`, with the likelihood of the spectrum given as a function of the scaled labels.

    Sites: those of `star`, but for ``flux``, in whose place stands the factor ``log_likelihood``.

    Parameters
    ----------
    log_likelihood
        Of the scaled labels, shape (label,), up to a constant.
    n_labels
        Number of labels.
    prior, scaling
        As in `star`.

    Raises
    ------
    ValueError
        As `star`.

    """
    numpyro.factor("log_likelihood", log_likelihood(_labels(n_labels, prior, scaling)))


def _labels(n_labels: int, prior: dist.Distribution | None, scaling: LabelScaling | None) -> PerLabel:
    """The scaled labels, shape (label,), from their prior."""
    if prior is not None and (prior.batch_shape, prior.event_shape) != ((), (n_labels,)):
        raise ValueError(
            f"prior must have event shape ({n_labels},) and no batch shape, one value a label; got event shape "
            f"{prior.event_shape}, batch shape {prior.batch_shape}: use to_event(1)"
        )
    flat = dist.ImproperUniform(constraints.real_vector, (), (n_labels,))
    x = numpyro.sample("x", flat if prior is None else prior, infer={"event_dims": ["label"]})
    if scaling is not None:
        numpyro.deterministic("labels", x * (scaling.factor * scaling.scale) + scaling.fiducial)
    return x
