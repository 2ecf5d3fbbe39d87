"""The arrays of a posterior that are filled pixel by pixel."""

from typing import NamedTuple

import numpy as np

from bayes_cannon.core.status import PosteriorStatus


class Variable(NamedTuple):
    """An array that is filled pixel by pixel: dimensions, type, what stands where nothing is known, and a text."""

    dims: tuple[str, ...]
    dtype: str = "f8"
    fill: float = np.nan
    about: str = ""


_PARAMETERS = ("pixel", "parameter")
SUMMARY = {
    "theta_mean": Variable(("pixel", "term"), about="posterior mean of theta"),
    "theta_covariance": Variable(("pixel", "term", "term_"), about="posterior covariance of theta"),
    "theta_quantiles": Variable(("pixel", "quantile", "term"), about="quantiles of theta"),
    "s_mean": Variable(("pixel",), about="posterior mean of s"),
    "s_sd": Variable(("pixel",), about="posterior standard deviation of s"),
    "s2_mean": Variable(("pixel",), about="posterior mean of s^2"),
    "s_quantiles": Variable(("pixel", "quantile"), about="quantiles of s"),
    "r_hat": Variable(_PARAMETERS, about="rank-normalized R-hat"),
    "ess_bulk": Variable(_PARAMETERS, about="bulk effective sample size"),
    "ess_tail": Variable(_PARAMETERS, about="tail effective sample size"),
    "k_hat": Variable(("pixel",), about="Pareto shape of the importance weights"),
    "divergent": Variable(("pixel",), about="share of draws that diverged"),
    "deep": Variable(("pixel",), about="share of draws with the deepest tree"),
    "n_steps": Variable(("pixel",), about="leapfrog steps a draw"),
    "status": Variable(("pixel",), "i8", PosteriorStatus.NO_INFORMATION, "how the sampling ended"),
    "finished": Variable(("pixel",), "bool", False, "whether the sampling has ended"),
}
_DRAWS = ("chain", "draw", "pixel")
DRAWS = {
    "theta": Variable((*_DRAWS, "term"), about="coefficients of the terms"),
    "s": Variable(_DRAWS, about="intrinsic scatter"),
}
STATS = {
    "lp": Variable(_DRAWS, about="log density up to a constant, in the coordinates that are sampled"),
    "energy": Variable(_DRAWS),
    "acceptance_rate": Variable(_DRAWS),
    "step_size": Variable(_DRAWS),
    "n_steps": Variable(_DRAWS, "i8", 0),
    "tree_depth": Variable(_DRAWS, "i8", 0),
    "diverging": Variable(_DRAWS, "bool", False),
    "reached_max_tree_depth": Variable(
        _DRAWS,
        "bool",
        False,
        "whether a tree was as deep as those of second runs may be; those of first runs never are",
    ),
}
