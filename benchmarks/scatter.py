"""Labels and errors with correlated scatter beside those of the independent model, on stars that took no part.

Five folds of the Gaia XP giants, of the stars of the demo, and of MILES; and the emulator of case A, 1,000 training
stars and 1,000 others. Then labels of stars simulated from the model itself. The definitions are those of `validate`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import process_time

import numpy as np
from common import arguments, machine, measured, number, publish, table
from data import SCRIPT, case_module
from scipy.ndimage import gaussian_filter1d
from scipy.optimize import minimize

import bayes_cannon as tc
from bayes_cannon import validate
from bayes_cannon.io.gaia_xp import GIANTS, read_gaia_xp
from bayes_cannon.io.recipe import read_recipe
from bayes_cannon.scatter import Full, LowRank, Scatter

NAMES = ("TEFF", "LOGG", "FE_H")
HEADER = (
    "scatter", "robust scatter", "plain scatter", "robust pulls", "plain pulls", "log score",
    "log score with errors inflated", "training, s of processor", "labels, ms of processor a star",
)  # fmt: skip


@dataclass(frozen=True)
class Calibrated:
    """A kind of scatter, and errors calibrated by training stars that are held out."""

    scatter: Scatter | None

    def __str__(self) -> str:
        return f"{self.scatter}, calibrated"


@dataclass(frozen=True)
class Row:
    """Stars with labels, the fold of each, and which folds are held out in turn."""

    title: str
    names: Sequence[str]
    labels: np.ndarray
    flux: np.ndarray
    ivar: np.ndarray
    fold: np.ndarray
    held_out: Sequence[int]
    families: Sequence[Scatter | Calibrated | str | None]


def demo_stars() -> Row:
    """The stars of the demo."""
    recipe = read_recipe("gaia-xp-giants").data
    return _giants("Gaia XP, stars of the demo", recipe.cuts, (None, LowRank(10), LowRank(30), Full(heavy_tails=True)))


def all_giants() -> Row:
    """All giants with little extinction."""
    return _giants("Gaia XP, all giants", GIANTS, (None, Full(heavy_tails=True)))


def _giants(title: str, cuts: dict, families: Sequence[Scatter | None]) -> Row:
    stars = read_gaia_xp(cuts=cuts, wavelength_range=(4000.0, 9900.0))
    labels, fold = stars.label_array(NAMES), validate.folds(stars.n_stars)
    return Row(f"{title}: {stars.n_stars}", NAMES, labels, stars.flux, stars.ivar, fold, range(5), families)


def few_giants(n_training: int) -> Row:
    """The first training stars of the demo, which are its brightest, and all of the first fold."""
    row = demo_stars()
    kept = np.concatenate([np.flatnonzero(row.fold != 0)[:n_training], np.flatnonzero(row.fold == 0)])
    part = {name: getattr(row, name)[kept] for name in ("labels", "flux", "ivar", "fold")}
    title = f"Gaia XP, the {n_training} brightest training stars of the demo: {np.sum(row.fold == 0)}"
    return replace(row, **part, title=title, held_out=(0,), families=(Full(), Full(heavy_tails=True), "auto"))


def miles() -> Row:
    """MILES from 4000 to 7000 K, flux over itself smoothed with sigma = 50 Angstrom; noise of 0.5 % is assumed."""
    with np.load(SCRIPT.parent / "data/miles.npz", allow_pickle=False) as file:
        labels, flux, wavelength = file["labels"], file["flux"].astype(float), file["wavelength"]
    cool, pixels = (labels[:, 0] > 4000) & (labels[:, 0] < 7000), (wavelength >= 4000) & (wavelength <= 6800)
    smooth = gaussian_filter1d(flux, 50 / np.median(np.diff(wavelength)), axis=1, mode="nearest")
    flux, labels = (flux / smooth)[np.ix_(cool, pixels)], labels[cool]
    ivar, fold = np.full(flux.shape, 0.005**-2.0), validate.folds(len(labels))
    return Row(f"MILES: {len(labels)}", NAMES, labels, flux, ivar, fold, range(5), (None, Full()))


def emulator() -> Row:
    """Case A, and as many other stars of the same noise."""
    cases = case_module()
    parts = [cases.case_a(1000, seed) for seed in (0, 1)]
    labels, flux, ivar = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    names, fold = [f"label_{k}" for k in range(labels.shape[1])], np.repeat([1, 0], 1000)
    return Row(
        "Emulator: 1000",
        names,
        labels,
        flux,
        ivar,
        fold,
        (0,),
        (None, LowRank(10), LowRank(20), Calibrated(LowRank(10))),
    )


FEW = {f"demo-{n}": partial(few_giants, n) for n in (110, 300)}
ROWS = {"demo": demo_stars, **FEW, "giants": all_giants, "miles": miles, "emulator": emulator}


def held_out(make: Callable[[], Row], index: int) -> dict:
    """Cells of one line of the table: one family on one row."""
    row = make()
    family, n_labels = row.families[index], len(row.names)
    inferred, covariance = np.full(row.labels.shape, np.nan), np.full((*row.labels.shape, n_labels), np.nan)
    training = labelling = 0.0
    for fold in row.held_out:
        kept, out = row.fold != fold, row.fold == fold
        vectorizer = tc.vectorizer.PolynomialVectorizer(row.names, 2)
        scatter = family.scatter if isinstance(family, Calibrated) else family
        model = tc.CannonModel(row.labels[kept], row.flux[kept], row.ivar[kept], vectorizer, scatter=scatter)
        start = process_time()
        model.train()
        if isinstance(family, Calibrated):
            model.calibrate()
        training += process_time() - start
        model.fit_labels(row.flux[out], row.ivar[out])  # Compiles.
        start = process_time()
        fit = model.fit_labels(row.flux[out], row.ivar[out])
        labelling += process_time() - start
        inferred[out], covariance[out] = fit.labels, fit.covariance
    seen = np.isin(row.fold, row.held_out)
    inferred, reference, covariance = inferred[seen], row.labels[seen], covariance[seen]
    pulls = validate.pulls(inferred, reference, covariance)
    fold = row.fold[seen] if len(row.held_out) > 1 else np.arange(len(inferred)) % 5
    cells = [
        _several(validate.robust_scatter(inferred, reference)), _several(validate.plain_scatter(inferred, reference)),
        _several(validate.robust_scatter(pulls)), _several(validate.plain_scatter(pulls)),
        number(float(np.nanmean(validate.log_scores(inferred, reference, covariance))), 4),
        number(float(np.nanmean(inflated_scores(inferred, reference, covariance, fold))), 4),
        number(training / len(row.held_out)), number(1e3 * labelling / len(inferred)),
    ]  # fmt: skip
    return {"title": row.title, "cells": ["independent" if family is None else str(family), *cells]}


def inflated_scores(
    inferred: np.ndarray, reference: np.ndarray, covariance: np.ndarray, fold: np.ndarray
) -> np.ndarray:
    """Log scores after each label's errors got the factor and the floor that suit the stars of the other folds best."""
    error, difference = validate.label_errors(covariance), inferred - reference
    factor = np.ones_like(covariance)
    for label in range(inferred.shape[1]):
        for held in np.unique(fold):
            known = (fold != held) & np.isfinite(difference[:, label] * error[:, label])
            d, e = difference[known, label], error[known, label]

            def loss(logs: np.ndarray, d: np.ndarray = d, e: np.ndarray = e) -> float:
                variance = np.exp(2 * logs[0]) * e**2 + np.exp(2 * logs[1])
                return float(np.mean(d**2 / variance + np.log(variance)))

            start = [0.0, np.log(np.median(np.abs(d)) + 1e-12)]
            best = minimize(loss, start, method="Nelder-Mead", options={"maxiter": 2000}).x
            out = fold == held
            total = np.sqrt(np.exp(2 * best[0]) * error[out, label] ** 2 + np.exp(2 * best[1])) / error[out, label]
            factor[out, label, :] *= total[:, None]
            factor[out, :, label] *= total[:, None]
    return validate.log_scores(inferred, reference, factor * covariance)


