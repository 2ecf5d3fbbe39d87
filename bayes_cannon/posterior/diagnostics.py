r"""Convergence of many chains at once: rank-normalized R-hat, bulk and tail effective sample size.

The definitions are those of Vehtari et al. (2021), as in ArviZ, which takes one parameter at a time. Here they are
computed for thousands of parameters together, with NumPyro's vectorized R-hat and effective sample size; the latter
agrees with that of ArviZ to about one per cent, because it ends the sum over lags differently.
"""

from dataclasses import dataclass

import numpy as np
from numpyro.diagnostics import effective_sample_size, gelman_rubin
from scipy.special import ndtri
from scipy.stats import rankdata

R_HAT_LIMIT = 1.01
ESS_PER_CHAIN = 100
"""Required bulk effective sample size for each chain (Vehtari et al. 2021)."""


@dataclass(frozen=True)
class Convergence:
    """Diagnostics of parameters, shape (..., ) each.

    Attributes
    ----------
    r_hat
        The larger of those of the ranks and of the ranks of the distances to the median.
    ess_bulk, ess_tail
        Effective sample sizes of the ranks, and the smaller one of the 5 and 95 % quantiles.

    """

    r_hat: np.ndarray
    ess_bulk: np.ndarray
    ess_tail: np.ndarray

    def mixed(self, n_chains: int) -> np.ndarray:
        """Whether R-hat and bulk sample size are as they should, boolean."""
        return (self.r_hat < R_HAT_LIMIT) & (self.ess_bulk > ESS_PER_CHAIN * n_chains)


def convergence(draws: np.ndarray) -> Convergence:
    """Diagnostics of draws of shape (chain, draw, ...); at least four draws a chain.

    A parameter that never moves has an undefined R-hat and counts as not mixed.
    """
    n_chains, n_draws, *shape = draws.shape
    if n_draws < 4:
        raise ValueError(f"diagnostics need at least 4 draws a chain, got {n_draws}")
    half = n_draws // 2
    flat = draws.reshape(n_chains, n_draws, -1)
    split = np.concatenate([flat[:, :half], flat[:, -half:]])
    median = np.median(split, axis=(0, 1))
    ranks, folded = _normal_ranks(split), _normal_ranks(np.abs(split - median))
    with np.errstate(divide="ignore", invalid="ignore"):
        r_hat = np.fmax(gelman_rubin(ranks), gelman_rubin(folded))
        low, high = np.quantile(split, [0.05, 0.95], axis=(0, 1))
        tail = np.fmin(_sample_size((split <= low).astype(float)), _sample_size((split <= high).astype(float)))
        bulk = _sample_size(ranks)
    still = np.ptp(split, axis=(0, 1)) == 0
    r_hat, bulk, tail = (np.where(still, np.nan, array).reshape(shape) for array in (r_hat, bulk, tail))
    return Convergence(r_hat, bulk, tail)


def _normal_ranks(draws: np.ndarray) -> np.ndarray:
    ranks = rankdata(draws.reshape(-1, draws.shape[-1]), axis=0)
    scores: np.ndarray = ndtri((ranks - 0.375) / (len(ranks) + 0.25))
    return scores.reshape(draws.shape)


def _sample_size(draws: np.ndarray) -> np.ndarray:
    """Effective sample size of each parameter, at most ``S log10 S``, which antithetic chains would exceed."""
    total = draws.shape[0] * draws.shape[1]
    most = total * np.log10(total)
    size = np.asarray(effective_sample_size(draws))
    return np.where((size < 0) | (size > most), most, size)
