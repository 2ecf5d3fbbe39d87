"""A path of 20 Lambdas against one training, case A (or B, with --case B --fraction 0.1).

uv run python benchmarks/path.py
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import arguments, machine, measured, median_seconds, number, publish, seconds, table, training_floor
from data import FULL, Size, training_problem, write_case
from training import certificates

from bayes_cannon.training.train import train, train_path


def path(folder: Path, size: Size, lambdas: np.ndarray, repeats: int) -> dict:
    """Time of all Lambdas in one call, and what was found at each."""
    problem = training_problem(folder, size, 0.0)
    first, _ = seconds(lambda: train_path(problem, lambdas))
    time, solutions = median_seconds(lambda: train_path(problem, lambdas), repeats)
    found = [
        certificates(solution)
        | {
            "lambda": float(lam),
            "nonzero": float(np.mean(np.count_nonzero(np.nan_to_num(solution.theta[:, 1:]), axis=1))),
            "scatter": float(np.median(np.sqrt(solution.s2))),
            "objective": float(np.nansum(solution.objective)),
        }
        for lam, solution in zip(lambdas, solutions, strict=True)
    ]
    return {"seconds": time, "first": first, "found": found}


def single(folder: Path, size: Size, lam: float, repeats: int) -> dict:
    """One training."""
    problem = training_problem(folder, size, lam)
    first, _ = seconds(lambda: train(problem))
    time, solution = median_seconds(lambda: train(problem), repeats)
    return {"seconds": time, "first": first, "objective": float(np.nansum(solution.objective))}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--case", choices=sorted(FULL), default="A")
    parser.add_argument("--stars", type=int, default=None)
    parser.add_argument("--pixels", type=int, default=None)
    parser.add_argument("--fraction", type=float, default=1.0, help="part of the pixels, evenly spread")
    parser.add_argument("--lambdas", type=int, default=20, help="number of strengths from 1 to 1e6")
    given = parser.parse_args()
    full = FULL[given.case]
    pixels = given.pixels or max(1, round(given.fraction * full.pixels))
    size = replace(full, stars=given.stars or full.stars, pixels=pixels, spectra=1)
    lambdas, repeats = np.geomspace(1, 1e6, given.lambdas), given.repeats or 3
    about = measured(machine)["text"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        measured(write_case, given.case, folder, size)
        floor = measured(training_floor, size.stars, size.pixels, size.moments)["seconds"]
        one = measured(single, folder, size, 1000.0, repeats)
        whole = measured(path, folder, size, lambdas, repeats)
    times = [
        [name, number(run["seconds"]), number(run["first"]), number(floor), number(run["seconds"] / floor),
         number(run["seconds"] / one["seconds"]), number(run["memory"])]
        for name, run in (("one training, Λ = 1000", one), (f"path of {len(lambdas)}", whole))
    ]  # fmt: skip
    strengths = [
        [number(point["lambda"]), number(point["nonzero"]), number(point["scatter"]), number(point["objective"], 10),
         number(point["gap"], 2), number(point["gradient"], 2), str(point["unfinished"])]
        for point in whole["found"]
    ]  # fmt: skip
    header = [
        "work",
        "time, s",
        "first run, s",
        "floor of one, s",
        "time / floor",
        "time / one training",
        "peak memory, GB",
    ]
    header_strengths = [
        "Λ", "mean number of nonzero terms", "median s", "training scalar, all pixels", "worst gap",
        "worst gradient, s2 > 0", "not converged",
    ]  # fmt: skip
    what = (
        f"Case {given.case}: {size.stars} stars x {size.pixels} pixels, {size.labels} labels. "
        f"Median of {repeats} warm runs."
    )
    publish("path", [about, what, table(header, times), table(header_strengths, strengths)], write=given.write)


if __name__ == "__main__":
    main()