def _several(values: np.ndarray) -> str:
    return ", ".join(number(float(value)) for value in values)


def simulated(n_training: int = 1000, n_stars: int = 10_000, rank: int = 5) -> dict:
    """Coverage of labels of stars that are drawn from the model itself, and how well its factors are found."""
    rng = np.random.default_rng(0)
    n_pixels, names = 300, ("TEFF", "LOGG", "FE_H")
    vectorizer = tc.vectorizer.PolynomialVectorizer(names, 2)
    low, high = np.array([4000.0, 1.0, -1.0]), np.array([6000.0, 4.0, 0.5])
    labels = rng.uniform(low, high, (n_training + n_stars, 3))
    theta = rng.normal(0, 0.03, (n_pixels, vectorizer.n_terms))
    theta[:, 0] = 1.0
    s2, factors = rng.uniform(1e-5, 1e-4, n_pixels), rng.normal(0, 0.01, (n_pixels, rank))
    x = (labels - (low + high) / 2) / (high - low)
    sigma = rng.uniform(0.004, 0.01, (len(labels), 1)) * rng.uniform(0.8, 1.2, (len(labels), n_pixels))
    flux = vectorizer(x).T @ theta.T + rng.normal(size=(len(labels), rank)) @ factors.T
    flux += rng.normal(size=flux.shape) * np.sqrt(sigma**2 + s2)
    kept = slice(n_training)
    model = tc.CannonModel(labels[kept], flux[kept], sigma[kept] ** -2, vectorizer, scatter=LowRank(rank))
    model.train()
    fit = model.fit_labels(flux[n_training:], sigma[n_training:] ** -2)
    pulls = validate.pulls(fit.labels, labels[n_training:], fit.covariance)
    cosines = np.linalg.svd(np.linalg.qr(factors)[0].T @ np.linalg.qr(model.factors)[0])[1]
    return {
        "cells": [
            _several(100 * (np.abs(pulls) < 1).mean(axis=0)), _several(100 * (np.abs(pulls) < 2).mean(axis=0)),
            _several(pulls.std(axis=0)), number(float(np.degrees(np.arccos(cosines.min())))),
            number(float(np.mean(model.s2) / np.mean(s2)), 4),
        ]
    }  # fmt: skip


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", choices=ROWS, nargs="*", default=list(ROWS), help="which data")
    given = parser.parse_args()
    parts = [measured(machine)["text"]]
    for name in given.only:
        runs = [measured(held_out, ROWS[name], index) for index in range(len(ROWS[name]().families))]
        parts += [f"{runs[0]['title']} stars that took no part.", table(HEADER, [run["cells"] for run in runs])]
    header = (
        "within 1 error, %",
        "within 2 errors, %",
        "plain pulls",
        "largest principal angle, degrees",
        "s2 over truth",
    )
    parts += ["10,000 stars drawn from a model of rank 5 with 300 pixels; 1,000 others trained."]
    parts += [table(header, [measured(simulated)["cells"]])]
    publish("scatter", parts, write=given.write)


if __name__ == "__main__":
    main()
