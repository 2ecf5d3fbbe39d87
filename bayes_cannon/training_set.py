r"""Choosing a balanced training set from many labelled stars.

Surveys label red-clump giants by the thousand and metal-poor ones by the dozen. A model trained on all of them, or on a
random draw, is fitted to the crowd; the quadratic then fits the crowd at the expense of the edges. Two ways to cover
label space more evenly are offered. Both work in scaled labels (see :mod:`bayes_cannon.core.scaling`), and neither
depends on the order of the stars.

``"density"`` draws stars at random without replacement, with weights :math:`density^{-\alpha}`. It keeps some of the
crowd, so that averages over the training set remain meaningful.

``"space_filling"`` takes, one after the other, the star farthest from all chosen so far (Gonzalez 1985). The largest
distance from any star to its nearest chosen one is at most twice the smallest possible. It takes extreme stars first,
among them those with wrong labels: see ``trim``.

The density of a star is :math:`r_k^{-d}`, with :math:`r_k` the distance to its k-th nearest neighbour and d the
intrinsic dimension of the labels, estimated from the same neighbours (Levina & Bickel 2004). 1e5 stars with 20 labels
take seconds; the time of a space-filling choice grows in proportion to n.
"""

from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.spatial import cKDTree

from bayes_cannon.core.arguments import generator, number
from bayes_cannon.core.checks import unusable
from bayes_cannon.core.intake import flux_and_ivar
from bayes_cannon.core.labels import all_label_names, label_array
from bayes_cannon.core.scaling import LabelScaling

__all__ = ["balance", "isolated", "usable"]

METHODS = ("density", "space_filling")

FEW_LABELS = 6
"""Up to this many labels neighbours are sought among all stars; beyond it trees are slow, so among some."""

MAX_REFERENCES = 3000
"""Number of stars among which neighbours are sought where the labels are more than a few."""


def balance(
    labels: Any,
    n: int,
    *,
    label_names: Any = None,
    method: str = "density",
    seed: int | np.random.Generator | None = None,
    alpha: float | None = None,
    n_neighbors: int = 10,
    trim: float = 0.0,
) -> np.ndarray:
    r"""Rows of n stars that cover label space evenly.

    Parameters
    ----------
    labels
        Labels of all stars, in any container that `bayes_cannon.core.labels.label_array` takes.
    n
        Number of stars to choose, at least 1 and at most as many as there are after trimming.
    label_names
        Names of the labels that shall be covered; by default all columns.
    method
        ``"density"``, a weighted random draw, or ``"space_filling"``, which is not random.
    seed
        Seed or generator of the draw; needed for ``"density"``, not used otherwise.
    alpha
        Power of the density in the weights w of ``"density"``: 0 is a plain random draw, 1 makes the chosen stars
        uniformly dense as far as there are stars. In many dimensions 1 would choose the outermost stars only; None is
        the largest alpha up to 1 that leaves an effective number of stars ``(sum w)^2 / sum w^2`` of n, or N / 4.
    n_neighbors
        Which nearest neighbour measures the density.
    trim
        Fraction of the stars, the most isolated ones, that is never chosen; see `isolated`.

    Returns
    -------
    chosen
        Row numbers of the chosen stars, increasing, shape (n,).

    Raises
    ------
    ValueError
        For bad labels (see `label_array`), a constant label, and any argument outside what is said above.

    Examples
    --------
    >>> fe_h = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 1.0, 2.0])
    >>> tc.training_set.balance({"FE_H": fe_h}, 3, method="space_filling")
    array([3, 5, 6])
    >>> tc.training_set.balance({"FE_H": fe_h}, 3, seed=0, n_neighbors=2).shape
    (3,)

    """
    _refuse_bad_choice(method, seed, alpha)
    x, order = _scaled_and_ordered(labels, label_names)
    kept = np.arange(len(x))
    if trim != 0 or method == "density":
        distances = _neighbor_distances(x, n_neighbors)
        kept = np.setdiff1d(kept, _most_isolated(distances, trim))
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or not 1 <= n <= len(kept):
        raise ValueError(f"n must be an integer from 1 to the number of stars, {len(kept)}; got {n!r}")
    if method == "density":
        picked = _draw(distances[kept], int(n), alpha, x.shape[1], generator(seed))
    else:
        picked = _farthest_points(x[kept], int(n))
    return np.sort(order[kept[picked]])


def isolated(labels: Any, trim: float, *, label_names: Any = None, n_neighbors: int = 10) -> np.ndarray:
    """Rows of the most isolated stars, those that `balance` with the same ``trim`` never chooses.

    Isolation is the distance to the ``n_neighbors``-th nearest star in scaled labels. Such a star may be rare, or have
    wrong labels.

    Parameters and errors are those of `balance`.

    Returns
    -------
    rows
        Row numbers, the most isolated star first, shape (floor(trim * star),).

    Examples
    --------
    >>> tc.training_set.isolated({"FE_H": [0.0, 0.1, 0.2, 0.3, 0.4, 1.0, 2.0]}, trim=0.3, n_neighbors=2)
    array([6, 5])

    """
    x, order = _scaled_and_ordered(labels, label_names)
    return order[_most_isolated(_neighbor_distances(x, n_neighbors), trim)]


