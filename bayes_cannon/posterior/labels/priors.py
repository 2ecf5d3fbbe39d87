"""Priors of the labels of a star: flat, flat within bounds, learned from the training labels, or the user's own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints
from numpyro.distributions.transforms import AffineTransform, IndependentTransform

from bayes_cannon.core.arguments import listed, mapping, number, shown
from bayes_cannon.core.label_mixture import LabelMixture, population
from bayes_cannon.core.scaling import LabelScaling
from bayes_cannon.execution.jax_settings import own_jax_settings

NAMES = ("flat", "gaussian", "mixture", "population")
WANTED = f"prior must be one of {', '.join(NAMES)}, a LabelMixture or a NumPyro distribution"

Bounds = Mapping[str, tuple[float | None, float | None]]


@dataclass(frozen=True)
class LabelPrior:
    """A prior of scaled labels. Make it with `of_labels`.

    Attributes
    ----------
    distribution
        NumPyro distribution of the scaled labels with event shape (label,), or None for a flat one.
    low, high
        Where it ends, in scaled labels, shape (label,), infinite where it does not. Within the bounds the density is
        that of the distribution, not normalized again.

    """

    distribution: dist.Distribution | None
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of_labels(
        cls,
        prior: str | LabelMixture | dist.Distribution,
        bounds: Bounds | None = None,
        *,
        label_names: Sequence[str],
        scaling: LabelScaling,
        training_labels: np.ndarray,
        label_errors: np.ndarray | None = None,
    ) -> "LabelPrior":
        """A prior that is given in label units.

        Parameters
        ----------
        prior
            ``"flat"``; ``"gaussian"``, a normal distribution with the mean and covariance of the training labels;
            ``"mixture"``, a mixture of normal distributions fitted to them as they are; ``"population"``, the same
            deconvolved from their errors; a mixture of one's own, such as `core.label_mixture.population` makes it with
            weights of the stars; or a NumPyro distribution of the labels, in their units, with event shape (label,),
            whose support is either all numbers or bounds of each label.
        bounds
            Lowest and highest value by label name, in label units; None for no bound. Labels left out have none.
        label_names, scaling
            Of the model.
        training_labels
            In their units, shape (star, label).
        label_errors
            Of the training labels, for ``"population"``: standard deviations (star, label) or covariances (star, label,
            label), NaN where they are not known. Without them it is ``"mixture"``.

        Raises
        ------
        ValueError
            For an unknown name, a distribution of another shape or support, bounds of unknown labels or whose lower
            one is not below the upper one, and training labels that are no population (`core.label_mixture`).

        """
        if isinstance(prior, str) and prior in ("mixture", "population"):
            prior = population(training_labels, errors=label_errors if prior == "population" else None)
        low, high = np.full(len(label_names), -np.inf), np.full(len(label_names), np.inf)
        if isinstance(prior, dist.Distribution):
            distribution, low, high = _given(prior, len(label_names), scaling)
        elif isinstance(prior, LabelMixture):
            distribution = _mixture(prior, len(label_names), scaling)
        else:
            distribution = _named(prior, scaling.scaled(training_labels))
        lowest, highest = (
            scaling.scaled(ends) for ends in _ends(mapping(bounds, "bounds", "label names to pairs"), label_names)
        )
        low, high = np.maximum(low, lowest), np.minimum(high, highest)
        empty = ~(low < high)
        if empty.any():
            label = int(np.argmax(empty))
            raise ValueError(
                f"the bounds and the support of the prior leave nothing of {label_names[label]}: widen them"
            )
        return cls(distribution, low, high)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Which ends each label has: ``real``, ``low``, ``high`` or ``both``."""
        names = {(False, False): "real", (True, False): "low", (False, True): "high", (True, True): "both"}
        ends = zip(np.isfinite(self.low).tolist(), np.isfinite(self.high).tolist(), strict=True)
        return tuple(names[pair] for pair in ends)

    @property
    def improper(self) -> np.ndarray:
        """Which labels the prior alone does not confine, boolean, shape (label,)."""
        return (self.distribution is None) & ~(np.isfinite(self.low) & np.isfinite(self.high))


def _named(name: Any, x: np.ndarray) -> dist.Distribution | None:
    """The named prior of scaled labels, from those of the training stars."""
    if name == "flat":
        return None
    if name == "gaussian":
        with own_jax_settings():
            return dist.MultivariateNormal(x.mean(axis=0), np.atleast_2d(np.cov(x.T)))
    raise ValueError(f"{WANTED}, got {name!r}")


def _mixture(mixture: LabelMixture, n_labels: int, scaling: LabelScaling) -> dist.Distribution:
    if mixture.means.shape[1] != n_labels:
        raise ValueError(f"prior is a mixture of {mixture.means.shape[1]} labels; the model has {n_labels}")
    scaled = mixture.scaled(scaling)
    with own_jax_settings():
        components = dist.MultivariateNormal(scaled.means, scaled.covariances)
        return dist.MixtureSameFamily(dist.Categorical(probs=scaled.weights), components)


def _given(
    prior: dist.Distribution, n_labels: int, scaling: LabelScaling
) -> tuple[dist.Distribution, np.ndarray, np.ndarray]:
    """The user's distribution as one of scaled labels, and where it ends."""
    if (prior.batch_shape, prior.event_shape) != ((), (n_labels,)):
        raise ValueError(
            f"prior must have event shape ({n_labels},) and no batch shape, one value a label; got event shape "
            f"{prior.event_shape}, batch shape {prior.batch_shape}: use to_event(1)"
        )
    support: Any = prior.support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    ends = {
        constraints.interval: ("lower_bound", "upper_bound"),
        constraints.greater_than: ("lower_bound", None),
        constraints.less_than: (None, "upper_bound"),
    }
    names = next((names for kind, names in ends.items() if isinstance(support, kind)), (None, None))
    if names == (None, None) and support is not constraints.real:
        raise ValueError(
            f"the support of prior must be all real numbers or bounds of each label, got {prior.support}: "
            "use a distribution such as dist.TruncatedNormal(...).to_event(1)"
        )
    low, high = (
        np.broadcast_to(missing if name is None else np.asarray(getattr(support, name)), n_labels)
        for name, missing in zip(names, (-np.inf, np.inf), strict=True)
    )
    unit = scaling.factor * scaling.scale
    to_scaled = AffineTransform(-scaling.fiducial / unit, 1.0 / unit, domain=support)
    scaled = dist.TransformedDistribution(prior, [IndependentTransform(to_scaled, 1)])
    return scaled, scaling.scaled(low), scaling.scaled(high)


def _ends(bounds: Bounds, label_names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest value of each label, in its unit, shape (label,)."""
    unknown = sorted(str(name) for name in set(bounds) - set(label_names))
    if unknown:
        raise ValueError(f"bounds of unknown labels {', '.join(unknown)}; the model has {', '.join(label_names)}")
    low, high = np.full(len(label_names), -np.inf), np.full(len(label_names), np.inf)
    for name, ends in bounds.items():
        label, pair = list(label_names).index(name), listed(ends)
        if pair is None or len(pair) != 2:
            raise ValueError(f"bounds of {name} must be a lower and a higher value, got {shown(ends)}")
        low[label], high[label] = (
            missing if end is None else number(end) for end, missing in zip(pair, (-np.inf, np.inf), strict=True)
        )
        if not low[label] < high[label]:
            raise ValueError(f"bounds of {name} must be a lower and a higher value, got {ends}")
    return low, high
