"""Kinds of scatter: how the deviations of spectra from the model are correlated between pixels."""

from bayes_cannon.scatter.base import FAMILIES, LEARNED, LearnedScatter, Scatter
from bayes_cannon.scatter.common_covariance import CommonCovariance
from bayes_cannon.scatter.full import Full
from bayes_cannon.scatter.independent import Independent, IndependentScatter
from bayes_cannon.scatter.known_noise import Given, KnownNoise
from bayes_cannon.scatter.low_rank import LowRank, LowRankScatter
from bayes_cannon.scatter.star_noise import NoiseAndScatter

__all__ = [
    "FAMILIES", "LEARNED", "CommonCovariance", "Full", "Given", "Independent", "IndependentScatter", "KnownNoise",
    "LearnedScatter", "LowRank", "LowRankScatter", "NoiseAndScatter", "Scatter",
]  # fmt: skip
