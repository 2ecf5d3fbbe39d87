"""The test step of case A or B, side by side with the original package at the same theta and s2.

uv run python benchmarks/labelling.py A
uv run python benchmarks/labelling.py B --fraction 0.1
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import original
from common import arguments, labelling_floor, machine, measured, median_seconds, number, publish, seconds, table, worst
from data import FULL, Size, load, training_problem, write_case

from bayes_cannon.core.scaling import LabelScaling
from bayes_cannon.core.status import StarStatus
from bayes_cannon.core.terms import Terms
from bayes_cannon.labelling.fit import LabelFit, fit_labels
from bayes_cannon.labelling.trained import TrainedModel
from bayes_cannon.scatter import IndependentScatter
from bayes_cannon.scatter.label_tables import PRODUCT_DTYPE
from bayes_cannon.training.train import train

CHI_SQUARED_TOLERANCE = 1e-6


def write_theta(folder: Path, size: Size) -> dict:
    """Train at Lambda = 0 for case A, whose truth is no polynomial."""
    problem = training_problem(folder, size, 0.0)
    solution = train(problem)
    np.save(folder / "theta.npy", solution.theta)
    np.save(folder / "s2.npy", solution.s2)
    return {}


def ours(folder: Path, size: Size, repeats: int, warm_spectra: int) -> dict:
    """Label all spectra, after a first run on some of them that compiles; the labels go into the folder."""
    training_labels = load(folder, "training_labels")
    flux, ivar, theta, s2 = (load(folder, name) for name in ("test_flux", "test_ivar", "theta", "s2"))
    vectorizer = size.vectorizer
    scaling = LabelScaling.from_labels(training_labels, vectorizer.label_names)

    terms = Terms(vectorizer.exponents, scaling.scaled(training_labels))
    trained = TrainedModel(theta, s2, IndependentScatter(), terms, scaling)

    def label(stars: slice) -> LabelFit:
        return fit_labels(trained, flux[stars], ivar[stars])

    first, _ = seconds(lambda: label(slice(warm_spectra)))
    time, fit = median_seconds(lambda: label(slice(None)), repeats)
    np.save(folder / "labels.npy", fit.labels)
    certified = np.isin(fit.status, [StarStatus.CONVERGED, StarStatus.OUTSIDE_TRAINING_SET])
    return {
        "seconds": time,
        "first": first,
        "decrement": worst(fit.decrement),
        "unfinished": int((~certified).sum()),
        "outside": int((fit.status == StarStatus.OUTSIDE_TRAINING_SET).sum()),
    }


def chi_squared(folder: Path, size: Size, labels: np.ndarray) -> np.ndarray:
    """Of the first spectra at these labels, from the residuals in float64; NaN for labels that are."""
    training_labels, theta, s2 = (load(folder, name) for name in ("training_labels", "theta", "s2"))
    scaling = LabelScaling.from_labels(training_labels, size.vectorizer.label_names)
    flux, ivar = (np.array(load(folder, f"test_{name}")[: len(labels)], float) for name in ("flux", "ivar"))
    residual = flux - size.vectorizer(scaling.scaled(labels)).T @ theta.T
    return np.sum(ivar / (1 + ivar * s2) * residual**2, axis=1)


def compare_fits(folder: Path, size: Size) -> dict:
    """The worst relative excess of our chi^2 over thecannon's, and how often either is lower."""
    theirs = load(folder, "original_labels")
    mine = load(folder, "labels")[: len(theirs)]
    ours_at, theirs_at = chi_squared(folder, size, mine), chi_squared(folder, size, theirs)
    known = np.isfinite(theirs_at)
    excess = (ours_at / theirs_at - 1)[known]
    return {
        "worst": float(excess.max(initial=-np.inf)),
        "above": int((excess > CHI_SQUARED_TOLERANCE).sum()),
        "below": int((excess < -CHI_SQUARED_TOLERANCE).sum()),
        "failed": int((~known).sum()),
        "stars": len(theirs),
    }


