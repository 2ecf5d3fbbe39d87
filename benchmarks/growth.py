"""How time and memory of both steps grow with stars, pixels, labels and Lambda; one of them varies at a time.

uv run python benchmarks/growth.py
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import arguments, labelling_floor, machine, measured, number, publish, table, training_floor
from data import Size, write_case
from labelling import ours as label
from training import ours as train

from bayes_cannon.scatter.label_tables import PRODUCT_DTYPE

BASE, LAMBDA = Size(stars=1_000, pixels=1_000, spectra=2_000, labels=5), 1000.0
VARIED = {
    "stars": (250, 1_000, 4_000, 16_000),
    "pixels": (250, 1_000, 4_000),
    "labels": (1, 3, 5, 8, 12, 17),
    "spectra": (500, 2_000, 8_000),
}
LAMBDAS = (0.0, 1.0, 1e3, 1e6)


def one(size: Size, lam: float, repeats: int) -> list[str]:
    """Cells of one size: training, then labelling with what was trained."""
    dtype = np.dtype(PRODUCT_DTYPE)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        measured(write_case, "B", folder, size)
        floor = measured(training_floor, size.stars, size.pixels, size.moments)["seconds"]
        trained = measured(train, folder, size, lam, repeats, size.pixels)
        floor_labels = measured(
            labelling_floor, size.spectra, size.pixels, size.moments, size.vectorizer.n_terms, dtype
        )["seconds"]  # fmt: skip
        labelled = measured(label, folder, size, repeats, size.spectra)
    return [
        number(trained["seconds"]), number(floor), number(trained["seconds"] / floor), number(trained["memory"]),
        number(trained["gap"], 2), number(trained["gradient"], 2), str(trained["unfinished"]),
        number(labelled["seconds"]), number(floor_labels), number(labelled["seconds"] / floor_labels),
        number(labelled["memory"]), str(labelled["unfinished"]),
    ]  # fmt: skip


HEADER = [
    "train, s", "floor, s", "time / floor", "peak memory, GB", "worst gap", "worst gradient, s2 > 0", "not converged",
    "label, s", "floor, s", "time / floor", "peak memory, GB", "not converged",
]  # fmt: skip


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", choices=[*VARIED, "lambda"], default=None, help="one of the tables")
    parser.add_argument("--scale", type=float, default=1.0, help="makes stars, pixels and spectra smaller, for a trial")
    given = parser.parse_args()
    repeats = given.repeats or 3

    def scaled(size: Size) -> Size:
        counts = {name: max(8, round(given.scale * getattr(size, name))) for name in ("stars", "pixels", "spectra")}
        return replace(size, **counts)

    base = scaled(BASE)
    what = (
        f"Spectra simulated as in case B. Where not varied: {base.stars} stars, {base.pixels} pixels, "
        f"{base.labels} labels, Λ = {LAMBDA:g}, {base.spectra} spectra to label. Median of {repeats} warm runs, "
        "each size in processes of its own."
    )
    parts = [measured(machine)["text"], what]
    for name in [given.only] if given.only else [*VARIED, "lambda"]:
        if name == "lambda":
            rows = [[f"{lam:g}", *one(base, lam, repeats)] for lam in LAMBDAS]
        else:
            sizes = [scaled(replace(BASE, **{name: value})) for value in VARIED[name]]
            rows = [[str(getattr(size, name)), *one(size, LAMBDA, repeats)] for size in sizes]
        parts.append(table([name, *HEADER], rows))
    publish("growth", parts, write=given.write)


if __name__ == "__main__":
    main()
