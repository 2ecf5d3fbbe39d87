"""Regressors of scikit-learn on the stars of `local.py`: scatter of labels of held-out stars, in the same folds.

Gradient boosting of histograms, a small ensemble of neural networks and kernel ridge regression, each on the leading
whitened components of the spectra, with settings chosen by folds of the training stars alone.
"""

from collections.abc import Callable, Sequence
from time import process_time

import numpy as np
from common import arguments, machine, measured, number, publish, table
from local import N_FOLDS, ROWS, Stars
from sklearn.compose import TransformedTargetRegressor
from sklearn.decomposition import PCA
from sklearn.ensemble import BaggingRegressor, HistGradientBoostingRegressor
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import GridSearchCV
from sklearn.multioutput import MultiOutputRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bayes_cannon import validate

HEADER = ("stars", "regressor", "robust scatter", "plain scatter", "training, s of processor")
COMPONENTS = 40
INNER_FOLDS = 3
N_NETWORKS = 5


def _scaled(regressor: object) -> TransformedTargetRegressor:
    """On whitened components, for labels of unit variance."""
    whitened = make_pipeline(StandardScaler(), PCA(COMPONENTS, whiten=True, random_state=0), regressor)
    return TransformedTargetRegressor(whitened, transformer=StandardScaler())


def boosting() -> GridSearchCV:
    """Gradient boosting, a label at a time."""
    trees = HistGradientBoostingRegressor(max_iter=100, early_stopping=False, random_state=0)
    grid = {"regressor__multioutputregressor__estimator__max_leaf_nodes": [6, 16]}
    return GridSearchCV(_scaled(MultiOutputRegressor(trees)), grid, cv=INNER_FOLDS)


def networks() -> GridSearchCV:
    """Mean of neural networks, each trained on a sample of the stars drawn with replacement."""
    network = MLPRegressor(hidden_layer_sizes=(64, 64), early_stopping=True, max_iter=500, random_state=0)
    several = BaggingRegressor(network, N_NETWORKS, random_state=0)
    grid = {"regressor__baggingregressor__estimator__alpha": [1e-3, 1e-1, 1.0]}
    return GridSearchCV(_scaled(several), grid, cv=INNER_FOLDS)


def kernel_ridge() -> GridSearchCV:
    """Kernel ridge regression with a Gaussian kernel, of few components where few stars train."""
    grid = {
        "regressor__pca__n_components": [10, COMPONENTS],
        "regressor__kernelridge__alpha": [1e-3, 1e-2, 1e-1, 1.0],
        "regressor__kernelridge__gamma": [1e-4, 1e-3, 1e-2],
    }
    return GridSearchCV(_scaled(KernelRidge(kernel="rbf")), grid, cv=INNER_FOLDS)


REGRESSORS = {"boosting": boosting, "networks": networks, "kernel ridge": kernel_ridge}


def held_out(make: Callable[[], Stars], name: str) -> dict:
    """A line of the table: labels of each star by a regressor of the other folds."""
    stars, start = make(), process_time()
    inferred = np.full(stars.labels.shape, np.nan)
    for fold in range(N_FOLDS):
        kept, out = stars.fold != fold, stars.fold == fold
        inferred[out] = REGRESSORS[name]().fit(stars.flux[kept], stars.labels[kept]).predict(stars.flux[out])
    seconds = (process_time() - start) / N_FOLDS
    scatter = [f(inferred, stars.labels) for f in (validate.robust_scatter, validate.plain_scatter)]
    return {"cells": [stars.title, name, *map(_several, scatter), number(seconds)]}


def _several(values: Sequence[float]) -> str:
    return ", ".join(number(float(value)) for value in values)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", choices=ROWS, nargs="*", default=list(ROWS), help="which stars")
    parser.add_argument("--regressors", choices=REGRESSORS, nargs="*", default=list(REGRESSORS))
    given = parser.parse_args()
    text = measured(machine)["text"]
    for stars in given.only:
        rows = [measured(held_out, ROWS[stars], name)["cells"] for name in given.regressors]
        publish(f"baselines {stars}", [text, table(HEADER, rows)], write=given.write)


if __name__ == "__main__":
    main()
