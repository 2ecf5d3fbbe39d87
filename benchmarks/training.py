"""The training step of case A or B, side by side with the original package and with scikit-learn's Lasso.

uv run python benchmarks/training.py A
uv run python benchmarks/training.py B --fraction 0.1
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import original
from common import arguments, machine, measured, median_seconds, number, publish, seconds, table, training_floor, worst
from data import FULL, Size, load, spread, training_problem, write_case
from sklearn.linear_model import Lasso

from bayes_cannon.core.status import PixelStatus
from bayes_cannon.training.certificate import certify
from bayes_cannon.training.problem import PixelSolution
from bayes_cannon.training.train import train

WARM_PIXELS = 64
"""Pixels that the programs of case B are compiled with; as many as a block has, or more."""
LASSO_TOLERANCE = 1e-8


def certificates(solution: PixelSolution) -> dict:
    """The worst certificates: relative gap, profile gradient where s2 > 0, and the pixels not converged."""
    unfinished = np.isin(solution.status, [PixelStatus.MAX_ITERATIONS, PixelStatus.FAILED])
    interior = np.where(solution.s2 > 0, np.abs(solution.profile_gradient), 0.0)
    return {
        "gap": worst(solution.duality_gap),
        "gradient": worst(interior),
        "unfinished": int(unfinished.sum()),
    }


def ours(folder: Path, size: Size, regularization: float, repeats: int, warm_pixels: int) -> dict:
    """Train, after a first run on some of the pixels that compiles; theta and s2 go into the folder."""
    problem = training_problem(folder, size, regularization)
    first, _ = seconds(lambda: train(problem.at(slice(warm_pixels))))
    time, solution = median_seconds(lambda: train(problem), repeats)
    np.save(folder / "theta.npy", solution.theta)
    np.save(folder / "s2.npy", solution.s2)
    np.save(folder / "objective.npy", solution.objective)
    return {"seconds": time, "first": first} | certificates(solution)


def theirs_lower(folder: Path, size: Size, regularization: float, pixels: np.ndarray) -> dict:
    """How many of the pixels have a training scalar at the original's theta and s2 that is below ours."""
    problem = training_problem(folder, size, regularization)
    with np.load(folder / "original_training.npz") as result:
        objective, _, _ = certify(problem.at(pixels), result["theta"], result["s2"])
    mine = load(folder, "objective")[pixels]
    return {"lower": int((objective < mine - 1e-8 * np.abs(mine)).sum()), "excess": float(np.median(objective - mine))}


def scikit_learn(folder: Path, size: Size, regularization: float, pixels: np.ndarray) -> dict:
    """One Lasso a pixel at our s2: less work, as s2 is given."""
    problem = training_problem(folder, size, regularization)
    some, s2, design = problem.at(pixels), load(folder, "s2")[pixels], problem.design[:, 1:]

    def solve() -> list[Lasso]:
        fits = []
        for j in range(some.n_pixels):
            w = some.ivar[:, j] / (1 + some.ivar[:, j] * s2[j])
            lasso = Lasso(alpha=regularization / (2 * w.sum()), tol=LASSO_TOLERANCE, max_iter=100_000)
            fits.append(lasso.fit(design, some.flux[:, j], sample_weight=w))
        return fits

    time, fits = seconds(solve)
    theta = np.array([[fit.intercept_, *fit.coef_] for fit in fits])
    _, gap, _ = certify(some, theta, s2)
    return {"seconds": time, "gap": worst(gap)}


def row(work: str, result: dict, floor: float, ours_seconds: float, scale: float = 1.0) -> list[str]:
    time = scale * result["seconds"]
    return [
        work, number(time), number(result.get("first")), number(floor), number(time / floor),
        number(time / ours_seconds), number(result.get("memory")), number(result.get("own_memory")),
        number(result.get("gap"), 2), number(result.get("gradient"), 2), str(result.get("unfinished", "-")),
    ]  # fmt: skip


