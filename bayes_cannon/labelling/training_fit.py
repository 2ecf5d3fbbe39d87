"""How well the training spectra fit at their own labels, for the comparison with others (`labelling.goodness`)."""

from collections.abc import Iterable
from typing import Protocol

import numpy as np

from bayes_cannon.core.likelihood import weights
from bayes_cannon.core.typing import PerStar, StarPixel, StarTerm
from bayes_cannon.execution.jax_settings import own_jax_settings
from bayes_cannon.execution.threads import in_parallel
from bayes_cannon.labelling.compressed import compare, compressed_batch
from bayes_cannon.labelling.fit import signal_to_noise
from bayes_cannon.labelling.goodness import GoodnessOfFit
from bayes_cannon.labelling.leverage import leverage, leverage_root
from bayes_cannon.labelling.trained import TrainedModel


class TrainingSpectra(Protocol):
    """What has the spectra of training stars."""

    @property
    def flux(self) -> StarPixel | None:
        """Shape (star, pixel)."""

    @property
    def ivar(self) -> StarPixel | None:
        """Shape (star, pixel)."""

    @property
    def covariance(self) -> np.ndarray | None:
        """Of the noise of each star, shape (star, pixel, pixel), if it has one."""


MAX_STARS = 500
"""Training stars that are compared with, evenly spread over the table."""
STARS_AT_ONCE = 16


def training_goodness(trained: TrainedModel, spectra: TrainingSpectra) -> GoodnessOfFit:
    """Reduced chi^2 of some of the training stars at their labels, as if held out.

    Parameters
    ----------
    trained
        The model, which takes theta as known.
    spectra
        What has the training spectra, such as a problem or a training set.

    """
    chosen = compared_stars(trained.terms.n_stars)
    flux, ivar, covariance = spectra.flux, spectra.ivar, spectra.covariance
    assert flux is not None
    assert ivar is not None
    own = None if covariance is None else covariance[chosen]
    return goodness_in_parts(trained, [(chosen, flux[chosen], ivar[chosen])], own)


def compared_stars(n_stars: int) -> np.ndarray:
    """Training stars that are compared with, ascending."""
    return np.unique(np.linspace(0, n_stars - 1, min(n_stars, MAX_STARS)).round().astype(int))


def goodness_in_parts(
    trained: TrainedModel, parts: Iterable[tuple[np.ndarray, StarPixel, StarPixel]],
    covariance: np.ndarray | None = None,
) -> GoodnessOfFit:  # fmt: skip
    """As `training_goodness`, of `compared_stars`, flux and ivar of some after the other, in order.

    With ``covariance``, that of the noise of each star, they are in one part.
    """
    n_stars, n_terms = trained.terms.design.shape
    chosen, chi_squared, counted, snr = (
        np.concatenate(found) for found in zip(*(_of_stars(trained, *part, covariance) for part in parts), strict=True)
    )
    reach = leverage(leverage_root(trained.terms.design), trained.terms.design[chosen])
    return GoodnessOfFit.of_training(chi_squared, counted, snr, reach, n_terms, n_stars)


def _of_stars(
    trained: TrainedModel, chosen: np.ndarray, flux: StarPixel, ivar: StarPixel, covariance: np.ndarray | None
) -> tuple[np.ndarray, PerStar, PerStar, PerStar]:
    """The stars, their chi^2, number of pixels and S/N."""
    y, known = np.asarray(flux, float), np.asarray(ivar, float)
    used = (known > 0) & trained.solved
    counted = used.sum(axis=1)
    if trained.scatter.is_correlated:
        with own_jax_settings():
            tables = trained.tables.of_stars(covariance)
            found = compressed_batch(tables, y, known)
            counted = np.asarray(found.n_tail)
            chi_squared = np.asarray(
                compare(tables, found.root, found.w, found.y, trained.terms.x[chosen][:, None])[0]
            ) / trained.scatter.label_factor(trained.terms.x[chosen])
    else:
        chi_squared = np.asarray(_chi_squared(trained, trained.terms.design[chosen], y, np.where(used, known, 0.0)))
    return chosen, chi_squared, counted, signal_to_noise(known, trained.solved)


def _chi_squared(trained: TrainedModel, design: StarTerm, flux: StarPixel, ivar: StarPixel) -> PerStar:
    """Weighted sum of squared residuals at known labels; a few stars at a time, which stay in the cache."""
    theta = np.where(trained.solved[:, None], trained.theta, 0.0)
    s2 = np.where(trained.solved, trained.s2, 0.0)

    def of(some: slice) -> PerStar:
        residual = np.where(ivar[some] > 0, flux[some], 0.0) - design[some] @ theta.T
        return np.asarray(np.sum(weights(ivar[some], s2) * residual**2, axis=1))

    parts = (slice(first, first + STARS_AT_ONCE) for first in range(0, len(flux), STARS_AT_ONCE))
    return np.concatenate(list(in_parallel(of, parts)))
