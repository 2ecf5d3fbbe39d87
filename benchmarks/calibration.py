"""Calibrated label errors on stars that took no part: pulls, coverage and log score, in all and in thirds of S/N.

The emulator of case A: 1,000 training stars, whose folds calibrate, and 1,000 others, then 4,000 others. Gaia XP giants
and MILES: labels of five folds, where four calibrate and the fifth is looked at, in turn. The errors of the reference
labels, where they are known, are given to the calibration and counted in the comparison.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import process_time

import numpy as np
from common import arguments, machine, measured, number, publish, table
from data import case_module
from scatter import NAMES, Row, miles

import bayes_cannon as tc
from bayes_cannon import validate
from bayes_cannon.calibration.calibrated_errors import Calibration
from bayes_cannon.calibration.fit import calibrate
from bayes_cannon.io.gaia_xp import GIANTS, read_gaia_xp
from bayes_cannon.io.recipe import read_recipe
from bayes_cannon.scatter import Full, LowRank, Scatter

LEVELS = (0.68, 0.95)
ONE_SIGMA = 0.6827
"""Coverage of one standard deviation of a normal distribution."""
HEADER = (
    "S/N", "stars", "plain pulls", *(f"within {100 * level:.0f} %" for level in LEVELS), "plain pulls, formal",
    "log score", "of one constant error a label", "of formal errors",
)  # fmt: skip
FOLDS = 20
"""Of the emulator: models of 800 stars instead of 1,000 have errors that are larger by 7 %."""


@dataclass(frozen=True)
class Evaluated:
    """Stars that took no part, by the calibration: everything of shape (star, ...)."""

    snr: np.ndarray
    pulls: np.ndarray
    formal_pulls: np.ndarray
    one_sigma: np.ndarray
    inside: tuple[np.ndarray, ...]
    scores: tuple[np.ndarray, ...]

    @classmethod
    def joined(cls, parts: Sequence["Evaluated"]) -> "Evaluated":
        """All stars of the parts."""
        return cls(
            np.concatenate([part.snr for part in parts]), np.concatenate([part.pulls for part in parts]),
            np.concatenate([part.formal_pulls for part in parts]), np.concatenate([part.one_sigma for part in parts]),
            *(tuple(np.concatenate(arrays) for arrays in zip(*(getattr(part, name) for part in parts), strict=True))
              for name in ("inside", "scores")),
        )  # fmt: skip

    def rows(self) -> list[list[str]]:
        """Lines of the table: all stars, and each third of S/N where it differs."""
        groups = [("all", np.ones(len(self.snr), dtype=bool))]
        if np.ptp(self.snr) > 1e-6 * self.snr.max():
            limits = np.quantile(self.snr, [0, 1 / 3, 2 / 3, 1])
            third = np.digitize(self.snr, limits[1:-1])
            groups += [(f"{limits[i]:.0f} to {limits[i + 1]:.0f}", third == i) for i in range(3)]
        return [
            [
                name, str(group.sum()), _several(self.pulls[group].std(axis=0)),
                *(_several(100 * inside[group].mean(axis=0)) for inside in self.inside),
                _several(self.formal_pulls[group].std(axis=0)),
                *(number(float(score[group].mean()), 4) for score in self.scores),
            ]
            for name, group in groups
        ]  # fmt: skip


def evaluated(
    calibration: Calibration, difference: np.ndarray, covariance: np.ndarray, snr: np.ndarray, reach: np.ndarray,
    errors: np.ndarray, constant: np.ndarray,
) -> Evaluated:  # fmt: skip
    """Stars by a calibration that they took no part in; ``constant`` are the errors (label,) that do not vary."""
    rest = (covariance, snr, reach, errors)
    own = errors[:, :, None] ** 2 * np.eye(len(constant))
    alike = np.broadcast_to(np.diag(constant**2), covariance.shape)
    return Evaluated(
        snr, difference / validate.label_errors(calibration.covariance(*rest)),
        difference / validate.label_errors(covariance + own), difference / calibration.half_width(ONE_SIGMA, *rest),
        tuple(np.abs(difference) < calibration.half_width(level, *rest) for level in LEVELS),
        (calibration.log_score(difference, *rest), validate.log_scores(difference, 0 * difference, alike),
         validate.log_scores(difference, 0 * difference, covariance + own)),
    )  # fmt: skip


def emulator() -> dict:
    """Case A; the training stars calibrate."""
    cases = case_module()
    labels, flux, ivar = cases.case_a(1000, 0)
    vectorizer = tc.vectorizer.PolynomialVectorizer([f"label_{k}" for k in range(labels.shape[1])], 2)
    model = tc.CannonModel(labels, flux, ivar, vectorizer, scatter=LowRank(10))
    model.train()
    start = process_time()
    calibration = model.calibrate(n_folds=FOLDS)
    seconds = process_time() - start
    parts = []
    for seed in range(1, 5):
        truth, flux, ivar = cases.case_a(1000, seed)
        fit = model.fit_labels(flux, ivar)
        difference = fit.labels - truth
        # The best that one error a label can do: the standard deviations of these very stars.
        parts.append(
            evaluated(
                calibration, difference, fit.formal_covariance, fit.snr, model.leverage(fit.labels), 0 * difference,
                difference.std(axis=0),
            )
        )  # fmt: skip
    return {
        "tables": [("Emulator: 1,000", parts[0].rows()), ("Emulator: 4,000", Evaluated.joined(parts).rows())],
        "note": f"{FOLDS} folds and the chains took {number(seconds)} s of processor; R-hat {calibration.r_hat:.3f}.",
    }


def folds(title: str, row: Row, scatter: Scatter, errors: np.ndarray) -> dict:
    """Labels of every star by a model of the other folds; the stars of four folds calibrate those of the fifth."""
    vectorizer = tc.vectorizer.PolynomialVectorizer(NAMES, 2)
    n_stars, n_labels = row.labels.shape
    inferred, snr, reach = np.full(row.labels.shape, np.nan), np.full(n_stars, np.nan), np.full(n_stars, np.nan)
    covariance = np.full((n_stars, n_labels, n_labels), np.nan)
    for fold in row.held_out:
        kept, out = row.fold != fold, row.fold == fold
        model = tc.CannonModel(row.labels[kept], row.flux[kept], row.ivar[kept], vectorizer, scatter=scatter)
        model.train()
        fit = model.fit_labels(row.flux[out], row.ivar[out])
        inferred[out], covariance[out], snr[out] = fit.labels, fit.formal_covariance, fit.snr
        reach[out] = model.leverage(fit.labels)
    difference, parts, largest = inferred - row.labels, [], 0.0
    for fold in row.held_out:
        kept, out = row.fold != fold, row.fold == fold
        calibration = calibrate(
            difference[kept], covariance[kept], snr[kept], leverage=reach[kept], reference_errors=errors[kept]
        )
        constant = difference[kept].std(axis=0)
        arrays = (difference[out], covariance[out], snr[out], reach[out], errors[out])
        parts.append(evaluated(calibration, *arrays, constant))
        largest = max(largest, calibration.r_hat)
    return {"tables": [(title, Evaluated.joined(parts).rows())], "note": f"Largest R-hat {largest:.3f}."}


def _giants(title: str, cuts: dict) -> dict:
    stars = read_gaia_xp(cuts=cuts, wavelength_range=(4000.0, 9900.0))
    labels, fold = stars.label_array(NAMES), validate.folds(stars.n_stars)
    row = Row(title, NAMES, labels, stars.flux, stars.ivar, fold, range(5), ())
    errors = stars.label_array([f"{name}_ERR" for name in NAMES])
    return folds(f"{title}: {stars.n_stars:,}", row, Full(heavy_tails=True), errors)


def demo_stars() -> dict:
    """The stars of the demo."""
    return _giants("Gaia XP, stars of the demo", read_recipe("gaia-xp-giants").data.cuts)


def all_giants() -> dict:
    """All giants with little extinction."""
    return _giants("Gaia XP, all giants", GIANTS)


def miles_stars() -> dict:
    """MILES, of which neither S/N nor errors of the labels are known: the calibrated errors hold the latter."""
    row = miles()
    return folds(row.title, row, LowRank(10, heavy_tails=True), np.zeros(row.labels.shape))


ROWS: dict[str, Callable[[], dict]] = {
    "emulator": emulator, "demo": demo_stars, "giants": all_giants, "miles": miles_stars
}  # fmt: skip


def _several(values: np.ndarray) -> str:
    return ", ".join(number(float(value)) for value in values)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", choices=ROWS, nargs="*", default=list(ROWS), help="which data")
    given = parser.parse_args()
    parts = [measured(machine)["text"]]
    for name in given.only:
        run = measured(ROWS[name])
        for title, rows in run["tables"]:
            parts += [f"{title} stars that took no part.", table(HEADER, rows)]
        parts.append(run["note"])
    publish("calibration", parts, write=given.write)


if __name__ == "__main__":
    main()