def usable(flux: Any, ivar: Any) -> np.ndarray:
    """Which stars can train: their ivar is finite and not negative, and flux is finite where ivar is positive.

    Parameters
    ----------
    flux, ivar
        Spectra, shape (star, pixel), in any container that the model takes.

    Returns
    -------
    good
        Boolean, shape (star,).

    Raises
    ------
    ValueError
        For shapes that differ, and for what is no real number.

    Examples
    --------
    >>> flux, ivar = np.ones((3, 4)), np.ones((3, 4))
    >>> flux[1, 2] = np.nan
    >>> tc.training_set.usable(flux, ivar)
    array([ True, False,  True])

    """
    flux, ivar, _ = flux_and_ivar(flux, ivar)
    flux, ivar = np.atleast_2d(np.asarray(flux)), np.atleast_2d(np.asarray(ivar))
    if flux.shape != ivar.shape:
        raise ValueError(f"flux and ivar must have the same shape, got {flux.shape} and {ivar.shape}")
    bad_ivar, bad_flux = unusable(flux, ivar)
    return ~(bad_ivar | bad_flux).any(axis=1)


def _refuse_bad_choice(method: str, seed: Any, alpha: float | None) -> None:
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"unknown method {method!r}; the methods are {', '.join(METHODS)}")
    if method == "density" and seed is None:
        raise ValueError('method "density" draws at random: pass seed=, an integer, so that the draw can be repeated')
    if alpha is not None and (method != "density" or not 0 <= number(alpha) < np.inf):
        raise ValueError(f'alpha must be finite, not negative, and is for method "density" only; got {alpha!r}')


def _scaled_and_ordered(labels: Any, label_names: Any) -> tuple[np.ndarray, np.ndarray]:
    """Scaled labels sorted by value, and the row that each came from: the order of the stars shall not matter."""
    names = all_label_names(labels) if label_names is None else label_names
    values = label_array(labels, names)
    x = LabelScaling.from_labels(values, names).scaled(values)
    order = np.lexsort(x.T[::-1])
    return x[order], order


def _neighbor_distances(x: np.ndarray, n_neighbors: int) -> np.ndarray:
    """Distances from each star to its nearest others, nearest first, shape (star, neighbour).

    With many labels the others are every m-th star of the sorted list, and a distance may be the one to a neighbour
    up to twice as far as the true one; it hardly ever is by more than some per cent.
    """
    if isinstance(n_neighbors, bool) or not isinstance(n_neighbors, int | np.integer) or n_neighbors < 1:
        raise ValueError(f"n_neighbors must be a positive integer, got {n_neighbors!r}")
    n_stars, n_labels = x.shape
    few = n_labels <= FEW_LABELS
    step = 1 if few else -(-n_stars // MAX_REFERENCES)
    references = np.arange(0, n_stars, step)
    k = min(int(n_neighbors), len(references) - 1)
    distances, neighbors = cKDTree(x[references]).query(x, k=np.arange(1, k + 2), eps=0.0 if few else 1.0, workers=-1)
    itself = references[neighbors] == np.arange(n_stars)[:, None]
    # A star that is not found among its neighbours, or whose twins hide it, drops its farthest neighbour instead.
    itself[~itself.any(axis=1), -1] = True
    return distances[~itself].reshape(n_stars, k)


def _most_isolated(distances: np.ndarray, trim: float) -> np.ndarray:
    if not 0 <= number(trim) < 1:
        raise ValueError(f"trim must be a fraction from 0 to below 1, got {trim!r}")
    farthest_first = np.argsort(-distances[:, -1], kind="stable")
    return farthest_first[: int(trim * len(distances))]


def _draw(
    distances: np.ndarray, n: int, alpha: float | None, n_labels: int, generator: np.random.Generator
) -> np.ndarray:
    """Draw n stars without replacement with weights density^-alpha, by the largest of ln w + Gumbel noise."""
    positive = distances[distances > 0]
    distances = np.log(np.maximum(distances, positive.min(initial=1.0)))
    log_inverse_density = _intrinsic_dimension(distances, n_labels) * distances[:, -1]
    if alpha is None:
        alpha = _tempered(log_inverse_density, min(n, len(distances) / 4))
    keys = alpha * log_inverse_density + generator.gumbel(size=len(distances))
    return np.argsort(-keys, kind="stable")[:n]


def _intrinsic_dimension(log_distances: np.ndarray, n_labels: int) -> float:
    """``1 / mean(ln r_k / r_j)`` over stars and neighbours j < k, at most that of labels (Levina & Bickel 2004)."""
    spread = (log_distances[:, -1:] - log_distances[:, :-1]).mean() if log_distances.shape[1] > 1 else 0.0
    return min(1.0 / spread, float(n_labels)) if spread > 0 else float(n_labels)


def _tempered(log_weight: np.ndarray, wanted: float) -> float:
    """Return the largest alpha up to 1 at which the weights leave the wanted effective number of stars."""
    log_weight = log_weight - log_weight.max()

    def excess(alpha: float) -> float:
        w = np.exp(alpha * log_weight)
        return w.sum() ** 2 / (w**2).sum() - wanted

    return 1.0 if excess(1.0) >= 0 else float(brentq(excess, 0.0, 1.0, xtol=1e-6))


def _farthest_points(x: np.ndarray, n: int) -> np.ndarray:
    """Greedy choice, from the star nearest the medians on; half squared distances as (|x|^2 + |c|^2) / 2 - x.c."""
    columns = np.ascontiguousarray(x.T)
    half_squared = (columns**2).sum(axis=0) / 2
    chosen = np.empty(n, dtype=np.intp)
    nearest = np.full(len(x), np.inf)
    distance = np.empty(len(x))
    candidate = int(half_squared.argmin())
    for i in range(n):
        chosen[i] = candidate
        np.einsum("k,kn->n", columns[:, candidate].copy(), columns, out=distance)
        np.subtract(half_squared, distance, out=distance)
        distance += half_squared[candidate]
        np.minimum(nearest, distance, out=nearest)
        nearest[candidate] = -np.inf
        candidate = int(nearest.argmax())
    return chosen
