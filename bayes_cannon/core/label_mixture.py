r"""The population of labels as a mixture of normal distributions, learned from stars whose labels have errors.

.. math:: p(l) = \sum_j \alpha_j N(l; m_j, V_j), \qquad p(\hat l_n) = \sum_j \alpha_j N(\hat l_n; m_j, V_j + S_n)

with :math:`\hat l_n` the labels of star n that are known, and S_n the covariance of their errors. The likelihood of all
stars is maximized by EM ("extreme deconvolution", Bovy, Hogg & Roweis 2011, Annals of Applied Statistics 5, 1657). With
:math:`T = V_j + S_n`, :math:`u = T^{-1} (\hat l_n - m_j)`, and :math:`\langle\rangle` the mean over stars by their
shares in component j, a step of their section 3 is

.. math:: m_j \leftarrow m_j + d, \quad d = V_j \langle u \rangle, \qquad
          V_j \leftarrow V_j - V_j \langle T^{-1} - u u^T \rangle V_j - d d^T .

The covariance is kept above a fraction of that of all stars, its floor, so that no component collapses on one star.
That is maximum likelihood among such mixtures, and alters no component that is wider.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from scipy.special import logsumexp, softmax

from bayes_cannon.core.arguments import generator, number, shown, whole_number
from bayes_cannon.core.folds import folds, same_labels
from bayes_cannon.core.label_mixture_input import population_stars
from bayes_cannon.core.records import dims
from bayes_cannon.core.scaling import LabelScaling

N_STARTS, FIRST_STEPS = 5, 10
"""Starts, and the steps of EM after which the likeliest goes on alone."""
MOST_STEPS, TOLERANCE = 1000, 1e-5
"""Steps of EM at most, and the gain of the mean log likelihood of a star below which it ends."""
NUMBERS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Numbers of components that `population` tries."""
N_FOLDS, STARS_PER_LABEL = 5, 10
"""Folds that `population` holds out, and how many stars it needs for a component and label."""
FLOOR = 1e-3
"""Smallest variance of a component relative to that of all stars."""
NO_WIDTH = 1e-10
"""Variance relative to that of each label, below which labels lie in a plane."""
BLOCK = 2**13
"""Components times stars that are worked on together: as many as the cache of a processor holds."""


_Rows = list[list[Any]]


@dataclass(frozen=True, eq=False)
class LabelMixture:
    """A mixture of normal distributions of the labels. Learn it by `population` or `fit_mixture`.

    Attributes
    ----------
    weights
        Share of each component, shape (component,), which add up to one.
    means
        In label units, shape (component, label).
    covariances
        In label units, shape (component, label, label).

    Examples
    --------
    >>> from bayes_cannon.core.label_mixture import LabelMixture
    >>> mixture = LabelMixture(
    ...     np.array([0.75, 0.25]), np.array([[4500.0, 2.0], [5500.0, 4.0]]), np.array([np.diag([1e4, 0.04])] * 2)
    ... )
    >>> mixture.mean, mixture.covariance.diagonal()
    (array([4.75e+03, 2.50e+00]), array([1.975e+05, 7.900e-01]))
    >>> mixture.shares([[4500.0, 2.0], [5030.0, 2.96]]).round(2)
    array([[1.  , 0.  ],
           [0.52, 0.48]])

    """

    weights: np.ndarray = field(metadata=dims("component", about="share of each component of the population"))
    means: np.ndarray = field(metadata=dims("component", "label", about="mean labels, in their units"))
    covariances: np.ndarray = field(metadata=dims("component", "label", "other_label", about="in label units"))

    @property
    def n_components(self) -> int:
        """Number of components."""
        return len(self.weights)

    @property
    def mean(self) -> np.ndarray:
        """Mean of the whole population, in label units, shape (label,)."""
        return self.weights @ self.means

    @property
    def covariance(self) -> np.ndarray:
        """Covariance of the whole population, in label units, shape (label, label)."""
        away = self.means - self.mean
        return np.tensordot(self.weights, self.covariances + away[:, :, None] * away[:, None], axes=1)

    def log_density(self, labels: np.ndarray) -> np.ndarray:
        """Natural logarithm of the density per unit of the labels, shape (star,), at labels (star, label)."""
        return np.asarray(logsumexp(self._log_joint(labels), axis=0))

    def shares(self, labels: np.ndarray) -> np.ndarray:
        """Probability of each component given the labels (star, label), shape (star, component)."""
        return np.asarray(softmax(self._log_joint(labels), axis=0)).T

    def scaled(self, scaling: LabelScaling) -> "LabelMixture":
        """The mixture of the scaled labels."""
        unit = scaling.factor * scaling.scale
        return LabelMixture(self.weights, scaling.scaled(self.means), self.covariances / np.outer(unit, unit))

    def _log_joint(self, labels: np.ndarray) -> np.ndarray:
        """Logarithm of weight times density of each component, shape (component, star)."""
        x = np.asarray(labels, float).T
        return _densities(self, x, np.zeros((len(x), len(x), 1)))[0]