HEADER = [
    "work", "time, s", "first run, s", "floor, s", "time / floor", "time / ours", "peak memory, GB",
    "without mapped files, GB", "worst gap", "worst gradient, s2 > 0", "not converged",
]  # fmt: skip


def compare(folder: Path, size: Size, lam: float, options: dict) -> tuple[list[list[str]], list[str]]:
    """Rows of one Lambda and remarks on them."""
    floor = measured(training_floor, size.stars, size.pixels, size.moments)["seconds"]
    result = measured(ours, folder, size, lam, options["repeats"], options["warm_pixels"])
    own = result["seconds"]
    rows, notes = [row(f"Λ = {lam:g}: bayes_cannon", result, floor, own)], []
    pixels = spread(size.pixels, options["original_all"] if lam == 0 else options["original_some"])
    if len(pixels):
        result = original.benchmark(
            "train", folder, options["original_repeats"], regularization=lam, pixels=pixels.tolist()
        )
        scale = size.pixels / len(pixels)
        rows.append(
            row(f"Λ = {lam:g}: thecannon 0.2.96, {len(pixels)} pixels x {scale:.3g}", result, floor, own, scale)
        )
        check = measured(theirs_lower, folder, size, lam, pixels)
        notes.append(
            f"Λ = {lam:g}: thecannon's training scalar is below ours in {check['lower']} of {len(pixels)} pixels, "
            f"and above by {check['excess']:.3g} in the median."
        )
    if lam > 0 and options["lasso_pixels"]:
        pixels = spread(size.pixels, options["lasso_pixels"])
        scale = size.pixels / len(pixels)
        work = f"Λ = {lam:g}: scikit-learn Lasso, s2 given, {len(pixels)} pixels x {scale:.3g}"
        rows.append(row(work, measured(scikit_learn, folder, size, lam, pixels), floor, own, scale))
    return rows, notes


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("case", choices=sorted(FULL))
    parser.add_argument("--stars", type=int, default=None)
    parser.add_argument("--pixels", type=int, default=None)
    parser.add_argument("--fraction", type=float, default=1.0, help="part of the pixels, evenly spread")
    parser.add_argument(
        "--original-pixels", type=int, default=None, help="of thecannon where Lambda > 0; 0: leave it out"
    )
    parser.add_argument("--lasso-pixels", type=int, default=None, help="of scikit-learn; 0: leave it out")
    given = parser.parse_args()
    full, is_a = FULL[given.case], given.case == "A"
    pixels = given.pixels or max(1, round(given.fraction * full.pixels))
    size = replace(full, stars=given.stars or full.stars, pixels=pixels, spectra=1)
    repeats = given.repeats or (5 if is_a else 1)
    some = given.original_pixels if given.original_pixels is not None else (pixels // 10 if is_a else 3)
    options = {
        "repeats": repeats,
        "warm_pixels": pixels if is_a else WARM_PIXELS,
        "original_repeats": min(repeats, 3),
        "original_all": pixels if some else 0,
        "original_some": some,
        "lasso_pixels": given.lasso_pixels if given.lasso_pixels is not None else (pixels // 10 if is_a else 20),
    }
    about = measured(machine)["text"]
    rows, notes = [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        measured(write_case, given.case, folder, size)
        for lam in (0.0, 1000.0) if is_a else (1000.0,):
            more_rows, more_notes = compare(folder, size, lam, options)
            rows += more_rows
            notes += more_notes
    what = (
        f"Case {given.case}: {size.stars} stars x {size.pixels} pixels ({size.pixels / full.pixels:.3g} of them), "
        f"{size.labels} labels, {size.vectorizer.n_terms} terms, {size.moments} moments. Median of {repeats} warm runs "
        f"(thecannon: {options['original_repeats']}, scikit-learn: 1); joint s2, but as said. "
        f"The first run is of {options['warm_pixels']} pixels and compiles. Where only some pixels were run, the "
        "time is that of all by extrapolation."
    )
    publish(f"training {given.case}", [about, what, table(HEADER, rows), *notes], write=given.write)


if __name__ == "__main__":
    main()
