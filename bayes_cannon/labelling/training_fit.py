"""How well the training spectra fit at their own labels, for the comparison with others (`labelling.goodness`)."""

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

MAX_STARS = 500
"""Training stars that are compared with, evenly spread over the table."""
STARS_AT_ONCE = 16


def training_goodness(trained: TrainedModel, flux: StarPixel, ivar: StarPixel) -> GoodnessOfFit:
    """Reduced chi^2 of some of the training stars at their labels, as if held out.

    Parameters
    ----------
    trained
        The model, which takes theta as known.
    flux, ivar
        Training spectra, shape (star, pixel).

    """
    n_stars, n_terms = trained.terms.design.shape
    chosen = np.unique(np.linspace(0, n_stars - 1, min(n_stars, MAX_STARS)).round().astype(int))
    y, known = np.asarray(flux[chosen], float), np.asarray(ivar[chosen], float)
    design = trained.terms.design[chosen]
    used = (known > 0) & trained.solved
    counted = used.sum(axis=1)
    if trained.scatter.is_correlated:
        with own_jax_settings():
            found = compressed_batch(trained.tables, y, known)
            counted = np.asarray(found.n_tail)
            chi_squared = np.asarray(
                compare(trained.tables, found.root, found.w, found.y, trained.terms.x[chosen][:, None])[0]
            ) / trained.scatter.label_factor(trained.terms.x[chosen])
    else:
        chi_squared = np.asarray(_chi_squared(trained, design, y, np.where(used, known, 0.0)))
    snr = signal_to_noise(known, trained.solved)
    reach = leverage(leverage_root(trained.terms.design), design)
    return GoodnessOfFit.of_training(chi_squared, counted, snr, reach, n_terms, n_stars)


def _chi_squared(trained: TrainedModel, design: StarTerm, flux: StarPixel, ivar: StarPixel) -> PerStar:
    """Weighted sum of squared residuals at known labels; a few stars at a time, which stay in the cache."""
    theta = np.where(trained.solved[:, None], trained.theta, 0.0)
    s2 = np.where(trained.solved, trained.s2, 0.0)

    def of(some: slice) -> PerStar:
        residual = np.where(ivar[some] > 0, flux[some], 0.0) - design[some] @ theta.T
        return np.asarray(np.sum(weights(ivar[some], s2) * residual**2, axis=1))

    parts = (slice(first, first + STARS_AT_ONCE) for first in range(0, len(flux), STARS_AT_ONCE))
    return np.concatenate(list(in_parallel(of, parts)))
