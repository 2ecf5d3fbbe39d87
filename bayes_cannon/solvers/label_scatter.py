r"""Scatter of labels that the model of the spectra knows nothing of.

Where a model is wrong along its own labels, because a polynomial cannot follow them or the reference labels err, the
labels of a star are off by more than its spectrum tells, however small the noise. With the displacements d of stars
that took no part in the training, and the covariances C that their fits state,

.. math:: d_n \sim \mathrm{Normal}(0, C_n + \Sigma)

has one covariance :math:`\Sigma` of all stars, which maximizes the likelihood here. It is what has to be added to the
covariances of other stars.
"""

import numpy as np
from scipy.optimize import minimize

GRADIENT_TOLERANCE = 1e-7
"""On the derivative of the mean of ``-2 ln L`` by the elements of the Cholesky factor, in units of robust scatter."""


def label_scatter(difference: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    r"""Maximum-likelihood :math:`\Sigma`, positive semi-definite, shape (label, label).

    Parameters
    ----------
    difference
        Inferred minus reference labels of stars that took no part in the training, shape (star, label).
    covariance
        Of the inferred labels, shape (star, label, label). Stars where either is not finite take no part.

    Raises
    ------
    ValueError
        If fewer stars are known than the covariance has elements.

    """
    known = np.isfinite(difference).all(axis=1) & np.isfinite(covariance).all(axis=(1, 2))
    n_labels = difference.shape[1]
    n_elements = n_labels * (n_labels + 1) // 2
    if known.sum() <= n_elements:
        raise ValueError(
            f"the scatter of {n_labels} labels has {n_elements} elements, but only {known.sum()} held-out stars have "
            "labels with errors: train on more stars"
        )
    unit = np.sqrt(np.mean(difference[known] ** 2, axis=0))
    d, c = difference[known] / unit, covariance[known] / np.outer(unit, unit)
    rows, columns = np.tril_indices(n_labels)

    def loss(elements: np.ndarray) -> tuple[float, np.ndarray]:
        root = np.zeros((n_labels, n_labels))
        root[rows, columns] = elements
        total = np.linalg.cholesky(c + root @ root.T)
        inverse = np.linalg.inv(total)
        precision = inverse.swapaxes(1, 2) @ inverse
        pulled = np.einsum("nkl,nl->nk", precision, d)
        log_det = 2 * np.log(np.einsum("nkk->nk", total)).sum(axis=1)
        gradient = np.mean(precision - pulled[:, :, None] * pulled[:, None, :], axis=0)
        return float(np.mean(np.sum(d * pulled, axis=1) + log_det)), (2 * gradient @ root)[rows, columns]

    start = np.where(rows == columns, 0.5, 0.0)
    best = minimize(loss, start, jac=True, method="BFGS", options={"gtol": GRADIENT_TOLERANCE, "maxiter": 2000})
    root = np.zeros((n_labels, n_labels))
    root[rows, columns] = best.x
    return root @ root.T * np.outer(unit, unit)
