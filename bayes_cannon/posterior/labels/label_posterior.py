"""Posterior means of labels under a prior, by one model or by a mixture of models of parts of label space.

Each region of label space has a model of its own, a prior, and a share of all stars. The posterior of a star is the
mixture of those by the regions, with the evidence of its spectrum in each, the share included, as weights. A region
whose highest likelihood is too low to matter is left out for that star: its evidence is at most that times its share.
Where theta is integrated out, the likelihood of a chi^2 is highest where its errors make n of it, if that is more. So
is one whose evidence by Laplace's method is far too low, which tells more where regions overlap.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from bayes_cannon.core import student_t
from bayes_cannon.core.label_mixture import LabelMixture
from bayes_cannon.core.scaling import LabelScaling
from bayes_cannon.core.typing import Array
from bayes_cannon.core.vectorizer import label_factors
from bayes_cannon.execution.compiled_programs import make_room
from bayes_cannon.execution.devices import by_device
from bayes_cannon.execution.jax_settings import own_jax_settings
from bayes_cannon.execution.threads import in_parallel
from bayes_cannon.labelling.batches import check_batch, covariance_batch, native, padded_batch, with_covariances
from bayes_cannon.labelling.compressed import STARS_IN_CACHE, compressed_batch, search
from bayes_cannon.labelling.trained import TrainedModel
from bayes_cannon.posterior.labels.chains import widened_spectra
from bayes_cannon.posterior.labels.moments import (
    FIRST,
    LEAST_GROWTH,
    SECOND,
    LabelSpace,
    MixturePrior,
    StarLikelihood,
    label_moments,
    points,
    rough_log_evidence,
)
from bayes_cannon.posterior.labels.priors import LabelPrior
from bayes_cannon.training.problem import Progress

BATCH = 256
"""Stars that are compressed together."""
TOGETHER = 64
"""Stars of a batch where there are few."""
GROUP = 32
"""Stars whose moments are computed together."""
NEGLIGIBLE = 7.0
"""Minus the logarithm of the largest weight, relative to the best region, at which a region does not matter to a star:
a thousandth, where the integration is right to some hundredths."""
MARGIN = 4.0
"""How far the evidence may exceed `moments.rough_log_evidence`, in its logarithm."""
WIDER = 4.0
"""Covariance of the training labels times this stands for a prior that is no Gaussian mixture, in proposals only."""


@dataclass(frozen=True, eq=False)
class RegionModel:
    """A model with a prior.

    Attributes
    ----------
    trained
        The model.
    prior
        Of its scaled labels.
    theta_covariance
        A of its theta, shape (term, term), which is integrated out in closed form; None where theta is known.
    log_share
        Logarithm of the share of all stars that are of this region.

    """

    trained: TrainedModel
    prior: LabelPrior
    theta_covariance: np.ndarray | None = None
    log_share: float = 0.0

    @cached_property
    def space(self) -> LabelSpace:
        """Tables of terms, moments and bounds."""
        terms = self.trained.terms
        return LabelSpace(label_factors(terms.exponents), terms.moments.pairs, self.prior.low, self.prior.high)

    @cached_property
    def proposal(self) -> MixturePrior:
        """The prior as a Gaussian mixture, or something of about its place and width."""
        given = self.prior.distribution
        if isinstance(given, dist.MixtureSameFamily):
            parts = given.component_distribution
            weights = np.asarray(given.mixing_distribution.probs)
            return MixturePrior(np.log(weights), np.asarray(parts.loc), np.asarray(parts.covariance_matrix))
        if isinstance(given, dist.MultivariateNormal):
            return MixturePrior(np.zeros(1), np.asarray(given.loc)[None], np.asarray(given.covariance_matrix)[None])
        x = self.trained.terms.x
        covariance = WIDER * np.atleast_2d(np.cov(x.T))
        return MixturePrior(np.zeros(1), x.mean(axis=0)[None], covariance[None])

    @cached_property
    def log_prior(self) -> Any:
        """Log density of one set of scaled labels, None where `proposal` is the prior."""
        given = self.prior.distribution
        if isinstance(given, dist.MixtureSameFamily | dist.MultivariateNormal):
            return None
        return _flat if given is None else given.log_prob


def mixture_prior(mixture: LabelMixture, scaling: LabelScaling) -> LabelPrior:
    """A mixture of labels, in their units, as the prior of scaled labels."""
    scaled = mixture.scaled(scaling)
    with own_jax_settings():
        parts = dist.MultivariateNormal(scaled.means, scaled.covariances)
        prior = dist.MixtureSameFamily(dist.Categorical(probs=scaled.weights), parts)
    unbounded = np.full(scaled.means.shape[1], np.inf)
    return LabelPrior(prior, -unbounded, unbounded)


def _flat(x: Array) -> jax.Array:
    return jnp.zeros(())


@dataclass(frozen=True)
class LabelPosteriorMoments:
    """Posterior of N stars in label units.

    Attributes
    ----------
    labels, covariance
        Mean, shape (star, label), and covariance, (star, label, label); NaN without information on a spectrum.
    log_evidence
        Of the spectrum, shape (star,); its unit is that of the models, so that only differences mean something.
    efficiency
        Share of the points of the integration that count, in the regions that matter, shape (star,).
    weights
        Of the regions, shape (star, region).
    maximum
        Labels of highest likelihood in the region of largest weight, shape (star, label).

    """

    labels: np.ndarray
    covariance: np.ndarray
    log_evidence: np.ndarray
    efficiency: np.ndarray
    weights: np.ndarray
    maximum: np.ndarray

    @property
    def region(self) -> np.ndarray:
        """The one of largest weight, shape (star,)."""
        return np.argmax(np.nan_to_num(self.weights), axis=1)

    @classmethod
    def concatenated(cls, parts: Sequence["LabelPosteriorMoments"]) -> "LabelPosteriorMoments":
        """All the stars in at least one part."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


