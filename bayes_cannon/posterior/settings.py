"""Settings of the chains, and their defaults.

The module imports neither JAX nor NumPyro, so that signatures can refer to the defaults at no cost.
"""

from dataclasses import dataclass, replace

FIRST_TREE_DEPTH = 2
"""Depth of the trees of first runs: three leapfrog steps."""
SECOND_THINNING, SECOND_ACCEPT = 4, 0.8
"""Thinning of second runs, and their target acceptance."""
KERNELS = ("nuts", "hmc")


@dataclass(frozen=True)
class ChainSettings:
    """Settings of the sampler.

    Attributes
    ----------
    kernel
        ``"nuts"``, the No-U-Turn sampler, or ``"hmc"`` with a fixed length of trajectories.
    n_chains, n_warmup, n_draws
        Chains of each item, draws that adapt the step size and are forgotten, and draws kept, of each chain.
    target_accept
        Mean acceptance that the step size is adapted to; that of second runs is higher.
    max_tree_depth
        A tree has at most ``2^depth - 1`` leapfrog steps; those of first runs are shallower.
    trajectory
        Length of HMC's trajectories, in units of the standard deviations.
    thinning
        One draw in this number is kept.

    """

    kernel: str = "nuts"
    n_chains: int = 4
    n_warmup: int = 150
    n_draws: int = 500
    target_accept: float = 0.6
    max_tree_depth: int = 8
    trajectory: float = 2.0
    thinning: int = 1

    def of_run(self, number: int) -> "ChainSettings":
        """Settings of a first run, number 0, whose trees are shallow, and of a second one."""
        if number == 0:
            return replace(self, max_tree_depth=min(self.max_tree_depth, FIRST_TREE_DEPTH))
        accept = max(self.target_accept, SECOND_ACCEPT)
        return replace(self, n_warmup=2 * self.n_warmup, target_accept=accept, thinning=SECOND_THINNING)


THETA_CHAINS = ChainSettings()
"""Chains of theta and s."""
LABEL_CHAINS = ChainSettings(n_warmup=100, target_accept=0.75, max_tree_depth=6)
"""Chains of labels, whose densities are smooth and well whitened."""