def row(work: str, spectra: int, result: dict, floor: float, ours_rate: float) -> list[str]:
    """Everything a second and a spectrum; the floor belongs to as many spectra as the result."""
    rate = spectra / result["seconds"]
    return [
        work, str(spectra), number(result["seconds"]), number(result.get("first")), number(rate), number(floor),
        number(result["seconds"] / floor), number(ours_rate / rate), number(result["memory"]),
        number(result.get("own_memory")), number(result.get("decrement"), 2), str(result.get("unfinished", "-")),
    ]  # fmt: skip


HEADER = [
    "work", "spectra", "time, s", "first run, s", "spectra/s", "floor, s", "time / floor", "ours is faster by",
    "peak memory, GB", "without mapped files, GB", "worst decrement", "not converged",
]  # fmt: skip


def compare(folder: Path, size: Size, repeats: int, warm_spectra: int, original_spectra: int) -> tuple[list, list[str]]:
    """Rows of the table, and remarks on them."""
    dtype = np.dtype(PRODUCT_DTYPE)
    floor = measured(
        labelling_floor, size.spectra, size.pixels, size.moments, size.vectorizer.n_terms, dtype
    )["seconds"]  # fmt: skip
    result = measured(ours, folder, size, repeats, warm_spectra)
    rate = size.spectra / result["seconds"]
    rows = [row("bayes_cannon, several starts", size.spectra, result, floor, rate)]
    notes = [f"The floor's large product is in {dtype}. {result['outside']} spectra lie outside the training range."]
    if original_spectra:
        theirs = original.benchmark("test", folder, min(repeats, 3), spectra=original_spectra)
        part = floor * original_spectra / size.spectra
        rows.append(row("thecannon 0.2.96, one start", original_spectra, theirs, part, rate))
        check = measured(compare_fits, folder, size)
        notes.append(
            f"chi^2 of ours over thecannon's, same theta and s2, {check['stars']} stars: at most {check['worst']:.2g} "
            f"above it, relative; more than {CHI_SQUARED_TOLERANCE:g} above in {check['above']} stars, below in "
            f"{check['below']}; thecannon has no labels for {check['failed']}."
        )
    return rows, notes


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("case", choices=sorted(FULL))
    parser.add_argument("--stars", type=int, default=None, help="training stars")
    parser.add_argument("--pixels", type=int, default=None)
    parser.add_argument("--fraction", type=float, default=1.0, help="part of the spectra")
    parser.add_argument("--original-spectra", type=int, default=None, help="of thecannon; 0: leave it out")
    parser.add_argument("--folder", default=None, help="where the spectra are written (B: 10 GB, removed at the end)")
    given = parser.parse_args()
    full, is_a = FULL[given.case], given.case == "A"
    size = replace(
        full,
        stars=given.stars or full.stars,
        pixels=given.pixels or full.pixels,
        spectra=max(1, round(given.fraction * full.spectra)),
    )
    repeats = given.repeats or (5 if is_a else 1)
    asked = given.original_spectra if given.original_spectra is not None else (200 if is_a else 20)
    warm = size.spectra if is_a else min(size.spectra, 1024)
    about = measured(machine)["text"]
    with tempfile.TemporaryDirectory(dir=given.folder) as temporary:
        folder = Path(temporary)
        measured(write_case, given.case, folder, size)
        if is_a:
            measured(write_theta, folder, size)
        rows, notes = compare(folder, size, repeats, warm, min(asked, size.spectra))
    origin = "trained at Λ = 0" if is_a else "the true ones"
    what = (
        f"Case {given.case}: {size.spectra} spectra ({given.fraction:g} of the case) x {size.pixels} pixels, "
        f"{size.labels} labels; theta and s2 are {origin}. Spectra are mapped from a file and drawn beforehand. "
        f"Median of {repeats} warm runs (thecannon: {min(repeats, 3)}); the first run is of {warm} spectra."
    )
    publish(f"labelling {given.case}", [about, what, table(HEADER, rows), *notes], write=given.write)


if __name__ == "__main__":
    main()