def label_posterior(
    regions: Sequence[RegionModel], flux: np.ndarray, ivar: np.ndarray, *, covariance: np.ndarray | None = None,
    progress: Progress | None = None,
) -> LabelPosteriorMoments:  # fmt: skip
    """Posterior of the labels of each star.

    Parameters
    ----------
    regions
        Models of the same pixels and labels, with the same scaling.
    flux, ivar
        Shape (star, pixel). Anything that gives arrays when sliced will do.
    covariance
        Of the noise of each star, shape (star, pixel, pixel), where the scatter takes it.
    progress
        Called with the number of stars that were finished since the last call.

    Raises
    ------
    ValueError
        For shapes that do not fit together. A bad spectrum has NaN.

    """
    check_batch(flux, ivar, regions[0].trained.n_pixels)
    n_stars = len(flux)
    size = batch_size(n_stars)
    if covariance is not None:
        size = covariance_batch(size, flux.shape[1])
    make_room()
    for region in regions:  # Once, before several threads ask for them.
        _ = region.trained.tables, region.trained.theta_errors, region.space, region.proposal, region.log_prior

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
        for first in range(0, n_stars, size):
            some = slice(first, first + size)
            one, weight, noise = native(flux[some]), native(ivar[some]), None
            if covariance is not None:
                weight, noise = with_covariances(weight, covariance[some])
            yield one, weight, noise

    parts = []
    for part in in_parallel(lambda spectra: _batch(regions, *spectra, size), batches()):
        parts.append(part)
        if progress is not None:
            progress(len(part.labels))
    return LabelPosteriorMoments.concatenated(parts or [_none(regions)])


def batch_size(n_stars: int) -> int:
    """Stars of a batch: one of few numbers, so that few programs are compiled."""
    return TOGETHER if n_stars <= TOGETHER else BATCH


class _Compressed(NamedTuple):
    """Likelihoods of a batch by a region, what their logarithm is at chi^2 = 0, and its largest value, with the share.

    All have shape (star, ...).
    """

    likelihood: StarLikelihood
    base: np.ndarray
    bound: np.ndarray


def _none(regions: Sequence[RegionModel]) -> LabelPosteriorMoments:
    k, shape = regions[0].trained.n_labels, (0,)
    return LabelPosteriorMoments(
        np.zeros((0, k)), np.zeros((0, k, k)), np.zeros(shape), np.zeros(shape), np.zeros((0, len(regions))),
        np.zeros((0, k)),
    )  # fmt: skip


def _batch(
    regions: Sequence[RegionModel], flux: np.ndarray, ivar: np.ndarray, noise: np.ndarray | None, size: int
) -> LabelPosteriorMoments:
    """Posterior of one batch, in label units."""
    n_stars, n_labels = len(flux), regions[0].trained.n_labels
    with own_jax_settings():
        padded = (
            padded_batch(flux, size),
            padded_batch(ivar, size),
            None if noise is None else padded_batch(noise, size),
        )
        found = [_compressed(region, *padded, rough=len(regions) > 1) for region in regions]
        bound = np.array([part.bound[:n_stars] for part in found])
        usable = np.isfinite(bound).any(axis=0)
        bound = np.where(np.isfinite(bound), bound, -np.inf)
        mean = np.full((len(regions), n_stars, n_labels), np.nan)
        covariance = np.full((*mean.shape, n_labels), np.nan)
        log_z, efficiency = np.full(mean.shape[:2], -np.inf), np.full(mean.shape[:2], np.nan)
        first = np.argmax(bound, axis=0)
        for later in (False, True):
            best = log_z.max(axis=0)
            for r, (region, part) in enumerate(zip(regions, found, strict=True)):
                wanted = (first != r) & (bound[r] > best - NEGLIGIBLE) if later else first == r
                for rows in _groups(np.flatnonzero(wanted & usable)):
                    here = rows[0]
                    out = _moments(region, part, rows[1])
                    n = len(here)
                    mean[r, here], covariance[r, here] = out.mean[:n], out.covariance[:n]
                    log_z[r, here] = out.log_evidence[:n] + part.base[here] + region.log_share
                    efficiency[r, here] = out.efficiency[:n]
    return _mixed(regions, found, mean, covariance, log_z, efficiency)


