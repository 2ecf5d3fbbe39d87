"""How well the training spectra fit at their own labels, for the comparison with others (`labelling.goodness`)."""

import numpy as np

from bayes_cannon.core.likelihood import weights
from bayes_cannon.core.typing import StarPixel
from bayes_cannon.execution.jax_settings import own_jax_settings
from bayes_cannon.labelling.compressed import compare, compressed_batch
from bayes_cannon.labelling.fit import signal_to_noise
from bayes_cannon.labelling.goodness import GoodnessOfFit
from bayes_cannon.labelling.leverage import leverage, leverage_root
from bayes_cannon.labelling.trained import TrainedModel

MAX_STARS = 500
"""Training stars that are compared with, evenly spread over the table."""


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
            )
    else:
        theta = np.where(trained.solved[:, None], trained.theta, 0.0)
        w = weights(np.where(used, known, 0.0), np.where(trained.solved, trained.s2, 0.0))
        residual = np.where(used, y, 0.0) - np.where(used, design @ theta.T, 0.0)
        chi_squared = np.einsum("np,np,np->n", w, residual, residual)
    snr = signal_to_noise(known, trained.solved)
    reach = leverage(leverage_root(trained.terms.design), design)
    return GoodnessOfFit.of_training(chi_squared, counted, snr, reach, n_terms, n_stars)
