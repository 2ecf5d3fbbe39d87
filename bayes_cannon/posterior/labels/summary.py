"""The posterior of the labels of stars, as arrays over stars."""

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np

from bayes_cannon.core.status import PosteriorStatus
from bayes_cannon.posterior.theta.summary import QUANTILES


@dataclass(frozen=True)
class LabelPosterior:
    """Draws of the labels of each star and their summary, in label units.

    The density sampled is confined to the basin of the best mode (`posterior.labels.sample`).

    Attributes
    ----------
    draws
        Shape (chain, draw, star, label); NaN where the status says that there is no posterior.
    mean, covariance
        Shape (star, label) and (star, label, label).
    quantiles
        At `posterior.theta.summary.QUANTILES`, shape (star, quantile, label).
    r_hat, ess_bulk, ess_tail
        Of each label, shape (star, label).
    mode_labels
        Labels of the modes, the one that was sampled first, shape (star, mode, label); NaN where there are fewer.
    mode_excess
        -2 ln posterior of each mode above that of the first, shape (star, mode). Of labels with bounds the density is
        that of the sampler's coordinates, where no mode lies on a bound.
    n_pixels
        Number of used pixels, shape (star,).
    status
        `PosteriorStatus`, shape (star,).
    stats
        What ArviZ calls sample statistics, shape (chain, draw, star) each.

    """

    draws: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray
    quantiles: np.ndarray
    r_hat: np.ndarray
    ess_bulk: np.ndarray
    ess_tail: np.ndarray
    mode_labels: np.ndarray
    mode_excess: np.ndarray
    n_pixels: np.ndarray
    status: np.ndarray
    stats: dict[str, np.ndarray]

    @classmethod
    def from_draws(cls, draws: np.ndarray, **others: np.ndarray | dict[str, np.ndarray]) -> "LabelPosterior":
        """The posterior with mean, covariance and quantiles of the draws, and the other fields as given."""
        n_stars, n_labels = draws.shape[2:]
        flat = draws.reshape(draws.shape[0] * draws.shape[1], n_stars, n_labels)
        mean = flat.mean(axis=0)
        away = (flat - mean).transpose(1, 0, 2)
        covariance = away.transpose(0, 2, 1) @ away / max(len(flat) - 1, 1)
        quantiles = np.quantile(flat, QUANTILES, axis=0).swapaxes(0, 1)
        summary = {"draws": draws, "mean": mean, "covariance": covariance, "quantiles": quantiles}
        return cls(**summary, **others)  # type: ignore[arg-type]

    @classmethod
    def concatenated(cls, parts: Iterable["LabelPosterior"]) -> "LabelPosterior":
        """One posterior of all the stars in at least one part."""
        parts = list(parts)
        names = [field.name for field in fields(cls) if field.name != "stats"]
        joined = {
            name: np.concatenate([getattr(part, name) for part in parts], axis=2 if name == "draws" else 0)
            for name in names
        }
        stats = {name: np.concatenate([part.stats[name] for part in parts], axis=2) for name in parts[0].stats}
        return cls(**joined, stats=stats)

    @property
    def n_stars(self) -> int:
        """Number of stars."""
        return len(self.mean)

    @property
    def has_draws(self) -> np.ndarray:
        """Whether there is a posterior, boolean, shape (star,)."""
        return np.array([PosteriorStatus(status).has_draws for status in self.status], dtype=bool)

    def place(self, stars: np.ndarray, other: "LabelPosterior") -> None:
        """Write the posterior of some stars into this one, in place."""
        for field in fields(self):
            if field.name == "stats":
                for name, array in self.stats.items():
                    array[..., stars] = other.stats[name]
            elif field.name == "draws":
                self.draws[:, :, stars] = other.draws
            else:
                getattr(self, field.name)[stars] = getattr(other, field.name)