def _groups(rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """A fixed number of rows at a time, and the same filled up with the last."""
    for start in range(0, len(rows), GROUP):
        part = rows[start : start + GROUP]
        yield part, np.pad(part, (0, GROUP - len(part)), mode="edge")


def _compressed(
    region: RegionModel, flux: np.ndarray, ivar: np.ndarray, noise: np.ndarray | None = None, *, rough: bool = False
) -> _Compressed:
    trained = region.trained
    tables, n_stars = trained.tables.of_stars(noise), len(flux)
    found = compressed_batch(tables, flux, ivar)
    together = by_device(STARS_IN_CACHE, n_stars)
    starts = np.zeros((n_stars, 0, trained.n_labels))
    by_labels = tables.scale_of(found.n_tail)
    best, *_ = search(tables.starts, found.coefficients, starts, together, by_labels)
    scale = tables.scatter.star_scale(found.root, found.w)
    nu, count = float(trained.scatter.nu), np.asarray(found.n_tail, float)
    n_terms = trained.terms.n_terms
    inside, included = np.zeros((n_terms, n_terms)), 1.0
    if region.theta_covariance is not None:
        inside, included = region.theta_covariance, trained.scatter.theta_included
    coefficients, maximum, widened = found.coefficients, best.x[:, 0], None
    if trained.theta_errors is not None:
        coefficients, widened = widened_spectra(trained, region.prior, found, maximum)
        maximum = widened[0]
    likelihood = StarLikelihood(
        coefficients,
        maximum,
        jnp.asarray(nu),
        jnp.asarray(count),
        scale,
        jnp.asarray(inside),
        included,
        widened,
        tables.label_scale,
    )
    log_det = np.asarray(tables.scatter.log_det(found.root, found.w))
    base = np.asarray(student_t.log_density(np.zeros(n_stars), log_det, count, nu))
    value, k, lift = np.asarray(best.value[:, 0]), np.ones(n_stars), np.ones(n_stars)
    if by_labels is None:
        value = np.maximum(value, 0.0)
    if region.theta_covariance is not None:
        if by_labels is not None:
            exponent = by_labels.exponent(best.x[:, 0])
            lift = np.exp(exponent)
            value = np.maximum(np.asarray(by_labels.chi_squared(value, exponent)), 0.0) * lift
        least = lift + np.maximum((1 / included - 1) / np.asarray(scale), LEAST_GROWTH * lift)
        k = np.maximum(np.maximum(value / np.maximum(count, 1.0), least), np.finfo(float).tiny)
    bound = np.asarray(student_t.log_density(value / k, log_det + count * np.log(k), count, nu))
    if rough and region.log_prior is None:
        evidence = rough_log_evidence(tables.starts.moment_tables, likelihood, region.proposal, region.space)
        bound = np.minimum(bound, np.asarray(evidence) + base + MARGIN)
    good = (np.asarray(found.used) > 0) & ~np.asarray(found.faulty)
    return _Compressed(likelihood, base, np.where(good, bound + region.log_share, np.nan))


def _moments(region: RegionModel, part: _Compressed, rows: np.ndarray) -> Any:
    stars = part.likelihood.at(rows)
    numbers = points(region.trained.n_labels, FIRST, SECOND)
    out = label_moments(
        region.trained.tables.starts.moment_tables, stars, region.proposal, region.space, numbers, region.log_prior
    )
    return jax.tree.map(np.asarray, out)


def _mixed(
    regions: Sequence[RegionModel], found: Sequence[_Compressed], mean: np.ndarray, covariance: np.ndarray,
    log_z: np.ndarray, efficiency: np.ndarray,
) -> LabelPosteriorMoments:  # fmt: skip
    """The mixture over the regions, in label units."""
    scaling, n_stars = regions[0].trained.scaling, mean.shape[1]
    top = log_z.max(axis=0)
    known = np.isfinite(top)
    weight = np.exp(log_z - np.where(known, top, 0.0))
    total = np.where(known, weight.sum(axis=0), np.nan)
    weight = weight / total
    counted = np.where(weight[..., None] > 0, mean, 0.0)
    x, matrix = mixture_moments(weight, counted, np.where(weight[..., None, None] > 0, covariance, 0.0))
    best = np.argmax(log_z, axis=0)
    maxima = np.array([np.asarray(part.likelihood.maximum)[:n_stars] for part in found])
    maximum = np.where(known[:, None], maxima[best, np.arange(n_stars)], np.nan)
    return LabelPosteriorMoments(
        scaling.unscaled(x), scaling.unscaled_covariance(matrix), np.where(known, top + np.log(total), np.nan),
        np.sum(weight * np.where(weight > 0, efficiency, 0.0), axis=0), weight.T, scaling.unscaled(maximum),
    )  # fmt: skip


def mixture_moments(weight: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of mixtures, from weights (part, star), means (part, star, label), and covariances."""
    centre = np.einsum("rn,rni->ni", weight, mean)
    away = mean - centre
    return centre, np.einsum("rn,rnij->nij", weight, covariance + away[..., :, None] * away[..., None, :])