def fit_mixture(
    labels: Any, n_components: int, *, errors: Any = None, weights: Any = None, seed: Any = 0, floor: float = FLOOR
) -> LabelMixture:
    r"""The mixture of maximum likelihood, :math:`\sum_n w_n \ln p(\hat l_n)`, deconvolved from the labels' errors.

    EM begins at several random starts; the likeliest after a few steps goes on. It may end in a local maximum. What is
    found does not depend on the units of the labels, nor on linear combinations of them, but for the choice of starts.

    Parameters
    ----------
    labels
        In their units, shape (star, label).
    n_components
        Number of components.
    errors
        Of the labels: standard deviations (star, label) or covariances (star, label, label), in label units. NaN is an
        error that is not known, and counts as none; so does None.
    weights
        w_n, shape (star,), not negative: of stars that were chosen otherwise than the population, the inverse of the
        probability to be chosen, or the share of a star in a region. None: all one. A common factor is without effect.
    seed
        Of the starts: an integer, or NumPy's generator.
    floor
        Variance of a component relative to that of all stars, in any direction, at least.

    Returns
    -------
    mixture
        In label units, the component of the largest weight first.

    Raises
    ------
    ValueError
        For labels that are not finite or have no width in some direction, fewer stars than labels plus two, errors or
        weights of another shape, negative or infinite, and weights that are all zero.

    Examples
    --------
    The errors of these labels are as large as the width of the population, 100 K.

    >>> from bayes_cannon.core.label_mixture import fit_mixture
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.normal(5000, 100, (4000, 1)) + rng.normal(0, 100, (4000, 1))
    >>> widths = [fit_mixture(labels, 1, errors=errors).covariance[0, 0] ** 0.5 for errors in (None, 0 * labels + 100)]
    >>> np.round(widths, -1)
    array([140., 100.])

    """
    n_components = whole_number(n_components, "n_components", 1)
    if not 0 < number(floor) < 1:
        raise ValueError(f"floor must be between 0 and 1, got {shown(floor)}")
    stars, frame = _standardized(labels, errors, weights)
    return frame.in_label_units(_fitted(stars, n_components, generator(seed), floor))


def population(labels: Any, *, errors: Any = None, weights: Any = None, seed: Any = 0, most: int = 16) -> LabelMixture:
    r"""The population of labels: a mixture with as many components as predict held-out stars best.

    The number is that of `NUMBERS` with the highest log likelihood of the stars of five folds, errors included, each
    given the mixture of the other four, from one up; the search ends when two in a row are no better. Stars that have
    all labels in common are in one fold. There are never more than one component per ten stars and label, where stars
    count by their weights, as :math:`(\sum w)^2 / \sum w^2` of them.

    Parameters
    ----------
    labels, errors, weights, seed
        As of `fit_mixture`; the seed also draws the folds.
    most
        Number of components at most.

    Returns
    -------
    mixture
        In label units, of all stars, the component of the largest weight first.

    Raises
    ------
    ValueError
        As of `fit_mixture`.

    Examples
    --------
    >>> from bayes_cannon.core.label_mixture import population
    >>> rng = np.random.default_rng(0)
    >>> giants, dwarfs = rng.normal([4600, 2.3], [300, 0.6], (300, 2)), rng.normal([5800, 4.4], [300, 0.2], (100, 2))
    >>> mixture = population(np.concatenate([giants, dwarfs]), errors=np.full((400, 2), [60, 0.1]))
    >>> mixture.weights.round(2), mixture.means[:, 1].round(1)
    (array([0.75, 0.25]), array([2.3, 4.4]))

    """
    most, rng = whole_number(most, "most", 1), generator(seed)
    stars, frame = _standardized(labels, errors, weights)
    n_labels, n_stars = stars.x.shape
    limit = min(most, int(1 / np.sum(stars.weights**2) / (STARS_PER_LABEL * n_labels)))
    numbers, best, highest, failed = [n for n in NUMBERS if n <= limit], 1, -np.inf, 0
    if len(numbers) > 1:
        fold = folds(n_stars, N_FOLDS, int(rng.integers(2**32)), same_labels(stars.x.T, N_FOLDS))
        for n_components in numbers:
            score = _held_out(stars, fold, n_components, rng)
            failed = 0 if score > highest else failed + 1
            if failed == 2:
                break
            if failed == 0:
                best, highest = n_components, score
    return frame.in_label_units(_fitted(stars, best, rng, FLOOR))


