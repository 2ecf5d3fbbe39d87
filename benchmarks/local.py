"""Local models on stars that took no part: scatter, pulls, log scores and coverage of labels as posterior means.

Five folds of Gaia XP giants, of the stars of the demo, of giants and dwarfs, and of MILES. The errors are calibrated by
the stars of four folds and looked at in the fifth, in turn. The definitions are those of `validate`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter, process_time

import numpy as np
from calibration import LEVELS, Evaluated, evaluated
from common import arguments, machine, measured, number, publish, table
from data import SCRIPT
from scatter import NAMES, miles
from scipy.constants import speed_of_light
from scipy.ndimage import gaussian_filter1d
from scipy.special import ndtri

import bayes_cannon as tc
from bayes_cannon import validate
from bayes_cannon.calibration.fit import calibrate
from bayes_cannon.io.gaia_xp import GIANTS, read_gaia_xp
from bayes_cannon.io.recipe import read_recipe
from bayes_cannon.scatter import Full

HEADER = (
    "stars", "partitions", "errors", "robust scatter", "plain scatter", "robust pulls", "plain pulls", "within 68 %",
    "within 95 %", "log score",
)  # fmt: skip
BIN_HEADER = (
    "stars", "cells of", "number", "lowest, 68 %", "highest, 68 %", "lowest, 95 %", "highest, 95 %",
    "deviation, 68 %", "deviation, 95 %",
)  # fmt: skip
BIN = 150
"""Stars of a cell, at least: chance makes the coverage of one differ by up to 3.8 and 1.8 points."""
HEADERS = (HEADER, "rows"), (BIN_HEADER, "bins")
N_FOLDS = 5


@dataclass(frozen=True)
class Stars:
    """Stars with labels and the errors of these, and the partitions that they get."""

    title: str
    labels: np.ndarray
    flux: np.ndarray
    ivar: np.ndarray
    errors: np.ndarray
    partitions: Sequence[tuple[int, int]]
    names: Sequence[str] = NAMES

    @property
    def fold(self) -> np.ndarray:
        """Fold of each star, shape (star,)."""
        return np.random.default_rng(0).integers(0, N_FOLDS, len(self.labels))


def demo_stars() -> Stars:
    """The stars of the demo."""
    return _gaia("Gaia XP, demo", read_recipe("gaia-xp-giants").data.cuts, [(3, 2), (5, 2), (3, 3)])


def all_giants() -> Stars:
    """All giants with little extinction."""
    return _gaia("Gaia XP, giants", GIANTS, [(3, 2), (5, 2), (3, 3), (5, 3), (6, 2)])


def giants_and_dwarfs() -> Stars:
    """As `all_giants`, without the cut in LOGG."""
    cuts = {name: cut for name, cut in GIANTS.items() if name != "LOGG"}
    return _gaia("Gaia XP, giants and dwarfs", cuts, [(5, 2), (8, 2), (3, 3), (5, 3), (8, 3)])


def alpha_stars() -> Stars:
    """The stars of the demo, with a fourth label."""
    cuts = read_recipe("gaia-xp-giants").data.cuts
    return _gaia("Gaia XP, demo, with ALPHA_M", cuts, [(3, 2), (5, 2)], (*NAMES, "ALPHA_M"))


def _gaia(title: str, cuts: dict, partitions: Sequence[tuple[int, int]], names: Sequence[str] = NAMES) -> Stars:
    stars = read_gaia_xp(cuts=cuts)
    known = np.isfinite(stars.label_array(names)).all(axis=1)
    errors = stars.label_array([f"{name}_ERR" for name in names])[known]
    title = f"{title}: {known.sum():,}"
    labels = stars.label_array(names)[known]
    return Stars(title, labels, stars.flux[known], stars.ivar[known], errors, partitions, names)


def miles_stars() -> Stars:
    """MILES, of which neither noise nor errors of the labels are known."""
    row = miles()
    return Stars(row.title, row.labels, row.flux, row.ivar, np.zeros(row.labels.shape), [(1, 2)])


def lamost_stars() -> Stars:
    """LAMOST at rest, flux over itself smoothed with 50 pixels: a large part are dwarfs."""
    with np.load(SCRIPT.parent / "data/lamost_dr1.npz", allow_pickle=False) as file:
        wavelength, velocity, labels = file["wave_vacuum_angstrom"], file["rv_kms"], file["labels"].astype(float)
        flux, ivar = file["flux"].astype(float), file["ivar"].astype(float)
        errors = file["label_errors"].astype(float)
    grid = np.exp(np.arange(np.log(4000.0), np.log(8000.0), 4e-4))
    at_rest = wavelength / (1 + 1e3 * velocity[:, None] / speed_of_light)
    good = ivar > 0
    flux = np.array([np.interp(grid, x[k], f[k]) for x, f, k in zip(at_rest, flux, good, strict=True)])
    ivar = np.array([np.interp(grid, x, i) for x, i in zip(at_rest, ivar, strict=True)])
    seen = np.array([np.interp(grid, x, k.astype(float)) > 0.99 for x, k in zip(at_rest, good, strict=True)])
    smooth = gaussian_filter1d(flux * seen, 50, axis=1) / np.maximum(gaussian_filter1d(1.0 * seen, 50, axis=1), 1e-3)
    # A full covariance is learned from complete spectra: a huge error stands for a missing number.
    flux, ivar = np.where(seen, flux / smooth, 1.0), np.where(seen, np.maximum(ivar * smooth**2, 1e-6), 1e-6)
    return Stars(f"LAMOST: {len(labels)}", labels, flux, ivar, errors, [(1, 1), (1, 2)])


ROWS = {
    "demo": demo_stars, "giants": all_giants, "all": giants_and_dwarfs, "miles": miles_stars, "alpha": alpha_stars,
    "lamost": lamost_stars,
}  # fmt: skip


def held_out(make: Callable[[], Stars]) -> dict:
    """Lines of the tables: each star by a model of the other folds."""
    stars = make()
    n_stars, n_labels = stars.labels.shape
    inferred, covariance = np.full(stars.labels.shape, np.nan), np.full((n_stars, n_labels, n_labels), np.nan)
    snr, reach = np.full((2, n_stars), np.nan)
    training = labelling = clock = 0.0
    for fold in range(N_FOLDS):
        kept, out = stars.fold != fold, stars.fold == fold
        model = tc.LocalCannonModel(
            stars.labels[kept], stars.flux[kept], stars.ivar[kept], stars.names, partitions=stars.partitions,
            scatter=Full(heavy_tails=True),
        )  # fmt: skip
        start = process_time()
        model.train()
        training += process_time() - start
        model.fit_labels(stars.flux[out], stars.ivar[out])  # Compiles.
        start = process_time(), perf_counter()
        fit = model.fit_labels(stars.flux[out], stars.ivar[out])
        labelling, clock = labelling + process_time() - start[0], clock + perf_counter() - start[1]
        inferred[out], covariance[out], snr[out] = fit.labels, fit.formal_covariance, fit.snr
        reach[out] = model.leverage(fit.labels)
    difference = inferred - stars.labels
    result, r_hat = calibrated(stars, difference, covariance, snr, reach)
    scatter = [_several(f(inferred, stars.labels)) for f in (validate.robust_scatter, validate.plain_scatter)]
    pulls = difference / validate.label_errors(covariance)
    inside = [np.abs(pulls) < ndtri(0.5 + level / 2) for level in LEVELS]
    scores = validate.log_scores(inferred, stars.labels, covariance)
    name = [stars.title, ", ".join(f"{n} of order {order}" for n, order in stars.partitions)]
    return {
        "rows": [
            [*name, "formal", *scatter, *_of_pulls(pulls, inside, scores)],
            [*name, "calibrated", "", "", *_of_pulls(result.pulls, result.inside, result.scores[0])],
            [*name, "half width of 68.27 %", "", "", *_of_pulls(result.one_sigma, result.inside, result.scores[0])],
        ],
        "bins": [[stars.title, *row] for row in binned(stars.names, stars.labels, snr, result.inside)],
        "note": f"{stars.title}: training {number(training / N_FOLDS)} s of processor, labels"
        f" {number(1e3 * labelling / n_stars)} ms of processor a star, {number(n_stars / clock)} stars a second;"
        f" largest R-hat of the calibration {r_hat:.3f}.",
    }  # fmt: skip


def calibrated(
    stars: Stars, difference: np.ndarray, covariance: np.ndarray, snr: np.ndarray, reach: np.ndarray
) -> tuple[Evaluated, float]:
    """All stars, each by a calibration of the other folds, and the largest R-hat of these."""
    parts, largest = [], 0.0
    for fold in range(N_FOLDS):
        kept, out = stars.fold != fold, stars.fold == fold
        found = calibrate(
            difference[kept], covariance[kept], snr[kept], leverage=reach[kept], reference_errors=stars.errors[kept]
        )
        arrays = (difference[out], covariance[out], snr[out], reach[out], stars.errors[out])
        parts.append(evaluated(found, *arrays, difference[kept].std(axis=0)))
        largest = max(largest, found.r_hat)
    joined, order = Evaluated.joined(parts), np.argsort(stars.fold, kind="stable")
    back = np.argsort(order)
    inside, scores = (tuple(array[back] for array in arrays) for arrays in (joined.inside, joined.scores))
    pulls = (array[back] for array in (joined.pulls, joined.formal_pulls, joined.one_sigma))
    return Evaluated(snr, *pulls, inside, scores), largest


def _of_pulls(pulls: np.ndarray, inside: Sequence[np.ndarray], scores: np.ndarray) -> list[str]:
    covered = [_several(100 * one.mean(axis=0)) for one in inside]
    return [_several(validate.robust_scatter(pulls)), _several(pulls.std(axis=0)), *covered, number(scores.mean(), 4)]


def binned(names: Sequence[str], labels: np.ndarray, snr: np.ndarray, inside: Sequence[np.ndarray]) -> list[list[str]]:
    """Lowest and highest coverage of each label in cells of S/N, of each label and of label space."""
    rows = []
    for name, place in zip(("S/N", *names, "all labels"), (snr, *labels.T, labels), strict=True):
        found = [
            validate.local_coverage(place, one, level, size=BIN) for one, level in zip(inside, LEVELS, strict=True)
        ]
        cells = [f(100 * one.covered, axis=0) for one in found for f in (np.min, np.max)]
        off = [np.sqrt(np.mean(one.deviation**2, axis=0)) for one in found]
        rows.append([name, str(len(found[0].n_stars)), *(_several(values) for values in (*cells, *off))])
    return rows


def _several(values: np.ndarray) -> str:
    return ", ".join(number(float(value)) for value in values)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", choices=ROWS, nargs="*", default=list(ROWS), help="which stars")
    given = parser.parse_args()
    text = measured(machine)["text"]
    chance = (
        f"Coverage of calibrated errors in cells of {BIN} to {2 * BIN - 1} stars, of each label; deviations are root"
        " mean squares over what chance makes, one where errors are right everywhere."
    )
    for name in given.only:
        run = measured(held_out, ROWS[name])
        tables = [table(header, run[rows]) for header, rows in HEADERS]
        publish(f"local {name}", [text, tables[0], chance, tables[1], run["note"]], write=given.write)


if __name__ == "__main__":
    main()