class _Stars(NamedTuple):
    """Standardized labels (label, star), covariances of their errors (label, label, star or 1), and weights (star,)."""

    x: np.ndarray
    noise: np.ndarray
    weights: np.ndarray

    def of(self, stars: np.ndarray | slice) -> "_Stars":
        """Some of the stars."""
        noise = self.noise if self.noise.shape[-1] == 1 else self.noise[..., stars]
        return _Stars(self.x[:, stars], noise, self.weights[stars])

    def blocks(self, n_components: int) -> Iterator["_Stars"]:
        """All stars, some at a time."""
        size = max(1, BLOCK // (n_components * 1))
        return (self.of(slice(first, first + size)) for first in range(0, self.x.shape[1], size))


class _Frame(NamedTuple):
    """Labels are ``mean + root x`` of standardized ones x, which have mean zero and the identity as covariance."""

    mean: np.ndarray
    root: np.ndarray

    def in_label_units(self, mixture: LabelMixture) -> LabelMixture:
        """The mixture of the labels, components of the largest weight first."""
        order = np.argsort(-mixture.weights, kind="stable")
        means = self.mean + mixture.means[order] @ self.root.T
        return LabelMixture(mixture.weights[order], means, self.root @ mixture.covariances[order] @ self.root.T)


def _standardized(labels: Any, errors: Any, weights: Any) -> tuple[_Stars, _Frame]:
    """The stars of positive weight, and the frame in which they have mean zero and covariance one."""
    labels, noise, weights = population_stars(labels, errors, weights)
    frame = _frame(labels, weights)
    inverse = np.linalg.inv(frame.root)
    noise = np.zeros((*inverse.shape, 1)) if noise is None else (inverse @ noise @ inverse.T).transpose(1, 2, 0)
    return _Stars(inverse @ (labels - frame.mean).T, np.ascontiguousarray(noise), weights), frame


def _frame(labels: np.ndarray, weights: np.ndarray) -> _Frame:
    constant = np.ptp(labels, axis=0) == 0
    if constant.any():
        label = int(np.argmax(constant))
        raise ValueError(
            f"column {label} of labels is {labels[0, label]} for all stars of positive weight, a population without "
            "width: leave that label out"
        )
    mean = weights @ labels
    width = np.sqrt(weights @ (labels - mean) ** 2)
    z = (labels - mean) / width
    correlation = (z.T * weights) @ z
    variance, directions = np.linalg.eigh(correlation)
    if not variance[0] > NO_WIDTH:
        members = np.flatnonzero(np.abs(directions[:, 0]) > 1e-3).tolist()
        raise ValueError(
            f"the labels lie in a plane, a population without width: columns {', '.join(map(str, members))} determine "
            "each other. Leave one of them out"
        )
    return _Frame(mean, width[:, None] * np.linalg.cholesky(correlation))


def _fitted(stars: _Stars, n_components: int, rng: np.random.Generator, floor: float) -> LabelMixture:
    """The mixture of standardized labels."""
    n_starts = N_STARTS if n_components > 1 else 1
    starts = [_start(stars, n_components, rng, floor) for _ in range(n_starts)]
    tried = [_climbed(start, stars, FIRST_STEPS, floor) for start in starts]
    return _climbed(max(tried, key=lambda one: one[1])[0], stars, MOST_STEPS, floor)[0]


def _held_out(stars: _Stars, fold: np.ndarray, n_components: int, rng: np.random.Generator) -> float:
    """Mean log likelihood of stars that are held out, over the folds."""
    score = 0.0
    for k in range(N_FOLDS):
        mixture = _fitted(stars.of(fold != k), n_components, rng, FLOOR)
        out = stars.of(fold == k)
        score += float(out.weights @ logsumexp(_densities(mixture, out.x, out.noise)[0], axis=0))
    return score


def _start(stars: _Stars, n_components: int, rng: np.random.Generator, floor: float) -> LabelMixture:
    """Spheres about stars that are drawn as k-means++ does (Arthur & Vassilvitskii 2007): the farther the likelier."""
    x, weights = stars.x, stars.weights
    distance, means = np.full(x.shape[1], 1.0), np.empty((n_components, len(x)))
    for j in range(n_components):
        probability = weights * distance
        total = probability.sum()
        means[j] = x[:, rng.choice(len(weights), p=probability / total if total > 0 else weights / weights.sum())]
        nearest = np.sum((x - means[j][:, None]) ** 2, axis=0)
        distance = nearest if j == 0 else np.minimum(distance, nearest)
    variance = max(weights @ distance / weights.sum() / len(x), floor)
    spheres = np.broadcast_to(variance * np.eye(len(x)), (n_components, len(x), len(x)))
    return LabelMixture(np.full(n_components, 1 / n_components), means, spheres)


def _climbed(mixture: LabelMixture, stars: _Stars, n_steps: int, floor: float) -> tuple[LabelMixture, float]:
    """The mixture after steps of EM until they gain nothing, at most so many, and its mean log likelihood."""
    before = -np.inf
    for _ in range(n_steps):
        better, value = _step(mixture, stars, floor)
        if value - before < TOLERANCE:
            break
        mixture, before = better, value
    return mixture, value


def _step(mixture: LabelMixture, stars: _Stars, floor: float) -> tuple[LabelMixture, float]:
    """One step of EM, and the mean log likelihood of the mixture that it began at."""
    n_components, n_labels = mixture.means.shape
    value, mass = 0.0, np.zeros(n_components)
    towards, away = np.zeros((n_components, n_labels)), np.zeros((n_components, n_labels, n_labels))
    for some in stars.blocks(n_components):
        log_joint, root, y = _densities(mixture, some.x, some.noise)
        highest = log_joint.max(axis=0)
        share = np.exp(log_joint - highest)
        total = share.sum(axis=0)
        value += some.weights @ (highest + np.log(total))
        share *= some.weights / total
        mass += share.sum(axis=1)
        u = [_dot(root[a][a:], y[a:]) for a in range(n_labels)]
        for a in range(n_labels):
            towards[:, a] += np.einsum("jn,jn->j", share, u[a])
            for b in range(a, n_labels):
                away[:, a, b] += np.einsum("jn,jn->j", share, _dot(root[a][b:], root[b][b:]) - u[a] * u[b])
                away[:, b, a] = away[:, a, b]
    count = np.maximum(mass, np.finfo(float).tiny)[:, None]
    shift = (mixture.covariances @ (towards / count)[..., None])[..., 0]
    narrower = mixture.covariances @ (away / count[:, None]) @ mixture.covariances
    covariances = mixture.covariances - narrower - shift[:, :, None] * shift[:, None]
    variance, axes = np.linalg.eigh(0.5 * (covariances + covariances.swapaxes(1, 2)))
    covariances = (axes * np.maximum(variance, floor)[:, None]) @ axes.swapaxes(1, 2)
    return LabelMixture(mass / mass.sum(), mixture.means + shift, covariances), float(value / stars.weights.sum())


def _densities(mixture: LabelMixture, x: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, _Rows, list[np.ndarray]]:
    """Logarithm of weight times density of each component, shape (component, star), and what else a step of EM needs.

    That is R with R R' the inverse of the covariance T, noise included, and y = R' (x - m), as nested lists of arrays
    (component, star), R zero below its diagonal. They are found by elimination in all stars and components together:
    NumPy's own functions call LAPACK for each of them, and take ten times longer.
    """
    n_labels = range(len(x))
    left = [[mixture.covariances[:, i, k, None] + noise[i, k] for k in range(i + 1)] for i in n_labels]
    root: _Rows = [[float(a == i) for i in n_labels] for a in n_labels]
    y = [x[k] - mixture.means[:, k, None] for k in n_labels]
    for k in n_labels:
        for i in n_labels[k + 1 :]:
            factor = left[i][k] / left[k][k]
            for j in n_labels[k + 1 : i + 1]:
                left[i][j] -= factor * left[j][k]
            for a in n_labels[: k + 1]:
                root[a][i] = root[a][i] - factor * root[a][k]
            y[i] -= factor * y[k]
    log_det = sum(np.log(left[k][k]) for k in n_labels)
    for k in n_labels:
        scale = 1 / np.sqrt(left[k][k])
        y[k] *= scale
        for a in n_labels[: k + 1]:
            root[a][k] = root[a][k] * scale
    with np.errstate(divide="ignore"):
        log_weight = np.log(mixture.weights)[:, None]
    return log_weight - 0.5 * (_dot(y, y) + log_det + len(x) * np.log(2 * np.pi)), root, y


def _dot(one: list[Any], other: list[Any]) -> Any:
    return sum(a * b for a, b in zip(one, other, strict=True))
